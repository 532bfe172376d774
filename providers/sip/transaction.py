"""SIP transactions: a request, its answers, and everything that is sent twice because a datagram may be lost.

The states are in `transaction_state`. Here: what belongs to which transaction, what is sent, what is told to the
user agent.

Memory is bounded by `MAX_SERVER` and `MAX_CLIENT`. A request that is refused or ignored before its sender has been
admitted should be given to `forget`, so that strangers cannot fill the table.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, TypeAlias

from offhook.providers.sip.headers import Via
from offhook.providers.sip.hop import Hop
from offhook.providers.sip.message import BadMessage, Headers, Message, Request, Response, respond
from offhook.providers.sip.transaction_state import (
    ClientTransaction,
    IllegalStepError,
    Key,
    Kind,
    ServerTransaction,
    State,
    Step,
    Timers,
    Transaction,
)
from offhook.providers.sip.uri import format_host

__all__ = [
    "AckReceived",
    "AckTimeout",
    "CancelReceived",
    "ClientTransaction",
    "IllegalStepError",
    "RequestReceived",
    "ResponseReceived",
    "ServerTransaction",
    "State",
    "TooManyTransactions",
    "Transaction",
    "Transactions",
    "TxEvent",
    "TxFailed",
    "TxTimeout",
    "new_branch",
]

T1: Final = 0.5
T2: Final = 4.0
T4: Final = 5.0
"""Seconds: estimated round trip, longest pause between repetitions, longest life of a datagram (table 4)."""

PATIENCE: Final = 64
"""How many T1 until a peer that does not answer is given up: timers B, F, H, J, L, M."""

MAX_SERVER: Final = 20_000
"""Transactions that peers may have with us. 100 calls a second leave 6,400 behind (INVITE and BYE, 32 s each)."""

MAX_CLIENT: Final = 20_000
"""Transactions that we may have with peers, likewise."""

RESERVE: Final = 4_000
"""More of them for requests inside a dialog and CANCEL, so that calls can still end when no new one is taken."""

RETRY_AFTER: Final = 5
"""Seconds in the Retry-After of the 503 beyond `MAX_SERVER`."""

COOKIE: Final = "z9hG4bK"
"""What a branch starts with that is unique in space and time (section 8.1.1.7)."""

DEFAULT_PORTS: Final[Mapping[str, int]] = {"udp": 5060, "tcp": 5060, "tls": 5061}

MAX_FORWARDS: Final = "70"


class TooManyTransactions(RuntimeError):
    """`MAX_CLIENT` transactions are under way; ours to refuse, as 503."""


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """A request that is new; its repetitions are answered from memory. Not for ACK and CANCEL."""

    tx: ServerTransaction
    request: Request
    hop: Hop


@dataclass(frozen=True, slots=True)
class AckReceived:
    """An ACK that is not for a 3xx-6xx of ours: for a 2xx, or for nothing that we know."""

    request: Request
    hop: Hop


@dataclass(frozen=True, slots=True)
class CancelReceived:
    """A CANCEL. Answer it with 200 (481 when `invite` is None), and the INVITE, when unanswered, with 487."""

    tx: ServerTransaction
    "Of the CANCEL itself."
    invite: ServerTransaction | None
    request: Request


@dataclass(frozen=True, slots=True)
class ResponseReceived:
    """A provisional, the final, or one more 2xx to an INVITE."""

    tx: ClientTransaction
    response: Response


@dataclass(frozen=True, slots=True)
class TxTimeout:
    """Nothing answered in time (timer B or F): treat as 408."""

    tx: ClientTransaction


@dataclass(frozen=True, slots=True)
class AckTimeout:
    """Nobody acknowledged our 3xx-6xx (timer H)."""

    tx: ServerTransaction


@dataclass(frozen=True, slots=True)
class TxFailed:
    """The transport could not deliver the request: treat as 503 (section 8.1.3.1)."""

    tx: ClientTransaction


TxEvent: TypeAlias = (
    RequestReceived | AckReceived | CancelReceived | ResponseReceived | TxTimeout | AckTimeout | TxFailed
)


def new_branch() -> str:
    """A branch that nobody can guess: 128 random bits."""
    return COOKIE + secrets.token_hex(16)


class Transactions:
    """All transactions of one user agent.

    After every call that may have sent something, drain `outbox`, and have `tick` called at `next_timer`.

    Args:
        t1, t2, t4: the timers of table 4, in seconds.
        new_branch: gives a branch that starts with `COOKIE` and was never given before.
        sent_by: what our Via names for a hop, `host:port`; the local address of the hop when None.
    """

    def __init__(
        self,
        *,
        t1: float = T1,
        t2: float = T2,
        t4: float = T4,
        new_branch: Callable[[], str] = new_branch,
        sent_by: Callable[[Hop], str] | None = None,
    ) -> None:
        self.outbox: list[tuple[bytes, Hop]] = []
        self.malformed = 0
        "Messages dropped since a header that a transaction lives by could not be read."
        self.strays = 0
        "Responses to nothing that we asked."
        self._t1, self._t2, self._t4 = t1, t2, t4
        self._patience = PATIENCE * t1
        self._new_branch = new_branch
        self._sent_by = sent_by
        self._clients: dict[Key, ClientTransaction] = {}
        self._servers: dict[Key, ServerTransaction] = {}
        self._merged: dict[Key, ServerTransaction] = {}
        self._by_peer: dict[Key, dict[Transaction, None]] = {}
        self._timers = Timers()

    def __len__(self) -> int:
        return len(self._clients) + len(self._servers)

    # --- what comes in --------------------------------------------------------------

    def receive(self, message: Message, hop: Hop, now: float) -> Sequence[TxEvent]:
        """Take a message of a peer, in `received` and `rport` of whose top Via the hop is noted (RFC 3581)."""
        try:
            if isinstance(message, Response):
                return self._response(message, now)
            return self._request(message, hop, now)
        except BadMessage:
            self.malformed += 1
            return ()

    def _response(self, response: Response, now: float) -> Sequence[TxEvent]:
        tx = self._clients.get((response.top_via.branch, response.cseq.method))
        if tx is None:
            self.strays += 1
            return ()
        step, before = _step_of(response.status), tx.state
        if not tx.can(step):
            return ()
        if tx.kind is Kind.CLIENT_INVITE and step is Step.FAILURE:
            if before is not State.COMPLETED:
                tx._data = self._ack_of(tx, response).encode()
            self.outbox.append((tx._data, tx.hop))
        tx._take(step)
        if before is State.COMPLETED:
            return ()
        if tx.state is State.COMPLETED:
            self._linger(tx, self._patience if tx.kind is Kind.CLIENT_INVITE else self._t4, now)
        elif tx.state is State.ACCEPTED and before is not State.ACCEPTED:
            self._arm(tx, deadline=now + self._patience)
        elif tx.kind is Kind.CLIENT_INVITE and before is State.CALLING:
            self._arm(tx)
        return (ResponseReceived(tx, response),)

    def _request(self, request: Request, hop: Hop, now: float) -> Sequence[TxEvent]:
        via = request.top_via
        method = "INVITE" if request.method == "ACK" else request.method
        key = _server_key(request, via, method)
        tx = self._servers.get(key)
        if request.method == "ACK":
            return self._acked(tx, request, hop, now)
        if tx is not None:
            self._repeated(tx, _reply_hop(via, hop), hop)
            return ()
        in_dialog = bool(request.to.tag)
        merge_key = None if in_dialog or method == "CANCEL" else _merge_key(request)
        _stamp(request, via, hop)
        reply_hop = _reply_hop(via, hop)
        if merge_key in self._merged:
            self._refuse(request, 482, reply_hop, key)
            return ()
        if len(self._servers) >= MAX_SERVER + (RESERVE if in_dialog or method == "CANCEL" else 0):
            self._refuse(request, 503, reply_hop, key)
            return ()
        kind, state = (Kind.SERVER_INVITE, State.PROCEEDING) if method == "INVITE" else (Kind.SERVER, State.TRYING)
        fallback = reply_hop._replace(port=via.port or DEFAULT_PORTS[hop.transport])
        tx = self._servers[key] = ServerTransaction(kind, state, key, request, hop, reply_hop, fallback)
        if merge_key is not None:
            tx._merge_key = merge_key
            self._merged[merge_key] = tx
        if hop.reliable:
            self._watch(tx)
        if kind is Kind.SERVER:
            self._arm(tx, deadline=now + self._patience)
        if method == "CANCEL":
            invite = self._servers.get(_server_key(request, via, "INVITE"))
            # Only the hop that sent the INVITE may cancel it (section 9.2).
            return (CancelReceived(tx, invite if invite and invite.source.host == hop.host else None, request),)
        return (RequestReceived(tx, request, hop),)

    def _acked(self, tx: ServerTransaction | None, request: Request, hop: Hop, now: float) -> Sequence[TxEvent]:
        if tx is None or tx.state is State.ACCEPTED:
            return (AckReceived(request, hop),)
        if tx.can(Step.ACK):
            before = tx.state
            tx._take(Step.ACK)
            if before is State.COMPLETED:
                tx._data = b""
                self._linger(tx, self._t4, now)
        return ()

    def _repeated(self, tx: ServerTransaction, reply_hop: Hop, source: Hop) -> None:
        tx._take(Step.REPEATED)
        if tx.hop != reply_hop and tx.source[:2] == source[:2]:
            # The same host by another port: a NAT forgot it, or it connected anew.
            self._unwatch(tx)
            tx.source, tx.hop = source, reply_hop
            if source.reliable:
                self._watch(tx)
        if tx._data:
            self.outbox.append((tx._data, tx.hop))

    def _refuse(self, request: Request, status: int, hop: Hop, key: Key) -> None:
        """Answer without remembering; a repetition gets the same answer, with the same tag (section 8.2.7)."""
        tag = hashlib.blake2s(repr(key).encode(), digest_size=8).hexdigest()
        response = respond(request, status, to_tag=tag)
        if status == 503:
            response.headers.set("Retry-After", str(RETRY_AFTER))
        self.outbox.append((response.encode(), hop))

    # --- what goes out --------------------------------------------------------------

    def respond(self, tx: ServerTransaction, response: Response, now: float) -> None:
        """Send a response; a 2xx to an INVITE may be given again and again.

        Raises: IllegalStepError, when a final response was already given.
        """
        data = response.encode()
        before = tx.state
        tx._take(_step_of(response.status))
        self.outbox.append((data, tx.hop))
        if tx.state is State.ACCEPTED:
            tx._data = b""
            if before is not State.ACCEPTED:
                self._arm(tx, deadline=now + self._patience)
            return
        tx._data = data
        if tx.state is not State.COMPLETED:
            return
        if response.status in (401, 407):
            # Some peers come back with credentials, yet with the same CSeq: that is no merged request.
            self._unmerge(tx)
        if tx.kind is Kind.SERVER_INVITE:
            tx._interval = self._t1
            self._arm(tx, resend=inf if tx.hop.reliable else now + self._t1, deadline=now + self._patience)
        else:
            self._linger(tx, self._patience, now)

    def forget(self, tx: ServerTransaction, response: Response | None = None) -> None:
        """Let a request that nobody answered go, with one final response or none, and remember nothing of it.

        For strangers: a repetition arrives as a new request, and an ACK as one to nothing. The tag that the
        response gives to To should be the same for every repetition.

        Raises: IllegalStepError, when it was already answered.
        """
        data = response.encode() if response is not None else b""
        tx._take(Step.FORGOTTEN)
        self._drop(tx)
        if data:
            self.outbox.append((data, tx.hop))

    def request(self, request: Request, hop: Hop, now: float) -> ClientTransaction:
        """Send a request, of any method but ACK and CANCEL. It is copied; our Via takes the place of any it has.

        Raises:
            TooManyTransactions: `MAX_CLIENT` are under way.
            ValueError: the hop has no local address to name in the Via, or the method is ACK or CANCEL.
        """
        if request.method in ("ACK", "CANCEL"):
            raise ValueError(f"{request.method} is no request of its own; use send() or cancel()")
        branch = self._new_branch()
        headers = request.headers.copy()
        headers.remove("Via")
        headers.insert("Via", self._via(hop, branch))
        return self._start(Request(request.method, request.uri, headers, request.body), branch, hop, now)

    def cancel(self, tx: ClientTransaction, now: float, headers: Sequence[tuple[str, str]] = ()) -> ClientTransaction:
        """Send a CANCEL for an INVITE; when no final response follows in 64*T1, the INVITE times out.

        Args:
            headers: more headers, such as Reason.

        Raises:
            IllegalStepError: nothing has answered yet, so the CANCEL must wait (section 9.1); or the INVITE
                was answered or cancelled already, or is none.
            TooManyTransactions: `MAX_CLIENT` are under way.
        """
        if tx.kind is not Kind.CLIENT_INVITE or tx.state is not State.PROCEEDING or tx.cancelled:
            raise IllegalStepError(f"{tx!r} cannot be cancelled" + (" again" if tx.cancelled else ""))
        cancel = self._beside(tx, "CANCEL", tx.request.headers)
        for name, value in headers:
            cancel.headers.add(name, value)
        started = self._start(cancel, tx.request.top_via.branch, tx.hop, now)
        tx.cancelled = True
        self._arm(tx, deadline=now + self._patience)
        return started

    def send(self, request: Request, hop: Hop) -> None:
        """Send the ACK for a 2xx. It gets a Via; given again, it is sent as it was.

        Raises: ValueError, when the hop has no local address to name in the Via.
        """
        if "Via" not in request.headers:
            request.headers.insert("Via", self._via(hop, self._new_branch()))
        self.outbox.append((request.encode(), hop))

    def _start(self, request: Request, branch: str, hop: Hop, now: float) -> ClientTransaction:
        if len(self._clients) >= MAX_CLIENT:
            raise TooManyTransactions(f"{MAX_CLIENT} requests of ours are unanswered; send fewer a second")
        is_invite = request.method == "INVITE"
        kind, state = (Kind.CLIENT_INVITE, State.CALLING) if is_invite else (Kind.CLIENT, State.TRYING)
        data = request.encode()
        tx = ClientTransaction(kind, state, (branch, request.method), request, hop)
        tx._data = data
        tx._interval = self._t1
        self._clients[tx._key] = tx
        self._watch(tx)
        self._arm(tx, resend=inf if hop.reliable else now + self._t1, deadline=now + self._patience)
        self.outbox.append((data, hop))
        return tx

    def _via(self, hop: Hop, branch: str) -> str:
        if self._sent_by is not None:
            sent_by = self._sent_by(hop)
        elif hop.local:
            sent_by = format_host(hop.local, hop.local_port)
        else:
            raise ValueError("hop.local is empty: our Via must name an address that responses can come to")
        return f"SIP/2.0/{hop.transport.upper()} {sent_by};branch={branch};rport"

    def _ack_of(self, tx: ClientTransaction, response: Response) -> Request:
        """The ACK for a 3xx-6xx (section 17.1.1.3)."""
        return self._beside(tx, "ACK", response.headers)

    def _beside(self, tx: ClientTransaction, method: str, to: Headers) -> Request:
        """An ACK or CANCEL, which go the very way of their INVITE; To is copied from `to`."""
        of, headers = tx.request.headers, Headers()
        headers.add("Via", of.values("Via")[0])
        headers.add("Max-Forwards", MAX_FORWARDS)
        headers.extend(of, "Route", "From", "Call-ID")
        headers.extend(to, "To")
        headers.add("CSeq", f"{tx.request.cseq.number} {method}")
        return Request(method, tx.request.uri, headers)

    # --- time, and transports that fail ---------------------------------------------

    def next_timer(self) -> float | None:
        """When `tick` is due; None while there is nothing to wait for."""
        return self._timers.next()

    def tick(self, now: float) -> list[TxEvent]:
        """Do what is due: send again, give up, let go."""
        events: list[TxEvent] = []
        for tx in self._timers.due(now):
            if now < tx._deadline:
                tx._take(Step.RESEND)
                self.outbox.append((tx._data, tx.hop))
                if tx.kind is Kind.CLIENT_INVITE:
                    tx._interval *= 2
                elif tx.state is State.PROCEEDING:
                    tx._interval = self._t2
                else:
                    tx._interval = min(2 * tx._interval, self._t2)
                self._arm(tx, resend=now + tx._interval, deadline=tx._deadline)
                continue
            step = Step.TIMEOUT if tx.can(Step.TIMEOUT) else Step.LINGERED
            tx._take(step)
            self._drop(tx)
            if step is Step.TIMEOUT and isinstance(tx, ClientTransaction):
                events.append(TxTimeout(tx))
            elif step is Step.TIMEOUT and isinstance(tx, ServerTransaction) and tx.kind is Kind.SERVER_INVITE:
                events.append(AckTimeout(tx))
        return events

    def transport_failed(self, hop: Hop, now: float) -> list[TxEvent]:
        """What was under way to or on a hop is lost.

        Our unanswered requests fail, but an INVITE that rings waits on, since its peer may come back. Responses
        are sent to the port that the peer's Via names instead (section 18.2.2), once.
        """
        events: list[TxEvent] = []
        for tx in list(self._by_peer.get(hop[:3], ())):
            if isinstance(tx, ServerTransaction):
                if tx.hop != tx._fallback:
                    self._unwatch(tx)
                    tx.hop = tx._fallback
                    self._watch(tx)
                    if tx._data:
                        self.outbox.append((tx._data, tx.hop))
            elif isinstance(tx, ClientTransaction) and tx.can(Step.LOST):
                unanswered = tx.state is not State.COMPLETED
                tx._take(Step.LOST)
                self._drop(tx)
                if unanswered:
                    events.append(TxFailed(tx))
        return events

    def _arm(self, tx: Transaction, *, resend: float = inf, deadline: float = inf) -> None:
        tx._resend_at, tx._deadline = resend, deadline
        self._timers.set(tx)

    def _linger(self, tx: Transaction, seconds: float, now: float) -> None:
        """Wait for repetitions, where there can be any."""
        if tx.hop.reliable:
            tx._take(Step.LINGERED)
            self._drop(tx)
        else:
            self._arm(tx, deadline=now + seconds)

    def _drop(self, tx: Transaction) -> None:
        self._timers.cancel(tx)
        self._unwatch(tx)
        tx._data = b""
        if isinstance(tx, ServerTransaction):
            del self._servers[tx._key]
            self._unmerge(tx)
        else:
            del self._clients[tx._key]

    def _unmerge(self, tx: ServerTransaction) -> None:
        if tx._merge_key is not None:
            del self._merged[tx._merge_key]
            tx._merge_key = None

    def _watch(self, tx: Transaction) -> None:
        self._by_peer.setdefault(tx.hop[:3], {})[tx] = None

    def _unwatch(self, tx: Transaction) -> None:
        there = self._by_peer.get(tx.hop[:3])
        if there is not None and tx in there:
            del there[tx]
            if not there:
                del self._by_peer[tx.hop[:3]]


def _step_of(status: int) -> Step:
    if status < 200:
        return Step.PROVISIONAL
    return Step.SUCCESS if status < 300 else Step.FAILURE


def _server_key(request: Request, via: Via, method: str) -> Key:
    """What tells a repetition from a new request (section 17.2.3)."""
    if via.branch.startswith(COOKIE):
        return (via.branch, via.host.lower(), via.port, method)
    # A peer of RFC 2543 promises nothing about its branch. The To tag is left out: the ACK has that of our response.
    return ("", request.uri, request.from_.tag or "", request.call_id, request.cseq.number, str(via), method)


def _merge_key(request: Request) -> Key:
    """What two requests share that a proxy forked and that met again here (section 8.2.2.2)."""
    return (request.call_id, request.from_.tag or "", request.cseq.number, request.method)


def _reply_hop(via: Via, hop: Hop) -> Hop:
    """Where responses go (section 18.2.2, RFC 3581): back where the request came from, unless a peer on UDP did
    not ask for that with `rport`; then to the port that its Via names."""
    if hop.reliable or "rport" in via.params:
        return hop
    return hop._replace(port=via.port or DEFAULT_PORTS["udp"])


def _stamp(request: Request, via: Via, hop: Hop) -> None:
    """Note on the top Via where the request came from (section 18.2.1, RFC 3581 section 4)."""
    wants_port = "rport" in via.params
    if not wants_port and via.host.lower() == hop.host:
        return
    stamped = via.with_params(received=hop.host)
    if wants_port:
        stamped = stamped.with_params(rport=str(hop.port))
    request.headers.replace_top("Via", str(stamped))
