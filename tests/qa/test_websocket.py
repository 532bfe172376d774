"""The caller's end of a media socket, against a server of another library's making."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from offhook.qa.websocket import MediaSocket, SocketRefused


@asynccontextmanager
async def bot(
    handler: Callable[[ServerConnection], Awaitable[None]],
    check: Callable[[ServerConnection, Request], Response | None] | None = None,
) -> AsyncIterator[str]:
    async with serve(handler, "127.0.0.1", 0, process_request=check) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/media"


async def test_messages_come_whole_and_in_order_however_they_were_cut() -> None:
    async def talk(socket: ServerConnection) -> None:
        await socket.send("first")
        await socket.send(["one ", "text ", "in pieces"])
        await socket.ping()
        await socket.send([b"\0", b"\1"])
        await socket.send(await socket.recv())
        await socket.wait_closed()

    heard: list[str | bytes] = []
    async with bot(talk) as url:
        socket = await MediaSocket.connect(url, {"X-Signature": "s"})
        assert await socket.receive() == "first"
        while len(heard) < 2:
            heard.append(await socket.receive())
        socket.listen(heard.append)
        socket.send(b"an echo", text=True)
        async with asyncio.timeout(5):
            while len(heard) < 3:
                await asyncio.sleep(0.005)
        assert socket.close_code is None
        await socket.close()
    assert heard == ["one text in pieces", b"\0\1", "an echo"]
    assert socket.close_code == 1000
    socket.send(b"too late", text=True)


async def test_headers_are_sent_and_a_refusal_gives_its_status() -> None:
    seen: list[str] = []

    def refuse(socket: ServerConnection, request: Request) -> Response:
        seen.append(request.headers["X-Signature"])
        return socket.respond(403, "no\n")

    async def never(socket: ServerConnection) -> None:
        raise AssertionError

    async with bot(never, refuse) as url:
        with pytest.raises(SocketRefused) as refused:
            await MediaSocket.connect(url, {"X-Signature": "s"})
    assert (refused.value.status, seen) == (403, ["s"])


async def test_nobody_no_url_and_no_websocket_are_refusals_without_a_status() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        for url in ("ws://127.0.0.1:1/", "http://127.0.0.1/", f"ws://127.0.0.1:{port}/"):
            with pytest.raises(SocketRefused) as refused:
                await MediaSocket.connect(url, {})
            assert refused.value.status == 0
            assert str(refused.value).startswith(url)


async def test_text_that_is_no_text_closes_the_socket() -> None:
    async def talk(socket: ServerConnection) -> None:
        await socket.send(b"\xff\xfe", text=True)
        await socket.wait_closed()

    async with bot(talk) as url:
        socket = await MediaSocket.connect(url, {})
        with pytest.raises(ConnectionError):
            await socket.receive()
        await socket.close()
    assert socket.close_code == 1007


async def test_a_connection_that_breaks_off_has_no_close_code_of_the_bot() -> None:
    async def vanish(socket: ServerConnection) -> None:
        socket.transport.abort()

    async with bot(vanish) as url:
        socket = await MediaSocket.connect(url, {})
        await asyncio.wait_for(socket.closed.wait(), 5)
        await socket.close()
    assert socket.close_code == 1006
