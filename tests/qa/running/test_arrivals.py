"""Calls of a load are planned as the rates say, and the same each time."""

from __future__ import annotations

from itertools import pairwise

import pytest

from offhook.qa.running.arrivals import arrivals, expected, times


def _even(start: float, to: float, over: float, hold: float) -> list[float]:
    return list(times(start, to, over, hold, even=True, seed=1))


def test_an_even_rate_is_a_clock() -> None:
    assert _even(2, 2, 2, 1) == [0, 0.5, 1, 1.5, 2, 2.5]


def test_a_ramp_is_exact() -> None:
    # Λ(t) = t²/2: call n begins at the root of 2n
    assert _even(0, 4, 4, 0) == pytest.approx([(2 * n) ** 0.5 for n in range(8)])


def test_a_ramp_may_go_down_to_nothing() -> None:
    assert _even(4, 0, 4, 10) == pytest.approx([4 - (16 - 2 * n) ** 0.5 for n in range(8)])


def test_after_the_ramp_the_last_rate_stays() -> None:
    assert _even(0, 2, 1, 2) == pytest.approx([0, 1, 1.5, 2, 2.5])


def test_without_a_ramp_the_last_rate_is_there_at_once() -> None:
    assert _even(1, 4, 0, 1) == [0, 0.25, 0.5, 0.75]


def test_strangers_call_as_often_as_asked_for_on_average_and_independently() -> None:
    at = list(times(5, 5, 2000, 0, even=False, seed=3))
    gaps = [later - earlier for earlier, later in pairwise(at)]
    mean = sum(gaps) / len(gaps)
    assert len(at) == pytest.approx(expected(5, 5, 2000, 0), rel=0.03)
    # of an exponential distribution the deviation is the mean
    assert (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 == pytest.approx(mean, rel=0.05)
    assert at == sorted(at)


def test_a_ramp_of_strangers_has_its_calls_where_the_rate_is() -> None:
    at = list(times(0, 20, 300, 0, even=False, seed=1))
    assert sum(t < 150 for t in at) / len(at) == pytest.approx(0.25, abs=0.02)


def test_a_seed_plans_the_same_again() -> None:
    plan = [arrivals(1, 3, 20, 5, weights=[3, 1], seed=seed) for seed in (1, 1, 2)]
    assert plan[0] == plan[1] != plan[2]
    assert [arrival.number for arrival in plan[0]] == list(range(1, len(plan[0]) + 1))


def test_the_mix_has_its_weights() -> None:
    plan = arrivals(20, 20, 200, 0, weights=[3, 1], even=True)
    assert sum(arrival.part for arrival in plan) / len(plan) == pytest.approx(0.25, abs=0.02)
