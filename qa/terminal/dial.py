"""`offhook dial`: a call from the terminal. Type to speak, press keys on an empty line for DTMF, see what comes back.

Theory of operation
-------------------
The call is made by the same caller as scenarios are, kept open for more steps; what is typed becomes a step. A watcher
stands between line and caller and looks, once a frame, whether the agent begins or ends a turn: the first is told with
its latency at once, the second with its words when the offline recogniser has them. Nothing of that delays a frame.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from prompt_toolkit import PromptSession
from prompt_toolkit.filters import Condition
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.patch_stdout import patch_stdout
from rich.console import Console
from rich.markup import escape

from offhook.qa.activity import RATE, Samples, Span
from offhook.qa.caller.machine import Caller
from offhook.qa.caller.record import StepRecord
from offhook.qa.caller.script import Script, ScriptError, prepare
from offhook.qa.measuring.metrics import METRICS, measure_call
from offhook.qa.measuring.speech import Recogniser, SpeechFailed, transcribe
from offhook.qa.phones.base import CallerLine, CallLog, CallOrder, LineEvent, Phone
from offhook.qa.phones.targets import open_phone
from offhook.qa.running.evidence import write_recording
from offhook.qa.scenario.model import KEYS, Scenario, Step
from offhook.qa.voice import VoiceUnavailable

TURN_PAUSE_S: Final = 0.7
"""Silence after which the agent's turn is shown."""

LEAD: Final = RATE // 5
"""Samples before a turn that the recogniser is given, too."""

MAX_INPUT: Final = 1 << 20
"""Bytes of input that is no terminal."""

HELP: Final = (
    "Type a sentence and press Enter: it is spoken, over the agent if that is speaking. On an empty line the keys "
    "0-9 * # are pressed at once (begin with a space to speak a number). Commands: /wav FILE, /hold SECONDS, "
    "/codec NAME, /help, /hangup (or Ctrl-D)."
)

_KEYS_ONLY: Final = re.compile(r"[0-9*#A-D]+\Z")


class BadCommand(ValueError):
    """What was typed is no command; the text says what would be."""


def step_of(typed: str) -> Step | None:
    """The step that a line of input asks for; None: there is nothing in it.

    Raises:
        BadCommand: a command that there is not, or one without what it needs.
    """
    line = typed.strip()
    if not line:
        return None
    if not line.startswith("/"):
        keys = _KEYS_ONLY.match(line) and not typed.startswith(" ")
        return Step.model_validate({"dtmf": line} if keys else {"say": line})
    command, _, argument = line[1:].partition(" ")
    argument = argument.strip()
    match command:
        case "hangup" | "bye" | "quit":
            return Step.model_validate({"hang_up": True})
        case "wav" if argument:
            return Step.model_validate({"say": {"wav": argument}})
        case "hold":
            seconds = argument.removesuffix("s").strip() or "5"
            if not re.fullmatch(r"\d{1,4}(\.\d+)?", seconds):
                raise BadCommand(f"/hold {argument}: say for how many seconds, such as /hold 5")
            return Step.model_validate({"hold": f"{seconds}s"})
        case "codec" if argument in ("PCMU", "PCMA", "G722", "opus"):
            return Step.model_validate({"codec": argument})
        case "help":
            raise BadCommand(HELP)
        case "wav":
            raise BadCommand("/wav: name a WAV file")
        case "codec":
            raise BadCommand("/codec: say PCMU, PCMA, G722 or opus")
        case _:
            raise BadCommand(f"/{command} is no command. {HELP}")


@dataclass(slots=True)
class Watcher:
    """Hands each frame on to the caller, and notices what the agent does."""

    caller: Caller
    on_event: Callable[[LineEvent], None]
    on_speaks: Callable[[float, float | None], None]
    "Track second at which the agent began, and seconds since the caller's last word (None: nothing was said)."
    on_turn: Callable[[Span, Samples], None]
    "The agent's turn is over: where it lies, and its sound."
    line: CallerLine | None = None
    said_until: float | None = None
    "Track second at which the caller's last word or key ended; None: the agent has answered it."
    _began: float | None = None

    def frame(self, line: CallerLine) -> None:
        """Look, and hand on."""
        if self.line is None:
            self.line = line
            line.activity.kept = bytearray()
        for event in line.events:
            self.on_event(event)
        self.caller.frame(line)
        self._look(line)

    def ended(self) -> None:
        """Show what was still under way, and hand on."""
        if self.line is not None:
            for event in self.line.events:
                self.on_event(event)
            if self._began is not None:
                self._turn_over(self.line)
        self.caller.ended()

    def _look(self, line: CallerLine) -> None:
        activity = line.activity
        if self.caller.mouth.saying:
            self.said_until = line.seconds
        if self._began is None:
            if activity.speaking_since is not None:
                self._began = activity.speaking_since
                waited = None if self.said_until is None else self._began - self.said_until
                self.said_until = None
                self.on_speaks(self._began, waited)
        elif activity.speaking_since is None and activity.silent_for() >= TURN_PAUSE_S:
            self._turn_over(line)

    def _turn_over(self, line: CallerLine) -> None:
        began, kept = self._began, line.activity.kept
        assert began is not None
        assert kept is not None
        end = line.activity.last_voiced or began
        self._began = None
        track = np.frombuffer(bytes(kept), "<i2")
        # The kept audio ends now, where the track does.
        now = line.seconds
        start = max(0, len(track) - round((now - began) * RATE) - LEAD)
        stop = max(start, len(track) - round((now - end) * RATE) + LEAD)
        self.on_turn(Span(began, end), track[start:stop].copy())
        kept.clear()


class Dialer:
    """One call from the terminal.

    Args:
        phone: the way to the target; open.
        scenario: its settings: target, media, caller, recogniser. Its steps are made first.
        console: what is shown goes there.
        listen: understand the agent's words.
    """

    def __init__(self, phone: Phone, scenario: Scenario, script: Script, console: Console, *, listen: bool) -> None:
        self._phone, self._scenario, self._script, self._console = phone, scenario, script, console
        self._listen = listen
        self._recogniser = Recogniser()
        self._tasks: set[asyncio.Task[None]] = set()
        self._caller = Caller(scenario, script, keep_open=True)
        self._watcher = Watcher(self._caller, self._on_event, self._on_speaks, self._on_turn)
        self._over = asyncio.Event()

    async def call(self, order: CallOrder) -> CallLog:
        """Make the call, to its end. Raises as Phone.carry."""
        async with self._recogniser:
            reader = asyncio.create_task(self._read(), name="qa-dial-read")
            reader.add_done_callback(self._read_to_the_end)
            try:
                log = await self._phone.carry(order, self._watcher)
            finally:
                self._over.set()
                reader.cancel()
                (broke,) = await asyncio.gather(reader, return_exceptions=True)
                await asyncio.gather(*self._tasks)
        if isinstance(broke, Exception):
            raise broke
        return log

    def _read_to_the_end(self, reader: asyncio.Task[None]) -> None:
        """Nothing more is typed. A reader that broke leaves nobody who could hang up."""
        if not reader.cancelled() and reader.exception() is not None:
            self._caller.add(Step.model_validate({"hang_up": True}))

    def conclude(self, log: CallLog) -> None:
        """Print how the call was."""
        found = measure_call(log, self._caller.record, self._scenario, sounds=self._script.sounds)
        how = log.ended_how or "no reason was given"
        if not log.answered:
            self._console.print(f"[red]not answered[/red]: {log.status or ''} {escape(how)}")
            return
        parts = [f"{log.seconds:.1f} s, ended by {log.ended_by or 'nobody'} ({escape(how)})"]
        for name, title in (("greeting_ms", "greeting"), ("v2v_ms", "answers"), ("barge_stop_ms", "stops")):
            values = found.samples(name)
            if values:
                parts.append(f"{title} {' '.join(f'{value:.0f}' for value in values)} ms")
        for name, title in (("packet_gap_p99_ms", "packet gap p99"), ("rtp_loss_pct", "loss"), ("mos_e", "MOS")):
            value = found[name]
            if isinstance(value, float):
                unit = {"ms": " ms", "pct": " %"}.get(METRICS[name].unit, "")
                parts.append(f"{title} {value:.{0 if unit == ' ms' else 2}f}{unit}")
        self._console.print("; ".join(parts), highlight=False)

    # --- what comes ---

    def _show(self, at: float, who: str, text: str, style: str = "") -> None:
        shown = f"[{style}]{escape(text)}[/{style}]" if style else escape(text)
        self._console.print(f"[dim]{at:7.2f}[/dim]  {who:>6}  {shown}", highlight=False, soft_wrap=True)

    def _on_event(self, event: LineEvent) -> None:
        self._show(max(0.0, event.at), "line", f"{event.kind} {event.detail}".strip(), "cyan")

    def _on_speaks(self, at: float, waited: float | None) -> None:
        if waited is None:
            self._show(at, "agent", "speaks", "green")
        elif waited < 0:
            self._show(at, "agent", "speaks into your words", "yellow")
        else:
            self._show(at, "agent", f"speaks after {waited * 1000:.0f} ms", "green" if waited <= 1.5 else "yellow")

    def _on_turn(self, span: Span, sound: Samples) -> None:
        if not self._listen:
            self._show(span.end, "agent", f"is silent after {span.seconds:.1f} s", "dim")
            return
        task = asyncio.create_task(self._understand(span, sound), name="qa-dial-understand")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _understand(self, span: Span, sound: Samples) -> None:
        try:
            heard = await transcribe([(span, sound)], self._scenario.stt, (), recogniser=self._recogniser)
        except SpeechFailed as error:
            self._show(span.end, "agent", str(error), "yellow")
            self._listen = False
            return
        self._show(span.end, "agent", f"“{heard.text or '…'}” ({span.seconds:.1f} s)", "bold")

    # --- what goes ---

    async def _read(self) -> None:
        if not sys.stdin.isatty():
            await self._read_lines()
            return
        session: PromptSession[str] = PromptSession(key_bindings=self._bindings())
        with patch_stdout(raw=True):
            while not self._over.is_set():
                try:
                    typed = await session.prompt_async("> ")
                except (EOFError, KeyboardInterrupt):
                    typed = "/hangup"
                await self._take(typed)

    async def _read_lines(self) -> None:
        """Input that is no terminal: a line is said when the agent has answered the one before."""
        mode = os.fstat(sys.stdin.fileno()).st_mode
        if stat.S_ISREG(mode):
            for typed in sys.stdin.read(MAX_INPUT).splitlines():
                await self._take(typed, waits=True)
        elif stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):  # of what is neither, such as /dev/null, nothing comes
            reader = asyncio.StreamReader(MAX_INPUT)
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
            try:
                while line := await reader.readline():
                    await self._take(line.decode(errors="replace"), waits=True)
            finally:
                transport.close()
        await self._take("/hangup", waits=True)

    async def _take(self, typed: str, *, waits: bool = False) -> None:
        try:
            step = step_of(typed.rstrip("\n"))
        except BadCommand as error:
            self._console.print(escape(str(error)), style="yellow", highlight=False)
            return
        except ValueError as error:
            self._console.print(escape(str(error).splitlines()[-1]), style="yellow", highlight=False)
            return
        if step is None:
            return
        try:
            await self._script.add(step)
        except (ScriptError, VoiceUnavailable) as error:
            self._console.print(escape(str(error)), style="yellow", highlight=False)
            return
        if waits:
            self._caller.add(Step.model_validate({"wait": {"for": "agent_done", "timeout": "15s"}}))
        added = self._caller.add(step)
        what = step.say.text or step.say.wav if step.say else step.dtmf.digits if step.dtmf else step.verb
        added.on_done = lambda: self._done(added.record, what, waits)

    def _done(self, record: StepRecord, what: str, waits: bool) -> None:
        """A step is over; what was typed at a terminal stands there already."""
        if record.keys and not record.failed:
            self._watcher.said_until = record.ended
        if waits and not record.skipped:
            self._show(record.began, "you", what, "blue")
        if record.failed:
            self._console.print(escape(record.failed), style="yellow", highlight=False)

    def _bindings(self) -> KeyBindings:
        bindings = KeyBindings()

        @Condition
        def empty() -> bool:
            from prompt_toolkit.application import get_app

            return not get_app().current_buffer.text

        def press(event: KeyPressEvent) -> None:
            task: asyncio.Task[Any] = asyncio.ensure_future(self._take(event.key_sequence[0].data))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        for key in sorted(KEYS & set("0123456789*#")):
            bindings.add(key, filter=empty)(press)
        return bindings


async def place(
    scenario: Scenario, credentials: Mapping[str, Any], console: Console, *, listen: bool, wav: Path | None
) -> bool:
    """Make a call and show it; gives whether it was answered.

    Args:
        scenario: its settings: target, media, caller, recogniser.
        credentials: keyword arguments of `open_phone`.
        console: what is shown goes there.
        listen: understand the agent's words.
        wav: where the call is recorded; None: nowhere.

    Raises:
        Unable, Unreachable: as Phone.carry.
        VoiceUnavailable: there is no synthesiser.
    """
    script = await prepare(scenario, Path())
    async with open_phone(scenario.target, **credentials) as phone:
        dialer = Dialer(phone, scenario, script, console, listen=listen)
        order = CallOrder(scenario.target, scenario.media, "dial", timeout=scenario.timeout, keep_packets=False)
        log = await dialer.call(order)
    dialer.conclude(log)
    if wav is not None and log.answered:
        write_recording(wav, log)
    return log.answered
