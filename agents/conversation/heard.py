"""What of a sentence the caller heard, and where to go on after a false interruption.

The gateway says how many milliseconds of an utterance were heard. Where the voice gave the times of its words, a word
counts once more than half of it was heard; otherwise the text is cut in proportion, at a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from offhook.agents.services.base import Word
from offhook.codecs.audio import AudioFormat
from offhook.codecs.convert import convert_all

LOOK_BACK_MS: Final = 500
"""How far before the point where it stopped a sentence may be taken up again, to begin in a gap between words."""

GAP_MS: Final = 20
"""Length of the window whose loudness is compared in search of that gap."""


def heard_text(text: str, words: Sequence[Word], heard_ms: float, length_ms: float) -> str:
    """The part of `text` that was heard.

    Args:
        text: the sentence.
        words: when each word is said, in milliseconds from its start; empty when the voice did not say.
        heard_ms: how much of the audio was heard.
        length_ms: how long the audio is; an estimate when it was cut before it was all made.
    """
    if heard_ms <= 0:
        return ""
    if words:
        count = sum(1 for word in words if heard_ms > (word.start_ms + word.end_ms) / 2)
        return text if count == len(words) and heard_ms >= length_ms - 1 else _first_words(text, words, count)
    if heard_ms >= length_ms:
        return text
    spoken = text.split()
    letters = sum(len(word) + 1 for word in spoken)
    left = letters * heard_ms / length_ms
    kept = []
    for word in spoken:
        if left < (len(word) + 1) / 2:
            break
        kept.append(word)
        left -= len(word) + 1
    return " ".join(kept)


def _first_words(text: str, words: Sequence[Word], count: int) -> str:
    """The text up to the end of the word before number `count`; the voice may write words otherwise than the text."""
    at = 0
    for word in words[:count]:
        bare = word.text.strip(" .,;:!?…\"'")
        found = text.lower().find(bare.lower(), at) if bare else -1
        if found >= 0:
            at = found + len(bare)
    if at == 0:
        return " ".join(word.text for word in words[:count])
    while at < len(text) and not text[at].isspace():
        at += 1
    return text[:at]


def restart_ms(words: Sequence[Word], heard_ms: float, audio: bytes, format: AudioFormat) -> int:
    """Where to take a sentence up again that stopped at `heard_ms`: the beginning of the word that was cut.

    Without word times the quietest moment of the last LOOK_BACK_MS stands for it.
    """
    if words:
        begun = [word.start_ms for word in words if word.start_ms <= heard_ms]
        return begun[-1] if begun else 0
    first = max(0, int(heard_ms) - LOOK_BACK_MS)
    piece = audio[format.size(first / 1000) : format.size(heard_ms / 1000)]
    pcm = np.frombuffer(convert_all(piece, format, AudioFormat("l16", format.rate)), "<i2").astype(np.float64)
    window = format.rate * GAP_MS // 1000
    frames = len(pcm) // window
    if frames == 0:
        return first
    energy = np.square(pcm[: frames * window]).reshape(frames, window).sum(axis=1)
    # Of several gaps the last: as little as possible is said twice.
    quiet = frames - 1 - int(np.argmin(energy[::-1]))
    return first + quiet * GAP_MS
