"""Opus there and back, by the level and the frequency of tones; loss; what libopus holds is released."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from offhook.codecs import opus
from offhook.codecs.opus import FRAMES_MS, RATES, OpusDecoder, OpusEncoder, OpusError
from offhook.codecs.pcm import dbfs, silence, tone

try:
    opus.warm()
except RuntimeError as missing:
    pytest.skip(str(missing), allow_module_level=True)


def frames(pcm: bytes, rate: int, ms: int = 20) -> list[bytes]:
    size = 2 * rate * ms // 1000
    return [pcm[i : i + size] for i in range(0, len(pcm), size)]


def encoded(pcm: bytes, rate: int, ms: int = 20) -> list[bytes]:
    encoder = OpusEncoder(rate)
    return [encoder.encode(frame) for frame in frames(pcm, rate, ms)]


def peak(pcm: bytes, rate: int) -> int:
    """Hz of the strongest of whole Hz."""
    samples = np.frombuffer(pcm, "<i2")
    return int(np.argmax(np.abs(np.fft.rfft(samples * np.hanning(len(samples)), rate))))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("frequency", [200, 440, 1000, 3000])
def test_tones_keep_frequency_and_level(rate: int, frequency: int) -> None:
    decoder = OpusDecoder(rate)
    heard = b"".join(decoder.decode(packet) for packet in encoded(tone(frequency, 1.0, rate), rate))
    assert len(heard) == 2 * rate
    tail = heard[rate // 2 :]
    assert abs(peak(tail, rate) - frequency) <= 2
    assert dbfs(tail) == pytest.approx(-15, abs=1.5)


@pytest.mark.parametrize(("sent", "heard"), [(48_000, 8000), (8000, 48_000), (24_000, 16_000)])
def test_the_two_sides_may_have_different_rates(sent: int, heard: int) -> None:
    decoder = OpusDecoder(heard)
    out = b"".join(decoder.decode(packet) for packet in encoded(tone(600, 0.6, sent), sent))
    assert abs(peak(out, heard) - 600) <= 2


@pytest.mark.parametrize("ms", FRAMES_MS)
def test_packets_of_every_length(ms: int) -> None:
    decoder = OpusDecoder(16_000)
    for packet in encoded(tone(300, 0.24, 16_000), 16_000, ms):
        assert 0 < len(packet) <= opus.MAX_PACKET
        assert len(decoder.decode(packet)) == 32 * ms


def test_the_bit_rate_is_kept() -> None:
    noise = np.rint(np.random.default_rng(1).normal(scale=3000, size=32_000)).astype("<i2").tobytes()
    size = sum(map(len, encoded(noise, 16_000)))
    assert 8 * size / 2 == pytest.approx(opus.BIT_RATE, rel=0.25)


def test_silence_is_silent() -> None:
    decoder = OpusDecoder()
    assert dbfs(b"".join(decoder.decode(packet) for packet in encoded(silence(0.5, 16_000), 16_000))) < -75


def test_a_lost_packet_is_concealed() -> None:
    packets = encoded(tone(400, 1.0, 16_000), 16_000)
    decoder = OpusDecoder()
    for packet in packets[:30]:
        decoder.decode(packet)
    concealed = decoder.lost(20)
    assert len(concealed) == 640
    assert -24 < dbfs(concealed) < -12  # libopus is careful with what it makes up
    decoder.decode(packets[31])
    assert dbfs(decoder.decode(packets[32])) == pytest.approx(-15, abs=1)


@pytest.mark.parametrize(("ms", "given"), [(0, 2.5), (2.5, 2.5), (20, 20), (60, 60), (500, 120)])
def test_as_much_is_concealed_as_opus_allows(ms: float, given: float) -> None:
    assert len(OpusDecoder().lost(ms)) == 32 * given


def test_a_lost_packet_is_rebuilt_from_the_next_one() -> None:
    # Silence that becomes a tone with packet 25: no past tells of it, only the redundancy in packet 26 does.
    wave = np.frombuffer(silence(0.5, 16_000) + tone(400, 0.5, 16_000, -10), "<i2")
    hum = np.random.default_rng(2).normal(scale=150, size=len(wave))
    packets = encoded((wave + hum).clip(-32768, 32767).astype("<i2").tobytes(), 16_000)
    whole, rebuilt, concealed = OpusDecoder(), OpusDecoder(), OpusDecoder()
    for packet in packets[:25]:
        for decoder in (whole, rebuilt, concealed):
            decoder.decode(packet)
    level = dbfs(whole.decode(packets[25]))
    assert dbfs(rebuilt.recover(packets[26], 20)) == pytest.approx(level, abs=1)
    assert dbfs(concealed.lost(20)) < level - 20
    assert dbfs(rebuilt.decode(packets[26])) == pytest.approx(dbfs(whole.decode(packets[26])), abs=1)


@pytest.mark.parametrize("packet", [b"", b"\x03", b"\xff\xff\xff", b"\x7b\xc1"])
def test_what_is_no_packet_is_refused_and_the_next_is_decoded(packet: bytes) -> None:
    decoder = OpusDecoder()
    with pytest.raises(OpusError):
        decoder.decode(packet)
    assert len(decoder.decode(encoded(tone(400, 0.02, 16_000), 16_000)[0])) == 640


def test_random_bytes_decode_or_are_refused() -> None:
    rng = np.random.default_rng(3)
    decoder = OpusDecoder()
    for _ in range(300):
        packet = rng.bytes(int(rng.integers(1, 300)))
        for read in (decoder.decode, lambda packet: decoder.recover(packet, 20)):
            try:
                assert len(read(packet)) % 80 == 0
            except OpusError:
                continue


@pytest.mark.parametrize("size", [0, 2, 160, 639, 642, 1280 * 4])
def test_other_frames_are_refused(size: int) -> None:
    with pytest.raises(OpusError, match="is not 10, 20, 40, 60 ms at 16000 Hz"):
        OpusEncoder(16_000).encode(bytes(size))


def test_settings_that_cannot_work_are_refused() -> None:
    for make in (OpusDecoder, OpusEncoder):
        with pytest.raises(ValueError, match="rate 44100 is not one of"):
            make(44_100)
    with pytest.raises(ValueError, match="bit_rate 500 is not between"):
        OpusEncoder(bit_rate=500)


def test_after_close_nothing_is_coded() -> None:
    decoder, encoder = OpusDecoder(), OpusEncoder()
    for codec in (decoder, encoder):
        codec.close()
        codec.close()
    with pytest.raises(RuntimeError, match="closed"):
        decoder.lost(20)
    with pytest.raises(RuntimeError, match="closed"):
        encoder.encode(bytes(640))


def test_what_is_dropped_is_released() -> None:
    decoder, encoder = OpusDecoder(), OpusEncoder()
    finalizers = (decoder._free, encoder._free)
    del decoder, encoder
    gc.collect()
    assert not any(finalizer.alive for finalizer in finalizers)


def test_without_the_library_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opus, "LIBRARIES", ("libopus-that-is-not-there.so.0",))
    opus._library.cache_clear()
    try:
        with pytest.raises(RuntimeError, match="apt-get install libopus0"):
            OpusDecoder()
    finally:
        opus._library.cache_clear()
