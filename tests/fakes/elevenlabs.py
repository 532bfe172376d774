"""ElevenLabs' multi-context WebSocket for speech, as in its API reference of 2025-08.

async with FakeElevenLabs(manner=Manner(first_audio=0.1)) as fake:
    service = ElevenLabsVoice(ElevenLabsSettings(service="elevenlabs", api_key="k", voice="v", base_url=fake.url))
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterable
from typing import Any, Final

from fakes.sockets import PLAIN, Connection, Crew, FakeVendor, Fault, Manner, pieces

from offhook.codecs.audio import AudioFormat, Encoding

NAMES: Final[dict[str, Encoding]] = {"ulaw": "pcmu", "alaw": "pcma", "pcm": "l16"}


class FakeElevenLabs(FakeVendor):
    """Speaks each context as soon as it is flushed, and says `isFinal` when it is closed and all of it is spoken.

    Args:
        manner: how the voice speaks.
        key: the only key that is let in; any is when it is empty.
        faults: see `FakeVendor`.
    """

    def __init__(self, *, manner: Manner = PLAIN, key: str = "", faults: Iterable[Fault | None] = ()) -> None:
        super().__init__(faults)
        self.manner, self.key = manner, key

    async def serve(self, connection: Connection) -> None:
        encoding, rate = connection.query["output_format"][0].split("_")
        format = AudioFormat(NAMES[encoding], int(rate))
        texts: dict[str, str] = {}
        speaking: dict[str, asyncio.Task[None]] = {}
        async with Crew() as crew:
            while True:
                message = json.loads(await self.received(connection))
                name = message.get("context_id", "default")
                if self.key and connection.headers.get("xi-api-key") != self.key:
                    await self._refuse(connection)
                    return
                if name not in texts:
                    assert message.get("text") == " ", "a context begins with one space"
                    texts[name] = ""
                elif message.get("close_context"):
                    crew.start(self._finish(connection, name, speaking.get(name)))
                else:
                    texts[name] += message.get("text", "")
                    if message.get("flush"):
                        speaking[name] = crew.start(self._speak(connection, name, texts[name], format))

    async def _refuse(self, connection: Connection) -> None:
        assert connection.socket is not None
        await connection.send({"message": "Invalid API key", "error": "invalid_api_key", "code": 1008})
        await connection.socket.close(1008, "Invalid API key")

    async def _speak(self, connection: Connection, name: str, text: str, format: AudioFormat) -> None:
        said, letter = 0, self.manner.per_letter
        async for until, piece in pieces(text.strip(), format, self.manner):
            chars = text.strip()[said : round(until / letter)]
            said += len(chars)
            await connection.send(
                {
                    "audio": base64.b64encode(piece).decode(),
                    "contextId": name,
                    "isFinal": None,
                    "alignment": None,
                    "normalizedAlignment": self._alignment(chars) if chars else None,
                }
            )
            await connection.strike(until)

    def _alignment(self, chars: str) -> dict[str, Any]:
        """As it is sent: relative to the piece, with a space before it that takes no time."""
        step = round(self.manner.per_letter * 1000)
        return {
            "chars": [" ", *chars],
            "charStartTimesMs": [0, *(place * step for place in range(len(chars)))],
            "charDurationsMs": [0, *(step for _ in chars)],
        }

    async def _finish(self, connection: Connection, name: str, speaking: asyncio.Task[None] | None) -> None:
        if speaking is not None:
            await asyncio.wait([speaking])
        await connection.send({"audio": None, "isFinal": True, "contextId": name})
