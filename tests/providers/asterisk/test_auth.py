"""Who may come in."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from offhook.providers.asterisk.auth import verify_basic, verify_subprotocol
from offhook.providers.base import CarrierAuthError

URL = "wss://gw.example.net/asterisk/media"


def basic(text: bytes) -> str:
    return "Basic " + b64encode(text).decode()


@pytest.mark.parametrize("password", ["new", "old", "with:colon", "gr\u00fcn"])
def test_any_of_the_passwords(request_of: Any, password: str) -> None:
    request = request_of("GET", URL, authorization=basic(f"offhook:{password}".encode()))
    verify_basic(request, "offhook", ["new", "old", "with:colon", "gr\u00fcn"])


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (basic(b"offhook:wrong"), "wrong"),
        (basic(b"other:secret"), "wrong"),
        (basic(b"offhooksecret"), "wrong"),
        ("Basic !!!", "base64"),
        ("Basic é", "base64"),
        ("Bearer secret", "Basic"),
        ("Basic " + "A" * 5000, "Basic"),
        ("", "Basic"),
    ],
)
def test_what_is_refused(request_of: Any, header: str, why: str) -> None:
    with pytest.raises(CarrierAuthError, match=why):
        verify_basic(request_of("GET", URL, authorization=header), "offhook", ["secret"])


def test_no_header_two_headers_no_password(request_of: Any) -> None:
    good = basic(b"offhook:secret")
    with pytest.raises(CarrierAuthError, match="no Authorization"):
        verify_basic(request_of("GET", URL), "offhook", ["secret"])
    with pytest.raises(CarrierAuthError, match="or several"):
        verify_basic(request_of("GET", URL, authorization=[good, good]), "offhook", ["secret"])
    with pytest.raises(CarrierAuthError, match=r"carriers\.asterisk\.password"):
        verify_basic(request_of("GET", URL, authorization=good), "offhook", [])


def test_case_17_the_subprotocol(request_of: Any) -> None:
    verify_subprotocol(request_of("GET", URL, sec_websocket_protocol="media"))
    verify_subprotocol(request_of("GET", URL, sec_websocket_protocol=["chat, media"]))
    for headers in ({}, {"sec_websocket_protocol": "mediate"}):
        with pytest.raises(CarrierAuthError, match="require_subprotocol"):
            verify_subprotocol(request_of("GET", URL, **headers))
