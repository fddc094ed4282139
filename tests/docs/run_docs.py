"""Run every command that README and docs show, or say why not (`make test-docs`).

Fenced ``bash`` and ``python`` blocks are executed in order, file by file, in a temporary copy of this repository;
``mktemp`` makes its folders outside it. A block that needs network or hours carries an HTML comment right above it,
``<!-- not run: reason -->``, and is listed with its reason. Commands in running text (`` `mml data check NAME` ``)
and in blocks that are not run are checked: command, options, script or make target must exist.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[2]
LOG = ROOT / "benchmarks" / "results" / "test_docs.log"
FENCE = re.compile(r"^```(\w*)\s*$")
NOT_RUN = re.compile(r"<!-- not run: (.*?) -->", re.S)
INLINE = re.compile(r"`([^`\n]+)`")
# Blocks that cannot carry a comment because they are what a reader sees first: file, first command, reason.
ELSEWHERE = {
    ("README.md", "make quickstart"): "installs everything and runs all tests; CI does so",
    ("README.md", ". .venv/bin/activate"): "downloads data and trains for hours",
    ("README.md", "mml compare MF_tiny_ccl"): "docs/compare.md runs both, shorter",
}
# Names that the text uses before any code gives them: file, a line of the block, what they stand for.
GIVEN = {
    ("README.md", "value = loss(scores)"): "import torch\nscores = torch.rand(4, 11)\n"
    "positive, negatives = scores[:, 0], scores[:, 1:]\n",
}


@dataclass(frozen=True)
class Block:
    """One fenced block: where it is, its language and text, and why it is not run ("" when it is)."""

    file: str
    line: int
    language: str
    text: str
    reason: str

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


def blocks(path: Path) -> Iterator[Block]:
    """The fenced blocks of a Markdown file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    name = str(path.relative_to(ROOT))
    start, language = None, ""
    for number, text in enumerate(lines):
        found = FENCE.match(text)
        if not found:
            continue
        if start is None:
            start, language = number, found[1]
            continue
        body = "\n".join(lines[start + 1 : number])
        yield Block(name, start + 1, language, body, _reason(name, body, lines[:start]))
        start = None


def _reason(name: str, body: str, before: list[str]) -> str:
    above = "\n".join(before[-4:]).rstrip()
    comments = [m for m in NOT_RUN.finditer(above) if m.end() == len(above)]
    if comments:
        return comments[-1][1]
    first = body.strip().splitlines()[0] if body.strip() else ""
    return next((why for (file, start), why in ELSEWHERE.items() if file == name and first.startswith(start)), "")


def run_block(block: Block, folder: Path, work: Path) -> str:
    """Execute a block; its output when it failed, "" when it did not."""
    environment = {**os.environ, "TMPDIR": str(work), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    if block.language == "bash":
        command = ["bash", "-euo", "pipefail", "-c", block.text]
    else:
        given = next((g for (f, line), g in GIVEN.items() if f == block.file and line in block.text), "")
        command = [sys.executable, "-c", given + block.text]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1800)
    return "" if done.returncode == 0 else f"exit code {done.returncode}\n{done.stdout}{done.stderr}"


def words_of(text: str) -> Iterator[list[str]]:
    """The commands in a text: words of each line that starts one."""
    for line in text.replace("\\\n", " ").splitlines():
        line = line.strip().removeprefix("$ ")
        if re.match(r"(mml|python -m mml_plugin|python [\w/]+\.py|make)(\s|$)", line):
            try:
                yield shlex.split(line, comments=True)
            except ValueError:
                continue


def problem(words: list[str]) -> str:
    """What is wrong with a command line, without running it; "" when its parts exist."""
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        wanted = [w for w in words[1:] if re.fullmatch(r"[a-z-]+", w)]
        return "".join(f"no make target {w}; " for w in wanted if w not in targets)
    if words[0] == "python" and words[1] != "-m":
        script = words[1]
        if script == "run_expid.py":
            return click_problem(["train", *words[2:]])
        if script == "run_param_tuner.py":
            return click_problem(["tune", *words[2:]])
        return "" if (ROOT / script).is_file() or not script.startswith(("benchmarks", "examples")) else f"no {script}"
    return click_problem(words[3:] if words[0] == "python" else words[1:])


def click_problem(words: list[str]) -> str:
    """Unknown commands and options of `mml`."""
    from mml_plugin.cli import cli

    command: click.Command = cli
    rest = list(words)
    with click.Context(command) as context:
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            name = rest.pop(0)
            if name not in command.list_commands(context):
                return f"no command mml {name}"
            found = command.get_command(context, name)
            assert found is not None
            command = found
    if command.name == "run":
        return ""
    known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h", "--version"}
    options = [w.partition("=")[0] for w in rest if w.startswith("--")]
    return "".join(f"mml {command.name} has no {o}; " for o in options if o not in known)


def copy_repository(target: Path) -> None:
    """Tracked and new files, not ignored ones."""
    words = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="default: README.md and docs/*.md")
    parser.add_argument("--check-only", action="store_true", help="run nothing, check the commands")
    parser.add_argument("--log", action="store_true", help=f"also write {LOG.relative_to(ROOT)}")
    options = parser.parse_args()
    files = [f.resolve() for f in options.files] or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    lines = [f"date: {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"]
    failures = []

    def say(text: str) -> None:
        print(text, flush=True)
        lines.append(text)

    for file in files:
        found = list(blocks(file))
        texts = [m[1] for m in INLINE.finditer(file.read_text(encoding="utf-8"))]
        texts += [b.text for b in found if b.language == "bash" and (b.reason or options.check_only)]
        checked = [words for text in texts for words in words_of(text)]
        for words in checked:
            wrong = problem(words)
            if wrong:
                failures.append(f"{file.name}: {shlex.join(words)}: {wrong}")
                say(f"WRONG {failures[-1]}")
        say(f"{file.relative_to(ROOT)}: {len(checked)} commands in text and unrun blocks checked")
        if options.check_only:
            continue
        with tempfile.TemporaryDirectory() as name:
            folder, work = Path(name) / "repository", Path(name) / "work"
            folder.mkdir()
            work.mkdir()
            copy_repository(folder)
            for block in found:
                if block.language not in ("bash", "python"):
                    continue
                if block.reason:
                    say(f"  not run {block.where}: {block.reason}")
                    continue
                started = time.monotonic()
                output = run_block(block, folder, work)
                seconds = time.monotonic() - started
                say(f"  {'FAILED' if output else 'ran'} {block.where} ({block.language}, {seconds:.0f} s)")
                if output:
                    failures.append(block.where)
                    say(output)
    say(f"{len(failures)} failures")
    if options.log:
        LOG.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
