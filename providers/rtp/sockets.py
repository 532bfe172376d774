"""The sockets of all calls: two for each, read together every few milliseconds.

An event loop that wakes up for every packet spends more on waking than on the packet. The clock, which wakes up every
5 ms anyhow, reads what has come by then, a datagram of each socket a round. Half of what a packet costs is saved so;
a packet waits 2.5 ms on average for it.

When the process was held up, what has come meanwhile would look as if it came all at once, and the jitter buffers would
make every call wait for the next time. So the kernel is asked then when each datagram came.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Final

from offhook.providers.rtp.media import Address
from offhook.providers.rtp.packet import MAX_DATAGRAM
from offhook.providers.rtp.ports import NoPortLeft, PortPool

EXPEDITED: Final = 46 << 2
"""DSCP EF (RFC 3246) in the TOS byte: voice goes first where the network knows classes."""

ROUNDS: Final = 16
"""Datagrams that are read of a socket at once: what a stall of 300 ms leaves behind. The rest has to wait, or is lost
to the kernel's buffer, so that a flood of one call is none of the others'."""

STALE: Final = 1024
"""Datagrams at most that `drain` throws away: more than the kernel keeps."""

_READ: Final = 1
"""POLLIN, which is EPOLLIN too."""

_nothing: Final[tuple[None, None]] = (None, None)

LATE: Final = 0.010
"""Seconds between two looks from which the kernel is asked for times; a call costs twice as much then."""

STAMPED: Final = 35
"""SO_TIMESTAMPNS of Linux, which `socket` has no name for; other systems refuse it, and do without."""

_timespec: Final = struct.Struct("@ll")

OnDatagram = Callable[[bytes, Any, float], None]


class PortPair:
    """The sockets of one call, bound: `rtp`, and `rtcp` on the next port.

    Args:
        ports: whose port it is.
        host: IP literal of this machine; `0.0.0.0` and `::` are fine.
        now: seconds on the clock of `ports`.
        tries: ports tried when other programs hold some of the range.

    Raises:
        NoPortLeft: the range is used up, or other programs hold it.
        OSError: `host` is no address of this machine.
    """

    def __init__(self, ports: PortPool, host: str, now: float, *, tries: int) -> None:
        self._ports = ports
        for _ in range(tries):
            port = ports.take(now)
            with contextlib.ExitStack() as undo:
                undo.callback(ports.give_back, port, now)
                try:
                    self.rtp = undo.enter_context(_bound(host, port))
                    self.rtcp = _bound(host, port + 1)
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        raise
                    continue
                undo.pop_all()
            self.local = Address(host, port)
            return
        raise NoPortLeft(f"{tries} RTP ports in a row belong to other programs: give a range of its own")

    def close(self, now: float) -> None:
        """Let go of both, and let the ports rest. A second time does nothing."""
        if self.rtp.fileno() >= 0:
            self.rtp.close()
            self.rtcp.close()
            self._ports.give_back(self.local.port, now)


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # a network that knows no classes loses nothing
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, EXPEDITED)
            else:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, EXPEDITED)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


class Sockets:
    """Non-blocking UDP sockets, and who takes what comes to them. Holds nothing while there are none.

    Args:
        late: seconds between two looks from which the kernel is asked for times; below 0: always.
    """

    def __init__(self, late: float = LATE) -> None:
        self._late = late
        self._takers: dict[int, tuple[socket.socket, OnDatagram]] = {}
        self._looked = 0.0
        self._poll: Any = None

    def __len__(self) -> int:
        return len(self._takers)

    def add(self, sock: socket.socket, on_datagram: OnDatagram) -> None:
        """Give `on_datagram` the payload, the address and the time of what comes from now on."""
        if hasattr(select, "epoll"):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, STAMPED, 1)
        if self._poll is None:
            self._poll = select.epoll() if hasattr(select, "epoll") else select.poll()
        self._poll.register(sock.fileno(), _READ)
        self._takers[sock.fileno()] = sock, on_datagram

    def discard(self, sock: socket.socket) -> None:
        """Read it no more; to be called before it is closed."""
        if self._takers.pop(sock.fileno(), None) is not None:
            self._poll.unregister(sock.fileno())
            if not self._takers:
                self._poll = None

    def read(self, now: float) -> None:
        """Take what has come by `now`, monotonic seconds."""
        takers = self._takers
        late = now - self._looked > self._late
        wall = time.time()
        self._looked = at = now
        for _ in range(ROUNDS):
            poll = self._poll  # gone with the last call, which may end in here
            if poll is None:
                return
            ready = poll.poll(0)
            if not ready:
                return
            for number, _ in ready:
                sock, take = takers.get(number, _nothing)
                if sock is None or take is None:
                    continue  # what another one's datagram led to has closed it
                try:
                    if late:
                        data, control, _, source = sock.recvmsg(MAX_DATAGRAM, 64)
                        at = now - max(0.0, wall - _stamp(control, wall))
                    else:
                        data, source = sock.recvfrom(MAX_DATAGRAM)
                except OSError:
                    continue  # the network refused something that we sent
                take(data, source, at)


def _stamp(control: list[tuple[int, int, bytes]], unknown: float) -> float:
    """When a datagram came, by the wall clock."""
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == STAMPED and len(data) == _timespec.size:
            seconds, nanoseconds = _timespec.unpack(data)
            return float(seconds + nanoseconds * 1e-9)
    return unknown


def drain(sock: socket.socket) -> int:
    """Throw away what has come; gives how many datagrams that was."""
    for count in range(STALE):
        try:
            sock.recvfrom(1)
        except BlockingIOError:
            return count
        except OSError:
            continue
    return STALE
