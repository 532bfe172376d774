"""How long an assistant takes to reply, and how much of that is the engine's own.

    python bench/conversation.py [--calls 6] [--only zero,default,…]

Simulated Twilio calls on a real gateway process; the assistant's services are the vendors' own SDKs, which talk to fake
vendors in this process with the latencies named here. Voice to voice is measured on the wire: from the caller's last
voiced sample to the agent's first. For each way of taking turns:

* wire: voice to voice as the caller has it;
* own: what is left of a turn beyond the end-of-turn decision and the fakes' latencies, from the call's record.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from fakes.cartesia import FakeCartesia
from fakes.deepgram import FakeDeepgram
from fakes.openai import FakeOpenAi, Text
from fakes.served import served, services
from fakes.sockets import Manner

from offhook.gateway.store import Store
from offhook.qa.voice import Voice

LINES = (
    "What are your opening hours?",
    "Do you also repair bicycles?",
    "How much does it cost?",
    "I would like to book a table for four.",
    "Can you tell me where you are?",
    "That is very kind, thank you.",
)


AT_ONCE = """
from offhook.agents.services.base import Audio, LanguageModel, TextDelta, TextToSpeech, Voice
from offhook.codecs.audio import L16_8K, PCMU
from offhook.codecs.convert import convert_all
from offhook.codecs.pcm import tone

class Model(LanguageModel):
    async def reply(self, messages, functions=()):
        yield TextDelta("We can do that for you.")

class Session(Voice):
    async def synthesize(self, text, *, previous=""):
        yield Audio(convert_all(tone(440, 1.4, 8000), L16_8K, PCMU))

    async def close(self):
        pass

class Speech(TextToSpeech):
    formats = (PCMU,)

    async def open(self, format):
        return Session()
"""


@dataclass(frozen=True)
class Case:
    """One way of taking turns, and how fast the services are. Seconds."""

    turns: dict[str, Any]
    stt: float = 0.15
    interim: float = 0.10
    ttft: float = 0.25
    ttfb: float = 0.10
    inside: bool = False
    "Model and voice are classes in the agent host that answer at once: what is left is the engine alone."


CASES = {
    "engine": Case({"end": "transcript"}, stt=0.0, interim=0.0, ttft=0.0, ttfb=0.0, inside=True),
    "zero": Case({"end": "transcript"}, stt=0.0, interim=0.0, ttft=0.0, ttfb=0.0),
    "default": Case({}),
    "transcript": Case({"end": "transcript"}),
    "model": Case({"end": "model"}),
    "eager": Case({"end": "transcript", "eager": True}),
    "model+eager": Case({"end": "model", "eager": True}),
}


async def one_case(case: Case, calls: int, folder: Path) -> dict[str, Any]:
    """All calls of one case; gives its row of the table."""
    fast = Manner(first_audio=case.ttfb)
    async with (
        FakeDeepgram(interim_lag=case.interim, final_after=case.stt) as deepgram,
        FakeOpenAi(lambda messages: Text("We can do that for you."), ttft=case.ttft) as openai,
        FakeCartesia(manner=fast) as cartesia,
    ):
        agent = {
            "kind": "assistant",
            "prompt": "You answer.",
            **services(deepgram, openai, cartesia),
            "turns": case.turns,
        }
        if case.inside:
            (folder / "at_once.py").write_text(AT_ONCE)
            agent |= {"llm": {"service": "at_once:Model"}, "tts": {"service": "at_once:Speech"}}
        wire: list[float] = []
        async with served(folder, agent) as simulator:
            for index in range(calls):
                voice = Voice("flite", ("rms", "slt", "awb")[index % 3])
                deepgram.script.clear()  # it counts from the beginning of each connection
                call = await simulator.ring(f"+1555010{index:04d}", "+15550100")
                await call.listen(0.5)
                for line in LINES:
                    speech = await voice.speak(line)
                    deepgram.caller_says(line, round(len(speech) / 8))
                    await call.say(speech)
                    await call.wait_agent_turn()
                    await call.listen(0.3)
                await call.hang_up()
                await call.wait_over()
                result = call.result()
                if not result.trusted:
                    print(f"call {index}: the simulator itself was late, {result.own_late_ms}", file=sys.stderr)
                wire += [reply.v2v_ms for reply in result.measures.replies]
        turns = await recorded(folder)
    own = [beyond(turn, case) for turn in turns]
    return {
        "turns": len(wire),
        "wire": {"p50": round(q(wire, 0.5)), "p95": round(q(wire, 0.95)), "max": round(max(wire))},
        "own": {"p50": round(q(own, 0.5), 1), "p95": round(q(own, 0.95), 1), "p99": round(q(own, 0.99), 1)},
        "stages": {
            name: round(statistics.median([turn["stages"].get(name, 0.0) for turn in turns]))
            for name in turns[0]["stages"]
        },
    }


def beyond(turn: dict[str, Any], case: Case) -> float:
    """Milliseconds of a turn that neither the decision nor a service took."""
    spent = sum(turn["stages"].values()) - turn["stages"].get("endpointing", 0.0)
    return float(spent - (case.ttft + case.ttfb) * 1000)


async def recorded(folder: Path) -> list[dict[str, Any]]:
    """The turns in the gateway's records."""
    store = Store(f"sqlite+aiosqlite:///{folder / 'var' / 'calls.db'}")
    await store.open_existing()
    try:
        return [
            entry.data
            for record in await store.calls(limit=100)
            for entry in await store.events(record.id)
            if entry.event == "turn"
        ]
    finally:
        await store.close()


def q(values: Sequence[float], share: float) -> float:
    """A quantile; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


async def main() -> None:
    """Run the cases that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=6)
    parser.add_argument("--only", default=",".join(CASES))
    args = parser.parse_args()
    for name in args.only.split(","):
        with tempfile.TemporaryDirectory(prefix="offhook-bench-") as folder:
            print(json.dumps({name: await one_case(CASES[name], args.calls, Path(folder))}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
