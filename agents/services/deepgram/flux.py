"""Deepgram Flux over Listen v2: it hears by itself when the caller has finished.

The key comes from https://console.deepgram.com; `base_url` keeps the data in a region. Takes μ-law and A-law at 8 kHz
as the carrier sends them, or linear PCM at 8 to 48 kHz. Needs `pip install 'offhook[deepgram]'`.

    stt: {service: deepgram-flux, api_key: "${DEEPGRAM_API_KEY}", eager_eot_threshold: 0.5}

With `eager_eot_threshold` it also says when the caller has probably finished, so that a reply can be prepared, and
takes that back when he goes on. Flux knows time by the audio it gets and has no KeepAlive: while none flows it gets a
little silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, cast
from typing import Final as Constant

from pydantic import Field, model_validator
from websockets.asyncio.client import ClientConnection

from offhook.agents.services.access import Languages
from offhook.agents.services.base import (
    EagerEndOfTurn,
    EndOfTurn,
    FaultKind,
    Final,
    Heard,
    HearingLost,
    Partial,
    ServiceError,
    ServiceSettings,
    SpeechHeard,
    SpeechToText,
    TurnResumed,
)
from offhook.agents.services.deepgram.account import (
    ENCODINGS,
    FORMATS,
    DeepgramSettings,
    ListenV2,
    ListenV2FatalError,
    ListenV2TurnInfo,
    ListenV2Warning,
    connect,
)
from offhook.agents.services.deepgram.listening import Listening, log
from offhook.codecs.audio import AudioFormat

CHUNK: Constant = 0.08
"""Seconds of audio in one message, as Deepgram asks for Flux."""

LEAD: Constant = 1.0
"""Seconds of silence that a new connection hears again before what comes: a word may have begun in it."""


class FluxSettings(DeepgramSettings):
    """Settings of `service: deepgram-flux` under `stt`."""

    model: str = "flux-general-en"
    "flux-general-en, or flux-general-multi for other languages."
    language: Languages = ()
    "Language to expect, or several, such as [de, en]; for flux-general-multi only."
    keyterms: tuple[str, ...] = Field(default=(), max_length=100)
    "Names and words of the trade that it should expect."
    eot_threshold: float = Field(default=0.7, ge=0.5, le=1.0)
    "How sure it must be that the caller has finished; higher waits longer. At 1 it never is: we decide, and ask."
    eager_eot_threshold: float | None = Field(default=None, ge=0.3, le=0.9)
    "How sure it must be to say that he has probably finished, so that a reply is prepared; unset: it never does."
    eot_timeout_ms: int = Field(default=5000, ge=500, le=60_000)
    "Milliseconds of silence that end a turn in any case."
    options: dict[str, str | int | float | bool | tuple[str, ...]] = Field(default_factory=dict)
    "Any further parameters of Listen v2, sent as they are."

    @model_validator(mode="after")
    def _consistent(self) -> FluxSettings:
        if self.eager_eot_threshold is not None and self.eager_eot_threshold > self.eot_threshold:
            raise ValueError("eager_eot_threshold is above eot_threshold, so it would never come first; lower it")
        if self.language not in ((), ("en",)) and not self.model.startswith("flux-general-multi"):
            raise ValueError(f"language needs model: flux-general-multi, not {self.model}")
        return self


class DeepgramFlux(SpeechToText):
    """Flux."""

    Settings: ClassVar[type[ServiceSettings]] = FluxSettings
    formats = FORMATS

    def __init__(self, settings: FluxSettings) -> None:
        super().__init__(settings)
        self.settings = settings
        self.ends_turns = settings.eot_threshold < 1

    async def warm(self) -> None:
        await self.settings.warm()

    async def open(self, format: AudioFormat, hear: Callable[[Heard], None]) -> _Flux:
        """Start a stream, as `SpeechToText` has it."""
        stream = _Flux(self.settings, format, hear)
        await stream.open()
        return stream


class _Flux(Listening[ListenV2]):
    """Its `finalize` ends the turn by force; the turn's text is then a Final that answers it, not an EndOfTurn.

    Where no turn is in progress, Flux does not answer that, and an empty Final does.
    """

    def __init__(self, settings: FluxSettings, format: AudioFormat, hear: Callable[[Heard], None]) -> None:
        super().__init__(settings, format, hear, chunk=CHUNK, whole_chunks=True)
        self._query: dict[str, Any] = {
            "model": settings.model,
            "encoding": ENCODINGS[format.encoding],
            "sample_rate": format.rate,
            "eot_threshold": settings.eot_threshold,
            "eager_eot_threshold": settings.eager_eot_threshold,
            "eot_timeout_ms": settings.eot_timeout_ms,
            "keyterm": settings.keyterms,
            "language_hint": settings.language if settings.model.startswith("flux-general-multi") else (),
            "mip_opt_out": settings.mip_opt_out or None,
        } | settings.options
        self._ended = -1
        "Index of the last turn of this connection that has ended."
        self._text = ""
        self._decides = settings.eot_threshold < 1

    async def _connect(self) -> tuple[ClientConnection, ListenV2]:
        connection = await connect(self._settings, "/v2/listen", self._query)
        return connection, ListenV2(websocket=cast(Any, connection))

    async def _ask(self, client: ListenV2) -> None:
        await client.send_force_end_turn()

    async def _keep_alive(self, client: ListenV2) -> None:
        await self._send_silence(client)

    def _reset(self) -> None:
        self._ended = -1
        self._asking = self.asked = False  # it was about a turn of the connection that broke; Flux ends this one itself

    def _understand(self, message: Any) -> Iterable[Heard]:
        if isinstance(message, ListenV2TurnInfo):
            return self._turn(message)
        if isinstance(message, ListenV2FatalError):
            kind: FaultKind = (
                "unavailable" if "INTERNAL" in message.code or message.code.startswith("NET") else "rejected"
            )
            detail = f"{message.code}: {message.description}"
            return [HearingLost(ServiceError(self._service, kind, detail))]
        if isinstance(message, ListenV2Warning):
            log.warning("service.complains", service=self._service, code=message.code, detail=message.description)
        return []

    def _turn(self, turn: ListenV2TurnInfo) -> Iterable[Heard]:
        if turn.turn_index <= self._ended:
            return
        text = turn.transcript.strip()
        if turn.event == "EndOfTurn":
            self._ended, self._text = turn.turn_index, ""
            self._covered(turn.audio_window_end)
            answers = self.asked and not self._asking and turn.trigger == "manual"
            self.asked = self.asked and not answers and not self._decides
            yield EndOfTurn(text) if self._decides and not answers else Final(text, answers_finalize=answers)
            return
        if not text:
            self._covered(turn.audio_window_end - LEAD)
        if turn.event == "EagerEndOfTurn":
            self._text = text
            yield EagerEndOfTurn(text)
            return
        if turn.event == "StartOfTurn":
            yield SpeechHeard()
        elif turn.event == "TurnResumed":
            yield TurnResumed()
        if text != self._text:
            self._text = text
            yield Partial(text)
