"""Pictures of few colours: those by which a reader tells lines and bands apart are the ones matplotlib was given."""

from __future__ import annotations

import io

import pytest

from mml_plugin.report import figures

matplotlib = pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

# How far a colour may be from the one asked for, of 255: less than an eye tells apart in a thin line.
NEAR = 3


def colours_of(png: bytes) -> list[tuple[int, int, int]]:
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    return [colour for _, colour in picture.getcolors(picture.width * picture.height)]


def distance(colours: list[tuple[int, int, int]], wanted: tuple[float, ...]) -> float:
    return min(max(abs(a - 255 * b) for a, b in zip(colour, wanted)) for colour in colours)


def test_ten_learning_curves_keep_matplotlibs_ten_colours_on_white():
    curves = {f"loss {n}": [n / 10, n / 9, n / 8] for n in range(10)}
    colours = colours_of(figures.learning_curves(curves, "Recall@20", "title"))
    assert (255, 255, 255) in colours
    assert len(colours) <= 256
    for n in range(10):
        assert distance(colours, matplotlib.colors.to_rgb(f"C{n}")) <= NEAR, n


def test_bands_keep_their_colours():
    """From the easy band to the hard one along viridis, as many as the paper's four margins make."""
    shares = {"CCL": [[0.5, 0.4]] * 5, "MML": [[0.3, 0.2]] * 5}
    colours = colours_of(figures.bands(shares, shares, list("abcde"), "title"))
    for place in range(5):
        wanted = matplotlib.colormaps["viridis"](0.95 * place / 4)[:3]
        assert distance(colours, wanted) <= NEAR, place


def test_the_same_curves_give_the_same_bytes():
    first, second = (figures.learning_curves({"CCL": [0.1, 0.2]}, "Recall@20", "title") for _ in range(2))
    assert first == second
