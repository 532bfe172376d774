"""Asterisk's rates and ours."""

from __future__ import annotations

import pytest

from offhook.codecs.pcm import rms, tone
from offhook.providers.asterisk.rates import SLIN, carried, rate_converter


def test_equal_rates_cost_nothing() -> None:
    data = b"\1\0" * 160
    assert rate_converter(8000, 8000)(data) is data


@pytest.mark.parametrize("rate", sorted(set(SLIN.values())))
def test_there_and_back(rate: int) -> None:
    ours = carried(rate).rate
    there, back = rate_converter(ours, rate), rate_converter(rate, ours)
    wave = tone(440.0, 1.0, ours)
    frame = ours // 50 * 2
    pieces = [back(there(wave[at : at + frame])) for at in range(0, len(wave), frame)]
    result = b"".join(pieces)
    assert len(result) / len(wave) == pytest.approx(1.0, abs=0.06)
    assert rms(result[frame * 5 :]) == pytest.approx(rms(wave), rel=0.02)
    assert back(b"") == b""
