"""Payloads of the line to audio of the call, and back; the call keeps its format, whatever the line changes to."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from sys import byteorder
from typing import Final

from offhook.codecs.audio import L16_16K, PCMA, PCMU, AudioFormat
from offhook.codecs.convert import Converter
from offhook.codecs.g722 import G722Codec
from offhook.codecs.opus import OpusDecoder, OpusEncoder
from offhook.providers.rtp.media import Codec

MAX_PAYLOAD: Final = 1300
"""Bytes of a packet of ours: with every header it stays below the 1400 that tunnels let through unfragmented."""

MAX_PACKET_MS: Final = 120
"""The longest Opus packet there is (RFC 6716 section 3.1)."""

_OPUS_MS: Final = (10, 20, 40, 60) * 3 + (10, 20) * 2 + (2.5, 5, 10, 20) * 4
"""Milliseconds of a frame by the configuration in the first byte (RFC 6716 table 2)."""


class BadPayload(ValueError):
    """A payload that its codec cannot have made."""


def format_of(codec: Codec) -> AudioFormat:
    """The format that a codec's audio has without any loss.

    Raises:
        ValueError: linear audio at a rate that offhook does not carry.
    """
    if codec.name == "PCMU":
        return PCMU
    if codec.name == "PCMA":
        return PCMA
    if codec.name == "L16":
        return AudioFormat("l16", codec.clock)
    return L16_16K


def packet_ms(codec: Codec, ptime: int) -> int:
    """Milliseconds of a packet of ours: the peer's wish, as far as the codec and the path allow it."""
    ms = max(10, min(60, ptime - ptime % 10))
    if codec.name == "opus":
        ms = {30: 20, 50: 40}.get(ms, ms)  # no frame of Opus lasts 30 or 50 ms
    if codec.name == "L16":
        ms = min(ms, MAX_PAYLOAD * 1000 // (2 * codec.clock) // 10 * 10 or 10)
    return ms


def opus_ticks(payload: bytes) -> int:
    """Duration of an Opus packet in ticks of 48 kHz, from its first bytes alone (RFC 6716 section 3.1).

    Raises:
        BadPayload: it is empty, cut, or longer than 120 ms.
    """
    if not payload:
        raise BadPayload("an Opus packet has one byte at least")
    frames = (1, 2, 2, 0)[payload[0] & 3]
    if not frames:
        if len(payload) < 2:
            raise BadPayload("an Opus packet of several frames ends before their count")
        frames = payload[1] & 0x3F
    ticks = int(_OPUS_MS[payload[0] >> 3] * 48) * frames
    if not 0 < ticks <= MAX_PACKET_MS * 48:
        raise BadPayload(f"an Opus packet of {ticks / 48:g} ms")
    return ticks


def swap(data: bytes) -> bytes:
    """Network order to little-endian, or back; a half sample at the end is dropped."""
    samples = array("h", data if len(data) % 2 == 0 else data[:-1])
    samples.byteswap()
    return samples.tobytes()


class Decoder:
    """What arrives with one payload type, in the format of the call.

    Raises:
        RuntimeError: the codec's library is not installed.
    """

    __slots__ = ("_convert", "_decode", "_opus", "codec", "plain", "ticks_a_byte")

    def __init__(self, codec: Codec, format: AudioFormat) -> None:
        self.codec = codec
        self.ticks_a_byte = {"PCMU": 1.0, "PCMA": 1.0, "G722": 1.0, "L16": 0.5, "opus": 0.0}[codec.name]
        "Ticks of the RTP clock in a byte of payload; 0.0: not fixed, ask `ticks`."
        own = format_of(codec)
        self._convert = Converter(own, format)
        self._decode: Callable[[bytes], bytes] | None = None
        self._opus: OpusDecoder | None = None
        if codec.name == "L16":
            if byteorder == "little":
                self._decode = swap
        elif codec.name == "G722":
            self._decode = G722Codec().decode
        elif codec.name == "opus":
            self._opus = OpusDecoder(own.rate)
            self._decode = self._opus.decode
        self.plain = self._decode is None and own == format
        "True where a payload is the call's audio as it stands."

    def ticks(self, payload: bytes) -> int:
        """Duration of a payload in ticks of the RTP clock.

        Raises:
            BadPayload: its codec cannot have made it.
        """
        if self.ticks_a_byte:
            return int(len(payload) * self.ticks_a_byte)
        return opus_ticks(payload)

    def decode(self, payload: bytes) -> bytes:
        """Audio of one payload.

        Raises:
            ValueError: its codec cannot have made it.
        """
        if self._decode is not None:
            payload = self._decode(payload)
        return self._convert.convert(payload)

    def conceal(self, ticks: int, following: bytes | None) -> bytes | None:
        """What the codec itself makes of a loss, so that it goes on well afterwards; None: it makes nothing.

        `following` is the payload after the gap, where it is here: Opus may carry a copy of the lost one in it.
        """
        if self._opus is None:
            return None
        ms = min(MAX_PACKET_MS, max(10.0, ticks * 1000 / self.codec.clock))
        if following:
            try:
                return self._convert.convert(self._opus.recover(following, ms))
            except ValueError:
                pass  # it is refused again, and counted, when its own turn comes
        return self._convert.convert(self._opus.lost(ms))


class Encoder:
    """Audio of the call, as payloads of one codec.

    `own` is the format that `encode` takes; `convert` brings the call's audio there, in pieces of any size.

    Raises:
        RuntimeError: the codec's library is not installed.
    """

    __slots__ = ("codec", "convert", "encode", "own", "plain")

    def __init__(self, codec: Codec, format: AudioFormat) -> None:
        self.codec = codec
        self.own = format_of(codec)
        self.convert: Callable[[bytes], bytes] = Converter(format, self.own).convert
        self.plain = self.own == format
        "True where `convert` gives back what it is given."
        self.encode: Callable[[bytes], bytes] | None = None
        "A packet's audio to its payload; None: they are the same."
        if codec.name == "L16":
            if byteorder == "little":
                self.encode = swap
        elif codec.name == "G722":
            self.encode = G722Codec().encode
        elif codec.name == "opus":
            self.encode = OpusEncoder(self.own.rate).encode
