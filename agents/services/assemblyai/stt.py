"""AssemblyAI's streaming speech-to-text, version 3, by its own SDK.

https://www.assemblyai.com/docs/api-reference/streaming-api/universal-streaming
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from assemblyai.streaming.v3 import (
    AsyncRealTimeTranscriber,
    BeginEvent,
    Encoding,
    RealTimeError,
    RealTimeEvents,
    RealTimeParameters,
    RealTimeTranscriberOptions,
    SpeechModel,
    TerminationEvent,
    TurnEvent,
)
from assemblyai.streaming.v3.models import ForceEndpoint, OperationMessage, TerminateSession
from pydantic import Field, SecretStr, ValidationError

from offhook.agents.api import SettingsError
from offhook.agents.services import base
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
from offhook.codecs.audio import L16_8K, L16_16K, PCMU, AudioFormat

__all__ = ["AssemblyAi"]

MESSAGE_SECONDS: Final = 0.06
"""Length of one audio message: the service takes 50 to 1000 ms (error 3007), and whole frames are 20."""

MAX_BACKLOG: Final = 50
"""Audio messages that may wait for the connection, 3 s; what comes then is dropped: it would be answered too late."""

SILENCE_TIME: Final = 1.0
"""Seconds after which a forced end of a turn in which nothing was heard yet counts as silence. The service does not
say so, and a first word takes it some 0.3 s."""

CLOSING_TIME: Final = 1.0
"""Seconds for the service to end the session, which it bills by time; then the connection is cut."""

REJECTED: Final = frozenset({3006, 3007, 4000, 4001, 4002, 4003, 4100, 4101})
"""Codes of closing and errors that will come again: key, credit, parameters. (RealTimeErrorCodes of the SDK)"""

RATE_LIMITED: Final = frozenset({429, 1013, 3009, 4029, 4102})
"""Too many sessions, or audio too fast."""


class AssemblyAi(SpeechToText):
    """AssemblyAI's streaming models, which take μ-law as it comes from the telephone."""

    class Settings(ServiceSettings):
        """What AssemblyAI listens for. Its own defaults hold for what is not given."""

        url: str = Field(default="wss://streaming.assemblyai.com", pattern=r"^wss?://[^/]+$")
        """The European servers: wss://streaming.eu.assemblyai.com."""
        api_key: SecretStr | None = None
        """Taken from the environment variable ASSEMBLYAI_API_KEY when it is not given."""
        model: SpeechModel = SpeechModel.universal_streaming_english
        """For other languages than English: universal-streaming-multilingual, whisper-rt, or one of the pro models."""
        languages: list[str] = Field(default_factory=list)
        """Codes such as `es`, for models that take them."""
        keyterms: list[str] = Field(default_factory=list, max_length=100)
        """Names and words to expect."""
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
        key = settings.api_key.get_secret_value() if settings.api_key is not None else ""
        self.key = key or os.environ.get("ASSEMBLYAI_API_KEY", "")
        if not self.key:
            raise SettingsError("stt.api_key: missing: give AssemblyAI's key there or as ASSEMBLYAI_API_KEY")

    def parameters(self, format: AudioFormat) -> RealTimeParameters:
        """What goes into the URL of a session."""
        settings = self.settings
        return RealTimeParameters(
            sample_rate=format.rate,
            encoding=Encoding.pcm_mulaw if format.encoding == "pcmu" else Encoding.pcm_s16le,
            speech_model=settings.model,
            language_codes=settings.languages or None,
            keyterms_prompt=settings.keyterms or None,
            format_turns=settings.format_turns,
            speaker_labels_revision_interval_ms=None,
            end_of_turn_confidence_threshold=settings.end_of_turn_confidence,
            min_turn_silence=_milliseconds(settings.min_turn_silence),
            max_turn_silence=_milliseconds(settings.max_turn_silence),
        )

    async def open(self, format: AudioFormat, hear: Callable[[Heard], None]) -> Transcription:
        stream = _AssemblyAiStream(self, format, hear)
        await stream.connect()
        return stream


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _kind(code: int | None) -> FaultKind:
    if code in RATE_LIMITED:
        return "rate_limited"
    if code in REJECTED or (code is not None and 400 <= code < 500 and code != 408):
        return "rejected"
    return "unavailable"


class _Client(AsyncRealTimeTranscriber):
    """The SDK's client, with some of what it keeps to itself.

    Its queue has no end, and it does not tell of a stream that ends with code 1000 or in a message it cannot read.
    """

    def post(self, message: OperationMessage) -> bool:
        """Send when there is time; False when too much waits already."""
        assert self._write_queue is not None
        if self._write_queue.qsize() >= MAX_BACKLOG:
            return False
        self._write_queue.put_nowait(message)
        return True

    @property
    def reading(self) -> asyncio.Task[None] | None:
        """The task that ends when nothing comes any more."""
        return self._read_task

    def abort(self) -> None:
        """Cut the connection, if there is one."""
        if self._websocket is not None:
            self._websocket.transport.abort()


class _AssemblyAiStream(Transcription):
    def __init__(self, service: AssemblyAi, format: AudioFormat, hear: Callable[[Heard], None]) -> None:
        self._service, self._format, self._hear = service, format, hear
        options = RealTimeTranscriberOptions(
            api_host=service.settings.url,
            api_key=service.key,
            connect_timeout=service.limits.timeout + 1,  # ours comes first
            max_connection_retries=0,
        )
        self._client = _Client(options)
        self._client.on(RealTimeEvents.Begin, self._on_begin)
        self._client.on(RealTimeEvents.Turn, self._on_turn)
        self._client.on(RealTimeEvents.Termination, self._on_termination)
        self._client.on(RealTimeEvents.Error, self._on_error)
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
        service = self._service
        try:
            async with asyncio.timeout(service.limits.timeout):
                await self._client.connect(service.parameters(self._format))
                if self._client.reading is not None:
                    self._client.reading.add_done_callback(self._on_read_end)
                await self._ready.wait()
            if self._error is not None:
                raise self._error
        except TimeoutError as error:
            await self.close()
            late = f"no session in {service.limits.timeout:g} s"
            raise ServiceError(service.name, "timeout", late) from error
        except BaseException:
            await self.close()
            raise

    # --- to the service

    def push(self, audio: bytes) -> None:
        self._audio += audio
        if len(self._audio) >= self._format.size(MESSAGE_SECONDS):
            self._flush()

    def _flush(self) -> None:
        if self._error is None:
            self._client.post(bytes(self._audio))
        self._audio.clear()

    def finalize(self) -> None:
        if self._audio:
            missing = self._format.size(MESSAGE_SECONDS) - len(self._audio)
            self._audio += (self._format.silence * 3)[:missing]
            self._flush()
        if self._error is not None:
            return
        self._client.post(ForceEndpoint())
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

    async def close(self) -> None:
        self._closed = True
        self._stop_alarm()
        reading = self._client.reading
        if reading is not None and not reading.done() and self._client.post(TerminateSession()):
            await asyncio.wait([reading], timeout=CLOSING_TIME)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_TIME):
                await self._client.disconnect()
        self._client.abort()

    # --- from the service

    def _on_begin(self, _: AsyncRealTimeTranscriber, __: BeginEvent) -> None:
        self._begun = True
        self._ready.set()

    def _on_turn(self, _: AsyncRealTimeTranscriber, turn: TurnEvent) -> None:
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

    def _on_termination(self, _: AsyncRealTimeTranscriber, __: TerminationEvent) -> None:
        self._lose("unavailable", "the service ended the session")

    def _on_error(self, _: AsyncRealTimeTranscriber, error: RealTimeError) -> None:
        self._lose(_kind(error.code), f"{error.code} {error}" if error.code else str(error))

    def _on_read_end(self, reading: asyncio.Task[None]) -> None:
        error = None if reading.cancelled() else reading.exception()
        if isinstance(error, ValidationError):
            self._lose("bad_reply", f"a message that the SDK does not understand: {error.errors()[0]['msg']}")
        else:
            self._lose("unavailable" if error is None else "bad_reply", repr(error) if error else "connection closed")

    def _lose(self, kind: FaultKind, detail: str) -> None:
        if self._closed or self._error is not None:
            return
        self._error = ServiceError(self._service.name, kind, detail)
        self._stop_alarm()
        self._ready.set()
        if self._begun:
            self._hear(HearingLost(self._error))
