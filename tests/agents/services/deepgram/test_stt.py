"""Nova against a fake Listen v1."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fakes.deepgram import FakeDeepgram
from fakes.sockets import Fault
from pydantic import ValidationError
from structlog.testing import capture_logs

from offhook.agents.services.base import (
    Final,
    Heard,
    HearingLost,
    Partial,
    ServiceError,
    SpeechHeard,
    Transcription,
)
from offhook.agents.services.deepgram import listening
from offhook.agents.services.deepgram.stt import Deepgram, NovaSettings
from offhook.agents.services.registry import make_service
from offhook.codecs.audio import L16_8K, L16_16K, PCMA, PCMU, AudioFormat

HELLO = [("hello there", 100, 400)]


def nova(fake: FakeDeepgram, **settings: Any) -> Deepgram:
    return Deepgram(NovaSettings(service="deepgram", api_key="secret", base_url=fake.url, **settings))


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(3):
        while not condition():
            await asyncio.sleep(0.002)


def push(stream: Transcription, milliseconds: int, format: AudioFormat = PCMU) -> None:
    """Frames of silence: the fake knows the words by their time."""
    for _ in range(milliseconds // 20):
        stream.push(format.silence)


def finals(heard: list[Heard]) -> list[str]:
    return [one.text for one in heard if isinstance(one, Final) and one.text]


# --- what goes out


async def test_asks_for_the_carriers_format_and_what_was_set() -> None:
    async with FakeDeepgram() as fake:
        service = nova(fake, language="de", keyterms=("offhook", "Köln"), mip_opt_out=True, options={"tag": "shop"})
        stream = await service.open(PCMA, lambda _: None)
        await stream.close()
    sent = fake.connections[0]
    assert sent.path == "/v1/listen"
    assert sent.headers["Authorization"] == "Token secret"
    assert sent.query == {
        "model": ["nova-3"],
        "language": ["de"],
        "encoding": ["alaw"],
        "sample_rate": ["8000"],
        "channels": ["1"],
        "interim_results": ["true"],
        "vad_events": ["true"],
        "endpointing": ["300"],
        "punctuate": ["true"],
        "keyterm": ["offhook", "Köln"],
        "mip_opt_out": ["true"],
        "tag": ["shop"],
    }


async def test_older_models_get_keywords() -> None:
    async with FakeDeepgram() as fake:
        service = nova(fake, model="nova-2-phonecall", keyterms=("offhook",), endpointing=False)
        await (await service.open(PCMU, lambda _: None)).close()
    assert fake.connections[0].query["keywords"] == ["offhook"]
    assert fake.connections[0].query["endpointing"] == ["false"]


async def test_g711_passes_untouched_and_closing_says_so() -> None:
    audio = bytes(range(160)) * 3
    async with FakeDeepgram() as fake:
        stream = await nova(fake).open(PCMU, lambda _: None)
        for at in range(0, len(audio), 160):
            stream.push(audio[at : at + 160])
        await until(lambda: len(fake.connections[0].audio) == len(audio))
        await stream.close()
        await until(lambda: fake.connections[0].json == [{"type": "CloseStream"}])
    assert fake.connections[0].audio == audio


async def test_samples_stay_whole_and_messages_are_never_empty() -> None:
    async with FakeDeepgram() as fake:
        stream = await nova(fake).open(L16_16K, lambda _: None)
        for piece in (b"\x01", b"", b"\x02\x03", b"\x04\x05\x06"):
            stream.push(piece)
            await asyncio.sleep(0.005)
        await until(lambda: len(fake.connections[0].audio) == 6)
        await stream.close()
    assert fake.connections[0].audio == b"\1\2\3\4\5\6"
    assert all(len(message) % 2 == 0 for message in fake.connections[0].messages if isinstance(message, bytes))


async def test_is_kept_alive_while_the_phone_rings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "IDLE", 0.02)
    async with FakeDeepgram() as fake:
        stream = await nova(fake).open(PCMU, lambda _: None)
        await until(lambda: len(fake.connections[0].json) >= 2)
        await stream.close()
    assert fake.connections[0].json[0] == {"type": "KeepAlive"}
    assert fake.connections[0].audio == b""


async def test_a_connection_that_takes_nothing_holds_two_seconds_at_most() -> None:
    async with FakeDeepgram() as fake:
        stream = await nova(fake).open(PCMU, lambda _: None)
        for number in range(150):  # three seconds, before the sender gets a turn
            stream.push(bytes([number]) * 160)
        await until(lambda: len(fake.connections[0].audio) == 16_000)
        await stream.close()
    assert fake.connections[0].audio[0] == 50


# --- what comes of it


async def test_words_become_known_as_they_are_spoken_and_final_when_asked() -> None:
    heard: list[Heard] = []
    async with FakeDeepgram(HELLO, final_after=0.01) as fake:
        stream = await nova(fake).open(PCMU, heard.append)
        for _ in range(30):  # 0.6 s: the words, and 150 ms for the service to know them
            stream.push(PCMU.silence)
            await asyncio.sleep(0)
        await until(lambda: Partial("hello there") in heard)
        assert not finals(heard)
        stream.finalize()
        await until(lambda: finals(heard))
        await stream.close()
    assert isinstance(heard[0], SpeechHeard)
    assert heard[-1] == Final("hello there", 0.98, answers_finalize=True)
    assert {"type": "Finalize"} in fake.connections[0].json


async def test_audio_goes_out_before_the_finalize_that_followed_it() -> None:
    heard: list[Heard] = []
    async with FakeDeepgram(HELLO, final_after=0) as fake:
        stream = await nova(fake).open(PCMU, heard.append)
        push(stream, 600)
        stream.finalize()
        await until(lambda: finals(heard))
        await stream.close()
    kinds = [type(message) for message in fake.connections[0].messages]
    assert kinds.index(str) == len(kinds) - 1 - kinds[::-1].count(str) + 1


async def test_its_own_final_after_a_pause_answers_nothing() -> None:
    heard: list[Heard] = []
    async with FakeDeepgram(HELLO, final_after=0) as fake:
        stream = await nova(fake, endpointing=100).open(PCMU, heard.append)
        push(stream, 800)
        await until(lambda: finals(heard))
        stream.finalize()
        await until(lambda: len([one for one in heard if isinstance(one, Final)]) == 2)
        await stream.close()
    answers = [one for one in heard if isinstance(one, Final)]
    assert answers == [Final("hello there", 0.98), Final("", 0.98, answers_finalize=True)]


async def test_the_answer_to_an_earlier_question_is_not_taken_for_the_later_ones() -> None:
    heard: list[Heard] = []
    script = [("hello", 20, 100), ("there", 320, 400)]
    async with FakeDeepgram(script, final_after=0.03) as fake:
        stream = await nova(fake).open(PCMU, heard.append)
        push(stream, 300)
        stream.finalize()
        await until(lambda: fake.connections[0].json)
        push(stream, 300)
        stream.finalize()
        await until(lambda: finals(heard) == ["hello", "there"])
        await stream.close()
    assert [one.answers_finalize for one in heard if isinstance(one, Final)] == [False, True]


async def test_a_caller_may_say_what_no_script_foresaw() -> None:
    heard: list[Heard] = []
    async with FakeDeepgram(final_after=0) as fake:
        stream = await nova(fake).open(PCMU, heard.append)
        push(stream, 200)
        await until(lambda: fake.heard_ms == 200)
        fake.caller_says("as I said", 400)
        push(stream, 600)
        await until(lambda: Partial("as I said") in heard)
        await stream.close()


async def test_a_finalize_that_the_service_leaves_unanswered_is_answered() -> None:
    heard: list[Heard] = []
    async with FakeDeepgram(final_after=60) as fake:
        stream = await nova(fake).open(PCMU, heard.append)
        stream.finalize()
        await until(lambda: fake.connections[0].json)
        stream._asked_at -= 10  # type: ignore[attr-defined]  # that long ago
        push(stream, 1100)  # silence, which Deepgram reports once a second
        await until(lambda: heard)
        await stream.close()
    assert heard == [Final("", answers_finalize=True)]


async def test_a_final_without_text_takes_back_what_seemed_to_be_said() -> None:
    heard: list[Heard] = []
    result = '{"type": "Results", "is_final": %s, "start": 0, "duration": 0.1, "channel_index": [0, 1],'
    result += ' "channel": {"alternatives": [{"transcript": "%s", "confidence": 0.5, "words": []}]}, "metadata": {}}'
    said = (result % ("false", "uh"), result % ("true", ""), result % ("false", ""))
    async with FakeDeepgram(faults=[Fault(say=said)]) as fake:
        stream = await nova(fake).open(PCMU, heard.append)
        await until(lambda: len(heard) == 2)
        await stream.close()
    assert heard == [Partial("uh"), Partial("")]


async def test_what_is_not_understood_is_passed_over() -> None:
    heard: list[Heard] = []
    said = ("{not json", "[1]", '{"type": "Results"}', '{"type": "News"}', b"\0", b"", '{"type":"UtteranceEnd"}')
    said += ('{"type": "Error", "variant": "SchemaError", "description": "no"}',)
    async with FakeDeepgram(HELLO, final_after=0, faults=[Fault(say=said)]) as fake:
        stream = await nova(fake).open(PCMU, heard.append)
        push(stream, 600)
        stream.finalize()
        await until(lambda: finals(heard))
        await stream.close()
    assert finals(heard) == ["hello there"]


# --- when it fails


@pytest.mark.parametrize(
    ("fault", "kind", "text", "wait"),
    [
        (Fault(401, {"dg-error": "Invalid credentials."}), "rejected", "HTTP 401 Invalid credentials.", 0),
        (Fault(400, body="no such model"), "rejected", "HTTP 400 no such model", 0),
        (Fault(429, {"Retry-After": "3"}), "rate_limited", "HTTP 429", 3),
        (Fault(500), "unavailable", "HTTP 500", 0),
        (Fault(504), "timeout", "HTTP 504", 0),
    ],
)
async def test_a_refusal_is_told(fault: Fault, kind: str, text: str, wait: float) -> None:
    async with FakeDeepgram(faults=[fault]) as fake:
        with pytest.raises(ServiceError, match=text) as caught:
            await nova(fake).open(PCMU, lambda _: None)
    assert (caught.value.kind, caught.value.retry_after) == (kind, wait)
    assert "secret" not in repr(caught.value)


async def test_nobody_there() -> None:
    service = Deepgram(NovaSettings(service="deepgram", api_key="k", base_url="ws://127.0.0.1:9"))
    with pytest.raises(ServiceError, match="no connection") as caught:
        await service.open(PCMU, lambda _: None)
    assert caught.value.kind == "unavailable"


@pytest.mark.parametrize("fault", [Fault(drop=True, after=0.3), Fault(close=(1011, "NET-0000"), after=0.3)])
async def test_a_broken_connection_is_replaced_and_hears_the_sentence_again(fault: Fault) -> None:
    heard: list[Heard] = []
    async with FakeDeepgram(HELLO, final_after=0, faults=[fault]) as fake:
        stream = await nova(fake).open(PCMU, heard.append)
        push(stream, 300)
        await until(lambda: len(fake.connections) == 2)
        push(stream, 300)
        stream.finalize()
        await until(lambda: finals(heard))
        await stream.close()
    assert finals(heard) == ["hello there"]
    assert len(fake.connections[1].audio) == 4800
    assert not [one for one in heard if isinstance(one, HearingLost)]


async def test_what_is_final_is_not_heard_again() -> None:
    heard: list[Heard] = []
    script = [("hello there", 100, 400), ("and more", 1000, 1200)]
    async with FakeDeepgram(script, final_after=0, faults=[Fault(drop=True, after=1.2)]) as fake:
        stream = await nova(fake).open(PCMU, heard.append)
        push(stream, 600)
        stream.finalize()
        await until(lambda: finals(heard))
        push(stream, 600)
        await until(lambda: len(fake.connections) == 2 and fake.connections[1].audio)
        await stream.close()
    assert len(fake.connections[1].audio) == 4800


async def test_a_question_that_the_break_swallowed_is_asked_again() -> None:
    heard: list[Heard] = []
    async with FakeDeepgram(HELLO, final_after=0.05, faults=[Fault(drop=True, after=0.6)]) as fake:
        stream = await nova(fake).open(PCMU, heard.append)
        push(stream, 600)
        stream.finalize()
        await until(lambda: finals(heard))
        await stream.close()
    assert heard[-1] == Final("hello there", 0.98, answers_finalize=True)
    assert len(fake.connections) == 2


async def test_a_second_break_is_the_end() -> None:
    heard: list[Heard] = []
    async with FakeDeepgram(faults=[Fault(drop=True), Fault(close=(1011, "NET-0001"))]) as fake:
        stream = await nova(fake).open(PCMU, heard.append)
        await until(lambda: heard)
        stream.push(PCMU.silence)
        await stream.close()
    assert len(fake.connections) == 2
    (lost,) = heard
    assert isinstance(lost, HearingLost)
    assert lost.error.kind == "unavailable"
    assert "1011 NET-0001" in lost.error.detail


@pytest.mark.parametrize("code", [1008, 4001])
async def test_a_refusal_in_the_middle_is_final(code: int) -> None:
    heard: list[Heard] = []
    async with FakeDeepgram(faults=[Fault(close=(code, "DATA-0000"), after=0.1)]) as fake:
        stream = await nova(fake).open(PCMU, heard.append)
        push(stream, 200)
        await until(lambda: heard)
        await stream.close()
    assert len(fake.connections) == 1
    assert isinstance(heard[0], HearingLost)
    assert heard[0].error.kind == "rejected"


async def test_a_service_that_falls_silent_is_replaced() -> None:
    heard: list[Heard] = []
    async with FakeDeepgram(HELLO, final_after=0, faults=[Fault(mute=True)]) as fake:
        stream = await nova(fake, stall=0.2).open(PCMU, heard.append)
        push(stream, 600)
        stream.finalize()
        await until(lambda: finals(heard))
        await stream.close()
    assert finals(heard) == ["hello there"]


async def test_silence_on_our_side_is_no_stall() -> None:
    heard: list[Heard] = []
    async with FakeDeepgram() as fake:
        stream = await nova(fake, stall=0.02).open(PCMU, heard.append)
        await asyncio.sleep(0.1)
        await stream.close()
    assert len(fake.connections) == 1
    assert heard == []


async def test_after_closing_nothing_is_reported() -> None:
    heard: list[Heard] = []
    async with FakeDeepgram(HELLO) as fake:
        stream = await nova(fake).open(L16_8K, heard.append)
        await stream.close()
        push(stream, 800, L16_8K)
        stream.finalize()
        await asyncio.sleep(0.02)
    assert heard == []


async def test_a_listener_that_fails_is_told_that_hearing_is_lost() -> None:
    heard: list[Heard] = []

    def hear(one: Heard) -> None:
        heard.append(one)
        if isinstance(one, SpeechHeard):
            raise RuntimeError("oh")

    async with FakeDeepgram(HELLO) as fake:
        stream = await nova(fake).open(PCMU, hear)
        with capture_logs() as logged:
            push(stream, 600)
            await until(lambda: isinstance(heard[-1], HearingLost) if heard else False)
        await stream.close()
    assert [(entry["event"], entry["log_level"]) for entry in logged] == [("hearing.failed", "error")]


# --- settings


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "stt.api_key: missing: make one at https://console.deepgram.com"),
        ({"api_key": "a b"}, "stt.api_key: it holds a space"),
        ({"api_key": "k", "base_url": "api.eu.deepgram.com"}, "stt.base_url: .*write one like wss://"),
        ({"api_key": "k", "endpointing": True}, "stt.endpointing"),
        (
            {"api_key": "k", "keyterm": "x"},
            r"stt.keyterm: no such setting; did you mean keyterms\? deepgram has .*keyterms",
        ),
    ],
)
def test_settings_that_cannot_work_are_named(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make_service("stt", {"service": "deepgram"} | settings)


def test_the_key_stays_out_of_what_is_printed() -> None:
    settings = NovaSettings(service="deepgram", api_key="secret", base_url="https://api.eu.deepgram.com/")
    assert "secret" not in repr(settings)
    assert settings.base_url == "wss://api.eu.deepgram.com"
    with pytest.raises(ValidationError, match="missing"):
        NovaSettings(service="deepgram", api_key=" ")
