"""Whether a caller heard a known utterance: where it begins in the track, and how far it was played.

The utterance is aligned by normalised cross-correlation, which survives G.711 and resampling, and then followed in
blocks of 50 ms until the track says something else. Holes (a play-out buffer that ran dry) are skipped and counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from offhook.qa.activity import QUIET_DBFS, RATE, Samples

BLOCK: Final = RATE // 20
"""Samples that are compared at once: 50 ms."""

FINE: Final = RATE // 100
"""Samples in which the place of a cut is found: 10 ms."""

HEAD: Final = RATE * 6 // 10
"""Samples that locate the utterance: 0.6 s hold a few syllables, which no other sentence begins with."""

SAME: Final = 0.75
"""Correlation from which two blocks are the same sound; G.711 and two resamplings leave more than 0.95, two
different sounds of one voice stay below 0.5."""

LONGEST_HOLE: Final = RATE * 6 // 10

AUDIBLE: Final = 32768 * 10 ** (QUIET_DBFS / 20)
"""Samples above this are heard; blocks whose root mean square is below are pauses."""

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Match:
    """Where a reference was heard; seconds."""

    at: float
    "Where its first sample lies on the track."
    heard: float
    "How much of the reference was heard, up to its last voiced sample."
    length: float
    "How long the reference is, up to its last voiced sample."
    score: float
    "Correlation of its beginning, 0 to 1."
    holes: float
    "Silence torn into it."

    @property
    def complete(self) -> bool:
        """All of it was heard, to within one block."""
        return self.heard >= self.length - BLOCK / RATE


def find(reference: Samples, track: Samples, *, after: float = 0.0, before: float = math.inf) -> Match | None:
    """Find the reference in the track between two moments; None when its beginning was not heard.

    A reference that was cut within its first 0.2 s is not found.

    Args:
        reference: the utterance.
        track: what was heard.
        after: seconds; where to begin to look.
        before: seconds; where the track is taken to end.
    """
    sound = _voiced_part(reference)
    if sound is None:
        return None
    lead, known = sound
    start = max(0, int(after * RATE))
    hay = track[start : int(min(before * RATE, len(track)))].astype(np.float64)
    for head in (HEAD, HEAD * 2 // 3, HEAD // 3):
        needle = known[:head]
        if len(hay) < len(needle):
            continue
        at, score = _best(needle, hay)
        if score >= SAME:
            heard, holes = _follow(known, hay, at)
            begin = (start + at - lead) / RATE
            return Match(begin, (lead + heard) / RATE, (lead + len(known)) / RATE, score, holes / RATE)
    return None


def voiced_until(reference: Samples, seconds: float) -> float:
    """Where the last audible sound of the reference's first `seconds` ends: a cut in a pause is heard there."""
    loud = np.flatnonzero(np.abs(reference[: round(seconds * RATE)].astype(np.int32)) > AUDIBLE)
    return (int(loud[-1]) + 1) / RATE if len(loud) else 0.0


def _voiced_part(reference: Samples) -> tuple[int, _Floats] | None:
    """The samples before the first audible one, and everything from there to the last audible one."""
    loud = np.flatnonzero(np.abs(reference.astype(np.int32)) > AUDIBLE)
    if not len(loud):
        return None
    return int(loud[0]), reference[loud[0] : loud[-1] + 1].astype(np.float64)


def _best(needle: _Floats, hay: _Floats) -> tuple[int, float]:
    """Where in `hay` the needle fits best, and its normalised correlation there."""
    size = 1 << int(np.ceil(np.log2(len(hay) + len(needle))))
    product = np.fft.irfft(np.fft.rfft(hay, size) * np.conj(np.fft.rfft(needle, size)), size)
    scores = product[: len(hay) - len(needle) + 1]
    energy = np.concatenate([[0.0], np.cumsum(np.square(hay))])
    # Near-silence correlates with anything by chance of rounding: it must not win.
    norm = np.sqrt(np.maximum(energy[len(needle) :] - energy[: len(scores)], 1e4)) * np.linalg.norm(needle)
    at = int(np.argmax(scores / norm))
    return at, float(scores[at] / norm[at])


def _same(one: _Floats, other: _Floats) -> bool:
    if len(other) < len(one):
        return False
    quiet = len(one) * AUDIBLE**2
    a, b = float(np.dot(one, one)), float(np.dot(other, other))
    if a < quiet:
        return b < 4 * quiet  # a pause is matched by a pause
    return float(np.dot(one, other)) >= SAME * math.sqrt(a * max(b, 1.0))


def _follow(known: _Floats, hay: _Floats, at: int) -> tuple[int, int]:
    """How many samples of `known` follow each other in `hay` from `at` on, and how many samples of holes."""
    done, shift, holes, resumed = 0, at, 0, -1
    while True:
        done = _advance(known, hay, done, shift, BLOCK)
        done = _advance(known, hay, done, shift, FINE)
        skipped = _resume(known[done : done + 3 * BLOCK], hay, done + shift)
        if not skipped or done == resumed:
            break
        shift += skipped
        holes += abs(skipped)
        resumed = done
    # A pause matches the silence that follows a cut: what was heard ends with a sound.
    while 0 < done < len(known) and np.square(known[max(0, done - FINE) : done]).mean() < AUDIBLE**2:
        done -= min(FINE, done)
    return done, holes


def _advance(known: _Floats, hay: _Floats, done: int, shift: int, step: int) -> int:
    """Go on, `step` samples at a time, as long as both are the same."""
    while done < len(known):
        piece = known[done : done + step]
        if not _same(piece, hay[done + shift : done + shift + len(piece)]):
            break
        done += len(piece)
    return done


def _resume(rest: _Floats, hay: _Floats, at: int) -> int:
    """By how many samples the rest lies further on (or back, a few); 0 when it is not to be found."""
    start = max(0, at - FINE)
    window = hay[start : at + LONGEST_HOLE + len(rest)]
    if len(rest) < BLOCK or len(window) <= len(rest):
        return 0
    found, score = _best(rest, window)
    return start + found - at if score >= SAME else 0
