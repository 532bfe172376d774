"""Asterisk's side of its protocols, as strict as Asterisk is: what it would drop a call for, drops it here.

`AudioSocketChannel` connects over TCP, `WebSocketChannel` is chan_websocket without the socket, and `FakeAri` is an
HTTP server that knows which channels are in a Stasis application.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import struct
import uuid
from collections import deque
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from fakes.web import Answer, Request, WebServer

from offhook.providers.asterisk.wire import MAX_BINARY, MAX_TEXT, MediaEvent, build_event, parse_command

AUDIO_KINDS = range(0x10, 0x19)


class AudioSocketChannel:
    """A call by AudioSocket. It hangs up by closing, as Asterisk does."""

    def __init__(self) -> None:
        self.frames: list[tuple[float, int, bytes]] = []
        "When it came, kind and payload, of all the audio that was sent to us."
        self.hung_up = False
        "The other side has sent a hang-up."
        self.dropped = ""
        "What the other side sent that made Asterisk drop the call."
        self.over = asyncio.Event()
        "The connection is gone, or half of it."

    async def connect(self, port: int, id: str = "", *, host: str = "127.0.0.1", source: str = "") -> None:
        """Connect and name the call; without `id` nothing is said."""
        local = (source, 0) if source else None
        self._reader, self._writer = await asyncio.open_connection(host, port, local_addr=local)
        self._task = asyncio.get_running_loop().create_task(self._read(), name="fake-audiosocket")
        if id:
            self.send(0x01, uuid.UUID(id).bytes)

    def send(self, kind: int, payload: bytes = b"") -> None:
        self.write(struct.pack(">BH", kind, len(payload)) + payload)

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def close(self) -> None:
        """Hang up."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def heard(self, count: int) -> None:
        """Wait for so many frames."""
        while len(self.frames) < count:
            await asyncio.sleep(0.005)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                kind, size = struct.unpack(">BH", await self._reader.readexactly(3))
                payload = await self._reader.readexactly(size)
                if kind == 0x00:
                    self.hung_up = True
                    break
                if kind not in AUDIO_KINDS or not payload:
                    self.dropped = f"kind {kind:#04x}, {size} bytes"
                    break
                self.frames.append((loop.time(), kind, payload))
        except (asyncio.IncompleteReadError, OSError):
            pass
        self._writer.close()
        self.over.set()


class WebSocketChannel:
    """chan_websocket without the socket: `take` what is sent to it, `tick` every 20 ms."""

    XOFF, XON, MOST = 900, 800, 1000

    def __init__(
        self,
        *,
        json: bool = False,
        format: str = "ulaw",
        frame: int = 160,
        connection_id: str = "media:b7c1",
        variables: dict[str, str] | None = None,
    ) -> None:
        self.json, self.format, self.frame, self.connection_id = json, format, frame, connection_id
        self.variables = variables or {}
        self.answered = self.hung_up = self.bulk = self.full = False
        self.queue: deque[bytes | MediaEvent] = deque()
        self.discarded = 0
        "Bytes that were no whole frame."
        self.played: list[bytes] = []
        "One frame a tick; silence is empty."
        self.ignored: list[bytes] = []
        "Text messages that were too long or unknown."
        self._rest = b""

    def start(self) -> bytes:
        """MEDIA_START."""
        fields = {
            "connection_id": self.connection_id,
            "channel": "WebSocket/offhook/0x7f",
            "channel_id": "1700000000.13",
            "format": self.format,
            "optimal_frame_size": str(self.frame),
            "ptime": "20",
        }
        return self._event("MEDIA_START", fields, variables=self.variables)

    def take(self, message: bytes, is_text: bool) -> list[bytes]:
        """A message from the application; gives the events it makes at once."""
        return self._command(message) if is_text else self._media(message)

    def tick(self) -> list[bytes]:
        """Play one frame; gives the events that come up."""
        said = []
        if self.full and self._frames() < self.XON:
            self.full = False
            said.append(self._event("MEDIA_XON"))
        while self.queue and isinstance(self.queue[0], MediaEvent):
            mark = self.queue.popleft()
            assert isinstance(mark, MediaEvent)
            said.append(build_event(mark))
        head = self.queue.popleft() if self.queue else b""
        assert isinstance(head, bytes)
        self.played.append(head)
        return said

    def dtmf(self, digit: str) -> bytes:
        return self._event("DTMF_END", {"digit": digit, "channel_id": "1700000000.13"})

    def _event(self, name: str, fields: dict[str, str] | None = None, **more: Any) -> bytes:
        return build_event(MediaEvent(name, fields or {}, json=self.json, **more))

    def _frames(self) -> int:
        return sum(isinstance(item, bytes) for item in self.queue)

    def _media(self, data: bytes) -> list[bytes]:
        if len(data) > MAX_BINARY:
            self.hung_up = True
            return []
        if self._frames() >= self.MOST:
            self.discarded += len(data)
            return []
        data = self._rest + data
        whole = len(data) // self.frame * self.frame
        self.queue.extend(data[at : at + self.frame] for at in range(0, whole, self.frame))
        self._rest = data[whole:] if self.bulk else b""
        self.discarded += 0 if self.bulk else len(data) - whole
        if not self.full and self._frames() >= self.XOFF:
            self.full = True
            return [self._event("MEDIA_XOFF")]
        return []

    def _command(self, message: bytes) -> list[bytes]:
        if len(message) > MAX_TEXT:
            self.ignored.append(message)
            return []
        assert message.startswith(b"{") == self.json
        name, id = parse_command(message)
        match name:
            case "ANSWER":
                self.answered = True
            case "HANGUP":
                self.hung_up = True
            case "MARK_MEDIA":
                self.queue.append(MediaEvent("MEDIA_MARK_PROCESSED", id=id, json=self.json))
            case "FLUSH_MEDIA":
                self.queue.clear()
                self._rest, self.bulk = b"", False
            case "START_MEDIA_BUFFERING":
                self.bulk = True
            case _:
                self.ignored.append(message)
        return []


class FakeAri(WebServer):
    """ARI of an Asterisk with a few channels. `faults`: what the next requests get instead: a status, or 0 to drop."""

    def __init__(self, *, stasis: set[str] | None = None, dialplan: set[str] | None = None) -> None:
        super().__init__()
        self.stasis = stasis or set()
        self.dialplan = dialplan or set()
        self.globals: dict[str, str] = {}
        self.continued: dict[str, tuple[str, str]] = {}
        self.keys: list[tuple[str, str]] = []
        self.originated: list[tuple[dict[str, str], Any]] = []
        self.faults: deque[int] = deque()
        self.lose_answers = False
        "Carry the next order out, and drop the connection instead of answering it."

    async def answer(self, request: Request, answer: Answer) -> None:
        wanted = "Basic " + base64.b64encode(b"offhook:secret").decode()
        if request.headers.get("authorization") != wanted:
            answer.json(401, {"message": "Authentication required"})
            return
        if self.faults and (status := self.faults.popleft()) != 200:
            if status:
                answer.json(status, {"message": "as told"})
            else:
                answer.drop()
            return
        parts = urlsplit(request.path)
        status, body = self._do(
            request.method, unquote(parts.path).split("/")[2:], dict(parse_qsl(parts.query)), request
        )
        if self.lose_answers:
            self.lose_answers = False
            answer.drop()
        elif status == 204:
            answer.whole(204, b"", {})
        else:
            answer.json(status, body)

    def _do(self, method: str, path: list[str], query: dict[str, str], request: Request) -> tuple[int, Any]:
        everyone = self.stasis | self.dialplan
        match method, path:
            case "GET", ["asterisk", "info"]:
                return 200, {"system": {"version": "22.6.0", "entity_id": "00:00"}}
            case "POST", ["asterisk", "variable"]:
                self.globals[query["variable"]] = query["value"]
                return 204, None
            case "POST", ["channels"]:
                if query["channelId"] in everyone:
                    return 409, {"message": "Channel with given unique ID already exists"}
                self.dialplan.add(query["channelId"])
                self.originated.append((query, msgspec.json.decode(request.body)))
                return 200, {"id": query["channelId"], "state": "Down"}
            case _, ["channels", id, *_] if id not in everyone:
                return 404, {"message": "Channel not found"}
            case "DELETE", ["channels", id]:
                self.stasis.discard(id)
                self.dialplan.discard(id)
                return 204, None
            case "POST", ["channels", id, _] if id in self.dialplan:
                return 409, {"message": "Channel not in Stasis application"}
            case "POST", ["channels", id, "continue"]:
                self.continued[id] = (query["context"], query["extension"])
                self.stasis.discard(id)
                self.dialplan.add(id)
                return 204, None
            case "POST", ["channels", id, "dtmf"]:
                self.keys.append((id, query["dtmf"]))
                return 204, None
        return 404, {"message": "Resource not found"}
