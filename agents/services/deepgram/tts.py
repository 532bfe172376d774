"""Deepgram Aura voices over Speak v1.

The key comes from https://console.deepgram.com; `base_url` keeps the data in a region. Gives μ-law and A-law at 8 kHz
as the carrier wants them, or linear PCM at 8 to 48 kHz, without a container. Needs `pip install 'offhook[deepgram]'`.

    tts: {service: deepgram, api_key: "${DEEPGRAM_API_KEY}", voice: aura-2-thalia-en}

A sentence is `Speak` and `Flush`, over when `Flushed` comes. An interruption is `Clear`; what still comes until
`Cleared` belongs to the sentence before. It gives no word timings. Deepgram allows 20 flushes a minute; one beyond that
fails as `rate_limited`, and the next sentence gets a new connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, cast
from typing import Final as Constant

from pydantic import Field
from websockets.asyncio.client import ClientConnection

from offhook.agents.services.base import ServiceError, ServiceSettings, TextToSpeech
from offhook.agents.services.deepgram.account import (
    ENCODINGS,
    FORMATS,
    DeepgramSettings,
    SpeakV1,
    SpeakV1Text,
    connect,
)
from offhook.agents.services.speaking import Line, Sentence, StreamingVoice, log
from offhook.codecs.audio import AudioFormat

MAX_TEXT: Constant = 2000
"""Characters in one Speak message; Deepgram refuses more. A longer sentence goes in several before the Flush."""


class AuraSettings(DeepgramSettings):
    """Settings of `service: deepgram` under `tts`."""

    voice: str = "aura-2-thalia-en"
    "The voice, which is also the model and names its language at the end."
    speed: float | None = Field(default=None, ge=0.7, le=1.5)
    "Pace of speech, 1 is the voice's own. Not for every language."


class DeepgramVoice(TextToSpeech):
    """Aura."""

    Settings: ClassVar[type[ServiceSettings]] = AuraSettings
    formats = FORMATS

    def __init__(self, settings: AuraSettings) -> None:
        super().__init__(settings)
        self.settings = settings

    async def warm(self) -> None:
        await self.settings.warm()

    async def open(self, format: AudioFormat) -> StreamingVoice:
        """A voice for one call, as `TextToSpeech` has it."""

        async def dial() -> Line:
            query = {
                "model": self.settings.voice,
                "encoding": ENCODINGS[format.encoding],
                "sample_rate": format.rate,
                "speed": self.settings.speed,
                "mip_opt_out": self.settings.mip_opt_out or None,
            }
            return _Speak(self.name, await connect(self.settings, "/v1/speak", query))

        voice = StreamingVoice(self.settings, format, dial)
        await voice.open()
        return voice


class _Speak(Line):
    def __init__(self, service: str, connection: ClientConnection) -> None:
        self._service, self._connection, self._client = service, connection, SpeakV1(websocket=cast(Any, connection))
        self._clearing = 0
        "Clears that are not confirmed: until then audio is of sentences that were given up."
        self._flushed = True
        "Nothing is left to clear."

    async def say(self, sentence: Sentence, text: str) -> None:
        self._flushed = False
        for at in range(0, len(text), MAX_TEXT):
            await self._client.send_text(SpeakV1Text(text=text[at : at + MAX_TEXT]))
        await self._client.send_flush()

    async def cancel(self, sentence: Sentence) -> None:
        if self._flushed:
            return
        self._clearing += 1
        await self._client.send_clear()

    async def read(self, sentence: Callable[[], Sentence | None]) -> None:
        message: Any = await self._client.recv()
        # By its own word: the SDK takes every one of these for a SpeakV1Flushed.
        kind = "" if isinstance(message, bytes) else message.type
        if kind == "Cleared":
            self._clearing -= 1
        elif kind == "Warning":
            log.warning("service.complains", service=self._service, code=message.code, detail=message.description)
            if "flush" in f"{message.code} {message.description}".lower():
                raise ServiceError(self._service, "rate_limited", message.description)
        elif (current := sentence()) is None or self._clearing > 0:
            return
        elif isinstance(message, bytes):
            current.audio(message)
        elif kind == "Flushed":
            self._flushed = True
            current.end()

    async def close(self) -> None:
        await self._connection.close()
