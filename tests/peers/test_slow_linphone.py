"""Linphone, in a network of its own: another telephone's idea of SIP, over addresses that are not loopback's."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from fakes.baresip import LEVEL, SECONDS, Sound, sine, steady, write_wav
from fakes.sip_gateway import NUMBER, SipGateway, sip_gateway

CALLER, AGENT = 440.0, 1010.0
HERE: Final = Path(__file__).parent


def may_make_networks() -> bool:
    """Whether this is root on a kernel that lets it."""
    name = f"offhook-{os.getpid()}"
    if shutil.which("ip") is None or subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return False
    subprocess.run(["ip", "netns", "del", name], check=True)
    return True


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("linphonec") is None, reason="needs `apt-get install linphone-cli`"),
    pytest.mark.skipif(not may_make_networks(), reason="needs root and network namespaces"),
]


@contextmanager
def network() -> Iterator[tuple[str, str, str]]:
    """A namespace with a cable to it: its name, our address on the cable, the one inside."""
    name = f"offhook-{os.getpid()}"
    ours, theirs = "10.207.83.1", "10.207.83.2"
    outer, inner = "offhook0", "offhook1"
    inside = ["ip", "-n", name]
    commands = [
        ["ip", "netns", "add", name],
        ["ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", name],
        ["ip", "addr", "add", f"{ours}/30", "dev", outer],
        ["ip", "link", "set", outer, "up"],
        [*inside, "addr", "add", f"{theirs}/30", "dev", inner],
        [*inside, "link", "set", inner, "up"],
        [*inside, "link", "set", "lo", "up"],
        [*inside, "route", "add", "default", "via", ours],
    ]
    try:
        for command in commands:
            subprocess.run(command, check=True)
        yield name, ours, theirs
    finally:
        subprocess.run(["ip", "link", "del", outer], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", name], check=False)


class Linphone:
    """The telephone, ordered by what one would type into it."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process) -> None:
        self.folder, self.process = folder, process

    @property
    def log(self) -> str:
        """What it printed."""
        return (self.folder / "log").read_text(errors="replace")

    async def order(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        await self.process.stdin.drain()
        await asyncio.sleep(0.1)

    async def until(self, text: str, *, timeout: float = 10.0) -> None:
        """Wait for it to print something."""
        try:
            async with asyncio.timeout(timeout):
                while text not in self.log:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"linphonec never said {text!r}:\n{self.log}") from None


@asynccontextmanager
async def linphone(folder: Path, namespace: str, host: str, *, more: str = "") -> AsyncIterator[Linphone]:
    """Run it: it plays a tone and records what it hears."""
    folder.mkdir()
    (folder / ".local" / "share" / "linphone").mkdir(parents=True)
    write_wav(folder / "tone.wav", sine(CALLER, SECONDS, 8000), 8000)
    text = f"[sip]\nsip_port=5060\nsip_tcp_port=5060\nsip_tls_port=0\ncontact=sip:alice@{host}\nguess_hostname=0\n"
    text += f"{more}[rtp]\naudio_rtp_port=7078\n[net]\nstun_server=\n[sound]\nec_enabled=0\n"
    (folder / "linphonerc").write_text(text)
    with (folder / "log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", namespace, "linphonec", "-c", str(folder / "linphonerc"), "-d", "5"),
            stdin=asyncio.subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=dict(os.environ) | {"HOME": str(folder)},
            cwd=folder,
        )
    phone = Linphone(folder, process)
    try:
        await phone.until("linphonec>")
        await phone.order("soundcard use files")
        await phone.order(f"play {folder}/tone.wav")
        await phone.order(f"record {folder}/heard.wav")
        yield phone
    finally:
        if process.returncode is None:
            await phone.order("quit")
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        assert process.stdin is not None
        process.stdin.close()


@asynccontextmanager
async def both(tmp_path: Path, **options: Any) -> AsyncIterator[tuple[SipGateway, Linphone, str]]:
    """A gateway outside, a telephone inside; gives the gateway's address, too."""
    agent = {"kind": "phone_agents:Tone", "isolation": "host", "hertz": AGENT, "seconds": options.pop("seconds", 10)}
    with network() as (name, ours, theirs):
        trunk = {"sources": [theirs], "proxies": [f"sip:{theirs}:5060"], **options.pop("trunk", {})}
        listen = [{"transport": transport, "host": ours, "port": 5060} for transport in ("udp", "tcp")]
        async with (
            sip_gateway(tmp_path, trunk=trunk, agent=agent, sip={"listen": listen}, pythonpath=HERE) as gateway,
            linphone(tmp_path / "phone", name, theirs, **options) as phone,
        ):
            yield gateway, phone, ours


def talked(gateway: SipGateway, phone: Linphone) -> None:
    """Each heard the other, and the telephone not itself. It bends time to keep its delay, so its tone is not pure."""
    sound = steady(Sound.read(phone.folder / "heard.wav"))
    found, level, purity = sound.tone()
    assert abs(found - AGENT) < 4, phone.log[-3000:]
    assert abs(level - LEVEL) < 2
    assert purity > 8
    assert sound.has(CALLER) < -35
    [heard] = gateway.notes("heard")
    assert abs(heard["hertz"] - CALLER) < 4
    assert abs(heard["level"] - LEVEL) < 2


@pytest.mark.parametrize(
    ("codec", "uri", "more"),
    [
        ("PCMU", "", ""),
        ("PCMA", ";transport=tcp", ""),
        ("opus", "", ""),
        ("PCMU", "", "media_encryption=srtp\n"),
    ],
)
async def test_it_calls(tmp_path: Path, codec: str, uri: str, more: str) -> None:
    trunk = {"codecs": [codec.lower()], "srtp": "allowed"}
    async with both(tmp_path, trunk=trunk, more=more) as (gateway, phone, host):
        await phone.order(f"call sip:{NUMBER}@{host}{uri}")
        await phone.until("connected.")
        await asyncio.sleep(2.5)
        await phone.order("terminate")
        [record] = await gateway.over()
        assert (record["status"], record["reason"]) == ("completed", "caller_hangup"), gateway.story()
        [media] = gateway.named("sip.media")
        assert (media["codec"], media["srtp"], record["faults"]) == (codec, bool(more), 0), gateway.named("fault")
    talked(gateway, phone)


async def test_it_holds_a_call_and_takes_it_back(tmp_path: Path) -> None:
    async with both(tmp_path) as (gateway, phone, host):
        await phone.order(f"call sip:{NUMBER}@{host}")
        await phone.until("connected.")
        await asyncio.sleep(1.5)
        await phone.order("pause")
        await asyncio.sleep(1.0)
        await phone.order("resume")
        await asyncio.sleep(1.5)
        await phone.order("terminate")
        [record] = await gateway.over()
        assert (record["status"], record["reason"]) == ("completed", "caller_hangup"), gateway.story()
    found, _, _ = Sound.read(phone.folder / "heard.wav").part(-0.9, -0.3).tone()
    assert abs(found - AGENT) < 4


async def test_it_is_called(tmp_path: Path) -> None:
    async with both(tmp_path, seconds=2.5) as (gateway, phone, _):
        placed = await gateway.place("alice")
        await phone.until("Receiving new incoming call")
        await phone.order("answer")
        await asyncio.sleep(2.0)
        assert (await gateway.api("DELETE", f"/v1/calls/{placed['id']}")).status_code == 204
        [record] = await gateway.over()
        assert (record["status"], record["reason"]) == ("completed", "operator_hangup"), gateway.story()
    talked(gateway, phone)
