"""From whom a call takes RTP, and where its own goes (symmetric RTP, RFC 4961, without becoming anybody's prey).

Theory of operation
-------------------
SDP says where the peer wants its packets. A peer behind NAT is really somewhere else, and the only way to learn where
is to look where its packets come from. Whoever learns that from any packet can be robbed of the call by any stranger
who guesses the port ("RTP bleed"). Hence:

- Packets from exactly the SDP address are the peer's: they latch at once.
- Packets from a *plausible* source latch after `PROBATION` of them in a row with one SSRC. Plausible are the host
  that SDP names (another port) and the host that the signalling comes from. With SRTP every source is: what reaches
  us here was authenticated with the key that only the peer has.
- Anything else is refused, and says nothing about the call.
- Once latched, only that very source is heard. The latch opens again on a re-INVITE or UPDATE only (`update`); until
  another source has passed its probation the old one still holds.

| state    | from SDP's address | plausible, in probation  | plausible, probation over | anybody else |
|----------|--------------------|--------------------------|---------------------------|--------------|
| open     | heard, locked      | not heard                | heard, locked             | not heard    |
| reopened | heard, locked      | only the old peer heard  | heard, locked             | not heard    |
| locked   | the one source that it was locked to is heard, nobody else, wherever he is                        |
"""

from __future__ import annotations

import ipaddress
from typing import Final

from offhook.providers.rtp.media import Address

PROBATION: Final = 3
"""Packets in a row: a stranger's stray packet is one, and 60 ms at the beginning of a call are nobody's word."""


def ip(host: str, field: str = "host") -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address that `host` is.

    Raises:
        ValueError: it is a name; a lookup on the media path would stop every call.
    """
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        raise ValueError(f"{field} {host[:80]!r} is no IP address: resolve names before media starts") from None


class Latch:
    """The peer's address of one stream.

    `remote` is SDP's address (None: unknown), `signalling` the host that the signalling comes from (empty: unknown),
    `authenticated` says that packets come here only when SRTP has proved them. `loopback` is for tests on one
    machine: any loopback address stands for any other.

    Raises:
        ValueError: `remote.host` is a name.
    """

    __slots__ = ("_authenticated", "_candidate", "_count", "_hosts", "_loopback", "_sdp", "locked", "peer")

    def __init__(
        self,
        remote: Address | None,
        signalling: str = "",
        *,
        authenticated: bool = False,
        loopback: bool = False,
    ) -> None:
        self.peer: Address | None = None
        "Where to send, and the only source heard once `locked`; None: nowhere yet."
        self.locked = False
        self._sdp: Address | None = None
        self._loopback = loopback
        self.update(remote, signalling, authenticated=authenticated)

    def update(self, remote: Address | None, signalling: str = "", *, authenticated: bool = False) -> None:
        """A new offer or answer: learn anew. An unchanged SDP address keeps the peer until another has proved itself.

        Raises:
            ValueError: as the class, and nothing has changed then.
        """
        hosts = {str(ip(signalling, "signalling"))} if signalling else set()
        if remote is not None:
            remote = Address(str(ip(remote.host, "plan.remote.host")), remote.port)
            hosts.add(remote.host)
        if self.peer is None or remote != self._sdp:
            self.peer = remote
        self._sdp = remote
        self._hosts = frozenset(hosts)
        self._authenticated = authenticated
        self.locked = False
        self._candidate: tuple[Address, int] | None = None
        self._count = 0

    def accept(self, source: Address, ssrc: int) -> bool:
        """Whether an RTP packet from there is the peer's."""
        if self.locked:
            return source == self.peer
        if source == self._sdp:
            self._lock(source)
            return True
        if not self._plausible(source.host):
            return False
        if self._candidate != (source, ssrc):
            self._candidate, self._count = (source, ssrc), 0
        self._count += 1
        if self._count < PROBATION:
            return source == self.peer
        self._lock(source)
        return True

    def on_probation(self, source: Address) -> bool:
        """Whether a source that was not accepted may well be the peer's: its packets are no fault of anybody."""
        return not self.locked and self._candidate is not None and self._candidate[0] == source

    def accept_rtcp(self, source: Address) -> bool:
        """Whether RTCP from there may be the peer's: reports come from its host, from a port of their own."""
        if self._authenticated or (self.peer is not None and source.host == self.peer.host):
            return True
        return not self.locked and self._plausible(source.host)

    def _lock(self, source: Address) -> None:
        self.peer, self.locked, self._candidate = source, True, None

    def _plausible(self, host: str) -> bool:
        if self._authenticated or host in self._hosts:
            return True
        if not self._loopback or not ipaddress.ip_address(host).is_loopback:
            return False
        return any(ipaddress.ip_address(other).is_loopback for other in self._hosts)
