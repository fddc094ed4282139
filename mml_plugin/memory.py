"""The peak memory of a process and its children, sampled by a light thread."""

from __future__ import annotations

import contextlib
import threading

import psutil


def process_tree_bytes() -> int:
    """Proportional set size of this process and its descendants; resident size where PSS is not told.

    PSS shares pages between the processes that map them, so forked workers are not counted twice.
    """
    total = 0
    process = psutil.Process()
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.Error, OSError):
            total += _bytes(one)
    return total


def _bytes(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except (AttributeError, psutil.AccessDenied):
        return process.memory_info().rss


class PeakMemory:
    """Samples :func:`process_tree_bytes` every ``interval`` seconds between ``with`` and its end.

    On a CUDA device, :attr:`peak` is the device's peak allocation instead, what is allocated at the beginning included.
    """

    def __init__(self, interval: float = 1.0, cuda_device: int | None = None) -> None:
        self.interval = interval
        self.cuda_device = cuda_device
        self._peak = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peak-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        if self.cuda_device is not None:
            import torch

            torch.cuda.init()
            torch.cuda.reset_peak_memory_stats(self.cuda_device)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self.interval):
            self.sample()

    def sample(self) -> None:
        """Look now."""
        seen = process_tree_bytes()
        # The thread and whoever asks look at the same time; neither may write back a peak from before the other's.
        with self._lock:
            self._peak = max(self._peak, seen)

    @property
    def peak(self) -> int:
        """The largest value seen so far, in bytes."""
        if self.cuda_device is not None:
            import torch

            return torch.cuda.max_memory_allocated(self.cuda_device)
        self.sample()
        return self._peak
