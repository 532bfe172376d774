"""Flux against a fake Listen v2."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from fakes.deepgram import FakeDeepgram
from fakes.sockets import Fault

from offhook.agents.services.base import (
    EagerEndOfTurn,
    EndOfTurn,
    Final,
    Heard,
    HearingLost,
    Partial,
    ServiceError,
    SpeechHeard,
    Transcription,
    TurnResumed,
)
from offhook.agents.services.deepgram import listening
from offhook.agents.services.deepgram.flux import DeepgramFlux, FluxSettings
from offhook.agents.services.registry import make_service
from offhook.codecs.audio import L16_16K, PCMU

HELLO = [("hello there", 100, 400)]


def flux(fake: FakeDeepgram, **settings: Any) -> DeepgramFlux:
    return DeepgramFlux(FluxSettings(service="deepgram-flux", api_key="secret", base_url=fake.url, **settings))


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(3):
        while not condition():
            await asyncio.sleep(0.002)


def push(stream: Transcription, milliseconds: int) -> None:
    for _ in range(milliseconds // 20):
        stream.push(PCMU.silence)


def turn(event: str, text: str, index: int = 0, **more: Any) -> str:
    message = {"type": "TurnInfo", "event": event, "turn_index": index, "transcript": text, "words": []}
    return json.dumps(message | {"request_id": "r", "sequence_id": 1, "audio_window_end": 0.1} | more)


async def heard_of(*messages: str, count: int, finalize: bool = False) -> list[Heard]:
    """What comes of the service's messages."""
    heard: list[Heard] = []
    async with FakeDeepgram(faults=[Fault(say=messages, after=0.08)]) as fake:
        stream = await flux(fake).open(PCMU, heard.append)
        if finalize:
            stream.finalize()
            await until(lambda: fake.connections[0].json)
        push(stream, 80)
        await until(lambda: len(heard) >= count)
        await stream.close()
    return heard


async def test_asks_for_the_carriers_format_and_the_thresholds() -> None:
    async with FakeDeepgram() as fake:
        service = flux(fake, eager_eot_threshold=0.5, eot_timeout_ms=3000, keyterms=("offhook", "Köln"))
        await (await service.open(L16_16K, lambda _: None)).close()
    assert service.ends_turns
    assert fake.connections[0].path == "/v2/listen"
    assert fake.connections[0].query == {
        "model": ["flux-general-en"],
        "encoding": ["linear16"],
        "sample_rate": ["16000"],
        "eot_threshold": ["0.7"],
        "eager_eot_threshold": ["0.5"],
        "eot_timeout_ms": ["3000"],
        "keyterm": ["offhook", "Köln"],
    }


async def test_sends_eighty_milliseconds_at_a_time() -> None:
    async with FakeDeepgram() as fake:
        stream = await flux(fake).open(PCMU, lambda _: None)
        for _ in range(11):
            stream.push(PCMU.silence)
            await asyncio.sleep(0)
        await until(lambda: len(fake.connections[0].messages) == 2)
        await stream.close()
    assert [len(message) for message in fake.connections[0].messages[:2]] == [640, 640]


async def test_gets_silence_while_the_phone_rings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "IDLE", 0.02)
    async with FakeDeepgram() as fake:
        stream = await flux(fake).open(PCMU, lambda _: None)
        await until(lambda: fake.connections[0].messages)
        await stream.close()
    assert fake.connections[0].messages[0] == b"\xff" * 640


async def test_a_turn_is_begun_expected_to_end_taken_up_again_and_ended() -> None:
    heard: list[Heard] = []
    script = [("I want", 80, 400), ("please", 1000, 1200)]
    async with FakeDeepgram(script, end_after=0.9) as fake:
        stream = await flux(fake, eager_eot_threshold=0.4).open(PCMU, heard.append)
        push(stream, 1900)
        await until(lambda: len(heard) >= 7)
        push(stream, 600)
        await until(lambda: EndOfTurn("I want please") in heard)
        await stream.close()
    marks = [one for one in heard if not isinstance(one, Partial)]
    assert [type(one) for one in marks] == [SpeechHeard, EagerEndOfTurn, TurnResumed, EagerEndOfTurn, EndOfTurn]
    assert marks[1] == EagerEndOfTurn("I want")
    assert [one for one in heard if isinstance(one, Partial)][:2] == [Partial("I"), Partial("I want")]


async def test_a_turn_ends_once() -> None:
    ended = turn("EndOfTurn", "yes", trigger="model")
    heard = await heard_of(turn("StartOfTurn", "yes"), ended, ended, turn("StartOfTurn", "no", 1), count=5)
    assert heard == [SpeechHeard(), Partial("yes"), EndOfTurn("yes"), SpeechHeard(), Partial("no")]


async def test_updates_without_news_are_passed_over() -> None:
    update = turn("Update", "yes")
    heard = await heard_of(turn("Update", ""), turn("StartOfTurn", "yes"), update, update, ended_by("model"), count=3)
    assert heard == [SpeechHeard(), Partial("yes"), EndOfTurn("yes")]


def ended_by(trigger: str) -> str:
    return turn("EndOfTurn", "yes", trigger=trigger)


async def test_a_turn_that_we_ended_answers_the_question() -> None:
    heard = await heard_of(turn("StartOfTurn", "yes"), ended_by("manual"), count=3, finalize=True)
    assert heard[-1] == Final("yes", answers_finalize=True)


async def test_a_turn_that_flux_ended_in_spite_of_the_question_is_its_own() -> None:
    heard = await heard_of(turn("StartOfTurn", "yes"), ended_by("timeout"), count=3, finalize=True)
    assert heard[-1] == EndOfTurn("yes")


async def test_finalize_sends_the_rest_and_forces_the_end() -> None:
    heard: list[Heard] = []
    async with FakeDeepgram(HELLO, final_after=0, end_after=9) as fake:
        stream = await flux(fake).open(PCMU, heard.append)
        push(stream, 420)
        stream.finalize()
        await until(lambda: heard and isinstance(heard[-1], Final))
        await stream.close()
    assert heard[-1] == Final("hello there", answers_finalize=True)
    assert fake.connections[0].audio == b"\xff" * 420 * 8
    assert {"type": "ForceEndTurn"} in fake.connections[0].json


async def test_a_flux_that_never_decides_gives_finals_only() -> None:
    heard: list[Heard] = []
    async with FakeDeepgram(HELLO, final_after=0) as fake:
        service = flux(fake, eot_threshold=1)
        stream = await service.open(PCMU, heard.append)
        push(stream, 1600)
        await until(lambda: Partial("hello there") in heard)
        stream.finalize()
        await until(lambda: Final("hello there", answers_finalize=True) in heard)
        stream.finalize()  # no turn is in progress: Flux does not answer
        await until(lambda: len(fake.connections[0].json) == 2)
        stream._asked_at -= 10  # type: ignore[attr-defined]  # that long ago
        push(stream, 320)
        await until(lambda: heard[-1] == Final("", answers_finalize=True))
        await stream.close()
    assert not service.ends_turns
    assert not [one for one in heard if isinstance(one, EndOfTurn)]


@pytest.mark.parametrize(("code", "kind"), [("BAD_REQUEST", "rejected"), ("INTERNAL_SERVER_ERROR", "unavailable")])
async def test_an_error_is_the_end_of_the_stream(code: str, kind: str) -> None:
    error = json.dumps({"type": "Error", "sequence_id": 1, "code": code, "description": "so it is"})
    heard: list[Heard] = []
    async with FakeDeepgram(faults=[Fault(say=(error,)), Fault(say=(error,))]) as fake:
        stream = await flux(fake).open(PCMU, heard.append)
        await until(lambda: heard)
        await stream.close()
    (lost,) = heard
    assert isinstance(lost, HearingLost)
    assert (lost.error.kind, lost.error.detail) == (kind, f"{code}: so it is")
    assert len(fake.connections) == (1 if kind == "rejected" else 2)


async def test_a_broken_connection_hears_the_turn_again_and_counts_anew() -> None:
    heard: list[Heard] = []
    script = [("first", 100, 300), ("second", 900, 1100)]
    async with FakeDeepgram(script, faults=[Fault(drop=True, after=1.2)]) as fake:
        stream = await flux(fake).open(PCMU, heard.append)
        push(stream, 800)
        await until(lambda: EndOfTurn("first") in heard)
        push(stream, 400)
        await until(lambda: len(fake.connections) == 2 and fake.connections[1].audio)
        fake.script[:] = [("second", 100, 300)]
        push(stream, 800)
        await until(lambda: EndOfTurn("second") in heard)
        await stream.close()
    assert [one.text for one in heard if isinstance(one, EndOfTurn)] == ["first", "second"]
    assert len(fake.connections[1].audio) < 8 * 1400


async def test_a_refusal_is_told() -> None:
    async with FakeDeepgram(faults=[Fault(403)]) as fake:
        with pytest.raises(ServiceError, match="HTTP 403") as caught:
            await flux(fake).open(PCMU, lambda _: None)
    assert caught.value.kind == "rejected"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"eot_threshold": 0.6, "eager_eot_threshold": 0.8}, "eager_eot_threshold is above eot_threshold"),
        ({"eot_threshold": 0.2}, "stt.eot_threshold"),
        ({"language": "de"}, "language needs model: flux-general-multi"),
    ],
)
def test_settings_that_cannot_work_are_named(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make_service("stt", {"service": "deepgram-flux", "api_key": "k"} | settings)
