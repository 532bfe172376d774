"""A line and a phone without a wire: frames are stepped by hand, and the agent is a few lines of code."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from offhook.qa.activity import RATE, LiveActivity, Samples, Span
from offhook.qa.phones.base import (
    Ability,
    CallerLine,
    CallLog,
    CallOrder,
    LineEvent,
    Mouth,
    Operator,
    Phone,
    Unable,
    Way,
)
from offhook.qa.scenario.model import DtmfWay

FRAME = 160
SILENCE = np.zeros(FRAME, np.int16)


def voice(seconds: float, seed: int = 0) -> Samples:
    """Noise as loud as speech."""
    return np.asarray(np.random.default_rng(seed).normal(0, 3000, round(seconds * RATE)), np.int16)


@dataclass
class Agent:
    """Talks at given times, and answers when told to. Times are seconds on the track clock."""

    talks: Sequence[tuple[float, float]] = ()
    "From, to."
    answers_after: float | None = None
    "Seconds of silence after the caller's last voiced frame; None: it never answers."
    answer: float = 1.0
    "Length of an answer."
    stops_after: float | None = None
    "Seconds after the caller's first voiced frame, while it speaks; None: it is not to be stopped."
    hangs_up_at: float = math.inf
    events: Sequence[LineEvent] = ()
    _spans: list[Span] = field(default_factory=list)
    _answered: float = 0.0
    _voiced: Span | None = None

    def __post_init__(self) -> None:
        self._spans = [Span(start, end) for start, end in self.talks]

    def frame(self, at: float, caller: Samples) -> Samples:
        """What it says in the frame that ends at `at`, in which the caller said `caller`."""
        if np.sqrt(np.square(caller.astype(float)).mean()) > 600:
            start = self._voiced.start if self._voiced and at - self._voiced.end < 0.3 else at - 0.02
            self._voiced = Span(start, at)
        if self._voiced is not None:
            stop = math.inf if self.stops_after is None else self._voiced.start + self.stops_after
            self._spans = [
                Span(span.start, min(span.end, stop)) if span.start < self._voiced.start else span
                for span in self._spans
            ]
            if self.answers_after is not None and self._answered < self._voiced.end <= at - self.answers_after + 0.02:
                self._answered = self._voiced.end
                start = self._voiced.end + self.answers_after
                self._spans.append(Span(start, start + self.answer))
        speaks = any(span.start < at - 1e-6 and at <= span.end + 1e-6 for span in self._spans)
        return voice(0.02, round(at * 1000)) if speaks else SILENCE


class FakeLine(CallerLine):
    """Steps frames when told to, and keeps both tracks."""

    def __init__(self, agent: Agent | None = None, abilities: Sequence[Ability] = ("hold", "codec", "rfc4733")) -> None:
        self.agent = agent or Agent()
        self.activity = LiveActivity()
        self.mouth = Mouth()
        self.events = deque([LineEvent(0.0, "answered")])
        self.abilities = frozenset(abilities)
        self.said: list[Samples] = []
        self.heard: list[Samples] = []
        self.pressed: list[tuple[float, str, str]] = []
        self.did: list[tuple[float, str]] = []
        self.all_events = list(self.events)
        self.ended_by: Literal["", "agent", "caller"] = ""

    @property
    def seconds(self) -> float:
        return len(self.said) * FRAME / RATE

    def press(self, digits: str, way: DtmfWay, tone: float, gap: float) -> None:
        if way not in self.abilities:
            raise Unable(f"this line has no {way}")
        self.pressed.append((self.seconds, digits, way))

    def hang_up(self) -> None:
        self.did.append((self.seconds, "hang_up"))
        self.ended_by = self.ended_by or "caller"

    def hold(self) -> None:
        if "hold" not in self.abilities:
            super().hold()
        self.did.append((self.seconds, "hold"))

    def resume(self) -> None:
        self.did.append((self.seconds, "resume"))

    def change_codec(self, codec: str) -> None:
        if "codec" not in self.abilities:
            super().change_codec(codec)
        self.did.append((self.seconds, f"codec {codec}"))

    def step(self, operator: Operator) -> None:
        """One frame."""
        frame = self.mouth.frame()
        frame = SILENCE if frame is None else frame
        assert frame.dtype == np.int16
        assert len(frame) == FRAME
        self.said.append(frame)
        heard = self.agent.frame(self.seconds, frame)
        self.heard.append(heard)
        self.activity.feed(heard.tobytes())
        new = [event for event in self.agent.events if self.seconds - 0.02 < event.at <= self.seconds]
        self.events.extend(new)
        self.all_events.extend(new)
        operator.frame(self)

    def run(self, operator: Operator, seconds: float = 120.0) -> None:
        """Frames until somebody hangs up, then the end of the call."""
        while not self.ended_by and self.seconds < seconds:
            self.step(operator)
            if self.seconds >= self.agent.hangs_up_at - 1e-9:
                self.ended_by = "agent"
        operator.ended()

    @property
    def caller(self) -> Samples:
        return np.concatenate([*self.said, np.zeros(0, np.int16)])


class FakePhone(Phone):
    """Carries calls to agents of which each call gets a new one.

    Args:
        agent: makes one.
        pace: real seconds a frame takes; 0: as fast as the loop turns.
    """

    way: Way = "sip"

    def __init__(self, agent: Callable[[], Agent] = Agent, *, pace: float = 0.0, status: int = 200) -> None:
        self._agent = agent
        self._pace = pace
        self._status = status
        self.lines: list[FakeLine] = []

    async def carry(self, order: CallOrder, operator: Operator) -> CallLog:
        line = FakeLine(self._agent())
        self.lines.append(line)
        log = CallLog(order.call_id, self.way, order.target.to, began=0.0, status=self._status)
        if self._status == 200:
            log.answered, log.setup_ms, log.codec = True, 10.0, "PCMU"
            while not line.ended_by and line.seconds < order.timeout:
                line.step(operator)
                if line.seconds >= line.agent.hangs_up_at - 1e-9:
                    line.ended_by = "agent"
                await asyncio.sleep(self._pace)
        operator.ended()
        log.seconds = line.seconds
        log.caller, log.agent = line.caller, np.concatenate([*line.heard, np.zeros(0, np.int16)])
        log.left_at = [0.02 * (n + 1) for n in range(len(line.said))]
        log.lateness = [0.0] * len(line.said)
        log.due = len(line.said)
        log.events = line.all_events
        log.pressed = [(at, key) for at, digits, _ in line.pressed for key in digits]
        log.ended_by = line.ended_by or "timeout"
        return log
