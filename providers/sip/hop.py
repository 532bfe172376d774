"""One hop of a SIP message: where it came from, or where it goes."""

from __future__ import annotations

from typing import Literal, NamedTuple

Transport = Literal["udp", "tcp", "tls"]


class Hop(NamedTuple):
    """The other end of a datagram or a connection, and ours."""

    transport: Transport
    host: str
    "IP literal, IPv6 without brackets."
    port: int
    local: str = ""
    "Our own address that it came to or leaves from; empty: whichever fits."
    local_port: int = 0
    server_name: str = ""
    "The name that a TLS certificate must carry when a connection is opened; empty: the address itself."

    @property
    def reliable(self) -> bool:
        """True where nothing is retransmitted (RFC 3261 section 17)."""
        return self.transport != "udp"
