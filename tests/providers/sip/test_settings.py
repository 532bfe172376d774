"""The section `sip:`: what it takes, and what it says when it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from offhook.providers.rtp.media import G722, L16_16K, OPUS, PCMU
from offhook.providers.sip.settings import SipSettings, TrunkSettings

PBX: dict[str, Any] = {"sources": ["192.0.2.1"]}


def trunk(**settings: Any) -> TrunkSettings:
    return TrunkSettings.model_validate(settings)


def fault_of(model: type[SipSettings | TrunkSettings], value: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(value)
    return "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in caught.value.errors())


def test_nothing_has_to_be_said() -> None:
    settings = SipSettings()
    assert [(listen.transport, listen.host, listen.port) for listen in settings.listen] == [("udp", "0.0.0.0", 5060)]
    assert settings.trunks == {}
    assert settings.media.port_high - settings.media.port_low == 9999


def test_a_whole_section() -> None:
    settings = SipSettings.model_validate(
        {
            "listen": [{"transport": "udp"}, {"transport": "tls", "host": "[::]", "port": 5061}],
            "public_address": "sip.example.net",
            "media": {"public_address": "198.51.100.1", "port_low": 30000, "port_high": 30999},
            "tls": {"cert_file": "cert.pem", "key_file": "key.pem"},
            "trunks": {
                "carrier": {
                    "sources": ["192.0.2.0/28", "2001:db8::/48", "198.51.100.7"],
                    "proxies": ["sip:sbc.example.net;transport=tls", "192.0.2.9:5070", "[2001:db8::1]:5060"],
                    "outbound_proxy": "sip:edge.example.net;lr",
                    "codecs": ["opus", "g722", "l16/16000", "pcmu"],
                    "srtp": "required",
                    "attributes": {"account": "X-Account", "uui": "User-to-User"},
                    "numbers": ["+15550100"],
                    "max_calls": 30,
                    "max_cps": 2.5,
                },
                "pbx": {
                    "register": {"registrars": ["pbx.example.net", "sip:pbx2.example.net"], "user": "100"},
                    "username": "agent",
                    "password": "s3cret",
                },
            },
        }
    )
    assert [listen.host for listen in settings.listen] == ["0.0.0.0", "::"]
    carrier, pbx = settings.trunks["carrier"], settings.trunks["pbx"]
    assert [str(source) for source in carrier.sources] == ["192.0.2.0/28", "2001:db8::/48", "198.51.100.7/32"]
    assert carrier.proxies == [
        "sip:sbc.example.net;transport=tls",
        "sip:192.0.2.9:5070",
        "sip:[2001:db8::1]:5060",
    ]
    assert carrier.media_codecs == (OPUS, G722, L16_16K, PCMU)
    assert pbx.register_with is not None
    assert pbx.register_with.registrars == ["sip:pbx.example.net", "sip:pbx2.example.net"]
    assert pbx.register_with.expires == 3600
    assert settings.tls.cert_file == Path("cert.pem")
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({}, "takes and places no calls"),
        ({"sources": ["192.0.2.1/24"]}, "has host bits set"),
        ({"sources": ["pbx.example.net"]}, "names are not taken here"),
        ({"sources": [7.5]}, "sources.0"),
        ({"auth": "digest"}, "need username and password"),
        ({"auth": "both", "username": "a", "password": "b"}, "auth: both needs `sources`"),
        ({"auth": "digest", "username": "a", "password": "b"} | PBX, "drop `sources` or write auth: both"),
        (PBX | {"password": "b"}, "a password without username"),
        (PBX | {"username": "a", "password": ""}, "is empty"),
        ({"register": {"registrars": ["pbx"]}}, "register needs a user"),
        ({"register": {"registrars": []}}, "register.registrars"),
        (PBX | {"proxies": ["sip:pbx;transport=sctp"]}, "'sctp' is none of udp, tcp, tls"),
        (PBX | {"proxies": ["sip:pbx:99999"]}, "write it as sip:host:port;transport=tcp"),
        (PBX | {"proxies": [" "]}, "proxies.0"),
        (PBX | {"codecs": []}, "codecs"),
        (PBX | {"codecs": ["pcmu", "pcmu"]}, "a codec stands twice"),
        (PBX | {"codecs": ["g729"]}, "codecs.0"),
        (PBX | {"ptime": 25}, "ptime"),
        (PBX | {"session_expires": 60}, "session_expires is below min_se"),
        (PBX | {"min_se": 60}, "min_se"),
        (PBX | {"attributes": {"a": "Via"}}, "belongs to the protocol"),
        (PBX | {"attributes": {"a": "X Account"}}, "is no name of a header"),
        (PBX | {"attributes": {"a": "X\r\nVia"}}, "is no name of a header"),
        (PBX | {"pass_headers": ["X"]}, "too short"),
        (PBX | {"pass_headers": ["Call-ID"]}, "belongs to the protocol"),
        (PBX | {"numbers": [15550100]}, "in quotes"),
        (PBX | {"numbers": ["a b"]}, "numbers.0"),
        (PBX | {"from_domain": "a b"}, "from_domain"),
        (PBX | {"tls": {"key_file": "k.pem"}}, "key_file without cert_file"),
        (PBX | {"codec": ["pcmu"]}, "Extra inputs"),
    ],
)
def test_trunks_that_cannot_be(value: dict[str, Any], fault: str) -> None:
    assert fault in fault_of(TrunkSettings, value)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"listen": []}, "listen"),
        ({"listen": [{"transport": "tls"}]}, "needs `sip.tls.cert_file`"),
        ({"listen": [{"host": "sip.example.net"}]}, "must be an IP address"),
        ({"media": {"port_low": 20000, "port_high": 20002}}, "a call takes two ports"),
        ({"media": {"public_address": "example.net"}}, "must be an IP address"),
        ({"public_address": "a b"}, "public_address"),
        ({"trunks": {"a b": PBX}}, "names are letters, digits"),
        ({"trunks": {"a": PBX, "b": PBX}}, "192.0.2.1/32 is a source of a and of b"),
        ({"limits": {"failures": 0}}, "limits.failures"),
        ({"realms": 1}, "Extra inputs"),
    ],
)
def test_sections_that_cannot_be(value: dict[str, Any], fault: str) -> None:
    assert fault in fault_of(SipSettings, value)


def test_one_address_two_trunks() -> None:
    def both(name: str) -> dict[str, Any]:
        return PBX | {"auth": "both", "username": name, "password": "x"}

    assert len(SipSettings.model_validate({"trunks": {"a": both("a"), "b": both("b")}}).trunks) == 2
    assert "username a is that of a and of b" in fault_of(SipSettings, {"trunks": {"a": both("a"), "b": both("a")}})
    assert "tell them apart" in fault_of(SipSettings, {"trunks": {"a": both("a"), "b": PBX}})
    assert "tell them apart" in fault_of(SipSettings, {"trunks": {"a": PBX, "b": both("b")}})
    other = {"trunks": {"a": both("a"), "b": both("a") | {"realm": "other"}}}
    assert SipSettings.model_validate(other).trunks["b"].realm == "other"


def test_no_secret_is_in_an_error() -> None:
    with pytest.raises(ValidationError) as caught:
        trunk(auth="nonsense", username="a", password="s3cret", wrong="s3cret")
    assert "s3cret" not in str(caught.value)
