"""A remote agent: a WebSocket server that speaks the link, written as its author would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from offhook.agents import link
from offhook.agents.remote import MAX_BACKLOG, Remote
from offhook.agents.runtime import AgentSession
from offhook.agents.vad import VadService
from offhook.codecs.audio import L16_16K, PCMU
from offhook.codecs.pcm import tone

pytestmark = pytest.mark.own_tasks("the fixture `dial` ends every session")

CALL = link.CallInfo("c1", "+15550001", "+15550100", "twilio", fields={"CallSid": "CA1"})
Script = Callable[[ServerConnection, dict[str, Any]], Awaitable[None]]


class Call:
    """The gateway's side of one relayed call."""

    def __init__(self) -> None:
        self.events: list[link.FromAgent] = []
        self.sound = b""
        self._news = asyncio.Event()
        self.session: AgentSession

    def event(self, message: link.FromAgent) -> None:
        self.events.append(message)
        self._news.set()

    def audio(self, data: bytes) -> None:
        self.sound += data
        self._news.set()

    async def until(self, happened: Callable[[], Any]) -> None:
        async with asyncio.timeout(5):
            while not happened():
                self._news.clear()
                await self._news.wait()

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


Dial = Callable[..., Awaitable[Call]]


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    calls: list[Call] = []
    servers: list[Any] = []
    vad = VadService()

    async def begin(script: Script | None, url: str = "", **settings: Any) -> Call:
        if script is not None:

            async def talk(socket: ServerConnection) -> None:
                await script(socket, json.loads(await socket.recv()))

            server = await serve(talk, "127.0.0.1", 0)
            servers.append(server)
            port = next(iter(server.sockets)).getsockname()[1]
            url = f"ws://127.0.0.1:{port}/link"
        call = Call()
        calls.append(call)
        offer = link.Offer(CALL, "remote", {"url": url, **settings}, "pcmu/8000", kind="remote")
        call.session = AgentSession(offer, Remote, call, vad=vad)
        return call

    yield begin
    for call in calls:
        call.session.receive(link.Over("test over"))
        await call.session._ending
    for server in servers:
        server.close()
        await server.wait_closed()
    vad.close()


async def answered(call: Call) -> None:
    await call.until(lambda: call.of(link.Ready))
    call.session.receive(link.Answered())


async def test_a_conversation(dial: Dial) -> None:
    seen: dict[str, Any] = {"headers": None, "events": [], "audio": b""}

    async def agent(socket: ServerConnection, offer: dict[str, Any]) -> None:
        assert socket.request is not None
        seen["headers"], seen["offer"] = socket.request.headers.get("Authorization"), offer
        await socket.send(json.dumps({"type": "ready"}))
        await socket.send(json.dumps({"type": "speak", "utterance": 41, "text": "hello"}))
        await socket.send(b"\x11" * 800)
        await socket.send(json.dumps({"type": "spoken", "utterance": 41}))
        await socket.send(json.dumps({"type": "transcript", "role": "caller", "text": "hi"}))
        await socket.send(json.dumps({"type": "note", "name": "mood", "data": {"good": True}}))
        async for data in socket:
            if isinstance(data, bytes):
                seen["audio"] += data
            else:
                seen["events"].append(json.loads(data))
                if seen["events"][-1]["type"] == "dtmf":
                    await socket.send(json.dumps({"type": "hangup", "reason": "bye"}))

    call = await dial(agent, headers={"Authorization": "Bearer 1"}, mood="sunny")
    await answered(call)
    await call.until(lambda: call.of(link.Note))
    assert call.of(link.Speak) == [link.Speak(1, "hello")]
    assert call.of(link.Spoken) == [link.Spoken(1)]
    assert call.sound == b"\x11" * 800
    call.session.receive_audio(b"\x22" * 160)
    call.session.receive(link.UtteranceStarted(1, 5.0))
    call.session.receive(link.UtteranceEnded(1, "cut", 60, 100))
    call.session.receive(link.Dtmf("9"))
    await call.until(lambda: call.of(link.HangUp))
    assert call.of(link.HangUp) == [link.HangUp("bye")]
    call.session.receive(link.Over("agent_hangup"))
    await call.session._ending
    assert seen["headers"] == "Bearer 1"
    assert seen["offer"]["call"]["from_number"] == "+15550001"
    assert seen["offer"]["settings"] == {"mood": "sunny"}
    assert seen["audio"] == b"\x22" * 160
    assert [event["type"] for event in seen["events"]] == [
        "answered",
        "utterance.started",
        "utterance.ended",
        "dtmf",
        "over",
    ]
    assert seen["events"][2] == {
        "type": "utterance.ended",
        "utterance": 41,
        "outcome": "cut",
        "heard_ms": 60,
        "length_ms": 100,
    }


async def test_the_remote_side_names_its_format(dial: Dial) -> None:
    sizes: list[int] = []

    async def agent(socket: ServerConnection, offer: dict[str, Any]) -> None:
        await socket.send(json.dumps({"type": "ready", "format": "l16/16000"}))
        async for data in socket:
            if isinstance(data, bytes):
                sizes.append(len(data))
                await socket.send(data)

    call = await dial(agent)
    await answered(call)
    for _ in range(5):
        call.session.receive_audio(PCMU.silence)
    await call.until(lambda: len(call.sound) >= 5 * 160)
    assert sizes == [L16_16K.frame_bytes] * 5


async def test_it_may_refuse(dial: Dial) -> None:
    async def agent(socket: ServerConnection, offer: dict[str, Any]) -> None:
        await socket.send(json.dumps({"type": "refuse", "reason": "full"}))

    call = await dial(agent)
    await call.until(lambda: call.events)
    assert call.events == [link.Refuse("full")]


async def junk(socket: ServerConnection, offer: dict[str, Any]) -> None:
    await socket.send(json.dumps({"type": "ready"}))
    await socket.send("{not json")


async def twice(socket: ServerConnection, offer: dict[str, Any]) -> None:
    await socket.send(json.dumps({"type": "ready"}))
    for _ in range(2):
        await socket.send(json.dumps({"type": "speak", "utterance": 1}))


async def leaves(socket: ServerConnection, offer: dict[str, Any]) -> None:
    await socket.send(json.dumps({"type": "ready"}))


async def starts_with_speech(socket: ServerConnection, offer: dict[str, Any]) -> None:
    await socket.send(json.dumps({"type": "speak", "utterance": 1}))


@pytest.mark.parametrize(
    ("script", "names"),
    [
        (junk, "LinkError"),
        (twice, "utterance 1 twice"),
        (leaves, "did not hang up"),
        (starts_with_speech, "not ready or refuse"),
    ],
)
async def test_what_breaks_the_link_fails_the_call(dial: Dial, script: Script, names: str) -> None:
    call = await dial(script)
    if script is not starts_with_speech:
        await answered(call)
    await call.until(lambda: call.of(link.Failed))
    [failed] = call.of(link.Failed)
    assert names in failed.error + failed.traceback


async def test_an_address_where_nobody_is(dial: Dial) -> None:
    call = await dial(None, "ws://127.0.0.1:9/link")
    await call.until(lambda: call.of(link.Failed))
    assert "ws://127.0.0.1:9/link" in call.of(link.Failed)[0].error


@pytest.mark.parametrize(
    ("settings", "names"), [({"url": "http://x"}, "url"), ({"url": "ws://x", "headers": 3}, "headers")]
)
async def test_settings_that_cannot_work(dial: Dial, settings: dict[str, Any], names: str) -> None:
    url = settings.pop("url")
    call = await dial(None, url, **settings)
    assert call.of(link.Failed)[0].error.startswith(f"SettingsError: {names}")


async def test_a_remote_agent_that_does_not_read_loses_old_audio_only(dial: Dial) -> None:
    done = asyncio.Event()

    async def agent(socket: ServerConnection, offer: dict[str, Any]) -> None:
        await socket.send(json.dumps({"type": "ready"}))
        socket.transport.pause_reading()
        await done.wait()
        socket.transport.abort()

    call = await dial(agent)
    await answered(call)
    remote = call.session.agent
    assert isinstance(remote, Remote)
    for _ in range(60_000):
        call.session.receive_audio(PCMU.silence)
        if remote.dropped_frames:
            break
        await asyncio.sleep(0)
    assert remote.dropped_frames > 0
    assert remote._frames <= MAX_BACKLOG
    assert not call.of(link.Failed)
    done.set()


async def test_a_bed_is_laid_and_named_again(dial: Dial) -> None:
    async def agent(socket: ServerConnection, offer: dict[str, Any]) -> None:
        await socket.send(json.dumps({"type": "ready", "format": "l16/16000"}))
        await socket.recv()
        await socket.send(link.encode(link.Bed("hum", tone(400, 0.5, 16_000), 0.5)).decode())
        await socket.send(link.encode(link.Bed()).decode())
        await socket.send(link.encode(link.Bed("hum")).decode())
        await socket.send(link.encode(link.Bed("drum")).decode())
        await socket.wait_closed()

    call = await dial(agent)
    await answered(call)
    await call.until(lambda: call.of(link.Failed))
    laid, silent, again = call.of(link.Bed)
    assert (len(laid.audio), laid.gain) == (PCMU.size(0.5), 0.5)
    assert silent == link.Bed()
    assert again == link.Bed(laid.sound), "the gateway has its audio"
    assert "the bed 'drum', whose audio it has not sent" in call.of(link.Failed)[0].traceback


async def test_what_it_remembers_and_reports_is_passed_on(dial: Dial) -> None:
    messages = [{"role": "user", "content": "hi"}]

    async def agent(socket: ServerConnection, offer: dict[str, Any]) -> None:
        await socket.send(json.dumps({"type": "ready"}))
        await socket.recv()
        await socket.send(link.encode(link.Context(2, messages)).decode())
        await socket.send(link.encode(link.Service("llm", "own", 120.0, "timeout", "slow")).decode())
        await socket.wait_closed()

    call = await dial(agent)
    await answered(call)
    await call.until(lambda: call.of(link.Service))
    assert call.of(link.Context) == [link.Context(2, messages)]
    assert call.of(link.Service) == [link.Service("llm", "own", 120.0, "timeout", "slow")]
