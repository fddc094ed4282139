"""Run a grid of experiments: ``python run_param_tuner.py --config config/tuner/MF_yelp_mml.yaml --gpu 0 1``."""

from __future__ import annotations

import sys

from mml_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], command="tune"))
