"""Comfort noise has the level that was asked for, and sounds like noise."""

from __future__ import annotations

import numpy as np
import pytest

from offhook.codecs.audio import L16_8K, L16_16K, PCMA, PCMU, AudioFormat
from offhook.codecs.comfort import TABLE, ComfortNoise
from offhook.codecs.convert import convert_all
from offhook.codecs.pcm import dbfs


def second(audio_format: AudioFormat, level: float) -> bytes:
    """A second, as int16."""
    noise = ComfortNoise(audio_format)
    audio = b"".join(noise.frame(level, audio_format.frame_bytes) for _ in range(50))
    return convert_all(audio, audio_format, AudioFormat("l16", audio_format.rate))


@pytest.mark.parametrize("audio_format", [PCMU, PCMA, L16_8K, L16_16K], ids=str)
@pytest.mark.parametrize("level", [-25, -40, -60])
def test_the_level_is_what_was_asked_for(audio_format: AudioFormat, level: float) -> None:
    assert dbfs(second(audio_format, level)) == pytest.approx(level, abs=1.0)


def test_nothing_is_louder_than_comfort_and_127_is_silence() -> None:
    assert dbfs(second(L16_8K, 0)) == pytest.approx(-20, abs=0.5)
    assert dbfs(second(L16_8K, -127)) <= -90


def test_it_has_no_colour_and_no_mean() -> None:
    samples = np.frombuffer(second(L16_8K, -30), "<i2").astype(np.float64)
    assert abs(samples.mean()) < 30
    bands = (np.abs(np.fft.rfft(samples))[:4000].reshape(8, 500) ** 2).mean(axis=1)
    assert bands.max() / bands.min() < 1.6


def test_it_may_begin_anywhere() -> None:
    whole = ComfortNoise(L16_8K).frame(-40, 4000)
    assert ComfortNoise(L16_8K, 1000).frame(-40, 2000) == whole[2000:]
    assert ComfortNoise(L16_8K, TABLE + 1000).frame(-40, 2000) == whole[2000:]


@pytest.mark.parametrize("size", [0, 2, 160, 480, 2 * TABLE + 3 * 320])
def test_any_length_is_given(size: int) -> None:
    noise = ComfortNoise(L16_8K)
    assert len(noise.frame(-50, size)) == size
    assert len(noise.frame(-50, size)) == size


def test_it_goes_on_where_it_stopped() -> None:
    one, other = ComfortNoise(PCMU), ComfortNoise(PCMU)
    parts = b"".join(one.frame(-40, 160) for _ in range(TABLE // 160 + 10))
    assert parts == other.frame(-40, len(parts))
