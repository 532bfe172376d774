"""An agent alone on the link, for trying the QA dialer on: greets, answers every turn, falls silent when interrupted.

python bench/qa_bots/link_bot.py 8790
offhook qa run suite:greeting suite:interruption --target link+ws://127.0.0.1:8790
"""

from __future__ import annotations

import array
import asyncio
import itertools
import json
import subprocess
import sys
import tempfile
import wave

from websockets.asyncio.server import ServerConnection, serve

LOUD = 300
"""Mean amplitude of a frame from which on it is voice."""

HEARD, DONE = 5, 25
"""Frames of voice that interrupt, and frames of silence that end a turn: 100 and 500 ms."""

GREETING = "Hello, this is an agent on the link. What can I do for you?"
ANSWER = (
    "I can tell you when we are open, where we are, and what we sell. We are open from nine to five, in the main "
    "street, and we sell bicycles, and everything that belongs to them."
)


def speech(text: str) -> bytes:
    """What flite makes of a text, 8 kHz."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run(["flite", "-voice", "kal", "-t", text, "-o", file.name], check=True)
        with wave.open(file.name) as made:
            assert made.getframerate() == 8000
            return made.readframes(made.getnframes())


async def answer(socket: ServerConnection) -> None:
    """One call."""
    numbers = itertools.count(1)
    playing: set[int] = set()

    async def say(text: str) -> None:
        number = next(numbers)
        playing.add(number)
        await socket.send(json.dumps({"type": "speak", "utterance": number, "text": text}))
        await socket.send(SOUNDS[text])
        await socket.send(json.dumps({"type": "spoken", "utterance": number}))

    voiced = quiet = 0
    talking = False
    async for message in socket:
        if isinstance(message, bytes):
            samples = array.array("h", message)
            loud = sum(map(abs, samples)) > LOUD * len(samples)
            voiced, quiet = (voiced + 1, 0) if loud else (0, quiet + 1)
            if voiced == HEARD:
                talking = True
                if playing:
                    await socket.send(json.dumps({"type": "clear"}))
            elif talking and quiet == DONE:
                talking = False
                await say(ANSWER)
            continue
        event = json.loads(message)
        if event["type"] == "offer":
            await socket.send(json.dumps({"type": "ready", "format": "l16/8000"}))
        elif event["type"] == "answered":
            await say(GREETING)
        elif event["type"] == "utterance.ended":
            playing.discard(event["utterance"])


SOUNDS = {text: speech(text) for text in (GREETING, ANSWER)}


async def main() -> None:
    """Serve until interrupted."""
    async with serve(answer, "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
