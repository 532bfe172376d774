"""Cartesia's WebSocket for speech, API version 2026-08-14.

async with FakeCartesia(manner=Manner(first_audio=0.1)) as fake:
    service = CartesiaVoice(CartesiaSettings(service="cartesia", api_key="k", voice="v", base_url=fake.url))
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any, Final

from fakes.sockets import PLAIN, Connection, Crew, FakeVendor, Fault, Manner, pieces, timed_words

from offhook.codecs.audio import AudioFormat, Encoding

ENCODINGS: Final[dict[str, Encoding]] = {"pcm_mulaw": "pcmu", "pcm_alaw": "pcma", "pcm_s16le": "l16"}


class FakeCartesia(FakeVendor):
    """Speaks every request as a context of its own; one that is cancelled stops after `late` more pieces.

    Args:
        manner: how the voice speaks.
        late: pieces of a cancelled context that still come.
        errors: what a text is answered with in place of speech: fields of an `error` message.
        faults: see `FakeVendor`.
    """

    def __init__(
        self,
        *,
        manner: Manner = PLAIN,
        late: int = 0,
        errors: dict[str, dict[str, Any]] | None = None,
        faults: Iterable[Fault | None] = (),
    ) -> None:
        super().__init__(faults)
        self.manner, self.late, self.errors = manner, late, errors or {}

    async def serve(self, connection: Connection) -> None:
        cancelled: set[str] = set()
        async with Crew() as crew:
            while True:
                message = json.loads(await self.received(connection))
                if message.get("cancel"):
                    cancelled.add(message["context_id"])
                else:
                    crew.start(self._speak(connection, message, cancelled))

    async def _speak(self, connection: Connection, request: dict[str, Any], cancelled: set[str]) -> None:
        name, text, output = request["context_id"], request["transcript"], request["output_format"]
        if text in self.errors:
            error = {"type": "error", "context_id": name, "done": True, "status_code": 500}
            await connection.send(error | self.errors[text])
            return
        format = AudioFormat(ENCODINGS[output["encoding"]], output["sample_rate"])
        words, late = timed_words(text, self.manner), self.late
        async for until, piece in pieces(text, format, self.manner):
            if name in cancelled:
                if late == 0:
                    break
                late -= 1
            common = {"context_id": name, "done": False, "status_code": 206}
            data = base64.b64encode(piece).decode()
            await connection.send(common | {"type": "chunk", "data": data, "step_time": 1.0})
            due = [word for word in words if word[2] <= until]
            words = words[len(due) :]
            if due and request.get("add_timestamps"):
                texts, starts, ends = zip(*due, strict=True)
                timing = {"words": texts, "start": starts, "end": ends}
                await connection.send(common | {"type": "timestamps", "word_timestamps": timing})
            await connection.strike(until)
        await connection.send({"type": "done", "context_id": name, "done": True, "status_code": 200})
