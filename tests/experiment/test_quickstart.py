"""The quickstart on one epoch: table, picture, run folders, and no second training."""

from __future__ import annotations

import shutil
from pathlib import Path

from mml_plugin.cli import main
from mml_plugin.data import synthetic

CONFIG = Path(__file__).resolve().parents[2] / "config"


def test_quickstart_ends_with_a_table_a_picture_and_folders(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CONFIG, "config")
    file = Path("config/model_config/MF.yaml")
    file.write_text(file.read_text().replace("epochs: 15", "epochs: 1").replace("num_workers: 2", "num_workers: 0"))
    for other in Path("config/model_config").glob("SimpleX.yaml"):
        other.unlink()
    synthetic.generate(Path("data/synth"), users=60, items=80)
    assert main(["quickstart"]) == 0
    said = capsys.readouterr().out
    rows = {line.split("|")[1].strip(): line for line in said.splitlines() if line.startswith("|")}
    assert set(rows) == {"loss", "----", "CCL", "MML"}
    assert "Recall@20" in rows["loss"]
    assert "active negatives" in rows["loss"]
    assert Path("runs/quickstart.png").read_bytes()[:4] == b"\x89PNG"
    assert str(Path("runs/MF_tiny_mml/recbox-paper-s2019").resolve()) in said
    before = Path("runs/MF_tiny_ccl/recbox-paper-s2019/result.json").stat().st_mtime_ns
    assert main(["quickstart"]) == 0
    assert Path("runs/MF_tiny_ccl/recbox-paper-s2019/result.json").stat().st_mtime_ns == before
    history = Path("runs/MF_tiny_ccl/recbox-paper-s2019/history.csv")
    history.write_text(history.read_text().replace("band_0(", "uncounted_0("))  # as after mml train --thresholds ''
    capsys.readouterr()
    assert main(["quickstart"]) == 0
    assert next(line for line in capsys.readouterr().out.splitlines() if "CCL" in line).split("|")[-2].strip() == "–"
    synthetic.generate(Path("data/synth"), users=40, items=90, seed=4, overwrite=True)
    assert main(["quickstart"]) == 2
    assert "recbox-paper-s2019 is of other data than data/synth has now" in capsys.readouterr().err
    Path("runs/MF_tiny_ccl/recbox-paper-s2019/result.json").write_text("{}")
    capsys.readouterr()
    assert main(["quickstart"]) == 2
    assert "result.json cannot be read: it has no backend" in capsys.readouterr().err
