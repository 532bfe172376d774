"""A caller that a model plays, frame by frame against an agent of a few lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest
from fakes.line import Agent, FakeLine, FakePhone, voice
from fakes.openai import FakeOpenAi, Refusal, Text

from offhook.agents.api import SettingsError
from offhook.agents.services.base import (
    Delta,
    FunctionSchema,
    LanguageModel,
    Message,
    ServiceError,
    ServiceSettings,
    TextDelta,
    Usage,
)
from offhook.qa.activity import RATE, Samples
from offhook.qa.caller import persona as playing
from offhook.qa.caller.machine import Caller
from offhook.qa.caller.persona import GOODBYE, SILENT, UNCLEAR, YOUR_TURN, Talker, open_talker
from offhook.qa.caller.script import Script
from offhook.qa.measuring.speech import Recogniser, SpeechFailed
from offhook.qa.phones.base import CallOrder
from offhook.qa.scenario.model import Scenario
from offhook.qa.voice import VoiceUnavailable


def scenario(url: str = "", *, waits: bool = False, **persona: int) -> Scenario:
    llm = {"service": "openai", "api_key": "k", "base_url": f"{url}/v1", "model": "fake"}
    return Scenario.model_validate(
        {
            "name": "test",
            "caller": {
                "persona": {"instructions": "You want a table.", "llm": llm, **persona},
                "patience": "3s",
                "voice": {"engine": "flite"},
            },
            "steps": [*([{"wait": "agent_done"}] if waits else []), {"converse": "30s"}],
        }
    )


class Model(LanguageModel):
    """Says what it was told to, and keeps what it was asked."""

    def __init__(self, *replies: str | ServiceError | None) -> None:
        super().__init__(ServiceSettings(service="model"))
        self.replies = list(replies)
        self.asked: list[str] = []

    async def reply(
        self, messages: Sequence[Message], functions: Sequence[FunctionSchema] = ()
    ) -> AsyncGenerator[Delta, None]:
        self.asked.append(messages[-1]["content"])
        reply = self.replies.pop(0)
        if reply is None:
            await asyncio.Event().wait()
        if isinstance(reply, ServiceError):
            raise reply
        for word in str(reply).split(" "):
            yield TextDelta(f"{word} ")
        yield Usage(1, 1)


class Ears:
    """Understands whatever it is given as the next of its texts."""

    def __init__(self, *texts: str | Exception) -> None:
        self.texts = list(texts)
        self.turns: list[Samples] = []

    async def understand(self, turn: Samples) -> str:
        self.turns.append(turn)
        text = self.texts.pop(0)
        if isinstance(text, Exception):
            raise text
        return text


async def speak(text: str) -> Samples:
    if text == "mute":
        raise VoiceUnavailable("flite failed")
    return voice(0.1 * len(text))


async def talked(
    model: Model, ears: Ears, agent: Agent, *, seconds: float = 40.0, max_turns: int = 20, waits: bool = False
) -> tuple[Talker, Caller, FakeLine]:
    plan = scenario(max_turns=max_turns, waits=waits)
    assert plan.caller.persona is not None
    talker = Talker(plan.caller.persona, plan.caller, ears.understand, model, speak)
    caller = Caller(plan, Script(plan.caller, Path()), persona=talker)
    line = FakeLine(agent)
    while not line.ended_by and line.seconds < seconds:
        line.step(caller)
        for _ in range(5):  # what is thought takes no time here
            await asyncio.sleep(0)
    caller.ended()
    await talker.close()
    return talker, caller, line


async def test_a_conversation() -> None:
    model = Model("A table, please.", f"Thanks. {GOODBYE}")
    ears = Ears("hello", "for how many")
    talker, caller, line = await talked(model, ears, Agent(talks=[(0.0, 1.0)], answers_after=0.5, answer=2.0))
    assert model.asked == ["hello", "for how many"]
    assert [text for _, text in caller.record.persona_said] == ["A table, please.", "Thanks."]
    first, second = (at for at, _ in caller.record.persona_said)
    assert first == pytest.approx(1.0 + 0.7, abs=0.05)
    # What it says takes 1.6 s; then 0.5 s until the answer of 2 s, and 0.7 s until that is taken to be over.
    assert second == pytest.approx(first + 1.6 + 0.5 + 2.0 + 0.7, abs=0.1)
    assert caller.record.hung_up
    assert line.seconds == pytest.approx(second + 0.7, abs=0.05)
    assert len(ears.turns[1]) / RATE == pytest.approx(0.2 + 2.0 + 0.7, abs=0.05), "the silence before it is left out"
    assert not talker.failed
    assert [message["role"] for message in talker.talk] == ["system", *("user", "assistant") * 2]
    assert "You want a table." in talker.talk[0]["content"]


async def test_it_speaks_first_where_the_agent_has_spoken_already() -> None:
    model = Model(f"Bye. {GOODBYE}")
    _, caller, _ = await talked(model, Ears(), Agent(talks=[(0.0, 1.0)]), waits=True)
    assert model.asked == [YOUR_TURN]
    assert caller.record.persona_said[0][0] == pytest.approx(1.7, abs=0.06)


async def test_it_waits_for_the_agents_turn_to_end() -> None:
    model = Model(f"Bye. {GOODBYE}")
    ears = Ears("hello how are you")
    _, caller, _ = await talked(model, ears, Agent(talks=[(0.0, 2.0), (2.5, 4.0)]))
    assert caller.record.persona_said[0][0] == pytest.approx(4.0 + 0.7, abs=0.06)
    assert len(ears.turns[0]) / RATE == pytest.approx(4.7, abs=0.06), "both halves are heard together"


async def test_what_it_thinks_is_given_up_when_the_agent_goes_on() -> None:
    model = Model(None, f"Bye. {GOODBYE}")
    ears = Ears("one", "one two")
    talker, caller, _ = await talked(model, ears, Agent(talks=[(0.02, 1.0), (3.0, 4.0)]), seconds=10)
    assert model.asked[-1] == "one two"
    assert [text for _, text in caller.record.persona_said] == ["Bye."]
    assert [message["content"] for message in talker.talk[1:]] == ["one two", f"Bye. {GOODBYE}"]
    assert len(ears.turns[1]) > len(ears.turns[0])


async def test_an_agent_that_says_nothing_or_cannot_be_understood() -> None:
    model = Model("Hello?", "Anybody there?", f"Bye. {GOODBYE}")
    agent = Agent(talks=[(9.0, 10.0)])
    await talked(model, Ears(""), agent)
    assert model.asked == [SILENT, SILENT, UNCLEAR]


async def test_a_persona_has_so_many_turns() -> None:
    model = Model("One.", "Two.", "Three.")
    _, caller, _ = await talked(model, Ears(), Agent(), max_turns=2)
    assert [text for _, text in caller.record.persona_said] == ["One.", "Two."]
    assert caller.record.hung_up


async def test_words_that_are_none() -> None:
    model = Model(" ", GOODBYE)
    _, caller, line = await talked(model, Ears(), Agent())
    assert model.asked == [SILENT, SILENT]
    assert not caller.record.persona_said
    assert line.seconds == pytest.approx(6.0, abs=0.2)


@pytest.mark.parametrize(
    ("model", "ears", "problem"),
    [
        (Model(ServiceError("model", "rejected", "wrong key")), Ears("hi"), "cannot go on: model: rejected: wrong key"),
        (Model(), Ears(SpeechFailed("no recogniser")), "cannot go on: no recogniser"),
        (Model("mute"), Ears("hi"), "cannot go on: flite failed"),
        (Model(None), Ears("hi"), "no answer within 0.05 s"),
    ],
)
async def test_means_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch, model: Model, ears: Ears, problem: str
) -> None:
    monkeypatch.setattr(playing, "THINK_S", 0.05)
    plan = scenario()
    assert plan.caller.persona is not None
    talker = Talker(plan.caller.persona, plan.caller, ears.understand, model, speak)
    line = FakeLine(Agent(talks=[(0.0, 0.5)]))
    caller = Caller(plan, Script(plan.caller, Path()), persona=talker)
    while not line.ended_by:
        line.step(caller)
        await asyncio.sleep(0.0005)
    await talker.close()
    assert talker.content
    assert problem in talker.failed


async def test_the_end_of_the_call_ends_the_thinking() -> None:
    model = Model(None)
    talker, caller, _ = await talked(model, Ears(), Agent(), seconds=4.0)
    assert model.asked == [SILENT]
    assert not talker.content
    assert not caller.record.persona_said


async def test_with_a_service_a_recogniser_and_a_voice(tmp_path: Path) -> None:
    """All of it: a model at the wire, flite, and the recogniser in its process."""
    async with FakeOpenAi([Text("Good morning."), Text(f"Thank you. {GOODBYE}")]) as fake, Recogniser() as recogniser:
        plan = scenario(fake.url)
        script = Script(plan.caller, tmp_path, cache=tmp_path)
        async with open_talker(plan, script, recogniser) as talker:
            caller = Caller(plan, script, persona=talker)
            line = FakeLine(Agent(talks=[(0.0, 0.5)], answers_after=0.3))
            while not line.ended_by:
                line.step(caller)
                # However long the machine takes to think: no time passes on the line.
                thinking = [task for task in asyncio.all_tasks() if task.get_name() == "qa-persona"]
                await asyncio.gather(*thinking)
        assert [text for _, text in caller.record.persona_said] == ["Good morning.", "Thank you."]
        assert not talker.failed
        assert len(fake.requests) == 2


async def test_a_service_that_refuses(tmp_path: Path) -> None:
    async with FakeOpenAi([Refusal(401, "wrong key")]) as fake, Recogniser() as recogniser:
        plan = scenario(fake.url)
        script = Script(plan.caller, tmp_path, cache=tmp_path)
        async with open_talker(plan, script, recogniser) as talker:
            caller = Caller(plan, script, persona=talker)
            order = CallOrder(plan.target, plan.media, "call")
            await FakePhone(pace=0.001).carry(order, caller)
        assert "openai: rejected" in talker.failed


async def test_no_persona_at_all(tmp_path: Path) -> None:
    plan = Scenario.model_validate({"name": "test", "steps": [{"wait": "1s"}]})
    with pytest.raises(SettingsError, match=r"caller\.persona: missing"):
        async with open_talker(plan, Script(plan.caller, tmp_path), Recogniser()):
            pass
