"""What people write after --target, and what they meant to write."""

from __future__ import annotations

import pytest

from offhook.qa.phones.base import Unable
from offhook.qa.phones.carriers import CarrierPhone
from offhook.qa.phones.link import LinkPhone
from offhook.qa.phones.targets import open_phone, way_of
from offhook.qa.scenario.model import Target


@pytest.mark.parametrize(
    ("to", "way"),
    [
        ("sip:agent@127.0.0.1:5060", "sip"),
        ("sips:agent@example.com", "sip"),
        ("twilio+http://127.0.0.1:8080/twilio/voice", "twilio"),
        ("twilio+https://voice.example.com", "twilio"),
        ("plivo+http://127.0.0.1:8080/plivo/voice", "plivo"),
        ("link+ws://127.0.0.1:9000", "link"),
        ("link+wss://agent.example.com/link", "link"),
        ("SIP:agent@example.com", "sip"),
    ],
)
def test_the_scheme_says_how_to_call(to: str, way: str) -> None:
    assert way_of(to) == way


@pytest.mark.parametrize(
    ("to", "remedy"),
    [
        ("", "give one by --target"),
        ("http://127.0.0.1:8080/voice", "twilio+http://127.0.0.1:8080/voice or plivo+http://127.0.0.1:8080/voice"),
        ("ws://127.0.0.1:9000", "write link+ws://127.0.0.1:9000"),
        ("tel:+15550100", "through a SIP trunk"),
        ("telnyx+http://127.0.0.1", "targets are sip:user@host"),
        ("127.0.0.1:5060", "targets are sip:user@host"),
        ("agent", "targets are sip:user@host"),
        ("sip:", "has no host"),
        ("twilio+http:///voice", "has no host"),
        ("plivo+http://127.0.0.1:99999/", "has no host"),
        ("link+ws://", "has no host"),
    ],
)
def test_what_is_no_target_is_refused_with_the_remedy(to: str, remedy: str) -> None:
    with pytest.raises(Unable) as refused:
        way_of(to)
    assert remedy in str(refused.value)


def test_a_phone_is_opened_by_the_way() -> None:
    assert isinstance(open_phone(Target.model_validate({"to": "link+ws://127.0.0.1:9000"})), LinkPhone)
    phone = open_phone(
        Target.model_validate({"to": "plivo+http://127.0.0.1:9000/voice"}), auth_token="t", username="MA7"
    )
    assert isinstance(phone, CarrierPhone)
    assert (phone.way, phone.auth_token, phone.account) == ("plivo", "t", "MA7")


def test_secrets_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFHOOK_QA_AUTH_TOKEN", "of the environment")
    phone = open_phone(Target.model_validate({"to": "twilio+http://127.0.0.1:9000/voice"}))
    given = open_phone(Target.model_validate({"to": "twilio+http://127.0.0.1:9000/voice"}), auth_token="given")
    assert isinstance(phone, CarrierPhone)
    assert isinstance(given, CarrierPhone)
    assert (phone.auth_token, given.auth_token) == ("of the environment", "given")


def test_the_address_of_the_api_is_checked() -> None:
    with pytest.raises(Unable, match="write host:port"):
        open_phone(Target.model_validate({"to": "twilio+http://127.0.0.1:9000/voice"}), api_listen="8090x")
