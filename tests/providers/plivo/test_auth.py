"""Plivo's signatures: the published vectors, Plivo's own validator, and every way to get it wrong."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote_plus, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from plivo.utils import validate_signature
from plivo.utils.signature_v3 import construct_get_url, construct_post_url, validate_v3_signature

from offhook.providers.base import CarrierAuthError, CarrierRequest
from offhook.providers.plivo.auth import MAX_FIELDS, MAX_SIGNATURES, base_v3, sign, sign_v2, verify

MakeRequest = Callable[..., CarrierRequest]

TOKEN, NONCE = "plivotok0123456789", "05429567804466091622"
ANSWER = "https://gw.example.net/plivo/answer"
FORM = b"CallUUID=c-1&From=15550001111&To=15550002222"
FORM_V3 = "wvWuSHsSMs6drEasDv9Dw0PYV5lgwWbIskpgOlCHRDk="
FORM_V2 = "YEWNBxpPsjE9zh5yWkUYSs3KSJmzlux4VJQxxGjhtxA="


def signed(request: CarrierRequest, *, tokens: list[str] | None = None, allow_v2: bool = False) -> bool:
    try:
        nonce, signature = verify(request, tokens=[TOKEN] if tokens is None else tokens, allow_v2=allow_v2)
    except CarrierAuthError:
        return False
    assert nonce
    assert signature
    return True


@pytest.fixture
def v3(request_of: MakeRequest) -> MakeRequest:
    """Make a request with a V3 signature: `v3(method, url, body, signature)`."""

    def make(method: str, url: str, body: bytes, signature: str | list[str], **more: str) -> CarrierRequest:
        headers = {"x_plivo_signature_v3": signature, "x_plivo_signature_v3_nonce": NONCE} | more
        return request_of(method, url, body, **headers)

    return make


# --- conformance cases 13 and 14 ----------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "url", "form", "base", "signature"),
    [
        ("POST", ANSWER, FORM, ANSWER + "?CallUUIDc-1From15550001111To15550002222", FORM_V3),
        (
            "POST",
            ANSWER + "?tenant=acme",
            b"CallUUID=c-1&From=15550001111",
            ANSWER + "?tenant=acme.CallUUIDc-1From15550001111",
            "KEeZb+HV+SAVzPLBC2fJyyu09fyMVF8aE/+G6XitgW8=",
        ),
        ("POST", ANSWER, b"", ANSWER, "2uKdmNSbqpGjsuy+hojFbcs3ObwMsToyhab1t+w5c9Y="),
        (
            "POST",
            ANSWER + "?tenant=acme",
            b"",
            ANSWER + "?tenant=acme",
            "FxWBIgcWdHH9d/7fsDXVfWryYVi/JuYqqcSJ/Wdt3mY=",
        ),
        (
            "GET",
            ANSWER + "?tenant=acme&CallUUID=c-1",
            b"",
            ANSWER + "?CallUUID=c-1&tenant=acme",
            "gBy9U8vtoOQp3W6ShnViN7YGpfWyKgNZYqf8wgiiYH8=",
        ),
        ("GET", ANSWER + "?From=%2B1555", b"", ANSWER + "?From=+1555", "Jk/MkGFW8u2/zzbr1lT4eRH9qJLVtUV7uLZ+ZXCDsZ0="),
    ],
)
def test_case_13_vectors(v3: MakeRequest, method: str, url: str, form: bytes, base: str, signature: str) -> None:
    params = [tuple(pair.split("=")) for pair in form.decode().split("&")] if form else []
    assert base_v3(method, url, params) == base
    assert sign(TOKEN, method, url, NONCE, params) == signature
    assert signed(v3(method, url, form, signature))
    assert not signed(v3(method, url + "x", form, signature))
    assert not signed(v3(method, url, form + b"&Extra=1", signature)) or method == "GET"


def test_case_13_v2_vector_only_where_it_is_allowed(request_of: MakeRequest) -> None:
    assert sign_v2(TOKEN, ANSWER, NONCE) == FORM_V2
    old = {"x_plivo_signature_v2": FORM_V2, "x_plivo_signature_v2_nonce": NONCE}
    assert not signed(request_of("POST", ANSWER, FORM, **old))
    assert signed(request_of("POST", ANSWER, FORM, **old), allow_v2=True)
    assert signed(request_of("POST", ANSWER + "?a=b", FORM, **old), allow_v2=True)
    # a V3 signature that is there must be good: nobody falls back by adding a V2 one
    new = {"x_plivo_signature_v3": "x", "x_plivo_signature_v3_nonce": NONCE}
    assert not signed(request_of("POST", ANSWER, FORM, **old, **new), allow_v2=True)


def test_case_13_any_signature_of_a_list(v3: MakeRequest) -> None:
    assert signed(v3("POST", ANSWER, FORM, f"badsig, {FORM_V3}"))
    assert signed(v3("POST", ANSWER, FORM, f"{FORM_V3},badsig"))
    assert not signed(v3("POST", ANSWER, FORM, "badsig, badsig"))
    assert not signed(v3("POST", ANSWER, FORM, ",".join([*["x"] * MAX_SIGNATURES, FORM_V3])))


def test_case_13_missing_headers_fail_closed(request_of: MakeRequest) -> None:
    assert not signed(request_of("POST", ANSWER, FORM))
    assert not signed(request_of("POST", ANSWER, FORM, x_plivo_signature_v3=FORM_V3))
    assert not signed(request_of("POST", ANSWER, FORM, x_plivo_signature_v3_nonce=NONCE))
    assert not signed(request_of("POST", ANSWER, FORM, x_plivo_signature_v3="", x_plivo_signature_v3_nonce=NONCE))


def test_case_13_the_main_accounts_signature_is_as_good(request_of: MakeRequest) -> None:
    headers = {"x_plivo_signature_ma_v3": FORM_V3, "x_plivo_signature_v3_nonce": NONCE}
    assert signed(request_of("POST", ANSWER, FORM, **headers))
    assert signed(request_of("POST", ANSWER, FORM, **headers, x_plivo_signature_v3="of the sub-account"))


def test_case_13_headers_sent_twice_are_refused(request_of: MakeRequest) -> None:
    twice = {"x_plivo_signature_v3": [FORM_V3, FORM_V3], "x_plivo_signature_v3_nonce": NONCE}
    assert not signed(request_of("POST", ANSWER, FORM, **twice))
    twice = {"x_plivo_signature_v3": FORM_V3, "x_plivo_signature_v3_nonce": [NONCE, NONCE]}
    assert not signed(request_of("POST", ANSWER, FORM, **twice))


def test_case_14_query_that_is_not_ascii(v3: MakeRequest) -> None:
    url = ANSWER + "?n=%C3%A9"
    assert base_v3("GET", url) == ANSWER + "?n=é"
    assert not signed(v3("GET", url, b"", FORM_V3))
    assert signed(v3("GET", url, b"", sign(TOKEN, "GET", url, NONCE)))
    assert not signed(v3("GET", ANSWER + "?n=%FF", b"", sign(TOKEN, "GET", ANSWER + "?n=%FE", NONCE)))


# --- beyond the cases -----------------------------------------------------------------------


def test_any_of_several_tokens(v3: MakeRequest) -> None:
    assert signed(v3("POST", ANSWER, FORM, FORM_V3), tokens=["old", TOKEN])
    assert not signed(v3("POST", ANSWER, FORM, FORM_V3), tokens=["old"])
    assert not signed(v3("POST", ANSWER, FORM, FORM_V3), tokens=[])


def test_every_byte_of_the_form_counts(v3: MakeRequest) -> None:
    for at in range(len(FORM)):
        changed = FORM[:at] + bytes([FORM[at] ^ 1]) + FORM[at + 1 :]
        assert not signed(v3("POST", ANSWER, changed, FORM_V3))
    blank = FORM + b"&ForwardedFrom="
    assert not signed(v3("POST", ANSWER, FORM, sign(TOKEN, "POST", ANSWER, NONCE, [("ForwardedFrom", "")])))
    assert signed(v3("POST", ANSWER, blank, FORM_V3)) is False


def test_bodies_that_are_no_forms_and_forms_that_are_too_long(v3: MakeRequest) -> None:
    assert not signed(v3("POST", ANSWER, b"{}", FORM_V3, content_type="application/json"))
    long = b"&".join(b"a=%d" % n for n in range(MAX_FIELDS + 1))
    assert not signed(v3("POST", ANSWER, long, FORM_V3))
    for url in ("https://[/plivo/answer", "https://gw.example.net/\ud800"):
        assert not signed(v3("POST", url, FORM, FORM_V3))


# --- Plivo's own validator as the oracle ----------------------------------------------------

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_ascii = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "Zs"]), max_size=10)
_queries = st.lists(st.tuples(_ascii, _ascii), max_size=4)
_forms = st.dictionaries(_text, _text, max_size=6)


def _url(query: list[tuple[str, str]]) -> str:
    return ANSWER + ("?" + urlencode(query) if query else "")


@given(query=_queries, form=_forms)
@example(query=[("a", ""), ("a", "2"), ("a", "1")], form={"": ""})
@example(query=[("a", "b")], form={"": ""})
def test_signs_a_post_as_plivo_does(query: list[tuple[str, str]], form: dict[str, str]) -> None:
    url = _url(query)
    assert base_v3("POST", url, form.items()) == construct_post_url(url, dict(form)).decode()
    signature = sign(TOKEN, "POST", url, NONCE, form.items())
    assert validate_v3_signature("POST", url, NONCE, TOKEN, signature, dict(form))
    headers = {"x-plivo-signature-v3": [signature], "x-plivo-signature-v3-nonce": [NONCE]}
    assert signed(CarrierRequest("POST", url, headers, urlencode(form).encode()))


@given(query=_queries)
def test_signs_a_get_as_plivo_does(query: list[tuple[str, str]]) -> None:
    # Plivo's validator cannot take characters beyond ASCII in a query; those are our own rule, see case 14.
    url = _url(query)
    assert base_v3("GET", url) == construct_get_url(url, {}).decode()
    assert validate_v3_signature("GET", url, NONCE, TOKEN, sign(TOKEN, "GET", url, NONCE))
    assert validate_signature(url, NONCE, sign_v2(TOKEN, url, NONCE), TOKEN)


@given(values=st.lists(_ascii, min_size=2, max_size=4))
def test_repeated_fields_are_sorted_as_plivo_does(values: list[str]) -> None:
    form = [("a", value) for value in values]
    assert base_v3("POST", ANSWER, form) == construct_post_url(ANSWER, {"a": values}).decode()
    url = ANSWER + "?" + "&".join("a=" + quote_plus(value) for value in values)
    assert base_v3("GET", url) == construct_get_url(url, {}).decode()


@given(st.binary(max_size=300), st.text(max_size=60), st.text(max_size=60), st.booleans())
def test_never_raises_anything_else(body: bytes, url: str, header: str, allow_v2: bool) -> None:
    headers = {f"x-plivo-signature-v{n}{suffix}": [header] for n in (2, 3) for suffix in ("", "-nonce")}
    for method in ("GET", "POST"):
        for made in (headers, {name: value for name, value in headers.items() if "v3" not in name}):
            assert not signed(CarrierRequest(method, "https://h/" + url, made, body), allow_v2=allow_v2)
            assert not signed(CarrierRequest(method, url, made, body), allow_v2=allow_v2)
