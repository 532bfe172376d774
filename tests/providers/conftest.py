"""A carrier's REST API on loopback, and small helpers that the tests of all carriers share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest

from offhook.providers.base import CarrierRequest


@dataclass
class ApiRequest:
    """One request that reached the API."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, value in parse_qsl(self.body.decode(), keep_blank_values=True):
            found.setdefault(name, []).append(value)
        return found

    @property
    def json(self) -> dict[str, object]:
        return msgspec.json.decode(self.body, type=dict[str, object])


@dataclass
class Reply:
    """How the API answers. `hang_up`: it closes the connection instead; `delay`: seconds it thinks before."""

    status: int = 200
    body: object = None
    hang_up: bool = False
    delay: float = 0.0


@dataclass
class FakeApi:
    """An HTTP server that answers with the replies it was given, one after the other, and the last for ever."""

    url: str = ""
    replies: list[Reply] = field(default_factory=list)
    requests: list[ApiRequest] = field(default_factory=list)

    def answer(self, *replies: Reply) -> None:
        self.replies = list(replies)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode("latin-1").split("\r\n")
                method, target, _ = first.split(" ")
                pairs = (line.split(": ", 1) for line in lines if line)
                headers = {name.lower(): value for name, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.requests.append(ApiRequest(method, urlsplit(target).path, headers, body))
                reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
                await asyncio.sleep(reply.delay)
                if reply.hang_up:
                    return
                text = reply.body if isinstance(reply.body, bytes) else msgspec.json.encode(reply.body)
                if reply.status == 204:
                    text = b""
                writer.write(b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n" % reply.status)
                writer.write(b"Content-Length: %d\r\n\r\n" % len(text) + text)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    """The REST API of a carrier, on loopback."""
    fake = FakeApi()
    serving: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        task.add_done_callback(serving.discard)
        await fake.serve(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    fake.url = f"http://127.0.0.1:{port}"
    yield fake
    server.close()
    for task in serving:
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)
    await server.wait_closed()


MakeRequest = Callable[..., CarrierRequest]


@pytest.fixture
def request_of() -> MakeRequest:
    """Make a CarrierRequest: `request_of("POST", url, body, header="value")`; underscores become dashes."""

    def make(method: str, url: str, body: bytes = b"", /, **headers: str | list[str]) -> CarrierRequest:
        named = {
            name.replace("_", "-"): [value] if isinstance(value, str) else value for name, value in headers.items()
        }
        if body and "content-type" not in named:
            named["content-type"] = ["application/x-www-form-urlencoded"]
        return CarrierRequest(method, url, named, body)

    return make
