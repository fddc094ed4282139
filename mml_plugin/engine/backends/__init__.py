"""The ways to compute what the fast engine needs; docs/engines.md says which runs where.

To add one: write a module with a class that has :class:`base.Backend`'s methods, and a line in ``KNOWN``.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch

from mml_plugin.engine.backends.base import Backend, CannotStart
from mml_plugin.errors import UserError, nearest


@dataclass(frozen=True)
class BackendInfo:
    """A backend before it is imported.

    Attributes:
        name: as ``--backend`` takes it.
        module: where its class ``Engine`` is.
        devices: device types that it runs on.
        needs: a package it needs, "" for none.
        comes: how that package is installed.
        capability: the least CUDA compute capability.
        builds: whether it builds a C extension when it first runs.
        prepares: a module whose ``ensure()`` makes sure, before it is imported, of what it needs; "" for none.
        interpreter: an environment variable that, set to 1, lets it run on a CPU as well; for tests.
    """

    name: str
    module: str
    devices: tuple[str, ...]
    needs: str = ""
    comes: str = "pip install numba"
    capability: tuple[int, int] = (0, 0)
    builds: bool = False
    prepares: str = ""
    interpreter: str = ""

    def obstacle(self, device: torch.device) -> str:
        """Why it cannot run on the device; "" when it can."""
        interpreted = device.type == "cpu" and self.interpreter and os.environ.get(self.interpreter) == "1"
        if device.type not in self.devices and not interpreted:
            tests = f" (in tests {self.interpreter}=1 lets it)" if self.interpreter and device.type == "cpu" else ""
            return f"it runs on {' and '.join(self.devices)}, not on {device.type}{tests}"
        if self.needs and importlib.util.find_spec(self.needs) is None:
            return f"the package {self.needs} is not installed ({self.comes})"
        if device.type == "cuda" and torch.cuda.get_device_capability(device) < self.capability:
            have = ".".join(map(str, torch.cuda.get_device_capability(device)))
            return f"it needs compute capability {'.'.join(map(str, self.capability))} and this GPU has {have}"
        return _cannot_build() if self.builds and not interpreted else ""

    def load(self, device: torch.device) -> Backend:
        """The backend; a :class:`CannotStart` where only trying tells that it cannot run on the device."""
        if self.needs:
            _import(self.needs)
        if self.prepares:
            importlib.import_module(f"{__name__}.{self.prepares}").ensure()
        backend = importlib.import_module(f"{__name__}.{self.module}").Engine()
        backend.try_out(device)
        return backend


def _import(package: str) -> None:
    """Raise a :class:`CannotStart` where an installed package does not import, as numba beside a newer numpy."""
    try:
        importlib.import_module(package)
    except Exception as error:  # whatever its own code stumbles over
        lines = str(error).strip().splitlines() or ["no reason given"]
        raise CannotStart(f"the package {package} does not import: {type(error).__name__}: {lines[0]}") from error


def _cannot_build() -> str:
    """What building a C extension lacks; "" for nothing."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "it builds its launchers with a C compiler, and neither gcc nor clang is on the PATH"
    scheme = sysconfig.get_default_scheme()
    include = sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme)
    if not Path(include, "Python.h").is_file():
        return f"it builds its launchers with Python.h, which {include} lacks (Debian has it in python3-dev)"
    return ""


KNOWN = (
    BackendInfo("numba", "numba_cpu", ("cpu",), needs="numba", prepares="numba_cache"),
    BackendInfo(
        "triton",
        "triton_gpu",
        ("cuda",),
        needs="triton",
        comes="torch's CUDA builds for Linux bring it along",
        capability=(7, 5),
        builds=True,
        interpreter="TRITON_INTERPRET",
    ),
    BackendInfo("torch", "torch_any", ("cpu", "cuda")),
    BackendInfo("reference", "reference", ("cpu", "cuda")),
)
NAMES = ("auto", *(info.name for info in KNOWN))


def check(name: str, device: torch.device) -> None:
    """What :func:`select` refuses, without logging anything; a package that is asked for by name is imported.

    Raises:
        UserError: for an unknown name, and for one that cannot run on the device, with the reason.
    """
    if name not in NAMES:
        raise UserError(f"--backend {name!r} is unknown; {nearest(name, NAMES)}")
    obstacles = {info.name: info.obstacle(device) for info in KNOWN}
    if name == "auto" and all(obstacles.values()):
        raise UserError(f"no backend runs on {device}")
    if not obstacles.get(name) and (asked := next((info.needs for info in KNOWN if info.name == name), "")):
        try:
            _import(asked)
        except CannotStart as error:
            obstacles[name] = str(error)
    if obstacles.get(name):
        raise UserError(f"--backend {name} cannot be used on {device}: {obstacles[name]}")


def select(name: str, device: torch.device) -> Backend:
    """The backend of that name, or with ``"auto"`` the first of ``KNOWN`` that can run; the pick is logged.

    Raises:
        UserError: for an unknown name, and for one that cannot run on the device, with the reason.
    """
    check(name, device)
    for info in KNOWN:
        if name not in ("auto", info.name):
            continue
        obstacle = info.obstacle(device)
        if not obstacle:
            try:
                backend = info.load(device)
                logging.info("Backend %s on %s%s", info.name, device, " (picked by auto)" if name == "auto" else "")
                return backend
            except CannotStart as error:
                obstacle = str(error)
        if name == info.name:
            raise UserError(f"--backend {name} cannot be used on {device}: {obstacle}")
        if device.type in info.devices:
            logging.info("Backend %s is passed over: %s", info.name, obstacle)
    raise UserError(f"no backend runs on {device}")
