"""jambonz: webhooks, verbs, media socket, application socket and REST API."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.codecs.audio import L16_8K
from offhook.providers.base import (
    AcceptAnswer,
    CarrierAuthError,
    CarrierProtocolError,
    CarrierRefused,
    CarrierRequest,
    CarrierUnavailable,
    DialAnswer,
    HangUpAnswer,
    MediaReceived,
    RejectAnswer,
    SayAnswer,
    StreamAnswer,
    StreamStarted,
    WebhookProvider,
)
from offhook.providers.freeswitch import application, auth
from offhook.providers.freeswitch.answer import build, verbs
from offhook.providers.freeswitch.api import JambonzControl
from offhook.providers.freeswitch.jambonz import JambonzProvider, JambonzSettings
from offhook.providers.settings import CarrierSettings

AT = 1_770_000_000
CALL: dict[str, Any] = {
    "call_sid": "CA1",
    "direction": "inbound",
    "from": "15550123456",
    "to": "+15550100000",
    "call_id": "b770aa5a",
    "sip_status": 100,
    "sip_reason": "Trying",
    "call_status": "trying",
    "account_sid": "AC1",
    "sip": {"headers": {"X-Queue": "sales"}},
}


def provider(**changes: Any) -> JambonzProvider:
    settings = {"account_sid": "AC1", "webhook_secret": "s-1", "api_key": "k-1"} | changes
    return JambonzProvider(JambonzSettings.model_validate(settings), clock=lambda: float(AT))


def webhook(body: object, *, at: int = AT, secret: str = "s-1") -> CarrierRequest:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {auth.SIGNATURE: [auth.sign(secret, data, at)], "content-type": ["application/json"]}
    return CarrierRequest("POST", "https://voice.example.com/jambonz/call", headers, data)


# --- webhooks ---------------------------------------------------------------------------


def test_case_14_webhooks_are_verified() -> None:
    jambonz = provider()
    assert isinstance(jambonz, WebhookProvider)
    jambonz.verify(webhook(CALL))
    for refused in (webhook(CALL, secret="wrong"), webhook(CALL, at=AT - 301)):
        with pytest.raises(CarrierAuthError):
            jambonz.verify(refused)
    jambonz.verify_upgrade(CarrierRequest("GET", "wss://voice.example.com/jambonz/media/t", {}))


def test_a_call_comes_in() -> None:
    incoming = provider().incoming(webhook(CALL))
    assert (incoming.carrier_call_id, incoming.from_number, incoming.to_number) == (
        "CA1",
        "+15550123456",
        "+15550100000",
    )
    assert incoming.direction == "inbound"
    assert incoming.fields["sip_status"] == "100"
    assert json.loads(incoming.fields["sip"]) == {"headers": {"X-Queue": "sales"}}
    assert provider().incoming(webhook(CALL | {"direction": "outbound"})).direction == "outbound"


@pytest.mark.parametrize("missing", ["call_sid", "to"])
def test_a_field_that_must_be_there_is_named(missing: str) -> None:
    with pytest.raises(CarrierProtocolError, match=missing):
        provider().incoming(webhook({name: value for name, value in CALL.items() if name != missing}))


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"call_sid=CA1", b"\xff", b"[" * 9000])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(CarrierProtocolError, match="no JSON object"):
        provider().incoming(CarrierRequest("POST", "https://x/jambonz/call", {}, body))
    with pytest.raises(CarrierProtocolError, match="no JSON object"):
        provider().status(CarrierRequest("POST", "https://x/jambonz/status", {}, body))


@pytest.mark.parametrize(
    ("status", "expected"),
    [("completed", "completed"), ("in-progress", "answered"), ("early-media", "ringing"), ("new-one", None)],
)
def test_the_status_of_a_call(status: str, expected: str | None) -> None:
    changed = provider().status(webhook(CALL | {"call_status": status, "sip_status": 486, "sip_reason": "Busy"}))
    assert changed.status == expected
    assert changed.carrier_call_id == "CA1"
    assert changed.cause == "486 Busy"
    with pytest.raises(CarrierProtocolError, match="call_sid"):
        provider().status(webhook({"call_status": status}))


# --- verbs ------------------------------------------------------------------------------


def test_answering_opens_a_stream_both_ways() -> None:
    response = provider(sample_rate=16000, verb="stream").answer(
        StreamAnswer("wss://v/jambonz/media/t", {"tenant": "acme"}, after_url="https://v/jambonz/after")
    )
    assert response.content_type == "application/json"
    assert json.loads(response.body) == [
        {"verb": "answer"},
        {
            "verb": "stream",
            "url": "wss://v/jambonz/media/t",
            "mixType": "mono",
            "sampleRate": 16000,
            "passDtmf": True,
            "bidirectionalAudio": {"enabled": True, "streaming": True, "sampleRate": 16000},
            "metadata": {"tenant": "acme"},
            "actionHook": "https://v/jambonz/after",
        },
    ]
    assert [verb["verb"] for verb in verbs(StreamAnswer("ws://v/m/t"), rate=8000)] == ["answer", "listen", "hangup"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (HangUpAnswer(), [{"verb": "hangup"}]),
        (RejectAnswer("busy"), [{"verb": "sip:decline", "status": 486, "reason": "Busy Here"}]),
        (RejectAnswer("rejected"), [{"verb": "sip:decline", "status": 603, "reason": "Decline"}]),
        (SayAnswer("Sorry"), [{"verb": "say", "text": "Sorry"}, {"verb": "hangup"}]),
        (
            SayAnswer("Wait", then_dial="+15550101"),
            [
                {"verb": "say", "text": "Wait"},
                {"verb": "dial", "target": [{"type": "phone", "number": "+15550101"}], "timeout": 30},
            ],
        ),
        (
            DialAnswer("sip:ann@example.net", caller_id="+15550100", timeout=20),
            [
                {
                    "verb": "dial",
                    "target": [{"type": "sip", "sipUri": "sip:ann@example.net"}],
                    "timeout": 20,
                    "callerId": "+15550100",
                },
                {"verb": "hangup"},
            ],
        ),
    ],
)
def test_the_other_answers(answer: Any, expected: list[dict[str, Any]]) -> None:
    assert json.loads(build(answer, rate=8000)) == expected


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (StreamAnswer("https://v/m/t"), "url"),
        (StreamAnswer("wss://v/m/t", {"callSid": "CA2"}), "'callSid' would overwrite"),
        (AcceptAnswer(), "answer with a stream"),
    ],
)
def test_what_jambonz_would_refuse_is_refused_here(answer: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        build(answer, rate=8000)


# --- the media socket -------------------------------------------------------------------


def test_the_media_socket_of_an_announced_call() -> None:
    assert provider().subprotocols[0] == "audio.jambonz.org"
    stream = provider().stream(expect_call_id="CA1")
    first = {"sampleRate": 8000, "mixType": "mono", "callSid": "CA1", "from": "1", "to": "2", "tenant": "acme"}
    assert stream.receive(json.dumps(first), 0.0) == (StreamStarted("CA1", "CA1", L16_8K, {"tenant": "acme"}),)
    assert stream.receive_binary(bytes(320), 0.02) == (MediaReceived(bytes(320)),)


# --- the application socket -------------------------------------------------------------


def test_case_13_a_session_gets_one_ack_with_its_msgid() -> None:
    text = json.dumps({"type": "session:new", "msgid": "m-1", "call_sid": "CA1", "b3": "x", "data": CALL})
    asked = application.read(text)
    assert asked.waits
    assert asked.incoming.carrier_call_id == "CA1"
    assert asked.incoming.from_number == "+15550123456"
    reply = json.loads(application.ack(asked, verbs(StreamAnswer("wss://v/m/t"), rate=8000)))
    assert reply["type"] == "ack"
    assert reply["msgid"] == "m-1"
    assert reply["data"][0] == {"verb": "answer"}
    with pytest.raises(ValueError, match="jambonz takes 24576"):
        application.ack(asked, verbs(SayAnswer("x" * 25_000), rate=8000))


def test_what_only_tells_waits_for_nothing() -> None:
    asked = application.read('{"type":"call:status","msgid":"m","data":{"call_status":"completed"}}')
    assert not asked.waits
    assert asked.fields == {"call_status": "completed"}
    with pytest.raises(CarrierProtocolError, match="call_sid"):
        _ = asked.incoming


@given(st.one_of(st.text(), st.binary()))
def test_noise_on_the_application_socket_gives_a_message_or_the_documented_refusal(data: str | bytes) -> None:
    with suppress(CarrierProtocolError):
        assert isinstance(application.read(data), application.Asked)


@pytest.mark.parametrize(
    "data", ["", "[]", "{}", '{"type":1}', '{"type":"a","data":[]}', "[" * 9000, "\ud800", b"\xff"]
)
def test_what_is_no_message_of_the_application_socket_is_refused(data: str | bytes) -> None:
    with pytest.raises(CarrierProtocolError, match="message"):
        application.read(data)


def test_a_message_too_long_is_refused() -> None:
    with pytest.raises(CarrierProtocolError, match="limit"):
        application.read("x" * 65_537)


# --- the API ----------------------------------------------------------------------------


def control(url: str, key: str = "k-1") -> JambonzControl:
    return JambonzControl(account_sid="AC1", api_key=key, api_base=url + "/api/", timeout=2.0)


async def test_orders(api: Any, reply: Any) -> None:
    api.answer(reply(204), reply(204), reply(204), reply(204), reply(201, {"sid": "CA9"}), reply(200, {"name": "Acme"}))
    orders = control(api.url)
    await orders.hang_up("CA1")
    await orders.transfer("CA/1", DialAnswer("2"), fetch_url="https://v/after")
    assert await orders.send_dtmf("CA1", "1#")
    dialled = await orders.dial("+15550123", "+15550100", answer_url="https://v/call", status_url="https://v/status")
    assert dialled == "CA9"
    assert await orders.check() == "jambonz account Acme"
    await orders.close()
    seen = [(request.method, request.path) for request in api.requests]
    assert seen == [
        ("PUT", "/api/v1/Accounts/AC1/Calls/CA1"),
        ("PUT", "/api/v1/Accounts/AC1/Calls/CA%2F1"),
        ("PUT", "/api/v1/Accounts/AC1/Calls/CA1"),
        ("PUT", "/api/v1/Accounts/AC1/Calls/CA1"),
        ("POST", "/api/v1/Accounts/AC1/Calls"),
        ("GET", "/api/v1/Accounts/AC1"),
    ]
    assert api.requests[0].headers["authorization"] == "Bearer k-1"
    bodies = [request.json for request in api.requests[:5]]
    assert bodies[0] == {"call_status": "completed"}
    assert bodies[1] == {"call_hook": {"url": "https://v/after", "method": "POST"}}
    assert [body["dtmf"] for body in bodies[2:4]] == [
        {"digit": "1", "duration": 250},
        {"digit": "#", "duration": 250},
    ]
    assert bodies[4] == {
        "from": "+15550100",
        "to": {"type": "phone", "number": "+15550123"},
        "call_hook": {"url": "https://v/call", "method": "POST"},
        "call_status_hook": {"url": "https://v/status", "method": "POST"},
        "timeout": 60,
    }


async def test_a_call_that_is_over_is_hung_up_already(api: Any, reply: Any) -> None:
    api.answer(reply(404))
    orders = control(api.url)
    await orders.hang_up("CA1")
    with pytest.raises(CarrierRefused, match="HTTP 404"):
        await orders.transfer("CA1", DialAnswer("2"), fetch_url="https://v/after")
    await orders.close()


async def test_a_hang_up_that_is_forbidden_is_told(api: Any, reply: Any) -> None:
    api.answer(reply(403))
    orders = control(api.url)
    with pytest.raises(CarrierRefused, match="HTTP 403"):
        await orders.hang_up("CA1")
    await orders.close()


async def test_orders_that_cannot_be_given(api: Any, reply: Any, unused_url: str) -> None:
    keyless = control(api.url, key="")
    with pytest.raises(CarrierRefused, match="api_key"):
        await keyless.check()
    assert await keyless.send_dtmf("CA1", "1w") is False
    await keyless.close()
    api.answer(reply(500))
    failing = control(api.url)
    with pytest.raises(CarrierUnavailable, match="HTTP 500"):
        await failing.dial("sip:a@b", "1", answer_url="", status_url="")
    assert len(api.requests) == 1  # dialling is never repeated
    await failing.close()


def test_other_settings_are_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError, match="CarrierSettings"):
        JambonzProvider(CarrierSettings())
