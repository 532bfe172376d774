"""SIPVicious, the scanner that every open SIP port meets within the hour: it learns nothing and breaks nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fakes.served import free_port
from fakes.sip_gateway import SipGateway, loopback, sip_gateway
from fakes.strangers import good_call, lines, memory

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("svmap") is None, reason="needs `apt-get install sipvicious`"),
]

USER, PASSWORD = "150", "1234"
"""As bad as they are found in the wild; only the limits stand between them and the attacker."""

GUESSES = 60
"""Passwords he tries; the right one comes late among them, but not last."""

PATIENCE = 60.0


@asynccontextmanager
async def attacked(folder: Path, *, known: bool, failures: int = 10) -> AsyncIterator[SipGateway]:
    """A gateway for the scans.

    Args:
        known: it knows scanners by their User-Agent, as it does unless told otherwise.
        failures: the wrong passwords after which it stops to answer.
    """
    port = free_port()
    trunks = {
        "pbx": {"sources": [loopback(port, 2)], "numbers": ["+15550100"]},
        # the tools know nothing newer than MD5
        "phone": {
            "auth": "digest",
            "username": USER,
            "password": PASSWORD,
            "digest": ["MD5"],
            "numbers": ["+15550101"],
        },
    }
    sip = {"limits": {"failures": failures}, **({} if known else {"scanners": []})}
    async with sip_gateway(folder, http_port=port, trunks=trunks, sip=sip) as gateway:
        before = memory(gateway.process.pid)
        yield gateway
        for which, login in ((2, None), (4, (USER, PASSWORD))):
            await good_call(gateway.peer(which), (gateway.host, gateway.udp), credentials=login)
        records = await gateway.over(2)
        assert len(records) == 2  # none was the scanner's
        assert memory(gateway.process.pid) - before < 16 << 20
        assert "Traceback" not in gateway.log


def free_udp_port() -> int:
    with lines("127.0.0.1") as (line,):
        return line.port


async def scan(gateway: SipGateway, *command: str, last: Sequence[str] = ()) -> str:
    """Run one of the tools from an address of its own; gives what it printed."""
    program, *arguments = command
    process = await asyncio.create_subprocess_exec(
        program,
        *("-b", gateway.peer(9), "-x", gateway.peer(9), "-P", str(free_udp_port()), "-p", str(gateway.udp), *arguments),
        *(gateway.host, *last),
        cwd=gateway.folder,
        env=dict(os.environ) | {"HOME": str(gateway.folder), "PYTHONWARNINGS": "ignore"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return told.decode(errors="replace")


async def test_it_finds_nobody_where_it_is_known(tmp_path: Path) -> None:
    async with attacked(tmp_path, known=True) as gateway:
        for method in ("OPTIONS", "INVITE", "REGISTER"):
            told = await scan(gateway, "svmap", "-m", method)
            assert "found nothing" in told
            assert "offhook" not in told


async def test_it_cannot_tell_users_from_others(tmp_path: Path) -> None:
    async with attacked(tmp_path, known=False) as gateway:
        for method in ("REGISTER", "INVITE", "OPTIONS"):
            told = await scan(
                gateway, "svwar", "-m", method, "-e", "140-160", "--force", "--maximumtime=3", "-t", "0.05"
            )
            assert "Traceback" not in told
            assert "found nothing" in told


@pytest.mark.parametrize(("known", "failures"), [(True, 10), (False, 10), (False, 1000)])
async def test_it_does_not_guess_the_password(tmp_path: Path, known: bool, failures: int) -> None:
    words = [str(9000 + number) for number in range(GUESSES)]
    words[40] = PASSWORD
    (tmp_path / "words").write_text("\n".join(words) + "\n")
    async with attacked(tmp_path, known=known, failures=failures) as gateway:
        told = await scan(
            gateway, "svcrack", "-u", USER, "-d", str(tmp_path / "words"), "--maximumtime=5", "-t", "0.05"
        )
        assert "Traceback" not in told
        assert "found nothing" in told
        assert ("no server response" in told) == known
        # The right one would be told from the others by the 405 that a REGISTER gets from one who may call.
        assert ("unknown response" in told) == (failures > GUESSES)
