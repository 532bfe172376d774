"""The reference as a bot behind a Twilio number: webhook, TwiML, and a Media Streams socket, written from Twilio's
documentation alone.

A sentence is sent whole at the moment it begins, and `clear` at the moment it is cut, so that the carrier's play-out
begins and stops with the reference's own clock. That clock starts with the `start` message.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from offhook.codecs.g711 import pcm_to_ulaw, ulaw_to_pcm
from offhook.providers.base import CarrierAuthError, CarrierRequest
from offhook.providers.twilio import auth
from offhook.qa.reference.behaviour import Behaviour, behaviour_of
from offhook.qa.reference.brain import Brain, HangUp, Order, Play, Stop, Transfer
from offhook.qa.reference.ear import RATE, Samples
from offhook.qa.reference.lines import Lines
from offhook.qa.reference.rtp import Anchor
from offhook.qa.reference.truth import CallTruth, TruthLog

PIECE: Final = 4000
"""Samples a message: half a second."""

TOKEN_S: Final = 60.0
"""Life of a token, which is good for one socket."""

MAX_TOKENS: Final = 10_000

SIGNATURE: Final = "a request that is not signed by this account"


@dataclass(slots=True)
class _Invited:
    """A call whose media socket has not been opened yet."""

    call: str
    behaviour: Behaviour
    since: float
    "When the webhook was answered, monotonic."


class TwilioReference:
    """All calls of one account. `public_url` is the origin over which Twilio signs."""

    def __init__(self, lines: Lines, behaviour: Behaviour, truth: TruthLog, auth_token: str) -> None:
        self._lines, self._behaviour, self._truth, self._token = lines, behaviour, truth, auth_token
        self.public_url = ""
        self._invited: dict[str, _Invited] = {}
        self._after: dict[str, str] = {}
        "CallSid → number that the call goes to once its stream is over."
        self.app = Starlette(
            routes=[
                Route("/twilio/after", self._ask_after, methods=["POST"]),
                Route("/twilio/{name}", self._ring, methods=["POST"]),
                WebSocketRoute("/media/{token}", self._media),
            ]
        )

    # --- webhooks ------------------------------------------------------------------------

    def _signed(self, connection: HTTPConnection, method: str, body: bytes = b"") -> bool:
        headers: dict[str, list[str]] = {}
        for name, value in connection.headers.items():
            headers.setdefault(name, []).append(value)
        public = urlsplit(self.public_url)
        scheme = public.scheme if method == "POST" else {"http": "wss", "https": "wss"}[public.scheme]
        query = f"?{connection.url.query}" if connection.url.query else ""
        url = f"{scheme}://{public.netloc}{connection.url.path}{query}"
        try:
            auth.verify(CarrierRequest(method, url, headers, body), tokens=[self._token])
        except CarrierAuthError:
            return False
        return True

    async def _form(self, request: Request, behaviour: Behaviour) -> Mapping[str, str] | None:
        body = await request.body()
        if not behaviour.trusting and not self._signed(request, "POST", body):
            self._truth.note("", "refused", 0.0, time.time(), status=403, why=SIGNATURE)
            return None
        return dict(auth.form_fields(body))

    async def _ring(self, request: Request) -> Response:
        behaviour = behaviour_of(request.path_params["name"], self._behaviour)
        form = await self._form(request, behaviour)
        if form is None:
            return Response("not signed", 403)
        call = form.get("CallSid", "")
        truth = CallTruth(self._truth, call)
        truth("call", 0.0, way="twilio", **{"from": form.get("From", ""), "to": form.get("To", "")})
        if behaviour.refuses:
            truth("refused", 0.0, status=200, why="busy")
            return _twiml('<Reject reason="busy"/>')
        await asyncio.sleep(behaviour.ring)
        now = time.monotonic()
        self._invited = {token: known for token, known in self._invited.items() if known.since > now - TOKEN_S}
        if len(self._invited) >= MAX_TOKENS:
            return Response("too many calls", 503)
        token = secrets.token_urlsafe(24)
        self._invited[token] = _Invited(call, behaviour, now)
        public = urlsplit(self.public_url)
        stream = f'<Stream url="wss://{public.netloc}/media/{token}"/>'
        return _twiml(f'<Connect action="{self.public_url}/twilio/after">{stream}</Connect>')

    async def _ask_after(self, request: Request) -> Response:
        form = await self._form(request, self._behaviour)
        if form is None:
            return Response("not signed", 403)
        to = self._after.pop(form.get("CallSid", ""), "")
        return _twiml(f"<Dial><Number>{to}</Number></Dial>" if to else "<Hangup/>")

    # --- media ---------------------------------------------------------------------------

    async def _media(self, socket: WebSocket) -> None:
        token = socket.path_params["token"]
        invited = self._invited.get(token)
        why = ""
        if invited is None or invited.since < time.monotonic() - TOKEN_S:
            why = "a token that is unknown or was used"
        elif not invited.behaviour.trusting and not self._signed(socket, "GET"):
            why = SIGNATURE
        if invited is None or why:
            self._truth.note(invited.call if invited else "", "refused", 0.0, time.time(), status=403, why=why)
            await socket.close()
            return
        if not invited.behaviour.trusting:
            del self._invited[token]
        await socket.accept()
        truth = CallTruth(self._truth, invited.call)
        stream = TwilioCall(socket, Brain(self._lines, invited.behaviour, truth), truth, invited.since)
        await stream.run()
        if stream.transfer:
            self._after[invited.call] = stream.transfer


class TwilioCall:
    """One media stream."""

    def __init__(self, socket: WebSocket, brain: Brain, truth: CallTruth, since: float) -> None:
        self._socket, self._brain, self._truth, self._since = socket, brain, truth, since
        self._loop = asyncio.get_running_loop()
        self._stream = ""
        self._zero = 0.0
        self._anchor = Anchor()
        self._moved = asyncio.Event()
        self._late = 0.0
        self.transfer = ""
        "Number to be dialled now that the stream is over."

    @property
    def _now(self) -> float:
        return self._loop.time() - self._zero

    async def run(self) -> None:
        """Carry the stream to its end."""
        speaker: asyncio.Task[None] | None = None
        by = "caller"
        try:
            async for text in self._socket.iter_text():
                message = json.loads(text)
                kind = message.get("event")
                if kind == "start":
                    self._stream = message["start"]["streamSid"]
                    self._zero = self._loop.time()
                    self._truth.answered(time.monotonic() - self._since)
                    speaker = asyncio.create_task(self._speak(), name="reference-speaker")
                elif kind == "stop":
                    break
                elif speaker is not None:
                    self._take(kind, message)
        except (ValueError, KeyError, TypeError, AttributeError, WebSocketDisconnect) as error:
            by = f"a message that cannot be read: {error!r}"
        finally:
            if speaker is not None:
                if speaker.done():
                    by = "reference"
                speaker.cancel()
                await asyncio.gather(speaker, return_exceptions=True)
            self._brain.over()
            self._truth("ended", self._now, by=by, late_ms=round(self._late * 1000, 1))

    def _take(self, kind: str, message: dict[str, Any]) -> None:
        if kind == "media":
            media = message["media"]
            samples = np.frombuffer(ulaw_to_pcm(base64.b64decode(media["payload"])), "<i2")
            begins = int(media["timestamp"]) / 1000
            self._brain.hear(samples, self._anchor.place(begins, len(samples) / RATE, self._now))
        elif kind == "dtmf":
            self._brain.key(str(message["dtmf"]["digit"]), self._now, "carrier")
        self._moved.set()

    async def _speak(self) -> None:
        """Do what the brain wants, each thing at its moment; returns when the reference ends the stream."""
        while True:
            due = self._brain.next_due()
            if due is None or due > self._now:
                self._moved.clear()
                try:
                    async with asyncio.timeout_at(None if due is None else self._zero + due):
                        await self._moved.wait()
                except TimeoutError:
                    pass
                continue
            for order in self._brain.advance(self._now):
                self._late = max(self._late, self._now - order.at)
                if await self._do(order):
                    return

    async def _do(self, order: Order) -> bool:
        """Carry an order out; True when it ends the stream."""
        if isinstance(order, Play):
            for piece in _pieces(order.samples, order.lost):
                payload = base64.b64encode(pcm_to_ulaw(piece.astype("<i2").tobytes())).decode()
                await self._send({"event": "media", "streamSid": self._stream, "media": {"payload": payload}})
        elif isinstance(order, Stop):
            await self._send({"event": "clear", "streamSid": self._stream})
        elif isinstance(order, HangUp | Transfer):
            self.transfer = order.to if isinstance(order, Transfer) else ""
            await self._socket.close()
            return True
        return False

    async def _send(self, message: dict[str, Any]) -> None:
        await self._socket.send_text(json.dumps(message))


def _pieces(samples: Samples, lost: tuple[int, int]) -> Iterator[Samples]:
    if lost[1]:
        samples = samples.copy()
        samples[lost[0] : lost[0] + lost[1] * RATE // 50] = 0
    for at in range(0, len(samples), PIECE):
        yield samples[at : at + PIECE]


def _twiml(verbs: str) -> Response:
    return Response(f'<?xml version="1.0" encoding="UTF-8"?><Response>{verbs}</Response>', media_type="text/xml")
