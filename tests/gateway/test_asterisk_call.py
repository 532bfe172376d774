"""Whole calls from Asterisk: by AudioSocket on the switchboard, by chan_websocket at a gateway process."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes.asterisk import AudioSocketChannel, FakeAri, WebSocketChannel
from fakes.journal import Journal
from fakes.served import free_port
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from offhook.agents import link
from offhook.codecs.dtmf import DtmfDetector
from offhook.gateway.audiosocket import AudioSocketConnection, AudioSocketServer
from offhook.gateway.config import Config
from offhook.gateway.direct import DirectLine
from offhook.gateway.hosts import AgentLeg, AgentListener
from offhook.gateway.metrics import Metrics
from offhook.gateway.recording import Recorder
from offhook.gateway.switchboard import Switchboard
from offhook.providers.asterisk.adapter import AsteriskProvider
from offhook.providers.asterisk.audiosocket import AudioSocketStream
from offhook.providers.base import CallOffered, CarrierRequest, IncomingCall
from offhook.providers.rtp.clock import FrameClock

pytestmark = pytest.mark.own_tasks("the fixtures close what they started")

BASIC = "Basic " + base64.b64encode(b"offhook:secret").decode()
CHANNEL = "1700000000.12"


class Echo(AgentLeg):
    """An agent that says what it hears; the test may say more in its name."""

    def __init__(self, offer: link.Offer, call: AgentListener) -> None:
        self.offer, self.call = offer, call
        self.told: list[link.ToAgent] = []

    def event(self, message: link.ToAgent) -> None:
        self.told.append(message)

    def audio(self, data: bytes) -> None:
        self.call.agent_audio(data)

    def close(self) -> None:
        """Nothing is held."""


class Pool:
    ready = True
    restarts = 0
    hosts = ()
    refuses = False

    def __init__(self) -> None:
        self.agents: list[Echo] = []

    async def open(self, name: str, offer: link.Offer, listener: AgentListener) -> AgentLeg:
        self.agents.append(Echo(offer, listener))
        message = link.Refuse("no") if self.refuses else link.Ready()
        asyncio.get_running_loop().call_later(0.03, listener.agent_event, message)
        return self.agents[-1]

    def retire(self, leg: AgentLeg) -> None:
        """Nothing is kept."""


class Exchange:
    """A switchboard that takes AudioSocket calls."""

    def __init__(self, folder: Path, ari: FakeAri) -> None:
        config = Config.model_validate(
            {
                "public_url": "https://voice.example.com",
                "carriers": {
                    "asterisk": {
                        "password": "secret",
                        "audiosocket": {"port": 0},
                        "ari": {"url": ari.url, "username": "offhook", "password": "secret"},
                    }
                },
                "agents": {"desk": {"kind": "echo"}},
                "routes": [{"number": "+15550100", "agent": "desk", "allow_transfer": ["*"]}],
            }
        )
        self.provider = AsteriskProvider(config.provider_settings("asterisk"))
        self.journal, self.pool, self.recorder = Journal(), Pool(), Recorder(folder)
        self.board = Switchboard(
            config,
            {"asterisk": self.provider},
            self.pool,  # type: ignore[arg-type]
            self.journal,  # type: ignore[arg-type]
            self.recorder,
            Metrics(),
            {},
        )
        self.server = AudioSocketServer(self.provider, self._line, FrameClock())
        self.channels: list[AudioSocketChannel] = []

    def _line(self, stream: AudioSocketStream, socket: AudioSocketConnection) -> DirectLine:
        return DirectLine(self.board, self.provider, stream, socket)

    async def call(self, to: str = "+15550100") -> AudioSocketChannel:
        url = f"https://voice.example.com/asterisk/audiosocket?from=%2B15550001&to={to}&channel={CHANNEL}"
        request = CarrierRequest("GET", url.replace("+", "%2B"), {"authorization": [BASIC]})
        ticket = self.provider.ticket(request, asyncio.get_running_loop().time())
        channel = AudioSocketChannel()
        self.channels.append(channel)
        await channel.connect(self.port, ticket.body)
        channel.send(0x12, bytes(640))
        return channel

    async def until(self, what: Callable[[], object]) -> None:
        async with asyncio.timeout(5.0):
            while not what():
                await asyncio.sleep(0.005)

    async def ended(self) -> dict[str, Any]:
        await self.until(lambda: self.journal.of("call.ended"))
        return self.journal.of("call.ended")[-1]


@pytest.fixture
async def exchange(tmp_path: Path) -> AsyncIterator[Exchange]:
    async with FakeAri(dialplan={CHANNEL}) as ari:
        made = Exchange(tmp_path, ari)
        made.ari = ari  # type: ignore[attr-defined]
        made.board.start()
        made.port = await made.server.start()  # type: ignore[attr-defined]
        yield made
        await made.board.close(1.0)
        await made.server.close()
        for channel in made.channels:
            await channel.close()
        await made.recorder.close()
        await made.provider.control.close()


async def test_an_audiosocket_call_is_answered_heard_and_ended(exchange: Exchange) -> None:
    channel = await exchange.call()
    await exchange.until(lambda: exchange.journal.of("call.answered"))
    (agent,) = exchange.pool.agents
    assert exchange.journal.of("call.answered")[0]["format"] == "l16/16000"
    for _ in range(5):
        channel.send(0x12, b"\7\0" * 320)
    channel.send(0x03, b"5")
    await exchange.until(lambda: [p for _, _, p in channel.frames].count(b"\7\0" * 320) == 5)
    assert {kind for _, kind, _ in channel.frames[20:]} <= {0x12}
    assert exchange.journal.of("dtmf") == [{"digit": "5"}]
    agent.call.agent_event(link.SendDtmf("7"))
    detector = DtmfDetector(agent.call.stream.format)  # type: ignore[attr-defined]
    heard: list[str] = []
    before = len(channel.frames)
    await channel.heard(before + 10)
    for _, kind, payload in channel.frames[before:]:
        assert kind == 0x12
        heard += detector.feed(payload)
    assert heard == ["7"]
    await channel.close()
    ended = await exchange.ended()
    assert (ended["reason"], ended["ended_by"]) == ("caller_hangup", "caller")
    assert ended["faults"] == {}
    assert not channel.dropped


async def test_an_agent_hangs_up(exchange: Exchange) -> None:
    channel = await exchange.call()
    await exchange.until(lambda: exchange.journal.of("call.answered"))
    exchange.pool.agents[0].call.agent_event(link.HangUp("done", False))
    await channel.over.wait()
    assert channel.hung_up
    assert (await exchange.ended())["reason"] == "agent_hangup"


async def test_a_transfer_gives_the_call_back_to_the_dialplan(exchange: Exchange) -> None:
    channel = await exchange.call()
    await exchange.until(lambda: exchange.journal.of("call.answered"))
    exchange.pool.agents[0].call.agent_event(link.Transfer("+15550999", False))
    await channel.over.wait()
    assert channel.hung_up  # and the dialplan goes on
    assert exchange.ari.globals == {f"OFFHOOK_NEXT_{CHANNEL}": "+15550999"}  # type: ignore[attr-defined]
    assert (await exchange.ended())["reason"] == "transferred"
    assert exchange.journal.of("transfer") == [{"to": "+15550999", "ok": True}]


class Rings:
    """A stream whose first message is a call, and the socket under it."""

    def receive_binary(self, data: bytes, now: float) -> list[Any]:
        return [CallOffered(IncomingCall("early", "+15550001", "+15550100", "inbound", {}))]

    def close(self, code: int, reason: str = "") -> None:
        pass


async def test_a_socket_that_is_lost_as_soon_as_it_rings_wakes_no_agent(exchange: Exchange) -> None:
    rings: Any = Rings()
    line = DirectLine(exchange.board, exchange.provider, rings, rings)
    line.receive(b"", False)
    line.lost(1006)
    await asyncio.sleep(0.05)
    assert exchange.pool.agents == []
    assert exchange.board.active == 0


async def test_a_call_that_nobody_takes(exchange: Exchange) -> None:
    channel = await exchange.call(to="+15550777")  # no route
    await channel.over.wait()
    assert channel.hung_up
    exchange.pool.refuses = True
    channel = await exchange.call()
    await channel.over.wait()
    assert channel.hung_up
    assert exchange.board.active == 0


async def test_a_caller_who_leaves_while_it_rings(exchange: Exchange) -> None:
    channel = await exchange.call()
    await exchange.until(lambda: exchange.pool.agents)
    await channel.close()
    assert (await exchange.ended())["reason"] == "caller_hangup"
    await exchange.until(lambda: exchange.board.active == 0)


# --- a gateway process


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[str]:
    port = free_port()
    config = {
        "public_url": "https://voice.example.com",
        "listen": {"port": port},
        "data_dir": str(tmp_path / "var"),
        "carriers": {"asterisk": {"password": "secret"}},
        "agents": {"echo": {"kind": "echo", "isolation": "inline"}},
        "routes": [{"number": "+15550100", "agent": "echo"}],
        "log": {"level": "error"},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "offhook.gateway", "serve", "--config", str(tmp_path / "config.yaml")]
    process = subprocess.Popen(command)
    try:
        async with asyncio.timeout(30), httpx.AsyncClient() as web:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await web.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200:
                        break
                assert process.poll() is None
                await asyncio.sleep(0.05)
        yield f"ws://127.0.0.1:{port}/asterisk/media"
    finally:
        process.send_signal(signal.SIGINT)
        await asyncio.to_thread(process.wait, 20)


@pytest.mark.timing
async def test_chan_websocket_calls_at_a_gateway(gateway: str) -> None:
    with pytest.raises(InvalidStatus):
        await connect(gateway, subprotocols=[Subprotocol("media")])
    for spelt in (False, True):
        channel = WebSocketChannel(json=spelt, format="slin16", frame=640, connection_id=f"c-{spelt}")
        url = f"{gateway}/pbx?from=%2B15550001&to=%2B15550100"
        headers = {"Authorization": BASIC}
        async with connect(url, subprotocols=[Subprotocol("media")], additional_headers=headers) as socket:
            assert socket.subprotocol == "media"
            await socket.send(channel.start().decode())
            async with asyncio.timeout(5.0):
                while not channel.answered:
                    message = await socket.recv()
                    channel.take(message.encode() if isinstance(message, str) else message, isinstance(message, str))
            sent = [bytes([n, 0]) * 320 for n in range(1, 11)]
            for frame in sent:
                await socket.send(frame)
                await asyncio.sleep(0.02)
            async with asyncio.timeout(5.0):
                while len(channel.queue) < len(sent):
                    message = await socket.recv()
                    assert isinstance(message, bytes)
                    channel.take(message, False)
            assert list(channel.queue) == sent
            assert not channel.ignored
