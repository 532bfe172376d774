"""ElevenLabs voices over the multi-context WebSocket.

The key comes from https://elevenlabs.io/app/settings/api-keys (it needs the right to use text to speech), the voice
from https://elevenlabs.io/app/voice-library. `region` keeps the data in one, for accounts that have residency there.
Gives μ-law and A-law at 8 kHz as the carrier wants them, or linear PCM. Needs `pip install 'offhook[elevenlabs]'`.

    tts: {service: elevenlabs, api_key: "${ELEVENLABS_API_KEY}", voice: 21m00Tcm4TlvDq8ikWAM, region: eu}

Each sentence is a context of its own: opened, filled and flushed, and closed at once, which lets it be spoken to its
end and makes the service say when that is. What comes for a context that the caller interrupted is dropped; there is
nothing else to cancel. The socket may be quiet for three minutes.

Words are timed as they are spoken (`normalizedAlignment`): "5 €" comes as "five euros".

The SDK has no asynchronous client for this socket: its messages (`SendTextMulti` and the others) and its addresses are
used, the connection is ours.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final, Literal

from elevenlabs.core.unchecked_base_model import UncheckedBaseModel
from elevenlabs.environment import ElevenLabsEnvironment
from elevenlabs.types import (
    CloseContext,
    InitialiseContext,
    NormalizedAlignment,
    RealtimeVoiceSettings,
    SendTextMulti,
    WebsocketTtsServerMessageMulti,
)
from elevenlabs.url_utils import build_ws_url
from pydantic import Field, SecretStr
from websockets.asyncio.client import ClientConnection

from offhook.agents.services.access import ApiKey, WebSocketUrl, key_from, required
from offhook.agents.services.base import FaultKind, ServiceError, ServiceSettings, TextToSpeech, Word
from offhook.agents.services.speaking import Line, Sentence, StreamingVoice
from offhook.agents.services.websocket import connection_options, open_socket
from offhook.codecs.audio import L16_8K, L16_16K, L16_24K, PCMA, PCMU, AudioFormat, Encoding

NAMES: Final[dict[Encoding, str]] = {"pcmu": "ulaw", "pcma": "alaw", "l16": "pcm"}

INACTIVITY: Final = 180
"""Seconds of silence before ElevenLabs hangs up, as long as it allows; a caller may talk for a while."""

FAULTS: Final[dict[str, FaultKind]] = {
    "rate_limit_exceeded": "rate_limited",
    "too_many_concurrent_requests": "rate_limited",
    "concurrent_limit_exceeded": "rate_limited",
    "system_busy": "unavailable",
    "internal_error": "unavailable",
    "internal_server_error": "unavailable",
    "input_timeout_exceeded": "unavailable",
}
"""What is not our fault among the errors it names; all others are, such as a wrong key or a spent quota."""

REGIONS: Final = {
    "us": ElevenLabsEnvironment.PRODUCTION_US,
    "eu": ElevenLabsEnvironment.PRODUCTION_EU,
    "in": ElevenLabsEnvironment.PRODUCTION_INDIA,
    "sg": ElevenLabsEnvironment.PRODUCTION_SINGAPORE,
}


class ElevenLabsSettings(ServiceSettings):
    """Settings of `service: elevenlabs` under `tts`."""

    api_key: Annotated[ApiKey, key_from("ELEVENLABS_API_KEY", "https://elevenlabs.io/app/settings/api-keys")] = Field(
        default=SecretStr(""), validate_default=True
    )
    """From https://elevenlabs.io/app/settings/api-keys. Taken from the environment variable ELEVENLABS_API_KEY when it
    is not given."""
    voice: Annotated[str, required("choose one at https://elevenlabs.io/app/voice-library")] = Field(
        default="", validate_default=True
    )
    "Id of a voice, from https://elevenlabs.io/app/voice-library."
    model: str = "eleven_flash_v2_5"
    "The fast ones are for the telephone: eleven_flash_v2_5, eleven_turbo_v2_5; eleven_multilingual_v2 takes its time."
    language: str = ""
    "ISO 639-1, such as de, for models that take one; else they go by the text."
    region: Literal["us", "eu", "in", "sg"] | None = None
    "Where the data is kept; needs an account with residency there and its own key. Unset: wherever is nearest."
    base_url: WebSocketUrl | None = None
    "Another address in place of the region's."
    stability: float | None = Field(default=None, ge=0, le=1)
    "Lower is livelier, higher more even; unset: as the voice is set up."
    similarity_boost: float | None = Field(default=None, ge=0, le=1)
    "How close to keep to the voice's original."
    style: float | None = Field(default=None, ge=0, le=1)
    "How much to exaggerate its manner; costs time."
    use_speaker_boost: bool | None = None
    "More likeness to the speaker; costs time."
    speed: float | None = Field(default=None, ge=0.7, le=1.2)
    "Pace of speech, 1 is the voice's own."
    apply_text_normalization: Literal["auto", "on", "off"] = "auto"
    "Whether numbers and abbreviations are written out before they are spoken; `on` costs time with the fast models."
    zero_retention: bool = False
    "Nothing of what is said is kept. Enterprise accounts only."

    @property
    def address(self) -> str:
        """Where to connect to."""
        if self.base_url is not None:
            return self.base_url
        return (REGIONS[self.region] if self.region else ElevenLabsEnvironment.PRODUCTION).value


class ElevenLabsVoice(TextToSpeech):
    """ElevenLabs."""

    Settings: ClassVar[type[ServiceSettings]] = ElevenLabsSettings
    formats = (PCMU, PCMA, L16_8K, L16_16K, L16_24K, AudioFormat("l16", 48000))

    def __init__(self, settings: ElevenLabsSettings) -> None:
        super().__init__(settings)
        self.settings = settings

    async def warm(self) -> None:
        """Read the certificates from the disk."""
        await connection_options(_url(self.settings, PCMU), self.settings.timeout)

    async def open(self, format: AudioFormat) -> StreamingVoice:
        """A voice for one call, as `TextToSpeech` has it. A wrong key is found out with the first sentence only."""

        async def dial() -> Line:
            headers = {"xi-api-key": self.settings.api_key.get_secret_value()}
            url = _url(self.settings, format)
            return _Contexts(self.settings, await open_socket(self.name, url, headers, self.settings.timeout))

        voice = StreamingVoice(self.settings, format, dial)
        await voice.open()
        return voice


def _url(settings: ElevenLabsSettings, format: AudioFormat) -> str:
    query = {
        "model_id": settings.model,
        "output_format": f"{NAMES[format.encoding]}_{format.rate}",
        "inactivity_timeout": str(INACTIVITY),
        "auto_mode": "true",  # whole sentences come: nothing to wait for
        "sync_alignment": "true",
        "apply_text_normalization": settings.apply_text_normalization,
    }
    if settings.language:
        query["language_code"] = settings.language
    if settings.zero_retention:
        query["enable_logging"] = "false"
    return build_ws_url(settings.address, ["v1", "text-to-speech", settings.voice, "multi-stream-input"], query)


class _Contexts(Line):
    def __init__(self, settings: ElevenLabsSettings, connection: ClientConnection) -> None:
        self._service, self._connection = settings.service, connection
        manner = {
            name: value
            for name in ("stability", "similarity_boost", "style", "use_speaker_boost", "speed")
            if (value := getattr(settings, name)) is not None
        }
        self._manner = RealtimeVoiceSettings(**manner) if manner else None
        self._timing = _Timing()

    async def say(self, sentence: Sentence, text: str) -> None:
        self._timing = _Timing()
        await self._send(InitialiseContext(text=" ", voice_settings=self._manner, context_id=sentence.id))
        await self._send(SendTextMulti(text=text + " ", flush=True, context_id=sentence.id))
        await self._send(CloseContext(context_id=sentence.id, close_context=True))

    async def cancel(self, sentence: Sentence) -> None:
        """Nothing to say: the context is closed already."""

    async def read(self, sentence: Callable[[], Sentence | None]) -> None:
        raw = json.loads(await self._connection.recv())
        if raw.get("error"):
            raise self._fault(raw)
        message = WebsocketTtsServerMessageMulti.model_validate(raw)
        current = sentence()
        if current is None or message.context_id != current.id:
            return
        if message.audio:
            current.audio(base64.b64decode(message.audio, validate=True))
        if message.normalized_alignment is not None:
            for word in self._timing.push(message.normalized_alignment):
                current.word(word)
        if raw.get("isFinal"):  # which the SDK's model does not know under this name
            for word in self._timing.rest():
                current.word(word)
            current.end()

    def _fault(self, raw: dict[str, Any]) -> ServiceError:
        name = str(raw["error"])
        detail = f"{name}: {raw.get('message', '')}".strip(": ")
        return ServiceError(self._service, FAULTS.get(name, "rejected"), detail)

    async def _send(self, message: UncheckedBaseModel) -> None:
        await self._connection.send(message.model_dump_json(by_alias=True, exclude_none=True))

    async def close(self) -> None:
        await self._connection.close()


class _Timing:
    """Makes words of timed characters.

    Times are in milliseconds from the start of their message's stretch; a stretch begins where the one before ended.
    Each begins with a space that is not spoken, even in the middle of a word.
    """

    def __init__(self) -> None:
        self._before = 0
        "Length of the stretches that are over, in milliseconds."
        self._word = ""
        self._start = self._end = 0

    def push(self, stretch: NormalizedAlignment) -> list[Word]:
        """Take a stretch and give the words that are complete."""
        chars = stretch.chars or []
        starts, lengths = stretch.char_start_times_ms or [], stretch.char_durations_ms or []
        words: list[Word] = []
        until = 0
        for place, (char, start, length) in enumerate(zip(chars, starts, lengths, strict=True)):
            until = start + length
            if not char.isspace():
                if not self._word:
                    self._start = self._before + start
                self._word += char
                self._end = self._before + until
            elif place > 0:
                words += self.rest()
        self._before += until
        return words

    def rest(self) -> list[Word]:
        """Give the word that is not closed by a space."""
        word, self._word = self._word, ""
        return [Word(word, self._start, self._end)] if word else []
