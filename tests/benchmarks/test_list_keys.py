"""The page of configuration keys has them all."""

from __future__ import annotations

import re
from pathlib import Path

import list_keys

from mml_plugin.experiment.schema import FeatureColumn, Keys

LINE = r"^\| `(\w+)` +\| (.+?) +\| (.*?) *\| (.+?) +\|$"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "keys.md"


def test_every_key_has_a_line_with_its_meaning():
    assert PAGE.read_text("utf-8") == list_keys.page()
    keys, columns = PAGE.read_text("utf-8").split("\n## Columns\n")
    lines = re.findall(LINE, keys, re.M)
    says = list_keys.meanings(Keys)
    assert [name for name, *_ in lines] == list(Keys.model_fields) == list(says)
    assert {name: meaning for name, *_, meaning in lines} == {k: text.replace("``", "`") for k, text in says.items()}
    required = {name for name, _, default, _ in lines if default == "required"}
    assert required == {name for name, field in Keys.model_fields.items() if field.is_required()}
    allowed = {name: text for name, text, *_ in lines}
    assert allowed["gamma"] == "a number >= 0, <= 1"
    assert allowed["aggregator"] == "`mean`, `user_attention`, `self_attention`"
    of_columns = {name: meaning for name, *_, meaning in re.findall(LINE, columns, re.M)}
    says = {name: text.replace("``", "`") for name, text in list_keys.meanings(FeatureColumn).items()}
    assert of_columns == says
    assert list(says) == list(FeatureColumn.model_fields)
