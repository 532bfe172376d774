"""Who yields to whom: replies, interruptions, back-channels, and the agent speaking into the caller's turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from offhook.qa.activity import Span
from offhook.qa.measure import COLLISION_S, YIELD_S
from offhook.qa.measuring.timeline import Utterance, network_back, network_out
from offhook.qa.phones.base import CallLog

PAUSE_S: Final = 0.35
"""A shorter silence of an interrupted agent is a pause between two words or sentences, whoever speaks."""

STOPPED_S: Final = 1.0
"""A silence of this length is no pause any more, even if the caller still speaks."""

REACTION_S: Final = 0.05
"""No agent hears a voice and is silent within this; the quickest need 70 ms over SIP."""

KEEPS_TALKING_S: Final = 1.0
"""An agent that is silent so shortly after a back-channel began stopped for it."""

WAITED_S: Final = 2.0
"""A caller who listened for less than this after its turn did not wait for an answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The agent answers a turn of the caller."""

    caller_ended: float
    "When the last voiced caller sample was on the wire."
    agent_began: float
    v2v_ms: float
    step: int | None
    name: str


@dataclass(frozen=True, slots=True)
class Interruption:
    """The caller made a sound while the agent spoke."""

    utterance: Utterance
    at: float
    "When its first voiced sample was on the wire."
    stopped: float | None
    "The agent's last voiced sample before it fell silent; None: it talked on to the end of the call."
    stop_ms: float | None
    "From `at`, the network's round trip taken out. Of an agent that never stopped: how long it talked on."
    clear_ms: float | None
    yielded: bool
    "It fell silent within 2 s; for an aside: within 1 s of its beginning."

    @property
    def aside(self) -> bool:
        """It was a back-channel, a cough: nothing to stop for."""
        return self.utterance.kind == "aside"


@dataclass(slots=True)
class TurnTaking:
    """All of it, of one call."""

    replies: list[Reply]
    interruptions: list[Interruption]
    interrupts: list[float]
    asked: int
    answered: int


def take(log: CallLog, said: Sequence[Utterance], agent: Sequence[Span], *, end_silence: float) -> TurnTaking:
    """Find out who yielded to whom.

    Args:
        log: the call.
        said: what the caller said, in order.
        agent: where the agent speaks, in order.
        end_silence: seconds of silence after which the agent's turn is over.
    """
    interruptions = [
        found for utterance in said if (found := _interruption(log, utterance, agent, end_silence)) is not None
    ]
    talked_over = {id(found.utterance): found for found in interruptions}
    replies: list[Reply] = []
    asked = answered = 0
    groups = _groups([utterance for utterance in said if utterance.kind == "turn"], agent)
    for number, last in enumerate(groups):
        until = groups[number + 1].left if number + 1 < len(groups) else math.inf
        over = talked_over.get(id(last))
        began = next((span.start for span in agent if last.done <= span.start < until), None)
        speaking = any(span.start < last.done < span.end for span in agent)
        if began is not None and not speaking and (over is None or over.yielded):
            v2v = (began - last.done - network_out(log, last.done) - network_back(log, began)) * 1000
            replies.append(Reply(last.done, began, v2v, last.step, last.name))
        if began is not None or speaking:
            asked, answered = asked + 1, answered + 1
        elif min(until, log.seconds) - last.done >= WAITED_S:
            asked += 1
    return TurnTaking(replies, interruptions, _interrupts(said, agent, talked_over), asked, answered)


def _groups(turns: Sequence[Utterance], agent: Sequence[Span]) -> list[Utterance]:
    """The last utterance of each turn: what is said with no beginning of the agent's in between is one turn."""
    lasts: list[Utterance] = []
    for turn in turns:
        if lasts and not any(lasts[-1].done <= span.start < turn.left for span in agent) and _next(lasts[-1], turn):
            lasts[-1] = turn
        else:
            lasts.append(turn)
    return lasts


def _next(one: Utterance, other: Utterance) -> bool:
    """Whether the other follows so soon that the one was not waited for."""
    return other.left - one.done < WAITED_S


def _interruption(log: CallLog, utterance: Utterance, agent: Sequence[Span], end_silence: float) -> Interruption | None:
    at = utterance.left
    place = next((n for n, span in enumerate(agent) if span.end > at), None)
    clear = next((c for c in log.clears if at - COLLISION_S <= c <= at + YIELD_S), None)
    current = agent[place] if place is not None else None
    before = agent[place - 1] if place else (agent[-1] if place is None and agent else None)
    if current is not None and current.start + COLLISION_S <= at:
        ended, place_of_end = _stop(agent, place or 0, at, utterance.done, clear)
        if clear is None and ended < at + (COLLISION_S if utterance.verb == "say" else REACTION_S):
            return None  # it was ending anyway
    elif before is not None and at - before.end <= end_silence and utterance.verb != "say":
        # In a pause of the agent's turn: an interruption only if the agent meant to go on.
        goes_on = current is not None and current.start <= min(before.end + end_silence, utterance.done)
        if goes_on and current is not None and place is not None:
            ended, place_of_end = _stop(agent, place, at, utterance.done, clear)
        elif clear is not None:
            ended, place_of_end = before.end, agent.index(before)
        else:
            return None
    else:
        return None
    to_the_end = place_of_end == len(agent) - 1 and ended > log.seconds - COLLISION_S
    there = network_out(log, at)
    network = there + network_back(log, ended)
    stop_ms = max(0.0, (ended - at - network) * 1000)
    clear_ms = None if clear is None else (clear - at - there - network_back(log, clear)) * 1000
    if utterance.kind == "aside":
        window = KEEPS_TALKING_S + network
        resumed = place_of_end + 1 < len(agent) and agent[place_of_end + 1].start - ended <= end_silence
        yielded = not to_the_end and ended <= at + window and not resumed
    else:
        yielded = ended <= at + YIELD_S + network and not to_the_end
    return Interruption(utterance, at, None if to_the_end else ended, stop_ms, clear_ms, yielded)


def _stop(agent: Sequence[Span], place: int, at: float, caller_ended: float, clear: float | None) -> tuple[float, int]:
    """Where the agent, speaking in the stretch at `place`, falls silent: the end, and the number of the stretch."""
    for number in range(place, len(agent) - 1):
        end, resumes = agent[number].end, agent[number + 1].start
        silent = resumes - end
        ordered = clear is not None and at - COLLISION_S <= clear <= resumes and clear <= end + PAUSE_S
        after_caller = silent >= PAUSE_S and resumes >= caller_ended
        if ordered or after_caller or silent >= STOPPED_S:
            return end, number
    return agent[-1].end, len(agent) - 1


def _interrupts(said: Sequence[Utterance], agent: Sequence[Span], talked_over: dict[int, Interruption]) -> list[float]:
    """When the agent began to speak in the midst of a turn, not counting one that never stopped."""
    found: list[float] = []
    for utterance in said:
        if utterance.kind == "aside":
            continue
        over = talked_over.get(id(utterance))
        since = utterance.left + COLLISION_S
        if over is not None:
            if over.stopped is None or not over.yielded:
                continue
            since = max(since, over.stopped)
        begins = next((span.start for span in agent if since < span.start < utterance.done), None)
        if begins is not None:
            found.append(begins)
    return found
