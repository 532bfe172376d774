"""One agent on one call: what reaches its handlers, what reaches the gateway, and what its mistakes cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from offhook.agents import Agent, AgentCall, Refused, link
from offhook.agents.echo import Echo
from offhook.agents.runtime import MAX_PIECE, AgentSession
from offhook.agents.vad import VadService
from offhook.codecs.audio import L16_8K, L16_16K, PCMA, PCMU

pytestmark = pytest.mark.own_tasks("the fixture `start` ends every session")

CALL = link.CallInfo("c1", "+15550001", "+15550100", "twilio")


class Gateway:
    """The other end of the wire: keeps what the agent sent."""

    def __init__(self) -> None:
        self.events: list[link.FromAgent] = []
        self.sound = b""
        self.pieces: list[int] = []

    def event(self, message: link.FromAgent) -> None:
        self.events.append(message)

    def audio(self, data: bytes) -> None:
        self.sound += data
        self.pieces.append(len(data))

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


Start = Callable[..., tuple[AgentSession, Gateway]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    sessions: list[AgentSession] = []
    vad = VadService()

    def begin(agent: type[Agent], settings: dict[str, Any] | None = None, format: str = "pcmu/8000") -> Any:
        gateway = Gateway()
        offer = link.Offer(CALL, "a", settings or {}, format)
        session = AgentSession(offer, agent, gateway, vad=vad)
        sessions.append(session)
        return session, gateway

    yield begin
    for session in sessions:
        session.receive(link.Over("test over"))
        await session._ending
    vad.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Talker(Agent):
    """Says one sentence and leaves."""

    async def on_answer(self) -> None:
        self.ended = await self.call.speak(L16_8K.silence * 50, text="hello")


async def test_a_call_from_ring_to_hang_up(start: Start) -> None:
    session, gateway = start(Talker)
    await settle()
    assert gateway.events == [link.Ready()]
    session.receive(link.Answered(1.0))
    await settle()
    assert gateway.events[1:] == [link.Speak(1, "hello"), link.Spoken(1)]
    assert len(gateway.sound) == PCMU.size(1.0)
    session.receive(link.UtteranceStarted(1, 2.0))
    session.receive(link.UtteranceEnded(1, "played", 1000, 1000))
    await settle()
    assert gateway.events[-1] == link.HangUp("agent finished")
    assert session.agent.ended == link.UtteranceEnded(1, "played", 1000, 1000)  # type: ignore[union-attr]


async def test_long_audio_leaves_in_pieces(start: Start) -> None:
    class Long(Agent):
        format = None

        async def on_answer(self) -> None:
            await self.call.speak(b"\xff" * 40_000)

    session, gateway = start(Long)
    session.receive(link.Answered())
    await settle()
    assert gateway.pieces == [MAX_PIECE, MAX_PIECE, 8_000]


@pytest.mark.parametrize("format", [None, L16_8K, L16_16K, PCMA])
async def test_an_agent_hears_and_speaks_its_own_format(start: Start, format: Any) -> None:
    heard: list[int] = []

    class Any_(Agent):  # noqa: N801
        def __init__(self, call: AgentCall, settings: dict[str, Any]) -> None:
            super().__init__(call, settings)
            self.format = format

        def on_audio(self, audio: bytes) -> None:
            heard.append(len(audio))
            self.call.stream(audio)

    session, gateway = start(Any_)
    session.receive(link.Answered())
    for _ in range(5):
        session.receive_audio(PCMU.silence)
    assert heard == [(format or PCMU).frame_bytes] * 5
    assert gateway.pieces == [160] * 5


async def test_the_carriers_word_on_the_format_holds(start: Start) -> None:
    session, gateway = start(Echo, {"format": "l16/16000"})
    session.receive(link.Answered(format="l16/16000"))
    session.receive_audio(L16_16K.silence)
    assert gateway.pieces == [L16_16K.frame_bytes]


async def test_keys_are_kept_until_asked_for(start: Start) -> None:
    got: list[str] = []

    class Menu(Agent):
        async def on_answer(self) -> None:
            while (digit := await self.next_digit(timeout=0.01)) is not None:
                got.append(digit)

    session, _ = start(Menu)
    session.receive(link.Dtmf("1"))
    session.receive(link.Answered())
    session.receive(link.Dtmf("2"))
    await asyncio.sleep(0.05)
    assert got == ["1", "2"]


async def test_clearing_stops_what_is_being_streamed(start: Start) -> None:
    session, gateway = start(Agent)
    session.receive(link.Answered())
    utterance = session.speak(L16_8K.silence, text="long", last=False)
    session.clear()
    session.add(utterance, L16_8K.silence)
    session.finish(utterance)
    assert [type(event) for event in gateway.events] == [link.Speak, link.Clear]
    assert len(gateway.sound) == 160


async def test_opening_an_utterance_closes_the_one_before(start: Start) -> None:
    session, gateway = start(Agent)
    session.receive(link.Answered())
    session.speak(last=False)
    session.speak(last=False)
    assert gateway.events == [link.Speak(1), link.Spoken(1), link.Speak(2)]


class Broken(Agent):
    """Raises where its settings say."""

    def __init__(self, call: AgentCall, settings: dict[str, Any]) -> None:
        super().__init__(call, settings)
        self._at("init")

    def _at(self, place: str) -> None:
        if self.settings["at"] == place:
            raise ValueError(f"broken at {place}")

    async def on_ring(self) -> None:
        self._at("on_ring")

    async def on_answer(self) -> None:
        self._at("on_answer")
        await asyncio.Event().wait()

    def on_audio(self, audio: bytes) -> None:
        self._at("on_audio")

    def on_dtmf(self, digit: str) -> None:
        self._at("on_dtmf")

    def on_utterance_ended(self, ended: link.UtteranceEnded) -> None:
        self._at("on_utterance_ended")


@pytest.mark.parametrize("at", ["init", "on_ring", "on_answer", "on_audio", "on_dtmf", "on_utterance_ended"])
async def test_what_a_handler_raises_is_reported_once_with_its_traceback(start: Start, at: str) -> None:
    session, gateway = start(Broken, {"at": at})
    await settle()
    session.receive(link.Answered())
    await settle()
    session.speak(L16_8K.silence)
    for message in (link.Dtmf("1"), link.UtteranceEnded(1, "played", 20, 20)):
        session.receive(message)
    session.receive_audio(PCMU.silence)
    await settle()
    failed = gateway.of(link.Failed)
    assert len(failed) == 1
    assert failed[0].error == f"ValueError: broken at {at}"
    assert "_at" in failed[0].traceback


async def test_an_agent_may_refuse(start: Start) -> None:
    class Busy(Agent):
        async def on_ring(self) -> None:
            raise Refused("lunch")

    _, gateway = start(Busy)
    await settle()
    assert gateway.events == [link.Refuse("lunch")]


async def test_an_agent_may_give_the_call_up(start: Start) -> None:
    class Speechless(Agent):
        async def on_answer(self) -> None:
            raise Refused("no voice")

    session, gateway = start(Speechless)
    await settle()
    session.receive(link.Answered())
    await settle()
    assert gateway.events == [link.Ready(), link.Refuse("no voice")]


async def test_after_the_end_nothing_is_sent_and_waits_are_over(start: Start) -> None:
    class Patient(Agent):
        over = ""

        async def on_over(self, reason: str) -> None:
            self.over = reason

    session, gateway = start(Patient)
    agent = session.agent
    session.receive(link.Answered())
    await settle()
    utterance = session.speak(L16_8K.silence)
    before = list(gateway.events)
    session.receive(link.Over("caller_hangup"))
    session.receive(link.Over("again"))
    await session._ending
    assert (await utterance).outcome == "dropped"
    assert (await session.speak(L16_8K.silence)).outcome == "dropped"
    session.hang_up()
    session.note("x")
    session.stream(L16_8K.silence)
    assert gateway.events == before
    assert agent.over == "caller_hangup"  # type: ignore[union-attr]


async def test_a_failing_farewell_is_noted(start: Start) -> None:
    class Rude(Agent):
        async def on_over(self, reason: str) -> None:
            raise RuntimeError("no")

    session, gateway = start(Rude)
    session.receive(link.Over("caller_hangup"))
    await session._ending
    assert gateway.of(link.Note)[0].data == {"error": "RuntimeError: no"}


async def test_an_unknown_detector_fails_the_call(start: Start) -> None:
    _, gateway = start(Echo, {"vad": "psychic"})
    assert "psychic" in gateway.of(link.Failed)[0].error
