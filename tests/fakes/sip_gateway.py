"""A real gateway process that takes and places SIP calls, for tests with real telephones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from fakes.served import PUBLIC, free_port

TOKEN: Final = "0123456789abcdef0123"
"""Of the gateway's HTTP interface."""

SIP_PORT: Final = 5060
SIPS_PORT: Final = 5061
"""Free on every loopback address that `loopback` gives, for no two tests share one."""

NUMBER: Final = "+15550100"
"""The gateway's own."""

Row = dict[str, Any]


def loopback(port: int, which: int) -> str:
    """An address of this machine that belongs to a test: the TCP port that it holds makes it unlike all others."""
    return f"127.{which}.{port >> 8}.{port & 255}"


@dataclass
class SipGateway:
    """A gateway process, and what it wrote down."""

    folder: Path
    host: str
    "Where it listens for SIP and receives audio."
    ports: Mapping[str, int]
    "Transport → port."
    http_port: int
    process: subprocess.Popen[bytes]

    @property
    def udp(self) -> int:
        return self.ports["udp"]

    def peer(self, which: int = 2) -> str:
        """A loopback address that nobody else uses, for a telephone (2 or more)."""
        return loopback(self.http_port, which)

    @property
    def log(self) -> str:
        """What it printed so far."""
        return (self.folder / "log").read_text()

    # --- orders

    async def api(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        """Ask its HTTP interface, such as `await gateway.api("GET", "/v1/calls")`."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.http_port}") as web:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            return await web.request(method, path, json=body, headers=headers, timeout=10)

    async def place(self, to: str, **order: Any) -> Row:
        """Have it call somebody; gives the ids of the call."""
        answer = await self.api("POST", "/v1/calls", {"to": to, **order})
        assert answer.status_code == 202, answer.text
        placed: Row = answer.json()
        return placed

    # --- what it wrote down

    def calls(self) -> list[Row]:
        """The call records so far (`calls` of calls.db), oldest first."""
        return self._rows("select * from calls order by offered_at")

    def events(self, call_id: str = "") -> list[Row]:
        """The journal of a call, or of all: `event`, `at` and the decoded `data`, in order."""
        where = "where call_id = ?" if call_id else ""
        found = self._rows(f"select * from events {where} order by call_id, seq", call_id)
        return [{**row, "data": json.loads(row["data"] or "{}")} for row in found]

    def named(self, event: str, call_id: str = "") -> list[Row]:
        """The data of every event of that name, over all calls or of one."""
        return [row["data"] for row in self.events(call_id) if row["event"] == event]

    def notes(self, name: str, call_id: str = "") -> list[Row]:
        """What agents noted by that name."""
        return [data["data"] for data in self.named("agent.note", call_id) if data["name"] == name]

    def _rows(self, query: str, *values: str) -> list[Row]:
        with (
            contextlib.suppress(sqlite3.OperationalError),  # it has written nothing yet
            contextlib.closing(sqlite3.connect(self.folder / "var" / "calls.db")) as database,
        ):
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(query, [value for value in values if value])]
        return []

    async def until(self, there: Callable[[], Any], what: str = "", *, timeout: float = 8) -> None:
        """Wait for something to be true of the records, which lag behind the calls by half a second."""
        try:
            async with asyncio.timeout(timeout):
                while not there():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"waited in vain for {what or 'it'}\n{self.story()}") from None

    async def over(self, count: int = 1, *, timeout: float = 8) -> list[Row]:
        """The records, once so many calls are over and none is up."""

        def ended() -> bool:
            rows = self.calls()
            return len(rows) >= count and all(row["status"] != "live" for row in rows)

        await self.until(ended, f"the end of {count} calls", timeout=timeout)
        return self.calls()

    def story(self) -> str:
        """Records, journal and log, for the message of a test that failed."""
        calls = [f"{row['direction']} {row['status']} {row['reason']} {row['detail']}" for row in self.calls()]
        events = [f"{row['event']} {row['data']}" for row in self.events()]
        return "\n".join([*calls, *events, self.log])

    async def stop(self) -> int:
        """End it at once; gives the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return await asyncio.to_thread(self.process.wait, 20)


@asynccontextmanager
async def sip_gateway(
    folder: Path,
    *,
    trunk: Mapping[str, Any] | None = None,
    trunks: Mapping[str, Mapping[str, Any]] | None = None,
    agent: Mapping[str, Any] | None = None,
    route: Mapping[str, Any] | None = None,
    transports: Sequence[str] = ("udp",),
    ipv6: bool = False,
    sip: Mapping[str, Any] | Callable[[str, int], Mapping[str, Any]] | None = None,
    http_port: int = 0,
    pythonpath: Path | None = None,
    **more: Any,
) -> AsyncIterator[SipGateway]:
    """Run a gateway on a loopback address of its own.

    Args:
        folder: for its configuration and data; its records stay there.
        trunk: settings of the only trunk, `pbx`; it takes calls from this machine where they do not say otherwise.
        trunks: several trunks, as they stand in the configuration.
        agent: who answers every number; an echo where unset.
        route: further settings of the only route.
        transports: of `udp`, `tcp` and `tls` (give `sip` its `tls` then).
        ipv6: listen on ::1, at free ports.
        sip: further settings of the section.
        http_port: a port that is free; the addresses of gateway and telephones follow from it.
        pythonpath: where the class of an agent `module:Class` is found.
        more: further sections of the configuration.
    """
    port = http_port or free_port()
    host = "::1" if ipv6 else loopback(port, 1)
    own = {"udp": SIP_PORT, "tcp": SIP_PORT, "tls": SIPS_PORT}
    ports = {name: _free_v6(name) if ipv6 else own[name] for name in transports}
    if trunks is None:
        given = dict(trunk or {})
        if given.get("auth") != "digest":
            given.setdefault("sources", ["::1/128"] if ipv6 else ["127.0.0.0/8"])
        trunks = {"pbx": {"numbers": [NUMBER], **given}}
    config = {
        "public_url": PUBLIC,
        "listen": {"port": port},
        "data_dir": str(folder / "var"),
        "api": {"token": TOKEN},
        "sip": {
            "listen": [{"transport": name, "host": host, "port": at} for name, at in ports.items()],
            "trunks": trunks,
            **(sip(host, port) if callable(sip) else sip or {}),
        },
        "agents": {"agent": dict(agent or {"kind": "echo"})},
        "routes": [{"number": "*", "agent": "agent", **(route or {})}],
        "log": {"level": "info", "format": "json"},
        **more,
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "offhook.gateway", "serve", "--config", str(folder / "config.yaml")]
    environment = dict(os.environ) | ({"PYTHONPATH": str(pythonpath)} if pythonpath is not None else {})
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)
    gateway = SipGateway(folder, host, ports, port, process)
    try:
        async with asyncio.timeout(30), httpx.AsyncClient() as web:
            while True:
                assert process.poll() is None, gateway.log
                with contextlib.suppress(httpx.TransportError):
                    if (await web.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200:
                        break
                await asyncio.sleep(0.05)
        yield gateway
    finally:
        await gateway.stop()


def _free_v6(transport: str) -> int:
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET6, kind) as found:
        found.bind(("::1", 0))
        port: int = found.getsockname()[1]
        return port
