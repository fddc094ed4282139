"""The generator against its authors' known answers, and its streams as streams."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from mml_plugin.engine import philox

from .fed import make_trainer

# Random123's known-answer vectors for philox4x32 with 10 rounds.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "wanted"), KNOWN)
def test_known_answers(counter, key, wanted):
    drawn = philox.philox(tuple(torch.tensor([c]) for c in counter), key)
    assert tuple(int(word) for word in drawn) == wanted


def test_words_are_keyed_by_row_slot_epoch_and_stream():
    rows = torch.tensor([7, 3, 7])
    base = philox.words(rows, 10, seed=1, stream=1, epoch=2)
    assert torch.equal(base[0], base[2])
    assert not torch.equal(base[0], base[1])
    assert torch.equal(philox.words(rows, 5, seed=1, stream=1, epoch=2), base[:, :5])
    for change in ({"seed": 2}, {"stream": 2}, {"epoch": 3}, {"attempt": 1}):
        other = philox.words(rows, 10, **{"seed": 1, "stream": 1, "epoch": 2, **change})
        assert not (other == base).any()


def test_words_are_uniform_and_rows_uncorrelated():
    drawn = philox.words(torch.arange(20_000), 8, seed=2019, stream=1, epoch=0).numpy()
    assert stats.kstest(drawn.ravel() / 2**32, "uniform").pvalue > 1e-3
    correlation = np.corrcoef(drawn.T)
    assert np.abs(correlation - np.eye(8)).max() < 0.03


def test_dropout_factors():
    drawn = philox.words(torch.arange(5000), 16, seed=5, stream=3, epoch=1)
    mask = philox.keep_mask(drawn, 0.3, torch.float64)
    assert set(mask.unique().tolist()) == {0.0, 1 / 0.7}
    assert (mask == 0).double().mean().item() == pytest.approx(0.3, abs=4 * (0.21 / mask.numel()) ** 0.5)


def test_each_draw_of_a_batch_has_its_own_stream(golden_params):
    """A mask that took another's words would look random enough in every other test."""
    params = {**golden_params("SimpleX_uatt_mml"), "attention_dropout": 0.3, "net_dropout": 0.2, "seed": 5}
    trainer = make_trainer(params, "numba")
    rows = torch.arange(40, 90)
    batch = trainer.batches.of_rows(2, rows)
    names = {"negatives": 1, "user dropout": 3, "attention dropout": 4}

    def words(count, name):
        return philox.words(rows, count, seed=5, stream=names[name], epoch=2)

    negatives = philox.below(words(params["num_negs"], "negatives"), len(trainer.data.item_ids))
    assert torch.equal(batch.index[:, 1:].long(), trainer.data.item_ids[negatives])
    kept = words(trainer.tower.width, "user dropout") >= 0.2 * 2**32
    assert torch.equal(batch.mask != 0, kept)
    kept = words(trainer.data.history.max_len, "attention dropout") >= 0.3 * 2**32
    assert torch.equal(batch.attention_mask != 0, kept[batch.history.row, batch.history.slot])
