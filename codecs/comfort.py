"""Comfort noise: what a silent line sounds like (RFC 3389, the level only)."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np

from offhook.codecs.audio import AudioFormat
from offhook.codecs.g711 import pcm_to_alaw, pcm_to_ulaw
from offhook.codecs.pcm import scale

__all__ = ["ComfortNoise"]

TABLE: Final = 1 << 16
"""Samples of the noise that all calls share: 8 s at 8 kHz, too long for an ear to notice that it comes round."""

TABLE_LEVEL: Final = -20.0
"""dBov of the table: loud enough that rounding is nothing, and its peaks fit."""

LOUDEST, QUIETEST = -20, -127
"""dBov. Louder is no comfort, whatever a peer asks for; the field of RFC 3389 ends at 127."""


class ComfortNoise:
    """White noise at a level, as long as it is asked for.

    Args:
        begin: where in the noise that all share to begin, in samples.
    """

    __slots__ = ("_at", "_format")

    def __init__(self, audio_format: AudioFormat, begin: int = 0) -> None:
        self._format = audio_format
        self._at = begin % TABLE

    def frame(self, level_dbov: float, size: int) -> bytes:
        """Give `size` bytes of noise in the format.

        Args:
            level_dbov: 0 to -127; minus the first byte of a comfort-noise payload. Taken as -20 where it is louder.
            size: bytes, whole samples.
        """
        level = max(QUIETEST, min(LOUDEST, level_dbov))
        wanted = 2 * (size // self._format.sample_bytes)
        at = 2 * self._at
        pcm = _table()[at : at + wanted]
        while len(pcm) < wanted:
            pcm += _table()[: wanted - len(pcm)]
        self._at = (self._at + wanted // 2) % TABLE
        pcm = scale(pcm, 10 ** ((level - TABLE_LEVEL) / 20))
        if self._format.encoding == "pcmu":
            return pcm_to_ulaw(pcm)
        if self._format.encoding == "pcma":
            return pcm_to_alaw(pcm)
        return pcm


@lru_cache(maxsize=1)
def _table() -> bytes:
    noise = np.random.default_rng(1).normal(scale=32768 * 10 ** (TABLE_LEVEL / 20), size=TABLE)
    return np.rint(noise).clip(-32768, 32767).astype("<i2").tobytes()
