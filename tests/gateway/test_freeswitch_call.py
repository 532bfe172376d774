"""FreeSWITCH's media socket at a gateway process: the upgrade, a call with sound both ways, and its orders."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fakes.freeswitch import FakeEventSocket, FakeFork
from fakes.served import free_port
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from offhook.providers.base import Binary

pytestmark = [pytest.mark.timing, pytest.mark.timeout(120)]

CALL = "0a6f1f4e-7f3e-4a55-9a53-0f7b5b1f0001"
SILENCE = bytes(320)

AGENT = '''
from offhook.agents import Agent

class Leaver(Agent):
    """Echoes, and leaves when a key is pressed."""
    format = None

    def on_audio(self, audio):
        self.call.stream(audio)

    def on_dtmf(self, digit):
        if digit == "7":
            self.call.hang_up("seven was pressed", after_speech=False)
        if digit == "6":
            self.call.transfer("2000", after_speech=False)
'''


@dataclass
class Gateway:
    """A gateway process and the event socket that it orders."""

    url: str
    folder: Path
    esl: FakeEventSocket

    def open(self, *, password: str = "p", subprotocols: list[str] | None = None) -> Any:
        credentials = base64.b64encode(f"pbx:{password}".encode()).decode()
        return connect(
            f"{self.url}/freeswitch/media",
            additional_headers={"Authorization": f"Basic {credentials}"},
            subprotocols=subprotocols,  # type: ignore[arg-type]  # a NewType of str
        )

    async def record(self) -> tuple[Any, ...]:
        """The only call's status, reason and id at FreeSWITCH, once it is over."""
        async with asyncio.timeout(10):
            while True:
                with (
                    contextlib.suppress(sqlite3.OperationalError),
                    contextlib.closing(sqlite3.connect(self.folder / "var" / "calls.db")) as database,
                ):
                    rows = database.execute("select status, reason, carrier_call_id from calls").fetchall()
                    if rows and rows[0][0] != "live":
                        return tuple(rows[0])
                await asyncio.sleep(0.05)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    port = free_port()
    async with FakeEventSocket().listening() as esl:
        section = {
            "username": "pbx",
            "password": "p",
            "esl": {"host": "127.0.0.1", "port": esl.port, "password": esl.password},
        }
        config = {
            "public_url": "https://voice.example.com",
            "listen": {"host": "127.0.0.1", "port": port},
            "data_dir": str(tmp_path / "var"),
            "carriers": {"freeswitch": section},
            "agents": {"leaver": {"kind": "leaver_agent:Leaver"}},
            "routes": [{"number": "*", "agent": "leaver", "allow_transfer": ["2000"]}],
        }
        (tmp_path / "config.yaml").write_text(json.dumps(config))
        (tmp_path / "leaver_agent.py").write_text(AGENT)
        command = [sys.executable, "-m", "offhook.gateway", "serve", "--config", str(tmp_path / "config.yaml")]
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
        try:
            async with asyncio.timeout(30), httpx.AsyncClient() as web:
                while True:
                    with contextlib.suppress(httpx.TransportError):
                        if (await web.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200:
                            break
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    await asyncio.sleep(0.05)
            yield Gateway(f"ws://127.0.0.1:{port}", tmp_path, esl)
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 20)


async def talk(media: ClientConnection, fork: FakeFork, pcm: bytes, seconds: float) -> bytes:
    """Say something, frame by frame in real time, and listen; what was heard."""
    heard = b""
    begun = time.monotonic()
    for number in range(int(seconds * 50)):
        await media.send(pcm[number * 320 : number * 320 + 320].ljust(320, b"\0"))
        while (left := begun + (number + 1) * 0.02 - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                message = await asyncio.wait_for(media.recv(), left)
                fork.receive(Binary(message) if isinstance(message, bytes) else message.encode())
        heard += fork.play()
        for text in fork.sent:
            await media.send(text)
        fork.sent = []
    return heard


def metadata() -> str:
    return json.dumps({"uuid": CALL, "from": "1000", "to": "5001", "sampleRate": 8000})


async def test_cases_1_and_15_the_upgrade(gateway: Gateway) -> None:
    for offered in ("audio.drachtio.org", "audio.jambonz.org"):
        async with gateway.open(subprotocols=["chat", offered]) as media:
            assert media.subprotocol == offered
            assert media.protocol.extensions == []  # permessage-deflate was offered, and declined
    async with gateway.open() as media:
        assert media.subprotocol is None
    with pytest.raises(InvalidStatus) as refused:
        async with gateway.open(password="wrong"):
            pass
    assert refused.value.response.status_code in (401, 403)


async def test_a_call_with_sound_both_ways(gateway: Gateway) -> None:
    fork = FakeFork()
    t = np.arange(8000 * 2) / 8000
    tone = np.asarray(8000 * np.sin(2 * np.pi * 440 * t), "<i2").tobytes()
    async with gateway.open(subprotocols=["audio.drachtio.org"]) as media:
        await media.send(metadata())
        await talk(media, fork, b"", 0.5)
        heard = np.frombuffer(await talk(media, fork, tone, 3.0), "<i2")
        loud = heard[np.abs(heard) > 1000]
        assert len(loud) > 1.7 * 8000 * 0.9
        spectrum = np.abs(np.fft.rfft(heard[8000:16000]))
        assert abs(int(spectrum.argmax()) - 440) <= 1
    assert await gateway.record() == ("completed", "caller_hangup", CALL)
    assert gateway.esl.commands == []  # he hung up himself


async def test_the_agent_hangs_up(gateway: Gateway) -> None:
    fork = FakeFork()
    async with gateway.open(subprotocols=["audio.drachtio.org"]) as media:
        await media.send(metadata())
        await talk(media, fork, b"", 0.3)
        await media.send('{"event":"dtmf","dtmf":"7","duration":"1600"}')
        with pytest.raises(ConnectionClosed):
            await talk(media, fork, b"", 5.0)
    assert fork.received[-1] == {"type": "disconnect"}
    assert await gateway.record() == ("completed", "agent_hangup", CALL)
    assert f"api uuid_kill {CALL} NORMAL_CLEARING" in gateway.esl.commands


async def test_the_agent_transfers_by_the_event_socket(gateway: Gateway) -> None:
    async with gateway.open(subprotocols=["audio.drachtio.org"]) as media:
        await media.send(metadata())
        await talk(media, FakeFork(), b"", 0.3)
        await media.send('{"event":"dtmf","dtmf":"6"}')
        await talk(media, FakeFork(), b"", 0.5)
    assert f"api uuid_transfer {CALL} 2000 XML default" in gateway.esl.commands
    assert (await gateway.record())[1] == "transferred"
