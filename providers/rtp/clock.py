"""One timer for every leg that is paced by us: RTP, AudioSocket.

A frame is 20 ms. The calls are spread over four phases of 5 ms, so that the packets of hundreds of calls do not
leave in one lump. Each call is ticked every 20 ms on the grid of its phase. When the loop was held up, a phase that
was missed is ticked once, not once for every 20 ms that went by, and the grid stays where it was: what a call owes
its peer for the time that was missed is the call's own affair.

Before a phase is ticked, the sockets of all calls are read.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from offhook.providers.rtp.sockets import Sockets

PERIOD: Final = 0.020
"""Seconds between two ticks of a call."""

PHASES: Final = 4


class Tickable(Protocol):
    """A call that has something to send every 20 ms."""

    def tick(self, now: float) -> None:
        """Send what is owed by `now`, the loop's time. Must neither block nor raise."""


class FrameClock:
    """The shared timer; it runs only while there is something to tick. Made inside a running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._phases: list[tuple[Tickable, ...]] = [()] * PHASES
        self.sockets = Sockets()
        "What is read every 5 ms while the clock runs."
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._next = 0
        "Which phase is due at `_due`."
        self.ticks = 0
        "Phases that were run."
        self.late_ticks = 0
        "Phases that came a whole period late, or later: packets of ours left late then."

    def __len__(self) -> int:
        return sum(map(len, self._phases))

    def add(self, tickable: Tickable) -> int:
        """Tick it every 20 ms from now on, in the emptiest phase, which is returned."""
        phase = min(range(PHASES), key=lambda number: len(self._phases[number]))
        self._phases[phase] += (tickable,)
        if self._timer is None:
            self._due = self._loop.time() + PERIOD / PHASES
            self._next = phase
            self._timer = self._loop.call_at(self._due, self._tick)
        return phase

    def discard(self, tickable: Tickable) -> None:
        """Leave it alone from now on, even within the present tick; unknown ones are no error."""
        for number, phase in enumerate(self._phases):
            if tickable in phase:
                self._phases[number] = tuple(other for other in phase if other is not tickable)

    def _tick(self) -> None:
        loop, phases = self._loop, self._phases
        now = loop.time()
        if self.sockets:
            self.sockets.read(now)
            now = loop.time()
        # Every phase that is due, each once, whatever was missed.
        for _ in range(PHASES):
            number = self._next
            if now - self._due >= PERIOD:
                self.late_ticks += 1
            self.ticks += 1
            present = phases[number]
            for tickable in present:
                if phases[number] is not present and tickable not in phases[number]:
                    continue  # another one's tick has ended this call
                try:
                    tickable.tick(now)
                except Exception as error:
                    self._broken(tickable, error)
            self._next = (number + 1) % PHASES
            self._due += PERIOD / PHASES
            if self._due > now:
                break
        if now - self._due >= 0:
            missed = int((now - self._due) / PERIOD) + 1
            self._due += missed * PERIOD
        self._timer = loop.call_at(self._due, self._tick) if any(phases) else None

    def _broken(self, tickable: Tickable, error: Exception) -> None:
        """This is the root of what runs here: one call's mistake must not silence the others."""
        self.discard(tickable)
        self._loop.call_exception_handler({"message": f"{type(tickable).__name__}.tick failed", "exception": error})
