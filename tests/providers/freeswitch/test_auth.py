"""Who may open a media socket, and jambonz's signatures."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.providers.base import CarrierAuthError, CarrierRequest
from offhook.providers.freeswitch import auth

URL = "wss://voice.example.com/freeswitch/media"
BODY = b'{"call_sid":"CA1","from":"1000"}'
AT = 1_770_000_000


def upgrade(*values: str) -> CarrierRequest:
    return CarrierRequest("GET", URL, {"authorization": list(values)} if values else {})


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def check(request: CarrierRequest) -> None:
    auth.verify_upgrade(request, username="pbx", passwords=["new", "old:er"], tokens=["t-1", "t-2"])


@pytest.mark.parametrize(
    "value", [basic("pbx:new"), basic("pbx:old:er"), "bearer t-1", "Bearer t-2", "  basic   " + basic("pbx:new")[6:]]
)
def test_every_password_and_token_in_use_is_good(value: str) -> None:
    check(upgrade(value))


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ((), "missing"),
        ((basic("pbx:new"), basic("pbx:new")), "sent twice"),
        ((basic("pbx:wrong"),), "wrong basic"),
        ((basic("other:new"),), "wrong basic"),
        ((basic("pbx"),), "wrong basic"),
        (("Basic !!!",), "base64"),
        (("Basic é",), "base64"),
        (("Bearer t-3",), "wrong bearer"),
        (("Bearer",), "wrong bearer"),
        (("Digest x",), "neither"),
        (("",), "neither"),
    ],
)
def test_case_1_everything_else_is_refused(values: tuple[str, ...], why: str) -> None:
    with pytest.raises(CarrierAuthError, match=why):
        check(upgrade(*values))


def test_what_is_not_configured_is_never_good() -> None:
    for value in (basic(":"), basic("pbx:"), "Bearer ", "Bearer"):
        with pytest.raises(CarrierAuthError):
            auth.verify_upgrade(upgrade(value), username="pbx", passwords=[], tokens=[])


@given(st.text(max_size=60))
def test_noise_is_refused_in_the_documented_way(text: str) -> None:
    with pytest.raises(CarrierAuthError):
        check(upgrade(text))
    with pytest.raises(CarrierAuthError):
        auth.verify(CarrierRequest("POST", URL, {auth.SIGNATURE: [text]}, BODY), secrets=["s"], at=AT)


def signed(header: str, body: bytes = BODY, method: str = "POST") -> CarrierRequest:
    return CarrierRequest(method, "https://voice.example.com/jambonz/call", {auth.SIGNATURE: [header]}, body)


def test_case_14_a_good_signature_passes() -> None:
    good = auth.sign("s-1", BODY, AT)
    # HMAC-SHA256 of "1770000000." and the body, by openssl dgst
    assert good == "t=1770000000,v1=8f36dcae0ebced7e8b1dc5822ddca152d943a38f3435c54fa6ebc44ed41ef651"
    auth.verify(signed(good), secrets=["s-1"], at=AT)
    auth.verify(signed(good), secrets=["s-2", "s-1"], at=AT + auth.WINDOW)
    auth.verify(signed(good), secrets=["s-1"], at=AT - auth.WINDOW)
    both = auth.sign("s-2", BODY, AT) + "," + good.partition(",")[2]
    auth.verify(
        signed(both.replace(",", ", ").upper().replace("T=", "t=").replace("V1=", "v1=")), secrets=["s-1"], at=AT
    )


@pytest.mark.parametrize(
    ("request_", "at", "why"),
    [
        (signed(auth.sign("wrong", BODY, AT)), AT, "does not match"),
        (signed(auth.sign("s-1", BODY + b" ", AT)), AT, "does not match"),
        (signed(auth.sign("s-1", BODY, AT)), AT + 301, "301 s old"),
        (signed(auth.sign("s-1", BODY, AT)), AT - 301, "-301 s old"),
        (signed(auth.sign("s-1", BODY, AT).replace("t=1", "t=2")), AT + 1_000_000_000, "does not match"),
        (signed(auth.sign("s-1", b"", AT), b""), AT, "POST"),
        (signed(auth.sign("s-1", BODY, AT), method="GET"), AT, "POST"),
        (signed("v1=ab"), AT, "not of the form"),
        (signed("t=soon,v1=ab"), AT, "not of the form"),
        (signed(f"t={AT}"), AT, "not of the form"),
        (CarrierRequest("POST", URL, {}, BODY), AT, "missing"),
    ],
)
def test_case_14_a_wrong_or_an_old_one_does_not(request_: CarrierRequest, at: int, why: str) -> None:
    with pytest.raises(CarrierAuthError, match=why):
        auth.verify(request_, secrets=["s-1"], at=at)


def test_only_so_many_signatures_are_looked_at() -> None:
    header = f"t={AT}," + ",".join(["v1=00"] * 50) + "," + auth.sign("s-1", BODY, AT).partition(",")[2]
    with pytest.raises(CarrierAuthError):
        auth.verify(signed(header), secrets=["s-1"], at=AT)
