"""Scripted services in virtual time: what is tried, when, and what the conversation notices of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from offhook.agents.api import SettingsError
from offhook.agents.services.base import (
    Audio,
    Delta,
    EndOfTurn,
    FaultKind,
    Final,
    FunctionSchema,
    Heard,
    HearingLost,
    LanguageModel,
    Message,
    Partial,
    ServiceError,
    ServiceSettings,
    SpeechHeard,
    SpeechToText,
    Spoken,
    TextDelta,
    TextToSpeech,
    Transcription,
    Usage,
    Voice,
    Word,
)
from offhook.agents.services.resilience import (
    CLOSING_TIME,
    KEPT_FRAMES,
    REPLAY_SECONDS,
    UNNOTICED_FRAMES,
    CircuitBreaker,
    ResilientModel,
    ResilientSpeechToText,
    ResilientTextToSpeech,
    breaker_of,
)
from offhook.agents.services.shared import close_shared
from offhook.codecs.audio import L16_8K, L16_16K, PCMU, AudioFormat

Step = float | str | Exception | Word | bytes
"""Seconds to wait, text or audio to give, a fault to raise."""


def now() -> float:
    return asyncio.get_running_loop().time()


def fault(kind: FaultKind, **more: Any) -> ServiceError:
    return ServiceError("fake", kind, "as the script has it", **more)


class Reports(list[tuple[str, str, float, str]]):
    def __call__(self, role: str, name: str, ttfb: float, fault: str, detail: str) -> None:
        self.append((role, name, round(ttfb, 3), fault))

    @property
    def faults(self) -> list[tuple[str, str]]:
        return [(name, fault) for _, name, _, fault in self if fault]


def settings(name: str, **more: Any) -> ServiceSettings:
    return ServiceSettings(service=name, **more)


class Model(LanguageModel):
    def __init__(self, name: str, *scripts: Sequence[Step], **more: Any) -> None:
        super().__init__(settings(name, **more))
        self.scripts = list(scripts)
        self.asked: list[float] = []
        self.closed = 0

    async def reply(
        self, messages: Sequence[Message], functions: Sequence[FunctionSchema] = ()
    ) -> AsyncGenerator[Delta, None]:
        self.asked.append(now())
        try:
            for step in self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield TextDelta(str(step))
        finally:
            self.closed += 1


async def text_of(model: ResilientModel) -> str:
    return "".join([delta.text async for delta in model.reply([]) if isinstance(delta, TextDelta)])


# --- the breaker ----------------------------------------------------------------------


def test_three_faults_running_open_the_breaker() -> None:
    breaker = CircuitBreaker(failures=3, window=30, open_for=15)
    breaker.failed(0)
    breaker.failed(1)
    assert breaker.allows(1)
    breaker.failed(2)
    assert not breaker.allows(2)
    assert not breaker.allows(16.9)


def test_one_probe_at_a_time_goes_through_an_open_breaker() -> None:
    breaker = CircuitBreaker(failures=1, window=30, open_for=15)
    breaker.failed(0)
    assert not breaker.is_open(15)
    assert breaker.allows(15)
    assert not breaker.allows(15)
    assert breaker.allows(30), "the probe was never heard of again"
    breaker.failed(31)
    assert not breaker.allows(45)
    assert breaker.allows(46)
    breaker.succeeded()
    assert breaker.allows(46)
    assert breaker.allows(46)


def test_a_service_that_is_reached_again_is_on_probation() -> None:
    breaker = CircuitBreaker(failures=2, window=30, open_for=15)
    breaker.failed(0)
    breaker.failed(1)
    assert breaker.allows(16)
    breaker.reached()
    assert breaker.allows(16.1)
    breaker.failed(17)
    assert not breaker.allows(17)


def test_a_success_or_a_long_time_between_them_makes_faults_forgotten() -> None:
    breaker = CircuitBreaker(failures=2, window=30, open_for=15)
    breaker.failed(0)
    breaker.succeeded()
    breaker.failed(1)
    assert breaker.allows(1)
    breaker.failed(31.5)
    assert breaker.allows(31.5)
    breaker.failed(32)
    assert not breaker.allows(32)


# --- thinking -------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_the_preferred_model_answers_and_its_time_is_reported() -> None:
    reports = Reports()
    first, second = Model("first", [0.25, "Hello", 0.5, " there"]), Model("second", ["no"])
    assert await text_of(ResilientModel([first, second], reports)) == "Hello there"
    assert reports == [("llm", "first", 0.25, "")]
    assert second.asked == []
    assert first.closed == 1


@pytest.mark.virtual_time
async def test_a_fault_is_tried_again_after_a_short_pause() -> None:
    reports = Reports()
    model = Model("first", [fault("unavailable")], ["Hello"])
    assert await text_of(ResilientModel([model], reports)) == "Hello"
    assert 0.05 <= model.asked[1] - model.asked[0] <= 0.15
    assert reports == [("llm", "first", 0, "unavailable"), ("llm", "first", 0, "")]


@pytest.mark.virtual_time
async def test_the_next_model_is_asked_when_the_first_does_not_answer_in_time() -> None:
    reports = Reports()
    silent, second = Model("silent", [100.0, "late"], timeout=4.0, retries=5), Model("second", [0.1, "Hello"])
    assert await text_of(ResilientModel([silent, second], reports)) == "Hello"
    assert len(silent.asked) == 1, "its time is up; another try would only keep the caller waiting"
    assert silent.closed == 1
    assert second.asked == [4.0]
    assert reports == [("llm", "silent", 0, "timeout"), ("llm", "second", 0.1, "")]


@pytest.mark.virtual_time
async def test_what_was_refused_is_not_asked_again_and_does_not_count() -> None:
    reports = Reports()
    refusing, second = Model("refusing", [fault("rejected")]), Model("second", ["Hello"])
    for _ in range(5):
        assert await text_of(ResilientModel([refusing, second], reports)) == "Hello"
    assert len(refusing.asked) == 5


@pytest.mark.virtual_time
async def test_settings_that_turn_out_wrong_are_a_fault_of_that_service() -> None:
    reports = Reports()
    misled = Model("misled", [SettingsError("llm.key: missing")])
    assert await text_of(ResilientModel([misled, Model("second", ["Hello"])], reports)) == "Hello"
    assert reports.faults == [("misled", "rejected")]


@pytest.mark.virtual_time
async def test_a_wish_to_wait_is_kept_when_there_is_time_for_it() -> None:
    busy = Model("busy", [fault("rate_limited", retry_after=2.0)], ["Hello"], timeout=5.0)
    assert await text_of(ResilientModel([busy], Reports())) == "Hello"
    assert busy.asked == [0, 2]
    busy = Model("busy", [fault("rate_limited", retry_after=20.0)], ["Hello"], timeout=5.0)
    second = Model("second", ["Hello from me"])
    assert await text_of(ResilientModel([busy, second], Reports())) == "Hello from me"
    assert now() == 2


@pytest.mark.virtual_time
async def test_nothing_is_tried_again_once_something_was_given_out() -> None:
    reports = Reports()
    stalling, second = Model("stalling", ["Hel", 100.0, "lo"], stall=3.0), Model("second", ["no"])
    reply = ResilientModel([stalling, second], reports).reply([])
    assert await anext(reply) == TextDelta("Hel")
    with pytest.raises(ServiceError, match="stalling: timeout: no more for 3 s"):
        await anext(reply)
    assert second.asked == []
    assert reports == [("llm", "stalling", 0, ""), ("llm", "stalling", 0, "timeout")]


@pytest.mark.virtual_time
async def test_a_slow_listener_is_no_stall() -> None:
    model = ResilientModel([Model("first", ["a", "b"], stall=1.0)], Reports())
    given = []
    async for delta in model.reply([]):
        given.append(delta)
        await asyncio.sleep(60)
    assert given == [TextDelta("a"), TextDelta("b")]


@pytest.mark.virtual_time
async def test_the_last_error_is_raised_when_all_fail() -> None:
    first = Model("first", [fault("unavailable")], retries=0)
    second = Model("second", [ServiceError("second", "bad_reply", "gibberish")], retries=2)
    with pytest.raises(ServiceError, match="second: bad reply: gibberish"):
        await text_of(ResilientModel([first, second], Reports()))
    assert (len(first.asked), len(second.asked)) == (1, 3)


@pytest.mark.virtual_time
async def test_an_open_breaker_is_passed_over_at_once_by_every_call() -> None:
    first, second = Model("first", [fault("unavailable")], retries=2), Model("second", ["Hello"])
    for _ in range(4):
        assert await text_of(ResilientModel([first, second], Reports())) == "Hello"
    assert len(first.asked) == 3
    assert breaker_of(first).is_open(now())
    first.scripts = [["I am back"]]
    await asyncio.sleep(15)
    assert await text_of(ResilientModel([first, second], Reports())) == "I am back"
    assert not breaker_of(first).is_open(now())


@pytest.mark.virtual_time
async def test_a_first_result_lets_other_calls_in() -> None:
    only = Model("only", [fault("unavailable")], retries=2)
    with pytest.raises(ServiceError):
        await text_of(ResilientModel([only], Reports()))
    await asyncio.sleep(15)
    only.scripts = [["I am", 1.0, " back"]]
    slow = ResilientModel([only], Reports()).reply([])
    assert await anext(slow) == TextDelta("I am")
    assert await text_of(ResilientModel([only], Reports())) == "I am back"
    await slow.aclose()


@pytest.mark.virtual_time
async def test_an_open_breaker_of_the_only_service_is_an_error_at_once() -> None:
    only = Model("only", [fault("unavailable")], retries=2)
    with pytest.raises(ServiceError, match="as the script"):
        await text_of(ResilientModel([only], Reports()))
    began = now()
    with pytest.raises(ServiceError, match="only: unavailable: left alone for a while after 3 faults running"):
        await text_of(ResilientModel([only], Reports()))
    assert now() == began


@pytest.mark.virtual_time
async def test_stalls_count_and_interruptions_do_not() -> None:
    stalling = Model("stalling", ["Hel", 100.0], stall=1.0)
    for _ in range(3):
        with pytest.raises(ServiceError):
            await text_of(ResilientModel([stalling], Reports()))
    assert breaker_of(stalling).is_open(now())
    healthy = Model("healthy", ["Hel", 0.5, "lo"])
    for _ in range(4):
        async with aclosing(ResilientModel([healthy], Reports()).reply([])) as reply:
            assert await anext(reply) == TextDelta("Hel")
    assert healthy.closed == 4
    assert not breaker_of(healthy).is_open(now())


@pytest.mark.virtual_time
async def test_cancelling_reaches_the_service_and_is_no_fault() -> None:
    reports, model = Reports(), Model("first", [100.0])
    task = asyncio.create_task(text_of(ResilientModel([model], reports)))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert model.closed == 1
    assert reports == []


@pytest.mark.virtual_time
async def test_an_empty_reply_is_a_reply() -> None:
    reports = Reports()
    assert await text_of(ResilientModel([Model("first", [0.2])], reports)) == ""
    assert reports == [("llm", "first", 0.2, "")]


def test_usage_is_a_delta() -> None:
    assert isinstance(Usage(1, 2), Delta)


# --- warming --------------------------------------------------------------------------


class Cold(Model):
    def __init__(self, name: str, seconds: float, error: Exception | None = None) -> None:
        super().__init__(name, ["Hello"])
        self.seconds, self.error, self.warm_at = seconds, error, -1.0

    async def warm(self) -> None:
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        self.warm_at = now()


@pytest.fixture
async def _shared_is_closed() -> AsyncIterator[None]:
    yield
    await close_shared()


@pytest.mark.virtual_time
@pytest.mark.usefixtures("_shared_is_closed")
async def test_warming_waits_for_the_preferred_service_only() -> None:
    first, second = Cold("first", 1.0), Cold("second", 3.0)
    model = ResilientModel([first, second], Reports())
    await model.warm()
    assert now() == 1
    await asyncio.sleep(5)
    assert second.warm_at == 3
    await model.warm()
    assert first.warm_at == 1


@pytest.mark.virtual_time
@pytest.mark.usefixtures("_shared_is_closed")
async def test_a_service_that_cannot_be_warmed_is_no_reason_to_refuse_the_call() -> None:
    reports = Reports()
    down, misled = Cold("down", 1.0, fault("unavailable")), Cold("misled", 0.0, SettingsError("llm.key: missing"))
    await ResilientModel([down, misled, Cold("third", 0.5)], reports).warm()
    assert reports.faults == [("down", "unavailable"), ("misled", "rejected")]
    with pytest.raises(ServiceError, match=r"misled: rejected: llm.key: missing"):
        await ResilientModel([misled], reports).warm()


@pytest.mark.virtual_time
@pytest.mark.usefixtures("_shared_is_closed")
async def test_ears_and_voices_are_warmed_too() -> None:
    await ResilientSpeechToText([Stt("first")], Reports()).warm()
    await ResilientTextToSpeech([Tts("first", [])], Reports()).warm()


# --- speaking -------------------------------------------------------------------------


class Tts(TextToSpeech):
    def __init__(self, name: str, *scripts: Sequence[Step], formats: tuple[AudioFormat, ...] = (PCMU,), **more: Any):
        super().__init__(settings(name, **more))
        self.formats = formats
        self.scripts = list(scripts)
        self.connect: list[Step] = []
        self.opened: list[AudioFormat] = []
        self.closing_time = 0.0
        self.said: list[tuple[str, str]] = []
        self.closed = 0

    async def open(self, format: AudioFormat) -> Voice:
        for step in self.connect:
            if isinstance(step, ServiceError):
                raise step
            await asyncio.sleep(float(step))
        self.opened.append(format)
        return TtsVoice(self)


class TtsVoice(Voice):
    def __init__(self, owner: Tts) -> None:
        self.owner = owner

    async def synthesize(self, text: str, *, previous: str = "") -> AsyncGenerator[Spoken, None]:
        self.owner.said.append((text, previous))
        scripts = self.owner.scripts
        for step in scripts.pop(0) if len(scripts) > 1 else scripts[0]:
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, ServiceError):
                raise step
            else:
                yield step if isinstance(step, Word) else Audio(step)

    async def close(self) -> None:
        await asyncio.sleep(self.owner.closing_time)
        self.owner.closed += 1


async def speech_of(voice: Voice, text: str, previous: str = "") -> bytes:
    return b"".join([x.data async for x in voice.synthesize(text, previous=previous) if isinstance(x, Audio)])


@pytest.mark.virtual_time
async def test_the_preferred_voice_speaks_in_the_format_of_the_call() -> None:
    reports, first = Reports(), Tts("first", [0.1, Word("Hi", 0, 80), b"\x11" * 160])
    voice = await ResilientTextToSpeech([first], reports).open(PCMU)
    spoken = [item async for item in voice.synthesize("Hi", previous="So.")]
    assert spoken == [Word("Hi", 0, 80), Audio(b"\x11" * 160)]
    assert first.said == [("Hi", "So.")]
    assert first.opened == [PCMU]
    assert reports == [("tts", "first", 0.1, "")], "opening is no result"
    await voice.close()
    assert first.closed == 1


@pytest.mark.virtual_time
async def test_a_voice_that_lacks_the_format_is_converted_to_its_last_sample() -> None:
    first = Tts("first", [b"\0" * 640], formats=(L16_16K,))
    voice = await ResilientTextToSpeech([first], Reports()).open(PCMU)
    assert await speech_of(voice, "Hi") == b"\xff" * 320
    assert first.opened == [L16_16K]
    await voice.close()


@pytest.mark.virtual_time
async def test_a_call_keeps_the_voice_it_had_to_change_to() -> None:
    reports = Reports()
    first = Tts("first", [fault("unavailable")], [b"1"], retries=0)
    second = Tts("second", [b"2"], [b"2"], [fault("unavailable")], retries=0)
    voice = await ResilientTextToSpeech([first, second], reports).open(PCMU)
    assert [await speech_of(voice, text) for text in ("a", "b", "c")] == [b"2", b"2", b"1"]
    assert reports.faults == [("first", "unavailable"), ("second", "unavailable")]
    assert len(first.opened) == 2, "a voice that failed is opened anew"
    await voice.close()
    assert (first.closed, second.closed) == (2, 1)


@pytest.mark.virtual_time
async def test_a_sentence_broken_off_in_the_middle_is_not_begun_anew() -> None:
    first, second = Tts("first", [b"Hel", fault("unavailable")], [b"Well"]), Tts("second", [b"no"])
    voice = await ResilientTextToSpeech([first, second], Reports()).open(PCMU)
    with pytest.raises(ServiceError, match="unavailable"):
        await speech_of(voice, "Hello")
    assert second.said == []
    assert await speech_of(voice, "Well") == b"Well"
    assert len(first.opened) == 2
    await voice.close()
    assert first.closed == 2


@pytest.mark.virtual_time
async def test_nobody_waits_for_a_broken_voice_to_close() -> None:
    first, second = Tts("first", [100.0], timeout=2.0), Tts("second", [b"Well"])
    first.closing_time = 3.0
    voice = await ResilientTextToSpeech([first, second], Reports()).open(PCMU)
    assert await speech_of(voice, "Well") == b"Well"
    assert (now(), first.closed) == (2, 0)
    await voice.close()
    assert (now(), first.closed) == (5, 1)
    first.closing_time = 100.0
    await (await ResilientTextToSpeech([first], Reports()).open(PCMU)).close()
    assert now() == 5 + CLOSING_TIME


@pytest.mark.virtual_time
async def test_an_interrupted_sentence_leaves_the_voice_open() -> None:
    first = Tts("first", [b"a", 1.0, b"b"])
    voice = await ResilientTextToSpeech([first], Reports()).open(PCMU)
    async with aclosing(voice.synthesize("ab")) as spoken:
        assert await anext(spoken) == Audio(b"a")
    task = asyncio.create_task(speech_of(voice, "ab"))
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await speech_of(voice, "ab") == b"ab"
    assert (len(first.opened), first.closed) == (1, 0)
    await voice.close()


@pytest.mark.virtual_time
async def test_opening_goes_on_to_the_next_service() -> None:
    reports = Reports()
    down, slow, second = Tts("down", [b""]), Tts("slow", [b""], timeout=2.0), Tts("second", [b"2"])
    down.connect, slow.connect = [fault("unavailable")], [50.0]
    voice = await ResilientTextToSpeech([down, slow, second], reports).open(PCMU)
    assert await speech_of(voice, "a") == b"2"
    assert reports.faults == [("down", "unavailable"), ("down", "unavailable"), ("slow", "timeout")]
    await voice.close()
    with pytest.raises(ServiceError, match="fake: unavailable"):
        await ResilientTextToSpeech([down], reports).open(PCMU)


# --- hearing --------------------------------------------------------------------------


class Stt(SpeechToText):
    formats = (PCMU,)

    def __init__(self, name: str, *, formats: tuple[AudioFormat, ...] = (PCMU,), **more: Any) -> None:
        super().__init__(settings(name, **more))
        self.formats = formats
        self.connect: list[Step] = []
        self.streams: list[Stream] = []
        self.on_open: Callable[[Stream], None] = lambda stream: None

    async def open(self, format: AudioFormat, hear: Callable[[Heard], None]) -> Transcription:
        for step in self.connect:
            if isinstance(step, ServiceError):
                raise step
            await asyncio.sleep(float(step))
        stream = Stream(self, format, hear)
        self.streams.append(stream)
        self.on_open(stream)
        return stream


class Stream(Transcription):
    def __init__(self, owner: Stt, format: AudioFormat, hear: Callable[[Heard], None]) -> None:
        self.owner, self.format, self.hear = owner, format, hear
        self.frames: list[bytes] = []
        self.times: list[float] = []
        self.finalized: list[int] = []
        self.closed = False

    def push(self, audio: bytes) -> None:
        self.frames.append(audio)
        self.times.append(now())

    def finalize(self) -> None:
        self.finalized.append(len(self.frames))

    async def close(self) -> None:
        self.closed = True

    def lose(self, kind: FaultKind = "unavailable") -> None:
        self.hear(HearingLost(ServiceError(self.owner.name, kind, "dropped")))


def frame(number: int) -> bytes:
    return bytes([number % 256]) * 160


async def push(stream: Transcription, frames: range) -> None:
    for number in frames:
        stream.push(frame(number))
        await asyncio.sleep(0.02)


class Call:
    """A conversation's ear on some services."""

    def __init__(self, *services: Stt) -> None:
        self.reports = Reports()
        self.stt = ResilientSpeechToText(services, self.reports)
        self.heard: list[Heard] = []

    async def open(self, format: AudioFormat = PCMU) -> Transcription:
        return await self.stt.open(format, self.heard.append)


@pytest.mark.virtual_time
async def test_what_is_heard_passes_and_the_wait_for_it_is_reported() -> None:
    first = Stt("first")
    call = Call(first)
    stream = await call.open()
    await push(stream, range(3))
    stream.finalize()
    await asyncio.sleep(0.15)
    events: list[Heard] = [SpeechHeard(), Partial("he"), Final("hello", 0.9, answers_finalize=True)]
    for event in events:
        first.streams[0].hear(event)
    assert call.heard == events
    assert first.streams[0].frames == [frame(0), frame(1), frame(2)]
    assert call.reports == [("stt", "first", 0.15, "")]
    await stream.close()
    assert first.streams[0].closed


@pytest.mark.virtual_time
async def test_a_lost_stream_is_replaced_and_hears_again_what_is_not_text_yet() -> None:
    first, second = Stt("first"), Stt("second")
    second.connect = [0.3]
    call = Call(first, second)
    stream = await call.open()
    await push(stream, range(100))
    first.streams[0].hear(Final("that much"))
    await push(stream, range(100, 120))
    first.streams[0].lose()
    await push(stream, range(120, 160))
    stream.finalize()
    await asyncio.sleep(1)
    replayed = second.streams[0]
    assert replayed.frames == [frame(number) for number in range(100 - KEPT_FRAMES, 160)]
    assert replayed.times[20] - replayed.times[0] == pytest.approx(0.1), "four times real time"
    assert replayed.finalized == [len(replayed.frames)]
    replayed.hear(Final("and that", answers_finalize=True))
    first.streams[0].hear(Final("a ghost"))
    assert call.heard == [Final("that much"), Final("and that", answers_finalize=True)]
    assert call.reports.faults == [("first", "unavailable")]
    assert first.streams[0].closed
    stream.push(frame(7))
    assert replayed.frames[-1] == frame(7)
    await stream.close()


@pytest.mark.virtual_time
async def test_a_long_silence_is_not_heard_again() -> None:
    first, second = Stt("first"), Stt("second")
    stream = await Call(first, second).open()
    for event in (Partial("he"), Final("hello")):
        first.streams[0].hear(event)
    await push(stream, range(400))
    first.streams[0].lose()
    await asyncio.sleep(2)
    assert second.streams[0].frames == [frame(number) for number in range(400 - UNNOTICED_FRAMES, 400)]
    await push(stream, range(400))
    second.streams[0].hear(Partial("and then"))
    await push(stream, range(400))
    second.streams[0].lose()
    await asyncio.sleep(5)
    assert len(first.streams[1].frames) == REPLAY_SECONDS * 50, "he is speaking"
    await stream.close()


@pytest.mark.virtual_time
async def test_what_finalize_was_answered_for_is_not_heard_again() -> None:
    first = Stt("first")
    call = Call(first)
    stream = await call.open()
    await push(stream, range(50))
    stream.finalize()
    await push(stream, range(50, 55))
    first.streams[0].hear(Final("all of it", answers_finalize=True))
    first.streams[0].lose()
    await asyncio.sleep(1)
    assert first.streams[1].frames == [frame(number) for number in range(50, 55)]
    await stream.close()


@pytest.mark.virtual_time
async def test_the_stand_in_hears_its_own_format() -> None:
    first, second = Stt("first"), Stt("second", formats=(L16_8K,))
    call = Call(first, second)
    stream = await call.open()
    stream.push(b"\xff" * 160)
    first.streams[0].lose()
    await asyncio.sleep(1)
    assert second.streams[0].format == L16_8K
    assert second.streams[0].frames == [b"\0" * 320]
    await stream.close()


@pytest.mark.virtual_time
async def test_no_more_audio_is_kept_than_the_limit() -> None:
    first = Stt("first")
    stream = await Call(first).open()
    for number in range(1000):
        stream.push(frame(number))
    first.streams[0].lose()
    await asyncio.sleep(5)
    assert len(first.streams[1].frames) == REPLAY_SECONDS * 50
    assert first.streams[1].frames[-1] == frame(999)
    await stream.close()


@pytest.mark.virtual_time
async def test_a_stream_that_never_answers_finalize_is_replaced() -> None:
    first, second = Stt("first", stall=3.0), Stt("second")
    call = Call(first, second)
    stream = await call.open()
    await push(stream, range(10))
    stream.finalize()
    await asyncio.sleep(4)
    assert call.reports.faults == [("first", "timeout")]
    assert second.streams[0].finalized == [10]
    await stream.close()


@pytest.mark.virtual_time
async def test_a_service_that_ends_turns_by_itself_need_not_answer() -> None:
    first, second = Stt("first", stall=3.0), Stt("second")
    first.ends_turns = True
    call = Call(first, second)
    assert call.stt.ends_turns
    stream = await call.open()
    stream.finalize()
    await asyncio.sleep(10)
    assert call.reports == []
    first.streams[0].hear(EndOfTurn("so"))
    first.streams[0].lose()
    await asyncio.sleep(1)
    assert not call.stt.ends_turns, "the stand-in does not"
    await stream.close()


@pytest.mark.virtual_time
async def test_a_stream_lost_while_it_catches_up_is_replaced_again() -> None:
    first, second = Stt("first"), Stt("second")
    second.on_open = lambda opened: opened.lose() if len(second.streams) == 1 else None
    call = Call(first, second)
    stream = await call.open()
    await push(stream, range(10))
    first.streams[0].lose()
    await asyncio.sleep(1)
    assert call.reports.faults == [("first", "unavailable"), ("second", "unavailable")]
    assert first.streams[1].frames == [frame(number) for number in range(10)]
    assert second.streams[0].closed
    await stream.close()


@pytest.mark.virtual_time
async def test_a_stream_lost_as_it_opens_is_replaced() -> None:
    first = Stt("first")
    first.on_open = lambda opened: opened.lose() if len(first.streams) == 1 else None
    call = Call(first)
    stream = await call.open()
    await asyncio.sleep(0.1)
    assert len(first.streams) == 2
    stream.push(frame(1))
    assert first.streams[1].frames == [frame(1)]
    await stream.close()


@pytest.mark.virtual_time
@pytest.mark.parametrize("kind", ["unavailable", "rejected"])
async def test_hearing_is_lost_when_no_stream_holds(kind: FaultKind) -> None:
    first = Stt("first")
    first.on_open = lambda opened: opened.lose(kind)
    call = Call(first)
    stream = await call.open()
    await asyncio.sleep(5)
    assert len(first.streams) == 3, "then its breaker opens"
    assert all(stream.closed for stream in first.streams)
    [lost] = call.heard
    assert isinstance(lost, HearingLost)
    stream.push(frame(1))
    await stream.close()


@pytest.mark.virtual_time
async def test_closing_ends_the_search_for_another_stream() -> None:
    first, second = Stt("first"), Stt("second")
    second.connect = [3.0]
    call = Call(first, second)
    stream = await call.open()
    first.streams[0].lose()
    await asyncio.sleep(1)
    await stream.close()
    assert second.streams == []
    assert call.heard == []
    assert first.streams[0].closed


@pytest.mark.virtual_time
async def test_closing_while_it_catches_up_closes_the_new_stream() -> None:
    first, second = Stt("first"), Stt("second")
    stream = await Call(first, second).open()
    await push(stream, range(100))
    first.streams[0].lose()
    await asyncio.sleep(0.1)
    await stream.close()
    assert 1 < len(second.streams[0].frames) < 100
    assert second.streams[0].closed


@pytest.mark.virtual_time
async def test_no_service_can_be_reached() -> None:
    first, second = Stt("first"), Stt("second", retries=0)
    first.connect = second.connect = [fault("unavailable")]
    with pytest.raises(ServiceError):
        await Call(first, second).open()
