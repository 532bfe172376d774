"""Calls that go out: from the INVITE to the ACK."""

from __future__ import annotations

from typing import Final

from offhook.providers.sip.core import Core, Fields, add_fields, checked
from offhook.providers.sip.dialog import Dialog
from offhook.providers.sip.errand import Credentials, Errand
from offhook.providers.sip.events import Answered, Ended, Progressed, Refused
from offhook.providers.sip.hop import Hop
from offhook.providers.sip.invite import NORMAL, OVER, TABLE, InviteSession
from offhook.providers.sip.message import Request, Response
from offhook.providers.sip.offers import SDP
from offhook.providers.sip.reliable import Policy, ReliableReceiver, is_reliable
from offhook.providers.sip.session_timer import SessionTimer
from offhook.providers.sip.transaction import State as TxState
from offhook.providers.sip.transaction import TooManyTransactions

MAX_FORKS: Final = 16
"""Phones that may answer one INVITE; what comes from further ones is ignored."""


class _Fork:
    """One phone that answers, as long as it has not picked up."""

    __slots__ = ("dialog", "receiver", "sdp")

    def __init__(self, dialog: Dialog) -> None:
        self.dialog = dialog
        self.receiver = ReliableReceiver()
        self.sdp: bytes | None = None


class OutgoingSession(InviteSession):
    """A call that goes out."""

    direction = "outbound"

    def __init__(
        self,
        core: Core,
        dialog: Dialog,
        sdp: bytes | None,
        fields: Fields,
        timer: SessionTimer,
        policy: Policy,
        credentials: Credentials | None,
        now: float,
    ) -> None:
        # An offer in a reliable response would have to be answered in the PRACK: without one of ours, none may come.
        reliable = policy != "off" and sdp is not None
        request = dialog.request("INVITE", core.user_agent, body=sdp or b"")
        core.add_abilities(request.headers, reliable=reliable)
        if reliable and policy == "required":
            request.headers.add("Require", "100rel")
        add_fields(request.headers, timer.request_headers())
        add_fields(request.headers, fields)
        if sdp is not None:
            request.headers.add("Content-Type", SDP)
        super().__init__(core, "calling", request, dialog, timer, reliable=reliable, credentials=credentials)
        self._root = dialog
        self._offer = sdp
        self._forks: dict[str, _Fork] = {}
        self._acks: dict[str, tuple[Request, Hop]] = {}
        self._farewell: list[tuple[str, str]] = []
        if sdp is not None:
            self.offers.pending, self.offers.local_sdp = "ours", sdp
        self._errand: Errand | None = self._send_invite(request, now)
        core.sessions[self.id] = self

    def _send_invite(self, request: Request, now: float) -> Errand:
        root = self._root
        errand = Errand(
            request, root.hop, self._on_response, next_number=root.next_number, credentials=self._credentials
        )
        self._core.start(errand, now)
        return errand

    # --- what the owner does ----------------------------------------------------------

    def hang_up(self, reason: str = NORMAL, headers: Fields = (), *, now: float) -> None:
        if self.state not in ("calling", "proceeding"):
            if self.state == "unacknowledged":
                self._acknowledge(self.dialog, b"")
            super().hang_up(reason, headers, now=now)
            return
        self._farewell = checked(headers, reason)
        self._take("hang up")
        if self._errand is not None:
            self._errand.credentials = None
        self._stop(now)
        self._cancel(now)
        self._core.emit(Ended(self, self._us, reason, None))

    def acknowledge(self, sdp: bytes, now: float) -> None:
        self._take("acknowledge")
        self._acknowledge(self.dialog, sdp)
        self.offers.pending, self.offers.local_sdp = "", sdp
        self.set_alarm()
        self.offers.go_on(now)

    # --- what the peer does -----------------------------------------------------------

    def _on_response(self, errand: Errand, status: int, response: Response | None, now: float) -> None:
        self.request = errand.request
        if response is None:
            self._refused(status, None, now)
        elif status < 200:
            self._progressed(response, now)
        elif status < 300:
            self._accepted(response, now)
        elif status == 422 and self.state not in OVER and self._timer.raise_to(response):
            self._ask_longer(now)
        else:
            self._refused(status, response, now)

    def _progressed(self, response: Response, now: float) -> None:
        if self.state == "cancelling":
            self._cancel(now)
        if self.state not in ("calling", "proceeding"):
            return
        self._take("progressed")
        if response.status == 100:
            return
        fork = self._fork(response)
        sdp = response.body_of(SDP)
        if fork is not None and self.reliable and is_reliable(response):
            rseq = fork.receiver.take(response)
            if rseq is None:
                return
            prack = self.build("PRACK", dialog=fork.dialog)
            prack.headers.add("RAck", f"{rseq} {self.request.cseq.number} INVITE")
            self.send(prack, self._on_pracked, now, dialog=fork.dialog)
            if sdp is not None and self._offer is not None and len(self._forks) == 1:
                self.offers.pending, self.offers.remote_sdp = "", sdp
        if fork is not None and sdp is not None:
            fork.sdp = sdp
        self.note_allowed(response)
        self._core.emit(Progressed(self, response.status, sdp, response.headers))

    def _on_pracked(self, errand: Errand, status: int, response: Response | None, now: float) -> None:
        """Nothing to do: when the PRACK did not arrive, the phone gives up by itself."""

    def _fork(self, response: Response) -> _Fork | None:
        """The early dialog of the phone that answers; None for an old peer without a tag, or one too many."""
        tag = response.to.tag
        fork = self._forks.get(tag)
        if fork is None and tag and len(self._forks) < MAX_FORKS:
            fork = self._forks[tag] = _Fork(self._root.answered_by(response))
            self._core.know(self, fork.dialog)
            if len(self._forks) == 1:
                self.dialog = fork.dialog
        return fork

    def _accepted(self, response: Response, now: float) -> None:
        tag = response.to.tag
        ack = self._acks.get(tag)
        if ack is not None:
            self._core.transactions.send(*ack)
        elif self.state in ("calling", "proceeding"):
            self._confirm(response, tag, now)
        elif (self.state != "unacknowledged" or tag != self.dialog.remote_tag) and len(self._acks) < MAX_FORKS:
            self._turn_down(response, now)

    def _confirm(self, response: Response, tag: str, now: float) -> None:
        fork = self._forks.pop(tag, None)
        dialog = fork.dialog if fork is not None else self._root.answered_by(response)
        dialog.adopt(response)
        self.dialog = dialog
        self._core.know(self, dialog)
        self._part_forks(now)
        self.remote_party = response.to
        self.note_allowed(response)
        self._timer.settle(response, now)
        sdp = response.body_of(SDP)
        if sdp is None and self._offer is not None and fork is not None:
            sdp = fork.sdp
        offers = self.offers
        if self._offer is None and sdp is not None:
            self._take("accepted with an offer")
            offers.pending, offers.remote_sdp = "theirs", sdp
            self._core.emit(Answered(self, sdp, response.headers, is_offer=True))
            return
        self._take("accepted")
        self._acknowledge(dialog, b"")
        if sdp is None:
            self.lost("protocol", "answered without SDP", now)
            return
        offers.pending, offers.remote_sdp = "", sdp
        self.set_alarm()
        self._core.emit(Answered(self, sdp, response.headers))
        offers.go_on(now)

    def _turn_down(self, response: Response, now: float) -> None:
        """A 2xx of another phone, or one that crossed our CANCEL: acknowledge it and hang up (section 13.2.2.4)."""
        dialog = self._root.answered_by(response)
        self._acknowledge(dialog, b"")
        self._bye([("Reason", NORMAL)], now, dialog=dialog)
        if self.state == "cancelling":
            self._take("accepted")
            self._close(now)

    def _acknowledge(self, dialog: Dialog, sdp: bytes) -> None:
        self._acks[dialog.remote_tag] = self.send_ack(self.request, sdp, dialog=dialog)

    def _refused(self, status: int, response: Response | None, now: float) -> None:
        if "refused" not in TABLE[self.state]:
            return  # the transaction gave up on a call that has been answered meanwhile
        told = self.state in OVER
        self._take("refused")
        self._close(now)
        if not told:
            reason = response.reason if response is not None else ""
            headers = response.headers if response is not None else None
            self._core.emit(Refused(self, status, reason, headers))

    def _ask_longer(self, now: float) -> None:
        """The peer wants a longer session interval (RFC 4028 section 7.3): ask again."""
        old = self.request
        headers = old.headers.copy()
        headers.remove("Session-Expires")
        headers.remove("Min-SE")
        headers.set("CSeq", f"{self._root.next_number()} INVITE")
        add_fields(headers, self._timer.request_headers())
        self.request = Request("INVITE", old.uri, headers, old.body)
        self._errand = self._send_invite(self.request, now)

    # --- inside -----------------------------------------------------------------------

    def _cancel(self, now: float) -> None:
        """Send the CANCEL, unless nothing has come back yet (section 9.1)."""
        tx = self._errand.tx if self._errand is not None else None
        if tx is not None and tx.state is TxState.PROCEEDING and not tx.cancelled:
            try:
                self._core.transactions.cancel(tx, now, self._farewell)
            except TooManyTransactions:
                self._core.timers.set(now + self._core.t2, self._cancel)  # there will be room

    def _part_forks(self, now: float) -> None:
        for fork in self._forks.values():
            self._core.part(fork.dialog, now)
        self._forks.clear()

    def _close(self, now: float) -> None:
        super()._close(now)
        self._errand = None
        self._part_forks(now)
