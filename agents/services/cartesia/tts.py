"""Cartesia's Sonic voices over its WebSocket.

The key comes from https://play.cartesia.ai/keys, the voice from https://play.cartesia.ai/voices. Gives μ-law and A-law
at 8 kHz as the carrier wants them, or linear PCM. Needs `pip install 'offhook[cartesia]'`.

    tts: {service: cartesia, api_key: "${CARTESIA_API_KEY}", voice: 694f9389-aac1-45b6-b726-9d9369183238}

Cartesia has one public address; where residency in a region is agreed upon, or in a deployment of one's own, `base_url`
names another.

Each sentence is a context of its own, cancelled when the caller interrupts; what still comes for it is dropped. The SDK
connects, sends and reads; opening again is ours, since it keeps handing out the connection that has closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final

from cartesia import AsyncCartesia
from cartesia.resources.tts import AsyncTTSResourceConnection
from cartesia.types.websocket_response import Chunk, Done, Error, Timestamps
from pydantic import Field, SecretStr
from websockets.exceptions import WebSocketException

from offhook.agents.services.access import ApiKey, WebSocketUrl, key_from, required
from offhook.agents.services.base import ServiceError, ServiceSettings, TextToSpeech, Word
from offhook.agents.services.faults import kind_of_status
from offhook.agents.services.speaking import Line, Sentence, StreamingVoice
from offhook.agents.services.websocket import connection_options, opening_fault
from offhook.codecs.audio import L16_8K, L16_16K, L16_24K, PCMA, PCMU, AudioFormat, Encoding

ENCODINGS: Final[dict[Encoding, str]] = {"pcmu": "pcm_mulaw", "pcma": "pcm_alaw", "l16": "pcm_s16le"}


class CartesiaSettings(ServiceSettings):
    """Settings of `service: cartesia` under `tts`."""

    api_key: Annotated[ApiKey, key_from("CARTESIA_API_KEY", "https://play.cartesia.ai/keys")] = Field(
        default=SecretStr(""), validate_default=True
    )
    "From https://play.cartesia.ai/keys. Taken from the environment variable CARTESIA_API_KEY when it is not given."
    voice: Annotated[str, required("choose one at https://play.cartesia.ai/voices")] = Field(
        default="", validate_default=True
    )
    "Id of a voice, from https://play.cartesia.ai/voices."
    model: str = "sonic-3"
    "Such as sonic-3 or sonic-3.6, or a dated version that stays as it is."
    language: str = "en"
    "Language of the text, ISO 639-1."
    base_url: WebSocketUrl = "wss://api.cartesia.ai"
    "Where the data goes."
    speed: float | None = Field(default=None, ge=0.6, le=1.5)
    "Pace of speech, 1 is the voice's own. Sonic 3 and later."
    volume: float | None = Field(default=None, ge=0.5, le=2)
    "Loudness, 1 is the voice's own. Sonic 3 and later."
    emotion: str | None = None
    "Such as calm or sympathetic. Sonic 3 and later."
    pronunciation_dict_id: str | None = None
    "Id of a dictionary that says how to speak names and words of the trade. Sonic 3 and later."


class CartesiaVoice(TextToSpeech):
    """Cartesia."""

    Settings: ClassVar[type[ServiceSettings]] = CartesiaSettings
    formats = (PCMU, PCMA, L16_8K, L16_16K, L16_24K, AudioFormat("l16", 48000))

    def __init__(self, settings: CartesiaSettings) -> None:
        super().__init__(settings)
        self.settings = settings
        self._client: AsyncCartesia | None = None
        self._making = asyncio.Lock()

    async def warm(self) -> None:
        """Make the SDK's client, which reads certificates from the disk."""
        async with self._making:
            if self._client is None:
                self._client = await asyncio.to_thread(self._make_client)

    async def open(self, format: AudioFormat) -> StreamingVoice:
        """A voice for one call, as `TextToSpeech` has it."""

        async def dial() -> Line:
            return _Contexts(self.settings, format, await self._dial())

        voice = StreamingVoice(self.settings, format, dial)
        await voice.open()
        return voice

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _make_client(self) -> AsyncCartesia:
        client = AsyncCartesia(
            api_key=self.settings.api_key.get_secret_value(), websocket_base_url=self.settings.base_url
        )
        assert client.tts is not None  # imported on first use
        return client

    async def _dial(self) -> AsyncTTSResourceConnection:
        await self.warm()
        assert self._client is not None
        timeout = self.settings.timeout
        options: Any = await connection_options(self.settings.base_url, timeout)
        try:
            return await self._client.tts.websocket_connect(websocket_connection_options=options).enter()
        except (OSError, WebSocketException) as error:
            raise opening_fault(self.name, error, timeout) from error


class _Contexts(Line):
    def __init__(self, settings: CartesiaSettings, format: AudioFormat, connection: AsyncTTSResourceConnection) -> None:
        self._service, self._connection = settings.service, connection
        manner = {"speed": settings.speed, "volume": settings.volume, "emotion": settings.emotion}
        self._request: dict[str, Any] = {
            "model_id": settings.model,
            "voice": {"mode": "id", "id": settings.voice},
            "language": settings.language,
            "output_format": {"container": "raw", "encoding": ENCODINGS[format.encoding], "sample_rate": format.rate},
            "add_timestamps": True,
            "continue": False,  # a sentence is whole: nothing to wait for
        }
        if set_up := {name: value for name, value in manner.items() if value is not None}:
            self._request["generation_config"] = set_up
        if settings.pronunciation_dict_id is not None:
            self._request["pronunciation_dict_id"] = settings.pronunciation_dict_id

    async def say(self, sentence: Sentence, text: str) -> None:
        request: Any = self._request | {"context_id": sentence.id, "transcript": text}
        await self._connection.send(request)

    async def cancel(self, sentence: Sentence) -> None:
        await self._connection.send({"context_id": sentence.id, "cancel": True})

    async def read(self, sentence: Callable[[], Sentence | None]) -> None:
        message = await self._connection.recv()
        current = sentence()
        if current is None or (message.context_id or current.id) != current.id:
            return
        if isinstance(message, Chunk):
            current.audio(message.audio or b"")
        elif isinstance(message, Timestamps):
            times = message.word_timestamps
            if times is not None:
                for word, start, end in zip(times.words, times.start, times.end, strict=True):
                    current.word(Word(word, round(start * 1000), round(end * 1000)))
        elif isinstance(message, Error):
            current.fail(self._fault(message))
        elif isinstance(message, Done):
            current.end()

    def _fault(self, error: Error) -> ServiceError:
        detail = ": ".join(part for part in (error.title, error.message) if part) or error.error_code or "no reason"
        return ServiceError(self._service, kind_of_status(error.status_code or 500), detail)

    async def close(self) -> None:
        await self._connection.close()
