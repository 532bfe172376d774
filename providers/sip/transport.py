"""The sockets of SIP: UDP, TCP and TLS, IPv4 and IPv6 (RFC 3261 section 18), as a thin asyncio shell.

A message goes from the socket to `on_message` within one callback of the loop; no task stands between. What is
not SIP, or too much of it, ends here: line ends and zeros that keep a NAT open, STUN, scanners' junk, connections
beyond the caps, messages that never become complete, peers that do not read.

Sources that `trusted` knows (the allow-lists of the trunks) are spared the limits meant for strangers.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Coroutine
from ipaddress import ip_address
from typing import Any, Final, cast

from offhook.providers.sip.framing import Ping, StreamFramer
from offhook.providers.sip.hop import Hop, Transport
from offhook.providers.sip.message import BadMessage, Message, Request, check, parse, respond
from offhook.providers.sip.sockets import bound_socket, family_of, tune

log = logging.getLogger(__name__)

MAX_DATAGRAM: Final = 65_535
"""Bytes; UDP has no more. Said to asyncio, so that it does not allocate 256 KiB for each."""

MAX_CONNECTIONS: Final = 2_000
"""Accepted connections in all: a bit under the usual limit of descriptors, which calls need too."""

MAX_PER_STRANGER: Final = 20
"""Accepted connections from one address that is not trusted; a NAT with a few phones behind it has that many."""

MAX_PER_FRIEND: Final = 500
"""Accepted connections from one address that is trusted: one broken trunk must not shut out the others."""

MAX_OPENED: Final = 500
"""Connections that we open."""

CONNECT_TIME: Final = 5.0
"""Seconds for opening a connection, TLS handshake included; then another target is tried."""

HANDSHAKE_TIME: Final = 5.0
"""Seconds that a peer has for the TLS handshake."""

MESSAGE_TIME: Final = 10.0
"""Seconds from the first byte of a message to its last, and from a stranger's connection to its first message."""

IDLE_TIME: Final = 120.0
"""Seconds after which a stranger's connection without a message or a ping is closed (RFC 5626 pings every 95-120)."""

FRIEND_IDLE_TIME: Final = 3600.0
"""The same for a trusted address; our next request in a call simply opens another connection."""

PING_TIME: Final = 90.0
"""Seconds of silence after which a connection that we opened gets a ping, so that no NAT forgets it (RFC 5626)."""

MAX_UNSENT: Final = 512 * 1024
"""Bytes that wait for a peer that does not read, or for a connection to open; then the connection is given up."""

STRANGER_RATE: Final = 500
"""Messages a second from one address that is not trusted; 100 calls a second with digest are 500."""

STRANGERS_RATE: Final = 2_000
"""Messages a second from all of them: reading and refusing these takes a third of a core. More are dropped unread."""

CLOSE_TIME: Final = 1.0
"""Seconds that `close` gives connections to send what is waiting."""

MAX_ROUTES: Final = 1_000
"""Addresses whose route is remembered."""

ROUTE_TIME: Final = 60.0
"""Seconds for which it is; our own addresses may change."""

BACKLOG: Final = 512
"""Connections that the kernel keeps until we take them."""

_SWEEP: Final = 0.5
"""Seconds between two looks at the deadlines of all connections."""

ConnectionKey = tuple[str, str, int, str]


class SipTransport:
    """Every SIP socket of a process.

    Args:
        on_message: called with each message that `check` finds in order, and where it came from.
        on_failed: called, from the loop and never from within `send`, when a hop could not be reached or its
            connection ended; what was under way there is lost.
        trusted: whether an address is allow-listed.
        client_tls: the TLS context for a connection to a hop; the system's certificate authorities when None.
    """

    def __init__(
        self,
        on_message: Callable[[Message, Hop], None],
        on_failed: Callable[[Hop], None],
        *,
        trusted: Callable[[str], bool] = lambda host: False,
        client_tls: Callable[[Hop], ssl.SSLContext] | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        "What was dropped, by kind: keep_alive, junk, bad, flood, full, slow, idle, unread, handshake."
        self._on_message, self._on_failed = on_message, on_failed
        self._trusted = trusted
        self._client_tls = client_tls
        self._loop = asyncio.get_running_loop()
        self._datagrams: list[_Datagrams] = []
        self._listeners: list[tuple[Transport, str, int, socket.socket]] = []
        self._connections: dict[ConnectionKey, _Connection] = {}
        self._all: set[_Connection] = set()
        self._accepted: Counter[str] = Counter()
        self._opened = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._strangers: Counter[str] = Counter()
        self._second = 0
        self._routes: dict[str, str] = {}
        self._routes_end = 0.0
        self._sweeper: asyncio.TimerHandle | None = None
        self._closing = False
        self._settled = asyncio.Event()

    # --- listening ------------------------------------------------------------------

    async def listen(self, transport: Transport, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listen on an address (an IP literal; `0.0.0.0` and `::` for all) and return the port, which 0 lets us choose.

        Raises: OSError when the address cannot be had; ValueError when TLS has no context, or another has one.
        """
        if (transport == "tls") != (tls is not None):
            raise ValueError("a TLS context belongs to the transport tls, and to no other")
        sock = bound_socket(transport, host, port)
        if transport == "udp":
            await self._loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=sock)
        else:
            sock.listen(BACKLOG)
            self._listeners.append((transport, *sock.getsockname()[:2], sock))
            self._start(self._accept(sock, transport, tls), f"sip-accept-{transport}")
        return cast(int, sock.getsockname()[1])

    @property
    def addresses(self) -> list[tuple[Transport, str, int]]:
        """Transport, host and port of everything that listens."""
        found: list[tuple[Transport, str, int]] = [("udp", udp.host, udp.port) for udp in self._datagrams]
        return found + [(transport, host, port) for transport, host, port, _ in self._listeners]

    def local_to(self, host: str) -> str:
        """Our address on the way to another (an IP literal); empty when there is no way.

        Where no socket listens at the address that the kernel would choose, it is the first one that does: what we
        send leaves from there, and answers to anywhere else would not be heard.
        """
        now = self._loop.time()
        if now >= self._routes_end or len(self._routes) >= MAX_ROUTES:
            self._routes.clear()
            self._routes_end = now + ROUTE_TIME
        known = self._routes.get(host)
        if known is not None:
            return known
        with socket.socket(family_of(host), socket.SOCK_DGRAM) as sock:
            try:
                sock.connect((host, 9))  # sends nothing; the kernel only picks the route
            except OSError:
                return ""
            found = cast(str, sock.getsockname()[0])
        family = family_of(host)
        ours = [at for _, at, _ in self.addresses if family_of(at) == family]
        if ours and found not in ours and not any(ip_address(at).is_unspecified for at in ours):
            found = ours[0]
        self._routes[host] = found
        return found

    # --- sending --------------------------------------------------------------------

    def send(self, data: bytes, hop: Hop) -> None:
        """Send one message: by the UDP socket of `hop.local` or a fitting one, by the connection there is, or by a
        new one whose certificate must carry `hop.server_name`. Returns at once; what fails is told to `on_failed`.
        """
        if self._closing:
            return
        if hop.transport == "udp":
            self._send_datagram(data, hop)
            return
        key = _key_of(hop)
        connection = self._connections.get(key)
        if connection is None or connection.closing:
            if self._opened >= MAX_OPENED:
                self.counts["full"] += 1
                self._fail(hop)
                return
            connection = self._connections[key] = _Connection(self, hop, opened=True)
            self._opened += 1
            self._all.add(connection)
            self._start(self._open(connection, hop), f"sip-connect-{hop.host}:{hop.port}")
        connection.send(data)

    def _send_datagram(self, data: bytes, hop: Hop) -> None:
        family, route = family_of(hop.host), self.local_to(hop.host)
        best: _Datagrams | None = None
        best_fit = -1
        for udp in self._datagrams:
            if udp.family != family:
                continue
            # `hop.local` may be an address that only a NAT in front of us has.
            fit = 4 * (udp.host == hop.local) + 2 * (udp.any or udp.host == route) + (udp.port == hop.local_port)
            if fit > best_fit:
                best, best_fit = udp, fit
        if best is None:
            self._fail(hop)
        else:
            best.send(data, hop)

    async def _open(self, connection: _Connection, hop: Hop) -> None:
        local = (hop.local, 0) if any(hop.local == host for _, host, _ in self.addresses) else None
        tls: ssl.SSLContext | None = None
        try:
            if hop.transport == "tls":
                (hop.server_name or hop.host).encode("idna")  # else asyncio finds out late and leaks the socket
                tls = self._client_tls(hop) if self._client_tls else ssl.create_default_context()
            async with asyncio.timeout(CONNECT_TIME):
                await self._loop.create_connection(
                    lambda: connection,
                    hop.host,
                    hop.port,
                    ssl=tls,
                    server_hostname=(hop.server_name or hop.host) if tls else None,
                    ssl_shutdown_timeout=CLOSE_TIME if tls else None,
                    local_addr=local,
                )
        except (OSError, ValueError) as error:  # TLS and timeouts are OSErrors, a name that is none a ValueError
            log.warning("no SIP connection by %s to %s port %d: %s", hop.transport, hop.host, hop.port, error)
            connection.gone()

    def _start(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = self._loop.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._settle()

    def _fail(self, hop: Hop) -> None:
        if not self._closing:
            self._loop.call_soon(self._on_failed, hop)

    # --- receiving ------------------------------------------------------------------

    def _admit(self, host: str) -> bool:
        """Whether a message of this address may be read: strangers have only so many a second."""
        if self._trusted(host):
            return True
        second = int(self._loop.time())
        if second != self._second:
            self._second = second
            self._strangers.clear()
        # The total is counted under a name that is no address, so the table never outgrows STRANGERS_RATE.
        if self._strangers[""] >= STRANGERS_RATE or self._strangers[host] >= STRANGER_RATE:
            self.counts["flood"] += 1
            return False
        self._strangers[""] += 1
        self._strangers[host] += 1
        return True

    def _datagram(self, data: bytes, host: str, port: int, udp: _Datagrams) -> None:
        if not data[:1].isalpha():
            # Line ends and zeros keep a NAT open; STUN begins with 0 or 1.
            data = data.lstrip(b"\r\n\0")
            if not data[:1].isalpha():
                self.counts["junk" if data else "keep_alive"] += 1
                return
        if not self._admit(host):
            return
        hop = Hop("udp", host, port, self.local_to(host) if udp.any else udp.host, udp.port)
        try:
            message = parse(data)
            check(message)
        except BadMessage as error:
            self._bad(error, hop)
        else:
            self._on_message(message, hop)

    def _bad(self, error: BadMessage, hop: Hop) -> None:
        """Count it, and tell a friend; a stranger learns nothing, and no bad message can be answered to another."""
        self.counts["bad"] += 1
        request = error.message
        if isinstance(request, Request) and request.method != "ACK" and self._trusted(hop.host):
            self.send(respond(request, error.status, str(error)).encode(), hop)

    # --- connections ----------------------------------------------------------------

    async def _accept(self, listener: socket.socket, transport: Transport, tls: ssl.SSLContext | None) -> None:
        """Take connections, unless there are too many; one whose handshake is not done counts as well."""
        while True:
            try:
                sock, peer = await self._loop.sock_accept(listener)
                hop = Hop(transport, peer[0], peer[1], *sock.getsockname()[:2])
            except OSError as error:  # out of descriptors, as a rule: the next may fail as fast
                log.warning("no SIP connection accepted by %s: %s", transport, error)
                await asyncio.sleep(_SWEEP)
                continue
            strangers = len(self._all) - self._opened
            limit = MAX_PER_FRIEND if self._trusted(hop.host) else MAX_PER_STRANGER
            if strangers >= MAX_CONNECTIONS or self._accepted[hop.host] >= limit:
                self.counts["full"] += 1
                sock.close()
                continue
            connection = _Connection(self, hop, opened=False)
            self._accepted[hop.host] += 1
            self._all.add(connection)
            self._start(self._greet(connection, sock, tls), f"sip-greet-{hop.host}")

    async def _greet(self, connection: _Connection, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Make an accepted socket a connection, by a handshake where it has one."""
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection,
                sock,
                ssl=tls,
                ssl_handshake_timeout=HANDSHAKE_TIME if tls else None,
                ssl_shutdown_timeout=CLOSE_TIME if tls else None,
            )
        except OSError:
            self.counts["handshake"] += 1
            connection.gone()

    def _left(self, connection: _Connection) -> None:
        if connection not in self._all:
            return
        self._all.discard(connection)
        hop = connection.hop
        if self._connections.get(_key_of(hop)) is connection:
            del self._connections[_key_of(hop)]
        if connection.opened:
            self._opened -= 1
        else:
            self._accepted[hop.host] -= 1
            if not self._accepted[hop.host]:
                del self._accepted[hop.host]
        self._fail(hop)
        self._settle()

    def _ready(self, connection: _Connection) -> None:
        """Messages can be exchanged; its deadlines are looked at from now on."""
        self._connections.setdefault(_key_of(connection.hop), connection)
        if self._sweeper is None and not self._closing:
            self._sweeper = self._loop.call_later(_SWEEP, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = self._loop.time()
        for connection in list(self._all):
            connection.sweep(now)
        if self._all and not self._closing:
            self._sweeper = self._loop.call_later(_SWEEP, self._sweep)

    async def close(self) -> None:
        """Stop listening, send what waits within `CLOSE_TIME`, and let go of everything."""
        self._closing = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for udp in self._datagrams:
            udp.transport.close()
        for task in self._tasks:
            task.cancel()
        for connection in list(self._all):
            connection.close()
        self._settle()
        try:
            async with asyncio.timeout(CLOSE_TIME):
                await self._settled.wait()
        except TimeoutError:
            for connection in list(self._all):
                connection.abort()
            for udp in self._datagrams:
                udp.transport.abort()
        for *_, sock in self._listeners:  # their tasks have ended
            sock.close()
        self._listeners.clear()
        await asyncio.sleep(0)  # sockets close in the loop's next turn

    def _settle(self) -> None:
        if self._closing and not (self._all or self._tasks or self._datagrams):
            self._settled.set()


class _Datagrams(asyncio.DatagramProtocol):
    """One UDP socket."""

    def __init__(self, owner: SipTransport) -> None:
        self._owner = owner
        self._sending: Hop | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)
        sock: socket.socket = transport.get_extra_info("socket")
        self.family = sock.family
        self.host, self.port = sock.getsockname()[:2]
        self.any = self.host in ("0.0.0.0", "::")  # noqa: S104  # compared, not bound
        if hasattr(transport, "max_size"):
            transport.max_size = MAX_DATAGRAM
        self._owner._datagrams.append(self)

    def send(self, data: bytes, hop: Hop) -> None:
        self._sending = hop
        try:
            self.transport.sendto(data, (hop.host, hop.port))
        except (OSError, ValueError) as error:
            self.error_received(error)
        finally:
            self._sending = None

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._owner._datagram(data, addr[0], addr[1], self)

    def error_received(self, exc: Exception) -> None:
        # Outside of `send` it is an ICMP message about some packet; timers find out about which.
        if self._sending is not None:
            self._owner._fail(self._sending)

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner._datagrams.remove(self)
        self._owner._settle()


class _Connection(asyncio.Protocol):
    """One TCP or TLS connection, accepted or opened by us."""

    def __init__(self, owner: SipTransport, hop: Hop, *, opened: bool) -> None:
        self.hop = hop
        self.opened = opened
        "True when we opened it."
        self._owner = owner
        self._framer = StreamFramer()
        self._transport: asyncio.Transport | None = None
        "None until messages can be exchanged."
        self._early: list[bytes] = []
        "What waits for that."
        self._early_size = 0
        self._friend = owner._trusted(hop.host)
        self._met = False
        "True once the peer sent a whole message."
        self._over = False
        self._active = self._begun = owner._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        if self._over:  # given up while it was opened
            transport.abort()
            return
        self._transport = transport
        tune(transport)
        transport.set_write_buffer_limits(high=MAX_UNSENT)
        self._active = self._begun = self._owner._loop.time()
        if self.opened:
            self.hop = self.hop._replace(local=transport.get_extra_info("sockname")[0])
        self._owner._ready(self)
        early, self._early = self._early, []
        if early:
            transport.writelines(early)

    @property
    def closing(self) -> bool:
        """True when nothing more can be sent."""
        return self._transport is not None and self._transport.is_closing()

    def send(self, data: bytes) -> None:
        """Send now, or as soon as the connection is open."""
        transport = self._transport
        if transport is None:
            self._early.append(data)
            self._early_size += len(data)
            if self._early_size > MAX_UNSENT:
                self._drop("unread")
            return
        transport.write(data)
        self._active = self._owner._loop.time()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        owner, framer = self._owner, self._framer
        had = framer.pending
        found = framer.feed(data)
        now = owner._loop.time()
        if found or not had:
            self._begun = now
        for item in found:
            self._active = now
            if isinstance(item, BadMessage):
                owner._bad(item, self.hop)
            elif not owner._admit(self.hop.host):
                continue
            elif isinstance(item, Ping):
                self._transport.write(b"\r\n")
            else:
                try:
                    check(item)
                except BadMessage as error:
                    owner._bad(error, self.hop)
                    continue
                self._met = True
                owner._on_message(item, self.hop)
        if framer.broken:
            self._transport.close()

    def pause_writing(self) -> None:
        self._drop("unread")

    def sweep(self, now: float) -> None:
        """Close what is too slow or too long idle; ping what is ours."""
        if self._transport is None:
            return
        if self._framer.pending and now - self._begun > MESSAGE_TIME:
            self._drop("slow")
        elif self.opened:
            if now - self._active > PING_TIME:
                self.send(b"\r\n\r\n")
        elif not self._met and not self._friend and now - self._begun > MESSAGE_TIME:
            self._drop("slow")
        elif now - self._active > (FRIEND_IDLE_TIME if self._friend else IDLE_TIME):
            self._owner.counts["idle"] += 1
            self._transport.close()

    def _drop(self, why: str) -> None:
        self._owner.counts[why] += 1
        self.abort()

    def close(self) -> None:
        """Send what waits, then end."""
        if self._transport is not None:
            self._transport.close()
        else:
            self.abort()

    def abort(self) -> None:
        """End at once."""
        if self._transport is not None:
            self._transport.abort()
        self.gone()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone()

    def gone(self) -> None:
        """Whatever became of it, it is no more; said as often as one likes."""
        self._over = True
        self._early = []
        self._owner._left(self)


def _key_of(hop: Hop) -> ConnectionKey:
    """Which connection a message may take: a certificate checked for one name says nothing about another."""
    return (hop.transport, hop.host, hop.port, hop.server_name)
