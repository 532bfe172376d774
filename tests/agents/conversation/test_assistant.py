"""Whole conversations with scripted services, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from fakes.conversation import Script, call, services
from fakes.phone import Dial

from offhook.agents import Assistant, SettingsError, link, tool
from offhook.agents.services.base import Delta, Message, ServiceError, TextDelta
from offhook.codecs.audio import L16_8K, PCMU
from offhook.codecs.convert import convert_all
from offhook.codecs.pcm import tone

pytestmark = [pytest.mark.virtual_time, pytest.mark.own_tasks("the fixture hangs up and waits for the agent to go")]


def replies(*texts: str | list[Any]) -> Callable[[list[Message]], Any]:
    """One reply after the other; the last one over and over."""
    left = list(texts)
    return lambda messages: left.pop(0) if len(left) > 1 else left[0]


# --- the plain way --------------------------------------------------------------------


async def test_the_greeting_is_made_while_the_phone_rings(dial: Dial) -> None:
    phone = await dial(greeting="Hello, this is Acme.")
    answered = phone.gateway.loop.time()
    assert phone.script.spoken == ["Hello, this is Acme."]
    await phone.quiet()
    assert phone.gateway.said[0].started == pytest.approx(answered, abs=0.001)
    assert phone.gateway.history == [{"role": "assistant", "content": "Hello, this is Acme."}]


async def test_a_question_is_answered(dial: Dial) -> None:
    phone = await dial(Script(reply=lambda messages: "We open at nine. Anything else?"))
    ended = await phone.say("When do you open?")
    await phone.quiet()
    assert phone.texts == ["We open at nine.", "Anything else?"]
    assert phone.script.requests[0][-1] == {"role": "user", "content": "When do you open?"}
    assert phone.script.requests[0][0]["content"].startswith("You are kind.")
    # 330 ms of silence, 250 to the first token, 100 to the first audio.
    assert phone.gateway.said[0].started - ended == pytest.approx(0.68, abs=0.05)
    (turn,) = phone.gateway.of(link.Turn)
    marks = [turn.caller_stopped, turn.understood, turn.turn_ended, turn.first_token, turn.reply_text, turn.reply_audio]
    assert marks == sorted(marks)
    assert turn.reply_audio == pytest.approx(phone.gateway.said[0].started)
    assert [event.text for event in phone.gateway.of(link.Transcript)] == ["When do you open?"]
    assert phone.gateway.history == [
        {"role": "user", "content": "When do you open?"},
        {"role": "assistant", "content": "We open at nine. Anything else?"},
    ]


async def test_a_prepared_reply_saves_the_time_of_the_decision(dial: Dial) -> None:
    phone = await dial(turns={"eager": True, "end": "transcript"})
    ended = await phone.say("When do you open?")
    await phone.quiet()
    assert phone.gateway.said[0].started - ended < 0.5
    assert len(phone.script.requests) == 1


async def test_a_prepared_reply_is_thrown_away_when_the_caller_goes_on(dial: Dial) -> None:
    phone = await dial(turns={"eager": True, "end": "transcript"})
    await phone.say("When do you open?")
    await asyncio.sleep(0.1)
    await phone.say("And when do you close?")
    await phone.quiet()
    assert phone.texts == ["Fine."]
    said = phone.last_request[-1]["content"]
    assert "open" in said
    assert "close" in said
    assert phone.gateway.history[0]["content"] == said


# --- interruptions --------------------------------------------------------------------

LONG = "We are open from nine in the morning to five in the afternoon on every day of the week except for Sunday."


async def test_an_interruption_stops_at_once_and_remembers_what_was_heard(dial: Dial) -> None:
    phone = await dial(Script(reply=replies(LONG, "Goodbye then.")))
    await phone.say("When do you open?")
    await asyncio.sleep(1.6)
    began = phone.gateway.loop.time()
    await phone.say("no I mean the other shop", 1.5)
    cut = phone.gateway.said[0]
    assert cut.outcome == "cut"
    assert cut.started + cut.heard_ms / 1000 - began < 0.05
    await phone.quiet()
    heard = phone.last_request[1]["content"]
    assert LONG.startswith(heard)
    assert 5 < len(heard) < 60
    assert phone.texts[-1] == "Goodbye then."
    assert phone.gateway.history[1] == {"role": "assistant", "content": heard}


@pytest.mark.parametrize("sound", ["uh-huh", "okay", ""])
async def test_a_cough_or_a_back_channel_only_makes_a_pause(dial: Dial, sound: str) -> None:
    phone = await dial(Script(reply=replies(LONG, "no")))
    await phone.say("When do you open?")
    await asyncio.sleep(1.6)
    await phone.say(sound, 0.3)
    ended = phone.gateway.loop.time()
    await phone.quiet()
    first, *others = phone.gateway.said
    assert first.outcome == "cut"
    assert others
    assert others[0].at - ended < 1.0
    assert others[-1].outcome == "played"
    assert len(phone.script.requests) == 1
    assert phone.gateway.history[-1] == {"role": "assistant", "content": LONG}
    assert phone.gateway.notes("false_interruption")


async def test_an_uninterruptible_greeting_is_said_to_its_end(dial: Dial) -> None:
    phone = await dial(greeting="This call may be recorded for training.", interruptible_greeting=False)
    await asyncio.sleep(0.3)
    await phone.say("I want to book a table", 1.0)
    await phone.quiet()
    assert phone.gateway.said[0].outcome == "played"
    await asyncio.sleep(3)
    assert phone.last_request[-1]["content"] == "I want to book a table"


async def test_muted_during_the_greeting(dial: Dial) -> None:
    phone = await dial(greeting="Hello, this is Acme, how can I help?", mute=["greeting"])
    await asyncio.sleep(0.3)
    await phone.say("hello hello hello", 0.6)
    await asyncio.sleep(3)
    assert phone.gateway.said[0].outcome == "played"
    assert not phone.script.requests


async def test_what_is_said_before_the_answer_begins_is_answered_with_it(dial: Dial) -> None:
    phone = await dial(Script(ttft=2.0))
    await phone.say("I want to book a table.")
    await asyncio.sleep(0.8)
    await phone.say("For four people, please.")
    await phone.quiet()
    assert phone.texts == ["Fine."]
    assert phone.last_request[-1]["content"] == "I want to book a table. For four people, please."


# --- functions ------------------------------------------------------------------------


class Restaurant(Assistant):
    greeting = ""

    @tool
    async def book(self, guests: int) -> dict[str, Any]:
        """Book a table.

        Args:
            guests: how many come.
        """
        await asyncio.sleep(self.settings.get("x", 0) or SLOW["book"])
        return {"table": 7, "guests": guests}


SLOW = {"book": 0.1}


def booking(messages: list[Message]) -> Any:
    if messages[-1]["role"] == "tool":
        return f"Done: {messages[-1]['content']}."
    return [TextDelta("I book it. "), call("book", '{"guests": 4}')]


async def test_a_function_is_called_and_its_result_spoken(dial: Dial) -> None:
    phone = await dial(Script(reply=booking), Restaurant)
    await phone.say("A table for four, please.")
    await phone.quiet()
    assert phone.texts[0] == "I book it."
    assert '"table":7' in phone.texts[1].replace(" ", "")
    assert phone.script.schemas[0] == ["book", "hang_up"]
    roles = [message["role"] for message in phone.gateway.history]
    assert roles == ["user", "assistant", "tool", "assistant"]


async def test_a_slow_function_gets_a_filler(dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SLOW, "book", 4.0)
    phone = await dial(Script(reply=booking), Restaurant, filler=["Just a moment."], filler_after=1.5)
    await phone.say("A table for four, please.")
    await phone.quiet()
    assert phone.texts[:2] == ["I book it.", "Just a moment."]
    assert len(phone.texts) == 3


async def test_a_function_goes_on_when_the_caller_interrupts_and_is_told_later(
    dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SLOW, "book", 6.0)

    def reply(messages: list[Message]) -> Any:
        if messages[-1]["role"] == "user" and "sunny" in messages[-1]["content"]:
            return "Yes, it is."
        if any(message["role"] == "tool" and "table" in str(message["content"]) for message in messages):
            return "Your table is booked."
        return [TextDelta("I book it. "), call("book", '{"guests": 4}')]

    phone = await dial(Script(reply=reply), Restaurant, filler=[])
    await phone.say("A table for four, please.")
    await asyncio.sleep(2)
    await phone.say("is it sunny outside today", 1.5)
    await phone.quiet()
    assert phone.texts[-1] == "Yes, it is."
    await asyncio.sleep(8)
    assert phone.texts[-1] == "Your table is booked."


async def test_hang_up_after_the_last_word(dial: Dial) -> None:
    phone = await dial(Script(reply=lambda m: [TextDelta("Goodbye, and thank you for calling. "), call("hang_up")]))
    await phone.say("That is all, thanks.")
    async with asyncio.timeout(20):
        while not phone.gateway.over:
            await asyncio.sleep(0.05)
    assert phone.gateway.said[-1].text == "Goodbye, and thank you for calling."
    assert phone.gateway.play_end <= phone.gateway.loop.time()
    assert phone.gateway.of(link.HangUp)


async def test_a_refused_transfer_is_told_to_the_model(dial: Dial) -> None:
    def reply(messages: list[Message]) -> Any:
        if messages[-1]["role"] == "tool":
            return "I cannot connect you, sorry."
        return [TextDelta("I connect you. "), call("transfer", '{"to": "sales"}')]

    phone = await dial(Script(reply=reply), transfer_to={"sales": "+15550199"})
    phone.gateway.refuse[link.Transfer] = link.OrderRefused("transfer", "the route does not allow this number")
    await phone.say("Sales, please.")
    await phone.quiet()
    assert phone.gateway.of(link.Transfer)[0].to == "+15550199"
    assert "route does not allow" in phone.last_request[-1]["content"]
    assert phone.texts == ["I connect you.", "I cannot connect you, sorry."]


async def test_keys_are_collected(dial: Dial) -> None:
    def reply(messages: list[Message]) -> Any:
        if messages[-1]["role"] == "tool":
            return f"Thanks for {messages[-1]['content']}."
        return [TextDelta("Your number? "), call("collect_dtmf", '{"max_digits": 4}')]

    phone = await dial(Script(reply=reply), call_tools=["collect_dtmf"])
    await phone.say("I want to check my order.")
    await asyncio.sleep(3)
    for digit in "1234":
        phone.gateway.session.receive(link.Dtmf(digit))
        await asyncio.sleep(0.2)
    await phone.quiet()
    assert "1234" in phone.texts[-1]


async def test_keys_that_nobody_waits_for_are_a_turn(dial: Dial) -> None:
    phone = await dial()
    for digit in "42":
        phone.gateway.session.receive(link.Dtmf(digit))
    await phone.quiet()
    assert phone.last_request[-1]["content"] == "[keys pressed: 42]"


async def test_hold_music_until_a_key(dial: Dial) -> None:
    def reply(messages: list[Message]) -> Any:
        if messages[-1]["role"] == "tool":
            return "Thanks for holding."
        return [TextDelta("Please hold. "), call("hold", '{"seconds": 60}')]

    phone = await dial(Script(reply=reply), call_tools=["hold"])
    await phone.say("Can you check with your colleague?")
    await asyncio.sleep(5)
    music = [bed for bed in phone.gateway.of(link.Bed) if bed.sound]
    assert len(music) == 1
    await phone.say("hello is anybody there", 1.0)
    assert phone.texts == ["Please hold."], "deaf meanwhile"
    phone.gateway.session.receive(link.Dtmf("1"))
    await phone.quiet()
    assert phone.texts[-1] == "Thanks for holding."
    assert not phone.gateway.of(link.Bed)[-1].sound


async def test_a_message_is_left_after_the_tone_of_a_mailbox(dial: Dial) -> None:
    phone = await dial(
        Script(reply=lambda messages: [call("leave_voicemail", '{"message": "Please call us back."}')]),
        call_tools=["leave_voicemail"],
    )
    await phone.say("You have reached the mailbox of Anna.")
    agent = phone.gateway.agent
    agent.on_speech_started(phone.gateway.loop.time())
    await asyncio.sleep(3)
    assert not phone.texts, "the greeting is not over"
    for audio in (tone(1000, 0.5, 8000), bytes(3200)):
        pcmu = convert_all(audio, L16_8K, PCMU)
        for at in range(0, len(pcmu), 160):
            phone.gateway.session.receive_audio(pcmu[at : at + 160])
    async with asyncio.timeout(20):
        while not phone.gateway.over:
            await asyncio.sleep(0.05)
    assert phone.texts == ["Please call us back."]
    assert phone.gateway.said[0].outcome == "played"


# --- several agents, listeners --------------------------------------------------------


async def test_the_caller_is_handed_to_another_agent(dial: Dial) -> None:
    def reply(messages: list[Message]) -> Any:
        if messages[0]["content"].startswith("You repair"):
            return "Tell me what is broken."
        return [call("hand_off_to_repair", '{"reason": "broken"}')]

    phone = await dial(
        Script(reply=reply),
        agents={"repair": {"prompt": "You repair things.", "description": "For broken things.", "tools": []}},
    )
    await phone.say("My washing machine is broken.")
    await phone.quiet()
    assert phone.texts == ["Tell me what is broken."]
    assert phone.script.schemas[-1] == ["hand_off_to_main"]
    assert phone.gateway.notes("hand_off") == [{"to": "repair", "reason": "broken"}]
    assert phone.last_request[0]["content"] == "My washing machine is broken."


@pytest.mark.parametrize("now", [False, True])
async def test_a_listener_may_step_in(dial: Dial, now: bool) -> None:
    def judge(messages: list[Message]) -> list[Delta]:
        flag = "true" if now else "false"
        return [
            call("score", '{"name": "mood", "value": 0.5}', "s"),
            call("inject", f'{{"text": "Mention the sale.", "now": {flag}}}', "i"),
        ]

    listener = services(Script(reply=judge), "judge")["llm"]
    phone = await dial(listeners=[{"name": "judge", "prompt": "Judge.", "llm": listener, "may": ["score", "inject"]}])
    await phone.say("Do you have shoes?")
    await phone.quiet()
    await asyncio.sleep(4)
    assert phone.gateway.notes("listener")[0] == {
        "listener": "judge",
        "action": "score",
        "wish": {"name": "mood", "value": 0.5, "reason": ""},
    }
    if now:
        assert phone.script.requests[-1][-1] == {"role": "system", "content": "Mention the sale."}
        assert len(phone.texts) >= 2
    else:
        assert len(phone.texts) == 1
        await phone.say("What do they cost?")
        await phone.quiet()
        assert {"role": "system", "content": "Mention the sale."} in phone.script.requests[-1]


async def test_a_listener_may_end_the_call(dial: Dial) -> None:
    listener = services(
        Script(reply=lambda m: [call("stop", '{"say": "I have to end this call.", "reason": "abuse"}')]), "judge"
    )["llm"]
    phone = await dial(listeners=[{"name": "judge", "prompt": "Judge.", "llm": listener, "may": ["stop"]}])
    await phone.say("Something terrible.")
    async with asyncio.timeout(20):
        while not phone.gateway.over:
            await asyncio.sleep(0.05)
    assert phone.texts[-1] == "I have to end this call."
    assert phone.gateway.said[-1].outcome in ("played", "")


# --- silence, time, trouble ----------------------------------------------------------------


async def test_a_silent_caller_is_asked_and_then_left(dial: Dial) -> None:
    phone = await dial(
        greeting="Hello.", idle={"after": 5, "prompts": ["Are you there?", "Hello?"], "goodbye": "Goodbye."}
    )
    async with asyncio.timeout(60):
        while not phone.gateway.over:
            await asyncio.sleep(0.1)
    assert phone.texts == ["Hello.", "Are you there?", "Hello?", "Goodbye."]
    starts = [said.started for said in phone.gateway.said]
    assert all(5 < later - earlier < 6.5 for earlier, later in pairwise(starts))


async def test_an_answer_makes_the_idle_count_begin_anew(dial: Dial) -> None:
    phone = await dial(idle={"after": 5, "prompts": ["Are you there?"], "goodbye": "Goodbye."})
    await asyncio.sleep(6)
    await phone.say("Yes, I am.")
    await phone.quiet()
    await asyncio.sleep(6.2)
    assert phone.texts == ["Are you there?", "Fine.", "Are you there?"]


async def test_the_longest_call(dial: Dial) -> None:
    phone = await dial(max_minutes=0.1, time_is_up="Time is up.", idle={"after": 60})
    async with asyncio.timeout(20):
        while not phone.gateway.over:
            await asyncio.sleep(0.1)
    assert phone.texts == ["Time is up."]
    assert phone.gateway.of(link.HangUp)[0].reason == "max_minutes"


async def test_a_model_in_trouble_is_asked_again_then_the_call_falls_back(dial: Dial) -> None:
    down: list[Any] = [ServiceError("llm", "rejected", "no such model")]
    phone = await dial(Script(reply=lambda messages: down), trouble="Could you say that again?")
    await phone.say("When do you open?")
    await phone.quiet()
    assert phone.texts == ["Could you say that again?"]
    assert not phone.gateway.of(link.Refuse)
    await phone.say("When do you open?")
    await asyncio.sleep(2)
    (given_up,) = phone.gateway.of(link.Refuse)
    assert "no such model" in given_up.reason
    assert {(event.role, event.fault) for event in phone.gateway.of(link.Service) if event.fault} == {
        ("llm", "rejected")
    }


async def test_a_voice_in_trouble(dial: Dial) -> None:
    phone = await dial(trouble="Could you say that again?")
    phone.script.voice_fault = ServiceError("voice", "rejected", "no such voice")
    await phone.say("When do you open?")
    await asyncio.sleep(1.0)
    phone.script.voice_fault = None
    await asyncio.sleep(0.5)
    assert phone.texts == []
    (given_up,) = phone.gateway.of(link.Refuse)
    assert "no such voice" in given_up.reason


async def test_a_voice_that_fails_once(dial: Dial) -> None:
    phone = await dial(trouble="Could you say that again?")
    phone.script.voice_fault = ServiceError("voice", "rejected", "odd text")
    await phone.say("When do you open?")
    while not phone.script.requests:
        await asyncio.sleep(0.01)
    await asyncio.sleep(phone.script.ttft + phone.script.ttfb + 0.01)
    phone.script.voice_fault = None
    await phone.quiet()
    assert phone.texts == ["Could you say that again?"]
    assert not phone.gateway.of(link.Refuse)


async def test_a_long_conversation_is_summarised(dial: Dial) -> None:
    def reply(messages: list[Message]) -> Any:
        if messages[0]["content"].startswith("Summarise"):
            return "They talked about shoes."
        return "This is a long answer about shoes and about nothing else. " * 12

    phone = await dial(Script(reply=reply), context={"max_tokens": 500, "keep": 2}, idle={"after": 200})
    for _ in range(3):
        await phone.say("Tell me about shoes.")
        await phone.quiet(120)
    assert phone.gateway.notes("summarised")
    assert phone.gateway.history[0]["content"] == "Summary of the conversation so far: They talked about shoes."


async def test_a_call_taken_over_goes_on(dial: Dial) -> None:
    history = [{"role": "user", "content": "Book a table"}, {"role": "assistant", "content": "For when?"}]
    phone = await dial(Script(reply=lambda messages: "Sorry, where were we?"), history=history, greeting="Hello.")
    await phone.quiet()
    assert phone.texts == ["Sorry, where were we?"]
    assert phone.script.requests[0][1:3] == history


# --- settings -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompt": None}, "prompt"),
        ({"llm": {}}, "llm.service: missing"),
        ({"llm": {"service": "nobody"}}, "no service 'nobody'"),
        ({"greting": "x"}, "greting: no such setting"),
        ({"turns": {"end": "never"}}, "turns.end"),
        ({"agents": {"main": {"prompt": "x", "description": "y"}}}, "the assistant itself"),
        ({"noise": "nothing"}, "nothing"),
    ],
)
def test_settings_that_cannot_work_are_named(settings: dict[str, Any], said: str) -> None:
    base = {"prompt": "p", "vad": "webrtc", **services(Script(), "s0")}
    with pytest.raises(SettingsError, match=said):
        Assistant.warm({**base, **settings})
