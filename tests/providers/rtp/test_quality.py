"""The E-model, against figures of G.107 and G.113."""

from __future__ import annotations

import pytest

from offhook.providers.rtp.quality import mos, r_factor


def test_a_clean_line_scores_as_the_recommendation_says() -> None:
    assert r_factor("PCMU", 0.0, 0.0) == pytest.approx(93.2)
    assert mos("PCMU", 0.0, 0.0) == pytest.approx(4.41, abs=0.01)


def test_delay_costs_little_until_it_hurts() -> None:
    assert r_factor("PCMU", 0.0, 150.0) == pytest.approx(89.6)
    assert r_factor("PCMU", 0.0, 400.0) < 62


def test_loss_costs_by_robustness() -> None:
    # 5 % of 95 over (5 + 25.1)
    assert r_factor("PCMA", 0.05, 0.0) == pytest.approx(93.2 - 95 * 5 / 30.1)
    assert mos("PCMU", 0.02, 50.0) > mos("opus", 0.05, 50.0) > mos("G722", 0.2, 50.0)


def test_the_scale_ends_at_one_and_four_and_a_half() -> None:
    assert mos("PCMU", 1.0, 1000.0) == 1.0
    assert mos("PCMU", 0.0, -1000.0) == 4.5
    assert mos("PCMU", 0.5, 0.0) >= 1.0
