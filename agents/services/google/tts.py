"""Google Cloud Text-to-Speech by its own SDK over gRPC: streamed where the voice can be, else a sentence at a time.

https://cloud.google.com/text-to-speech/docs/create-audio-text-streaming
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from google.cloud import texttospeech_v1
from google.cloud.texttospeech_v1 import (
    AudioConfig,
    AudioEncoding,
    StreamingAudioConfig,
    StreamingSynthesisInput,
    StreamingSynthesizeConfig,
    StreamingSynthesizeRequest,
    SynthesisInput,
    SynthesizeSpeechRequest,
    VoiceSelectionParams,
)
from google.cloud.texttospeech_v1.services.text_to_speech.transports import TextToSpeechGrpcAsyncIOTransport
from pydantic import Field

from offhook.agents.services.base import Audio, ServiceError, Spoken, TextToSpeech, Voice
from offhook.agents.services.google.client import GoogleSettings, HostClient, translated
from offhook.codecs.audio import L16_8K, L16_16K, L16_24K, PCMA, PCMU, AudioFormat, Encoding
from offhook.codecs.wav import WavError, parse_wav

__all__ = ["GoogleVoice"]

MAX_TEXT: Final = 5000
"""Bytes of one text that Google takes."""

STREAMED: Final[dict[Encoding, int]] = {
    "pcmu": AudioEncoding.MULAW,
    "pcma": AudioEncoding.ALAW,
    "l16": AudioEncoding.PCM,
}
WHOLE: Final[dict[Encoding, int]] = {**STREAMED, "l16": AudioEncoding.LINEAR16}
"""As a whole, all of them come in a WAV file."""


class GoogleVoice(TextToSpeech):
    """Google's voices, in the telephone's own G.711."""

    class Settings(GoogleSettings):
        """How Google speaks."""

        voice: str = Field(default="en-US-Chirp3-HD-Aoede", pattern=r"^[a-z]{2,3}-[A-Za-z0-9]+-.+$")
        """Name of the voice, which begins with its language."""
        speed: float = Field(default=1.0, ge=0.25, le=2.0)
        """Times the voice's own pace."""
        streaming: bool | None = None
        """Speak while the sentence is still being made; by itself for the Chirp 3 voices, others cannot."""

    formats = (PCMU, PCMA, L16_8K, L16_16K, L16_24K)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.settings = settings
        self.streaming = "Chirp3-HD" in settings.voice if settings.streaming is None else settings.streaming
        self.voice = VoiceSelectionParams(name=settings.voice, language_code="-".join(settings.voice.split("-", 2)[:2]))
        self._client = HostClient(
            "tts",
            settings,
            "texttospeech.googleapis.com",
            TextToSpeechGrpcAsyncIOTransport,
            texttospeech_v1.TextToSpeechAsyncClient,
        )

    async def warm(self) -> None:
        """Find the credentials."""
        await self.client()

    async def client(self) -> texttospeech_v1.TextToSpeechAsyncClient:
        """The host's client. Raises SettingsError."""
        return await self._client.get()

    async def close(self) -> None:
        await self._client.close()

    async def open(self, format: AudioFormat) -> Voice:
        try:
            async with asyncio.timeout(self.limits.timeout):
                client = await self.client()
                channel: Any = client.transport
                await _connected(self.name, channel.grpc_channel)
        except TimeoutError as error:
            raise ServiceError(self.name, "timeout", f"no connection in {self.limits.timeout:g} s") from error
        return _GoogleVoice(self, client, format)


async def _connected(service: str, channel: Any) -> None:
    """Wait until the channel is connected, so that the first sentence need not. Raises ServiceError."""
    state = channel.get_state(try_to_connect=True)
    while state.name != "READY":
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)
        if state.name == "TRANSIENT_FAILURE":
            raise ServiceError(service, "unavailable", "no connection")


class _GoogleVoice(Voice):
    def __init__(
        self, service: GoogleVoice, client: texttospeech_v1.TextToSpeechAsyncClient, format: AudioFormat
    ) -> None:
        self._service, self._client, self._format = service, client, format

    async def synthesize(self, text: str, *, previous: str = "") -> AsyncGenerator[Spoken, None]:
        service = self._service
        if not text.strip():
            return
        if len(text.encode()) > MAX_TEXT:
            raise ServiceError(service.name, "rejected", f"text of {len(text.encode())} bytes; at most {MAX_TEXT}")
        limit = service.limits.timeout
        async with aclosing(self._streamed(text) if service.streaming else self._whole(text)) as pieces:
            while True:
                try:
                    async with asyncio.timeout(limit):
                        with translated(service.name):
                            data = await anext(pieces, None)
                except TimeoutError as error:
                    raise ServiceError(service.name, "timeout", f"no speech for {limit:g} s") from error
                if data is None:
                    return
                limit = service.limits.stall
                yield Audio(data)

    async def _streamed(self, text: str) -> AsyncGenerator[bytes, None]:
        stream: Any = await self._client.streaming_synthesize(requests=self._requests(text))
        try:
            async for response in stream:
                if response.audio_content:
                    yield response.audio_content
        finally:
            stream.cancel()

    async def _requests(self, text: str) -> AsyncGenerator[StreamingSynthesizeRequest, None]:
        config = StreamingSynthesizeConfig(
            voice=self._service.voice,
            streaming_audio_config=StreamingAudioConfig(
                audio_encoding=STREAMED[self._format.encoding],
                sample_rate_hertz=self._format.rate,
                speaking_rate=self._service.settings.speed,
            ),
        )
        yield StreamingSynthesizeRequest(streaming_config=config)
        yield StreamingSynthesizeRequest(input=StreamingSynthesisInput(text=text))

    async def _whole(self, text: str) -> AsyncGenerator[bytes, None]:
        request = SynthesizeSpeechRequest(
            input=SynthesisInput(text=text),
            voice=self._service.voice,
            audio_config=AudioConfig(
                audio_encoding=WHOLE[self._format.encoding],
                sample_rate_hertz=self._format.rate,
                speaking_rate=self._service.settings.speed,
            ),
        )
        response = await self._client.synthesize_speech(request, retry=None, timeout=None)
        try:
            encoding, rate, channels, audio = parse_wav(response.audio_content, name="the answer")
        except WavError as error:
            raise ServiceError(self._service.name, "bad_reply", str(error)) from error
        if (encoding, rate, channels) != (self._format.encoding, self._format.rate, 1):
            got = f"{channels} channels of {encoding}/{rate}"
            raise ServiceError(self._service.name, "bad_reply", f"{got}, where {self._format} was asked for")
        yield audio

    async def close(self) -> None:
        """The connection is the host's."""
