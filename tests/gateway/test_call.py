"""Calls on the switchboard, ladder by ladder: the carrier's side, the agent's side, and virtual time between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.journal import Journal

from offhook.agents import link
from offhook.codecs.audio import PCMU
from offhook.codecs.g711 import ulaw_to_pcm
from offhook.codecs.pcm import tone
from offhook.codecs.wav import read_wav
from offhook.gateway import call as subject
from offhook.gateway import switchboard as board_module
from offhook.gateway import takeover as takeover_module
from offhook.gateway.call_state import TRANSITIONS, CallState, IllegalStepError, Step
from offhook.gateway.config import Config
from offhook.gateway.hosts import AgentLeg, AgentListener
from offhook.gateway.metrics import Metrics
from offhook.gateway.reasons import STATUS_OF, EndedBy, EndReason, of_parties
from offhook.gateway.recording import Recorder
from offhook.gateway.switchboard import DEFAULT_APOLOGY, DrainingError, ReplayedWebhookError, Switchboard
from offhook.providers.base import (
    Answer,
    CallStatusChanged,
    CarrierControl,
    CarrierRefused,
    DialAnswer,
    HangUpAnswer,
    IncomingCall,
    RejectAnswer,
    SayAnswer,
    StreamAnswer,
)
from offhook.providers.twilio.adapter import TwilioProvider
from offhook.providers.twilio.wire import TwilioCarrierSide

pytestmark = [
    pytest.mark.virtual_time,
    pytest.mark.own_tasks("the fixture `desk` closes the switchboard"),
]

APOLOGY = tone(440, 1.0, 8000)


class Control(CarrierControl):
    """The carrier's API, for its answers: the wire to it has tests of its own."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, str]] = []
        self.fails = False

    def _order(self, what: str, detail: str) -> None:
        self.orders.append((what, detail))
        if self.fails:
            raise CarrierRefused("no", status=400)

    async def hang_up(self, carrier_call_id: str) -> None:
        self._order("hang_up", carrier_call_id)

    async def transfer(self, carrier_call_id: str, answer: DialAnswer, *, fetch_url: str) -> None:
        self._order("transfer", answer.to)

    async def dial(self, to: str, from_number: str, *, answer_url: str, status_url: str, ring_timeout: int = 60) -> str:
        return "CA9"

    async def send_dtmf(self, carrier_call_id: str, digits: str) -> bool:
        self._order("dtmf", digits)
        return False

    async def check(self) -> str:
        return "test"


class Agent(AgentLeg):
    """The agent's end of the link: the test says what it says, and reads what it was told."""

    def __init__(self, offer: link.Offer, call: AgentListener) -> None:
        self.offer, self.call = offer, call
        self.told: list[link.ToAgent] = []
        self.heard = b""

    def event(self, message: link.ToAgent) -> None:
        self.told.append(message)

    def audio(self, data: bytes) -> None:
        self.heard += data

    def close(self) -> None:
        self.told.append(link.Over("closed"))

    def says(self, *messages: link.FromAgent) -> None:
        for message in messages:
            self.call.agent_event(message)

    def speaks(self, id: int, seconds: float, text: str = "") -> None:
        self.call.agent_event(link.Speak(id, text))
        self.call.agent_audio(b"\x11" * PCMU.size(seconds))
        self.call.agent_event(link.Spoken(id))

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.told if isinstance(message, kind)]


class Pool:
    """Hands out agents that are ready after `delay` seconds."""

    def __init__(self) -> None:
        self.agents: list[Agent] = []
        self.delay: float | None = 0.0
        self.refuses = ""
        self.error: Exception | None = None
        self.ready = True
        self.restarts = 0
        self.hosts: list[Any] = []
        self.retired = 0

    async def open(self, name: str, offer: link.Offer, listener: AgentListener) -> AgentLeg:
        if self.error is not None:
            raise self.error
        agent = Agent(offer, listener)
        self.agents.append(agent)
        first = link.Refuse(self.refuses) if self.refuses else link.Ready()
        if self.delay is not None:
            asyncio.get_running_loop().call_later(self.delay, listener.agent_event, first)
        return agent

    def retire(self, leg: AgentLeg) -> None:
        self.retired += 1


class Socket:
    """The carrier's WebSocket, with the carrier behind it."""

    def __init__(self, side: TwilioCarrierSide) -> None:
        self.side = side
        self.loop = asyncio.get_running_loop()
        self.closed_with: int | None = None
        self.writable_now = True
        self.faults: list[Any] = []

    def send_message(self, message: bytes) -> None:
        self.side.receive(message, self.loop.time())

    def close(self, code: int, reason: str = "") -> None:
        if self.closed_with is None:
            self.closed_with = code


class Line:
    """A call whose media socket is up."""

    def __init__(self, desk: Desk, call: subject.Call, agent: Agent) -> None:
        self.call, self.agent = call, agent
        self.side = TwilioCarrierSide(account_sid="AC" + "0" * 32, call_sid=call.incoming.carrier_call_id)
        self.socket = Socket(self.side)
        stream = desk.provider.stream(expect_call_id=call.incoming.carrier_call_id)
        self._give = call.connect(self.socket, stream)  # type: ignore[arg-type]
        self.loop = asyncio.get_running_loop()
        self.task = self.loop.create_task(self._carrier())
        for message in self.side.open(self.loop.time()):
            self._give(message, True)

    def give(self, message: bytes) -> None:
        self._give(message, True)

    async def _carrier(self) -> None:
        while not self.call.over.done():
            for message in self.side.due(self.loop.time()):
                self._give(message, True)
            self._give(self.side.media(PCMU.silence), True)
            await asyncio.sleep(0.02)

    def hang_up(self) -> None:
        for message in self.side.stop():
            self._give(message, True)

    def breaks(self, code: int) -> None:
        self.call.socket_closed(code)


class Desk:
    """A switchboard, its carrier and its agents."""

    def __init__(self, tmp_path: Path, **route: Any) -> None:
        settings = {"account_sid": "AC" + "0" * 32, "auth_token": "token"}
        self.config = Config.model_validate(
            {
                "public_url": "https://voice.example.com",
                "carriers": {"twilio": settings},
                "agents": {"desk": {"kind": "echo"}},
                "routes": [{"number": "+15550100", "agent": "desk"} | route],
                "limits": {"max_calls": 2, "max_call_seconds": 600},
            }
        )
        self.provider = TwilioProvider(self.config.provider_settings("twilio"))
        self.control = Control()
        self.provider.control = self.control  # type: ignore[assignment]
        self.journal, self.pool = Journal(), Pool()
        self.recorder = Recorder(tmp_path)
        say = route.get("fallback", {}).get("say", DEFAULT_APOLOGY)
        self.board = Switchboard(
            self.config,
            {"twilio": self.provider},
            self.pool,  # type: ignore[arg-type]
            self.journal,  # type: ignore[arg-type]
            self.recorder,
            Metrics(),
            {say: APOLOGY},
        )
        self.board.start()
        self.lines: list[Line] = []

    async def ring(self, sid: str = "CA" + "1" * 32, to: str = "+15550100") -> Answer:
        incoming = IncomingCall(sid, "+15550001", to, "inbound", {"CallSid": sid})
        return await self.board.incoming(self.provider, incoming)

    async def up(self, sid: str = "CA" + "1" * 32) -> Line:
        answer = await self.ring(sid)
        assert isinstance(answer, StreamAnswer)
        call = self.board.redeem(answer.url.rpartition("/")[2])
        assert call is not None
        line = Line(self, call, self.pool.agents[-1])
        self.lines.append(line)
        return line

    @property
    def ended(self) -> list[tuple[str, str, str]]:
        return [(e["status"], e["reason"], e["ended_by"]) for e in self.journal.of("call.ended")]

    async def close(self) -> None:
        await self.board.close(1.0)
        for line in self.lines:
            line.task.cancel()
            await asyncio.wait([line.task])
        await self.recorder.close()


@pytest.fixture
async def desk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Desk]:
    made = Desk(tmp_path, **getattr(request, "param", {}))
    yield made
    await made.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


def route(**keys: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("desk", [keys], indirect=True, ids=[""])


def ended(reason: EndReason, by: EndedBy) -> tuple[str, str, str]:
    return (STATUS_OF[reason], reason, by)


# --- the table


def test_the_end_is_final_and_every_state_leads_to_it() -> None:
    assert TRANSITIONS[CallState.ENDED] == {}
    assert all(steps[Step.END] is CallState.ENDED for state, steps in TRANSITIONS.items() if state != CallState.ENDED)


async def test_an_illegal_step_raises_and_changes_nothing(desk: Desk) -> None:
    line = await desk.up()
    with pytest.raises(IllegalStepError, match=r"agent_ready in state live"):
        line.call._step(Step.AGENT_READY)
    assert line.call.state is CallState.LIVE


# --- ringing


async def test_a_call_is_answered_when_its_agent_is_ready(desk: Desk) -> None:
    desk.pool.delay = 1.5
    before = asyncio.get_running_loop().time()
    answer = await desk.ring()
    assert asyncio.get_running_loop().time() - before == pytest.approx(1.5, abs=0.01)
    assert isinstance(answer, StreamAnswer)
    assert answer.url.startswith("wss://voice.example.com/twilio/media/")
    assert answer.after_url == "https://voice.example.com/twilio/after"
    assert desk.board.active == 1
    offer = desk.pool.agents[0].offer
    assert (offer.call.from_number, offer.call.to_number, offer.format) == ("+15550001", "+15550100", "pcmu/8000")
    assert desk.journal.of("call.offered")[0]["agent"] == "desk"


@route(ring_budget=2.0, fallback={"say": "Nobody is here.", "transfer": "+15550111"})
async def test_an_agent_that_is_not_ready_in_time_leaves_the_caller_to_the_fallback(desk: Desk) -> None:
    desk.pool.delay = None
    assert await desk.ring() == SayAnswer("Nobody is here.", "+15550111")
    assert asyncio.get_running_loop().time() == pytest.approx(2.0, abs=0.1)
    assert desk.ended == [ended(EndReason.AGENT_NOT_READY, EndedBy.GATEWAY)]
    assert desk.board.active == 0
    assert desk.pool.agents[0].of(link.Over)


async def test_an_agent_that_refuses_leaves_the_caller_to_the_fallback(desk: Desk) -> None:
    desk.pool.refuses = "lunch"
    assert await desk.ring() == SayAnswer(DEFAULT_APOLOGY)
    assert desk.ended == [ended(EndReason.AGENT_REFUSED, EndedBy.GATEWAY)]


async def test_no_host_for_the_agent_is_a_fallback_too(desk: Desk) -> None:
    desk.pool.error = RuntimeError("no process")
    assert await desk.ring() == SayAnswer(DEFAULT_APOLOGY)
    assert desk.journal.of("call.ended")[0]["detail"] == "no process"


async def test_a_repeated_webhook_gets_the_first_answer(desk: Desk) -> None:
    desk.pool.delay = 1.0
    one, two = await asyncio.gather(desk.ring(), desk.ring())
    assert one == two == await desk.ring()
    assert len(desk.pool.agents) == 1


async def test_a_webhook_of_a_call_that_is_up_or_long_over_is_a_replay(desk: Desk) -> None:
    line = await desk.up()
    with pytest.raises(ReplayedWebhookError):
        await desk.ring()
    line.hang_up()
    await asyncio.sleep(board_module.AFTER_MEMORY + 2)
    with pytest.raises(ReplayedWebhookError):
        await desk.ring()
    assert len(desk.pool.agents) == 1


async def test_a_call_that_the_carrier_sends_back_rings_again(desk: Desk) -> None:
    first = await desk.up()
    first.agent.says(link.HangUp("done"))
    await asyncio.sleep(board_module.AFTER_MEMORY / 2)
    second = await desk.up()
    assert second.call.id != first.call.id
    await asyncio.sleep(board_module.AFTER_MEMORY)  # the first end is forgotten; the second call is still up
    assert second.call.live
    second.hang_up()
    assert isinstance(await desk.ring(), StreamAnswer)


async def test_the_last_slot_goes_to_one_caller_only(desk: Desk) -> None:
    desk.pool.delay = 0.5
    answers = await asyncio.gather(*(desk.ring(f"CA{i:032d}") for i in range(20)))
    assert sum(isinstance(answer, StreamAnswer) for answer in answers) == 2
    assert sum(answer == RejectAnswer("busy") for answer in answers) == 18
    assert desk.ended == [ended(EndReason.NO_CAPACITY, EndedBy.GATEWAY)] * 18


async def test_a_number_without_a_route_is_rejected(desk: Desk) -> None:
    assert await desk.ring(to="+4930123") == RejectAnswer("rejected")
    assert desk.ended == [ended(EndReason.NO_ROUTE, EndedBy.GATEWAY)]


@route(hours={"timezone": "UTC", "open": {}}, closed={"say": "We are closed."})
async def test_a_closed_route_says_so(desk: Desk) -> None:
    assert await desk.ring() == SayAnswer("We are closed.")
    assert desk.ended == [ended(EndReason.CLOSED_HOURS, EndedBy.GATEWAY)]


async def test_a_draining_board_takes_no_call_and_keeps_those_it_has(desk: Desk) -> None:
    line = await desk.up()
    desk.board.drain()
    with pytest.raises(DrainingError):
        await desk.ring("CA" + "2" * 32)
    assert line.call.state is CallState.LIVE
    assert not desk.board.admits


async def test_a_caller_who_gives_up_while_it_rings(desk: Desk) -> None:
    desk.pool.delay = 2.0
    ringing = asyncio.ensure_future(desk.ring())
    await asyncio.sleep(1.0)
    desk.board.status(desk.provider, CallStatusChanged("CA" + "1" * 32, "canceled", {}))
    assert await ringing == HangUpAnswer()
    assert desk.ended == [ended(EndReason.CALLER_HANGUP, EndedBy.CALLER)]
    await asyncio.sleep(2)  # the agent's Ready comes too late and changes nothing


async def test_a_media_socket_that_never_comes_ends_the_call(desk: Desk) -> None:
    await desk.ring()
    await asyncio.sleep(63)
    assert desk.ended == [ended(EndReason.MEDIA_NEVER_CAME, EndedBy.CARRIER)]


async def test_a_token_works_once(desk: Desk) -> None:
    answer = await desk.ring()
    assert isinstance(answer, StreamAnswer)
    token = answer.url.rpartition("/")[2]
    assert desk.board.redeem(token) is not None
    assert desk.board.redeem(token) is None
    assert desk.board.redeem("made-up") is None


# --- live


async def test_audio_and_keys_reach_the_agent(desk: Desk) -> None:
    line = await desk.up()
    line.give(line.side.media(b"\x42" * 160))
    line.give(line.side.dtmf("5"))
    assert line.agent.heard.endswith(b"\x42" * 160)
    assert line.agent.of(link.Dtmf) == [link.Dtmf("5")]
    assert desk.journal.of("dtmf") == [{"digit": "5"}]


async def test_lost_audio_is_silence_to_the_agent(desk: Desk) -> None:
    line = await desk.up()
    before = len(line.agent.heard)
    line.side.lose(PCMU.silence)
    line.give(line.side.media(b"\x42" * 160))
    assert len(line.agent.heard) - before == 320


async def test_a_barge_in_takes_the_rest_back_and_tells_what_was_heard(desk: Desk) -> None:
    line = await desk.up()
    line.agent.speaks(1, 3.0, "a long sentence")
    await asyncio.sleep(1.0)
    line.agent.says(link.Clear())
    assert line.side.queued(line.loop.time()) == 0
    [told] = line.agent.of(link.UtteranceEnded)
    assert (told.outcome, told.length_ms) == ("cut", 3000)
    assert told.heard_ms == pytest.approx(1000, abs=40)
    assert desk.journal.of("barge_in") == [{"heard_ms": told.heard_ms}]
    assert desk.journal.of("utterance")[0]["text"] == "a long sentence"


async def test_a_clear_with_nothing_to_clear_is_no_barge_in(desk: Desk) -> None:
    line = await desk.up()
    line.agent.says(link.Clear())
    assert desk.journal.of("barge_in") == []


async def test_where_the_time_of_a_reply_went(desk: Desk) -> None:
    line = await desk.up()
    await asyncio.sleep(1.0)
    now = line.loop.time()
    line.agent.says(link.Turn(1, now - 0.6, now - 0.2, now - 0.15, now - 0.1, now - 0.06, now - 0.01))
    line.agent.speaks(1, 0.5)
    await asyncio.sleep(0.6)
    [turn] = desk.journal.of("turn")
    assert turn["voice_to_voice_ms"] == pytest.approx(600, abs=1)
    assert turn["stages"] == pytest.approx(
        {"endpointing": 400, "understanding": 50, "thinking": 50, "phrasing": 40, "synthesis": 50, "playout": 10},
        abs=1,
    )
    assert turn["first_voiced"] == pytest.approx(now)
    assert turn["first_heard"] == pytest.approx(now + turn["hearing_ms"] / 1000, abs=0.001)


async def test_silence_before_the_voice_is_time_until_it_is_heard(desk: Desk) -> None:
    line = await desk.up()
    await asyncio.sleep(1.0)
    now = line.loop.time()
    line.agent.says(link.Turn(7, now - 0.5, now - 0.1, reply_audio=now), link.Speak(7, "Yes."))
    line.call.agent_audio(PCMU.silence * 15 + b"\x11" * PCMU.size(1.0))
    await asyncio.sleep(0.25)
    assert desk.journal.of("turn") == []
    line.agent.says(link.Spoken(7))
    await asyncio.sleep(1.3)
    [turn] = desk.journal.of("turn")
    assert turn["first_sent"] == pytest.approx(now)
    assert turn["first_voiced"] == pytest.approx(now + 0.12, abs=0.021)  # 0.2 s go ahead at once
    assert turn["first_heard"] == pytest.approx(now + 0.3, abs=0.041)
    assert sum(turn["stages"].values()) == pytest.approx(turn["voice_to_voice_ms"], abs=0.5)


async def test_a_reply_that_is_cut_before_it_is_heard_has_no_hearing(desk: Desk) -> None:
    line = await desk.up()
    await asyncio.sleep(1.0)
    now = line.loop.time()
    line.agent.says(link.Turn(7, now - 0.5, now - 0.1), link.Speak(7, "Yes."))
    line.call.agent_audio(PCMU.silence * 8 + b"\x11" * PCMU.size(1.0))
    await asyncio.sleep(0.1)
    line.agent.says(link.Clear())
    [turn] = desk.journal.of("turn")
    assert (turn["voice_to_voice_ms"], turn["first_heard"], turn["hearing_ms"]) == (pytest.approx(500), 0.0, None)


async def test_the_faults_of_services_are_recorded_and_their_times_are_not(desk: Desk) -> None:
    line = await desk.up()
    line.agent.says(
        link.Service("llm", "openai", ttfb_ms=240.0), link.Service("tts", "piper", fault="timeout", detail="d" * 9000)
    )
    assert desk.journal.of("service.fault") == [
        {"role": "tts", "service": "piper", "fault": "timeout", "detail": "d" * 500, "ttfb_ms": 0.0}
    ]


# --- leaving


async def test_the_agent_hangs_up_after_the_last_word(desk: Desk) -> None:
    line = await desk.up()
    line.agent.speaks(1, 2.0)
    line.agent.says(link.HangUp("done"))
    await asyncio.sleep(1.9)
    assert line.call.state is CallState.LEAVING
    await asyncio.sleep(0.3)
    assert desk.ended == [ended(EndReason.AGENT_HANGUP, EndedBy.AGENT)]
    assert desk.journal.of("utterance")[0]["outcome"] == "played"
    assert desk.control.orders == [("hang_up", "CA" + "1" * 32)]
    assert line.socket.closed_with == 1000
    assert desk.board.after(desk.provider, "CA" + "1" * 32) == HangUpAnswer()


def test_the_person_at_the_other_end_is_a_callee_when_we_call() -> None:
    hung_up = (EndReason.CALLER_HANGUP, EndedBy.CALLER)
    assert of_parties(*hung_up, "inbound") == hung_up
    assert of_parties(*hung_up, "outbound") == (EndReason.CALLEE_HANGUP, EndedBy.CALLEE)
    assert of_parties(EndReason.AGENT_HANGUP, EndedBy.AGENT, "outbound") == (EndReason.AGENT_HANGUP, EndedBy.AGENT)


async def test_an_agent_that_only_streams_can_hang_up(desk: Desk) -> None:
    line = await desk.up()
    line.agent.call.agent_audio(b"\x11" * PCMU.size(0.1))
    line.agent.says(link.HangUp("enough"))
    await asyncio.sleep(0.5)
    assert desk.ended == [ended(EndReason.AGENT_HANGUP, EndedBy.AGENT)]


async def test_hanging_up_at_once_cuts_the_sentence(desk: Desk) -> None:
    line = await desk.up()
    line.agent.speaks(1, 2.0)
    await asyncio.sleep(0.5)
    line.agent.says(link.HangUp("rude", after_speech=False))
    await asyncio.sleep(0.1)
    assert desk.ended == [ended(EndReason.AGENT_HANGUP, EndedBy.AGENT)]
    assert desk.journal.of("utterance")[0]["outcome"] == "cut"


@route(allow_transfer=["+1555*"])
async def test_a_transfer_after_the_last_word(desk: Desk) -> None:
    line = await desk.up()
    line.agent.speaks(1, 1.0)
    line.agent.says(link.Transfer("+15550123"))
    await asyncio.sleep(1.3)
    assert desk.control.orders == [("transfer", "+15550123")]
    assert desk.board.after(desk.provider, "CA" + "1" * 32) == DialAnswer("+15550123", caller_id="+15550100")
    line.hang_up()  # the carrier takes the stream away
    assert desk.ended == [ended(EndReason.TRANSFERRED, EndedBy.AGENT)]
    assert desk.journal.of("transfer") == [{"to": "+15550123", "ok": True}]
    await asyncio.sleep(1)
    assert desk.control.orders == [("transfer", "+15550123")]  # and no hang-up


@route(allow_transfer=["*"])
async def test_a_carrier_that_transfers_before_it_says_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    line = await desk.up()

    async def quick(carrier_call_id: str, answer: DialAnswer, *, fetch_url: str) -> None:
        line.hang_up()
        await asyncio.sleep(0.1)

    monkeypatch.setattr(desk.control, "transfer", quick)
    line.agent.says(link.Transfer("+15550123"))
    await asyncio.sleep(0.5)
    assert desk.ended == [ended(EndReason.TRANSFERRED, EndedBy.AGENT)]
    assert desk.journal.of("transfer") == [{"to": "+15550123", "ok": True}]


@route(allow_transfer=["+15551*"])
async def test_a_transfer_that_the_route_does_not_allow(desk: Desk) -> None:
    line = await desk.up()
    line.agent.says(link.Transfer("+19005550123"))
    assert line.agent.of(link.OrderRefused)[0].order == "transfer"
    assert line.call.state is CallState.LIVE
    assert desk.control.orders == []
    assert desk.journal.of("transfer")[0]["ok"] is False


@route(allow_transfer=["*"], max_transfers=1)
async def test_more_transfers_than_the_route_allows(desk: Desk) -> None:
    line = await desk.up()
    desk.control.fails = True
    line.agent.says(link.Transfer("+15550123"))
    await asyncio.sleep(0.1)
    line.agent.says(link.Transfer("+15550123"))
    first, second = line.agent.of(link.OrderRefused)
    assert first.reason == "the carrier did not transfer the call"
    assert second.reason == "the transfers that the route allows a call (1) have been tried"
    assert desk.control.orders == [("transfer", "+15550123")]
    assert [entry["ok"] for entry in desk.journal.of("transfer")] == [False, False]


@route(allow_dtmf=["1X"])
async def test_keys_that_the_route_does_not_allow(desk: Desk) -> None:
    line = await desk.up()
    line.agent.says(link.SendDtmf("2"), link.SendDtmf("12"))
    [refused] = line.agent.of(link.OrderRefused)
    assert (refused.order, refused.reason) == ("dtmf.send", "the route does not allow these keys")
    assert desk.journal.of("dtmf.send")[0] == {"digits": "2", "ok": False, "error": refused.reason}
    await asyncio.sleep(0.1)
    assert desk.control.orders == [("dtmf", "12")]
    line.agent.says(link.HangUp())
    await asyncio.sleep(0.1)
    line.agent.says(link.SendDtmf("12"))
    assert len(desk.control.orders) == 2  # the second is the hang-up


@route(allow_transfer=["*"])
async def test_a_transfer_that_the_carrier_refuses_gives_the_call_back(desk: Desk) -> None:
    line = await desk.up()
    desk.control.fails = True
    line.agent.says(link.Transfer("+15550123"))
    await asyncio.sleep(0.1)
    assert line.agent.of(link.OrderRefused)
    assert line.call.state is CallState.LIVE
    line.agent.speaks(1, 0.5)
    await asyncio.sleep(1)
    assert desk.journal.of("utterance")[0]["outcome"] == "played"


@route(allow_transfer=["*"])
async def test_a_caller_who_leaves_before_the_transfer(desk: Desk) -> None:
    line = await desk.up()
    line.agent.speaks(1, 5.0)
    line.agent.says(link.Transfer("+15550123"))
    await asyncio.sleep(1)
    line.hang_up()
    assert desk.ended == [ended(EndReason.CALLER_HANGUP, EndedBy.CALLER)]
    assert desk.control.orders == []


async def test_keys_that_the_carrier_cannot_play(desk: Desk) -> None:
    line = await desk.up()
    line.agent.says(link.SendDtmf("12"))
    await asyncio.sleep(0.1)
    assert line.agent.of(link.OrderRefused)[0].order == "dtmf.send"


@route(max_duration=30)
async def test_a_call_ends_at_its_longest(desk: Desk) -> None:
    await desk.up()
    await asyncio.sleep(31)
    assert desk.ended == [ended(EndReason.MAX_DURATION, EndedBy.GATEWAY)]
    assert desk.control.orders[0][0] == "hang_up"


# --- the agent is lost


async def test_a_caller_whose_agent_dies_hears_the_apology_and_is_hung_up(desk: Desk) -> None:
    line = await desk.up()
    line.agent.speaks(1, 5.0)
    await asyncio.sleep(1)
    heard_before = len(line.side.play(line.loop.time()))
    line.call.agent_lost(EndReason.AGENT_CRASHED, "exit code 3")
    line.call.agent_lost(EndReason.AGENT_CRASHED, "again")
    await asyncio.sleep(1.5)
    heard = line.side.play(line.loop.time())
    assert heard_before
    assert len(heard.replace(b"\xff", b"")) > 7000  # a second of apology
    assert desk.ended == [ended(EndReason.AGENT_CRASHED, EndedBy.GATEWAY)]
    assert [u["outcome"] for u in desk.journal.of("utterance")] == ["cut", "played"]


@route(fallback={"transfer": "+15550111"})
async def test_a_caller_whose_agent_dies_is_transferred_to_the_fallback(desk: Desk) -> None:
    line = await desk.up()
    line.agent.says(link.Failed("ValueError: x", "Traceback"))
    await asyncio.sleep(1.3)
    assert desk.control.orders == [("transfer", "+15550111")]
    line.hang_up()
    assert desk.ended == [ended(EndReason.AGENT_CRASHED, EndedBy.GATEWAY)]
    assert desk.journal.of("agent.failed")[0]["traceback"] == "Traceback"


@route(fallback={"transfer": "+15550111"})
async def test_a_fallback_that_the_carrier_refuses_ends_in_a_hang_up(desk: Desk) -> None:
    line = await desk.up()
    desk.control.fails = True
    line.call.agent_lost(EndReason.AGENT_HUNG, "no beat")
    await asyncio.sleep(1.3)
    assert desk.control.orders[-1][0] == "hang_up"
    assert desk.ended == [ended(EndReason.AGENT_HUNG, EndedBy.GATEWAY)]


async def test_an_agent_that_dies_before_the_stream_comes_is_apologised_for_when_it_does(desk: Desk) -> None:
    answer = await desk.ring()
    assert isinstance(answer, StreamAnswer)
    call = desk.board.redeem(answer.url.rpartition("/")[2])
    assert call is not None
    call.agent_lost(EndReason.AGENT_CRASHED, "early")
    line = Line(desk, call, desk.pool.agents[0])
    desk.lines.append(line)
    await asyncio.sleep(1.5)
    assert desk.ended == [ended(EndReason.AGENT_CRASHED, EndedBy.GATEWAY)]
    assert len(line.side.play(line.loop.time()).replace(b"\xff", b"")) > 7000


# --- another agent takes over

HISTORY = [{"role": "user", "content": "A table for four."}, {"role": "assistant", "content": "At what time?"}]


async def test_a_call_whose_agent_dies_goes_on_with_one_that_knows_the_conversation(desk: Desk) -> None:
    line = await desk.up()
    line.agent.says(link.Context(0, HISTORY))
    line.agent.speaks(1, 5.0, "At what time would you like to come?")
    await asyncio.sleep(1)
    desk.pool.delay = 0.8
    line.call.agent_lost(EndReason.AGENT_CRASHED, "signal SIGKILL")
    assert line.call.state is CallState.RESUMING
    assert line.side.queued(line.loop.time()) == 0
    await asyncio.sleep(0.4)
    second = desk.pool.agents[1]
    line.give(line.side.dtmf("7"))
    assert second.offer.history == HISTORY
    assert (second.heard, second.told) == (b"", [])
    await asyncio.sleep(0.5)
    assert line.call.state is CallState.LIVE
    assert second.told == [link.Answered(at=pytest.approx(line.loop.time() - 0.1, abs=0.01)), link.Dtmf("7")]
    second.says(link.Context(2, [{"role": "assistant", "content": "You said a table for four?"}]))
    second.speaks(1, 0.5, "You said a table for four?")
    await asyncio.sleep(2)
    assert second.heard
    assert second.of(link.UtteranceEnded)[0].outcome == "played"
    assert len(line.call.memory.history) == 3
    line.hang_up()
    assert desk.ended == [ended(EndReason.CALLER_HANGUP, EndedBy.CALLER)]
    assert desk.journal.of("agent.lost") == [{"reason": "agent_crashed", "detail": "signal SIGKILL"}]
    [resumed] = desk.journal.of("resumed")
    assert resumed == {"reason": "agent_crashed", "detail": "signal SIGKILL", "pause_ms": 800, "messages": 2}
    assert [entry["start"] for entry in desk.journal.of("context")] == [0, 2]
    outcomes = [(entry["text"], entry["outcome"]) for entry in desk.journal.of("utterance")]
    assert outcomes[0] == ("At what time would you like to come?", "cut")
    assert ("(apology)", "played") not in outcomes
    assert desk.pool.retired == 2


async def test_an_agent_that_raises_is_replaced_once_and_its_second_loss_is_final(desk: Desk) -> None:
    line = await desk.up()
    line.agent.says(link.Context(0, HISTORY), link.Failed("ValueError: x"))
    await asyncio.sleep(0.5)
    assert line.call.state is CallState.LIVE
    desk.pool.agents[1].says(link.Failed("ValueError: x"))
    assert line.call.state is CallState.LEAVING
    await asyncio.sleep(1.5)
    assert desk.ended == [ended(EndReason.AGENT_CRASHED, EndedBy.GATEWAY)]
    assert len(desk.pool.agents) == 2
    assert desk.journal.of("utterance")[-1]["text"] == "(apology)"


async def test_an_agent_that_put_no_context_is_not_replaced(desk: Desk) -> None:
    line = await desk.up()
    line.call.agent_lost(EndReason.AGENT_HUNG, "no beat")
    await asyncio.sleep(1.5)
    assert desk.ended == [ended(EndReason.AGENT_HUNG, EndedBy.GATEWAY)]
    assert len(desk.pool.agents) == 1


@pytest.mark.parametrize("how", ["slow", "refuses", "no process", "raises"])
async def test_a_take_over_that_fails_ends_in_the_apology(desk: Desk, how: str) -> None:
    line = await desk.up()
    line.agent.says(link.Context(0, HISTORY))
    desk.pool.delay = None if how in ("slow", "raises") else 0.1
    desk.pool.refuses = "lunch" if how == "refuses" else ""
    desk.pool.error = OSError("no process") if how == "no process" else None
    before = line.loop.time()
    line.call.agent_lost(EndReason.AGENT_HUNG, "no beat")
    await asyncio.sleep(0.01)
    if how == "raises":
        desk.pool.agents[1].says(link.Failed("ImportError: no"))
    await line.call.over
    assert desk.ended == [ended(EndReason.AGENT_HUNG, EndedBy.GATEWAY)]
    [end] = desk.journal.of("call.ended")
    assert end["detail"].startswith("no beat; nobody took over: ")
    assert desk.journal.of("utterance")[-1] == {
        "id": subject.APOLOGY,
        "outcome": "played",
        "heard_ms": 1000,
        "length_ms": 1000,
        "text": "(apology)",
    }
    assert line.loop.time() - before < takeover_module.BUDGET + 1.5
    desk.pool.error = None
    await asyncio.sleep(10)
    assert desk.pool.retired == len(desk.pool.agents)


async def test_a_caller_who_leaves_while_another_agent_is_called(desk: Desk) -> None:
    line = await desk.up()
    line.agent.says(link.Context(0, HISTORY))
    desk.pool.delay = 3.0
    line.call.agent_lost(EndReason.AGENT_CRASHED, "exit code 3")
    await asyncio.sleep(1)
    line.hang_up()
    assert desk.ended == [ended(EndReason.CALLER_HANGUP, EndedBy.CALLER)]
    await asyncio.sleep(5)
    assert desk.pool.retired == 2
    assert desk.journal.of("resumed") == []


async def test_an_operator_does_not_wait_for_another_agent(desk: Desk) -> None:
    line = await desk.up()
    line.agent.says(link.Context(0, HISTORY))
    desk.pool.delay = None
    line.call.agent_lost(EndReason.AGENT_CRASHED, "exit code 3")
    await asyncio.sleep(0.1)
    desk.board.end_all(EndReason.OPERATOR_KILL, EndedBy.OPERATOR)
    await asyncio.sleep(1.5)
    assert desk.ended == [ended(EndReason.OPERATOR_KILL, EndedBy.OPERATOR)]


async def test_a_call_that_is_sent_back_goes_on_where_it_was(desk: Desk) -> None:
    first = await desk.up()
    assert first.agent.offer.history == []
    first.agent.says(link.Context(0, HISTORY), link.HangUp("done"))
    await asyncio.sleep(1)
    second = await desk.up()
    assert second.agent.offer.history == HISTORY
    assert desk.journal.of("context")[-1] == {"start": 0, "messages": HISTORY, "of_call": first.call.id}
    second.agent.says(link.Context(2, [{"role": "user", "content": "At eight."}]))
    assert len(second.call.memory.history) == 3
    assert len(first.call.memory.history) == 2


# --- the carrier ends it


async def test_a_stop_ends_the_call_once(desk: Desk) -> None:
    line = await desk.up()
    line.agent.speaks(1, 5.0)
    await asyncio.sleep(0.5)
    line.hang_up()
    line.breaks(1000)
    line.hang_up()
    assert desk.ended == [ended(EndReason.CALLER_HANGUP, EndedBy.CALLER)]
    assert line.agent.told[-1] == link.Over("caller_hangup")
    assert line.agent.of(link.UtteranceEnded)[0].outcome == "cut"
    assert desk.pool.retired == 1
    assert desk.control.orders == []


@pytest.mark.parametrize(
    ("code", "silent", "reason", "by"),
    [
        (1006, 0.0, EndReason.CARRIER_RESET, EndedBy.CARRIER),
        (1000, 0.0, EndReason.CALLER_HANGUP, EndedBy.CALLER),
        (1006, 9.0, EndReason.CARRIER_TIMEOUT, EndedBy.CARRIER),
    ],
)
async def test_a_socket_that_closes_without_a_stop(
    desk: Desk, code: int, silent: float, reason: EndReason, by: EndedBy
) -> None:
    line = await desk.up()
    line.task.cancel()
    await asyncio.sleep(silent)
    line.breaks(code)
    line.breaks(code)
    assert desk.ended == [ended(reason, by)]


async def test_a_carrier_that_says_nothing_any_more(desk: Desk) -> None:
    line = await desk.up()
    line.task.cancel()
    await asyncio.sleep(board_module.CARRIER_SILENCE + 2.1)
    assert desk.ended == [ended(EndReason.CARRIER_TIMEOUT, EndedBy.CARRIER)]


async def test_a_socket_that_breaks_before_the_start(desk: Desk) -> None:
    answer = await desk.ring()
    assert isinstance(answer, StreamAnswer)
    call = desk.board.redeem(answer.url.rpartition("/")[2])
    assert call is not None
    side = TwilioCarrierSide(account_sid="AC" + "0" * 32, call_sid="CA" + "1" * 32)
    call.connect(Socket(side), desk.provider.stream(expect_call_id="CA" + "1" * 32))  # type: ignore[arg-type]
    call.socket_closed(1006)
    assert desk.ended == [ended(EndReason.CARRIER_RESET, EndedBy.CARRIER)]


async def test_a_completed_status_ends_a_call_whose_stream_does_not(desk: Desk) -> None:
    await desk.up()
    changed = CallStatusChanged("CA" + "1" * 32, "completed", {"CallDuration": "5"}, cause="200")
    desk.board.status(desk.provider, changed)
    desk.board.status(desk.provider, changed)
    await asyncio.sleep(3)
    assert desk.ended == [ended(EndReason.CALLER_HANGUP, EndedBy.CALLER)]
    assert len(desk.journal.of("carrier.status")) == 2


async def test_a_fault_is_counted_and_noted_once(desk: Desk) -> None:
    line = await desk.up()
    for junk in (b"not json", b"[]", b"more junk"):
        line.give(junk)
    assert line.call.faults["bad-json"] >= 2
    assert len([f for f in desk.journal.of("fault") if f["kind"] == "bad-json"]) == 1
    assert line.call.state is CallState.LIVE


async def test_a_start_of_another_call_ends_this_one(desk: Desk) -> None:
    answer = await desk.ring()
    assert isinstance(answer, StreamAnswer)
    call = desk.board.redeem(answer.url.rpartition("/")[2])
    assert call is not None
    side = TwilioCarrierSide(account_sid="AC" + "0" * 32, call_sid="CA" + "6" * 32)
    socket = Socket(side)
    give = call.connect(socket, desk.provider.stream(expect_call_id="CA" + "1" * 32))  # type: ignore[arg-type]
    for message in side.open(0.0):
        give(message, True)
    assert desk.ended == [ended(EndReason.CARRIER_PROTOCOL_ERROR, EndedBy.CARRIER)]
    assert socket.closed_with not in (None, 1000)


async def test_a_call_of_a_process_before_us_gets_an_apology(desk: Desk) -> None:
    assert desk.board.after(desk.provider, "CA" + "7" * 32) == SayAnswer(DEFAULT_APOLOGY)


# --- shutting down


async def test_ending_all_calls_apologises_first(desk: Desk) -> None:
    line = await desk.up()
    desk.board.drain()
    desk.board.end_all(EndReason.OPERATOR_KILL, EndedBy.OPERATOR)
    await asyncio.wait_for(desk.board.idle(), 3)
    assert desk.ended == [ended(EndReason.OPERATOR_KILL, EndedBy.OPERATOR)]
    assert len(line.side.play(line.loop.time()).replace(b"\xff", b"")) > 7000


async def test_the_frame_totals_include_calls_that_have_ended(desk: Desk) -> None:
    line = await desk.up()
    line.agent.speaks(1, 1.0)
    await asyncio.sleep(1.5)
    live = desk.board.totals()
    line.hang_up()
    assert desk.board.totals() == live
    assert live[1] == 50


# --- a bed

BED = link.Bed("hum", b"\x70" * 8000)


async def test_a_bed_is_heard_while_nobody_speaks_and_does_not_keep_the_call(desk: Desk) -> None:
    line = await desk.up()
    line.agent.says(BED)
    await asyncio.sleep(1)
    assert line.side.play(line.loop.time()).count(b"\x70") == pytest.approx(8000, abs=400)
    line.agent.speaks(1, 0.5)
    line.agent.says(link.HangUp())
    at = line.loop.time()
    await line.call.over
    assert line.loop.time() - at == pytest.approx(0.5, abs=0.1)
    assert desk.ended == [ended(EndReason.AGENT_HANGUP, EndedBy.AGENT)]


async def test_a_bed_named_again_needs_no_audio_and_an_unknown_one_is_told(desk: Desk) -> None:
    line = await desk.up()
    line.agent.says(BED, link.Bed(), link.Bed("hum"))
    await asyncio.sleep(0.2)
    assert line.side.queued(line.loop.time())
    line.agent.says(link.Bed("drum"))
    await asyncio.sleep(0.2)
    assert not line.side.queued(line.loop.time())
    assert desk.journal.of("fault")[0]["kind"] == "unknown-bed"


async def test_a_bed_laid_while_it_rings_is_heard_from_the_answer_on(desk: Desk) -> None:
    await desk.ring()
    desk.pool.agents[-1].says(BED)
    line = await desk.up()
    await asyncio.sleep(0.2)
    assert line.side.queued(line.loop.time())


async def test_the_bed_goes_with_the_agent_that_laid_it(desk: Desk) -> None:
    line = await desk.up()
    line.agent.says(BED)
    await asyncio.sleep(0.2)
    line.agent.says(link.Failed("ouch"))
    await asyncio.sleep(0.5)
    heard = line.side.play(line.loop.time())
    assert heard.count(b"\x70") < 8000 * 0.3
    await line.call.over


@route(record=True)
async def test_the_recording_has_the_bed(desk: Desk) -> None:
    line = await desk.up()
    line.agent.says(BED)
    assert line.call.recording is not None
    path = line.call.recording.path
    await asyncio.sleep(1)
    line.hang_up()
    await line.call.over
    await desk.recorder.close()
    right = np.frombuffer(read_wav(path)[2], "<i2")[1::2]
    assert np.count_nonzero(right == np.frombuffer(ulaw_to_pcm(b"\x70"), "<i2")[0]) > 7000
