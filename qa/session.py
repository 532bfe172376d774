"""The media socket of one simulated call: a `Line` on a WebSocket, 20 ms frames against absolute deadlines.

One task sends and one receives. Only the sender sends, so that the carrier's sequence numbers are in order; the
receiver wakes it when a message has made the carrier owe something sooner than the next frame.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from offhook.qa.line import Line

OPEN_TIMEOUT_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 2.0

MAX_UNSENT: Final = 160_000
"""Bytes that may wait for a bot that does not read, some ten seconds of audio; what comes then is lost, as it is at the
carriers (Twilio 31930, Plivo DegradedStream)."""

WRITE_LIMIT: Final = 1 << 20
"""Never reached, so that sending never waits and the clock of the frames stays the simulator's own."""

MAX_MESSAGE: Final = 16 << 20
"""Bytes of one message of the bot: a bot may send a whole minute of audio at once."""


class SocketRefused(Exception):
    """The media socket could not be opened. `status` is the HTTP status of the answer, 0 if there was none."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class MediaSession:
    """Runs one line over one media socket."""

    def __init__(self, line: Line, on_tick: Callable[[], None]) -> None:
        self.line = line
        self._on_tick = on_tick
        self._keys: list[str] = []
        self._wake = asyncio.Event()
        self._sleeps_until = 0.0
        self._socket: ClientConnection | None = None
        self.close_code = 0
        "RFC 6455 code with which the bot closed; 0: it did not."

    async def open(self, url: str, headers: dict[str, str]) -> None:
        """Open the socket at `url`. Raises SocketRefused."""
        try:
            self._socket = await connect(
                url,
                additional_headers=headers,
                user_agent_header=None,
                compression=None,
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
                ping_interval=None,
                proxy=None,
                max_size=MAX_MESSAGE,
                max_queue=None,
                write_limit=WRITE_LIMIT,
            )
        except InvalidHandshake as error:
            response = getattr(error, "response", None)
            raise SocketRefused(f"{url}: {error}", response.status_code if response else 0) from error
        except (OSError, TimeoutError, InvalidURI) as error:
            raise SocketRefused(f"{url}: {error or type(error).__name__}") from error

    async def run(self, until: asyncio.Event, opened: asyncio.Event) -> None:
        """Carry the call until the bot closes the socket or `until` is set; then say stop and close.

        `opened` is set when the first messages have been sent.
        """
        assert self._socket is not None
        socket = self._socket
        tasks = [
            asyncio.create_task(self._receive(socket), name="qa-receive"),
            asyncio.create_task(self._send(socket, opened), name="qa-send"),
            asyncio.create_task(until.wait(), name="qa-until"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            last_words = self.line.stop(time.monotonic())
        for task, result in zip(tasks, results, strict=True):
            if task in done and isinstance(result, Exception) and not isinstance(result, ConnectionClosed):
                raise result
        if socket.close_code is None:
            try:
                await self._send_all(socket, last_words)
                await socket.close()
                return
            except ConnectionClosed:  # the bot was first, by a moment
                await socket.wait_closed()
        self.close_code = socket.close_code or 0

    def press(self, digit: str) -> None:
        """Send a key."""
        self._keys.append(digit)
        self._wake.set()

    async def _send(self, socket: ClientConnection, opened: asyncio.Event) -> None:
        line = self.line
        await self._send_all(socket, line.open(time.monotonic()))
        opened.set()
        while True:
            due = line.frame_due
            owed = line.next_owed()
            await self._sleep(due if owed is None else min(due, owed))
            keys, self._keys = self._keys, []
            messages = [line.dtmf(digit) for digit in keys]
            now = time.monotonic()
            if now < due:
                messages += line.owed(now)
            elif socket.transport.get_write_buffer_size() > MAX_UNSENT:
                line.lose_frame(now)
            else:
                messages += line.frame(now)
            await self._send_all(socket, messages)
            self._on_tick()

    async def _sleep(self, until: float) -> None:
        self._sleeps_until = until
        delay = until - time.monotonic()
        if delay <= 0:
            await asyncio.sleep(0)
            return
        timer = asyncio.get_running_loop().call_later(delay, self._wake.set)
        await self._wake.wait()
        timer.cancel()
        self._wake.clear()

    async def _receive(self, socket: ClientConnection) -> None:
        while True:
            message = await socket.recv()
            self.line.receive(message, time.monotonic())
            owed = self.line.next_owed()
            if owed is not None and owed < self._sleeps_until:
                self._wake.set()

    async def _send_all(self, socket: ClientConnection, messages: list[bytes]) -> None:
        for message in messages:
            await socket.send(message, text=True)
