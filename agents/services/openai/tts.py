"""Speech from OpenAI's /audio/speech, and from the servers that speak it: Kokoro, Orpheus, openedai-speech and others.

https://platform.openai.com/docs/api-reference/audio/createSpeech
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any, Final, Literal

from openai.resources.audio.audio import AsyncAudio
from pydantic import Field

from offhook.agents.api import SettingsError
from offhook.agents.services.base import Audio, ServiceError, Spoken, TextToSpeech, Voice
from offhook.agents.services.http import Patience
from offhook.agents.services.openai.client import OpenAiSettings, make_client, model_of, translated, warm_up
from offhook.codecs.audio import AudioFormat
from offhook.codecs.pcm import WholeSamples
from offhook.codecs.wav import WavError, parse_wav

DEFAULT_MODEL: Final = "gpt-4o-mini-tts"
DEFAULT_VOICE: Final = "marin"

MAX_HEADER: Final = 4096
"""Bytes in which a WAV file must have come to its samples: the header has 44, and some tags may precede them."""


class OpenAiVoice(TextToSpeech):
    """Any server with OpenAI's /audio/speech."""

    class Settings(OpenAiSettings):
        """How it sounds."""

        voice: str | None = None
        """Needed for servers that are not OpenAI's; there it is `marin` by itself."""
        instructions: str | None = None
        """How to speak, in words, for models that heed it."""
        speed: float | None = Field(default=None, ge=0.25, le=4)
        response_format: Literal["pcm", "wav"] = "pcm"
        """`wav` for servers that have no raw samples."""
        sample_rate: Literal[8000, 16000, 24000, 48000] = 24000
        """What the server gives. OpenAI: 24000; others may be asked for 8000 by `options`, which saves a conversion."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.settings = settings
        self.formats = (AudioFormat("l16", settings.sample_rate),)
        self.model = model_of("tts", settings, DEFAULT_MODEL)
        if settings.voice is None and not settings.official:
            raise SettingsError(f"tts.voice: missing: name one of the voices that {settings.base_url} has")
        self._client = make_client("tts", settings)
        audio: AsyncAudio = self._client.audio  # by its type, which the SDK would else import on first use
        self.speech = audio.speech.with_streaming_response

    async def warm(self) -> None:
        """Open a connection by asking for the list of models."""
        await warm_up(self.name, self._client)

    async def close(self) -> None:
        await self._client.close()

    async def open(self, format: AudioFormat) -> Voice:
        """See TextToSpeech; a connection is opened meanwhile."""
        return _Voice(self)

    def request(self, text: str) -> dict[str, Any]:
        """The arguments for the SDK to have `text` spoken."""
        settings = self.settings
        chosen = {"instructions": settings.instructions, "speed": settings.speed}
        return {
            "input": text,
            "model": self.model,
            "voice": settings.voice or DEFAULT_VOICE,
            "response_format": settings.response_format,
            "extra_body": settings.options,
            **{name: value for name, value in chosen.items() if value is not None},
        }


class _Voice(Voice):
    def __init__(self, service: OpenAiVoice) -> None:
        self._service = service
        self._warming = asyncio.create_task(service.warm(), name=f"{service.name}-warm")

    async def close(self) -> None:
        self._warming.cancel()
        await asyncio.gather(self._warming, return_exceptions=True)

    async def synthesize(self, text: str, *, previous: str = "") -> AsyncGenerator[Spoken, None]:
        """See Voice; `previous` is of no use here."""
        if not text.strip():
            return
        service = self._service
        patience = Patience(service.name, service.settings)
        samples = _Samples(service.name, service.settings.sample_rate)
        spoken = False
        with translated(service.name):
            async with AsyncExitStack() as stack:
                response = await patience.wait(
                    stack.enter_async_context(service.speech.create(**service.request(text)))
                )
                kind = response.headers.get("content-type", "")
                if kind.startswith(("application/json", "text/")):
                    told = (await patience.wait(response.read())).decode(errors="replace")
                    raise ServiceError(service.name, "bad_reply", f"{kind} in place of audio: {told}")
                pieces = aiter(response.iter_bytes())
                while (piece := await patience.wait(anext(pieces, None))) is not None:
                    if data := samples.push(piece):
                        spoken = True
                        patience.begun()
                        yield Audio(data)
        if not spoken:
            raise ServiceError(service.name, "bad_reply", "the answer holds no audio")


class _Samples:
    """Whole samples out of pieces cut anywhere; takes off a WAV header, which some servers send with `pcm` too."""

    def __init__(self, service: str, rate: int) -> None:
        self._service, self._rate = service, rate
        self._head: bytes | None = b""
        self._whole = WholeSamples()

    def push(self, data: bytes) -> bytes:
        """Take the next piece and give the samples there are.

        Raises:
            ServiceError: a WAV file of another kind than int16 mono at the rate that was set.
        """
        if self._head is not None:
            data = self._head + data
            if len(data) < 4 or (data.startswith(b"RIFF") and b"data" not in data[:-4] and len(data) < MAX_HEADER):
                self._head = data
                return b""
            self._head = None
            if data.startswith(b"RIFF"):
                data = self._of_wav(data)
        return self._whole.push(data)

    def _of_wav(self, file: bytes) -> bytes:
        try:
            encoding, rate, channels, _ = parse_wav(file, name="the speech")
        except WavError as error:
            raise ServiceError(self._service, "bad_reply", str(error)) from error
        if (encoding, rate, channels) != ("l16", self._rate, 1):
            found = f"{encoding} at {rate} Hz with {channels} channels"
            raise ServiceError(
                self._service, "rejected", f"speech is {found}, not l16 mono at {self._rate}: set sample_rate to match"
            )
        return file[file.index(b"data") + 8 :]
