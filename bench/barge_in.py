"""How long a caller who interrupts still hears the agent, and how much of that is ours.

    python bench/barge_in.py [--calls 20] [--at-once 4] [--each 5]

Simulated Twilio calls on a real gateway process, the default voice activity detector, an agent that talks for
ever. Callers with different synthetic voices interrupt it. Printed:

* clear: from the moment the first voiced caller frame leaves the carrier until `clear` arrives there;
* silence: until the last agent sample was heard;
* our part: from the arrival of the frame that told the detector (the earliest moment anybody could know) until
  the agent was told what had been heard, which is after `clear` was sent: model, link, playout, link.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from fakes.served import served

from offhook.gateway.store import Store
from offhook.qa.simulator import CarrierSimulator
from offhook.qa.voice import Voice

VOICES = (("flite", "rms"), ("flite", "slt"), ("flite", "awb"), ("flite", "kal"), ("espeak-ng", "en-us"))
LINES = ("Excuse me, can I ask something?", "Wait a moment.", "No, that is wrong.", "Hold on please.", "Stop.")

MONOLOGUE = """
import asyncio, time
from offhook.agents import Agent
from offhook.agents.speech.tts import synthesize

TEXT = "Our offices are open from nine to five on weekdays, and from ten to two on Saturdays, as I was saying. " * 4

class Monologue(Agent):
    vad = "silero"

    async def on_ring(self):
        self.audio = await synthesize(TEXT)

    async def on_answer(self):
        self.quiet = asyncio.Event()
        while True:
            self.told_at = 0.0
            await self.call.speak(self.audio, text="monologue")
            await self.quiet.wait()

    def on_audio(self, audio):
        self.frame_at = time.monotonic()

    def on_speech_started(self, at):
        self.quiet.clear()
        self.told_at = self.frame_at
        self.call.clear()

    def on_speech_stopped(self, at):
        self.quiet.set()

    def on_utterance_ended(self, ended):
        if ended.outcome == "cut" and self.told_at:
            self.call.note("interrupted", own_ms=(time.monotonic() - self.told_at) * 1000)
"""


async def one_call(simulator: CarrierSimulator, index: int, each: int) -> list[tuple[float, float]]:
    """Ring, interrupt a few times, hang up; gives (clear, silence) in ms of each interruption."""
    voice = Voice(*VOICES[index % len(VOICES)])
    call = await simulator.ring(f"+1555010{index:04d}", "+15550100")
    for n in range(each):
        await call.wait_agent_speaking(seconds=0.5 + 0.13 * (index + n) % 0.9)
        await call.say(await voice.speak(LINES[(index + n) % len(LINES)]))
        await call.listen(1.0)
    await call.hang_up()
    await call.wait_over()
    result = call.result()
    if not result.trusted:
        print(f"call {index}: the simulator itself was late, {result.own_late_ms}", file=sys.stderr)
    found = result.measures.barge_ins
    missed = [b for b in found if b.clear_ms is None]
    if missed:
        print(f"call {index}: {len(missed)} of {len(found)} interruptions were not noticed", file=sys.stderr)
    return [(b.clear_ms, b.stop_ms) for b in found if b.clear_ms is not None]


async def measure(args: argparse.Namespace, folder: Path) -> None:
    """Run the gateway and the calls; print the table."""
    (folder / "monologue.py").write_text(MONOLOGUE)
    async with served(folder, {"kind": "monologue:Monologue", "isolation": "host"}) as simulator:
        room = asyncio.Semaphore(args.at_once)

        async def run(index: int) -> list[tuple[float, float]]:
            async with room:
                return await one_call(simulator, index, args.each)

        parts = await asyncio.gather(*(run(index) for index in range(args.calls)))
    found = [pair for part in parts for pair in part]
    store = Store(f"sqlite+aiosqlite:///{folder / 'var' / 'calls.db'}")
    await store.open_existing()
    own = [
        entry.data["data"]["own_ms"]
        for record in await store.calls(limit=args.calls)
        for entry in await store.events(record.id)
        if entry.event == "agent.note"
    ]
    await store.close()
    print(f"{len(found)} interruptions in {args.calls} calls, {args.at_once} at once, voices: {len(VOICES)}\n")
    print("| ms | p50 | p95 | max |\n|---|---:|---:|---:|")
    for name, values in (
        ("clear arrives", [clear for clear, _ in found]),
        ("agent falls silent", [stop for _, stop in found]),
        ("our part", own),
    ):
        cuts = statistics.quantiles(values, n=20, method="inclusive")
        print(f"| {name} | {statistics.median(values):.1f} | {cuts[18]:.1f} | {max(values):.1f} |")


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--each", type=int, default=5, help="interruptions a call")
    with tempfile.TemporaryDirectory(prefix="offhook-bench-") as folder:
        asyncio.run(measure(parser.parse_args(), Path(folder)))


if __name__ == "__main__":
    main()
