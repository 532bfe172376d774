"""Things to do later, in virtual time: the timers of all sessions of a user agent in one heap."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

COMPACT_AT: Final = 1024
"""Cancelled timers that the heap may hold before it is worth building it anew. A call leaves several behind: its
session timer would otherwise stay for half an hour."""

Action = Callable[[float], None]
"""What to do, given `now`."""


class Timer:
    """One thing to do later."""

    __slots__ = ("_action", "_owner", "at")

    def __init__(self, owner: Timers, at: float, action: Action) -> None:
        self._owner = owner
        self.at = at
        self._action: Action | None = action

    def cancel(self) -> None:
        """Never do it. Harmless when it was done or cancelled."""
        if self._action is not None:
            self._action = None
            self._owner._died()

    def _fire(self, now: float) -> None:
        action, self._action = self._action, None
        if action is not None:
            action(now)


class Timers:
    """A heap of timers. Nothing here knows the time: `run` is told it."""

    __slots__ = ("_dead", "_heap", "_order")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = 0
        self._dead = 0

    def __len__(self) -> int:
        """How many timers the heap holds, cancelled ones included."""
        return len(self._heap)

    def set(self, at: float, action: Action) -> Timer:
        """Do something at a time (monotonic seconds)."""
        timer = Timer(self, at, action)
        self._order += 1
        heapq.heappush(self._heap, (at, self._order, timer))
        return timer

    def next(self) -> float | None:
        """When `run` is due; None for never."""
        heap = self._heap
        while heap and heap[0][2]._action is None:
            heapq.heappop(heap)
            self._dead -= 1
        return heap[0][0] if heap else None

    def run(self, now: float) -> None:
        """Do all that is due, in order."""
        while (at := self.next()) is not None and at <= now:
            heapq.heappop(self._heap)[2]._fire(now)

    def _died(self) -> None:
        self._dead += 1
        if self._dead > COMPACT_AT and self._dead * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2]._action is not None]
            heapq.heapify(self._heap)
            self._dead = 0


class Repeater:
    """Sends a response again until the peer shows that it has it (RFC 3261 section 13.3.1.4, RFC 3262 section 3).

    Args:
        send: sends it once more.
        give_up: called instead when the patience is over.
        first: seconds until the first repetition; doubles each time, up to `longest`.
        patience: seconds until it gives up.
    """

    __slots__ = ("_deadline", "_interval", "_longest", "_send", "_timer", "_timers")

    def __init__(
        self,
        timers: Timers,
        send: Action,
        give_up: Action,
        now: float,
        *,
        first: float,
        longest: float,
        patience: float,
    ) -> None:
        self._timers, self._send = timers, send
        self._interval, self._longest = first, longest
        self._deadline = timers.set(now + patience, self._expire(give_up))
        self._timer = timers.set(now + first, self._again)

    def stop(self) -> None:
        """The peer has it."""
        self._timer.cancel()
        self._deadline.cancel()
        self._send = _nothing

    def _again(self, now: float) -> None:
        self._send(now)
        self._interval = min(self._interval * 2, self._longest)
        self._timer = self._timers.set(now + self._interval, self._again)

    def _expire(self, give_up: Action) -> Action:
        def expire(now: float) -> None:
            self.stop()
            give_up(now)

        return expire


def _nothing(now: float) -> None:
    """Left to a repeater that has been stopped: what it sent belongs to a call, which may belong to it."""
