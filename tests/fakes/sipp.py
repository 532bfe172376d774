"""The SIP tester SIPp: what it is to say and to expect step by step, and what was said in the end.

A `Scenario` is written as the ladder it describes, either from the caller's side (`request`, `ack`, `cancel`) or from
that of the party called (`wait`, `reply`). SIPp ends with code 0 only when every call went just that way; a message
that was not foreseen is a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import secrets
import shutil
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
from fakes.baresip import Sound
from fakes.sip_gateway import Row, SipGateway

from offhook.codecs.g711 import pcm_to_ulaw, ulaw_to_pcm

needs_sipp = pytest.mark.skipif(shutil.which("sipp") is None, reason="needs `apt-get install sip-tester`")

SIP_PORT: Final = 5070
RTP_PORT: Final = 6000
"""Free on every loopback address of a test."""

PATIENCE: Final = 25
"""Seconds after which SIPp gives up, and fails."""

LOG_TAIL: Final = 6000
"""Characters of the gateway's log that a failure shows."""

CALLER: Final = "+15550199"

SDP_TYPE: Final = "application/sdp"


def sdp(
    *attributes: str,
    version: int = 1,
    host: str = "[media_ip]",
    port: str = "[media_port]",
    media: str = "audio {port} RTP/AVP 0 101",
) -> str:
    """A description of PCMU with telephone-event; SIPp fills in its own address."""
    lines = [
        "v=0",
        f"o=sipp 53655765 {version} IN IP4 [local_ip]",
        "s=-",
        f"c=IN IP4 {host}",
        "t=0 0",
        f"m={media.format(port=port)}",
        "a=rtpmap:0 PCMU/8000",
        "a=rtpmap:101 telephone-event/8000",
        *(f"a={attribute}" for attribute in attributes),
    ]
    return "\n".join(lines) + "\n"


class Scenario:
    """The steps of every call of one SIPp."""

    def __init__(self) -> None:
        self._steps: list[str] = []
        self._names: set[str] = set()
        self._number = self._invite_number = 0
        self._branch = self._invite_branch = ""
        self._called = self._up = False

    # --- any step

    def send(
        self, *lines: str, body: str = "", content_type: str = SDP_TYPE, retrans: int = 0, kept: bool = False
    ) -> Self:
        """Send a message; `retrans` is T1 in milliseconds, 0 for a message that is sent once.

        `kept`: it is not lost, whatever `-lost` says.
        """
        head = [*lines, *([f"Content-Type: {content_type}"] if body else []), "Content-Length: [len]", "", body]
        again = f' retrans="{retrans}"' if retrans else ""
        again += ' lost="0"' if kept else ""
        self._steps.append(f"<send{again}><![CDATA[\n" + "\n".join(head) + "\n]]></send>")
        return self

    def recv(self, what: int | str, *actions: str, optional: bool = False, timeout: int = 0) -> Self:
        """Expect a response (a status) or a request (a method); `timeout` in milliseconds."""
        kind = "response" if isinstance(what, int) else "request"
        more = ' optional="true"' if optional else ""
        more += f' timeout="{timeout}"' if timeout else ""
        action = f"<action>{''.join(actions)}</action>" if actions else ""
        self._steps.append(f'<recv {kind}="{what}"{more}>{action}</recv>')
        return self

    def pause(self, milliseconds: int) -> Self:
        self._steps.append(f'<pause milliseconds="{milliseconds}"/>')
        return self

    def stream(self, file: Path) -> Self:
        """Send a file of PCMU from the port `[rtpstream_audio_port]`, again and again."""
        name = quoteattr(f"{file},-1,0")
        self._steps.append(f"<nop><action><exec rtp_stream={name}/></action></nop>")
        return self

    # --- requests

    def request(
        self,
        method: str,
        *headers: str,
        body: str = "",
        content_type: str = SDP_TYPE,
        retrans: int = 500,
        kept: bool = False,
    ) -> Self:
        """Send a request with the next CSeq, within the dialog as soon as there is one."""
        self._number += 1
        self._branch = f"z9hG4bK-[pid]-[call_number]-{self._number}"
        if method == "INVITE":
            self._invite_number, self._invite_branch = self._number, self._branch
        lines = self._lines(method, method, self._number, self._branch, tagged=self._up or method != "INVITE")
        return self.send(*lines, *headers, body=body, content_type=content_type, retrans=retrans, kept=kept)

    def invite(self, *headers: str, body: str | None = None, retrans: int = 500) -> Self:
        """Begin a call, or offer something else within it."""
        return self.request("INVITE", *headers, body=sdp() if body is None else body, retrans=retrans)

    def again(self) -> Self:
        """Send what was sent last once more."""
        self._steps.append(next(step for step in reversed(self._steps) if step.startswith("<send")))
        return self

    def ack(self, *headers: str, body: str = "", refused: bool = False) -> Self:
        """Acknowledge the answer to the INVITE sent last; `refused`: it was none of 2xx."""
        branch = self._invite_branch if refused else f"{self._invite_branch}-ack"
        self._up |= not refused
        lines = self._lines("ACK", "ACK", self._invite_number, branch)
        return self.send(*lines, *headers, body=body)

    def cancel(self, *headers: str) -> Self:
        """Take back the INVITE sent last."""
        lines = self._lines("CANCEL", "CANCEL", self._invite_number, self._invite_branch, tagged=False)
        return self.send(*lines, *headers, retrans=500)

    def bye(self, *headers: str) -> Self:
        """Hang up."""
        return self.request("BYE", *headers).recv(200)

    def _lines(self, method: str, of: str, number: int, branch: str, *, tagged: bool = True) -> list[str]:
        here = "[local_ip]:[local_port]"
        if self._called:
            caller, callee = "To:[$from]", "From:[$to];tag=[pid]s[call_number]"
            target = "sip:offhook@[remote_ip]:[remote_port]"
        else:
            caller = f'From: "SIPp" <sip:{CALLER}@{here}>;tag=[pid]c[call_number]'
            callee = "To: <sip:[service]@[remote_ip]:[remote_port]>" + ("[peer_tag_param]" if tagged else "")
            target = "sip:[service]@[remote_ip]:[remote_port]"
        return [
            f"{method} {target} SIP/2.0",
            f"Via: SIP/2.0/[transport] {here};branch={branch};rport",
            "Max-Forwards: 70",
            caller,
            callee,
            "Call-ID: [call_id]",
            f"CSeq: {number} {of}",
            f"Contact: <sip:sipp@{here};transport=[transport]>",
        ]

    # --- the answers to them

    def answered(self) -> Self:
        """Expect the 200 to an INVITE, with or without what comes before it."""
        for status in (100, 180, 183):
            self.recv(status, optional=True)
        return self.recv(200)

    def refused(self, status: int) -> Self:
        """Expect another final answer to an INVITE, and acknowledge it."""
        for provisional in (100, 180):
            self.recv(provisional, optional=True)
        return self.recv(status).ack(refused=True)

    # --- the party called

    def wait(self, method: str, *actions: str, optional: bool = False) -> Self:
        """Expect a request; what an INVITE says is kept for `reply` and for requests of ours."""
        if method == "INVITE":
            self._called = True
            kept = {"via": "Via:", "from": "From:", "to": "To:", "cseq": "CSeq:"}
            actions = (*(self.keep(name, header) for name, header in kept.items()), *actions)
        return self.recv(method, *actions, optional=optional)

    def keep(self, name: str, header: str, pattern: str = ".*") -> str:
        """An action: keep a header's value as `[$name]`; the call fails when the pattern does not match."""
        self._names.add(name)
        where = f'search_in="hdr" header="{header}" check_it="true"'
        return f'<ereg regexp="{pattern}" {where} assign_to="{name}"/>'

    def reply(self, status: int, *headers: str, body: str = "", reason: str = "Whatever", retrans: int = 0) -> Self:
        """Answer the request that came last, within a dialog."""
        last = [f"[last_{name}:]" for name in ("Via", "From", "To", "Call-ID", "CSeq")]
        contact = "Contact: <sip:sipp@[local_ip]:[local_port];transport=[transport]>"
        return self.send(f"SIP/2.0 {status} {reason}", *last, contact, *headers, body=body, retrans=retrans)

    def reply_invite(
        self, status: int, *headers: str, body: str = "", reason: str = "Whatever", retrans: int = 0
    ) -> Self:
        """Answer the INVITE that came last, whatever came after it."""
        kept = ["Via:[$via]", "From:[$from]", "To:[$to];tag=[pid]s[call_number]", "Call-ID: [call_id]", "CSeq:[$cseq]"]
        contact = "Contact: <sip:sipp@[local_ip]:[local_port];transport=[transport]>"
        return self.send(f"SIP/2.0 {status} {reason}", *kept, contact, *headers, body=body, retrans=retrans)

    def pick_up(self, *headers: str, body: str | None = None) -> Self:
        """Take the call."""
        return self.reply_invite(200, *headers, body=sdp() if body is None else body, retrans=500).wait("ACK")

    def xml(self) -> str:
        """The scenario as SIPp reads it."""
        used = f'<Reference variables="{",".join(sorted(self._names))}"/>' if self._names else ""
        head = '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE scenario SYSTEM "sipp.dtd">\n'
        return f'{head}<scenario name="offhook">\n' + "\n".join([*self._steps, used]) + "\n</scenario>\n"


def call(*, seconds: float = 0.3, headers: Sequence[str] = (), body: str | None = None, retrans: int = 500) -> Scenario:
    """A caller who hangs up after a while."""
    scenario = Scenario().invite(*headers, body=body, retrans=retrans).answered().ack()
    return scenario.pause(int(seconds * 1000)).request("BYE", retrans=retrans).recv(200)


# --- what was said -------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """One SIP message, as SIPp saw it."""

    at: float
    "Seconds since 1970."
    sent: bool
    "By SIPp."
    text: str

    @property
    def start(self) -> str:
        """Its first line."""
        return self.text.partition("\n")[0].strip()

    @property
    def status(self) -> int:
        """0 for a request."""
        return int(self.start.split()[1]) if self.start.startswith("SIP/2.0") else 0

    @property
    def method(self) -> str:
        """Of a request, or of the request that this answers."""
        return (self.header("CSeq") or "0 ?").split()[1]

    def header(self, name: str) -> str | None:
        """A header's first value."""
        for line in self.text.partition("\n\n")[0].splitlines()[1:]:
            field, _, value = line.partition(":")
            if field.strip().lower() == name.lower():
                return value.strip()
        return None

    @property
    def body(self) -> str:
        return self.text.partition("\n\n")[2]


_HEAD: Final = re.compile(
    r"^-{20,} (\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d\.\d+)$\n^\S+ message (sent|received)\b.*$\n", re.M
)


def said(log: str) -> list[Said]:
    """The messages of SIPp's log."""
    found = list(_HEAD.finditer(log))
    ends = [*(match.start() for match in found[1:]), len(log)]
    messages = []
    for match, end in zip(found, ends, strict=False):
        at = datetime.fromisoformat(f"{match[1]}T{match[2]}").astimezone().timestamp()
        messages.append(Said(at, match[3] == "sent", log[match.end() : end].lstrip("\n")))
    return messages


# --- the program ---------------------------------------------------------------------


@dataclass
class Sipp:
    """One running SIPp."""

    folder: Path
    host: str
    port: int
    transport: str
    process: subprocess.Popen[bytes]

    @property
    def messages(self) -> list[Said]:
        """All that was said, in order; complete once it is over."""
        log = self.folder / "messages.log"
        return said(log.read_text(errors="replace").replace("\r", "")) if log.exists() else []

    def received(self, method: str, status: int = 0) -> list[Said]:
        """Requests that came, or responses to such requests."""
        return [it for it in self.messages if not it.sent and (it.method, it.status) == (method, status)]

    def sent(self, method: str, status: int = 0) -> list[Said]:
        """Requests that it sent, or its responses to such requests."""
        return [it for it in self.messages if it.sent and (it.method, it.status) == (method, status)]

    async def listening(self) -> None:
        """Wait until its socket is open, for a connection to it is not tried again."""
        octets = reversed(socket.inet_aton(self.host))
        address = f"{''.join(f'{octet:02X}' for octet in octets)}:{self.port:04X}"
        table = Path("/proc/net") / self.transport
        async with asyncio.timeout(PATIENCE):
            while not any(line.split()[1] == address for line in table.read_text().splitlines()):
                assert self.process.poll() is None, self.story()
                await asyncio.sleep(0.02)

    async def code(self) -> int:
        """Its exit code, once it is over."""
        while (code := self.process.poll()) is None:
            await asyncio.sleep(0.02)
        return code

    async def succeeded(self) -> Self:
        """Wait for the end of a SIPp to whose calls nothing happened but what was foreseen."""
        code = await self.code()
        assert code == 0, f"SIPp ended with {code}\n{self.story()}"
        return self

    async def until(self, method: str, status: int = 0, *, count: int = 1) -> None:
        """Wait for a message to arrive."""
        async with asyncio.timeout(PATIENCE):
            while len(self.received(method, status)) < count:
                assert self.process.poll() is None, self.story()
                await asyncio.sleep(0.02)

    def story(self) -> str:
        """What it printed and what was said, for the message of a test that failed."""
        arrows = [
            f"{'>' if it.sent else '<'} {it.at % 1000:.3f} {it.start} [{it.header('CSeq')}]" for it in self.messages
        ]
        errors = self.folder / "errors.log"
        told = errors.read_text(errors="replace") if errors.exists() else ""
        screen = (self.folder / "output").read_text(errors="replace").partition("Test Terminated")[0]
        return "\n".join([*arrows, told, screen])


class Place(NamedTuple):
    """Where a gateway is going to be, for a SIPp that must be there before it."""

    folder: Path
    host: str
    ports: Mapping[str, int]


_ports: Final = itertools.count(SIP_PORT + 1)


def _control_port(host: str) -> int:
    """A free port for SIPp's remote control, which it must have; its usual one is that of any other SIPp."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind((host, 0))
        port: int = found.getsockname()[1]
        return port


@asynccontextmanager
async def sipp(
    gateway: SipGateway | Place,
    scenario: Scenario | str,
    *,
    host: str = "",
    number: str = "+15550100",
    calls: int = 1,
    rate: int = 10,
    transport: str = "udp",
    port: int = 0,
    more: Sequence[str] = (),
) -> AsyncIterator[Sipp]:
    """Run SIPp against a gateway; it is ended with the block at the latest.

    Args:
        gateway: whom it calls, or waits to be called by.
        scenario: its steps, or the name of a built-in one.
        host: its address; one must be given where the gateway is not there yet.
        number: whom it calls.
        calls, rate: how many, and how many a second.
        transport: `udp` or `tcp`.
        port: its own; unset: one that no earlier SIPp of this process had, whose calls may still be echoing.
        more: further arguments.
    """
    port = port or next(_ports)
    if not host:
        assert isinstance(gateway, SipGateway)
        host = gateway.peer()
    folder = gateway.folder / f"sipp-{host}-{port}-{number}"
    while folder.exists():
        folder = folder.with_name(folder.name + "+")
    folder.mkdir()
    steps = ["-sn", scenario]
    if isinstance(scenario, Scenario):
        (folder / "scenario.xml").write_text(scenario.xml())
        steps = ["-sf", "scenario.xml"]
    command: list[Any] = [
        *("sipp", *steps, f"{gateway.host}:{gateway.ports[transport]}"),
        *(
            "-i",
            host,
            "-p",
            port,
            "-bind_local",
            "-ci",
            host,
            "-cp",
            _control_port(host),
            "-mi",
            host,
            "-mp",
            RTP_PORT + 8 * (port - SIP_PORT),
        ),
        *("-t", "u1" if transport == "udp" else "t1", "-s", number, "-m", calls, "-r", rate),
        *("-nostdin", "-skip_rlimit", "-timeout", PATIENCE, "-timeout_error"),
        *("-trace_msg", "-message_file", "messages.log", "-trace_err", "-error_file", "errors.log"),
        *more,
    ]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env={"TERM": "dumb", "PATH": "/usr/bin:/bin"},
        )
    running = Sipp(folder, host, port, transport, process)
    try:
        yield running
    except AssertionError as error:
        if isinstance(gateway, SipGateway):
            error.add_note(f"the gateway's log ends with\n{gateway.log[-LOG_TAIL:]}")
        raise
    finally:
        if process.poll() is None:
            process.kill()
            await running.code()


async def ran(gateway: SipGateway, scenario: Scenario | str, **settings: Any) -> Sipp:
    """Run SIPp to its end, which must be a good one."""
    async with sipp(gateway, scenario, **settings) as running:
        return await running.succeeded()


async def together(*calls: Coroutine[Any, Any, Any]) -> None:
    """Several at once; the first failure ends them all."""
    async with asyncio.TaskGroup() as group:
        for one in calls:
            group.create_task(one)


async def records(gateway: SipGateway, number: str, count: int = 1) -> list[Row]:
    """The records of the calls to (or, for calls of ours, from us to) a number, once there are so many and all over."""

    def found() -> list[Row]:
        rows = [row for row in gateway.calls() if row["to_number"] == number]
        return rows if len(rows) >= count and all(row["status"] != "live" for row in rows) else []

    await gateway.until(found, f"the end of {count} calls to {number}")
    rows = found()
    assert len(rows) == count, rows
    return rows


def journal(gateway: SipGateway, row: Row, event: str) -> list[Row]:
    """The data of one call's events of that name."""
    return [found["data"] for found in gateway.events(row["id"]) if found["event"] == event]


# --- sound ---------------------------------------------------------------------------


class Ear(asyncio.DatagramProtocol):
    """Somebody at an RTP address who sends a tone of PCMU to whoever sends to it, and keeps what it hears."""

    def __init__(self, hertz: float) -> None:
        wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(8000) / 8000)
        self._tone = pcm_to_ulaw((wave * 32767).astype("<i2").tobytes())
        self._target: Any = None
        self.heard: list[bytes] = []
        "Payloads of PCMU."

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._target = addr
        if data[1] & 0x7F == 0:
            self.heard.append(data[12:])

    async def speak(self, transport: asyncio.DatagramTransport) -> None:
        """Send the tone, 20 ms a packet, for as long as nobody stops this."""
        loop = asyncio.get_running_loop()
        start, ssrc = loop.time(), secrets.randbits(32)
        for count in itertools.count():
            await asyncio.sleep(start + count * 0.02 - loop.time())
            if self._target is not None:
                at = count * 160 % 8000
                head = struct.pack("!BBHII", 0x80, 0, count & 0xFFFF, count * 160, ssrc)
                transport.sendto(head + self._tone[at : at + 160], self._target)

    def sound(self, last: int = 25) -> Sound:
        """The end of what it heard, in packets."""
        pcm = ulaw_to_pcm(b"".join(self.heard[-last:]))
        return Sound(np.frombuffer(pcm, "<i2") / 32768, 8000)


@asynccontextmanager
async def ear(host: str, port: int, hertz: float) -> AsyncIterator[Ear]:
    """Listen and speak at an RTP address."""
    loop = asyncio.get_running_loop()
    transport, listener = await loop.create_datagram_endpoint(lambda: Ear(hertz), local_addr=(host, port))
    speaking = asyncio.create_task(listener.speak(transport))
    try:
        yield listener
    finally:
        speaking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await speaking
        transport.close()
