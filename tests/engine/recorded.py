"""A CUDA graph's behaviour on a CPU, so that what is captured can be tested where no GPU is.

As on a GPU, a capture leaves no trace in memory, a replay runs tensor operations and no Python, reads and writes the
memory of the capture, and whatever would make the host wait for the device refuses to be captured.
"""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

WAITING = (
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount",
    "equal", "is_nonzero",
)  # fmt: skip


class RecordedGraph:
    """What ``cuda_graph.Graph`` asks for; ``launches`` counts replays."""

    recording: RecordedGraph | None = None

    def __init__(self):
        self.warmed = self.captures = self.launches = 0
        self._operations, self._before = [], {}

    def warm_up(self, body):
        self.warmed += 1
        return body()

    def rehearse(self, body):
        self.warmed += 1
        with _Watcher() as watcher:
            return body(), watcher.waits[0] if watcher.waits else ""

    def capture(self, body):
        self.captures += 1
        RecordedGraph.recording = self
        try:
            with _Recorder(self):
                return body()
        finally:
            RecordedGraph.recording = None
            for storage, content in self._before.values():
                storage.copy_(content)

    def replay(self):
        self.launches += 1
        with torch.no_grad():
            for function, args, kwargs, outputs in self._operations:
                made = function(*args, **kwargs)
                for old, new in zip(tensors(outputs), tensors(made)):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)

    def record(self, function, args, kwargs):
        """Do an operation and note it; the memory it may write is kept as it was."""
        for tensor in tensors((args, kwargs)):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._before:
                self._before[storage.data_ptr()] = (storage, storage.clone())
        outputs = function(*args, **kwargs)
        self._operations.append((function, args, kwargs, outputs))
        return outputs


def wait_of(function, args, kwargs):
    """What a GPU's host would wait for in an operation: its name; "" for nothing."""
    name = function._schema.name.split("::")[1]
    masked = name.startswith("index") and any(t.dtype == torch.bool for t in tensors(args[1:2]))
    sizes = name == "repeat_interleave" and not kwargs.get("output_size")
    # tensor[rows] = 1 copies the 1 from the host.
    number = name == "index_put_" and args[2].dim() == 0
    return name if name in WAITING or masked or sizes or number else ""


class _Watcher(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if wait := wait_of(function, args, kwargs or {}):
            self.waits.append(wait)
        return function(*args, **(kwargs or {}))


class _Recorder(TorchDispatchMode):
    def __init__(self, graph):
        super().__init__()
        self._graph = graph

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if wait := wait_of(function, args, kwargs or {}):
            raise RuntimeError(f"operation not permitted when stream is capturing: {wait}\nand more")
        return self._graph.record(function, args, kwargs or {})


def watching_for_waits():
    """Within this, what would make the host wait for a device is an error; everything else is done as ever."""
    return _Recorder(RecordedGraph())


def recording_launch(launch):
    """A kernel launcher that a capture notes like a tensor operation."""

    def launched(*args, **constants):
        if RecordedGraph.recording is None:
            return launch(*args, **constants)
        with _disable_current_modes():
            return RecordedGraph.recording.record(launch, args, constants)

    return launched


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
