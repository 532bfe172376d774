"""The caller's end of a media WebSocket: every message is handled as it arrives, with no task to be woken for it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Mapping
from typing import Final, Self, cast

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidURI
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

OPEN_TIMEOUT_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 2.0

MAX_MESSAGE: Final = 16 << 20
"""Bytes of one message of the bot: a bot may send a whole minute of audio at once."""


class SocketRefused(Exception):
    """The media socket could not be opened. `status` is the HTTP status of the answer, 0 if there was none."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class MediaSocket(asyncio.Protocol):
    """A WebSocket of RFC 6455, client's side, without extensions. Made by `connect`."""

    def __init__(self, protocol: ClientProtocol) -> None:
        self.closed = asyncio.Event()
        "Set once the connection is gone."
        self._protocol = protocol
        self._transport: asyncio.Transport | None = None
        self._upgraded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pieces: list[bytes] = []
        "Of a message in several frames."
        self._is_text = False
        self._early: list[str | bytes] = []
        "Messages that came before anybody listened."
        self._news = asyncio.Event()
        self._on_message: Callable[[str | bytes], None] = self._keep

    @classmethod
    async def connect(cls, url: str, headers: Mapping[str, str]) -> Self:
        """Open a socket.

        Raises:
            SocketRefused: it is no URL, nobody answers within `OPEN_TIMEOUT_S`, or the answer is a refusal.
        """
        try:
            uri = parse_uri(url)
        except InvalidURI as error:
            raise SocketRefused(f"{url}: {error}") from error
        protocol = ClientProtocol(uri, max_size=MAX_MESSAGE)
        socket: Self | None = None
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                _, socket = await asyncio.get_running_loop().create_connection(
                    lambda: cls(protocol), uri.host, uri.port, ssl=ssl.create_default_context() if uri.secure else None
                )
                await socket._upgrade(headers)
        except (OSError, TimeoutError) as error:
            said = str(error) or f"no answer within {OPEN_TIMEOUT_S:g} s"
            raise SocketRefused(f"{url}: {said}") from error
        except SocketRefused as error:
            raise SocketRefused(f"{url}: {error}", error.status) from error
        finally:
            if socket is not None and protocol.state is not State.OPEN:
                socket.abort()
                await socket.closed.wait()
        return socket

    @property
    def close_code(self) -> int | None:
        """RFC 6455 code with which the peer closed it, 1006 if it just broke off; None: it is open.

        Where the peer broke the protocol it is the code that it was told: 1002, 1007 for text that is no UTF-8, 1009.
        """
        code = self._protocol.close_code if self.closed.is_set() else None
        told = self._protocol.close_sent
        if code == CloseCode.ABNORMAL_CLOSURE and told is not None and told.code != CloseCode.NORMAL_CLOSURE:
            code = told.code
        return None if code is None else int(code)

    @property
    def unsent(self) -> int:
        """Bytes that wait for a peer that does not read."""
        return self._transport.get_write_buffer_size() if self._transport else 0

    def listen(self, on_message: Callable[[str | bytes], None]) -> None:
        """Have every message given, text as str and binary as bytes; those that came already at once."""
        early, self._early, self._on_message = self._early, [], on_message
        for message in early:
            on_message(message)

    async def receive(self) -> str | bytes:
        """The next message, as long as nobody listens.

        Raises:
            ConnectionError: the socket was closed, and there is none left.
        """
        while not self._early:
            if self.closed.is_set():
                raise ConnectionError(f"the socket was closed with {self.close_code}")
            self._news.clear()
            await self._news.wait()
        return self._early.pop(0)

    def _keep(self, message: str | bytes) -> None:
        self._early.append(message)
        self._news.set()

    def send(self, message: bytes, *, text: bool) -> None:
        """Send a message; nothing happens when the socket is closing."""
        if self._protocol.state is State.OPEN:
            if text:
                self._protocol.send_text(message)
            else:
                self._protocol.send_binary(message)
            self._flush()

    async def close(self) -> None:
        """Close it properly, and wait until it is gone."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
            self._flush()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.closed.wait(), CLOSE_TIMEOUT_S)
        self.abort()
        await self.closed.wait()

    def abort(self) -> None:
        """Break the connection off."""
        if self._transport is not None:
            self._transport.abort()

    async def _upgrade(self, headers: Mapping[str, str]) -> None:
        request = self._protocol.connect()
        for name, value in headers.items():
            request.headers[name] = value
        self._protocol.send_request(request)
        self._flush()
        await self._upgraded

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        self._take_events()

    def eof_received(self) -> None:
        self._protocol.receive_eof()
        self._take_events()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.receive_eof()
        self.closed.set()
        self._news.set()
        if not self._upgraded.done():
            self._upgraded.set_exception(SocketRefused(f"the connection was closed: {exc or 'no answer'}"))
            self._upgraded.exception()  # retrieved: nobody may wait for it any more

    def _take_events(self) -> None:
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._take_frame(event)
            elif isinstance(event, Response) and not self._upgraded.done():
                error = self._protocol.handshake_exc
                if error is None:
                    self._upgraded.set_result(None)
                else:
                    self._upgraded.set_exception(SocketRefused(str(error), event.status_code))
        self._flush()

    def _take_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.TEXT or frame.opcode is Opcode.BINARY:
            self._is_text = frame.opcode is Opcode.TEXT
            if frame.fin:
                self._give(bytes(frame.data))
            else:
                self._pieces = [bytes(frame.data)]
        elif frame.opcode is Opcode.CONT:
            self._pieces.append(bytes(frame.data))
            if frame.fin:
                pieces, self._pieces = self._pieces, []
                self._give(b"".join(pieces))

    def _give(self, data: bytes) -> None:
        if not self._is_text:
            self._on_message(data)
            return
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            self._protocol.fail(CloseCode.INVALID_DATA, f"text that is no UTF-8: {error.reason}")
            return
        self._on_message(text)

    def _flush(self) -> None:
        transport = self._transport
        for data in self._protocol.data_to_send():
            if transport is None or transport.is_closing():
                continue
            if data:
                transport.write(data)
            elif transport.can_write_eof():
                transport.write_eof()
            else:
                transport.close()
