"""``mml run``: a host's own, unmodified script with our losses registered."""

from __future__ import annotations

import click


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    options_metavar="",
)
@click.argument("script", type=click.Path())
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[THE SCRIPT'S OWN ARGUMENTS]...")
def run(script: str, arguments: tuple[str, ...]) -> None:
    """Run an unmodified reczoo script with our losses.

    They are known to it by name, and recbox's shims are in place.

    Everything after SCRIPT goes to the script. Nothing in its folder is changed. reczoo's script changes into its own
    folder, so a relative --config is relative to that folder.
    """
    from mml_plugin.hosts.recbox.launcher import run_script

    run_script(script, arguments)
