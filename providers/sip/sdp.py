"""Session descriptions (RFC 8866), read as they come and written as they should be.

    session = parse(body)              # BadSdp when it is none
    session.media[0].attribute("ptime")

Reading is tolerant where peers are sloppy and the meaning is plain: bare line feeds, blank lines, trailing spaces,
`s=` or `t=` missing, unknown lines and attributes. What offer and answer stand on must be there: `v=0`, `o=`, at
least one `m=`, and an address for each stream that is not refused. Order of media and attributes is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final, NamedTuple

MAX_SIZE: Final = 32 * 1024
"""Bytes. A browser's offer with video is 10 KiB, a telephone's below 2."""

MAX_MEDIA: Final = 32
"""Streams: each comes back in every answer. Telephones offer three at most."""

MAX_LINES: Final = 500
"""Lines in all; a browser's offer has 200."""

MAX_FORMATS: Final = 128
"""Formats of a stream: there are no more payload types."""

CONTENT_TYPE: Final = "application/sdp"


class BadSdp(ValueError):
    """The text is no session description; the message names the line and what is wrong with it."""


class Attribute(NamedTuple):
    """One `a=` line."""

    name: str
    value: str | None = None
    "None for a property such as `a=sendrecv`."

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}:{self.value}"


class Origin(NamedTuple):
    """The `o=` line. Ids are text, for peers write numbers of any length, and not only numbers."""

    user: str
    session_id: str
    version: str
    host: str


class RtpMap(NamedTuple):
    """What `a=rtpmap` says of a payload type."""

    name: str
    clock: int
    channels: int = 1


@dataclass(slots=True)
class Media:
    """One stream: an `m=` line and what belongs to it."""

    kind: str
    "`audio`, `video`, `image`, …, in lower case."
    port: int
    "0: refused, or taken away."
    proto: str
    "Such as `RTP/AVP`, as it was written."
    formats: list[str]
    "Payload types for RTP, other words for other protocols."
    host: str = ""
    "Of its own `c=` line; empty: the session's holds."
    attributes: list[Attribute] = field(default_factory=list)
    ports: int = 1
    "Of `m=audio 49170/2`."

    def attribute(self, name: str) -> str | None:
        """Value of the first attribute of this name, empty for a property; None: there is none."""
        return _first(self.attributes, name)

    def every(self, name: str) -> list[str]:
        """Values of all attributes of this name, in order."""
        return [found.value for found in self.attributes if found.name == name and found.value is not None]

    def rtpmaps(self) -> dict[int, RtpMap]:
        """Payload type → encoding, of those lines that can be read."""
        found: dict[int, RtpMap] = {}
        for value in self.every("rtpmap"):
            number, _, rest = value.partition(" ")
            kind = _number(number, 127)
            if kind is None or kind in found:
                continue
            name, _, tail = rest.strip().partition("/")
            clock, _, channels = tail.partition("/")
            if name and (rate := _number(clock.strip(), 1_000_000)):
                found[kind] = RtpMap(name, rate, _number(channels.strip(), 255) or 1)
        return found

    def fmtps(self) -> dict[int, str]:
        """Payload type → format parameters."""
        found: dict[int, str] = {}
        for value in self.every("fmtp"):
            number, _, rest = value.partition(" ")
            if (kind := _number(number, 127)) is not None:
                found.setdefault(kind, rest.strip())
        return found

    def payload_types(self) -> list[int]:
        """Formats that are payload types, in order of preference, each once."""
        return list(dict.fromkeys(kind for text in self.formats if (kind := _number(text, 127)) is not None))


@dataclass(slots=True)
class Session:
    """A whole description."""

    origin: Origin
    host: str = ""
    "Of the session's `c=` line; empty: each stream has its own."
    media: list[Media] = field(default_factory=list)
    attributes: list[Attribute] = field(default_factory=list)
    name: str = "-"

    def attribute(self, name: str) -> str | None:
        """Value of the first attribute of the session, empty for a property; None: there is none."""
        return _first(self.attributes, name)

    def host_of(self, media: Media) -> str:
        """Where a stream is to be sent: an address, or a name."""
        return media.host or self.host

    def direction_of(self, media: Media) -> str:
        """`sendrecv`, `sendonly`, `recvonly` or `inactive`, as the writer sees it. The stream's own word wins."""
        for attributes in (media.attributes, self.attributes):
            for found in attributes:
                if found.value is None and found.name in DIRECTIONS:
                    return found.name
        return "sendrecv"

    def encode(self) -> bytes:
        """The description as text, lines ended by CR and LF."""
        user, session_id, version, host = self.origin
        lines = ["v=0", f"o={user} {session_id} {version} {_connection(host)}", f"s={self.name}"]
        if self.host:
            lines.append(f"c={_connection(self.host)}")
        lines.append("t=0 0")
        lines += [f"a={attribute}" for attribute in self.attributes]
        for media in self.media:
            port = f"{media.port}/{media.ports}" if media.ports > 1 else str(media.port)
            lines.append(f"m={media.kind} {port} {media.proto} {' '.join(media.formats)}")
            if media.host:
                lines.append(f"c={_connection(media.host)}")
            lines += [f"a={attribute}" for attribute in media.attributes]
        return "\r\n".join([*lines, ""]).encode()


DIRECTIONS: Final[Mapping[str, str]] = {
    "sendrecv": "sendrecv",
    "sendonly": "recvonly",
    "recvonly": "sendonly",
    "inactive": "inactive",
}
"""Each direction, and how the other side sees it."""


def parse(data: bytes) -> Session:
    """Read a session description. Linear in its length.

    Raises:
        BadSdp: it is none, or larger than the limits above.
    """
    if len(data) > MAX_SIZE:
        raise BadSdp(f"{len(data)} bytes; the limit is {MAX_SIZE}")
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    if text.count("\n") > MAX_LINES:
        raise BadSdp(f"more than {MAX_LINES} lines")
    if "\0" in text:
        raise BadSdp("holds a NUL")
    origin: Origin | None = None
    session = Session(Origin("-", "0", "0", ""))
    media: Media | None = None
    version_seen = False
    for raw in text.split("\n"):
        line = raw.strip(" \t")
        if not line:
            continue
        kind, equals, value = line[0], line[1:2], line[2:].strip()
        if equals != "=":
            raise BadSdp(f"{line[:40]!r} is not of the form x=…")
        if not version_seen:
            if kind != "v" or value != "0":
                raise BadSdp(f"begins with {line[:40]!r}, not with v=0")
            version_seen = True
        elif kind == "m":
            if len(session.media) == MAX_MEDIA:
                raise BadSdp(f"more than {MAX_MEDIA} m= lines")
            media = _media(value)
            session.media.append(media)
        elif kind == "a":
            name, colon, rest = value.partition(":")
            attribute = Attribute(name.strip().lower(), rest.strip() if colon else None)
            (session if media is None else media).attributes.append(attribute)
        elif kind == "c":
            # a stream may have several, one a port; the first is that of the first port
            holder = session if media is None else media
            holder.host = holder.host or _host(value)
        elif kind == "o" and media is None and origin is None:
            origin = session.origin = _origin(value)
        elif kind == "s" and media is None:
            session.name = value or "-"
    if not version_seen:
        raise BadSdp("is empty")
    if origin is None:
        raise BadSdp("has no o= line")
    if not session.media:
        raise BadSdp("has no m= line")
    if not session.host and any(stream.port and not stream.host for stream in session.media):
        raise BadSdp("has no c= line for a stream")
    return session


def is_address(host: str) -> bool:
    """Whether a host is an IP literal, and not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _media(value: str) -> Media:
    words = value.split()
    if len(words) < 4:
        raise BadSdp(f"m={value[:40]!r} needs a kind, a port, a protocol and formats")
    if len(words) - 3 > MAX_FORMATS:
        raise BadSdp(f"m= line with more than {MAX_FORMATS} formats")
    first, slash, count = words[1].partition("/")
    port, ports = _number(first, 65535), _number(count, 65535) if slash else 1
    if port is None or not ports:
        raise BadSdp(f"port {words[1][:20]!r} of an m= line is none")
    return Media(words[0].lower(), port, words[2], words[3:], ports=ports)


def _host(value: str) -> str:
    words = value.split()
    if len(words) != 3 or words[0].upper() != "IN" or words[1].upper() not in ("IP4", "IP6"):
        raise BadSdp(f"c={value[:60]!r} is not of the form IN IP4 address")
    # what follows a slash is the TTL of a multicast group
    host = words[2].partition("/")[0].removeprefix("[").removesuffix("]")
    if not host or len(host) > 255 or not (host.isascii() and all(char.isalnum() or char in ".:-_%" for char in host)):
        raise BadSdp(f"c={value[:60]!r} holds no address")
    return host


def _origin(value: str) -> Origin:
    words = value.split()
    if len(words) < 6:
        raise BadSdp(f"o={value[:60]!r} needs six words")
    # a user name with spaces in it is against the grammar, and met
    return Origin(" ".join(words[:-5]), words[-5], words[-4], words[-1])


def _connection(host: str) -> str:
    return f"IN IP6 {host}" if ":" in host else f"IN IP4 {host}"


def _first(attributes: list[Attribute], name: str) -> str | None:
    return next((found.value or "" for found in attributes if found.name == name), None)


def _number(text: str, most: int) -> int | None:
    """A decimal number from 0 to `most`, else None."""
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        return None
    number = int(text)
    return number if number <= most else None
