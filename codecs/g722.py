"""G.722 at 64 kbit/s (ITU-T G.722; RTP payload type 9), by the C code of the `G722` package.

16 kHz audio in 8000 bytes a second. The RTP clock of G.722 is 8000 Hz all the same (RFC 3551 4.5.2), so a byte is
a tick and two samples.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

__all__ = ["RATE", "G722Codec"]

RATE: Final = 16_000
"""Samples a second on the linear side."""

BIT_RATE: Final = 64_000
"""The only mode used in telephony."""


class G722Codec:
    """Both directions of one call. Each direction remembers what went before; the two share nothing.

    Raises:
        RuntimeError: the package is not installed.
    """

    __slots__ = ("_decode", "_encode")

    def __init__(self) -> None:
        try:
            from G722 import G722
        except ImportError as error:
            raise RuntimeError("G.722 needs the package G722: pip install 'offhook[sip]'") from error
        # The objects' memory goes with the last reference to them.
        decoder: Any = G722(RATE, BIT_RATE)
        encoder: Any = G722(RATE, BIT_RATE)
        self._decode = decoder.decode
        self._encode = encoder.encode

    def decode(self, payload: bytes) -> bytes:
        """Decode to int16 little-endian at 16 kHz: four bytes for each of the payload's. No payload is malformed."""
        return np.asarray(self._decode(payload), "<i2").tobytes()

    def encode(self, pcm: bytes) -> bytes:
        """Encode int16 little-endian at 16 kHz: a byte for each two samples.

        Raises:
            ValueError: `pcm` is no whole number of sample pairs.
        """
        if len(pcm) % 4:
            raise ValueError(f"pcm of {len(pcm)} bytes ends within a pair of samples: give whole frames")
        return bytes(self._encode(np.frombuffer(pcm, "<i2").astype(np.int16, copy=False)))
