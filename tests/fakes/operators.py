"""Callers of test calls, written as generators that are advanced once a frame."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from offhook.qa.activity import Samples
from offhook.qa.line import SpeechQueue
from offhook.qa.phones.base import CallerLine, CallLog, LineEvent

Act = Callable[["Acting", CallerLine], Iterator[None]]

PUNCTUAL_S: Final = 0.010
"""A frame later than this was held up by something else on this machine, and so was what came back."""


async def punctual(call: Callable[[], Awaitable[CallLog]]) -> CallLog:
    """A call all of whose frames left on time: made again, three times in all, where the machine was too busy."""
    for _ in range(2):
        log = await call()
        if max(log.lateness) <= PUNCTUAL_S:
            return log
    return await call()


class Acting:
    """An `Operator` that does what a generator says, and hangs up when it is through."""

    def __init__(self, act: Act) -> None:
        self._act = act
        self._run: Iterator[None] | None = None
        self._mouth = SpeechQueue()
        self.events: list[LineEvent] = []
        self.frames = 0
        self.over = False

    def frame(self, line: CallerLine) -> None:
        if self._run is None:
            line.mouth = self._mouth
            self._run = self._act(self, line)
        self.frames += 1
        self.events += line.events
        line.events.clear()
        try:
            next(self._run)
        except StopIteration:
            line.hang_up()

    def ended(self) -> None:
        assert not self.over
        self.over = True

    # --- what generators yield from ---

    def say(self, speech: Samples) -> Iterator[None]:
        self._mouth.say(speech)
        while self._mouth.saying:
            yield

    def until(self, true: Callable[[], bool], seconds: float, line: CallerLine) -> Iterator[None]:
        """Wait until it is true, for so long at most."""
        end = line.seconds + seconds
        while not true() and line.seconds < end:
            yield

    def turn(self, line: CallerLine, seconds: float = 5.0, silence: float = 0.3) -> Iterator[None]:
        """Wait until the agent has spoken and fallen silent again."""
        activity = line.activity
        yield from self.until(lambda: activity.speaking_since is not None, seconds, line)
        yield from self.until(lambda: activity.silent_for() >= silence, seconds, line)

    def saw(self, kind: str) -> bool:
        return any(event.kind == kind for event in self.events)


def listen(seconds: float) -> Act:
    """Say nothing for a while."""

    def act(self: Acting, line: CallerLine) -> Iterator[None]:
        yield from self.until(lambda: False, seconds, line)

    return act
