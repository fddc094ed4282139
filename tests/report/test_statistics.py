"""Statistics against SciPy, closed forms and brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from mml_plugin.errors import UserError
from mml_plugin.report.statistics import holm, paired_bootstrap, paired_t

A = [0.0701, 0.0698, 0.0705, 0.0700, 0.0699]
B = [0.0712, 0.0709, 0.0710, 0.0715, 0.0706]


def test_paired_t_is_the_textbook_formula():
    found = paired_t(A, B)
    delta = np.subtract(B, A)
    error = delta.std(ddof=1) / np.sqrt(5)
    half = stats.t.ppf(0.975, 4) * error
    assert found.difference == pytest.approx(delta.mean())
    assert (found.low, found.high) == (pytest.approx(delta.mean() - half), pytest.approx(delta.mean() + half))
    assert found.p_value == pytest.approx(2 * stats.t.sf(delta.mean() / error, 4))


def test_too_few_seeds_say_so_instead_of_printing_a_p_value():
    found = paired_t(A[:2], B[:2])
    assert found.p_value is None
    assert found.reason == "2 seeds: too few to test, 3 are needed"


def test_no_spread_is_no_certainty():
    found = paired_t([1.0, 2.0, 3.0], [2.0, 3.0, 4.0])
    assert found.p_value is None
    assert "no spread" in found.reason


def test_bootstrap_of_three_users_equals_all_27_resamples():
    first, second = np.zeros(3), np.array([-1.0, 1.0, 2.0])  # 3 of the 27 sums are exactly 0 and count on both sides
    every = [np.mean([second[i] for i in draw]) for draw in itertools.product(range(3), repeat=3)]
    found = paired_bootstrap(first, second, resamples=200_000)
    exact = 2 * min(np.mean(np.less_equal(every, 0)), np.mean(np.greater_equal(every, 0)))
    assert found.p_value == pytest.approx(exact, abs=0.005)
    assert found.difference == pytest.approx(second.mean())


def test_bootstrap_p_value_has_the_add_one_correction_and_is_at_most_1():
    assert paired_bootstrap(np.zeros(2), np.ones(2), resamples=99).p_value == 2 / 100
    assert paired_bootstrap(np.zeros(2), -np.ones(2), resamples=99).p_value == 2 / 100
    assert paired_bootstrap(np.zeros(2), np.zeros(2), resamples=99).p_value == 1


def test_one_user_is_not_resampled():
    found = paired_bootstrap(np.zeros(1), np.ones(1))
    assert (found.difference, found.p_value, found.count) == (1, None, 1)
    assert np.isnan([found.low, found.high]).all()


# 20,000 users are resampled in more than one chunk.
@pytest.mark.parametrize(("users", "resamples"), [(4000, 10_000), (20_000, 2500)])
def test_bootstrap_interval_is_near_the_normal_one_for_many_users(users, resamples):
    rng = np.random.default_rng(0)
    first = rng.random(users)
    second = first + rng.normal(0.01, 0.2, users)
    found = paired_bootstrap(first, second, resamples=resamples)
    error = (second - first).std() / np.sqrt(users)
    assert found.low == pytest.approx(found.difference - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(found.difference + 1.96 * error, abs=0.1 * error)
    assert paired_bootstrap(first, second, resamples=resamples) == found


def test_holm_is_the_step_down_formula_and_skips_holes():
    assert holm([0.01, None, 0.04, 0.03]) == [
        pytest.approx(0.03),
        None,
        pytest.approx(0.06),
        pytest.approx(0.06),
    ]
    assert holm([None]) == [None]


def test_unpaired_samples_are_refused():
    with pytest.raises(UserError, match="equally long"):
        paired_t([1.0], [1.0, 2.0])
    with pytest.raises(UserError, match="equally long"):
        paired_bootstrap(np.empty(0), np.empty(0))
