"""A small HTTP/1.1 server on loopback, with everything in the hand of who scripts it: pieces, pauses, resets.

It starts in a millisecond, leaves nothing behind, and sees at once when a client goes away in the midst of an answer.
"""

from __future__ import annotations

import asyncio
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass
class Request:
    """What a client asked, and whether it stayed for the answer."""

    method: str
    path: str
    headers: dict[str, str]
    "Names in lower case."
    body: bytes
    connection: int
    "Counts the connections of the server, from 1."
    answered: bool = False
    "The answer went out whole."
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    "The client closed the connection before the answer was whole."

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Answer:
    """The server's side of one request."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._chunked = False

    def whole(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self._head(status, {**headers, "content-length": str(len(body))})
        self._transport.write(body)

    def json(self, status: int, value: object, headers: Mapping[str, str] | None = None) -> None:
        self.whole(status, json.dumps(value).encode(), {"content-type": "application/json", **(headers or {})})

    def start(self, kind: str, status: int = 200) -> None:
        """Begin an answer whose length is not known; `piece` and `end` follow."""
        self._chunked = True
        self._head(status, {"content-type": kind, "transfer-encoding": "chunked"})

    def piece(self, data: bytes) -> None:
        if data:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        self._transport.write(b"0\r\n\r\n")

    def drop(self) -> None:
        """Reset the connection."""
        self._transport.abort()

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        self._transport.write("\r\n".join(lines).encode())


class WebServer(ABC):
    """Serves while its `async with` block runs, at `url`."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        "All that were received whole, in order."
        self.connections = 0
        "How many were opened so far."
        self.url = ""
        self._open: set[_Connection] = set()

    @abstractmethod
    async def answer(self, request: Request, answer: Answer) -> None:
        """Answer one request; cancelled when the client goes away."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        connections = list(self._open)
        for connection in connections:
            connection.abort()
        await asyncio.gather(*(connection.over() for connection in connections))
        await self._server.wait_closed()


class _Connection(asyncio.Protocol):
    def __init__(self, server: WebServer) -> None:
        self._server = server
        self._buffer = bytearray()
        self._more = asyncio.Event()
        self._closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections += 1
        self._number = self._server.connections
        self._server._open.add(self)
        self._task = asyncio.get_running_loop().create_task(self._serve(), name=f"fake-http-{self._number}")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._more.set()

    def connection_lost(self, _: Exception | None) -> None:
        self._closed.set()
        self._task.cancel()

    def abort(self) -> None:
        self._transport.abort()
        self._task.cancel()

    async def over(self) -> None:
        await asyncio.gather(self._task, self._closed.wait(), return_exceptions=True)

    async def _serve(self) -> None:
        try:
            while (request := await self._request()) is not None:
                self._server.requests.append(request)
                try:
                    await self._server.answer(request, Answer(self._transport))
                    request.answered = True
                finally:
                    if not request.answered:
                        request.gone.set()
        finally:
            self._server._open.discard(self)
            self._transport.close()

    async def _request(self) -> Request | None:
        head = await self._until(lambda: self._buffer.find(b"\r\n\r\n") + 1)
        lines = bytes(self._buffer[: head - 1]).decode("latin-1").split("\r\n")
        del self._buffer[: head + 3]
        method, path, _ = lines[0].split(" ")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        assert "transfer-encoding" not in headers, "the clients at hand send a length"
        size = int(headers.get("content-length", 0))
        await self._until(lambda: len(self._buffer) >= size)
        body = bytes(self._buffer[:size])
        del self._buffer[:size]
        return Request(method, path, headers, body, self._number)

    async def _until(self, there: Callable[[], int]) -> int:
        while not (found := there()):
            self._more.clear()
            await self._more.wait()
        return found


# --- what language models are scripted with ---------------------------------------------


@dataclass(frozen=True)
class Text:
    """Words, sent one by one."""

    text: str


@dataclass(frozen=True)
class Call:
    """A function call. `arguments` as a string goes out as it is."""

    name: str
    arguments: dict[str, Any] | str = field(default_factory=dict)
    id: str | None = None

    @property
    def json(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass(frozen=True)
class Think:
    """Reasoning, in the place that the vendor has for it."""

    text: str
    signature: str = ""


@dataclass(frozen=True)
class Raw:
    """Bytes as they are, for what no sound server sends."""

    data: bytes


@dataclass(frozen=True)
class Refusal:
    """An HTTP error in place of an answer."""

    status: int
    message: str = "no"
    retry_after: float | None = None


@dataclass(frozen=True)
class Silence:
    """Nothing more comes, and the connection stays open: no first token, or a stall after other parts."""


@dataclass(frozen=True)
class Drop:
    """The connection is reset here."""


@dataclass(frozen=True)
class End:
    """The answer ends here, in good HTTP but without what the protocol asks for at its end."""


Part = Text | Call | Think | Raw | Refusal | Silence | Drop | End
Reply = Part | Sequence[Part]
Replies = Sequence[Reply] | Callable[[list[Any]], Reply]

GARBAGE = Raw(b"data: {{{ this is no JSON\n\n")
CUT_JSON = Raw(b'data: {"id": "x", "choi')


def words(text: str) -> list[str]:
    """A text as a model sends it: word by word, spaces first."""
    return re.findall(r"\s*\S+|\s+$", text)


class LanguageServer(WebServer):
    """What the fakes of language models share.

    Args:
        replies: one for each request in turn, the last for all that follow; or a function of the vendor's own
            messages.
        ttft: seconds until the first token.
        token_interval: seconds between two tokens.
    """

    def __init__(self, replies: Replies = (), *, ttft: float = 0.0, token_interval: float = 0.0) -> None:
        super().__init__()
        self._replies = replies
        self._next = 0
        self.ttft, self.token_interval = ttft, token_interval

    def reply_to(self, messages: list[Any]) -> list[Part]:
        if callable(self._replies):
            reply = self._replies(messages)
        elif self._replies:
            reply = self._replies[min(self._next, len(self._replies) - 1)]
            self._next += 1
        else:
            reply = Text("Hello.")
        return list(reply) if isinstance(reply, Sequence) else [reply]

    async def first_token(self) -> None:
        if self.ttft:
            await asyncio.sleep(self.ttft)

    async def next_token(self) -> None:
        if self.token_interval:
            await asyncio.sleep(self.token_interval)

    @staticmethod
    async def fault(part: Part, answer: Answer) -> bool:
        """Act out what is the same with all vendors; True when the answer is over."""
        match part:
            case Raw(data):
                answer.piece(data)
                return False
            case Silence():
                await asyncio.Event().wait()
            case Drop():
                answer.drop()
            case End():
                answer.end()
        return True
