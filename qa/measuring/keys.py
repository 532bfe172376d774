"""Keys that the agent pressed: telephone-events and messages as they came, tones as they are found in the audio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from offhook.codecs.audio import L16_8K
from offhook.codecs.dtmf import DIGITS, HIGH, LOW, DtmfDetector
from offhook.qa.activity import RATE, Samples
from offhook.qa.phones.base import CallLog

HOP: Final = RATE // 200
"""Samples that the detector is given at once: 5 ms, so that it is known when it heard a key."""

CHUNK: Final = RATE // 50

SOFT: Final = 200
"""Peaks below this (-44 dBFS) hold no key."""

NARROW: Final = RATE // 100
"""Samples in which the tones are weighed to find a key's edges: 10 ms."""

AROUND_S: Final = 3.0
"""How far the edges of one key are looked for: the longest key."""

SAME_S: Final = 0.300
"""The same key as a tone and as an event within this time is one key sent in both ways."""


@dataclass(frozen=True, slots=True)
class KeyHeard:
    """One key. Seconds on the track."""

    digit: str
    start: float
    end: float
    "Of events: as `start`."
    way: Literal["inband", "event"]


def decode(track: Samples) -> list[KeyHeard]:
    """Find the keys that are tones in a track, with their edges to a few milliseconds."""
    detector = DtmfDetector(L16_8K)
    found: list[KeyHeard] = []
    quiet = True
    for at in range(0, len(track), CHUNK):
        chunk = track[at : at + CHUNK]
        soft = int(chunk.max()) < SOFT and int(chunk.min()) > -SOFT
        if soft and quiet:
            continue
        if quiet:
            detector = DtmfDetector(L16_8K)
            begin = max(0, at - CHUNK)  # a key may begin below the limit
            found += _feed(detector, track, begin, at)
        quiet = soft
        found += _feed(detector, track, at, at + CHUNK)
    return [
        key for n, key in enumerate(found) if n == 0 or key.start >= found[n - 1].end or key.digit != found[n - 1].digit
    ]


def _feed(detector: DtmfDetector, track: Samples, start: int, end: int) -> list[KeyHeard]:
    return [
        _measured(track, digit, at)
        for at in range(start, min(end, len(track)), HOP)
        for digit in detector.feed(track[at : at + HOP].tobytes())
    ]


def _measured(track: Samples, digit: str, at: int) -> KeyHeard:
    """The key whose detection came at a sample, with its edges: where the tones have half their strength."""
    place = DIGITS.index(digit)
    reach = round(AROUND_S * RATE)
    begin = max(0, at - reach // 2)
    piece = track[begin : at + reach].astype(np.float64)
    strength = np.minimum(_strength(piece, LOW[place // 4]), _strength(piece, HIGH[place % 4]))
    inside = min(max(0, at - begin - 2 * NARROW), len(strength) - 1)
    half = float(strength[max(0, inside - NARROW) : inside + NARROW].max()) / 2
    before = np.flatnonzero(strength[: inside + 1] < half)
    after = np.flatnonzero(strength[inside:] < half)
    first = int(before[-1]) + 1 if len(before) else 0
    last = inside + int(after[0]) if len(after) else len(strength)
    return KeyHeard(digit, (begin + first) / RATE, (begin + last) / RATE, "inband")


def _strength(piece: npt.NDArray[np.float64], hertz: float) -> npt.NDArray[np.float64]:
    """The amplitude of a tone in the 10 ms around every sample."""
    turned = piece * np.exp(-2j * np.pi * hertz / RATE * np.arange(len(piece)))
    padded = np.concatenate([np.zeros(NARROW // 2 + 1, complex), np.cumsum(turned)])
    padded = np.concatenate([padded, np.full(NARROW - NARROW // 2, padded[-1])])
    return np.asarray(np.abs(padded[NARROW:][: len(piece)] - padded[:-NARROW][: len(piece)]))


def agent_keys(log: CallLog) -> tuple[list[KeyHeard], list[KeyHeard]]:
    """The agent's keys: tones of the audio, and events; of a key that was sent in both ways, the event only."""
    tones = decode(log.agent)
    events = [
        KeyHeard(digit.upper(), event.at, event.at, "event")
        for event in log.events
        if event.kind == "dtmf"
        for digit in event.detail
        if digit.upper() in DIGITS
    ]
    return tones, [event for event in events if not _twice(event, tones)]


def _twice(event: KeyHeard, tones: Sequence[KeyHeard]) -> bool:
    return any(tone.digit == event.digit and tone.start - SAME_S <= event.start <= tone.end + SAME_S for tone in tones)


def spelled(keys: Sequence[KeyHeard]) -> str:
    """The keys as one text."""
    return "".join(key.digit for key in keys)
