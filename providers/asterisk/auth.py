"""Who may open a media socket or announce a call: HTTP Basic, which is what Asterisk sends.

Source: RFC 7617; `username` and `password` of Asterisk's websocket_client.conf.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Sequence
from hmac import compare_digest
from typing import Final

from offhook.providers.base import CarrierAuthError, CarrierRequest

MAX_CREDENTIALS: Final = 4096
"""Characters of an Authorization header that are looked at: names and passwords are shorter by far."""

SUBPROTOCOL: Final = "media"
"""What chan_websocket asks for by `protocols = media`."""


def verify_basic(request: CarrierRequest, username: str, passwords: Sequence[str]) -> None:
    """Raise CarrierAuthError unless the request has the name and one of the passwords. Constant-time compare."""
    if not passwords:
        raise CarrierAuthError("nobody may come in: set carriers.asterisk.password")
    header = request.header("authorization")
    if header is None:
        raise CarrierAuthError("no Authorization header, or several: set username and password at Asterisk")
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic" or len(encoded) > MAX_CREDENTIALS:
        raise CarrierAuthError("the Authorization header is not of the Basic scheme")
    try:
        given = b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise CarrierAuthError("the credentials are not base64") from error
    good = [compare_digest(given, f"{username}:{password}".encode()) for password in passwords]
    if not any(good):
        raise CarrierAuthError("wrong username or password")


def verify_subprotocol(request: CarrierRequest) -> None:
    """Raise CarrierAuthError unless the upgrade offers the subprotocol `media`."""
    offered = ",".join(request.headers.get("sec-websocket-protocol", ()))
    if SUBPROTOCOL not in [name.strip() for name in offered.split(",")]:
        raise CarrierAuthError(
            "the subprotocol `media` is not offered: set protocols=media in websocket_client.conf, "
            "or carriers.asterisk.require_subprotocol: false"
        )
