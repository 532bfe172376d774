"""SIP user agents in virtual time: a bench for one that is fed by hand, and a bad network between several."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any, TypeVar

from offhook.providers.sip.events import Acked, RequestArrived, UaEvent
from offhook.providers.sip.headers import NameAddr
from offhook.providers.sip.hop import Hop, Transport
from offhook.providers.sip.invite import InviteSession
from offhook.providers.sip.message import Message, Request, Response, parse, respond
from offhook.providers.sip.transaction import Transactions
from offhook.providers.sip.uri import Uri
from offhook.providers.sip.useragent import UserAgent

Event = TypeVar("Event")

OFFER = b"v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
ANSWER = b"v=0\r\no=- 2 1 IN IP4 10.0.0.2\r\ns=-\r\nc=IN IP4 10.0.0.2\r\nt=0 0\r\nm=audio 5000 RTP/AVP 0\r\n"
HOLD = OFFER.replace(b"o=- 1 1", b"o=- 1 2") + b"a=sendonly\r\n"
HELD = ANSWER.replace(b"o=- 2 1", b"o=- 2 2") + b"a=recvonly\r\n"


def tokens(prefix: str) -> Callable[[], str]:
    """Tags and Call-IDs that a test can foresee: `prefix1`, `prefix2` …"""
    count = iter(range(1, 10**9))
    return lambda: f"{prefix}{next(count)}"


class Phone:
    """One user agent at an address, and all that it told."""

    def __init__(self, host: str, *, transport: Transport = "udp", seed: int = 1, own_tokens: bool = True) -> None:
        self.host, self.transport = host, transport
        self.ua = UserAgent(
            Transactions(new_branch=tokens(f"z9hG4bK-{host}-")),
            user_agent=f"phone {host}",
            contact_of=lambda hop: f"sip:{host}:5060" + (";transport=tcp" if transport == "tcp" else ""),
            rng=random.Random(seed),
            new_token=tokens(f"t{host.rpartition('.')[2]}-") if own_tokens else None,
        )
        self.events: list[UaEvent] = []
        self.calls: list[InviteSession] = []
        self.on_event: Callable[[Phone, UaEvent, float], None] = lambda phone, event, now: None

    def hop_to(self, host: str) -> Hop:
        return Hop(self.transport, host, 5060, self.host, 5060)

    def hear(self, events: list[UaEvent], now: float) -> None:
        while events:
            for event in events:
                self.events.append(event)
                self.on_event(self, event, now)
            events = self.ua.events()

    def of(self, kind: type[Event]) -> list[Event]:
        """The events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def call(self, host: str, now: float, *, sdp: bytes | None = OFFER, **more: Any) -> InviteSession:
        session = self.ua.invite(
            Uri.parse(f"sip:bob@{host}"),
            self.hop_to(host),
            local=NameAddr.parse(f'"Alice" <sip:alice@{self.host}>'),
            remote=NameAddr.parse(f"<sip:bob@{host}>"),
            sdp=sdp,
            now=now,
            **more,
        )
        self.calls.append(session)
        return session


class Bench(Phone):
    """A phone whose peer is the test itself."""

    def __init__(self, *, transport: Transport = "udp") -> None:
        super().__init__("10.0.0.2", transport=transport)
        self.now = 100.0

    def feed(self, message: str | bytes | Message, *, source: str = "10.0.0.1", port: int = 5060) -> list[UaEvent]:
        """Give it a message; without a body, the text may end after its last header."""
        if isinstance(message, str):
            head, _, body = message.lstrip("\n").partition("\n\n")
            data = head.rstrip("\n").replace("\n", "\r\n").encode() + b"\r\n\r\n" + body.encode()
        else:
            data = message if isinstance(message, bytes) else message.encode()
        before = len(self.events)
        hop = Hop(self.transport, source, port, self.host, 5060)
        self.hear(self.ua.receive(parse(data), hop, self.now), self.now)
        return self.events[before:]

    def sent(self) -> list[Message]:
        """What it has sent since this was asked last."""
        messages = [parse(data) for data, _ in self.ua.outbox]
        self.ua.outbox.clear()
        return messages

    def requests(self, method: str) -> list[Request]:
        return [message for message in self.sent() if isinstance(message, Request) and message.method == method]

    def responses(self) -> list[Response]:
        return [message for message in self.sent() if isinstance(message, Response)]

    def wait(self, seconds: float) -> list[tuple[float, Message]]:
        """Let time pass; gives what was sent and when, as seconds from now."""
        start, end = self.now, self.now + seconds
        found: list[tuple[float, Message]] = []
        while (at := self.ua.next_timer()) is not None and at <= end:
            self.now = max(self.now, at)
            self.hear(self.ua.tick(self.now), self.now)
            found += [(round(self.now - start, 3), message) for message in self.sent()]
        self.now = end
        return found

    def take(self, **more: Any) -> InviteSession | None:
        """Take on the INVITE that arrived last."""
        session = self.ua.take_invite(self.of(RequestArrived)[-1].tx, self.now, **more)
        if session is not None:
            self.calls.append(session)
        return session


class Network:
    """Phones joined by a network that loses, repeats and reorders, by a seeded random.

    Args:
        loss, repeat: chance of each for every datagram.
        delay, jitter: seconds.
    """

    def __init__(
        self,
        *phones: Phone,
        seed: int = 1,
        loss: float = 0.0,
        repeat: float = 0.0,
        delay: float = 0.01,
        jitter: float = 0.0,
    ) -> None:
        self.phones = {phone.host: phone for phone in phones}
        self.now = 1000.0
        self.log: list[tuple[float, str, str]] = []
        "Time, sender, start line of everything sent."
        self._random = random.Random(seed)
        self._loss, self._repeat, self._delay, self._jitter = loss, repeat, delay, jitter
        self._flying: list[tuple[float, int, bytes, str, str]] = []
        self._count = 0

    def run(self, seconds: float = 1.0) -> None:
        """Let time pass."""
        end = self.now + seconds
        self._collect()
        while True:
            at = self._next()
            if at is None or at > end:
                break
            self.now = max(self.now, at)
            self._step()
        self.now = end

    def _next(self) -> float | None:
        times = [at for phone in self.phones.values() if (at := phone.ua.next_timer()) is not None]
        if self._flying:
            times.append(self._flying[0][0])
        return min(times, default=None)

    def _step(self) -> None:
        while self._flying and self._flying[0][0] <= self.now:
            _, _, data, sender, receiver = heapq.heappop(self._flying)
            phone = self.phones.get(receiver)
            if phone is not None:
                hop = Hop(phone.transport, sender, 5060, receiver, 5060)
                phone.hear(phone.ua.receive(parse(data), hop, self.now), self.now)
                self._collect()
        for phone in self.phones.values():
            at = phone.ua.next_timer()
            if at is not None and at <= self.now:
                phone.hear(phone.ua.tick(self.now), self.now)
        self._collect()

    def _collect(self) -> None:
        for phone in self.phones.values():
            for data, hop in phone.ua.outbox:
                self.log.append((self.now, phone.host, data.split(b"\r\n", 1)[0].decode()))
                copies = 0 if self._random.random() < self._loss else 1
                copies += self._random.random() < self._repeat
                for _ in range(copies):
                    self._count += 1
                    at = self.now + self._delay + self._random.random() * self._jitter
                    heapq.heappush(self._flying, (at, self._count, data, phone.host, hop.host))
            phone.ua.outbox.clear()


INVITE = """
INVITE sip:bob@10.0.0.2 SIP/2.0
Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-1;rport
Max-Forwards: 70
From: "Alice" <sip:alice@10.0.0.1>;tag=a1
To: <sip:bob@10.0.0.2>
Call-ID: call-1@10.0.0.1
CSeq: 7 INVITE
Contact: <sip:alice@10.0.0.1:5060>
{extra}Content-Type: application/sdp

{body}"""


def invite(*extra: str, body: bytes = OFFER, **changes: str) -> str:
    text = INVITE.format(extra="".join(f"{line}\n" for line in extra), body=body.decode())
    if not body:
        text = text.replace("Content-Type: application/sdp\n", "")
    for old, new in changes.items():
        text = text.replace({"branch": "z9hG4bK-1", "cseq": "CSeq: 7"}[old], new)
    return text


def within(method: str, response: Response, number: int, *extra: str, branch: str = "", body: str = "") -> str:
    """A request of the caller in the dialog that a response has formed."""
    lines = [
        f"{method} sip:bob@10.0.0.2:5060 SIP/2.0",
        f"Via: SIP/2.0/UDP 10.0.0.1:5060;branch={branch or f'z9hG4bK-{method}-{number}'};rport",
        "From: " + (response.headers.get("From") or ""),
        "To: " + (response.headers.get("To") or ""),
        f"Call-ID: {response.call_id}",
        f"CSeq: {number} {method}",
        *extra,
    ]
    return "\n".join(lines) + "\n\n" + body


def answered(bench: Bench, *extra: str) -> Response:
    """Bring a call to the 200, without the ACK."""
    bench.feed(invite(*extra))
    session = bench.take()
    assert session is not None
    session.answer(ANSWER, now=bench.now)
    return bench.responses()[-1]


def confirmed(bench: Bench, *extra: str) -> Response:
    ok = answered(bench, *extra)
    bench.feed(within("ACK", ok, 7))
    assert bench.of(Acked)
    return ok


def reply(
    request: Request, status: int, tag: str = "b1", *fields: tuple[str, str], sdp: bytes = b"", contact: str = ""
) -> Response:
    """What the phone called says."""
    response = respond(request, status, to_tag=tag)
    response.headers.add("Contact", contact or f"<sip:{tag}@10.0.0.1:5060>")
    for name, value in fields:
        response.headers.add(name, value)
    if sdp:
        response.headers.add("Content-Type", "application/sdp")
        response.body = sdp
    return response


def calling(bench: Bench, **more: object) -> Request:
    """Call; gives the INVITE."""
    bench.call("10.0.0.1", bench.now, **more)
    (invite,) = bench.requests("INVITE")
    return invite
