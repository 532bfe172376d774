"""The TCP server that Asterisk's AudioSocket connects to.

A thin shell: `providers.asterisk.audiosocket` knows the protocol, the shared frame clock takes a frame from each
connection's stream every 20 ms, and what is said goes to whatever `connect` makes of a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final, Protocol, cast

import structlog

from offhook.providers.asterisk.adapter import AsteriskProvider
from offhook.providers.asterisk.audiosocket import HANGUP, AudioSocketStream
from offhook.providers.base import Binary
from offhook.providers.rtp.clock import PERIOD, FrameClock

log = structlog.get_logger("offhook.gateway.audiosocket")

MAX_CONNECTIONS: Final = 2000
"""Connections at once: more than one process carries calls."""

MAX_UNNAMED: Final = 100
"""Connections at once that have not said which call they are. Asterisk says it with its first packet."""

DEAD_AFTER: Final = 10.0
"""Seconds that what we sent may stay unacknowledged: the peer is gone. We send all the time."""

MAX_OWED: Final = 0.2
"""Seconds of audio made up for after the loop was held up, one frame more a tick, for Asterisk passes on at once what
it gets; what is older is skipped, and silence always is."""

UNSENT_LIMIT: Final = 16 * 1024
"""Bytes that may wait for a peer that does not read: frames beyond are dropped, for they would only come late."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds Asterisk may take to close after our hang-up, before the connection is cut."""

NORMAL: Final = 1000
ABNORMAL: Final = 1006
"""How a connection ended, in the close codes of RFC 6455 7.4.1."""


class Line(Protocol):
    """What takes what a connection says: `gateway.direct.DirectLine`."""

    def receive(self, data: bytes, is_text: bool) -> None:
        """Take what was read."""

    def lost(self, code: int) -> None:
        """The connection is gone."""


class AudioSocketServer:
    """Takes AudioSocket connections. Made inside a running loop."""

    def __init__(
        self,
        provider: AsteriskProvider,
        connect: Callable[[AudioSocketStream, AudioSocketConnection], Line],
        clock: FrameClock,
    ) -> None:
        """Prepare; nothing listens yet.

        Args:
            provider: whose `audiosocket` settings say where to listen.
            connect: makes the line of a connection that was admitted, from its stream and the connection itself.
            clock: paces what goes out.
        """
        self.provider, self.connect, self.clock = provider, connect, clock
        self.connections: set[AudioSocketConnection] = set()
        self.unnamed = 0
        "How many of them have not said which call they are."
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen; gives the port. Raises OSError when the address cannot be bound."""
        settings = self.provider.audiosocket
        assert settings is not None, "AudioSocket is not configured"
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: AudioSocketConnection(self), settings.host, settings.port)
        port: int = self._server.sockets[0].getsockname()[1]
        log.info("listening for AudioSocket", host=settings.host, port=port)
        return port

    def admits(self, host: str) -> bool:
        """Whether a further connection from this address is taken."""
        if not self.provider.admits(host):
            log.warning("AudioSocket connection from a source that is not listed", source=host)
            return False
        if len(self.connections) >= MAX_CONNECTIONS or self.unnamed >= MAX_UNNAMED:
            log.warning("too many AudioSocket connections", source=host, connections=len(self.connections))
            return False
        return True

    async def close(self) -> None:
        """Stop listening and cut every connection."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for connection in tuple(self.connections):
            connection.abort()
        if server is not None:
            await server.wait_closed()


class AudioSocketConnection(asyncio.Protocol):
    """One connection: the socket of a call, as `gateway.direct` wants it."""

    _transport: asyncio.Transport
    _line: Line | None = None
    _named = False
    _closing = False
    _said_bye = False
    _due = 0.0
    _closer: asyncio.TimerHandle | None = None

    def __init__(self, server: AudioSocketServer) -> None:
        self._server = server
        self.stream = server.provider.audiosocket_stream()

    # --- what asyncio tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        if not self._server.admits(str(transport.get_extra_info("peername")[0])):
            self._closing = True
            self._transport.abort()
            return
        sock: socket.socket = transport.get_extra_info("socket")
        with contextlib.suppress(OSError, AttributeError):  # not Linux: a dead peer is noticed later
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(DEAD_AFTER * 1000))
        self._server.connections.add(self)
        self._server.unnamed += 1
        self._line = self._server.connect(self.stream, self)

    def data_received(self, data: bytes) -> None:
        if self._line is None or self._closing:
            return
        self._line.receive(data, False)
        if not self._named and self.stream.stream_id:
            self._named = True
            self._server.unnamed -= 1
            if not self._closing:
                self._server.clock.add(self)

    def eof_received(self) -> None:
        """Asterisk has closed; None makes asyncio close too."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        if self._closer is not None:
            self._closer.cancel()
        self._server.clock.discard(self)
        if self in self._server.connections:
            self._server.connections.discard(self)
            self._server.unnamed -= not self._named
        if self._line is not None:
            # Asterisk closes while our frames are on their way, which makes its close a reset.
            orderly = exc is None or isinstance(exc, ConnectionResetError | BrokenPipeError)
            self._line.lost(NORMAL if orderly else ABNORMAL)
            self._line = None  # it holds the call, which holds this

    # --- the clock's side

    def tick(self, now: float) -> None:
        """Send the frames that are owed."""
        stream = self.stream
        if stream.awaits_time and self._line is not None:
            self._line.receive(b"", False)
        if self._closing:
            return
        if now - self._due > MAX_OWED:
            self._due = now
        for _ in range(2):
            if self._due > now + PERIOD / 2:
                return
            self._due += PERIOD
            frame = stream.next_frame()
            if stream.leaving:
                self.close(NORMAL)
                return
            if frame and self.writable_now:
                self._transport.write(frame)
            if not stream.backlog():
                self._due = max(self._due, now)
                return

    # --- the call's side

    @property
    def writable_now(self) -> bool:
        """False while the peer does not take what was sent already."""
        return self._transport.get_write_buffer_size() < UNSENT_LIMIT

    def send_message(self, message: bytes) -> None:
        """Let audio wait for its turn; send anything else now."""
        if self._closing:
            return
        if type(message) is Binary:
            self.stream.queue(message)
        elif message:
            self._said_bye |= message == HANGUP
            self._transport.write(message)

    def close(self, code: int, reason: str = "") -> None:
        """Hang up, and let Asterisk close; the connection is cut when it does not."""
        if self._closing or self._transport.is_closing():
            return
        self._closing = True
        self._server.clock.discard(self)
        if not self._said_bye:
            self._transport.write(HANGUP)
        # Closing with audio unread would reset the connection, and the hang-up would be lost.
        self._transport.write_eof()
        self._closer = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._transport.abort)

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()
