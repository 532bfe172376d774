from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from offhook.codecs.audio import RATES
from offhook.codecs.pcm import tone
from offhook.codecs.resample import Resampler

PAIRS = list(itertools.permutations(RATES, 2))
every_pair = pytest.mark.parametrize(("source", "target"), PAIRS)


def noise(seconds: float, rate: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(-32768, 32768, int(seconds * rate)).astype("<i2").tobytes()


def steady(pcm: bytes, rate: int) -> NDArray[np.float64]:
    """The part of the output that the beginning no longer influences, in whole tenths of a second."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float64)[rate // 50 :]
    return samples[: len(samples) // (rate // 10) * (rate // 10)]


def amplitude(samples: NDArray[np.float64], frequency: float, rate: int) -> float:
    """Amplitude of one frequency, which must have whole periods in the samples."""
    turns = np.exp(-2j * np.pi * frequency * np.arange(len(samples)) / rate)
    return float(2 * abs(samples @ turns) / len(samples))


def decibels(ratio: float) -> float:
    return 20 * math.log10(max(ratio, 1e-20))


# --- how the input is cut -----------------------------------------------------------


@every_pair
def test_twenty_milliseconds_in_are_twenty_out_from_the_first_frame(source: int, target: int) -> None:
    resampler = Resampler(source, target)
    pcm = noise(0.2, source)
    frame = source // 50 * 2
    for at in range(0, len(pcm), frame):
        assert len(resampler.process(pcm[at : at + frame])) == target // 50 * 2


@given(
    pair=st.sampled_from(PAIRS),
    sizes=st.lists(st.integers(0, 4001), min_size=1, max_size=12),
    seed=st.integers(0, 9),
)
def test_chunking_never_changes_the_output(pair: tuple[int, int], sizes: list[int], seed: int) -> None:
    pcm = noise(0.08, pair[0], seed)
    whole = Resampler(*pair).process(pcm)
    pieces = Resampler(*pair)
    out, at = b"", 0
    for size in itertools.cycle(sizes) if any(sizes) else [len(pcm)]:
        out += pieces.process(pcm[at : at + size])
        at += size
        if at >= len(pcm):
            break
    assert out == whole
    assert len(out) * pair[0] == len(pcm) * pair[1]


@every_pair
def test_one_byte_at_a_time_changes_nothing(source: int, target: int) -> None:
    pcm = noise(0.006, source)
    resampler = Resampler(source, target)
    assert b"".join(resampler.process(pcm[i : i + 1]) for i in range(len(pcm))) == Resampler(source, target).process(
        pcm
    )


def test_nothing_in_nothing_out() -> None:
    assert Resampler(8000, 16000).process(b"") == b""


def test_streams_do_not_share_what_they_remember() -> None:
    one, other = Resampler(8000, 16000), Resampler(8000, 16000)
    one.process(noise(0.02, 8000))
    assert other.process(bytes(320)) == bytes(640)


# --- what it does to sound ----------------------------------------------------------


@every_pair
@pytest.mark.parametrize("frequency", [100, 1000, 3000, 3400])
def test_telephone_tones_keep_their_level(source: int, target: int, frequency: int) -> None:
    out = steady(Resampler(source, target).process(tone(frequency, 0.25, source, -6)), target)
    given_level = amplitude(steady(tone(frequency, 0.25, source, -6), source), frequency, source)
    assert abs(decibels(amplitude(out, frequency, target) / given_level)) <= 0.01


@every_pair
@pytest.mark.parametrize("frequency", [1000, 3000])
def test_images_are_far_below_a_tone(source: int, target: int, frequency: int) -> None:
    out = steady(Resampler(source, target).process(tone(frequency, 1.1, source, -4)), target)
    spectrum = np.abs(np.fft.rfft(out * np.kaiser(len(out), 20)))
    at = round(frequency * len(out) / target)
    signal = spectrum[at]
    spectrum[at - 20 : at + 21] = 0
    # Everything that is not the tone: images, aliases, harmonics of saturation, steps between frames. The
    # rounding to 16 bits leaves a floor here, hence the figure; the filter itself is measured below.
    assert decibels(signal / spectrum.max()) >= 88


@pytest.mark.parametrize(("frequency", "floor"), [(1000, 115), (3000, 94), (3400, 92)])
def test_the_first_image_from_8_to_16_khz(frequency: int, floor: float) -> None:
    # Off the whole hertz, so that rounding does not repeat with the tone and its floor spreads over all bins.
    odd = frequency + 0.6180339
    samples = steady(Resampler(8000, 16000).process(tone(odd, 2.1, 8000, -4)), 16000)
    window = np.kaiser(len(samples), 20)
    image = amplitude(samples * window, 8000 - odd, 16000)
    assert decibels(amplitude(samples * window, odd, 16000) / image) >= floor


@pytest.mark.parametrize(("source", "target"), [pair for pair in PAIRS if pair[0] > pair[1]])
def test_what_the_lower_rate_cannot_hold_is_removed(source: int, target: int) -> None:
    loud = tone(target // 2 + target // 10, 0.25, source, -4)
    out = steady(Resampler(source, target).process(loud), target)
    assert decibels(np.abs(out).max() / 32768) <= -88


@every_pair
def test_delay_is_what_it_says_and_constant(source: int, target: int) -> None:
    resampler = Resampler(source, target)
    assert resampler.delay == 24 / min(source, target)
    pcm = np.zeros(source // 50, "<i2")
    pcm[0] = 30000
    out = np.frombuffer(resampler.process(pcm.tobytes()), "<i2").astype(np.float64)
    # A symmetrical response: its centre of gravity and its peak are the delay, at every frequency.
    centre = (out @ np.arange(len(out))) / out.sum() / target
    assert centre == pytest.approx(resampler.delay, abs=0.02 / target)
    assert resampler.delay <= 0.003


@every_pair
def test_a_steady_level_stays_steady(source: int, target: int) -> None:
    pcm = np.full(source // 10, 12345, "<i2").tobytes()
    assert set(steady(Resampler(source, target).process(pcm * 2), target)) == {12345.0}


@every_pair
def test_no_step_between_frames(source: int, target: int) -> None:
    resampler = Resampler(source, target)
    pcm = tone(440, 0.5, source, -6)
    frame = source // 50 * 2
    out = b"".join(resampler.process(pcm[at : at + frame]) for at in range(0, len(pcm), frame))
    samples = steady(out, target)
    # The second difference of a sine is bounded by its own curvature; a discontinuity would stand out.
    curve = np.abs(np.diff(samples, 2)).max()
    bound = 32768 * 2**0.5 * 10 ** (-6 / 20) * (2 * np.pi * 440 / target) ** 2
    assert curve <= bound + 2


def test_upsampling_by_two_passes_the_given_samples_through() -> None:
    pcm = noise(0.06, 8000)
    out = np.frombuffer(Resampler(8000, 16000).process(pcm), "<i2")
    # Every other tap of a half-band filter is 0 but the centre; rounding leaves them within 2^-30.
    assert out[48::2].tobytes() == pcm[:-48]


@every_pair
def test_it_is_the_filter_it_says_it_is_saturated(source: int, target: int) -> None:
    # The long way: zeros between the samples, one convolution with a windowed sinc, samples dropped.
    up, down = target // math.gcd(source, target), source // math.gcd(source, target)
    side = 24 * max(up, down)
    taps = np.sinc(np.arange(-side, side + 1) / max(up, down)) * np.kaiser(2 * side + 1, 9.0)
    pcm = noise(0.06, source)
    stuffed = np.zeros(len(pcm) // 2 * up)
    stuffed[::up] = np.frombuffer(pcm, "<i2")
    expected = np.convolve(stuffed, taps * up / taps.sum())[: len(stuffed) : down]
    out = np.frombuffer(Resampler(source, target).process(pcm), "<i2")
    assert np.abs(out - expected.clip(-32768, 32767)).max() <= 1.5
    if target > source:
        assert (np.abs(expected) > 33000).any()
        assert (out.min(), out.max()) == (-32768, 32767)


# --- what it refuses ----------------------------------------------------------------


def test_rates_it_does_not_carry_are_named() -> None:
    with pytest.raises(ValueError, match="source rate 44100 is not one of 8000, 16000"):
        Resampler(44100, 8000)
    with pytest.raises(ValueError, match="target rate 11025 is not one of"):
        Resampler(8000, 11025)
    with pytest.raises(ValueError, match="both 8000"):
        Resampler(8000, 8000)
