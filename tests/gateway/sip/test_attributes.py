"""Headers as attributes of a call, and back; who calls whom."""

from __future__ import annotations

import pytest

from offhook.gateway.sip.attributes import MAX_FIELDS, MAX_VALUE, called, caller, read, write
from offhook.providers.sip.message import Headers, Request, parse
from offhook.providers.sip.settings import TrunkSettings

TRUNK = TrunkSettings.model_validate(
    {"sources": ["192.0.2.1"], "attributes": {"account": "X-Account-Id", "uui": "User-to-User"}}
)


def invite(*lines: str, uri: str = "sip:+15550100@gw.example.net") -> Request:
    base = {
        "Via": "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1",
        "From": "<sip:+15550111@example.net>;tag=1",
        "To": "<sip:+15550100@gw.example.net>",
        "Call-ID": "1@example.net",
        "CSeq": "1 INVITE",
        "Max-Forwards": "70",
    }
    own = {line.partition(":")[0] for line in lines}
    head = [f"INVITE {uri} SIP/2.0", *(f"{name}: {value}" for name, value in base.items() if name not in own), *lines]
    request = parse("\r\n".join([*head, "", ""]).encode())
    assert isinstance(request, Request)
    return request


def test_headers_become_fields_and_attributes() -> None:
    request = invite(
        "X-Account-Id: 4711",
        "x-campaign: spring",
        "User-to-User: 56a3;encoding=hex",
        "Diversion: <sip:9@x>",
        "Subject: no",
    )
    assert read(TRUNK, request.headers) == {
        "X-Account-Id": "4711",
        "x-campaign": "spring",
        "User-to-User": "56a3;encoding=hex",
        "Diversion": "<sip:9@x>",
        "account": "4711",
        "uui": "56a3;encoding=hex",
    }


def test_what_a_stranger_sends_is_bounded() -> None:
    headers = Headers([("X-Long", "a" * 5000), *((f"X-{n}", "1") for n in range(500))])
    found = read(TRUNK, headers)
    assert len(found) == MAX_FIELDS
    assert len(found["X-Long"]) == MAX_VALUE


def test_attributes_become_headers() -> None:
    assert write(TRUNK, {"account": "1", "X-Note": "ann", "uui": "ff"}) == (
        [("X-Account-Id", "1"), ("X-Note", "ann"), ("User-to-User", "ff")],
        [],
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mood", "good"),
        ("Via", "SIP/2.0/UDP evil"),
        ("X-Break", "a\r\nContact: <sip:evil>"),
        ("X-Zero", "a\0b"),
        ("X-Bad Name", "1"),
        ("X-Long", "a" * (MAX_VALUE + 1)),
    ],
)
def test_what_no_header_can_carry_is_told(name: str, value: str) -> None:
    assert write(TRUNK, {name: value}) == ([], [name])


def test_a_wide_prefix_opens_no_header_of_the_protocol() -> None:
    trunk = TrunkSettings.model_validate({"sources": ["192.0.2.1"], "pass_headers": ["Co", "mm"]})
    assert write(trunk, {"Contact": "<sip:evil>", "Color": "red"}) == ([("Color", "red")], ["Contact"])


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((), "+15550111"),
        (('P-Asserted-Identity: "Ann" <sip:+15550122@example.net>, <tel:+15550133>',), "+15550122"),
        (("P-Asserted-Identity: rubbish <",), "+15550111"),
        (("From: <sip:anonymous@anonymous.invalid>;tag=1",), "anonymous"),
        (("From: sip:1001@pbx.example.net;tag=1",), "1001"),
        (("From: <sip:pbx.example.net>;tag=1",), "anonymous"),
    ],
)
def test_who_calls(lines: tuple[str, ...], expected: str) -> None:
    assert caller(invite(*lines)) == expected


def test_whom_they_called() -> None:
    assert called(invite()) == "+15550100"
    assert called(invite(uri="tel:+15550144")) == "+15550144"
    # Registered as an extension, the Request-URI is our own Contact and the number stands in To.
    assert called(invite(uri="sip:agent7@192.0.2.9"), {"agent7"}) == "+15550100"
    assert called(invite(uri="sip:192.0.2.9")) == "+15550100"
