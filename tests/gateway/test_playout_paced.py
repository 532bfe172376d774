"""Playout over lines that we pace ourselves, RTP and AudioSocket, in virtual time: what was heard, and what waits."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import pytest

from offhook.agents.link import UtteranceEnded
from offhook.gateway.playout import Playout, PlayoutClock
from offhook.providers.asterisk.audiosocket import AudioSocketStream
from offhook.providers.base import AcceptAnswer, IncomingCall, MediaStream
from offhook.providers.rtp.leg import RtpLeg
from offhook.providers.rtp.media import PCMU, Address, MediaPlan
from offhook.providers.rtp.packet import parse
from offhook.providers.rtp.session import RtpSession

pytestmark = pytest.mark.virtual_time

PLAN = MediaPlan(PCMU, 0, {0: PCMU}, 101, frozenset({101}), remote=Address("192.0.2.10", 4000))
SPEECH = b"\x11" * 160


class Unplugged(RtpLeg):
    """A leg whose packets go nowhere."""

    def __init__(self, plan: MediaPlan) -> None:
        self._loop = asyncio.get_running_loop()
        self.stream_id = "rtp"
        self._rtp = None
        self.session = RtpSession(plan, self._loop.time(), ssrc=1, sequence=0, timestamp=0)
        self.backlog = self.session.backlog  # type: ignore[method-assign]


class Line:
    """A playout, and the peer that gets what it sends: one packet every 20 ms, 7 ms off the playout's own clock."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.leg = Unplugged(PLAN)
        self.arrived: list[tuple[float, bytes]] = []
        self.ended: list[UtteranceEnded] = []
        self.ended_at: list[float] = []
        self.cuts: list[float] = []
        self.idle_at: list[float] = []
        self.playout = Playout(PlayoutClock(), self.leg, self, self)
        self._task = self.loop.create_task(self._run())

    async def _run(self) -> None:
        at = self.loop.time() + 0.007
        assert self.leg.session is not None
        while True:
            await asyncio.sleep(at - self.loop.time())
            for data, _, is_rtcp in self.leg.session.tick(at):
                if not is_rtcp:
                    self.arrived.append((at, parse(data).payload))
            at += 0.02

    def hold(self, held: bool) -> None:
        assert self.leg.session is not None
        self.leg.session.update(
            dataclasses.replace(PLAN, direction="recvonly" if held else "sendrecv"), self.loop.time()
        )

    @property
    def speech(self) -> list[float]:
        """When each packet with the agent's voice left."""
        return [at for at, payload in self.arrived if payload == SPEECH]

    async def hang_up(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self.playout.close()

    # the socket

    @property
    def writable(self) -> bool:
        return not self.leg.on_hold

    def send(self, message: bytes) -> None:
        self.leg.send_message(message)

    # the listener

    def utterance_started(self, utterance: int, at: float) -> None: ...
    def utterance_voiced(self, utterance: int, at: float) -> None: ...
    def utterance_heard(self, utterance: int, at: float) -> None: ...
    def audio_sent(self, payload: bytes, play_at: float) -> None: ...

    def utterance_ended(self, ended: UtteranceEnded, text: str) -> None:
        self.ended.append(ended)
        self.ended_at.append(self.loop.time())

    def audio_cut(self, at: float) -> None:
        self.cuts.append(at)

    def playout_idle(self) -> None:
        self.idle_at.append(self.loop.time())

    # the agent

    def say(self, id: int, seconds: float) -> None:
        self.playout.speak(id, "")
        self.playout.audio(SPEECH * round(seconds * 50))
        self.playout.spoken(id)


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    made = Line()
    yield made
    await made.hang_up()


async def test_nothing_of_the_agent_leaves_after_a_clear_and_what_did_is_known_to_a_frame(line: Line) -> None:
    line.say(1, 3.0)
    await asyncio.sleep(1.0)
    (ended,) = line.playout.clear()
    left = len(line.speech)
    await asyncio.sleep(0.5)
    assert len(line.speech) == left
    assert ended.outcome == "cut"
    assert ended.heard_ms == pytest.approx(20 * left, abs=20)


async def test_each_of_several_sentences_ends_when_it_was_heard(line: Line) -> None:
    for id in (1, 2, 3):
        line.say(id, 1.0)
    await asyncio.sleep(4.0)
    assert line.ended == [UtteranceEnded(id, "played", 1000, 1000) for id in (1, 2, 3)]
    assert line.ended_at == [pytest.approx(end, abs=0.25) for end in (1.0, 2.0, 3.0)]
    assert line.speech[-1] <= line.ended_at[-1]


async def test_a_sentence_that_was_heard_is_not_cut_by_what_interrupts_the_next(line: Line) -> None:
    line.say(1, 1.0)
    line.say(2, 2.0)
    await asyncio.sleep(2.0)
    line.playout.clear()
    assert [(ended.utterance, ended.outcome) for ended in line.ended] == [(1, "played"), (2, "cut")]
    assert line.ended[1].heard_ms == pytest.approx(1000, abs=20)


async def test_what_waits_while_held_is_neither_heard_nor_lost(line: Line) -> None:
    line.say(1, 2.0)
    await asyncio.sleep(0.5)
    line.hold(True)
    left = len(line.speech)
    await asyncio.sleep(10.0)
    assert len(line.speech) == left
    assert line.ended == []
    line.hold(False)
    await asyncio.sleep(3.0)
    assert len(line.speech) == 100
    assert line.ended == [UtteranceEnded(1, "played", 2000, 2000)]


async def test_the_end_of_a_sentence_that_waits_while_held_is_not_taken_for_heard(line: Line) -> None:
    line.say(1, 0.5)
    await asyncio.sleep(0.4)
    line.hold(True)
    await asyncio.sleep(10.0)
    assert line.ended == []
    assert line.idle_at == []
    line.hold(False)
    await asyncio.sleep(1.0)
    assert line.ended == [UtteranceEnded(1, "played", 500, 500)]


async def test_what_was_cleared_while_held_is_not_heard_afterwards(line: Line) -> None:
    line.say(1, 2.0)
    await asyncio.sleep(0.5)
    line.hold(True)
    left = len(line.speech)
    await asyncio.sleep(5.0)
    (ended,) = line.playout.clear()
    assert ended.heard_ms == pytest.approx(20 * left, abs=20)
    assert line.cuts == [pytest.approx(0.5, abs=0.02)], "nor recorded"
    line.hold(False)
    await asyncio.sleep(0.5)
    assert len(line.speech) == left


async def test_a_call_is_not_left_while_its_last_word_waits_on_our_side(line: Line) -> None:
    line.playout.audio(SPEECH * 3)
    line.hold(True)
    await asyncio.sleep(1.0)
    idle = [line.playout.idle]
    line.playout.tell_when_idle()
    await asyncio.sleep(1.0)
    line.hold(False)
    await asyncio.sleep(0.2)
    assert len(line.speech) == 3
    idle.append(line.playout.idle)
    assert idle == [False, True]
    assert len(line.idle_at) == 1
    assert line.idle_at[0] >= line.speech[-1]


async def test_a_peer_that_only_listens_has_not_put_us_on_hold(line: Line) -> None:
    session = line.leg.session
    assert session is not None
    session.update(dataclasses.replace(PLAN, direction="sendonly"), line.loop.time())
    assert line.leg.silent
    held = [line.playout.held]
    line.hold(True)
    held.append(line.playout.held)
    assert held == [False, True]


async def test_a_line_of_asterisk_is_silent_and_not_on_hold(line: Line) -> None:
    incoming = IncomingCall("1", "+1", "+2", "inbound", {})
    stream: MediaStream = AudioSocketStream(lambda id, now: incoming)
    assert isinstance(stream, AudioSocketStream)
    stream.receive_binary(b"\x01\x00\x10" + bytes(16), 0.0)
    stream.accept(AcceptAnswer(), 0.0)
    stream.receive_binary(b"", 1.0)
    playout = Playout(PlayoutClock(), stream, line, line)
    assert stream.silent
    assert not playout.held, "a farewell is said to its end"


@pytest.mark.parametrize("ppm", [2000, -2000])
async def test_an_hour_of_a_clock_that_is_off_adds_no_delay_to_what_goes_straight_through(line: Line, ppm: int) -> None:
    # 2000 ppm for 90 s are an hour of the 50 ppm that a bad crystal is off
    at, worst = 0.0, 0.0
    for number in range(4500):
        await asyncio.sleep(max(0.0, at - line.loop.time()))
        line.playout.audio(SPEECH)
        if number > 100:
            worst = max(worst, line.leg.backlog())
        at += 0.02 * (1 - ppm / 1e6)
    assert worst <= 0.061
    assert line.playout.dropped_ms == (pytest.approx(180, abs=40) if ppm > 0 else 0)


@pytest.mark.parametrize("stall", [0.15, 0.3, 0.5])
async def test_a_burst_after_a_stall_is_not_carried_along(line: Line, stall: float) -> None:
    for _ in range(100):
        line.playout.audio(SPEECH)
        await asyncio.sleep(0.02)
    await asyncio.sleep(stall)
    for _ in range(round(stall / 0.02)):
        line.playout.audio(SPEECH)
    for number in range(1000):
        line.playout.audio(SPEECH)
        await asyncio.sleep(0.02)
        if number > 300:
            assert line.leg.backlog() <= 0.03
    lost = line.playout.dropped_ms / 1000
    assert lost == pytest.approx(stall, abs=0.05)
