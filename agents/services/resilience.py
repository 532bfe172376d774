"""What stands between the conversation and its services: time limits, retries, fallbacks and circuit breakers.

A call is given one object for each role, made of the services that the host shares, in order of preference:

    model = ResilientModel(services_of("llm", section), report)

It keeps the contract of its role (`base`), so the conversation need not know that there may be several services
behind it. What happens to a request:

- A service whose breaker is open is passed over at once.
- Its first result must come within `timeout` seconds, over all tries: a fault is tried again after a short pause
  while there is time left and `retries` allow, unless the service said `rejected`.
- Then it is the next one's turn, with its own time. When all have failed, the last error is raised.
- Once something has been given out, nothing is tried again: an answer or a sentence cannot begin anew. A gap of more
  than `stall` seconds, or any fault, is raised.

Hearing differs: a stream that breaks is opened anew elsewhere, and the audio that is not text yet is heard again.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Final, Protocol, TypeVar
from weakref import WeakKeyDictionary

from offhook.agents.api import SettingsError
from offhook.agents.services import base
from offhook.agents.services.base import (
    Audio,
    Delta,
    EndOfTurn,
    FunctionSchema,
    Heard,
    HearingLost,
    LanguageModel,
    Message,
    Partial,
    Service,
    ServiceError,
    SpeechToText,
    Spoken,
    TextToSpeech,
    Transcription,
    Voice,
)
from offhook.agents.services.registry import Role
from offhook.agents.services.shared import begin_warming
from offhook.codecs.audio import AudioFormat
from offhook.codecs.convert import Converter

BACKOFF: Final = 0.1
"""Seconds before the second try, doubled before each further one, give or take half: the caller is waiting."""

REPLAY_SECONDS: Final = 15.0
"""Audio kept for a stream that may break: as long as people speak without a pause, 120 kB at 8 kHz."""

REPLAY_PACE: Final = 4.0
"""Times real time: soon caught up, yet no service takes it for a flood (AssemblyAI closes on those)."""

KEPT_FRAMES: Final = 25
"""Frames that a text that came unasked may not cover yet, half a second: services answer that late."""

UNNOTICED_FRAMES: Final = 100
"""Frames heard again when nobody has been heard to speak, two seconds: a first word may be in there, and more would
keep the new stream busy with silence."""

CLOSING_TIME: Final = 4.0
"""Seconds that a stream or voice gets to close; only the end of the call waits for it."""

S = TypeVar("S", bound=Service)
T = TypeVar("T")


class Report(Protocol):
    """Is told what each try came to. `AgentCall.service` is one."""

    def __call__(self, role: Role, name: str, ttfb: float, fault: str, detail: str, /) -> None:
        """Take the seconds to the first result (hearing: from `finalize` to its answer), or the kind of the fault."""


class CircuitBreaker:
    """Keeps calls away from a service that has just failed several times running.

    Closed, it lets everything through. `failures` without a success between them, within `window` seconds, open it
    for `open_for` seconds; then one try is let through every `open_for` seconds until one is answered. A fault of kind
    `rejected` is best not told to it: it comes at once, so that nobody waits for it, and one call's odd request must
    not close the service to others. Times are monotonic seconds.
    """

    def __init__(self, failures: int = 3, window: float = 30.0, open_for: float = 15.0) -> None:
        self.failures, self.window, self.open_for = failures, window, open_for
        self._failed: deque[float] = deque(maxlen=failures)
        self._next_probe: float | None = None

    def is_open(self, now: float) -> bool:
        """Whether a try would be turned away. Changes nothing."""
        return self._next_probe is not None and now < self._next_probe

    def allows(self, now: float) -> bool:
        """Whether this try may be made; a probe that is allowed keeps others away meanwhile."""
        if self.is_open(now):
            return False
        if self._next_probe is not None:
            self._next_probe = now + self.open_for
        return True

    def reached(self) -> None:
        """It answers again, or lets itself be connected to: others may try too, but the next fault opens it at once."""
        self._next_probe = None

    def succeeded(self) -> None:
        """A try was well to its end."""
        self._failed.clear()
        self._next_probe = None

    def failed(self, now: float) -> None:
        """A try came to nothing."""
        self._failed.append(now)
        if self._next_probe is not None or (
            len(self._failed) == self.failures and now - self._failed[0] <= self.window
        ):
            self._next_probe = now + self.open_for


_breakers: WeakKeyDictionary[Service, CircuitBreaker] = WeakKeyDictionary()


def breaker_of(service: Service) -> CircuitBreaker:
    """The breaker that all calls of this host share for a service."""
    return _breakers.setdefault(service, CircuitBreaker())


async def _attempts(
    role: Role,
    services: Sequence[S],
    start: Callable[[S], AsyncGenerator[T, None]],
    report: Report,
    *,
    vouches: bool = True,
    failed: Callable[[], None] | None = None,
) -> AsyncGenerator[T, None]:
    """Give what the first service that answers gives.

    Args:
        start: begins one try.
        vouches: a result shows that the service works, and the time to it is reported; not so a mere connection.
        failed: called after each try that failed.

    Raises, while iterated:
        ServiceError: every service failed, or one in the middle.
    """
    clock = asyncio.get_running_loop().time
    last: ServiceError | None = None
    for service in services:
        breaker, limits = breaker_of(service), service.limits
        deadline = clock() + limits.timeout
        for attempt in range(1 + limits.retries):
            began = clock()
            if not breaker.allows(began):
                why = f"left alone for a while after {breaker.failures} faults running"
                last = last or ServiceError(service.name, "unavailable", why)
                break
            given = False
            items = start(service)
            try:
                while True:
                    try:
                        async with asyncio.timeout_at(clock() + limits.stall if given else deadline):
                            item = await anext(items, _END)
                    except TimeoutError as late:
                        missed = f"no more for {limits.stall:g} s" if given else f"no result in {limits.timeout:g} s"
                        raise ServiceError(service.name, "timeout", missed) from late
                    if not given and vouches:
                        report(role, service.name, clock() - began, "", "")
                    if isinstance(item, _End):
                        break
                    if not given:
                        breaker.reached()
                    given = True
                    yield item
                if vouches:
                    breaker.succeeded()
                return
            except (GeneratorExit, asyncio.CancelledError):
                if given and vouches:
                    breaker.succeeded()  # well until now, and no more is wanted
                raise
            except (ServiceError, SettingsError) as fault:
                error = _as_service_error(service, fault)
                now = clock()
                if error.kind != "rejected":
                    breaker.failed(now)
                report(role, service.name, 0.0, error.kind, error.detail)
                last = error
                if failed is not None:
                    failed()
                if given:
                    raise error from fault
                pause = BACKOFF * 2**attempt * random.uniform(0.5, 1.5)  # noqa: S311  # no secret
                pause = max(pause, error.retry_after)
                if error.kind == "rejected" or attempt == limits.retries or now + pause >= deadline:
                    break
                await asyncio.sleep(pause)
            finally:
                await items.aclose()
    assert last is not None, "there is at least one service"
    raise last


def _as_service_error(service: Service, fault: ServiceError | SettingsError) -> ServiceError:
    """Settings that turn out not to work, such as a missing account, are this service's fault and not the call's."""
    return fault if isinstance(fault, ServiceError) else ServiceError(service.name, "rejected", str(fault))


async def _warm(role: Role, services: Sequence[Service], report: Report) -> None:
    """Wait for the first service that can be warmed up; the others are warmed meanwhile.

    Raises:
        ServiceError: none can.
    """
    tasks = [begin_warming(service) for service in services]
    last: ServiceError | None = None
    for service, task in zip(services, tasks, strict=True):
        try:
            await asyncio.shield(task)
        except (ServiceError, SettingsError) as fault:
            last = _as_service_error(service, fault)
            report(role, service.name, 0.0, last.kind, last.detail)
        else:
            return
    assert last is not None, "there is at least one service"
    raise last


class _End:
    """Nothing more comes."""


_END: Final = _End()


async def _first(attempts: AsyncGenerator[T, None]) -> T:
    async with aclosing(attempts) as results:
        return await anext(results)


class _Closing:
    """Closes what has failed, which may take its time or fail in turn, without anybody's waiting for it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, thing: Transcription | Voice) -> None:
        task = asyncio.get_running_loop().create_task(self._close(thing), name="service-close")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _close(self, thing: Transcription | Voice) -> None:
        with suppress(ServiceError, OSError, TimeoutError):
            async with asyncio.timeout(CLOSING_TIME):
                await thing.close()

    async def finish(self) -> None:
        """Wait until all are closed."""
        if self._tasks:
            await asyncio.wait(self._tasks)


# --- thinking --------------------------------------------------------------------------


class ResilientModel(LanguageModel):
    """One call's language model: the first of several services that answers.

    Args:
        services: in order of preference, at least one. They stay the host's: closing this leaves them open.
        report: is told of every try.
    """

    def __init__(self, services: Sequence[LanguageModel], report: Report) -> None:
        self.name, self.limits = services[0].name, services[0].limits
        self._services, self._report = tuple(services), report

    async def warm(self) -> None:
        """Warm the services up, once a host. Raises ServiceError when none can be."""
        await _warm("llm", self._services, self._report)

    def reply(
        self, messages: Sequence[Message], functions: Sequence[FunctionSchema] = ()
    ) -> AsyncGenerator[Delta, None]:
        return _attempts("llm", self._services, lambda service: service.reply(messages, functions), self._report)


# --- speaking --------------------------------------------------------------------------


class ResilientTextToSpeech(TextToSpeech):
    """One call's way to a voice: that of the first service that can be reached. Arguments as for ResilientModel.

    A call whose voice had to change keeps the new one as long as it works: nobody should hear it change to and fro.
    """

    def __init__(self, services: Sequence[TextToSpeech], report: Report) -> None:
        self.name, self.limits, self.formats = services[0].name, services[0].limits, services[0].formats
        self._services, self._report = tuple(services), report

    async def warm(self) -> None:
        """Warm the services up, once a host. Raises ServiceError when none can be."""
        await _warm("tts", self._services, self._report)

    async def open(self, format: AudioFormat) -> Voice:
        voice = _ResilientVoice(self._services, format, self._report)
        await voice.connect()
        return voice


class _ResilientVoice(Voice):
    def __init__(self, services: Sequence[TextToSpeech], format: AudioFormat, report: Report) -> None:
        self._services, self._format, self._report = services, format, report
        self._service, self._source = services[0], format
        self._voice: Voice | None = None
        self._closing = _Closing()

    @property
    def first_choice(self) -> bool:
        return self._service is self._services[0]

    async def connect(self) -> None:
        """Open the voice of the first service that can be reached. Raises ServiceError when none can."""
        await _first(_attempts("tts", self._services, self._open, self._report, vouches=False))

    def synthesize(self, text: str, *, previous: str = "") -> AsyncGenerator[Spoken, None]:
        order = [self._service, *(service for service in self._services if service is not self._service)]
        return _attempts(
            "tts", order, lambda service: self._speak(service, text, previous), self._report, failed=self._drop
        )

    async def _open(self, service: TextToSpeech) -> AsyncGenerator[Voice, None]:
        """The voice of this service, opened unless it is open."""
        if self._voice is None or self._service is not service:
            self._drop()
            source = self._format if self._format in service.formats else service.formats[0]
            self._voice = await service.open(source)
            self._service, self._source = service, source
        yield self._voice

    async def _speak(self, service: TextToSpeech, text: str, previous: str) -> AsyncGenerator[Spoken, None]:
        voice = await _first(self._open(service))
        converter = Converter(self._source, self._format)
        async with aclosing(voice.synthesize(text, previous=previous)) as spoken:
            async for item in spoken:
                yield Audio(converter.convert(item.data)) if isinstance(item, Audio) else item
        if converter.delay:
            yield Audio(converter.convert(self._source.silence))  # pushes out the end of the last word

    def _drop(self) -> None:
        voice, self._voice = self._voice, None
        if voice is not None:
            self._closing.begin(voice)

    async def close(self) -> None:
        self._drop()
        await self._closing.finish()


# --- hearing ---------------------------------------------------------------------------


class ResilientSpeechToText(SpeechToText):
    """One call's way into text. Arguments as for ResilientModel.

    `ends_turns` and `gives_partials` say what the service in use does, so they may change during a call.
    """

    def __init__(self, services: Sequence[SpeechToText], report: Report) -> None:
        self.name, self.limits, self.formats = services[0].name, services[0].limits, services[0].formats
        self.ends_turns, self.gives_partials = services[0].ends_turns, services[0].gives_partials
        self.services, self.report = tuple(services), report

    async def warm(self) -> None:
        """Warm the services up, once a host. Raises ServiceError when none can be."""
        await _warm("stt", self.services, self.report)

    async def open(self, format: AudioFormat, hear: Callable[[Heard], None]) -> Transcription:
        transcription = _ResilientTranscription(self, format, hear)
        await transcription.connect()
        return transcription


class _ResilientTranscription(Transcription):
    """One call's stream, whichever service has it.

    Frames wait in `_pending` until a stream takes them, and stay in `_sent` until they are text. When the stream is
    lost, what is in `_sent` goes back to the front of `_pending`, and a task opens the next stream and feeds it. A
    stream's events come with its token, so that those of an earlier one are told apart.
    """

    def __init__(self, owner: ResilientSpeechToText, format: AudioFormat, hear: Callable[[Heard], None]) -> None:
        self._owner, self._format, self._hear = owner, format, hear
        self._service = owner.services[0]
        self._stream: Transcription | None = None
        "The stream in use; None while the next one is opened or catches up."
        self._token = object()
        self._converter = Converter(format, format)
        self._pending: deque[bytes] = deque()
        self._sent: deque[bytes] = deque()
        self._kept = 0
        "Bytes in both."
        self._sent_since = 0
        "Frames sent since `finalize`."
        self._asked_at: float | None = None
        "When `finalize` was called, until it is answered."
        self._alarm: asyncio.TimerHandle | None = None
        self._partial = False
        "There is text that is not final."
        self._partials = False
        "There has been such text, so that without any the caller is silent, or has just begun."
        self._lost: ServiceError | None = None
        self._task: asyncio.Task[None] | None = None
        "Looks for the next stream."
        self._closing = _Closing()
        self._clock = asyncio.get_running_loop().time

    async def connect(self) -> None:
        """Open the first stream. Raises ServiceError when no service can be reached."""
        self._use(await self._open(self._owner.services))

    # --- what the conversation asks for

    def push(self, audio: bytes) -> None:
        self._pending.append(audio)
        self._kept += len(audio)
        if self._stream is not None:
            self._feed(self._stream)
        while self._kept > self._format.size(REPLAY_SECONDS):
            self._kept -= len((self._sent or self._pending).popleft())

    def finalize(self) -> None:
        self._asked_at = self._clock()
        if self._stream is not None:
            self._finalize(self._stream)

    async def close(self) -> None:
        self._token = object()
        self._stop_alarm()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        stream, self._stream = self._stream, None
        if stream is not None:
            self._closing.begin(stream)
        await self._closing.finish()

    # --- the stream in use

    async def _open(self, services: Sequence[SpeechToText]) -> Transcription:
        return await _first(_attempts("stt", services, self._start, self._owner.report, vouches=False))

    async def _start(self, service: SpeechToText) -> AsyncGenerator[Transcription, None]:
        token = self._token = object()
        source = self._format if self._format in service.formats else service.formats[0]
        self._service, self._lost = service, None
        self._owner.ends_turns, self._owner.gives_partials = service.ends_turns, service.gives_partials
        self._converter = Converter(self._format, source)
        yield await service.open(source, lambda heard: self._take(heard, token))

    def _use(self, stream: Transcription) -> None:
        """All caught up: from now on frames go straight to this stream, unless it is lost already."""
        self._stream = stream
        if self._lost is not None:
            self._lose(self._lost)
        elif self._asked_at is not None:
            self._finalize(stream)

    def _feed(self, stream: Transcription) -> None:
        while self._pending:
            self._send(stream, self._pending.popleft())

    def _send(self, stream: Transcription, frame: bytes) -> None:
        self._sent.append(frame)
        self._sent_since += 1
        stream.push(self._converter.convert(frame))

    def _finalize(self, stream: Transcription) -> None:
        self._stop_alarm()
        # A service that ends turns by itself need not answer: its own ears decide.
        if not self._service.ends_turns:
            self._alarm = asyncio.get_running_loop().call_later(self._service.limits.stall, self._unanswered)
        self._sent_since = 0
        stream.finalize()

    def _stop_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _unanswered(self) -> None:
        stall = self._service.limits.stall
        self._lose(ServiceError(self._service.name, "timeout", f"no final text within {stall:g} s"))

    # --- what it gives

    def _take(self, heard: Heard, token: object) -> None:
        if token is not self._token:
            return
        if isinstance(heard, HearingLost):
            self._lose(heard.error)
            return
        if isinstance(heard, Partial | base.Final | EndOfTurn):
            breaker_of(self._service).succeeded()
            self._partial = isinstance(heard, Partial)
            self._partials = self._partials or self._partial
        if isinstance(heard, base.Final) and heard.answers_finalize:
            self._settle(self._sent_since)
            if self._asked_at is not None:
                self._owner.report("stt", self._service.name, self._clock() - self._asked_at, "", "")
            self._asked_at = None
            self._stop_alarm()
        elif isinstance(heard, base.Final | EndOfTurn):
            self._settle(KEPT_FRAMES)
        self._hear(heard)

    def _settle(self, frames: int) -> None:
        """All that was sent is text now, but for the last frames."""
        while len(self._sent) > frames:
            self._kept -= len(self._sent.popleft())

    # --- when it is lost

    def _lose(self, error: ServiceError) -> None:
        self._lost = error
        stream, self._stream = self._stream, None
        self._stop_alarm()
        if stream is None:
            return  # it is being opened or fed, and whoever does that will see
        self._token = object()
        self._task = asyncio.get_running_loop().create_task(self._recover(stream, error), name="stt-recover")

    async def _recover(self, broken: Transcription, error: ServiceError) -> None:
        """Open the next stream and let it hear what is not text yet, until one holds or none is left."""
        services = self._owner.services
        while True:
            breaker_of(self._service).failed(self._clock())
            self._owner.report("stt", self._service.name, 0.0, error.kind, error.detail)
            self._closing.begin(broken)
            if self._partials and not self._partial:
                self._settle(UNNOTICED_FRAMES)
            self._pending.extendleft(reversed(self._sent))
            self._sent.clear()
            behind = services.index(self._service) + 1
            try:
                stream = await self._open([*services[behind:], *services[:behind]])
            except ServiceError as last:
                self._hear(HearingLost(last))
                return
            try:
                while self._pending and self._lost is None:
                    frame = self._pending.popleft()
                    self._send(stream, frame)
                    await asyncio.sleep(self._format.duration(len(frame)) / REPLAY_PACE)
            except asyncio.CancelledError:
                self._closing.begin(stream)
                raise
            if self._lost is None:
                self._use(stream)
                return
            broken, error = stream, self._lost
