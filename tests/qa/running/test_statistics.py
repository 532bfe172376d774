from __future__ import annotations

import numpy as np
import pytest

from offhook.qa.running.statistics import difference, gathered, p95_interval, pass_power, statistics


def test_percentiles_of_known_samples() -> None:
    found = statistics([float(value) for value in range(101)])
    assert (found["n"], found["p50"], found["p90"], found["p95"], found["max"]) == (101, 50, 90, 95, 100)
    assert found["p95_low"] is not None
    assert found["p95_high"] is not None
    assert found["p95_low"] <= 95 <= found["p95_high"]


def test_nothing_is_said_of_no_samples_and_no_interval_of_two() -> None:
    assert statistics([])["p50"] is None
    two = statistics([1.0, 2.0])
    assert two["p50"] == 1.5
    assert two["p95_low"] is None


def test_the_interval_holds_the_true_p95_nineteen_times_of_twenty() -> None:
    rng = np.random.default_rng(7)
    true = float(np.exp(1.6449 * 0.3))
    held = sum(low <= true <= high for low, high in (p95_interval(rng.lognormal(0, 0.3, 200)) for _ in range(100)))
    assert held >= 88


def test_the_same_samples_have_the_same_interval() -> None:
    samples = list(np.random.default_rng(3).normal(700, 50, 40))
    assert p95_interval(samples) == p95_interval(samples)


@pytest.mark.parametrize(("passed", "of", "k", "power"), [(10, 10, 5, 1.0), (9, 10, 1, 0.9), (9, 10, 5, 0.5)])
def test_the_chance_that_k_of_k_pass(passed: int, of: int, k: int, power: float) -> None:
    assert pass_power(passed, of, k) == pytest.approx(power)


def test_k_calls_of_fewer_have_no_chance_at_all() -> None:
    assert pass_power(3, 3, 5) is None


def test_metrics_of_calls_are_put_together_sample_by_sample() -> None:
    found = gathered([{"v2v_ms": [1, 2], "holes": 0, "name": "x"}, {"v2v_ms": [3], "holes": 2, "ok": True}])
    assert found["v2v_ms"]["n"] == 3
    assert found["holes"]["max"] == 2
    assert set(found) == {"v2v_ms", "holes"}


def test_a_difference_within_noise_is_none() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(700, 60, 30), rng.normal(700, 60, 30)
    found = difference("v2v_ms", one, other, slack=20)
    assert found is not None
    assert not (found.worse)
    assert not (found.better)


def test_a_difference_beyond_noise_is_seen_in_its_direction() -> None:
    rng = np.random.default_rng(2)
    fast, slow = rng.normal(700, 30, 30), rng.normal(1100, 30, 30)
    later = difference("v2v_ms", fast, slow, slack=20)
    sooner = difference("v2v_ms", slow, fast, slack=20)
    assert later is not None
    assert sooner is not None
    assert (later.worse, later.better) == (True, False)
    assert (sooner.worse, sooner.better) == (False, True)


def test_a_score_is_worse_when_it_falls() -> None:
    good, bad = [4.3, 4.2, 4.3, 4.4, 4.3, 4.2], [3.1, 3.0, 3.2, 3.1, 3.0, 3.1]
    found = difference("mos_e", good, bad, slack=0.1, higher_is_worse=False)
    assert found is not None
    assert found.worse
    assert found.after < found.before


def test_a_sure_but_small_difference_is_none() -> None:
    found = difference("v2v_ms", [700.0, 701.0, 700.5, 700.2, 700.1], [705.0, 705.5, 705.2, 705.1, 705.4], slack=20)
    assert found is not None
    assert not found.worse


def test_too_few_samples_are_not_compared() -> None:
    assert difference("v2v_ms", [1.0] * 4, [9.0] * 9, slack=1) is None
