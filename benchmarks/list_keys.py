"""Write docs/keys.md from the configuration's schema: ``python benchmarks/list_keys.py``."""

from __future__ import annotations

import argparse
import ast
import inspect
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mml_plugin.experiment import schema
from mml_plugin.files import atomic_write
from mml_plugin.report.table import markdown_table

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# Configuration keys
Written by `python benchmarks/list_keys.py` from `mml_plugin/experiment/schema.py`; do not edit by hand.

What may stand in a block of `config/model_config/` or `config/dataset_config/`, or after `--set`, beside the parameters
of the loss ([losses.md](losses.md)) and `margin_spec`, a mapping of margins to weights. `--set` takes all but `gpu`,
`model_root`, `model_id` and `data_root`. Where no default stands, an empty value means none; an unknown key is refused,
with the nearest one.

"""
COLUMNS = """
## Columns
What an entry of `feature_cols` may say; `config/dataset_config/yelp.yaml` has those of MF and of SimpleX.

"""
TYPES = {"string": "text", "boolean": "True or False", "integer": "a whole number", "number": "a number"}
BOUNDS = {
    "ge": ">=", "minimum": ">=", "gt": ">", "exclusiveMinimum": ">", "le": "<=", "maximum": "<=", "lt": "<",
    "exclusiveMaximum": "<",
}  # fmt: skip


def meanings(model: type) -> dict[str, str]:
    """Attribute -> the string that stands below it in the class."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(body, ast.ClassDef)
    return {
        line.target.id: below.value.value
        for line, below in zip(body.body, body.body[1:])
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }  # fmt: skip


def allowed(field: Mapping[str, Any]) -> str:
    """What a field of the JSON schema takes, in words."""
    if "anyOf" in field:
        return " or ".join(allowed(part) for part in field["anyOf"] if part.get("type") != "null")
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if "pattern" in field:
        return "`l1(x)`, `l2(x)`, `l1_l2(x,y)`"
    if field.get("type") == "array":
        return "a list"
    bounds = [f"{sign} {_shown(field[key])}" for key, sign in BOUNDS.items() if key in field]
    return f"{TYPES.get(field.get('type', ''), 'a mapping')} {', '.join(bounds)}".rstrip()


def _shown(bound: float) -> str:
    return "2^32" if bound == 2**32 else f"{bound:g}"


def row(name: str, field: Mapping[str, Any], required: bool, meaning: str) -> list[str]:
    """One key's line."""
    default = field.get("default")
    shown = "required" if required else "" if default in (None, "") else f"`{default}`"
    return [f"`{name}`", allowed(field), shown, meaning.replace("``", "`")]


def table(model: type[BaseModel]) -> str:
    """All keys of a model of the schema."""
    found, says = model.model_json_schema(), meanings(model)
    rows = [row(name, field, name in found["required"], says[name]) for name, field in found["properties"].items()]
    return markdown_table(["key", "allowed", "default", "meaning"], rows, left=4) + "\n"


def page() -> str:
    """All of docs/keys.md."""
    return HEAD + table(schema.Keys) + COLUMNS + table(schema.FeatureColumn)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with atomic_write(ROOT / "docs" / "keys.md") as stream:
        stream.write(page())


if __name__ == "__main__":
    main()
