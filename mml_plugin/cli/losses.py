"""``mml losses``: what there is and what it takes."""

from __future__ import annotations

import click

from mml_plugin.registry import LossSpec, available_losses, get_spec


@click.command()
@click.argument("name", required=False)
def losses(name: str | None) -> None:
    """List the losses, or show one: equation, source, parameters."""
    click.echo(show(get_spec(name)) if name else "\n".join(line(spec) for spec in available_losses()))


def line(spec: LossSpec) -> str:
    """One loss on one line: name, parameters, aliases."""
    parameters = ", ".join(p.name if p.required else f"{p.name}={p.default}" for p in spec.parameters)
    aliases = ", ".join(alias.name for alias in spec.aliases)
    return f"{spec.name}({parameters})" + (f"  also: {aliases}" if aliases else "")


def show(spec: LossSpec) -> str:
    """One loss in full."""
    lines = [spec.name, f"  {spec.equation}", f"  Source: {spec.source}"]
    for p in spec.parameters:
        lines.append(f"  {p.name}: {p.allowed}; " + ("required" if p.required else f"default {p.default}"))
    for alias in spec.aliases:
        renamed = ", ".join(f"{theirs} = {ours}" for theirs, ours in alias.keys.items())
        renamed += ", ".join(f"{key} {old} = {new}" for (key, old), new in alias.values.items())
        lines.append(f"  Also: {alias.name}" + (f" ({renamed})" if renamed else ""))
    return "\n".join(lines)
