"""Run reczoo's own, unmodified SimpleX checkout through ``mml run`` and compare it with our ``run_expid.py``.

Usage: ``python benchmarks/real_checkout.py --checkout DIR``, DIR being ``matching/cf/SimpleX`` of reczoo/RecZoo.
The checkout is copied to a temporary folder, trained there on the tests' small data set (CCL, MultiMarginLoss, and the
MML author's published keys; MF and SimpleX), and must be the same files afterwards. The losses of every epoch, the
metrics and the weights must equal those of our own script and, where the original code was recorded, of
``tests/data/golden/pipeline.json``. The log is ``benchmarks/results/real_checkout.log``; exit code 1 on any difference.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import torch
import yaml

from mml_plugin.experiment.environment import commit, versions

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "data" / "golden"
LOG = ROOT / "benchmarks" / "results" / "real_checkout.log"
# experiment -> (golden experiment it comes from, changed keys)
AUTHOR = ("margin_values_list", "negative_weights_list")
EXPERIMENTS = {
    "MF_ccl": ("MF_ccl", {}),
    "MF_mml": ("MF_mml", {"loss": "MultiMarginLoss"}),
    "MF_mml_author_keys": ("MF_mml", {}),
    "SimpleX_ccl": ("SimpleX_mean_g05_ccl", {}),
    "SimpleX_mml": ("SimpleX_uatt_mml", {"loss": "MultiMarginLoss"}),
    "SimpleX_mml_author_keys": ("SimpleX_uatt_mml", {}),
}
OURS = {"margin_values_list": "margins", "negative_weights_list": "margin_weights"}


def write_config(folder: Path) -> None:
    """reczoo's two files, with absolute paths into ``folder``, from the recorded configurations."""
    golden = json.loads((GOLDEN / "pipeline.json").read_text())
    models, sets = {}, {}
    for expid, (name, changes) in EXPERIMENTS.items():
        config = {**golden[name]["config"], **changes}
        if "loss" in changes:
            config = {OURS.get(key, key): value for key, value in config.items()}
        data = {"data_root": str(folder / "data"), "item_corpus": str(folder / "data/tiny/item_corpus.csv")}
        data |= {"train_data": str(folder / "data/tiny/train.csv"), "valid_data": str(folder / "data/tiny/test.csv")}
        for key in ("data_format", "min_categr_count", "query_index", "corpus_index", "feature_cols", "label_col"):
            data[key] = config.pop(key)
        config.pop("model_id")
        config.pop("gpu")
        sets[config["dataset_id"]] = data
        models[expid] = {**config, "model_root": str(folder / "checkpoints")}
    (folder / "config").mkdir()
    (folder / "config" / "model_config.yaml").write_text(yaml.safe_dump(models, sort_keys=False))
    (folder / "config" / "dataset_config.yaml").write_text(yaml.safe_dump(sets, sort_keys=False))
    shutil.copytree(GOLDEN / "tiny", folder / "data" / "tiny")


def sums(folder: Path) -> dict[str, str]:
    """md5 of every file."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.md5(p.read_bytes()).hexdigest() for p in files}


def start(words: list[str], folder: Path) -> str:
    """The output of one command on one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def losses(text: str) -> list[str]:
    """The epoch losses as printed."""
    return re.findall(r"Train loss: ([\d.]+)", text)


def metrics(text: str) -> list[str]:
    """The first metrics lines as printed, one per epoch."""
    return re.findall(r"\[Metrics\] (.*)", text)[: len(losses(text))]


def same_weights(expid: str, folder: Path) -> bool:
    """Whether both trainings ended with the same best weights, bit for bit."""
    theirs = torch.load(next((folder / "checkpoints").rglob(f"{expid}.model")), weights_only=True)
    ours = torch.load(next((folder / "runs" / expid).rglob(f"recbox/**/{expid}.model")), weights_only=True)
    return theirs.keys() == ours.keys() and all(torch.equal(theirs[key], ours[key]) for key in theirs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True)
    checkout = parser.parse_args().checkout
    golden = json.loads((GOLDEN / "pipeline.json").read_text())
    lines = [f"date: {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC", f"commit: {commit()}"]
    lines += ["versions: " + ", ".join(f"{name} {version}" for name, version in versions().items()), ""]
    failed = False
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        copied = work / "SimpleX"
        shutil.copytree(checkout, copied)
        before = sums(copied)
        write_config(work)
        for expid, (source, _) in EXPERIMENTS.items():
            words = ["--config", str(work / "config"), "--expid", expid, "--gpu", "-1"]
            theirs = start(["-m", "mml_plugin", "run", str(copied / "run_expid.py"), *words], work)
            ours = start([str(ROOT / "run_expid.py"), *words, "--runs", str(work / "runs")], work)
            recorded = [f"{loss:.6f}" for loss in golden[source]["epoch_loss"]]
            off = max(abs(float(a) - float(b)) for a, b in zip(losses(theirs), recorded))
            checks = {
                "epoch losses equal ours": losses(theirs) == losses(ours),
                "metrics equal ours": metrics(theirs) == metrics(ours),
                "weights equal ours bit for bit": same_weights(expid, work),
                f"epoch losses within 1e-5 of the original code's (largest difference {off:.1e})": off <= 1e-5,
            }
            failed |= not all(checks.values())
            lines.append(f"{expid}: mml run SimpleX/run_expid.py --config config --expid {expid} --gpu -1")
            lines.append("  epoch losses: " + " ".join(losses(theirs)))
            lines.append("  last epoch:   " + metrics(theirs)[-1])
            lines += [f"  {what}: {'yes' if good else 'NO'}" for what, good in checks.items()]
        after = sums(copied)
        kept = all(after.get(name) == digest for name, digest in before.items())
        added = sorted(set(after) - set(before))
        failed |= not kept or added != ["config.csv"]
        lines += ["", f"the checkout's {len(before)} files are unchanged: {'yes' if kept else 'NO'}"]
        lines.append(f"files added to it: {', '.join(added)} (the result line that reczoo's script appends)")
    LOG.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
