"""The plots of a report, as PNG bytes: the same rows give the same bytes with the same matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from mml_plugin.errors import UserError

WIDTH = 8.0
COLUMNS = 3
# Line plots have few colours: a palette makes a third of the bytes, and a page holds all of its pictures.
COLOURS = 256


def learning_curves(curves: Mapping[str, Sequence[float]], metric: str, title: str) -> bytes:
    """One line per name over epochs 1 to its end."""
    figure, (axes,) = _figure(1, 1)
    for name, values in curves.items():
        axes.plot(range(1, len(values) + 1), values, label=name, marker="." if len(values) < 30 else "")
    axes.set(xlabel="epoch", ylabel=metric, title=title)
    axes.legend(fontsize="small")
    return _png(figure)


def bands(
    shares: Mapping[str, Sequence[Sequence[float]]],
    gradients: Mapping[str, Sequence[Sequence[float]]],
    names: Sequence[str],
    title: str,
) -> bytes:
    """Per line, how many negatives each band holds (logarithmic) and each band's share of the gradient.

    Args:
        shares: line -> band -> epoch -> share of negatives.
        gradients: likewise for the gradient.
        names: the bands, easy to hard.
        title: of the whole.
    """
    lines = list(shares)
    columns = min(COLUMNS, len(lines))
    blocks = -(-len(lines) // columns)
    figure, axes = _figure(2 * blocks, columns, height=2.4)
    colours = _colours(len(names))
    for place, line in enumerate(lines):
        row, column = 2 * (place // columns), place % columns
        top, bottom = axes[row * columns + column], axes[(row + 1) * columns + column]
        epochs = range(1, len(shares[line][0]) + 1)
        for band, colour in zip(shares[line], colours):
            top.plot(epochs, [value or float("nan") for value in band], color=colour)
        top.set(yscale="log", title=line, ylim=(1e-6, 1.5))
        if gradients.get(line):
            bottom.stackplot(epochs, gradients[line], colors=colours)
        bottom.set(ylim=(0, 1), xlabel="epoch")
        if column == 0:
            top.set_ylabel("share of negatives")
            bottom.set_ylabel("share of gradient")
    for place in range(len(lines), blocks * columns):
        row, column = 2 * (place // columns), place % columns
        for unused in (axes[row * columns + column], axes[(row + 1) * columns + column]):
            unused.set_axis_off()
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, label=name, lw=3) for name, colour in zip(names, colours)]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize="small")
    figure.suptitle(title)
    return _png(figure)


def by_negatives(curves: Mapping[str, Mapping[int, float]], metric: str, title: str) -> bytes:
    """One line per loss over the number of negatives (logarithmic)."""
    figure, (axes,) = _figure(1, 1)
    ticks = sorted({count for points in curves.values() for count in points})
    for name, points in curves.items():
        counts = sorted(points)
        axes.plot(counts, [points[count] for count in counts], label=name, marker="o")
    axes.set(xscale="log", xlabel="negatives per positive", ylabel=metric, title=title)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.legend(fontsize="small")
    return _png(figure)


def _figure(rows: int, columns: int, height: float = 4.4) -> tuple[Any, list[Any]]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("plots need matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(WIDTH, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for one in axes.flat:
        one.grid(alpha=0.3)
    return figure, list(axes.flat)


def _colours(count: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["viridis"](0.95 * place / max(count - 1, 1)) for place in range(count)]


def _png(figure: Any) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    with Image.open(stream) as picture:
        # No dithering: it strews dots over plain ground, which a reader sees and a PNG cannot pack.
        few = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    stream = io.BytesIO()
    few.save(stream, format="png", optimize=True)
    return stream.getvalue()
