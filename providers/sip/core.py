"""What the sessions of one user agent share: transactions, timers, the table of dialogs, and the way to the owner.

Internal to this package; the face of it all is `UserAgent`.
"""

from __future__ import annotations

import random
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from offhook.providers.sip.dialog import Dialog, DialogId, next_hop
from offhook.providers.sip.errand import Errand
from offhook.providers.sip.events import UaEvent
from offhook.providers.sip.hop import Hop
from offhook.providers.sip.message import BadMessage, Headers, Request, Response, header_key, respond
from offhook.providers.sip.timers import Timers
from offhook.providers.sip.transaction import (
    PATIENCE,
    T1,
    T2,
    ClientTransaction,
    ServerTransaction,
    TooManyTransactions,
    Transactions,
)

if TYPE_CHECKING:
    from offhook.providers.sip.invite import InviteSession

ALLOW: Final = "INVITE, ACK, CANCEL, BYE, OPTIONS, PRACK, UPDATE, INFO, REFER, NOTIFY"
"""Methods that are served."""

KNOWN_METHODS: Final = frozenset(ALLOW.split(", ")) | {"REGISTER", "SUBSCRIBE", "MESSAGE", "PUBLISH"}
"""Methods that are refused with 405 where they are not served; any other one is answered with 501."""

OPTION_TAGS: Final = frozenset({"100rel", "timer", "replaces", "norefersub"})
"""Extensions that a peer may require."""

OURS: Final = frozenset(
    (
        "via",
        "from",
        "to",
        "call-id",
        "cseq",
        "contact",
        "route",
        "record-route",
        "max-forwards",
        "content-length",
        "content-type",
        "rseq",
        "rack",
        "session-expires",
    )
)
"""Headers that no owner may add: a second one would lead messages astray."""

MAX_ENDED: Final = 10_000
"""Ended dialogs that are remembered, so that a BYE or NOTIFY that crossed ours is answered with 200."""

Fields = Iterable[tuple[str, str]]
"""Headers to add to a message of ours."""


class IllegalStep(RuntimeError):
    """We asked for something that cannot be done in this state; nothing has changed."""


class Core:
    """See `UserAgent` for the arguments."""

    def __init__(
        self,
        transactions: Transactions,
        *,
        user_agent: str,
        contact_of: Callable[[Hop], str],
        hop_of: Callable[[str, Hop], Hop] = next_hop,
        rng: random.Random | None = None,
        new_token: Callable[[], str] | None = None,
        t1: float = T1,
        t2: float = T2,
    ) -> None:
        self.transactions = transactions
        self.user_agent = user_agent
        self.contact_of = contact_of
        self.hop_of = hop_of
        self.rng = rng or random.SystemRandom()
        self.new_token = new_token or _new_token
        self.t1, self.t2, self.patience = t1, t2, PATIENCE * t1
        self.timers = Timers()
        self.sessions: dict[str, InviteSession] = {}
        self._events: list[UaEvent] = []
        self._errands: dict[ClientTransaction, Errand] = {}
        self._dialogs: dict[DialogId, tuple[InviteSession, Dialog]] = {}
        self._ended: OrderedDict[DialogId, float] = OrderedDict()

    # --- to the owner -----------------------------------------------------------------

    def emit(self, event: UaEvent) -> None:
        """Tell the owner, when it asks next."""
        self._events.append(event)

    def drain(self) -> list[UaEvent]:
        """What the owner has not heard yet."""
        events, self._events = self._events, []
        return events

    @property
    def has_events(self) -> bool:
        """Whether the owner has not heard of something yet."""
        return bool(self._events)

    # --- requests of ours ---------------------------------------------------------------

    def start(self, errand: Errand, now: float) -> None:
        """Send a request; when that is impossible, it fails with 503 at the next tick."""
        try:
            tx = self.transactions.request(errand.request, errand.hop, now)
        except TooManyTransactions:
            self.timers.set(now, lambda then: errand.on_response(errand, 503, None, then))
            return
        errand.tx = tx
        self._errands[tx] = errand

    def responded(self, tx: ClientTransaction, response: Response, now: float) -> None:
        """Take a response of the peer to the one who asked; a final one that cannot be read fails with 502."""
        errand = self._errands.get(tx)
        if errand is None:
            return
        if response.status >= 300 or (response.status >= 200 and tx.method != "INVITE"):
            del self._errands[tx]
            if errand.answers(response, self.new_token):
                self.start(errand, now)
                return
        elif response.status >= 200 and not errand.lingers:
            errand.lingers = True
            # More 2xx, repeated or of other phones, may come until the transaction forgets them.
            self.timers.set(now + self.patience, lambda _: self._drop(tx))
        try:
            errand.on_response(errand, response.status, response, now)
        except BadMessage:
            if response.status >= 200:
                errand.on_response(errand, 502, None, now)

    def failed(self, tx: ClientTransaction, status: int, now: float) -> None:
        """A request got no response: 408, or could not be sent: 503."""
        errand = self._errands.pop(tx, None)
        if errand is None:
            return
        if status == 503 and errand.fallback is not None:
            errand.hop, errand.fallback = errand.fallback, None
            self.start(errand, now)
        else:
            errand.on_response(errand, status, None, now)

    def _drop(self, tx: ClientTransaction) -> None:
        self._errands.pop(tx, None)

    # --- responses of ours --------------------------------------------------------------

    def response(
        self,
        request: Request,
        status: int,
        reason: str = "",
        *,
        to_tag: str = "",
        headers: Fields = (),
        body: bytes = b"",
        content_type: str = "application/sdp",
    ) -> Response:
        """Build a response."""
        response = respond(request, status, reason, to_tag=to_tag)
        response.headers.add("Server", self.user_agent)
        for name, value in headers:
            response.headers.add(name, value)
        if body:
            response.headers.add("Content-Type", content_type)
            response.body = body
        return response

    def reply(
        self,
        tx: ServerTransaction,
        status: int,
        reason: str = "",
        *,
        to_tag: str = "",
        headers: Fields = (),
        now: float,
    ) -> None:
        """Answer a request without a body; nothing when it was answered or forgotten meanwhile."""
        if not tx.answered:
            tag = to_tag or (self.new_token() if status > 100 else "")
            response = self.response(tx.request, status, reason, to_tag=tag, headers=headers)
            self.transactions.respond(tx, response, now)

    def add_abilities(self, headers: Headers, *, reliable: bool) -> None:
        """Say what we serve, in a message that begins or refreshes a call."""
        headers.add("Allow", ALLOW)
        headers.add("Supported", "100rel, timer, replaces, norefersub" if reliable else "timer, replaces, norefersub")

    # --- dialogs ------------------------------------------------------------------------

    def hop_for(self, dialog: Dialog) -> Hop:
        """Where our requests in a dialog go."""
        return dialog.hop if dialog.behind_nat else self.hop_of(dialog.next_uri, dialog.hop)

    def know(self, session: InviteSession, dialog: Dialog) -> None:
        """Requests of this dialog belong to that session from now on."""
        self._dialogs[dialog.id] = (session, dialog)

    def find(self, id: DialogId) -> tuple[InviteSession, Dialog] | None:
        """The session of a live dialog."""
        return self._dialogs.get(id)

    def part(self, dialog: Dialog, now: float) -> None:
        """A dialog has ended; remember it a little."""
        id = dialog.id
        if self._dialogs.pop(id, None) is not None:
            self._ended[id] = now + self.patience
            while len(self._ended) > MAX_ENDED or (self._ended and next(iter(self._ended.values())) <= now):
                self._ended.popitem(last=False)

    def has_ended(self, id: DialogId, now: float) -> bool:
        """Whether a dialog was live until lately."""
        return self._ended.get(id, 0.0) > now


def checked(fields: Fields, reason: str = "") -> list[tuple[str, str]]:
    """The owner's headers for one message, seen to before anything is done.

    Args:
        reason: a Reason to add, unless there is one.

    Raises: ValueError, for what would break the message, or belongs to the user agent itself.
    """
    headers = Headers(fields)
    if reason and "Reason" not in headers:
        headers.add("Reason", reason)
    found = headers.items()
    for name, _ in found:
        if header_key(name) in OURS:
            raise ValueError(f"{name} is written by the user agent itself; take it out of the headers")
    return found


def add_fields(headers: Headers, fields: Fields) -> None:
    """Append headers to a message."""
    for name, value in fields:
        headers.add(name, value)


def _new_token() -> str:
    return secrets.token_hex(8)
