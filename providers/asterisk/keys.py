"""Keys pressed by sound: neither AudioSocket nor chan_websocket takes them any other way."""

from __future__ import annotations

from typing import Final

from offhook.codecs.audio import AudioFormat
from offhook.codecs.dtmf import tones

TONE: Final = 0.08
"""Seconds of a key, and of the silence after it; Q.24 asks receivers to take 40 ms of either."""

PAUSE: Final = 0.5
"""Seconds that `w` stands for."""


def key_tones(digits: str, format: AudioFormat) -> bytes:
    """The sound of keys (0-9, A-D, *, #) and pauses (w), one after the other.

    Raises:
        ValueError: there is no such key.
    """
    gap = format.silence[:1] * format.size(TONE)
    pause = format.silence[:1] * format.size(PAUSE)
    return b"".join(pause if digit in "wW" else tones(digit, TONE, format) + gap for digit in digits)
