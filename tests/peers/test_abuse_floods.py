"""Floods, rubbish and slow peers: what they cost, and whether a good call gets through meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.served import free_port
from fakes.sip_gateway import SIPS_PORT, SipGateway, loopback, sip_gateway
from fakes.strangers import Line, Place, good_call, lines, memory, request, sdp, sockets, until

from offhook.providers.sip.message import Response, parse

MB = 1 << 20
CEILING = 24 * MB
"""Bytes that a flood may add to the process: the tables of sources and of transactions, full."""

CALLS = 20
"""That the trunk which is flooded may have at once."""

CONNECTIONS = 20
"""That an address which is not trusted may have at once."""


def certificate(folder: Path) -> Path:
    """A certificate and its key for nobody in particular."""
    file = folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=offhook", "-keyout", str(folder / "key.pem"), "-out", str(file)]
    subprocess.run(command, check=True, capture_output=True)
    return file


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SipGateway]:
    """With a trunk for good calls, and one whose address others use."""
    folder, port = tmp_path_factory.mktemp("abuse"), free_port()
    with asyncio.Runner() as runner:
        up = sip_gateway(
            folder,
            http_port=port,
            transports=("udp", "tcp", "tls"),
            trunks={
                "pbx": {"sources": [loopback(port, 2)], "numbers": ["+15550100"]},
                "loose": {"sources": [loopback(port, 3)], "numbers": ["+15550101"], "max_calls": CALLS},
                "phone": {"auth": "digest", "username": "alice", "password": "correct horse"},
            },
            sip={"tls": {"cert_file": str(certificate(folder)), "key_file": str(folder / "key.pem")}},
        )
        yield runner.run(up.__aenter__())
        runner.run(up.__aexit__(None, None, None))


def place(gateway: SipGateway) -> Place:
    return gateway.host, gateway.udp


async def flood(line: Line, gateway: SipGateway, count: int, method: str = "INVITE") -> None:
    """Requests, each a new one, as fast as a few thousand a second."""
    for number in range(count):
        data = request(method, place(gateway), (line.host, line.port), body=sdp(line.host, 4000))
        line.send(data, place(gateway))
        if number % 10 == 9:
            await asyncio.sleep(0.002)


async def test_invites_of_strangers_cost_no_socket_and_shut_nobody_out(gateway: SipGateway) -> None:
    pid = gateway.process.pid
    before, calls = sockets(pid), len(gateway.calls())
    with lines(*(gateway.peer(which) for which in range(40, 45))) as strangers:
        floods = [asyncio.create_task(flood(line, gateway, 300)) for line in strangers]
        await good_call(gateway.peer(2), place(gateway))
        await asyncio.gather(*floods)
    await until(lambda: sockets(pid) <= before, "sockets to be closed")
    await gateway.over(calls + 1)
    assert len(gateway.calls()) == calls + 1


async def test_unacknowledged_invites_of_a_trunk_take_no_more_than_its_share(gateway: SipGateway) -> None:
    """Somebody sends in the name of an address that is let in; the other trunk has its room and its rate."""
    pid = gateway.process.pid
    before = sockets(pid)
    with lines(gateway.peer(3)) as (forger,):
        await asyncio.gather(flood(forger, gateway, 1500), good_call(gateway.peer(2), place(gateway)))
        assert sockets(pid) <= before + 2 * CALLS + 4
        live = (await gateway.api("GET", "/v1/calls")).json()
        assert len(live if isinstance(live, list) else live["calls"]) <= CALLS
        statuses = {m.status for m in map(parse, await forger.listen(0.2)) if isinstance(m, Response)}
        assert statuses <= {100, 180, 200, 503}
    await good_call(gateway.peer(2), place(gateway))


async def test_many_requests_of_strangers_do_not_fill_the_memory(gateway: SipGateway) -> None:
    pid = gateway.process.pid
    await good_call(gateway.peer(2), place(gateway))
    before = memory(pid)
    with lines(*(gateway.peer(which) for which in range(50, 90))) as strangers:
        for method in ("INVITE", "REGISTER", "OPTIONS", "BYE", "SUBSCRIBE"):
            await asyncio.gather(*(flood(line, gateway, 50, method) for line in strangers))
    await good_call(gateway.peer(2), place(gateway))
    assert memory(pid) - before < CEILING


async def test_rubbish_is_dropped(gateway: SipGateway) -> None:
    chance = random.Random(3261)
    with lines(gateway.peer(45), gateway.peer(2)) as senders:
        seeds = [request("INVITE", place(gateway), (line.host, line.port), body=sdp(line.host, 1)) for line in senders]
        seeds += [b"\0\1\0\0\x21\x12\xa4\x42" + bytes(12), b"\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b""]

        async def pour(line: Line) -> None:
            for number in range(1500):
                data = bytearray(chance.choice(seeds))
                for _ in range(chance.randrange(6) if data else 0):
                    data[chance.randrange(len(data))] = chance.randrange(256)
                line.send(bytes(data[: chance.choice((len(data), chance.randrange(1 + len(data))))]), place(gateway))
                line.send(os.urandom(chance.randrange(1500)), place(gateway))
                if number % 10 == 9:
                    await asyncio.sleep(0.005)

        await asyncio.gather(*(pour(line) for line in senders))
    await asyncio.sleep(1.0)  # what was taken for a call of the trunk used up its rate
    await good_call(gateway.peer(2), place(gateway))
    assert "Traceback" not in gateway.log


# --- connections -----------------------------------------------------------------------


async def dial(
    gateway: SipGateway, host: str, transport: str = "tcp"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = None
    if transport == "tls":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return await asyncio.open_connection(
        gateway.host, gateway.ports[transport], ssl=context, local_addr=(host, 0), limit=1 << 20
    )


async def hung_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@pytest.mark.parametrize("which", [46, 2])
async def test_a_head_without_end_is_cut_off(gateway: SipGateway, which: int) -> None:
    """Ten megabytes of one header, from a stranger and from a trunk."""
    pid = gateway.process.pid
    before = memory(pid)
    reader, writer = await dial(gateway, gateway.peer(which))
    writer.write(b"OPTIONS sip:a@b SIP/2.0\r\nX-Long: ")
    sent = 0
    with contextlib.suppress(OSError):
        while sent < 10 * MB and not reader.at_eof():
            writer.write(b"a" * 16_384)
            sent += 16_384
            await writer.drain()
            await asyncio.sleep(0)
    with contextlib.suppress(OSError):
        async with asyncio.timeout(2):
            answer = await reader.read()  # ends, for the connection is closed
            assert not answer or answer.startswith(b"SIP/2.0 4"), answer[:100]
    await hung_up(writer)
    assert sent < 10 * MB
    assert memory(pid) - before < 4 * MB


@pytest.mark.parametrize("transport", ["tcp", "tls"])
async def test_one_stranger_cannot_hold_all_connections(gateway: SipGateway, transport: str) -> None:
    """Slow ones, byte by byte; beyond a few they are not taken, and a trunk's is."""
    held = []
    try:
        for _ in range(CONNECTIONS):
            held.append(await dial(gateway, gateway.peer(47), transport))
            held[-1][1].write(b"O")
        with contextlib.suppress(OSError):
            reader, writer = await dial(gateway, gateway.peer(47), transport)
            held.append((reader, writer))
            assert await asyncio.wait_for(reader.read(), 2) == b""
        reader, writer = await dial(gateway, gateway.peer(2), transport)
        held.append((reader, writer))
        own: Place = writer.get_extra_info("sockname")
        writer.write(request("OPTIONS", (gateway.host, gateway.ports[transport]), own, transport=transport.upper()))
        assert (await asyncio.wait_for(reader.readline(), 2)).startswith(b"SIP/2.0 200")
        assert connections(gateway.process.pid) == CONNECTIONS + 1
    finally:
        for _, writer in held:
            await hung_up(writer)
    await until(lambda: connections(gateway.process.pid) == 0, "connections to be closed")


async def test_handshakes_that_are_never_finished_hold_nothing(gateway: SipGateway) -> None:
    held = []
    try:
        for _ in range(3 * CONNECTIONS):
            held.append(socket.create_connection((gateway.host, SIPS_PORT), source_address=(gateway.peer(48), 0)))
            held[-1].send(b"\x16\x03\x01\x02\x00")
        reader, writer = await dial(gateway, gateway.peer(2), "tls")
        own: Place = writer.get_extra_info("sockname")
        writer.write(request("OPTIONS", (gateway.host, SIPS_PORT), own, transport="TLS"))
        assert (await asyncio.wait_for(reader.readline(), 2)).startswith(b"SIP/2.0 200")
        await hung_up(writer)
    finally:
        for sock in held:
            sock.close()
    await until(lambda: connections(gateway.process.pid) == 0, "connections to be closed")


def connections(pid: int) -> int:
    """Established connections of a process at its SIP ports."""
    inodes = set(_links(pid))
    found = 0
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        port = int(fields[1].split(":")[1], 16)
        found += fields[3] == "01" and port in (5060, 5061) and f"socket:[{fields[9]}]" in inodes
    return found


def _links(pid: int) -> Iterator[str]:
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            yield os.readlink(link)


async def test_nothing_went_wrong_meanwhile(gateway: SipGateway) -> None:
    assert "Traceback" not in gateway.log
    assert '"level": "error"' not in gateway.log
    assert gateway.process.poll() is None
