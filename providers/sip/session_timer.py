"""Session timers (RFC 4028): a call whose peer has vanished ends, instead of lasting for ever.

One of the two sides, the refresher, sends a re-INVITE or UPDATE every half interval; when the other hears none, it
hangs up shortly before the interval is over. Every re-INVITE and UPDATE, whoever sends it, settles the terms anew.
`uac` and `uas` in a Session-Expires mean the sender and the receiver of that very request, not of the first one.
"""

from __future__ import annotations

from math import inf
from typing import Final

from offhook.providers.sip.headers import BadHeader, parse_number, parse_params
from offhook.providers.sip.message import BadMessage, Headers, Request, Response

FLOOR: Final = 90
"""Seconds: the least interval there is (section 5)."""

CEILING: Final = 86_400
"""Seconds: longer intervals are taken as a day; no call lasts that long."""

LONGEST: Final = 2**32
"""Delta-seconds end here (RFC 3261 section 25.1)."""

Fields = list[tuple[str, str]]


def parse_session_expires(value: str) -> tuple[int, str]:
    """Read a Session-Expires as (seconds, refresher): `1800;refresher=uac`; the refresher is empty when not named.

    Raises: BadMessage.
    """
    seconds, semicolon, tail = value.partition(";")
    try:
        interval = parse_number(seconds.strip(), LONGEST, "Session-Expires")
        refresher = parse_params(tail).get("refresher", "").lower() if semicolon else ""
    except BadHeader as error:
        raise BadMessage(str(error)) from None
    return min(interval, CEILING), refresher if refresher in ("uac", "uas") else ""


def parse_min_se(headers: Headers) -> int:
    """The Min-SE of a message, `FLOOR` where it has none. Raises BadMessage."""
    value = headers.get("Min-SE")
    if value is None:
        return FLOOR
    try:
        seconds = parse_number(value.partition(";")[0].strip(), LONGEST, "Min-SE")
    except BadHeader as error:
        raise BadMessage(str(error)) from None
    return min(max(FLOOR, seconds), CEILING)


class SessionTimer:
    """The session timer of one call.

    Args:
        wanted: the interval that we ask for, in seconds; 0: none, though a peer's wish is still met.
        min_se: the least that we let a peer ask for.
    """

    __slots__ = ("_min_se", "expires_at", "interval", "ours", "refresh_at", "wanted")

    def __init__(self, wanted: int = 1800, min_se: int = FLOOR) -> None:
        self._min_se = max(FLOOR, min_se)
        self.wanted = max(wanted, self._min_se) if wanted else 0
        self.interval = 0
        "Seconds; 0 while the call has no timer."
        self.ours = False
        "Whether we are the refresher."
        self.refresh_at = inf
        "When we must refresh; infinity when the peer does."
        self.expires_at = inf
        "When we hang up unless a refresh came (or, as the refresher, succeeded) before."

    def request_headers(self) -> Fields:
        """What an INVITE or UPDATE of ours carries. The roles stay as they are."""
        interval = self.interval or self.wanted
        if not interval:
            return []
        role = "" if not self.interval else ";refresher=uac" if self.ours else ";refresher=uas"
        fields = [("Session-Expires", f"{interval}{role}")]
        return [*fields, ("Min-SE", str(self._min_se))] if self._min_se > FLOOR else fields

    def too_small(self, request: Request) -> bool:
        """Whether to answer 422, with `min_se_header` (section 9).

        Raises: BadMessage, for all that `accept` would raise it for.
        """
        parse_min_se(request.headers)
        value = request.headers.get("Session-Expires")
        if value is None:
            return False
        return parse_session_expires(value)[0] < self._min_se and _supports(request.headers)

    @property
    def min_se_header(self) -> tuple[str, str]:
        """What a 422 of ours carries."""
        return "Min-SE", str(self._min_se)

    def raise_to(self, response: Response) -> bool:
        """Ask for what a 422 demands from now on; False when it demands nothing more. Raises BadMessage."""
        least = parse_min_se(response.headers)
        if least <= max(self.interval, self.wanted):
            return False
        self.interval = 0
        self._min_se = max(self._min_se, least)
        self.wanted = least
        return True

    def accept(self, request: Request, now: float) -> Fields:
        """Settle the terms as the side that answers 2xx; give the headers of the 2xx. Raises BadMessage."""
        value = request.headers.get("Session-Expires")
        supports = _supports(request.headers)
        if value is not None:
            interval, role = parse_session_expires(value)
            if self.wanted:
                interval = min(interval, max(self.wanted, parse_min_se(request.headers)))
        elif supports and self.wanted:
            interval, role = max(self.wanted, parse_min_se(request.headers)), ""
        else:
            self._settle(0, False, now)
            return []
        # Whoever leaves the choice to us gets us: our own refreshes are certain to come.
        theirs = supports and (role == "uac" or (not role and bool(self.interval) and not self.ours))
        self._settle(interval, not theirs, now)
        fields = [("Session-Expires", f"{self.interval};refresher={'uac' if theirs else 'uas'}")]
        return [("Require", "timer"), *fields] if theirs else fields

    def settle(self, response: Response, now: float) -> None:
        """Settle the terms as the side whose INVITE or UPDATE got this 2xx. Raises BadMessage."""
        value = response.headers.get("Session-Expires")
        if value is None:
            self._settle(0, False, now)
            return
        interval, role = parse_session_expires(value)
        self._settle(interval, role != "uas", now)

    def postpone(self, now: float) -> None:
        """Try to refresh once more, at half of what is left; for a refresh that failed, yet not for good."""
        self.refresh_at = now + (self.expires_at - now) / 2 if self.expires_at - now > 2 else inf

    @property
    def next_at(self) -> float:
        """When something is due; infinity for never."""
        return min(self.refresh_at, self.expires_at)

    def _settle(self, interval: int, ours: bool, now: float) -> None:
        self.interval = max(FLOOR, interval) if interval else 0
        self.ours = ours and bool(interval)
        if not interval:
            self.refresh_at = self.expires_at = inf
            return
        # Section 10: the refresher at half the interval, the other one hangs up a while before its end.
        self.refresh_at = now + self.interval / 2 if ours else inf
        self.expires_at = now + self.interval - min(32, self.interval / 3)


def _supports(headers: Headers) -> bool:
    return any(value.strip().lower() == "timer" for name in ("Supported", "Require") for value in headers.values(name))
