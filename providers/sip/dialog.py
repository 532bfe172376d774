"""A dialog: what two user agents keep in mind about each other between the requests of one call (RFC 3261 section 12).

Nothing here sends. A `Dialog` builds our requests (route set, remote target, CSeq, tags) and tells whether the
peer's are in order. `next_hop` says where a request goes when the URI that leads it holds an address and not a name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from offhook.providers.sip.headers import NameAddr
from offhook.providers.sip.hop import Hop, Transport
from offhook.providers.sip.message import BadMessage, Headers, Message, Request, Response
from offhook.providers.sip.uri import BadUri, Uri

MAX_ROUTES: Final = 16
"""Route entries of one dialog. Real calls have up to five; each makes every request of the call longer."""

DEFAULT_PORTS: Final = {"udp": 5060, "tcp": 5060, "tls": 5061}


class DialogId(NamedTuple):
    """What names a dialog (section 12)."""

    call_id: str
    local_tag: str
    remote_tag: str
    "Empty for a peer of RFC 2543."

    @classmethod
    def of_request(cls, request: Request) -> DialogId:
        """The dialog that a request of the peer names. Raises BadMessage."""
        return cls(request.call_id, request.to.tag, request.from_.tag)


class Dialog:
    """One dialog, or the beginning of one: a caller's, before any phone has answered, has no remote tag."""

    __slots__ = (
        "behind_nat",
        "call_id",
        "contact",
        "hop",
        "local",
        "local_number",
        "local_tag",
        "remote",
        "remote_number",
        "remote_tag",
        "routes",
        "target",
    )

    def __init__(
        self, call_id: str, local: str, local_tag: str, remote: str, target: str, hop: Hop, contact: str, number: int
    ) -> None:
        self.call_id = call_id
        self.local = local
        "Our From as it stands in our requests, tag included."
        self.local_tag = local_tag
        self.remote = remote
        "The peer as it stands in the To of our requests, verbatim."
        self.remote_tag = ""
        self.target = target
        "The URI of the peer's Contact: where our requests are meant to arrive."
        self.routes: list[str] = []
        "Proxies that our requests pass, first one first, each as a Route value."
        self.hop = hop
        "Where the peer was last known to be."
        self.contact = contact
        "Our Contact, with angle brackets."
        self.local_number = number
        "CSeq of our latest request."
        self.remote_number: int | None = None
        "CSeq of the peer's latest request; None before the first."
        self.behind_nat = False
        "Whether the peer does not know its own address, so that only `hop` reaches it."

    @classmethod
    def called(cls, invite: Request, hop: Hop, *, tag: str, contact: str, number: int) -> Dialog:
        """The dialog of an INVITE that came in, as the one called. Raises BadMessage."""
        if invite.contact is None:
            raise BadMessage("an INVITE needs a Contact")
        to, from_ = invite.headers.get("To") or "", invite.headers.get("From") or ""
        self = cls(invite.call_id, f"{to.rstrip('; ')};tag={tag}", tag, from_, "", hop, contact, number)
        self.retarget(invite)
        self.remote_tag = invite.from_.tag
        self.remote_number = invite.cseq.number
        self.routes = _routes(invite)
        via = invite.top_via
        self.behind_nat = _reach(via.host) >= 0 and via.host != hop.host
        return self

    def answered_by(self, response: Response) -> Dialog:
        """The dialog of one phone that answers our INVITE (each To-tag is one). Raises BadMessage."""
        new = Dialog(
            self.call_id,
            self.local,
            self.local_tag,
            self.remote,
            self.target,
            self.hop,
            self.contact,
            self.local_number,
        )
        new.adopt(response)
        return new

    def adopt(self, response: Response) -> None:
        """Take tag, route set and target from a response; the 2xx has the last word. Raises BadMessage."""
        self.remote = response.headers.get("To") or self.remote
        self.remote_tag = response.to.tag
        self.routes = _routes(response)[::-1]
        self.retarget(response)

    @property
    def id(self) -> DialogId:
        return DialogId(self.call_id, self.local_tag, self.remote_tag)

    def retarget(self, message: Message) -> None:
        """Take the peer's new Contact from a target refresh (INVITE, UPDATE and their 2xx). Raises BadMessage."""
        contact = message.contact
        if contact is not None:
            self.target = _written(message.headers.values("Contact")[0]) or str(contact.uri)

    def in_order(self, number: int) -> bool:
        """Whether a request of the peer is newer than those before, and remember it (section 12.2.2)."""
        if self.remote_number is not None and number <= self.remote_number:
            return False
        self.remote_number = number
        return True

    def next_number(self) -> int:
        """The CSeq number of our next request."""
        self.local_number += 1
        return self.local_number

    def request(self, method: str, user_agent: str, *, number: int | None = None, body: bytes = b"") -> Request:
        """A request within the dialog.

        Args:
            number: its CSeq number where that is given (ACK, CANCEL); the next one otherwise.
        """
        uri, routes = self.target, self.routes
        if routes and not _is_loose(routes[0]):
            # A strict router of RFC 2543 wants itself in the Request-URI, and the target last (section 12.2.1.1).
            uri, routes = _bare(routes[0]), [*routes[1:], f"<{self.target}>"]
        headers = Headers()
        for route in routes:
            headers.add("Route", route)
        headers.add("Max-Forwards", "70")
        headers.add("From", self.local)
        headers.add("To", self.remote)
        headers.add("Call-ID", self.call_id)
        headers.add("CSeq", f"{self.next_number() if number is None else number} {method}")
        if method in ("INVITE", "UPDATE", "REFER", "NOTIFY", "SUBSCRIBE"):
            headers.add("Contact", self.contact)
        headers.add("User-Agent", user_agent)
        return Request(method, uri, headers, body)

    @property
    def next_uri(self) -> str:
        """The URI that says where our requests go next: the first proxy, else the peer."""
        return _bare(self.routes[0]) if self.routes else self.target


def next_hop(uri: str, last: Hop, *, reuse: bool = True) -> Hop:
    """Where a request goes whose next stop is `uri`, in a dialog whose peer was last seen at `last`.

    A name is not looked up in the middle of a call: the peer stays where it was, as it does behind a NAT (a private
    address that we do not see it by), and on an open connection to the very host.

    Args:
        reuse: whether to use that connection; False once it has turned out to be lost.
    """
    try:
        found = Uri.parse(uri)
    except BadUri:
        return last
    reach = _reach(found.host)
    if reach < 0 or reach < _reach(last.host):
        # The port of a connection that it opened is gone with it; that of the URI may listen.
        return last if reuse else last._replace(port=found.port or DEFAULT_PORTS[last.transport])
    transport = _TRANSPORTS.get(found.transport) or ("tls" if found.scheme == "sips" else last.transport)
    if transport == last.transport and found.host == last.host and last.reliable and reuse:
        return last
    port = found.port or DEFAULT_PORTS[transport]
    if transport == last.transport:
        return last._replace(host=found.host, port=port)
    return Hop(transport, found.host, port, last.local)


_TRANSPORTS: Final[dict[str, Transport]] = {"udp": "udp", "tcp": "tcp", "tls": "tls"}


@lru_cache(maxsize=4096)
def _reach(host: str) -> int:
    """How far an address is valid: 2 everywhere, 1 in a private network, 0 in this machine; -1 for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return -1
    if address.is_loopback or address.is_unspecified:
        return 0
    return 2 if address.is_global else 1


def _written(contact: str) -> str:
    """The URI of a Contact to the letter, as some peers compare it so; empty where that takes a closer look."""
    before, bracket, after = contact.partition("<")
    if not bracket:
        return before.partition(";")[0].strip()
    return "" if '"' in before else after.partition(">")[0].strip()


def _routes(message: Message) -> list[str]:
    routes: Sequence[str] = message.headers.values("Record-Route")
    if len(routes) > MAX_ROUTES:
        raise BadMessage(f"more than {MAX_ROUTES} Record-Route values")
    return list(routes)


@lru_cache(maxsize=1024)
def _is_loose(route: str) -> bool:
    try:
        return "lr" in NameAddr.parse(route).uri.params
    except ValueError:
        return True  # nothing better is known of a route that cannot be read; the proxy that wrote it may


@lru_cache(maxsize=1024)
def _bare(route: str) -> str:
    """The URI of a Route value."""
    try:
        return str(NameAddr.parse(route).uri)
    except ValueError:
        return route.strip("<> ")
