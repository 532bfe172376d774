"""The demo: a real gateway process, a real call through the Twilio path, and the proof that the caller heard it.

A carrier simulator rings the gateway with a signed webhook, opens the media socket that the answer names, and a
synthetic caller talks to the receptionist: three lines, the first into the agent's greeting. What the agent understood
comes from the gateway's journal while the call runs. Afterwards the heard audio is held against the record.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import numpy as np
import yaml

from offhook.agents.speech.tts import SpeechUnavailable, synthesize
from offhook.codecs.audio import L16_8K
from offhook.codecs.wav import read_wav
from offhook.gateway.demo_judge import (
    Check,
    Goal,
    ScriptLine,
    TurnRow,
    Utterance,
    agent_utterances,
    judge,
    turn_rows,
)
from offhook.gateway.demo_screen import Screen
from offhook.gateway.journal import Entry, read_segment, segments
from offhook.qa.activity import Samples
from offhook.qa.call import SimulatedCall
from offhook.qa.leg import SimulatorError
from offhook.qa.simulator import CarrierSimulator
from offhook.qa.voice import Voice, VoiceUnavailable
from offhook.qa.web import Unreachable

PUBLIC_URL: Final = "https://voice.example.com"
"""What the gateway believes to be its name; signatures and answers are built from it."""

NUMBER: Final = "+15550100"
CALLER: Final = "+15550111"

SCRIPT: Final = (
    ScriptLine("Can I make an appointment?", ("appointment",), interrupts=True),
    ScriptLine("Tuesday at three.", ("tuesday",)),
    ScriptLine("Yes, please.", ("yes",)),
)
GOAL: Final = Goal("appointment", {"day": "Tuesday", "time": "three o'clock"})

VOICE: Final = "flite"
"""What the caller speaks with: the built-in recogniser understands flite's voices, and hardly espeak-ng's."""

SERVE: Final = "from offhook.gateway.cli import main; main()"
"""The `offhook` command with the very interpreter that runs the demo."""

READY_S: Final = 60.0
"""What a cold start may take on a slow machine, models included."""

STOP_S: Final = 15.0
RECORD_S: Final = 5.0
"""What the end of a call may take to be on disk, recording included."""

INTERRUPT_AFTER_S: Final = 1.2
"""How long the caller lets the agent speak before interrupting."""

CUT_SHOWN_S: Final = 0.6
"""What the end of an interrupted utterance takes to be known and shown."""

GOODBYE_S: Final = 30.0
"""What the agent may take to say goodbye and hang up."""

POLL_S: Final = 0.1


class DemoFailed(Exception):
    """The demo could not be carried out; the text says what and what to do."""


@dataclass(slots=True)
class Outcome:
    """All that the demo found out."""

    directory: Path
    call: SimulatedCall | None = None
    entries: list[Entry] = field(default_factory=list)
    utterances: list[Utterance] = field(default_factory=list)
    rows: list[TurnRow] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    recording: Path | None = None
    error: str = ""

    @property
    def ok(self) -> bool:
        """The caller heard what was said, and everything else was so, too."""
        return not self.error and bool(self.checks) and all(check.ok for check in self.checks)


def run_demo(*, json_output: bool = False, directory: Path | None = None, screen: Screen | None = None) -> int:
    """Place the demo's call and show it.

    Args:
        json_output: print one JSON document at the end instead of the conversation.
        directory: where recording, record and logs go, empty or not there yet; by default a fresh one in var/demo.
        screen: for tests.

    Returns:
        0: the caller heard what was said; 1: not, and it says why; 3: the call could not be placed.
    """
    shown = screen or Screen(quiet=json_output)
    home = (directory or Path("var", "demo", time.strftime("%Y%m%d-%H%M%S"))).absolute()
    outcome = Outcome(home)
    placed = True
    try:
        home.mkdir(parents=True, exist_ok=True)
        if any(home.iterdir()):
            raise DemoFailed(f"{home} is not empty: give the demo a directory of its own")
        asyncio.run(Demo(shown, outcome).run())
    except (DemoFailed, SpeechUnavailable, VoiceUnavailable, SimulatorError, OSError) as error:
        outcome.error = str(error)
        placed = outcome.call is not None
        shown.failure(outcome.error)
    except KeyboardInterrupt:
        outcome.error = "interrupted"
        shown.failure("interrupted")
    if json_output:
        sys.stdout.write(json.dumps(_as_dict(outcome), indent=2) + "\n")
    return 0 if outcome.ok else 1 if placed else 3


class Demo:
    """One run."""

    def __init__(self, screen: Screen, outcome: Outcome) -> None:
        self._screen, self._outcome = screen, outcome
        self._token = token_hex(16)
        self._port = _free_port()
        self._home = outcome.directory
        self._recorded = asyncio.Event()
        "The record of the call is complete, its recording closed."
        self._journal = _JournalTail(self._home / "data" / "journal")

    async def run(self) -> None:
        """All of it."""
        screen, outcome = self._screen, self._outcome
        screen.title("offhook demo: a call through the Twilio path, all of it on this machine")
        voice = Voice(VOICE)
        lines = {line.text: await voice.speak(line.text) for line in SCRIPT}
        async with CarrierSimulator(
            "twilio",
            f"http://127.0.0.1:{self._port}/twilio/voice",
            self._token,
            public_url=PUBLIC_URL,
            status_url="/twilio/status",
        ) as carrier:
            gateway = await self._start_gateway(carrier)
            try:
                with screen.waiting("starting the gateway"):
                    await self._wait_ready(carrier, gateway)
                call = await self._place_call(carrier, lines)
            finally:
                exit_code = await _stop(gateway)
        await self._evaluate(call, lines, exit_code)
        self._report(call)
        assert outcome.checks

    # --- the gateway process ---

    async def _start_gateway(self, carrier: CarrierSimulator) -> asyncio.subprocess.Process:
        twilio = {"account_sid": carrier.carrier.account, "auth_token": self._token, "api_base": carrier.api_base}
        config = {
            "public_url": PUBLIC_URL,
            "listen": {"host": "127.0.0.1", "port": self._port},
            "data_dir": str(self._home / "data"),
            "carriers": {"twilio": twilio},
            "agents": {"front-desk": {"kind": "receptionist"}},
            "routes": [{"number": NUMBER, "agent": "front-desk", "record": True}],
        }
        path = self._home / "config.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        path.chmod(0o600)
        # The demo's configuration is all there is: settings of this machine's real gateway stay out of it.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OFFHOOK_")}
        with (self._home / "gateway.log").open("wb") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", SERVE, "serve", "--config", str(path)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self._home,
            )

    async def _wait_ready(self, carrier: CarrierSimulator, gateway: asyncio.subprocess.Process) -> None:
        began = time.monotonic()
        while time.monotonic() < began + READY_S:
            if gateway.returncode is not None:
                raise DemoFailed(f"the gateway exited with code {gateway.returncode}: {self._last_log_line()}")
            try:
                if (await carrier.web.request("GET", f"http://127.0.0.1:{self._port}/readyz", {})).status == 200:
                    self._screen.step(f"gateway started, process {gateway.pid}, {time.monotonic() - began:.1f} s")
                    return
            except Unreachable:
                pass  # not listening yet
            await asyncio.sleep(POLL_S)
        raise DemoFailed(f"the gateway was not ready within {READY_S:.0f} s: {self._last_log_line()}")

    def _last_log_line(self) -> str:
        lines = (self._home / "gateway.log").read_text(errors="replace").strip().splitlines()
        return f"{lines[-1][:300] if lines else 'it said nothing'} (all of it: {self._home / 'gateway.log'})"

    # --- the call ---

    async def _place_call(self, carrier: CarrierSimulator, lines: Mapping[str, Samples]) -> SimulatedCall:
        self._screen.step(f"{CALLER} rings {NUMBER}: signed webhook to /twilio/voice")
        call = await carrier.ring(CALLER, NUMBER)
        self._outcome.call = call
        if call.line is None:
            raise DemoFailed(f"the gateway did not take the call: {call.ended_how} {'; '.join(call.errors)}")
        self._screen.step(f"answered after {call.webhook_ms:.0f} ms, media socket open\n")
        with self._screen.live():
            watching = asyncio.create_task(self._watch(call), name="demo-watch")
            try:
                await self._converse(call, lines)
            finally:
                await call.hang_up()  # in case the agent did not
                with contextlib.suppress(TimeoutError):  # then the checks say what is missing
                    await asyncio.wait_for(self._recorded.wait(), RECORD_S)
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
        self._show_journal(call)
        ending = "the agent hung up" if call.card.ended_by == "bot" else call.ended_how
        self._screen.line(call.now, "", ending)
        return call

    async def _converse(self, call: SimulatedCall, lines: Mapping[str, Samples]) -> None:
        try:
            for line in SCRIPT:
                if line.interrupts:
                    await call.wait_agent_speaking(seconds=INTERRUPT_AFTER_S)
                else:
                    await call.wait_agent_turn()
                began = call.now
                saying = asyncio.create_task(call.say(lines[line.text]), name="demo-say")
                if line.interrupts:  # what the agent had said so far comes first
                    await asyncio.wait([saying], timeout=CUT_SHOWN_S)
                self._screen.line(began, "caller", line.text, "(interrupts)" if line.interrupts else "")
                await saying
            await call.wait_over(timeout=GOODBYE_S)
        except SimulatorError as error:
            self._screen.line(call.now, "", str(error))

    async def _watch(self, call: SimulatedCall) -> None:
        """Show what the gateway writes down and who is speaking, until cancelled."""
        at = 0
        while True:
            self._show_journal(call)
            line = call.line
            if line is not None and call.session is not None:
                caller, agent = line.caller, line.agent
                end = min(len(caller), len(agent))
                self._screen.caller_meter.feed(caller[at:end].tobytes())
                self._screen.agent_meter.feed(agent[at:end].tobytes())
                at = end
                self._screen.status(call.now, line.activity.speaking_since is not None, line.saying)
            await asyncio.sleep(POLL_S)

    def _show_journal(self, call: SimulatedCall) -> None:
        assert call.line is not None
        for entry in self._journal.new_entries():
            self._outcome.entries.append(entry)
            at, data = entry.mono - call.line.started, entry.data
            if entry.event == "transcript":
                self._screen.line(at, "heard" if data["role"] == "caller" else "agent", data["text"])
            elif entry.event == "utterance" and data["outcome"] != "dropped":
                heard = data["heard_ms"] / max(1, data["length_ms"]) if data["outcome"] == "cut" else 1.0
                cut = f"(cut after {data['heard_ms'] / 1000:.1f} s)" if heard < 1.0 else ""
                self._screen.line(at - data["heard_ms"] / 1000, "agent", data["text"], cut, heard)
            elif entry.event == "agent.failed":
                self._screen.line(at, "", f"the agent failed: {data['error']}")
        if {"call.ended", "recording.stopped"} <= {entry.event for entry in self._outcome.entries}:
            self._recorded.set()

    # --- what it was ---

    async def _evaluate(self, call: SimulatedCall, lines: Mapping[str, Samples], exit_code: int | None) -> None:
        outcome = self._outcome
        outcome.entries += self._journal.new_entries()
        assert call.line is not None
        result = call.result()
        spoken = dict(lines)
        for entry in outcome.entries:
            if entry.event == "utterance" and (text := entry.data.get("text")):
                spoken[text] = np.frombuffer(await synthesize(text, L16_8K), "<i2")
        outcome.utterances = agent_utterances(outcome.entries, spoken, result.agent, call.line.started)
        outcome.rows = turn_rows(result, SCRIPT, outcome.entries, call.line.started)
        stopped = next((entry.data for entry in outcome.entries if entry.event == "recording.stopped"), None)
        recording = None
        if stopped is not None:
            outcome.recording = Path(stopped["path"])
            recording = _read_stereo(outcome.recording)
        outcome.checks = judge(result, SCRIPT, GOAL, outcome.entries, outcome.utterances, recording, spoken, exit_code)
        result.save(self._home / "heard.wav")
        (self._home / "demo.json").write_text(json.dumps(_as_dict(outcome), indent=2))

    def _report(self, call: SimulatedCall) -> None:
        screen, outcome = self._screen, self._outcome
        screen.turns(outcome.rows)
        screen.checks(outcome.checks)
        result = call.result()
        if not result.trusted:
            screen.failure(f"this machine was too busy to measure on: own frames {result.own_late_ms.p99:.0f} ms late")
        call_id = outcome.entries[0].call if outcome.entries else "?"
        screen.paths(
            [
                ("recording", _shown(outcome.recording) if outcome.recording else "none"),
                ("on the wire", _shown(self._home / "heard.wav")),
                ("call record", f"{_command()} calls show {call_id[:12]} -c {_shown(self._home / 'config.yaml')}"),
                ("all of it", _shown(self._home / "demo.json")),
            ]
        )


class _JournalTail:
    """Reads what another process writes into its journal."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._offsets: dict[Path, int] = {}

    def new_entries(self) -> list[Entry]:
        """Everything since the last time, in order."""
        found = []
        for path in segments(self._directory) if self._directory.exists() else []:
            for entry, offset in read_segment(path, self._offsets.get(path, 0)):
                self._offsets[path] = offset
                found.append(entry)
        return found


async def _stop(gateway: asyncio.subprocess.Process) -> int | None:
    """End the gateway as an operator would; None when it had to be killed."""
    if gateway.returncode is None:
        gateway.send_signal(signal.SIGTERM)
    try:
        return await asyncio.wait_for(gateway.wait(), STOP_S)
    except TimeoutError:
        gateway.kill()
        await gateway.wait()
        return None


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _read_stereo(path: Path) -> tuple[Samples, Samples]:
    _, _, data = read_wav(path)
    both = np.frombuffer(data, "<i2").reshape(-1, 2)
    return both[:, 0].copy(), both[:, 1].copy()


def _command() -> str:
    """How the reader runs offhook: as this process was, since an environment need not be on the path."""
    return _shown(Path(sys.argv[0])) if Path(sys.argv[0]).name == "offhook" else "offhook"


def _shown(path: Path) -> str:
    """As short as it can be typed from here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    call = outcome.call
    return {
        "ok": outcome.ok,
        "error": outcome.error,
        "checks": [asdict(check) for check in outcome.checks],
        "turns": [asdict(row) for row in outcome.rows],
        "utterances": [asdict(item) | {"problem": item.problem} for item in outcome.utterances],
        "call_id": outcome.entries[0].call if outcome.entries else "",
        "directory": str(outcome.directory),
        "recording": str(outcome.recording or ""),
        "wire": call.result().as_dict() if call is not None else None,
    }
