"""Gains in words, and the rule of the verdicts."""

from __future__ import annotations

from mml_plugin.report.gain import NO_BASE, Gain


def test_verdicts_follow_the_rule():
    assert Gain(None).verdict(4.0) == "not run yet"
    assert Gain(4.0).verdict(4.0) == "no interval yet"
    assert Gain(4.0, 3, 0.1, 3.0, 5.0, 2.0, 6.0).verdict(4.0) == "yes"
    assert Gain(4.0, 3, 0.1, 3.0, 5.0, -2.0, 9.0).verdict(4.0) == "no difference seen"
    assert Gain(1.0, 3, 0.1, 0.5, 1.5, 0.5, 1.5).verdict(4.0) == "smaller"
    assert Gain(1.0, 1, None, -0.5, 1.5).verdict(4.0) == "no difference seen (1 seed)"
    assert Gain(-2.0, 2, 0.1, -3.0, -1.0).verdict(4.0) == "no (2 seeds)"
    assert Gain(-1.0, 3, 0.1, -1.9, -0.1, -1.9, -0.1).parity("MML", "BSL") == "yes"
    assert Gain(-1.9, 3, 0.1, -2.8, -1.0, -2.8, -1.0).parity("MML", "BSL") == "undecided, BSL ahead"
    assert Gain(1.9, 1, None, 1.0, 2.8).parity("MML", "BSL") == "undecided, MML ahead (1 seed)"
    assert Gain(-3.9, 3, 0.1, -4.8, -3.0, -4.8, -3.0).parity("MML", "BSL") == "no, BSL ahead"
    # Seeds, too, must be on one side of the band, or within it.
    assert Gain(-3.9, 3, 0.1, -4.8, -3.0, -5.9, -1.9).parity("MML", "BSL") == "undecided, BSL ahead"
    assert Gain(-1.0, 3, 0.1, -1.9, -0.1, -2.5, 0.5).parity("MML", "BSL") == "undecided"
    assert Gain(1.0, 3, 0.1, -0.5, 2.5, 0.5, 1.5).parity("MML", "BSL") == "undecided"
    # Beyond the band and users exclude 0, but seeds do not: the page says that it takes both.
    assert Gain(1.9, 3, 0.9, 1.0, 2.8, -0.5, 4.3).parity("MML", "BSL") == "undecided"
    assert Gain(-5.9, 1, None, -6.8, -5.0).parity("MML", "BSL", -5.65) == ("no, BSL ahead, as in the paper (1 seed)")
    assert Gain(-5.9, 1, None, -6.8, -5.0).parity("MML", "BSL", 5.65) == "no, BSL ahead (1 seed)"
    assert Gain(None, missing=NO_BASE).verdict(4.0) == Gain(None, missing=NO_BASE).words() == "no percentage of 0"
