"""A mailbox's beep is heard, and nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest

from offhook.codecs.audio import L16_8K, PCMU
from offhook.codecs.convert import convert_all
from offhook.codecs.pcm import tone
from offhook.codecs.tones import BeepDetector

SILENCE = bytes(2 * 1600)


def heard(pcm: bytes, size: int = 320) -> bool:
    detector = BeepDetector()
    telephone = convert_all(convert_all(pcm, L16_8K, PCMU), PCMU, L16_8K)
    return any(detector.push(telephone[i : i + size]) for i in range(0, len(telephone), size))


@pytest.mark.parametrize("frequency", [400, 440, 800, 1000, 1400, 2000, 2475])
@pytest.mark.parametrize("seconds", [0.2, 0.5, 1.0])
def test_beeps(frequency: int, seconds: float) -> None:
    assert heard(SILENCE + tone(frequency, seconds, 8000) + SILENCE)


@pytest.mark.parametrize("size", [2, 300, 321 * 2, 5000])
def test_however_the_audio_is_cut(size: int) -> None:
    assert heard(SILENCE + tone(1000, 0.4, 8000) + SILENCE, size)


def test_a_beep_that_goes_on_is_not_over() -> None:
    assert not heard(SILENCE + tone(1000, 1.0, 8000))


def test_no_beep() -> None:
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 3000, 16000).astype("<i2").tobytes()
    time = np.arange(16000) / 8000
    vowel = sum(np.sin(2 * np.pi * 130 * k * time) / k for k in range(1, 20)) * 4000
    keys = b"".join(
        (np.frombuffer(tone(a, 0.1, 8000), "<i2") // 2 + np.frombuffer(tone(b, 0.1, 8000), "<i2") // 2).tobytes()
        + SILENCE
        for a, b in ((697, 1209), (770, 1336), (941, 1477))
    )
    for sound in (SILENCE, noise, vowel.astype("<i2").tobytes(), keys, tone(1000, 0.06, 8000)):
        assert not heard(sound + SILENCE)
