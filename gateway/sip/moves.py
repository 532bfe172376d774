"""A peer that moves its call to somebody else: a REFER that we follow, an INVITE that replaces the one before.

A REFER is followed only to the numbers that the trunk lists, and always over the trunk itself: a peer may name any
address in the world, and whoever calls it pays. The new call offers the port of the old one, whose audio goes on
until the new one is answered.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from weakref import ref

from offhook.gateway.numbers import matches
from offhook.providers.sip.events import Answered, Ended, Progressed, ReferReceived, Refused, UaEvent
from offhook.providers.sip.negotiation import BadSdp, MediaNegotiator, NotAcceptable

if TYPE_CHECKING:
    from offhook.gateway.sip.leg import SipLeg
    from offhook.providers.sip.invite import InviteSession

NO_OFFER: Final = 399
"""Warning code of RFC 3261 section 20.43: miscellaneous."""

RING_BUDGET: Final = 60.0
"""Seconds that the target of a REFER may let its phone ring; the caller hears nothing meanwhile."""

HEARTBEAT: Final = 5.0
"""Seconds between two signs of life of a call that waits for its new peer."""


class Moves:
    """Of one leg."""

    def __init__(self, leg: SipLeg) -> None:
        self._owner = ref(leg)
        self._loop = asyncio.get_running_loop()
        self.successor: InviteSession | None = None
        "The call that a REFER asked for, until it is answered."
        self._media: MediaNegotiator | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._heartbeat: asyncio.TimerHandle | None = None

    @property
    def _leg(self) -> SipLeg:
        leg = self._owner()
        assert leg is not None, "it owns this"
        return leg

    def referred(self, event: ReferReceived) -> None:
        """The peer asks us to call somebody else instead of it."""
        leg, session, now = self._leg, event.session, self._loop.time()
        number = event.target.uri.user
        ok = self._media is None and any(matches(pattern, number) for pattern in leg.trunk.accept_refer)
        leg.note("sip.refer", {"to": number, "ok": ok})
        if not ok:
            leg.log.warning("transfer by the peer refused", call_id=leg.id, to=number)
            session.refuse_refer(event.tx, now=now)
            return
        session.accept_refer(event.tx, now)
        self._media = leg.negotiator()
        found = (("Replaces", event.replaces), ("Referred-By", event.referred_by))
        headers = [(name, value) for name, value in found if value]
        leg.service.board.run(self._follow(session, number, headers, self._media), f"sip-{leg.id}:refer")

    async def _follow(
        self, session: InviteSession, number: str, headers: list[tuple[str, str]], media: MediaNegotiator
    ) -> None:
        leg = self._leg
        async for target in leg.service.targets(leg.name, number):
            if not leg.over:
                ours = session.local_party.uri.user
                self.successor = leg.service.invite(leg, target, number, ours, media.offer(leg.local), headers)
                self._patience = self._loop.call_later(RING_BUDGET, self._too_long, self.successor)
            return
        self._failed(503)

    @property
    def pending(self) -> bool:
        """Whether a call is on its way that a REFER asked for."""
        return self._media is not None

    def wait_alone(self) -> None:
        """The peer has hung up; the call goes on with its successor, or ends with it. Nobody is heard meanwhile."""
        call = self._leg.call
        if self.pending and call is not None and self._leg.session is None:
            call.last_heard = self._loop.time()
            self._heartbeat = self._loop.call_later(HEARTBEAT, self.wait_alone)

    def _too_long(self, successor: InviteSession) -> None:
        if successor is self.successor:
            self._failed(480)
            successor.hang_up(now=self._loop.time())
            self._leg.service.flush()

    def close(self) -> None:
        """The call is over: whoever is being called instead is not called any more."""
        successor, self.successor, self._media = self.successor, None, None
        for timer in (self._patience, self._heartbeat):
            if timer is not None:
                timer.cancel()
        if successor is not None:
            successor.hang_up(now=self._loop.time())
            self._leg.service.flush()

    def take_event(self, event: UaEvent) -> None:
        """Anything of the successor."""
        session = self._leg.session
        if isinstance(event, Progressed):
            if session is not None:
                session.refer_progress(event.status, now=self._loop.time())
        elif isinstance(event, Answered):
            self._answered(event, session)
        elif isinstance(event, Refused):
            self._failed(event.status)
        elif isinstance(event, Ended):
            self._failed(480)  # answered without SDP, as a rule

    def _answered(self, event: Answered, session: InviteSession | None) -> None:
        media, now = self._media, self._loop.time()
        assert media is not None
        try:
            if event.sdp is None:
                raise BadSdp("it is missing")
            plan = media.take_answer(event.sdp)
        except (BadSdp, NotAcceptable) as error:
            self._leg.log.warning("transfer target's answer cannot be used", call_id=self._leg.id, error=str(error))
            self._failed(488)
            event.session.hang_up(now=now)
            return
        if session is not None:
            session.refer_progress(200, now=now)
        self.successor = self._media = None
        self._leg.move(event.session, media, plan)

    def _failed(self, status: int) -> None:
        self.successor = self._media = None
        session = self._leg.session
        if session is None:
            self._leg.stranded(f"the transfer that the caller asked for came to {status}")
        elif session.confirmed:
            session.refer_progress(status, now=self._loop.time())
            self._leg.service.flush()

    def replaced_by(self, session: InviteSession) -> None:
        """Answer an INVITE with Replaces, and let the old session go."""
        leg, now = self._leg, self._loop.time()
        media = leg.negotiator()
        try:
            if session.remote_offer is None:
                raise NotAcceptable(NO_OFFER, "a call that replaces another must come with an offer")
            body, plan = media.answer(session.remote_offer, leg.local)
        except BadSdp:
            session.refuse(400, now=now)
        except NotAcceptable as error:
            session.refuse(error.status, "", [("Warning", error.warning)], now=now)
        else:
            session.answer(body, now=now)
            leg.move(session, media, plan)
