"""A training step as a CUDA graph: recorded once, replayed for every batch of the same size.

A step is some fifty kernels of a few microseconds each; launched one by one from Python they take longer to launch than
to run. A captured step reads its batch from memory that never moves, and runs no Python: whatever changes from step to
step (row ids, epoch, step count, learning rate, sums) has to be a tensor on the device.
"""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Graph(Protocol):
    """What :class:`GraphedStep` needs of a graph."""

    def warm_up(self, body: Callable[[], T]) -> T:
        """Run ``body`` for good, as it will be captured: libraries start, kernels are compiled."""

    def rehearse(self, body: Callable[[], T]) -> tuple[T, str]:
        """:meth:`warm_up`, watching for waits; returns also what a capture would break off at, "" for nothing."""

    def capture(self, body: Callable[[], T]) -> T:
        """Record what ``body`` does without doing it; its tensors are filled by :meth:`replay`.

        Raises:
            RuntimeError: when it does what cannot be recorded, such as waiting for the device.
        """

    def replay(self) -> None:
        """Do it."""


class CudaGraph:
    """torch's CUDA graph on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)
        self._graph = torch.cuda.CUDAGraph()

    def warm_up(self, body: Callable[[], T]) -> T:
        """On the stream that will capture."""
        with torch.cuda.device(self.device):
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            try:
                with torch.cuda.stream(self._stream):
                    return body()
            finally:
                current.wait_stream(self._stream)

    def rehearse(self, body: Callable[[], T]) -> tuple[T, str]:
        """With torch's own watch for waits.

        A capture that breaks off is no way to find out: until torch 2.13 the allocator believes in it ever after, so
        that no later capture of the process succeeds and full memory is not tidied up before it is an error.
        """
        before = torch.cuda.get_sync_debug_mode()
        waits: list[str] = []
        with warnings.catch_warnings():
            warnings.filterwarnings("always", message=".*called a synchronizing CUDA operation")
            warnings.filterwarnings("ignore", message=".*Synchronization debug mode")
            show = warnings.showwarning

            def note(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
                if "called a synchronizing CUDA operation" in str(message):
                    waits.append(f"{filename}:{lineno}")
                else:
                    show(message, category, filename, lineno, *rest)

            warnings.showwarning = note  # type: ignore[assignment]
            torch.cuda.set_sync_debug_mode("warn")
            try:
                result = self.warm_up(body)
            finally:
                torch.cuda.set_sync_debug_mode(before)
        return result, f"the host waits for the GPU in every step ({waits[0]})" if waits else ""

    def capture(self, body: Callable[[], T]) -> T:
        """On a stream of its own; other threads (the one that watches memory) may go on meanwhile."""
        first: RuntimeError | None = None
        with torch.cuda.device(self.device), _without_collection():
            current = torch.cuda.current_stream()
            try:
                with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                    try:
                        return body()
                    except RuntimeError as error:
                        first = error
                        raise
            except RuntimeError as error:
                # Ending a capture that broke off is an error of its own, which says nothing of why.
                raise first or error from None
            finally:
                # After a failed capture torch leaves its stream the current one.
                torch.cuda.set_stream(current)
                first = None  # its traceback holds this frame

    def replay(self) -> None:
        """On the current stream."""
        with torch.cuda.device(self.device):
            self._graph.replay()


@contextmanager
def _without_collection() -> Iterator[None]:
    """Collect garbage first and none within: the end of another graph, such as an earlier trainer's, ends a capture.

    torch did the first half itself until 2.9.
    """
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class GraphedStep(Generic[T]):
    """A step that is captured after its first batches and replayed from then on.

    Batches of another size than ``size`` (the last one) are run as they come. What is returned for a replayed batch
    holds until the next one.

    Args:
        body: the step, on row ids ``[B]``; called with the same tensor's memory whenever it is warmed up or captured.
        size: the batch size to capture.
        device: where the row ids are.
        graph: captures and replays.
        undo: called after a failed capture, to drop what only the host believes to have happened.
    """

    # torch asks for a few rounds before a capture; these are the first batches themselves.
    WARM_UP = 3

    def __init__(
        self,
        body: Callable[[Tensor], T],
        size: int,
        device: torch.device,
        graph: Graph,
        undo: Callable[[], None] = lambda: None,
    ) -> None:
        self._body, self._graph, self._undo = body, graph, undo
        self._rows = torch.zeros(size, dtype=torch.int64, device=device)
        self._warm = 0
        self._result: T | None = None
        self.captured = self.refused = False

    def __call__(self, rows: Tensor) -> T:
        """Train on a batch of row ids."""
        if self.refused or len(rows) != len(self._rows):
            return self._body(rows)
        self._rows.copy_(rows)
        if self._warm < self.WARM_UP:
            self._warm += 1
            return self._graph.warm_up(self._on_static_rows) if self._warm < self.WARM_UP else self._rehearse()
        if not self.captured and not self._capture():
            return self._body(rows)
        self._graph.replay()
        assert self._result is not None
        return self._result

    def _on_static_rows(self) -> T:
        return self._body(self._rows)

    def _rehearse(self) -> T:
        result, obstacle = self._graph.rehearse(self._on_static_rows)
        if obstacle:
            self._refuse(obstacle)
        return result

    def _refuse(self, why: str) -> None:
        self.refused = True
        logging.info("The step cannot be captured as a CUDA graph and is launched kernel by kernel: %s", why)

    def _capture(self) -> bool:
        try:
            self._result = self._graph.capture(self._on_static_rows)
        except RuntimeError as error:
            self._undo()
            self._refuse((str(error).strip() or type(error).__name__).splitlines()[0])
            return False
        self.captured = True
        logging.info("The step is captured as a CUDA graph")
        return True
