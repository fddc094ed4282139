"""benchmarks/marks.py: parts of a page that scripts write."""

from __future__ import annotations

import pytest
from marks import fill, written

from mml_plugin.errors import UserError

PAGE = "above\n<!-- a:begin -->\nold\n<!-- a:end -->\nbetween\n<!-- b:begin -->\n<!-- b:end -->\n"


def test_each_part_stands_between_its_own_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    fill(page, {"b": "two\nlines", "a": "new"})
    assert (written(page, "a"), written(page, "b")) == ("new", "two\nlines")
    fill(page, {"a": "old", "b": ""})
    assert page.read_text() == PAGE.replace("b:begin -->\n", "b:begin -->\n\n")


@pytest.mark.parametrize("lost", ["<!-- b:begin -->", "<!-- b:end -->"])
def test_a_page_without_a_mark_is_left_as_it_is(tmp_path, lost):
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace(lost, "x"))
    before = page.read_text()
    with pytest.raises(UserError, match=r"page\.md lacks a line <!-- b:begin --> with a line <!-- b:end --> below it"):
        fill(page, {"a": "new", "b": "new"})
    assert page.read_text() == before


def test_an_end_above_its_begin_is_none(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"of <!-- a:end --> and such\n{PAGE}")
    fill(page, {"a": "new"})
    assert page.read_text() == f"of <!-- a:end --> and such\n{PAGE.replace('old', 'new')}"
