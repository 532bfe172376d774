"""A take-over with real agent processes: one is killed in the middle of a call, the next one goes on with it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from offhook.codecs.audio import PCMU
from offhook.gateway.call import Call
from offhook.gateway.config import Config
from offhook.gateway.hosts import AgentPool, AgentSpec, HostLimits
from offhook.gateway.metrics import Metrics
from offhook.gateway.recording import Recorder
from offhook.gateway.switchboard import Switchboard
from offhook.providers.base import IncomingCall, StreamAnswer
from offhook.providers.twilio.adapter import TwilioProvider
from offhook.providers.twilio.wire import TwilioCarrierSide

pytestmark = pytest.mark.own_tasks("the fixture `desk` ends the call, its board and every host")

SID = "CA" + "1" * 32

MINDFUL = """
import os
from offhook.agents import Agent

class Mindful(Agent):
    format = None
    async def on_answer(self):
        self.known = list(self.call.history)
        self.call.note("knows", pid=os.getpid(), keys=[message["content"] for message in self.known])
        while True:
            self.known.append({"role": "user", "content": await self.next_digit()})
            self.call.remember(len(self.known) - 1, self.known[-1:])
            self.call.note("knows", pid=os.getpid(), keys=[message["content"] for message in self.known])

    def on_audio(self, audio):
        self.call.stream(audio)
"""


class Journal:
    def __init__(self) -> None:
        self.entries: list[tuple[str, dict[str, Any]]] = []
        self.news = asyncio.Event()

    def append(self, call_id: str, event: str, data: dict[str, Any], *, sync: bool = False) -> None:
        self.entries.append((event, data))
        self.news.set()

    def of(self, event: str) -> list[dict[str, Any]]:
        return [data for name, data in self.entries if name == event]


class Desk:
    """A switchboard with real agents, and a caller on Twilio's wire without a network."""

    def __init__(self, folder: Path, isolation: str) -> None:
        agent = {"kind": "mindful:Mindful", "isolation": isolation}
        self.config = Config.model_validate(
            {
                "public_url": "https://voice.example.com",
                "carriers": {"twilio": {"account_sid": "AC" + "0" * 32, "auth_token": "token"}},
                "agents": {"mindful": agent},
                "routes": [{"number": "*", "agent": "mindful"}],
            }
        )
        spec = AgentSpec("mindful", "mindful:Mindful", {}, self.config.agents["mindful"].isolation)
        self.pool = AgentPool([spec], HostLimits(warm=1, directory=str(folder)))
        self.provider = TwilioProvider(self.config.provider_settings("twilio"))
        self.journal, self.recorder = Journal(), Recorder(folder)
        self.board = Switchboard(
            self.config,
            {"twilio": self.provider},
            self.pool,
            self.journal,  # type: ignore[arg-type]
            self.recorder,
            Metrics(),
            {},
        )
        self.side = TwilioCarrierSide(account_sid="AC" + "0" * 32, call_sid=SID)
        self.loop = asyncio.get_running_loop()
        self.closed_with: int | None = None
        self.writable_now = True
        self.heard = 0

    # the carrier's socket

    def send_message(self, message: bytes) -> None:
        self.side.receive(message, self.loop.time())
        self.heard += b'"media"' in message

    def close(self, code: int, reason: str = "") -> None:
        self.closed_with = code

    async def ring(self) -> Call:
        answer = await self.board.incoming(self.provider, IncomingCall(SID, "+15550001", "+15550100", "inbound", {}))
        assert isinstance(answer, StreamAnswer)
        call = self.board.redeem(answer.url.rpartition("/")[2])
        assert call is not None
        self._give = call.connect(self, self.provider.stream(expect_call_id=SID))  # type: ignore[arg-type]
        for message in self.side.open(self.loop.time()):
            self._give(message, True)
        return call

    def press(self, digit: str) -> None:
        self._give(self.side.dtmf(digit), True)

    async def until(self, *keys: str) -> int:
        """Wait until the agent knows just these keys; its process id."""
        async with asyncio.timeout(20):
            while True:
                known = [data["data"] for data in self.journal.of("agent.note")]
                if known and known[-1]["keys"] == list(keys):
                    return int(known[-1]["pid"])
                self.journal.news.clear()
                await self.journal.news.wait()

    async def close_all(self) -> None:
        await self.board.close(1.0)
        await self.pool.close()
        await self.recorder.close()
        await self.provider.control.close()


@pytest.fixture
async def desk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Desk]:
    (tmp_path / "mindful.py").write_text(MINDFUL)
    made = Desk(tmp_path, request.param)
    await made.pool.start()
    made.board.start()
    yield made
    await made.close_all()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("desk", ["host", "call"], indirect=True)
async def test_a_killed_agent_is_replaced_by_one_that_knows_the_conversation(desk: Desk) -> None:
    call = await desk.ring()
    await desk.until()
    for digit in "12":
        desk.press(digit)
    pid = await desk.until("1", "2")
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(20):
        while not desk.journal.of("agent.lost"):
            await asyncio.sleep(0.01)
    desk.press("3")  # while nobody is there: the next one gets it
    assert await desk.until("1", "2", "3") != pid
    before = desk.heard
    desk._give(desk.side.media(b"\x21" * PCMU.frame_bytes), True)
    async with asyncio.timeout(5):
        while desk.heard == before:
            await asyncio.sleep(0.01)
    assert call.live
    [resumed] = desk.journal.of("resumed")
    assert (resumed["reason"], resumed["messages"]) == ("agent_crashed", 2)
    assert "SIGKILL" in resumed["detail"]
    assert 0 < resumed["pause_ms"] < 6000
    os.kill(await desk.until("1", "2", "3"), signal.SIGKILL)
    async with asyncio.timeout(10):
        await call.over
    assert [end["reason"] for end in desk.journal.of("call.ended")] == ["agent_crashed"]
