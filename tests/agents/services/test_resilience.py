"""Scripted services in virtual time: what is tried, when, and what the conversation notices of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from fakes.scripted import Model, Reports, Stt, Tts, fault, now

from offhook.agents.api import SettingsError
from offhook.agents.services.base import Audio, ServiceError, TextDelta, Voice, Word
from offhook.agents.services.resilience import (
    CLOSING_TIME,
    CircuitBreaker,
    ResilientModel,
    ResilientSpeechToText,
    ResilientTextToSpeech,
    breaker_of,
)
from offhook.agents.services.shared import close_shared
from offhook.codecs.audio import L16_16K, PCMU


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
