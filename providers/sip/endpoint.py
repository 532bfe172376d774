"""A user agent on its sockets: what arrives, what leaves, and the one timer between, on the event loop.

What arrives is handed to the user agent where it was parsed, what the user agent tells is acted on at once, and what it
wants to send leaves before the next thing is looked at.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence

from offhook.providers.sip.events import UaEvent
from offhook.providers.sip.hop import Hop
from offhook.providers.sip.message import Message
from offhook.providers.sip.transaction import Transactions
from offhook.providers.sip.transport import SipTransport
from offhook.providers.sip.uri import format_host
from offhook.providers.sip.useragent import UserAgent


class Endpoint:
    """SIP of one owner. Made inside a running loop.

    The owner has the user agent do things, and says `flush` after it, unless it was asked to within `act`.

    Args:
        act: acts on what the user agent tells.
        host_of: gives our address as a peer at that hop knows it.
        user: stands in our Contact.
        user_agent: as of UserAgent.
        trusted, client_tls: as of SipTransport.
        on_message: gets each message in place of `receive`, and hands it on there if the user agent is to have it.
        on_send: told each message that leaves, before it does.
    """

    def __init__(
        self,
        act: Callable[[Sequence[UaEvent]], None],
        host_of: Callable[[Hop], str],
        *,
        user: str = "",
        user_agent: str,
        trusted: Callable[[str], bool],
        client_tls: Callable[[Hop], ssl.SSLContext] | None = None,
        on_message: Callable[[Message, Hop], None] | None = None,
        on_send: Callable[[bytes, Hop], None] | None = None,
    ) -> None:
        self.transport = SipTransport(on_message or self.receive, self._failed, trusted=trusted, client_tls=client_tls)
        self.ua = UserAgent(Transactions(sent_by=self.sent_by), user_agent=user_agent, contact_of=self.contact)
        self._act, self._host_of, self._user, self._on_send = act, host_of, user, on_send
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due: float | None = None
        "When it rings. Not asked of the handle: uvloop gives a plain one where the time has come already."
        self._flushing = False

    async def close(self) -> None:
        """Send what waits, and close the sockets."""
        self.flush()
        try:
            await self.transport.close()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    # --- in and out

    def receive(self, message: Message, hop: Hop) -> None:
        """Take a message of a peer."""
        try:
            self._act(self.ua.receive(message, hop, self._loop.time()))
        finally:
            self.flush()

    def _failed(self, hop: Hop) -> None:
        try:
            self._act(self.ua.transport_failed(hop, self._loop.time()))
        finally:
            self.flush()

    def _tick(self) -> None:
        self._timer = None
        try:
            self._act(self.ua.tick(self._loop.time()))
        finally:
            self.flush()

    def flush(self) -> None:
        """Send what waits, act on what that made known, and set the timer."""
        if self._flushing:
            return  # whoever flushes now sees to it
        self._flushing = True
        try:
            while True:
                outbox = self.ua.outbox[:]
                self.ua.outbox.clear()
                for data, hop in outbox:
                    if self._on_send is not None:
                        self._on_send(data, hop)
                    self.transport.send(data, hop)
                events = self.ua.events()
                self._act(events)
                if not outbox and not events:
                    break
        finally:
            self._flushing = False
        due = self.ua.next_timer()
        if self._timer is not None and self._due != due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and due is not None:
            self._timer, self._due = self._loop.call_at(due, self._tick), due

    # --- what we call ourselves

    def port(self, hop: Hop) -> int:
        """The port that listens for this transport, which on a connection that we opened is not its own; 0: none."""
        ours = [(host, port) for transport, host, port in self.transport.addresses if transport == hop.transport]
        fitting = [port for host, port in ours if host == hop.local or port == hop.local_port]
        return (fitting or [port for _, port in ours] or [0])[0]

    def sent_by(self, hop: Hop) -> str:
        """Our host and port as a peer at that hop knows them."""
        return format_host(self._host_of(hop), self.port(hop))

    def contact(self, hop: Hop, user: str = "") -> str:
        """The URI by which a peer at that hop reaches us."""
        user = user or self._user
        transport = "" if hop.transport == "udp" else f";transport={hop.transport}"
        return f"sip:{user}{'@' if user else ''}{self.sent_by(hop)}{transport}"
