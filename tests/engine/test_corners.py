"""The engine's corners, against autograd on plain formulas, brute force and recbox."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from mml_plugin import build_loss
from mml_plugin.data.histories import Ragged
from mml_plugin.engine import backends
from mml_plugin.engine.declaration import Declaration, HistoryTower
from mml_plugin.engine.progress import Progress
from mml_plugin.engine.ranking import ItemLists
from mml_plugin.engine.sampler import NegativeSampler
from mml_plugin.engine.settings import Settings
from mml_plugin.engine.tally import Tally, active_share
from mml_plugin.engine.trainer import Trainer
from mml_plugin.engine.training_data import TrainingData
from mml_plugin.engine.user_tower import UserTower
from mml_plugin.errors import UserError

CPU = torch.device("cpu")
NAMES = ["reference", "torch", "numba"]
RECALL = {"Recall(k=2)": ("Recall", 2)}


class Tables(nn.Module):
    """A user and an item table; optionally an item tower with a bias beside it."""

    def __init__(self, users, items, dim, tower=False, dtype=torch.float64):
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        self.users = nn.Parameter(torch.randn(users, dim, generator=draw, dtype=dtype))
        self.items = nn.Parameter(torch.randn(items, dim, generator=draw, dtype=dtype))
        self.tower = tower
        if tower:
            self.mix = nn.Linear(dim, dim, dtype=dtype)
            self.drop = nn.Dropout(0.5)
            self.bias = nn.Parameter(torch.randn(items, 1, generator=draw, dtype=dtype))

    def item_vectors(self, ids):
        return normalize(self.mix(nn.functional.embedding(ids, self.items)))

    def declare(self, **more):
        if not self.tower:
            # In one dimension a cosine has no gradient but rounding's, which Adam makes as large as any other.
            similarity = "cosine" if self.items.shape[1] > 1 else "dot"
            return Declaration(self.users, self.items, similarity, **more)
        return Declaration(self.users, None, "cosine", item_tower=self.item_vectors, item_bias=self.bias, **more)


def data_of(lists, num_items, valid=None):
    """Training data of one item list per user; by default the same items are looked for."""
    counts = [len(items) for items in lists]
    indptr = np.concatenate([[0], np.cumsum(counts)])
    flat = np.array([item for items in lists for item in items])
    valid = lists if valid is None else valid
    wanted = ItemLists.of(
        np.concatenate([[0], np.cumsum([len(items) for items in valid])]), np.concatenate(valid), CPU
    )  # fmt: skip
    return TrainingData(
        torch.from_numpy(np.repeat(np.arange(len(lists)), counts)), torch.from_numpy(flat),
        torch.arange(len(lists)), torch.arange(num_items), ItemLists.of(indptr, flat, CPU), wanted,
    )  # fmt: skip


def settings_of(**changes):
    settings = Settings(2, 4, 3, 0.01, 1, RECALL, {"Recall(k=2)": 1.0}, progress=False)
    return dataclasses.replace(settings, **changes)


def trainer_of(tables, data, backend="numba", loss=None, declare=None, **changes):
    loss = loss or build_loss("CCL", margin=0.1, negative_weight=2.0)
    return Trainer(
        tables.declare(**(declare or {})), tables, loss, data, settings_of(**changes), backends.select(backend, CPU)
    )


LISTS = [[0, 1, 2], [3], [1, 4, 5, 6], [2, 6]]
VALID = [[4], [0], [2], [1]]


@pytest.mark.parametrize("backend", NAMES)
def test_an_epochs_loss_is_the_mean_of_its_batches_the_short_last_one_too(backend):
    """Ten rows in batches of three: the last batch has one row and counts as much as the others."""
    trainers = [trainer_of(seeded_tables(), data_of(LISTS, 7, VALID), backend, batch_size=3) for _ in range(2)]
    losses = [float(result.loss) for result in trainers[0].steps(0)]
    assert len(losses) == 4
    assert len(set(losses)) == 4
    assert trainers[1].train_epoch()[0] == pytest.approx(sum(losses) / 4)


def seeded_tables():
    torch.manual_seed(3)
    return Tables(4, 7, 3)


@pytest.mark.parametrize("backend", NAMES)
def test_an_item_tower_with_a_bias_trains_and_ranks_as_its_formula_says(backend):
    tables = Tables(4, 7, 3, tower=True)
    trainer = trainer_of(tables, data_of(LISTS, 7, VALID), backend, declare={"user_dropout": 0.3})
    batch = trainer.batches.of_rows(0, torch.tensor([0, 3, 5]))
    leaves = {name: p.detach().clone().requires_grad_() for name, p in tables.named_parameters()}
    items = normalize(leaves["items"][batch.index.long()] @ leaves["mix.weight"].T + leaves["mix.bias"], dim=-1)
    user = normalize(leaves["users"][batch.users]) * batch.mask[:, :3]
    y = torch.einsum("bd,bjd->bj", user, items)
    y = y + batch.mask[:, 3:] * leaves["bias"][batch.index.long()].squeeze(-1)
    trainer.step.loss(y, None).backward()
    trainer.optimiser.step = lambda: None
    result = trainer.step(batch)
    assert torch.allclose(result.y_pred, y, rtol=1e-12, atol=1e-12)
    for name, leaf in leaves.items():
        found = trainer.step.states[name].grad.reshape(leaf.shape)
        assert torch.allclose(found, leaf.grad, rtol=1e-9, atol=1e-12), name
    ranked = trainer.evaluator.user_vectors(torch.arange(4)) @ trainer.evaluator.item_vectors().T
    towards = normalize(tables.users) @ tables.item_vectors(torch.arange(7)).T + tables.bias.T
    assert torch.allclose(ranked, towards, atol=1e-12)


def test_an_item_tower_drops_out_in_training_alone():
    tables = Tables(4, 7, 3, tower=True)
    modes = []
    plain = tables.item_vectors
    tables.item_vectors = lambda ids: modes.append(tables.drop.training) or plain(ids)
    trainer = trainer_of(tables, data_of(LISTS, 7, VALID))
    for _ in range(2):
        trainer.train_epoch()
        assert set(modes) == {True}
        modes.clear()
        trainer.evaluator.metrics(trainer.data.valid)
        assert set(modes) == {False}
        modes.clear()


class Ranked(nn.Module):
    """A loss without margins that leaves every negative of the first rows without a gradient."""

    def __init__(self, silent):
        super().__init__()
        self.silent = silent

    def forward(self, y_pred, y_true):
        return y_pred[self.silent :].logsumexp(1).mean()


def test_the_active_share_is_that_of_the_gradient_whatever_the_loss():
    tables = Tables(4, 7, 3)
    trainer = trainer_of(tables, data_of(LISTS, 7, VALID), loss=Ranked(1), batch_size=4)
    result = trainer.step(trainer.batches.of_rows(0, torch.arange(4)))
    assert active_share(result.gradient) == 0.75
    result = trainer_of(tables, data_of(LISTS, 7, VALID)).step(trainer.batches.of_rows(0, torch.arange(4)))
    assert active_share(result.gradient) == (result.y_pred[:, 1:] > 0.1).double().mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("thresholds", [(0.6,), (0.6, 0.7, 0.9), ()])
@pytest.mark.parametrize("backend", NAMES)
def test_bands_against_brute_force_with_scores_on_the_thresholds(backend, thresholds, dtype):
    draw = torch.Generator().manual_seed(3)
    edges = torch.tensor([0.6, 0.7, 0.9], dtype=dtype)
    near = torch.cat(
        [edges, edges.nextafter(edges + 1), edges.nextafter(edges - 1), torch.tensor([-1.0, 1.5]).to(dtype)]
    )
    y = near[torch.randint(0, len(near), (70, 43), generator=draw)].contiguous()
    gradient = torch.randn(y.shape, generator=draw, dtype=dtype)
    tally = Tally(backends.select(backend, CPU), thresholds, CPU)
    for part in (slice(0, 69), slice(69, 70)):
        tally.add(Result(torch.zeros(()), y[part].contiguous(), gradient[part].contiguous()))
    counts, sums = tally.bands()
    if not thresholds:
        assert (counts, sums) == ([], [])
        return
    wanted, mass = [0] * (len(thresholds) + 1), [0.0] * (len(thresholds) + 1)
    for score, slope in zip(y[:, 1:].flatten().tolist(), gradient[:, 1:].flatten().tolist()):
        band = sum(score > float(torch.tensor(t, dtype=dtype)) for t in thresholds)
        wanted[band] += 1
        mass[band] += abs(slope)
    assert counts == wanted
    assert sums == pytest.approx(mass, rel=1e-6)


@dataclasses.dataclass
class Result:
    loss: torch.Tensor
    y_pred: torch.Tensor
    gradient: torch.Tensor


def test_band_sums_do_not_depend_on_the_number_of_threads():
    import numba

    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("numba has one thread here")
    backend = backends.select("numba", CPU)
    draw = torch.Generator().manual_seed(1)
    # float64: of float32 numbers a double's sum is exact, whatever its order.
    y, gradient = (torch.randn(513, 40, generator=draw, dtype=torch.float64) for _ in range(2))
    found = []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        counts, sums = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.float64)
        backend.bands(y, gradient, torch.tensor([0.1, 0.7], dtype=torch.float64), counts, sums)
        found.append((counts, sums))
    numba.set_num_threads(torch.get_num_threads())
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_a_loss_that_is_no_number_ends_the_epoch_at_the_next_look(monkeypatch):
    monkeypatch.setattr(Progress, "INTERVAL", 0)
    tables = Tables(4, 7, 3)
    tables.users.data[3] = math.nan
    trainer = trainer_of(tables, data_of(LISTS, 7, VALID), batch_size=1, shuffle=False)
    real, steps = trainer.step, []
    trainer.step = lambda batch: steps.append(1) or real(batch)
    with pytest.raises(UserError, match="training stopped in epoch 1: the loss is nan; a smaller learning_rate"):
        trainer.fit()
    assert len(steps) == 9  # of 10: user 3's first row is the ninth


@pytest.mark.parametrize("backend", NAMES)
def test_a_gradient_that_is_no_number_reaches_every_weight_as_in_recbox(backend):
    tables = Tables(4, 7, 3)
    trainer = trainer_of(tables, data_of(LISTS, 7, VALID), backend)
    state = trainer.step.states["users"]
    state.grad[0], state.touched[0] = math.nan, 1
    trainer.optimiser.step()
    assert tables.users.isnan().all()
    assert tables.items.isnan().all()


def test_a_batch_penalty_is_refused_where_it_would_miss_parameters():
    with pytest.raises(UserError, match=r"regularizer_scope batch .*this one has an item tower"):
        trainer_of(Tables(4, 7, 3, tower=True), data_of(LISTS, 7, VALID), batch_penalty=1e-3)
    with pytest.raises(UserError, match="this one has a global bias"):
        trainer_of(
            Tables(4, 7, 3), data_of(LISTS, 7, VALID), batch_penalty=1e-3,
            declare={"global_bias": nn.Parameter(torch.zeros(1))},
        )  # fmt: skip


SMALL = {
    "one negative": {"num_negs": 1},
    "more negatives than items": {"num_negs": 40},
    "batches of one": {"batch_size": 1},
    "a last batch of one": {"batch_size": 3},
    "a batch larger than the data": {"batch_size": 1000},
    "excluding positives": {"exclude_positives": True},
}
SETS = {
    "four users": (LISTS, VALID, 7),
    "one user": ([[0, 2]], [[1]], 3),
    "one item": ([[0], [0]], [[0], [0]], 1),
    "one of each": ([[0]], [[0]], 1),
}


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("case", SMALL)
@pytest.mark.parametrize("data", SETS)
def test_small_sets_train_as_the_reference_does(data, case, dim):
    lists, valid, items = SETS[data]
    changes = SMALL[case]
    if changes.get("exclude_positives") and items == 1:
        with pytest.raises(UserError, match="user row 0 has every item among its training items"):
            trainer_of(Tables(len(lists), items, dim), data_of(lists, items, valid), **changes)
        return
    ends = []
    for backend in NAMES:
        tables = Tables(len(lists), items, dim)
        trainer = trainer_of(tables, data_of(lists, items, valid), backend, thresholds=(0.1,), **changes)
        trainer.fit()
        assert sum(trainer.tally.bands()[0]) == sum(map(len, lists)) * trainer.settings.num_negs
        ends.append(tables.state_dict())
    for end in ends[1:]:
        for name, value in end.items():
            assert torch.allclose(value, ends[0][name], rtol=1e-9, atol=1e-10), name


def test_a_user_whose_last_negative_is_unpopular_is_refused():
    made = {"popularity": torch.tensor([2**18, 2**18, 1]), "alpha": 1.0, "positives": positives_of([[0, 1]])}
    with pytest.raises(UserError, match=r"user row 0 has nearly every item .*leaves 1 draw in 524,"):
        NegativeSampler.create(1, torch.arange(3), backends.select("numba", CPU), **made)
    made["popularity"][2] = 100
    drawn = NegativeSampler.create(1, torch.arange(3), backends.select("numba", CPU), **made).index(
        0, torch.arange(3), torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), 5
    )
    assert (drawn[:, 1:] == 2).all()


def positives_of(lists):
    return data_of(lists, 10).positives()


def test_too_little_left_to_draw_is_refused_and_not_searched_for():
    lists = [[*range(99_999)], [0]]
    with pytest.raises(UserError, match=r"user row 0 .*leaves 1 draw in 100,000"):
        trainer_of(Tables(2, 100_000, 1), data_of(lists, 100_000), exclude_positives=True)


def padded_user(tower, own, entries, length):
    """One user's vector from a history padded to ``length`` zero vectors, slot by slot."""
    slots = [*entries, *([torch.zeros_like(own)] * (length - len(entries)))]
    if tower.aggregator == "mean":
        # recbox counts in float32, whatever the vectors are in.
        pooled = sum(slots) / (torch.tensor([float(s.detach().sum()) != 0 for s in slots]).float().sum() + 1e-9)
    else:
        asked = own if tower.aggregator == "user_attention" else tower.query.squeeze(1)
        raised = [
            (tower.key(s) @ asked).exp() if float(s.detach().sum()) != 0 else torch.ones((), dtype=s.dtype)
            for s in slots
        ]
        pooled = sum(r * s for r, s in zip(raised, slots)) / (sum(raised) + 1e-9)
    return tower.gamma * own + (1 - tower.gamma) * tower.value(pooled)


@pytest.mark.parametrize("backend", NAMES)
@pytest.mark.parametrize("gamma", [0.0, 0.4])
@pytest.mark.parametrize("lengths", [[2, 0, 3, 1], [0, 0], [0]])
@pytest.mark.parametrize("aggregator", ["mean", "user_attention", "self_attention"])
def test_empty_histories_and_gamma_0_as_the_padded_formula(aggregator, lengths, gamma, backend):
    torch.manual_seed(2)
    dim, longest, double = 3, 3, {"dtype": torch.float64}
    users, table = (nn.Parameter(torch.randn(n, dim, **double)) for n in (len(lengths), 6))
    key = nn.Sequential(nn.Linear(dim, dim, **double), nn.Tanh())
    tower = HistoryTower(
        table, nn.Linear(dim, dim, bias=False, **double), gamma, aggregator, key, torch.randn(dim, 1, **double)
    )  # fmt: skip
    rows = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    ids = torch.arange(len(rows)) % 6
    slots = torch.tensor([slot for n in lengths for slot in range(n)], dtype=torch.int64)
    history = Ragged(ids, rows, slots, torch.tensor(lengths))
    model = Declaration(users, nn.Parameter(torch.randn(2, dim, **double)), "cosine", history=tower)
    made = UserTower(model, longest, backend=backends.select(backend, CPU))
    found = made(torch.arange(len(lengths)), history, training=True)
    wanted = torch.stack(
        [padded_user(tower, users[u], [table[i] for i in ids[rows == u]], longest) for u in range(len(lengths))]
    )  # fmt: skip
    wanted = normalize(wanted)
    assert torch.allclose(found.vectors, wanted, rtol=1e-9, atol=1e-10)
    weight = torch.randn(wanted.shape, **double)
    (found.vectors * weight).sum().backward()
    (wanted * weight).sum().backward()
    # With all rows empty and gamma 0 the vector is 0, and below normalize's floor rounding counts 1e12-fold.
    if gamma or any(lengths):
        assert torch.allclose(found.leaves[0][2].grad, users.grad, rtol=1e-6, atol=1e-8)
