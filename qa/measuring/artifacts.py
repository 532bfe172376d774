"""What is wrong with the agent's audio itself: holes, clicks, clipping, DC, level, a cut tail.

Edges tell torn speech from pauses. A voice that ends by itself fades: over its last 10 ms it is far below its own
level. One that was cut is still loud and then, from one sample to the next, gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from offhook.qa.activity import QUIET_DBFS, RATE, WINDOW, Samples, Span
from offhook.qa.measure import LONGEST_HOLE_S
from offhook.qa.phones.base import CallLog

SILENT: Final = 24
"""Samples up to this (-63 dBFS) are the silence of a hole: A-law idles at 8, and some bots send a little noise."""

SHORTEST_HOLE_S: Final = 0.060
"""Shorter ones are hidden by concealment as a rule."""

LONG_HOLE_S: Final = 0.150
"""A longer one must have an abrupt end, too: some synthesisers break off vowels before a pause."""

ABRUPT_DB: Final = 18.0
"""A voice within this of its level, and gone at the next sample, was cut."""

GONE: Final = RATE // 1000
"""Samples within which a cut voice is gone: 1 ms. A filter rings as long."""

LAST: Final = RATE // 500
LAST_SHARE: Final = 0.3
"""The last 2 ms of a cut voice still have samples of this share of its root mean square; most synthesisers fade theirs
further."""
SURE_SHARE: Final = 0.7
"""All of them do; but a voice cut between two pulses of its pitch has no more than 0.3, either."""

EDGE: Final = RATE // 25
"""A hole has voice this close behind it: 40 ms."""

FULL: Final = 31_000
"""Samples from here on are at full scale: the two loudest steps of either law."""

RUN: Final = 3
"""So many of them in a row are clipped: a single peak may touch the top."""

JUMP: Final = 4000
"""The smallest difference of two samples that can be a click."""

TIMES: Final = 2.5
"""A click exceeds every other jump around it so many times."""

AROUND: Final = RATE * 15 // 1000
"""Samples around a click with which it is compared, either side: 15 ms, more than the period of a deep voice."""

APART: Final = 2
"""Jumps right beside it that belong to the click itself."""

EDGE_SAMPLES: Final = RATE // 200
"""Silence of 5 ms makes an edge."""

LEVEL_FRAME: Final = RATE // 50

SENTENCE_PAUSE_S: Final = 0.700

CUT_TAIL_S: Final = 0.5
"""A call that ends so shortly after the agent's last sample ended its speech, too."""

AT_ONCE_S: Final = 0.040
"""A call that ends this shortly after the agent's last sound gave it no time to die away: two packets."""

LOUD_END: Final = RATE * 60 // 1000
"""Samples before such an end that are looked at: 60 ms."""

LOUD_END_DB: Final = 10.0
"""Louder than this below the agent's speech, they are the middle of a word."""

_Floats = npt.NDArray[np.float64]


def _power(piece: Samples) -> float:
    return float(np.square(piece.astype(np.float64)).mean()) if len(piece) else 0.0


def _db(power: float) -> float:
    return float(10 * np.log10(max(power / 32768.0**2, 1e-12)))


def _speech(track: Samples, spans: Sequence[Span]) -> Samples:
    pieces = [track[round(span.start * RATE) : round(span.end * RATE)] for span in spans]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)


def level_dbov(track: Samples, spans: Sequence[Span]) -> float | None:
    """Level of the speech, as scenarios give levels: of the louder half of its 20 ms frames. None without speech.

    What has pauses up to `SENTENCE_PAUSE_S` is taken together with them, for so is a sentence whose level is set.
    """
    total = seconds = 0.0
    for start, end in _sentences(spans):
        piece = track[round(start * RATE) : round(end * RATE)].astype(np.float64)
        count = len(piece) // LEVEL_FRAME
        if count:
            power = np.sort(piece[: count * LEVEL_FRAME].reshape(count, LEVEL_FRAME).var(axis=1))
            total += (end - start) * _db(float(power[count // 2 :].mean()))
            seconds += end - start
    return total / seconds if seconds else None


def _sentences(spans: Sequence[Span]) -> list[tuple[float, float]]:
    joined: list[tuple[float, float]] = []
    for span in spans:
        if joined and span.start - joined[-1][1] <= SENTENCE_PAUSE_S:
            joined[-1] = (joined[-1][0], span.end)
        else:
            joined.append((span.start, span.end))
    return joined


def dc_pct(track: Samples, spans: Sequence[Span]) -> float | None:
    """Mean of the speech in percent of full scale, without its sign."""
    speech = _speech(track, spans)
    return abs(float(speech.mean())) / 327.68 if len(speech) else None


def clipping_pct(track: Samples, spans: Sequence[Span]) -> float | None:
    """Percent of the samples of speech that stand in runs at full scale."""
    speech = _speech(track, spans).astype(np.int32)
    if not len(speech):
        return None
    top = np.flatnonzero(np.abs(speech) >= FULL)
    runs = np.split(top, np.flatnonzero(np.diff(top) > 1) + 1) if len(top) else []
    return 100 * sum(len(run) for run in runs if len(run) >= RUN) / len(speech)


def clicks(track: Samples, spans: Sequence[Span]) -> list[float]:
    """When a single jump stands out of everything around it in speech, as no voice's does.

    Pulses of the glottis come in rows, releases of plosives are noise of some milliseconds: both have their like
    nearby. Where sound begins after, or ends in, silence is no click but an edge.
    """
    found: list[float] = []
    jumps = np.abs(np.diff(track.astype(np.int32)))
    inside = np.zeros(len(jumps), bool)
    for span in spans:
        inside[round(span.start * RATE) : round(span.end * RATE)] = True
    for at in np.flatnonzero((jumps > JUMP) & inside & _stands_out(jumps)):
        if found and at / RATE - found[-1] < AROUND / RATE:
            continue
        before, after = jumps[max(0, at - AROUND) : max(0, at - APART)], jumps[at + APART + 1 : at + 1 + AROUND]
        if not len(before) or not len(after) or jumps[at] <= TIMES * max(int(before.max()), int(after.max())):
            continue
        if not _edge(track, int(at)):
            found.append(float(at) / RATE)
    return found


def _stands_out(jumps: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Which jumps exceed those of the blocks that surely lie within `AROUND` of them: few are left to be looked at."""
    block = AROUND // 3
    count = -(-len(jumps) // block)
    loudest = np.pad(jumps, (0, count * block - len(jumps))).reshape(count, block).max(axis=1, initial=0)
    loudest = np.pad(loudest, 2)
    return np.asarray(jumps > TIMES * np.repeat(np.maximum(loudest[:-4], loudest[4:]), block)[: len(jumps)])


def _edge(track: Samples, at: int) -> bool:
    sides = track[max(0, at - EDGE_SAMPLES) : at], track[at + 2 : at + 2 + EDGE_SAMPLES]
    return any(len(side) == 0 or np.abs(side.astype(np.int32)).max() <= SILENT for side in sides)


def abrupt_end(track: Samples, end: int, level: float, share: float = LAST_SHARE) -> bool:
    """Whether the voice whose last audible sample is just before `end` was cut.

    Args:
        track: the samples.
        end: the sample after the last audible one.
        level: of the speech, dBov.
        share: of the root mean square that the last samples have at least.
    """
    if end < 2 * WINDOW:
        return False
    after = track[end + GONE : end + GONE + WINDOW].astype(np.int32)
    if len(after) and int(np.abs(after).max()) > SILENT:
        return False
    power = _power(track[end - WINDOW : end])
    last = int(np.abs(track[end - LAST : end].astype(np.int32)).max())
    return _db(power) > max(QUIET_DBFS + 3, level - ABRUPT_DB) and last > share * power**0.5


def tail_cut(log: CallLog, agent: Sequence[Span]) -> bool | None:
    """Whether the agent's side ended the call in the midst of the agent's speech; None when it did not end it."""
    level = level_dbov(log.agent, agent)
    if log.ended_by not in ("agent", "network") or level is None:
        return None
    if agent[-1].end < log.seconds - CUT_TAIL_S:
        return False
    end = round(agent[-1].end * RATE)
    if agent[-1].end > log.seconds - AT_ONCE_S:
        # A word that dies away is soft for longer than this before its last sample.
        last = _db(_power(log.agent[max(0, end - LOUD_END) : end]))
        if last > max(QUIET_DBFS, level - LOUD_END_DB):
            return True
    return abrupt_end(log.agent, end, level)


def holes(log: CallLog, agent: Sequence[Span], stops: Sequence[float] = ()) -> tuple[list[Span], list[Span]]:
    """Silences torn into the agent's speech: those of the target, and those while this program itself was late.

    Args:
        log: the call.
        agent: where the agent speaks.
        stops: when the agent stopped because it was interrupted; such an edge is as it should be.
    """
    level = level_dbov(log.agent, agent)
    if level is None:
        return [], []
    torn = [hole for hole in _torn(log.agent, level) if not any(abs(hole.start - stop) < 0.05 for stop in stops)]
    torn += [hole for hole in log.dry if _audible(log.agent, hole) and not any(_meets(hole, t) for t in torn)]
    cleared = [hole for hole in torn if any(hole.start - 0.1 <= at <= hole.end for at in log.clears)]
    found = sorted((hole for hole in torn if hole not in cleared), key=lambda hole: hole.start)
    excused = [hole for hole in found if any(_meets(hole, stall) for stall in log.stalls)]
    return [hole for hole in found if hole not in excused], excused


def _meets(one: Span, other: Span) -> bool:
    return one.start < other.end and other.start < one.end


def _audible(track: Samples, hole: Span) -> bool:
    """Whether a silence known from the wire has voice right before and right behind it."""
    if not SHORTEST_HOLE_S - 1e-9 <= hole.seconds <= LONGEST_HOLE_S:
        return False
    first, last = round(hole.start * RATE), round(hole.end * RATE)
    sides = (track[max(0, first - EDGE) : first], track[last : last + EDGE])
    return all(_db(_power(side)) > QUIET_DBFS for side in sides)


def _torn(track: Samples, level: float) -> list[Span]:
    """Stretches of digital silence that begin abruptly and end abruptly, or are short and have voice behind them."""
    loud = np.flatnonzero(np.abs(track.astype(np.int32)) > SILENT)
    gaps = np.flatnonzero(np.diff(loud) >= SHORTEST_HOLE_S * RATE)
    found = []
    for gap in gaps:
        first, last = int(loud[gap]) + 1, int(loud[gap + 1])
        if last - first > LONGEST_HOLE_S * RATE:
            continue
        if last - first < LONG_HOLE_S * RATE:
            torn = abrupt_end(track, first, level) and _db(_power(track[last : last + EDGE])) > QUIET_DBFS
        else:
            behind = track[last : last + 2 * WINDOW][::-1]
            torn = abrupt_end(track, first, level, SURE_SHARE) and abrupt_end(behind, 2 * WINDOW, level, SURE_SHARE)
        if torn:
            found.append(Span(first / RATE, last / RATE))
    return found
