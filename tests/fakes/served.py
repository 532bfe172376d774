"""A real gateway process, with a simulated carrier in front of it: for whole calls, and for benchmarks."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fakes.sockets import FakeVendor
from fakes.web import LanguageServer

from offhook.qa.simulator import CarrierSimulator

PUBLIC = "https://voice.example.com"


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def services(deepgram: FakeVendor, openai: LanguageServer, cartesia: FakeVendor) -> dict[str, Any]:
    """The sections of an assistant whose vendors are these fakes."""
    return {
        "stt": {"service": "deepgram", "api_key": "k", "base_url": deepgram.url},
        "llm": {"service": "openai", "model": "m", "api_key": "k", "base_url": f"{openai.url}/v1"},
        "tts": {"service": "cartesia", "api_key": "k", "voice": "v", "base_url": cartesia.url},
    }


@asynccontextmanager
async def served(folder: Path, agent: dict[str, Any], **more: Any) -> AsyncIterator[CarrierSimulator]:
    """Run a gateway whose one agent answers every number; the records are in `folder`/var when it is over.

    Args:
        folder: empty; for the configuration and the gateway's data.
        agent: its section of the configuration.
        more: further sections.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with CarrierSimulator("twilio", f"{url}/twilio/voice", "token", public_url=PUBLIC) as simulator:
        account = {"account_sid": simulator.carrier.account, "auth_token": "token", "api_base": simulator.api_base}
        config = {
            "public_url": PUBLIC,
            "listen": {"port": port},
            "data_dir": str(folder / "var"),
            "carriers": {"twilio": account},
            "agents": {"agent": agent},
            "routes": [{"number": "*", "agent": "agent"}],
            "log": {"level": "error"},
            **more,
        }
        async with gateway(folder, config):
            yield simulator


@asynccontextmanager
async def gateway(folder: Path, config: dict[str, Any]) -> AsyncIterator[None]:
    """Run a gateway with this configuration, written into `folder`, which listens on 127.0.0.1 at `listen.port`."""
    (folder / "config.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "offhook.gateway", "serve", "--config", str(folder / "config.yaml")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(30), httpx.AsyncClient() as web:
            while True:
                try:
                    if (await web.get(f"http://127.0.0.1:{config['listen']['port']}/readyz")).status_code == 200:
                        break
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        await asyncio.to_thread(process.wait, 20)
