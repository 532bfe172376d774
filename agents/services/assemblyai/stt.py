"""AssemblyAI's streaming speech-to-text, version 3.

https://www.assemblyai.com/docs/streaming/api-spec/streaming-websocket

The key comes from https://www.assemblyai.com/dashboard/api-keys; `base_url` keeps the data in a region. Takes μ-law at
8 kHz as the carrier sends it, or linear PCM. Needs `pip install 'offhook[assemblyai]'`.

    stt: {service: assemblyai, api_key: "${ASSEMBLYAI_API_KEY}", base_url: wss://streaming.eu.assemblyai.com}

The SDK's messages and parameters are used, the connection is ours: the SDK's client reads the system's certificates
twice for every call, on the event loop (70 ms), its queue has no end, and it does not tell of a stream that ends with
code 1000 or in a message it cannot read.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import structlog
from assemblyai.streaming.v3 import (
    BeginEvent,
    Encoding,
    RealTimeParameters,
    SpeechModel,
    TerminationEvent,
    TurnEvent,
    WarningEvent,
)
from assemblyai.streaming.v3.models import ErrorEvent, ForceEndpoint, TerminateSession
from pydantic import BaseModel, Field, SecretStr, ValidationError
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from offhook.agents.services import base
from offhook.agents.services.access import ApiKey, Languages, WebSocketUrl, key_from
from offhook.agents.services.base import (
    EndOfTurn,
    FaultKind,
    Heard,
    HearingLost,
    Partial,
    ServiceError,
    ServiceSettings,
    SpeechToText,
    Transcription,
)
from offhook.agents.services.faults import kind_of_close
from offhook.agents.services.websocket import connection_options, open_socket
from offhook.codecs.audio import L16_8K, L16_16K, PCMU, AudioFormat

__all__ = ["AssemblyAi"]

API_VERSION: Final = "2025-05-12"
"""The version of the messages, sent with each connection as the SDK does."""

MESSAGE_SECONDS: Final = 0.06
"""Length of one audio message: the service takes 50 to 1000 ms (error 3007), and whole frames are 20."""

MAX_BACKLOG: Final = 50
"""Audio messages that may wait for the connection, 3 s; what comes then is dropped: it would be answered too late."""

SILENCE_TIME: Final = 1.0
"""Seconds after which a forced end of a turn in which nothing was heard yet counts as silence. The service does not
say so, and a first word takes it some 0.3 s."""

CLOSING_TIME: Final = 1.0
"""Seconds for the service to end the session, which it bills by time; then the connection is cut."""

KINDS: Final[dict[int, FaultKind]] = {
    1013: "rate_limited",
    3006: "rejected",
    3007: "rejected",
    3009: "rate_limited",
    4008: "unavailable",
    4029: "rate_limited",
    4031: "unavailable",
    4102: "rate_limited",
}
"""Codes of closing and errors whose kind the number alone does not tell. (RealTimeErrorCodes of the SDK)"""

EVENTS: Final[dict[object, type[BaseModel]]] = {
    "Begin": BeginEvent,
    "Turn": TurnEvent,
    "Termination": TerminationEvent,
    "Error": ErrorEvent,
    "Warning": WarningEvent,
}

log = structlog.get_logger("offhook.agents.services")


class AssemblyAi(SpeechToText):
    """AssemblyAI's streaming models, which take μ-law as it comes from the telephone."""

    class Settings(ServiceSettings):
        """What AssemblyAI listens for. Its own defaults hold for what is not given."""

        api_key: Annotated[ApiKey, key_from("ASSEMBLYAI_API_KEY", "https://www.assemblyai.com/dashboard/api-keys")] = (
            Field(default=SecretStr(""), validate_default=True)
        )
        """From https://www.assemblyai.com/dashboard/api-keys. Taken from the environment variable ASSEMBLYAI_API_KEY
        when it is not given."""
        base_url: WebSocketUrl = "wss://streaming.assemblyai.com"
        """Where the data goes: wss://streaming.eu.assemblyai.com keeps it in the EU, wss://streaming.us.assemblyai.com
        in the US; the default is the nearest."""
        model: SpeechModel = SpeechModel.universal_streaming_english
        """For other languages than English: universal-streaming-multilingual, whisper-rt, or one of the pro models."""
        language: Languages = ()
        """Language to expect, or several, such as [es, en]; for models that take them."""
        keyterms: tuple[str, ...] = Field(default=(), max_length=100)
        """Names and words of the trade that it should expect."""
        format_turns: bool = False
        """Wait for the text with punctuation and capitals; a language model does not need them."""
        ends_turns: bool = False
        """Let AssemblyAI decide when the caller has finished."""
        end_of_turn_confidence: float | None = Field(default=None, ge=0, le=1)
        """From which its decision counts."""
        min_turn_silence: float | None = Field(default=None, ge=0, le=10)
        """Seconds of silence that end a turn when it is confident."""
        max_turn_silence: float | None = Field(default=None, ge=0, le=10)
        """Seconds of silence that end a turn in any case."""

    formats = (PCMU, L16_8K, L16_16K)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.settings = settings
        self.ends_turns = settings.ends_turns

    async def warm(self) -> None:
        """Read the certificates from the disk."""
        await connection_options(self.settings.base_url, self.limits.timeout)

    def url(self, format: AudioFormat) -> str:
        """Where a session is opened, with what it is to be like."""
        settings = self.settings
        parameters = RealTimeParameters(
            sample_rate=format.rate,
            encoding=Encoding.pcm_mulaw if format.encoding == "pcmu" else Encoding.pcm_s16le,
            speech_model=settings.model,
            language_codes=list(settings.language) or None,
            keyterms_prompt=list(settings.keyterms) or None,
            format_turns=settings.format_turns,
            speaker_labels_revision_interval_ms=None,
            end_of_turn_confidence_threshold=settings.end_of_turn_confidence,
            min_turn_silence=_milliseconds(settings.min_turn_silence),
            max_turn_silence=_milliseconds(settings.max_turn_silence),
        )
        query = {
            name: json.dumps(value) if isinstance(value, list) else value
            for name, value in parameters.model_dump(mode="json", exclude_none=True).items()
        }
        return f"{settings.base_url}/v3/ws?{urlencode(query)}"

    async def open(self, format: AudioFormat, hear: Callable[[Heard], None]) -> Transcription:
        stream = _AssemblyAiStream(self, format, hear)
        await stream.connect()
        return stream


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _fault(service: str, code: int | None, text: str) -> ServiceError:
    """What a code means; too many sessions used to be closed with 1008 as a wrong key is, and some still are."""
    if code is None:
        return ServiceError(service, "unavailable", text or "no reason")
    kind = "rate_limited" if "concurrent sessions" in text else KINDS.get(code) or kind_of_close(code)
    return ServiceError(service, kind, f"{code} {text}")


class _AssemblyAiStream(Transcription):
    """Two tasks, once connected: one writes what waits in a bounded queue, the other reads."""

    def __init__(self, service: AssemblyAi, format: AudioFormat, hear: Callable[[Heard], None]) -> None:
        self._service, self._format, self._hear = service, format, hear
        self._waiting: asyncio.Queue[bytes | str] = asyncio.Queue()
        self._connection: ClientConnection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._ready = asyncio.Event()
        "The session has begun, or failed to."
        self._begun = False
        self._error: ServiceError | None = None
        self._closed = False
        self._audio = bytearray()
        self._ended_turn = -1
        "Number of the last turn that is over: what comes of it later is the same text with punctuation."
        self._hears = False
        "Something of the present turn has been heard."
        self._asked = False
        "An answer to `finalize` is owed."
        self._alarm: asyncio.TimerHandle | None = None

    async def connect(self) -> None:
        """Begin the session. Raises ServiceError."""
        service, settings = self._service, self._service.settings
        headers = {"Authorization": settings.api_key.get_secret_value(), "AssemblyAI-Version": API_VERSION}
        try:
            async with asyncio.timeout(settings.timeout):
                self._connection = await open_socket(service.name, service.url(self._format), headers, settings.timeout)
                self._tasks = [
                    asyncio.create_task(self._read(self._connection), name=f"{service.name}: hearing"),
                    asyncio.create_task(self._write(self._connection), name=f"{service.name}: sending"),
                ]
                await self._ready.wait()
            if self._error is not None:
                raise self._error
        except TimeoutError as error:
            await self.close()
            raise ServiceError(service.name, "timeout", f"no session in {settings.timeout:g} s") from error
        except BaseException:
            await self.close()
            raise

    # --- to the service

    def push(self, audio: bytes) -> None:
        self._audio += audio
        if len(self._audio) >= self._format.size(MESSAGE_SECONDS):
            self._flush()

    def _flush(self) -> None:
        if self._error is None and self._waiting.qsize() < MAX_BACKLOG:
            self._waiting.put_nowait(bytes(self._audio))
        self._audio.clear()

    def finalize(self) -> None:
        if self._audio:
            missing = self._format.size(MESSAGE_SECONDS) - len(self._audio)
            self._audio += (self._format.silence * 3)[:missing]
            self._flush()
        if self._error is not None:
            return
        self._waiting.put_nowait(ForceEndpoint().model_dump_json())
        self._asked = True
        self._stop_alarm()
        if not self._hears:
            self._alarm = asyncio.get_running_loop().call_later(SILENCE_TIME, self._nothing_said)

    def _nothing_said(self) -> None:
        self._asked = False
        self._hear(base.Final("", answers_finalize=True))

    def _stop_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    async def _write(self, connection: ClientConnection) -> None:
        try:
            while True:
                await connection.send(await self._waiting.get())
        except ConnectionClosed:
            return  # the reader sees it too, and says why

    async def close(self) -> None:
        self._closed = True
        self._stop_alarm()
        connection = self._connection
        if connection is None:
            return
        try:
            if self._begun and not self._tasks[0].done():
                self._waiting.put_nowait(TerminateSession().model_dump_json())
                await asyncio.wait(self._tasks[:1], timeout=CLOSING_TIME)
        finally:
            for task in self._tasks:
                task.cancel()
            connection.transport.abort()
            await asyncio.gather(*self._tasks, connection.wait_closed(), return_exceptions=True)

    # --- from the service

    async def _read(self, connection: ClientConnection) -> None:
        name = self._service.name
        while True:
            try:
                message = await connection.recv()
            except ConnectionClosed as error:
                code, reason = (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "connection lost")
                self._lose(_fault(name, code, reason))
                return
            try:
                self._take(json.loads(message))
            except ValidationError as error:
                self._lose(ServiceError(name, "bad_reply", f"not understood: {error.errors()[0]['msg']}"))
            except (ValueError, TypeError, AttributeError, LookupError) as error:  # no JSON, or no object
                log.warning("service.not_understood", service=name, error=repr(error))
            if self._error is not None:
                return

    def _take(self, message: Any) -> None:
        model = EVENTS.get(message.get("type", "Error" if "error" in message else ""))
        match None if model is None else model.model_validate(message):
            case BeginEvent():
                self._begun = True
                self._ready.set()
            case TurnEvent() as turn:
                self._on_turn(turn)
            case TerminationEvent():
                self._lose(ServiceError(self._service.name, "unavailable", "the service ended the session"))
            case ErrorEvent() as error:
                self._lose(_fault(self._service.name, error.error_code, error.error))
            case WarningEvent() as warning:
                log.warning("service.complains", service=self._service.name, detail=warning.warning)

    def _on_turn(self, turn: TurnEvent) -> None:
        if self._closed or turn.turn_order <= self._ended_turn:
            return
        text = " ".join(word.text for word in turn.words) or turn.transcript
        if not turn.end_of_turn or (self._service.settings.format_turns and not turn.turn_is_formatted):
            if text:
                self._hears = True
                self._stop_alarm()
                self._hear(Partial(text))
            return
        self._ended_turn, self._hears = turn.turn_order, False
        self._stop_alarm()
        asked, self._asked = self._asked, False
        if self._service.ends_turns and not asked:
            self._hear(EndOfTurn(turn.transcript))
            return
        words = turn.words
        confidence = sum(word.confidence for word in words) / len(words) if words else 1.0
        self._hear(base.Final(turn.transcript, confidence, answers_finalize=asked))

    def _lose(self, error: ServiceError) -> None:
        if self._error is not None:
            return
        self._error = error
        self._stop_alarm()
        self._ready.set()
        if self._begun and not self._closed:
            self._hear(HearingLost(error))
