"""Cutting SIP messages out of a TCP or TLS stream (RFC 3261 section 18.3, keep-alives of RFC 5626 section 4.4.1).

Where a message ends is decided here, from its Content-Length alone, before anything else in it is believed. A
message that is wrong in any other way is reported and skipped, so that one bad message does not end the calls
that share the connection; a message whose end is unknown breaks the stream for good.
"""

from __future__ import annotations

from offhook.providers.sip.headers import BadHeader, parse_number
from offhook.providers.sip.message import MAX_BODY, MAX_HEAD, MAX_HEADERS, BadMessage, Message, parse


class Ping:
    """A double line end between messages: answer it with a single one (`\\r\\n`)."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Ping()"


_PING = Ping()


class StreamFramer:
    """The receiving half of one connection."""

    __slots__ = ("_blank", "_buffer", "_scanned", "_total", "broken")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0  # how much of the buffer is known to hold no end of the headers
        self._total = 0  # the length of the message at the head of the buffer; 0 while its headers are incomplete
        self._blank = 0  # line ends met since the last message or ping
        self.broken = False
        "True once the stream cannot be followed any more: answer what can be answered, then close."

    @property
    def pending(self) -> int:
        """Bytes of a message that has begun and is not complete; 0 between messages."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Message | Ping | BadMessage]:
        """Take what arrived and give what is complete, in order.

        A `BadMessage` stands for one bad message. When `broken` is set, it is the last item and no more are read.
        Pings that follow each other are given once, so that an answer is never longer than what asked for it.
        """
        found: list[Message | Ping | BadMessage] = []
        if self.broken:
            return found
        buffer = self._buffer
        buffer += data
        try:
            while buffer:
                if not self._total:
                    if self._skip_blank() and not (found and found[-1] is _PING):
                        found.append(_PING)
                    if not self._find_end():
                        break
                if len(buffer) < self._total:
                    break
                whole = bytes(buffer[: self._total])
                del buffer[: self._total]
                self._scanned = self._total = 0
                try:
                    found.append(parse(whole))
                except BadMessage as error:
                    found.append(error)
        except BadMessage as error:
            self.broken = True
            buffer.clear()
            found.append(error)
        return found

    def _skip_blank(self) -> bool:
        """Drop line ends before a message; True when two of them made a ping."""
        buffer, at, ping = self._buffer, 0, False
        while buffer.startswith(b"\r\n", at):
            at += 2
            self._blank += 1
            if self._blank == 2:
                ping, self._blank = True, 0
        del buffer[:at]
        return ping

    def _find_end(self) -> bool:
        """Set the length of the message at the head of the buffer; False while its headers are incomplete."""
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n", max(0, self._scanned - 3))
        if end > MAX_HEAD or (end < 0 and len(buffer) > MAX_HEAD + 3):
            raise BadMessage(f"headers longer than {MAX_HEAD} bytes", status=513)
        if end < 0:
            self._scanned = len(buffer)
            return False
        head = bytes(buffer[:end])
        self._blank = 0
        length = _content_length(head)
        if length > MAX_BODY:
            raise BadMessage(f"body longer than {MAX_BODY} bytes", status=513, message=_headers_of(head))
        self._total = end + 4 + length
        return True


def _content_length(head: bytes) -> int:
    values: list[bytes] = []
    mine = False
    if head.count(b"\r\n") > MAX_HEADERS:
        raise BadMessage(f"more than {MAX_HEADERS} header lines")
    for line in head.split(b"\r\n")[1:]:
        if line[:1] in (b" ", b"\t"):
            if mine:
                values[-1] += line
            continue
        name, _, value = line.partition(b":")
        mine = name.rstrip().lower() in (b"content-length", b"l")
        if mine:
            values.append(value)
    try:
        if len(values) != 1:
            raise BadHeader("Content-Length must be given once on a stream")
        return parse_number(values[0].decode("latin-1").strip(" \t"), 10**9, "Content-Length")
    except BadHeader as error:
        raise BadMessage(str(error), message=_headers_of(head)) from None


def _headers_of(head: bytes) -> Message | None:
    """The message without its body, for an answer; None when even that cannot be read."""
    try:
        return parse(head + b"\r\n\r\n")
    except BadMessage as error:
        return error.message
