"""Gains in words, and the rule of the verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mml_plugin.report.gain import NO_BASE, Gain, gain_over_seeds


def test_verdicts_follow_the_rule():
    assert Gain(None).verdict(4.0) == "not run yet"
    assert Gain(4.0).verdict(4.0) == "no interval yet"
    assert Gain(4.0, 3, 0.1, 3.0, 5.0, 2.0, 6.0).verdict(4.0) == "yes"
    assert Gain(4.0, 3, 0.1, 3.0, 5.0, -2.0, 9.0).verdict(4.0) == "no difference seen"
    assert Gain(1.0, 3, 0.1, 0.5, 1.5, 0.5, 1.5).verdict(4.0) == "smaller"
    assert Gain(2.0, 3, 0.1, 1.5, 2.5, 1.5, 2.5).verdict(4.0) == "yes"  # half of what was claimed is enough
    # An interval that ends at 0 does not exclude it, on either side.
    assert Gain(1.0, 3, 0.1, 0.0, 2.0, 0.5, 1.5).verdict(1.0) == "no difference seen"
    assert Gain(-1.0, 3, 0.1, -1.5, -0.5, -2.0, 0.0).verdict(-1.0) == "no difference seen"
    assert Gain(1.0, 1, None, -0.5, 1.5).verdict(4.0) == "no difference seen (1 seed)"
    assert Gain(-2.0, 2, 0.1, -3.0, -1.0).verdict(4.0) == "no (2 seeds)"
    assert Gain(-1.0, 3, 0.1, -1.9, -0.1, -1.9, -0.1).parity("MML", "BSL") == "yes"
    assert Gain(-1.9, 3, 0.1, -2.8, -1.0, -2.8, -1.0).parity("MML", "BSL") == "undecided, BSL ahead"
    assert Gain(1.9, 1, None, 1.0, 2.8).parity("MML", "BSL") == "undecided, MML ahead (1 seed)"
    assert Gain(-3.9, 3, 0.1, -4.8, -3.0, -4.8, -3.0).parity("MML", "BSL") == "no, BSL ahead"
    assert Gain(0.0, 3, 0.1, -2.0, 2.0, -2.0, 2.0).parity("MML", "BSL") == "yes"  # par ends where the band does
    assert Gain(3.0, 3, 0.1, 2.0, 4.0, 2.5, 3.5).parity("MML", "BSL") == "undecided, MML ahead"
    assert Gain(None).parity("MML", "BSL") == "not run yet"
    assert Gain(1.0).parity("MML", "BSL") == "no interval yet"
    # Seeds, too, must be on one side of the band, or within it.
    assert Gain(-3.9, 3, 0.1, -4.8, -3.0, -5.9, -1.9).parity("MML", "BSL") == "undecided, BSL ahead"
    assert Gain(-1.0, 3, 0.1, -1.9, -0.1, -2.5, 0.5).parity("MML", "BSL") == "undecided"
    assert Gain(1.0, 3, 0.1, -0.5, 2.5, 0.5, 1.5).parity("MML", "BSL") == "undecided"
    # Beyond the band and users exclude 0, but seeds do not: the page says that it takes both.
    assert Gain(1.9, 3, 0.9, 1.0, 2.8, -0.5, 4.3).parity("MML", "BSL") == "undecided"
    assert Gain(-5.9, 1, None, -6.8, -5.0).parity("MML", "BSL", -5.65) == ("no, BSL ahead, as in the paper (1 seed)")
    assert Gain(-5.9, 1, None, -6.8, -5.0).parity("MML", "BSL", 5.65) == "no, BSL ahead (1 seed)"
    assert Gain(-5.9, 1, None, -6.8, -5.0).parity("MML", "BSL", -2.0) == "no, BSL ahead (1 seed)"
    assert Gain(None, missing=NO_BASE).verdict(4.0) == Gain(None, missing=NO_BASE).words() == "no percentage of 0"


def test_words():
    both = Gain(4.123, 3, 0.304, 3.111, 5.0, 3.4, 4.8).words()
    assert both == "+4.12 % (users: +3.11 to +5.00 %; 3 seeds: sd 0.30 %, t +3.40 to +4.80 %)"
    assert Gain(4.0, 2, 0.3, 3.0, 5.0).words() == "+4.00 % (users: +3.00 to +5.00 %; 2 seeds: sd 0.30 %)"
    assert Gain(-4.0, 1).words() == "-4.00 % (1 seed)"
    assert Gain(None).words() == "not run yet"


def test_a_gain_is_of_the_means_with_the_paired_t_interval_of_scipy():
    first, second = [0.0701, 0.0698, 0.0705], [0.0732, 0.0719, 0.0721]
    found = gain_over_seeds(first, second, (0.001, 0.003))
    base, delta = np.mean(first), np.subtract(second, first)
    interval = stats.ttest_rel(second, first).confidence_interval(0.95)
    assert found.percent == pytest.approx(100 * delta.mean() / base)
    assert found.sd == pytest.approx(100 * delta.std(ddof=1) / base)
    assert (found.low, found.high) == (pytest.approx(0.1 / base), pytest.approx(0.3 / base))
    assert (found.t_low, found.t_high) == (
        pytest.approx(100 * interval.low / base),
        pytest.approx(100 * interval.high / base),
    )
    assert found.seeds == 3


def test_a_gain_of_few_seeds_or_none():
    two = gain_over_seeds([1.0, 2.0], [2.0, 2.0])
    assert (two.percent, two.seeds, two.sd) == (pytest.approx(100 / 3), 2, pytest.approx(100 * math.sqrt(0.5) / 1.5))
    assert np.isnan([two.low, two.high, two.t_low, two.t_high]).all()
    one = gain_over_seeds([1.0], [2.0])
    assert (one.percent, one.seeds, one.sd) == (pytest.approx(100), 1, None)
    assert gain_over_seeds([], []) == gain_over_seeds([1.0], [1.0, 2.0]) == Gain(None)
    assert gain_over_seeds([0.0], [1.0]).missing == NO_BASE
