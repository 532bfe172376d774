"""SIP and RTP by hand, over bare sockets: for callers in order, and for those who wish us ill."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from offhook.codecs.g711 import pcm_to_ulaw, ulaw_to_pcm
from offhook.providers.rtp.packet import RtpPacket, payload_of
from offhook.providers.sip.digest import answer
from offhook.providers.sip.message import Message, Response, parse

FRAME: Final = 160
"""Bytes of PCMU in 20 ms."""

Place = tuple[str, int]


class Line:
    """A UDP socket at an address of this machine, and what came to it."""

    def __init__(self, host: str, port: int = 0) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, port))
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.host, self.port = self.socket.getsockname()
        self.sent = self.got = 0
        "Bytes, both ways."

    def send(self, data: bytes, to: Place) -> None:
        """Send a datagram; one that finds no room in the kernel is lost, as on any network."""
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            self.sent += self.socket.sendto(data, to)

    async def receive(self, timeout: float = 2.0) -> tuple[bytes, Place]:
        """The next datagram, and where it came from. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            data, source = await asyncio.get_running_loop().sock_recvfrom(self.socket, 65_536)
        self.got += len(data)
        return data, source

    async def listen(self, seconds: float) -> list[bytes]:
        """Everything that comes within so many seconds."""
        found = []
        end = asyncio.get_running_loop().time() + seconds
        while (left := end - asyncio.get_running_loop().time()) > 0:
            with contextlib.suppress(TimeoutError):
                found.append((await self.receive(left))[0])
        return found

    def close(self) -> None:
        self.socket.close()


@contextmanager
def lines(*hosts: str) -> Iterator[list[Line]]:
    """A socket at each address."""
    found: list[Line] = []
    try:
        for host in hosts:
            found.append(Line(host))  # noqa: PERF401  # those that could be had are closed
        yield found
    finally:
        for line in found:
            line.close()


# --- messages ------------------------------------------------------------------------


def sdp(host: str, port: int) -> bytes:
    """An offer of PCMU and telephone-event."""
    return (
        f"v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0 101\r\n"
        "a=rtpmap:101 telephone-event/8000\r\na=ptime:20\r\n"
    ).encode()


def request(
    method: str,
    to: Place,
    sender: Place,
    *,
    call_id: str = "",
    cseq: int = 1,
    branch: str = "",
    from_tag: str = "a",
    to_tag: str = "",
    user: str = "100",
    headers: Sequence[str] = (),
    body: bytes = b"",
    transport: str = "UDP",
) -> bytes:
    """Any request, in the form of a telephone that says no more than it must."""
    lines = [
        f"{method} sip:{user}@{to[0]}:{to[1]} SIP/2.0",
        f"Via: SIP/2.0/{transport} {sender[0]}:{sender[1]};branch=z9hG4bK{branch or secrets.token_hex(8)};rport",
        "Max-Forwards: 70",
        f"From: <sip:stranger@{sender[0]}>;tag={from_tag}",
        f"To: <sip:{user}@{to[0]}>{';tag=' + to_tag if to_tag else ''}",
        f"Call-ID: {call_id or secrets.token_hex(8)}",
        f"CSeq: {cseq} {method}",
        f"Contact: <sip:stranger@{sender[0]}:{sender[1]}>",
        *headers,
        *(["Content-Type: application/sdp"] if body else []),
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


# --- a caller in order ----------------------------------------------------------------


class Hand:
    """One call, dialled by hand from a SIP socket and an RTP socket of its own."""

    def __init__(self, host: str, gateway: Place, *, media_host: str = "") -> None:
        self.sip, self.rtp = Line(host), Line(media_host or host)
        self.gateway = gateway
        self.call_id = secrets.token_hex(8)
        self.from_tag, self.to_tag = secrets.token_hex(4), ""
        self.media: Place = ("", 0)
        "Where the gateway receives the call's audio."
        self.statuses: list[int] = []
        self.cseq = 0
        self._sequence = itertools.count(100)
        self.heard: list[bytes] = []
        "The audio that came, payload by payload."

    @property
    def place(self) -> Place:
        return self.sip.host, self.sip.port

    def request(self, method: str, **fields: object) -> bytes:
        """A request of this call."""
        values = {"call_id": self.call_id, "from_tag": self.from_tag, "to_tag": self.to_tag, **fields}
        return request(method, self.gateway, self.place, **values)  # type: ignore[arg-type]

    async def final(self, data: bytes, *, timeout: float = 6.0) -> Response:
        """Send a request as often as it takes; gives its final response."""
        async with asyncio.timeout(timeout):
            while True:
                self.sip.send(data, self.gateway)
                try:
                    while True:
                        message = parse((await self.sip.receive(0.5))[0])
                        if isinstance(message, Response) and message.cseq.method == data.split(b" ", 1)[0].decode():
                            self.statuses.append(message.status)
                            if message.status >= 200:
                                return message
                except TimeoutError:
                    continue

    async def invite(self, *, user: str = "100", credentials: tuple[str, str] | None = None) -> Response:
        """Call; gives the final response, acknowledged unless it is a 200."""
        body = sdp(self.rtp.host, self.rtp.port)
        headers: list[str] = []
        for attempt in range(2):
            self.cseq += 1
            branch = secrets.token_hex(8)
            data = self.request("INVITE", cseq=self.cseq, user=user, body=body, headers=headers, branch=branch)
            found = await self.final(data)
            if found.status >= 300:
                tag = found.to.tag
                ack = self.request("ACK", cseq=self.cseq, user=user, branch=branch, to_tag=tag)
                self.sip.send(ack, self.gateway)
            if found.status != 401 or credentials is None or attempt:
                break
            challenges = found.headers.lines("WWW-Authenticate")
            uri = f"sip:{user}@{self.gateway[0]}:{self.gateway[1]}"
            headers = ["Authorization: " + answer(challenges, "INVITE", uri, *credentials, cnonce="c")]
        if found.status == 200:
            self.to_tag = found.to.tag or ""
            self.media = media_of(found)
        return found

    def acknowledge(self) -> None:
        """Send the ACK of the 200."""
        self.sip.send(self.request("ACK", cseq=self.cseq), self.gateway)

    async def up(self, **invite: object) -> None:
        """Call, and be answered."""
        found = await self.invite(**invite)  # type: ignore[arg-type]
        assert found.status == 200, found.encode()
        self.acknowledge()

    async def talk(self, frames: int, hertz: float = 440.0) -> None:
        """Send so many frames of a tone, 20 ms each, and hear what comes meanwhile."""
        saying = speak(self.rtp, self.media, frames, hertz, self._sequence)
        await asyncio.gather(saying, self._hear(frames), self._attend(frames * 0.02))

    async def _hear(self, frames: int) -> None:
        self.heard += [payload_of(data) for data in await self.rtp.listen(frames * 0.02 + 0.1)]

    async def _attend(self, seconds: float) -> None:
        """Acknowledge a 200 that comes again, for its ACK was lost."""
        for data in await self.sip.listen(seconds):
            message = parse(data)
            if isinstance(message, Response) and message.status == 200 and message.cseq.method == "INVITE":
                self.acknowledge()

    def level(self, hertz: float) -> float:
        """How loud a tone was in what came, as a share of the power that a full tone of ours has."""
        return level(b"".join(self.heard), hertz)

    async def hang_up(self) -> int:
        """Say BYE; gives the status of the answer."""
        self.cseq += 1
        return (await self.final(self.request("BYE", cseq=self.cseq))).status

    def close(self) -> None:
        self.sip.close()
        self.rtp.close()


@asynccontextmanager
async def hand(host: str, gateway: Place, *, media_host: str = "") -> AsyncIterator[Hand]:
    """A caller, whose sockets are closed in the end."""
    caller = Hand(host, gateway, media_host=media_host)
    try:
        yield caller
    finally:
        caller.close()


async def good_call(host: str, gateway: Place, **invite: object) -> None:
    """A whole call to an echo, which must go well: answered, heard, hung up."""
    async with hand(host, gateway) as caller:
        await caller.up(**invite)
        for _ in range(8):  # the ACK may be lost in a flood
            await caller.talk(25)
            if caller.level(440) > 0.05:
                break
        else:
            raise AssertionError(f"{len(caller.heard)} packets came back")
        assert await caller.hang_up() == 200


def media_of(response: Message) -> Place:
    """Where an SDP wants its audio."""
    lines = response.body.decode().splitlines()
    host = next(line.split()[-1] for line in lines if line.startswith("c="))
    return host, next(int(line.split()[1]) for line in lines if line.startswith("m=audio"))


# --- audio ---------------------------------------------------------------------------


def tone(hertz: float, seconds: float = 1.0) -> bytes:
    """A loud sine as PCMU."""
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * 8000)) / 8000)
    return pcm_to_ulaw((wave * 32767).astype("<i2").tobytes())


async def speak(
    line: Line, to: Place, frames: int, hertz: float, sequence: Iterator[int] | None = None, *, ssrc: int = 7
) -> None:
    """Send RTP for as many times 20 ms."""
    audio = tone(hertz, 1.0)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for index, number in zip(range(frames), sequence or itertools.count(100), strict=False):
        at = index * FRAME % len(audio)
        line.send(RtpPacket(0, number & 0xFFFF, number * FRAME, ssrc, audio[at : at + FRAME]).encode(), to)
        await asyncio.sleep(max(0.0, begun + (index + 1) * 0.02 - loop.time()))


def level(pcmu: bytes, hertz: float) -> float:
    """The power within 20 Hz of a frequency, as a share of that of `tone`."""
    if not pcmu:
        return 0.0
    samples = np.frombuffer(ulaw_to_pcm(pcmu), "<i2") / 32768
    power: npt.NDArray[np.float64] = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    near = np.abs(np.fft.rfftfreq(len(samples), 1 / 8000) - hertz) <= 20
    share = float(np.sum(power[near])) / max(float(np.sum(power)), 1e-12)
    return share * float(np.mean(samples**2)) / 0.125


async def until(there: Callable[[], bool], what: str, *, timeout: float = 4.0) -> None:
    """Wait for something to become true."""
    try:
        async with asyncio.timeout(timeout):
            while not there():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"waited in vain for {what}") from None


# --- the process that bears it ---------------------------------------------------------


def memory(pid: int) -> int:
    """Bytes that a process holds in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))) * 1024


def sockets(pid: int) -> int:
    """How many sockets a process has open."""
    found = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found += os.readlink(link).startswith("socket:")
    return found
