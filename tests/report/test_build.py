"""Reports as files: rebuilt identical from rows, holes and failures shown, safe to open."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest

from mml_plugin.report.build import build
from mml_plugin.report.document import Document, Heading, Image, Table, Text
from mml_plugin.report.rows import Rows, columns_of, read_csv, write_csv
from mml_plugin.report.spec import Spec
from tests.report.sample import PAPER, cell, sample, value


def test_a_report_is_rebuilt_identical_from_saved_rows(tmp_path):
    spec = Spec("A title", "About", paper=PAPER, early_stop=3)
    rows = sample()
    rows.save(tmp_path / "suite_x")
    build(spec, rows).write(tmp_path / "one")
    build(spec, Rows.load(tmp_path / "suite_x")).write(tmp_path / "two")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert {"report.md", "report.html", "report.csv"} < set(names)
    assert sum(name.endswith(".png") for name in names) == 2
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_failed_and_missing_cells_are_shown_with_their_error():
    rows = sample(labels=("CCL", "MML"), seeds=(1,))
    rows.cells.append({**cell("BSL", 1), "state": "failed", "error": "the loss is nan"})
    rows.cells.append({**cell("BSL", 2), "state": "missing"})
    text = build(Spec("T"), rows).markdown()
    assert "the loss is nan" in text
    assert "Not run yet: 1 of 4 cells.\n\n- MF on yelp18, 100 negatives: BSL\n" in text


def test_what_is_missing_is_named_by_group_seed_and_family():
    rows = sample(labels=("CCL",), seeds=(1,))
    rows.cells += [{**cell("CCL", seed), "state": "missing"} for seed in (2, 3)]
    tuned = [{**cell("MML", 1, negatives=10), "label": f"c{n}", "cell": f"c{n}", "family": "MML"} for n in range(3)]
    rows.cells += [tuned[0], *({**row, "state": "missing"} for row in tuned[1:])]
    text = build(Spec("T"), rows).markdown()
    assert "Not run yet: 4 of 6 cells." in text
    assert "- MF on yelp18, 100 negatives: CCL (seeds 2 3)\n" in text
    assert "- MF on yelp18, 10 negatives: MML (2 of 3 tuning cells)\n" in text
    assert "Cells with a result: MML 1 of 3." in text


def test_a_cell_that_another_process_runs_has_not_failed():
    rows = sample(labels=("CCL", "MML"), seeds=(1,))
    rows.cells[1]["state"] = "running elsewhere"
    text = build(Spec("T"), rows).markdown()
    assert "Running in another process: MML (MF on yelp18, 100 negatives)." in text
    assert "failed" not in text


def test_nothing_run_is_a_report_too():
    assert "Nothing has been run yet." in build(Spec("T"), Rows([{**cell("CCL", 1), "state": "missing"}])).markdown()


def test_html_is_one_safe_page():
    evil = '<script>alert("x")</script>'
    rows = sample(seeds=(1,))
    for row in rows.cells:
        row["label"] = row["label"] + evil
    page = build(Spec(evil, f"by `mml` and `{evil}`"), rows).html()
    assert "<script" not in page
    assert "by <code>mml</code> and <code>&lt;script&gt;" in page
    assert "&lt;script&gt;" in page
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert '<meta name="viewport" content="width=device-width' in page


def test_pipes_do_not_break_markdown_tables():
    document = Document([Heading("T", 1), Table(["a|b"], [["c|d"]]), Text("end")])
    assert "| a\\|b |" in document.markdown()


def test_csv_holds_the_tables_numbers(tmp_path):
    build(Spec("T"), sample()).write(tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "report.csv").read_text())))
    mml = next(row for row in rows if row["run"] == "MML")
    assert float(mml["Recall@20"]) == pytest.approx(np.mean([value("MML", s, 6) for s in range(1, 6)]), abs=1e-6)


def test_what_only_an_earlier_report_had_is_removed(tmp_path):
    rows = sample(seeds=(1,))
    build(Spec("T"), rows).write(tmp_path)
    (tmp_path / "mine.png").touch()
    with open(tmp_path / "report.md", "ab") as stream:
        stream.write(b"\n![mine](mine.png)\n\xff\xfe\n")
    before = {path.name for path in tmp_path.iterdir()}
    for row in rows.cells:
        row["state"] = "outdated"
    build(Spec("T"), rows).write(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"report.md", "report.html", "mine.png"}
    assert len(before - left) == 3


def test_rows_survive_their_files(tmp_path):
    rows = [{"cell": "a, b", "state": "done", "x": "1"}, {"cell": 'c"d', "y": "2"}]
    write_csv(tmp_path / "r.csv", rows)
    assert columns_of(rows)[:2] == ["cell", "state"]
    first = {"cell": "a, b", "state": "done", "x": "1", "y": ""}
    assert read_csv(tmp_path / "r.csv") == [first, {"cell": 'c"d', "state": "", "x": "", "y": "2"}]
    assert read_csv(Path("nowhere.csv")) == []


def test_groups_that_differ_in_signs_alone_have_pictures_of_their_own(tmp_path):
    pictures = [Image("curves-weight-1.png", word.encode(), word) for word in ("above", "below")]
    Document([Heading("T", 1), *pictures]).write(tmp_path)
    assert (tmp_path / "curves-weight-1.png").read_bytes() == b"above"
    assert (tmp_path / "curves-weight-1-2.png").read_bytes() == b"below"
    assert "![below](curves-weight-1-2.png)" in (tmp_path / "report.md").read_text()
    third = Image("curves-weight-1-2.png", b"third", "third")
    Document([Heading("T", 1), *pictures, third]).write(tmp_path)
    assert (tmp_path / "curves-weight-1-2.png").read_bytes() == b"third"
    assert (tmp_path / "curves-weight-1-3.png").read_bytes() == b"below"
    Document([Heading("T", 1), pictures[0]]).write(tmp_path)
    assert not (tmp_path / "curves-weight-1-2.png").exists()
