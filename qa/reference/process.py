"""The reference in a process of its own, for as long as somebody needs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from offhook.qa.reference.lines import Voice
from offhook.qa.reference.server import AUTH_TOKEN
from offhook.qa.reference.truth import read_truth

START_S: Final = 30.0
"""Until it must be up: it synthesises two dozen phrases first."""

STOP_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference that runs."""

    sip_target: str
    "`sip:reference@127.0.0.1:port`"
    twilio_target: str
    "`twilio+http://127.0.0.1:port/twilio/voice`"
    auth_token: str
    truth_file: Path
    pid: int

    def target(self, way: str, name: str) -> str:
        """The target of `sip` or `twilio` that has a fault or habit, several as `cut-tail+goodbye`."""
        if way == "sip":
            return self.sip_target.replace("sip:reference@", f"sip:{name}@")
        return f"{self.twilio_target.removesuffix('voice')}{name}"

    def truth(self) -> list[dict[str, Any]]:
        """All entries of its truth log so far; `qa.reference.truth` says what they hold."""
        return read_truth(self.truth_file)


@contextlib.asynccontextmanager
async def reference(
    *faults: str, voice: Voice = "auto", options: Sequence[str] = (), auth_token: str = ""
) -> AsyncIterator[Reference]:
    """Run the reference on free ports of 127.0.0.1.

        async with reference("late-answer") as ref:
            ... call ref.sip_target ...
            ref.truth()

    Args:
        faults: names of `qa.reference.behaviour`.
        voice: `made-up` needs no synthesiser, starts at once, and has no pauses in its sentences.
        options: more arguments of its command line.
        auth_token: secret of its Twilio account; empty: made up.

    Raises:
        RuntimeError: it did not start; the text has what it said.
    """
    secret = auth_token or secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="offhook-reference-") as folder:
        truth_file = Path(folder, "truth.jsonl")
        words = ["--sip", "127.0.0.1:0", "--twilio", "127.0.0.1:0", "--truth", str(truth_file), "--voice", voice]
        for name in faults:
            words += ["--fault", name]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "offhook.qa.reference", "--attached", *words, *options),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, AUTH_TOKEN: secret},
        )
        try:
            ready = await _ready(process)
            yield Reference(ready["sip"], ready["twilio"], secret, truth_file, process.pid)
        finally:
            await _stop(process)


async def _ready(process: asyncio.subprocess.Process) -> dict[str, str]:
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(START_S):
            line = await process.stdout.readline()
            said = b"" if line else await process.stderr.read()
    except TimeoutError:
        line, said = b"", b"it was not up in time"
    if not line:
        raise RuntimeError(f"the reference did not start: {said.decode(errors='replace').strip()[-500:]}")
    ready: dict[str, str] = json.loads(line)
    return ready


async def _stop(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(STOP_S):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()
