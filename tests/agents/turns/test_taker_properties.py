"""What must hold whatever a call brings, tried on calls made up at random."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offhook.agents.turns.events import (
    AskModel,
    Decision,
    Discard,
    EndTurn,
    Finalize,
    Hold,
    Interrupt,
    Prepare,
    Resume,
)
from offhook.agents.turns.settings import TurnSettings
from offhook.agents.turns.taker import TurnTaker

LAST = 60.0
"""Seconds after which everything must have settled."""

tried = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

modes = st.fixed_dictionaries(
    {
        "end": st.sampled_from(["silence", "transcript", "model", "auto"]),
        "interrupt": st.sampled_from(["vad", "words", "transcript", "off"]),
        "eager": st.booleans(),
    }
)


# --- any events at all ------------------------------------------------------------------

texts = st.sampled_from(["", "yes", "uh-huh", "I", "I see", "I want", "I want to go.", "my number is", "um", "no no"])

events: st.SearchStrategy[tuple[str, Any]] = st.one_of(
    st.tuples(st.just("speech_started"), st.floats(0, 0.2)),
    st.tuples(st.just("speech_stopped"), st.floats(0, 0.2)),
    st.tuples(st.just("partial"), texts),
    st.tuples(st.just("final"), texts),
    st.tuples(st.just("answer"), texts),
    st.tuples(st.just("service_heard_speech"), st.none()),
    st.tuples(st.just("service_ended_turn"), texts),
    st.tuples(st.just("service_eager"), texts),
    st.tuples(st.just("service_resumed"), st.none()),
    st.tuples(st.just("verdict"), st.tuples(st.integers(1, 4), st.one_of(st.none(), st.floats(0, 1)))),
    st.tuples(st.just("agent_speaking"), st.booleans()),
    st.tuples(st.just("uninterruptible"), st.none()),
    st.tuples(st.just("ending"), st.floats(0, 1)),
    st.tuples(st.just("mute"), st.booleans()),
    st.tuples(st.just("reset"), st.none()),
)

calls = st.lists(st.tuples(st.floats(0, 1.5), events), max_size=40)


def feed(taker: TurnTaker, event: tuple[str, Any], now: float) -> list[Decision]:
    name, what = event
    match name:
        case "speech_started" | "speech_stopped":
            return getattr(taker, name)(now - what, now)  # type: ignore[no-any-return]
        case "answer":
            return taker.final(what, now, answers_finalize=True)
        case "verdict":
            return taker.verdict(*what, now)
        case "uninterruptible":
            return taker.agent_speaking(True, now, interruptible=False)
        case "ending":
            return taker.agent_speaking(True, now, until=now + what)
        case "service_heard_speech" | "service_resumed" | "reset":
            return getattr(taker, name)(now)  # type: ignore[no-any-return]
        case _:
            return getattr(taker, name)(what, now)  # type: ignore[no-any-return]


def punctual(taker: TurnTaker, call: list[tuple[float, tuple[str, Any]]]) -> Iterator[Decision]:
    """Play a call with a timer that is never late."""
    now = 1.0
    for wait, event in [*call, (LAST, ("reset", None))]:
        now += wait
        while (deadline := taker.deadline) is not None and deadline <= now:
            yield from taker.tick(deadline)
            assert taker.deadline is None or taker.deadline > deadline, "the same deadline for ever"
        yield from feed(taker, event, now)
        assert taker.deadline is None or taker.deadline > now


def bare(decisions: list[Decision]) -> list[Decision]:
    return [
        dataclasses.replace(decision, decided_at=0.0) if isinstance(decision, EndTurn) else decision
        for decision in decisions
    ]


@given(modes, st.booleans(), calls)
@tried
def test_decisions_come_in_an_order_that_makes_sense(mode: dict[str, Any], ends: bool, call: Any) -> None:
    taker = TurnTaker(TurnSettings(**mode), stt_ends_turns=ends, has_model=True)
    held = prepared = False
    asked = 0
    for decision in punctual(taker, call):
        match decision:
            case Hold():
                assert not held, "held twice"
                held = True
            case Resume():
                assert held, "nothing was held"
                held = False
            case Interrupt():
                held = False
            case EndTurn(text=text):
                assert not held, "a turn, and the agent does not know what to do with its breath"
                assert text.strip()
                prepared = False
            case Prepare(text=text):
                assert text.strip()
                assert not prepared, "prepared twice"
                prepared = True
            case Discard():
                assert prepared, "nothing was prepared"
                prepared = False
            case AskModel(number=number):
                assert number == asked + 1
                asked = number
    assert not held, "held for ever"
    assert not prepared


@given(modes, st.booleans(), calls, st.data())
@tried
def test_ticks_in_between_and_a_late_timer_change_nothing(
    mode: dict[str, Any], ends: bool, call: Any, data: st.DataObject
) -> None:
    def taker() -> TurnTaker:
        return TurnTaker(TurnSettings(**mode), stt_ends_turns=ends, has_model=True)

    expected = bare(list(punctual(taker(), call)))

    late, now, decided = taker(), 1.0, []
    for wait, event in [*call, (LAST, ("reset", None))]:
        if data.draw(st.booleans()):
            decided += late.tick(now + wait * data.draw(st.floats(0, 1)))
        now += wait
        decided += feed(late, event, now)
        if event[0] == "partial":
            decided += feed(late, event, now)  # some services repeat themselves
    assert bare(decided) == expected


# --- a world that makes sense -----------------------------------------------------------


@dataclass(order=True)
class Event:
    at: float
    order: int
    do: Callable[[float], list[Decision]] = field(compare=False)


class World:
    """A caller who says every word once, a service that hears him, and an agent that answers and obeys."""

    def __init__(self, taker: TurnTaker, lag: float, speaks_up: bool, streams: bool) -> None:
        self.taker = taker
        self.lag, self.speaks_up, self.streams = lag, speaks_up, streams
        self.events: list[Event] = []
        self.words = 0
        self.given = 0
        self.decided: list[Decision] = []

    def plan(self, at: float, do: Callable[[float], list[Decision]]) -> None:
        heapq.heappush(self.events, Event(at, len(self.events) + self.words, do))

    def say(self, at: float, count: int) -> float:
        """Plan `count` words from `at` on; gives the second after the last."""
        end = at + 0.3 * count
        if self.speaks_up:
            self.plan(at + 0.03, lambda now: self.taker.speech_started(at, now))
            self.plan(end + 0.13, lambda now: self.taker.speech_stopped(end, now))
        for n in range(count):
            self.plan(at + 0.3 * (n + 1) + self.lag, self._word)
        self.plan(end + self.lag + 1.0, lambda now: self.final(now, asked=False))
        return end

    def _word(self, now: float) -> list[Decision]:
        self.words += 1
        return self.taker.partial(self._stretch(), now) if self.streams else []

    def _stretch(self) -> str:
        return " ".join(f"word{n}" for n in range(self.given, self.words))

    def final(self, now: float, asked: bool = True) -> list[Decision]:
        if not asked and not self.streams:
            return []
        text, self.given = self._stretch(), self.words
        return self.taker.final(text, now, answers_finalize=asked)

    def run(self, end: float) -> None:
        while True:
            due = [at for at in (self.taker.deadline, self.events[0].at if self.events else None) if at is not None]
            if not due or min(due) > end:
                return
            if self.events and self.events[0].at == min(due):
                event = heapq.heappop(self.events)
                made = event.do(event.at)
            else:
                made = self.taker.tick(min(due))
            self.decided += made
            for decision in made:
                self._obey(decision, min(due))

    def _obey(self, decision: Decision, now: float) -> None:
        match decision:
            case Finalize():
                self.plan(now + self.lag, self.final)
            case Hold() | Interrupt():
                self.plan(now, lambda at: self.taker.agent_speaking(False, at))
            case Resume():
                self.plan(now + 0.1, lambda at: self.taker.agent_speaking(True, at))
            case EndTurn():
                self.plan(now + 0.5, lambda at: self.taker.agent_speaking(True, at))
                self.plan(now + 2.0, lambda at: self.taker.agent_speaking(False, at))


@given(
    modes,
    st.lists(st.tuples(st.floats(0.15, 6), st.integers(1, 6)), min_size=1, max_size=8),
    st.lists(st.tuples(st.floats(0, 30), st.floats(0.1, 4), st.booleans()), max_size=4),
    st.floats(0.02, 0.9),
    st.booleans(),
    st.booleans(),
)
@tried
def test_every_word_is_answered_once(
    mode: dict[str, Any], speech: Any, agent: Any, lag: float, speaks_up: bool, streams: bool
) -> None:
    taker = TurnTaker(TurnSettings(**mode), has_model=True)
    world = World(taker, lag, speaks_up or not streams, streams)
    at = 1.0
    for pause, count in speech:
        at = world.say(at + pause, count)
    for start, length, interruptible in agent:
        world.plan(start, lambda now, how=interruptible: taker.agent_speaking(True, now, interruptible=how))  # type: ignore[misc]
        world.plan(start + length, lambda now: taker.agent_speaking(False, now))
    world.plan(at + 40, world.final)
    world.plan(at + 45, lambda now: taker.agent_speaking(False, now))
    world.run(at + 100)
    answered = [word for turn in world.decided if isinstance(turn, EndTurn) for word in turn.text.split()]
    assert len(answered) == len(set(answered)), "answered twice"
    said = {f"word{n}" for n in range(world.words)}
    assert said == {*answered, *taker.text.split()}, "lost"
