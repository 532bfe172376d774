"""What a failed connection is called, and how one is made."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosedError, InvalidProxy, InvalidStatus
from websockets.frames import Close
from websockets.http11 import Response

from offhook.agents.services.base import ServiceError
from offhook.agents.services.websocket import closing_fault, connection_options, open_socket, opening_fault


@pytest.mark.parametrize(
    ("code", "kind"),
    [(1000, "unavailable"), (1008, "rejected"), (1011, "unavailable"), (4000, "rejected"), (4429, "rate_limited")],
)
def test_a_close_code_is_a_kind_of_fault(code: int, kind: str) -> None:
    fault = closing_fault("x", ConnectionClosedError(Close(code, "why"), None))
    assert (fault.kind, fault.detail) == (kind, f"closed with {code} why")


def test_no_close_frame_is_1006() -> None:
    fault = closing_fault("x", ConnectionClosedError(None, None))
    assert (fault.kind, fault.detail) == ("unavailable", "closed with 1006 connection lost")


def test_a_refusal_says_why_and_for_how_long() -> None:
    headers = Headers([("Retry-After", "7"), ("Retry-After", "8"), ("dg-error", "slow down")])
    fault = opening_fault("x", InvalidStatus(Response(429, "Too Many Requests", headers, b"<html>")), 2)
    assert (fault.kind, fault.detail, fault.retry_after) == ("rate_limited", "HTTP 429 slow down", 7)


def test_other_reasons_for_no_connection() -> None:
    assert opening_fault("x", TimeoutError(), 2).kind == "timeout"
    assert opening_fault("x", ConnectionClosedError(None, None), 2).kind == "unavailable"
    assert opening_fault("x", InvalidProxy("p", "no such proxy"), 2).kind == "unavailable"


async def test_certificates_are_read_once() -> None:
    one, two = await connection_options("wss://a", 1), await connection_options("wss://b", 1)
    assert isinstance(one["ssl"], ssl.SSLContext)
    assert one["ssl"] is two["ssl"]
    assert "ssl" not in await connection_options("ws://a", 1)


async def test_a_server_that_does_not_answer_in_time() -> None:
    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(ignore, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ServiceError, match=r"no connection within 0\.05 s") as caught:
            await open_socket("x", f"ws://127.0.0.1:{port}", {}, 0.05)
    assert caught.value.kind == "timeout"


async def test_a_server_that_speaks_another_language() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com\r\n")
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ServiceError, match="no connection") as caught:
            await open_socket("x", f"ws://127.0.0.1:{port}", {}, 1)
    assert caught.value.kind == "unavailable"
