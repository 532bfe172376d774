"""Hostile input: a closed list of outcomes, whatever arrives, in bounded time.

`swallow` does with a datagram what a user agent does: read, check, look into every header, answer. It may give one
of three outcomes; any exception but the documented ones is a bug, and becomes an `@example`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from offhook.providers.sip.digest import BadChallenge, Credentials, Nonces, answer, is_stale, verify
from offhook.providers.sip.framing import Ping, StreamFramer
from offhook.providers.sip.headers import BadHeader, NameAddr, Reason
from offhook.providers.sip.message import MAX_LINE, BadMessage, Message, Request, check, parse, respond

SEEDS = [path.read_bytes() for path in sorted((Path(__file__).parent / "torture").glob("*.dat"))]
INVITE = (
    b"INVITE sip:+15550001111@trunk.example.net;user=phone SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.1:5060;rport;branch=z9hG4bK1, SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK2\r\n"
    b"Record-Route: <sip:192.0.2.1;lr>, <sip:192.0.2.2;lr;ftag=1>\r\n"
    b"Max-Forwards: 70\r\n"
    b'From: "Anna \\"B\\"" <sip:+15550002222@carrier.example>;tag=a1b2\r\n'
    b"To: <sip:+15550001111@trunk.example.net>\r\n"
    b"Call-ID: 8a7c@192.0.2.1\r\n"
    b"CSeq: 7 INVITE\r\n"
    b"Contact: <sip:+15550002222@192.0.2.1:5060;transport=udp>\r\n"
    b"Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO, REFER, PRACK\r\n"
    b"Supported: timer, 100rel, replaces\r\n"
    b"Session-Expires: 1800;refresher=uac\r\n"
    b"Min-SE: 90\r\n"
    b'Authorization: Digest username="a", realm="b", nonce="c", uri="sip:d", response="e", qop=auth, nc=00000001,'
    b' cnonce="f", algorithm=MD5\r\n'
    b"P-Asserted-Identity: <sip:+15550002222@carrier.example>\r\n"
    b'Reason: Q.850;cause=16;text="x"\r\n'
    b"X-Account: 42\r\n"
    b"Content-Type: multipart/mixed;boundary=b\r\n"
    b"Content-Length: 66\r\n\r\n"
    b"--b\r\nContent-Type: application/sdp\r\n\r\nv=0\r\no=- 1 1 IN IP4 h\r\n\r\n--b--\r\n"
)
SEEDS.append(INVITE)
TOKENS = [
    *(b'"', b"\\", b"<", b">", b",", b";", b"=", b":", b"@", b"%", b"%00", b"%0d%0a", b"[", b"]", b"(", b"?", b"&"),
    *(b"\r", b"\n", b"\r\n", b"\r\n ", b"\r\n\r\n", b"\0", b"\x7f", b" ", b"\t", b"\xff", b"\xc3\xa9", b"\xef\xbb\xbf"),
    *(b"v:", b"l: 4\r\n", b"Content-Length: -1\r\n", b"sip:", b"tel:", b"SIP/2.0", b"Digest ", b"*", b"9" * 30),
]  # fmt: skip

Outcome = Literal["taken", "refused", "no SIP"]


def swallow(data: bytes) -> Outcome:
    try:
        message = parse(data)
    except BadMessage as error:
        if isinstance(error.message, Request):
            respond(error.message, error.status, to_tag="t").encode()
        return "no SIP"
    outcome: Outcome = "taken"
    try:
        check(message)
    except BadMessage:
        outcome = "refused"
    for look in LOOKS:
        try:
            look(message)
        except BadMessage:
            continue
    for line in message.headers.lines("Authorization"):
        verify(line, "INVITE", "sip:d", lambda user, realm: "secret")
    if isinstance(message, Request):
        again = parse(respond(message, 200, to_tag="t").encode())
        assert again.headers.lines("Via") == message.headers.lines("Via")
    return outcome


LOOKS: list[Callable[[Message], object]] = [
    lambda message: message.contact,
    lambda message: message.body_of("application/sdp"),
    lambda message: message.options("Supported"),
    lambda message: message.read_all("Record-Route", NameAddr.parse),
    lambda message: message.read_all("P-Asserted-Identity", NameAddr.parse),
    lambda message: message.read_all("Reason", Reason.parse),
    lambda message: message.top_via,
]


def mutate(data: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        size = chance.choice((0, 1, 2, 8, 40))
        match chance.randrange(5):
            case 0:
                data = data[:at] + chance.choice(TOKENS) + data[at + size :]
            case 1:
                data = data[:at] + chance.choice(TOKENS) * chance.choice((1, 2, 70, 300)) + data[at:]
            case 2:
                data = data[:at] + data[at + size :]
            case 3:
                data = data[:at] + data[at : at + size] * 3 + data[at + size :]
            case _:
                other = chance.choice(SEEDS)
                data = data[:at] + other[chance.randrange(len(other)) :]
    return data


def test_the_invite_itself() -> None:
    assert swallow(INVITE) == "taken"
    assert parse(INVITE).body_of("application/sdp") == b"v=0\r\no=- 1 1 IN IP4 h\r\n"


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SEEDS), st.randoms(use_true_random=False))
def test_mutations(seed: bytes, chance: random.Random) -> None:
    swallow(mutate(seed, chance))


@pytest.mark.slow
def test_many_mutations() -> None:
    chance = random.Random(4475)
    outcomes = {swallow(mutate(chance.choice(SEEDS), chance)) for _ in range(30_000)}
    assert outcomes == {"taken", "refused", "no SIP"}


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
@example(b"\r\n")
@example(b"\0\0\0\0")
@example(b"\0\1\0\0\x21\x12\xa4\x42" + b"\0" * 12)
def test_anything_else(data: bytes) -> None:
    assert swallow(data) in ("refused", "no SIP", "taken")
    swallow(b"INVITE sip:a@b SIP/2.0\r\n" + data + b"\r\n\r\n")


def described(item: Message | Ping | BadMessage) -> object:
    return str(item) if isinstance(item, BadMessage) else item


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SEEDS), st.randoms(use_true_random=False), st.lists(st.integers(1, 200), max_size=20))
def test_a_stream_does_not_depend_on_its_segments(seed: bytes, chance: random.Random, sizes: list[int]) -> None:
    data = mutate(seed, chance) + INVITE
    whole, pieces = StreamFramer(), StreamFramer()
    expected = [described(item) for item in whole.feed(data) if not isinstance(item, Ping)]
    found: list[object] = []
    at = 0
    for size in [*sizes, len(data)]:
        found += [described(item) for item in pieces.feed(data[at : at + size]) if not isinstance(item, Ping)]
        at += size
    assert found == expected
    assert (pieces.broken, pieces.pending) == (whole.broken, whole.pending)


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False), st.text(max_size=20))
def test_digest_headers(chance: random.Random, password: str) -> None:
    seed = b'Digest username="a", realm="b", nonce="c", uri="sip:d", response="e", qop=auth, nc=00000001, cnonce="f"'
    text = mutate(seed, chance).decode("latin-1")
    nonces = Nonces(b"0" * 16)
    try:
        credentials = Credentials.parse(text)
    except BadHeader:
        pass
    else:
        assert nonces.check(credentials.nonce, credentials.count, 1.0) == "bad"
    assert verify(text, "INVITE", "sip:d", lambda user, realm: password) is None
    assert is_stale([text]) in (True, False)
    try:
        value = answer([text], "INVITE", "sip:d", "a", password)
    except BadChallenge:
        return
    assert value.startswith("Digest ")


# --- time -----------------------------------------------------------------------------


def head_of(name: str, fill: str, size: int) -> bytes:
    """A head of about `size` bytes: one header after another, each as long as is allowed, full of `fill`."""
    names = ["Via", "From", "To", "Contact", "Supported", "Authorization", "Reason"] if name == "all" else [name]
    lines = ["INVITE sip:a@b SIP/2.0"]
    while (left := size - sum(len(line) + 2 for line in lines)) > 40:
        value = (fill * left)[: min(left - 30, 4000 if name == "all" else MAX_LINE - 100)]
        lines.append(f"{names[len(lines) % len(names)]}: {value}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def cost(data: bytes, work: Callable[[bytes], object] = swallow, *, rounds: int = 5) -> float:
    best = 1.0
    for _ in range(rounds):
        started = time.thread_time()
        work(data)
        best = min(best, time.thread_time() - started)
    return best


FILLS = [
    '"',
    '\\"',
    '"\\',
    "<",
    "<>",
    ",",
    ";",
    '"x",',
    ";a=1",
    "%41",
    "\t,",
    "é",
    "SIP/2.0/UDP h,",
    '"<sip:a@b>",',
    "(",
]
HOSTILE = {
    **{f"{name} {fill}": head_of(name, fill, 64_000) for name in ("all", "Via", "Authorization") for fill in FILLS},
    "folds": b"A sip:a SIP/2.0\r\nX: a" + b"\r\n " * 20_000 + b"\r\n\r\n",
    "headers": b"A sip:a SIP/2.0\r\n" + b"a:\r\n" * 16_000 + b"\r\n",
    "line ends": b"\r\n" * 30_000 + INVITE,
    "boundaries": b"A sip:a SIP/2.0\r\nc: multipart/mixed;boundary=b\r\n\r\n" + b"\r\n--b" * 12_000,
    "parts": b"A sip:a SIP/2.0\r\nc: multipart/mixed;boundary=b\r\n\r\n" + b"\r\n--b\r\na:b\r\n\r\n" * 4_000,
    "digest": b"A sip:a SIP/2.0\r\nAuthorization: Digest " + b",".join(b"a%d=b" % n for n in range(900)) + b"\r\n\r\n",
    "uri": b"A sip:" + b"%41" * 20_000 + b"@h SIP/2.0\r\n\r\n",
}


@pytest.mark.timing
@pytest.mark.parametrize("name", HOSTILE)
def test_no_datagram_costs_more_than_5_ms(name: str) -> None:
    assert cost(HOSTILE[name]) < 0.005


@pytest.mark.timing
@pytest.mark.parametrize("name", ["all", "Via", "To", "Authorization"])
@pytest.mark.parametrize("fill", FILLS)
def test_nothing_grows_faster_than_its_input(name: str, fill: str) -> None:
    """Eight times the input: at most a little more than eight times the time (and caps mostly make it less)."""
    small, large = head_of(name, fill, 900), head_of(name, fill, 7200)
    assert cost(large, rounds=20) < 8 * 2.5 * max(cost(small, rounds=20), 20e-6)


@pytest.mark.timing
@pytest.mark.parametrize("size", [1, 1000])
def test_a_stream_costs_what_its_bytes_cost(size: int) -> None:
    def feed(data: bytes) -> None:
        framer = StreamFramer()
        for at in range(0, len(data), size):
            framer.feed(data[at : at + size])

    head = b"A sip:a SIP/2.0\r\nX: "
    for few, many in [
        (head + b"a" * 4_000, head + b"a" * 32_000),
        (INVITE * 3, INVITE * 24),
        (b"\r\n" * 2_000, b"\r\n" * 16_000),
    ]:
        assert cost(many, feed) < 8 * 2.5 * max(cost(few, feed), 20e-6)


@pytest.mark.timing
def test_a_usual_invite() -> None:
    def read(data: bytes) -> None:
        check(parse(data))

    assert cost(INVITE, read) < 300e-6
