"""What a failed connection is called, and how one is made."""

from __future__ import annotations

import asyncio
import ssl
import time
from email.utils import formatdate

import pytest
from pydantic import SecretStr, TypeAdapter
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosedError, InvalidProxy
from websockets.frames import Close

from offhook.agents.services.base import ServiceError
from offhook.agents.services.websocket import (
    WebSocketUrl,
    closing_fault,
    connection_options,
    open_socket,
    opening_fault,
    present_key,
    retry_after,
    status_fault,
)


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("https://api.example.com/", "wss://api.example.com"),
        ("http://127.0.0.1:8080/deepgram", "ws://127.0.0.1:8080/deepgram"),
        ("wss://api.example.com", "wss://api.example.com"),
    ],
)
def test_an_address_may_be_written_either_way(given: str, address: str) -> None:
    assert TypeAdapter(WebSocketUrl).validate_python(given) == address


@pytest.mark.parametrize("given", ["", "api.example.com", "ftp://x", "wss://", "wss://x?key=1"])
def test_what_is_no_address_is_said(given: str) -> None:
    with pytest.raises(ValueError, match="write one like wss://"):
        TypeAdapter(WebSocketUrl).validate_python(given)


def test_a_key_is_trimmed_and_one_that_cannot_travel_refused() -> None:
    assert present_key(SecretStr(" abc\n"), "hint").get_secret_value() == "abc"
    for key in ("", " ", "a b", "a\nb", "schlüssel"):
        with pytest.raises(ValueError, match="hint") as caught:
            present_key(SecretStr(key), "hint")
        assert not key.strip() or key not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, "bad_reply"),
        (400, "rejected"),
        (401, "rejected"),
        (408, "timeout"),
        (429, "rate_limited"),
        (500, "unavailable"),
        (504, "timeout"),
    ],
)
def test_a_status_is_a_kind_of_fault(status: int, kind: str) -> None:
    assert status_fault(status) == kind


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


def test_the_wait_that_is_asked_for() -> None:
    soon = formatdate(time.time() + 30, usegmt=True)
    assert retry_after(Headers({"Retry-After": "7"})) == 7
    assert 28 < retry_after(Headers({"retry-after": soon})) <= 30
    assert retry_after(Headers({"Retry-After": "soon"})) == 0
    assert retry_after(Headers([("Retry-After", "7"), ("Retry-After", "8")])) == 7
    assert retry_after(Headers()) == 0


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
