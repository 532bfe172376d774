"""AssemblyAI's streaming wire, version 3: a WebSocket server that does what the test says."""

from __future__ import annotations

import asyncio
import http
import json
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response


class Session:
    """One connection of a client."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        request = connection.request
        assert request is not None
        self.path = urlsplit(request.path).path
        self.parameters = {name: values[0] for name, values in parse_qs(urlsplit(request.path).query).items()}
        self.key = request.headers.get("Authorization")
        self.audio: list[bytes] = []
        self.orders: list[str] = []
        "Types of the messages from the client, in order."
        self.over = asyncio.Event()

    async def send(self, **message: Any) -> None:
        await self.connection.send(json.dumps(message))

    async def turn(
        self, text: str, *, order: int = 0, end: bool = False, formatted: bool = False, tail: str = ""
    ) -> None:
        """Send a Turn; `tail` are words that may still change, which only the list of words has."""
        words = [{"text": word, "word_is_final": True} for word in text.split()]
        words += [{"text": word, "word_is_final": False} for word in tail.split()]
        for at, word in enumerate(words):
            word |= {"start": 300 * at, "end": 300 * at + 250, "confidence": 0.9}
        await self.send(
            type="Turn",
            turn_order=order,
            turn_is_formatted=formatted,
            end_of_turn=end,
            transcript=text,
            end_of_turn_confidence=0.8 if end else 0.1,
            words=words,
            utterance=text if end else "",
        )

    def drop(self) -> None:
        """Cut the connection without a word."""
        self.connection.transport.abort()


class FakeAssemblyAi:
    """Serves /v3/ws at `url` while its `async with` block runs.

    Args:
        refuse: HTTP status in place of the handshake.
        begins: whether a session is begun; without, the client waits.
        error: sent as an Error in place of Begin, with its code.
        answers: texts of the turns that ForceEndpoint ends, one each; an empty one is not answered, like silence.
        delay: seconds before such an answer.
    """

    def __init__(
        self,
        *,
        refuse: int = 0,
        begins: bool = True,
        error: tuple[int, str] | None = None,
        answers: tuple[str, ...] = (),
        delay: float = 0.0,
    ) -> None:
        self.refuse, self.begins, self.error, self.delay = refuse, begins, error, delay
        self.answers = list(answers)
        self.sessions: list[Session] = []
        self._connected = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await serve(self._session, "127.0.0.1", 0, process_request=self._request, close_timeout=0.5)
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    def _request(self, connection: ServerConnection, _: Request) -> Response | None:
        return connection.respond(http.HTTPStatus(self.refuse), "refused\n") if self.refuse else None

    async def _session(self, connection: ServerConnection) -> None:
        session = Session(connection)
        self.sessions.append(session)
        try:
            if self.error is not None:
                await session.send(type="Error", error_code=self.error[0], error=self.error[1])
            elif self.begins:
                await session.send(type="Begin", id="5e551011", expires_at=1_900_000_000)
            turns = 0
            async for message in connection:
                if isinstance(message, bytes):
                    session.audio.append(message)
                    continue
                session.orders.append(json.loads(message)["type"])
                if session.orders[-1] == "Terminate":
                    await session.send(type="Termination", audio_duration_seconds=1, session_duration_seconds=1)
                    return
                if session.orders[-1] == "ForceEndpoint" and self.answers and (text := self.answers.pop(0)):
                    await asyncio.sleep(self.delay)
                    await session.turn(text, order=turns, end=True)
                    turns += 1
        except ConnectionClosed:
            pass
        finally:
            session.over.set()
