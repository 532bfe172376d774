"""The carrier's HTTP client and servers that are none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from offhook.qa import web
from offhook.qa.web import Unreachable, WebClient

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answer: Answer) -> Any:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has had enough
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/voice"
    finally:
        server.close()
        await server.wait_closed()


async def asked(url: str) -> str:
    """Why nobody answered."""
    client = WebClient()
    try:
        with pytest.raises(Unreachable) as failed:
            await client.request("POST", url, {}, b"a=b")
    finally:
        await client.close()
    return str(failed.value)


async def test_an_answer_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "CONNECT_TIMEOUT_S", 0.05)
    monkeypatch.setattr(web, "READ_TIMEOUT_S", 0.15)

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
        while True:
            writer.write(b"<")
            await writer.drain()
            await asyncio.sleep(0.03)

    async with serving(drip) as url:
        began = asyncio.get_running_loop().time()
        assert "no whole answer within 0.15 s" in await asked(url)
        assert asyncio.get_running_loop().time() - began < 1.0


async def test_what_is_no_http_is_told_without_its_control_characters() -> None:
    async def babble(writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x1b[2J\x00nonsense\r\n\r\n")
        await writer.drain()

    async with serving(babble) as url:
        assert r"no answer of HTTP, but '\x1b[2J\x00nonsense" in await asked(url)


async def test_a_connection_that_is_closed_is_told_so() -> None:
    async def leave(writer: asyncio.StreamWriter) -> None:
        pass

    async with serving(leave) as url:
        assert "closed connection without response" in await asked(url)
