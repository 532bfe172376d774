"""Transcription by whole stretches: OpenAI's, and the Whisper servers that speak its API.

Such a server hears nothing while the caller speaks. His audio is kept until he pauses, and sent as a WAV file then;
so the transcript takes longer than that of a service that listens along. faster-whisper servers, speaches, vLLM and
whisper.cpp (started with `--inference-path /v1/audio/transcriptions`) serve it from one's own machine.

https://platform.openai.com/docs/api-reference/audio/createTranscription
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from openai.resources.audio.audio import AsyncAudio
from pydantic import Field

from offhook.agents.services.base import (
    Final as FinalText,
)
from offhook.agents.services.base import (
    Heard,
    HearingLost,
    Partial,
    ServiceError,
    SpeechToText,
    Transcription,
)
from offhook.agents.services.http import Patience
from offhook.agents.services.openai.client import OpenAiSettings, make_client, model_of, translated, warm_up
from offhook.codecs.audio import L16_8K, L16_16K, AudioFormat
from offhook.codecs.wav import wav_file

DEFAULT_MODEL: Final = "gpt-transcribe"

LEAD: Final = 0.5
"""Seconds kept before the first sound that stands out: soft consonants are quieter than what the measure notices."""

STANDS_OUT: Final = 8.0
"""Decibels above the quiet parts that make a sound: speech on a bad line has 10 and more."""

QUIETEST: Final = -65.0
"""Decibels below full scale under which all is silence: digital silence has no level to compare with."""

SHORTEST: Final = 0.1
"""Seconds; OpenAI refuses shorter files, and no word is."""

LONGEST_WAIT: Final = 2.0
"""Seconds waited at most before a second try, whatever the service asks for: the caller waits too."""


class OpenAiSpeech(SpeechToText):
    """Any server with OpenAI's /audio/transcriptions."""

    class Settings(OpenAiSettings):
        """How the transcripts are asked for."""

        language: str | None = None
        """ISO 639-1, such as `en`; the server guesses otherwise, which takes time and fails on short answers."""
        prompt: str | None = None
        """Words to expect, such as names; as far as the model heeds it."""
        temperature: float | None = Field(default=None, ge=0, le=1)
        stream: bool = False
        """Ask for the text while it is made, and report it as Partial; not all servers can."""
        wideband: bool = True
        """Send 16 kHz, Whisper's own rate, which every server reads; at 8 kHz uploads are half as long."""
        longest: float = Field(default=30, ge=5, le=300)
        """Seconds of audio kept; what is older is dropped. Whisper hears 30 at a time."""

    settings: Settings
    gives_partials = False  # with `stream`, too, they come after the pause

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.settings = settings
        self.formats = (L16_16K, L16_8K) if settings.wideband else (L16_8K, L16_16K)
        self.model = model_of("stt", settings, DEFAULT_MODEL)
        self._client = make_client("stt", settings)
        audio: AsyncAudio = self._client.audio  # by its type, which the SDK would else import on first use
        self._transcriptions = audio.transcriptions

    async def warm(self) -> None:
        """Open a connection by asking for the list of models."""
        await warm_up(self.name, self._client)

    async def close(self) -> None:
        await self._client.close()

    async def open(self, format: AudioFormat, hear: Callable[[Heard], None]) -> Transcription:
        """Begin to keep audio; nothing can fail yet."""
        return _Transcription(self, format, hear)

    async def transcribe(self, audio: bytes, format: AudioFormat, partial: Callable[[str], None]) -> str:
        """The text of a stretch of audio; `partial` is told the text so far where the server streams it.

        Raises:
            ServiceError: no answer in time, or the service refused or broke off.
        """
        patience = Patience(self.name, self.settings)
        request = self._request(audio, format)
        with translated(self.name):
            if self.settings.stream:
                return await self._streamed(patience, request, partial)
            answer: Any = await patience.wait(self._transcriptions.create(**request))
        text = answer if isinstance(answer, str) else answer.text
        if not isinstance(text, str):
            raise ServiceError(self.name, "bad_reply", "the answer holds no text")
        return text.strip()

    async def _streamed(self, patience: Patience, request: dict[str, Any], partial: Callable[[str], None]) -> str:
        stream: Any = await patience.wait(self._transcriptions.create(**request, stream=True))
        text, whole = "", None
        try:
            while (event := await patience.wait(anext(stream, None))) is not None:
                patience.begun()
                if event.type == "transcript.text.delta":
                    text += event.delta
                elif event.type == "transcript.text.done":
                    whole = event.text
                    continue
                else:  # speaches sends segments
                    text += getattr(event, "text", None) or ""
                partial(text.strip())
        finally:
            await stream.close()
        return (text if whole is None else whole).strip()

    def _request(self, audio: bytes, format: AudioFormat) -> dict[str, Any]:
        settings = self.settings
        chosen = {"language": settings.language, "prompt": settings.prompt, "temperature": settings.temperature}
        return {
            "file": ("speech.wav", wav_file(audio, format.rate), "audio/wav"),
            "model": self.model,
            "response_format": "json",
            "extra_body": settings.options,
            **{name: value for name, value in chosen.items() if value is not None},
        }


class _Transcription(Transcription):
    def __init__(self, service: OpenAiSpeech, format: AudioFormat, hear: Callable[[Heard], None]) -> None:
        self._service, self._format, self._hear = service, format, hear
        self._audio = bytearray()
        self._limit = format.size(service.settings.longest)
        self._paused = asyncio.Event()
        self._tasks = [
            asyncio.create_task(service.warm(), name=f"{service.name}-warm"),
            asyncio.create_task(self._listen(), name=f"{service.name}-stt"),
        ]

    def push(self, audio: bytes) -> None:
        self._audio += audio
        if len(self._audio) > self._limit + self._format.size(1):  # a second at a time: moving it all costs
            del self._audio[: len(self._audio) - self._limit]

    def finalize(self) -> None:
        self._paused.set()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self) -> None:
        """Send what has been kept at every pause, one file at a time so that the texts come in order."""
        while True:
            await self._paused.wait()
            self._paused.clear()
            audio = speech_in(bytes(self._audio), self._format.rate)
            self._audio.clear()
            try:
                text = await self._tried(audio) if self._format.duration(len(audio)) >= SHORTEST else ""
            except ServiceError as error:
                self._hear(HearingLost(error))
                return
            # Another pause meanwhile: there is more to come of what was said before it.
            self._hear(FinalText(text, answers_finalize=not self._paused.is_set()))

    async def _tried(self, audio: bytes) -> str:
        """Ask again in here: nobody else has the audio."""
        tries = self._service.settings.retries
        while True:
            try:
                return await self._service.transcribe(audio, self._format, lambda text: self._hear(Partial(text)))
            except ServiceError as error:
                if error.kind == "rejected" or not tries:
                    raise
                tries -= 1
                await asyncio.sleep(min(error.retry_after, LONGEST_WAIT))


def speech_in(audio: bytes, rate: int) -> bytes:
    """Leave out the silence before the first sound: models take time for it, and invent words in it.

    Args:
        audio: int16 mono.
        rate: samples a second.
    """
    size = rate // 50
    count = len(audio) // 2 // size
    if count < 2:
        return audio
    frames = np.frombuffer(audio, "<i2", count * size).reshape(count, size).astype(np.float64)
    power = np.mean(np.square(frames), axis=1) / 32768**2
    levels = np.maximum(10 * np.log10(power + 1e-12), QUIETEST)
    loud = np.flatnonzero(levels > np.percentile(levels, 20) + STANDS_OUT)
    if not len(loud):
        return audio
    first = max(0, int(loud[0]) * size - int(LEAD * rate))
    return audio[first * 2 :]
