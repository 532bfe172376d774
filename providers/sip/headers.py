"""The values of SIP headers: addresses, Via, CSeq, Reason, parameters, digest fields (RFC 3261 sections 20 and 25).

Everything here reads one header value that is already unfolded, in one pass, and raises `BadHeader` for what it
cannot read. What is merely sloppy and met in the field is read: a display name without quotes, spaces inside angle
brackets, a lone semicolon at the end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from offhook.providers.sip.uri import BadUri, Uri, format_host, parse_host

MAX_PARAMS = 64  # parameters of one value; the richest Contact has about ten, a digest twelve
MAX_CSEQ = 2**31  # RFC 3261 section 8.1.1.5: below 2**31
MAX_MARKS = 512  # quotes and opening brackets of one list; a hundred contacts with display names have 300
MAX_AUTH = 4 * 1024  # characters of a challenge or credentials; a digest has 400
_MAX_DIGITS = 20  # leading zeros are legal, a number long enough to make int() slow is not

_TOKEN = re.compile(r"[A-Za-z0-9.!%*_+`'~-]+")
_BARE = re.compile(r'[^\s"<>,;\x00-\x1f\x7f]*')  # a parameter value that needs no quotes: token, host, base64
_MARKS = {",": re.compile(r'["<,]'), ";": re.compile(r'["<;]')}
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_NO_PARAMS: Mapping[str, str] = {}


class BadHeader(ValueError):
    """A header value that cannot be read; the message says what is wrong with it."""


def is_token(text: str) -> bool:
    """Whether the text is a token: a method, a header name, a tag (RFC 3261 section 25.1)."""
    return _TOKEN.fullmatch(text) is not None


def split_list(text: str, separator: str = ",", *, limit: int = MAX_PARAMS + 1) -> list[str]:
    """Split at a comma (or a semicolon) outside quotes and angle brackets; pieces are stripped, empty ones kept.

    A blank text gives no pieces. Quotes that are never closed swallow the rest, which the next reader refuses.
    No more than `limit` pieces are given, and what is left over is the last: whoever counts them can refuse. A text
    of more than MAX_MARKS quotes and brackets is one piece.
    """
    if not text or text.isspace():
        return []
    unsafe = text.count('"') + text.count("<")
    if not unsafe:
        return [piece.strip() for piece in text.split(separator, limit - 1)]
    if unsafe > MAX_MARKS:
        return [text.strip()]
    marks, pieces, start, at = _MARKS[separator], list[str](), 0, 0
    while mark := marks.search(text, at):
        sign, at = mark.group(), mark.end()
        if sign == '"':
            at = _after_quotes(text, at)
        elif sign == "<":
            at = text.find(">", at) + 1
        elif len(pieces) + 1 >= limit:
            break
        else:
            pieces.append(text[start : at - 1].strip())
            start = at
        if not at:
            break  # quotes or a bracket that are not closed
    pieces.append(text[start:].strip())
    return pieces


def quote(text: str) -> str:
    """The text as a quoted string; control characters are left out."""
    return '"' + _CONTROLS.sub("", text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def unquote(text: str) -> str:
    """What a quoted string says; text without quotes comes back as it is. Raises BadHeader for unbalanced quotes."""
    if not text.startswith('"'):
        return text
    if _end_of_quotes(text) != len(text):
        raise BadHeader("quoted text is not closed where it should be")
    return _ESCAPED.sub(r"\1", text[1:-1]) if "\\" in text else text[1:-1]


def parse_params(text: str) -> dict[str, str]:
    """Read `;name=value;name` (the first semicolon may be missing); names in lower case, values without quotes.

    A parameter without a value has the value "". Raises BadHeader, also for a name given twice with two values.
    """
    text = text.strip().removeprefix(";")
    params: dict[str, str] = {}
    if not text:
        return params
    pieces = text.split(";", MAX_PARAMS) if '"' not in text else split_list(text, ";")
    _read_pairs(pieces, params)
    return params


def format_params(params: Mapping[str, str]) -> str:
    """`;name=value;name`, with quotes where the value needs them."""
    parts: list[str] = []
    for name, value in params.items():
        parts += ";", name
        if value:
            parts += "=", value if _BARE.fullmatch(value) else quote(value)
    return "".join(parts)


def parse_number(text: str, limit: int, what: str) -> int:
    """A decimal number below `limit`; leading zeros are legal. Raises BadHeader naming `what`."""
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS) or int(text) >= limit:
        raise BadHeader(f"{what} is not a number below {limit}")
    return int(text)


@dataclass(frozen=True, slots=True)
class NameAddr:
    """One address of From, To, Contact, Route, Refer-To and their like (RFC 3261 section 20.10)."""

    display: str
    "What a phone would show; no quotes, no control characters; empty when there is none."
    uri: Uri
    params: Mapping[str, str] = field(default_factory=dict, hash=False)
    "The parameters of the header, not those of the URI. Names in lower case."

    @classmethod
    def parse(cls, text: str) -> NameAddr:
        """Read one address; `sip:a@b;tag=1` without angle brackets has its parameters outside the URI."""
        text = text.strip()
        display = ""
        if text.startswith('"'):
            end = _end_of_quotes(text)
            display = _CONTROLS.sub("", unquote(text[:end]))
            text = text[end:].lstrip()
            if not text.startswith("<"):
                raise BadHeader("a display name without an address in angle brackets")
        opening = text.find("<")
        try:
            if opening < 0:
                address, semicolon, tail = text.partition(";")
                if "?" in address or "," in address:
                    raise BadHeader("an address with a comma or a question mark needs angle brackets")
                return cls("", Uri.parse(address.rstrip()), parse_params(tail) if semicolon else _NO_PARAMS)
            if opening:
                display = _CONTROLS.sub("", text[:opening]).strip()
                if '"' in display or ";" in display:
                    raise BadHeader("stray quotes or semicolons before an address")
            closing = text.find(">", opening)
            if closing < 0:
                raise BadHeader("an address whose angle bracket is not closed")
            uri = Uri.parse(text[opening + 1 : closing].strip())
        except BadUri as error:
            raise BadHeader(str(error)) from None
        tail = text[closing + 1 :].lstrip()
        if tail and tail[0] != ";":
            raise BadHeader("text after an address that is no parameter")
        return cls(display, uri, parse_params(tail) if tail else _NO_PARAMS)

    @property
    def tag(self) -> str:
        """The tag; empty when there is none, as an RFC 2543 peer has it."""
        return self.params.get("tag", "")

    def with_tag(self, tag: str) -> NameAddr:
        """The same address with this tag."""
        return replace(self, params={**self.params, "tag": tag})

    def __str__(self) -> str:
        name = f"{quote(self.display)} " if self.display else ""
        return f"{name}<{self.uri}>{format_params(self.params)}"


@dataclass(frozen=True, slots=True)
class Via:
    """One hop that a request took (RFC 3261 section 20.42)."""

    transport: str
    "In upper case: `UDP`, `TCP`, `TLS`, or whatever else a proxy wrote."
    host: str
    "A name or an address, IPv6 without brackets."
    port: int = 0
    params: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def parse(cls, text: str) -> Via:
        """Read one value. Raises BadHeader."""
        head, semicolon, tail = text.partition(";")
        parts = head.split("/", 2)
        if len(parts) != 3 or parts[0].strip().upper() != "SIP" or parts[1].strip() != "2.0":
            raise BadHeader("Via does not begin with SIP/2.0/")
        where = parts[2].split(None, 1)
        if len(where) != 2 or not _TOKEN.fullmatch(where[0]):
            raise BadHeader("Via without a transport or without a host")
        sent_by = where[1].strip()
        if " " in sent_by or "\t" in sent_by:
            sent_by = ":".join(part.strip() for part in sent_by.split(":"))
        try:
            host, port = parse_host(sent_by)
        except BadUri as error:
            raise BadHeader(f"Via: {error}") from None
        return cls(where[0].upper(), host, port, parse_params(tail) if semicolon else _NO_PARAMS)

    @property
    def branch(self) -> str:
        """The branch; empty when there is none."""
        return self.params.get("branch", "")

    def with_params(self, **params: str) -> Via:
        """The same hop with these parameters set, such as `received` and `rport`."""
        return replace(self, params={**self.params, **params})

    def __str__(self) -> str:
        return f"SIP/2.0/{self.transport} {format_host(self.host, self.port)}{format_params(self.params)}"


class CSeq(NamedTuple):
    """The number and the method of a request (RFC 3261 section 20.16)."""

    number: int
    method: str

    @classmethod
    def parse(cls, text: str) -> CSeq:
        """Read `7 INVITE`. Raises BadHeader."""
        parts = text.split()
        if len(parts) != 2 or not _TOKEN.fullmatch(parts[1]):
            raise BadHeader("CSeq is not a number and a method")
        return cls(parse_number(parts[0], MAX_CSEQ, "CSeq"), parts[1])

    def __str__(self) -> str:
        return f"{self.number} {self.method}"


class Reason(NamedTuple):
    """Why a call was ended (RFC 3326): `Q.850;cause=16;text="Normal call clearing"`."""

    protocol: str
    cause: int = 0
    "0 when the header names none."
    text: str = ""

    @classmethod
    def parse(cls, text: str) -> Reason:
        """Read one value. Raises BadHeader."""
        protocol, _, tail = text.partition(";")
        if not is_token(protocol.strip()):
            raise BadHeader("Reason does not begin with a protocol")
        params = parse_params(tail)
        cause = parse_number(params["cause"], 1000, "the cause of a Reason") if "cause" in params else 0
        return cls(protocol.strip(), cause, params.get("text", ""))

    def __str__(self) -> str:
        cause = f";cause={self.cause}" if self.cause else ""
        return f"{self.protocol}{cause}{f';text={quote(self.text)}' if self.text else ''}"


def parse_auth(text: str) -> tuple[str, dict[str, str]]:
    """Read a challenge or credentials as (scheme in lower case, parameters): `Digest realm="a", nonce="b"`.

    Names in lower case, values without quotes. Raises BadHeader.
    """
    if len(text) > MAX_AUTH:
        raise BadHeader(f"authentication longer than {MAX_AUTH} characters")
    parts = text.split(None, 1)
    if not parts or not is_token(parts[0]):
        raise BadHeader("no authentication scheme")
    params: dict[str, str] = {}
    if len(parts) == 2:
        _read_pairs(split_list(parts[1]), params)
    return parts[0].lower(), params


def _read_pairs(pieces: list[str], params: dict[str, str]) -> None:
    if len(pieces) > MAX_PARAMS:
        raise BadHeader(f"more than {MAX_PARAMS} parameters")
    if pieces and not pieces[-1].strip():
        pieces = pieces[:-1]  # a lone separator at the end is common and harmless
    for piece in pieces:
        name, _, value = piece.partition("=")
        name, value = name.strip().lower(), value.strip()
        if not _TOKEN.fullmatch(name):
            raise BadHeader("a parameter without a proper name")
        if value.startswith('"'):
            value = unquote(value)
        elif not _BARE.fullmatch(value):
            raise BadHeader(f"parameter {name[:40]} needs quotes around its value")
        if params.setdefault(name, value) != value:
            raise BadHeader(f"parameter {name[:40]} given twice")


def _end_of_quotes(text: str) -> int:
    """The index after the quote that closes the one at index 0. Raises BadHeader when none does."""
    end = _after_quotes(text, 1)
    if not end:
        raise BadHeader("quotes that are not closed")
    return end


def _after_quotes(text: str, at: int) -> int:
    """The index after the quote that closes what begins at `at`; 0 when none does."""
    end = text.find('"', at)
    while end >= 0:
        slash = text.find("\\", at, end)
        if slash < 0:
            break
        at = slash + 2  # whatever follows a backslash is no mark
        if at > end:
            end = text.find('"', at)
    return end + 1
