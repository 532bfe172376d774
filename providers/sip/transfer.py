"""Transfers: REFER and the reports that follow it, both ways (RFC 3515, 3891, 3892, 4488).

Ours: one REFER at a time; the peer's NOTIFYs tell how its new call goes, and one of them, a refusal or the end of our
patience is the final word. Theirs: the owner accepts or declines, and reports; whether and whom to call is all up to
it, as a peer may name any URI in the world.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple
from weakref import ref

from offhook.providers.sip.core import Core, Fields, IllegalStep, checked
from offhook.providers.sip.errand import Errand
from offhook.providers.sip.events import ReferProgressed, ReferReceived
from offhook.providers.sip.headers import BadHeader, NameAddr, parse_params
from offhook.providers.sip.message import REASONS, BadMessage, Request, Response
from offhook.providers.sip.timers import Timer
from offhook.providers.sip.transaction import ServerTransaction
from offhook.providers.sip.uri import BadUri, Uri

if TYPE_CHECKING:
    from offhook.providers.sip.invite import InviteSession

FIRST_REPORT: Final = 30.0
"""Seconds until the peer must have reported anything at all; many report nothing, and leave us waiting."""

NEXT_REPORT: Final = 180.0
"""Seconds between reports; a phone may ring for three minutes (RFC 3261 timer C)."""

SIPFRAG: Final = "message/sipfrag"

MAX_ASKED: Final = 4
"""REFERs of the peer that may wait for the owner at once; further ones are declined."""


class Replaces(NamedTuple):
    """Which dialog a new INVITE takes over, as seen by the one who receives it (RFC 3891)."""

    call_id: str
    to_tag: str
    "The receiver's own tag."
    from_tag: str
    early_only: bool = False

    @classmethod
    def parse(cls, value: str) -> Replaces:
        """Read a Replaces header. Raises BadMessage."""
        call_id, _, tail = value.partition(";")
        try:
            params = parse_params(tail)
        except BadHeader as error:
            raise BadMessage(f"Replaces: {error}") from None
        if not call_id.strip() or not params.get("to-tag") or not params.get("from-tag"):
            raise BadMessage("Replaces needs a Call-ID, a to-tag and a from-tag")
        return cls(call_id.strip(), params["to-tag"], params["from-tag"], "early-only" in params)

    def __str__(self) -> str:
        early = ";early-only" if self.early_only else ""
        return f"{self.call_id};to-tag={self.to_tag};from-tag={self.from_tag}{early}"


def replaces_of(session: InviteSession) -> Replaces:
    """What names a call of ours to the party at its other end."""
    dialog = session.dialog
    return Replaces(dialog.call_id, dialog.remote_tag, dialog.local_tag)


def parse_refer_to(request: Request) -> tuple[NameAddr, str]:
    """The target of a REFER without URI headers, and the Replaces among those. Raises BadMessage."""
    values = request.headers.lines("Refer-To")
    if len(values) != 1:
        raise BadMessage("a REFER needs one Refer-To")
    try:
        target = NameAddr.parse(values[0])
    except BadHeader as error:
        raise BadMessage(f"Refer-To: {error}") from None
    replaces = target.uri.headers.get("replaces", "")
    if replaces:
        Replaces.parse(replaces)
    return replace(target, uri=replace(target.uri, headers={})), replaces


def parse_sipfrag(body: bytes) -> int:
    """The status that a report tells of, from the status line of its body. Raises BadMessage."""
    parts = body[:200].split(b"\n", 1)[0].split(None, 2)
    if len(parts) < 2 or parts[0].upper() != b"SIP/2.0" or len(parts[1]) != 3 or not parts[1].isdigit():
        raise BadMessage("the body of a NOTIFY is no SIP status line")
    return int(parts[1])


class Transfer:
    """The REFERs of one session."""

    def __init__(self, session: InviteSession, core: Core) -> None:
        self._owner, self._core = ref(session), core
        self._waits = self._referred = False
        self._alarm: Timer | None = None
        self._asked: list[ServerTransaction] = []
        self._event = ""
        "The Event of our reports; empty: none are owed."
        self._accepted = 0

    @property
    def _session(self) -> InviteSession:
        session = self._owner()
        assert session is not None, "it owns this"
        return session

    # --- ours -----------------------------------------------------------------------------

    def refer(self, to: str, replaces: InviteSession | None, headers: Fields, now: float) -> None:
        """Send a REFER."""
        session = self._session
        if not session.confirmed:
            raise IllegalStep(f"a call that is {session.state} cannot be transferred")
        if self._waits:
            raise IllegalStep("a transfer is under way")
        try:
            uri = Uri.parse(to)
        except BadUri as error:
            raise ValueError(f"cannot transfer to {to!r}: {error}") from None
        if replaces is not None:
            uri = replace(uri, headers={**uri.headers, "Replaces": str(replaces_of(replaces))})
        request = session.build("REFER", headers=checked(headers))
        request.headers.add("Refer-To", f"<{uri}>")
        if "Referred-By" not in request.headers:
            request.headers.add("Referred-By", f"<{session.local_party.uri}>")
        self._waits = self._referred = True
        session.send(request, self._on_response, now)

    def _on_response(self, errand: Errand, status: int, response: Response | None, now: float) -> None:
        if status < 200 or not self._waits:
            return
        if status >= 300:
            self._report(status, True)
            if status == 481:
                self._session.lost("protocol", "the peer does not know the call any more", now)
        elif response is not None and (response.headers.get("Refer-Sub") or "").strip().lower() == "false":
            self._report(202, True)
        elif self._alarm is None:  # else a report has overtaken this
            self._alarm = self._core.timers.set(now + FIRST_REPORT, self._unheard)
            self._report(100, False)

    def on_notify(self, tx: ServerTransaction, request: Request, now: float) -> None:
        """A NOTIFY: a report on our REFER, or something that nobody asked for."""
        event = (request.headers.get("Event") or "").partition(";")[0].strip().lower()
        if event != "refer":
            self._core.reply(tx, 489, headers=[("Allow-Events", "refer")], now=now)
            return
        if not self._waits:
            # After the final word some peers repeat it to end the subscription.
            self._core.reply(tx, 200 if self._referred else 481, now=now)
            return
        status = parse_sipfrag(request.body) if request.body else 100
        state = (request.headers.get("Subscription-State") or "").partition(";")[0].strip().lower()
        self._core.reply(tx, 200, now=now)
        final = status >= 200 or state == "terminated"
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None if final else self._core.timers.set(now + NEXT_REPORT, self._unheard)
        self._report(status, final)

    def _unheard(self, now: float) -> None:
        self._report(408, True)

    def _report(self, status: int, final: bool) -> None:
        if final:
            self._waits = False
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None
        self._core.emit(ReferProgressed(self._session, status, final))

    # --- theirs ---------------------------------------------------------------------------

    def on_refer(self, tx: ServerTransaction, request: Request, now: float) -> None:
        """A REFER within the call."""
        target, replaces = parse_refer_to(request)
        if len(self._asked) >= MAX_ASKED:
            self._core.reply(tx, 603, now=now)
            return
        self._asked.append(tx)
        referred_by = request.headers.get("Referred-By") or ""
        self._core.emit(ReferReceived(self._session, tx, target, replaces, referred_by))

    def accept(self, tx: ServerTransaction, now: float) -> None:
        """Take it on: 202, and a first report unless the peer wants none."""
        self._take(tx)
        request = tx.request
        contact = ("Contact", self._session.dialog.contact)
        silent = (request.headers.get("Refer-Sub") or "").strip().lower() == "false"
        if silent or "norefersub" in request.options("Require"):
            self._core.reply(tx, 202, headers=[contact, ("Refer-Sub", "false")], now=now)
            return
        self._core.reply(tx, 202, headers=[contact], now=now)
        # A second REFER in the dialog is told from the first by its CSeq (RFC 3515 section 2.4.6).
        self._event = f"refer;id={request.cseq.number}" if self._accepted else "refer"
        self._accepted += 1
        self.progress(100, "", now)

    def refuse(self, tx: ServerTransaction, status: int, now: float) -> None:
        """Decline it."""
        self._take(tx)
        self._core.reply(tx, status, now=now)

    def progress(self, status: int, reason: str, now: float) -> None:
        """Send a report."""
        if not self._event or not self._session.confirmed:
            return
        final = status >= 200
        state = "terminated;reason=noresource" if final else f"active;expires={int(NEXT_REPORT)}"
        line = f"SIP/2.0 {status} {' '.join((reason or REASONS.get(status, '')).split())}\r\n"
        request = self._session.build("NOTIFY", body=line.encode(), content_type=f"{SIPFRAG};version=2.0")
        request.headers.add("Event", self._event)
        request.headers.add("Subscription-State", state)
        if final:
            self._event = ""
        self._session.send(request, self._on_notified, now)

    def _on_notified(self, errand: Errand, status: int, response: Response | None, now: float) -> None:
        if status in (481, 489):
            self._event = ""  # the peer wants no more of these

    def _take(self, tx: ServerTransaction) -> None:
        if tx not in self._asked:
            raise IllegalStep("this REFER was answered already")
        self._asked.remove(tx)

    def close(self, now: float) -> None:
        """The call is over: decline what is open, expect nothing."""
        for tx in self._asked:
            self._core.reply(tx, 603, now=now)
        self._asked.clear()
        self._waits, self._event = False, ""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
