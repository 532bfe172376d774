"""Plivo's webhook signatures: what Plivo signs, and how we check it.

Source: Plivo's documentation of signature validation V3 and V2, and the rules of its own SDKs.

V3 covers method, URL, query and form, with a nonce. V2 covers the bare URL only, so that anybody who has
seen one signed request can put any body under it: it is refused unless asked for. Plivo does not say that
it signs WebSocket upgrades; there the one-time token in the path is what authenticates.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import parse_qsl, urlparse, urlunparse

from offhook.providers.base import CarrierAuthError, CarrierRequest

V3: Final = ("x-plivo-signature-v3", "x-plivo-signature-ma-v3")
"""Signed by the account of the number, and by its main account. Either is good."""
V3_NONCE: Final = "x-plivo-signature-v3-nonce"
V2: Final = ("x-plivo-signature-v2", "x-plivo-signature-ma-v2")
V2_NONCE: Final = "x-plivo-signature-v2-nonce"

MAX_FIELDS: Final = 500
"""Fields of one form. Plivo sends about forty on a hang-up."""

MAX_SIGNATURES: Final = 10
"""Signatures in one header. Two are usual while a token is rotated."""

Params = Iterable[tuple[str, str]]


def sign(token: str, method: str, url: str, nonce: str, params: Params = ()) -> str:
    """Sign as Plivo V3 does.

    Args:
        token: auth token.
        method: GET or POST, upper case.
        url: the public URL with its query.
        nonce: what stands in the nonce header.
        params: decoded form fields of a POST, repeated names repeated.
    """
    return _digest(token, base_v3(method, url, params) + "." + nonce)


def sign_v2(token: str, url: str, nonce: str) -> str:
    """Sign as Plivo V2 did: the URL without its query, and the nonce."""
    return _digest(token, _plain(url) + nonce)


def base_v3(method: str, url: str, params: Params = ()) -> str:
    """What V3 signs, before the nonce."""
    plain = _plain(url)
    query = "&".join(f"{name}={value}" for name, value in sorted(_fields(urlparse(url).query)))
    fields = [] if method == "GET" else sorted(params)
    if fields:
        form = "".join(name + value for name, value in fields)
        return f"{plain}?{query}.{form}" if query else f"{plain}?{form}"
    return f"{plain}?{query}" if query else plain


def form_fields(body: bytes) -> list[tuple[str, str]]:
    """The fields of a form, blank ones included, in order; bytes that are not UTF-8 survive as surrogates.

    Raises:
        CarrierAuthError: more fields than any webhook has.
    """
    return _fields(body.decode("utf-8", "surrogateescape"))


def verify(request: CarrierRequest, *, tokens: Sequence[str], allow_v2: bool = False) -> tuple[str, str]:
    """Check that Plivo signed a webhook.

    Args:
        request: with the public URL as Plivo was told it.
        tokens: auth tokens of which any may have signed.
        allow_v2: accept the older signature where the newer one is absent. It does not cover the body.

    Returns:
        The nonce and the signature, by which a replay can be told.

    Raises:
        CarrierAuthError: Plivo did not sign it.
    """
    old = allow_v2 and not any(request.headers.get(name) for name in V3)
    names, nonce_name = (V2, V2_NONCE) if old else (V3, V3_NONCE)
    nonce = _single(request, nonce_name)
    offered = [item.strip() for name in names for item in _single(request, name).split(",") if item.strip()]
    if not offered or not nonce:
        raise CarrierAuthError(f"{names[0]} or {nonce_name} is missing")
    if len(offered) > MAX_SIGNATURES:
        raise CarrierAuthError(f"{names[0]}: {len(offered)} signatures, limit {MAX_SIGNATURES}")
    params = [] if old else _params(request)
    matched = ""
    for token in tokens:
        good = sign_v2(token, request.url, nonce) if old else sign(token, request.method, request.url, nonce, params)
        for signature in offered:
            if hmac.compare_digest(good.encode(), signature.encode("utf-8", "replace")):
                matched = good
    if not matched:
        raise CarrierAuthError(
            f"{names[0]} does not match {request.url.partition('?')[0]}: is public_url the URL that Plivo calls, "
            "and auth_token the one of this account?"
        )
    return nonce, matched


def _params(request: CarrierRequest) -> list[tuple[str, str]]:
    if request.method == "GET" or not request.body:
        return []
    content_type = (request.header("content-type") or "").partition(";")[0].strip().lower()
    if content_type not in ("", "application/x-www-form-urlencoded"):
        raise CarrierAuthError(f"the body is {content_type[:40]!a}; Plivo posts forms")
    return form_fields(request.body)


def _single(request: CarrierRequest, name: str) -> str:
    """A header's value, empty when it is absent. A second copy of it is refused."""
    values = request.headers.get(name, ())
    if len(values) > 1:
        raise CarrierAuthError(f"{name} was sent {len(values)} times")
    return values[0] if values else ""


def _plain(url: str) -> str:
    """Scheme, host, port and path."""
    try:
        parts = urlparse(url)
    except ValueError as error:  # such as an unfinished IPv6 address
        raise CarrierAuthError(f"url: {error}") from error
    return urlunparse((parts.scheme, parts.netloc, parts.path, "", "", ""))


def _fields(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise CarrierAuthError(f"fields: {error}") from error


def _digest(token: str, text: str) -> str:
    try:
        data = text.encode("utf-8", "surrogateescape")  # bytes that were not UTF-8 are signed as they came
    except UnicodeEncodeError:  # a lone surrogate did not come off any wire
        data = text.encode("utf-8", "replace")
    return base64.b64encode(hmac.new(token.encode(), data, hashlib.sha256).digest()).decode()
