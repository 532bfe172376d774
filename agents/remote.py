"""The remote agent: any program, in any language, that speaks the agent link over a WebSocket.

offhook connects to `url` while the phone rings and speaks first (`offer`). The remote side answers `ready`,
naming in `format` what it wants to hear and speak, such as l16/16000; audio is converted here, in the agent
host. From then on both sides send events as text and audio as binary messages, see `link`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import Any, Final

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from offhook.agents import link
from offhook.agents.api import Agent, AgentCall, Refused, SettingsError, Utterance
from offhook.codecs.audio import AudioFormat
from offhook.codecs.convert import Converter, convert_all

MAX_BACKLOG: Final = 250
"""Caller frames (5 s) that may wait for a remote agent that does not read; older ones are dropped."""

MAX_SOUNDS: Final = 8
"""Beds that are kept for a remote agent to name again, as many as the gateway keeps."""

HANDSHAKE_BUDGET: Final = 3.0
"""Seconds for the WebSocket handshake, and again for `ready`; the route's ring budget usually ends sooner."""


class Remote(Agent):
    """Relay a call to an agent at a WebSocket.

    Settings: `url` (ws:// or wss://, required), `headers` (a mapping, such as Authorization), and anything
    else, which reaches the remote agent in the offer's `settings`.
    """

    format = None

    def __init__(self, call: AgentCall, settings: dict[str, Any]) -> None:
        super().__init__(call, settings)
        url, headers = settings.get("url", ""), settings.get("headers", {})
        if not isinstance(url, str) or not url.startswith(("ws://", "wss://")):
            raise SettingsError("url: give the agent's address, such as wss://agent.example.com/link")
        if not isinstance(headers, dict):
            raise SettingsError("headers: must be a mapping of header names to values")
        self._url, self._headers = url, {str(name): str(value) for name, value in headers.items()}
        self._socket: ClientConnection | None = None
        self._out: deque[bytes | str] = deque()
        self._wake = asyncio.Event()
        self._frames = 0
        self._to_remote: Converter | None = None
        self._from_remote: Converter | None = None
        self._theirs: dict[int, Utterance] = {}
        self._ids: dict[int, int] = {}
        self._open: Utterance | None = None
        self._sounds: OrderedDict[str, bytes] = OrderedDict()
        self._format = self.call.format
        self._leaving = False
        self.dropped_frames = 0

    async def on_ring(self) -> None:
        carrier = self.call.format
        offer = link.Offer(
            call=self.call.info,
            agent="remote",
            settings={key: value for key, value in self.settings.items() if key not in ("url", "headers")},
            format=str(carrier),
            history=self.call.history,
        )
        try:
            self._socket = await connect(
                self._url,
                additional_headers=self._headers,
                open_timeout=HANDSHAKE_BUDGET,
                max_size=link.MAX_BODY,
                compression=None,
            )
            await self._socket.send(link.encode(offer).decode())
            async with asyncio.timeout(HANDSHAKE_BUDGET):
                answer = _event(await self._socket.recv())
        except (OSError, InvalidURI, InvalidHandshake, ConnectionClosed, TimeoutError) as error:
            raise ConnectionError(f"remote agent at {self._url}: {type(error).__name__}: {error}") from error
        if isinstance(answer, link.Refuse):
            raise Refused(answer.reason)
        if not isinstance(answer, link.Ready):
            raise link.LinkError(f"remote agent answered the offer with {type(answer).__name__}, not ready or refuse")
        theirs = self._format = AudioFormat.parse(answer.format) if answer.format else carrier
        if theirs != carrier:
            self._to_remote, self._from_remote = Converter(carrier, theirs), Converter(theirs, carrier)

    async def on_answer(self) -> None:
        self._send(link.Answered())
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sender())
            group.create_task(self._reader())

    async def on_over(self, reason: str) -> None:
        if self._socket is not None:
            try:
                await self._socket.send(link.encode(link.Over(reason)).decode())
            except ConnectionClosed:
                return
            await self._socket.close()

    # --- to the remote side

    def on_audio(self, audio: bytes) -> None:
        if self._frames >= MAX_BACKLOG:
            self._drop_oldest()
        self._frames += 1
        self._out.append(audio if self._to_remote is None else self._to_remote.convert(audio))
        self._wake.set()

    def _drop_oldest(self) -> None:
        for i, item in enumerate(self._out):
            if isinstance(item, bytes):
                del self._out[i]
                self._frames -= 1
                self.dropped_frames += 1
                return

    def on_dtmf(self, digit: str) -> None:
        self._send(link.Dtmf(digit))

    def on_utterance_started(self, utterance: Utterance) -> None:
        if utterance.id in self._ids:
            self._send(link.UtteranceStarted(self._ids[utterance.id]))

    def on_utterance_ended(self, ended: link.UtteranceEnded) -> None:
        theirs = self._ids.pop(ended.utterance, None)
        if theirs is not None:
            self._theirs.pop(theirs, None)
            self._send(msgspec.structs.replace(ended, utterance=theirs))

    def on_order_refused(self, order: str, reason: str) -> None:
        self._send(msgspec.convert({"type": "order.refused", "order": order, "reason": reason}, link.OrderRefused))

    def _send(self, message: link.ToAgent) -> None:
        self._out.append(link.encode(message).decode())
        self._wake.set()

    async def _sender(self) -> None:
        assert self._socket is not None
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._out:
                item = self._out.popleft()
                if isinstance(item, bytes):
                    self._frames -= 1
                await self._socket.send(item)

    # --- from the remote side

    async def _reader(self) -> None:
        assert self._socket is not None
        async for data in self._socket:
            if isinstance(data, bytes):
                self._audio(data if self._from_remote is None else self._from_remote.convert(data))
            elif isinstance(event := _event(data), link.Bed):
                await self._bed(event)
            else:
                self._obey(event)
        if self._leaving:
            return
        raise ConnectionError(
            f"remote agent at {self._url} closed its socket with {self._socket.close_code} and did not hang up"
        )

    def _audio(self, data: bytes) -> None:
        if self._open is not None:
            self.call.add(self._open, data)
        else:
            self.call.stream(data)

    async def _bed(self, bed: link.Bed) -> None:
        if bed.sound and bed.audio:
            loop = bed.audio
            if self._format != self.call.format:
                loop = await asyncio.to_thread(convert_all, loop, self._format, self.call.format)
            self._sounds[bed.sound] = loop
            if len(self._sounds) > MAX_SOUNDS:
                self._sounds.popitem(last=False)
        elif bed.sound and bed.sound not in self._sounds:
            raise link.LinkError(f"remote agent named the bed {bed.sound!r}, whose audio it has not sent")
        self.call.bed(self._sounds.get(bed.sound, b""), bed.gain)

    def _obey(self, message: link.FromAgent) -> None:
        match message:
            case link.Speak(theirs, text):
                if theirs in self._theirs:
                    raise link.LinkError(f"remote agent opened utterance {theirs} twice")
                self._open = self.call.speak(text=text, last=False)
                self._theirs[theirs], self._ids[self._open.id] = self._open, theirs
            case link.Spoken(theirs):
                if theirs in self._theirs:
                    self.call.finish(self._theirs[theirs])
                self._open = None
            case link.Clear():
                self._open = None
                self.call.clear()
            case link.HangUp(reason, after_speech):
                self._leaving = True
                self.call.hang_up(reason, after_speech=after_speech)
            case link.Transfer(to, after_speech):
                self.call.transfer(to, after_speech=after_speech)
            case link.SendDtmf(digits):
                self.call.send_dtmf(digits)
            case link.Transcript(role, text, theirs):
                self.call.transcript(role, text, self._theirs.get(theirs))
            case link.Turn():
                # Its clock is not ours: the marks would mean nothing here.
                self.call.note("turn", utterance=message.utterance)
            case link.Note(name, data):
                self.call.note(name, **data)
            case link.Context(start, messages):
                self.call.remember(start, messages)
            case link.Service(role, service, ttfb_ms, fault, detail):
                self.call.service(role, service, ttfb_ms / 1000, fault, detail)
            case link.Failed(error):
                raise RuntimeError(f"remote agent failed: {error}")
            case _:
                raise link.LinkError(f"remote agent sent {type(message).__name__} in the middle of a call")


def _event(data: bytes | str) -> link.FromAgent:
    message = link.decode_from_agent(data)
    if isinstance(message, link.HostReady | link.Beat):
        raise link.LinkError(f"{type(message).__name__} is no message of an agent")
    return message
