"""`offhook calls place` against a gateway's HTTP interface, spoken by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fakes.served import free_port

from offhook.gateway.config import Config
from offhook.gateway.place import Unplaced, place

ORDER = {"to": "+15550199", "from": ""}


def config(port: int, token: str | None = "0123456789abcdef") -> Config:
    found: dict[str, Any] = {
        "listen": {"host": "0.0.0.0", "port": port},
        "sip": {"trunks": {"pbx": {"sources": ["192.0.2.1"]}}},
        "agents": {"echo": {"kind": "echo"}},
        "routes": [{"number": "*", "agent": "echo"}],
        "api": {"token": token},
    }
    return Config.model_validate(found)


@asynccontextmanager
async def gateway(status: str, body: str) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Answers one request."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        asked.append(head + await reader.readexactly(int(length.split(b":")[1])))
        answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
        writer.write(answer.encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], asked


async def test_the_order_carries_the_token() -> None:
    async with gateway("202 Accepted", '{"id": "c1"}') as (port, asked):
        assert await asyncio.to_thread(place, config(port), ORDER) == {"id": "c1"}
    head, _, body = asked[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/calls HTTP/1.1")
    assert b"Authorization: Bearer 0123456789abcdef" in head
    assert json.loads(body) == ORDER


@pytest.mark.parametrize(
    ("body", "said"), [('{"error": "trunk: there is none"}', "trunk: there is none"), ("oops", "the gateway says 400")]
)
async def test_a_refusal_is_told(body: str, said: str) -> None:
    async with gateway("400 Bad Request", body) as (port, _):
        with pytest.raises(Unplaced, match=said) as caught:
            await asyncio.to_thread(place, config(port), ORDER)
    assert not caught.value.unreachable


def test_nobody_there_and_no_token() -> None:
    with pytest.raises(Unplaced, match="no gateway answers") as caught:
        place(config(free_port()), ORDER)
    assert caught.value.unreachable
    with pytest.raises(Unplaced, match=r"api\.token is not set"):
        place(config(1, token=None), ORDER)
