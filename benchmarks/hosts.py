"""What is too wide for `make test`: the wheel, RecBole's environment, a real reczoo checkout (`make test-hosts`).

Usage: ``python benchmarks/hosts.py [--reczoo DIR] [--only wheel|recbole|reczoo]``. Needs network for RecBole's
environment. Everything happens in temporary copies; dated logs are ``benchmarks/results/test_hosts-<step>.log``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from datetime import datetime, timezone
from pathlib import Path

from mml_plugin.experiment.environment import commit

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
WHEEL_COMMANDS = (
    "mml --help",
    "mml losses",
    "mml losses MML",
    "mml data synth",
    "mml train --config {config} --expid MF_tiny_mml --set epochs=2",
    "mml train --config {config} --expid SimpleX_tiny_mml --set epochs=1",
    "mml recommend runs/MF_tiny_mml/{run} --user 3 --k 3",
    "mml export runs/MF_tiny_mml/{run} --format npz",
    "mml evaluate runs/MF_tiny_mml/{run} --k 20",
    "python -m mml_plugin run {reczoo_like}/run_expid.py --expid MF_mml",
)


class Failed(Exception):
    """A step did not do what it should."""


class Log:
    """Lines for the terminal and for the file."""

    def __init__(self, work: str) -> None:
        self.lines: list[str] = []
        self.work = work

    def say(self, text: str) -> None:
        text = text.replace(self.work, "<tmp>")
        print(text, flush=True)
        self.lines.append(text)

    def run(self, words: list[str], folder: Path, tail: int = 1, **variables: str) -> str:
        """Run a command and note it with its last lines; :class:`Failed` unless it exits with 0."""
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")} | variables
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
        shown = " ".join(Path(w).name if w.startswith("/") else w for w in words)
        output = (done.stdout + done.stderr).strip().splitlines()
        # pip's remarks on this machine's package index are nobody else's business.
        output = [line for line in output if "WARNING: Location" not in line]
        self.say(f"$ {shown}" + ("" if done.returncode == 0 else f"   EXIT CODE {done.returncode}"))
        for line in output[-tail if done.returncode == 0 else -40 :]:
            self.say(f"    {line}")
        if done.returncode:
            raise Failed(shown)
        return done.stdout


def copy_repository(target: Path) -> Path:
    """Tracked and new files, not ignored ones, so that building leaves nothing here."""
    words = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"]
    for name in filter(None, subprocess.run(words, capture_output=True, text=True, check=True).stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


def build_wheel(log: Log, source: Path) -> Path:
    """The wheel, which must hold every module of the package."""
    target = str(source / "dist")
    log.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", target, "."], source)
    (wheel,) = (source / "dist").glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {str(p.relative_to(source)) for p in (source / "mml_plugin").rglob("*.py")}
    wanted |= {f"mml_plugin/{p.relative_to(source)}" for p in (source / "model_zoo").glob("*.py")} | {
        "mml_plugin/py.typed"
    }
    missing = sorted(wanted - held)
    log.say(f"{wheel.name}: {len(held)} files, {len(missing)} of {len(wanted)} modules missing")
    if missing:
        raise Failed(f"the wheel lacks {', '.join(missing)}: add their packages to pyproject.toml")
    if any(name.startswith(("model_zoo/", "tests/", "src/")) for name in held):
        raise Failed("the wheel holds a top-level folder that is not ours to install")
    return wheel


def check_wheel(log: Log, source: Path, work: Path) -> None:
    """Install the wheel into a fresh environment over this one's dependencies and use it far from the repository."""
    wheel = build_wheel(log, source)
    venv, away = work / "venv", work / "away"
    away.mkdir()
    log.run([sys.executable, "-m", "venv", str(venv)], work, tail=0)
    site = next((venv / "lib").glob("python*/site-packages"))
    below = [p for p in sys.path if p.endswith("site-packages")] or [sysconfig.get_path("purelib")]
    (site / "dependencies.pth").write_text("\n".join(below) + "\n")
    log.run([str(venv / "bin" / "pip"), "install", "--quiet", "--no-deps", "--force-reinstall", str(wheel)], work)
    where = log.run([str(venv / "bin" / "python"), "-c", "import mml_plugin; print(mml_plugin.__file__)"], away, tail=0)
    if str(venv) not in where:
        raise Failed(f"the wheel is not what is imported: {where}")
    shutil.copytree(source / "config", away / "my config")
    shutil.copytree(source / "tests/data/reczoo_like", away / "checkout")
    shutil.copytree(source / "tests/data/golden/tiny", away / "checkout/data/tiny")
    for command in WHEEL_COMMANDS:
        run = next(iter((away / "runs" / "MF_tiny_mml").glob("recbox-*")), Path("none")).name
        words = [
            w.format(config=away / "my config", run=run, reczoo_like=away / "checkout") for w in command.split(" ")
        ]
        log.run([str(venv / "bin" / words[0]), *words[1:]], away, OMP_NUM_THREADS="1")


def check_recbole(log: Log, source: Path) -> None:
    """The lines of docs/recbole.md, exactly, and then the tests of the host in that environment."""
    text = (source / "docs" / "recbole.md").read_text()
    block = re.search(r"```bash\n(.*?)```", text, re.S)
    assert block is not None
    for line in block[1].strip().splitlines():
        log.run(["bash", "-c", line], source)
    python = source / ".venv-recbole" / "bin" / "python"
    log.run(["bash", "-c", ".venv-recbole/bin/pip install --quiet pytest hypothesis"], source)
    show = (
        "import importlib.metadata as m, sys; print('Python', sys.version.split()[0], *(f'{n} {m.version(n)}' for n in "
        "('torch', 'numpy', 'pandas', 'recbole', 'ray', 'pydantic', 'mml_plugin')))"
    )
    log.run([str(python), "-c", show], source.parent)
    pytest = str(source / ".venv-recbole" / "bin" / "pytest")
    words = [pytest, "-q", "-s", "-p", "no:cacheprovider", "-W", "ignore", "tests/hosts/recbole"]
    output = log.run(words, source, tail=1, OMP_NUM_THREADS="1")
    for line in output.splitlines():
        if re.search(r"(losses \[|Recall@20)", line):
            log.say(f"    {line.lstrip('.')}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reczoo", type=Path, help="matching/cf/SimpleX of a reczoo/RecZoo checkout")
    parser.add_argument("--only", choices=("wheel", "recbole", "reczoo"))
    options = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        log = Log(name)
        changed = subprocess.run(
            ["git", "-C", str(ROOT), "status", "--porcelain"], capture_output=True, text=True
        ).stdout
        source = copy_repository(work / "source")
        steps = {"wheel": lambda: check_wheel(log, source, work), "recbole": lambda: check_recbole(log, source)}
        if options.reczoo:
            words = [
                sys.executable,
                str(ROOT / "benchmarks/real_checkout.py"),
                "--checkout",
                str(options.reczoo.resolve()),
            ]
            steps["reczoo"] = lambda: log.run(words, work, tail=2)
        for step, check in steps.items():
            if options.only not in (None, step):
                continue
            log.lines.clear()
            log.say(f"{step}: {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, commit {commit()}")
            log.say("uncommitted: " + (", ".join(line[3:] for line in changed.splitlines()) or "nothing"))
            try:
                check()
                log.say("passed")
            except (Failed, AssertionError) as error:
                failed.append(step)
                log.say(f"FAILED: {error}")
            (RESULTS / f"test_hosts-{step}.log").write_text("\n".join(log.lines) + "\n", encoding="utf-8")
        if not options.reczoo:
            print("the real checkout is not run: no --reczoo DIR")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
