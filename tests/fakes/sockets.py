"""What the fake vendors have in common: a WebSocket server on loopback that remembers, and fails as it is told.

async with FakeDeepgram(faults=[Fault(status=429, headers={"Retry-After": "3"})]) as fake:
    ...  # the first connection to fake.url is refused, the second is served
    assert fake.connections[1].query["model"] == ["nova-3"]
"""

from __future__ import annotations

import asyncio
import http
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from offhook.codecs.audio import L16_8K, AudioFormat
from offhook.codecs.convert import convert_all
from offhook.codecs.pcm import tone


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one connection."""

    status: int = 0
    "Refuse the handshake with this HTTP status."
    headers: dict[str, str] = field(default_factory=dict)
    "Of the refusal."
    body: str = ""
    "Of the refusal."
    after: float = 0.0
    "Seconds of audio, taken or given, before what follows."
    close: tuple[int, str] | None = None
    "Close with this code and reason."
    drop: bool = False
    "Break the connection without a word."
    mute: bool = False
    "Take everything and send nothing any more."
    say: tuple[str | bytes, ...] = ()
    "Send these messages in between, then go on."


@dataclass
class Connection:
    """What one client has sent, and how it went."""

    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    fault: Fault | None = None
    messages: list[str | bytes] = field(default_factory=list)
    "As they came."
    socket: ServerConnection | None = None
    mute: bool = False

    @property
    def audio(self) -> bytes:
        """All binary messages, joined."""
        return b"".join(message for message in self.messages if isinstance(message, bytes))

    @property
    def json(self) -> list[dict[str, Any]]:
        """All text messages, read."""
        return [json.loads(message) for message in self.messages if isinstance(message, str)]

    async def send(self, message: dict[str, Any] | str | bytes) -> None:
        """Send a message, a dict as JSON, unless a fault forbids it."""
        if self.socket is not None and not self.mute:
            await self.socket.send(json.dumps(message) if isinstance(message, dict) else message)

    async def strike(self, seconds: float) -> None:
        """Let the fault happen if `seconds` of audio are enough for it."""
        fault = self.fault
        if fault is None or self.socket is None or fault.status or seconds < fault.after:
            return
        self.fault = None
        for message in fault.say:
            await self.send(message)
        if fault.drop:
            self.socket.transport.abort()
        elif fault.close is not None:
            await self.socket.close(*fault.close)
        self.mute = self.mute or fault.mute


class Crew:
    """Tasks of a connection, which end with it.

    async with Crew() as crew:
        crew.start(speak())
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Let something run beside."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        return task

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception) and not isinstance(result, ConnectionClosed):
                raise result


class FakeVendor(ABC):
    """A server of one vendor. What its handlers raise, leaving it raises.

    Args:
        faults: one for each connection, in their order; None, and what is beyond the last, is served well.
    """

    def __init__(self, faults: Iterable[Fault | None] = ()) -> None:
        self.faults = list(faults)
        self.connections: list[Connection] = []
        "Every one there was, refused ones too."
        self._server: Server | None = None
        self._errors: list[Exception] = []

    @property
    def url(self) -> str:
        """For `base_url`."""
        assert self._server is not None, "use `async with`"
        port = next(iter(self._server.sockets)).getsockname()[1]
        return f"ws://127.0.0.1:{port}"

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._handle, "127.0.0.1", 0, process_request=self._admit, compression=None, close_timeout=0.2
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()
        if self._errors:
            raise self._errors[0]

    @abstractmethod
    async def serve(self, connection: Connection) -> None:
        """Speak with one client until it goes."""

    async def received(self, connection: Connection) -> str | bytes:
        """Wait for the next message of a client. Raises ConnectionClosed."""
        assert connection.socket is not None
        message = await connection.socket.recv()
        connection.messages.append(message)
        return message

    async def _admit(self, socket: ServerConnection, request: Request) -> Response | None:
        parts = urlsplit(request.path)
        fault = self.faults.pop(0) if self.faults else None
        connection = Connection(parts.path, parse_qs(parts.query), dict(request.headers.raw_items()), fault)
        self.connections.append(connection)
        if fault is None or not fault.status:
            connection.socket = socket
            return None
        response = socket.respond(http.HTTPStatus(fault.status), fault.body)
        for name, value in fault.headers.items():
            response.headers[name] = value
        return response

    async def _handle(self, socket: ServerConnection) -> None:
        connection = next(one for one in self.connections if one.socket is socket)
        try:
            await connection.strike(0.0)
            await self.serve(connection)
        except ConnectionClosed:
            pass
        except Exception as error:
            self._errors.append(error)
            raise


# --- speech --------------------------------------------------------------------------


@dataclass(frozen=True)
class Manner:
    """How a fake voice speaks. Times in seconds."""

    first_audio: float = 0.0
    "From the request to the first audio."
    per_letter: float = 0.06
    "Length of speech for each letter."
    piece: float = 0.1
    "Audio in one message."
    pace: float = 0.0
    "Time from one message to the next, in parts of its length; 1 is real time."


PLAIN = Manner()
"""At once, and as fast as it goes."""


def speech(text: str, format: AudioFormat, manner: Manner) -> bytes:
    """A sound as long as it takes to say `text`: a tone that any detector takes for a voice."""
    pcm = tone(300.0, len(text) * manner.per_letter, L16_8K.rate)
    return convert_all(pcm, L16_8K, format)


def timed_words(text: str, manner: Manner) -> list[tuple[str, float, float]]:
    """Each word of `text` with the seconds at which it begins and ends."""
    words, at = [], 0
    for word in text.split():
        words.append((word, at * manner.per_letter, (at + len(word)) * manner.per_letter))
        at += len(word) + 1
    return words


async def pieces(text: str, format: AudioFormat, manner: Manner) -> AsyncIterator[tuple[float, bytes]]:
    """Give the speech as it would come: when each piece ends, in seconds of audio, and the piece."""
    audio, size = speech(text, format, manner), format.size(manner.piece)
    await asyncio.sleep(manner.first_audio)
    for at in range(0, len(audio), size):
        piece = audio[at : at + size]
        yield format.duration(at + len(piece)), piece
        await asyncio.sleep(format.duration(len(piece)) * manner.pace)
