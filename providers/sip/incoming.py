"""Calls that come in: from the INVITE to the ACK."""

from __future__ import annotations

from offhook.providers.sip.core import Core, Fields, IllegalStep, checked
from offhook.providers.sip.dialog import Dialog
from offhook.providers.sip.errand import Credentials
from offhook.providers.sip.events import Acked, Cancelled, Ended
from offhook.providers.sip.invite import NORMAL, OVER, TABLE, TIMED_OUT, InviteSession
from offhook.providers.sip.message import Request, Response
from offhook.providers.sip.offers import SDP
from offhook.providers.sip.reliable import FIRST_RSEQ, Policy, ReliableSender
from offhook.providers.sip.session_timer import SessionTimer
from offhook.providers.sip.timers import Repeater, Timer
from offhook.providers.sip.transaction import ServerTransaction

RING_AGAIN = 60.0
"""Seconds between provisional responses: a proxy gives up after three minutes without (RFC 3261 section 13.3.1.1)."""

REFUSALS = {1: 404, 17: 486, 18: 480, 19: 480, 20: 480, 21: 603, 28: 484, 34: 503, 38: 503, 41: 503, 42: 503}
"""Status that says what a Q.850 cause says, for a call hung up before its answer (RFC 3398 section 7.2.4.1)."""


class IncomingSession(InviteSession):
    """A call that came in. `invites` maps its transaction to it until the answer is acknowledged."""

    direction = "inbound"

    def __init__(
        self,
        core: Core,
        tx: ServerTransaction,
        timer: SessionTimer,
        reliable: Policy,
        invites: dict[ServerTransaction, IncomingSession],
        credentials: Credentials | None,
        now: float,
    ) -> None:
        request = tx.request
        contact = f"<{core.contact_of(tx.source)}>"
        number = core.rng.randint(1, 2**16)
        dialog = Dialog.called(request, tx.source, tag=core.new_token(), contact=contact, number=number)
        super().__init__(core, "incoming", request, dialog, timer, reliable=reliable != "off", credentials=credentials)
        self.remote_offer = request.body_of(SDP)
        self.note_allowed(request)
        self._tx = tx
        self._invites = invites
        self._number = request.cseq.number
        can = "100rel" in request.options("Supported")
        self._must_arrive = "100rel" in request.options("Require") or (reliable == "required" and can)
        self._reliable: ReliableSender | None = None
        "From the first provisional response that must arrive to the end of the call."
        self._ring_timer: Timer | None = None
        self._rung: tuple[int, bytes | None, list[tuple[str, str]]] | None = None
        self._deferred: tuple[bytes, list[tuple[str, str]]] | None = None
        self._repeater: Repeater | None = None
        self._farewell: list[tuple[str, str]] = []
        if self.remote_offer is not None:
            self.offers.pending, self.offers.remote_sdp = "theirs", self.remote_offer
        invites[tx] = core.sessions[self.id] = self
        core.know(self, dialog)
        core.reply(tx, 100, now=now)

    # --- what the owner does ----------------------------------------------------------

    def ring(self, status: int = 180, sdp: bytes | None = None, headers: Fields = (), *, now: float) -> None:
        if not 100 < status < 200:
            raise ValueError("a provisional response has a status of 101 to 199")
        if self._deferred is not None:
            raise IllegalStep("a call that has been answered cannot ring")
        fields = checked(headers)
        self._take("ring")
        self._rung = status, sdp, fields
        self._ring(status, sdp, fields, now)

    def _ring(self, status: int, sdp: bytes | None, headers: Fields, now: float) -> None:
        if not self._must_arrive:
            self._transmit(self._response(status, "", headers, sdp), now)
        else:
            offers = self.offers
            if offers.local_sdp is not None:
                sdp = None
            elif sdp is not None:
                # Reliable, so this settles the first offer; what follows need not and must not make another.
                offers.pending = "" if offers.pending == "theirs" else "ours"
                offers.local_sdp = sdp
            if self._reliable is None:
                core, first = self._core, self._core.rng.randint(1, FIRST_RSEQ)
                self._reliable = ReliableSender(core.timers, self._transmit, self._no_prack, number=first, t1=core.t1)
            self._reliable.send(self._response(status, "", headers, sdp), now)
        if self._ring_timer is not None:
            self._ring_timer.cancel()
        self._ring_timer = self._core.timers.set(now + RING_AGAIN, self._ring_again)

    def _ring_again(self, now: float) -> None:
        if self._rung is not None:
            status, sdp, headers = self._rung
            self._ring(status, sdp, headers, now)

    def answer(self, sdp: bytes, headers: Fields = (), *, now: float) -> None:
        if "answer" not in TABLE[self.state] or self._deferred is not None:
            raise IllegalStep(f"a call that is {self.state} cannot be answered")
        fields = checked(headers)
        if self._ring_timer is not None:
            self._ring_timer.cancel()
        self._rung = None
        if self._reliable is not None and self._reliable.pending:
            self._deferred = sdp, fields  # RFC 3262 section 3: the 2xx waits for the PRACK
        else:
            self._answer(sdp, fields, now)

    def _answer(self, sdp: bytes, headers: Fields, now: float) -> None:
        self._take("answer")
        self._deferred = None
        offers = self.offers
        settled = self._must_arrive and offers.local_sdp is not None
        if not settled:
            offers.local_sdp = sdp
            offers.pending = "ours" if self.remote_offer is None else ""
        response = self._response(200, "", headers, None if settled else sdp)
        self._core.add_abilities(response.headers, reliable=self.reliable)
        for name, value in self.settle_timer(self.request, now):
            response.headers.add(name, value)
        self._core.transactions.respond(self._tx, response, now)
        self._repeater = offers.repeat(self._tx, response, self._no_ack, now)

    def refuse(self, status: int, reason: str = "", headers: Fields = (), *, now: float) -> None:
        if not 300 <= status <= 699:
            raise ValueError("a refusal has a status of 300 to 699")
        fields = checked(headers)
        self._take("refuse")
        self._final(status, reason, fields, now)
        self._end(Ended(self, self._us, f"SIP;cause={status}", None), now)

    def hang_up(self, reason: str = NORMAL, headers: Fields = (), *, now: float) -> None:
        if self.state in ("incoming", "ringing"):
            fields = checked(headers, reason)
            self._take("hang up")
            self._final(_status_for(reason), "", fields, now)
            self._end(Ended(self, self._us, reason, None), now)
        elif self.state == "answered":
            self._farewell = checked(headers, reason)
            self._take("hang up")
            self._stop(now)
            self._core.emit(Ended(self, self._us, reason, None))
        else:
            super().hang_up(reason, headers, now=now)

    # --- what the peer does -----------------------------------------------------------

    def on_cancel(self, request: Request, now: float) -> None:
        """A CANCEL, already answered. After the answer it has no effect."""
        if "cancelled" in TABLE[self.state]:
            self._take("cancelled")
            self._final(487, "", (), now)
            self._end(Cancelled(self, request.headers), now)

    def on_ack(self, request: Request, now: float) -> None:
        if "acked" not in TABLE[self.state] or request.cseq.number != self._number:
            super().on_ack(request, now)
            return
        told = self.state in OVER
        self._take("acked")
        if self._repeater is not None:
            self._repeater.stop()
        self._invites.pop(self._tx, None)
        if told:
            self._bye(self._farewell, now)
            self._close(now)
            return
        sdp = None
        if self.offers.pending == "ours":
            sdp = request.body_of(SDP)
            self.offers.pending, self.offers.remote_sdp = "", sdp
            if sdp is None:
                self.lost("protocol", "the caller did not answer our offer", now)
                return
        self._core.emit(Acked(self, sdp))
        self.offers.go_on(now)

    def _on_bye(self, tx: ServerTransaction, request: Request, now: float) -> None:
        if self.state not in ("incoming", "ringing"):
            super()._on_bye(tx, request, now)
            return
        self._take("bye")
        self._core.reply(tx, 200, now=now)
        self._final(487, "", (), now)
        self._end(Cancelled(self, request.headers), now)

    def _on_prack(self, tx: ServerTransaction, request: Request, now: float) -> None:
        if self._reliable is None or not self._reliable.acknowledged(request, self._number, now):
            self._core.reply(tx, 481, now=now)
            return
        self.offers.on_prack(tx, request, now)
        if self._deferred is not None and not self._reliable.pending:
            self._answer(*self._deferred, now)

    # --- inside -----------------------------------------------------------------------

    def _response(self, status: int, reason: str, headers: Fields, sdp: bytes | None) -> Response:
        response = self._core.response(
            self.request, status, reason, to_tag=self.dialog.local_tag, headers=headers, body=sdp or b""
        )
        if status < 300:
            response.headers.add("Contact", self.dialog.contact)
        return response

    def _final(self, status: int, reason: str, headers: Fields, now: float) -> None:
        """Refuse the INVITE."""
        if not self._tx.answered:
            self._core.transactions.respond(self._tx, self._response(status, reason, headers, None), now)

    def _transmit(self, response: Response, now: float) -> None:
        if not self._tx.answered:
            self._core.transactions.respond(self._tx, response, now)

    def _no_prack(self, now: float) -> None:
        self._take("lost")
        self._final(504, "", (), now)
        self._end(Ended(self, "timer", "no PRACK", None), now)

    def _no_ack(self, now: float) -> None:
        told = self.state in OVER
        self._take("lost")
        self._bye(self._farewell if told else [("Reason", TIMED_OUT)], now)
        self._close(now)
        if not told:
            self._core.emit(Ended(self, "timer", "no ACK", None))

    def _stop(self, now: float) -> None:
        super()._stop(now)
        if self._ring_timer is not None:
            self._ring_timer.cancel()
        self._rung = self._deferred = None
        if self._reliable is not None:
            self._reliable.stop()
            self._reliable = None

    def _close(self, now: float) -> None:
        super()._close(now)
        if self._repeater is not None:
            self._repeater.stop()
        self._invites.pop(self._tx, None)


def _status_for(reason: str) -> int:
    protocol, _, tail = reason.partition(";cause=")
    cause = tail.partition(";")[0]
    return REFUSALS.get(int(cause), 487) if protocol == "Q.850" and cause.isdecimal() else 487
