"""A bot that owes nothing to offhook: Starlette and uvicorn, its own paths, its own idea of what to say and when.

It is what the simulator is tried against, and its delays are known, so that what is measured can be checked.
"""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from offhook.codecs.g711 import pcm_to_ulaw, ulaw_to_pcm
from offhook.qa.activity import RATE, Samples
from offhook.qa.listener import Listener

TURN_PAUSE_S = 0.25
"""Silence after which the bot takes the caller's turn to be over."""


def noise(seconds: float, seed: int = 0) -> Samples:
    return np.asarray(np.random.default_rng(seed).normal(0, 3000, round(seconds * RATE)), np.int16)


@dataclass
class Bot:
    """What the bot does, and what it saw. Set the first part before the call; read the second after it."""

    carrier: str = "twilio"
    greeting: Samples | None = None
    reply: Samples | None = None
    reply_after: float = 0.5
    "Seconds from the last voiced caller frame to the first audio of the reply; more than TURN_PAUSE_S."
    clear_after: float | None = None
    "Seconds from the first voiced caller frame, while the bot speaks, to the clear."
    echo: bool = False
    hang_up_after: float | None = None
    "Seconds after which the bot closes the socket."
    markup: Callable[[str], str] | None = None
    "Path asked → document; by default one that opens the stream."
    refuse_with: int = 0
    "HTTP status for the webhook."

    requests: list[tuple[str, dict[str, str], dict[str, str]]] = field(default_factory=list)
    "Path, headers and form of every HTTP request."
    upgrades: list[dict[str, str]] = field(default_factory=list)
    received: list[dict[str, Any]] = field(default_factory=list)
    origin: str = ""
    "Where the bot is served."

    # --- HTTP ---

    async def webhook(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        self.requests.append((request.url.path, dict(request.headers), form | dict(request.query_params)))
        if self.refuse_with:
            return Response("no", self.refuse_with)
        if request.url.path == "/done":
            return Response("")
        document = (self.markup or self.open_stream)(request.url.path)
        return Response(document, media_type="text/xml")

    def open_stream(self, path: str) -> str:
        host = self.origin.removeprefix("http://")
        if self.carrier == "plivo":
            content_type = "audio/x-mulaw;rate=8000"
            stream = f'<Stream bidirectional="true" keepCallAlive="true" contentType="{content_type}">'
            return f"<Response>{stream}wss://{host}/some/where</Stream></Response>"
        return f'<Response><Connect><Stream url="wss://{host}/some/where"/></Connect></Response>'

    # --- media ---

    async def media(self, socket: WebSocket) -> None:
        self.upgrades.append(dict(socket.headers))
        await socket.accept()
        task = asyncio.create_task(self._speak_on_time(socket))
        try:
            while True:
                await self._take(json.loads(await socket.receive_text()), socket)
        except WebSocketDisconnect:
            pass
        finally:
            task.cancel()

    _stream_id = ""
    _voiced_since: float | None = None
    _last_voiced = 0.0
    _speaks_until = 0.0
    _cleared = True

    async def _take(self, message: dict[str, Any], socket: WebSocket) -> None:
        if message["event"] != "media":
            self.received.append(message)
        if message["event"] == "start":
            start = message["start"]
            self._stream_id = start.get("streamSid") or start["streamId"]
            if self.greeting is not None:
                await self._say(self.greeting, socket)
        elif message["event"] == "media":
            payload = b64decode(message["media"]["payload"])
            if self.echo:
                await self._send(payload, socket)
            pcm = np.frombuffer(ulaw_to_pcm(payload), np.int16).astype(float)
            if np.sqrt(np.square(pcm).mean()) > 300:
                self._last_voiced = time.monotonic()
                self._voiced_since = self._voiced_since or self._last_voiced

    async def _speak_on_time(self, socket: WebSocket) -> None:
        opened = time.monotonic()
        while True:
            await asyncio.sleep(0.002)
            now = time.monotonic()
            if self.hang_up_after is not None and now >= opened + self.hang_up_after:
                await socket.close()
                return
            if self._voiced_since is None:
                continue
            speaking = now < self._speaks_until
            if self.clear_after is not None and speaking and now >= self._voiced_since + self.clear_after:
                self._speaks_until = 0.0
                event = {"twilio": "clear", "plivo": "clearAudio"}[self.carrier]
                await socket.send_text(json.dumps({"event": event, self._id_name: self._stream_id}))
            if now >= self._last_voiced + max(self.reply_after, TURN_PAUSE_S):
                self._voiced_since = None
                if self.reply is not None and not speaking:
                    await self._say(self.reply, socket)

    @property
    def _id_name(self) -> str:
        return {"twilio": "streamSid", "plivo": "streamId"}[self.carrier]

    async def _say(self, pcm: Samples, socket: WebSocket) -> None:
        self._speaks_until = time.monotonic() + len(pcm) / RATE
        await self._send(pcm_to_ulaw(pcm.tobytes()), socket)
        mark: dict[str, Any] = {"event": "mark", "mark": {"name": "said"}}
        if self.carrier == "plivo":
            mark = {"event": "checkpoint", "name": "said"}
        await socket.send_text(json.dumps(mark | {self._id_name: self._stream_id}))

    async def _send(self, ulaw: bytes, socket: WebSocket) -> None:
        payload = b64encode(ulaw).decode()
        message: dict[str, Any] = {"event": "media", "streamSid": self._stream_id, "media": {"payload": payload}}
        if self.carrier == "plivo":
            media = {"contentType": "audio/x-mulaw", "sampleRate": 8000, "payload": payload}
            message = {"event": "playAudio", "media": media}
        await socket.send_text(json.dumps(message))

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                WebSocketRoute("/some/where", self.media),
                Route("/{path:path}", self.webhook, methods=["GET", "POST"]),
            ]
        )


@asynccontextmanager
async def _serve(**behaviour: Any) -> AsyncIterator[Bot]:
    bot = Bot(**behaviour)
    async with Listener(bot.app()) as listener:
        bot.origin = listener.url
        yield bot


@pytest.fixture
def start_bot() -> Callable[..., AbstractAsyncContextManager[Bot]]:
    """Serve a bot: `async with start_bot(greeting=…) as bot`."""
    return _serve
