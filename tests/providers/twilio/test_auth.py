"""Twilio's signatures: the published vectors, Twilio's own validator, and every way to get it wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from urllib.parse import urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator

from offhook.providers.base import CarrierAuthError, CarrierRequest
from offhook.providers.twilio.auth import MAX_FIELDS, form_fields, settings, sign, url_variants, verify

MakeRequest = Callable[..., CarrierRequest]

TOKEN = "tok-0123456789abcdef"
VOICE = "https://gw.example.net/twilio/voice?tenant=acme&x=1"
PARAMS = [
    ("CallSid", "CA00000000000000000000000000000001"),
    ("From", "+15550001111"),
    ("To", "+15550002222"),
    ("CallStatus", "ringing"),
    ("Direction", "inbound"),
]
VOICE_SHA1 = "cuAziVWyEkbHkbnWnw3XWvaa+Vg="
VOICE_SHA256 = "MiaJYOKm2Cirkf8qM63iEkD6zM1oqrE85OHmcfTV960="
JSON_BODY = '{"a":1,"b":"é"}'.encode()
JSON_HASH = "09ad9fd2fb648cb2f62141215828ea00a62c299db05d20aa9ade2f527a301cc6"


def signed(request: CarrierRequest, *, tokens: list[str] | None = None, **keys: dict[str, str]) -> bool:
    try:
        verify(request, tokens=[TOKEN] if tokens is None else tokens, **keys)
    except CarrierAuthError:
        return False
    return True


# --- conformance case 15: the vectors ---------------------------------------------------


def test_case_15_vector_1_form_post(request_of: MakeRequest) -> None:
    body = urlencode(PARAMS).encode()
    assert sign(TOKEN, VOICE, PARAMS) == VOICE_SHA1
    assert sign(TOKEN, VOICE, PARAMS, algorithm="HMAC_SHA256") == VOICE_SHA256
    assert signed(request_of("POST", VOICE, body, x_twilio_signature=VOICE_SHA1))


def test_case_15_vector_1_signed_with_the_port(request_of: MakeRequest) -> None:
    body = urlencode(PARAMS).encode()
    assert signed(request_of("POST", VOICE, body, x_twilio_signature="LMeKiX7STbPolgnWllQPowfDdWQ="))
    with_port = VOICE.replace("example.net", "example.net:443")
    assert signed(request_of("POST", with_port, body, x_twilio_signature=VOICE_SHA1))


def test_case_15_vector_2_json_body(request_of: MakeRequest) -> None:
    url = f"https://gw.example.net/hook?bodySHA256={JSON_HASH}"
    headers = {"content_type": "application/json", "x_twilio_signature": "wetTAY5s2zkrY3bzBtyrxnNCv7c="}
    assert signed(request_of("POST", url, JSON_BODY, **headers))
    assert not signed(request_of("POST", url, JSON_BODY + b" ", **headers))


def test_case_15_vector_3_upgrade(request_of: MakeRequest) -> None:
    url, signature = "wss://gw.example.net/media/abc", "PNWsPFCsTWPmnhCC+MG/czaOhjw="
    assert signed(request_of("GET", url, x_twilio_signature=signature))
    slash = "M9LShUopBi9B5gbXM5mr39g4xHs="
    assert signed(request_of("GET", url + "/", x_twilio_signature=slash))
    assert not signed(request_of("GET", url, x_twilio_signature=slash))


def test_case_15_vector_4_get(request_of: MakeRequest) -> None:
    url = "https://gw.example.net/voice?CallSid=CA1&From=%2B15550001111"
    assert signed(request_of("GET", url, x_twilio_signature="KZKTX0xnynyeqB4zA/8GABWyll8="))


def test_case_15_any_change_of_a_field_fails(request_of: MakeRequest) -> None:
    for index, (name, value) in enumerate(PARAMS):
        for at in range(len(value)):
            changed = value[:at] + chr(ord(value[at]) ^ 1) + value[at + 1 :]
            params = [*PARAMS[:index], (name, changed), *PARAMS[index + 1 :]]
            assert not signed(request_of("POST", VOICE, urlencode(params).encode(), x_twilio_signature=VOICE_SHA1))


def test_case_15_dropping_a_blank_field_or_adding_a_query_argument_fails(request_of: MakeRequest) -> None:
    params = [*PARAMS, ("CallerCity", "")]
    signature = sign(TOKEN, VOICE, params)
    assert signed(request_of("POST", VOICE, urlencode(params).encode(), x_twilio_signature=signature))
    assert not signed(request_of("POST", VOICE, urlencode(PARAMS).encode(), x_twilio_signature=signature))
    assert not signed(request_of("POST", VOICE + "&y=2", urlencode(params).encode(), x_twilio_signature=signature))


# --- case 16 to 18 ------------------------------------------------------------------------


def test_case_16_upgrade_without_or_with_a_wrong_signature(request_of: MakeRequest) -> None:
    url = "wss://gw.example.net/twilio/media/abc"
    good = sign(TOKEN, url)
    assert signed(request_of("GET", url, x_twilio_signature=good))
    assert not signed(request_of("GET", url))
    assert not signed(request_of("GET", url, x_twilio_signature=""))
    assert not signed(request_of("GET", url, x_twilio_signature=good[::-1]))
    assert not signed(request_of("GET", url, x_twilio_signature="ünsigned"))
    assert not signed(request_of("GET", url, x_twilio_signature=[good, good]))
    assert not signed(request_of("GET", url.replace("wss:", "https:"), x_twilio_signature=good))


def test_case_17_settings_header(request_of: MakeRequest) -> None:
    body = urlencode(PARAMS).encode()

    def post(header: str | list[str], signature: str) -> CarrierRequest:
        return request_of(
            "POST", VOICE, body, x_twilio_signature=signature, x_twilio_webhooks_signature_settings=header
        )

    keys = {"shared_keys": {"key-1": "shared-secret"}}
    by_key = sign("shared-secret", VOICE, PARAMS, algorithm="HMAC_SHA256")
    assert signed(post("key=key-1,algorithm=HMAC_SHA256", by_key), **keys)
    assert signed(post(" key = key-1 , algorithm = hmac_sha256 ", by_key), **keys)
    assert signed(post("key=key-1,algorithm=HMAC_SHA1", sign("shared-secret", VOICE, PARAMS)), **keys)
    # without an algorithm it is the auth token's old signature
    assert signed(post("key=key-1", VOICE_SHA1), **keys)
    assert signed(post("", VOICE_SHA1), **keys)
    # an unknown algorithm, a key that is not configured, no key at all, the auth token in place of the key
    assert not signed(post("key=key-1,algorithm=HMAC_MD5", by_key), **keys)
    assert not signed(post("key=key-1,algorithm=HMAC_SHA256", by_key))
    assert not signed(post("key=key-2,algorithm=HMAC_SHA256", by_key), **keys)
    assert not signed(post("algorithm=HMAC_SHA256", by_key), **keys)
    assert not signed(post("key=key-1,algorithm=HMAC_SHA256", VOICE_SHA256), **keys)
    # nobody may say anything twice
    assert not signed(post(["key=key-1,algorithm=HMAC_SHA256"] * 2, by_key), **keys)
    assert not signed(post("key=key-2,key=key-1,algorithm=HMAC_SHA256", by_key), **keys)


def test_case_18_repeated_field(request_of: MakeRequest) -> None:
    url = "https://gw.example.net/twilio/voice"
    signature = sign(TOKEN, url + "a1a2")
    assert sign(TOKEN, url, [("a", "2"), ("a", "1"), ("a", "1")]) == signature
    assert signed(request_of("POST", url, b"a=2&a=1&a=1", x_twilio_signature=signature))


# --- what goes beyond the cases ---------------------------------------------------------


def test_any_of_several_tokens(request_of: MakeRequest) -> None:
    request = request_of("POST", VOICE, urlencode(PARAMS).encode(), x_twilio_signature=VOICE_SHA1)
    assert signed(request, tokens=["old", TOKEN])
    assert not signed(request, tokens=["old", "older"])
    assert not signed(request, tokens=[])


def test_body_that_is_no_form_must_be_hashed_in_the_url(request_of: MakeRequest) -> None:
    digest = hashlib.sha256(JSON_BODY).hexdigest()
    json = {"content_type": "application/json; charset=utf-8"}
    for query in ("", f"?bodySHA256={digest}&bodySHA256={digest}", "?bodySHA256=", f"?bodysha256={digest}"):
        url = "https://gw.example.net/hook" + query
        assert not signed(request_of("POST", url, JSON_BODY, x_twilio_signature=sign(TOKEN, url), **json))
    url = f"https://gw.example.net/hook?bodySHA256={digest.upper()}"
    assert signed(request_of("POST", url, JSON_BODY, x_twilio_signature=sign(TOKEN, url), **json))


@pytest.mark.parametrize(
    ("url", "variants"),
    [
        ("https://h.net/p?q", {"https://h.net/p?q", "https://h.net:443/p?q"}),
        ("https://h.net:443/p", {"https://h.net/p", "https://h.net:443/p"}),
        ("https://h.net:8443/p", {"https://h.net/p", "https://h.net:8443/p"}),
        ("http://h.net/p", {"http://h.net/p", "http://h.net:80/p"}),
        ("wss://h.net/p", {"wss://h.net/p", "wss://h.net:443/p"}),
        ("wss://h.net", {"wss://h.net", "wss://h.net/", "wss://h.net:443", "wss://h.net:443/"}),
        ("https://h.net/?q", {"https://h.net/?q", "https://h.net?q", "https://h.net:443/?q", "https://h.net:443?q"}),
        ("https://h.net/p#f", {"https://h.net/p", "https://h.net:443/p"}),
        ("wss://[::1]:8443/p", {"wss://[::1]:8443/p", "wss://[::1]/p"}),
        (
            "https://u:p@h.net/p",
            {"https://u:p@h.net/p", "https://u:p@h.net:443/p", "https://h.net/p", "https://h.net:443/p"},
        ),
        ("no url", {"no url"}),
    ],
)
def test_url_variants(url: str, variants: set[str]) -> None:
    assert set(url_variants(url)) == variants


def test_too_many_fields_are_refused() -> None:
    body = b"&".join(b"a=%d" % n for n in range(MAX_FIELDS + 1))
    with pytest.raises(CarrierAuthError, match="fields"):
        form_fields(body)


def test_bytes_that_are_not_utf_8_are_signed_as_they_came(request_of: MakeRequest) -> None:
    url = "https://gw.example.net/twilio/voice"
    params = form_fields(b"a=%FF%FE&b=\xff")
    assert signed(request_of("POST", url, b"a=%FF%FE&b=\xff", x_twilio_signature=sign(TOKEN, url, params)))
    assert sign(TOKEN, url, params) != sign(TOKEN, url, form_fields(b"a=%FE%FF&b=\xff"))


def test_settings_without_values() -> None:
    assert settings("") == settings("key") == settings("key=,algorithm= ") == ("", "")


# --- Twilio's own validator as the oracle -------------------------------------------------

_names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_urls = st.builds(
    "{}://{}{}{}{}".format,
    st.sampled_from(["https", "http"]),
    st.sampled_from(["gw.example.net", "gw.example.net:8443", "gw.example.net:443", "127.0.0.1"]),
    st.sampled_from(["/", "/twilio/voice", "/a%20b", "/é"]),
    st.sampled_from(["", "?a=b", "?a=%2B1&b=", "?x=1&x=2"]),
    st.just(""),
)


@given(
    url=_urls,
    params=st.dictionaries(_names, _names, max_size=8),
    algorithm=st.sampled_from(["HMAC_SHA1", "HMAC_SHA256"]),
)
@example(url="https://gw.example.net/", params={"": ""}, algorithm="HMAC_SHA1")
def test_signs_as_twilio_does(url: str, params: dict[str, str], algorithm: str) -> None:
    assert sign(TOKEN, url, params.items(), algorithm=algorithm) == RequestValidator(TOKEN).compute_signature(
        url, params, algorithm
    )


@given(url=_urls, params=st.dictionaries(_names, _names, max_size=8), port=st.sampled_from(["", ":443", ":80"]))
def test_accepts_what_twilio_accepts(url: str, params: dict[str, str], port: str) -> None:
    # Whatever Twilio's validator takes, we take; it knows no user names, IPv6 or bare slashes.
    host = url.split("/")[2].partition(":")[0]
    signature = sign(TOKEN, url.replace(url.split("/")[2], host + port), params.items())
    body = urlencode(params).encode()
    request = CarrierRequest(
        "POST", url, {"x-twilio-signature": [signature], "content-type": ["application/x-www-form-urlencoded"]}, body
    )
    if RequestValidator(TOKEN).validate(url, params, signature):
        assert signed(request)
    elif url.split("/")[3] != "":
        assert not signed(request)


@given(
    st.binary(max_size=300), st.text(max_size=60), st.text(max_size=60), st.sampled_from(["", "application/json", "x"])
)
def test_never_raises_anything_else(body: bytes, url: str, header: str, content_type: str) -> None:
    headers = {
        "x-twilio-signature": [header],
        "x-twilio-webhooks-signature-settings": [header],
        "content-type": [content_type],
    }
    for method in ("GET", "POST"):
        assert not signed(CarrierRequest(method, "https://h/" + url, headers, body))
        assert not signed(CarrierRequest(method, url, {"x-twilio-signature": [header]}, body))
