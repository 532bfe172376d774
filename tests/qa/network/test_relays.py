"""Relays between real sockets of this machine."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from offhook.qa.network.relay import RelayError, Totals, parse_address
from offhook.qa.network.tcp_relay import TcpRelay
from offhook.qa.network.udp_relay import UdpRelay
from offhook.qa.scenario.model import Network

HOST = "127.0.0.1"


def _network(**settings: Any) -> Network:
    return Network.model_validate(settings)


class _Echo(asyncio.DatagramProtocol):
    transport: asyncio.DatagramTransport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.transport.sendto(data, address)


class _Client(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.got.put_nowait((time.monotonic(), data))


@asynccontextmanager
async def _udp(**settings: Any) -> AsyncIterator[tuple[UdpRelay, asyncio.DatagramTransport, _Client]]:
    loop = asyncio.get_running_loop()
    echo, _ = await loop.create_datagram_endpoint(_Echo, local_addr=(HOST, 0))
    to = echo.get_extra_info("sockname")
    async with UdpRelay((HOST, 0), to, _network(**settings)) as relay:
        out, client = await loop.create_datagram_endpoint(_Client, remote_addr=relay.address)
        try:
            yield relay, out, client
        finally:
            out.close()
            echo.close()
            await asyncio.sleep(0)


async def test_udp_goes_there_and_back_with_the_delay_of_both_ways() -> None:
    async with _udp(delay="30ms") as (relay, out, client):
        sent = time.monotonic()
        for data in (b"one", b"two"):
            out.sendto(data)
        got = [await asyncio.wait_for(client.got.get(), 2) for _ in range(2)]
        assert [data for _, data in got] == [b"one", b"two"]
        assert 0.06 <= got[0][0] - sent < 2
        assert relay.totals == Totals(flows=1, packets=4)


async def test_udp_clients_are_told_apart() -> None:
    async with _udp() as (relay, first, client):
        second, other = await asyncio.get_running_loop().create_datagram_endpoint(_Client, remote_addr=relay.address)
        first.sendto(b"first")
        second.sendto(b"second")
        assert (await asyncio.wait_for(client.got.get(), 2))[1] == b"first"
        assert (await asyncio.wait_for(other.got.get(), 2))[1] == b"second"
        second.close()
        assert relay.totals.flows == 2


async def test_udp_loss_is_counted() -> None:
    async with _udp(loss="100%") as (relay, out, client):
        for _ in range(20):
            out.sendto(b"gone")
        while relay.totals.packets < 20:
            await asyncio.sleep(0.005)
        assert relay.totals == Totals(flows=1, packets=20, lost=20)
        assert client.got.empty()
        assert str(relay.totals) == "1 flow, 20 packets: 20 lost, 0 reordered, 0 duplicated"


async def test_udp_freeze_lets_all_go_at_its_end() -> None:
    async with _udp(freeze=[["0ms", "150ms"]]) as (_, out, client):
        sent = time.monotonic()
        for n in range(3):
            out.sendto(bytes([n]))
            await asyncio.sleep(0.02)
        got = [await asyncio.wait_for(client.got.get(), 2) for _ in range(3)]
        assert [data for _, data in got] == [b"\0", b"\1", b"\2"]
        assert got[0][0] - sent >= 0.15
        assert got[2][0] - got[0][0] < 0.5


async def test_udp_to_a_port_where_nobody_is_harms_nobody() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind((HOST, 0))
        to = unused.getsockname()
    async with UdpRelay((HOST, 0), to, _network()) as relay:
        out, _ = await asyncio.get_running_loop().create_datagram_endpoint(_Client, remote_addr=relay.address)
        for _ in range(3):
            out.sendto(b"anybody?")
            await asyncio.sleep(0.01)
        out.close()
        assert relay.totals.packets == 3


@asynccontextmanager
async def _tcp(**settings: Any) -> AsyncIterator[TcpRelay]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, HOST, 0)
    try:
        async with TcpRelay((HOST, 0), server.sockets[0].getsockname(), _network(**settings)) as relay:
            yield relay
            await asyncio.sleep(0.02)
    finally:
        server.close()
        await server.wait_closed()


async def test_tcp_goes_there_and_back_with_the_delay_of_both_ways_and_its_end_too() -> None:
    async with _tcp(delay="30ms", loss="0%") as relay:
        reader, writer = await asyncio.open_connection(*relay.address)
        sent = time.monotonic()
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        assert 0.06 <= time.monotonic() - sent < 2
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        assert relay.totals.flows == 1


async def test_tcp_carries_more_than_its_window_whole_and_in_order() -> None:
    data = bytes(range(256)) * 4096
    async with _tcp(delay="5ms") as relay:
        reader, writer = await asyncio.open_connection(*relay.address)
        writer.write(data)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(-1), 5) == data
        writer.close()
        await writer.wait_closed()


async def test_tcp_is_as_slow_as_it_was_told() -> None:
    async with _tcp(rate=80_000) as relay:
        reader, writer = await asyncio.open_connection(*relay.address)
        began = time.monotonic()
        writer.write(bytes(2000))
        await asyncio.wait_for(reader.readexactly(2000), 5)
        # Each way takes 200 ms; the way back begins when the first segment is there.
        assert 0.3 < time.monotonic() - began < 2
        writer.close()
        await writer.wait_closed()


async def test_tcp_reset_breaks_both_sides() -> None:
    async with _tcp(reset="100ms") as relay:
        reader, writer = await asyncio.open_connection(*relay.address)
        began = time.monotonic()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(100), 5)
        assert 0.08 < time.monotonic() - began < 2
        writer.close()
        with pytest.raises(ConnectionResetError):
            await writer.wait_closed()


async def test_tcp_closes_although_nobody_reads() -> None:
    async with _tcp() as relay:
        _, writer = await asyncio.open_connection(*relay.address)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # the echo fills every buffer on its way
        for _ in range(40):
            writer.write(bytes(1 << 18))
        await asyncio.sleep(0.1)
        began = time.monotonic()
    assert time.monotonic() - began < 3
    writer.transport.abort()
    await asyncio.sleep(0.01)


async def test_tcp_to_a_port_where_nobody_is_is_reset() -> None:
    with socket.socket() as unused:
        unused.bind((HOST, 0))
        to = unused.getsockname()
    async with TcpRelay((HOST, 0), to, _network()) as relay:
        reader, writer = await asyncio.open_connection(*relay.address)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), 5)
        assert relay.totals.refused == 1
        writer.close()
        with pytest.raises(ConnectionResetError):
            await writer.wait_closed()


async def test_an_address_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RelayError, match=rf"cannot listen on 127.0.0.1:{port} \(.*\); change `--listen`"):
            await TcpRelay((HOST, port), (HOST, 1), _network()).__aenter__()


async def test_a_target_without_an_address_is_said() -> None:
    with pytest.raises(RelayError, match=r"no\.such\.invalid has no address \(.*\); check `--to`"):
        await UdpRelay((HOST, 0), ("no.such.invalid", 1), _network()).__aenter__()


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:5060", (HOST, 5060)), ("[::1]:80", ("::1", 80)), (":0", ("0.0.0.0", 0)), ("bot:1", ("bot", 1))],
)
def test_addresses_are_read(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "5060", "host", "host:", "host:x", "::1:80", "host:70000", "host:²"])
def test_what_is_no_address_is_said(text: str) -> None:
    with pytest.raises(RelayError, match="is no address; write host:port"):
        parse_address(text)
