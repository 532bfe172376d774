"""A SIP agent within the test's own loop: it answers calls as it is told, and sends audio exactly when it is told."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from offhook.codecs.g711 import pcm_to_ulaw
from offhook.providers.rtp.media import PCMA, PCMU, Address, Codec, MediaPlan
from offhook.providers.rtp.packet import RtpPacket, is_rtcp, parse
from offhook.providers.rtp.srtp import SrtpContext
from offhook.providers.sip.endpoint import Endpoint
from offhook.providers.sip.events import (
    Acked,
    Cancelled,
    Ended,
    InfoReceived,
    OfferAnswered,
    OfferReceived,
    ReferProgressed,
    RequestArrived,
    UaEvent,
)
from offhook.providers.sip.hop import Hop, Transport
from offhook.providers.sip.invite import InviteSession
from offhook.providers.sip.message import Message
from offhook.providers.sip.negotiation import MediaNegotiator
from offhook.providers.sip.sockets import family_of
from offhook.providers.sip.uri import format_host
from offhook.qa.activity import Samples


@dataclass
class Behaviour:
    """What the agent does with a call."""

    codecs: Sequence[Codec] = (PCMU, PCMA)
    srtp: bool = False
    refuse_with: int = 0
    "A final status instead of an answer."
    challenge: tuple[str, str] | None = None
    "Username and password that the caller must know."
    ring: bool = True
    answer_after: float = 0.0
    "Seconds after the INVITE; below 0: never."
    deaf: bool = False
    "Answers nothing at all."
    telephone_event: bool = True
    on_answer: Callable[[SipAgent], Any] | None = None
    "Called once the ACK is in."
    on_referred: Callable[[SipAgent, int], Any] | None = None
    "Called with each report on a REFER."


@dataclass
class Came:
    """A packet from the caller."""

    at: float
    "Monotonic."
    packet: RtpPacket


@dataclass
class SipAgent:
    """One agent. What it does in a call it does in the last one."""

    behaviour: Behaviour
    transport_name: Transport = "udp"
    host: str = "127.0.0.1"
    came: list[Came] = field(default_factory=list)
    rtcp: list[bytes] = field(default_factory=list)
    infos: list[bytes] = field(default_factory=list)
    invites: list[Any] = field(default_factory=list)
    "Requests."
    reports: list[int] = field(default_factory=list)
    "What NOTIFYs said of our REFER."
    plans: list[MediaPlan] = field(default_factory=list)
    sent_at: list[float] = field(default_factory=list)
    "Monotonic, of each packet of audio."
    answered_at: float = 0.0
    ended: str = ""
    session: InviteSession | None = None
    spoil: Callable[[bytes], bytes] = bytes
    "What becomes of the answer's SDP."
    port: int = 0
    sequence: int = 100
    timestamp: int = 16_000
    ssrc: int = 0x1234
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def open(self, **listen: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self.rtp = socket.socket(family_of(self.host), socket.SOCK_DGRAM)
        self.rtp.bind((self.host, 0))
        self.rtp.setblocking(False)
        self._loop.add_reader(self.rtp, self._heard)
        self._sip = Endpoint(
            self._act,
            lambda hop: self.host,
            user="agent",
            user_agent="x",
            trusted=lambda host: True,
            on_message=self._arrived,
        )
        self.port = await self._sip.transport.listen(self.transport_name, self.host, 0, **listen)
        self._protect: SrtpContext | None = None
        self._unprotect: SrtpContext | None = None

    @property
    def uri(self) -> str:
        return f"sip:agent@{format_host(self.host, self.port)};transport={self.transport_name}"

    @property
    def local(self) -> Address:
        return Address(self.host, self.rtp.getsockname()[1])

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._loop.remove_reader(self.rtp)
        self.rtp.close()
        await self._sip.close()

    # --- SIP

    def _arrived(self, message: Message, hop: Hop) -> None:
        if not self.behaviour.deaf:
            self._sip.receive(message, hop)

    def flush(self) -> None:
        self._sip.flush()

    def _act(self, events: Sequence[UaEvent]) -> None:
        for event in events:
            now = self._loop.time()
            if isinstance(event, RequestArrived):
                self._request(event, now)
            elif isinstance(event, Acked) and self.behaviour.on_answer is not None:
                self.behaviour.on_answer(self)
            elif isinstance(event, OfferReceived):
                assert event.sdp is not None
                body, plan = self.media.answer(event.sdp, self.local)
                event.session.answer_offer(body, now=now)
                self._agree(plan)
            elif isinstance(event, OfferAnswered) and event.sdp is not None:
                self._agree(self.media.take_answer(event.sdp))
            elif isinstance(event, InfoReceived):
                self.infos.append(event.body)
            elif isinstance(event, ReferProgressed):
                self.reports.append(event.status)
                if self.behaviour.on_referred is not None:
                    self.behaviour.on_referred(self, event.status)
            elif isinstance(event, Ended):
                self.ended = event.by
            elif isinstance(event, Cancelled):
                self.ended = "cancelled"

    def _request(self, event: RequestArrived, now: float) -> None:
        behaviour, request = self.behaviour, event.request
        if request.method != "INVITE":
            self._sip.ua.dismiss(event.tx, now)
            return
        self.invites.append(request)
        if behaviour.challenge and "Authorization" not in request.headers:
            asked = 'Digest realm="lab", nonce="abc", qop="auth", algorithm=MD5'
            self._sip.ua.respond(event.tx, 401, headers=[("WWW-Authenticate", asked)], now=now)
            return
        if behaviour.refuse_with:
            self._sip.ua.respond(event.tx, behaviour.refuse_with, headers=[("Contact", "<sip:x@127.0.0.9>")], now=now)
            return
        session = self._sip.ua.take_invite(event.tx, now)
        assert session is not None
        assert session.remote_offer is not None
        self.session = session
        self.media = MediaNegotiator(
            codecs=behaviour.codecs,
            srtp="allowed" if behaviour.srtp else "disabled",
            session_id=7,
            dtmf=behaviour.telephone_event,
        )
        body, plan = self.media.answer(session.remote_offer, self.local)
        self._agree(plan)
        if behaviour.ring:
            session.ring(180, now=now)
        if behaviour.answer_after >= 0:
            self._loop.call_later(behaviour.answer_after, self._answer, session, self.spoil(body))

    def _answer(self, session: InviteSession, body: bytes) -> None:
        if session.state in ("incoming", "ringing"):
            self.answered_at = time.monotonic()
            session.answer(body, now=self._loop.time())
            self.flush()

    def _agree(self, plan: MediaPlan) -> None:
        self.plans.append(plan)
        if plan.srtp_send is not None and plan.srtp_receive is not None:
            self._protect = SrtpContext(plan.srtp_send, sending=True)
            self._unprotect = SrtpContext(plan.srtp_receive, sending=False)

    def do(self, what: Callable[[InviteSession, float], Any]) -> None:
        """Have the session do something: `agent.do(lambda session, now: session.hang_up(now=now))`."""
        assert self.session is not None
        what(self.session, self._loop.time())
        self.flush()

    # --- RTP

    def _heard(self) -> None:
        now = time.monotonic()
        with suppress(BlockingIOError):
            while True:
                data = self.rtp.recv(2048)
                if is_rtcp(data):
                    self.rtcp.append(data)
                    continue
                self.came.append(Came(now, parse(self._unprotect.unprotect(data) if self._unprotect else data)))

    def send(self, payload: bytes, ticks: int = 160, *, kind: int = -1, marker: bool = False) -> None:
        """One packet, now."""
        plan = self.plans[-1]
        packet = RtpPacket(
            plan.send_type if kind < 0 else kind, self.sequence & 0xFFFF, self.timestamp, self.ssrc, payload, marker
        ).encode()
        assert plan.remote is not None
        self.rtp.sendto(self._protect.protect(packet) if self._protect else packet, plan.remote)
        self.sent_at.append(time.monotonic())
        self.sequence += 1
        self.timestamp += ticks

    def say(self, samples: Samples, *, after: float = 0.0, then: Callable[[SipAgent], Any] | None = None) -> None:
        """Send speech, 20 ms a packet, from so many seconds on."""
        task = self._loop.create_task(self._say(samples, after, then))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _say(self, samples: Samples, after: float, then: Callable[[SipAgent], Any] | None) -> None:
        start = self._loop.time() + after
        encoded = pcm_to_ulaw(samples.tobytes())
        for number in range(len(samples) // 160):
            await asyncio.sleep(max(0.0, start + number * 0.02 - self._loop.time()))
            self.send(encoded[160 * number : 160 * number + 160])
        if then is not None:
            then(self)


def hang_up(agent: SipAgent) -> None:
    """Say goodbye."""
    agent.do(lambda session, now: session.hang_up(now=now))


@asynccontextmanager
async def sip_agent(transport: Transport = "udp", host: str = "127.0.0.1", **behaviour: Any) -> AsyncIterator[SipAgent]:
    """Have an agent that behaves so; `agent.uri` is its address."""
    agent = SipAgent(Behaviour(**behaviour), transport, host)
    await agent.open()
    try:
        yield agent
    finally:
        await agent.close()
