"""Beds: the loop, what is laid over it, and who keeps its bytes."""

from __future__ import annotations

import numpy as np
import pytest

from offhook.agents.link import Bed as BedMessage
from offhook.codecs.audio import L16_8K, L16_16K, PCMA, PCMU, AudioFormat
from offhook.codecs.convert import convert_all
from offhook.codecs.pcm import dbfs, tone
from offhook.gateway.bed import MAX_SOUNDS, Bed, CallBeds, Sounds


def loop_of(samples: int, format: AudioFormat) -> bytes:
    pcm = (np.arange(samples) * 10 % 3000).astype("<i2").tobytes()
    return convert_all(pcm, AudioFormat("l16", format.rate), format)


@pytest.mark.parametrize("format", [PCMU, PCMA, L16_8K, L16_16K], ids=str)
@pytest.mark.parametrize("samples", [1, 7, 160, 333, 5000])
def test_a_loop_goes_round_without_a_gap(format: AudioFormat, samples: int) -> None:
    loop = loop_of(samples, format)
    bed = Bed(loop, format)
    got = b"".join(bed.alone(format.frame_bytes) for _ in range(60))
    assert got == (loop * (len(got) // len(loop) + 1))[: len(got)]


@pytest.mark.parametrize("format", [PCMU, PCMA, L16_8K], ids=str)
def test_under_silence_is_the_bed_itself(format: AudioFormat) -> None:
    loop = loop_of(1000, format)
    over, alone = Bed(loop, format), Bed(loop, format)
    quiet = convert_all(bytes(320), L16_8K, format)
    for _ in range(20):
        mixed = np.frombuffer(convert_all(over.under(quiet), format, L16_8K), "<i2").astype(int)
        plain = np.frombuffer(convert_all(alone.alone(len(quiet)), format, L16_8K), "<i2").astype(int)
        assert np.abs(mixed - plain).max() <= 128  # A-law has no zero: one step at 3000


def test_the_gain_is_a_factor() -> None:
    loop = tone(500, 0.2, 8000, -20)
    assert dbfs(Bed(loop, L16_8K, 0.5).alone(3200)) == pytest.approx(-26, abs=0.1)
    assert dbfs(Bed(loop, L16_8K, 2.0).under(bytes(3200))) == pytest.approx(-14, abs=0.1)
    assert not any(Bed(loop, L16_8K, -1.0).alone(3200))
    assert Bed(loop, L16_8K, float("nan")).alone(3200) == loop
    loudest = Bed(loop, L16_8K, 1e9).alone(3200)
    assert dbfs(loudest) == pytest.approx(-8, abs=0.1)


def test_a_loud_voice_is_never_clipped_and_keeps_its_level() -> None:
    voice = tone(400, 0.02, 8000, -3.02)
    mixed = np.frombuffer(Bed(tone(300, 0.5, 8000, -10), L16_8K).under(voice), "<i2").astype(int)
    plain = np.frombuffer(voice, "<i2").astype(int)
    assert np.abs(mixed).max() <= 32767
    assert np.abs(mixed - plain).max() <= 32767 - np.abs(plain).max() + 1


def test_full_scale_leaves_no_room() -> None:
    voice = np.array([-32768, 32767] * 80, "<i2").tobytes()
    assert Bed(tone(300, 0.5, 8000), L16_8K).under(voice) == voice


def test_what_was_taken_back_comes_again() -> None:
    bed = Bed(loop_of(1000, PCMU), PCMU)
    first = bed.alone(480)
    bed.back(320)
    assert bed.alone(320) == first[160:]
    bed.back(10_000)
    assert len(bed.alone(160)) == 160


def test_the_odd_byte_of_a_cut_sample_passes() -> None:
    bed = Bed(loop_of(100, L16_8K) + b"x", L16_8K)
    assert bed.under(bytes(160) + b"\x07")[-1:] == b"\x07"
    assert bed.under(b"\x07") == b"\x07"


def test_a_bed_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="one sample"):
        Bed(b"x", L16_8K)


def test_equal_sounds_of_many_calls_are_kept_once() -> None:
    sounds = Sounds()
    loops = [bytes([1]) * 1000 for _ in range(3)]
    assert len({id(sounds.once(loop)) for loop in loops}) == 1
    assert sounds.bytes == 1000


def test_the_cache_is_bounded_and_forgets_what_was_used_longest_ago() -> None:
    sounds = Sounds(2500)
    first, second, third = (bytes([n]) * 1000 for n in range(3))
    for loop in (first, second, first, third):
        sounds.once(loop)
    assert sounds.bytes == 2000
    assert sounds.once(bytes([0]) * 1000) is first
    assert sounds.once(bytes([1]) * 1000) is not second
    sounds.once(bytes(5000))
    assert sounds.bytes == 0


def test_a_digest_means_what_this_call_has_sent_under_it() -> None:
    sounds = Sounds()
    one, other = CallBeds(sounds), CallBeds(sounds)
    one.receive(BedMessage("d", b"\x01" * 800), PCMU)
    other.receive(BedMessage("d", b"\x02" * 800), PCMU)
    one.receive(BedMessage("d"), PCMU)
    bed = one.bed(PCMU)
    assert bed is not None
    assert bed.alone(160) == b"\x01" * 160


def test_a_sound_that_never_came_is_silence() -> None:
    beds = CallBeds(Sounds())
    beds.receive(BedMessage("d", b"\x01" * 800), PCMU)
    assert not beds.receive(BedMessage("e"), PCMU)
    assert beds.bed(PCMU) is None
    beds.receive(BedMessage("d"), PCMU)
    assert beds.bed(PCMU) is not None
    beds.receive(BedMessage(), PCMU)
    assert beds.bed(PCMU) is None


def test_a_call_keeps_a_few_sounds_only() -> None:
    beds = CallBeds(Sounds())
    for n in range(MAX_SOUNDS + 1):
        beds.receive(BedMessage(str(n), bytes([n]) * 800), PCMU)
    assert not beds.receive(BedMessage("0"), PCMU)
    assert beds.receive(BedMessage("1"), PCMU)


def test_a_sound_in_another_format_than_the_carriers_is_not_played() -> None:
    beds = CallBeds(Sounds())
    beds.receive(BedMessage("d", b"\x01" * 800), PCMU)
    assert beds.bed(L16_16K) is None
    assert beds.bed(PCMU) is not None
