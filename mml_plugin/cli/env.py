"""``mml env``: what a bug report and a result row should say about this machine."""

from __future__ import annotations

import json

import click

from mml_plugin.experiment.environment import environment


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
def env(as_json: bool) -> None:
    """Show versions, threads, processor and devices."""
    facts = environment()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {version}" for name, version in value.items())
        click.echo(f"{key:<12} {value}")
