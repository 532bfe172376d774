"""A TCP relay that delays, slows, freezes and resets connections. Losses are what TCP makes of them: pauses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Coroutine
from typing import Any, Final

from offhook.qa.network.model import NetworkModel, Transit
from offhook.qa.network.relay import Kind, Relay

SEGMENT: Final = 1448
"""Bytes at most that are lost, or pass a slow link, together: Ethernet's 1500 less headers with time stamps."""

WINDOW: Final = 256 * 1024
"""Bytes under way in one direction, from which on the sender is not read any more: about Linux's usual window."""

CONNECT_S: Final = 10.0
"""Seconds that the target may take to answer."""


class _Direction:
    """Copies bytes from one side to the other through the model."""

    def __init__(self, model: NetworkModel, began: float, source: asyncio.StreamReader, sink: asyncio.StreamWriter):
        self._transit: Transit[bytes] = Transit(model)
        self._began = began
        self._source, self._sink = source, sink
        self._loop = asyncio.get_running_loop()
        self._waiting = 0
        "Bytes under way."
        self._changed = asyncio.Event()

    async def read(self) -> None:
        """Take in what the source sends, to its end."""
        while True:
            data = await self._source.read(SEGMENT)
            self._transit.put(data, len(data), self._loop.time() - self._began)
            self._waiting += len(data)
            self._changed.set()
            if not data:
                return
            while self._waiting > WINDOW:
                self._changed.clear()
                await self._changed.wait()

    async def write(self) -> None:
        """Give the sink what arrives, to its end, which is passed on as well."""
        while True:
            if (at := self._transit.next_at) is None:
                self._changed.clear()
                await self._changed.wait()
                continue
            await asyncio.sleep(self._began + at - self._loop.time())
            for _, data in self._transit.due(max(at, self._loop.time() - self._began)):
                if not data:
                    self._sink.write_eof()
                    return
                self._sink.write(data)
                self._waiting -= len(data)
            await self._sink.drain()
            self._changed.set()


class TcpRelay(Relay):
    """Relays TCP; TLS and WebSockets pass as they are.

    >>> async with TcpRelay(("127.0.0.1", 0), ("127.0.0.1", 8080), Network(delay=0.1)) as relay:
    ...     relay.address
    ('127.0.0.1', 41234)
    """

    kind: Kind = "tcp"
    _server: asyncio.Server

    @property
    def address(self) -> tuple[str, int]:
        """Host and port where clients find it."""
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def _open(self) -> None:
        self._connections: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._accept, *self.listen, limit=WINDOW)

    async def _close(self) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._relay(reader, writer), name="tcp-relay")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (begun := self._begin()) is None:
            _reset(writer)
            return
        number, there, back = begun
        began = asyncio.get_running_loop().time()
        ends = [writer]
        try:
            async with asyncio.timeout(CONNECT_S):
                far_reader, far = await asyncio.open_connection(*self.to, limit=WINDOW)
            ends.append(far)
            out = _Direction(there, began, reader, far)
            home = _Direction(back, began, far_reader, writer)
            left = None if there.reset_at is None else began + there.reset_at
            async with asyncio.timeout_at(left):
                await _all(out.read(), out.write(), home.read(), home.write())
                for end in ends:
                    end.close()
                    await end.wait_closed()
        except (OSError, TimeoutError):
            # The target is not there, or one side or the model has broken the connection: both sides see it broken.
            self._end(number, refused=len(ends) == 1)
            for end in ends:
                _reset(end)
        finally:
            self._end(number)
            for end in ends:
                end.transport.abort()


async def _all(*works: Coroutine[Any, Any, None]) -> None:
    """Run all of them, or until one raises OSError, which is raised on."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST: nothing of what is left is sent (socket(7), SO_LINGER)."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
