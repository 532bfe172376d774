"""AudioSocket over real sockets, against a channel as strict as Asterisk. Case numbers are those of the wire notes."""

from __future__ import annotations

import asyncio
import itertools
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from fakes.asterisk import AudioSocketChannel

from offhook.gateway import audiosocket
from offhook.gateway.audiosocket import AudioSocketConnection, AudioSocketServer
from offhook.providers.asterisk.adapter import AsteriskProvider, AsteriskSettings
from offhook.providers.asterisk.audiosocket import AudioSocketStream
from offhook.providers.base import (
    AcceptAnswer,
    CallOffered,
    MediaReceived,
    ProtocolFault,
    RejectAnswer,
    StreamEvent,
    StreamStarted,
)
from offhook.providers.rtp.clock import FrameClock

pytestmark = pytest.mark.own_tasks("the fake's reader ends with the fake")


class FakeLine:
    """Answers every call at once, as `gateway.direct` does when an agent is ready, and remembers."""

    def __init__(self, stream: AudioSocketStream, socket: AudioSocketConnection, *, refuse: bool) -> None:
        self.stream, self.socket, self._refuse = stream, socket, refuse
        self.events: list[StreamEvent] = []
        self.started = asyncio.Event()
        self.codes: list[int] = []
        self.gone = asyncio.Event()

    def receive(self, data: bytes, is_text: bool) -> None:
        assert not is_text
        now = asyncio.get_running_loop().time()
        for event in self.stream.receive_binary(data, now):
            self.take(event, now)

    def take(self, event: StreamEvent, now: float) -> None:
        self.events.append(event)
        if isinstance(event, CallOffered):
            if self._refuse:
                for message in self.stream.refuse(RejectAnswer()):
                    self.socket.send_message(message)
                self.socket.close(1008, "the call is not taken")
                return
            for further in self.stream.accept(AcceptAnswer(), now)[1]:
                self.take(further, now)
        elif isinstance(event, StreamStarted):
            self.started.set()
        elif isinstance(event, ProtocolFault) and event.close_code:
            self.socket.close(event.close_code, event.kind)

    def lost(self, code: int) -> None:
        self.codes.append(code)
        self.gone.set()

    @property
    def heard(self) -> bytes:
        return b"".join(event.payload for event in self.events if isinstance(event, MediaReceived))


class Served:
    def __init__(self, provider: AsteriskProvider, *, refuse: bool = False) -> None:
        self.lines: list[FakeLine] = []
        self.provider = provider
        self.clock = FrameClock()
        self._refuse = refuse
        self.server = AudioSocketServer(provider, self._connect, self.clock)
        self.channels: list[AudioSocketChannel] = []
        self.port = 0

    def _connect(self, stream: AudioSocketStream, socket: AudioSocketConnection) -> FakeLine:
        self.lines.append(FakeLine(stream, socket, refuse=self._refuse))
        return self.lines[-1]

    def ticket(self) -> str:
        now = asyncio.get_running_loop().time()
        return self.provider._ids.issue("+15550001111", "+15550002222", {}, now)

    async def call(self, id: str | None = None, **options: Any) -> AudioSocketChannel:
        channel = AudioSocketChannel()
        self.channels.append(channel)
        await channel.connect(self.port, self.ticket() if id is None else id, **options)
        return channel


@asynccontextmanager
async def served(*, refuse: bool = False, **settings: Any) -> AsyncIterator[Served]:
    made = AsteriskSettings.model_validate({"password": "secret", "audiosocket": {"port": 0} | settings})
    found = Served(AsteriskProvider(made), refuse=refuse)
    found.port = await found.server.start()
    try:
        yield found
    finally:
        await found.server.close()
        for channel in found.channels:
            await channel.close()
        await asyncio.sleep(0)
        assert not found.server.connections
        assert found.server.unnamed == 0
        assert len(found.clock) == 0


async def test_case_1_and_3_a_call() -> None:
    async with served() as here:
        channel = await here.call()
        channel.send(0x10, bytes(320))
        await channel.heard(2)
        (line,) = here.lines
        await line.started.wait()
        channel.send(0x10, b"\1\0" * 160)
        await channel.heard(len(channel.frames) + 1)
        assert line.heard.endswith(b"\1\0" * 160)
        assert all(frame[1:] == (0x10, bytes(320)) for frame in channel.frames)
        line.socket.send_message(line.stream.media(b"\7\0" * 160))
        await channel.heard(len(channel.frames) + 2)
        assert [payload for _, _, payload in channel.frames].count(b"\7\0" * 160) == 1
        assert here.server.unnamed == 0
        await channel.close()
        await line.gone.wait()
        assert line.codes == [1000]
        assert not channel.dropped


@pytest.mark.parametrize("id", [str(uuid.UUID(int=5)), ""])
async def test_case_1_an_unknown_id_is_closed_and_nothing_played(id: str) -> None:
    async with served() as here:
        channel = await here.call(id)
        if not id:
            channel.send(0x10, bytes(320))
        async with asyncio.timeout(0.1):
            await channel.over.wait()
        assert (channel.frames, channel.dropped) == ([], "")


async def test_case_1_an_id_is_good_once() -> None:
    async with served() as here:
        id = here.ticket()
        first, second = await here.call(id), await here.call(id)
        await second.over.wait()
        await first.heard(2)
        assert not second.frames
        assert not first.over.is_set()


async def test_case_6_a_close_without_hang_up_ends_the_call_once() -> None:
    async with served() as here:
        channel = await here.call()
        await channel.heard(1)
        channel._writer.transport.abort()  # a reset: how a close looks while audio is on its way
        (line,) = here.lines
        await line.gone.wait()
        assert line.codes == [1000]


@pytest.mark.timing
async def test_case_8_a_burst_leaves_at_the_pace_of_speech() -> None:
    async with served() as here:
        channel = await here.call()
        channel.send(0x10, bytes(320))
        await channel.heard(1)
        (line,) = here.lines
        await line.started.wait()
        for _ in range(25):
            line.socket.send_message(line.stream.media(b"\7\0" * 160))
        await channel.heard(len(channel.frames) + 27)
        spoken = [at for at, _, payload in channel.frames if payload[0] == 7]
        assert len(spoken) == 25
        assert spoken[-1] - spoken[0] == pytest.approx(0.48, abs=0.04)
        for _ in range(25):
            line.socket.send_message(line.stream.media(b"\6\0" * 160))
        await channel.heard(len(channel.frames) + 3)
        assert list(line.stream.clear(0.0)) == []
        before = sum(payload[0] == 6 for _, _, payload in channel.frames)
        await channel.heard(len(channel.frames) + 4)
        assert sum(payload[0] == 6 for _, _, payload in channel.frames) <= before + 1
        assert not channel.dropped


async def test_a_held_up_loop_is_made_up_for() -> None:
    async with served() as here:
        channel = await here.call()
        await channel.heard(2)
        line = here.lines[0]
        await line.started.wait()
        loop = asyncio.get_running_loop()
        here.clock.discard(line.socket)

        async def sent_at(now: float) -> int:
            before = len(channel.frames)
            line.socket.tick(now)
            await asyncio.sleep(0.01)
            return len(channel.frames) - before

        now = loop.time() + 1.0
        await sent_at(now)
        assert [await sent_at(now + 0.1), await sent_at(now + 0.12)] == [1, 1], "silence makes nothing up"
        line.socket.send_message(line.stream.media(b"\7\0" * 160 * 10))
        assert line.stream.backlog() == pytest.approx(0.2)
        later = [await sent_at(now + 0.22 + 0.02 * i) for i in range(8)]
        assert later == [2, 2, 2, 2, 2, 1, 1, 1]
        assert await sent_at(now + 60.0) == 1
        assert line.stream.backlog() == 0.0


async def test_hanging_up_and_giving_back() -> None:
    async with served() as here:
        for give_back in (False, True):
            channel = await here.call()
            await channel.heard(1)
            line = here.lines[-1]
            if give_back:
                line.stream.leave()
            else:
                for message in line.stream.hang_up():
                    line.socket.send_message(message)
                line.socket.close(1000)
                line.socket.close(1000)
                line.socket.send_message(b"nothing more goes out")
                line.socket.data_received(b"nor comes in")
                line.socket.tick(0.0)
            await channel.over.wait()
            await line.gone.wait()
            assert channel.hung_up
            assert not channel.dropped


async def test_refusing() -> None:
    async with served(refuse=True) as here:
        channel = await here.call()
        await channel.over.wait()
        assert channel.hung_up
        assert not channel.frames


async def test_a_muted_caller_is_answered_all_the_same() -> None:
    async with served() as here:
        channel = await here.call()
        await channel.heard(1)
        (line,) = here.lines
        async with asyncio.timeout(1.0):
            await line.started.wait()
        assert str(line.stream.format) == "l16/8000"


async def test_every_write_is_whole_frames() -> None:
    # Asterisk waits 5 ms for the payload behind a header: both must be in one write.
    async with served() as here:
        channel = await here.call()
        writes: list[bytes] = []
        await channel.heard(1)
        transport = here.lines[0].socket._transport
        here.lines[0].socket._transport = _Spy(transport, writes)  # type: ignore[assignment]
        await channel.heard(len(channel.frames) + 3)
        here.lines[0].socket._transport = transport
        assert {len(data) for data in writes} == {323}


class _Spy:
    def __init__(self, transport: asyncio.Transport, writes: list[bytes]) -> None:
        self._transport, self._writes = transport, writes

    def write(self, data: bytes) -> None:
        self._writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def test_sources_that_are_not_listed() -> None:
    async with served(sources=["127.0.0.2/32"], number="100") as here:
        stranger = await here.call(str(uuid.uuid4()))
        await stranger.over.wait()
        assert here.lines == []
        known = await here.call(str(uuid.uuid4()), source="127.0.0.2")
        await known.heard(1)
        assert len(here.lines) == 1


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audiosocket, "MAX_UNNAMED", 2)
    async with served() as here:
        quiet = [await here.call("") for _ in range(2)]
        one_more = await here.call()
        await one_more.over.wait()
        await quiet[0].close()
        while here.server.unnamed > 1:
            await asyncio.sleep(0.005)
        welcome = await here.call()
        await welcome.heard(1)
        monkeypatch.setattr(audiosocket, "MAX_CONNECTIONS", 2)
        one_more = await here.call()
        await one_more.over.wait()
        assert not one_more.frames


async def test_a_peer_that_does_not_read_costs_little_memory() -> None:
    async with served() as here:
        loop = asyncio.get_running_loop()
        with socket.socket() as peer:
            peer.setblocking(False)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(peer, ("127.0.0.1", here.port))
            await loop.sock_sendall(peer, b"\x01\x00\x10" + uuid.UUID(here.ticket()).bytes)
            while not here.lines or not here.lines[0].stream.stream_id:
                await asyncio.sleep(0.005)
            connection = here.lines[0].socket
            connection._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            for at in itertools.count(1):
                connection.tick(loop.time() + at * 0.2)
                if not connection.writable_now:
                    break
                assert at < 5000
            waiting = connection._transport.get_write_buffer_size()
            for more in range(100):
                connection.tick(loop.time() + (at + more) * 0.2)
            assert connection._transport.get_write_buffer_size() == waiting < 32_000


async def test_a_peer_that_does_not_close_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audiosocket, "CLOSE_TIMEOUT", 0.02)
    async with served() as here:
        loop = asyncio.get_running_loop()
        with socket.socket() as peer:
            peer.setblocking(False)
            await loop.sock_connect(peer, ("127.0.0.1", here.port))
            await loop.sock_sendall(peer, b"\x7a\x00\x00")
            while not here.lines:
                await asyncio.sleep(0.005)
            await here.lines[0].gone.wait()
            assert await loop.sock_recv(peer, 100) == b"\0\0\0"


@pytest.mark.leaves("uvloop keeps a pipe for signals")
def test_on_the_loop_that_the_gateway_runs_on() -> None:
    async def calls() -> None:
        async with served() as here:
            channel = await here.call()
            channel.send(0x10, bytes(320))
            await channel.heard(2)
            (line,) = here.lines
            line.socket.send_message(line.stream.media(b"\7\0" * 160))
            await channel.heard(len(channel.frames) + 2)
            assert [payload for _, _, payload in channel.frames].count(b"\7\0" * 160) == 1
            line.socket.close(1000)
            await channel.over.wait()
            await line.gone.wait()
            assert channel.hung_up
            channel = await here.call()
            await channel.heard(1)
            channel._writer.transport.abort()
            await here.lines[-1].gone.wait()
            assert here.lines[-1].codes == [1000]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(calls())


async def test_closing_what_never_listened() -> None:
    made = AsteriskSettings.model_validate({"password": "secret", "audiosocket": {"port": 0}})
    await Served(AsteriskProvider(made)).server.close()
