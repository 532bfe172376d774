"""Asterisk's settings, and the ways in."""

from __future__ import annotations

import uuid
from base64 import b64encode
from typing import Any

import pytest
from fakes.asterisk import WebSocketChannel
from pydantic import ValidationError

from offhook.providers.asterisk.adapter import TICKET_PATH, AsteriskProvider, AsteriskSettings
from offhook.providers.asterisk.audiosocket import message
from offhook.providers.base import (
    CallOffered,
    CarrierAuthError,
    CarrierProtocolError,
    ProtocolFault,
)
from offhook.providers.settings import CarrierSettings

GOOD = "Basic " + b64encode(b"offhook:secret").decode()
URL = "wss://gw.example.net/asterisk/media"
TICKET = "https://gw.example.net" + TICKET_PATH


def provider(**settings: Any) -> AsteriskProvider:
    return AsteriskProvider(AsteriskSettings.model_validate({"password": "secret", "audiosocket": {}} | settings))


def named(id: str) -> bytes:
    return message(0x01, uuid.UUID(id).bytes)


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({}, "nobody may come in"),
        ({"audiosocket": {}}, "nobody may come in"),
        ({"password": ""}, "empty"),
        ({"password": "x", "audiosocket": {"number": "100"}}, "sources"),
        ({"password": "x", "audiosocket": {"sources": ["10.0.0.1/8"]}}, "audiosocket.sources"),
        ({"password": "x", "ari": {"url": "pbx:8088", "username": "a", "password": "b"}}, "scheme"),
        (
            {"password": "x", "ari": {"url": "http://p", "username": "a", "password": "b", "endpoint": "PJSIP/x"}},
            "number",
        ),
        ({"password": "x", "audiosocket": {"prot": 1}}, "audiosocket.prot"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError, match=where) as caught:
        AsteriskSettings.model_validate(settings)
    assert "secret" not in str(caught.value)


def test_settings_of_another() -> None:
    with pytest.raises(TypeError, match="AsteriskSettings"):
        AsteriskProvider(CarrierSettings())


def test_case_17_the_upgrade(request_of: Any) -> None:
    asterisk = provider()
    asterisk.verify_upgrade(request_of("GET", URL, authorization=GOOD, sec_websocket_protocol="media"))
    with pytest.raises(CarrierAuthError):
        asterisk.verify_upgrade(request_of("GET", URL, sec_websocket_protocol="media"))
    with pytest.raises(CarrierAuthError, match="subprotocol"):
        asterisk.verify_upgrade(request_of("GET", URL, authorization=GOOD))
    older = provider(require_subprotocol=False)
    older.verify_upgrade(request_of("GET", URL, authorization=GOOD))
    with pytest.raises(CarrierAuthError):
        older.verify_upgrade(request_of("GET", URL, authorization="Basic x"))


def test_a_media_socket_is_a_call(request_of: Any) -> None:
    asterisk = provider(number="+15559990000")
    stream = asterisk.open(request_of("GET", URL + "?from=%2B15550001111&to=100&channel=17.1"))
    (offered,) = stream.receive(WebSocketChannel().start(), 1.0)
    assert isinstance(offered, CallOffered)
    assert (offered.incoming.from_number, offered.incoming.to_number) == ("+15550001111", "100")
    assert asterisk.control.lines["media:b7c1"] is stream
    del stream
    assert "media:b7c1" not in asterisk.control.lines
    for query in ("", "?" + "&".join(f"a{n}=1" for n in range(500))):
        stream = asterisk.open(request_of("GET", URL + query))
        (offered,) = stream.receive(WebSocketChannel().start(), 1.0)
        assert isinstance(offered, CallOffered)
        assert offered.incoming.to_number == "+15559990000"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_dialplan_asks_for_an_id(request_of: Any, method: str) -> None:
    asterisk = provider()
    fields = "from=%2B15550001111&to=%2B15550002222&channel=17.1"
    url, body = (TICKET + "?" + fields, b"") if method == "GET" else (TICKET, fields.encode())
    answer = asterisk.ticket(request_of(method, url, body, authorization=GOOD), 1.0)
    assert (answer.status, answer.content_type) == (200, "text/plain")
    stream = asterisk.audiosocket_stream()
    (offered,) = stream.receive_binary(named(answer.body), 1.1)
    assert isinstance(offered, CallOffered)
    assert offered.incoming.to_number == "+15550002222"
    assert asterisk.control.lines[answer.body].channel == "17.1"
    again = asterisk.audiosocket_stream()
    fault, _ = again.receive_binary(named(answer.body), 1.2)
    assert isinstance(fault, ProtocolFault)
    assert fault.close_code == 1008


def test_who_gets_no_id(request_of: Any) -> None:
    with pytest.raises(CarrierAuthError):
        provider().ticket(request_of("GET", TICKET + "?to=100"), 1.0)
    with pytest.raises(CarrierProtocolError, match="to: the field is missing"):
        provider().ticket(request_of("GET", TICKET, authorization=GOOD), 1.0)
    with pytest.raises(CarrierProtocolError, match=r"carriers\.asterisk\.audiosocket"):
        provider(audiosocket=None).ticket(request_of("GET", TICKET + "?to=1", authorization=GOOD), 1.0)
    assert provider(number="100").ticket(request_of("GET", TICKET, authorization=GOOD), 1.0).body


def test_sources() -> None:
    anyone = provider()
    assert anyone.admits("203.0.113.9")
    assert not provider(audiosocket=None).admits("127.0.0.1")
    listed = provider(audiosocket={"sources": ["10.0.0.0/8", "fd00::/8"]})
    for host, wanted in {
        "10.1.2.3": True,
        "::ffff:10.1.2.3": True,
        "fd00::1%eth0": True,
        "11.0.0.1": False,
        "fe80::1": False,
    }.items():
        assert listed.admits(host) is wanted
    # Listed, but no number: the id must be ours all the same.
    fault, _ = listed.audiosocket_stream().receive_binary(named(str(uuid.uuid4())), 1.0)
    assert isinstance(fault, ProtocolFault)


def test_a_listed_source_may_come_with_an_id_of_its_own() -> None:
    asterisk = provider(password=None, audiosocket={"sources": ["10.0.0.0/8"], "number": "+15550002222"})
    id = str(uuid.uuid4())
    (offered,) = asterisk.audiosocket_stream().receive_binary(named(id), 1.0)
    assert isinstance(offered, CallOffered)
    call = offered.incoming
    assert (call.carrier_call_id, call.to_number, call.from_number) == (id, "+15550002222", "anonymous")
