"""A UDP relay that loses, delays, reorders and repeats datagrams.

Each client gets a socket of its own towards the target, so that the target tells them apart and answers find their way
back. Addresses inside the datagrams (SDP, Via) stay what they are: point at the relay whatever is to pass through it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from offhook.qa.network.model import NetworkModel, Transit
from offhook.qa.network.relay import Kind, Relay

IDLE_S: Final = 300.0
"""Seconds without a datagram after which a client is forgotten; longer than any silence of RTP."""

Address = tuple[Any, ...]


class _Socket(asyncio.DatagramProtocol):
    """Passes datagrams to `take`. What the kernel reports of unreachable ports is the sender's affair."""

    def __init__(self, take: Any) -> None:
        self._take = take

    def datagram_received(self, data: bytes, address: Any) -> None:
        self._take(data, address)


class _Direction:
    """Datagrams under way, and the timer of the next one to arrive."""

    def __init__(self, model: NetworkModel, began: float) -> None:
        self._transit: Transit[bytes] = Transit(model)
        self._began = began
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.out: asyncio.DatagramTransport | None = None
        "None: not open yet; what comes meanwhile waits."
        self.to: Address | None = None

    def put(self, data: bytes, now: float) -> None:
        self._transit.put(data, len(data), now - self._began)
        self.move()

    def move(self) -> None:
        """Send what has arrived, and wake up for the next."""
        if self.out is None:
            return
        for _, data in self._transit.due(self._loop.time() - self._began):
            self.out.sendto(data, self.to)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (at := self._transit.next_at) is not None:
            self._timer = self._loop.call_at(self._began + at, self.move)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class _Flow:
    """One client."""

    def __init__(self, number: int, there: _Direction, back: _Direction) -> None:
        self.number = number
        self.there, self.back = there, back
        self.last = 0.0


class UdpRelay(Relay):
    """Relays UDP.

    >>> async with UdpRelay(("127.0.0.1", 0), ("127.0.0.1", 40000), Network(loss=0.01)) as relay:
    ...     relay.address
    ('127.0.0.1', 41234)
    """

    kind: Kind = "udp"
    _listening: asyncio.DatagramTransport

    @property
    def address(self) -> tuple[str, int]:
        """Host and port where clients find it."""
        host, port = self._listening.get_extra_info("sockname")[:2]
        return host, port

    async def _open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._flows: dict[Address, _Flow] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._listening, _ = await self._loop.create_datagram_endpoint(
            lambda: _Socket(self._from_client), local_addr=self.listen
        )

    async def _close(self) -> None:
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for client in list(self._flows):
            self._forget(client)
        self._listening.close()

    def _from_client(self, data: bytes, client: Address) -> None:
        now = self._loop.time()
        flow = self._flows.get(client) or self._meet(client, now)
        if flow is not None:
            flow.last = now
            flow.there.put(data, now)

    def _meet(self, client: Address, now: float) -> _Flow | None:
        for known in [known for known, flow in self._flows.items() if now - flow.last > IDLE_S]:
            self._forget(known)
        if (begun := self._begin()) is None:
            return None
        number, there, back = begun
        flow = self._flows[client] = _Flow(number, _Direction(there, now), _Direction(back, now))
        flow.back.out, flow.back.to = self._listening, client
        task = asyncio.create_task(self._reach(client, flow), name=f"udp-relay:{number}")
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return flow

    async def _reach(self, client: Address, flow: _Flow) -> None:
        def from_target(data: bytes, _: Address) -> None:
            flow.last = self._loop.time()
            flow.back.put(data, flow.last)

        try:
            out, _ = await self._loop.create_datagram_endpoint(lambda: _Socket(from_target), remote_addr=self.to)
        except OSError:
            self._forget(client, refused=True)
            return
        flow.there.out = out
        flow.there.move()

    def _forget(self, client: Address, *, refused: bool = False) -> None:
        flow = self._flows.pop(client)
        self._end(flow.number, refused=refused)
        for direction in (flow.there, flow.back):
            direction.close()
        if flow.there.out is not None:
            flow.there.out.close()
