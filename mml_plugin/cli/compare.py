"""``mml compare``: experiments side by side, or losses on two CSV files of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mml_plugin.errors import UserError

EXTRA = {"model": "--model", "negatives": "--negatives", "epochs": "--epochs", "cells": "--cells"}


@click.command()
@click.argument("expids", nargs=-1, metavar="[EXPERIMENT]...")
@click.option("--train", type=click.Path(path_type=Path), help="CSV with the columns user,item.")
@click.option("--test", type=click.Path(path_type=Path), help="CSV with the columns user,item.")
@click.option("--losses", help="With --train and --test: which losses, for example ccl,mml,bsl.")
@click.option("--model", help="With --train and --test: MF (default) or SimpleX.")
@click.option(
    "--negatives", type=click.IntRange(1), help="With --train and --test: negatives per positive, default 100."
)
@click.option("--epochs", type=click.IntRange(1), help="With --train and --test: at most so many, default 100.")
@click.option(
    "--cells",
    type=click.IntRange(1),
    help="With --train and --test: tuning cells per loss, default 1 (none); chosen on validation, with paper on test.",
)
@click.option("--seeds", type=click.IntRange(1, 100), default=5, show_default=True, help="Runs per experiment.")
@click.option("--protocol", help="paper (best epoch on test, default) or held-out (default with --train).")
@click.option(
    "--valid-share",
    type=click.FloatRange(0, 0.5, min_open=True),
    default=0.1,
    show_default=True,
    help="With held-out: the share of each user's training items that is carved for validation.",
)
@click.option("--engine", default="fast", show_default=True, help="fast, or recbox, the stock pipeline.")
@click.option("--backend", default="auto", show_default=True, help="How the fast engine computes.")
@click.option("--gpu", type=int, default=-1, show_default=True, help="The GPU index, -1 for the CPU.")
@click.option(
    "--config", "config_dir", type=click.Path(path_type=Path), help="Folder of model_config and dataset_config."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one key in every experiment.")
@click.option("--runs", "runs_dir", type=click.Path(path_type=Path), help="Where run folders go; default ./runs, or "
              "OUT/runs with --train.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Where rows and report go; default ./reports/NAME.")
@click.option(
    "--any-machine", is_flag=True, help="Finished runs of another backend, device or number of threads count."
)
@click.option("--overwrite", is_flag=True, help="Begin every run anew, finished ones too.")
@click.pass_obj
def compare(
    settings, expids: tuple[str, ...], train: Path | None, test: Path | None, losses: str | None, **options
) -> int:
    """Compare experiments or losses in one report.

    What is missing is run. The report has tables with error bars, paired tests, curves, bands and time.

    Either name experiments of the configuration, or give --train, --test and --losses.
    """
    from mml_plugin.devices import resolve_device
    from mml_plugin.experiment.cells import Matcher
    from mml_plugin.experiment.run import RunRequest, check_request, command_line
    from mml_plugin.experiment.side_by_side import check_out, exit_code, run_cells, write_report
    from mml_plugin.report.needs import check_installed
    from mml_plugin.report.spec import Spec

    check_installed()
    device = resolve_device(options["gpu"])
    _check_engine(options["engine"], options["backend"], device)
    protocol = options["protocol"] = options["protocol"] or ("paper" if train is None else "held-out")
    check_request(RunRequest("", Path(), protocol=protocol, valid_share=options["valid_share"]))
    matcher = Matcher(options["any_machine"])
    if train is None and test is None and losses is None:
        given = [flag for key, flag in EXTRA.items() if options[key] is not None]
        if given:
            raise UserError(f"{given[0]} goes with --train, --test and --losses; an experiment has its own")
        cells, suite, out, notes = _experiments(settings, expids, options)
        check_out(out)
        outcomes = run_cells(cells, out, matcher=matcher, overwrite=options["overwrite"], say=click.echo)
    elif expids or train is None or test is None or not losses:
        raise UserError("give either experiments, or all three of --train FILE, --test FILE and --losses a,b")
    elif options["config_dir"]:
        raise UserError("--config goes with experiments; with --train and --test the configuration is made in --out")
    else:
        cells, suite, out, notes, outcomes = _own(train, test, losses, options, matcher)
    spec = Spec(suite.title, kind=suite.kind, notes=notes, rebuild=command_line())
    click.echo(write_report(cells, out, spec))
    return exit_code(outcomes, lambda text: click.echo(text, err=True))


def _check_engine(engine: str, backend: str, device: Any) -> None:
    """Refuse an engine or backend that no run could have, before data are imported."""
    from mml_plugin.engine import backends
    from mml_plugin.experiment.run import ENGINES, check_choice

    check_choice("engine", engine, ENGINES)
    if engine == "recbox" and backend != "auto":
        raise UserError(f"--backend {backend} is the fast engine's; add --engine fast or leave it out")
    if engine == "fast":
        backends.check(backend, device)


def _experiments(settings: Any, expids: tuple[str, ...], options: dict[str, Any]) -> tuple:
    from mml_plugin.experiment.config import load_experiment
    from mml_plugin.experiment.suite import comparison, make_cells, slug

    config_dir = options["config_dir"] or settings.default_config
    keys = {name: options[name] for name in ("engine", "backend", "valid_share")}
    suite = comparison(expids, config_dir, options["overrides"], protocol=options["protocol"], **keys)
    first = int(load_experiment(config_dir, expids[0]).params["seed"])
    seeds = list(range(first, first + options["seeds"]))
    runs = options["runs_dir"] or Path("runs")
    cells = make_cells(suite, config_dir, runs, options["gpu"], seeds, options["overrides"], "mml compare")
    out = options["out"] or Path("reports") / slug("compare-" + "-".join(expids))[:100]
    return cells, suite, out, ()


def _check_own_overrides(options: dict[str, Any]) -> None:
    """Refuse to override what a flag says, or what the tuning cells choose: labels would say something else."""
    from mml_plugin.experiment.own_data import LOSS_SPACES

    flags = {"num_negs": "--negatives", "epochs": "--epochs"}
    tuned = {"learning_rate", "margins", "margin_weights", *(key for space in LOSS_SPACES.values() for key in space)}
    for text in options["overrides"]:
        key = text.partition("=")[0].strip()
        if key in flags:
            raise UserError(f"--set {key}: use {flags[key]} with --train and --test")
        if key in tuned and (options["cells"] or 1) > 1:
            raise UserError(f"--set {key}: the tuning cells choose it; leave out --cells, or the override")


def _own(train: Path, test: Path, losses: str, options: dict[str, Any], matcher: Any) -> tuple:
    from mml_plugin.experiment.own_data import prepare
    from mml_plugin.experiment.side_by_side import check_out, tune_and_run
    from mml_plugin.experiment.suite import make_cells, slug

    words = [word.strip() for word in losses.split(",") if word.strip()]
    out = options["out"] or Path("reports") / slug(f"compare-{train.stem}-{'-'.join(words)}")[:100]
    keys = {key: options[key] for key in EXTRA if options[key] is not None}
    keys |= {name: options[name] for name in ("engine", "backend", "valid_share")}
    _check_own_overrides(options)
    check_out(out)
    own = prepare(train, test, words, out, protocol=options["protocol"], overrides=options["overrides"], **keys)
    for note in own.notes:
        click.echo(note)
    runs = options["runs_dir"] or out / "runs"

    def make(suite: Any, seeds: Any) -> list:
        return make_cells(suite, own.config_dir, runs, options["gpu"], seeds, options["overrides"], "mml compare")

    seeds = range(own.suite.seeds[0], own.suite.seeds[0] + options["seeds"])
    cells, outcomes = tune_and_run(
        own.suite, list(seeds), out, make, overwrite=options["overwrite"], matcher=matcher, say=click.echo
    )
    return cells, own.suite, out, own.notes, outcomes
