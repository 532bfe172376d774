"""Calls on which anything happens in any order: what must be true of every one of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from fakes.conversation import MS_PER_CHARACTER, PlayingGateway, Said, Script, call, scripts, services
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offhook.agents import Assistant, link, tool
from offhook.agents.conversation import speaker
from offhook.agents.conversation.context import Reply
from offhook.agents.functions.base import CallControl
from offhook.agents.services.base import Message, ServiceError, TextDelta
from offhook.agents.services.shared import close_shared
from offhook.agents.turns.floor import Floor

pytestmark = [pytest.mark.virtual_time, pytest.mark.own_tasks("each call is checked for tasks that it left")]

LONG = "We are open from nine in the morning to five in the afternoon. On Sunday we are closed. Come and see us."
SENTENCES = (
    "I would like to book a table.",
    "When do you open?",
    "no I mean the other shop",
    "and for my brother",
    "Thanks, that is all for today.",
)


class Busy(Assistant):
    """Has functions of every kind."""

    @tool
    async def quick(self) -> str:
        """Give an answer soon."""
        await asyncio.sleep(0.1)
        return "done"

    @tool(keep=True)
    async def slow(self) -> str:
        """Give an answer late."""
        await asyncio.sleep(3)
        return "done at last"

    @tool(background=True)
    async def later(self) -> str:
        """Give an answer when it is there."""
        await asyncio.sleep(2.5)
        return "done beside"

    @tool
    async def broken(self) -> str:
        """Fail."""
        raise ValueError("scripted")

    @tool
    async def speaks(self, call: CallControl) -> str:
        """Say something."""
        return "heard" if await call.say("I say this myself.") else "not heard"


def fault(kind: Any = "unavailable") -> ServiceError:
    return ServiceError("scripted", kind, "as the script has it")


REPLIES: dict[str, Any] = {
    "short": "Fine.",
    "long": LONG,
    "empty": "",
    "slowly": [TextDelta("One. "), 1.0, TextDelta("Two. "), 1.0, TextDelta("Three.")],
    "no token": [fault("rejected")],
    "breaks": [TextDelta("We are open. And we"), fault()],
    "quick": [TextDelta("I look. "), call("quick")],
    "slow": [TextDelta("That takes a while. "), call("slow")],
    "two": [call("quick", id="x"), call("slow", id="x")],
    "later": [call("later")],
    "broken": [call("broken"), call("nobody")],
    "speaks": [call("speaks")],
    "collect": [TextDelta("Your number? "), call("collect_dtmf", '{"max_digits": 2}')],
    "hold": [TextDelta("Please hold. "), call("hold", '{"seconds": 4}')],
    "to repair": [call("hand_off_to_repair")],
    "to main": [TextDelta("I hand you back. "), call("hand_off_to_main")],
    "goodbye": [TextDelta("Goodbye, and thank you for calling. "), call("hang_up")],
}

times = st.sampled_from([0.1, 0.4, 0.7, 1.3, 2.0, 3.0, 5.0, 12.0])
steps = st.one_of(
    st.tuples(st.just("say"), st.sampled_from(SENTENCES), st.sampled_from([0.6, 1.5])),
    st.tuples(st.just("say"), st.sampled_from(SENTENCES), st.just(1.0)),
    st.tuples(st.just("say"), st.sampled_from(["", "uh-huh", "okay"]), st.just(0.3)),
    st.tuples(st.just("key"), st.sampled_from("12#"), st.just(0.0)),
    st.tuples(st.just("voice fails"), st.just(""), st.just(0.3)),
    st.tuples(st.just("model says"), st.sampled_from(sorted(REPLIES)), st.just(0.0)),
    st.tuples(st.just("wait"), st.just(""), times),
)


class Watched(PlayingGateway):
    """Notices when the agent speaks to a caller who has the floor."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.rude: list[str] = []

    def audio(self, data: bytes) -> None:
        taker = self.agent.ears.taker
        if taker.floor is Floor.TURN and self.agent._talking and not self.agent._is_muted():
            self.rude.append(self.said[-1].text)
        super().audio(data)


def words_of(text: str) -> list[str]:
    return [word.strip(".,?!").lower() for word in text.split()]


def heard(said: Said) -> list[str]:
    """The words of an utterance of which more than half was heard."""
    found, at = [], 0
    for word in said.text.split():
        length = (len(word) + 1) * MS_PER_CHARACTER
        if said.outcome == "played" or said.heard_ms > at + length / 2:
            found.append(word)
        at += length
    return found


def check_messages(messages: Sequence[Message]) -> None:
    """What every language model asks of messages."""
    waiting: list[str] = []
    ids: set[str] = set()
    roles = [message["role"] for message in messages]
    assert roles[0] == "system"
    assert all((a, b) != ("user", "user") for a, b in pairwise(roles))
    for message in messages:
        if message["role"] == "tool":
            assert message["tool_call_id"] in waiting
            waiting.remove(message["tool_call_id"])
            assert message["content"]
            continue
        assert not waiting, "a call of a function without its result"
        if message["role"] == "assistant":
            waiting = [call["id"] for call in message.get("tool_calls", ())]
            assert message["content"] or waiting
            assert not ids & {*waiting}
            assert len(set(waiting)) == len(waiting)
            ids |= {*waiting}
        else:
            assert message["content"]
    assert not waiting


async def play(replies: Sequence[str], happenings: Sequence[tuple[str, str, float]], more: dict[str, Any]) -> None:
    queue = list(replies)
    errors: list[Any] = []
    asked: list[str] = []
    at_once = "mute" not in more and "interrupt" not in more["turns"] and "interruptible_greeting" not in more
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: errors.append(context))
    before = asyncio.all_tasks()
    script = Script(reply=lambda messages: REPLIES[queue.pop(0)] if queue else "Fine.")
    options = {
        **services(script, "s0"),
        "prompt": "You are kind.",
        "vad": "webrtc",
        "greeting": "Hello, how can I help?",
        "call_tools": ["hang_up", "hold", "collect_dtmf"],
        "agents": {"repair": {"prompt": "You repair.", "description": "Repairs."}},
        "filler": ["One moment."],
        "idle": {"after": 6, "prompts": ["Are you still there?"], "goodbye": "Goodbye then."},
        "trouble": "Say it again?",
        **more,
    }
    gateway = Watched(Busy, options)
    try:
        await gateway.answer()
        for what, text, seconds in happenings:
            if gateway.over or not script.streams:
                break
            if what == "say":
                listens = not gateway.agent._is_muted()
                await gateway.speak(text, seconds, stt=script.streams[-1])
                if listens and text in SENTENCES and at_once and not gateway.agent._is_muted():
                    asked.append(text)
            elif what == "key":
                gateway.session.receive(link.Dtmf(text))
            elif what == "model says":
                queue.append(text)
            else:
                script.voice_fault = fault("rejected") if what == "voice fails" else None
                await asyncio.sleep(seconds)
                script.voice_fault = None
        await asyncio.sleep(5.5)
        alone = gateway.over
        told = [event.text for event in gateway.of(link.Transcript)]
    finally:
        await gateway.close()
    await asyncio.sleep(0.01)
    check(gateway, script, told)
    if not alone:
        missing = Counter(words_of(" ".join(asked))) - Counter(words_of(" ".join(told)))
        assert not missing, "what the caller said is lost"
    await close_shared()
    scripts.clear()
    speaker._kept.clear()
    await asyncio.sleep(0)
    assert not errors
    assert not asyncio.all_tasks() - before


def check(gateway: Watched, script: Script, told: list[str]) -> None:
    agent = gateway.agent
    assert not gateway.of(link.Failed)
    assert not gateway.rude
    for request in script.requests:
        check_messages(request)
    final = agent.context.messages()
    check_messages([{"role": "system", "content": "x"}, *final])
    said_by_caller = words_of(" ".join(message["content"] for message in final if message["role"] == "user"))
    assert not Counter(words_of(" ".join(told))) - Counter(said_by_caller), "what the caller said is lost"
    of_agent = Counter(words_of(" ".join(m["content"] or "" for m in final if m["role"] == "assistant")))
    caller_heard = Counter(words_of(" ".join(" ".join(heard(said)) for said in gateway.said)))
    assert not of_agent - caller_heard, "nobody heard that"
    ids = [said.id for said in gateway.said]
    assert len(ids) == len(set(ids))
    closed = [event.utterance for event in gateway.of(link.Spoken)]
    assert len(closed) == len(set(closed))
    replies = [entry for entry in agent.context._entries if isinstance(entry, Reply)]
    assert all(reply.settled for reply in replies), "a line that is never over"


@given(
    st.lists(st.sampled_from(sorted(REPLIES)), min_size=3, max_size=6),
    st.lists(steps, min_size=6, max_size=16),
    st.fixed_dictionaries(
        {},
        optional={
            "turns": st.sampled_from(
                [
                    {"end": "transcript", "eager": True},
                    {"end": "silence", "interrupt": "words"},
                    {"end": "transcript", "interrupt": "off"},
                    {"end": "transcript", "interrupt": "transcript"},
                ]
            ),
            "mute": st.sampled_from([["greeting"], ["functions"], ["speaking"]]),
            "interruptible_greeting": st.just(False),
            "greeting": st.just(""),
            "max_rounds": st.just(2),
        },
    ),
)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
async def test_any_call(replies: list[str], happenings: list[tuple[str, str, float]], more: dict[str, Any]) -> None:
    await play(replies, happenings, {"turns": {"end": "transcript"}, **more})
