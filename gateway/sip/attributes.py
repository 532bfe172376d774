"""SIP headers ↔ attributes of a call, and who calls whom.

A trunk maps attributes to headers by name (`attributes`), and passes headers on whose names begin as it says
(`pass_headers`). Both ways: what arrives becomes a field of the call that the agent reads; what the agent sets
becomes a header of the answer, the transfer, the hang-up or the outgoing call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from offhook.providers import numbers
from offhook.providers.sip.core import OURS
from offhook.providers.sip.headers import BadHeader, NameAddr
from offhook.providers.sip.message import BadMessage, Headers, Request, header_key
from offhook.providers.sip.settings import TrunkSettings
from offhook.providers.sip.uri import BadUri, Uri

MAX_VALUE: Final = 1024
"""Characters of a header that becomes a field, and of a value that becomes a header: UDP takes no more in all."""

MAX_FIELDS: Final = 64
"""Headers of one message that become fields."""

TOLD: Final = ("Diversion", "History-Info", "P-Asserted-Identity", "Privacy", "Referred-By", "Reason", "User-to-User")
"""Headers that become fields by their own names on every trunk (RFC 5806, 7044, 3325, 3323, 3892, 3326, 7433)."""

ANONYMOUS: Final = "anonymous"


def read(trunk: TrunkSettings, headers: Headers) -> dict[str, str]:
    """Headers as fields: those every trunk tells, those it passes on by their own names, and its attributes."""
    prefixes = tuple(prefix.lower() for prefix in trunk.pass_headers)
    told = {name.lower() for name in TOLD}
    fields: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        if (lower in told or lower.startswith(prefixes)) and name not in fields and len(fields) < MAX_FIELDS:
            fields[name] = value[:MAX_VALUE]
    for attribute, header in trunk.attributes.items():
        if (found := headers.get(header)) is not None:
            fields[attribute] = found[:MAX_VALUE]
    return fields


def write(trunk: TrunkSettings, attributes: Mapping[str, str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Attributes as headers, and the names of those that the trunk sends nowhere or that no header can carry."""
    prefixes = tuple(prefix.lower() for prefix in trunk.pass_headers)
    headers: list[tuple[str, str]] = []
    left: list[str] = []
    for name, value in attributes.items():
        header = trunk.attributes.get(name, name if name.lower().startswith(prefixes) else "")
        if not _token(header) or header_key(header) in OURS or len(value) > MAX_VALUE or not _carries(value):
            left.append(name)
        else:
            headers.append((header, value))
    return headers, left


def _carries(value: str) -> bool:
    return all(character >= " " and character != "\x7f" for character in value)


def _token(name: str) -> bool:
    return bool(name) and all(c.isascii() and (c.isalnum() or c in "-.!%*_+`'~") for c in name)


def caller(request: Request) -> str:
    """Who calls: the asserted identity (RFC 3325) where there is one, else From; `anonymous` for nobody."""
    for candidate in _identities(request.headers.values("P-Asserted-Identity")):
        if candidate.user:
            return numbers.normalise(candidate.user)
    user = request.from_.uri.user
    return numbers.normalise(user) if user and user.lower() != ANONYMOUS else ANONYMOUS


def called(request: Request, ours: Iterable[str] = ()) -> str:
    """Whom they called: the user of the Request-URI, or of To where that is but the name we registered by."""
    try:
        user = Uri.parse(request.uri).user
    except BadUri:
        user = ""
    if not user or user in ours:
        user = request.to.uri.user or user
    return numbers.normalise(user)


def _identities(values: Iterable[str]) -> Iterable[Uri]:
    for value in values:
        try:
            yield NameAddr.parse(value).uri
        except (BadUri, BadHeader, BadMessage):
            continue


__all__ = ["called", "caller", "read", "write"]
