"""What a caller lived through, measured on the wire audio alone.

Everything is computed from one call's two channels and the arrival times of the target's messages, all on one
clock that starts with the first caller sample. The caller's frame that leaves at time t holds the samples spoken
in the 20 ms before t, as on a real phone; agent audio lies where the carrier's play-out buffer played it. So an
agent that answers in no time at all is still measured with the carrier's own frame.

The simulator's lateness is taken out: a caller frame counts from the moment it really left, and a hole that
coincides with a stall of the simulator itself is excused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from offhook.codecs.audio import FRAME_MS
from offhook.qa.activity import RATE, WINDOW, Samples, Span, levels, speech_spans, threshold

FRAME_S: Final = FRAME_MS / 1000

COLLISION_S: Final = 0.100
"""Caller and agent starting this close together collide; neither interrupts the other."""

YIELD_S: Final = 2.0
"""An agent that talks on for longer than this has not yielded to an interruption."""

EDGE_S: Final = 0.040
"""A hole is heard when there is voice this close before and after it; anything else is a pause."""

LONGEST_HOLE_S: Final = 0.500
"""A longer emptiness of the play-out buffer is the agent's silence."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """One call as the carrier saw it; every time in seconds on the track's clock."""

    caller: Samples
    agent: Samples
    left_at: Sequence[float] = ()
    "When each 20 ms caller frame really left; missing ones left on time."
    clears: Sequence[float] = ()
    "Arrival of every message that empties the play-out buffer."
    dry: Sequence[Span] = ()
    "Where the play-out buffer ran empty and was filled again."
    stalls: Sequence[Span] = ()
    "Where the simulator itself was late."
    answered_at: float = 0.0
    "When the target's answer to the webhook arrived; before 0 as a rule."

    def leaving(self, at: float) -> float:
        """When the caller's sample spoken at `at` really left."""
        frame = int(at / FRAME_S + 1e-6)
        return self.left_at[frame] if frame < len(self.left_at) else (frame + 1) * FRAME_S


@dataclass(frozen=True, slots=True)
class Reply:
    """A turn of the caller and the agent's reply to it."""

    caller_began: float
    caller_ended: float
    agent_began: float
    v2v_ms: float
    "Voice to voice: the last voiced caller sample leaving → the first voiced agent sample heard."
    own_late_ms: float
    "How late the simulator itself sent that last frame; already taken out of v2v_ms."


@dataclass(frozen=True, slots=True)
class BargeIn:
    """The caller began to speak while the agent spoke."""

    at: float
    "When the first voiced caller frame left."
    clear_ms: float | None
    "From then until the order to empty the play-out buffer arrived; None: it never did."
    stop_ms: float
    "From then until the last agent sample was heard."
    yielded: bool
    "The agent fell silent within two seconds."


@dataclass(frozen=True, slots=True)
class Measures:
    """The measurements of one call. Times in seconds on the track, durations as their names say."""

    greeting_ms: float | None
    "From the answer to the first voiced agent sample; None: the agent never spoke."
    replies: list[Reply]
    barge_ins: list[BargeIn]
    agent_interruptions: int
    "How often the agent began to speak while the caller was speaking."
    gaps: list[Span]
    "Holes that the target tore into audible speech."
    gaps_excused: int
    "Holes that coincide with a stall of the simulator."
    talk_over_s: float
    dead_air_s: float
    "The longest stretch in which nobody spoke, after the greeting began."
    caller_spans: list[Span] = field(repr=False)
    agent_spans: list[Span] = field(repr=False)


def measure(call: Conversation) -> Measures:
    """Measure one call."""
    caller, agent = speech_spans(call.caller), speech_spans(call.agent)
    gaps, excused = _gaps(call)
    return Measures(
        greeting_ms=(agent[0].start - call.answered_at) * 1000 if agent else None,
        replies=_replies(call, caller, agent),
        barge_ins=_barge_ins(call, caller, agent),
        agent_interruptions=sum(any(c.start + COLLISION_S < a.start < c.end for c in caller) for a in agent),
        gaps=gaps,
        gaps_excused=excused,
        talk_over_s=_overlap(caller, agent),
        dead_air_s=_dead_air(caller, agent),
        caller_spans=caller,
        agent_spans=agent,
    )


def _replies(call: Conversation, caller: list[Span], agent: list[Span]) -> list[Reply]:
    """The first stretch of agent speech after each turn of the caller.

    Stretches of the caller with no agent start between them are one turn. A turn that ends while the agent still
    speaks has no reply time: there was no silence to measure.
    """
    replies = []
    previous = 0.0
    for began in agent:
        turn = [span for span in caller if previous <= span.end <= began.start]
        previous = began.start
        if not turn or any(a.start < turn[-1].end < a.end for a in agent):
            continue
        ended = turn[-1].end
        left = call.leaving(ended - 1 / RATE)
        frame_end = (int((ended - 1 / RATE) / FRAME_S + 1e-6) + 1) * FRAME_S
        late = max(0.0, left - frame_end)
        replies.append(Reply(turn[0].start, ended, began.start, (began.start - ended - late) * 1000, late * 1000))
    return replies


def _barge_ins(call: Conversation, caller: list[Span], agent: list[Span]) -> list[BargeIn]:
    found = []
    for span in caller:
        at = call.leaving(span.start)
        # A detector may react to a sound softer than our threshold, so a clear just before counts.
        clear = next((c for c in call.clears if at - COLLISION_S <= c <= at + YIELD_S), None)
        spoken = [a for a in agent if a.start + COLLISION_S < span.start]
        current = spoken[-1] if spoken else None
        if current is None or (clear is None and current.end < span.start + COLLISION_S):
            continue
        if current.end < span.start - LONGEST_HOLE_S:
            continue  # the clear hit an agent that had long fallen silent
        stop = max(0.0, current.end - at)
        found.append(BargeIn(at, None if clear is None else (clear - at) * 1000, stop * 1000, stop <= YIELD_S))
    return found


def _gaps(call: Conversation) -> tuple[list[Span], int]:
    level = levels(call.agent)
    voiced = level > threshold(level)
    edge = max(1, round(EDGE_S * RATE / WINDOW))
    gaps, excused = [], 0
    for hole in call.dry:
        first, last = int(hole.start * RATE) // WINDOW, int(np.ceil(hole.end * RATE / WINDOW))
        before, after = voiced[max(0, first - edge) : first + 1], voiced[max(0, last - 1) : last + edge]
        if hole.seconds > LONGEST_HOLE_S or not (before.any() and after.any()):
            continue
        if any(stall.start < hole.end and hole.start < stall.end for stall in call.stalls):
            excused += 1
        else:
            gaps.append(hole)
    return gaps, excused


def _overlap(one: list[Span], other: list[Span]) -> float:
    return sum(max(0.0, min(a.end, b.end) - max(a.start, b.start)) for a in one for b in other)


def _dead_air(caller: list[Span], agent: list[Span]) -> float:
    if not agent:
        return 0.0
    longest, until = 0.0, agent[0].start
    for span in sorted(caller + agent, key=lambda span: span.start):
        longest = max(longest, span.start - until)
        until = max(until, span.end)
    return longest


@dataclass(frozen=True, slots=True)
class Spread:
    """How a handful of values is spread; all None when there are none."""

    n: int
    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None


def spread(values: Sequence[float] | npt.NDArray[np.float64]) -> Spread:
    """Percentiles of values, by linear interpolation."""
    if not len(values):
        return Spread(0, None, None, None, None)
    p50, p95, p99 = (float(value) for value in np.percentile(values, [50, 95, 99]))
    return Spread(len(values), p50, p95, p99, float(np.max(values)))
