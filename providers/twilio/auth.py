"""Twilio's webhook signatures: what Twilio signs, and how we check it.

Source: Twilio's documentation of webhook security, and the rules of its own SDKs.

Signed is the public URL followed by the form's fields, sorted by name, each as name and value; of a name
that is repeated every different value, sorted. A GET and a WebSocket upgrade sign the URL alone. A body
that is no form is not signed itself: its SHA-256 stands in the URL's query as `bodySHA256`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl

from offhook.providers.base import CarrierAuthError, CarrierRequest

SIGNATURE: Final = "x-twilio-signature"
SETTINGS: Final = "x-twilio-webhooks-signature-settings"

ALGORITHMS: Final = {"HMAC_SHA1": hashlib.sha1, "HMAC_SHA256": hashlib.sha256}
"""By the name that the settings header gives them."""

MAX_FIELDS: Final = 500
"""Fields of one form. Twilio sends about thirty."""

_URL = re.compile(
    r"(?P<scheme>[a-z]+)://(?:(?P<userinfo>[^/?#@]*)@)?(?P<host>\[[^\]]*\]|[^/?#:@]*)(?::(?P<port>\d*))?(?P<rest>.*)"
)
_STANDARD_PORTS: Final = {"https": "443", "wss": "443", "http": "80", "ws": "80"}

Params = Iterable[tuple[str, str]]


def sign(secret: str, url: str, params: Params = (), *, algorithm: str = "HMAC_SHA1") -> str:
    """Sign as Twilio does.

    Args:
        secret: auth token of the account, or secret of the shared key.
        url: as Twilio was configured to call it, query included, fragment not.
        params: decoded form fields, repeated names repeated; none for a GET, an upgrade, or a body that is no form.
    """
    fields = "".join(name + value for name, value in sorted(set(params)))
    signed = url.encode("utf-8", "replace") + fields.encode("utf-8", "surrogateescape")
    digest = hmac.new(secret.encode(), signed, ALGORITHMS[algorithm])
    return base64.b64encode(digest.digest()).decode()


def form_fields(body: bytes) -> list[tuple[str, str]]:
    """The fields of a form, blank ones included, in order; bytes that are not UTF-8 survive as surrogates.

    Raises:
        CarrierAuthError: more fields than any webhook has.
    """
    return query_fields(body.decode("utf-8", "surrogateescape"))


def query_fields(text: str) -> list[tuple[str, str]]:
    """The same of a query string."""
    try:
        return parse_qsl(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise CarrierAuthError(f"fields: {error}") from error


def url_variants(url: str) -> list[str]:
    """The URLs that Twilio may have signed for `url`: with and without port, user name, and bare slash.

    Twilio's back end is not consistent about the port, and drops the user name for some schemes.
    """
    found = _URL.fullmatch(url.partition("#")[0])
    if found is None:
        return [url]
    scheme, userinfo, host, port, rest = found.group("scheme", "userinfo", "host", "port", "rest")
    ports = dict.fromkeys(
        [
            f":{port}" if port else "",
            "",
            *([f":{_STANDARD_PORTS[scheme]}"] if not port and scheme in _STANDARD_PORTS else []),
        ]
    )
    rests = [rest]
    if rest == "" or rest.startswith("?"):
        rests.append("/" + rest)
    elif rest == "/" or rest.startswith("/?"):
        rests.append(rest[1:])
    users = [f"{userinfo}@", ""] if userinfo is not None else [""]
    return [f"{scheme}://{u}{host}{p}{r}" for u in users for p in ports for r in rests]


def settings(header: str) -> tuple[str, str]:
    """Read the settings header: the shared key's id and the algorithm, each empty when it is not named.

    Raises:
        CarrierAuthError: a setting is named twice, so that nobody can choose which one we read.
    """
    found: dict[str, str] = {}
    for part in header.split(","):
        name, equals, value = part.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not value:
            continue
        if name in found:
            raise CarrierAuthError(f"{SETTINGS}: {name[:20]!a} is named twice")
        found[name] = value
    return found.get("key", ""), found.get("algorithm", "").upper()


def request_fields(request: CarrierRequest) -> list[tuple[str, str]]:
    """The fields of a webhook, from its form or, for a GET, its query. Not to be trusted before `verify`."""
    if request.method == "GET" or not request.body:
        return query_fields(request.url.partition("#")[0].partition("?")[2])
    return form_fields(request.body)


def verify(request: CarrierRequest, *, tokens: Sequence[str], shared_keys: Mapping[str, str] | None = None) -> None:
    """Check that Twilio signed a webhook or a WebSocket upgrade.

    Args:
        request: with the public URL as Twilio was told it.
        tokens: auth tokens of which any may have signed.
        shared_keys: secrets of the shared keys by id; used only when the request names one of them.

    Raises:
        CarrierAuthError: it did not, or the request is one that its signature does not cover.
    """
    signature = _single(request, SIGNATURE, required=True)
    secrets, algorithm = _secrets(request, tokens, shared_keys or {})
    params = _signed_params(request)
    offered = signature.strip().encode("utf-8", "replace")
    good = False
    for url in url_variants(request.url):
        for secret in secrets:
            expected = sign(secret, url, params, algorithm=algorithm)
            good |= hmac.compare_digest(expected.encode(), offered)
    if not good:
        raise CarrierAuthError(
            f"{SIGNATURE} does not match {request.url.partition('?')[0]}: is public_url the URL that Twilio calls, "
            "and auth_token the one of this account?"
        )


def _single(request: CarrierRequest, name: str, *, required: bool) -> str:
    """A header's value, empty when it is absent. A second copy of it is refused."""
    values = request.headers.get(name, ())
    if len(values) > 1:
        raise CarrierAuthError(f"{name} was sent {len(values)} times")
    if required and not values:
        raise CarrierAuthError(f"{name} is missing")
    return values[0] if values else ""


def _secrets(
    request: CarrierRequest, tokens: Sequence[str], shared_keys: Mapping[str, str]
) -> tuple[Sequence[str], str]:
    """Which secrets may have signed, and how. The header chooses among what is configured, nothing else."""
    key, algorithm = settings(_single(request, SETTINGS, required=False))
    if not algorithm:
        return tokens, "HMAC_SHA1"
    if algorithm not in ALGORITHMS:
        raise CarrierAuthError(f"{SETTINGS}: algorithm {algorithm[:20]!a} is not one of {', '.join(ALGORITHMS)}")
    if key not in shared_keys:
        raise CarrierAuthError(f"{SETTINGS}: shared key {key[:60]!a} is not configured under shared_keys")
    return [shared_keys[key]], algorithm


def _signed_params(request: CarrierRequest) -> list[tuple[str, str]]:
    """The fields that are part of what is signed, and the proof that nothing else is in the body."""
    if request.method == "GET" or not request.body:
        return []
    content_type = (request.header("content-type") or "").partition(";")[0].strip().lower()
    if content_type in ("", "application/x-www-form-urlencoded"):
        return form_fields(request.body)
    query = request.url.partition("#")[0].partition("?")[2]
    named = [value for name, value in query_fields(query) if name == "bodySHA256"]
    digest = hashlib.sha256(request.body).hexdigest()
    if len(named) != 1 or not hmac.compare_digest(named[0].lower().encode("utf-8", "replace"), digest.encode()):
        raise CarrierAuthError(f"the body is {content_type[:40]!a} and bodySHA256 in the URL is not its hash")
    return []
