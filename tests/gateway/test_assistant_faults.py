"""Calls of assistants whose services fail, on one real gateway, all at the same time: what the caller hears of it.

The vendors are fakes on loopback with their real SDKs as clients; each call has its own three, and its own agent.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.cartesia import FakeCartesia
from fakes.deepgram import FakeDeepgram
from fakes.openai import FakeOpenAi, Refusal, Silence, Text
from fakes.served import served
from fakes.sockets import Connection, Fault, Manner

from offhook.codecs.g711 import ulaw_to_pcm
from offhook.gateway.store import Store
from offhook.qa.call import SimulatedCall
from offhook.qa.result import CallResult
from offhook.qa.simulator import CarrierSimulator
from offhook.qa.voice import Voice

pytestmark = [pytest.mark.timing, pytest.mark.timeout(120)]

TROUBLE = "Could you say that again, please?"
HUMAN = "+15550199"
HOURS = "What are your opening hours?"
SHOES = "Do you also sell red shoes?"

MORTAL = """
import os
from pathlib import Path
from offhook.agents import Assistant

class Mortal(Assistant):
    async def on_answer(self):
        Path(__file__).with_name("pid").write_text(str(os.getpid()))
        await super().on_answer()
"""


class AllFail(dict[str, dict[str, Any]]):
    """Every text is answered with an error."""

    def __contains__(self, text: object) -> bool:
        return True

    def __missing__(self, text: str) -> dict[str, Any]:
        return {"title": "down", "message": "out of order", "error_code": "internal"}


class BreakingDeepgram(FakeDeepgram):
    """Breaks in the middle of the caller's first sentence, and understands it when it is sent again."""

    broken: Connection | None = None
    again: tuple[str, int] | None = None

    def caller_says(self, text: str, milliseconds: int) -> None:
        super().caller_says(text, milliseconds)
        if self.broken is None and self._hearing is not None:
            self.broken, self.again = self._hearing.connection, (text, milliseconds)
            self.broken.fault = Fault(after=(self.heard_ms + milliseconds * 0.6) / 1000, drop=True)

    async def received(self, connection: Connection) -> str | bytes:
        message = await super().received(connection)
        if self.again is not None and connection is not self.broken and isinstance(message, bytes):
            pcm = np.frombuffer(ulaw_to_pcm(message), "<i2").astype(np.float64)
            if np.sqrt(np.mean(pcm**2)) > 500:
                text, milliseconds = self.again
                self.script, self.again = [(text, self.heard_ms, self.heard_ms + milliseconds)], None
        return message


@dataclass
class Line:
    """One call, with the services of its assistant."""

    call: SimulatedCall
    voice: Voice
    stt: FakeDeepgram
    llms: Sequence[FakeOpenAi]
    tts: FakeCartesia
    folder: Path

    async def say(self, text: str) -> None:
        speech = await self.voice.speak(text)
        self.stt.caller_says(text, round(len(speech) / 8))
        await self.call.say(speech)

    async def ask(self, text: str) -> None:
        """Say it and wait until the agent has answered."""
        await self.say(text)
        await self.call.wait_agent_turn(timeout=15)


@dataclass
class Outcome:
    """What one call came to."""

    result: CallResult
    asked: list[list[dict[str, Any]]]
    "The messages of each request, whichever model it went to."
    spoken: list[str]
    "What the voice was asked to say, in order."
    hearings: int
    "Connections to the speech-to-text service."
    record: Any = None
    events: list[Any] = field(default_factory=list)

    @property
    def faults(self) -> set[tuple[str, str]]:
        return {(e.data["role"], e.data["fault"]) for e in self.events if e.event == "service.fault"}

    @property
    def replies_ms(self) -> list[float]:
        return [reply.v2v_ms for reply in self.result.measures.replies]

    @property
    def spans(self) -> int:
        """How often the agent was heard."""
        return len(self.result.measures.agent_spans)


async def two_questions(line: Line) -> None:
    await line.ask(HOURS)
    await line.ask(SHOES)
    await line.call.hang_up()


async def one_question(line: Line) -> None:
    await line.ask(HOURS)
    await line.call.hang_up()


async def until_it_falls_back(line: Line) -> None:
    await line.ask(HOURS)
    await line.say(SHOES)
    await line.call.wait_over()


async def falls_back_at_once(line: Line) -> None:
    await line.say(HOURS)
    await line.call.wait_over()


async def host_killed(line: Line) -> None:
    await line.ask(HOURS)
    line.stt.script.clear()  # the next connection begins at nought
    os.kill(int((line.folder / "pid").read_text()), signal.SIGKILL)
    await line.call.wait_agent_turn(timeout=15)
    await line.ask(SHOES)
    await line.call.hang_up()


@dataclass
class Scenario:
    play: Callable[[Line], Awaitable[None]]
    llm: Sequence[Any] = (Text("We open at nine."), Text("Yes, we do."))
    second_llm: Sequence[Any] = ()
    llm_limits: dict[str, Any] = field(default_factory=dict)
    stt: type[FakeDeepgram] = FakeDeepgram
    tts: dict[str, Any] = field(default_factory=dict)
    agent: dict[str, Any] = field(default_factory=dict)


SCENARIOS = {
    "no_first_token": Scenario(
        one_question, llm=[Silence()], second_llm=[Text("We open at nine.")], llm_limits={"timeout": 1.0, "retries": 0}
    ),
    "stall": Scenario(
        two_questions,
        llm=[[Text("We open at nine. And we close at "), Silence()], Text("Yes, we do.")],
        llm_limits={"stall": 1.0},
    ),
    "rate_limited": Scenario(one_question, llm=[Refusal(429, "slow down"), Text("We open at nine.")]),
    "down": Scenario(until_it_falls_back, llm=[Refusal(500, "out of order")]),
    "deaf": Scenario(one_question, stt=BreakingDeepgram),
    "voice_breaks": Scenario(
        two_questions,
        llm=[Text("We open at nine in the morning. We close at five."), Text("Yes, we do.")],
        tts={"faults": [Fault(after=0.6, drop=True)]},
    ),
    "voice_garbled": Scenario(two_questions, tts={"faults": [Fault(after=0.3, say=("{{{ no JSON",))]}),
    "mute": Scenario(falls_back_at_once, tts={"errors": AllFail({"": {}})}),
    "killed": Scenario(
        host_killed,
        llm=[Text("We open at nine."), Text("Sorry for the break."), Text("Yes, we do.")],
        agent={"kind": "mortal:Mortal", "isolation": "call"},
    ),
}


@asynccontextmanager
async def services(scenario: Scenario) -> AsyncIterator[tuple[FakeDeepgram, list[FakeOpenAi], FakeCartesia]]:
    async with (
        scenario.stt(interim_lag=0.1, final_after=0.1) as stt,
        FakeOpenAi(scenario.llm, ttft=0.1) as first,
        FakeOpenAi(scenario.second_llm, ttft=0.1) as second,
        FakeCartesia(manner=Manner(first_audio=0.1), **scenario.tts) as tts,
    ):
        yield stt, [first, second], tts


async def play_all(folder: Path) -> dict[str, Outcome | BaseException]:
    """Play every scenario at the same time. What one raises is for its own test."""
    (folder / "mortal.py").write_text(MORTAL)
    made: dict[str, Any] = {}
    agents: dict[str, Any] = {}
    routes: list[dict[str, Any]] = []
    numbers = {name: f"+155502{at:02}" for at, name in enumerate(SCENARIOS)}
    voice = Voice("flite", "slt")
    async with asyncio.timeout(90):
        async with AsyncExitStack() as stack:
            for name, scenario in SCENARIOS.items():
                made[name] = stt, llms, tts = await stack.enter_async_context(services(scenario))
                models = [
                    {"service": "openai", "model": "m", "api_key": "k", "base_url": f"{llm.url}/v1"} for llm in llms
                ]
                models[0] |= scenario.llm_limits
                agents[name.replace("_", "-")] = {
                    "kind": "assistant",
                    "isolation": "host",
                    "prompt": "You run a shop.",
                    "stt": {"service": "deepgram", "api_key": "k", "base_url": stt.url},
                    "llm": models[: 2 if scenario.second_llm else 1],
                    "tts": {"service": "cartesia", "api_key": "k", "voice": "v", "base_url": tts.url},
                    "vad": "webrtc",
                    "turns": {"end": "transcript"},
                    "trouble": TROUBLE,
                    "idle": {"after": 60},
                    **scenario.agent,
                }
                routes.append(
                    {"number": numbers[name], "agent": name.replace("_", "-"), "fallback": {"transfer": HUMAN}}
                )
            simulator: CarrierSimulator = await stack.enter_async_context(
                served(folder, {}, agents=agents, routes=routes)
            )

            async def one(name: str) -> Outcome:
                stt, llms, tts = made[name]
                call = await simulator.ring("+15550001", numbers[name])
                await SCENARIOS[name].play(Line(call, voice, stt, llms, tts, folder))
                asked = [request.json["messages"] for llm in llms for request in llm.requests if request.body]
                spoken = [m["transcript"] for c in tts.connections for m in c.json if "transcript" in m]
                return Outcome(call.result(), asked, spoken, len(stt.connections))

            played = await asyncio.gather(*map(one, SCENARIOS), return_exceptions=True)
            outcomes = dict(zip(SCENARIOS, played, strict=True))
    store = Store(f"sqlite+aiosqlite:///{folder / 'var' / 'calls.db'}")
    await store.open_existing()
    for record in await store.calls(limit=50):
        outcome = next(outcomes[name] for name, number in numbers.items() if number == record.to_number)
        if isinstance(outcome, Outcome):
            outcome.record, outcome.events = record, list(await store.events(record.id))
    await store.close()
    return outcomes


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome | BaseException]:
    return asyncio.run(play_all(tmp_path_factory.mktemp("faults")))


@pytest.fixture
def outcome(outcomes: dict[str, Outcome | BaseException], request: pytest.FixtureRequest) -> Outcome:
    found = outcomes[request.node.name.removeprefix("test_")]
    if isinstance(found, BaseException):
        raise found
    return found


def said(outcome: Outcome) -> list[tuple[str, str]]:
    """What the model was told last of what was said, without its orders."""
    return [(m["role"], m["content"]) for m in outcome.asked[-1] if m["role"] in ("user", "assistant")]


def test_no_first_token(outcome: Outcome) -> None:
    assert outcome.spoken == ["We open at nine."]
    assert outcome.faults == {("llm", "timeout")}
    (reply,) = outcome.replies_ms
    assert 1300 < reply < 3000
    assert outcome.record.reason == "caller_hangup"


def test_stall(outcome: Outcome) -> None:
    assert outcome.spoken == ["We open at nine.", "Yes, we do."]
    assert outcome.spans == 2
    assert outcome.faults == {("llm", "timeout")}
    assert said(outcome) == [("user", HOURS), ("assistant", "We open at nine."), ("user", SHOES)]


def test_rate_limited(outcome: Outcome) -> None:
    assert outcome.spoken == ["We open at nine."]
    assert outcome.faults == {("llm", "rate_limited")}
    assert outcome.replies_ms[0] < 2000


def test_down(outcome: Outcome) -> None:
    assert outcome.spoken == [TROUBLE]
    assert [transfer.to for transfer in outcome.result.transfers] == [HUMAN]
    assert outcome.faults == {("llm", "unavailable")}
    assert (outcome.record.reason, outcome.record.status) == ("agent_refused", "failed")
    (end,) = [event.data for event in outcome.events if event.event == "call.ended"]
    assert "out of order" in end["detail"]


def test_deaf(outcome: Outcome) -> None:
    assert said(outcome) == [("user", HOURS)]
    assert outcome.spoken == ["We open at nine."]
    assert outcome.hearings == 2


def test_voice_breaks(outcome: Outcome) -> None:
    assert outcome.spoken == ["We open at nine in the morning.", "We close at five.", "Yes, we do."]
    assert outcome.faults == {("tts", "unavailable")}
    role, text = said(outcome)[1]
    assert role == "assistant"
    assert text.endswith("We close at five.")
    assert len(text) < len("We open at nine in the morning. We close at five.")
    assert said(outcome)[-1] == ("user", SHOES)
    assert len(outcome.replies_ms) == 2


def test_voice_garbled(outcome: Outcome) -> None:
    assert outcome.faults == {("tts", "bad_reply")}
    assert said(outcome) == [("user", HOURS), ("assistant", "We"), ("user", SHOES)]
    assert outcome.spans == 2


def test_mute(outcome: Outcome) -> None:
    assert outcome.faults == {("tts", "unavailable")}
    assert [transfer.to for transfer in outcome.result.transfers] == [HUMAN]
    assert outcome.record.reason == "agent_refused"


def test_killed(outcome: Outcome) -> None:
    assert outcome.spoken == ["We open at nine.", "Sorry for the break.", "Yes, we do."]
    assert outcome.spans == 3
    (resumed,) = [event.data for event in outcome.events if event.event == "resumed"]
    assert resumed["messages"] == 2
    assert said(outcome) == [
        ("user", HOURS),
        ("assistant", "We open at nine."),
        ("assistant", "Sorry for the break."),
        ("user", SHOES),
    ]
    assert outcome.record.reason == "caller_hangup"
