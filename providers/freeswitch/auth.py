"""Who may open a media socket, and jambonz's webhook signatures.

FreeSWITCH's modules prove nothing about themselves: mod_audio_fork sends Basic credentials
(`MOD_AUDIO_BASIC_AUTH_USERNAME` and `_PASSWORD`), mod_audio_stream whatever header `STREAM_EXTRA_HEADERS` holds, a
bearer token as a rule. What the first message says of a call is no credential; any dialplan may write it.

jambonz signs webhooks with `Jambonz-Signature: t=<unix seconds>,v1=<hex>`, HMAC-SHA256 over `t`, a dot and the body
(https://docs.jambonz.org, "Securing your webhooks").
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from offhook.providers.base import CarrierAuthError, CarrierRequest

SIGNATURE: Final = "jambonz-signature"

WINDOW: Final = 300
"""Seconds a signature is good for, before and after; jambonz's own library takes five minutes."""

MAX_SIGNATURES: Final = 8
"""Signatures in one header: one each for the secrets in use while one is being replaced."""


def verify_upgrade(request: CarrierRequest, *, username: str, passwords: Sequence[str], tokens: Sequence[str]) -> None:
    """Raise CarrierAuthError unless the upgrade carries the password or a bearer token.

    Args:
        username, passwords: for Basic; any of the passwords is good. None given: Basic is refused.
        tokens: for Bearer; any is good. None given: Bearer is refused.
    """
    header = request.header("authorization")
    if header is None:
        raise CarrierAuthError("authorization: the header is missing, or was sent twice")
    scheme, _, given = header.strip().partition(" ")
    if scheme.lower() == "basic":
        offered = _basic(given.strip())
        good = False
        for password in passwords:
            good |= hmac.compare_digest(f"{username}:{password}".encode(), offered)
    elif scheme.lower() == "bearer":
        good = False
        for token in tokens:
            good |= hmac.compare_digest(token.encode(), given.strip().encode("utf-8", "replace"))
    else:
        raise CarrierAuthError("authorization: the scheme is neither Basic nor Bearer")
    if not good:
        raise CarrierAuthError(f"authorization: wrong {scheme.lower()} credentials: do both sides have the same?")


def _basic(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise CarrierAuthError("authorization: Basic without base64 behind it") from error


def sign(secret: str, body: bytes, at: int) -> str:
    """The header as jambonz makes it."""
    return f"t={at},v1={_digest(secret, body, str(at))}"


def verify(request: CarrierRequest, *, secrets: Sequence[str], at: float) -> None:
    """Raise CarrierAuthError unless a secret signed the body within WINDOW of `at` (unix seconds).

    A GET has no body that could be signed, so it never passes: set the webhooks to POST.
    """
    header = request.header(SIGNATURE)
    if header is None:
        raise CarrierAuthError(f"{SIGNATURE}: the header is missing, or was sent twice")
    if request.method != "POST" or not request.body:
        raise CarrierAuthError("the signature covers a body only: set the application's webhooks to POST")
    stamp, signatures = "", []
    for part in header.split(",", MAX_SIGNATURES + 1)[: MAX_SIGNATURES + 1]:
        name, _, value = part.strip().partition("=")
        if name == "t":
            stamp = value
        elif name == "v1":
            signatures.append(value.lower().encode("utf-8", "replace"))
    if not stamp.isascii() or not stamp.isdigit() or len(stamp) > 12 or not signatures:
        raise CarrierAuthError(f"{SIGNATURE}: not of the form t=<seconds>,v1=<hex>")
    if abs(at - int(stamp)) > WINDOW:
        raise CarrierAuthError(f"{SIGNATURE}: {round(at - int(stamp))} s old: a replay, or a clock that is wrong")
    good = False
    for secret in secrets:
        expected = _digest(secret, request.body, stamp).encode()
        for offered in signatures:
            good |= hmac.compare_digest(expected, offered)
    if not good:
        raise CarrierAuthError(f"{SIGNATURE}: does not match: is webhook_secret the one of the account?")


def _digest(secret: str, body: bytes, stamp: str) -> str:
    return hmac.new(secret.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
