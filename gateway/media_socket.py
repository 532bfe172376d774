"""The carrier's WebSocket: uvicorn's protocol with a short way for media, and a deadline for slow starters.

uvicorn hands every WebSocket message to the application through a queue, a task wake-up and, since it reads
one message at a time, two epoll calls. A call's audio comes fifty times a second. `MediaWebSocketProtocol` lets
an accepted socket be attached to plain callbacks: a message is then handed over where it was parsed, and the
application's task sleeps until the socket closes. Everything else (handshake, pings, close, limits) stays
uvicorn's. The class reaches it through the ASGI scope, `scope["extensions"]["offhook.socket"]`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import ConnectionClosed, InvalidState

from offhook.providers.base import Binary

EXTENSION: Final = "offhook.socket"

HEAD_DEADLINE: Final = 5.0
"""Seconds a connection may take to send a request head; slower ones are dropped (slow-loris)."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds the carrier may take to answer our close before the connection is cut."""

UNSENT_LIMIT: Final = 4096
"""Bytes that may wait in the kernel or in the transport: some 250 ms of audio. A carrier that does not read then
makes the socket unwritable at once instead of filling megabytes with speech that nobody will hear in time."""

TCP_NOTSENT_LOWAT: Final = 25
"""tcp(7), Linux; Python 3.11 has no name for it."""


class MediaWebSocketProtocol(WebSocketsSansIOProtocol):
    """A WebSocket that can be attached to callbacks once it is accepted."""

    _on_message: Callable[[bytes, bool], None] | None = None

    async def run_asgi(self) -> None:
        extensions: dict[str, Any] = self.scope["extensions"]
        extensions[EXTENSION] = self
        try:
            await super().run_asgi()
        finally:
            del extensions[EXTENSION]

    def attach(self, on_message: Callable[[bytes, bool], None]) -> asyncio.Future[int]:
        """Hand every further message to `on_message(data, is_text)`.

        Returns a future that ends with the close code when the socket is gone (1006: no close frame).
        """
        self._on_message = on_message
        self._gone: asyncio.Future[int] = self.loop.create_future()
        self.close_timeout = CLOSE_TIMEOUT
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):  # not TCP, or not Linux: the transport's own limit remains
                sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_LIMIT)
        self.transport.set_write_buffer_limits(high=UNSENT_LIMIT)
        while not self.queue.empty():
            event = self.queue.get_nowait()
            if event["type"] == "websocket.receive":
                text = event.get("text")
                data = text.encode() if text is not None else event.get("bytes") or b""
                on_message(data, text is not None)
            elif event["type"] == "websocket.disconnect" and not self._gone.done():
                self._gone.set_result(event["code"])
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        return self._gone

    def send_receive_event_to_app(self) -> None:
        if self._on_message is None:
            super().send_receive_event_to_app()
            return
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        if not self.close_sent:
            self._on_message(data, self.curr_msg_data_type == "text")

    @property
    def writable_now(self) -> bool:
        """False while the peer does not take what was sent already."""
        return self.writable.is_set()

    def send_message(self, message: bytes) -> None:
        """Send one message now, as text unless it is Binary; goes nowhere once the socket is closing."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        try:
            if type(message) is Binary:
                self.conn.send_binary(message)
            else:
                self.conn.send_text(message)
        except (InvalidState, ConnectionClosed):
            return
        for data in self.conn.data_to_send():
            self.transport.write(data)

    def close(self, code: int, reason: str = "") -> None:
        """Start the closing handshake; the connection is cut when the peer does not answer it."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        with contextlib.suppress(InvalidState):
            self.conn.send_close(code, reason)
        for data in self.conn.data_to_send():
            self.transport.write(data)
        self.close_sent = True
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._on_message is not None and not self._gone.done():
            received = self.conn.close_rcvd
            self._gone.set_result(received.code if received is not None else 1006)
        self._on_message = None  # it holds the call, which holds this


class DeadlineHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol that drops a connection which does not finish a request head in time."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_DEADLINE, self._too_slow)

    def on_headers_complete(self) -> None:
        self._stop_head_timer()
        super().on_headers_complete()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_timer is None:  # a further request on a kept connection
            self._head_timer = self.loop.call_later(HEAD_DEADLINE, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        super().handle_websocket_upgrade()
        self.parser = None  # type: ignore[assignment]  # they hold each other

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        self.transport.abort()
