"""What an assistant does when the caller makes himself heard over it, on whole calls.

    python bench/interruptions.py [--calls 10] [--interrupt vad]

Simulated Twilio calls on a real gateway process; an assistant that talks for long, the default detector and turn-taker,
fake vendors that know what the callers say. Callers with five synthetic voices interrupt it, say "uh-huh", and cough.
All is measured on the wire:

* stop: from the first voiced caller sample until the last agent sample was heard, for true interruptions;
* missed: the agent did not fall silent within two seconds;
* false stops: the agent is not speaking again a second after the end of a back-channel or a cough;
* pauses: how often it fell silent at all for one of those, and for how long.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from conversation import q
from fakes.cartesia import FakeCartesia
from fakes.deepgram import FakeDeepgram
from fakes.openai import FakeOpenAi, Text
from fakes.served import served, services
from fakes.sockets import Manner

from offhook.qa import sounds
from offhook.qa.activity import Samples, Span
from offhook.qa.measure import Measures
from offhook.qa.simulator import CarrierSimulator
from offhook.qa.voice import Voice

VOICES = (("flite", "rms"), ("flite", "slt"), ("flite", "awb"), ("flite", "kal"), ("espeak-ng", "en-us"))
INTERRUPTIONS = ("Excuse me, can I ask something?", "Wait a moment.", "No, that is wrong.", "Hold on please.", "Stop.")
BACK_CHANNELS = ("Uh-huh.", "Okay.", "Yeah.", "Mm-hmm.", "Right.")
COUGHS = (sounds.cough, sounds.throat, sounds.sneeze, sounds.breath, sounds.knock)

MONOLOGUE = (
    "Our offices are open from nine to five on weekdays, and from ten to two on Saturdays, as I was saying. " * 6
)

INTERIM_LAG = 0.1
FINAL_AFTER = 0.15


@dataclass(frozen=True)
class Event:
    """Something a caller did while the agent spoke."""

    kind: str
    span: Span


async def one_call(simulator: CarrierSimulator, deepgram: FakeDeepgram, index: int) -> tuple[list[Event], Measures]:
    """Three events of each kind on one call, the interruptions last but one and last."""
    voice = Voice(*VOICES[index % len(VOICES)])
    rng = np.random.default_rng(index)
    deepgram.script.clear()  # it counts from the beginning of each connection
    call = await simulator.ring(f"+1555010{index:04d}", "+15550100")
    events = []

    async def make(kind: str, sound: Samples, text: str = "") -> None:
        await call.wait_agent_speaking(seconds=0.8 + 0.17 * ((index + len(events)) % 5))
        if text:
            deepgram.caller_says(text, round(len(sound) / 8))
        events.append(Event(kind, await call.say(sound)))
        await call.listen(2.2)

    for n in range(2):
        text = BACK_CHANNELS[(index + n) % len(BACK_CHANNELS)]
        await make("back-channel", await voice.speak(text), text)
        await make("cough", sounds.carried(COUGHS[(index + n) % len(COUGHS)](rng)))
        text = INTERRUPTIONS[(index + n) % len(INTERRUPTIONS)]
        await make("interruption", await voice.speak(text), text)
    await call.hang_up()
    await call.wait_over()
    result = call.result()
    if not result.trusted:
        print(f"call {index}: the simulator itself was late, {result.own_late_ms}", file=sys.stderr)
    return events, result.measures


def silence_after(measures: Measures, event: Event) -> float | None:
    """Seconds from the end of an event until the agent is heard again; None: never."""
    for span in measures.agent_spans:
        if span.end > event.span.end:
            return max(0.0, span.start - event.span.end)
    return None


def paused(measures: Measures, event: Event) -> float:
    """Seconds the agent was silent in and after an event, at most 3."""
    until = event.span.end + 3
    heard = sum(max(0.0, min(span.end, until) - max(span.start, event.span.start)) for span in measures.agent_spans)
    return until - event.span.start - heard


async def main() -> None:
    """Run the calls and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--interrupt", default="vad")
    args = parser.parse_args()
    stops: list[float] = []
    missed = 0
    false: dict[str, list[bool]] = {"back-channel": [], "cough": []}
    pauses: dict[str, list[float]] = {"back-channel": [], "cough": []}
    with tempfile.TemporaryDirectory(prefix="offhook-bench-") as folder:
        async with (
            FakeDeepgram(interim_lag=INTERIM_LAG, final_after=FINAL_AFTER) as deepgram,
            FakeOpenAi(lambda messages: Text(MONOLOGUE), ttft=0.05) as openai,
            FakeCartesia(manner=Manner(first_audio=0.05)) as cartesia,
        ):
            agent = {
                "kind": "assistant",
                "prompt": "You talk.",
                "greeting": MONOLOGUE,
                **services(deepgram, openai, cartesia),
                "turns": {"interrupt": args.interrupt},
            }
            async with served(Path(folder), agent) as simulator:
                for index in range(args.calls):
                    events, measures = await one_call(simulator, deepgram, index)
                    for event in events:
                        if event.kind == "interruption":
                            barge = min(measures.barge_ins, key=lambda b: abs(b.at - event.span.start), default=None)
                            if barge is None or not barge.yielded or abs(barge.at - event.span.start) > 1:
                                missed += 1
                            else:
                                stops.append(barge.stop_ms)
                        else:
                            again = silence_after(measures, event)
                            false[event.kind].append(again is None or again > 1.0)
                            pauses[event.kind].append(paused(measures, event))
    print(
        json.dumps(
            {
                "interruptions": len(stops) + missed,
                "missed": missed,
                "stop_ms": {"p50": round(q(stops, 0.5)), "p95": round(q(stops, 0.95)), "max": round(max(stops))},
                "false_stops": {kind: f"{sum(found)} of {len(found)}" for kind, found in false.items()},
                "pauses_s": {
                    kind: {
                        "any": f"{sum(p > 0.1 for p in found)} of {len(found)}",
                        "p50": round(q(found, 0.5), 2),
                        "p95": round(q(found, 0.95), 2),
                    }
                    for kind, found in pauses.items()
                },
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main())
