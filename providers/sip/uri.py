"""SIP, SIPS and tel URIs (RFC 3261 section 19.1, RFC 3966).

Percent escapes are read once, here: `user`, the parameters and the headers of a `Uri` hold plain text, and `str(uri)`
escapes again what the grammar does not allow bare. Two kinds of escapes stay as written, so that nothing dangerous
comes out of a URI: control characters (a `%0D%0A` must never turn into a line end) and the percent sign itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import IPv6Address

MAX_URI = 8192  # as long as the longest header line that is read; RFC 4475's longest is below 1,000
MAX_PARAMS = 64  # a Contact with every extension known has about ten

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,255}")  # the underscore is not allowed and often met (`my_pbx`)
_NOT_IN_URI = re.compile(r'[\x00-\x20\x7f"<>]')
_NAME = re.compile(r"[^=;?&@\s]+")
_ESCAPES = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")  # one alone: looking for the run at each sign of it is quadratic
_VISUAL = str.maketrans("", "", "-.()")

_ALWAYS = r"A-Za-z0-9_.!~*'()\-"
_NOT_USER = re.compile(rf"[^{_ALWAYS}&=+$,;?/]")
_NOT_PASSWORD = re.compile(rf"[^{_ALWAYS}&=+$,]")
_NOT_PARAM = re.compile(rf"[^{_ALWAYS}\[\]/:&+$]")
_NOT_HEADER = re.compile(rf"[^{_ALWAYS}\[\]/?:+$]")
_NO_PARAMS: Mapping[str, str] = {}


class BadUri(ValueError):
    """The text is no URI; the message says which part of it is wrong."""


@dataclass(frozen=True, slots=True)
class Uri:
    """A URI taken apart. Build one by hand, or read one with `Uri.parse`."""

    scheme: str
    "`sip`, `sips` or `tel`; any other scheme is kept too, its text after the colon in `user` as it was written."
    user: str = ""
    "Plain text; the number of a `tel:` URI. May carry user parameters (`+15550100;tgrp=a`): see `number`."
    host: str = ""
    "A name or an address, an IPv6 address without brackets; empty for `tel:`."
    port: int = 0
    "0 when the URI names none."
    params: Mapping[str, str] = field(default_factory=dict, hash=False)
    "Names in lower case; the value is empty when there is none."
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    "What follows the question mark, such as `Replaces` in a Refer-To. Names in lower case."
    password: str = ""

    @classmethod
    def parse(cls, text: str) -> Uri:
        """Read a URI, without angle brackets around it. Raises BadUri."""
        if len(text) > MAX_URI:
            raise BadUri(f"URI longer than {MAX_URI} characters")
        scheme, colon, rest = text.partition(":")
        if not colon or not _SCHEME.fullmatch(scheme):
            raise BadUri("URI without a scheme, such as sip:")
        if not rest or _NOT_IN_URI.search(rest):
            raise BadUri("URI is empty or holds a space, a quote or an angle bracket")
        scheme = scheme.lower()
        if scheme in ("sip", "sips"):
            return _parse_sip(scheme, rest)
        if scheme == "tel":
            number, semicolon, tail = rest.partition(";")
            if not number:
                raise BadUri("tel URI without a number")
            return cls("tel", _unescape(number), params=_pairs(tail, ";") if semicolon else _NO_PARAMS)
        return cls(scheme, rest)

    @property
    def is_sip(self) -> bool:
        """True for `sip:` and `sips:`."""
        return self.scheme in ("sip", "sips")

    @property
    def number(self) -> str:
        """`user` without its parameters, and a number without the signs that only please the eye (RFC 3966)."""
        user = self.user.partition(";")[0]
        bare = user.translate(_VISUAL)
        return bare if bare.removeprefix("+").isdigit() and bare.isascii() else user

    @property
    def transport(self) -> str:
        """The transport asked for, in lower case; empty when the URI names none."""
        return self.params.get("transport", "").lower()

    def with_params(self, **params: str | None) -> Uri:
        """The same URI with these parameters set; None takes one away. `_` in a name stands for `-`."""
        merged = dict(self.params)
        for name, value in params.items():
            key = name.replace("_", "-").lower()
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = value
        return replace(self, params=merged)

    def same_as(self, other: Uri) -> bool:
        """Whether both name the same resource (RFC 3261 section 19.1.4, RFC 3966 section 4)."""
        if self.scheme != other.scheme or self.host.lower() != other.host.lower() or self.port != other.port:
            return False
        if self.scheme == "tel":
            if self.number != other.number:
                return False
        elif self.user != other.user or self.password != other.password:
            return False
        for name in self.params.keys() | other.params.keys():
            mine, theirs = self.params.get(name), other.params.get(name)
            if mine is None or theirs is None:
                # A parameter that only one of them has is ignored, except those that change where the URI leads.
                if name in ("user", "ttl", "method", "maddr", "transport") or self.scheme == "tel":
                    return False
            elif mine.lower() != theirs.lower():
                return False
        return dict(self.headers) == dict(other.headers)

    def __str__(self) -> str:
        if not self.is_sip:
            text = f"{self.scheme}:{_escape(self.user, _NOT_USER) if self.scheme == 'tel' else self.user}"
            return text + _join(self.params, _NOT_PARAM) if self.params else text
        parts = [self.scheme, ":"]
        if self.user:
            parts.append(_escape(self.user, _NOT_USER))
            if self.password:
                parts += ":", _escape(self.password, _NOT_PASSWORD)
            parts.append("@")
        parts.append(format_host(self.host, self.port))
        if self.params:
            parts.append(_join(self.params, _NOT_PARAM))
        for mark, (name, value) in zip("?" + "&" * len(self.headers), self.headers.items(), strict=False):
            # Case does not matter here, yet some peers look for `Replaces` to the letter.
            parts += mark, _escape(name.title(), _NOT_HEADER), "=", _escape(value, _NOT_HEADER)
        return "".join(parts)


def parse_host(text: str) -> tuple[str, int]:
    """Read `host[:port]` as (host, port): an IPv6 address loses its brackets, port 0 stands for none. Raises BadUri."""
    if text.startswith("["):
        host, bracket, tail = text[1:].partition("]")
        try:
            if not bracket or "%" in host:
                raise ValueError
            IPv6Address(host)
        except ValueError:
            raise BadUri("host in brackets is no IPv6 address") from None
        if not tail:
            return host, 0
        if tail[0] != ":":
            raise BadUri("text after the bracket of an IPv6 address")
        port = tail[1:]
    else:
        host, colon, port = text.partition(":")
        if not _HOST.fullmatch(host):
            raise BadUri("host is neither a name nor an address (an IPv6 address needs brackets)")
        if not colon:
            return host, 0
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65535):
        raise BadUri("port is not a number from 1 to 65535")
    return host, int(port)


def format_host(host: str, port: int = 0) -> str:
    """`host:port` as SIP writes it: brackets around an IPv6 address, nothing for port 0."""
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{host}:{port}" if port else host


def _parse_sip(scheme: str, rest: str) -> Uri:
    user = password = ""
    at = rest.find("@")
    if at >= 0:
        user, _, password = rest[:at].partition(":")
        if not user:
            raise BadUri("nothing before the @ of a SIP URI")
        user, password = _unescape(user), _unescape(password)
        rest = rest[at + 1 :]
    rest, question, tail = rest.partition("?")
    if "@" in rest:
        raise BadUri("a second @ in a SIP URI")
    headers = _pairs(tail, "&") if question else _NO_PARAMS
    rest, semicolon, tail = rest.partition(";")
    params = _pairs(tail, ";") if semicolon else _NO_PARAMS
    host, port = parse_host(rest)
    return Uri(scheme, user, host, port, params, headers, password)


def _pairs(text: str, separator: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    pieces = text.split(separator, MAX_PARAMS)
    if len(pieces) > MAX_PARAMS:
        raise BadUri(f"more than {MAX_PARAMS} parameters in a URI")
    if not pieces[-1]:
        pieces.pop()  # a lone separator at the end is common and harmless
    for piece in pieces:
        name, _, value = piece.partition("=")
        if not _NAME.fullmatch(name):
            raise BadUri("URI parameter without a name")
        key, value = _unescape(name).lower(), _unescape(value)
        if pairs.setdefault(key, value) != value:
            raise BadUri("URI parameter given twice")
    return pairs


def _join(params: Mapping[str, str], unsafe: re.Pattern[str]) -> str:
    parts: list[str] = []
    for name, value in params.items():
        parts += ";", _escape(name, unsafe)
        if value:
            parts += "=", _escape(value, unsafe)
    return "".join(parts)


def _unescape(text: str) -> str:
    plain = _ESCAPES.sub(_unescape_run, text) if "%" in text else text
    if plain.isprintable():
        return plain
    return "".join(sign if sign.isprintable() else _percent(sign) for sign in plain)


def _unescape_run(run: re.Match[str]) -> str:
    escaped = run.group()
    try:
        plain = bytes.fromhex(escaped.replace("%", "")).decode()
    except UnicodeDecodeError:
        return escaped
    if "%" not in plain and plain.isprintable():
        return plain
    # Character by character: what is unsafe keeps its escape, what is plain among it does not.
    return "".join(sign if sign != "%" and sign.isprintable() else _percent(sign) for sign in plain)


def _escape(text: str, unsafe: re.Pattern[str]) -> str:
    def escaped(found: re.Match[str]) -> str:
        sign = found.group()
        return sign if sign == "%" and _ESCAPE.match(text, found.start()) else _percent(sign)

    return unsafe.sub(escaped, text)


@lru_cache(1000)
def _percent(sign: str) -> str:
    return "".join(f"%{octet:02X}" for octet in sign.encode("utf-8", "replace"))
