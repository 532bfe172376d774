"""A SIP user agent without sockets and clocks: messages and `now` in, events and messages out (RFC 3261).

Theory of operation
-------------------
The owner gives every message to `receive`, calls `tick` when `next_timer` says so, sends what is in `outbox`, and
acts on the events. What needs no decision is answered here: anything in a dialog that does not exist (481), CSeq out
of order (500), extensions and methods that are not served (420, 405, 501), BYE, ACK, PRACK, CANCEL, offers that
collide (491). A new request outside any dialog is not answered before the owner has seen it, so that strangers get
what the owner thinks fit. Calls themselves are `InviteSession`s.

Every method that may cause events without a message or a timer (a hang-up, say) leaves them to the next `tick`:
`next_timer` is then in the past. `events` gives them at once.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Final

from offhook.providers.sip.core import ALLOW, KNOWN_METHODS, OPTION_TAGS, Core, Fields, IllegalStep, add_fields, checked
from offhook.providers.sip.dialog import Dialog, DialogId, next_hop
from offhook.providers.sip.errand import Credentials, Errand
from offhook.providers.sip.events import RequestArrived, RequestDone, UaEvent
from offhook.providers.sip.headers import NameAddr
from offhook.providers.sip.hop import Hop
from offhook.providers.sip.incoming import IncomingSession
from offhook.providers.sip.invite import InviteSession
from offhook.providers.sip.message import BadMessage, Headers, Message, Request, Response, check
from offhook.providers.sip.offers import SDP
from offhook.providers.sip.outgoing import OutgoingSession
from offhook.providers.sip.reliable import Policy
from offhook.providers.sip.session_timer import FLOOR, SessionTimer
from offhook.providers.sip.transaction import (
    T1,
    T2,
    AckReceived,
    CancelReceived,
    RequestReceived,
    ResponseReceived,
    ServerTransaction,
    Transactions,
    TxEvent,
    TxFailed,
    TxTimeout,
)
from offhook.providers.sip.transfer import Replaces
from offhook.providers.sip.uri import Uri

__all__ = ["IllegalStep", "InviteSession", "UserAgent"]

MAX_UNDECIDED: Final = 10_000
"""INVITEs that may wait for the owner's decision; it decides at once unless something is broken."""


class UserAgent:
    """All calls of one endpoint.

    Args:
        transactions: the layer below, for this user agent alone.
        user_agent: what User-Agent and Server say.
        contact_of: gives the URI by which a peer at that hop reaches us: `sip:203.0.113.5:5060;transport=tcp`.
        hop_of: gives the hop for a request within a call, from the URI of its next stop and the hop where the peer
            was last seen.
        rng: for pauses and first numbers.
        new_token: gives tags and Call-IDs that nobody can guess and that were never given before.
        t1, t2: as given to the transactions.
    """

    def __init__(
        self,
        transactions: Transactions,
        *,
        user_agent: str = "offhook",
        contact_of: Callable[[Hop], str],
        hop_of: Callable[[str, Hop], Hop] = next_hop,
        rng: random.Random | None = None,
        new_token: Callable[[], str] | None = None,
        t1: float = T1,
        t2: float = T2,
    ) -> None:
        self._transactions = transactions
        self._core = Core(
            transactions,
            user_agent=user_agent,
            contact_of=contact_of,
            hop_of=hop_of,
            rng=rng,
            new_token=new_token,
            t1=t1,
            t2=t2,
        )
        self._undecided: dict[ServerTransaction, None] = {}
        self._invites: dict[ServerTransaction, IncomingSession] = {}
        self._next_id = 0

    # --- driving it -------------------------------------------------------------------

    def receive(self, message: Message, hop: Hop, now: float) -> list[UaEvent]:
        """Take a message of a peer."""
        for event in self._transactions.receive(message, hop, now):
            self._take(event, now)
        return self._core.drain()

    def tick(self, now: float) -> list[UaEvent]:
        """Do what is due."""
        for event in self._transactions.tick(now):
            self._take(event, now)
        self._core.timers.run(now)
        return self._core.drain()

    def transport_failed(self, hop: Hop, now: float) -> list[UaEvent]:
        """What was sent to this hop cannot be delivered."""
        for event in self._transactions.transport_failed(hop, now):
            self._take(event, now)
        return self._core.drain()

    def next_timer(self) -> float | None:
        """When `tick` is due, in the past when events wait; None while there is nothing to wait for."""
        if self._core.has_events:
            return 0.0
        times = [at for at in (self._transactions.next_timer(), self._core.timers.next()) if at is not None]
        return min(times, default=None)

    def events(self) -> list[UaEvent]:
        """What has happened since events were given last."""
        return self._core.drain()

    @property
    def outbox(self) -> list[tuple[bytes, Hop]]:
        """Messages to send, to be taken out by the owner."""
        return self._transactions.outbox

    @property
    def sessions(self) -> Sequence[InviteSession]:
        """The calls that have something left to do, if only to say BYE once the ACK is in."""
        return list(self._core.sessions.values())

    # --- requests that arrived --------------------------------------------------------

    def respond(
        self,
        tx: ServerTransaction,
        status: int,
        reason: str = "",
        headers: Fields = (),
        *,
        body: bytes = b"",
        content_type: str = SDP,
        stranger: bool = False,
        now: float,
    ) -> None:
        """Answer a request that arrived, finally unless the status is below 200; nothing when that was done.

        Args:
            stranger: the sender has not been admitted: keep no memory of the request. Its repetitions arrive as new
                requests, and want the same answer.
        """
        if tx.answered:
            return
        if status >= 200:
            self._undecided.pop(tx, None)
        tag = "" if status == 100 else _tag_of(tx.request) if stranger else self._core.new_token()
        response = self._core.response(
            tx.request, status, reason, to_tag=tag, headers=headers, body=body, content_type=content_type
        )
        if stranger and status >= 200:
            self._transactions.forget(tx, response)
        else:
            self._transactions.respond(tx, response, now)

    def dismiss(self, tx: ServerTransaction, now: float) -> None:
        """Answer an admitted request that nobody serves: OPTIONS with 200, else 405, 481 or 501."""
        method = tx.method
        if method == "OPTIONS":
            supported = ", ".join(sorted(OPTION_TAGS))
            self.respond(tx, 200, headers=[("Allow", ALLOW), ("Accept", SDP), ("Supported", supported)], now=now)
        elif method in ("BYE", "UPDATE", "INFO", "PRACK", "NOTIFY"):
            self.respond(tx, 481, now=now)
        else:
            self.respond(tx, 405 if method in KNOWN_METHODS else 501, headers=[("Allow", ALLOW)], now=now)

    def ignore(self, tx: ServerTransaction) -> None:
        """Leave a request that arrived without any answer, and forget it."""
        if not tx.answered:
            self._undecided.pop(tx, None)
            self._transactions.forget(tx)

    def take_invite(
        self,
        tx: ServerTransaction,
        now: float,
        *,
        reliable: Policy = "supported",
        session_expires: int = 1800,
        min_se: int = FLOOR,
        credentials: Credentials | None = None,
    ) -> InviteSession | None:
        """Take an admitted INVITE on as a call, answered with 100.

        None when there is none: it was cancelled meanwhile, or cannot be served and has been answered with 400, 415,
        420, 422, or, for a Replaces that names nothing that can be replaced, 481, 486 or 603.

        Args:
            reliable: whether provisional responses must arrive (100rel).
            session_expires: the session timer that we want, in seconds; 0 for none of ours.
            min_se: the least interval that we let the caller ask for.
            credentials: answer a 401 or 407 to our requests within the call with these.
        """
        if self._undecided.pop(tx, tx) is tx:
            return None
        timer = SessionTimer(session_expires, min_se)
        try:
            replaced = self._admit(tx, timer, reliable, now)
            if tx.answered:
                return None
            session = IncomingSession(self._core, tx, timer, reliable, self._invites, credentials, now)
        except BadMessage as error:
            self.respond(tx, error.status, str(error), now=now)
            return None
        session.replaces = replaced
        return session

    def _admit(self, tx: ServerTransaction, timer: SessionTimer, reliable: Policy, now: float) -> InviteSession | None:
        """Refuse an INVITE that cannot be served; the call that it replaces, if any. Raises BadMessage."""
        request = tx.request
        check(request)
        known = OPTION_TAGS if reliable != "off" else OPTION_TAGS - {"100rel"}
        unknown = request.options("Require") - known
        if unknown:
            self.respond(tx, 420, headers=[("Unsupported", ", ".join(sorted(unknown)))], now=now)
        elif request.body and request.body_of(SDP) is None:
            self.respond(tx, 415, headers=[("Accept", SDP)], now=now)
        elif timer.too_small(request):
            self.respond(tx, 422, headers=[timer.min_se_header], now=now)
        elif "Replaces" in request.headers:
            return self._replaced(tx, now)
        return None

    def _replaced(self, tx: ServerTransaction, now: float) -> InviteSession | None:
        values = tx.request.headers.lines("Replaces")
        if len(values) > 1:
            raise BadMessage("Replaces is given more than once")
        named = Replaces.parse(values[0])
        id = DialogId(named.call_id, named.to_tag, named.from_tag)
        found = self._core.find(id)
        if found is None:
            self.respond(tx, 603 if self._core.has_ended(id, now) else 481, now=now)
            return None
        session = found[0]
        if session.confirmed:
            if named.early_only:
                self.respond(tx, 486, now=now)
        elif session.direction == "inbound":
            self.respond(tx, 481, now=now)  # RFC 3891 section 3: an early dialog only where we are the caller
        return session

    # --- requests of ours -------------------------------------------------------------

    def invite(
        self,
        target: Uri,
        hop: Hop,
        *,
        local: NameAddr,
        remote: NameAddr,
        sdp: bytes | None,
        headers: Fields = (),
        credentials: Credentials | None = None,
        route: Sequence[str] = (),
        session_expires: int = 1800,
        min_se: int = FLOOR,
        reliable: Policy = "supported",
        replaces: Replaces | None = None,
        call_id: str = "",
        now: float,
    ) -> InviteSession:
        """Call somebody.

        Args:
            target: Request-URI.
            hop: where the INVITE is sent.
            local, remote: From and To, without tags.
            sdp: our offer; None: let the callee offer (then `InviteSession.acknowledge` must answer).
            credentials: answer a 401 or 407 with these.
            route: Route values for an outbound proxy.
            session_expires: the session timer that we want, in seconds; 0 for none of ours.
            replaces: the call at the callee that this one takes over.

        Raises: ValueError, for headers that cannot be sent, or a hop that no Via can be made of.
        """
        core = self._core
        fields = checked(headers)
        if replaces is not None:
            fields += [("Replaces", str(replaces)), ("Require", "replaces")]
        tag = core.new_token()
        contact = f"<{core.contact_of(hop)}>"
        dialog = Dialog(
            call_id or f"{core.new_token()}{core.new_token()}",
            str(local.with_tag(tag)),
            tag,
            str(remote),
            str(target),
            hop,
            contact,
            core.rng.randint(1, 2**16),
        )
        dialog.routes = list(route)
        timer = SessionTimer(session_expires, min_se)
        return OutgoingSession(core, dialog, sdp, fields, timer, reliable, credentials, now)

    def request(
        self,
        method: str,
        target: Uri,
        hop: Hop,
        *,
        local: NameAddr,
        remote: NameAddr,
        headers: Fields = (),
        body: bytes = b"",
        content_type: str = "",
        credentials: Credentials | None = None,
        route: Sequence[str] = (),
        now: float,
    ) -> int:
        """Send a request outside any dialog, such as OPTIONS; `RequestDone` with the id that this gives follows."""
        core = self._core
        tag = core.new_token()
        contact = f"<{core.contact_of(hop)}>"
        dialog = Dialog(
            f"{core.new_token()}{core.new_token()}",
            str(local.with_tag(tag)),
            tag,
            str(remote),
            str(target),
            hop,
            contact,
            0,
        )
        dialog.routes = list(route)
        request = dialog.request(method, core.user_agent, body=body)
        add_fields(request.headers, headers)
        if body and content_type:
            request.headers.add("Content-Type", content_type)
        return self._start(
            Errand(request, hop, self._done, next_number=dialog.next_number, credentials=credentials), now
        )

    def send_request(self, request: Request, hop: Hop, now: float) -> int:
        """Send a request that is complete but for the Via (a REGISTER, say); `RequestDone` follows."""
        number = request.cseq.number
        return self._start(Errand(request, hop, self._done, next_number=lambda: number + 1), now)

    def _start(self, errand: Errand, now: float) -> int:
        self._next_id += 1
        errand.id = self._next_id
        self._core.start(errand, now)
        return errand.id

    def _done(self, errand: Errand, status: int, response: Response | None, now: float) -> None:
        if status >= 200:
            headers: Headers | None = response.headers if response is not None else None
            self._core.emit(RequestDone(errand.id, status, headers, response))

    # --- what the transactions tell ---------------------------------------------------

    def _take(self, event: TxEvent, now: float) -> None:
        try:
            match event:
                case RequestReceived():
                    self._on_request(event.tx, event.request, event.hop, now)
                case ResponseReceived():
                    self._core.responded(event.tx, event.response, now)
                case AckReceived():
                    self._on_ack(event.request, now)
                case CancelReceived():
                    self._on_cancel(event, now)
                case TxTimeout():
                    self._core.failed(event.tx, 408, now)
                case TxFailed():
                    self._core.failed(event.tx, 503, now)
                case _:  # AckTimeout: the call is refused all the same
                    pass
        except BadMessage as error:
            if isinstance(event, RequestReceived):
                self.respond(event.tx, error.status, str(error), stranger=True, now=now)

    def _on_request(self, tx: ServerTransaction, request: Request, hop: Hop, now: float) -> None:
        if not request.to.tag:
            if request.method == "INVITE":
                if len(self._undecided) >= MAX_UNDECIDED:
                    self.respond(tx, 503, headers=[("Retry-After", "5")], stranger=True, now=now)
                    return
                self._undecided[tx] = None
            self._core.emit(RequestArrived(tx, request, hop))
            return
        id = DialogId.of_request(request)
        found = self._core.find(id)
        if found is not None:
            found[0].on_request(tx, request, found[1], hop, now)
        elif request.method in ("BYE", "NOTIFY") and self._core.has_ended(id, now):
            self._core.reply(tx, 200, now=now)
        else:
            # Nobody has admitted the sender: no memory, and no repetitions to one who is not there.
            self.respond(tx, 481, stranger=True, now=now)

    def _on_ack(self, request: Request, now: float) -> None:
        found = self._core.find(DialogId.of_request(request))
        if found is not None:
            found[0].on_ack(request, now)

    def _on_cancel(self, event: CancelReceived, now: float) -> None:
        invite = event.invite
        if invite is None:
            self.respond(event.tx, 481, stranger=True, now=now)
            return
        session = self._invites.get(invite)
        # Section 9.2: the To tag is that of the answers to the INVITE.
        self._core.reply(event.tx, 200, to_tag=session.dialog.local_tag if session is not None else "", now=now)
        if session is not None:
            session.on_cancel(event.request, now)
        elif invite in self._undecided:
            self.respond(invite, 487, now=now)


def _tag_of(request: Request) -> str:
    """The same tag for every repetition of a request (RFC 3261 section 8.2.7)."""
    seen = f"{request.headers.get('Call-ID')}\0{request.headers.get('From')}\0{request.headers.get('CSeq')}"
    return hashlib.blake2s(seen.encode(), digest_size=8).hexdigest()
