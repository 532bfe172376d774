"""One call: what is common to both directions, from the answer to the end.

Theory of operation
-------------------
A session begins with an INVITE and lives until the dialog is over. `TABLE` is its one state machine; what happens to
it are *steps*, ours or the peer's. A step that the table does not list raises `IllegalStep` when it is ours, is
answered with an error when it is the peer's, and changes nothing either way.

An **inbound** session (`incoming.py`) starts `incoming` (100 sent), may be `ringing`, and with our 2xx becomes
`answered`: the 2xx is sent again until the ACK makes it `confirmed`. If we hang up in between it is `leaving`, as a
BYE must not overtake the ACK (RFC 3261 section 15). Before the answer it ends by our refusal or the caller's CANCEL.

An **outbound** session (`outgoing.py`) starts `calling`, is `proceeding` once anything but silence comes back, and
with a 2xx `confirmed`, at once acknowledged; or `unacknowledged` when we called without an offer and the owner must
first answer theirs. When we hang up before the answer it is `cancelling`: the CANCEL waits for the first provisional,
and a 2xx that crosses it is acknowledged and hung up.

From `confirmed` on both are the same. Offers go through `offers.py`, transfers through `transfer.py`, and the session
timer makes sure that the call does not outlive its peer. The owner hears of the end at once; what is left to do after
that (`leaving`, `cancelling`, 2xx of other phones) is done without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING, Final, Literal

from offhook.providers.sip.core import ALLOW, KNOWN_METHODS, OPTION_TAGS, Core, Fields, IllegalStep, add_fields, checked
from offhook.providers.sip.dialog import Dialog, next_hop
from offhook.providers.sip.errand import Credentials, Errand, OnResponse
from offhook.providers.sip.events import Ended, EndedBy, InfoReceived, UaEvent
from offhook.providers.sip.hop import Hop
from offhook.providers.sip.message import Message, Request, Response
from offhook.providers.sip.offers import SDP, Offers
from offhook.providers.sip.session_timer import SessionTimer
from offhook.providers.sip.timers import Timer
from offhook.providers.sip.transaction import ServerTransaction
from offhook.providers.sip.transfer import Transfer

if TYPE_CHECKING:
    from offhook.providers.sip.headers import NameAddr

State = Literal[
    "incoming",
    "ringing",
    "answered",
    "leaving",
    "calling",
    "proceeding",
    "unacknowledged",
    "cancelling",
    "confirmed",
    "ended",
]
Step = Literal[
    "ring",
    "answer",
    "refuse",
    "hang up",
    "acknowledge",
    "progressed",
    "accepted",
    "accepted with an offer",
    "refused",
    "cancelled",
    "acked",
    "bye",
    "lost",
]
_BEFORE_ANSWER: Final[dict[Step, State]] = {
    "ring": "ringing",
    "answer": "answered",
    "refuse": "ended",
    "hang up": "ended",
    "cancelled": "ended",
    "bye": "ended",
    "lost": "ended",
}
_BEFORE_ANSWERED: Final[dict[Step, State]] = {
    "progressed": "proceeding",
    "accepted": "confirmed",
    "accepted with an offer": "unacknowledged",
    "refused": "ended",
    "hang up": "cancelling",
}
TABLE: Final[Mapping[State, Mapping[Step, State]]] = {
    "incoming": _BEFORE_ANSWER,
    "ringing": _BEFORE_ANSWER,
    "answered": {"acked": "confirmed", "hang up": "leaving", "bye": "ended", "lost": "ended"},
    "leaving": {"acked": "ended", "bye": "ended", "lost": "ended"},
    "calling": _BEFORE_ANSWERED,
    "proceeding": _BEFORE_ANSWERED,
    "unacknowledged": {"acknowledge": "confirmed", "hang up": "ended", "bye": "ended", "lost": "ended"},
    "cancelling": {"progressed": "cancelling", "accepted": "ended", "refused": "ended"},
    "confirmed": {"hang up": "ended", "bye": "ended", "lost": "ended"},
    "ended": {},
}
"""State, step, next state."""

OVER: Final = frozenset({"leaving", "cancelling", "ended"})
"""States in which the owner has been told that the call is over."""

NORMAL: Final = "Q.850;cause=16"
"""Reason of a plain hang-up (RFC 3326): normal call clearing."""

TIMED_OUT: Final = 'Q.850;cause=102;text="Recovery on timer expiry"'
"""Reason of a hang-up because of a timer."""


class InviteSession:
    """One call. Made by `UserAgent.take_invite` and `UserAgent.invite`, never directly."""

    direction: Literal["inbound", "outbound"]

    def __init__(
        self,
        core: Core,
        state: State,
        request: Request,
        dialog: Dialog,
        timer: SessionTimer,
        *,
        reliable: bool,
        credentials: Credentials | None = None,
    ) -> None:
        self.id = core.new_token()
        "Ours, unique, unguessable."
        self.state: State = state
        self.request = request
        "The INVITE."
        self.headers = request.headers
        self.remote_offer: bytes | None = None
        "The SDP of an inbound INVITE; None when we must offer in our answer."
        inbound = self.direction == "inbound"
        self.remote_party: NameAddr = request.from_ if inbound else request.to
        self.local_party: NameAddr = request.to if inbound else request.from_
        self.dialog = dialog
        self.replaces: InviteSession | None = None
        "Inbound: the call that this one takes over (RFC 3891); hang it up once this one is answered."
        self.peer_allows: frozenset[str] = frozenset()
        "Methods in the peer's Allow."
        self.reliable = reliable
        "Whether we speak 100rel."
        self.offers = Offers(self, core)
        "Where offers and answers stand."
        self._core = core
        self._timer = timer
        self._alarm: Timer | None = None
        self._credentials = credentials
        self._transfer = Transfer(self, core)

    # --- what the owner does ----------------------------------------------------------

    def ring(self, status: int = 180, sdp: bytes | None = None, headers: Fields = (), *, now: float) -> None:
        """Inbound: send a provisional response; with SDP it is early media. Repeated every minute by itself.

        Args:
            sdp: the answer to `remote_offer`; the 2xx must carry the same.

        Raises: IllegalStep.
        """
        raise IllegalStep("an outbound call cannot ring")

    def answer(self, sdp: bytes, headers: Fields = (), *, now: float) -> None:
        """Inbound: send 200 with the answer to `remote_offer`, or with our offer when there was none.

        Raises: IllegalStep.
        """
        raise IllegalStep("an outbound call is answered by the peer")

    def refuse(self, status: int, reason: str = "", headers: Fields = (), *, now: float) -> None:
        """Inbound: send a final response of 300 to 699. Raises IllegalStep."""
        raise IllegalStep("an outbound call is refused by the peer; hang it up")

    def acknowledge(self, sdp: bytes, now: float) -> None:
        """Outbound, called without an offer: send the ACK with the answer to theirs. Raises IllegalStep."""
        raise IllegalStep("only an outbound call without an offer waits for this")

    def hang_up(self, reason: str = NORMAL, headers: Fields = (), *, now: float) -> None:
        """End the call as its state demands: BYE, CANCEL or a refusal. `Ended` follows; harmless when it is over.

        Args:
            reason: the Reason header to send (RFC 3326); empty for none.

        Raises: ValueError, for headers that cannot be sent; so do all methods that take headers.
        """
        if self.state in OVER:
            return
        fields = checked(headers, reason)
        self._take("hang up")
        self._bye(fields, now)
        self._end(Ended(self, self._us, reason, None), now)

    def offer(self, sdp: bytes, now: float, *, update: bool = False) -> None:
        """Offer other media: hold, resume, another address. `OfferAnswered` follows.

        Waits while another offer is under way or the call is not confirmed yet; of several that wait, the last is
        sent. A crossing offer of the peer (491) is retried by itself.

        Args:
            update: by UPDATE instead of re-INVITE, where the peer takes it.

        Raises: IllegalStep, when the call is over.
        """
        if self.state in OVER:
            raise IllegalStep("a call that is over cannot change its media")
        self.offers.offer(sdp, update, now)

    def answer_offer(self, sdp: bytes | None, status: int = 200, *, now: float) -> None:
        """Answer an `OfferReceived`.

        Args:
            sdp: the answer, or our full offer when the peer asked for one; None with a status from 300 to 699.

        Raises: IllegalStep, when no offer waits.
        """
        self.offers.answer(sdp, status, now)

    def refer(self, to: str, *, replaces: InviteSession | None = None, headers: Fields = (), now: float) -> None:
        """Ask the peer to call somebody else (RFC 3515). `ReferProgressed` follows; the call itself goes on.

        Args:
            to: URI, without angle brackets.
            replaces: the call of ours with that somebody that the new one shall take over (attended transfer).

        Raises: IllegalStep, when the call is not confirmed or another REFER is under way.
        """
        self._transfer.refer(to, replaces, headers, now)

    def accept_refer(self, tx: ServerTransaction, now: float) -> None:
        """Take on a `ReferReceived`: 202, and the first report. Raises IllegalStep when it was answered."""
        self._transfer.accept(tx, now)

    def refuse_refer(self, tx: ServerTransaction, status: int = 603, *, now: float) -> None:
        """Decline a `ReferReceived`. Raises IllegalStep when it was answered."""
        self._transfer.refuse(tx, status, now)

    def refer_progress(self, status: int, reason: str = "", *, now: float) -> None:
        """Report how the call goes that an accepted REFER asked for; a final status ends the reports.

        Nothing is sent when the peer wants no reports, or the call is over.
        """
        self._transfer.progress(status, reason, now)

    def info(self, body: bytes, content_type: str, now: float) -> None:
        """Send an INFO, such as `Signal=5` in `application/dtmf-relay`. Raises IllegalStep unless it is answered."""
        if self.state not in ("answered", "confirmed"):
            raise IllegalStep(f"a call that is {self.state} cannot send INFO")
        request = self.build("INFO", body=body, content_type=content_type)
        self.send(request, self._on_side_response, now)

    @property
    def confirmed(self) -> bool:
        """Whether both sides have the answer: BYE, offers and REFER may be sent."""
        return self.state == "confirmed"

    # --- for the other modules of this package ----------------------------------------

    @property
    def timer(self) -> SessionTimer:
        """The terms of the session timer."""
        return self._timer

    def build(
        self,
        method: str,
        *,
        body: bytes = b"",
        content_type: str = SDP,
        headers: Fields = (),
        dialog: Dialog | None = None,
    ) -> Request:
        """A request within the dialog, with what every such method carries."""
        request = (dialog or self.dialog).request(method, self._core.user_agent, body=body)
        if method in ("INVITE", "UPDATE"):
            self._core.add_abilities(request.headers, reliable=self.reliable)
        add_fields(request.headers, headers)
        if body:
            request.headers.add("Content-Type", content_type)
        return request

    def send(self, request: Request, on_response: OnResponse, now: float, *, dialog: Dialog | None = None) -> Errand:
        """Send a request within the dialog."""
        dialog = dialog or self.dialog
        hop = self._core.hop_for(dialog)
        errand = Errand(request, hop, on_response, next_number=dialog.next_number, credentials=self._credentials)
        errand.keeps = self
        if hop.reliable:
            # The connection may be gone: then a new one to where the URI points.
            direct = next_hop(dialog.next_uri, dialog.hop, reuse=False)
            errand.fallback = direct if direct != hop else None
        self._core.start(errand, now)
        return errand

    def send_ack(self, invite: Request, sdp: bytes, *, dialog: Dialog | None = None) -> tuple[Request, Hop]:
        """Acknowledge the 2xx to an INVITE of ours; gives what to send again when the 2xx comes again."""
        dialog = dialog or self.dialog
        ack = dialog.request("ACK", self._core.user_agent, number=invite.cseq.number, body=sdp)
        # Section 13.2.2.4: with the credentials of its INVITE.
        ack.headers.extend(invite.headers, "Authorization", "Proxy-Authorization")
        if sdp:
            ack.headers.add("Content-Type", SDP)
        hop = self._core.hop_for(dialog)
        self._core.transactions.send(ack, hop)
        return ack, hop

    def note_allowed(self, message: Message) -> None:
        """Remember which methods the peer serves, where it says so."""
        if "Allow" in message.headers:
            self.peer_allows = frozenset(message.options("Allow"))

    def refuse_interval(self, tx: ServerTransaction, request: Request, now: float) -> bool:
        """Answer 422 when the peer wants the session refreshed too often.

        Raises: BadMessage, when the request could not be accepted later on.
        """
        _ = request.contact
        if not self._timer.too_small(request):
            return False
        self._core.reply(tx, 422, headers=[self._timer.min_se_header], now=now)
        return True

    def settle_timer(self, request: Request, now: float) -> list[tuple[str, str]]:
        """Settle the session timer by an INVITE or UPDATE that we accept; gives the headers for the 2xx."""
        self.note_allowed(request)
        headers = self._timer.accept(request, now)
        self.set_alarm()
        return headers

    def set_alarm(self) -> None:
        """Wake for the session timer."""
        if self._alarm is not None:
            self._alarm.cancel()
        at = self._timer.next_at
        # An UPDATE may settle it while the call still rings; it begins to run with the answer.
        runs = at < inf and self.state in ("answered", "confirmed")
        self._alarm = self._core.timers.set(at, self._on_alarm) if runs else None

    def lost(self, by: EndedBy, cause: str, now: float, *, reason: str = "") -> None:
        """The call cannot go on: say BYE, in case that the peer hears it, and tell the owner."""
        if self.state in OVER:
            return
        self._take("lost")
        self._bye([("Reason", reason)] if reason else (), now)
        self._end(Ended(self, by, cause, None), now)

    # --- what the peer does -----------------------------------------------------------

    def on_request(self, tx: ServerTransaction, request: Request, dialog: Dialog, hop: Hop, now: float) -> None:
        """A request within the dialog, other than ACK and CANCEL. Raises BadMessage."""
        core, method = self._core, request.method
        if not dialog.in_order(request.cseq.number):
            core.reply(tx, 500, "CSeq Out Of Order", now=now)
            return
        dialog.hop = hop._replace(server_name=dialog.hop.server_name)
        unknown = request.options("Require") - OPTION_TAGS
        if unknown:
            core.reply(tx, 420, headers=[("Unsupported", ", ".join(sorted(unknown)))], now=now)
        elif method == "BYE":
            self._on_bye(tx, request, now)
        elif self.state in OVER:
            core.reply(tx, 481, now=now)
        elif method == "INVITE":
            self.offers.on_invite(tx, request, now)
        elif method == "UPDATE":
            self.offers.on_update(tx, request, now)
        elif method == "PRACK":
            self._on_prack(tx, request, now)
        elif method == "INFO":
            core.reply(tx, 200, now=now)
            core.emit(InfoReceived(self, request.body, request.content_type))
        elif method == "NOTIFY":
            self._transfer.on_notify(tx, request, now)
        elif method == "REFER":
            self._transfer.on_refer(tx, request, now)
        elif method == "OPTIONS":
            core.reply(tx, 200, headers=[("Allow", ALLOW), ("Accept", SDP)], now=now)
        else:
            core.reply(tx, 405 if method in KNOWN_METHODS else 501, headers=[("Allow", ALLOW)], now=now)

    def on_ack(self, request: Request, now: float) -> None:
        """An ACK for a 2xx. Raises BadMessage."""
        self.offers.on_ack(request, now)

    def _on_bye(self, tx: ServerTransaction, request: Request, now: float) -> None:
        if "bye" not in TABLE[self.state]:
            # A BYE that crosses ours is as good as any; one to an early dialog of ours is none (section 15).
            self._core.reply(tx, 200 if self.state in OVER else 481, now=now)
            return
        told = self.state in OVER
        self._take("bye")
        self._core.reply(tx, 200, now=now)
        self._close(now)
        if not told:
            self._core.emit(Ended(self, self._them, request.headers.get("Reason") or "BYE", request.headers))

    def _on_prack(self, tx: ServerTransaction, request: Request, now: float) -> None:
        self._core.reply(tx, 481, now=now)

    # --- inside -----------------------------------------------------------------------

    @property
    def _us(self) -> EndedBy:
        return "callee" if self.direction == "inbound" else "caller"

    @property
    def _them(self) -> EndedBy:
        return "caller" if self.direction == "inbound" else "callee"

    def _take(self, step: Step) -> None:
        to = TABLE[self.state].get(step)
        if to is None:
            raise IllegalStep(f"a call that is {self.state} cannot {step}")
        self.state = to

    def _bye(self, headers: Fields, now: float, *, dialog: Dialog | None = None) -> None:
        self.send(self.build("BYE", dialog=dialog, headers=headers), _ignore, now, dialog=dialog)

    def _end(self, event: UaEvent, now: float) -> None:
        """The owner hears of the end, and nothing is left to do."""
        self._close(now)
        self._core.emit(event)

    def _close(self, now: float) -> None:
        """Let go of everything, but for what transactions still have to do."""
        self.state = "ended"
        self._stop(now)
        self._core.part(self.dialog, now)
        self._core.sessions.pop(self.id, None)

    def _stop(self, now: float) -> None:
        """Stop what belongs to a live call."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self.offers.close(now)
        self._transfer.close(now)

    def _on_alarm(self, now: float) -> None:
        self._alarm = None
        if now >= self._timer.expires_at:
            self.lost("timer", "session timer ran out", now, reason=TIMED_OUT)
            return
        self._timer.refresh_at = inf
        self.offers.refresh(now)
        self.set_alarm()

    def _on_side_response(self, errand: Errand, status: int, response: Response | None, now: float) -> None:
        if status == 481:
            self.lost("protocol", "the peer does not know the call any more", now)


def _ignore(errand: Errand, status: int, response: Response | None, now: float) -> None:
    """What the peer says to a BYE changes nothing."""
