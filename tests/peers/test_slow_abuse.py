"""What abuse leaves behind once its timers have run out: 50,000 requests, calls nobody acknowledged, slow peers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from pathlib import Path

import pytest
from fakes.served import free_port
from fakes.sip_gateway import loopback, sip_gateway
from fakes.strangers import good_call, lines, memory, request, sdp, sockets

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

REQUESTS = 50_000
A_SECOND = 1_900
"""So many are all read: of more than 2,000 a second from strangers the rest is dropped."""

CEILING = 32 << 20
"""Bytes of memory that all of them together may cost."""

UNACKNOWLEDGED = 34.0
"""Seconds after which a call without ACK is given up (64 * T1), and a bit."""

SLOW = 11.0
"""Seconds after which a connection without a whole message is closed, and a bit."""


async def test_fifty_thousand_requests_leave_the_memory_as_it_was(tmp_path: Path) -> None:
    port = free_port()
    trunks = {
        "pbx": {"sources": [loopback(port, 2)], "numbers": ["+15550100"]},
        "phone": {"auth": "digest", "username": "alice", "password": "correct horse"},
    }
    async with sip_gateway(tmp_path, http_port=port, trunks=trunks) as gateway:
        place, pid = (gateway.host, gateway.udp), gateway.process.pid
        await good_call(gateway.peer(2), place)
        before, opened = memory(pid), sockets(pid)
        methods = ("INVITE", "OPTIONS", "REGISTER", "BYE", "CANCEL", "SUBSCRIBE")
        with lines(*(gateway.peer(which) for which in range(10, 210))) as strangers:
            began = time.monotonic()
            for number in range(REQUESTS):
                line = strangers[number % len(strangers)]
                method = methods[number % len(methods)]
                tag = "guess" if number % 4 == 0 else ""
                body = sdp(line.host, 4000) if method == "INVITE" else b""
                line.send(request(method, place, (line.host, line.port), to_tag=tag, body=body), place)
                await asyncio.sleep(max(0.0, began + number / A_SECOND - time.monotonic()))
                if number == REQUESTS // 2:
                    await good_call(gateway.peer(2), place)
            assert memory(pid) - before < CEILING
            answered = sum([len(await line.listen(0.001)) for line in strangers[:5]])
            assert answered > 0
        await good_call(gateway.peer(2), place)
        await gateway.over(3)
        assert sockets(pid) <= opened
        assert "Traceback" not in gateway.log


async def test_calls_and_connections_that_go_nowhere_are_given_up(tmp_path: Path) -> None:
    port = free_port()
    trunks = {
        "pbx": {"sources": [loopback(port, 2)], "numbers": ["+15550100"]},
        "loose": {"sources": [loopback(port, 3)], "numbers": ["+15550101"], "max_calls": 100},
    }
    async with sip_gateway(tmp_path, http_port=port, trunks=trunks, transports=("udp", "tcp")) as gateway:
        place, pid = (gateway.host, gateway.udp), gateway.process.pid
        await good_call(gateway.peer(2), place)
        before, began = sockets(pid), time.monotonic()
        held = [
            socket.create_connection((gateway.host, gateway.ports["tcp"]), source_address=(gateway.peer(which), 0))
            for which in (4, 5, 6)
            for _ in range(20)
        ]
        try:
            with lines(gateway.peer(3)) as (forger,):
                for number in range(1500):
                    data = request("INVITE", place, (forger.host, forger.port), body=sdp(forger.host, 4000))
                    forger.send(data, place)
                    if number % 10 == 9:
                        await asyncio.sleep(0.005)
            while time.monotonic() - began < SLOW:
                for sock in held:
                    with contextlib.suppress(OSError):
                        sock.send(b"O")  # a byte a second keeps no connection
                await asyncio.sleep(1)
            for sock in held:
                sock.settimeout(1)
                with contextlib.suppress(ConnectionResetError):
                    assert sock.recv(1) == b""
        finally:
            for sock in held:
                sock.close()
        await asyncio.sleep(UNACKNOWLEDGED - (time.monotonic() - began))
        rows = await gateway.over(101)
        assert len(rows) == 101
        assert sockets(pid) <= before
        await good_call(gateway.peer(2), place)
        await good_call(gateway.peer(3), place)  # the other trunk has its room again
        assert "Traceback" not in gateway.log
