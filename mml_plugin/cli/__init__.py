"""The command line (``mml``, ``python -m mml_plugin``); a command's module loads when it is used."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mml_plugin import __version__
from mml_plugin.errors import UserError, lacking_memory, nearest
from mml_plugin.interrupts import interruptible
from mml_plugin.threads import spin_less_when_busy

# command -> "module:attribute" of its click command
COMMANDS = {
    "compare": "mml_plugin.cli.compare:compare",
    "data": "mml_plugin.cli.data:data",
    "env": "mml_plugin.cli.env:env",
    "evaluate": "mml_plugin.cli.evaluate:evaluate",
    "export": "mml_plugin.cli.export:export",
    "losses": "mml_plugin.cli.losses:losses",
    "quickstart": "mml_plugin.cli.quickstart:quickstart",
    "recommend": "mml_plugin.cli.recommend:recommend",
    "run": "mml_plugin.cli.run:run",
    "train": "mml_plugin.cli.train:train",
    "tune": "mml_plugin.cli.tune:tune",
}


HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


@dataclass(frozen=True)
class Settings:
    """What the caller of :func:`main` fixes for every command."""

    default_config: Path


def _command(name: str) -> click.Command:
    module, attribute = COMMANDS[name].split(":")
    return getattr(importlib.import_module(module), attribute)


class LazyGroup(click.Group):
    """A group whose commands are imported on use, so that ``mml losses`` never imports recbox."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return _command(cmd_name)

    def resolve_command(self, ctx, args):
        if args and args[0] not in COMMANDS:
            raise UserError(f"there is no command '{args[0]}'; {nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup)
@click.version_option(__version__, prog_name="mml")
def cli() -> None:
    """Train and compare contrastive losses for collaborative filtering."""


def main(argv: Sequence[str] | None = None, default_config: Path | None = None, command: str = "") -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words after the program's name; default ``sys.argv[1:]``.
        default_config: the folder meant when ``--config`` is not given; default ``./config``.
        command: the one command of a script of its own; ``argv`` is what comes after it.

    Returns:
        0 on success, 2 for a user's mistake (one sentence on standard error), 130 after Ctrl-C,
        1 when a command reports that a part of its work failed.
    """
    spin_less_when_busy()
    settings = Settings(default_config or Path("config"))
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with interruptible():
            program = _command(command) if command else cli
            code = program.main(args=words, standalone_mode=False, obj=settings, **HELP)
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped", err=True)
        return 130
    except OSError as error:
        # The errors of the script that mml run executes are shown as they are.
        of_script = (command or next(iter(words), "")) == "run"
        if of_script or error.filename is None or not error.strerror:
            raise
        click.echo(f"error: {os.fsdecode(error.filename)}: {error.strerror.lower()}", err=True)
        return 2
    except (MemoryError, RuntimeError) as error:
        lacking = lacking_memory(error)
        if not lacking:
            raise
        smaller = "smaller sizes need less (in training: embedding_dim, num_negs, batch_size)"
        click.echo(f"error: not enough memory: {lacking}; {smaller}", err=True)
        return 2
    return code if isinstance(code, int) else 0
