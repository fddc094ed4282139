"""Run the tests on the oldest and newest supported versions and put the outcome into the README.

Usage: ``python benchmarks/matrix.py [--only NAME] [--keep]``. Each row gets an environment of its own in
``.venv-matrix/<name>``; a Python that is not on this machine is reported as not run, with the reason.
Rows go to ``benchmarks/results/matrix.csv``, logs beside it; the README's table is rewritten from the rows.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from marks import fill

from mml_plugin.files import atomic_write
from mml_plugin.report.table import markdown_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "matrix.csv"
COLUMNS = [
    "name",
    "python",
    "torch",
    "numpy",
    "pandas",
    "outcome",
    "passed",
    "failed",
    "skipped",
    "date",
    "commit",
]
SHOW = """import sys, torch, numpy, pandas
print(sys.version.split()[0], torch.__version__, numpy.__version__, pandas.__version__)"""


@dataclass(frozen=True)
class Stack:
    """One environment: a Python, and the lock as it is, or a few pins that the rest is resolved around, or the least.

    ``lowest``: of every declared dependency the oldest version that its range allows.
    """

    name: str
    python: str
    pins: dict[str, str] = field(default_factory=dict)
    lowest: bool = False

    @property
    def kind(self) -> str:
        """What its versions are, in words."""
        if self.lowest:
            return "the lowest that is declared"
        return " ".join(f"{name} {pin}" for name, pin in self.pins.items()) or "as locked"


# pyarrow 26 wants numpy 2, and says so only when it is imported.
OLD = {"numpy": "1.26.4", "pandas": "2.2.3", "torch": "2.4.1", "pyarrow": "25.0.1"}
STACKS = (
    Stack("lowest", "3.10", lowest=True),
    Stack("oldest", "3.10", OLD),
    Stack("numpy1-torch2.4", "3.11", OLD),
    Stack("lock-3.10", "3.10"),
    Stack("lock-3.11", "3.11"),
    Stack("lock-3.12", "3.12"),
    Stack("newest", "3.13"),
)


def find_python(version: str) -> str | None:
    """The interpreter of that version on the PATH, or None."""
    for name in (f"python{version}", f"python{version.split('.')[0]}"):
        path = shutil.which(name)
        if path is None:
            continue
        shown = subprocess.run([path, "--version"], capture_output=True, text=True)
        if shown.returncode == 0 and f" {version}." in shown.stdout:
            return path
    return None


def build(stack: Stack, python: str, folder: Path) -> Path:
    """Make the environment and return its Python; uv, because pip needs more than ten minutes for the old pins."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        raise SystemExit("uv is not installed: pip install uv")
    subprocess.run([uv, "venv", "--clear", "--quiet", "--python", python, str(folder)], check=True)
    inner = folder / "bin" / "python"
    pip = [uv, "pip", "install", "--quiet", "--python", str(inner)]
    if stack.lowest or stack.pins:
        pins = [f"{name}=={pin}" for name, pin in stack.pins.items()]
        lowest = ["--resolution", "lowest-direct"] if stack.lowest else []
        subprocess.run([*pip, *lowest, "--editable", f"{ROOT}[test]", *pins], check=True)
    else:
        subprocess.run([*pip, "--requirement", str(ROOT / "requirements.lock")], check=True)
        subprocess.run([*pip, "--no-deps", "--editable", str(ROOT)], check=True)
    return inner


def test(stack: Stack, inner: Path) -> dict[str, str]:
    """Run the tests and return the row."""
    log = RESULTS.parent / f"matrix-{stack.name}.log"
    command = [
        str(inner),
        "-m",
        "pytest",
        "-q",
        "-n",
        "auto",
        "--dist",
        "loadgroup",
        "-m",
        "not slow and not gpu",
    ]
    with open(log, "w", encoding="utf-8") as stream:
        code = subprocess.run(command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT).returncode
    prefix = subprocess.run([str(inner), "-c", "import sys; print(sys.base_prefix)"], capture_output=True, text=True)
    text = log.read_text(encoding="utf-8").replace(str(ROOT), ".").replace(prefix.stdout.strip(), "<python>")
    log.write_text(text[-20000:], encoding="utf-8")
    counts = {word: number for number, word in re.findall(r"(\d+) (passed|failed|skipped)", text.splitlines()[-1])}
    shown = subprocess.run([str(inner), "-c", SHOW], capture_output=True, text=True, check=True)
    return {
        **dict(zip(["python", "torch", "numpy", "pandas"], shown.stdout.split())),
        **{word: counts.get(word, "0") for word in ("passed", "failed", "skipped")},
        "outcome": "passed" if code == 0 else "failed",
    }


def run(stack: Stack, keep: bool) -> dict[str, str]:
    """Build, test and describe one stack; a build that fails is a row that says so."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    row = {"name": stack.name, "python": stack.python, "date": datetime.date.today().isoformat(),
           "commit": commit.stdout.strip()}  # fmt: skip
    python = find_python(stack.python)
    if python is None:
        return {**row, "outcome": f"not run: no Python {stack.python} on the machine"}
    folder = ROOT / ".venv-matrix" / stack.name
    try:
        return {**row, **test(stack, build(stack, python, folder))}
    except subprocess.CalledProcessError as error:
        step = next((word for word in error.cmd if word in {"venv", "pip", "-c"}), "?")
        return {**row, "outcome": f"not run: {step} failed with code {error.returncode}"}
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def write(rows: list[dict[str, str]]) -> None:
    """Merge the rows into the CSV (by name) and rewrite the README's table from it."""
    old = list(csv.DictReader(RESULTS.read_text(encoding="utf-8").splitlines())) if RESULTS.exists() else []
    new = {row["name"]: row for row in old} | {row["name"]: row for row in rows}
    ordered = [new[stack.name] for stack in STACKS if stack.name in new]
    with atomic_write(RESULTS) as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n", restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(ordered)
    fill(ROOT / "README.md", {"matrix": table(ordered)})


def _outcome(row: dict[str, str]) -> str:
    counts = f" ({row['passed']} tests, {row['skipped']} skipped)" if row["outcome"] == "passed" else ""
    return row["outcome"] + counts


def table(rows: list[dict[str, str]]) -> str:
    """The README's table."""
    cells = [
        [r["python"], r.get("torch", ""), r.get("numpy", ""), r.get("pandas", ""), _outcome(r), r["date"]] for r in rows
    ]
    return markdown_table(["Python", "torch", "numpy", "pandas", "tests", "date"], cells, left=6)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=[s.name for s in STACKS], help="run this row only")
    parser.add_argument("--keep", action="store_true", help="keep the environments")
    options = parser.parse_args()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    chosen = [s for s in STACKS if not options.only or s.name in options.only]
    rows = []
    for position, stack in enumerate(chosen, 1):
        print(f"[{position}/{len(chosen)}] {stack.name}: Python {stack.python}, {stack.kind}", flush=True)
        rows.append(run(stack, options.keep))
        print(f"    {rows[-1]['outcome']}", flush=True)
        write(rows)
    return 0 if all(r["outcome"] == "passed" or r["outcome"].startswith("not run: no Python") for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
