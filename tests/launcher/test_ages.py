"""How old news from hosts is, whatever their clocks show."""

from __future__ import annotations

import pytest

from distrain.launcher.hosts.ages import WINDOW_S, Ages


def test_what_takes_longest_is_that_much_older_than_what_took_least() -> None:
    ages = Ages()
    assert ages.of("a", 1000.0, 7000.5) == 0.0, "its clock may be any"
    assert ages.of("a", 1003.0, 7001.5) == pytest.approx(2.0)
    assert ages.of("b", 1004.0, 4.0) == 0.0, "and each has its own"
    assert ages.of("a", 1005.0, 7006.0) == 0.0, "less than ever is none"
    assert ages.of("a", 1006.0, 7006.5) == pytest.approx(0.5)


def test_a_clock_that_is_set_back_is_believed_again_after_a_while() -> None:
    ages = Ages()
    for second in range(100):
        ages.of("a", 1000.0 + second, 1000.0 + second)
    found = [ages.of("a", at, at - 10.0) for at in (1100.0, 1100.0 + WINDOW_S - 2, 1100.0 + WINDOW_S)]
    assert found == pytest.approx([10.0, 10.0, 0.0])


def test_only_what_may_matter_is_remembered() -> None:
    ages = Ages()
    for second in range(10_000):
        ages.of("a", float(second), second - second * 0.001)
    assert len(ages._lags["a"]) <= WINDOW_S + 1
