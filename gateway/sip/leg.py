"""One SIP call's leg: its session, its audio, and what its Call hears of both.

Theory of operation
-------------------
An inbound call is admitted before a leg is made for it, so a leg may take a port. Its offer is answered on paper
first (an impossible one is refused before any agent wakes up), then it rings while the switchboard finds an agent,
and is answered when that one is ready. Audio flows from the ACK on, never before: an address that only pretends to
be the caller's gets no stream.

An outbound call waits for its agent first, and then tries the trunk's targets, each once, until one does more than
fail to answer. Its audio begins with the 200.

A leg outlives its first session when the peer moves the call: an INVITE with Replaces, or a REFER that we accept and
follow, puts another session in its place. The Call notices nothing but the audio of somebody else.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

import structlog

from offhook.codecs.audio import L16_8K
from offhook.codecs.convert import convert_all
from offhook.codecs.pcm import mix, tone
from offhook.gateway.reasons import EndedBy, EndReason
from offhook.gateway.sip import attributes, keys
from offhook.gateway.sip.handover import AFTER_TRANSFER, Handover
from offhook.gateway.sip.moves import Moves
from offhook.gateway.sip.outcome import NO_ANSWER, end_reason, hang_up_cause, refusal
from offhook.gateway.switchboard import DrainingError, ReplayedWebhookError
from offhook.providers.base import (
    AcceptAnswer,
    Answer,
    DtmfReceived,
    IncomingCall,
    MediaReceived,
    StreamEnded,
    StreamEvent,
    StreamStarted,
)
from offhook.providers.rtp.leg import RtpLeg
from offhook.providers.rtp.media import Address, MediaPlan
from offhook.providers.sip import info
from offhook.providers.sip.events import (
    Acked,
    Answered,
    Cancelled,
    Ended,
    InfoReceived,
    OfferAnswered,
    OfferReceived,
    Progressed,
    ReferProgressed,
    ReferReceived,
    Refused,
    UaEvent,
)
from offhook.providers.sip.invite import OVER
from offhook.providers.sip.negotiation import BadSdp, MediaNegotiator, NotAcceptable
from offhook.providers.sip.uri import format_host

if TYPE_CHECKING:
    from offhook.gateway.call import Call
    from offhook.gateway.sip.service import SipService
    from offhook.providers.sip.invite import InviteSession
    from offhook.providers.sip.settings import TrunkSettings

RINGBACK: Final = mix(tone(440, 2.0, 8000, -19.0), tone(480, 2.0, 8000, -19.0))
RINGBACK_EVERY: Final = 6.0
"""Two seconds of the North American ringing tone, and four of silence (ITU-T E.180 supplement 2)."""

SIGN_OF_LIFE: Final = 4.0
"""Seconds a target may leave an INVITE without any answer before the next one is tried: three retransmissions. The
transaction itself would wait for 32, longer than any caller."""

FAILOVER: Final = frozenset({408, 500, 502, 503, 504})
"""Refusals after which another target of the trunk may do better (RFC 3263 section 4.3)."""

NOT_ACCEPTABLE: Final = 488
BAD_REQUEST: Final = 400


class SipLeg:
    """One call between a trunk and us. Lives on the event loop."""

    def __init__(self, service: SipService, name: str, trunk: TrunkSettings, rtp: RtpLeg, local: Address) -> None:
        self.name, self.trunk = name, trunk
        self.call: Call | None = None
        "None for the call to the target of an attended transfer, which no agent takes."
        self.session: InviteSession | None = None
        self.id = ""
        "The carrier's id of the call."
        self.service = service
        self._loop = asyncio.get_running_loop()
        self.rtp, self.local = rtp, local
        self.media = self.negotiator()
        self._answer_body: bytes | None = None
        self._keys = keys.Source(trunk.dtmf)
        self._started = self.over = False
        self._media_noted: dict[str, object] = {}
        self._outcome: asyncio.Future[Answered | Refused | None] | None = None
        self._moves = Moves(self)
        self._handover = Handover(self)
        self._timers: list[asyncio.TimerHandle] = []
        self.log = structlog.get_logger("offhook.gateway.sip").bind(trunk=name)
        rtp.on_events = self._heard

    def negotiator(self) -> MediaNegotiator:
        trunk = self.trunk
        return MediaNegotiator(
            codecs=trunk.media_codecs,
            srtp=trunk.srtp,
            session_id=secrets.randbits(62),
            ptime=trunk.ptime,
            dtmf=trunk.dtmf in ("auto", "rfc4733"),
            comfort_noise=trunk.comfort_noise,
            prefer=trunk.prefer,
        )

    # --- inbound

    async def take(self, session: InviteSession) -> None:
        """Ring, find an agent, answer or refuse."""
        self.session = session
        self.id = session.request.call_id
        request = session.request
        try:
            if session.remote_offer is not None:
                self._answer_body, _ = self.media.answer(session.remote_offer, self.local)
        except BadSdp as error:
            self._refuse(BAD_REQUEST, f"SDP: {error}"[:100])
            return
        except NotAcceptable as error:
            self.log.warning("offer cannot be used", call_id=self.id, error=error.text)
            self._refuse(error.status, "", [("Warning", error.warning)])
            return
        if not self._ring(session):
            return
        incoming = IncomingCall(
            carrier_call_id=self.id,
            from_number=attributes.caller(request),
            to_number=attributes.called(request, self.service.registered_as(self.name)),
            direction="inbound",
            fields=self._fields(session),
        )
        board, provider = self.service.board, self.service.provider
        try:
            answer = await board.incoming(provider, incoming)
        except ReplayedWebhookError:
            self._refuse(482, "Call-ID was used before")
            return
        except DrainingError:
            self.service.refuse_busy(session)
            self._drop()
            return
        call = board.find(provider, self.id)
        if self.over:
            if call is not None:
                call.end(EndReason.CALLER_HANGUP, EndedBy.CALLER, "while it rang")
        elif isinstance(answer, AcceptAnswer) and call is not None:
            self._accept(call, answer)
        else:
            self._decline(answer)

    def _ring(self, session: InviteSession) -> bool:
        """Ring; False when that ended the call, as its early media cannot be carried."""
        now = self._loop.time()
        plan = self.media.plan
        if self.trunk.early_media and plan is not None:
            session.ring(183, self._answer_body, now=now)
            if self._start(plan, session):
                self._ring_back()
        else:
            session.ring(180, now=now)
        self.service.flush()
        return not self.over

    def _ring_back(self) -> None:
        """Early media: the tone that the caller's own phone would make."""
        if self.call is None and not self.over:
            self.rtp.send_message(convert_all(RINGBACK, L16_8K, self.rtp.format))
            self._timers.append(self._loop.call_later(RINGBACK_EVERY, self._ring_back))

    def _accept(self, call: Call, answer: AcceptAnswer) -> None:
        session = self.session
        assert session is not None
        self.rtp.clear(self._loop.time())
        self._connect(call)
        body = self._answer_body if self._answer_body is not None else self.media.offer(self.local)
        session.answer(body, self.headers(answer.attributes), now=self._loop.time())
        self.service.flush()

    def _connect(self, call: Call) -> None:
        self.call = call
        call.connect(self.rtp, self.rtp)
        call.over.add_done_callback(lambda _: self.hang_up())  # whoever ended it: the peer must hear of it

    def _decline(self, answer: Answer) -> None:
        status, reason = refusal(answer)
        if status == 503:
            assert self.session is not None
            self.service.refuse_busy(self.session)
            self._drop()
        else:
            self._refuse(status, reason)

    def _refuse(self, status: int, reason: str = "", headers: Sequence[tuple[str, str]] = ()) -> None:
        if self.session is not None and not self.over:
            self.session.refuse(status, reason, headers, now=self._loop.time())
            self.service.flush()
        self._drop()

    def _fields(self, session: InviteSession) -> dict[str, str]:
        fields = {
            "trunk": self.name,
            "sip_call_id": session.request.call_id,
            "from_uri": str(session.remote_party.uri),
            "to_uri": str(session.local_party.uri),
            "from_name": session.remote_party.display,
        }
        if agent := session.headers.get("User-Agent"):
            fields["user_agent"] = agent[: attributes.MAX_VALUE]
        return {key: value for key, value in fields.items() if value} | attributes.read(self.trunk, session.headers)

    # --- outbound

    async def place(self, incoming: IncomingCall, agent: str, ring_timeout: float) -> None:
        """Wait for the agent, then call."""
        board, provider = self.service.board, self.service.provider
        self.id = incoming.carrier_call_id
        try:
            answer = await board.incoming(provider, incoming, agent=agent)
        except (ReplayedWebhookError, DrainingError) as error:
            self.log.warning("call not placed", error=type(error).__name__)
            self._drop()
            return
        call = board.find(provider, self.id)
        if not isinstance(answer, AcceptAnswer) or call is None:
            self._drop()
            return
        self._connect(call)
        told = {name: value for name, value in incoming.fields.items() if name != "trunk"}
        headers = self.headers({**told, **answer.attributes})
        status, reason = await self.dial(incoming.to_number, incoming.from_number, ring_timeout, headers)
        if status >= 300:
            call.end(end_reason(status), EndedBy.CARRIER, f"{status} {reason}".strip(), hang_up=False)
            self._drop()

    async def dial(
        self, number: str, from_number: str, ring_timeout: float, headers: Sequence[tuple[str, str]] = ()
    ) -> tuple[int, str]:
        """Call a number over the trunk; gives the status (200: it is up) and the reason of the last target tried."""
        status, reason = 503, "no target of the trunk can be reached"
        deadline = self._loop.time() + ring_timeout
        async for target in self.service.targets(self.name, number):
            if self.over:
                return 487, "hung up before"
            outcome = self._outcome = self._loop.create_future()
            self.session = self.service.invite(self, target, number, from_number, self.media.offer(self.local), headers)
            hop = target.hop
            where = f"{hop.transport} {format_host(hop.host, hop.port)}"
            self.note("sip.invite", {"target": where, "sip_call_id": self.session.request.call_id})
            await asyncio.wait([outcome], timeout=min(SIGN_OF_LIFE, deadline - self._loop.time()))
            if not outcome.done() and self.session is not None and self.session.state != "calling":
                await asyncio.wait([outcome], timeout=deadline - self._loop.time())
            if not outcome.done():
                session, self.session = self.session, None  # its end is no news then
                if session is not None:
                    self.service.hang_up(session)
                if self._loop.time() >= deadline:
                    return NO_ANSWER, f"no answer within {ring_timeout:g} s"
                status, reason = 503, f"{where} says nothing"
            elif (event := outcome.result()) is None:
                return 487, "hung up before the answer"
            elif isinstance(event, Answered):
                self.service.outcome(self.name, target, 200)
                return 200, ""
            else:
                status, reason = event.status, event.reason
                if event.headers is None:  # it is our own word
                    reason = f"{where} cannot be reached"
            self.service.outcome(self.name, target, status)
            self.media.withdraw()
            if status not in FAILOVER:
                break
        return status, reason

    # --- what happens to the session

    def take_event(self, event: UaEvent) -> None:
        """Anything of this leg's sessions."""
        session = getattr(event, "session", None)
        if session is not None and session is self._moves.successor:
            self._moves.take_event(event)
        elif session is not self.session:
            return  # of a session that was replaced: its end is no news
        elif isinstance(event, Acked):
            self._acked(event)
        elif isinstance(event, Answered):
            self._answered(event)
        elif isinstance(event, Progressed):
            self.note("sip.progress", {"status": event.status})
        elif isinstance(event, Refused):
            self._settle(event)
        elif isinstance(event, OfferReceived):
            self._offered(event)
        elif isinstance(event, OfferAnswered):
            self._offer_answered(event)
        elif isinstance(event, InfoReceived):
            key = info.from_info(event.body, event.content_type)
            if key is not None and self._keys.takes("info", key[0], self._loop.time()):
                self._tell(DtmfReceived(*key))
        elif isinstance(event, ReferReceived):
            self._moves.referred(event)
        elif isinstance(event, ReferProgressed):
            self._handover.progressed(event)
        elif isinstance(event, Ended | Cancelled):
            self._ended(event)

    def _acked(self, event: Acked) -> None:
        try:
            plan = self.media.plan if event.sdp is None else self.media.take_answer(event.sdp)
        except (BadSdp, NotAcceptable) as error:
            self._fail(f"the answer in the ACK cannot be used: {error}")
            return
        if plan is None:
            self._fail("we were asked for an offer, and the ACK brought no answer to it")
            return
        self._up(plan)

    def _answered(self, event: Answered) -> None:
        try:
            if event.sdp is None:
                raise BadSdp("it is missing")
            settled = self.media.plan if not self.media.offering else None  # by an UPDATE while it rang
            self._up(settled or self.media.take_answer(event.sdp))
        except (BadSdp, NotAcceptable) as error:
            self._fail(f"the answer cannot be used: {error}")
        self._settle(event)

    def _read_answer(self, sdp: bytes) -> MediaPlan:
        """The answer to an offer: to a session refresh, which repeats what holds, where we made none ourselves."""
        if not self.media.offering:
            self.media.refresh()
        return self.media.take_answer(sdp)

    def _settle(self, event: Answered | Refused) -> None:
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(event)

    def _up(self, plan: MediaPlan) -> None:
        """Audio may flow."""
        session = self.session
        assert session is not None
        now = self._loop.time()
        if not self._start(plan, session):
            return
        self._note_media(plan, session)
        if self.call is not None and not self.call.answered_at:  # else another session took the call over
            self.call.last_heard = now
            self.call.carrier_event(StreamStarted(session.id, self.id, self.rtp.format, {}))

    def _start(self, plan: MediaPlan, session: InviteSession) -> bool:
        """Start the audio once; False when this machine cannot, and the call was ended."""
        if self._started:
            return True
        inband = self.trunk.dtmf in ("auto", "inband")  # while no telephone-event is agreed on, which may change
        host = self.service.host_of(session)
        # Programs of this machine send from whichever of its loopback addresses they like.
        local = ip_address(host).is_loopback
        try:
            self.rtp.start(plan, signalling=host, inband_dtmf=inband, loopback_latch=local)
        except (ValueError, RuntimeError) as error:
            self._fail(f"the agreed audio cannot be carried: {error}")
            return False
        self._started = True
        return True

    def change(self, plan: MediaPlan) -> None:
        """Take another plan; one that cannot be carried leaves the audio as it was."""
        if not self._started:
            return
        signalling = None if self.session is None else self.service.host_of(self.session)
        try:
            self.rtp.update(plan, signalling=signalling)
        except (ValueError, RuntimeError) as error:
            self.log.error("the new audio cannot be carried", call_id=self.id, error=str(error))
            return
        if self.call is not None:
            self.call.last_heard = self._loop.time()  # one who only listened until now has not been silent for so long
        if self.session is not None:
            self._note_media(plan, self.session)

    def _note_media(self, plan: MediaPlan, session: InviteSession) -> None:
        """Note what was agreed on, when it is something else than before."""
        details = {
            "sip_call_id": session.dialog.call_id,
            "codec": plan.codec.name,
            "ptime": plan.ptime,
            "srtp": plan.srtp_send is not None,
            "remote": format_host(*plan.remote) if plan.remote is not None else "",
            "direction": plan.direction,
            "telephone_event": plan.dtmf_send_type is not None,
        }
        if details != self._media_noted:
            self._media_noted = details
            self.note("sip.media", details)

    def _offered(self, event: OfferReceived) -> None:
        """The peer wants other media, or a full offer of ours."""
        session, now = event.session, self._loop.time()
        if event.sdp is None:
            session.answer_offer(self.media.offer(self.local), now=now)
            return
        try:
            body, plan = self.media.answer(event.sdp, self.local)
        except BadSdp:
            session.answer_offer(None, BAD_REQUEST, now=now)
        except NotAcceptable:
            session.answer_offer(None, NOT_ACCEPTABLE, now=now)
        else:
            session.answer_offer(body, now=now)
            self.change(plan)

    def _offer_answered(self, event: OfferAnswered) -> None:
        if event.sdp is None:
            self.media.withdraw()
            return
        try:
            self.change(self._read_answer(event.sdp))
        except (BadSdp, NotAcceptable) as error:
            self.log.warning("answer cannot be used; the audio stays as it was", call_id=self.id, error=str(error))

    def _fail(self, why: str) -> None:
        self.log.warning("call cannot go on", call_id=self.id, error=why)
        if self.call is not None:
            self.call.end(EndReason.CARRIER_PROTOCOL_ERROR, EndedBy.CARRIER, why, hang_up=False)
        self.hang_up()

    def _ended(self, event: Ended | Cancelled) -> None:
        cause = event.cause if isinstance(event, Ended) else "cancelled while it rang"
        lost = isinstance(event, Ended) and event.by in ("timer", "transport")
        if event.headers is not None and (fields := attributes.read(self.trunk, event.headers)):
            self.note("sip.hang_up", fields)
        self._handover.hung_up()
        if self._moves.pending and self.call is not None:
            self.session = None  # telephones hang up as soon as they have asked us to call somebody else
            self._moves.wait_alone()
            return
        call = self.call or self.service.board.find(self.service.provider, self.id)
        self._drop()
        if call is None:
            return
        if lost:
            call.end(EndReason.CARRIER_TIMEOUT, EndedBy.CARRIER, cause, hang_up=False)
        elif not call.answered_at:
            call.end(EndReason.CALLER_HANGUP, EndedBy.CALLER, cause, hang_up=False)
        else:
            call.carrier_event(StreamEnded("stop", cause))

    # --- audio

    def _heard(self, events: Sequence[StreamEvent], now: float) -> None:
        call = self.call
        if call is None:
            return
        call.last_heard = now
        for event in events:
            if type(event) is MediaReceived:
                call.media(event, now)
            elif not isinstance(event, DtmfReceived) or self._keys.takes("rtp", event.digit, now):
                call.carrier_event(event)

    def _tell(self, event: StreamEvent) -> None:
        if self.call is not None:
            self.call.carrier_event(event)

    def note(self, event: str, data: Mapping[str, object]) -> None:
        if self.call is not None:
            self.call.note(event, dict(data))

    # --- orders

    def hang_up(self) -> None:
        """End the call as its state demands; the Call hears of it as of any end."""
        over = self.call.over if self.call is not None else None
        reason = hang_up_cause(over.result() if over is not None and over.done() else None)
        headers = self.headers(self.call.attributes) if self.call is not None else []
        now = self._loop.time()
        nothing = self.session is None or self.session.state in OVER
        for session in (self._moves.successor, self.session):
            if session is not None:
                session.hang_up(reason, headers if session is self.session else (), now=now)
        if nothing:  # between two targets, say: there is no end to hear of
            self._drop()
        self.service.flush()

    def send_info(self, digits: str) -> bool:
        """Send keys by INFO, half a second for a `w`; False when the call is not up."""
        session = self.session
        if session is None or not session.confirmed:
            return False
        delay = 0.0
        for digit in digits:
            if digit != "w":
                self._timers.append(self._loop.call_later(delay, self._send_key, digit))
            delay += keys.PAUSE if digit == "w" else keys.EVERY
        return True

    def _send_key(self, digit: str) -> None:
        if self.session is not None and self.session.confirmed:
            self.session.info(info.to_info(digit), info.RELAY, self._loop.time())
            self.service.flush()

    async def transfer(self, to: str) -> None:
        """Hand the caller over, blind or attended as the trunk says. Raises CarrierRefused; the call goes on then."""
        await self._handover.transfer(to)
        self._timers.append(self._loop.call_later(AFTER_TRANSFER, self.hang_up))

    def headers(self, wanted: Mapping[str, str]) -> list[tuple[str, str]]:
        """Attributes as headers of a message; what the trunk does not send is noted."""
        headers, left = attributes.write(self.trunk, wanted)
        if left:
            self.note("attributes.not_sent", {"names": left})
        return headers

    def replaced_by(self, session: InviteSession) -> None:
        """An INVITE with Replaces takes this call over."""
        self._moves.replaced_by(session)

    def move(self, session: InviteSession, media: MediaNegotiator, plan: MediaPlan) -> None:
        """Another session carries the call from now on; the old one is let go of."""
        old, self.session, self.media = self.session, session, media
        self.service.moved(self, session)
        self._settle(Answered(session, None, session.headers))  # a call of ours that another phone picked up
        self.change(plan)
        self.note("sip.moved", {"to": str(session.remote_party.uri)})
        if old is not None:
            self._loop.call_later(AFTER_TRANSFER, self.service.hang_up, old)

    def stranded(self, why: str) -> None:
        """The peer that asked for another call has hung up, and that call came to nothing."""
        call = self.call
        self._drop()
        if call is not None:
            call.carrier_event(StreamEnded("stop", why))

    # --- the end

    def _drop(self) -> None:
        """Let go of ports, timers and sessions. The Call is told by whoever knows why."""
        if self.over:
            return
        self.over = True
        for timer in self._timers:
            timer.cancel()
        self._moves.close()
        self._handover.close()
        self.rtp.close()
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(None)
        self.call = None  # else both would wait for the garbage collector, in whose pauses no packet leaves
        self.service.ended(self)
