"""Agent hosts as real processes: started, fed, and replaced when they die, hang or grow."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from offhook.agents import link
from offhook.codecs.audio import PCMU
from offhook.gateway import hosts as subject
from offhook.gateway.hosts import AgentHost, AgentLeg, AgentPool, AgentSpec, HostLeg, HostLimits
from offhook.gateway.reasons import EndReason

pytestmark = pytest.mark.own_tasks("the fixture `pool` ends every host")

OWN_AGENTS = """
import os, time
from offhook.agents import Agent

class Parrot(Agent):
    format = None
    def on_audio(self, audio):
        self.call.stream(audio)

class Troublemaker(Agent):
    format = None
    def on_dtmf(self, digit):
        if digit == "1":
            os._exit(3)
        if digit == "2":
            while True:
                pass
        if digit == "3":
            self.hoard = b"\1" * (400 << 20)
        if digit == "4":
            raise ValueError("four")
        self.call.note("pressed", digit=digit, pid=os.getpid())
"""


class Caller:
    """The gateway's call, as far as a host can see it."""

    def __init__(self) -> None:
        self.events: list[link.FromAgent] = []
        self.sound: list[bytes] = []
        self.lost: list[tuple[EndReason, str]] = []
        self._news = asyncio.Event()

    def agent_event(self, message: link.FromAgent) -> None:
        self.events.append(message)
        self._news.set()

    def agent_audio(self, data: bytes) -> None:
        self.sound.append(data)
        self._news.set()

    def agent_lost(self, reason: EndReason, detail: str) -> None:
        self.lost.append((reason, detail))
        self._news.set()

    async def until(self, happened: Any, budget: float = 10.0) -> None:
        async with asyncio.timeout(budget):
            while not happened():
                self._news.clear()
                await self._news.wait()

    def said(self, kind: type) -> Any:
        return lambda: any(isinstance(event, kind) for event in self.events)


class Pool:
    """A pool with the test's agents."""

    def __init__(self, pool: AgentPool, specs: dict[str, AgentSpec]) -> None:
        self.pool, self.specs = pool, specs

    async def ring(self, name: str) -> tuple[Caller, AgentLeg]:
        caller, spec = Caller(), self.specs[name]
        info = link.CallInfo("c1", "+15550001", "+15550100", "twilio")
        offer = link.Offer(info, name, spec.settings, "pcmu/8000", kind=spec.kind)
        leg = await self.pool.open(name, offer, caller)
        await caller.until(caller.said(link.Ready))
        leg.event(link.Answered(time.monotonic()))
        return caller, leg

    def hang_up(self, leg: AgentLeg) -> None:
        leg.event(link.Over("caller_hangup"))
        self.pool.retire(leg)


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Pool]:
    (tmp_path / "own_agents.py").write_text(OWN_AGENTS)
    specs = [
        AgentSpec("echo", "echo", {}, "host"),
        AgentSpec("mischief", "own_agents:Troublemaker", {}, "host"),
        AgentSpec("parrot", "own_agents:Parrot", {}, "call"),
        AgentSpec("alone", "own_agents:Troublemaker", {}, "call"),
        AgentSpec("inline", "echo", {"format": "l16/16000"}, "inline"),
    ]
    limits = HostLimits(processes=1, memory_mb=300, hung_after=3.0, warm=1, directory=str(tmp_path))
    made = AgentPool(specs, limits)
    await made.start()
    yield Pool(made, {spec.name: spec for spec in specs})
    await made.close()
    assert made.hosts == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def talk(leg: AgentLeg, caller: Caller, frames: int = 10) -> None:
    for _ in range(frames):
        leg.audio(PCMU.silence)
    await caller.until(lambda: len(caller.sound) >= frames)
    assert {len(piece) for piece in caller.sound} == {PCMU.frame_bytes}


@pytest.mark.parametrize("name", ["echo", "parrot", "inline"])
async def test_an_agent_answers_wherever_it_runs(pool: Pool, name: str) -> None:
    caller, leg = await pool.ring(name)
    await talk(leg, caller)
    pool.hang_up(leg)
    assert caller.lost == []


async def test_a_process_of_its_own_serves_one_call_and_goes(pool: Pool) -> None:
    one, first = await pool.ring("alone")
    two, second = await pool.ring("alone")
    for caller, leg in ((one, first), (two, second)):
        leg.event(link.Dtmf("0"))
        await caller.until(caller.said(link.Note))
    pids = [event.data["pid"] for caller in (one, two) for event in caller.events if isinstance(event, link.Note)]
    assert len(set(pids)) == 2
    pool.hang_up(first)
    async with asyncio.timeout(5):
        while pids[0] in {host.pid for host in pool.pool.hosts}:
            await asyncio.sleep(0.01)
    assert one.lost == []
    assert pids[1] in {host.pid for host in pool.pool.hosts}


@pytest.mark.parametrize(
    ("digit", "reason", "detail"),
    [("1", EndReason.AGENT_CRASHED, "exit code 3"), ("2", EndReason.AGENT_HUNG, "no beat")],
)
async def test_a_host_that_dies_or_hangs_loses_its_own_calls_only(
    pool: Pool, digit: str, reason: EndReason, detail: str
) -> None:
    other, steady = await pool.ring("parrot")
    caller, leg = await pool.ring("mischief")
    leg.event(link.Dtmf(digit))
    await caller.until(lambda: caller.lost)
    assert len(caller.lost) == 1
    assert caller.lost[0][0] == reason
    assert detail in caller.lost[0][1]
    leg.event(link.Dtmf("1"))  # goes nowhere
    pool.pool.retire(leg)
    await talk(steady, other)
    async with asyncio.timeout(5):
        while not pool.pool.ready:
            await asyncio.sleep(0.01)
    again, back = await pool.ring("echo")
    await talk(back, again)
    assert pool.pool.restarts == 1
    assert other.lost == []


async def test_a_host_over_its_memory_limit_is_killed(pool: Pool) -> None:
    caller, leg = await pool.ring("alone")
    leg.event(link.Dtmf("3"))
    await caller.until(lambda: caller.lost)
    assert caller.lost[0][0] is EndReason.AGENT_OUT_OF_MEMORY
    assert "agent_hosts.memory_mb = 300" in caller.lost[0][1]
    pool.pool.retire(leg)


async def test_an_agent_that_raises_costs_its_own_call_only(pool: Pool) -> None:
    caller, leg = await pool.ring("mischief")
    other, steady = await pool.ring("echo")
    leg.event(link.Dtmf("4"))
    await caller.until(caller.said(link.Failed))
    await talk(steady, other)
    assert caller.lost == []
    pool.hang_up(leg)
    pool.hang_up(steady)


async def test_a_host_that_speaks_nonsense_is_killed(pool: Pool) -> None:
    caller, leg = await pool.ring("alone")
    assert isinstance(leg, HostLeg)
    leg.host.data_received(link.frame(1, link.EVENT, b'{"type":"dance"}'))
    await caller.until(lambda: caller.lost)
    assert caller.lost[0][0] is EndReason.AGENT_PROTOCOL_ERROR
    assert "dance" in caller.lost[0][1]
    pool.pool.retire(leg)


async def test_a_stopped_host_is_noticed_and_other_hosts_serve_on(pool: Pool) -> None:
    caller, leg = await pool.ring("parrot")
    assert isinstance(leg, HostLeg)
    os.kill(leg.host.pid, signal.SIGSTOP)
    await caller.until(lambda: caller.lost)
    assert caller.lost[0][0] is EndReason.AGENT_HUNG
    pool.pool.retire(leg)


async def test_a_host_that_does_not_read_loses_audio_and_not_our_memory(pool: Pool) -> None:
    _, leg = await pool.ring("parrot")
    assert isinstance(leg, HostLeg)
    os.kill(leg.host.pid, signal.SIGSTOP)
    for i in range(1200):
        leg.audio(b"\xff" * 8000)
        if i % 50 == 0:
            await asyncio.sleep(0)
    assert leg.host.dropped_bytes > 0
    assert leg.host._transport is not None
    assert leg.host._transport.get_write_buffer_size() < subject.MAX_UNSENT + 1_000_000
    os.kill(leg.host.pid, signal.SIGCONT)
    pool.hang_up(leg)


async def test_hosts_die_with_the_gateway(pool: Pool) -> None:
    _, leg = await pool.ring("alone")
    assert isinstance(leg, HostLeg)
    pid = leg.host.pid
    await pool.pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_host_that_does_not_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject.sys, "executable", "/bin/false")
    host = AgentHost("broken", [], HostLimits(), lambda host: None)
    with pytest.raises(RuntimeError, match="before it was ready"):
        await host.start()
    await host.stop()
