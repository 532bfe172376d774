"""Scripted ears in virtual time: a stream that breaks, and the one that takes its place."""

from __future__ import annotations

import asyncio

import pytest
from fakes.scripted import Reports, Stt, fault, frame

from offhook.agents.services.base import (
    EndOfTurn,
    FaultKind,
    Final,
    Heard,
    HearingLost,
    Partial,
    ServiceError,
    SpeechHeard,
    Transcription,
)
from offhook.agents.services.resilience import KEPT_FRAMES, REPLAY_SECONDS, UNNOTICED_FRAMES, ResilientSpeechToText
from offhook.codecs.audio import L16_8K, PCMU, AudioFormat


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
