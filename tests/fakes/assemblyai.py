"""AssemblyAI's streaming wire, version 3: a WebSocket server that does what the test says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fakes.sockets import Connection, FakeVendor, Fault
from websockets.asyncio.server import ServerConnection


class Session:
    """One connection of a client."""

    def __init__(self, client: Connection, connection: ServerConnection) -> None:
        self.connection = connection
        self.path = client.path
        self.parameters = {name: values[0] for name, values in client.query.items()}
        self.key = client.headers.get("Authorization")
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


class FakeAssemblyAi(FakeVendor):
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
        super().__init__([Fault(status=refuse, body="refused\n")] if refuse else ())
        self.begins, self.error, self.delay = begins, error, delay
        self.answers = list(answers)
        self.sessions: list[Session] = []

    async def serve(self, connection: Connection) -> None:
        assert connection.socket is not None
        session = Session(connection, connection.socket)
        self.sessions.append(session)
        try:
            if self.error is not None:
                await session.send(type="Error", error_code=self.error[0], error=self.error[1])
            elif self.begins:
                await session.send(type="Begin", id="5e551011", expires_at=1_900_000_000)
            turns = 0
            while True:
                message = await self.received(connection)
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
        finally:
            session.over.set()
