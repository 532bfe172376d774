"""G.722 there and back, by the level and the frequency of tones."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from offhook.codecs.g722 import G722Codec
from offhook.codecs.pcm import dbfs, silence, tone

pytest.importorskip("G722")


def there_and_back(pcm: bytes, size: int = 640) -> bytes:
    sender, receiver = G722Codec(), G722Codec()
    return b"".join(receiver.decode(sender.encode(pcm[i : i + size])) for i in range(0, len(pcm), size))


def peak(pcm: bytes) -> int:
    """Hz of the strongest of whole Hz."""
    samples = np.frombuffer(pcm, "<i2")
    return int(np.argmax(np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 16_000))))


@pytest.mark.parametrize("frequency", [100, 440, 1000, 3000, 5000, 6800])
def test_tones_keep_frequency_and_level(frequency: int) -> None:
    heard = there_and_back(tone(frequency, 1.0, 16_000))[6400:]
    assert abs(peak(heard) - frequency) <= 1
    assert dbfs(heard) == pytest.approx(-15, abs=1.0)


def test_a_tone_is_clean() -> None:
    heard = np.frombuffer(there_and_back(tone(1000, 1.0, 16_000)), "<i2")[1600:].astype(np.float64)
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard)))) ** 2
    at = int(np.argmax(spectrum))
    signal = spectrum[at - 3 : at + 4].sum()
    assert 10 * np.log10(signal / (spectrum.sum() - signal)) > 25


def test_silence_is_silent() -> None:
    assert dbfs(there_and_back(silence(0.5, 16_000))) < -75


def test_sizes_are_those_of_64_kbit_a_second() -> None:
    codec = G722Codec()
    assert len(codec.encode(bytes(640))) == 160
    assert len(codec.decode(bytes(160))) == 640
    assert codec.encode(b"") == codec.decode(b"") == b""


def test_frames_of_any_length_make_one_stream() -> None:
    pcm = tone(700, 0.3, 16_000)
    assert there_and_back(pcm, 640) == there_and_back(pcm, 320) == there_and_back(pcm, 9600)


def test_the_two_directions_share_nothing() -> None:
    pcm = tone(500, 0.1, 16_000)
    alone, both = G722Codec(), G722Codec()
    for i in range(0, len(pcm), 640):
        both.decode(bytes(range(160)))
        assert both.encode(pcm[i : i + 640]) == alone.encode(pcm[i : i + 640])


def test_any_payload_decodes() -> None:
    payload = np.random.default_rng(1).bytes(16_000)
    assert len(G722Codec().decode(payload)) == 64_000


@pytest.mark.parametrize("size", [1, 2, 638])
def test_half_a_pair_of_samples_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="ends within a pair"):
        G722Codec().encode(bytes(size))


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "G722", None)
    with pytest.raises(RuntimeError, match=r"pip install 'offhook\[sip\]'"):
        G722Codec()
