"""An assistant on a real gateway, with real SDKs as clients of fake vendors: one whole call, by sound."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from fakes.cartesia import FakeCartesia
from fakes.deepgram import FakeDeepgram
from fakes.openai import Call, FakeOpenAi, Text
from fakes.served import served, services
from fakes.sockets import Manner

from offhook.gateway.store import Store
from offhook.qa.call import SimulatedCall
from offhook.qa.voice import Voice

pytestmark = [pytest.mark.timing, pytest.mark.timeout(120)]

LONG = "We are open from nine in the morning to five in the afternoon on every day of the week except for Sunday."


def reply(messages: list[dict[str, Any]]) -> Any:
    last = messages[-1]
    said = str(last["content"]).lower()
    if last["role"] == "tool":
        return Text(f"Your table is number {json.loads(last['content'])['table']}.")
    if "table" in said:
        return [Text("I will book it. "), Call("book", {"guests": 4})]
    if "goodbye" in said:
        return [Text("Goodbye, have a nice day. "), Call("hang_up", {})]
    return Text(LONG)


AGENT = '''
from offhook.agents import Assistant, tool

class Desk(Assistant):
    @tool
    async def book(self, guests: int) -> dict:
        """Book a table.

        Args:
            guests: how many come.
        """
        return {"table": 7, "guests": guests}
'''


async def test_a_whole_call(tmp_path: Path) -> None:
    (tmp_path / "desk.py").write_text(AGENT)
    async with (
        FakeDeepgram(interim_lag=0.1, final_after=0.15) as deepgram,
        FakeOpenAi(reply, ttft=0.25) as openai,
        FakeCartesia(manner=Manner(first_audio=0.1)) as cartesia,
    ):
        agent = {
            "kind": "desk:Desk",
            "isolation": "host",
            "prompt": "You run a restaurant.",
            "greeting": "Good day, this is the restaurant.",
            **services(deepgram, openai, cartesia),
            "turns": {"end": "transcript"},
        }
        voice = Voice("flite", "slt")

        async def say(call: SimulatedCall, text: str) -> None:
            speech = await voice.speak(text)
            deepgram.caller_says(text, round(len(speech) / 8))
            await call.say(speech)

        async with served(tmp_path, agent) as simulator:
            call = await simulator.ring("+15550001", "+15550100")
            await call.wait_agent_turn()
            await say(call, "What are your opening hours?")
            await call.wait_agent_speaking(seconds=1.5)
            await say(call, "No, I would like a table for four.")
            await call.wait_agent_turn()
            await say(call, "Thank you, goodbye.")
            await call.wait_over()
            result = call.result()
        messages = openai.requests[-1].json["messages"]
        store = Store(f"sqlite+aiosqlite:///{tmp_path / 'var' / 'calls.db'}")
        await store.open_existing()
        (record,) = await store.calls(limit=5)
        events = await store.events(record.id)
        await store.close()

    # What the caller heard.
    assert result.trusted
    measures = result.measures
    assert measures.greeting_ms is not None
    assert measures.greeting_ms < 400, "made while the phone rang"
    (barge_in,) = measures.barge_ins
    assert barge_in.yielded
    assert all(answered.v2v_ms < 1500 for answered in measures.replies)
    assert not measures.gaps
    # What the model was told: only what was heard.
    assert [message["role"] for message in messages] == [
        "system",
        "assistant",
        "user",
        "assistant",
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
    ]
    heard = messages[3]["content"]
    assert LONG.startswith(heard)
    assert len(heard) < len(LONG) / 2
    # What the record has.
    assert (record.reason, record.turns, record.barge_ins) == ("agent_hangup", 3, 1)
    for turn in (event.data for event in events if event.event == "turn"):
        assert sum(turn["stages"].values()) == pytest.approx(turn["voice_to_voice_ms"], abs=20)
    said = [event.data["text"] for event in events if event.event == "transcript"]
    assert said == ["What are your opening hours?", "No, I would like a table for four.", "Thank you, goodbye."]
    await asyncio.sleep(0)
