"""The media socket of one simulated call: a `Line` on a WebSocket, 20 ms frames against absolute deadlines.

Theory of operation
-------------------
No task runs per frame. A timer is set for whatever is due next: the caller's frame, or before that a message that the
carrier owes (a mark that was reached), or one that a slow network lets through. What the bot sends is handled as it
arrives. Everything is sent from one thread in the order it was built, so the carrier's sequence numbers are in order.

A network that is not perfect lies between the line and the socket, in both directions, on the track clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from offhook.qa.line import Line
from offhook.qa.network.model import Delays, Transit, both_ways
from offhook.qa.scenario.model import Network
from offhook.qa.websocket import MediaSocket, SocketRefused

__all__ = ["MediaSession", "SocketRefused"]

MAX_UNSENT: Final = 160_000
"""Bytes that may wait for a bot that does not read, some ten seconds of audio; what comes then is lost, as it is at the
carriers (Twilio 31930, Plivo DegradedStream)."""

STEP_S: Final = 0.005
"""Streams open on steps of this. So many calls have their frames due in the same moments, and the machine wakes up for
all of them at once: that halves what a frame costs."""

TCP_HEAD: Final = 54
"""Bytes that IPv4, TCP and WebSocket add to a message, as far as a slow link is concerned."""


class MediaSession:
    """Runs one line over one media socket.

    Args:
        line: the audio.
        on_tick: called whenever the line has moved on: after every frame, and after messages in between.
        network: what lies between; None: nothing.
        seed: of that network.
        binary: caller audio goes as binary messages, as on the agent link.
    """

    def __init__(
        self,
        line: Line,
        on_tick: Callable[[], None],
        *,
        network: Network | None = None,
        seed: int = 1,
        binary: bool = False,
    ) -> None:
        self.line = line
        self.close_code = 0
        "RFC 6455 code with which the bot closed; 0: it did not."
        self.was_reset = False
        "The network broke the connection off, as it was told to."
        self._on_tick = on_tick
        self._text = not binary
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        "When the timer rings; kept here, for what uvloop gives out for a moment that has come cannot tell."
        self._socket: MediaSocket | None = None
        self._broken = asyncio.Event()
        self._error: Exception | None = None
        self._out: Transit[tuple[bytes, bool]] | None = None
        self._back: Transit[str | bytes] | None = None
        self._reset_at: float | None = None
        self.added_out: Delays | None = None
        "What the network added to each of our messages, by the track second at which it was sent."
        self.added_back: Delays | None = None
        "The same of the bot's, by the second at which it arrived."
        if network is not None:
            out, back = both_ways(network, seed, ordered=True)
            self._out, self._back, self._reset_at = Transit(out), Transit(back), network.reset
            self.added_out, self.added_back = Delays(), Delays()

    @property
    def network_delay(self) -> float:
        """Mean seconds that the network added one way."""
        if self._out is None or self._back is None:
            return 0.0
        ways = [way.model for way in (self._out, self._back) if way.model.sent]
        return sum(model.mean_delay for model in ways) / len(ways) if ways else 0.0

    async def open(self, url: str, headers: dict[str, str]) -> None:
        """Open the socket at `url`. Raises SocketRefused."""
        self._socket = await MediaSocket.connect(url, headers)

    async def ask(self, message: bytes) -> str | bytes:
        """Send a text message before the stream begins, and give what is answered. Raises ConnectionError."""
        assert self._socket is not None
        self._socket.send(message, text=True)
        return await self._socket.receive()

    async def close(self) -> None:
        """Close the socket, when there is to be no stream."""
        if self._socket is not None:
            await self._socket.close()

    async def run(self, until: asyncio.Event, opened: asyncio.Event) -> None:
        """Carry the call until the bot closes the socket or `until` is set; then say stop and close.

        `opened` is set when the first messages have been sent.
        """
        assert self._socket is not None
        socket = self._socket
        opens = (time.monotonic() // STEP_S + 1) * STEP_S
        await asyncio.sleep(opens - time.monotonic())
        self._send(socket, self.line.open(opens))
        opened.set()
        socket.listen(self._received)
        self._arm()
        ends = [
            asyncio.create_task(socket.closed.wait(), name="qa-closed"),
            asyncio.create_task(until.wait(), name="qa-until"),
            asyncio.create_task(self._broken.wait(), name="qa-broken"),
        ]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            socket.listen(_ignore)
            if self._out is not None:  # what is under way gets there, only sooner
                for _, (message, text) in self._out.due(float("inf")):
                    socket.send(message, text=text)
            for message in self.line.stop(time.monotonic()):
                socket.send(message, text=True)
            self.close_code = socket.close_code or 0
            await socket.close()
        if self._error is not None:
            raise self._error

    def press(self, digit: str) -> None:
        """Send a key."""
        if self._socket is not None:
            self._send(self._socket, [self.line.dtmf(digit)])

    def _arm(self) -> None:
        """Set the timer for what is due next."""
        line = self.line
        due = line.frame_due
        owed = line.next_owed()
        if owed is not None and owed < due:
            due = owed
        if self._out is not None and self._back is not None:
            for way in (self._out, self._back):
                if (at := way.next_at) is not None and line.started + at < due:
                    due = line.started + at
        timer = self._timer
        if timer is not None:
            if self._due == due:
                return
            timer.cancel()
        self._timer, self._due = self._loop.call_at(due, self._tick), due

    def _tick(self) -> None:
        self._timer = None
        try:
            self._move_on()
        except Exception as error:  # the root of what runs here: `run` raises it
            self._error = error
            self._broken.set()
            return
        if not self._broken.is_set():
            self._arm()

    def _move_on(self) -> None:
        socket, line = self._socket, self.line
        assert socket is not None
        now = time.monotonic()
        if self._back is not None:
            for at, message in self._back.due(now - line.started):
                line.receive(message, line.started + at)
        if now < line.frame_due:
            self._send(socket, line.owed(now))
        elif socket.unsent > MAX_UNSENT:
            line.lose_frame(now)
        else:
            messages = line.frame(now)
            if self._text:
                self._send(socket, messages)
            else:
                self._send(socket, messages[:1], text=False)
                self._send(socket, messages[1:])
        if self._out is not None:
            for _, (sent, text) in self._out.due(now - line.started):
                socket.send(sent, text=text)
        if self._reset_at is not None and now - line.started >= self._reset_at:
            self.was_reset, self._reset_at = True, None
            socket.abort()
        self._on_tick()

    def _received(self, message: str | bytes) -> None:
        now = time.monotonic()
        line = self.line
        if self._back is not None:
            at = now - line.started
            arrives = self._back.put(message, len(message) + TCP_HEAD, at)
            if arrives is not None and self.added_back is not None:
                self.added_back.note(arrives, arrives - at)
        else:
            line.receive(message, now)
            owed = line.next_owed()
            if owed is None or (self._timer is not None and owed >= self._due):
                return
        self._arm()

    def _send(self, socket: MediaSocket, messages: list[bytes], *, text: bool = True) -> None:
        if self._out is None:
            for message in messages:
                socket.send(message, text=text)
        else:
            at = time.monotonic() - self.line.started
            for message in messages:
                arrives = self._out.put((message, text), len(message) + TCP_HEAD, at)
                if arrives is not None and self.added_out is not None:
                    self.added_out.note(at, arrives - at)


def _ignore(message: str | bytes) -> None:
    """What comes after the end is heard by nobody."""
