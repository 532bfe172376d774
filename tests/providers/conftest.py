"""A carrier's REST API on loopback, and small helpers that the tests of all carriers share."""

from __future__ import annotations

import asyncio
import socket
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

    def take(self, request: ApiRequest) -> Reply:
        """Note a request; how it is to be answered."""
        self.requests.append(request)
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


class _Connection(asyncio.Protocol):
    """One client's connection: a request at a time, kept alive. No tasks, so nothing of it outlives a test."""

    def __init__(self, api: FakeApi, open_connections: set[asyncio.Transport]) -> None:
        self._api, self._open = api, open_connections
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, ended, rest = self._data.partition(b"\r\n\r\n")
        if not ended:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        pairs = (line.split(": ", 1) for line in lines)
        headers = {name.lower(): value for name, value in pairs}
        size = int(headers.get("content-length", "0"))
        if len(rest) < size:
            return
        self._data = rest[size:]
        reply = self._api.take(ApiRequest(method, urlsplit(target).path, headers, rest[:size]))
        asyncio.get_running_loop().call_later(reply.delay, self._reply, reply)

    def _reply(self, reply: Reply) -> None:
        if reply.hang_up:
            self._transport.close()
            return
        body = reply.body if isinstance(reply.body, bytes) else msgspec.json.encode(reply.body)
        if reply.status == 204:
            body = b""
        head = f"HTTP/1.1 {reply.status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    """The REST API of a carrier, on loopback."""
    fake = FakeApi()
    connections: set[asyncio.Transport] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(fake, connections), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    fake.url = f"http://127.0.0.1:{port}"
    yield fake
    server.close()
    for transport in list(connections):
        transport.abort()
    await server.wait_closed()


@pytest.fixture
def reply() -> type[Reply]:
    """How the API is to answer: `api.answer(reply(503), reply(200, {...}))`."""
    return Reply


@pytest.fixture
def unused_url() -> str:
    """Where nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    return f"http://127.0.0.1:{port}"


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
