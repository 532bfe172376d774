"""Messages cut out of a stream, whatever the segments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.providers.sip.framing import Ping, StreamFramer
from offhook.providers.sip.message import MAX_BODY, MAX_HEAD, BadMessage, Message, Request, Response

INVITE = b"INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP h\r\nl : 5\r\n\r\nv=0\r\n"
OK = b"SIP/2.0 200 OK\r\nContent-Length:\r\n 0\r\nVia: SIP/2.0/TCP h\r\n\r\n"
PING = b"\r\n\r\n"


def kinds(found: list[Message | Ping | BadMessage]) -> list[str]:
    return [
        item.method if isinstance(item, Request) else str(item.status) if isinstance(item, Response) else repr(item)
        for item in found
    ]


def fed(data: bytes, size: int) -> tuple[list[str], StreamFramer]:
    framer = StreamFramer()
    return kinds([item for at in range(0, len(data), size) for item in framer.feed(data[at : at + size])]), framer


@pytest.mark.parametrize("size", [1, 2, 3, 5, 11, 1000])
def test_split_anywhere(size: int) -> None:
    found, framer = fed(INVITE + OK + b"\r\n" + INVITE + PING + OK, size)
    assert found == ["INVITE", "200", "INVITE", "Ping()", "200"]
    assert (framer.broken, framer.pending) == (False, 0)


@given(st.lists(st.integers(1, 40), min_size=1))
def test_segments_of_any_size(sizes: list[int]) -> None:
    data = INVITE * 2 + PING + OK
    framer, found, at = StreamFramer(), [], 0
    for size in [*sizes, len(data)]:
        found += framer.feed(data[at : at + size])
        at += size
    assert kinds(found) == ["INVITE", "INVITE", "Ping()", "200"]


def test_pings() -> None:
    framer = StreamFramer()
    assert framer.feed(b"\r\n") == []  # the other side's answer to a ping of ours
    assert kinds(framer.feed(b"\r\n")) == ["Ping()"]
    assert framer.feed(b"\r") == []
    assert framer.pending == 1
    assert framer.feed(b"\n") == []
    assert kinds(framer.feed(INVITE + b"\r\n" + OK)) == ["INVITE", "200"]
    assert kinds(framer.feed(PING * 1000)) == ["Ping()"]


def test_a_bad_message_does_not_end_the_others() -> None:
    bad = INVITE.replace(b"INVITE sip:a@b SIP/2.0", b"INVITE sip:a@b SIP/9.9")
    framer = StreamFramer()
    found = framer.feed(INVITE + bad + b"X: y\r\nl: 0\r\n\r\n" + INVITE)
    assert [type(item) for item in found] == [Request, BadMessage, BadMessage, Request]
    assert isinstance(found[1], BadMessage)
    assert found[1].status == 505
    assert not framer.broken


@pytest.mark.parametrize(
    "head",
    [
        b"INVITE sip:a@b SIP/2.0\r\nVia: x\r\n\r\n",
        b"INVITE sip:a@b SIP/2.0\r\nl: -1\r\n\r\n",
        b"INVITE sip:a@b SIP/2.0\r\nl: 1 2\r\n\r\n",
        b"INVITE sip:a@b SIP/2.0\r\nl: 0\r\nContent-Length: 0\r\n\r\n",
        b"INVITE sip:a@b SIP/2.0\r\nl: " + b"9" * 5000 + b"\r\n\r\n",
        b"INVITE sip:a@b SIP/2.0\r\nl: \xb2\r\n\r\n",
        b"INVITE sip:a@b SIP/2.0\r\nl: %d\r\n\r\n" % (MAX_BODY + 1),
        b"A sip:a@b SIP/2.0\r\n" + b"X: y\r\n" * 300 + b"l: 0\r\n\r\n",
        b"\x16\x03\x01\x02\r\n\r\n",
    ],
)
def test_an_end_that_nobody_knows_breaks_the_stream(head: bytes) -> None:
    framer = StreamFramer()
    found = framer.feed(INVITE + head + INVITE)
    assert [type(item) for item in found] == [Request, BadMessage]
    assert framer.broken
    assert framer.pending == 0
    assert framer.feed(INVITE) == []
    assert isinstance(found[1], BadMessage)
    if head.startswith(b"INVITE"):
        assert isinstance(found[1].message, Request)


def test_the_head_is_bounded() -> None:
    framer = StreamFramer()
    assert framer.feed(b"INVITE sip:a@b SIP/2.0\r\nX: ") == []
    found: list[Message | Ping | BadMessage] = []
    sent = 0
    while not framer.broken:
        found += framer.feed(b"a" * 1000)
        sent += 1000
    assert sent <= MAX_HEAD + 2000
    assert isinstance(found[0], BadMessage)
    assert (found[0].status, framer.pending) == (513, 0)
    whole = StreamFramer()
    assert isinstance(whole.feed(b"A sip:a SIP/2.0\r\nl: 0\r\nX: " + b"a" * MAX_HEAD + b"\r\n\r\n")[0], BadMessage)
    assert whole.broken


def test_the_largest_body() -> None:
    framer = StreamFramer()
    found = framer.feed(b"MESSAGE sip:a@b SIP/2.0\r\nl: %d\r\n\r\n" % MAX_BODY + b"a" * MAX_BODY)
    assert isinstance(found[0], Request)
    assert len(found[0].body) == MAX_BODY
