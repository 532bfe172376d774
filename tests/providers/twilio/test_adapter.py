"""Twilio as a carrier: settings, webhooks, status callbacks, and which token counts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

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
from offhook.providers.twilio.adapter import TwilioProvider, TwilioSettings
from offhook.providers.twilio.auth import sign
from offhook.providers.twilio.wire import TwilioStream

MakeRequest = Callable[..., CarrierRequest]

ACCOUNT, SUB = "AC" + "0" * 32, "AC" + "9" * 32
VOICE = "https://gw.example.net/twilio/voice"
RING = {
    "CallSid": "CA1",
    "AccountSid": ACCOUNT,
    "From": "+15550001111",
    "To": "+15550002222",
    "CallStatus": "ringing",
    "Direction": "inbound",
    "CallerCity": "",
    "StirVerstat": "TN-Validation-Passed-A",
}


@pytest.fixture
async def provider() -> AsyncIterator[TwilioProvider]:
    made = TwilioProvider(
        TwilioSettings.model_validate(
            {
                "account_sid": ACCOUNT,
                "auth_token": ["new", "old"],
                "subaccounts": {SUB: "sub-token"},
                "shared_keys": {"key-1": "shared"},
            }
        )
    )
    yield made
    await made.control.close()


def post(request_of: MakeRequest, fields: dict[str, str], secret: str = "new", **headers: str) -> CarrierRequest:
    signature = sign(secret, VOICE, fields.items())
    return request_of("POST", VOICE, urlencode(fields).encode(), x_twilio_signature=signature, **headers)


def accepts(provider: TwilioProvider, request: CarrierRequest) -> bool:
    try:
        provider.verify(request)
    except CarrierAuthError:
        return False
    return True


# --- which secret counts --------------------------------------------------------------------


async def test_tokens_of_the_account_and_of_sub_accounts(provider: TwilioProvider, request_of: MakeRequest) -> None:
    assert accepts(provider, post(request_of, RING))
    assert accepts(provider, post(request_of, RING, "old"))
    assert not accepts(provider, post(request_of, RING, "older"))
    sub = RING | {"AccountSid": SUB}
    assert accepts(provider, post(request_of, sub, "sub-token"))
    # who holds one account's token cannot speak for another
    assert not accepts(provider, post(request_of, sub, "new"))
    assert not accepts(provider, post(request_of, RING, "sub-token"))
    assert accepts(provider, post(request_of, RING | {"AccountSid": "ACunknown"}))


async def test_a_shared_key(provider: TwilioProvider, request_of: MakeRequest) -> None:
    header = {"x_twilio_webhooks_signature_settings": "key=key-1,algorithm=HMAC_SHA1"}
    assert accepts(provider, post(request_of, RING, "shared", **header))
    assert not accepts(provider, post(request_of, RING, "new", **header))


async def test_case_16_upgrades_must_be_signed(provider: TwilioProvider, request_of: MakeRequest) -> None:
    url = "wss://gw.example.net/twilio/media/abc"
    for secret in ("new", "old", "sub-token"):
        provider.verify_upgrade(request_of("GET", url, x_twilio_signature=sign(secret, url)))
    for headers in ({}, {"x_twilio_signature": sign("no", url)}):
        with pytest.raises(CarrierAuthError):
            provider.verify_upgrade(request_of("GET", url, **headers))


# --- the incoming call ------------------------------------------------------------------------


async def test_an_incoming_call(provider: TwilioProvider, request_of: MakeRequest) -> None:
    call = provider.incoming(post(request_of, RING, i_twilio_idempotency_token="t-1"))
    assert (call.carrier_call_id, call.from_number, call.to_number) == ("CA1", "+15550001111", "+15550002222")
    assert (call.direction, call.request_id, call.outbound_id) == ("inbound", "t-1", "")
    assert dict(call.fields) == RING


async def test_case_20_a_repeated_request_has_the_same_key(provider: TwilioProvider, request_of: MakeRequest) -> None:
    first, second = (provider.incoming(post(request_of, RING, i_twilio_idempotency_token="t-1")) for _ in range(2))
    assert first == second
    answer = StreamAnswer("wss://gw.example.net/twilio/media/abc")
    assert provider.answer(answer) == provider.answer(answer)
    assert provider.incoming(post(request_of, RING)).request_id == ""


async def test_a_get_webhook(provider: TwilioProvider, request_of: MakeRequest) -> None:
    url = f"{VOICE}?{urlencode(RING)}"
    request = request_of("GET", url, x_twilio_signature=sign("new", url))
    assert accepts(provider, request)
    assert dict(provider.incoming(request).fields) == RING


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("client:ann", "client:ann"),
        ("sip:ann@example.net", "sip:ann@example.net"),
        ("+266696687", "anonymous"),
        ("Anonymous", "anonymous"),
        ("", "anonymous"),
    ],
)
async def test_callers_without_a_number(
    provider: TwilioProvider, request_of: MakeRequest, given: str, expected: str
) -> None:
    assert provider.incoming(post(request_of, RING | {"From": given})).from_number == expected


async def test_an_outbound_call_that_was_answered(provider: TwilioProvider, request_of: MakeRequest) -> None:
    call = provider.incoming(post(request_of, RING | {"Direction": "outbound-api", "CallStatus": "in-progress"}))
    assert (call.direction, call.outbound_id) == ("outbound", "")


async def test_missing_fields_are_named(provider: TwilioProvider, request_of: MakeRequest) -> None:
    for name in ("CallSid", "To"):
        with pytest.raises(CarrierProtocolError, match=f"^{name}: "):
            provider.incoming(post(request_of, {key: value for key, value in RING.items() if key != name}))
    with pytest.raises(CarrierProtocolError, match=r"^CallSid: "):
        provider.status(request_of("POST", VOICE))
    with pytest.raises(CarrierProtocolError, match=r"^fields: "):
        provider.incoming(request_of("POST", VOICE, b"&".join(b"a=%d" % n for n in range(501))))


async def test_calls_of_sub_accounts_are_remembered(provider: TwilioProvider, request_of: MakeRequest) -> None:
    provider.incoming(post(request_of, RING | {"AccountSid": SUB}))
    assert provider.control._accounts == {"CA1": SUB}


# --- status callbacks -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("queued", "queued"),
        ("initiated", "queued"),
        ("ringing", "ringing"),
        ("in-progress", "answered"),
        ("completed", "completed"),
        ("busy", "busy"),
        ("failed", "failed"),
        ("no-answer", "no-answer"),
        ("canceled", "canceled"),
        ("new-word", None),
    ],
)
async def test_call_status(provider: TwilioProvider, request_of: MakeRequest, given: str, expected: str | None) -> None:
    changed = provider.status(post(request_of, {"CallSid": "CA1", "CallStatus": given, "SequenceNumber": "2"}))
    assert (changed.carrier_call_id, changed.status, changed.sequence) == ("CA1", expected, 2)
    assert changed.fields["CallStatus"] == given


async def test_causes_and_sequences(provider: TwilioProvider, request_of: MakeRequest) -> None:
    failed = {"CallSid": "CA1", "CallStatus": "failed", "SipResponseCode": "503", "SequenceNumber": "x"}
    changed = provider.status(post(request_of, failed))
    assert (changed.cause, changed.sequence, changed.ended_by) == ("503", None, "")


async def test_stream_events_are_not_the_calls_status(provider: TwilioProvider, request_of: MakeRequest) -> None:
    fields = {"CallSid": "CA1", "CallStatus": "in-progress", "StreamSid": "MZ1", "StreamEvent": "stream-started"}
    changed = provider.status(post(request_of, fields))
    assert (changed.status, changed.cause) == (None, "stream-started")
    broken = fields | {"StreamEvent": "stream-error", "StreamError": "31921 closed"}
    assert provider.status(post(request_of, broken)).cause == "31921 closed"


# --- the rest -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        StreamAnswer("wss://gw.example.net/twilio/media/abc"),
        RejectAnswer(),
        SayAnswer("Hi"),
        DialAnswer("+15550001111"),
        HangUpAnswer(),
    ],
)
async def test_answers_are_markup(provider: TwilioProvider, answer: Answer) -> None:
    response = provider.answer(answer)
    assert (response.status, response.content_type) == (200, "text/xml")
    assert read(response.body).name == "Response"


async def test_paths_and_streams(provider: TwilioProvider) -> None:
    assert provider_class("twilio") is TwilioProvider
    paths = {hook.path: hook.kind for hook in provider.webhooks}
    assert paths == {"/twilio/voice": "incoming", "/twilio/status": "status", "/twilio/after": "after"}
    assert provider.media_path == "/twilio/media/{token}"
    assert isinstance(provider.stream(expect_call_id="CA1"), TwilioStream)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({}, "account_sid"),
        ({"account_sid": "", "auth_token": "t"}, "account_sid"),
        ({"account_sid": "AC1"}, "auth_token"),
        ({"account_sid": "AC1", "auth_token": ""}, "auth_token"),
        ({"account_sid": "AC1", "auth_token": []}, "auth_token"),
        ({"account_sid": "AC1", "auth_token": ["t", " "]}, "auth_token"),
        ({"account_sid": "AC1", "auth_token": "t", "auth_tokens": "t"}, "auth_tokens"),
        ({"account_sid": "AC1", "auth_token": "t", "api_timeout": 0}, "api_timeout"),
        ({"account_sid": "AC1", "auth_token": "t", "shared_keys": {"k": ""}}, "shared_keys"),
        ({"account_sid": "AC1", "auth_token": "t", "subaccounts": {"AC2": ""}}, "subaccounts"),
        ({"account_sid": "AC1", "auth_token": "t", "api_key": "SK1"}, "api_key"),
        ({"account_sid": "AC1", "auth_token": "t", "api_secret": "s"}, "api_key"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        TwilioSettings.model_validate(settings)


def test_secrets_stay_out_of_sight() -> None:
    settings = TwilioSettings.model_validate(
        {"account_sid": "AC1", "auth_token": "hush", "subaccounts": {"AC2": "hush"}}
    )
    assert "hush" not in repr(settings)
    with pytest.raises(ValidationError) as caught:
        TwilioSettings.model_validate({"account_sid": "AC1", "auth_token": {"hush": "hush"}})
    assert "hush" not in str(caught.value)


def test_takes_its_own_settings_only() -> None:
    class Other(BaseModel):
        pass

    with pytest.raises(TypeError, match="Other"):
        TwilioProvider(Other())


@pytest.fixture(scope="module")
def lasting_provider() -> TwilioProvider:
    """One for all examples; it never places an order, so it holds no threads and no sockets."""
    return TwilioProvider(TwilioSettings.model_validate({"account_sid": ACCOUNT, "auth_token": "t"}))


@given(body=st.binary(max_size=200), query=st.text(max_size=40), method=st.sampled_from(["GET", "POST"]))
def test_webhooks_have_a_closed_list_of_outcomes(
    lasting_provider: TwilioProvider, body: bytes, query: str, method: str
) -> None:
    request = CarrierRequest(method, VOICE + "?" + query, {}, b"CallSid=CA1&To=1&" + body)
    with pytest.raises(CarrierAuthError):
        lasting_provider.verify(request)
    for take in (lasting_provider.incoming, lasting_provider.status):
        with suppress(CarrierProtocolError):
            assert take(request).carrier_call_id
