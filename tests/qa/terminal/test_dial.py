"""A call from the terminal: what is typed becomes steps, what comes is shown, and at the end somebody hangs up."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.line import Agent, FakeLine, FakePhone, voice
from rich.console import Console

from offhook.qa.caller.script import Script, sound_key
from offhook.qa.phones.base import CallLog, CallOrder, LineEvent
from offhook.qa.reference.process import Reference, reference
from offhook.qa.scenario.model import Scenario, Speech
from offhook.qa.terminal.dial import HELP, BadCommand, Dialer, step_of

OFFHOOK = [sys.executable, "-c", "from offhook.gateway.cli import main; main()"]


@pytest.mark.parametrize(
    ("typed", "verb", "what"),
    [
        ("Hello there.", "say", {"text": "Hello there."}),
        ("12#", "dtmf", {"digits": "12#"}),
        ("  ", "", {}),
        (" 12", "say", {"text": "12"}),
        ("12 please", "say", {"text": "12 please"}),
        ("/wav a b.wav", "say", {"wav": "a b.wav"}),
        ("/hangup", "hang_up", {}),
        ("/bye", "hang_up", {}),
    ],
)
def test_what_is_typed_becomes_a_step(typed: str, verb: str, what: dict[str, str]) -> None:
    step = step_of(typed)
    assert (step.verb if step else "") == verb
    if step is not None and what:
        assert what.items() <= getattr(step, verb).model_dump().items()


@pytest.mark.parametrize(("typed", "seconds"), [("/hold", 5), ("/hold 2", 2), ("/hold 2.5s", 2.5)])
def test_a_hold_has_its_seconds(typed: str, seconds: float) -> None:
    step = step_of(typed)
    assert step is not None
    assert step.hold == seconds


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("/help", "Type a sentence and press Enter"),
        ("/hold on", "say for how many seconds"),
        ("/wav", "name a WAV file"),
        ("/codec mp3", "say PCMU, PCMA, G722 or opus"),
        ("/dance", "/dance is no command. Type a sentence"),
    ],
)
def test_what_is_no_command_is_told_with_the_remedy(typed: str, says: str) -> None:
    with pytest.raises(BadCommand, match=re.escape(says)):
        step_of(typed)


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put something into standard input, as a file; sentences are half a second of noise."""

    async def add_speech(self: Script, speech: Speech, *, path: tuple[str | int, ...] = ()) -> None:
        self.sounds[sound_key(speech, self.settings)] = voice(0.5, 1)

    def put(text: str) -> None:
        (tmp_path / "typed").write_text(text)
        file = (tmp_path / "typed").open()
        monkeypatch.setattr(sys, "stdin", file)

    monkeypatch.setattr(Script, "add_speech", add_speech)
    return put


async def dialled(phone: FakePhone, **settings: Any) -> tuple[CallLog, list[str]]:
    """Make a call; gives what was shown, line by line."""
    scenario = Scenario.model_validate(
        {"name": "dial", "target": {"to": "sip:bot@test"}, "steps": [{"wait": "answer"}], "timeout": "60s", **settings}
    )
    out = io.StringIO()
    dialer = Dialer(phone, scenario, Script(scenario.caller, Path()), Console(file=out, width=200), listen=False)
    order = CallOrder(scenario.target, scenario.media, "dial", timeout=scenario.timeout, keep_packets=False)
    try:
        log = await dialer.call(order)
    finally:
        sys.stdin.close()
    dialer.conclude(log)
    return log, [" ".join(line.split()) for line in out.getvalue().splitlines()]


async def test_each_line_waits_for_the_answer_to_the_one_before(typed: Callable[[str], None]) -> None:
    typed("Hello?\n\n12\n/dance\nAnd you?\n")
    agent = Agent(talks=[(0.2, 1.0)], answers_after=0.7, events=[LineEvent(1.4, "dtmf", "7")])
    log, lines = await dialled(phone := FakePhone(lambda: agent, pace=0.0005))
    assert log.ended_by == "caller"
    assert [keys for _, keys, _ in phone.lines[0].pressed] == ["12"]
    shown = "\n".join(lines)
    assert "0.00 line answered" in lines
    assert "line dtmf 7" in shown
    assert re.search(r"agent speaks after (6[89]|7[0-3])0 ms", shown)
    assert "agent is silent after 0.8 s" in shown
    assert "/dance is no command." in shown
    said = [line.split(maxsplit=2)[2] for line in lines if " you " in line]
    assert said == ["Hello?", "12", "And you?", "hang_up"]
    assert re.fullmatch(
        r"[\d.]+ s, ended by caller \(.*\); greeting 200 ms; answers 70\d 70\d ms; MOS 4.\d\d", lines[-1]
    )


async def test_an_agent_that_speaks_into_ones_words_is_told(typed: Callable[[str], None]) -> None:
    typed("Hello?\n")
    # The greeting ends at 1.0 s, its turn at 1.7 s; half a second is said from then on.
    _, lines = await dialled(FakePhone(lambda: Agent(talks=[(0.2, 1.0), (1.9, 4.0)]), pace=0.0005))
    assert [line for line in lines if "agent speaks" in line][1].endswith("agent speaks into your words")


async def test_a_call_that_nobody_answers_is_told_and_ends(typed: Callable[[str], None]) -> None:
    typed("Hello?\n")
    log, lines = await dialled(FakePhone(status=486))
    assert not log.answered
    assert lines[-1].startswith("not answered: 486")


async def test_what_cannot_be_done_is_told_and_the_call_goes_on(typed: Callable[[str], None]) -> None:
    typed("/codec opus\nHello?\n")

    class Bare(FakeLine):
        def __init__(self, agent: Agent | None = None) -> None:
            super().__init__(agent, ())

    phone = FakePhone(lambda: Agent(talks=[(0.2, 1.0)], answers_after=0.7), pace=0.0005)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fakes.line.FakeLine", Bare)
        log, lines = await dialled(phone)
    assert "this way of calling has one codec only; use a sip: target" in lines
    assert [line.split(maxsplit=2)[2] for line in lines if " you " in line] == ["codec", "Hello?", "hang_up"]
    assert log.answered


async def test_a_reader_that_breaks_hangs_up(typed: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    typed("")

    async def breaks(self: Dialer) -> None:
        raise ValueError("this line is too long")

    monkeypatch.setattr(Dialer, "_read_lines", breaks)
    phone = FakePhone(lambda: Agent(talks=[(0.2, 50.0)]), pace=0.0005)
    with pytest.raises(ValueError, match="too long"):
        await dialled(phone)
    assert phone.lines[0].ended_by == "caller"
    assert phone.lines[0].seconds < 1


# --- with sockets and processes ----------------------------------------------------------


class Terminal:
    """`offhook dial` on a terminal of its own."""

    def __init__(self, target: str, *options: str) -> None:
        self._ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self.process = subprocess.Popen(
            [*OFFHOOK, "dial", target, *options], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        )
        os.close(theirs)
        self._seen = bytearray()
        asyncio.get_running_loop().add_reader(self._ours, self._read)

    def _read(self) -> None:
        try:
            self._seen += os.read(self._ours, 65536)
        except OSError:  # the other end is closed
            asyncio.get_running_loop().remove_reader(self._ours)

    @property
    def raw(self) -> str:
        """Everything so far."""
        return self._seen.decode(errors="replace")

    @property
    def shown(self) -> str:
        """Everything so far, without colours and cursors."""
        return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", self.raw)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    async def see(self, pattern: str) -> None:
        """Wait until this is shown."""
        try:
            async with asyncio.timeout(20):
                while not re.search(pattern, self.shown):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"{pattern!r} was never shown, but: {self.shown}") from None

    async def close(self) -> int:
        code = await asyncio.to_thread(self.process.wait, 20)
        await asyncio.sleep(0.05)
        asyncio.get_running_loop().remove_reader(self._ours)
        os.close(self._ours)
        return code


async def noted(bot: Reference, what: str) -> dict[str, Any]:
    """Wait until the reference has noted something; gives it."""
    async with asyncio.timeout(20):
        while True:
            for entry in bot.truth():
                if entry["what"] == what:
                    return entry
            await asyncio.sleep(0.05)


@pytest.mark.timing
async def test_a_person_at_a_terminal_talks_presses_keys_holds_and_hangs_up() -> None:
    async with reference() as bot:
        terminal = Terminal(bot.sip_target, "--no-listen")
        await terminal.see(r"agent\s+is silent after")
        terminal.type("Tell me about the opening hours.\r")
        await terminal.see(r"agent\s+speaks after (6[89]|7[012])\d ms")
        terminal.type("5")  # at once, without Enter
        assert (await noted(bot, "key"))["key"] == "5"
        terminal.type("/help\r")
        await terminal.see(r"/help[\s\S]*Type a sentence and press Enter")
        terminal.type("/hold 2\r")
        held = await noted(bot, "held")
        assert (await noted(bot, "resumed"))["at"] - held["at"] == pytest.approx(2.0, abs=0.2)
        terminal.type("\x04")
        await noted(bot, "ended")
        assert await terminal.close() == 0
    shown = terminal.shown
    assert re.search(r"ended by caller .*; greeting (29|30|31)\d ms; answers (6[89]|7[012])\d ms", shown)
    # What comes never stands behind the prompt: it is erased first, and drawn again.
    raw = terminal.raw
    for line in re.finditer(r"\d+\.\d\d\x1b\[0m +(agent|line)", raw):
        assert raw.rfind("\x1b[J", 0, line.start()) > raw.rfind(">", 0, line.start())


@pytest.mark.slow
async def test_input_through_a_pipe_is_said_line_by_line_and_recorded(tmp_path: Path) -> None:
    async with reference() as bot:
        process = await asyncio.create_subprocess_exec(
            *OFFHOOK,
            *("dial", bot.sip_target, "--no-listen", "--wav", str(tmp_path / "call.wav")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(b"5\n/dance\n"), 40)
        assert (process.returncode, err) == (0, b"")
        assert (await noted(bot, "key"))["key"] == "5"
    lines = [line.split(maxsplit=2) for line in out.decode().splitlines()]
    assert b"/dance is no command." in out
    assert [line[2] for line in lines if line[1] == "you"] == ["5", "hang_up"]
    assert (tmp_path / "call.wav").stat().st_size > 100_000
    assert "Type a sentence" in HELP
    assert HELP.encode() not in out
