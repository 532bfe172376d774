"""Google Cloud Speech-to-Text, version 2, by its own SDK over gRPC.

https://cloud.google.com/speech-to-text/v2/docs/streaming-recognize

A stream of Google's lasts five minutes, ends as well when nobody speaks into it, and has no message that asks for the
text so far; closing our half of it does. So a call's audio goes through one stream after another (a leg each): a pause
closes one and opens the next, and so does age. Audio of a leg that no final text covers when it grows old goes into
the next leg once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

from google.api_core.exceptions import Aborted, GoogleAPICallError, OutOfRange
from google.auth.exceptions import GoogleAuthError
from google.cloud import speech_v2
from google.cloud.speech_v2 import (
    ExplicitDecodingConfig,
    PhraseSet,
    RecognitionConfig,
    RecognitionFeatures,
    SpeechAdaptation,
    StreamingRecognitionConfig,
    StreamingRecognitionFeatures,
    StreamingRecognitionResult,
    StreamingRecognizeRequest,
)
from google.cloud.speech_v2.services.speech.transports import SpeechGrpcAsyncIOTransport
from pydantic import Field

from offhook.agents.api import SettingsError
from offhook.agents.services import base
from offhook.agents.services.access import Languages
from offhook.agents.services.base import (
    Heard,
    HearingLost,
    Partial,
    ServiceError,
    SpeechToText,
    Transcription,
)
from offhook.agents.services.google.client import GoogleSettings, HostClient, failure
from offhook.codecs.audio import L16_8K, L16_16K, PCMA, PCMU, AudioFormat, Encoding

__all__ = ["GoogleSpeech"]

MESSAGE_SECONDS: Final = 0.06
"""Length of one audio message: Google advises 100 ms for efficiency, and asks for no more than 15 kB."""

MAX_MESSAGE: Final = 15_000
"""Bytes of audio that one message may have."""

MAX_BACKLOG: Final = 50
"""Audio messages that may wait for the connection, 3 s; what comes then is dropped: it would be answered too late."""

OLD: Final = 240.0
"""Seconds after which a leg is replaced in the next pause: Google ends it after 305."""

TOO_OLD: Final = 290.0
"""Seconds after which it is replaced in the midst of speech."""

YOUNG: Final = 5.0
"""Seconds: a leg that Google ends sooner, though nothing is wrong with it, is a fault, lest we open legs for ever."""

MAX_UNHEARD: Final = 30.0
"""Seconds of speech kept for the next leg."""

UNNOTICED: Final = 2.0
"""Seconds of audio given to the next leg when no speech has been noticed: a first word may be in there."""

ENCODINGS: Final[dict[Encoding, int]] = {
    "pcmu": ExplicitDecodingConfig.AudioEncoding.MULAW,
    "pcma": ExplicitDecodingConfig.AudioEncoding.ALAW,
    "l16": ExplicitDecodingConfig.AudioEncoding.LINEAR16,
}


class GoogleSpeech(SpeechToText):
    """Google's recognisers, of which `telephony` is made for 8 kHz; G.711 is taken as it comes."""

    class Settings(GoogleSettings):
        """What Google listens for."""

        project: str = Field(default="", pattern=r"^[a-z0-9:.-]*$")
        """The project that pays; by default that of the credentials. An api_key needs it."""
        region: str = Field(default="global", pattern=r"^[a-z0-9-]+$")
        """Where the audio is heard, such as `europe-west4`; not every place has every model."""
        model: str = "telephony"
        """Also telephony_short, long, chirp_3."""
        language: Languages = Field(default=("en-US",), min_length=1, max_length=3)
        """BCP 47, such as en-IN, or up to three; the first is the one to expect."""
        keyterms: tuple[str, ...] = Field(default=(), max_length=500)
        """Names and words of the trade that it should expect."""
        punctuate: bool = True
        """Texts with punctuation, which tells a finished sentence from half of one."""

    formats = (PCMU, PCMA, L16_8K, L16_16K)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.settings = settings
        place = "" if settings.region == "global" else f"{settings.region}-"
        self._client = HostClient(
            "stt",
            settings,
            f"{place}speech.googleapis.com",
            SpeechGrpcAsyncIOTransport,
            speech_v2.SpeechAsyncClient,
        )
        if (settings.in_the_clear or settings.api_key is not None) and not settings.project:
            raise SettingsError("stt.project: missing: an api_key does not say which project pays")
        self.recognizer = ""

    async def warm(self) -> None:
        """Find the credentials. The connection comes with the first call: a ringing phone leaves the time for it."""
        await self.client()

    async def client(self) -> speech_v2.SpeechAsyncClient:
        """The host's client. Raises SettingsError."""
        client = await self._client.get()
        project = self.settings.project or self._client.project
        if not project:
            raise SettingsError("stt.project: missing: the credentials do not say which project pays")
        self.recognizer = f"projects/{project}/locations/{self.settings.region}/recognizers/_"
        return client

    async def close(self) -> None:
        await self._client.close()

    def config(self, format: AudioFormat) -> StreamingRecognitionConfig:
        """What the first message of a leg asks for."""
        settings = self.settings
        phrases = PhraseSet(phrases=[PhraseSet.Phrase(value=term) for term in settings.keyterms])
        config = RecognitionConfig(
            explicit_decoding_config=ExplicitDecodingConfig(
                encoding=ENCODINGS[format.encoding], sample_rate_hertz=format.rate, audio_channel_count=1
            ),
            model=settings.model,
            language_codes=settings.language,
            features=RecognitionFeatures(enable_automatic_punctuation=settings.punctuate),
        )
        if settings.keyterms:
            config.adaptation = SpeechAdaptation(
                phrase_sets=[SpeechAdaptation.AdaptationPhraseSet(inline_phrase_set=phrases)]
            )
        return StreamingRecognitionConfig(
            config=config, streaming_features=StreamingRecognitionFeatures(interim_results=True)
        )

    async def open(self, format: AudioFormat, hear: Callable[[Heard], None]) -> Transcription:
        try:
            async with asyncio.timeout(self.limits.timeout):
                stream = _GoogleStream(self, await self.client(), format, hear)
                try:
                    await stream.connected()
                except BaseException:
                    await stream.close()
                    raise
        except TimeoutError as error:
            raise ServiceError(self.name, "timeout", f"no connection in {self.limits.timeout:g} s") from error
        return stream


class _Leg:
    """One of Google's streams."""

    def __init__(self, owner: _GoogleStream, audio: bytes) -> None:
        self._owner = owner
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        "Audio to send; None ends our half."
        self.began = owner.clock()
        self.unheard = bytearray()
        "Audio that no final text covers."
        self._heard = 0
        "Bytes of audio before that."
        self.interim = ""
        self.finals: list[base.Final] = []
        "Once our half is closed: what comes before the end."
        self.asked = False
        self.connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for at in range(0, len(audio), MAX_MESSAGE):
            self.push(audio[at : at + MAX_MESSAGE])
        self.task = asyncio.get_running_loop().create_task(self._run(), name="google-stt")

    @property
    def empty(self) -> bool:
        """Nothing has been said into it since the last final text."""
        return not self.unheard and not self.interim

    def push(self, audio: bytes) -> None:
        self.queue.put_nowait(audio)
        self.unheard += audio
        if (over := len(self.unheard) - self._owner.format.size(MAX_UNHEARD)) > 0:
            self._forget(over)

    def _forget(self, size: int) -> None:
        del self.unheard[:size]
        self._heard += size

    def ask(self) -> None:
        """Close our half, so that Google gives what it still has."""
        self.asked = True
        self.queue.put_nowait(None)

    async def _requests(self) -> AsyncGenerator[StreamingRecognizeRequest, None]:
        service = self._owner.service
        config = service.config(self._owner.format)
        yield StreamingRecognizeRequest(recognizer=service.recognizer, streaming_config=config)
        while (audio := await self.queue.get()) is not None:
            yield StreamingRecognizeRequest(audio=audio)

    async def _run(self) -> None:
        owner, error, brief = self._owner, None, False
        try:
            stream: Any = await owner.client.streaming_recognize(requests=self._requests())
            self.connected.set_result(None)
            try:
                async for response in stream:
                    self._take(list(response.results))
            finally:
                stream.cancel()
        except GoogleAPICallError as fault:
            error = failure(owner.service.name, fault)
            brief = isinstance(fault, Aborted | OutOfRange)
        except GoogleAuthError as fault:
            error = ServiceError(owner.service.name, "unavailable", f"credentials: {fault}")
        finally:
            self.queue.put_nowait(None)  # whoever waits for audio to send need not any more
            if not self.connected.done():
                self.connected.set_result(None)
        owner.over(self, error, limit=error is None or brief)

    def _take(self, results: list[StreamingRecognitionResult]) -> None:
        if not results:
            return
        self.interim = ""
        for result in results:
            if not result.alternatives:
                continue
            best = result.alternatives[0]
            if not result.is_final:
                self.interim += best.transcript
                continue
            final = base.Final(best.transcript.strip(), best.confidence or 1.0)
            covered = self._owner.format.size(result.result_end_offset.total_seconds())
            self._forget(max(0, covered - self._heard))
            if self.asked:
                self.finals.append(final)
            elif final.text:
                self._owner.hear(final)
        if self.interim and not self.asked:
            self._owner.hear(Partial(self.interim.strip()))


class _GoogleStream(Transcription):
    def __init__(
        self,
        service: GoogleSpeech,
        client: speech_v2.SpeechAsyncClient,
        format: AudioFormat,
        hear: Callable[[Heard], None],
    ) -> None:
        self.service, self.client, self.format = service, client, format
        self.clock = asyncio.get_running_loop().time
        self._hear = hear
        self._error: ServiceError | None = None
        self._open = False
        self._audio = bytearray()
        self._tasks: set[asyncio.Task[None]] = set()
        self._leg = self._new_leg(b"")

    async def connected(self) -> None:
        """Wait for the first leg. Raises ServiceError."""
        await asyncio.shield(self._leg.connected)
        if self._error is not None:
            raise self._error
        self._open = True

    def _new_leg(self, audio: bytes) -> _Leg:
        leg = _Leg(self, audio)
        self._tasks.add(leg.task)
        leg.task.add_done_callback(self._tasks.discard)
        return leg

    # --- to the service

    def push(self, audio: bytes) -> None:
        self._audio += audio
        if len(self._audio) >= self.format.size(MESSAGE_SECONDS):
            self._flush()

    def _flush(self) -> None:
        audio = bytes(self._audio)
        self._audio.clear()
        if self._error is not None:
            return
        age = self.clock() - self._leg.began
        if age > TOO_OLD or (age > OLD and not self._leg.interim):
            self._replace(self._leg)
        if self._leg.queue.qsize() < MAX_BACKLOG:
            self._leg.push(audio)

    def _replace(self, leg: _Leg) -> None:
        """Let a new leg go on where this one was."""
        leg.task.cancel()
        since = 0 if leg.interim else -self.format.size(UNNOTICED)
        self._leg = self._new_leg(bytes(leg.unheard[since:]))

    def finalize(self) -> None:
        if self._audio:
            self._flush()
        if self._error is not None:
            return
        leg = self._leg
        if leg.empty:
            self.hear(base.Final("", answers_finalize=True))
            return
        leg.ask()
        self._leg = self._new_leg(b"")

    async def close(self) -> None:
        self._open = False
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # --- from the service

    def hear(self, heard: Heard) -> None:
        """Pass it on, unless the stream is closed."""
        if self._open:
            self._hear(heard)

    def over(self, leg: _Leg, error: ServiceError | None, *, limit: bool) -> None:
        """A leg has ended; `limit`: for no other reason than that Google's streams do."""
        if self._error is not None:
            return
        if leg.asked and error is None:
            texts = [final.text for final in leg.finals] or [leg.interim.strip()]
            sure = min((final.confidence for final in leg.finals), default=1.0)
            self.hear(base.Final(" ".join(text for text in texts if text), sure, answers_finalize=True))
        elif limit and not leg.asked and self.clock() - leg.began >= YOUNG:
            self._replace(leg)
        else:
            self._error = error or ServiceError(self.service.name, "unavailable", "the service ended the stream")
            self.hear(HearingLost(self._error))
