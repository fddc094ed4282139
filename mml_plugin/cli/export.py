"""``mml export``: a finished run's vectors for other systems."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--format", required=True, metavar="[safetensors|npz|csv|faiss]", help="What to write.")
@click.option("--output", type=click.Path(path_type=Path), help="The folder to make; default RUN/export-FORMAT.")
@click.option("--cosine", is_flag=True, help="Scale every vector to length 1 (a cosine model's have it already).")
@click.option("--overwrite", is_flag=True, help="Replace an earlier export.")
def export(run: Path, format: str, output: Path | None, cosine: bool, overwrite: bool) -> None:
    """Write a run's vectors, with original ids.

    RUN is its folder; the vectors are for an inner-product search.
    """
    from mml_plugin.serving.export import export
    from mml_plugin.serving.saved_run import load_run

    folder = export(load_run(run), format, output or run / f"export-{format}", cosine, overwrite)
    click.echo(f"wrote {folder}: " + ", ".join(sorted(p.name for p in folder.iterdir())))
