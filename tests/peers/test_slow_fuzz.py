"""Every parser of SIP and RTP against millions of mutated messages: a closed list of outcomes, in bounded time.

Each target swallows a message and says what became of it; any exception but the documented ones, which it catches,
is a bug, and so is an outcome that is not on its list. A failure names the message, to become an example of the
parser's own tests. `OFFHOOK_FUZZ=10` makes it ten times as many, `OFFHOOK_FUZZ_SEED` others.
"""

from __future__ import annotations

import base64
import gc
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from fakes.sip_phones import ANSWER, OFFER, Bench, confirmed, invite, within

from offhook.providers.base import FAULT_KINDS, MediaReceived, ProtocolFault
from offhook.providers.rtp import packet, rtcp
from offhook.providers.rtp.media import G722, L16_16K, OPUS, PCMA, PCMU, Address, MediaPlan
from offhook.providers.rtp.packet import BadPacket, RtpPacket
from offhook.providers.rtp.rtcp import BadRtcp, Goodbye, ReceiverReport, ReportBlock, SenderReport
from offhook.providers.rtp.session import RtpSession
from offhook.providers.sip import info as sip_info
from offhook.providers.sip import sdp
from offhook.providers.sip.digest import BadChallenge, Credentials, Nonces, answer, challenge, verify
from offhook.providers.sip.events import OfferReceived, ReferReceived, RequestArrived
from offhook.providers.sip.framing import Ping, StreamFramer
from offhook.providers.sip.headers import BadHeader, CSeq, NameAddr, Reason, Via
from offhook.providers.sip.message import BadMessage, Message, Request, check, parse, respond
from offhook.providers.sip.negotiation import BadSdp, MediaNegotiator, NotAcceptable
from offhook.providers.sip.uri import BadUri, Uri

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TIMES: Final = float(os.environ.get("OFFHOOK_FUZZ", "1"))
SEED: Final = int(os.environ.get("OFFHOOK_FUZZ_SEED", "4475"))

BUDGET: Final = 0.005
"""Seconds of CPU that one message may take."""

BATCH: Final = 500
"""Messages after which a target that remembers gets to start anew."""

TORTURE: Final = Path(__file__).parent.parent / "providers" / "sip" / "torture"


@dataclass(frozen=True)
class Target:
    """A parser under fire."""

    count: int
    "Messages at OFFHOOK_FUZZ=1."
    seeds: Sequence[bytes]
    tokens: Sequence[bytes]
    begin: Callable[[random.Random], Callable[[bytes], str]]
    "Gives what takes messages; called for each batch."
    outcomes: frozenset[str]
    "All that there may be; each must have been seen in the end."


# --- mutation ---------------------------------------------------------------------------

SIGNS: Final = [*(bytes([sign]) for sign in b'"\\<>,;=:@%[]()?&*/ \t\r\n\0\x7f\xff'), b"\r\n", b"\r\n\r\n", b"\r\n "]
SIGNS += [b"%00", b"%0d%0a", b"\xc3\xa9", b"\xef\xbb\xbf", "٣".encode(), b"9" * 30, b"-1", b"0" * 20, b"a" * 300]
SIP: Final = [*SIGNS, b"sip:", b"tel:", b"SIP/2.0", b"Digest ", b"Content-Length: 4\r\n", b"l:-1\r\n", b"v:", b";tag="]
SDP: Final = [*SIGNS, b"m=audio 1 RTP/AVP 0\r\n", b"c=IN IP6 ::1\r\n", b"a=rtpmap:96 L16/16000\r\n", b"a=crypto:1 "]
BINARY: Final = [
    bytes(4),
    b"\xff" * 4,
    b"\x80\x00",
    b"\x80\xc8\x00\x06",
    b"\x81\xcb\x00\x01",
    b"\0\1\0\0\x21\x12\xa4\x42",
]


def mutate(data: bytes, target: Target, chance: random.Random) -> bytes:
    """Up to six changes: pieces put in, repeated, taken out, swapped for those of another seed, bytes and bits."""
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        at = chance.randrange(len(data) + 1)
        size = chance.choice((0, 1, 1, 2, 8, 40))
        kind = chance.randrange(7)
        if kind == 0:
            data = data[:at] + chance.choice(target.tokens) + data[at + size :]
        elif kind == 1:
            data = data[:at] + chance.choice(target.tokens) * chance.choice((2, 70, 300)) + data[at:]
        elif kind == 2:
            data = data[:at] + data[at + size :]
        elif kind == 3:
            data = data[:at] + data[at : at + size] * chance.choice((2, 3, 50)) + data[at + size :]
        elif kind == 4:
            other = chance.choice(target.seeds)
            data = data[:at] + other[chance.randrange(len(other) + 1) :]
        elif data:
            at = min(at, len(data) - 1)
            value = data[at] ^ 1 << chance.randrange(8) if kind == 5 else chance.randrange(256)
            data = data[:at] + bytes([value]) + data[at + 1 :]
    return data


# --- SIP --------------------------------------------------------------------------------

MESSAGES = [path.read_bytes() for path in sorted(TORTURE.glob("*.dat"))]


def messages(chance: random.Random) -> Callable[[bytes], str]:
    """What a user agent reads of a datagram, and its answer."""

    def take(data: bytes) -> str:
        try:
            message = parse(data)
        except BadMessage as error:
            if isinstance(error.message, Request):
                respond(error.message, error.status, str(error), to_tag="t").encode()
            return "no SIP"
        found = "taken"
        try:
            check(message)
        except BadMessage:
            found = "refused"
        for look in LOOKS:
            try:
                look(message)
            except BadMessage:
                continue
        if isinstance(message, Request):
            parse(respond(message, 200, to_tag="t").encode())
        return found

    return take


LOOKS: Final[list[Callable[[Message], object]]] = [
    lambda message: message.contact,
    lambda message: message.from_.tag,
    lambda message: message.vias,
    lambda message: message.body_of("application/sdp"),
    lambda message: message.options("Supported"),
    lambda message: message.read_all("Record-Route", NameAddr.parse),
    lambda message: message.read_all("Reason", Reason.parse),
]


def streams(chance: random.Random) -> Callable[[bytes], str]:
    """The same as it comes over TCP, in segments of any size."""

    def take(data: bytes) -> str:
        framer = StreamFramer()
        at, kinds = 0, set()
        while at < len(data):
            size = chance.choice((1, 7, 100, 1400, 65536))
            if size == 1:
                size = max(1, len(data) // 200)  # many small ones are many calls, not a slow one
            for item in framer.feed(data[at : at + size]):
                kinds.add("ping" if isinstance(item, Ping) else "bad" if isinstance(item, BadMessage) else "message")
            at += size
        if framer.broken:
            return "broken"
        return "+".join(sorted(kinds)) or "waits"

    return take


def headers(chance: random.Random) -> Callable[[bytes], str]:
    """Each reader of a value, whatever the value was meant for."""
    readers: list[tuple[Callable[[str], object], type[ValueError]]] = [
        (Uri.parse, BadUri),
        (NameAddr.parse, BadHeader),
        (Via.parse, BadHeader),
        (CSeq.parse, BadHeader),
        (Reason.parse, BadHeader),
        (Credentials.parse, BadHeader),
    ]

    def take(data: bytes) -> str:
        text = data.decode("utf-8", "surrogateescape")
        taken = 0
        for read, documented in readers:
            try:
                taken += bool(str(read(text)))
            except documented:
                continue
        return "taken" if taken else "refused"

    return take


VALUES: Final = [
    b"sip:+15550001111;npdi@trunk.example.net:5061;user=phone;lr?X-A=b&c=%20",
    b"tel:+1-555-000-1111;phone-context=example.net",
    b'"Anna \\"B\\"" <sip:a%41@[2001:db8::1]:5060;transport=tcp>;tag=a1;q=0.5',
    b"SIP/2.0/UDP 192.0.2.1:5060;rport=5060;received=192.0.2.2;branch=z9hG4bK77",
    b"314159 INVITE",
    b'Q.850;cause=16;text="normal \\"clearing\\""',
]


def passwords(chance: random.Random) -> Callable[[bytes], str]:
    """A server that checks credentials, and a client that answers challenges."""
    nonces = Nonces(b"k" * 32)

    def take(data: bytes) -> str:
        text = data.decode("utf-8", "surrogateescape")
        user = verify(text, "INVITE", "sip:bob@example.net", lambda user, realm: "secret" if user == "alice" else None)
        with suppress(BadHeader):
            credentials = Credentials.parse(text)
            nonces.check(credentials.nonce, credentials.count, 1.0)
        found = "proved" if user else "refused"
        with suppress(BadChallenge):
            answer([text], "INVITE", "sip:bob@example.net", "alice", "secret", cnonce="c")
            found = found if user else "challenge"  # credentials are a challenge, too, to the eye
        return found

    return take


CHALLENGES: Final = [value.encode() for value in challenge("offhook", Nonces(b"k" * 32).make(1.0))]
CREDENTIALS: Final = [
    answer([value.decode()], "INVITE", "sip:bob@example.net", "alice", "secret", cnonce="c").encode()
    for value in CHALLENGES
]


# --- SDP --------------------------------------------------------------------------------

CODECS: Final = (OPUS, G722, L16_16K, PCMU, PCMA)
HERE: Final = Address("198.51.100.1", 20000)
KEY: Final = base64.b64encode(b"k" * 30)
PLAIN: Final = (
    b"v=0\r\no=- 1 1 IN IP4 192.0.2.4\r\ns=-\r\nc=IN IP4 192.0.2.4\r\nt=0 0\r\nm=audio 49170 RTP/AVP 0 8 101\r\n"
    b"a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=sendrecv\r\n"
)
RICH: Final = (
    b"v=0\no=x 1 1 IN IP6 ::1\nc=IN IP4 0.0.0.0\na=inactive\nm=video 0 RTP/AVP 31\nm=audio 2/2 RTP/SAVP 96 13\n"
    b"a=rtpmap:96 opus/48000/2\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:%b|2^31\na=rtcp:5007\na=rtcp-mux\n" % KEY
)


def descriptions(chance: random.Random) -> Callable[[bytes], str]:
    """An offer that we answer, and an answer to ours."""

    def take(data: bytes) -> str:
        policy = chance.choice(("disabled", "allowed", "required"))
        answering, offering = (
            MediaNegotiator(codecs=CODECS, srtp=policy, session_id=1, comfort_noise=True)  # type: ignore[arg-type]
            for _ in range(2)
        )
        offering.offer(HERE)
        found = "refused"
        try:
            offering.take_answer(data)
            found = "taken"
        except (BadSdp, NotAcceptable):
            pass
        try:
            body, _ = answering.answer(data, HERE)
            sdp.parse(body)
            found = "taken"
        except BadSdp:
            return "no SDP"
        except NotAcceptable:
            pass
        return found

    return take


def info(chance: random.Random) -> Callable[[bytes], str]:
    """Keys in the body of an INFO."""

    def take(data: bytes) -> str:
        found = sip_info.from_info(data, chance.choice((sip_info.RELAY, sip_info.PLAIN, "text/plain")))
        if found is None:
            return "none"
        assert found[0] in "0123456789*#ABCD"
        assert 0 <= found[1] < 1 << 20
        return "key"

    return take


# --- a call -----------------------------------------------------------------------------


def calls(chance: random.Random) -> Callable[[bytes], str]:
    """A user agent with a call that is up, and whatever comes into it and beside it."""
    bench = Bench()
    ok = confirmed(bench)
    tag = ok.to.tag.encode()
    fresh = itertools.count()

    def take(data: bytes) -> str:
        data = data.replace(b"TAG", tag).replace(b"BRANCH", b"%d" % next(fresh))
        try:
            message = parse(data)
            check(message)
        except BadMessage:
            return "no SIP"
        seen = len(bench.events)
        bench.now += 0.01
        bench.feed(message)
        for event in bench.events[seen:]:
            if isinstance(event, RequestArrived):
                bench.ua.respond(event.tx, 403, stranger=True, now=bench.now)
            elif isinstance(event, OfferReceived):
                body = chance.choice((ANSWER, None))
                event.session.answer_offer(body, 200 if body else 488, now=bench.now)
            elif isinstance(event, ReferReceived):
                event.session.refuse_refer(event.tx, now=bench.now)
        if (due := bench.ua.next_timer()) is not None and due <= bench.now:
            bench.ua.tick(bench.now)
        for sent, _ in bench.ua.outbox:
            parse(sent)
        said = "answered" if bench.ua.outbox else "taken"
        bench.ua.outbox.clear()
        return said

    return take


def dialogue() -> list[bytes]:
    """What a peer may say within the call of `calls`."""
    bench = Bench()
    ok = confirmed(bench)
    media = ("Content-Type: application/sdp", "Contact: <sip:alice@10.0.0.1:5060>")
    texts = [
        *(
            within(method, ok, 8, *media, branch="z9hG4bK-BRANCH", body=OFFER.decode())
            for method in ("INVITE", "UPDATE")
        ),
        *(
            within(method, ok, 8, branch="z9hG4bK-BRANCH")
            for method in ("BYE", "ACK", "PRACK", "INFO", "NOTIFY", "CANCEL")
        ),
        within("REFER", ok, 8, "Refer-To: <sip:1@h?Replaces=a%3Bto-tag%3Db>", branch="z9hG4bK-BRANCH"),
        within("UPDATE", ok, 8, "Session-Expires: 90;refresher=uac", "Supported: timer", branch="z9hG4bK-BRANCH"),
        invite(branch="z9hG4bK-BRANCH"),
    ]
    tag = ok.to.tag
    found = []
    for text in texts:
        head, _, body = text.lstrip("\n").partition("\n\n")
        found.append(head.rstrip("\n").replace("\n", "\r\n").replace(tag, "TAG").encode() + b"\r\n\r\n" + body.encode())
    return found


# --- RTP --------------------------------------------------------------------------------

PEER: Final = Address("192.0.2.10", 4000)
SOURCES: Final = [PEER, PEER, PEER, Address(PEER.host, 4001), Address("203.0.113.1", 9)]
PLAN: Final = MediaPlan(PCMU, 0, {0: PCMU, 8: PCMA, 9: G722, 97: L16_16K}, 101, frozenset({101}), remote=PEER)
REPORT: Final = rtcp.build(
    [SenderReport(7, 1 << 60, 1, 2, 3, (ReportBlock(1, 0, 0, 5, 6, 7, 8),)), Goodbye((7,))], "me"
)
PACKETS: Final = [
    *(RtpPacket(kind, 100, 8000, 7, b"\x55" * 160).encode() for kind in (0, 8, 13, 97)),
    RtpPacket(101, 101, 8160, 7, b"\x05\x8a\x03\x20", True).encode(),
    b"\xb1" + RtpPacket(0, 1, 1, 7, b"\0\0\0\1\xbe\xde\0\1\x10\xff\0\0" + b"\x55" * 160 + b"\0\0\0\4").encode()[1:],
    REPORT,
    rtcp.build([ReceiverReport(7)], "x"),
    b"\0\1\0\x08\x21\x12\xa4\x42" + bytes(12) + b"\x80\x22\0\4test",
]


def datagrams(chance: random.Random) -> Callable[[bytes], str]:
    """The two parsers by themselves."""

    def take(data: bytes) -> str:
        found = []
        with suppress(BadPacket):
            found.append("rtp" if packet.parse(data).payload else "empty")
        with suppress(BadRtcp):
            found.append("rtcp" if rtcp.parse(data) else "unknown")
        packet.is_rtcp(data)
        return "+".join(found) or "refused"

    return take


def media(chance: random.Random) -> Callable[[bytes], str]:
    """A stream that is up."""
    session = RtpSession(PLAN, 100.0, ssrc=1)
    clock = itertools.count(10_000)

    def take(data: bytes) -> str:
        now = next(clock) * 0.01
        events = [*session.receive(data, chance.choice(SOURCES), now, is_rtcp=chance.random() < 0.2)]
        events += session.poll(now)
        session.tick(now)
        heard = "silent"
        for event in events:
            if isinstance(event, ProtocolFault):
                assert event.kind in FAULT_KINDS
                assert len(event.detail) <= 200
            if isinstance(event, MediaReceived):
                assert 0 < len(event.payload) <= 8000
                heard = "heard"
        return heard

    return take


TARGETS: Final = {
    "messages": Target(400_000, MESSAGES, SIP, messages, frozenset({"no SIP", "refused", "taken"})),
    "streams": Target(
        150_000,
        [*MESSAGES, b"\r\n\r\n" + MESSAGES[0]],
        SIP,
        streams,
        frozenset({"broken", "waits", "message", "bad", "ping", "message+ping", "bad+message", "bad+ping"})
        | {"bad+message+ping"},
    ),
    "headers": Target(300_000, [*VALUES, *CREDENTIALS], SIP, headers, frozenset({"taken", "refused"})),
    "passwords": Target(
        250_000, [*CHALLENGES, *CREDENTIALS], SIP, passwords, frozenset({"proved", "refused", "challenge"})
    ),
    "descriptions": Target(200_000, [PLAIN, RICH, OFFER], SDP, descriptions, frozenset({"no SDP", "refused", "taken"})),
    "info": Target(
        200_000,
        [b"Signal=5\r\nDuration=160\r\n", b"Signal= *\nDuration= 9", b"#"],
        SIGNS,
        info,
        frozenset({"none", "key"}),
    ),
    "calls": Target(100_000, dialogue(), SIP, calls, frozenset({"no SIP", "answered", "taken"})),
    "datagrams": Target(
        500_000,
        PACKETS,
        BINARY,
        datagrams,
        frozenset({"rtp", "empty", "rtp+rtcp", "rtcp", "unknown", "rtp+unknown", "empty+rtcp", "empty+unknown"})
        | {"refused"},
    ),
    "media": Target(150_000, PACKETS, BINARY, media, frozenset({"silent", "heard"})),
}  # fmt: skip
"""2,250,000 messages."""


@pytest.mark.parametrize("name", TARGETS)
def test_a_closed_list_of_outcomes_in_bounded_time(name: str) -> None:
    target = TARGETS[name]
    chance = random.Random(f"{SEED} {name}")
    seen: Counter[str] = Counter()
    gc.disable()  # its pauses are nobody's message
    try:
        for done in range(int(target.count * TIMES)):
            if done % BATCH == 0:
                take = target.begin(chance)
                gc.collect(0)
            data = mutate(chance.choice(target.seeds), target, chance)[:65_535]
            began = time.thread_time()
            try:
                outcome = take(data)
            except Exception as error:
                raise AssertionError(f"{name}, message {done}, {type(error).__name__}: {data!r}") from error
            took = time.thread_time() - began
            if took > BUDGET:  # the machine may have had a bad moment
                took = min(took, *(_again(take, data) for _ in range(3)))
            assert took <= BUDGET, f"{name}, message {done}, {took * 1000:.1f} ms for {len(data)} bytes: {data!r}"
            seen[outcome] += 1
    finally:
        gc.enable()
    assert set(seen) <= target.outcomes, seen
    if TIMES >= 1:
        common = {outcome for outcome in target.outcomes if "+" not in outcome}
        assert common <= set(seen), seen


def _again(take: Callable[[bytes], str], data: bytes) -> float:
    began = time.thread_time()
    take(data)
    return time.thread_time() - began
