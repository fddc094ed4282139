"""The docs' commands exist, and the runner of `make test-docs` finds what it must find."""

from __future__ import annotations

import re
import shutil

import pytest
import run_docs
import yaml

from mml_plugin import available_losses
from mml_plugin.experiment.config import load_experiment

LINK = re.compile(r"\]\(([^)\s]+)\)")
FILES = [run_docs.ROOT / "README.md", *sorted((run_docs.ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_every_command_in_the_docs_exists(file):
    text = file.read_text(encoding="utf-8")
    texts = [m[1] for m in run_docs.INLINE.finditer(text)] + [
        b.text for b in run_docs.blocks(file) if b.language == "bash"
    ]
    wrong = [(words, run_docs.problem(words)) for t in texts for words in run_docs.words_of(t)]
    assert [w for w in wrong if w[1]] == []


@pytest.mark.parametrize(
    "line",
    ["mml recomend RUN", "mml export RUN --formt npz", "make nonsense", "python benchmarks/gone.py", "mml data chek x"],
)
def test_a_wrong_command_is_found(line):
    (words,) = run_docs.words_of(line)
    assert run_docs.problem(words)


def test_blocks_and_reasons(tmp_path, monkeypatch):
    monkeypatch.setattr(run_docs, "ROOT", tmp_path)
    file = tmp_path / "a.md"
    file.write_text(
        "```bash\nexit 3\n```\n<!-- not run: hours -->\n```bash\nsleep 1\n```\ntext\n\n```python\nprint(1)\n```\n"
    )
    first, second, third = run_docs.blocks(file)
    assert [first.reason, second.reason, third.reason] == ["", "hours", ""]
    assert (first.line, third.language, third.text) == (1, "python", "print(1)")
    assert "exit code 3" in run_docs.run_block(first, tmp_path, tmp_path)
    assert run_docs.run_block(third, tmp_path, tmp_path) == ""


@pytest.mark.parametrize("spec", available_losses(), ids=lambda spec: spec.name)
def test_every_loss_has_a_section_with_its_parameters_and_a_picture(spec):
    page = (run_docs.ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
    (section,) = [part for part in page.split("\n## ") if part.startswith(f"{spec.name}\n")]
    assert all(f"`{parameter.name}`" in section for parameter in spec.parameters)
    assert all(alias.name in section for alias in spec.aliases)
    picture = f"images/losses/{spec.name}.svg"
    assert picture in section
    assert (run_docs.ROOT / "docs" / picture).is_file()


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_links_lead_somewhere(file):
    targets = [t for t in LINK.findall(file.read_text(encoding="utf-8")) if "://" not in t]
    assert [t for t in targets if not (file.parent / t.partition("#")[0]).exists()] == []


def test_the_blocks_for_a_data_set_of_ones_own_are_an_experiment(tmp_path):
    texts = [b.text for b in run_docs.blocks(run_docs.ROOT / "docs" / "running.md") if b.language == "yaml"]
    config = tmp_path / "config"
    shutil.copytree(run_docs.ROOT / "config", config)
    (config / "dataset_config" / "mine.yaml").write_text(texts[0])
    base = yaml.safe_load((config / "model_config" / "MF.yaml").read_text())["Base"]
    (config / "model_config" / "mine.yaml").write_text(yaml.safe_dump({"Base": base}) + texts[1])
    mine, published = (load_experiment(config, name) for name in ("MF_mine_mml", "MF_yelp_mml"))
    assert mine.params["train_data"] == "./data/mine/train.csv"
    differ = {key for key in published.params if mine.params.get(key) != published.params[key]}
    assert differ == {"model_id", "dataset_id", "train_data", "valid_data", "item_corpus"}
