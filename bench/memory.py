"""What a call of an assistant costs in memory: resident set of the agent host, one call more at a time.

    python bench/memory.py [--calls 20] [--end auto]

Simulated Twilio calls on a real gateway process stay up together; each has had one turn. Fake vendors, real SDKs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from fakes.cartesia import FakeCartesia
from fakes.deepgram import FakeDeepgram
from fakes.openai import FakeOpenAi, Text
from fakes.served import served, services
from fakes.sockets import Manner

from offhook.agents.host import resident_bytes
from offhook.qa.voice import Voice

LINE = "What are your opening hours?"


def host() -> int:
    """Process id of the agent host."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            command = (folder / "cmdline").read_bytes()
            if b"offhook.agents.host" in command:
                return int(folder.name)
    raise SystemExit("no agent host is running")


async def main() -> None:
    """Ring one call after the other and print the host's size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--end", default="model")
    args = parser.parse_args()
    sizes = []
    with tempfile.TemporaryDirectory(prefix="offhook-bench-") as folder:
        async with (
            FakeDeepgram() as deepgram,
            FakeOpenAi(lambda messages: Text("We can do that for you.")) as openai,
            FakeCartesia(manner=Manner()) as cartesia,
        ):
            agent = {
                "kind": "assistant",
                "prompt": "You answer.",
                **services(deepgram, openai, cartesia),
                "turns": {"end": args.end},
                "idle": {"after": 300},
            }
            async with served(Path(folder), agent) as simulator:
                speech = await Voice("flite", "slt").speak(LINE)
                sizes.append(resident_bytes(host()))
                calls = []
                for index in range(args.calls):
                    deepgram.script.clear()
                    call = await simulator.ring(f"+1555010{index:04d}", "+15550100")
                    calls.append(call)
                    await call.listen(0.3)
                    deepgram.caller_says(LINE, round(len(speech) / 8))
                    await call.say(speech)
                    await call.wait_agent_turn()
                    sizes.append(resident_bytes(host()))
                for call in calls:
                    await call.hang_up()
    steps = [round((later - earlier) / 1e6, 1) for earlier, later in pairwise(sizes)]
    print(json.dumps({"idle_mb": round(sizes[0] / 1e6), "each_call_mb": steps, "last_mb": round(sizes[-1] / 1e6)}))


if __name__ == "__main__":
    asyncio.run(main())
