"""The states of SIP transactions, in one table, and their timers, in one heap.

Theory of operation
-------------------
Four machines (RFC 3261 section 17, with the Accepted state of RFC 6026) share one table. The peer's messages and
our own timers are steps; what a table does not list is, from the peer, ignored, and from us a bug: it raises and
changes nothing.

A **client INVITE** is sent again at T1, 2*T1, 4*T1 (timer A) until anything answers, and given up after 64*T1 (B).
A provisional stops both, since people take their time to pick up. A 2xx makes it ACCEPTED: for 64*T1 (M) more 2xx,
of forks or repeated, are passed up; their ACK is the user agent's. A 3xx-6xx makes it COMPLETED: the transaction
sends the ACK itself, and again for every repetition, until timer D. One that was cancelled while it rang is given
up 64*T1 after the CANCEL (section 9.1).

A **client request** of another method is sent again at T1 doubling to T2 (E), also after a provisional (then at
T2), given up after 64*T1 (F), and absorbs repeated finals for T4 (K).

A **server INVITE** answers repetitions of the INVITE with the last response it sent. A 2xx makes it ACCEPTED: for
64*T1 (L) repetitions are swallowed and nothing is sent unasked; repeating the 2xx until the ACK is the user agent's,
on every transport. A 3xx-6xx makes it COMPLETED: sent again at T1 doubling to T2 (G), given up after 64*T1 (H), and
CONFIRMED by the ACK, whose repetitions are swallowed for T4 (I).

A **server request** of another method answers repetitions with the response for 64*T1 (J). When nobody answers it
within that time it is forgotten, as the peer has long given up (RFC 4320).

A server transaction that is unanswered can be FORGOTTEN at once: what a stranger sent is not worth remembering.

On TCP and TLS nothing is sent again (A, E, G), and nothing lingers for repetitions (D, I, J, K are zero).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from enum import StrEnum
from math import inf
from typing import Final, TypeAlias

from offhook.providers.sip.hop import Hop
from offhook.providers.sip.message import Request

Key: TypeAlias = tuple[str | int, ...]
"""What tells one transaction from all others."""

_COMPACT_AT: Final = 1024
"""Cancelled timers in the heap, at least, before it is worth building it anew."""


class Kind(StrEnum):
    """Which of the four machines."""

    CLIENT_INVITE = "client_invite"
    CLIENT = "client"
    SERVER_INVITE = "server_invite"
    SERVER = "server"


class State(StrEnum):
    """Where a transaction is in its life."""

    CALLING = "calling"
    TRYING = "trying"
    PROCEEDING = "proceeding"
    ACCEPTED = "accepted"
    COMPLETED = "completed"
    CONFIRMED = "confirmed"
    TERMINATED = "terminated"


class Step(StrEnum):
    """What can happen to a transaction."""

    PROVISIONAL = "provisional"
    SUCCESS = "success"
    FAILURE = "failure"
    REPEATED = "repeated"
    "The peer sent its request again."
    ACK = "ack"
    RESEND = "resend"
    "Timer A, E or G."
    TIMEOUT = "timeout"
    "Timer B, F or H, and the time in which a server request must be answered."
    LINGERED = "lingered"
    "Timer D, I, J, K, L or M."
    FORGOTTEN = "forgotten"
    "We want to know nothing of it any more."
    LOST = "lost"
    "The transport could not deliver."


_K, _S, _E = Kind, State, Step
TRANSITIONS: Final[Mapping[Kind, Mapping[State, Mapping[Step, State]]]] = {
    _K.CLIENT_INVITE: {
        _S.CALLING: {
            _E.RESEND: _S.CALLING,
            _E.PROVISIONAL: _S.PROCEEDING,
            _E.SUCCESS: _S.ACCEPTED,
            _E.FAILURE: _S.COMPLETED,
            _E.TIMEOUT: _S.TERMINATED,
            _E.LOST: _S.TERMINATED,
        },
        _S.PROCEEDING: {
            _E.PROVISIONAL: _S.PROCEEDING,
            _E.SUCCESS: _S.ACCEPTED,
            _E.FAILURE: _S.COMPLETED,
            _E.TIMEOUT: _S.TERMINATED,  # only once cancelled (section 9.1)
        },
        _S.ACCEPTED: {_E.SUCCESS: _S.ACCEPTED, _E.LINGERED: _S.TERMINATED},
        _S.COMPLETED: {_E.FAILURE: _S.COMPLETED, _E.LINGERED: _S.TERMINATED, _E.LOST: _S.TERMINATED},
        _S.TERMINATED: {},
    },
    _K.CLIENT: {
        _S.TRYING: {
            _E.RESEND: _S.TRYING,
            _E.PROVISIONAL: _S.PROCEEDING,
            _E.SUCCESS: _S.COMPLETED,
            _E.FAILURE: _S.COMPLETED,
            _E.TIMEOUT: _S.TERMINATED,
            _E.LOST: _S.TERMINATED,
        },
        _S.PROCEEDING: {
            _E.RESEND: _S.PROCEEDING,
            _E.PROVISIONAL: _S.PROCEEDING,
            _E.SUCCESS: _S.COMPLETED,
            _E.FAILURE: _S.COMPLETED,
            _E.TIMEOUT: _S.TERMINATED,
            _E.LOST: _S.TERMINATED,
        },
        _S.COMPLETED: {_E.LINGERED: _S.TERMINATED},
        _S.TERMINATED: {},
    },
    _K.SERVER_INVITE: {
        _S.PROCEEDING: {
            _E.REPEATED: _S.PROCEEDING,
            _E.PROVISIONAL: _S.PROCEEDING,
            _E.SUCCESS: _S.ACCEPTED,
            _E.FAILURE: _S.COMPLETED,
            _E.FORGOTTEN: _S.TERMINATED,
        },
        _S.ACCEPTED: {
            _E.REPEATED: _S.ACCEPTED,
            _E.SUCCESS: _S.ACCEPTED,
            _E.ACK: _S.ACCEPTED,
            _E.LINGERED: _S.TERMINATED,
        },
        _S.COMPLETED: {
            _E.REPEATED: _S.COMPLETED,
            _E.RESEND: _S.COMPLETED,
            _E.ACK: _S.CONFIRMED,
            _E.TIMEOUT: _S.TERMINATED,
        },
        _S.CONFIRMED: {_E.REPEATED: _S.CONFIRMED, _E.ACK: _S.CONFIRMED, _E.LINGERED: _S.TERMINATED},
        _S.TERMINATED: {},
    },
    _K.SERVER: {
        _S.TRYING: {
            _E.REPEATED: _S.TRYING,
            _E.PROVISIONAL: _S.PROCEEDING,
            _E.SUCCESS: _S.COMPLETED,
            _E.FAILURE: _S.COMPLETED,
            _E.TIMEOUT: _S.TERMINATED,
            _E.FORGOTTEN: _S.TERMINATED,
        },
        _S.PROCEEDING: {
            _E.REPEATED: _S.PROCEEDING,
            _E.PROVISIONAL: _S.PROCEEDING,
            _E.SUCCESS: _S.COMPLETED,
            _E.FAILURE: _S.COMPLETED,
            _E.TIMEOUT: _S.TERMINATED,
            _E.FORGOTTEN: _S.TERMINATED,
        },
        _S.COMPLETED: {_E.REPEATED: _S.COMPLETED, _E.LINGERED: _S.TERMINATED},
        _S.TERMINATED: {},
    },
}
"""The one table (figures 5 to 8, as RFC 6026 section 7 changes them)."""


class IllegalStepError(RuntimeError):
    """A transaction was asked for a step that its state does not have."""


class Transaction:
    """What the four machines share. Compare by identity."""

    __slots__ = ("_data", "_deadline", "_entry", "_interval", "_key", "_resend_at", "hop", "kind", "request", "state")

    def __init__(self, kind: Kind, state: State, key: Key, request: Request, hop: Hop) -> None:
        self.kind = kind
        self.state = state
        self.request = request
        self.hop = hop
        "Where it sends to."
        self._key = key
        self._data = b""
        self._interval = 0.0
        self._resend_at = self._deadline = inf
        self._entry: Entry | None = None

    @property
    def method(self) -> str:
        """The method of the request."""
        return self.request.method

    @property
    def over(self) -> bool:
        """True when it has ended and is no longer known."""
        return self.state is State.TERMINATED

    def can(self, step: Step) -> bool:
        """Whether the table lists this step for the state."""
        return step in TRANSITIONS[self.kind][self.state]

    def _take(self, step: Step) -> None:
        to = TRANSITIONS[self.kind][self.state].get(step)
        if to is None:
            raise IllegalStepError(f"a {self.kind} transaction that is {self.state} has no step {step}")
        self.state = to

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.request.method} {self.state}>"


class ClientTransaction(Transaction):
    """A request of ours. `request` is as it was sent, with our Via on top."""

    __slots__ = ("cancelled",)

    def __init__(self, kind: Kind, state: State, key: Key, request: Request, hop: Hop) -> None:
        super().__init__(kind, state, key, request, hop)
        self.cancelled = False


class ServerTransaction(Transaction):
    """A request of a peer. `hop` is where its responses go, `source` where it came from."""

    __slots__ = ("_fallback", "_merge_key", "source")

    def __init__(
        self, kind: Kind, state: State, key: Key, request: Request, source: Hop, hop: Hop, fallback: Hop
    ) -> None:
        super().__init__(kind, state, key, request, hop)
        self.source = source
        self._fallback = fallback
        self._merge_key: Key | None = None

    @property
    def answered(self) -> bool:
        """True once a final response was given."""
        return self.state not in (State.TRYING, State.PROCEEDING)


# --- timers -------------------------------------------------------------------------


class Entry:
    """One timer in the heap. `tx` is None once it was cancelled."""

    __slots__ = ("order", "tx", "when")

    def __init__(self, when: float, order: int, tx: Transaction) -> None:
        self.when = when
        self.order = order
        self.tx: Transaction | None = tx

    def __lt__(self, other: Entry) -> bool:
        return (self.when, self.order) < (other.when, other.order)


class Timers:
    """At most one live timer a transaction, in a heap; cancelled ones are left in it until half of it is dead."""

    __slots__ = ("_dead", "_heap", "_order")

    def __init__(self) -> None:
        self._heap: list[Entry] = []
        self._order = 0
        self._dead = 0

    def __len__(self) -> int:
        return len(self._heap)

    def set(self, tx: Transaction) -> None:
        """Wake for a transaction at its next time; never when it has none."""
        self.cancel(tx)
        when = min(tx._resend_at, tx._deadline)
        if when == inf:
            return
        self._order += 1
        tx._entry = Entry(when, self._order, tx)
        heapq.heappush(self._heap, tx._entry)

    def cancel(self, tx: Transaction) -> None:
        """Do not wake for it."""
        if tx._entry is None:
            return
        tx._entry.tx = None
        tx._entry = None
        self._dead += 1
        if self._dead > _COMPACT_AT and self._dead * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry.tx is not None]
            heapq.heapify(self._heap)
            self._dead = 0

    def next(self) -> float | None:
        """When the first is due."""
        heap = self._heap
        while heap and heap[0].tx is None:
            heapq.heappop(heap)
            self._dead -= 1
        return heap[0].when if heap else None

    def due(self, now: float) -> list[Transaction]:
        """Take out everything whose time has come, in order."""
        found = []
        while (when := self.next()) is not None and when <= now:
            tx = heapq.heappop(self._heap).tx
            assert tx is not None
            tx._entry = None
            found.append(tx)
        return found
