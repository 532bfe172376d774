"""SIP messages: read from the wire, looked into, built and written (RFC 3261 sections 7 and 20).

A message keeps its headers as they came: the order, the spelling of each name, the value to the letter. What a
header means is read when somebody asks, by the classes of `headers`, and whatever cannot be read raises
`BadMessage` with the status that answers it. Reading is strict where two readers of one message could disagree
about where it ends (line ends, Content-Length, repeated single headers) and mild elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from offhook.providers.sip.headers import BadHeader, CSeq, NameAddr, Via, is_token, parse_number, parse_params
from offhook.providers.sip.headers import split_list as _split_list
from offhook.providers.sip.uri import BadUri, Uri

MAX_HEAD = 64 * 1024  # start line and headers; a large INVITE with a PASSporT and History-Info has 8 KiB
MAX_BODY = 256 * 1024  # a large SDP has 10 KiB; this leaves room for multipart bodies
MAX_HEADERS = 256  # lines, continued ones counted again; a large INVITE has 40
MAX_LINE = 8 * 1024  # one header, unfolded; a PASSporT with rich call data has 4 KiB
MAX_FIELD = 4 * 1024  # all values together of a header that is taken apart (Via, From, Contact); 40 hops have 3 KiB
MAX_VALUES = 100  # of a comma-joined list; Max-Forwards allows 70 hops
MAX_PARTS = 16  # of a multipart body; SDP, ISUP, PIDF-LO and a picture make four

VERSION = "SIP/2.0"

REASONS: dict[int, str] = {
    100: "Trying", 180: "Ringing", 181: "Call Is Being Forwarded", 182: "Queued", 183: "Session Progress",
    199: "Early Dialog Terminated", 200: "OK", 202: "Accepted", 204: "No Notification",
    300: "Multiple Choices", 301: "Moved Permanently", 302: "Moved Temporarily", 305: "Use Proxy",
    380: "Alternative Service", 400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 406: "Not Acceptable", 407: "Proxy Authentication Required",
    408: "Request Timeout", 410: "Gone", 412: "Conditional Request Failed", 413: "Request Entity Too Large",
    414: "Request-URI Too Long", 415: "Unsupported Media Type", 416: "Unsupported URI Scheme", 420: "Bad Extension",
    421: "Extension Required", 422: "Session Interval Too Small", 423: "Interval Too Brief",
    428: "Use Identity Header", 429: "Provide Referrer Identity", 430: "Flow Failed", 433: "Anonymity Disallowed",
    436: "Bad Identity Info", 437: "Unsupported Credential", 438: "Invalid Identity Header",
    439: "First Hop Lacks Outbound Support", 469: "Bad Info Package", 480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist", 482: "Loop Detected", 483: "Too Many Hops", 484: "Address Incomplete",
    485: "Ambiguous", 486: "Busy Here", 487: "Request Terminated", 488: "Not Acceptable Here", 489: "Bad Event",
    491: "Request Pending", 493: "Undecipherable", 494: "Security Agreement Required", 500: "Server Internal Error",
    501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Server Time-out",
    505: "Version Not Supported", 513: "Message Too Large", 580: "Precondition Failure", 600: "Busy Everywhere",
    603: "Decline", 604: "Does Not Exist Anywhere", 606: "Not Acceptable", 607: "Unwanted", 608: "Rejected",
}  # fmt: skip
"""The usual reason phrase of each status."""

_COMPACT = {
    "a": "accept-contact", "b": "referred-by", "c": "content-type", "d": "request-disposition",
    "e": "content-encoding", "f": "from", "i": "call-id", "j": "reject-contact", "k": "supported",
    "l": "content-length", "m": "contact", "n": "identity-info", "o": "event", "r": "refer-to", "s": "subject",
    "t": "to", "u": "allow-events", "v": "via", "x": "session-expires", "y": "identity",
}  # fmt: skip

# Their values may hold commas that separate nothing.
_UNSPLIT = frozenset((
    "authorization", "www-authenticate", "proxy-authorization", "proxy-authenticate", "authentication-info", "date",
    "from", "to", "call-id", "cseq", "subject", "user-agent", "server", "organization", "retry-after", "content-type",
    "content-length",
))  # fmt: skip
# A quoted display name may hold an escaped NUL (RFC 4475 section 3.1.1.2); nowhere else is one let in.
_MAY_HOLD_NUL = frozenset(("from", "to", "contact", "reply-to"))

_T = TypeVar("_T")


class BadMessage(ValueError):
    """A message that cannot be read, or breaks a rule. The text names the header and goes into a reason phrase."""

    def __init__(self, text: str, *, status: int = 400, message: Message | None = None) -> None:
        super().__init__(text)
        self.status = status
        "What answers it: 400, 416, 505, 513."
        self.message = message
        "As much as could be read, when that includes the whole head; enough to answer it."


def header_key(name: str) -> str:
    """The long name in lower case: `header_key("v") == header_key("Via") == "via"`."""
    key = name.lower()
    return _COMPACT.get(key, key) if len(key) == 1 else key


class Headers:
    """The headers of a message: an ordered list of names and values, found by any spelling of the name."""

    __slots__ = ("_lines",)

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        """Raises ValueError for a name or a value that would break the message."""
        self._lines: list[tuple[str, str, str]] = []
        for name, value in items:
            self.add(name, value)

    def get(self, name: str) -> str | None:
        """The first value as it was written, unfolded; None when the header is missing."""
        wanted = header_key(name)
        for key, _, value in self._lines:
            if key == wanted:
                return value
        return None

    def lines(self, name: str) -> list[str]:
        """Every value as it was written, one for each line."""
        wanted = header_key(name)
        return [value for key, _, value in self._lines if key == wanted]

    def values(self, name: str) -> list[str]:
        """Every value, with comma-joined ones taken apart, except where a comma does not separate values.

        Past MAX_VALUES or MAX_FIELD nothing is taken apart any more: what is left of the line is the last value.
        """
        key = header_key(name)
        lines = self.lines(key)
        if key in _UNSPLIT or not lines:
            return lines
        values: list[str] = []
        read = 0
        for line in lines:
            read += len(line)
            if read > MAX_FIELD or len(values) > MAX_VALUES:
                values.append(line)
                break
            values += _split_list(line, limit=MAX_VALUES + 1)
        return values

    def add(self, name: str, value: str) -> None:
        """Append a header. Raises ValueError for a name or a value that would break the message."""
        self._lines.append(_line(name, value))

    def insert(self, name: str, value: str) -> None:
        """Put a header on top of all others. Raises ValueError as `add` does."""
        self._lines.insert(0, _line(name, value))

    def set(self, name: str, value: str) -> None:
        """Leave exactly one header of this name, where the first one stood or at the end. Raises ValueError."""
        line = _line(name, value)
        first = next((index for index, old in enumerate(self._lines) if old[0] == line[0]), len(self._lines))
        self._lines = [old for old in self._lines if old[0] != line[0]]
        self._lines.insert(first, line)

    def replace_top(self, name: str, value: str) -> None:
        """Write another value in place of the first one, leaving what is joined to it by a comma.

        Raises KeyError when the header is missing, ValueError as `add` does.
        """
        wanted = header_key(name)
        for index, (key, written, old) in enumerate(self._lines):
            if key == wanted:
                rest = [] if key in _UNSPLIT else _split_list(old, limit=2)[1:]
                self._lines[index] = _line(written, ", ".join([value, *rest]))
                return
        raise KeyError(name)

    def remove(self, name: str) -> None:
        """Take away every header of this name; none is fine."""
        wanted = header_key(name)
        self._lines = [line for line in self._lines if line[0] != wanted]

    def extend(self, other: Headers, *names: str) -> None:
        """Append the other's headers of these names, in the other's order and to the letter; all without names."""
        wanted = {header_key(name) for name in names}
        self._lines.extend(line for line in other._lines if not wanted or line[0] in wanted)

    def items(self) -> list[tuple[str, str]]:
        """Names as they were written, and values, in order."""
        return [(name, value) for _, name, value in self._lines]

    def copy(self) -> Headers:
        """A list of its own with the same headers."""
        other = Headers()
        other._lines = self._lines.copy()
        return other

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.items())

    def __len__(self) -> int:
        return len(self._lines)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return [(key, value) for key, _, value in self._lines] == [(key, value) for key, _, value in other._lines]

    __hash__ = None  # type: ignore[assignment]  # mutable; this is how Python says so

    def __repr__(self) -> str:
        return f"Headers({self.items()!r})"


class _Fields:
    """What requests and responses share: their headers, read one by one."""

    __slots__ = ()
    headers: Headers
    body: bytes

    @property
    def call_id(self) -> str:
        """Raises BadMessage, as all of these do."""
        return self._single("Call-ID")

    @property
    def cseq(self) -> CSeq:
        """Number and method."""
        return self._read("CSeq", CSeq.parse)

    @property
    def from_(self) -> NameAddr:
        """The caller of the dialog's side that sent the request."""
        return self._read("From", NameAddr.parse)

    @property
    def to(self) -> NameAddr:
        """The other side."""
        return self._read("To", NameAddr.parse)

    @property
    def vias(self) -> list[Via]:
        """Every hop, the latest first."""
        return self.read_all("Via", Via.parse)

    @property
    def top_via(self) -> Via:
        """The latest hop."""
        line = self.headers.get("Via")
        if line is None:
            raise BadMessage("Via is missing")
        _check_size("Via", line)
        first = _split_list(line, limit=2)
        return _parse("Via", first[0] if first else "", Via.parse)

    @property
    def contact(self) -> NameAddr | None:
        """The first Contact; None when there is none, or only the `*` of a REGISTER."""
        line = self.headers.get("Contact")
        if not line or line == "*":
            return None
        _check_size("Contact", line)
        return _parse("Contact", _split_list(line, limit=2)[0], NameAddr.parse)

    @property
    def content_type(self) -> str:
        """Such as `application/sdp`: lower case, no parameters; empty when there is none."""
        return (self.headers.get("Content-Type") or "").partition(";")[0].strip().lower()

    def options(self, name: str) -> set[str]:
        """The option tags of Supported, Require, Allow and their like, as they were written."""
        return {value for value in self.headers.values(name) if value}

    def read_all(self, name: str, parse: Callable[[str], _T]) -> list[_T]:
        """Every value of a header read by `parse`, such as `NameAddr.parse` for Route. Raises BadMessage."""
        _check_size(name, *self.headers.lines(name))
        values = self.headers.values(name)
        if len(values) > MAX_VALUES:
            raise BadMessage(f"{name} has more than {MAX_VALUES} values")
        return [_parse(name, value, parse) for value in values]

    def body_of(self, content_type: str) -> bytes | None:
        """The body, or the part of a multipart body, that is of this type; None when there is none.

        A body without a Content-Type counts as `application/sdp` when it begins like one.
        """
        if not self.body:
            return None
        mine = self.content_type
        if mine == content_type:
            return self.body
        if not mine:
            return self.body if content_type == "application/sdp" and self.body.startswith(b"v=0") else None
        if mine.startswith("multipart/"):
            try:
                boundary = parse_params((self.headers.get("Content-Type") or "").partition(";")[2]).get("boundary")
            except BadHeader as error:
                raise BadMessage(f"Content-Type: {error}") from None
            return _part_of(self.body, boundary, content_type) if boundary else None
        return None

    def _single(self, name: str) -> str:
        lines = self.headers.lines(name)
        if len(lines) != 1:
            raise BadMessage(f"{name} is missing" if not lines else f"{name} is given more than once")
        return lines[0]

    def _read(self, name: str, parse: Callable[[str], _T]) -> _T:
        line = self._single(name)
        _check_size(name, line)
        return _parse(name, line, parse)


@dataclass(slots=True)
class Request(_Fields):
    """A request."""

    method: str
    "Case matters: `INVITE`."
    uri: str
    "The Request-URI as it was written."
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""

    def encode(self) -> bytes:
        """The message for the wire, Content-Length included. Raises ValueError for a start line that would break it."""
        if not is_token(self.method) or not self.uri or any(sign <= " " for sign in self.uri):
            raise ValueError("a request needs a method that is a token and a Request-URI without spaces")
        return _encode(f"{self.method} {self.uri} {VERSION}", self.headers, self.body)


@dataclass(slots=True)
class Response(_Fields):
    """An answer to a request."""

    status: int
    "100 to 699."
    reason: str = ""
    "Any text; empty: the usual one of the status."
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""

    def encode(self) -> bytes:
        """The message for the wire, Content-Length included; line ends in the reason become spaces."""
        reason = " ".join((self.reason or REASONS.get(self.status, "")).split())
        return _encode(f"{VERSION} {self.status} {reason}", self.headers, self.body)


Message = Request | Response


def parse(data: bytes) -> Message:
    """Read one message from a datagram, or cut out of a stream: the body is as long as Content-Length says.

    Without a Content-Length the rest is the body; what follows a body is ignored (RFC 3261 section 18.3).
    Raises BadMessage.
    """
    data = data.lstrip(b"\r\n") if data[:1] in (b"\r", b"\n") else data
    end = data.find(b"\r\n\r\n")
    if end < 0:
        raise BadMessage("no empty line after the headers")
    if end > MAX_HEAD:
        raise BadMessage(f"headers longer than {MAX_HEAD} bytes", status=513)
    message = _parse_head(data[:end])
    start = end + 4
    length = _length(message, len(data) - start)
    message.body = data[start : start + length]
    return message


def respond(request: Request, status: int, reason: str = "", *, to_tag: str = "") -> Response:
    """Begin the answer to a request: Via, From, To, Call-ID, CSeq copied to the letter (RFC 3261 section 8.2.6).

    Record-Route comes along where the answer forms a dialog (101 to 299), Timestamp in a 100. `to_tag` is added to
    the To unless it has a tag or the status is 100.
    """
    headers = Headers()
    names = ["Via", "From", "To", "Call-ID", "CSeq"]
    if status == 100:
        names.append("Timestamp")
    elif status <= 299:
        names.append("Record-Route")
    headers.extend(request.headers, *names)
    if to_tag and status != 100:
        headers._lines = [
            (key, name, _tagged(value, to_tag)) if key == "to" else (key, name, value)
            for key, name, value in headers._lines
        ]
    return Response(status, reason or REASONS.get(status, ""), headers)


def _tagged(to: str, tag: str) -> str:
    try:
        if NameAddr.parse(to).tag:
            return to
    except BadHeader:
        return to  # an unreadable To is answered 400 and given back as it came
    return f"{to.rstrip('; ')};tag={tag}"


def check(message: Message) -> None:
    """See that a message has what every message must have, once each and readable (RFC 3261 section 8.1.1).

    Raises BadMessage with the status that answers it: 416 for a Request-URI of a scheme that nobody here serves.
    Missing tags and a missing Max-Forwards are tolerated (RFC 2543).
    """
    try:
        if not message.vias:
            raise BadMessage("Via is missing")
        cseq = message.cseq
        if not message.call_id:
            raise BadMessage("Call-ID is empty")
        _ = message.from_, message.to
        if isinstance(message, Request):
            _check_request(message, cseq)
    except BadMessage as error:
        error.message = message
        raise


def _check_request(request: Request, cseq: CSeq) -> None:
    if cseq.method != request.method:
        raise BadMessage("CSeq names another method than the request")
    try:
        uri = Uri.parse(request.uri)
    except BadUri as error:
        raise BadMessage(f"Request-URI: {error}") from None
    if uri.scheme not in ("sip", "sips", "tel"):
        raise BadMessage("the scheme of the Request-URI is not sip, sips or tel", status=416)
    if uri.headers:
        raise BadMessage("Request-URI with headers in it")
    if "Max-Forwards" in request.headers:
        _parse("Max-Forwards", request._single("Max-Forwards"), lambda text: parse_number(text, 256, "it"))
    if request.method == "REGISTER" and request.headers.values("Contact") == ["*"]:
        return
    contacts = request.read_all("Contact", NameAddr.parse)
    if request.method == "INVITE" and len(contacts) != 1:
        # RFC 2543 let it be left out; then nobody could tell where to send the BYE.
        raise BadMessage("Contact must be given once in an INVITE")


# --- reading --------------------------------------------------------------------------


def _parse_head(head: bytes) -> Message:
    if head.count(b"\r\n") > MAX_HEADERS:
        raise BadMessage(f"more than {MAX_HEADERS} header lines")
    try:
        lines = head.decode().split("\r\n")
    except UnicodeDecodeError:
        # Old PBXs write display names in Latin-1. Every octet is a sign there, so nothing is lost or hidden.
        lines = [_decode(line) for line in head.split(b"\r\n")]
    message = _start(lines[0])
    raw = message.headers._lines
    folded = False
    for line in lines[1:]:
        if line[:1] in (" ", "\t"):
            if not raw:
                raise BadMessage("the first header begins with a space")
            key, name, value = raw[-1]
            if len(value) + len(line) > MAX_LINE:
                raise BadMessage(f"{name[:40]} is longer than {MAX_LINE} characters")
            raw[-1] = (key, name, f"{value} {line.strip()}")
            folded = True
            continue
        name, colon, value = line.partition(":")
        name = name.rstrip(" \t")
        if not colon or not is_token(name):
            raise BadMessage("a header line without a proper name")
        if len(value) > MAX_LINE:
            raise BadMessage(f"{name[:40]} is longer than {MAX_LINE} characters")
        raw.append((header_key(name), name, value.strip(" \t")))
    if folded:
        raw[:] = [(key, name, value.strip(" \t")) for key, name, value in raw]
    if b"\0" in head or head.count(b"\r") != len(lines) - 1 or head.count(b"\n") != len(lines) - 1:
        _check_signs(lines[0], raw)
    return message


def _start(line: str) -> Message:
    parts = line.split(" ")
    if parts[0].upper() == VERSION:
        if len(parts) < 2 or not (parts[1].isascii() and parts[1].isdigit() and len(parts[1]) == 3):
            raise BadMessage("the status is no number of three digits")
        status = int(parts[1])
        if not 100 <= status <= 699:
            raise BadMessage("the status is not from 100 to 699")
        return Response(status, line[12:] if len(parts) > 2 else "")
    if len(parts) != 3 or not parts[1] or not is_token(parts[0]):
        raise BadMessage("the start line is not a method, a URI and a version with single spaces between")
    if parts[2].upper() != VERSION:
        if parts[2][:4].upper() == "SIP/":
            raise BadMessage("the version is not SIP/2.0", status=505)
        raise BadMessage("the start line does not end with SIP/2.0")
    return Request(parts[0], parts[1])


def _decode(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _check_signs(start: str, lines: list[tuple[str, str, str]]) -> None:
    """Refuse bare line ends, which other readers take for a new header, and NUL unless escaped in a display name."""
    for key, name, value in [("", "the start line", start), *lines]:
        if "\r" in value or "\n" in value:
            raise BadMessage(f"a bare line end in {name[:40]}")
        if "\0" in (value.replace("\\\0", "") if key in _MAY_HOLD_NUL else value):
            raise BadMessage(f"a NUL in {name[:40]}")


def _length(message: Message, available: int) -> int:
    lines = message.headers.lines("Content-Length")
    if not lines:
        length = available
    elif len(lines) > 1:
        raise BadMessage("Content-Length is given more than once", message=message)
    else:
        try:
            length = parse_number(lines[0], 10**9, "Content-Length")
        except BadHeader as error:
            raise BadMessage(str(error), message=message) from None
    if length > MAX_BODY:
        raise BadMessage(f"body longer than {MAX_BODY} bytes", status=513, message=message)
    if length > available:
        raise BadMessage("body shorter than Content-Length", message=message)
    return length


def _check_size(name: str, *lines: str) -> None:
    if sum(map(len, lines)) > MAX_FIELD:
        raise BadMessage(f"{name} is longer than {MAX_FIELD} characters")


def _parse(name: str, value: str, parse: Callable[[str], _T]) -> _T:
    try:
        return parse(value)
    except ValueError as error:
        raise BadMessage(f"{name}: {error}") from None


def _part_of(body: bytes, boundary: str, content_type: str) -> bytes | None:
    """The first part of that type (RFC 2046 section 5.1, RFC 5621); parts inside parts are not looked into."""
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary.encode("utf-8", "replace"), MAX_PARTS + 1)
    for part in parts[1 : MAX_PARTS + 1]:
        if part.startswith(b"--"):
            break
        head, blank, content = part.partition(b"\r\n\r\n")
        if len(head) > MAX_LINE or not blank:
            continue
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if header_key(name.strip().decode("latin-1")) == "content-type":
                if value.partition(b";")[0].strip().lower() == content_type.encode():
                    return content
                break
    return None


# --- writing --------------------------------------------------------------------------


def _line(name: str, value: str) -> tuple[str, str, str]:
    if not is_token(name):
        raise ValueError(f"{name[:40]!r} is no header name")
    if "\r" in value or "\n" in value or "\0" in value:
        raise ValueError(f"the value of {name[:40]} holds a line end or a NUL")
    return header_key(name), name, value


def _encode(start: str, headers: Headers, body: bytes) -> bytes:
    lines = [start]
    lines += [f"{name}: {value}" for key, name, value in headers._lines if key != "content-length"]
    lines.append(f"Content-Length: {len(body)}\r\n\r\n")
    return "\r\n".join(lines).encode("utf-8", "replace") + body
