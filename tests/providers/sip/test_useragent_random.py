"""User agents that do whatever comes to mind, and peers that send whatever: what must hold all the same."""

from __future__ import annotations

import random

import pytest
from fakes.sip_phones import (
    ANSWER,
    HELD,
    HOLD,
    OFFER,
    Bench,
    Network,
    Phone,
    answered,
    calling,
    invite,
    reply,
    within,
)

from offhook.providers.sip.events import (
    Answered,
    Cancelled,
    Ended,
    OfferReceived,
    ReferProgressed,
    ReferReceived,
    Refused,
    RequestArrived,
    UaEvent,
)
from offhook.providers.sip.invite import OVER, InviteSession
from offhook.providers.sip.message import BadMessage, Message, Request, Response, parse

POLICIES = ("off", "supported", "required")


def react(phone: Phone, event: UaEvent, now: float) -> None:
    """Take every call, answer every offer, take on every transfer."""
    match event:
        case RequestArrived() if event.request.method == "INVITE":
            session = phone.ua.take_invite(event.tx, now, reliable=random.Random(repr(now)).choice(POLICIES))
            if session is not None:
                phone.calls.append(session)
                session.ring(now=now)
                session.answer(ANSWER, now=now)
        case RequestArrived():
            phone.ua.dismiss(event.tx, now)
        case Answered() if event.is_offer:
            event.session.acknowledge(OFFER, now)
        case OfferReceived():
            event.session.answer_offer(HELD, now=now)
        case ReferReceived():
            event.session.accept_refer(event.tx, now)


def stroll(rng: random.Random, phone: Phone, other: Phone, busy: set[str], now: float) -> None:
    """Do one thing."""
    live = [call for call in phone.calls if call.state not in OVER]
    what = rng.random()
    if not live or what < 0.3:
        phone.call(other.host, now, sdp=rng.choice([OFFER, OFFER, None]), reliable=rng.choice(POLICIES))
        return
    call = rng.choice(live)
    if what < 0.5:
        call.offer(HOLD, now, update=rng.random() < 0.5)
    elif what < 0.6 and call.confirmed:
        call.info(b"Signal=5", "application/dtmf-relay", now)
    elif what < 0.7 and call.confirmed and call.id not in busy:
        busy.add(call.id)
        call.refer("sip:x@y", now=now)
    elif what < 0.75:
        call.refer_progress(200, now=now)
    elif what < 0.9:
        call.hang_up(now=now)


def assert_nothing_is_left(phone: Phone) -> None:
    """Every call has ended exactly once, nothing came after that, and all tables are empty."""
    over: set[int] = set()
    for event in phone.events:
        session: InviteSession | None = getattr(event, "session", None)
        if session is not None:
            assert id(session) not in over, event
            if isinstance(event, Ended | Refused | Cancelled):
                over.add(id(session))
    assert over == {id(call) for call in phone.calls}
    core = phone.ua._core
    assert not phone.ua.sessions
    assert not core._errands
    assert not core._dialogs
    assert not phone.ua._invites
    assert not phone.ua._undecided
    assert phone.ua.next_timer() is None
    assert len(phone.ua._transactions) == 0


@pytest.mark.parametrize("seed", range(20))
def test_random_walk_over_a_bad_network(seed: int) -> None:
    rng = random.Random(seed)
    alice, bob = Phone("10.0.0.1", seed=seed), Phone("10.0.0.2", seed=seed + 1)
    alice.on_event = bob.on_event = react
    loss, jitter = rng.choice([0.0, 0.1, 0.3, 0.45]), rng.choice([0.0, 0.2, 1.0])
    network = Network(alice, bob, seed=seed, loss=loss, repeat=0.2, delay=0.02, jitter=jitter)
    busy: set[str] = set()
    for _ in range(30):
        phone, other = rng.sample([alice, bob], 2)
        busy -= {event.session.id for event in phone.of(ReferProgressed) if event.final}
        stroll(rng, phone, other, busy, network.now)
        network.run(rng.random() * rng.choice([0.05, 1, 10]))
    for phone in (alice, bob):
        for call in phone.calls:
            call.hang_up(now=network.now)
    network.run(300)
    assert_nothing_is_left(alice)
    assert_nothing_is_left(bob)


# --- broken messages ------------------------------------------------------------------


def damage(rng: random.Random, data: bytes) -> bytes:
    broken = bytearray(data)
    for _ in range(rng.choice([0, 0, 1, 1, 2, 4])):
        at, how = rng.randrange(len(broken)), rng.random()
        if how < 0.4:
            broken[at] = rng.choice(b'<>;,:=" \t0aZ%\x00\xff')
        elif how < 0.6:
            del broken[at : at + rng.randint(1, 12)]
        elif how < 0.8:
            broken[at:at] = broken[at : at + rng.randint(1, 30)]
        else:
            broken[at:at] = rng.choice([b";tag=", b"<", b'"', b"%", b"999999999999", b"\r\n\r\n"])
    return bytes(broken)


def feed_damaged(rng: random.Random, bench: Bench, message: Message) -> None:
    data = damage(rng, message.encode())
    try:
        parse(data)
    except BadMessage:
        return  # the transport answers these
    bench.feed(data)


def a_request(rng: random.Random, ok: Response) -> Message:
    """Something that a caller sends in a call."""
    method, *fields, body = rng.choice(
        [
            ("ACK", ""),
            ("BYE", ""),
            ("INVITE", "Contact: <sip:a@10.0.0.1>", "Content-Type: application/sdp", HOLD.decode()),
            ("UPDATE", "Contact: <sip:a@10.0.0.1>", "Session-Expires: 90;refresher=uac", "Supported: timer", ""),
            ("REFER", "Refer-To: <sip:a@b?Replaces=x%3Bto-tag%3D1%3Bfrom-tag%3D2>", ""),
            ("NOTIFY", "Event: refer", "Subscription-State: active", "SIP/2.0 200 OK"),
            ("INFO", "Content-Type: application/dtmf-relay", "Signal=1"),
            ("PRACK", "RAck: 1 7 INVITE", ""),
        ]
    )
    text = within(method, ok, rng.randint(7, 14), *fields, body=body)
    head, _, content = text.partition("\n\n")
    return parse(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + content.encode())


def a_response(rng: random.Random, request: Request) -> Response:
    """Something that a phone answers to an INVITE."""
    challenge = ("WWW-Authenticate", 'Digest realm="x", nonce="y", qop="auth"')
    expires = ("Session-Expires", "1800;refresher=uac")
    return rng.choice(
        [
            reply(request, 180, "b1", ("Require", "100rel"), ("RSeq", "1"), sdp=ANSWER),
            reply(request, 200, "b1", expires, ("Record-Route", "<sip:p;lr>"), sdp=ANSWER),
            reply(request, 422, "b1", ("Min-SE", "9000")),
            reply(request, 401, "b1", challenge),
        ]
    )


@pytest.mark.parametrize("seed", range(20))
def test_damaged_messages_raise_nothing_and_leave_nothing(seed: int) -> None:
    for part in range(8):
        rng = random.Random(seed * 100 + part)
        bench = Bench()
        ok = answered(bench, *rng.choice([(), ("Supported: timer", "Session-Expires: 1800")]))
        bench.on_event = react
        for _ in range(10):
            feed_damaged(rng, bench, a_request(rng, ok))
        bench.feed(invite(branch=f"z9hG4bK-{part}", cseq="CSeq: 9"))
        bench.sent()
        request = calling(bench, credentials=("a", "b"))
        for _ in range(6):
            feed_damaged(rng, bench, a_response(rng, request))
            request = next((sent for sent in bench.requests("INVITE")), request)
        bench.wait(rng.choice([0, 40, 2000]))
        for call in bench.ua.sessions:
            call.hang_up(now=bench.now)
        bench.wait(300)
        assert_nothing_is_left(bench)
