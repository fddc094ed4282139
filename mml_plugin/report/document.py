"""A report as blocks, and the two ways to write it down: Markdown, and one HTML page that needs no network."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path

from mml_plugin.files import atomic_write, make_folder
from mml_plugin.report.rows import Row, write_csv
from mml_plugin.report.table import markdown_table

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2rem; } h3 { font-size: 1rem; }
/* A wide table may leave the text's column to the right, and scrolls where the window ends. */
.scroll { overflow-x: auto; margin: 1rem 0; width: max-content; max-width: max(100%, 50vw + 50% - 1.5rem); }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { border-bottom: 1px solid #8886; padding: .3rem .6rem; text-align: right; white-space: nowrap; }
th.left, td.left { text-align: left; }
/* A phone scrolls a plot instead of shrinking its letters beyond reading. */
figure { margin: 1rem 0; } .plot { overflow-x: auto; }
img { max-width: 100%; min-width: 42rem; height: auto; background: white; }
figcaption { font-size: .85rem; }
"""


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list of short lines."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table of text cells; the first ``left`` columns are left-aligned."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


@dataclass(frozen=True)
class Image:
    """A PNG with the name of its file and what it shows in words."""

    name: str
    png: bytes
    caption: str


Block = Heading | Text | Items | Table | Image


@dataclass
class Document:
    """A report.

    Attributes:
        blocks: in reading order.
        numbers: those of its tables, one row each, for ``report.csv``.
    """

    blocks: list[Block] = field(default_factory=list)
    numbers: list[Row] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Write ``report.md``, ``report.html``, ``report.csv`` and the PNGs; remove what an earlier report had more."""
        make_folder(folder)
        self.blocks = _named_apart(self.blocks)
        stale = _pictures_of(folder / "report.md") - {block.name for block in self.blocks if isinstance(block, Image)}
        for block in self.blocks:
            if isinstance(block, Image):
                with atomic_write(folder / block.name, "wb") as stream:
                    stream.write(block.png)
        with atomic_write(folder / "report.md") as stream:
            stream.write(self.markdown())
        with atomic_write(folder / "report.html") as stream:
            stream.write(self.html())
        write_csv(folder / "report.csv", self.numbers)
        for name in stale | (set() if self.numbers else {"report.csv"}):
            (folder / name).unlink(missing_ok=True)

    def markdown(self) -> str:
        """The report as Markdown; pictures are files beside it."""
        return "\n\n".join(_markdown(block) for block in self.blocks) + "\n"

    def html(self) -> str:
        """The report as one page with everything in it."""
        title = next((b.text for b in self.blocks if isinstance(b, Heading)), "Report")
        body = "\n".join(_html(block) for block in self.blocks)
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<link rel="icon" href="data:,">\n'
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
        )


def _named_apart(blocks: Sequence[Block]) -> list[Block]:
    """The blocks; of pictures with one name (groups that differ in signs alone) the later ones are numbered."""
    every = {block.name for block in blocks if isinstance(block, Image)}
    seen: set[str] = set()
    found = []
    for block in blocks:
        if isinstance(block, Image):
            if block.name in seen:
                name = Path(block.name)
                others = (f"{name.stem}-{number}{name.suffix}" for number in itertools.count(2))
                block = replace(block, name=next(other for other in others if other not in seen | every))
            seen.add(block.name)
        found.append(block)
    return found


def _pictures_of(report: Path) -> set[str]:
    """The pictures of ours in its folder that an earlier report shows."""
    text = report.read_text(encoding="utf-8", errors="replace") if report.is_file() else ""
    return set(re.findall(r"^!\[.*\]\(((?:curves|bands|negatives)-[\w-]+\.png)\)$", text, re.MULTILINE))


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, Text):
        return block.text
    if isinstance(block, Items):
        return "\n".join(f"- {line}" for line in block.lines)
    if isinstance(block, Table):
        cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in block.rows]
        return markdown_table([cell.replace("|", "\\|") for cell in block.header], cells, block.left)
    return f"![{block.caption}]({block.name})"


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{escape(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return f"<p>{_inline(block.text)}</p>"
    if isinstance(block, Items):
        return "<ul>" + "".join(f"<li>{_inline(line)}</li>" for line in block.lines) + "</ul>"
    if isinstance(block, Table):
        head = _row("th", block.header, block.left)
        body = "\n".join(_row("td", row, block.left) for row in block.rows)
        # A region that scrolls must be reachable by keyboard.
        return (
            f'<div class="scroll" role="region" aria-label="table" tabindex="0"><table>\n<thead>{head}</thead>\n'
            f"<tbody>\n{body}\n</tbody></table></div>"
        )
    data = base64.b64encode(block.png).decode()
    caption = escape(block.caption)
    return (
        f'<figure><div class="plot"><img alt="{caption}" src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _inline(text: str) -> str:
    """Escaped text, what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _row(tag: str, cells: Sequence[str], left: int) -> str:
    marks = [' class="left"' if place < left else "" for place in range(len(cells))]
    return "<tr>" + "".join(f"<{tag}{mark}>{escape(cell)}</{tag}>" for mark, cell in zip(marks, cells)) + "</tr>"
