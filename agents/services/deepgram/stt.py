"""Deepgram Nova over Listen v1: streaming text, asked for its final as soon as the caller pauses.

The key comes from https://console.deepgram.com; `base_url` keeps the data in a region. Takes μ-law and A-law at 8 kHz
as the carrier sends them, or linear PCM at 8 to 48 kHz. Needs `pip install 'offhook[deepgram]'`.

    stt: {service: deepgram, api_key: "${DEEPGRAM_API_KEY}", language: en, keyterms: [offhook, Kraków]}

`finalize` is answered by the final that Deepgram marks `from_finalize`. It does not promise one when it holds no audio;
then an empty final answers in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, Literal, cast
from typing import Final as Constant

from pydantic import Field
from websockets.asyncio.client import ClientConnection

from offhook.agents.services.base import Final, Heard, Partial, ServiceSettings, SpeechHeard, SpeechToText
from offhook.agents.services.deepgram.account import (
    ENCODINGS,
    FORMATS,
    DeepgramSettings,
    ListenV1,
    ListenV1Error,
    ListenV1Results,
    ListenV1SpeechStarted,
    connect,
)
from offhook.agents.services.deepgram.listening import Listening, log
from offhook.codecs.audio import AudioFormat

CHUNK: Constant = 0.1
"""Seconds of audio in one message at most; as a rule one goes out with each frame."""


class NovaSettings(DeepgramSettings):
    """Settings of `service: deepgram` under `stt`."""

    model: str = "nova-3"
    "Such as nova-3, nova-3-medical, nova-2-phonecall, or a model of your own."
    language: str = "en"
    "BCP 47, such as en-IN; `multi` for callers who mix languages."
    keyterms: tuple[str, ...] = Field(default=(), max_length=100)
    "Names and words of the trade that it should expect. nova-2 and older get them as `keywords`."
    endpointing: Annotated[int, Field(ge=10, le=10_000)] | Literal[False] = 300
    "Milliseconds of silence after which it makes text final by itself; false: only when asked."
    punctuate: bool = True
    "Write full stops, commas and capitals."
    smart_format: bool = False
    "Write numbers, dates and amounts as figures. May hold back a final for it."
    numerals: bool = False
    "Write numbers as figures, and nothing else."
    profanity_filter: bool = False
    "Leave out what is not said in company."
    redact: tuple[str, ...] = ()
    "What to replace in the text: pci, numbers, pii, ssn…"
    options: dict[str, str | int | float | bool | tuple[str, ...]] = Field(default_factory=dict)
    "Any further parameters of Listen v1, sent as they are."


class Deepgram(SpeechToText):
    """Nova. Ends no turns by itself: a pause of `endpointing` is no end of a turn."""

    Settings: ClassVar[type[ServiceSettings]] = NovaSettings
    formats = FORMATS

    def __init__(self, settings: NovaSettings) -> None:
        super().__init__(settings)
        self.settings = settings

    async def warm(self) -> None:
        await self.settings.warm()

    async def open(self, format: AudioFormat, hear: Callable[[Heard], None]) -> _Nova:
        """Start a stream, as `SpeechToText` has it. The connection is kept alive until audio comes."""
        stream = _Nova(self.settings, format, hear)
        await stream.open()
        return stream


class _Nova(Listening[ListenV1]):
    def __init__(self, settings: NovaSettings, format: AudioFormat, hear: Callable[[Heard], None]) -> None:
        super().__init__(settings, format, hear, chunk=CHUNK)
        given = settings
        self._query: dict[str, Any] = {
            "model": given.model,
            "language": given.language,
            "encoding": ENCODINGS[format.encoding],
            "sample_rate": format.rate,
            "channels": 1,
            "interim_results": True,
            "vad_events": True,
            "endpointing": given.endpointing,
            "punctuate": given.punctuate,
            "keyterm" if given.model.startswith("nova-3") else "keywords": given.keyterms,
            "redact": given.redact,
        }
        for name in ("smart_format", "numerals", "profanity_filter", "mip_opt_out"):
            self._query[name] = getattr(given, name) or None
        self._query |= given.options
        self._owed = 0
        "Finalizes of this connection that are not answered."
        self._partial = False

    async def _connect(self) -> tuple[ClientConnection, ListenV1]:
        connection = await connect(self._settings, "/v1/listen", self._query)
        return connection, ListenV1(websocket=cast(Any, connection))

    async def _ask(self, client: ListenV1) -> None:
        self._owed += 1
        await client.send_finalize()

    async def _keep_alive(self, client: ListenV1) -> None:
        await client.send_keep_alive()

    def _reset(self) -> None:
        self._owed = 0

    def _understand(self, message: Any) -> Iterable[Heard]:
        if isinstance(message, ListenV1Results):
            yield from self._results(message)
        elif isinstance(message, ListenV1SpeechStarted):
            yield SpeechHeard()
        elif isinstance(message, ListenV1Error):
            log.warning("service.complains", service=self._service, detail=message.description)

    def _overdue(self) -> Iterable[Heard]:
        for heard in super()._overdue():
            self._owed = 0
            yield heard

    def _results(self, results: ListenV1Results) -> Iterable[Heard]:
        best = results.channel.alternatives[0]
        text = best.transcript.strip()
        if not results.is_final:
            if text or self._partial:
                self._partial = bool(text)
                yield Partial(text)
            return
        answers = False
        if results.from_finalize:
            self._owed = max(0, self._owed - 1)
            answers = self.asked and not self._asking and not self._owed  # else it answers an earlier one
            self.asked = self.asked and not answers
        if text or answers:
            self._partial = False
            yield Final(text, 1.0 if best.confidence is None else best.confidence, answers)
        elif self._partial:
            self._partial = False
            yield Partial("")
        self._covered(results.start + results.duration)
