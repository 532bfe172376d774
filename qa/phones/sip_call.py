"""One SIP call of the caller: its INVITE, what the agent does to it, and its log."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Final

from offhook.providers.rtp.media import G722, OPUS, PCMA, PCMU, Address, Codec, MediaPlan
from offhook.providers.rtp.sockets import PortPair
from offhook.providers.sip.events import (
    Answered,
    Ended,
    InfoReceived,
    OfferAnswered,
    OfferReceived,
    Progressed,
    ReferReceived,
    Refused,
    UaEvent,
)
from offhook.providers.sip.headers import NameAddr
from offhook.providers.sip.hop import Hop
from offhook.providers.sip.info import RELAY, from_info, to_info
from offhook.providers.sip.invite import OVER, InviteSession
from offhook.providers.sip.message import Response
from offhook.providers.sip.negotiation import BadSdp, MediaNegotiator, NotAcceptable
from offhook.providers.sip.uri import BadUri, Uri
from offhook.qa.phones.base import (
    CallLog,
    CallOrder,
    LineEvent,
    LineEventKind,
    Operator,
    Unable,
    Unreachable,
    WirePacket,
)
from offhook.qa.phones.ladder import Ladder, redacted
from offhook.qa.phones.rtp_audio import RtpAudio
from offhook.qa.phones.sip_line import SipLine

if TYPE_CHECKING:
    from offhook.providers.sip.message import Request
    from offhook.qa.phones.sip import SipPhone

SIGN_OF_LIFE: Final = 5.0
"""Seconds an INVITE may stay without any answer: by then it was sent four times."""

GOODBYE: Final = 2.0
"""Seconds that the agent has to answer our BYE or CANCEL; three of them are sent in that time."""

AFTER_TRANSFER: Final = 5.0
"""Seconds that the agent has to hang up once it was told that its transfer succeeded."""

MAX_PACKETS: Final = 200_000
"""Datagrams kept of a call: half an hour both ways."""

BIND_TRIES: Final = 50
"""RTP ports in a row that may belong to other programs."""

_CODECS: Final[Mapping[str, Codec]] = {codec.name: codec for codec in (PCMU, PCMA, G722, OPUS)}

HELD: Final = ("recvonly", "inactive")


class SipCall:
    """One call, from the INVITE to the last answer. Lives on the event loop."""

    def __init__(self, phone: SipPhone, order: CallOrder, operator: Operator) -> None:
        self.order, self.operator = order, operator
        self.log = CallLog(order.call_id, "sip", order.target.to or phone.target.to, time.time())
        self._phone = phone
        self._loop = asyncio.get_running_loop()
        self._rng = Random(f"{order.call_id}/{order.seed}")  # noqa: S311  # chance that must repeat itself
        media = order.media
        self._codecs = [_CODECS[codec] for codec in media.codecs]
        self._negotiator = MediaNegotiator(
            codecs=self._codecs,
            srtp="required" if media.srtp else "disabled",
            session_id=self._rng.getrandbits(62),
            ptime=media.ptime,
        )
        self._port: PortPair | None = None
        self._local = Address("", 0)
        self._session: InviteSession | None = None
        self._line: SipLine | None = None
        self._ringing: list[tuple[float, LineEventKind, str]] = []
        "What happened before the answer, monotonic."
        self._began = time.monotonic()
        self._wall = self.log.began - self._began
        "What makes Unix seconds of monotonic ones, so that a clock that is set leaves the capture in order."
        self._done: asyncio.Future[None] = self._loop.create_future()
        "The call is over, or never came about."
        self._parted: asyncio.Future[None] = self._loop.create_future()
        "Our goodbye was answered."
        self._timers: list[asyncio.TimerHandle] = []
        self._wishes: deque[str] = deque()
        self._wished = ""
        "The change of media that is under way."
        self.alive = False
        "Something has come back."
        self._failure: BaseException | None = None
        self._ladder = Ladder(time.monotonic) if order.keep_packets else None

    async def run(self) -> CallLog:
        """Make the call. Raises Unreachable or Unable, or what the operator raised."""
        try:
            await self._dial()
        finally:
            for timer in self._timers:
                timer.cancel()
            if self._session is not None:
                self._session.hang_up(now=self._loop.time())  # harmless when it is over
                self._phone.flush()
                self._phone.forget(self)
            if self._port is not None:
                self._port.close(time.monotonic())
            self.operator.ended()
        if self._failure is not None:
            raise self._failure
        if self._line is None:  # there is no track; what happened counts from the INVITE
            self.log.events = [LineEvent(at - self._began, kind, detail) for at, kind, detail in self._ringing]
        zero = self._began if self._line is None else self._line.started
        self.log.ladder = [replace(rung, at=rung.at - zero) for rung in self._ladder.rungs] if self._ladder else []
        return self.log

    async def _dial(self) -> None:
        why = "nothing was tried"
        deadline = self._loop.time() + self.order.timeout
        self._timers.append(self._loop.call_at(deadline, self._time_out))
        for hop in self._phone.hops:
            self._invite(hop)
            await asyncio.wait([self._done], timeout=SIGN_OF_LIFE)
            session = self._session
            assert session is not None
            if self.alive:
                await self._done
                if self.log.answered or self.log.ended_by != "network":
                    await self._part()
                    return
            why = self.log.ended_how or f"no answer to the INVITE within {SIGN_OF_LIFE:g} s"
            if self.log.ended_by == "timeout":
                why = f"no answer to the INVITE within {self.order.timeout:g} s"
                break
            self._leave_port(session)
        where = self.log.target
        raise Unreachable(f"{where} cannot be reached: {why}; is the bot running, and is the address right?")

    def _leave_port(self, session: InviteSession) -> None:
        """Nobody was there: another address may do better."""
        self._phone.forget(self)
        session.hang_up(now=self._loop.time())
        self._phone.flush()
        self._negotiator.withdraw()
        self._session = None
        self.log.ended_by, self.log.ended_how = "", ""
        self._done = self._loop.create_future()
        if self._port is not None:
            self._port.close(time.monotonic())
            self._port = None

    def _invite(self, hop: Hop) -> None:
        phone, order = self._phone, self.order
        host = phone.local_to(hop)
        try:
            self._port = PortPair(phone.ports, host, time.monotonic(), tries=BIND_TRIES)
        except OSError as error:
            raise Unreachable(f"no audio can be received at {host}: {error}") from error
        self._local = self._port.local
        try:
            uri = Uri.parse(self.log.target)
        except BadUri as error:
            raise Unable(f"target.to: {self.log.target!r}: {error}") from error
        self._began = time.monotonic()
        self.log.began = time.time()
        try:
            session = phone.invite(
                self,
                uri,
                hop,
                local=NameAddr("", Uri("sip", order.target.from_, host=host)),
                remote=NameAddr("", replace(uri, params={}, headers={})),
                sdp=self._negotiator.offer(self._local),
                headers=list(order.target.headers.items()),
            )
        except ValueError as error:
            raise Unable(f"target.headers: {error}") from error
        self._session = session

    async def _part(self) -> None:
        """Wait until the agent has answered our BYE or CANCEL."""
        if self.log.ended_by in ("caller", "timeout") and not self._parted.done():
            await asyncio.wait([self._parted], timeout=GOODBYE)
            if not self._parted.done():
                self.log.faults.append(f"our goodbye was not answered within {GOODBYE:g} s")

    # --- what is said on the wire

    def tap_sip(self, message: bytes, *, out: bool, local: tuple[str, int], remote: tuple[str, int]) -> None:
        """Take down a SIP message."""
        if self._ladder is not None:
            message = redacted(message)
            self._ladder.add(message, out=out)
            self.log.packets.append(WirePacket(self._wall + time.monotonic(), out, local, remote, message, "sip"))

    def _tap_rtp(
        self, data: bytes, out: bool, local: tuple[str, int], remote: tuple[str, int], kind: str, at: float | None
    ) -> None:
        if len(self.log.packets) < MAX_PACKETS:
            # not when it was read: between two looks packets wait for milliseconds, longer on a busy machine
            wall = self._wall + (time.monotonic() if at is None else at)
            self.log.packets.append(WirePacket(wall, out, local, remote, data, "rtcp" if kind == "rtcp" else "rtp"))

    def answered_finally(self, response: Response) -> None:
        """A final response to an INVITE, BYE or CANCEL of ours."""
        method = response.cseq.method
        if method == "INVITE" and not self.log.answered and self._done.done():
            self.log.status = response.status
            if response.status < 300 and self.log.ended_by == "network":  # somebody is there, and breaks the protocol
                self.log.ended_by = "agent"
                self.log.faults.append(self.log.ended_how)
        if self._done.done() and (method == "BYE" or (method == "INVITE" and response.status >= 300)):
            self._part_now()

    def _part_now(self) -> None:
        if not self._parted.done():
            self._parted.set_result(None)

    # --- what the agent does

    def take_event(self, event: UaEvent) -> None:
        """Anything of this call's session."""
        if isinstance(event, Progressed):
            self._progressed(event)
        elif isinstance(event, Answered):
            self._answered(event)
        elif isinstance(event, Refused):
            self._refused(event)
        elif isinstance(event, Ended):
            self._ended(event)
        elif isinstance(event, OfferReceived):
            self._offered(event)
        elif isinstance(event, OfferAnswered):
            self._offer_answered(event)
        elif isinstance(event, ReferReceived):
            self._referred(event)
        elif isinstance(event, InfoReceived):
            key = from_info(event.body, event.content_type)
            if key is not None:
                self._note("dtmf", key[0])

    def _note(self, kind: LineEventKind, detail: str = "", headers: dict[str, str] | None = None) -> None:
        now = time.monotonic()
        if self._line is not None:
            self._line.note(now - self._line.started, kind, detail, headers)
        else:
            self._ringing.append((now, kind, detail))

    def _fault(self, text: str) -> None:
        self.log.faults.append(text)
        self._note("fault", text)

    def _progressed(self, event: Progressed) -> None:
        if event.status in (180, 183) and self.log.pdd_ms is None:
            self.log.pdd_ms = (time.monotonic() - self._began) * 1000
            self._note("ringing", str(event.status))

    def _answered(self, event: Answered) -> None:
        now = time.monotonic()
        self.log.status, self.log.answered = 200, True
        self.log.setup_ms = (now - self._began) * 1000
        try:
            if event.sdp is None:
                raise BadSdp("it is missing")
            plan = self._negotiator.take_answer(event.sdp)
            self._open(plan, event.session)
        except (BadSdp, NotAcceptable, ValueError) as error:
            why = f"the answer's SDP cannot be used: {error}"
            self.log.answered = False
            self._fault(why)
            self.hang_up(why)
        except RuntimeError as error:  # a library that is not installed
            self.fail(Unable(str(error)))

    def _open(self, plan: MediaPlan, session: InviteSession) -> None:
        """The line opens."""
        assert self._port is not None
        answered = time.monotonic()
        line = SipLine(self, 0.0)
        line.started = self._phone.pacer.add(line)
        try:
            audio = RtpAudio(
                self._port,
                self._phone.pacer,
                self._our_length(plan),
                line.started,
                signalling=session.dialog.hop.host,
                rng=self._rng,
                network=self.order.media.network,
                seed=self.order.seed,  # and not by the id, which another run has another of
                on_key=line.key_came,
                tap=self._tap_rtp if self._ladder is not None else None,
            )
        except BaseException:
            self._phone.pacer.discard(line)
            raise
        line.begin(audio)
        self._line = line
        self.log.codec = plan.codec.name
        self.log.answered_at = answered - line.started
        for at, kind, detail in self._ringing:
            line.note(at - line.started, kind, detail)
        self._ringing.clear()
        line.note(self.log.answered_at, "answered")
        if plan.direction in HELD:
            line.note(self.log.answered_at, "held")

    def _refused(self, event: Refused) -> None:
        if event.headers is None and event.status in (408, 503):
            self.log.ended_by = self.log.ended_by or "network"
            self.log.ended_how = "connection refused or lost" if event.status == 503 else "no answer"
        else:
            self.log.status = event.status
            self.log.ended_by = self.log.ended_by or "agent"
            reason = "".join(letter if letter.isprintable() else "?" for letter in event.reason)
            self.log.ended_how = f"{event.status} {reason}".strip()
            self._note("refused", str(event.status))
        self._part_now()
        self._finish()

    def _ended(self, event: Ended) -> None:
        if event.by == "caller":
            self._end("caller", event.cause)
        elif event.by == "callee":
            self._part_now()
            self._end("agent", event.cause)
        else:
            self._part_now()
            self._end("network", event.cause)

    def _end(self, by: str, how: str) -> None:
        """The call is over; the first reason counts."""
        if not self.log.ended_by:
            self.log.ended_by = "agent" if by == "agent" else "network" if by == "network" else "caller"
            self.log.ended_how = how
        self._finish()

    def _finish(self) -> None:
        line, now = self._line, time.monotonic()
        if line is not None and not line.over:
            pacer = self._phone.pacer
            pacer.sockets.read(now)  # what came before the goodbye was heard
            pacer.discard(line)
            assert line.audio is not None
            line.note(now - line.started, "ended", self.log.ended_by)
            line.finish(self.log, now)
            line.audio.close(now - line.started)
        if not self._done.done():
            self._done.set_result(None)

    # --- changes of the audio

    def _offered(self, event: OfferReceived) -> None:
        session, now = event.session, self._loop.time()
        if event.sdp is None:
            session.answer_offer(self._negotiator.offer(self._local, hold=self._negotiator.held), now=now)
            return
        try:
            body, plan = self._negotiator.answer(event.sdp, self._local)
        except BadSdp as error:
            session.answer_offer(None, 400, now=now)
            self._fault(f"an offer is no session description: {error}")
        except NotAcceptable as error:
            session.answer_offer(None, 488, now=now)
            self._fault(f"an offer cannot be used: {error}")
        else:
            session.answer_offer(body, now=now)
            self._change(plan)

    def _offer_answered(self, event: OfferAnswered) -> None:
        wished, self._wished = self._wished, ""
        if event.sdp is None:
            self._negotiator.withdraw()
            self._fault(f"our offer to change the audio ({wished or 'by its own wish'}) was refused: {event.status}")
            if wished in _CODECS:
                self._negotiator.speak(self._codecs)
        else:
            try:
                if not self._negotiator.offering:  # a session refresh, or their offer has crossed ours
                    self._negotiator.refresh()
                self._change(self._negotiator.take_answer(event.sdp))
            except (BadSdp, NotAcceptable) as error:
                self._fault(f"the answer to our offer cannot be used: {error}")
        self._next_wish()

    def _change(self, plan: MediaPlan) -> None:
        line, session = self._line, self._session
        if line is None or line.audio is None or session is None:
            return
        held = line.audio.plan.direction in HELD
        try:
            line.audio.update(self._our_length(plan), session.dialog.hop.host)
        except (ValueError, RuntimeError) as error:
            self._fault(f"the new audio cannot be carried: {error}")
            return
        self.log.codec = plan.codec.name
        if (plan.direction in HELD) != held:
            self._note("resumed" if held else "held")

    def _our_length(self, plan: MediaPlan) -> MediaPlan:
        """Packets as long as the scenario says: what the agent names is a wish (RFC 8866 section 6.4)."""
        return replace(plan, ptime=self.order.media.ptime)

    def wish(self, what: str) -> None:
        """Change the audio, after what was wished before: `hold`, `resume`, or the name of a codec."""
        self._wishes.append(what)
        if not self._wished:
            self._next_wish()

    def wish_codec(self, codec: str) -> None:
        """Offer just that codec. Raises Unable."""
        if codec not in _CODECS:
            raise Unable(f"{codec} is no codec of a telephone; SIP has {', '.join(_CODECS)}")
        self.wish(codec)

    def _next_wish(self) -> None:
        session = self._session
        if not self._wishes or session is None or session.state in OVER:
            return
        self._wished = self._wishes.popleft()
        hold = self._negotiator.held
        if self._wished in ("hold", "resume"):
            hold = self._wished == "hold"
        else:
            self._negotiator.speak([_CODECS[self._wished]])
        session.offer(self._negotiator.offer(self._local, hold=hold), self._loop.time())
        self._phone.flush()

    # --- transfers

    def _referred(self, event: ReferReceived) -> None:
        request, now = event.tx.request, self._loop.time()
        event.session.accept_refer(event.tx, now)
        self._note("transfer", str(event.target.uri), _told(request))
        event.session.refer_progress(200, now=now)
        self._timers.append(self._loop.call_later(AFTER_TRANSFER, self._left_alone))

    def _left_alone(self) -> None:
        if not self._done.done():
            self._fault(f"the agent transferred the caller, and did not hang up within {AFTER_TRANSFER:g} s")
            self.hang_up("transferred")

    # --- orders

    def hang_up(self, how: str = "") -> None:
        """End the call as its state demands."""
        if self._session is None or self._done.done():
            return
        if how and not self.log.ended_by:
            self.log.ended_by, self.log.ended_how = "caller", how
        self._session.hang_up(now=self._loop.time())
        self._phone.flush()

    def send_info(self, digit: str, milliseconds: int) -> None:
        """Tell a key by INFO."""
        session = self._session
        if session is not None and session.confirmed:
            session.info(to_info(digit, milliseconds), RELAY, self._loop.time())
            self._phone.flush()

    def fail(self, error: BaseException) -> None:
        """End the call, and let `run` raise this."""
        self._failure = self._failure or error
        self.hang_up("the caller failed")

    def _time_out(self) -> None:
        if not self._done.done():
            self.log.ended_by = "timeout"
            self.hang_up(f"it took longer than {self.order.timeout:g} s")
            self.log.ended_how = f"it took longer than {self.order.timeout:g} s"


def _told(request: Request) -> dict[str, str]:
    """What a REFER says: its headers, and those that its target's URI carries for the new INVITE."""
    told = dict(request.headers.items())
    try:
        uri = NameAddr.parse(told.get("Refer-To", "")).uri
    except ValueError:
        return told  # it was read before, so this cannot be
    return told | {name.title(): value for name, value in uri.headers.items()}
