"""Offers within a call: re-INVITE and UPDATE, theirs and ours (RFC 3261 section 14, RFC 3311, RFC 6337).

Theory of operation
-------------------
One offer may be under way at a time. `pending` says whose: `theirs` from the message that brings it until our answer,
`ours` from the message that takes it until the peer's answer, which for an INVITE without an offer comes in the ACK.
The first offer of a call counts too, so that an UPDATE in between is refused.

A re-INVITE of the peer is open from its arrival to our final response (another one meanwhile gets 500) and then
until its ACK, for which our 2xx is sent again. While one of ours is open, the peer's gets 491; ours, when it gets
491, is sent again after a pause, whose length depends on who owns the Call-ID, so that the two do not collide twice.
What the owner wants to offer meanwhile waits, and replaces what waited before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal
from weakref import ref

from offhook.providers.sip.core import Core, IllegalStep
from offhook.providers.sip.errand import Errand
from offhook.providers.sip.events import OfferAnswered, OfferReceived
from offhook.providers.sip.message import Request, Response
from offhook.providers.sip.timers import Action, Repeater, Timer
from offhook.providers.sip.transaction import ServerTransaction
from offhook.providers.sip.transaction import State as TxState

if TYPE_CHECKING:
    from offhook.providers.sip.invite import InviteSession

SDP: Final = "application/sdp"

RETRY_AFTER: Final = 10
"""Seconds, at most, in the Retry-After of a 500 to a re-INVITE that comes too early (RFC 3261 section 14.2)."""

PAUSES: Final = {"outbound": (2.1, 4.0), "inbound": (0.0, 2.0)}
"""Seconds, from and to, until a re-INVITE that collided is sent again: longer for the owner of the Call-ID, who is the
caller (section 14.1)."""


class Offers:
    """The offers of one session, from its first one on."""

    def __init__(self, session: InviteSession, core: Core) -> None:
        self.pending: Literal["", "ours", "theirs"] = ""
        self.local_sdp: bytes | None = None
        "Our description as last agreed or offered; what a refresh repeats."
        self.remote_sdp: bytes | None = None
        self._owner, self._core = ref(session), core
        self._errand: Errand | None = None
        self._is_refresh = False
        self._sent: bytes | None = None
        self._wanted: tuple[bytes | None, bool] | None = None
        self._pause: Timer | None = None
        self._tx: ServerTransaction | None = None
        self._unacked: tuple[int, Repeater] | None = None

    @property
    def _session(self) -> InviteSession:
        session = self._owner()
        assert session is not None, "it owns this"
        return session

    # --- ours -----------------------------------------------------------------------------

    def offer(self, sdp: bytes, update: bool, now: float) -> None:
        """Send an offer as soon as none is under way."""
        self._wanted = (sdp, update)
        self.go_on(now)

    def refresh(self, now: float) -> None:
        """Refresh the session, unless an offer waits or is under way, which does so itself."""
        if self._wanted is None and self._errand is None:
            self._wanted = (None, True)
            self.go_on(now)

    def go_on(self, now: float) -> None:
        """Send what waits, if it may be sent now."""
        if (
            self._wanted is None
            or not self._session.confirmed
            or self.pending
            or self._errand is not None
            or self._tx is not None
            or self._unacked is not None
            or self._pause is not None
        ):
            return
        (sdp, update), self._wanted = self._wanted, None
        self._is_refresh = sdp is None
        update = update and "UPDATE" in self._session.peer_allows
        if sdp is None and not update:
            sdp = self.local_sdp
        self._sent = sdp
        if sdp is not None:
            self.pending = "ours"
        headers = self._session.timer.request_headers()
        request = self._session.build("UPDATE" if update else "INVITE", body=sdp or b"", headers=headers)
        errand = self._errand = self._session.send(request, self._on_response, now)
        if not update:
            self._core.timers.set(now + self._core.patience, lambda then: self._give_up(errand, then))

    def _give_up(self, errand: Errand, now: float) -> None:
        """A re-INVITE rings nobody: when it got no more than a 100 by now, cancel it, also when the call is over."""
        tx = errand.tx
        if tx is not None and tx.state is TxState.PROCEEDING and not tx.cancelled:
            self._core.transactions.cancel(tx, now)

    def _on_response(self, errand: Errand, status: int, response: Response | None, now: float) -> None:
        if status < 200:
            return
        is_invite = errand.request.method == "INVITE"
        if is_invite and response is not None and status < 300:
            if errand.ack is not None:
                self._core.transactions.send(*errand.ack)
                return
            self._session.dialog.retarget(response)
            errand.ack = self._session.send_ack(errand.request, b"")
        if errand is not self._errand:
            return
        self._errand = None
        if self._sent is not None:
            self.pending = ""
        if status < 300 and response is not None:
            self._accepted(response, is_invite, now)
        else:
            self._refused(errand, status, response, now)
        self.go_on(now)

    def _accepted(self, response: Response, is_invite: bool, now: float) -> None:
        if not is_invite:
            self._session.dialog.retarget(response)
        self._session.note_allowed(response)
        self._session.timer.settle(response, now)
        self._session.set_alarm()
        answer = response.body_of(SDP)
        if self._sent is None:
            return
        if answer is None:
            if not self._is_refresh:
                self._core.emit(OfferAnswered(self._session, None, response.status))
            return
        changed = answer != self.remote_sdp
        self.local_sdp, self.remote_sdp = self._sent, answer
        if changed or not self._is_refresh:
            self._core.emit(OfferAnswered(self._session, answer, response.status))

    def _refused(self, errand: Errand, status: int, response: Response | None, now: float) -> None:
        session, again = self._session, (None if self._is_refresh else self._sent, errand.request.method == "UPDATE")
        if status == 481:
            session.lost("protocol", "the peer does not know the call any more", now)
        elif status == 408 or response is None:
            # Section 12.2.1.2: the peer is not there any more.
            session.lost("transport", f"no answer to {errand.request.method}", now)
        elif status == 491:
            low, high = PAUSES[session.direction]
            self._retry(again, self._core.rng.uniform(low, high), now)
        elif status == 422 and session.timer.raise_to(response):
            self._retry(again, 0.0, now)
        elif errand.request.method == "UPDATE" and status in (405, 501):
            session.peer_allows -= {"UPDATE"}
            self._retry(again, 0.0, now)
        elif self._is_refresh:
            session.timer.postpone(now)
            session.set_alarm()
        else:
            self._core.emit(OfferAnswered(session, None, status))

    def _retry(self, what: tuple[bytes | None, bool], seconds: float, now: float) -> None:
        if self._wanted is None:
            self._wanted = what
        self._pause = self._core.timers.set(now + seconds, self._after_pause)

    def _after_pause(self, now: float) -> None:
        self._pause = None
        self.go_on(now)

    # --- theirs ---------------------------------------------------------------------------

    def on_invite(self, tx: ServerTransaction, request: Request, now: float) -> None:
        """A re-INVITE."""
        core = self._core
        if self._tx is not None:
            core.reply(tx, 500, headers=[("Retry-After", str(core.rng.randint(0, RETRY_AFTER)))], now=now)
        elif self._errand is not None or self.pending or self._unacked is not None or not self._session.confirmed:
            core.reply(tx, 491, now=now)
        elif self._offered(tx, request, now):
            core.reply(tx, 100, now=now)

    def on_update(self, tx: ServerTransaction, request: Request, now: float) -> None:
        """An UPDATE, with an offer or as a refresh."""
        core = self._core
        if not request.body:
            if self._session.refuse_interval(tx, request, now):
                return
            headers = self._session.settle_timer(request, now)
            self._session.dialog.retarget(request)
            self._respond(tx, 200, None, headers, now)
        elif self.pending == "theirs" or self._tx is not None:
            core.reply(tx, 500, headers=[("Retry-After", str(core.rng.randint(0, RETRY_AFTER)))], now=now)
        elif self.pending or self._errand is not None:
            core.reply(tx, 491, now=now)
        else:
            self._offered(tx, request, now)

    def on_prack(self, tx: ServerTransaction, request: Request, now: float) -> None:
        """A PRACK that was in order: it may bring the answer to an offer of ours, or an offer (RFC 3262 section 5)."""
        sdp = request.body_of(SDP)
        if sdp is None:
            self._respond(tx, 200, None, [], now)
        elif self.pending == "ours":
            self.pending, self.remote_sdp = "", sdp
            self._respond(tx, 200, None, [], now)
            self._core.emit(OfferAnswered(self._session, sdp, 200))
        elif self.pending or self._tx is not None:
            self._core.reply(tx, 488, now=now)
        else:
            self._tx, self.pending = tx, "theirs"
            self.remote_sdp = sdp
            self._core.emit(OfferReceived(self._session, sdp))

    def _offered(self, tx: ServerTransaction, request: Request, now: float) -> bool:
        sdp = request.body_of(SDP)
        if request.body and sdp is None:
            self._core.reply(tx, 415, headers=[("Accept", SDP)], now=now)
            return False
        if self._session.refuse_interval(tx, request, now):
            return False
        self._tx = tx
        if sdp is not None:
            self.pending = "theirs"
        self._core.emit(OfferReceived(self._session, sdp))
        return True

    def answer(self, sdp: bytes | None, status: int, now: float) -> None:
        """Answer what `OfferReceived` told of."""
        tx = self._tx
        if tx is None:
            raise IllegalStep("no offer of the peer waits for an answer")
        if (sdp is None) != (status >= 300) or not 200 <= status <= 699:
            raise ValueError("an answer has SDP and a status of 200 to 299; a refusal has none and one of 300 to 699")
        self._tx = None
        request = tx.request
        is_full_offer = self.pending != "theirs"
        self.pending = ""
        if sdp is None:
            self._core.reply(tx, status, now=now)
            self.go_on(now)
            return
        headers = [] if request.method == "PRACK" else self._session.settle_timer(request, now)
        if request.method != "PRACK":
            self._session.dialog.retarget(request)
        self.local_sdp = sdp
        if is_full_offer:
            self.pending = "ours"
        else:
            self.remote_sdp = request.body_of(SDP)
        response = self._respond(tx, status, sdp, headers, now)
        if request.method == "INVITE":
            self._unacked = request.cseq.number, self.repeat(tx, response, self._no_ack, now)
        self.go_on(now)

    def on_ack(self, request: Request, now: float) -> None:
        """The ACK of a re-INVITE that we accepted."""
        if self._unacked is None or request.cseq.number != self._unacked[0]:
            return
        self._unacked[1].stop()
        self._unacked = None
        if self.pending == "ours":
            self.pending = ""
            sdp = request.body_of(SDP)
            if sdp is not None:
                self.remote_sdp = sdp
            self._core.emit(OfferAnswered(self._session, sdp, 200 if sdp is not None else 488))
        self.go_on(now)

    def repeat(self, tx: ServerTransaction, response: Response, give_up: Action, now: float) -> Repeater:
        """Send a 2xx to an INVITE again until it is acknowledged (section 13.3.1.4)."""

        def send(then: float) -> None:
            if not tx.over:
                self._core.transactions.respond(tx, response, then)

        core = self._core
        return Repeater(core.timers, send, give_up, now, first=core.t1, longest=core.t2, patience=core.patience)

    def close(self, now: float) -> None:
        """The call is over: stop all of it, and answer what is open."""
        if self._pause is not None:
            self._pause.cancel()
        if self._unacked is not None:
            self._unacked[1].stop()
        self._pause = self._unacked = self._wanted = self._errand = None
        if self._tx is not None:
            self._core.reply(self._tx, 487, now=now)
            self._tx = None

    def _no_ack(self, now: float) -> None:
        self._unacked = None
        self._session.lost("timer", "no ACK for a re-INVITE", now)

    def _respond(
        self, tx: ServerTransaction, status: int, sdp: bytes | None, headers: list[tuple[str, str]], now: float
    ) -> Response:
        response = self._core.response(tx.request, status, headers=headers, body=sdp or b"")
        if tx.method != "PRACK":
            response.headers.add("Contact", self._session.dialog.contact)
            self._core.add_abilities(response.headers, reliable=self._session.reliable)
        if not tx.over:
            self._core.transactions.respond(tx, response, now)
        return response
