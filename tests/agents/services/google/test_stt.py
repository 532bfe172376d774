"""Google's own SDK against a real gRPC server that serves its methods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from fakes.google import FakeGoogle, Fault

from offhook.agents.api import SettingsError
from offhook.agents.services.base import Final, Heard, HearingLost, Partial, ServiceError, Transcription
from offhook.agents.services.google import stt
from offhook.agents.services.google.stt import GoogleSpeech
from offhook.agents.services.registry import make_service
from offhook.codecs.audio import L16_16K, PCMA, PCMU, AudioFormat

FRAME = b"\x11" * 160


class Call:
    def __init__(self, fake: FakeGoogle, **settings: Any) -> None:
        given = {"service": "google", "base_url": fake.url, "project": "p", "timeout": 2, **settings}
        made = make_service("stt", given)
        assert isinstance(made, GoogleSpeech)
        self.stt = made
        self.heard: asyncio.Queue[Heard] = asyncio.Queue()
        self.stream: Transcription | None = None

    async def open(self, format: AudioFormat = PCMU) -> Transcription:
        self.stream = await self.stt.open(format, self.heard.put_nowait)
        return self.stream

    async def next(self) -> Heard:
        async with asyncio.timeout(3):
            return await self.heard.get()

    async def close(self) -> None:
        if self.stream is not None:
            await self.stream.close()
        await self.stt.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(3):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.fixture
async def fake() -> AsyncIterator[FakeGoogle]:
    async with FakeGoogle() as fake:
        yield fake


async def test_a_leg_asks_for_the_telephones_own_format() -> None:
    async with FakeGoogle() as fake:
        call = Call(fake, language=["en-GB", "de-DE"], keyterms=["Miller"], region="europe-west4")
        await call.open()
        leg = await fake.leg(0)
        assert leg.recognizer == "projects/p/locations/europe-west4/recognizers/_"
        assert leg.config is not None
        config = leg.config.config
        assert config.explicit_decoding_config.encoding.name == "MULAW"
        assert config.explicit_decoding_config.sample_rate_hertz == 8000
        assert (config.model, list(config.language_codes)) == ("telephony", ["en-GB", "de-DE"])
        assert config.features.enable_automatic_punctuation
        assert config.adaptation.phrase_sets[0].inline_phrase_set.phrases[0].value == "Miller"
        assert leg.config.streaming_features.interim_results
        await call.close()
        await asyncio.wait_for(leg.gone.wait(), 3)


@pytest.mark.parametrize(("format", "encoding"), [(PCMA, "ALAW"), (L16_16K, "LINEAR16")])
async def test_other_formats(format: AudioFormat, encoding: str) -> None:
    async with FakeGoogle() as fake:
        call = Call(fake)
        await call.open(format)
        leg = await fake.leg(0)
        assert leg.config is not None
        decoding = leg.config.config.explicit_decoding_config
        assert (decoding.encoding.name, decoding.sample_rate_hertz) == (encoding, format.rate)
        assert not leg.config.config.adaptation.phrase_sets
        await call.close()


async def test_finalize_closes_the_leg_and_its_end_is_the_answer() -> None:
    async with FakeGoogle(texts=["Hello there.", ""]) as fake:
        call = Call(fake)
        stream = await call.open()
        for _ in range(5):
            stream.push(FRAME)
        stream.finalize()
        for _ in range(3):
            stream.push(b"\xff" * 160)
        assert await call.next() == Final("Hello there.", pytest.approx(0.8), answers_finalize=True)
        assert bytes(fake.legs[0].audio) == FRAME * 5
        leg = await fake.leg(1)
        await until(lambda: len(leg.audio) == 480)
        stream.finalize()
        assert await call.next() == Final("", answers_finalize=True), "that was silence"
        await call.close()


async def test_finalize_with_nothing_sent_is_answered_at_once() -> None:
    async with FakeGoogle() as fake:
        call = Call(fake)
        stream = await call.open()
        stream.finalize()
        assert call.heard.get_nowait() == Final("", answers_finalize=True)
        await call.close()


async def test_results_become_partials_and_finals() -> None:
    async with FakeGoogle() as fake:
        call = Call(fake)
        stream = await call.open()
        leg = await fake.leg(0)
        leg.say(("I would", False), (" like", False))
        leg.say()
        leg.say(("I would like tea.", True), (" And", False), end=0.1)
        assert [await call.next() for _ in range(3)] == [
            Partial("I would like"),
            Final("I would like tea.", pytest.approx(0.8)),
            Partial("And"),
        ]
        stream.push(FRAME * 3)
        stream.finalize()
        await asyncio.wait_for(leg.closed.wait(), 3)
        leg.say(("And milk.", True))
        leg.say(("Please.", True))
        leg.end()
        assert await call.next() == Final("And milk. Please.", pytest.approx(0.8), answers_finalize=True)
        await call.close()


async def test_what_never_became_final_is_better_than_nothing() -> None:
    async with FakeGoogle() as fake:
        call = Call(fake)
        stream = await call.open()
        leg = await fake.leg(0)
        stream.push(FRAME * 3)
        stream.finalize()
        leg.say(("so", False))
        leg.end()
        assert await call.next() == Final("so", answers_finalize=True)
        await call.close()


async def test_an_old_leg_is_replaced_in_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stt, "OLD", 0.05)
    async with FakeGoogle() as fake:
        call = Call(fake)
        stream = await call.open()
        leg = await fake.leg(0)
        for number in range(50):
            stream.push(bytes([number]) * 480)
        leg.say(("so far", False))
        assert await call.next() == Partial("so far")
        await asyncio.sleep(0.06)
        stream.push(b"\x50" * 480)
        assert len(fake.legs) == 1, "he is speaking"
        leg.say(("So far.", True), end=2.94)
        assert await call.next() == Final("So far.", pytest.approx(0.8))
        stream.push(b"\x51" * 480)
        second = await fake.leg(1)
        await until(lambda: len(second.audio) == 1440)
        assert bytes(second.audio) == b"\x31" * 480 + b"\x50" * 480 + b"\x51" * 480
        await asyncio.wait_for(leg.gone.wait(), 3)
        await call.close()


async def test_a_very_old_leg_is_replaced_in_mid_sentence_and_its_audio_heard_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stt, "TOO_OLD", 0.05)
    async with FakeGoogle() as fake:
        call = Call(fake)
        stream = await call.open()
        leg = await fake.leg(0)
        for number in range(50):
            stream.push(bytes([number]) * 480)
        leg.say(("and then I", False))
        assert await call.next() == Partial("and then I")
        await asyncio.sleep(0.06)
        stream.push(b"\x50" * 480)
        second = await fake.leg(1)
        await until(lambda: len(second.audio) == 51 * 480)
        assert bytes(second.audio[:480]) == bytes(480)
        await call.close()


@pytest.mark.parametrize("code", [None, grpc.StatusCode.ABORTED, grpc.StatusCode.OUT_OF_RANGE])
async def test_a_leg_that_google_ends_in_good_time_is_replaced(
    code: grpc.StatusCode | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stt, "YOUNG", 0.0)
    async with FakeGoogle() as fake:
        call = Call(fake)
        stream = await call.open()
        leg = await fake.leg(0)
        stream.push(FRAME * 3)
        await until(lambda: leg.audio)
        leg.end(Fault(code) if code else None)
        second = await fake.leg(1)
        await until(lambda: len(second.audio) == 480)
        assert call.heard.empty()
        await call.close()


@pytest.mark.parametrize(
    ("fault", "kind", "detail"),
    [
        (None, "unavailable", "the service ended the stream"),
        (Fault(grpc.StatusCode.OUT_OF_RANGE), "unavailable", "OUT_OF_RANGE as the script has it"),
        (Fault(grpc.StatusCode.UNAUTHENTICATED), "rejected", "UNAUTHENTICATED as the script has it"),
        (Fault(grpc.StatusCode.INVALID_ARGUMENT), "rejected", "INVALID_ARGUMENT as the script has it"),
        (Fault(grpc.StatusCode.RESOURCE_EXHAUSTED), "rate_limited", "RESOURCE_EXHAUSTED as the script has it"),
        (Fault(grpc.StatusCode.DEADLINE_EXCEEDED), "timeout", "DEADLINE_EXCEEDED as the script has it"),
        (Fault(grpc.StatusCode.INTERNAL), "unavailable", "INTERNAL as the script has it"),
    ],
)
async def test_a_leg_that_breaks_is_lost_hearing(fault: Fault | None, kind: str, detail: str) -> None:
    async with FakeGoogle() as fake:
        call = Call(fake)
        stream = await call.open()
        (await fake.leg(0)).end(fault)
        lost = await call.next()
        assert isinstance(lost, HearingLost)
        assert (lost.error.kind, lost.error.detail) == (kind, detail)
        stream.push(FRAME * 3)
        stream.finalize()
        assert call.heard.empty()
        await call.close()


async def test_the_time_to_wait_is_told() -> None:
    async with FakeGoogle() as fake:
        call = Call(fake)
        await call.open()
        (await fake.leg(0)).end(Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after=7))
        lost = await call.next()
        assert isinstance(lost, HearingLost)
        assert lost.error.retry_after == 7
        await call.close()


async def test_a_leg_that_breaks_before_its_answer_is_lost_hearing() -> None:
    async with FakeGoogle() as fake:
        call = Call(fake)
        stream = await call.open()
        leg = await fake.leg(0)
        stream.push(FRAME * 3)
        stream.finalize()
        leg.end(Fault(grpc.StatusCode.UNAVAILABLE))
        assert isinstance(await call.next(), HearingLost)
        await call.close()


async def test_nobody_listens() -> None:
    async with FakeGoogle() as fake:
        pass
    call = Call(fake)
    with pytest.raises(ServiceError, match="google: unavailable: UNAVAILABLE"):
        await call.open()
    await call.close()


async def test_a_host_that_does_not_answer_is_a_timeout() -> None:
    writers: list[asyncio.StreamWriter] = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.read()

    async with FakeGoogle() as fake:
        pass
    server = await asyncio.start_server(silent, "127.0.0.1", int(fake.url.rpartition(":")[2]))
    call = Call(fake, timeout=0.2)
    with pytest.raises(ServiceError, match=r"google: timeout: no connection in 0.2 s"):
        await call.open()
    await call.close()
    assert writers
    for writer in writers:
        writer.transport.abort()
    server.close()
    await server.wait_closed()


async def test_what_the_connection_does_not_take_is_dropped() -> None:
    async with FakeGoogle() as fake:
        call = Call(fake)
        stream = await call.open()
        leg = await fake.leg(0)
        for _ in range(stt.MAX_BACKLOG + 20):
            stream.push(FRAME * 3)
        await until(lambda: len(leg.audio) >= stt.MAX_BACKLOG * 480)
        assert len(leg.audio) == stt.MAX_BACKLOG * 480
        await call.close()


async def test_calls_share_the_connection() -> None:
    async with FakeGoogle(texts=["one"]) as fake:
        first = Call(fake)
        await first.stt.warm()
        one, two = await first.open(), await first.open()
        assert await first.stt.client() is await first.stt.client()
        one.push(FRAME * 3)
        one.finalize()
        assert await first.next() == Final("one", pytest.approx(0.8), answers_finalize=True)
        await one.close()
        await two.close()
        await first.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"api_key": "k"}, "stt.project: missing: an api_key does not say which project pays"),
        ({"base_url": "http://127.0.0.1:1"}, "stt.project: missing"),
        ({"base_url": "ftp://x"}, "stt.base_url: .*write one like https://"),
        ({"language": []}, "stt.language: must have at least 1 item"),
        ({"credentials_file": "gone.json"}, r"stt.credentials_file: gone.json is no file"),
        ({"credentials_file": "x", "api_key": "k"}, "stt.credentials_file: there is an api_key too; give one of them"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make_service("stt", {"service": "google", **settings})
