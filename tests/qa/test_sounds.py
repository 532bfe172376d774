"""The sounds of a telephone line."""

from __future__ import annotations

import numpy as np
import pytest

from offhook.qa.activity import RATE
from offhook.qa.sounds import (
    NOISES,
    Noise,
    at_level,
    breath,
    carried,
    cough,
    drawn_out,
    keys,
    knock,
    noise,
    sneeze,
    telephone,
    throat,
)


def level(signal: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    return float(10 * np.log10(np.mean(signal**2) + 1e-12))


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.asarray(0.1 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE))


def test_the_band_of_the_telephone_passes_and_the_rest_does_not() -> None:
    assert level(telephone(tone(1000))) == pytest.approx(level(tone(1000)), abs=0.1)
    assert level(telephone(tone(100))) < level(tone(100)) - 30
    assert level(telephone(tone(3800))) < level(tone(3800)) - 8


def test_a_level_is_that_of_the_louder_half() -> None:
    half = np.concatenate([tone(500), np.zeros(RATE)])
    assert level(at_level(half, -20)[:RATE]) == pytest.approx(-20, abs=0.1)


@pytest.mark.parametrize("kind", NOISES)
def test_noise_has_the_level_asked_for_and_never_pauses(kind: Noise) -> None:
    wave = noise(kind, 4 * RATE, -30, np.random.default_rng(1), [tone(hertz, 0.7) for hertz in (300, 500, 900)])
    parts = wave.reshape(40, -1)
    assert level(wave) == pytest.approx(-30, abs=3)
    assert min(level(part) for part in parts) > -50


@pytest.mark.parametrize("make", [cough, throat, sneeze, breath, knock], ids=lambda make: make.__name__)
def test_a_sound_lasts_a_moment_and_is_the_same_for_the_same_seed(make: object) -> None:
    assert callable(make)
    first, again, other = (make(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert 0.2 < len(first) / RATE < 1.5
    assert (first == again).all()
    assert len(first) != len(other) or (first != other).any()


def test_keys_sound_in_turn() -> None:
    wave = keys("15")
    spectrum = np.abs(np.fft.rfft(wave[: RATE // 10]))
    loudest = sorted(np.fft.rfftfreq(RATE // 10, 1 / RATE)[np.argsort(spectrum)[-2:]])
    assert loudest == [pytest.approx(697, abs=6), pytest.approx(1209, abs=6)]
    assert len(wave) == 2 * RATE * 18 // 100


def test_drawing_out_makes_longer_and_keeps_the_pitch() -> None:
    long = drawn_out(tone(200), 0.5, 2.0)
    assert len(long) / RATE == pytest.approx(1.5, abs=0.05)
    crossings = np.count_nonzero(np.diff(np.signbit(long[RATE // 2 :])))
    assert crossings / 2 / (len(long) / RATE - 0.5) == pytest.approx(200, rel=0.02)


def test_what_is_too_short_is_not_drawn_out() -> None:
    assert len(drawn_out(tone(200, 0.04), 0.3, 2.0)) == 320


def test_the_line_carries_mu_law() -> None:
    sent = tone(1000)
    arrived = carried(sent) / 32768
    assert 0 < np.abs(arrived - sent).max() < 0.01
