"""Which tuning cells get a whole run: against an ordering by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mml_plugin.errors import UserError
from mml_plugin.experiment.screening import screen
from mml_plugin.report.rows import Rows

GROUP = "MF on x"


def cell(label, family="f"):
    return SimpleNamespace(group=GROUP, family=family, label=label, name=f"{family}/{label}")


def row(label, seed, value, family="f", **more):
    found = {
        "state": "done", "cell": f"{label}{seed}", "group": GROUP, "family": family, "label": label, "seed": str(seed),
        "monitor": "Recall(k=20)", "validation Recall(k=20)": str(value), "Recall(k=20)": "0.5",
    }  # fmt: skip
    return {**found, **more}


def names(found):
    return [cell.label for cell in found.out]


def test_the_best_by_validation_stay():
    cells = [cell(label) for label in "abcd"]
    rows = Rows([row(label, 1, value) for label, value in zip("abcd", (0.1, 0.4, 0.2, 0.3))], [])
    assert names(screen(cells, rows, 1)) == ["a", "c", "d"]
    assert names(screen(cells, rows, 2)) == ["a", "c"]
    assert names(screen(cells, rows, 9)) == []
    lowest = Rows([{**line, "monitor_mode": "min"} for line in rows.cells], [])
    assert names(screen(cells, lowest, 1)) == ["b", "c", "d"]


def test_cells_are_compared_over_the_seeds_that_all_have():
    cells = [cell("a"), cell("b")]
    rows = [row("a", 1, 0.30), row("b", 1, 0.25), row("a", 2, 0.10)]
    assert names(screen(cells, Rows(rows, []), 1)) == ["b"]
    apart = screen(cells, Rows([row("a", 1, 0.3), row("b", 2, 0.2)], []), 1)
    assert (names(apart), dict(apart.waiting)) == ([], {(GROUP, "f"): "its 2 cells have no seed in common"})


def test_families_do_not_compete_and_wait_for_their_last_short_run():
    cells = [cell("a"), cell("b"), cell("c", "g"), cell("d", "g"), cell("alone", "")]
    rows = [row("a", 1, 0.3), row("b", 1, 0.2), row("c", 1, 0.1, "g"), row("d", 1, 0.2, "g", state="failed")]
    found = screen(cells, Rows(rows, []), 1)
    assert names(found) == ["b"]
    assert dict(found.waiting) == {(GROUP, "g"): "1 of 2 cells have a result, 1 failed"}
    rows[-1]["state"] = "done"
    assert names(screen(cells, Rows(rows, []), 1)) == ["b", "c"]


def test_every_seed_of_a_cell_goes_with_it():
    cells = [cell("a"), cell("b"), cell("a"), cell("b")]
    assert names(screen(cells, Rows([row("a", 1, 0.3), row("b", 1, 0.2)], []), 1)) == ["b", "b"]


def test_different_monitors_cannot_be_ranked():
    rows = [row("a", 1, 0.3), row("b", 1, 0.2, monitor="NDCG(k=20)", **{"validation NDCG(k=20)": "0.1"})]
    with pytest.raises(UserError, match="cannot be ranked"):
        screen([cell("a"), cell("b")], Rows(rows, []), 1)
