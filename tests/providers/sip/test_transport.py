"""The sockets of SIP, with real ones on loopback: what gets through, what does not, and who survives whom."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from fakes.sip_sockets import Raw, Side, client_tls, options, server_tls, udp_peer

from offhook.providers.sip import transport as module
from offhook.providers.sip.hop import Hop, Transport
from offhook.providers.sip.message import Message, Request, Response, respond
from offhook.providers.sip.transaction import RequestReceived, Transactions

pytestmark = pytest.mark.own_tasks("the fixture `side` closes what listens, and checks that nothing is left of it")

MakeSide = Callable[..., Side]


@pytest.fixture
async def side() -> AsyncIterator[MakeSide]:
    made: list[Side] = []
    before = asyncio.all_tasks()

    def make(**arguments: Any) -> Side:
        made.append(Side(**arguments))
        return made[-1]

    yield make
    for one in made:
        await one.transport.close()
        assert (one.transport._all, one.transport._tasks, one.transport._connections) == (set(), set(), {})
    assert asyncio.all_tasks() <= before | {task for task in [asyncio.current_task()] if task}


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate in one file, for two loopback addresses and one name."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=offhook"
    names = "subjectAltName=IP:127.0.0.1,IP:::1,DNS:sip.example.net"
    files = ["-addext", names, "-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "key").read_bytes() + (folder / "cert").read_bytes())
    return both


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[int], Any]]:
    made: list[Raw] = []

    async def open_one(port: int, host: str = "127.0.0.1") -> Raw:
        made.append(Raw(*await asyncio.open_connection(host, port)))
        return made[-1]

    yield open_one
    for raw in made:
        await raw.close()


# --- there and back -----------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
async def test_a_message_gets_there_and_its_answer_back(
    side: MakeSide, certificate: Path, transport: Transport, host: str
) -> None:
    ours, theirs = side(client_tls=client_tls(certificate)), side()
    theirs.answers = True
    port = await theirs.transport.listen(transport, host, 0, server_tls(certificate) if transport == "tls" else None)
    mine = await ours.transport.listen("udp", host, 0)
    assert theirs.transport.addresses == [(transport, host, port)]
    to = Hop(transport, host, port, host, mine)
    for number in ("1", "2"):
        ours.transport.send(options(number), to)
        request, came_from = await theirs.took()
        answer, back = await ours.took()
        assert isinstance(request, Request)
        assert isinstance(answer, Response)
        assert answer.call_id == request.call_id == number
        assert (came_from.transport, came_from.host, came_from.local, came_from.local_port) == (
            transport,
            host,
            host,
            port,
        )
        assert back[:3] == to[:3]
        assert back.local == host
    assert len(theirs.transport._all) == (0 if transport == "udp" else 1)


@pytest.mark.leaves("libuv keeps its signal pipe for the life of the process")
def test_all_of_it_works_on_uvloop_too(certificate: Path) -> None:
    async def main() -> list[str]:
        ours, theirs = Side(client_tls=client_tls(certificate)), Side()
        theirs.answers = True
        got = []
        await ours.transport.listen("udp", "127.0.0.1", 0)
        kinds: tuple[Transport, ...] = ("udp", "tcp", "tls")
        for kind in kinds:
            port = await theirs.transport.listen(
                kind, "127.0.0.1", 0, server_tls(certificate) if kind == "tls" else None
            )
            ours.transport.send(options(), Hop(kind, "127.0.0.1", port))
            _, hop = await ours.took()
            got.append(hop.transport)
        await ours.transport.close()
        await theirs.transport.close()
        return got

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == ["udp", "tcp", "tls"]


async def test_a_socket_for_all_addresses_says_which_was_meant(side: MakeSide, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = side(), side()
    port = await theirs.transport.listen("udp", "0.0.0.0", 0)
    await theirs.transport.listen("udp", "::", port)
    for host in ("127.0.0.1", "::1"):
        await ours.transport.listen("udp", host, 0)
        ours.transport.send(options(), Hop("udp", host, port))
        _, hop = await theirs.took()
        assert (hop.host, hop.local, hop.local_port) == (host, host, port)
    monkeypatch.setattr(module, "MAX_ROUTES", 1)
    for host in ("127.0.0.1", "127.0.0.2", "::1"):
        assert theirs.transport.local_to(host) == ("127.0.0.1" if "." in host else host)
    assert len(theirs.transport._routes) <= 2


async def test_our_address_is_one_that_listens(side: MakeSide) -> None:
    ours = side()
    assert ours.transport.local_to("127.0.0.1") == "127.0.0.1"
    ours.transport._routes.clear()
    await ours.transport.listen("udp", "127.0.0.7", 0)
    assert ours.transport.local_to("127.0.0.1") == "127.0.0.7"
    ours.transport._routes.clear()
    await ours.transport.listen("tcp", "0.0.0.0", 0)
    assert ours.transport.local_to("127.0.0.1") == "127.0.0.1"


async def test_the_socket_of_the_hop_is_the_one_that_sends(side: MakeSide) -> None:
    ours, theirs = side(), side()
    port = await theirs.transport.listen("udp", "127.0.0.1", 0)
    ports = [await ours.transport.listen("udp", host, 0) for host in ("127.0.0.1", "127.0.0.2", "127.0.0.2")]
    for local, local_port, expected in (
        ("127.0.0.2", ports[2], ("127.0.0.2", ports[2])),
        ("", 0, ("127.0.0.1", ports[0])),
        ("203.0.113.9", ports[0], ("127.0.0.1", ports[0])),
    ):
        ours.transport.send(options(), Hop("udp", "127.0.0.1", port, local, local_port))
        _, hop = await theirs.took()
        assert hop[1:3] == expected


async def test_an_address_that_cannot_be_had_is_an_error(side: MakeSide, certificate: Path) -> None:
    ours = side()
    for transport in ("udp", "tcp"):
        port = await ours.transport.listen(transport, "127.0.0.1", 0)
        with pytest.raises(OSError, match="in use"):
            await ours.transport.listen(transport, "127.0.0.1", port)
    with pytest.raises(ValueError, match="belongs to the transport tls"):
        await ours.transport.listen("tls", "127.0.0.1", 0)
    with pytest.raises(ValueError, match="belongs to the transport tls"):
        await ours.transport.listen("tcp", "127.0.0.1", 0, server_tls(certificate))


# --- what is not SIP ----------------------------------------------------------------


async def test_keep_alives_and_junk_are_dropped_silently(side: MakeSide) -> None:
    ours = side()
    port = await ours.transport.listen("udp", "127.0.0.1", 0)
    with udp_peer() as peer:
        stun = bytes.fromhex("000100002112a442") + bytes(12)
        for data in (b"\r\n", b"\r\n\r\n", b"\0\0\0\0", b"", stun, b"\x80\x00rtp", b"\xff" * 2000):
            peer.sendto(data, ("127.0.0.1", port))
        peer.sendto(b"GET / HTTP/1.1\r\n\r\n", ("127.0.0.1", port))
        peer.sendto(b"\r\n" + options(), ("127.0.0.1", port))
        await ours.took()
        assert ours.transport.counts == {"keep_alive": 4, "junk": 3, "bad": 1}
        peer.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.recv(100)


async def test_a_friend_is_told_what_is_wrong_and_a_stranger_is_not(side: MakeSide) -> None:
    broken = options().replace(b"Call-ID: 1\r\n", b"")
    ack = broken.replace(b"OPTIONS", b"ACK")
    for trusted, expected in ((True, b"SIP/2.0 400 Call-ID is missing\r\n"), (False, b"")):
        ours = side(trusted=lambda host, trusted=trusted: trusted)
        port = await ours.transport.listen("udp", "127.0.0.1", 0)
        with udp_peer() as peer:
            peer.setblocking(False)
            for data in (ack, broken):
                peer.sendto(data, ("127.0.0.1", port))
            await ours.counted("bad", 2)
            try:
                got = peer.recv(2000)
            except BlockingIOError:
                got = b""
        assert got.startswith(expected)
        assert bool(got) == trusted


# --- streams ------------------------------------------------------------------------


async def test_messages_are_cut_out_of_a_stream_wherever_it_is_split(side: MakeSide, connect: Any) -> None:
    ours = side()
    raw = await connect(await ours.transport.listen("tcp", "127.0.0.1", 0))
    raw.writer.write(options("1") + options("2") + options("3")[:50])
    assert [(await ours.took())[0].call_id for _ in range(2)] == ["1", "2"]
    for byte in options("3")[50:]:
        raw.writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert (await ours.took())[0].call_id == "3"


async def test_a_ping_is_answered(side: MakeSide, connect: Any) -> None:
    ours = side()
    raw = await connect(await ours.transport.listen("tcp", "127.0.0.1", 0))
    raw.writer.write(b"\r\n\r\n")
    assert await asyncio.wait_for(raw.reader.readexactly(2), 5) == b"\r\n"


async def test_a_bad_message_does_not_end_the_others_of_its_connection(side: MakeSide, connect: Any) -> None:
    ours = side(trusted=lambda host: True)
    raw = await connect(await ours.transport.listen("tcp", "127.0.0.1", 0))
    raw.writer.write(options().replace(b"CSeq: 1 OPTIONS", b"CSeq: 1 INVITE") + options().replace(b"From", b"Fro m"))
    raw.writer.write(options("good"))
    assert (await ours.took())[0].call_id == "good"
    assert ours.transport.counts["bad"] == 2
    assert await asyncio.wait_for(raw.reader.readuntil(b"\r\n"), 5) == (
        b"SIP/2.0 400 CSeq names another method than the request\r\n"
    )


@pytest.mark.parametrize(
    "data", [b"OPTIONS sip:c@d SIP/2.0\r\nX: " + b"x" * 10_000_000, options().replace(b"th: 0", b"th: x")]
)
async def test_a_stream_that_cannot_be_followed_is_closed_and_no_other(
    side: MakeSide, connect: Any, data: bytes
) -> None:
    ours = side()
    port = await ours.transport.listen("tcp", "127.0.0.1", 0)
    bad, good = await connect(port), await connect(port)
    bad.writer.write(data)
    assert await bad.until_closed() == b""
    good.writer.write(options("good"))
    assert (await ours.took())[0].call_id == "good"
    assert ours.transport.counts["bad"] == 1


async def test_a_peer_that_closed_its_half_still_gets_its_answer(side: MakeSide, connect: Any) -> None:
    ours = side()
    ours.answers = True
    raw = await connect(await ours.transport.listen("tcp", "127.0.0.1", 0))
    raw.writer.write(options())
    raw.writer.write_eof()
    assert (await raw.until_closed()).startswith(b"SIP/2.0 200 OK")
    assert (await ours.lost()).transport == "tcp"


async def test_whoever_is_slow_or_idle_is_closed(side: MakeSide, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MESSAGE_TIME", 0.05)
    monkeypatch.setattr(module, "IDLE_TIME", 0.1)
    monkeypatch.setattr(module, "_SWEEP", 0.01)
    ours = side()
    port = await ours.transport.listen("tcp", "127.0.0.1", 0)
    silent, slow, idle = await connect(port), await connect(port), await connect(port)
    idle.writer.write(options())
    slow.writer.write(options() + options()[:-1])
    for raw in (silent, slow, idle):
        await raw.until_closed()
    assert ours.transport.counts == {"slow": 2, "idle": 1}
    assert not ours.transport._accepted


async def test_a_friend_may_be_silent_but_not_slow(
    side: MakeSide, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MESSAGE_TIME", 0.05)
    monkeypatch.setattr(module, "IDLE_TIME", 0.01)
    monkeypatch.setattr(module, "_SWEEP", 0.01)
    ours = side(trusted=lambda host: True)
    port = await ours.transport.listen("tcp", "127.0.0.1", 0)
    silent, slow = await connect(port), await connect(port)
    slow.writer.write(options()[:-1])
    await slow.until_closed()
    assert ours.transport.counts == {"slow": 1}
    silent.writer.write(options("late"))
    assert (await ours.took())[0].call_id == "late"
    monkeypatch.setattr(module, "FRIEND_IDLE_TIME", 0.01)
    await silent.until_closed()


async def test_a_connection_of_ours_is_kept_open_by_pings(side: MakeSide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PING_TIME", 0.02)
    monkeypatch.setattr(module, "_SWEEP", 0.01)
    heard = bytearray()

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.readuntil(b"\r\n\r\n"))
        heard.extend(await reader.readexactly(4))
        writer.close()

    server = await asyncio.start_server(peer, "127.0.0.1", 0)
    ours = side()
    hop = Hop("tcp", "127.0.0.1", server.sockets[0].getsockname()[1])
    ours.transport.send(options(), hop)
    assert (await ours.lost())[:3] == hop[:3]
    assert heard.endswith(b"\r\n\r\n\r\n\r\n")
    server.close()


async def test_what_is_sent_while_a_connection_closes_opens_another(side: MakeSide) -> None:
    ours, theirs = side(), side()
    hop = Hop("tcp", "127.0.0.1", await theirs.transport.listen("tcp", "127.0.0.1", 0))
    ours.transport.send(options("first"), hop)
    await theirs.took()
    (connection,) = ours.transport._all
    connection.close()
    ours.transport.send(options("second"), hop)
    assert (await theirs.took())[0].call_id == "second"
    assert (await ours.lost())[:3] == hop[:3]
    ours.transport.send(options("third"), hop)
    assert (await theirs.took())[0].call_id == "third"
    assert ours.transport._opened == 1


# --- too many, too much -------------------------------------------------------------


async def test_connections_are_capped_for_a_source_and_in_all(
    side: MakeSide, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PER_STRANGER", 2)
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 3)
    ours = side(trusted=lambda host: host == "::1")
    four, six = await ours.transport.listen("tcp", "127.0.0.1", 0), await ours.transport.listen("tcp", "::1", 0)
    for _ in range(2):
        await connect(four)
    assert await (await connect(four)).until_closed() == b""
    friend = await connect(six, "::1")
    friend.writer.write(options("friend"))
    assert (await ours.took())[0].call_id == "friend"
    assert await (await connect(six, "::1")).until_closed() == b""
    assert ours.transport.counts["full"] == 2
    await friend.close()
    await ours.lost()
    again = await connect(six, "::1")
    again.writer.write(options("again"))
    assert (await ours.took())[0].call_id == "again"


async def test_strangers_have_only_so_many_messages_a_second(side: MakeSide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STRANGER_RATE", 3)
    monkeypatch.setattr(module, "STRANGERS_RATE", 5)
    ours = side(trusted=lambda host: host == "127.0.0.9")
    monkeypatch.setattr(ours.transport._loop, "time", lambda: 7.5)
    for host in ("192.0.2.1", "192.0.2.2", "127.0.0.9"):
        assert [ours.transport._admit(host) for _ in range(4)].count(True) == {"192.0.2.1": 3, "192.0.2.2": 2}.get(
            host, 4
        )
    assert ours.transport.counts["flood"] == 3
    monkeypatch.setattr(ours.transport._loop, "time", lambda: 8.0)
    assert ours.transport._admit("192.0.2.1")
    monkeypatch.undo()


async def test_what_a_flooding_connection_sends_too_much_is_not_read(
    side: MakeSide, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STRANGER_RATE", 0)
    ours = side()
    port = await ours.transport.listen("tcp", "127.0.0.1", 0)
    udp = await ours.transport.listen("udp", "127.0.0.1", 0)
    raw = await connect(port)
    raw.writer.write(options() * 3 + b"\r\n\r\n")
    with udp_peer() as peer:
        peer.sendto(options(), ("127.0.0.1", udp))
        await ours.counted("flood", 5)
    assert ours.inbox.empty()


async def test_a_peer_that_does_not_read_is_given_up(side: MakeSide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNSENT", 100_000)
    ours = side()
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        hop = Hop("tcp", "127.0.0.1", deaf.getsockname()[1])
        ours.transport.send(options(), hop)
        (connection,) = ours.transport._all
        while connection._transport is None:
            await asyncio.sleep(0)
        while not ours.transport.counts["unread"]:
            ours.transport.send(b"x" * 50_000, hop)
            await asyncio.sleep(0)
        assert (await ours.lost())[:3] == hop[:3]
        assert not ours.transport._all


async def test_what_waits_for_a_connection_is_bounded(side: MakeSide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNSENT", 1000)
    ours = side()
    with socket.create_server(("127.0.0.1", 0)) as server:
        hop = Hop("tcp", "127.0.0.1", server.getsockname()[1])
        ours.transport.send(b"x" * 900, hop)
        ours.transport.send(b"x" * 900, hop)
        assert await ours.lost() == hop
        assert ours.transport.counts["unread"] == 1
        await asyncio.sleep(0.05)
        assert not ours.transport._all


async def test_running_out_of_descriptors_ends_nothing(
    side: MakeSide, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SWEEP", 0.01)
    ours = side()
    accept = ours.transport._loop.sock_accept
    faults = [OSError(24, "Too many open files")] * 2

    async def short(sock: socket.socket) -> Any:
        if faults:
            raise faults.pop()
        return await accept(sock)

    monkeypatch.setattr(ours.transport._loop, "sock_accept", short)
    raw = await connect(await ours.transport.listen("tcp", "127.0.0.1", 0))
    raw.writer.write(options("late"))
    assert (await ours.took())[0].call_id == "late"
    assert not faults


async def test_connections_of_ours_are_capped(side: MakeSide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OPENED", 1)
    ours = side()
    with socket.create_server(("127.0.0.1", 0)) as server:
        hop = Hop("tcp", "127.0.0.1", server.getsockname()[1])
        ours.transport.send(options(), hop)
        ours.transport.send(options(), hop._replace(host="127.0.0.2"))
        assert await ours.lost() == hop._replace(host="127.0.0.2")
        assert ours.transport._opened == 1


# --- what cannot be reached ---------------------------------------------------------


async def test_nobody_there_is_told(side: MakeSide) -> None:
    ours = side()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    hop = Hop("tcp", "127.0.0.1", port)
    ours.transport.send(options(), hop)
    assert await ours.lost() == hop
    ours.transport.send(options(), Hop("udp", "::1", port))
    assert (await ours.lost()).host == "::1"
    await ours.transport.listen("udp", "127.0.0.1", 0)
    too_long = Hop("udp", "127.0.0.1", port)
    ours.transport.send(b"x" * 70_000, too_long)
    assert await ours.lost() == too_long
    assert ours.transport.local_to("203.0.113.300") == ""


async def test_a_tls_peer_that_never_answers_the_handshake_is_given_up(
    side: MakeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONNECT_TIME", 0.1)
    ours = side()
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        hop = Hop("tls", "127.0.0.1", deaf.getsockname()[1])
        ours.transport.send(options(), hop)
        assert await ours.lost() == hop


# --- certificates -------------------------------------------------------------------


async def test_a_certificate_must_carry_the_name_that_was_meant(side: MakeSide, certificate: Path) -> None:
    theirs, ours, unsure = side(), side(client_tls=client_tls(certificate)), side()
    port = await theirs.transport.listen("tls", "127.0.0.1", 0, server_tls(certificate))
    hop = Hop("tls", "127.0.0.1", port, server_name="sip.example.net")
    ours.transport.send(options("right"), hop)
    assert (await theirs.took())[0].call_id == "right"
    for name in ("other.example.net", ".no.name"):
        ours.transport.send(options("wrong"), hop._replace(server_name=name))
        assert (await ours.lost()).server_name == name
    unsure.transport.send(options("unknown"), hop)
    assert await unsure.lost() == hop
    assert theirs.inbox.empty()


async def test_a_handshake_that_does_not_come_is_not_waited_for(
    side: MakeSide, connect: Any, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HANDSHAKE_TIME", 0.1)
    ours = side()
    port = await ours.transport.listen("tls", "127.0.0.1", 0, server_tls(certificate))
    silent, plain = await connect(port), await connect(port)
    plain.writer.write(options())
    await plain.until_closed()
    await silent.until_closed()
    await ours.counted("handshake", 2)
    assert not ours.transport._all


async def test_handshakes_under_way_count_towards_the_caps(
    side: MakeSide, connect: Any, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PER_STRANGER", 1)
    ours = side()
    port = await ours.transport.listen("tls", "127.0.0.1", 0, server_tls(certificate))
    await connect(port)
    assert await (await connect(port)).until_closed() == b""
    assert ours.transport.counts["full"] == 1
    await ours.transport.close()


# --- the end ------------------------------------------------------------------------


async def test_closing_sends_what_waits_and_then_nothing(side: MakeSide, connect: Any) -> None:
    ours = side()
    ours.answers = True
    raw = await connect(await ours.transport.listen("tcp", "127.0.0.1", 0))
    raw.writer.write(options())
    _, hop = await ours.took()
    ours.transport.send(b"x" * 300_000, hop)
    closing = asyncio.create_task(ours.transport.close())
    assert len(await raw.until_closed()) > 300_000
    await closing
    ours.transport.send(options(), hop)
    assert ours.failed.empty()
    assert ours.transport.addresses == []


async def test_closing_does_not_wait_for_a_peer_that_does_not_read(
    side: MakeSide, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_TIME", 0.05)
    monkeypatch.setattr(module, "MAX_UNSENT", 100_000_000)
    ours = side()
    raw = await connect(await ours.transport.listen("tcp", "127.0.0.1", 0))
    raw.writer.write(options())
    _, hop = await ours.took()
    ours.transport.send(b"x" * 20_000_000, hop)
    await asyncio.wait_for(ours.transport.close(), 2)


async def test_closing_ends_what_is_only_being_opened(
    side: MakeSide, connect: Any, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SWEEP", 0.005)
    ours = side()
    await connect(await ours.transport.listen("tcp", "127.0.0.1", 0))
    await connect(await ours.transport.listen("tls", "127.0.0.1", 0, server_tls(certificate)))
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        ours.transport.send(options(), Hop("tls", "127.0.0.1", deaf.getsockname()[1]))
        await asyncio.sleep(0.02)
        assert len(ours.transport._all) == 3
        await asyncio.wait_for(ours.transport.close(), 2)


# --- how fast -----------------------------------------------------------------------


@pytest.mark.timing
async def test_an_invite_is_answered_with_100_within_10_milliseconds(side: MakeSide) -> None:
    theirs = side()
    transactions, loop = Transactions(), asyncio.get_running_loop()

    def on_message(message: Message, hop: Hop) -> None:
        for event in transactions.receive(message, hop, loop.time()):
            assert isinstance(event, RequestReceived)
            transactions.respond(event.tx, respond(event.request, 100), loop.time())
        for data, to in transactions.outbox:
            theirs.transport.send(data, to)
        transactions.outbox.clear()

    theirs.transport._on_message = on_message
    port = await theirs.transport.listen("udp", "127.0.0.1", 0)
    took = []
    with udp_peer() as peer:
        peer.setblocking(False)
        for number in range(300):
            invite = options(str(number)).replace(b"OPTIONS", b"INVITE").replace(b"bK1", b"bK%d" % number)
            began = loop.time()
            peer.sendto(invite.replace(b"Call-ID", b"Contact: <sip:a@b>\r\nCall-ID"), ("127.0.0.1", port))
            assert (await asyncio.wait_for(loop.sock_recv(peer, 2000), 5)).startswith(b"SIP/2.0 100 Trying")
            took.append(loop.time() - began)
    assert sorted(took)[int(len(took) * 0.99)] < 0.010
