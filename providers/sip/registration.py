"""Registering as an extension (RFC 3261 section 10): with whom, when again, and what to do when it fails.

Theory of operation
-------------------
WAITING until an attempt is due, ASKING while the first REGISTER is under way, REGISTERED once it was granted. At
80 to 90 % of what was granted, at random so that many registrations do not come at once, it is REFRESHING: still
registered, with a REGISTER under way. A refresh that fails is repeated while the binding lasts; when the binding
lapses, it is WAITING again.

A registrar that does not answer, or answers with 5xx, is left for the next one at once; after the last, and after
refusals, there is a pause that doubles. Wrong credentials and unknown users wait longest, since PBXs ban addresses
that keep guessing. A Retry-After is kept.

Challenges are answered within an attempt, and the last one is used for the next attempt without being asked. The
same challenge twice means a wrong password, unless it says that the nonce was stale. 423 raises what is asked for.

`stop` takes the binding back: REMOVING until that is answered, then REMOVED, which is final.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Final

from offhook.providers.sip import digest
from offhook.providers.sip.headers import BadHeader, CSeq, NameAddr, parse_number
from offhook.providers.sip.message import Headers, Request
from offhook.providers.sip.ping import random_share
from offhook.providers.sip.uri import Uri, format_host

FIRST_PAUSE: Final = 5.0
MAX_PAUSE: Final = 300.0
"""Seconds between attempts when all registrars fail, doubling from the first to the last."""

REFUSED_PAUSE: Final = 300.0
MAX_REFUSED_PAUSE: Final = 3600.0
"""The same after a refusal that trying again will not change: 401, 403, 404 and their like."""

MIN_REFRESH: Final = 10.0
"""Seconds until a refresh at least, however little a registrar grants."""

MAX_EXPIRES: Final = 7 * 86_400
"""Seconds that we believe or ask for at most; a week."""

MAX_RETRY_AFTER: Final = 3600
"""Seconds of a Retry-After that are kept."""

MAX_ROUNDS: Final = 3
"""Challenges answered in one attempt: one of a proxy, one of the registrar, one stale nonce."""

MAX_CONTACTS: Final = 100
"""Bindings looked through in a 200; the list is that of all phones of the extension."""

_CHALLENGES: Final = {401: ("WWW-Authenticate", "Authorization"), 407: ("Proxy-Authenticate", "Proxy-Authorization")}


class State(StrEnum):
    """Where a registration is."""

    WAITING = "waiting"
    ASKING = "asking"
    REGISTERED = "registered"
    REFRESHING = "refreshing"
    REMOVING = "removing"
    REMOVED = "removed"


class Step(StrEnum):
    """What can happen to it."""

    START = "start"
    REPEAT = "repeat"
    "Ask again at once: with credentials, or for longer."
    GRANTED = "granted"
    FAILED = "failed"
    LAPSED = "lapsed"
    STOP = "stop"


_S, _E = State, Step
TRANSITIONS: Final[Mapping[State, Mapping[Step, State]]] = {
    _S.WAITING: {_E.START: _S.ASKING, _E.STOP: _S.REMOVED},
    _S.ASKING: {
        _E.REPEAT: _S.ASKING,
        _E.GRANTED: _S.REGISTERED,
        _E.FAILED: _S.WAITING,
        _E.STOP: _S.REMOVING,
    },
    _S.REGISTERED: {_E.START: _S.REFRESHING, _E.LAPSED: _S.WAITING, _E.STOP: _S.REMOVING},
    _S.REFRESHING: {
        _E.REPEAT: _S.REFRESHING,
        _E.GRANTED: _S.REGISTERED,
        _E.FAILED: _S.REGISTERED,
        _E.LAPSED: _S.WAITING,
        _E.STOP: _S.REMOVING,
    },
    _S.REMOVING: {_E.REPEAT: _S.REMOVING, _E.GRANTED: _S.REMOVED, _E.FAILED: _S.REMOVED},
    _S.REMOVED: {},
}
"""The one table. A step that is not in it is a bug of ours: it raises and changes nothing."""


class IllegalStepError(RuntimeError):
    """A registration was asked for a step that its state does not have."""


class Registration:
    """One extension at one of several registrars.

    When `next_timer` has come: find the way to `registrar`, send what `start` gives, tell `answered` the final
    status, and send what that gives, until it gives nothing.

    Args:
        registrars: SIP URIs, best first.
        user: the extension.
        now: monotonic seconds.
        domain: host of the address we register; the registrar's when empty.
        username, password: for digest; the extension when the user name is empty.
        expires: seconds to ask for.
        headers: more headers, such as User-Agent.
        token, share: sources of chance: a word, and a number from 0 to 1.

    Raises: ValueError without a registrar; BadUri.
    """

    def __init__(
        self,
        registrars: Sequence[str],
        user: str,
        now: float,
        *,
        domain: str = "",
        username: str = "",
        password: str = "",
        expires: int = 3600,
        headers: Sequence[tuple[str, str]] = (),
        token: Callable[[], str] = lambda: secrets.token_hex(8),
        share: Callable[[], float] = random_share,
    ) -> None:
        if not registrars:
            raise ValueError("a registration needs a registrar")
        self._registrars = [Uri.parse(registrar) for registrar in registrars]
        self._user, self._domain = user, domain
        self._username, self._password = username or user, password
        self._expires = expires
        self._headers = tuple(headers)
        self._token, self._share = token, share
        self._call_id, self._tag = token(), token()
        self._number = 0
        self._index = 0
        self._tried = 0
        "Registrars that failed in a row."
        self._failures = 0
        "Rounds through all of them that failed in a row."
        self._refusals = 0
        self._due = now
        self._contact = ""
        self._rounds: dict[int, int] = {}
        self._challenges: dict[int, tuple[list[str], int]] = {}
        "By status: the last challenges, and how often they were answered."
        self._lengthened = False
        self.state = State.WAITING
        self.until = 0.0
        "When the binding lapses; monotonic seconds."
        self.fault = ""
        "Why the last attempt failed, for people; empty after a success."
        self.service_route: list[str] = []
        "The Route that calls through this registrar should take (RFC 3608)."

    @property
    def registrar(self) -> Uri:
        """Where the next request goes to."""
        return self._registrars[self._index]

    @property
    def registered(self) -> bool:
        """Whether calls can reach us through the registrar."""
        return self.state in (State.REGISTERED, State.REFRESHING)

    def next_timer(self) -> float | None:
        """When `start` is due; None while a request is under way, or after the end."""
        return self._due if self.state in (State.WAITING, State.REGISTERED) else None

    def start(self, contact: str, now: float) -> Request:
        """Begin an attempt.

        Args:
            contact: our SIP URI that the registrar is to send calls to.

        Raises: IllegalStepError while a request is under way, or after `stop`.
        """
        if self.state is State.REGISTERED and now >= self.until:
            self._take(Step.LAPSED)
        self._take(Step.START)
        self._contact = contact
        self._rounds.clear()
        self._lengthened = False
        return self._request(self._expires)

    def stop(self) -> Request | None:
        """Take the binding back; None when there is none. Raises IllegalStepError when called twice."""
        self._take(Step.STOP)
        if self.state is State.REMOVED:
            return None
        self._rounds.clear()
        return self._request(0)

    def answered(self, status: int, headers: Headers | None, now: float) -> Request | None:
        """Take the final response to the last request, 408 when nothing answered and 503 when nothing could be
        sent or resolved (headers None). Gives a request that is to be sent at once, or None.
        """
        headers = Headers() if headers is None else headers
        if self.next_timer() is not None or self.state is State.REMOVED or self._is_late(headers):
            return None
        if 200 <= status < 300:
            self._granted(headers, now)
            return None
        again = self._repeat(status, headers)
        if again is not None:
            return again
        if self.state is not State.REMOVING:
            self._failed(status, headers, now)
        else:
            self._take(Step.FAILED)
        return None

    # --- what to send ---------------------------------------------------------------

    def _request(self, expires: int) -> Request:
        self._number += 1
        host = format_host(self.registrar.host, self.registrar.port)
        uri = f"{self.registrar.scheme}:{host}"
        address = str(Uri(self.registrar.scheme, self._user, host=self._domain or self.registrar.host))
        headers = Headers(
            [
                ("Max-Forwards", "70"),
                ("From", f"<{address}>;tag={self._tag}"),
                ("To", f"<{address}>"),
                ("Call-ID", self._call_id),
                ("CSeq", f"{self._number} REGISTER"),
                ("Contact", f"<{self._contact}>"),
                ("Expires", str(expires)),
                *self._headers,
            ]
        )
        for status, (challenges, count) in list(self._challenges.items()):
            try:
                value = digest.answer(
                    challenges, "REGISTER", uri, self._username, self._password, cnonce=self._token(), count=count + 1
                )
            except digest.BadChallenge:
                del self._challenges[status]
                continue
            self._challenges[status] = (challenges, count + 1)
            headers.add(_CHALLENGES[status][1], value)
        return Request("REGISTER", uri, headers)

    def _repeat(self, status: int, headers: Headers) -> Request | None:
        """The request again, as the registrar wants it; None when there is no use."""
        expires = 0 if self.state is State.REMOVING else self._expires
        if status in _CHALLENGES:
            challenges = headers.lines(_CHALLENGES[status][0])
            tried = self._rounds.get(status, 0)
            if not challenges or not self._password or sum(self._rounds.values()) >= MAX_ROUNDS:
                return None
            if tried > 1 or (tried == 1 and not digest.is_stale(challenges)):
                return None
            self._rounds[status] = tried + 1
            self._challenges[status] = (challenges, 0)
        elif status == 423 and expires and not self._lengthened:
            least = _seconds(headers.get("Min-Expires"))
            if least is None or not self._expires < least <= MAX_EXPIRES:
                return None
            self._lengthened = True
            self._expires = expires = least
        else:
            return None
        request = self._request(expires)
        if status in self._rounds and _CHALLENGES[status][1] not in request.headers:
            return None  # nothing in the challenge that we could answer
        self._take(Step.REPEAT)
        return request

    # --- what came of it ------------------------------------------------------------

    def _granted(self, headers: Headers, now: float) -> None:
        if self.state is State.REMOVING:
            self._take(Step.GRANTED)
            return
        granted = self._granted_seconds(headers)
        if granted <= 0:
            self.fault = "the registrar answered 200, but without a binding for us"
            self._give_up(self._pause(now, headers))
            return
        self._take(Step.GRANTED)
        self.fault = ""
        self._tried = self._failures = self._refusals = 0
        self.until = now + granted
        self._due = now + max(MIN_REFRESH, granted * (0.9 - 0.1 * self._share()))
        self.service_route = headers.values("Service-Route")[:MAX_ROUNDS]

    def _granted_seconds(self, headers: Headers) -> int:
        """What our binding got: by its own parameter, by Expires, or what we asked for (section 10.2.4)."""
        default = _seconds(headers.get("Expires"))
        default = self._expires if default is None else default
        contacts = headers.values("Contact")[:MAX_CONTACTS]
        ours = Uri.parse(self._contact)
        for value in contacts:
            try:
                contact = NameAddr.parse(value)
            except BadHeader:
                continue
            same = contact.uri.user == ours.user and contact.uri.host.lower() == ours.host.lower()
            if len(contacts) == 1 or (same and contact.uri.port == ours.port):
                own = _seconds(contact.params.get("expires"))
                return default if own is None else min(own, MAX_EXPIRES)
        return min(default, MAX_EXPIRES)

    def _failed(self, status: int, headers: Headers, now: float) -> None:
        answer = {408: "no answer", 401: "wrong user or password", 407: "wrong user or password"}.get(status, "refused")
        self.fault = f"{self.registrar.host}: {answer} ({status})"
        if status == 408 or status == 430 or 500 <= status < 600:
            self._tried += 1
            if len(self._registrars) > 1:
                self._index = (self._index + 1) % len(self._registrars)
                self._challenges.clear()  # the next one has nonces of its own
            self._give_up(self._pause(now, headers) if self._tried >= len(self._registrars) else now)
            return
        if status in _CHALLENGES:
            self._challenges.clear()
        pause = min(MAX_REFUSED_PAUSE, REFUSED_PAUSE * 2.0 ** min(self._refusals, 10))
        self._refusals += 1
        self._give_up(now + max(pause, _retry_after(headers)))

    def _pause(self, now: float, headers: Headers) -> float:
        """When to try again after all registrars failed."""
        pause = min(MAX_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures, 10))
        self._failures += 1
        self._tried = 0
        return now + max(pause * (1 - 0.5 * self._share()), _retry_after(headers))

    def _give_up(self, due: float) -> None:
        # A binding that lapses before we ask again is as good as gone.
        self._take(Step.LAPSED if self.state is State.REFRESHING and due >= self.until else Step.FAILED)
        self._due = due

    def _is_late(self, headers: Headers) -> bool:
        """Whether this answers a request before the last one."""
        try:
            value = headers.get("CSeq")
            return value is not None and CSeq.parse(value).number != self._number
        except BadHeader:
            return True

    def _take(self, step: Step) -> None:
        to = TRANSITIONS[self.state].get(step)
        if to is None:
            raise IllegalStepError(f"a registration that is {self.state} has no step {step}")
        self.state = to


def _seconds(text: str | None) -> int | None:
    """A number of seconds, None when there is none that can be read."""
    if text is None:
        return None
    try:
        return parse_number(text.strip(), 2**32, "a number of seconds")
    except BadHeader:
        return None


def _retry_after(headers: Headers) -> int:
    """Seconds of a Retry-After, which may have a comment and parameters behind them."""
    value = (headers.get("Retry-After") or "").replace(";", " ").replace("(", " ").split()
    return min(MAX_RETRY_AFTER, _seconds(value[0]) or 0) if value else 0
