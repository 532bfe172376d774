"""Payloads and audio: every codec both ways, durations, lengths of packets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.codecs.audio import L16_16K as LINEAR
from offhook.codecs.audio import PCMU as ULAW
from offhook.codecs.pcm import rms, tone
from offhook.providers.rtp.coding import BadPayload, Decoder, Encoder, format_of, opus_ticks, packet_ms, swap
from offhook.providers.rtp.media import G722, L16_8K, L16_16K, OPUS, PCMA, PCMU, Codec

ALL = [PCMU, PCMA, G722, L16_8K, L16_16K, OPUS]


def loudest(audio: bytes, rate: int) -> float:
    """Frequency in Hz of the loudest bin."""
    samples = np.frombuffer(audio, "<i2").astype(float)
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * rate / len(samples))


@pytest.mark.parametrize("codec", ALL, ids=str)
def test_a_tone_comes_back_from_every_codec(codec: Codec) -> None:
    encoder, decoder = Encoder(codec, LINEAR), Decoder(codec, LINEAR)
    audio = encoder.convert(tone(1000, 1.0, 16000))
    need = encoder.own.frame_bytes
    heard = b""
    for i in range(0, len(audio) - need + 1, need):
        piece = audio[i : i + need]
        payload = piece if encoder.encode is None else encoder.encode(piece)
        assert decoder.ticks(payload) == codec.clock // 50
        heard += decoder.decode(payload)
    assert len(heard) == pytest.approx(32000, abs=2000)
    assert loudest(heard[6400:22400], 16000) == pytest.approx(1000, abs=5)


@pytest.mark.parametrize("codec", ALL, ids=str)
def test_the_own_format_needs_no_conversion(codec: Codec) -> None:
    encoder = Encoder(codec, format_of(codec))
    assert encoder.plain
    assert Decoder(codec, format_of(codec)).plain == (codec.name in ("PCMU", "PCMA"))


def test_only_opus_conceals_by_itself_and_takes_the_copy_that_follows() -> None:
    assert Decoder(PCMU, ULAW).conceal(160, None) is None
    encoder, decoder = Encoder(OPUS, LINEAR), Decoder(OPUS, LINEAR)
    assert encoder.encode is not None
    audio = tone(440, 1.0, 16000)
    payloads = [encoder.encode(audio[i : i + 640]) for i in range(0, 32000, 640)]
    for payload in payloads[:20]:
        decoder.decode(payload)
    recovered = decoder.conceal(960, payloads[21])
    assert recovered is not None
    assert len(recovered) == 640
    assert rms(recovered) > 300
    for following in (None, b"", b"\xff\xff\xff"):
        assert len(decoder.conceal(960, following) or b"") == 640


@pytest.mark.parametrize(
    ("codec", "wanted", "given"),
    [
        *((PCMU, ms, ms) for ms in (10, 20, 30, 60)),
        *((PCMU, 5, 10), (PCMU, 25, 20), (PCMA, 200, 60), (PCMU, 0, 10)),
        *((OPUS, 30, 20), (OPUS, 50, 40), (OPUS, 60, 60)),
        *((L16_16K, 60, 40), (L16_8K, 60, 60), (Codec("L16", 48000), 20, 10)),
    ],
)
def test_packets_are_as_long_as_peer_codec_and_path_allow(codec: Codec, wanted: int, given: int) -> None:
    assert packet_ms(codec, wanted) == given


@pytest.mark.parametrize(
    ("head", "ms"),
    [("08", 20), ("00", 10), ("18", 60), ("78", 20), ("80", 2.5), ("79", 40), ("7b03", 60), ("7b06", 120)],
)
def test_the_duration_of_an_opus_packet_is_in_its_first_bytes(head: str, ms: float) -> None:
    assert opus_ticks(bytes.fromhex(head)) == ms * 48


@pytest.mark.parametrize("head", ["", "7b", "7b00", "7b3f", "1b03"])
def test_opus_packets_that_cannot_be_are_refused(head: str) -> None:
    with pytest.raises(BadPayload, match="Opus"):
        opus_ticks(bytes.fromhex(head))


def test_bytes_are_swapped_by_samples() -> None:
    assert swap(b"\1\2\3\4") == b"\2\1\4\3"
    assert swap(b"\1\2\3") == b"\2\1"


def test_a_rate_that_is_not_carried_is_refused() -> None:
    with pytest.raises(ValueError, match="44100"):
        format_of(Codec("L16", 44100))


@given(st.sampled_from(ALL), st.binary(max_size=1500))
def test_any_payload_is_audio_or_refused(codec: Codec, payload: bytes) -> None:
    decoder = Decoder(codec, ULAW)
    try:
        ticks = decoder.ticks(payload)
        audio = decoder.decode(payload) if ticks else b""
    except ValueError:
        return
    assert ticks <= 6000
    assert len(audio) <= 1600
