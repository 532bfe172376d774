"""The least a UDP echo costs in asyncio: N sockets that give back what comes. A yardstick for `bench/sip.py`.

    python bench/sip_floor.py 300 asyncio|max_size|uvloop

`max_size` is asyncio with reads of 2 KiB instead of its 256 KiB. Prints the ports as JSON, and ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import uvloop


class Echo(asyncio.DatagramProtocol):
    """One socket."""

    def connection_made(self, transport: Any) -> None:
        self._send = transport.sendto

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._send(data, addr)


async def serve(count: int, *, small: bool) -> None:
    """Echo until the input ends."""
    loop = asyncio.get_running_loop()
    ports = []
    for _ in range(count):
        transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
        if small:
            transport.max_size = 2048  # type: ignore[attr-defined]
        ports.append(transport.get_extra_info("sockname")[1])
    print(json.dumps(ports), flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    kind = sys.argv[2]
    factory = uvloop.new_event_loop if kind == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(int(sys.argv[1]), small=kind == "max_size"))
