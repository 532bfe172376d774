"""Plivo as a carrier: settings, webhooks, hang-up causes, and replays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from pydantic import BaseModel, ValidationError

from offhook.codecs.audio import L16_16K
from offhook.providers import provider_class
from offhook.providers.base import (
    Answer,
    CarrierAuthError,
    CarrierProtocolError,
    CarrierRequest,
    DialAnswer,
    HangUpAnswer,
    RejectAnswer,
    SayAnswer,
    StreamAnswer,
)
from offhook.providers.markup import read
from offhook.providers.plivo.adapter import (
    MAX_NONCES,
    NONCE_MEMORY,
    REPEAT_WINDOW,
    Nonces,
    PlivoProvider,
    PlivoSettings,
)
from offhook.providers.plivo.answer import parse
from offhook.providers.plivo.auth import sign, sign_v2
from offhook.providers.plivo.wire import PlivoStream

MakeRequest = Callable[..., CarrierRequest]

ANSWER = "https://gw.example.net/plivo/answer"
RING = {
    "CallUUID": "c-1",
    "From": "15550001111",
    "To": "15550002222",
    "CallStatus": "ringing",
    "Direction": "inbound",
    "Event": "StartApp",
    "ForwardedFrom": "",
    "AuthID": "MA1",
}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def provider(clock: Clock) -> AsyncIterator[PlivoProvider]:
    settings = PlivoSettings.model_validate({"auth_id": "MA" + "0" * 18, "auth_token": ["new", "old"]})
    made = PlivoProvider(settings, clock=clock)
    yield made
    await made.control.close()


def post(request_of: MakeRequest, fields: dict[str, str], token: str = "new", nonce: str = "n-1") -> CarrierRequest:
    signature = sign(token, "POST", ANSWER, nonce, fields.items())
    headers = {"x_plivo_signature_v3": signature, "x_plivo_signature_v3_nonce": nonce}
    return request_of("POST", ANSWER, urlencode(fields).encode(), **headers)


# --- signatures ------------------------------------------------------------------------------


async def test_any_configured_token(provider: PlivoProvider, request_of: MakeRequest) -> None:
    provider.verify(post(request_of, RING))
    provider.verify(post(request_of, RING, "old"))
    with pytest.raises(CarrierAuthError):
        provider.verify(post(request_of, RING, "older"))
    with pytest.raises(CarrierAuthError):
        provider.verify(request_of("POST", ANSWER, urlencode(RING).encode()))


async def test_v2_is_accepted_only_when_asked_for(request_of: MakeRequest) -> None:
    old = {"x_plivo_signature_v2": sign_v2("t", ANSWER, "n"), "x_plivo_signature_v2_nonce": "n"}
    for allowed in (False, True):
        settings = PlivoSettings.model_validate({"auth_id": "MA1", "auth_token": "t", "allow_v2_signatures": allowed})
        provider = PlivoProvider(settings)
        try:
            provider.verify(request_of("POST", ANSWER, b"CallUUID=c-1", **old))
            assert allowed
        except CarrierAuthError:
            assert not allowed
        await provider.control.close()


async def test_a_repeat_passes_and_a_replay_does_not(
    provider: PlivoProvider, request_of: MakeRequest, clock: Clock
) -> None:
    provider.verify(post(request_of, RING))
    clock.now += REPEAT_WINDOW
    provider.verify(post(request_of, RING))
    clock.now += 0.1
    with pytest.raises(CarrierAuthError, match="replay"):
        provider.verify(post(request_of, RING))
    provider.verify(post(request_of, RING, nonce="n-2"))
    provider.verify(post(request_of, RING | {"CallUUID": "c-2"}))


def test_nonces_are_forgotten_in_time_and_number() -> None:
    nonces = Nonces()
    assert not nonces.replayed("n", "s", 0.0)
    assert nonces.replayed("n", "s", NONCE_MEMORY - 1)
    assert not nonces.replayed("n", "s", NONCE_MEMORY)
    for number in range(MAX_NONCES + 5):
        nonces.replayed(str(number), "s", NONCE_MEMORY + 1)
    assert len(nonces._seen) == MAX_NONCES


async def test_upgrades_are_not_signed(provider: PlivoProvider, request_of: MakeRequest) -> None:
    provider.verify_upgrade(request_of("GET", "wss://gw.example.net/plivo/media/abc"))


# --- the incoming call -----------------------------------------------------------------------


async def test_an_incoming_call(provider: PlivoProvider, request_of: MakeRequest) -> None:
    call = provider.incoming(post(request_of, RING))
    assert (call.carrier_call_id, call.direction) == ("c-1", "inbound")
    assert (call.request_id, call.outbound_id) == ("", "")
    assert dict(call.fields) == RING


@pytest.mark.parametrize("given", ["15550001111", "+15550001111", "+1 555-000-1111"])
async def test_case_17_numbers_with_and_without_plus(
    provider: PlivoProvider, request_of: MakeRequest, given: str
) -> None:
    call = provider.incoming(post(request_of, RING | {"From": given, "To": given}))
    assert (call.from_number, call.to_number) == ("+15550001111", "+15550001111")


async def test_case_16_an_outbound_call_is_correlated(
    provider: PlivoProvider, request_of: MakeRequest, api: Any, reply: Any
) -> None:
    provider.control._requests["r-1"] = ""
    fields = RING | {"Direction": "outbound", "ALegRequestUUID": "r-1", "RequestUUID": "r-9"}
    call = provider.incoming(post(request_of, fields))
    assert (call.direction, call.carrier_call_id, call.outbound_id) == ("outbound", "c-1", "r-1")
    assert provider.control._requests == {"r-1": "c-1"}
    only_request = RING | {"Direction": "outbound", "RequestUUID": "c-1"}
    assert provider.incoming(post(request_of, only_request)).outbound_id == ""


async def test_missing_fields_are_named(provider: PlivoProvider, request_of: MakeRequest) -> None:
    for name in ("CallUUID", "To"):
        with pytest.raises(CarrierProtocolError, match=f"^{name}: "):
            provider.incoming(post(request_of, {key: value for key, value in RING.items() if key != name}))
    with pytest.raises(CarrierProtocolError, match=r"^CallUUID: "):
        provider.status(request_of("POST", ANSWER, b"Event=Hangup"))


# --- status callbacks ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "status", "ended_by"),
    [
        ({"CallStatus": "ringing", "Event": "Ring"}, "ringing", ""),
        ({"CallStatus": "in-progress"}, "answered", ""),
        (
            {"CallStatus": "completed", "HangupCause": "NORMAL_CLEARING", "HangupSource": "Caller"},
            "completed",
            "caller",
        ),
        ({"CallStatus": "completed", "HangupSource": "Callee"}, "completed", "callee"),
        ({"CallStatus": "completed", "HangupSource": "API Request"}, "completed", "gateway"),
        ({"CallStatus": "completed", "HangupSource": "Plivo"}, "completed", "carrier"),
        ({"CallStatus": "busy", "HangupCause": "USER_BUSY"}, "busy", ""),
        ({"CallStatus": "failed"}, "failed", ""),
        ({"CallStatus": "timeout"}, "no-answer", ""),
        ({"CallStatus": "no-answer"}, "no-answer", ""),
        ({"CallStatus": "cancel"}, "canceled", ""),
        # without a status: by the cause, then by its code
        ({"Event": "Hangup", "HangupCause": "NO_ANSWER"}, "no-answer", ""),
        ({"Event": "Hangup", "HangupCause": "CALL_REJECTED"}, "busy", ""),
        ({"Event": "Hangup", "HangupCause": "ORIGINATOR_CANCEL"}, "canceled", ""),
        ({"Event": "Hangup", "HangupCauseName": "End of XML", "HangupCauseCode": "4010"}, "completed", ""),
        ({"Event": "Hangup", "HangupCauseCode": "3000"}, "no-answer", ""),
        ({"Event": "Hangup", "HangupCause": "NEW_CAUSE", "HangupCauseCode": "5010"}, "failed", ""),
        ({"Event": "Hangup"}, "failed", ""),
        ({"Event": "Redirect"}, None, ""),
    ],
)
async def test_call_status(
    provider: PlivoProvider, request_of: MakeRequest, fields: dict[str, str], status: str | None, ended_by: str
) -> None:
    changed = provider.status(post(request_of, {"CallUUID": "c-1"} | fields))
    assert (changed.carrier_call_id, changed.status, changed.ended_by) == ("c-1", status, ended_by)
    assert changed.cause == fields.get("HangupCause", fields.get("HangupCauseName", ""))


@pytest.mark.parametrize("event", ["StartStream", "StopStream", "DroppedStream", "DegradedStream", "PlayedStream"])
async def test_case_20_stream_events_are_taken_and_are_not_the_calls_status(
    provider: PlivoProvider, request_of: MakeRequest, event: str
) -> None:
    changed = provider.status(post(request_of, {"Event": event, "CallUUID": "c-1", "CallStatus": "in-progress"}))
    assert (changed.carrier_call_id, changed.status, changed.cause) == ("c-1", None, event)
    assert provider.status(post(request_of, {"Event": event, "StreamID": "s-1"})).carrier_call_id == ""


# --- the rest --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        StreamAnswer("wss://gw.example.net/plivo/media/abc"),
        RejectAnswer(),
        SayAnswer("Hi"),
        DialAnswer("+15550001111"),
        HangUpAnswer(),
    ],
)
async def test_answers_are_markup(provider: PlivoProvider, answer: Answer) -> None:
    response = provider.answer(answer)
    assert (response.status, response.content_type) == (200, "text/xml")
    assert read(response.body).name == "Response"


async def test_streams_carry_what_is_configured() -> None:
    settings = PlivoSettings.model_validate({"auth_id": "MA1", "auth_token": "t", "stream_format": "l16/16000"})
    provider = PlivoProvider(settings)
    stream = parse(provider.answer(StreamAnswer("wss://gw.example.net/plivo/media/abc")).body).stream
    assert stream is not None
    assert stream.format == L16_16K
    await provider.control.close()


async def test_paths_and_streams(provider: PlivoProvider) -> None:
    assert provider_class("plivo") is PlivoProvider
    paths = {hook.path: hook.kind for hook in provider.webhooks}
    assert paths == {"/plivo/answer": "incoming", "/plivo/hangup": "status", "/plivo/after": "after"}
    assert provider.media_path == "/plivo/media/{token}"
    assert isinstance(provider.stream(expect_call_id="c-1"), PlivoStream)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({}, "auth_id"),
        ({"auth_id": "MA1", "auth_token": ""}, "auth_token"),
        ({"auth_id": "MA1", "auth_token": "t", "stream_format": "pcma/8000"}, "stream_format"),
        ({"auth_id": "MA1", "auth_token": "t", "token": "t"}, "token"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        PlivoSettings.model_validate(settings)


def test_takes_its_own_settings_only() -> None:
    class Other(BaseModel):
        pass

    with pytest.raises(TypeError, match="Other"):
        PlivoProvider(Other())
