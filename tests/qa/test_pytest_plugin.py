"""The fixture `caller`, as a project of somebody else's has it: a pytest of its own, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import wave
from pathlib import Path

CONFTEST = """
import pytest
from fakes.line import Agent, FakePhone, voice
from offhook.qa.caller.script import Script, sound_key
from offhook.qa.phones import targets

AGENTS = {
    "sip:good@test": lambda: Agent(talks=[(0.2, 1.0)], answers_after=0.6),
    "sip:late@test": lambda: Agent(answers_after=2.0),
}

@pytest.fixture(autouse=True)
def no_wire(monkeypatch):
    async def add_speech(self, speech, *, path=()):
        self.sounds[sound_key(speech, self.settings)] = voice(0.5, 1)

    monkeypatch.setattr(Script, "add_speech", add_speech)
    monkeypatch.setattr(targets, "open_phone", lambda target, **_: FakePhone(AGENTS[target.to], pace=0.001))
"""

TESTS = """
import threading

def test_good(caller):
    call = caller.dial()
    assert 0 < call.expect_agent(within=1.5) < 1.0
    call.wait_agent_done()
    call.say("What are your opening hours?")
    call.expect_agent(within=1.5)
    call.wait_agent_done()
    call.hang_up()
    assert call.report.verdict == "pass"

def test_late(caller):
    call = caller.dial("sip:late@test")
    call.say("Hello?")
    call.expect_agent(within=1.0)

def test_the_call_before_was_hung_up(caller):
    assert caller.calls == []
    call = caller.dial()
    call.say("I shall not hang up.")

def test_one_thread_makes_the_calls_of_all_tests(caller):
    assert sum(thread.name == "offhook-calls" for thread in threading.enumerate()) == 1

def test_without_calls():
    assert 1 + 1 == 2
"""

LAZY = """
import sys

def test_nothing_of_offhook_is_imported_for_others():
    loaded = sorted(name for name in sys.modules if name.startswith("offhook") or name == "numpy")
    assert loaded == ["offhook", "offhook.qa", "offhook.qa.pytest_plugin"]
"""

OWN = """
import pytest

@pytest.fixture
def caller():
    return "mine"

def test_it(caller):
    assert caller == "yours"
"""


def run_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    tests = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": str(tests), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "150"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "offhook.qa.pytest_plugin",
        "-p",
        "no:cacheprovider",
        "-q",
        *options,
    ]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=50, check=False)


def test_calls_are_made_and_those_of_a_failed_test_are_kept(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_bot.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\noffhook_target = sip:good@test\nfilterwarnings = error\n")
    done = run_pytest(tmp_path, "--offhook-artifacts", "kept")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 4 passed" in done.stdout
    assert "AssertionError: the agent spoke after 2.0" in done.stdout
    assert "at most 1 s were expected" in done.stdout
    assert "recording of call 1: kept/test_bot.py-test_late-1.wav" in done.stdout
    [kept] = (tmp_path / "kept").iterdir()
    with wave.open(str(kept)) as file:
        assert file.getnframes() / file.getframerate() > 2.5
        assert file.getnchannels() == 2
    assert "Warning" not in done.stderr


def test_without_a_target_the_remedy_is_named(tmp_path: Path) -> None:
    (tmp_path / "test_bot.py").write_text("def test_call(caller):\n    caller.dial()\n")
    done = run_pytest(tmp_path, "--offhook-artifacts", "kept")
    assert done.returncode == 1
    assert "ValueError: no target: give dial() one, or run pytest with --offhook-target" in done.stdout
    assert not (tmp_path / "kept").exists()


def test_whoever_makes_no_calls_pays_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(LAZY)
    done = run_pytest(tmp_path)
    assert done.returncode == 0, done.stdout
    helped = run_pytest(tmp_path, "--help")
    assert "--offhook-target=TARGET" in helped.stdout
    assert "--offhook-artifacts=FOLDER" in helped.stdout


def test_a_fixture_of_the_same_name_in_a_project_goes_before_ours(tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text(OWN)
    done = run_pytest(tmp_path, "--offhook-artifacts", "kept")
    assert "1 failed" in done.stdout
    assert "INTERNALERROR" not in done.stdout + done.stderr
