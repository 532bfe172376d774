"""The one timer of all calls of a phone: reads their sockets, and sends their frames when they are due.

Calls are spread over `PHASES` of a frame, so that the packets of hundreds do not leave in one lump. A frame has an
absolute deadline; one that was missed is sent at the next chance, however many they are, for the caller's speech must
arrive whole. How late each was is the call's to note.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

from offhook.providers.rtp.sockets import Sockets

PERIOD: Final = 0.020
PHASES: Final = 10
STEP: Final = PERIOD / PHASES

EARLY: Final = 0.0002
"""Seconds by which a step may come before its time: timers of the event loop are rounded."""


class Paced(Protocol):
    """A call that sends a frame every 20 ms."""

    def tick(self, now: float) -> None:
        """Send the frames that are due by `now`, monotonic seconds. Must not block."""

    def broken(self, error: Exception) -> None:
        """`tick` or a datagram's taker has raised; it is not called again."""


class Pacer:
    """Runs only while there is a call. Made inside a running loop.

    Args:
        clock: monotonic seconds. Not the loop's, which some loops round to milliseconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.sockets = Sockets(late=-1.0)
        "Read every 2 ms; the kernel is asked when each datagram came."
        self._loop = asyncio.get_running_loop()
        self._phases: list[tuple[Paced, ...]] = [()] * PHASES
        self._often: dict[Callable[[float], None], None] = {}
        self._origin = clock()
        self._next = 0
        "Number of the next step since `_origin`."
        self._timer: asyncio.TimerHandle | None = None
        self._running = False

    def __len__(self) -> int:
        return sum(map(len, self._phases))

    def add(self, call: Paced) -> float:
        """Tick a call from now on.

        Returns:
            Second 0 of its track, monotonic: at most a frame ago. Its frame n is due n + 1 periods later.
        """
        now = self.clock()
        phase = min(range(PHASES), key=lambda number: len(self._phases[number]))
        self._phases[phase] += (call,)
        step = int((now - self._origin) / STEP)
        if self._timer is None and not self._running:
            self._next = step + 1
            self._wait(now)
        return self._origin + (step - (step - phase) % PHASES) * STEP

    def discard(self, call: Paced) -> None:
        """Leave it alone from now on, even within the present step; unknown ones are no error."""
        for number, phase in enumerate(self._phases):
            if call in phase:
                self._phases[number] = tuple(other for other in phase if other is not call)
        if self._timer is not None and not any(self._phases):
            self._timer.cancel()
            self._timer = None

    def often(self, flow: Callable[[float], None]) -> None:
        """Call this with the time every 2 ms while there is a call, until `seldom`. It must neither block nor raise."""
        self._often[flow] = None

    def seldom(self, flow: Callable[[float], None]) -> None:
        """Call it no more; unknown ones are no error."""
        self._often.pop(flow, None)

    def _wait(self, now: float) -> None:
        due = self._origin + self._next * STEP
        self._timer = self._loop.call_later(max(0.0, due - now), self._run)

    def _run(self) -> None:
        self._timer, self._running = None, True
        try:
            self._steps()
        finally:
            self._running = False
        if any(self._phases):
            self._wait(self.clock())

    def _steps(self) -> None:
        """Do what is due."""
        clock = self.clock
        self.sockets.read(clock())
        now = clock()
        for flow in tuple(self._often):
            flow(now)
        step = int((now + EARLY - self._origin) / STEP)
        for number in range(max(self._next, step - PHASES + 1), step + 1):
            phase = self._phases[number % PHASES]
            for call in phase:
                if self._phases[number % PHASES] is not phase and call not in self._phases[number % PHASES]:
                    continue  # another one's tick has ended it
                try:
                    call.tick(clock())
                except Exception as error:  # the root of what runs here: one call's mistake must not stop the others
                    self.discard(call)
                    call.broken(error)
        self._next = max(self._next, step + 1)
