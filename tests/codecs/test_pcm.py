from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from offhook.codecs.pcm import (
    SILENCE_DBFS,
    WholeSamples,
    dbfs,
    gain,
    lay_under,
    mix,
    rms,
    scale,
    silence,
    tone,
    whole_rms,
)


def pcm_of(*samples: int) -> bytes:
    return struct.pack(f"<{len(samples)}h", *samples)


@given(st.lists(st.binary(max_size=7)))
def test_whole_samples_lose_nothing_and_never_split_one(pieces: list[bytes]) -> None:
    joiner = WholeSamples()
    given_back = [joiner.push(piece) for piece in pieces]
    everything = b"".join(pieces)
    assert all(len(piece) % 2 == 0 for piece in given_back)
    assert b"".join(given_back) == everything[: len(everything) // 2 * 2]


def test_whole_samples_are_passed_on_uncopied() -> None:
    frame = bytes(320)
    assert WholeSamples().push(frame) is frame


def test_rms_and_dbfs_of_known_signals() -> None:
    assert rms(b"") == 0
    assert rms(pcm_of(-32768, -32768)) == 32768
    assert rms(pcm_of(300, -400)) == pytest.approx(math.sqrt(125_000))
    assert whole_rms(pcm_of(300, -400)) == 353 == int(math.sqrt(125_000))
    assert (whole_rms(b""), whole_rms(pcm_of(-32768, -32768))) == (0, 32768)
    assert dbfs(b"") == dbfs(bytes(320)) == SILENCE_DBFS
    assert dbfs(pcm_of(-32768, -32768)) == 0
    assert dbfs(pcm_of(1, -1)) == pytest.approx(-90.31, abs=0.01)
    assert dbfs(pcm_of(1, -1)) > SILENCE_DBFS


def test_gain_scales_rounds_and_saturates() -> None:
    assert gain(pcm_of(1000, -1000, 0), 20) == pcm_of(10000, -10000, 0)
    assert gain(pcm_of(1000, -1000), -20) == pcm_of(100, -100)
    assert gain(pcm_of(30000, -30000), 6) == pcm_of(32767, -32768)
    assert gain(pcm_of(7, -7), 0) == pcm_of(7, -7)
    assert gain(b"", 6) == b""


def test_mix_adds_saturates_and_fills_the_shorter_one_with_silence() -> None:
    assert mix(pcm_of(1, 30000, -30000), pcm_of(2, 30000, -30000)) == pcm_of(3, 32767, -32768)
    assert mix(pcm_of(1), pcm_of(2, 5)) == mix(pcm_of(2, 5), pcm_of(1)) == pcm_of(3, 5)
    assert mix(b"", b"") == b""


def test_silence_has_its_length() -> None:
    assert silence(0.02, 8000) == bytes(320)


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 48000])
def test_a_tone_has_its_level_frequency_and_phase(rate: int) -> None:
    pcm = tone(1000, 0.5, rate)
    samples = np.frombuffer(pcm, "<i2")
    assert len(samples) == rate // 2
    assert samples[0] == 0
    assert samples[1] > 0
    assert dbfs(pcm) == pytest.approx(-15, abs=0.01)
    assert np.argmax(np.abs(np.fft.rfft(samples))) == 500


def test_the_loudest_tone_does_not_clip() -> None:
    samples = np.frombuffer(tone(1000, 0.1, 8000, 0), "<i2")
    assert samples.max() == 32767
    assert dbfs(samples.tobytes()) == pytest.approx(-3.01, abs=0.01)


def test_scale_multiplies_and_saturates() -> None:
    assert scale(pcm_of(100, -100, 30_000, -30_000), 1.5) == pcm_of(150, -150, 32_767, -32_768)
    assert scale(pcm_of(1000), 0.25) == pcm_of(250)


def test_a_bed_is_added_where_there_is_room() -> None:
    assert lay_under(pcm_of(1000, -1000, 0), pcm_of(50, 50, 50)) == pcm_of(1050, -950, 50)
    assert lay_under(b"", b"") == b""


samples = st.integers(-32_768, 32_767)


@given(st.lists(st.tuples(samples, samples), min_size=1, max_size=50))
@example([(-32_768, 0)])
def test_a_bed_never_clips_a_voice_and_never_changes_sides(pairs: list[tuple[int, int]]) -> None:
    voice, bed = [one for one, _ in pairs], [other for _, other in pairs]
    mixed = struct.unpack(f"<{len(pairs)}h", lay_under(pcm_of(*voice), pcm_of(*bed)))
    room = max(0, 32_767 - max(map(abs, voice)))
    for said, under, heard in zip(voice, bed, mixed, strict=True):
        assert abs(heard - said) <= min(room, abs(under)) + 1  # audioop rounds down
