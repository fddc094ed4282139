"""Write docs/experiments.md from the configuration: ``python benchmarks/list_experiments.py``."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from mml_plugin.experiment.config import list_experiments, load_experiment
from mml_plugin.files import atomic_write
from mml_plugin.report.table import markdown_table

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# Experiments
Written by `python benchmarks/list_experiments.py` from `config/`; do not edit by hand.

`<Model>_<dataset>_<loss>[_<variant>]`. `earlystop`, `plateau`, `reczoo`: patience 3, all else 200. `n10` .. `n800`:
negatives per positive (Figure 3). `plateau`: the learning rate is cut at every non-improvement
(`reduce_lr_on_plateau`), which the paper switched off. `reczoo`: SimpleX's original run. `bslnative`: BSL in its
authors' setting (batch L2, dropout before normalisation, no clipping, Xavier initialisation); stock recbox has no such
step, and its engine refuses them by name. `yelp`: the data set yelp18. `tiny`: synth, the built-in synthetic one.

"""


def row(expid: str) -> list[str]:
    """One experiment's line."""
    experiment = load_experiment(ROOT / "config", expid)
    p = experiment.params
    loss = ", ".join(f"{key}={value}" for key, value in experiment.loss_params.items())
    plateau = "yes" if p["reduce_lr_on_plateau"] else "no"
    return [expid, f"{experiment.loss}({loss})", str(p["num_negs"]), str(p["batch_size"]), str(p["patience"]), plateau]


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    logging.disable(logging.WARNING)
    rows = [row(expid) for expid in list_experiments(ROOT / "config")]
    header = ["experiment", "loss", "negatives", "batch", "patience", "plateau schedule"]
    with atomic_write(ROOT / "docs" / "experiments.md") as stream:
        stream.write(HEAD + markdown_table(header, rows, left=2) + "\n")


if __name__ == "__main__":
    main()
