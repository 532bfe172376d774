"""Who spoke when in one call, to the sample: the ground on which every latency is measured.

Theory of operation
-------------------
The caller's side is known, not guessed: what a step said lies in `StepRecord.spoken`, whatever noise is behind it. A
sample counts from the moment its frame really left, so neither the 20 ms of a frame nor the caller's own lateness is
counted as the target's. Only a caller without records (a persona, a person at a terminal) is heard by its track.

The agent's side is heard. Windows of 10 ms tell speech from silence by their level with the DC taken out; the edges
are then found in the samples. The threshold is -45 dBFS for voices of ordinary level, and lower for softer ones, so
that a soft voice does not seem to begin later; on a line that is never silent it stands above the background. Key tones
are no speech.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from offhook.codecs.audio import FRAME_MS
from offhook.qa.activity import (
    FLOOR_MARGIN_DB,
    LOUDEST_FLOOR_DBFS,
    MIN_SILENCE_S,
    MIN_SPEECH_S,
    QUIET_DBFS,
    RATE,
    STEADY_DB,
    WINDOW,
    WINDOW_S,
    Samples,
    Span,
)
from offhook.qa.caller.record import CallerRecord
from offhook.qa.phones.base import CallLog
from offhook.qa.scenario.model import Scenario, Speech

FRAME_S: Final = FRAME_MS / 1000

NOTHING_DBFS: Final = -80.0
"""Below this a window is digital silence, which tells nothing of the background. A-law has no zero; it idles at -72."""

SOFTEST_DBFS: Final = -58.0
"""The threshold goes no lower, however soft the voice: comfort noise lies at -60."""

BELOW_VOICE_DB: Final = 25.0
"""The threshold lies this far below a voice that is softer than usual: weak consonants lie 20 dB below vowels."""

BACKGROUND_SHARE: Final = 0.8
"""Steady sound without anything louder is background when it fills this share of the track; otherwise it is a tone."""

BURST_S: Final = 0.050
"""A burst this shortly before a stretch belongs to it: the release of a plosive before its vowel."""

RELEASE_S: Final = 0.120
"""So does one this shortly after it: the release of a plosive after its closure."""


class Edges(NamedTuple):
    """How speech is told from silence on one track."""

    above: float
    "dBFS of a window of 10 ms."
    peak: float
    "Samples above this, in int16 units, are heard."
    dc: float
    "Mean of what is not silent, int16 units."


def _levels(track: Samples) -> npt.NDArray[np.float64]:
    """dBFS of every whole 10 ms window without its DC; silence is -120."""
    count = len(track) // WINDOW
    windows = track[: count * WINDOW].reshape(count, WINDOW).astype(np.float64)
    power = windows.var(axis=1)
    return np.asarray(10.0 * np.log10(np.maximum(power / 32768.0**2, 1e-12)))


def _edges(track: Samples, level: npt.NDArray[np.float64]) -> Edges:
    audible = level > NOTHING_DBFS
    if not audible.any():
        return Edges(QUIET_DBFS, 32768 * 10 ** (QUIET_DBFS / 20), 0.0)
    some = np.sort(level[audible])
    dc = float(track[: len(level) * WINDOW].reshape(-1, WINDOW)[audible].mean())
    # The voice: the louder half of what is within 30 dB of the loudest percent.
    near = some[some > np.percentile(some, 99) - 30.0]
    voice = float(10 * np.log10((10 ** (near[len(near) // 2 :] / 10)).mean()))
    low, high = (float(value) for value in np.percentile(some, [5, 20]))
    above = min(QUIET_DBFS, max(SOFTEST_DBFS, voice - BELOW_VOICE_DB))
    steady = high - low < STEADY_DB and high < LOUDEST_FLOOR_DBFS
    stands_out = voice > high + FLOOR_MARGIN_DB
    if steady and (stands_out or len(some) > BACKGROUND_SHARE * len(level)) and high + FLOOR_MARGIN_DB > above:
        # Peaks of noise reach 12 dB above its level; one in 10,000 samples more.
        return Edges(high + FLOOR_MARGIN_DB, 32768 * 10 ** ((high + FLOOR_MARGIN_DB + 2) / 20), dc)
    return Edges(above, 32768 * 10 ** (above / 20), dc)


def voiced_spans(track: Samples, *, ignore: Sequence[Span] = (), min_silence: float = MIN_SILENCE_S) -> list[Span]:
    """Where there is speech on a track, from its first to just after its last voiced sample.

    Args:
        track: mono int16 at 8 kHz.
        ignore: what is no speech, such as keys.
        min_silence: seconds; a pause up to this long does not end a stretch.
    """
    level = _levels(track)
    edges = _edges(track, level)
    loud = level > edges.above
    for span in ignore:
        loud[max(0, int(span.start / WINDOW_S)) : int(np.ceil(span.end / WINDOW_S + 1e-6))] = False
    found = []
    for stretch in _split(np.flatnonzero(loud), round(min_silence / WINDOW_S)):
        first = _onset(stretch)
        if first is not None:
            start = _first_sample(track, edges, first * WINDOW)
            end = _last_sample(track, edges, _release(stretch) * WINDOW)
            found.append(Span(start / RATE, end / RATE))
    return found


def _split(windows: npt.NDArray[np.intp], longest_step: int) -> list[npt.NDArray[np.intp]]:
    if not len(windows):
        return []
    return np.split(windows, np.flatnonzero(np.diff(windows) > longest_step) + 1)


def _onset(stretch: npt.NDArray[np.intp]) -> int | None:
    """The first window of the first run that is long enough for speech, or of the burst right before it."""
    runs = _split(stretch, 1)
    number = next((n for n, run in enumerate(runs) if len(run) * WINDOW_S >= MIN_SPEECH_S - 1e-9), None)
    if number is None:
        return None
    first = int(runs[number][0])
    for run in reversed(runs[:number]):
        if (first - int(run[-1]) - 1) * WINDOW_S > BURST_S + 1e-9:
            break
        first = int(run[0])
    return first


def _release(stretch: npt.NDArray[np.intp]) -> int:
    """The window after the last one; a lone click some way behind the speech is not part of it."""
    runs = _split(stretch, 1)
    while len(runs) > 1 and len(runs[-1]) == 1 and (int(runs[-1][0]) - int(runs[-2][-1]) - 1) * WINDOW_S > RELEASE_S:
        runs.pop()
    return int(runs[-1][-1]) + 1


def _first_sample(track: Samples, edges: Edges, at: int) -> int:
    begin = max(0, at - WINDOW)
    heard = np.flatnonzero(np.abs(track[begin : at + WINDOW] - edges.dc) > edges.peak)
    return begin + int(heard[0]) if len(heard) else at


def _last_sample(track: Samples, edges: Edges, at: int) -> int:
    begin = max(0, at - WINDOW)
    heard = np.flatnonzero(np.abs(track[begin : at + WINDOW] - edges.dc) > edges.peak)
    return begin + int(heard[-1]) + 1 if len(heard) else min(at, len(track))


# --- both sides ------------------------------------------------------------------------

Kind = Literal["turn", "aside"]
"""A turn asks for an answer; an aside (a back-channel, a cough) does not."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """Something the caller said. Seconds on the track."""

    span: Span
    "First to last voiced sample, as spoken."
    left: float
    "When the frame with the first voiced sample left."
    done: float
    "When the one with the last voiced sample left."
    kind: Kind
    verb: str
    step: int | None
    "Index of the step; None: of a caller without steps."
    name: str = ""


@dataclass(slots=True)
class Turn:
    """One turn of either side, for reports; `text` is filled in by whoever recognises it."""

    who: Literal["caller", "agent"]
    start: float
    end: float
    name: str = ""
    step: int | None = None
    text: str = ""
    v2v_ms: float | None = None
    "Of an agent's turn: after which time it answered."
    barge_stop_ms: float | None = None
    "Of a caller's turn that interrupted: after which time the agent stopped."
    cut: bool = False
    "The agent's turn ended in the midst of sound."

    def as_dict(self) -> dict[str, Any]:
        """Plain data; what is not known is left out."""
        plain: dict[str, Any] = {"who": self.who, "start": round(self.start, 4), "end": round(self.end, 4)}
        for name in ("name", "step", "text", "v2v_ms", "barge_stop_ms", "cut"):
            value = getattr(self, name)
            if value not in (None, "", False):
                plain[name] = round(value, 1) if isinstance(value, float) else value
        return plain


def departure(log: CallLog, at: float) -> float:
    """When the caller's sample that was spoken at `at` was on the wire: with its frame, late or not."""
    frame = max(0, int(at / FRAME_S + 1e-6))
    return log.left_at[frame] if frame < len(log.left_at) else (frame + 1) * FRAME_S


def utterances(log: CallLog, record: CallerRecord, scenario: Scenario) -> list[Utterance]:
    """What the caller said, in order: by the records of its steps, else by ear."""
    found = []
    for done in record.steps:
        if done.spoken is not None and done.spoken.start < log.seconds:
            span = Span(done.spoken.start, min(done.spoken.end, log.seconds))
            found.append(_utterance(log, span, done.verb, done.index, done.name, _spoken_by(scenario, done.index)))
    conversed = [Span(done.began, done.ended) for done in record.steps if done.verb == "converse"]
    if conversed or not record.steps:
        for span in voiced_spans(log.caller):
            inside = not conversed or any(c.start - FRAME_S <= span.start < c.end for c in conversed)
            if inside and not any(u.span.start < span.end and span.start < u.span.end for u in found):
                found.append(_utterance(log, span, "say", None, "", None))
    return sorted(found, key=lambda utterance: utterance.span.start)


def _utterance(log: CallLog, span: Span, verb: str, step: int | None, name: str, speech: Speech | None) -> Utterance:
    aside = verb == "backchannel" or (verb == "say" and speech is not None and bool(speech.sound))
    left = departure(log, span.start)
    done = departure(log, max(span.start, span.end - 1 / RATE))
    return Utterance(span, left, done, "aside" if aside else "turn", verb, step, name)


def _spoken_by(scenario: Scenario, index: int) -> Speech | None:
    if not 0 <= index < len(scenario.steps):
        return None
    step = scenario.steps[index]
    return step.say or step.barge_in or step.backchannel


def agent_turns(agent: Sequence[Span], said: Sequence[Utterance], end_silence: float) -> list[Span]:
    """Stretches of the agent with pauses up to `end_silence` are one turn, unless the caller's turn ended between."""
    turns: list[Span] = []
    for span in agent:
        last = turns[-1] if turns else None
        if (
            last is not None
            and span.start - last.end <= end_silence
            and not any(u.kind == "turn" and last.start < u.done <= span.start and u.done >= last.end for u in said)
        ):
            turns[-1] = Span(last.start, span.end)
        else:
            turns.append(span)
    return turns


def overlap(one: Sequence[Span], other: Sequence[Span]) -> float:
    """Seconds in which both speak. Both in order, each without overlaps of its own."""
    total, at = 0.0, 0
    for span in one:
        while at < len(other) and other[at].end <= span.start:
            at += 1
        for rival in other[at:]:
            if rival.start >= span.end:
                break
            total += min(span.end, rival.end) - max(span.start, rival.start)
    return total


def union(spans: Sequence[Span]) -> list[Span]:
    """Joined where they touch or overlap, in order."""
    joined: list[Span] = []
    for span in sorted(spans, key=lambda span: span.start):
        if joined and span.start <= joined[-1].end:
            joined[-1] = Span(joined[-1].start, max(joined[-1].end, span.end))
        else:
            joined.append(span)
    return joined


def holds(log: CallLog, record: CallerRecord) -> list[Span]:
    """When the call was on hold, by either side."""
    found = [Span(step.began, step.ended) for step in record.steps if step.verb == "hold" and not step.skipped]
    since: float | None = None
    for event in log.events:
        if event.kind == "held" and since is None:
            since = event.at
        elif event.kind == "resumed" and since is not None:
            found.append(Span(since, event.at))
            since = None
    if since is not None:
        found.append(Span(since, log.seconds))
    return union(found)


def silences(speech: Sequence[Span], start: float, end: float) -> Iterator[Span]:
    """What lies between, before and behind `speech` from `start` to `end`."""
    at = start
    for span in union(speech):
        if span.start > at:
            yield Span(at, min(span.start, end))
        at = max(at, span.end)
        if at >= end:
            return
    if at < end:
        yield Span(at, end)


def peaks(track: Samples) -> list[float]:
    """The loudest sample of every 20 ms, 0 to 1, for drawing."""
    size = round(FRAME_S * RATE)
    count = len(track) // size
    loudest = np.abs(track[: count * size].reshape(count, size).astype(np.int32)).max(axis=1, initial=0)
    return [round(float(value) / 32768, 3) for value in loudest]
