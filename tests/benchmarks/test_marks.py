"""benchmarks/marks.py: parts of a page that scripts write."""

from __future__ import annotations

import pytest
from marks import fill, written

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
    page.write_text(PAGE.replace(lost, ""))
    before = page.read_text()
    with pytest.raises(ValueError, match="substring not found"):
        fill(page, {"a": "new", "b": "new"})
    assert page.read_text() == before
