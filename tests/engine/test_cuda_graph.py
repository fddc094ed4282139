"""Capturing the step: what is captured, when, what is replayed, and what happens where it cannot be."""

from __future__ import annotations

import gc
import logging
import re
import warnings
import weakref
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from mml_plugin import build_loss
from mml_plugin.engine.backends import torch_any
from mml_plugin.engine.cuda_graph import CudaGraph, GraphedStep
from mml_plugin.losses.score_range import ScoreRange

from .fed import LearntTemperature, make_trainer
from .recorded import RecordedGraph, watching_for_waits

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def without_a_look_at_the_scores(monkeypatch):
    """A loss reads one value at batches 1, 2, 4, 8, ..., but not while a GPU records; on a CPU it cannot know."""
    monkeypatch.setattr(ScoreRange, "look", lambda self, scores: None)


class NeverWaiting(torch_any.Engine):
    """The torch backend, computing as it does on a GPU."""

    def may_wait(self, data):
        return False


def trainer(golden_params, name="MF_ccl", backend=None, graph=None, loss=None, **changes):
    params = {**golden_params(name), "batch_size": 60, "epochs": 3, **changes}
    return make_trainer(params, backend or NeverWaiting(), loss=loss, graph=graph)


def assert_same(one, other):
    assert one.optimiser.steps == other.optimiser.steps
    assert one.optimiser.rate == other.optimiser.rate
    assert float(one.tally.total) == pytest.approx(float(other.tally.total), rel=1e-12)
    assert one.tally.bands()[0] == other.tally.bands()[0]
    assert one.tally.bands()[1] == pytest.approx(other.tally.bands()[1], rel=1e-10)
    mine, theirs = one.module.state_dict(), other.module.state_dict()
    for key, value in mine.items():
        assert torch.allclose(value, theirs[key], rtol=1e-10, atol=1e-12), key


def assert_the_temperature_was_learnt(one, other):
    learnt, as_well = (float(trainer.loss.temperature.detach()) for trainer in (one, other))
    assert learnt == pytest.approx(as_well, rel=1e-10)
    assert abs(learnt - 0.2) > 1e-4


class Doubling:
    """A body that writes where it is told and knows how often Python ran it."""

    def __init__(self):
        self.calls = 0
        self.seen = torch.zeros(4, dtype=torch.int64)
        self.total = torch.zeros((), dtype=torch.int64)

    def __call__(self, rows):
        self.calls += 1
        self.seen[: len(rows)] = 2 * rows
        self.total += rows.sum()
        return self.seen


def test_warm_up_then_capture_then_replay():
    body, graph = Doubling(), RecordedGraph()
    step = GraphedStep(body, 4, CPU, graph)
    for turn in range(10):
        rows = torch.arange(4) + 10 * turn
        assert step(rows).tolist() == (2 * rows).tolist()
    assert (graph.warmed, graph.captures, graph.launches) == (3, 1, 7)
    assert body.calls == 3 + 1
    assert int(body.total) == sum(6 + 40 * turn for turn in range(10))


def test_another_batch_size_runs_as_it_comes():
    body, graph = Doubling(), RecordedGraph()
    step = GraphedStep(body, 4, CPU, graph)
    for _ in range(6):
        step(torch.arange(4))
        step(torch.arange(3))
    assert (graph.warmed, graph.captures, graph.launches) == (3, 1, 3)
    assert int(body.total) == 6 * 6 + 6 * 3


def test_what_waits_is_never_captured_and_that_is_said_once(caplog):
    undone = []

    def waiting(rows):
        return int(rows.sum())

    graph = RecordedGraph()
    step = GraphedStep(waiting, 4, CPU, graph, lambda: undone.append(1))
    with caplog.at_level(logging.INFO):
        assert [step(torch.arange(4)) for _ in range(8)] == [6] * 8
    assert (graph.warmed, graph.captures, graph.launches, undone) == (3, 0, 0, [])
    assert step.refused
    assert [record.getMessage() for record in caplog.records] == [
        "The step cannot be captured as a CUDA graph and is launched kernel by kernel: _local_scalar_dense"
    ]


def test_what_breaks_a_capture_off_runs_and_is_said_once(caplog):
    undone = []

    def waiting(rows):
        return int(rows.sum())

    graph = RecordedGraph()
    graph.rehearse = lambda body: (body(), "")  # a wait that torch does not know of
    step = GraphedStep(waiting, 4, CPU, graph, lambda: undone.append(1))
    with caplog.at_level(logging.INFO):
        assert [step(torch.arange(4)) for _ in range(8)] == [6] * 8
    assert (graph.captures, graph.launches, undone) == (1, 0, [1])
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "The step cannot be captured as a CUDA graph and is launched kernel by kernel: "
        "operation not permitted when stream is capturing: _local_scalar_dense"
    ]


@pytest.mark.parametrize("name", ["MF_ccl", "MF_softmax", "MF_bce"])
def test_a_captured_training_is_the_training(name, golden_params):
    graph = RecordedGraph()
    captured, plain = trainer(golden_params, name, graph=graph), trainer(golden_params, name)
    for one in (captured, plain):
        one.fit()
    assert_same(captured, plain)
    # 1408 rows: 23 batches of 60 and one of 28, three times.
    assert graph.launches == 3 * 23 - GraphedStep.WARM_UP
    assert captured.optimiser.steps == 3 * 24


def test_a_loss_with_parameters_is_captured(golden_params):
    graph = RecordedGraph()
    made = [trainer(golden_params, graph=one, loss=LearntTemperature(), max_gradient_norm=1.0) for one in (graph, None)]
    for one in made:
        one.fit()
    assert graph.launches == 3 * 23 - GraphedStep.WARM_UP
    assert_same(*made)
    assert_the_temperature_was_learnt(*made)


@pytest.mark.parametrize("name", ["SimpleX_uatt_mml", "SimpleX_satt_ccl", "SimpleX_mean_bias_ccl"])
def test_histories_of_any_length_are_captured(name, golden_params):
    changes = {"attention_dropout": 0.2, "net_dropout": 0.1, "max_gradient_norm": 1.0}
    # On a CPU, which may wait, MML looks for the scores above its margins.
    graph, loss = RecordedGraph(), build_loss("CCL", margin=0.3, negative_weight=20)
    captured, plain = (trainer(golden_params, name, graph=one, loss=loss, **changes) for one in (graph, None))
    for one in (captured, plain):
        one.fit()
    assert_same(captured, plain)
    totals = [
        int(captured.data.history.row_lengths(captured.data.users[rows]).sum())
        for epoch in range(3)
        for rows, _ in captured.batches.rows_of_epoch(epoch)
        if len(rows) == 60
    ]
    with_room = sum(total <= max(totals[:23]) for total in totals)
    assert graph.launches == with_room - GraphedStep.WARM_UP
    assert with_room < len(totals)  # later epochs have longer batches


def test_a_new_rate_and_reloaded_weights_reach_a_captured_step(golden_params):
    captured, plain = trainer(golden_params, graph=RecordedGraph()), trainer(golden_params)
    for one in (captured, plain):
        weights = {name: value.clone() for name, value in one.module.state_dict().items()}
        one.train_epoch()
        one.optimiser.rate *= 0.1
        one._load(weights)
        state = one.optimiser.state_dict()
        one.epoch = 1
        one.train_epoch()
        one.optimiser.load_state_dict(state)
        one.epoch = 2
        one.train_epoch()
    assert_same(captured, plain)


def test_clipping_and_grouped_users_are_captured(golden_params):
    made = []
    for graph in (RecordedGraph(), None):
        one = trainer(golden_params, graph=graph, max_gradient_norm=1e-3)
        one.step.loss = build_loss("BSL", temperature=0.2, temperature2=1.0)
        one.fit()
        made.append((one, graph))
    assert_same(made[0][0], made[1][0])
    assert made[0][1].launches > 60


@pytest.mark.parametrize(
    ("name", "backend", "changes", "reason"),
    [
        ("MF_ccl", "reference", {}, "is not captured as a CUDA graph: the reference backend looks for"),
        ("MF_ccl", None, {"ignore_pos_items": True}, "is not captured as a CUDA graph: the torch backend draws until"),
        ("MF_ccl", None, {"optimizer": "sgd"}, "is not captured as a CUDA graph: the optimizer sgd"),
    ],
)
def test_the_rest_trains_without_a_graph(name, backend, changes, reason, golden_params, caplog):
    graph = RecordedGraph()
    with caplog.at_level(logging.INFO):
        captured = trainer(golden_params, name, backend, graph, **changes)
        captured.fit()
    plain = trainer(golden_params, name, backend, **changes)
    plain.fit()
    assert graph.launches == 0
    mine, theirs = captured.module.state_dict(), plain.module.state_dict()
    assert all(torch.allclose(value, theirs[key], rtol=1e-10, atol=1e-12) for key, value in mine.items())
    said = [record.getMessage() for record in caplog.records if "CUDA graph" in record.getMessage()]
    assert len(said) == 1
    assert re.search(reason, said[0])


@pytest.mark.parametrize("name", ["MF_ccl", "MF_softmax", "SimpleX_mean_bias_ccl", "SimpleX_satt_ccl"])
def test_no_step_waits_for_the_device(name, golden_params):
    steps = trainer(golden_params, name, attention_dropout=0.2).steps(1)
    next(steps)  # the epoch's order, and the lengths of its histories, are asked for
    with watching_for_waits():
        assert len(list(steps)) == 23
    waiting = trainer(golden_params, name, "reference").steps(1)
    next(waiting)
    with watching_for_waits(), pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        next(waiting)


@pytest.fixture
def cuda(monkeypatch):
    """torch.cuda as far as CudaGraph goes, on a machine without one; ``modes`` are the watch's, in order."""
    said = SimpleNamespace(modes=[0], ends_with=None, joined=[])

    @contextmanager
    def nothing(*_, **__):
        yield

    @contextmanager
    def graph(*_, **__):
        try:
            yield
        finally:
            if said.ends_with:
                raise RuntimeError(said.ends_with)

    stream = SimpleNamespace(wait_stream=lambda other: said.joined.append(other))
    fakes = {
        "Stream": lambda device: stream, "CUDAGraph": lambda: None, "current_stream": lambda: stream,
        "device": nothing, "stream": nothing, "graph": graph, "set_stream": lambda one: None,
        "get_sync_debug_mode": lambda: said.modes[-1], "set_sync_debug_mode": said.modes.append,
    }  # fmt: skip
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return said


def test_a_rehearsal_finds_the_waits_that_torch_tells_of(cuda):
    graph = CudaGraph(CPU)

    def waiting():
        assert cuda.modes == [0, "warn"]
        warnings.warn("called a synchronizing CUDA operation (Triggered internally at ...)", stacklevel=1)
        return 7

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result, why = graph.rehearse(waiting)
    assert result == 7
    assert re.fullmatch(r"the host waits for the GPU in every step \(.*test_cuda_graph.py:\d+\)", why)
    assert cuda.modes == [0, "warn", 0]


def test_a_rehearsal_passes_other_warnings_on(cuda):
    def body():
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)
        warnings.warn("something of the user's", stacklevel=1)
        return 7

    with pytest.warns(UserWarning, match="of the user's") as seen:
        assert CudaGraph(CPU).rehearse(body) == (7, "")
    assert [str(one.message) for one in seen] == ["something of the user's"]


def test_the_watch_ends_with_a_step_that_fails(cuda):
    def body():
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  # whatever a user's loss raises
        CudaGraph(CPU).rehearse(body)
    assert cuda.modes == [0, "warn", 0]
    assert len(cuda.joined) == 2  # what comes next waits for what the step had begun


@pytest.mark.parametrize("collecting", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_no_garbage_is_collected_within_a_capture(cuda, collecting, fails):
    """It would end the capture if it were a graph; and an earlier trainer's is freed by the collector alone."""

    class Earlier:
        def __init__(self):
            self.itself = self

    def body():
        assert earlier() is None
        assert not gc.isenabled()
        if fails:
            raise RuntimeError("operation not permitted when stream is capturing")

    before = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        earlier = weakref.ref(Earlier())
        with pytest.raises(RuntimeError) if fails else nullcontext():
            CudaGraph(CPU).capture(body)
        assert gc.isenabled() == collecting
    finally:
        (gc.enable if before else gc.disable)()


def test_a_capture_that_breaks_off_says_what_broke_it(cuda):
    def body():
        raise RuntimeError("operation not permitted when stream is capturing")

    cuda.ends_with = "operation failed due to a previous error during capture"
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        CudaGraph(CPU).capture(body)
    with pytest.raises(RuntimeError, match="previous error"):
        CudaGraph(CPU).capture(lambda: 7)
    cuda.ends_with = None
    assert CudaGraph(CPU).capture(lambda: 7) == 7
