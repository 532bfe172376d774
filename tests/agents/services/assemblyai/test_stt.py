"""AssemblyAI's messages with a server that speaks its wire."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fakes.assemblyai import FakeAssemblyAi

from offhook.agents.api import SettingsError
from offhook.agents.services.assemblyai import stt
from offhook.agents.services.assemblyai.stt import AssemblyAi
from offhook.agents.services.base import (
    EndOfTurn,
    Final,
    Heard,
    HearingLost,
    Partial,
    ServiceError,
    Transcription,
)
from offhook.agents.services.registry import make_service
from offhook.codecs.audio import L16_16K, PCMU, AudioFormat


class Call:
    def __init__(self, fake: FakeAssemblyAi, **settings: Any) -> None:
        made = make_service(
            "stt", {"service": "assemblyai", "base_url": fake.url, "api_key": "k", "timeout": 2, **settings}
        )
        assert isinstance(made, AssemblyAi)
        self.stt = made
        self.heard: asyncio.Queue[Heard] = asyncio.Queue()

    async def open(self, format: AudioFormat = PCMU) -> Transcription:
        return await self.stt.open(format, self.heard.put_nowait)

    async def next(self) -> Heard:
        async with asyncio.timeout(3):
            return await self.heard.get()


async def test_the_session_asks_for_the_telephones_own_format() -> None:
    async with FakeAssemblyAi() as fake:
        call = Call(fake, keyterms=["Miller"], min_turn_silence=0.4, end_of_turn_confidence=0.5)
        stream = await call.open()
        [session] = fake.sessions
        assert (session.path, session.key) == ("/v3/ws", "k")
        assert session.parameters == {
            "sample_rate": "8000",
            "encoding": "pcm_mulaw",
            "speech_model": "universal-streaming-english",
            "keyterms_prompt": '["Miller"]',
            "format_turns": "False",
            "end_of_turn_confidence_threshold": "0.5",
            "min_turn_silence": "400",
        }
        await stream.close()
        assert session.orders == ["Terminate"]
        stream = await call.open(L16_16K)
        assert fake.sessions[1].parameters["encoding"] == "pcm_s16le"
        assert fake.sessions[1].parameters["sample_rate"] == "16000"
        await stream.close()


async def test_audio_goes_in_messages_the_service_takes_and_finalize_sends_the_rest() -> None:
    async with FakeAssemblyAi(answers=("hello there",)) as fake:
        call = Call(fake)
        stream = await call.open()
        for number in range(7):
            stream.push(bytes([number]) * 160)
        stream.finalize()
        assert await call.next() == Final("hello there", pytest.approx(0.9), answers_finalize=True)
        [session] = fake.sessions
        assert [len(message) for message in session.audio] == [480, 480, 480]
        assert session.audio[2] == b"\x06" * 160 + b"\xff" * 320
        assert session.orders == ["ForceEndpoint"]
        await stream.close()


async def test_turns_as_the_service_sees_them_are_finals() -> None:
    async with FakeAssemblyAi() as fake:
        call = Call(fake)
        stream = await call.open()
        [session] = fake.sessions
        await session.turn("", tail="hi")
        await session.turn("hi", tail="my name")
        await session.turn("hi my name is sonny", end=True)
        await session.turn("Hi, my name is Sonny.", end=True, formatted=True)
        await session.turn("", order=1, tail="and")
        heard = [await call.next() for _ in range(4)]
        assert heard == [
            Partial("hi"),
            Partial("hi my name"),
            Final("hi my name is sonny", pytest.approx(0.9)),
            Partial("and"),
        ]
        await stream.close()


async def test_a_formatted_text_is_waited_for_when_it_is_wanted() -> None:
    async with FakeAssemblyAi() as fake:
        call = Call(fake, format_turns=True)
        stream = await call.open()
        [session] = fake.sessions
        await session.turn("hi", end=True)
        await session.turn("Hi.", end=True, formatted=True)
        assert [await call.next(), await call.next()] == [Partial("hi"), Final("Hi.", pytest.approx(0.9))]
        await stream.close()


async def test_the_service_may_end_turns() -> None:
    async with FakeAssemblyAi(answers=("and you",)) as fake:
        call = Call(fake, ends_turns=True)
        assert call.stt.ends_turns
        stream = await call.open()
        stream.finalize()
        assert await call.next() == Final("and you", pytest.approx(0.9), answers_finalize=True), "we ended this one"
        await fake.sessions[0].turn("i am fine", order=1, end=True)
        assert await call.next() == EndOfTurn("i am fine")
        await stream.close()


async def test_silence_is_answered_though_the_service_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stt, "SILENCE_TIME", 0.05)
    async with FakeAssemblyAi(answers=("", "")) as fake:
        call = Call(fake)
        stream = await call.open()
        stream.finalize()
        assert await call.next() == Final("", answers_finalize=True)
        await fake.sessions[0].turn("", tail="wait")
        assert await call.next() == Partial("wait")
        stream.finalize()
        await asyncio.sleep(0.1)
        assert call.heard.empty(), "there is something, so its text will come"
        await fake.sessions[0].turn("wait", end=True)
        assert await call.next() == Final("wait", pytest.approx(0.9), answers_finalize=True)
        await stream.close()


@pytest.mark.parametrize(
    ("status", "kind"), [(401, "rejected"), (402, "rejected"), (429, "rate_limited"), (503, "unavailable")]
)
async def test_a_refused_handshake(status: int, kind: str) -> None:
    async with FakeAssemblyAi(refuse=status) as fake:
        with pytest.raises(ServiceError, match=f"HTTP {status} refused") as caught:
            await Call(fake).open()
        assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("code", "kind"), [(4001, "rejected"), (4102, "rate_limited"), (3005, "unavailable"), (1008, "rejected")]
)
async def test_a_session_refused_after_the_handshake(code: int, kind: str) -> None:
    async with FakeAssemblyAi(error=(code, "sorry")) as fake:
        with pytest.raises(ServiceError, match=f"{code} sorry") as caught:
            await Call(fake).open()
        assert caught.value.kind == kind


async def test_too_many_sessions_are_told_from_a_wrong_key() -> None:
    async with FakeAssemblyAi(error=(1008, "Unauthorized Connection: Too many concurrent sessions")) as fake:
        with pytest.raises(ServiceError) as caught:
            await Call(fake).open()
        assert caught.value.kind == "rate_limited"


async def test_nobody_listens() -> None:
    async with FakeAssemblyAi() as fake:
        call = Call(fake)
    with pytest.raises(ServiceError, match="assemblyai: unavailable: no connection"):
        await call.open()


async def test_a_session_that_never_begins() -> None:
    async with FakeAssemblyAi(begins=False) as fake:
        with pytest.raises(ServiceError, match=r"assemblyai: timeout: no session in 0.1 s"):
            await Call(fake, timeout=0.1).open()
        await asyncio.wait_for(fake.sessions[0].over.wait(), 2)


async def test_cancelling_while_it_opens_leaves_nothing_behind() -> None:
    async with FakeAssemblyAi(begins=False) as fake:
        task = asyncio.create_task(Call(fake).open())
        while not fake.sessions:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_dropped_connection_is_lost_hearing() -> None:
    async with FakeAssemblyAi() as fake:
        call = Call(fake)
        stream = await call.open()
        fake.sessions[0].drop()
        lost = await call.next()
        assert isinstance(lost, HearingLost)
        assert lost.error.kind == "unavailable"
        stream.push(b"\xff" * 480)
        stream.finalize()
        await stream.close()
        assert call.heard.empty(), "it is told once"


async def test_a_stream_closed_in_good_order_is_lost_hearing_too() -> None:
    async with FakeAssemblyAi() as fake:
        call = Call(fake)
        stream = await call.open()
        await fake.sessions[0].connection.close(1000)
        lost = await call.next()
        assert isinstance(lost, HearingLost)
        assert str(lost.error) == "assemblyai: unavailable: 1000"
        await stream.close()


@pytest.mark.parametrize(
    ("message", "kind", "detail"),
    [
        ({"type": "Termination"}, "unavailable", "the service ended the session"),
        ({"type": "Error", "error_code": 3008, "error": "expired"}, "unavailable", "3008 expired"),
        ({"type": "Error", "error": "odd"}, "unavailable", "odd"),
        ({"type": "Turn", "turn_order": "x"}, "bad_reply", "not understood: "),
    ],
)
async def test_what_ends_a_session(message: dict[str, Any], kind: str, detail: str) -> None:
    async with FakeAssemblyAi() as fake:
        call = Call(fake)
        stream = await call.open()
        await fake.sessions[0].send(**message)
        lost = await call.next()
        assert isinstance(lost, HearingLost)
        assert lost.error.kind == kind
        assert detail in lost.error.detail
        await stream.close()


async def test_text_that_is_no_json_is_passed_over() -> None:
    async with FakeAssemblyAi() as fake:
        call = Call(fake)
        stream = await call.open()
        await fake.sessions[0].connection.send("<html>")
        await fake.sessions[0].turn("hi", end=True)
        assert await call.next() == Final("hi", pytest.approx(0.9))
        await stream.close()


async def test_a_service_that_does_not_end_the_session_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stt, "CLOSING_TIME", 0.05)
    async with FakeAssemblyAi() as fake:
        stream = await Call(fake).open()
        fake.sessions[0].connection.transport.pause_reading()
        await stream.close()
        fake.sessions[0].drop()


async def test_what_the_connection_does_not_take_is_dropped() -> None:
    async with FakeAssemblyAi() as fake:
        stream = await Call(fake).open()
        for _ in range(3 * stt.MAX_BACKLOG + 30):
            stream.push(b"\xff" * 160)
        await asyncio.sleep(0.05)
        await stream.close()
        assert len(fake.sessions[0].audio) == stt.MAX_BACKLOG


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "stt.api_key: missing: make one at https://www.assemblyai.com/.* as ASSEMBLYAI_API_KEY"),
        ({"model": "best"}, "stt.model: must be 'universal-streaming-multilingual'"),
        ({"base_url": "x"}, "stt.base_url: .*write one like wss://"),
        ({"min_turn_silence": 400}, "stt.min_turn_silence: must be less than or equal to 10"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASSEMBLYAI_API_KEY", raising=False)
    key = {"api_key": "k"} if settings else {}
    with pytest.raises(SettingsError, match=message):
        make_service("stt", {"service": "assemblyai", **key, **settings})


def test_the_key_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSEMBLYAI_API_KEY", "from-outside")
    made = make_service("stt", {"service": "assemblyai"})
    assert isinstance(made, AssemblyAi)
    assert made.settings.api_key.get_secret_value() == "from-outside"
