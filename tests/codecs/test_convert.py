from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.codecs.audio import L16_8K, L16_16K, L16_24K, PCMA, PCMU, AudioFormat
from offhook.codecs.convert import Converter, convert_all, resample_all
from offhook.codecs.g711 import alaw_to_pcm, pcm_to_alaw, pcm_to_ulaw, ulaw_to_pcm
from offhook.codecs.pcm import dbfs, tone
from offhook.codecs.resample import Resampler

FORMATS = [PCMU, PCMA, L16_8K, L16_16K, L16_24K, AudioFormat("l16", 48000)]
PAIRS = list(itertools.product(FORMATS, FORMATS))
every_pair = pytest.mark.parametrize(("src", "dst"), PAIRS, ids=lambda format: str(format))


def sample_of(src: AudioFormat, seconds: float, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(src.size(seconds))


@every_pair
def test_a_frame_in_is_a_frame_out_from_the_first_on(src: AudioFormat, dst: AudioFormat) -> None:
    converter = Converter(src, dst)
    for seed in range(5):
        assert len(converter.convert(sample_of(src, 0.02, seed))) == dst.frame_bytes


@every_pair
def test_silence_stays_silence(src: AudioFormat, dst: AudioFormat) -> None:
    converter = Converter(src, dst)
    out = b"".join(converter.convert(src.silence) for _ in range(4))
    # A-law has no zero: its silence is the quietest value there is, 8.
    assert dbfs(to_pcm(out, dst)) < -72
    if "pcma" not in (src.encoding, dst.encoding):
        assert out == dst.silence * 4


@given(
    pair=st.sampled_from(PAIRS),
    sizes=st.lists(st.integers(1, 2500), min_size=1, max_size=8),
    seed=st.integers(0, 9),
)
def test_chunking_never_changes_the_output(pair: tuple[AudioFormat, AudioFormat], sizes: list[int], seed: int) -> None:
    data = sample_of(pair[0], 0.08, seed)
    pieces, out, at = Converter(*pair), b"", 0
    for size in itertools.cycle(sizes):
        out += pieces.convert(data[at : at + size])
        at += size
        if at >= len(data):
            break
    assert out == Converter(*pair).convert(data)
    assert len(out) == pair[1].size(0.08)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_equal_formats_pass_the_very_object_on(format: AudioFormat) -> None:
    data = sample_of(format, 0.0201)
    assert Converter(format, format).convert(data) is data
    assert convert_all(data, format, format) is data
    assert Converter(format, format).delay == 0


def test_an_odd_byte_waits_for_its_other_half() -> None:
    pcm = tone(1000, 0.02, 8000)
    converter = Converter(L16_8K, PCMU)
    assert converter.convert(pcm[:101]) + converter.convert(pcm[101:]) == pcm_to_ulaw(pcm)


def test_each_stage_is_the_codec_it_names() -> None:
    ulaw = sample_of(PCMU, 0.02)
    pcm = ulaw_to_pcm(ulaw)
    assert Converter(PCMU, L16_8K).convert(ulaw) == pcm
    assert Converter(PCMU, PCMA).convert(ulaw) == pcm_to_alaw(pcm)
    assert Converter(PCMA, PCMU).convert(ulaw) == pcm_to_ulaw(alaw_to_pcm(ulaw))
    assert Converter(PCMU, L16_16K).convert(ulaw) == Resampler(8000, 16000).process(pcm)
    assert Converter(L16_16K, PCMA).convert(pcm) == pcm_to_alaw(Resampler(16000, 8000).process(pcm))


def test_delay_is_the_resamplers() -> None:
    assert Converter(PCMU, L16_16K).delay == 0.003
    assert Converter(L16_24K, PCMU).delay == 0.003
    assert Converter(L16_16K, L16_24K).delay == 0.0015
    assert Converter(PCMU, L16_8K).delay == 0


def to_pcm(data: bytes, format: AudioFormat) -> bytes:
    return {"pcmu": ulaw_to_pcm, "pcma": alaw_to_pcm}.get(format.encoding, bytes)(data)


@every_pair
def test_whole_files_keep_length_level_and_place(src: AudioFormat, dst: AudioFormat) -> None:
    pcm = tone(1000, 0.25, src.rate)
    data = {"pcmu": pcm_to_ulaw, "pcma": pcm_to_alaw}.get(src.encoding, bytes)(pcm)
    out = convert_all(data, src, dst)
    assert len(out) == dst.size(0.25)
    heard = np.frombuffer(to_pcm(out, dst), "<i2").astype(np.float64)
    wanted = np.frombuffer(tone(1000, 0.25, dst.rate), "<i2").astype(np.float64)
    middle = slice(len(heard) // 10, -len(heard) // 10)
    error = np.sqrt(np.mean((heard - wanted)[middle] ** 2) / np.mean(wanted[middle] ** 2))
    # No delay, or the error would be near 1; what is left is G.711's own noise, 34 dB and more below.
    assert error < (0.035 if {src.encoding, dst.encoding} & {"pcmu", "pcma"} else 0.001)


@pytest.mark.parametrize(("source", "target"), [(22050, 8000), (44100, 16000), (11025, 24000)])
def test_any_rate_of_a_whole_file(source: int, target: int) -> None:
    out = resample_all(tone(1000, 1, source), source, target)
    assert len(out) == 2 * target
    assert np.argmax(np.abs(np.fft.rfft(np.frombuffer(out, "<i2")))) == 1000


@pytest.mark.parametrize("samples", [0, 1, 2, 3, 7])
def test_the_shortest_files(samples: int) -> None:
    assert len(convert_all(bytes(2 * samples), L16_8K, L16_24K)) == 2 * 3 * samples
    assert len(convert_all(bytes(6 * samples), L16_24K, L16_8K)) == 2 * samples


def test_whole_files_saturate() -> None:
    square = np.where(np.arange(1600) // 4 % 2, 32767, -32768).astype("<i2").tobytes()
    out = np.frombuffer(convert_all(square, L16_8K, L16_16K), "<i2")
    assert (out.min(), out.max()) == (-32768, 32767)


def test_a_file_that_ends_within_a_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="pcm of 321 bytes ends within a 16-bit sample"):
        convert_all(bytes(321), L16_8K, L16_16K)
    with pytest.raises(ValueError, match="pcm of 321 bytes ends within a 16-bit sample"):
        convert_all(bytes(321), L16_8K, PCMU)
