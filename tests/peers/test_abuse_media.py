"""Who is heard in a call: the one who was called, and nobody who only found its port."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest
from fakes.served import free_port
from fakes.sip_gateway import SipGateway, loopback, sip_gateway
from fakes.strangers import Hand, Line, Place, hand, level, lines, speak

from offhook.providers.rtp.packet import RtpPacket, payload_of


def own_address() -> str:
    """An address of this machine that is not loopback's: on that, every address stands for every other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("198.51.100.1", 9))  # sends nothing
        except OSError:
            return ""
        host: str = sock.getsockname()[0]
        return "" if host.startswith("127.") else host


HOST = own_address()
needs_network = pytest.mark.skipif(not HOST, reason="needs an address that is not loopback's")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SipGateway]:
    """An echo for callers from this machine."""
    port = free_port()
    sources = [loopback(port, 2), *([HOST] if HOST else [])]
    with asyncio.Runner() as runner:
        up = sip_gateway(tmp_path_factory.mktemp("abuse"), http_port=port, trunk={"sources": sources})
        yield runner.run(up.__aenter__())
        runner.run(up.__aexit__(None, None, None))


def place(gateway: SipGateway) -> Place:
    return gateway.host, gateway.udp


async def intrude(caller: Hand, stranger: Line, frames: int) -> None:
    """Send a tone of 1000 Hz where the caller's audio belongs."""
    await speak(stranger, caller.media, frames, 1000.0, ssrc=99)


async def test_no_audio_before_the_ack(gateway: SipGateway) -> None:
    async with hand(gateway.peer(2), place(gateway)) as caller:
        assert (await caller.invite()).status == 200
        assert await caller.rtp.listen(0.5) == []
        await speak(caller.rtp, caller.media, 10, 440)  # nor by packets of the caller's own
        assert await caller.rtp.listen(0.2) == []
        caller.acknowledge()
        await caller.talk(20)
        assert caller.level(440) > 0.3
        assert await caller.hang_up() == 200


async def test_a_stranger_in_a_call_is_not_heard(gateway: SipGateway) -> None:
    async with hand(gateway.peer(2), place(gateway)) as caller:
        await caller.up()
        await caller.talk(10)
        caller.heard.clear()
        with lines(gateway.peer(30), gateway.peer(2)) as strangers:  # the second by the caller's own address
            await asyncio.gather(caller.talk(40), *(intrude(caller, stranger, 40) for stranger in strangers))
            assert caller.level(440) > 0.5
            assert caller.level(1000) < 0.001
            for stranger in strangers:
                assert await stranger.listen(0.05) == []
        assert await caller.hang_up() == 200


async def test_a_stranger_who_knows_the_stream_is_not_heard_either(gateway: SipGateway) -> None:
    """The right SSRC, numbers that go on, and a BYE for the stream: the source is still another."""
    async with hand(gateway.peer(2), place(gateway)) as caller:
        await caller.up()
        await caller.talk(10)
        caller.heard.clear()
        with lines(gateway.peer(31)) as (stranger,):
            goodbye = b"\x81\xcb\x00\x01\x00\x00\x00\x07"
            stranger.send(goodbye, (caller.media[0], caller.media[1] + 1))
            await asyncio.gather(caller.talk(30), speak(stranger, caller.media, 30, 1000, ssrc=7))
            assert await stranger.listen(0.05) == []
        assert caller.level(440) > 0.5
        assert caller.level(1000) < 0.001
        assert await caller.hang_up() == 200


@needs_network
async def test_a_stranger_who_is_first_takes_nothing(gateway: SipGateway) -> None:
    async with hand(HOST, place(gateway)) as caller:
        await caller.up()
        with lines(gateway.peer(32)) as (stranger,):
            await intrude(caller, stranger, 25)
            assert await stranger.listen(0.1) == []
            early = b"".join(payload_of(data) for data in await caller.rtp.listen(0.1))
            assert level(early, 1000) < 0.001
            await asyncio.gather(caller.talk(40), intrude(caller, stranger, 40))
            assert await stranger.listen(0.05) == []
        assert caller.level(440) > 0.5
        assert caller.level(1000) < 0.001
        assert await caller.hang_up() == 200


@needs_network
async def test_a_flood_at_the_media_port_is_not_heard(gateway: SipGateway) -> None:
    async with hand(HOST, place(gateway)) as caller:
        await caller.up()
        await caller.talk(10)
        caller.heard.clear()

        async def flood(stranger: Line) -> None:
            for number in range(40):
                for _ in range(20):  # 6,000 packets a second in all
                    stranger.send(os.urandom(200), caller.media)
                    stranger.send(RtpPacket(0, number, number, number, bytes(160)).encode(), caller.media)
                    stranger.send(b"\x80\xc8" + os.urandom(60), (caller.media[0], caller.media[1] + 1))
                await asyncio.sleep(0.01)

        with lines(gateway.peer(33)) as (stranger,):
            await asyncio.gather(caller.talk(60), flood(stranger))
            assert await stranger.listen(0.05) == []
        assert caller.level(440) > 0.3
        assert await caller.hang_up() == 200
        assert "Traceback" not in gateway.log


async def test_rubbish_from_the_peer_itself_ends_no_call(gateway: SipGateway) -> None:
    async with hand(gateway.peer(2), place(gateway)) as caller:
        await caller.up()
        await caller.talk(5)
        for size in (0, 1, 11, 12, 13, 160, 1400):
            for first in (b"", b"\x80", b"\x80\x00", b"\xbf\x00", b"\x80\xc8", b"\x00\x01"):
                data = (first + os.urandom(size))[: max(size, len(first))]
                caller.rtp.send(data, caller.media)
                caller.rtp.send(data, (caller.media[0], caller.media[1] + 1))
        caller.heard.clear()
        await caller.talk(40)
        assert caller.level(440) > 0.3
        assert await caller.hang_up() == 200
        assert "Traceback" not in gateway.log
