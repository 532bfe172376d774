"""Opus for speech (RFC 6716, RTP by RFC 7587), by libopus through ctypes, which lets go of the GIL meanwhile.

Mono on our side. A stereo packet, which SDP's `opus/48000/2` allows, is mixed down by the decoder. The RTP clock is
48000 Hz whatever the rate of the linear side.
"""

from __future__ import annotations

import ctypes
import sys
import weakref
from functools import lru_cache
from typing import Final

__all__ = ["OpusDecoder", "OpusEncoder", "OpusError", "warm"]

RATES: Final = (8000, 12_000, 16_000, 24_000, 48_000)

LONGEST_MS: Final = 120
"""The longest packet there is (RFC 6716 3.2.5)."""

FRAMES_MS: Final = (10, 20, 40, 60)
"""Lengths that the encoder takes; the shorter ones that Opus has leave the speech codec out."""

MAX_PACKET: Final = 1275
"""Bytes of the longest Opus frame (RFC 6716 3.2.1)."""

BIT_RATE: Final = 24_000
"""RFC 7587 3.1.1: 16 to 20 kbit/s suit wideband speech, 28 to 40 full band."""

COMPLEXITY: Final = 5
"""Of 0 to 10. A frame takes 0.2 ms of a core, half of what 10 takes, and spectra come out alike within 0.2 dB."""

EXPECTED_LOSS: Final = 10
"""Percent; what the encoder adds redundancy (FEC) for."""

# opus_defines.h; the numbers are part of the library's binary interface.
APPLICATION_VOIP: Final = 2048
SIGNAL_VOICE: Final = 3001
SET_BITRATE, SET_COMPLEXITY, SET_INBAND_FEC, SET_PACKET_LOSS_PERC, SET_SIGNAL = 4002, 4010, 4012, 4014, 4024

LIBRARIES: Final = (
    ("libopus.0.dylib", "/opt/homebrew/lib/libopus.0.dylib", "/usr/local/lib/libopus.0.dylib")
    if sys.platform == "darwin"
    else ("libopus.so.0",)
)


class OpusError(ValueError):
    """A packet that is no Opus, or audio that is no Opus frame."""


def warm() -> None:
    """Load the library, once a process. May block.

    Raises:
        RuntimeError: it is not installed.
    """
    _library()


class OpusDecoder:
    """Decodes one stream to int16 little-endian mono.

    Args:
        rate: samples a second, one of `RATES`.

    Raises:
        RuntimeError: libopus is not installed.
        ValueError: no such rate.
    """

    def __init__(self, rate: int = 16_000) -> None:
        _check(rate)
        library = _library()
        self.rate = rate
        self._run = library.opus_decode
        self._state = _made(library.opus_decoder_create(rate, 1, None))
        self._free = weakref.finalize(self, library.opus_decoder_destroy, self._state)
        self._most = rate * LONGEST_MS // 1000
        self._pcm = (ctypes.c_int16 * self._most)()
        self._view = memoryview(self._pcm).cast("B")

    def decode(self, packet: bytes) -> bytes:
        """Decode a packet, 2.5 to 120 ms of audio.

        Raises:
            OpusError: it is no Opus packet. The decoder goes on with the next.
        """
        if not packet:
            raise OpusError("an Opus packet has at least one byte; call lost() for a packet that did not come")
        return self._decoded(packet, self._most, 0)

    def lost(self, ms: float) -> bytes:
        """Conceal as much audio as was lost: whole 2.5 ms, at most 120 ms."""
        return self._decoded(None, self._samples(ms), 0)

    def recover(self, packet: bytes, ms: float) -> bytes:
        """Rebuild the lost packet before `packet` from the redundancy in it; conceal where it has none.

        `packet` itself is decoded afterwards, by `decode`.

        Raises:
            OpusError: it is no Opus packet.
        """
        return self._decoded(packet or None, self._samples(ms), 1)

    def close(self) -> None:
        """Release the library's memory. Nothing may be decoded afterwards; a second close does nothing."""
        self._free()

    def _samples(self, ms: float) -> int:
        step = self.rate // 400
        return min(max(1, round(ms / 2.5)) * step, self._most)

    def _decoded(self, packet: bytes | None, samples: int, fec: int) -> bytes:
        if not self._free.alive:
            raise RuntimeError("the Opus decoder is closed")
        done = self._run(self._state, packet, len(packet) if packet else 0, self._pcm, samples, fec)
        if done < 0:
            raise OpusError(f"packet of {len(packet or b'')} bytes is no Opus (libopus error {done}); drop it")
        return bytes(self._view[: 2 * done])


class OpusEncoder:
    """Encodes one stream of int16 little-endian mono as speech, with redundancy against loss.

    Args:
        rate: samples a second, one of `RATES`.
        bit_rate: bits a second on average, 6000 to 128000.

    Raises:
        RuntimeError: libopus is not installed.
        ValueError: no such rate.
    """

    def __init__(self, rate: int = 16_000, *, bit_rate: int = BIT_RATE) -> None:
        _check(rate)
        if not 6000 <= bit_rate <= 128_000:
            raise ValueError(f"bit_rate {bit_rate} is not between 6000 and 128000 bits a second")
        library = _library()
        self.rate = rate
        self._run = library.opus_encode
        self._state = _made(library.opus_encoder_create(rate, 1, APPLICATION_VOIP, None))
        self._free = weakref.finalize(self, library.opus_encoder_destroy, self._state)
        for setting, value in (
            (SET_BITRATE, bit_rate),
            (SET_COMPLEXITY, COMPLEXITY),
            (SET_SIGNAL, SIGNAL_VOICE),
            (SET_INBAND_FEC, 1),
            (SET_PACKET_LOSS_PERC, EXPECTED_LOSS),
        ):
            library.opus_encoder_ctl(self._state, setting, ctypes.c_int(value))
        self._packet = (ctypes.c_char * MAX_PACKET)()
        self._view = memoryview(self._packet).cast("B")
        self._sizes = frozenset(2 * rate * ms // 1000 for ms in FRAMES_MS)

    def encode(self, frame: bytes) -> bytes:
        """Encode one frame of 10, 20, 40 or 60 ms to one packet.

        Raises:
            OpusError: the frame has another length.
        """
        if not self._free.alive:
            raise RuntimeError("the Opus encoder is closed")
        if len(frame) not in self._sizes:
            raise OpusError(f"frame of {len(frame)} bytes is not {', '.join(map(str, FRAMES_MS))} ms at {self.rate} Hz")
        size = self._run(self._state, frame, len(frame) // 2, self._packet, MAX_PACKET)
        if size < 0:
            raise OpusError(f"libopus does not encode the frame of {len(frame)} bytes (error {size})")
        return bytes(self._view[:size])

    def close(self) -> None:
        """Release the library's memory. Nothing may be encoded afterwards; a second close does nothing."""
        self._free()


def _check(rate: int) -> None:
    if rate not in RATES:
        raise ValueError(f"rate {rate} is not one of {', '.join(map(str, RATES))}")


def _made(state: int | None) -> int:
    if state is None:
        raise MemoryError("libopus has no memory for another stream")
    return state


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        break
    else:
        raise RuntimeError(
            f"Opus needs the system library libopus ({LIBRARIES[0]}): apt-get install libopus0, or brew install opus"
        )
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.opus_decoder_create.argtypes = [number, number, pointer]
    library.opus_decoder_create.restype = pointer
    library.opus_decoder_destroy.argtypes = [pointer]
    library.opus_decoder_destroy.restype = None
    library.opus_decode.argtypes = [pointer, ctypes.c_char_p, number, pointer, number, number]
    library.opus_encoder_create.argtypes = [number, number, number, pointer]
    library.opus_encoder_create.restype = pointer
    library.opus_encoder_destroy.argtypes = [pointer]
    library.opus_encoder_destroy.restype = None
    library.opus_encoder_ctl.argtypes = [pointer, number]  # and the value, a variadic argument
    library.opus_encode.argtypes = [pointer, ctypes.c_char_p, number, pointer, number]
    return library
