"""A request of ours until its final answer, through as many transactions as digest authentication takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from offhook.providers.sip import digest
from offhook.providers.sip.headers import BadHeader, parse_auth
from offhook.providers.sip.hop import Hop
from offhook.providers.sip.message import Request, Response
from offhook.providers.sip.transaction import ClientTransaction

CHALLENGES: Final = {401: ("WWW-Authenticate", "Authorization"), 407: ("Proxy-Authenticate", "Proxy-Authorization")}
"""By status: the header that asks, and the one that answers."""

Credentials = tuple[str, str]
"""User and password."""

OnResponse = Callable[["Errand", int, Response | None, float], None]
"""Called with every provisional and final response but the challenges that are answered: the errand, the status, the
response and `now`. There is no response for 408 (nobody answered), 502 (not readable) and 503 (could not be sent)."""


class Errand:
    """A request of ours under way.

    Args:
        request: without a Via.
        next_number: gives the CSeq number for a repetition with credentials.
    """

    __slots__ = (
        "_rounds",
        "ack",
        "credentials",
        "fallback",
        "hop",
        "id",
        "keeps",
        "lingers",
        "next_number",
        "on_response",
        "request",
        "tx",
    )

    def __init__(
        self,
        request: Request,
        hop: Hop,
        on_response: OnResponse,
        *,
        next_number: Callable[[], int],
        credentials: Credentials | None = None,
    ) -> None:
        self.request = request
        self.hop = hop
        self.on_response = on_response
        self.credentials = credentials
        self.next_number = next_number
        self.tx: ClientTransaction | None = None
        self.fallback: Hop | None = None
        "Where to send it when it cannot be delivered to `hop`."
        self.id = 0
        self.keeps: object = None
        "What must be there when the response comes, and nobody else may hold by then."
        self.lingers = False
        "An INVITE that was accepted: more 2xx may come."
        self.ack: tuple[Request, Hop] | None = None
        "For an INVITE: the ACK of its 2xx, to be sent again whenever the 2xx comes again."
        self._rounds: dict[int, int] = {}

    def answers(self, response: Response, cnonce: Callable[[], str]) -> bool:
        """Sign the request for the challenge of a 401 or 407; False when there is no use in trying (again).

        A second challenge means a wrong password, unless it says that merely the nonce was stale, once.
        """
        status = response.status
        if self.credentials is None or status not in CHALLENGES:
            return False
        asks, gives = CHALLENGES[status]
        challenges = response.headers.lines(asks)
        tried = self._rounds.get(status, 0)
        if tried > 1 or (tried == 1 and not _is_stale(challenges)):
            return False
        old, (user, password) = self.request, self.credentials
        try:
            value = digest.answer(challenges, old.method, old.uri, user, password, body=old.body, cnonce=cnonce())
        except digest.BadChallenge:
            return False
        self._rounds[status] = tried + 1
        headers = old.headers.copy()
        headers.remove(gives)
        headers.add(gives, value)
        headers.set("CSeq", f"{self.next_number()} {old.method}")
        self.request = Request(old.method, old.uri, headers, old.body)
        return True


def _is_stale(challenges: list[str]) -> bool:
    for challenge in challenges:
        try:
            if parse_auth(challenge)[1].get("stale", "").lower() == "true":
                return True
        except BadHeader:
            continue
    return False
