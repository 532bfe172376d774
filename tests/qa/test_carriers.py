"""The carriers' manners against our adapters and the vendors' SDKs: what one side writes and signs, the other takes."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

import plivo.utils
import pytest
from twilio.request_validator import RequestValidator

from offhook.codecs.audio import L16_16K, PCMU
from offhook.providers import provider_class
from offhook.providers.base import CarrierAuthError, CarrierRequest, DialAnswer, Provider, StreamAnswer
from offhook.providers.markup import Dial, OpenStream
from offhook.qa.carrier import CallCard, Carrier
from offhook.qa.plivo import Plivo
from offhook.qa.simulator import ACCOUNTS, CARRIERS
from offhook.qa.twilio import Twilio

TOKEN = "tok-0123456789abcdef"
URL = "https://voice.example.com/hook"


def provider(name: str) -> Provider:
    found = provider_class(name)
    ids = {"twilio": "account_sid", "plivo": "auth_id"}
    return found(found.Settings.model_validate({ids[name]: ACCOUNTS[name], "auth_token": TOKEN}))


def carrier(name: str) -> Carrier:
    return CARRIERS[name](ACCOUNTS[name], TOKEN)


def card(subject: Carrier, **changes: object) -> CallCard:
    made = CallCard(subject.new_call_id(), "+15550111", "+15550100", "inbound", "ringing")
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def request(subject: Carrier, fields: Mapping[str, str], url: str = URL) -> CarrierRequest:
    headers = subject.headers("POST", url, dict(fields)) | {"Content-Type": "application/x-www-form-urlencoded"}
    return CarrierRequest(
        "POST", url, {name.lower(): [value] for name, value in headers.items()}, urlencode(fields).encode()
    )


@pytest.mark.parametrize("name", sorted(CARRIERS))
def test_the_incoming_webhook_is_taken_by_our_adapter(name: str) -> None:
    ours, simulated = provider(name), carrier(name)
    call = card(simulated)
    asked = request(simulated, simulated.fields(call))
    ours.verify(asked)
    incoming = ours.incoming(asked)
    assert incoming.carrier_call_id == call.call_id
    assert (incoming.from_number, incoming.to_number) == ("+15550111", "+15550100")
    assert incoming.direction == "inbound"
    assert dict(incoming.fields) == simulated.fields(call)


@pytest.mark.parametrize("name", sorted(CARRIERS))
def test_another_token_is_refused_by_our_adapter(name: str) -> None:
    forged = CARRIERS[name](ACCOUNTS[name], "another")
    with pytest.raises(CarrierAuthError):
        provider(name).verify(request(forged, forged.fields(card(forged))))


@pytest.mark.parametrize("name", sorted(CARRIERS))
@pytest.mark.parametrize(
    ("status", "ended_by"), [("completed", "caller"), ("completed", "bot"), ("busy", "caller"), ("no-answer", "caller")]
)
def test_how_a_call_ended_is_taken_by_our_adapter(name: str, status: str, ended_by: str) -> None:
    ours, simulated = provider(name), carrier(name)
    call = card(simulated, status=status, ended_by=ended_by, answered=1000.0, ended=1061.5)
    asked = request(simulated, simulated.status_fields(call, 3))
    ours.verify(asked)
    changed = ours.status(asked)
    assert (changed.carrier_call_id, changed.status) == (call.call_id, status)
    assert call.seconds == 62


@pytest.mark.parametrize("name", sorted(CARRIERS))
def test_a_callback_about_the_stream_is_taken_by_our_adapter(name: str) -> None:
    ours, simulated = provider(name), carrier(name)
    call = card(simulated, status="in-progress")
    fields = simulated.fields(call) | simulated.stream_fields("started", "stream-1", "wss://voice.example.com/media")
    asked = request(simulated, fields)
    ours.verify(asked)
    assert ours.status(asked).carrier_call_id == call.call_id


@pytest.mark.parametrize("name", sorted(CARRIERS))
def test_the_upgrade_is_taken_by_our_adapter(name: str) -> None:
    ours, simulated = provider(name), carrier(name)
    url = "wss://voice.example.com/media/token"
    headers = {key.lower(): [value] for key, value in simulated.upgrade_headers(url).items()}
    ours.verify_upgrade(CarrierRequest("GET", url, headers))


@pytest.mark.parametrize("name", sorted(CARRIERS))
def test_our_markup_is_understood(name: str) -> None:
    ours, simulated = provider(name), carrier(name)
    answer = StreamAnswer(url="wss://voice.example.com/media/token", parameters={"tenant": "acme"})
    markup = simulated.parse(ours.answer(answer).body, URL)
    assert markup.faults == ()
    stream = markup.stream
    assert isinstance(stream, OpenStream)
    assert stream.blocking
    side = simulated.side(card(simulated), stream)
    assert side.format == PCMU
    dial = simulated.parse(ours.answer(DialAnswer("+15550177", "+15550100")).body, URL).verbs[0]
    assert isinstance(dial, Dial)
    assert dial.targets[0].removeprefix("+") == "15550177"


def test_twilio_signs_as_its_sdk_does() -> None:
    simulated = Twilio(ACCOUNTS["twilio"], TOKEN)
    fields = simulated.fields(card(simulated))
    assert "" in fields.values()  # blank fields are sent and signed
    signature = simulated.headers("POST", URL, fields)["X-Twilio-Signature"]
    assert RequestValidator(TOKEN).validate(URL, fields, signature)
    query = URL + "?" + urlencode(fields)
    assert RequestValidator(TOKEN).validate(query, {}, simulated.headers("GET", query, fields)["X-Twilio-Signature"])


def test_plivo_signs_as_its_sdk_does() -> None:
    simulated = Plivo(ACCOUNTS["plivo"], TOKEN)
    fields = simulated.fields(card(simulated))
    headers = simulated.headers("POST", URL, fields)
    nonce, signature = headers["X-Plivo-Signature-V3-Nonce"], headers["X-Plivo-Signature-V3"]
    assert plivo.utils.validate_v3_signature("POST", URL, nonce, TOKEN, signature, fields)
    assert simulated.upgrade_headers("wss://voice.example.com/media") == {"User-Agent": "Plivo"}


def test_plivo_carries_what_the_markup_asks_for() -> None:
    simulated = Plivo(ACCOUNTS["plivo"], TOKEN)
    document = (
        '<Response><Stream bidirectional="true" contentType="audio/x-l16;rate=16000">'
        "wss://voice.example.com/m?tenant=a</Stream></Response>"
    )
    stream = simulated.parse(document, URL).stream
    assert stream is not None
    assert simulated.side(card(simulated), stream).format == L16_16K
    assert not simulated.outlives_stream(stream)


def test_an_outbound_plivo_call_names_its_order() -> None:
    simulated = Plivo(ACCOUNTS["plivo"], TOKEN)
    call = card(simulated, direction="outbound", order_id="order-1")
    incoming = provider("plivo").incoming(request(simulated, simulated.fields(call)))
    assert incoming.outbound_id == "order-1"
    assert incoming.direction == "outbound"
