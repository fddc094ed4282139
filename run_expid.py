"""Run one experiment: ``python run_expid.py --expid SimpleX_yelp_mml --gpu -1`` (the same as ``mml train``)."""

from __future__ import annotations

import sys
from pathlib import Path

from mml_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], default_config=Path(__file__).resolve().parent / "config", command="train"))
