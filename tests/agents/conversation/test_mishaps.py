"""What goes wrong between the parts of a conversation, and is not to be heard."""

from __future__ import annotations

import asyncio
import wave
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.conversation import PlayingGateway, Script, ScriptedSession, ScriptedTranscription, call, services
from fakes.phone import Dial, Phone
from fakes.scripted import Reports, Tts, fault

from offhook.agents import Assistant, link, tool
from offhook.agents.conversation.personas import HANDED_OVER
from offhook.agents.services.base import Message, ServiceError, TextDelta
from offhook.agents.services.resilience import ResilientTextToSpeech
from offhook.agents.sound import load
from offhook.codecs.audio import PCMA, PCMU
from offhook.codecs.pcm import tone

pytestmark = [pytest.mark.virtual_time, pytest.mark.own_tasks("the fixture hangs up and waits for the agent to go")]

LONG = "We are open from nine in the morning to five in the afternoon on every day of the week except for Sunday."


async def over(phone: Phone, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not phone.gateway.over:
            await asyncio.sleep(0.05)


# --- interruptions --------------------------------------------------------------------


async def test_a_caller_who_interrupts_the_goodbye_is_not_hung_up_on(dial: Dial) -> None:
    def reply(messages: list[Message]) -> Any:
        if "wait" in str(messages[-1]["content"]):
            return "Of course."
        return [TextDelta("Goodbye, and thank you very much for calling us today. "), call("hang_up")]

    phone = await dial(Script(reply=reply))
    await phone.say("That is all, thanks.")
    await asyncio.sleep(1.5)
    await phone.say("wait one more thing", 1.0)
    await phone.quiet()
    assert not phone.gateway.over
    assert not phone.gateway.of(link.HangUp)
    assert phone.texts[-1] == "Of course."
    (result,) = [message for message in phone.last_request if message["role"] == "tool"]
    assert "not been ended" in result["content"]
    await asyncio.sleep(3)
    assert phone.texts[-1] == "Of course.", "the model knew of it: nobody asks it to tell the caller again"


async def test_a_cough_in_the_goodbye_does_not_keep_the_call_from_ending(dial: Dial) -> None:
    phone = await dial(Script(reply=lambda m: [TextDelta("Goodbye, and thank you for calling. "), call("hang_up")]))
    await phone.say("That is all, thanks.")
    await asyncio.sleep(1.2)
    await phone.say("", 0.3)
    await over(phone)
    assert phone.gateway.said[-1].outcome == "played"


async def test_keys_during_an_answer_stop_it_and_the_model_knows_what_was_heard(dial: Dial) -> None:
    phone = await dial(Script(reply=lambda messages: LONG if "open" in messages[-1]["content"] else "Fine."))
    await phone.say("When do you open?")
    await asyncio.sleep(2)
    phone.gateway.session.receive(link.Dtmf("#"))
    await phone.quiet()
    heard = phone.last_request[1]["content"]
    assert LONG.startswith(heard)
    assert 0 < len(heard) < 40
    assert phone.last_request[-1]["content"] == "[keys pressed: #]"


class Slow(Assistant):
    @tool(keep=True, filler="")
    async def look_up(self) -> str:
        """Take a while."""
        await asyncio.sleep(2.5)
        return "the result"


async def test_a_result_that_came_before_the_next_question_is_told_with_its_answer_only(dial: Dial) -> None:
    def reply(messages: list[Message]) -> Any:
        if any("the result" in str(message["content"]) for message in messages):
            return "It is here, and it is sunny."
        return [TextDelta("I look. "), call("look_up")]

    phone = await dial(Script(reply=reply), Slow)
    await phone.say("Please look it up.")
    await asyncio.sleep(1.2)
    await phone.say("and tell me is it sunny outside today", 3.0)
    await phone.quiet()
    await asyncio.sleep(5)
    assert phone.texts == ["I look.", "It is here, and it is sunny."]


async def test_a_result_that_comes_while_the_caller_speaks_waits_until_he_has_finished(dial: Dial) -> None:
    phone = await dial(Script(reply=lambda m: "Fine." if m[-1]["role"] != "user" else [call("look_up")]), Slow)
    agent = phone.gateway.agent
    await phone.say("Please look it up.")
    await asyncio.sleep(1.0)
    await phone.say("what is", 1.0)  # he interrupts, and says no more
    phone.stt.pending = ""
    agent.ears.told(agent.ears.taker.reset(phone.gateway.loop.time()))
    agent.on_speech_started(phone.gateway.loop.time())  # a noise, while the result comes
    await asyncio.sleep(2)
    assert phone.texts == []
    agent.on_speech_stopped(phone.gateway.loop.time())
    await phone.quiet()
    assert phone.texts == ["Fine."]


# --- several agents -------------------------------------------------------------------


class Recording(ScriptedSession):
    def __init__(self, script: Script, name: str, said: list[tuple[str, str]]) -> None:
        super().__init__(script)
        self.name, self.said = name, said

    async def synthesize(self, text: str, *, previous: str = "") -> AsyncGenerator[Any, None]:
        self.said.append((self.name, text))
        async for piece in super().synthesize(text, previous=previous):
            yield piece


async def test_a_hand_over_in_the_middle_of_an_answer_does_not_change_its_voice(dial: Dial) -> None:
    phone = await dial(
        Script(reply=lambda messages: [TextDelta("One. "), 1.0, TextDelta("Two.")]),
        agents={"repair": {"prompt": "You repair.", "description": "Repairs."}},
    )
    agent = phone.gateway.agent
    said: list[tuple[str, str]] = []
    main, repair = agent.cast.personas["main"], agent.cast.personas["repair"]
    repair.voice = type(main.voice)("r", Recording(phone.script, "repair", said), main.voice.format)
    main.voice.voice = Recording(phone.script, "main", said)
    await phone.say("Count to two.")
    await asyncio.sleep(0.8)
    agent.mind.persona = repair
    await phone.quiet()
    assert said == [("main", "One."), ("main", "Two.")]


async def test_who_takes_a_call_over_is_the_agent_that_had_it(dial: Dial) -> None:
    def called(id: str, name: str) -> Message:
        function = {"name": name, "arguments": "{}"}
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": id, "type": "function", "function": function}],
        }

    history = [
        {"role": "user", "content": "It is broken"},
        called("1", "hand_off_to_repair"),
        {"role": "tool", "tool_call_id": "1", "content": HANDED_OVER},
        called("2", "hand_off_to_main"),
        {"role": "tool", "tool_call_id": "2", "content": "The other agent is not available"},
    ]
    phone = await dial(agents={"repair": {"prompt": "You repair.", "description": "Repairs."}}, history=history)
    await phone.quiet()
    assert phone.script.requests[0][0]["content"].startswith("You repair.")


# --- the end --------------------------------------------------------------------------


async def test_a_call_is_ended_once(dial: Dial) -> None:
    stop = call("stop", '{"say": "I have to end this call.", "reason": "abuse"}')
    judge = services(Script(reply=lambda messages: [stop, stop]), "judge")["llm"]
    phone = await dial(
        listeners=[{"name": name, "prompt": "Judge.", "llm": judge, "may": ["stop"]} for name in ("a", "b")]
    )
    await phone.say("Something terrible.")
    await asyncio.sleep(0.5)
    phone.gateway.session.receive(link.Dtmf("#"))
    await over(phone)
    assert phone.texts.count("I have to end this call.") == 1
    assert phone.texts[-1] == "I have to end this call."
    assert len(phone.gateway.of(link.HangUp)) == 1


async def test_a_service_that_is_slow_to_close_holds_up_nothing_else(
    dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(self: object) -> None:
        await asyncio.sleep(3.5)

    closed: list[float] = []

    async def close(self: object) -> None:
        closed.append(asyncio.get_running_loop().time())

    monkeypatch.setattr(ScriptedTranscription, "close", slow)
    monkeypatch.setattr(ScriptedSession, "close", close)
    phone = await dial(Script(reply=lambda messages: [call("look_up")]), Slow)
    await phone.say("Please look it up.")
    await asyncio.sleep(0.6)
    ended = phone.gateway.loop.time()
    await phone.gateway.close()
    assert closed[0] - ended < 0.1
    assert phone.gateway.loop.time() - ended < 5
    assert not phone.gateway.notes("on_over_failed")


# --- bugs end the call instead of being lost --------------------------------------------


def breaks(*_: Any, **__: Any) -> Any:
    raise ValueError("a bug")


@pytest.mark.parametrize(
    "happens",
    [
        lambda phone: phone.gateway.agent._idle(),
        lambda phone: phone.gateway.agent._time_is_up(),
        lambda phone: phone.gateway.agent._keyed(),
        lambda phone: phone.stt.hear(phone.stt.lost),
        lambda phone: phone.gateway.agent.ears._tick(),
    ],
    ids=["idle", "time is up", "keys", "heard", "timer"],
)
async def test_a_bug_in_what_the_loop_calls_ends_the_call(
    dial: Dial, monkeypatch: pytest.MonkeyPatch, happens: Callable[[Phone], None]
) -> None:
    phone = await dial()
    agent = phone.gateway.agent
    for owner, name in (
        (agent.mind, "say"),
        (agent.mind, "begin"),
        (agent.ears.taker, "tick"),
        (agent.ears, "_take_in"),
    ):
        monkeypatch.setattr(owner, name, breaks)
    phone.stt.lost = None  # type: ignore[attr-defined]
    happens(phone)
    await asyncio.sleep(0.1)
    (failed,) = phone.gateway.of(link.Failed)
    assert "a bug" in failed.error


async def test_a_bug_in_a_listener_is_noted_and_not_felt(dial: Dial) -> None:
    judge = services(Script(reply=breaks), "judge")["llm"]
    phone = await dial(listeners=[{"name": "judge", "prompt": "Judge.", "llm": judge}])
    await phone.say("When do you open?")
    await phone.quiet()
    assert phone.texts == ["Fine."]
    assert phone.gateway.notes("listener_failed")[0] == {"listener": "judge", "error": "a bug"}
    assert not phone.gateway.of(link.Failed)


# --- trouble ----------------------------------------------------------------------------


async def test_trouble_after_a_function_is_told(dial: Dial) -> None:
    def reply(messages: list[Message]) -> Any:
        if messages[-1]["role"] == "tool":
            return [ServiceError("llm", "rejected", "no")]
        return [TextDelta("I look. "), call("look_up")]

    phone = await dial(Script(reply=reply), Slow, trouble="Say it again?", filler_after=20)
    await phone.say("Please look it up.")
    await phone.quiet()
    assert phone.texts == ["I look.", "Say it again?"]


async def test_a_model_that_calls_functions_in_circles_is_stopped_and_the_caller_is_told(dial: Dial) -> None:
    phone = await dial(
        Script(reply=lambda messages: [call("nothing")]), trouble="Say it again?", max_rounds=3, filler_after=20
    )
    await phone.say("Please look it up.")
    await phone.quiet()
    assert phone.texts == ["Say it again?"]
    assert phone.gateway.notes("max_rounds") == [{"rounds": 3}]
    ids = [message["tool_call_id"] for message in phone.last_request if message["role"] == "tool"]
    assert ids == ["f1", "f1_2"], "each call has an id of its own"


# --- hearing ------------------------------------------------------------------------------


async def test_the_turn_taker_is_told_of_a_service_that_takes_over(dial: Dial) -> None:
    phone = await dial(Script(ends_turns=True), turns={"end": "service"})
    agent = phone.gateway.agent
    assert agent.ears.taker.end == "service"
    agent._stt.ends_turns, agent._stt.gives_partials = False, False
    phone.gateway.session.receive_audio(b"\xff" * 160)
    assert (agent.ears.taker.end, agent.ears.taker.stt_partials) == ("transcript", False)
    await phone.say("When do you open?")
    await phone.quiet()
    assert phone.texts == ["Fine."]


async def test_decisions_are_carried_out_in_their_order(dial: Dial) -> None:
    """What a decision brings about comes after those that were made with it."""
    phone = await dial()
    ears, seen = phone.gateway.agent.ears, []

    def decide(decision: Any) -> None:
        seen.append(decision)
        if decision == "first":
            ears.told(["third"])

    ears._decide = decide
    ears.told(["first", "second"])
    assert seen == ["first", "second", "third"]


# --- sounds and formats -------------------------------------------------------------------


async def test_the_sound_of_thinking_is_not_played_over_hold_music(dial: Dial) -> None:
    phone = await dial(
        Script(reply=lambda messages: [call("hold", '{"seconds": 5}')] if messages[-1]["role"] == "user" else "So."),
        call_tools=["hold"],
        sound={"thinking": "thinking", "thinking_after": 0.5},
    )
    await phone.say("Can you check with your colleague?")
    await asyncio.sleep(4)
    (music,) = {bed.sound for bed in phone.gateway.of(link.Bed) if bed.sound}
    assert music == phone.gateway.of(link.Bed)[-1].sound
    assert phone.gateway.agent._sounds["hold"] != phone.gateway.agent._sounds["thinking"]


async def test_a_sound_that_has_gone_does_not_end_the_call(dial: Dial, tmp_path: Path) -> None:
    file = tmp_path / "room.wav"

    class Removes(Assistant):
        async def on_ring(self) -> None:
            file.unlink()
            await super().on_ring()

    with wave.open(str(file), "wb") as wav:
        wav.setparams((1, 2, 8000, 0, "NONE", ""))
        wav.writeframes(tone(400, 1.0, 8000))
    phone = await dial(agent=Removes, sound={"ambience": str(file)})
    await phone.say("Hello?")
    await phone.quiet()
    assert phone.texts == ["Fine."]
    assert str(file) in phone.gateway.notes("sound_missing")[0]["error"]


async def test_a_carrier_that_answers_in_another_format_gets_the_greeting_in_it(dial: Dial) -> None:
    phone = await dial()
    settings = {**phone.gateway.agent.settings, "greeting": "Hello, this is Acme.", "sound": {"ambience": "office"}}
    gateway = PlayingGateway(Assistant, settings)
    try:
        await asyncio.sleep(1)
        gateway.session.receive(link.Answered(gateway.loop.time(), "pcma/8000"))
        await asyncio.sleep(3)
        (said,) = gateway.said
        assert said.outcome == "played"
        assert gateway.of(link.Bed)[0].audio == load("office", PCMA)
    finally:
        await gateway.close()


async def test_a_voice_knows_when_another_one_stands_in() -> None:
    down, other = Tts("down", [fault("rejected")]), Tts("other", [b"\x20" * 160])
    voice = await ResilientTextToSpeech([down, other], Reports()).open(PCMU)
    assert voice.first_choice
    assert [piece async for piece in voice.synthesize("Hello.")]
    assert not voice.first_choice
    await voice.close()
