"""Who spoke when in one call, to the sample: the ground on which every latency is measured.

Theory of operation
-------------------
The caller's side is known, not guessed: what a step said lies in `StepRecord.spoken`, whatever noise is behind it. A
sample counts from its place on the track, or later when its frame left late, so that the caller's own lateness is not
counted as the target's. Only a caller without records (a persona, a person at a terminal) is heard by its track.

The agent's side is heard. Windows of 10 ms are speech by their level, which consonants at either end often do not
reach: a first s may lie 200 ms before its vowel. So a stretch is followed to both sides as long as single samples can
be heard, and its ends are found in the samples. What counts as heard follows the voice where it is softer than usual,
lest a soft voice seem to begin later; and where the line is never silent it stands above the background, which then
hides weak consonants from people, too. Key tones are no speech.
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
    split_windows,
)
from offhook.qa.caller.record import CallerRecord
from offhook.qa.match import AUDIBLE
from offhook.qa.phones.base import CallLog
from offhook.qa.scenario.model import Scenario, Speech

FRAME_S: Final = FRAME_MS / 1000

NOTHING_DBFS: Final = -80.0
"""Below this a window is digital silence, which tells nothing of the background. A-law has no zero; it idles at -72."""

SOFTEST_DBFS: Final = -58.0
"""The threshold goes no lower, however soft the voice: comfort noise lies at -60."""

BELOW_VOICE_DB: Final = 25.0
"""The threshold lies this far below a voice that is softer than usual: weak consonants lie 20 dB below vowels."""

SOFTEST_PEAK: Final = 32
"""Samples below this are never heard: A-law idles at 8, and coarse steps follow the voice down to here."""

USUAL_DBFS: Final = -20.0
"""Voices of this level and above are heard from `AUDIBLE` on; softer ones from as much below."""

BACKGROUND_SHARE: Final = 0.8
"""Steady sound is background when the track is silent for no more than the rest; otherwise it is a voice or a tone."""

EVEN_DB: Final = 1.5
"""Noise whose windows vary by no more than this is a hiss; babble and streets vary more."""

EVEN_ABOVE_DB: Final = 7.0
EVEN_BESIDE_DB: Final = 4.0
"""Speech stands so far above a hiss. The level of its windows of 80 samples has a deviation of 0.7 dB."""

NOISE_PEAK: Final = 5.0
"""No sample of noise exceeds its root mean square so many times within an hour."""

BURST_S: Final = 0.050
"""A sound this shortly before a stretch belongs to it: the release of a plosive before its vowel."""

TAIL_S: Final = 0.120
"""Soft sound this close to a stretch belongs to it: s and f before and after vowels, the release of a final t after its
closure. Before a background that varies it must be as close as `BURST_S`."""

HUM: Final = 150
"""DC up to this is left alone: the mean of a voice is not quite 0 either."""


class Edges(NamedTuple):
    """How speech is told from silence on one track."""

    above: float
    "dBFS from which a window of 10 ms is speech by itself."
    beside: float
    "dBFS from which it is beside speech."
    peak: float
    "So it is when it has a sample from here on, in int16 units."
    tail: int
    "Windows without anything of that kind that part it from speech."
    dc: float
    "Int16 units."


def _windows(track: Samples) -> npt.NDArray[np.float64]:
    """Whole windows of 10 ms, each without its mean."""
    count = len(track) // WINDOW
    windows = track[: count * WINDOW].reshape(count, WINDOW).astype(np.float64)
    return np.asarray(windows - windows.mean(axis=1, keepdims=True))


def _edges(track: Samples, level: npt.NDArray[np.float64]) -> Edges:
    audible = level > NOTHING_DBFS
    tail = round(TAIL_S / WINDOW_S)
    if not audible.any():
        return Edges(QUIET_DBFS, QUIET_DBFS, AUDIBLE, tail, 0.0)
    some = np.sort(level[audible])
    dc = float(np.median(track[: len(level) * WINDOW].reshape(-1, WINDOW)[audible]))
    dc = dc if abs(dc) > HUM else 0.0
    # The voice: the louder half of what is within 30 dB of the loudest percent.
    near = some[some > np.percentile(some, 99) - 30.0]
    voice = float(10 * np.log10((10 ** (near[len(near) // 2 :] / 10)).mean()))
    low, high = (float(value) for value in np.percentile(some, [5, 20]))
    above = min(QUIET_DBFS, max(SOFTEST_DBFS, voice - BELOW_VOICE_DB))
    peak = AUDIBLE * 10 ** (min(0.0, voice - USUAL_DBFS) / 20)
    steady = high - low < STEADY_DB and high < LOUDEST_FLOOR_DBFS
    everywhere = len(some) > BACKGROUND_SHARE * len(level)
    if not (steady and everywhere):
        return Edges(above, above, max(peak, float(SOFTEST_PEAK)), tail, dc)
    peak = max(peak, NOISE_PEAK * 32768 * 10 ** (high / 20))
    if high - low < EVEN_DB:
        return Edges(max(above, high + EVEN_ABOVE_DB), high + EVEN_BESIDE_DB, peak, tail, dc)
    above = max(above, high + FLOOR_MARGIN_DB)
    return Edges(above, above, peak, round(BURST_S / WINDOW_S), dc)


def voiced_spans(track: Samples, *, ignore: Sequence[Span] = (), min_silence: float = MIN_SILENCE_S) -> list[Span]:
    """Where there is speech on a track, from its first to just after its last voiced sample.

    Args:
        track: mono int16 at 8 kHz.
        ignore: what is no speech, such as keys.
        min_silence: seconds; a pause up to this long does not end a stretch.
    """
    windows = _windows(track)
    level = np.asarray(10.0 * np.log10(np.maximum(np.square(windows).mean(axis=1) / 32768.0**2, 1e-12)))
    edges = _edges(track, level)
    loud = level > edges.above
    soft = loud | (level > edges.beside) | (np.abs(windows).max(axis=1, initial=0.0) >= edges.peak)
    for span in ignore:
        part = slice(max(0, int(span.start / WINDOW_S)), int(np.ceil(span.end / WINDOW_S + 1e-6)))
        loud[part] = soft[part] = False
    softs = np.flatnonzero(soft)
    found: list[Span] = []
    for stretch in split_windows(np.flatnonzero(loud), round(min_silence / WINDOW_S)):
        onset = _onset(stretch)
        if onset is None:
            continue
        first, last = _reach(softs, onset, -edges.tail), _reach(softs, int(stretch[-1]), edges.tail)
        start = _first_sample(track, edges, first * WINDOW) / RATE
        end = _last_sample(track, edges, (last + 1) * WINDOW) / RATE
        if found and start - found[-1].end <= min_silence:
            start = found.pop().start
        found.append(Span(start, end))
    return found


def _onset(stretch: npt.NDArray[np.intp]) -> int | None:
    """The first window of the first run that is long enough for speech, or of the burst right before it."""
    runs = split_windows(stretch, 1)
    number = next((n for n, run in enumerate(runs) if len(run) * WINDOW_S >= MIN_SPEECH_S - 1e-9), None)
    if number is None:
        return None
    first = int(runs[number][0])
    for run in reversed(runs[:number]):
        if (first - int(run[-1]) - 1) * WINDOW_S > BURST_S + 1e-9:
            break
        first = int(run[0])
    return first


def _reach(softs: npt.NDArray[np.intp], window: int, tail: int) -> int:
    """The farthest window that soft sound leads to from a window, backwards if `tail` is negative."""
    at = int(np.searchsorted(softs, window))
    step = 1 if tail > 0 else -1
    while 0 <= at + step < len(softs) and abs(int(softs[at + step]) - int(softs[at])) <= abs(tail) + 1:
        at += step
    return int(softs[at])


def _first_sample(track: Samples, edges: Edges, at: int) -> int:
    begin = max(0, at - WINDOW)
    heard = _heard(track[begin : at + WINDOW], edges)
    return begin + int(heard[0]) if len(heard) else at


def _last_sample(track: Samples, edges: Edges, at: int) -> int:
    begin = max(0, at - WINDOW)
    heard = _heard(track[begin : at + WINDOW], edges)
    return begin + int(heard[-1]) + 1 if len(heard) else min(at, len(track))


def _heard(piece: Samples, edges: Edges) -> npt.NDArray[np.intp]:
    # Silence has no DC, even where the voice has.
    return np.flatnonzero((np.abs(piece - edges.dc) >= edges.peak) & (np.abs(piece.astype(np.int32)) >= SOFTEST_PEAK))


# --- both sides ------------------------------------------------------------------------

Kind = Literal["turn", "aside"]
"""A turn asks for an answer; an aside (a back-channel, a cough) does not."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """Something the caller said. Seconds on the track."""

    span: Span
    "First to last voiced sample, as spoken."
    left: float
    "When its first voiced sample was on the wire."
    done: float
    "When its last one was."
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
            if value is not None and value is not False and value != "":
                plain[name] = round(value, 1) if isinstance(value, float) else value
        return plain


def departure(log: CallLog, at: float) -> float:
    """When the caller's sample of track second `at` was on the wire: then, or as much later as its frame left late.

    A frame leaves when its last sample was spoken; its first sample was spoken 20 ms before, and counts from then.
    """
    frame = max(0, int(at / FRAME_S + 1e-6))
    late = log.left_at[frame] - (frame + 1) * FRAME_S if frame < len(log.left_at) else 0.0
    return at + max(0.0, late)


def network_out(log: CallLog, at: float) -> float:
    """Seconds that `media.network` added to what the caller sent at that track second."""
    return log.added_out.of_next(at) if log.added_out else log.network_s


def network_to_answer(log: CallLog) -> float:
    """Seconds by which `media.network` kept the answer from the agent. SIP's messages are not kept; a stream's are."""
    return 0.0 if log.way == "sip" else network_out(log, log.answered_at)


def network_back(log: CallLog, at: float) -> float:
    """Seconds that `media.network` added to what was heard of the agent at that track second."""
    return log.added_back.of_last(at) if log.added_back else log.network_s


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
    done = departure(log, max(span.start, span.end - 1 / RATE)) + 1 / RATE
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
