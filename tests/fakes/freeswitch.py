"""FreeSWITCH as its media modules and its event socket behave at the wire. Nothing of it is FreeSWITCH's own code.

`FakeFork` is mod_audio_fork with bidirectional streaming: pre-buffer, play-out buffer, marks and their faults, one
20 ms frame after the other. `FakeClips` is jambonz without streaming. `FakeEventSocket` answers orders on loopback.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from offhook.codecs.audio import AudioFormat
from offhook.providers.base import Binary

MARKER = 0xFFFF
MAX_MARKS = 30
FIRST_LOT, LATER_LOT = 1280, 640


class FakeFork:
    """The module's half of one socket, without the socket.

    `receive` takes what the gateway sends; `play` lets 20 ms pass, gives what was heard and puts its messages into
    `sent`. `swallows`: whether killAudio leaves marks behind that eat later ones, as in the source of 2024-10.
    """

    def __init__(self, rate: int = 8000, *, swallows: bool = True) -> None:
        self.format = AudioFormat("l16", rate)
        self._samples = rate // 50
        self._swallows = swallows
        self._lot = FIRST_LOT
        self._before: list[int] = []
        self._buffer: list[int] = []
        self._odd = b""
        self._inventory: list[str] = []
        self._in_use: list[str] = []
        self._eaters: list[str] = []
        self._kill = False
        self.sent: list[str] = []
        self.received: list[dict[str, Any]] = []
        "Text messages of the gateway, in order."
        self.marks_dropped = 0

    def receive(self, message: bytes) -> None:
        """Take one message; one that is empty never leaves the gateway."""
        if not message:
            return
        if isinstance(message, Binary):
            self._binary(message)
            return
        found = json.loads(message)
        self.received.append(found)
        if found["type"] == "mark":
            if len(self._inventory) + len(self._in_use) >= MAX_MARKS:
                self.marks_dropped += 1
            else:
                self._inventory.append(found["data"]["name"])
        elif found["type"] == "killAudio":
            self._kill = True

    def _binary(self, data: bytes) -> None:
        data = self._odd + data
        whole = len(data) - len(data) % 2
        self._odd, data = data[whole:], data[:whole]
        self._before += [MARKER] * len(self._inventory)
        self._in_use += self._inventory
        self._inventory = []
        self._before += np.frombuffer(data, "<u2").tolist()
        if len(self._before) >= self._lot:
            self._lot = LATER_LOT
            self._buffer += self._before
            self._before = []

    def play(self) -> bytes:
        """20 ms pass. What is heard, shorter when there was not enough."""
        if self._kill:
            self._kill = False
            self._buffer = []
            for name in [*self._in_use, *self._inventory]:
                self._tell(name, "cleared")
            if self._swallows:
                self._eaters += self._in_use
            self._in_use, self._inventory = [], []
            return b""
        taken, self._buffer = self._buffer[: self._samples], self._buffer[self._samples :]
        if not self._in_use and not self._eaters:
            if not taken and self._inventory:
                self._tell(self._inventory.pop(0), "playout")
            return np.array(taken, "<u2").tobytes()
        heard = []
        for sample in taken:
            if sample != MARKER:
                heard.append(sample)
            elif self._eaters:
                self._eaters.pop(0)
            elif self._in_use:
                self._tell(self._in_use.pop(0), "playout")
        return np.array(heard, "<u2").tobytes()

    def _tell(self, name: str, event: str) -> None:
        # Written out as the module writes it, spaces and all.
        self.sent.append(f'{{"type": "mark", "data": {{"name":"{name}", "event": "{event}"}}}}')


class FakeClips:
    """jambonz without streaming: clips one after the other, ten of them queued."""

    def __init__(self) -> None:
        self.playing: list[str] = []
        self.refused = 0
        self.received: list[dict[str, Any]] = []

    def receive(self, message: bytes) -> None:
        """Take one message; one that is empty never leaves the gateway."""
        if not message:
            return
        assert not isinstance(message, Binary)
        found = json.loads(message)
        self.received.append(found)
        if found["type"] == "playAudio":
            assert base64.b64decode(found["data"]["audioContent"], validate=True)
            if len(self.playing) > 10:
                self.refused += 1
            else:
                self.playing.append(found["data"]["id"])
        elif found["type"] == "killAudio":
            self.playing.clear()

    def done(self) -> str:
        """The clip that plays has ended: the message about it."""
        return json.dumps({"type": "playDone", "data": {"id": self.playing.pop(0), "playTime": 1}})


@dataclass
class FakeEventSocket:
    """An event socket on loopback. `replies` maps the beginning of a command to what it prints."""

    password: str = "ClueCon"
    replies: dict[str, str] = field(default_factory=dict)
    greeting: bytes = b"Content-Type: auth/request\n\n"
    mute: bool = False
    "Takes commands and says nothing."
    port: int = 0
    commands: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[FakeEventSocket]:
        """Listen on a free port until the end of the block."""
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await self._serve(reader, writer)
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.greeting)
        trusted = False
        while True:
            line = (await reader.readuntil(b"\n\n")).decode().strip()
            self.commands.append(line)
            if self.mute:
                continue
            verb, _, rest = line.partition(" ")
            if verb == "auth":
                trusted = rest == self.password
                said = "+OK accepted" if trusted else "-ERR invalid"
                writer.write(f"Content-Type: command/reply\nReply-Text: {said}\n\n".encode())
                if not trusted:
                    return
                # An event nobody asked about; clients must step over it.
                writer.write(b"Content-Length: 4\nContent-Type: text/event-plain\n\na: b")
            elif trusted and verb == "api":
                said = next((text for start, text in self.replies.items() if rest.startswith(start)), "+OK\n")
                body = said.encode()
                writer.write(b"Content-Type: api/response\nContent-Length: %d\n\n%b" % (len(body), body))
            elif trusted and verb == "bgapi":
                said = next((text for start, text in self.replies.items() if rest.startswith(start)), "+OK Job-UUID: 1")
                writer.write(f"Content-Type: command/reply\nReply-Text: {said}\nJob-UUID: 1\n\n".encode())
