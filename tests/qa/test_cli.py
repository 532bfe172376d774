"""`offhook qa …` as a shell sees it: what is printed where, and with which code it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import Result
from fakes.line import Agent, FakePhone
from typer.testing import CliRunner

from offhook.gateway.cli import app
from offhook.qa.phones.base import Phone, Unreachable
from offhook.qa.reference.process import Reference, reference
from offhook.qa.running import run as running
from offhook.qa.scenario.model import Target

OFFHOOK = [sys.executable, "-c", "from offhook.gateway.cli import main; main()"]

STEPS = [
    {"expect": {"agent_speaks": True, "within": "1s"}},
    {"wait": "agent_done"},
    {"say": {"wav": "hi.wav"}, "expect": {"agent_speaks": True, "within": "1s"}},
    {"wait": "agent_done"},
]

AGENTS = {
    "good": lambda: Agent(talks=[(0.3, 1.0)], answers_after=0.7),
    "late": lambda: Agent(talks=[(0.3, 1.0)], answers_after=1.4),
    "silent": Agent,
}


def offhook(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def words_of(text: str) -> str:
    return " ".join(text.split())


def write(folder: Path, name: str = "hello", **more: Any) -> Path:
    with wave.open(str(folder / "hi.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(np.random.default_rng(1).normal(0, 3000, 4000).astype("<i2").tobytes())
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"name": name, "steps": STEPS, **more}, sort_keys=False))
    return path


# Made with its first loop and never closed, by design of libuv: the pipe by which it hears of signals.
with suppress(ImportError):
    import uvloop

    uvloop.new_event_loop().close()


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("OFFHOOK_QA_AUTH_TOKEN", "OFFHOOK_QA_USERNAME", "OFFHOOK_QA_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def no_wire(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`sip:good@test` is called without a wire; gives whom was called."""
    called: list[str] = []

    def opened(target: Target, **_: Any) -> Phone:
        name = target.to.removeprefix("sip:").partition("@")[0]
        called.append(name)
        if name == "nobody":
            raise Unreachable("nobody is at test; start the bot")
        return FakePhone(AGENTS[name])

    monkeypatch.setattr(running, "open_phone", opened)
    monkeypatch.setattr(running, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    return called


# --- run ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_wire")
@pytest.mark.parametrize(
    ("bot", "code", "word"), [("good", 0, "pass"), ("late", 1, "fail"), ("nobody", 3, "unreachable")]
)
def test_the_exit_code_says_how_it_went(tmp_path: Path, bot: str, code: int, word: str) -> None:
    done = offhook("qa", "run", write(tmp_path), "-t", f"sip:{bot}@test")
    assert done.exit_code == code, done.output
    [folder] = (tmp_path / "qa-runs").iterdir()
    assert json.loads((folder / "run.json").read_text())["verdict"] == word
    assert (folder / "report.html").is_file()
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f"{word} in ")
    assert last.endswith(f"Report: qa-runs/{folder.name}/report.html")
    if bot == "late":
        assert "hello: late-answer: step 3 (say): the agent spoke after 14" in done.stdout
        assert "hello.yaml:" in done.stdout


@pytest.mark.usefixtures("no_wire")
def test_json_is_only_json(tmp_path: Path) -> None:
    done = offhook("qa", "run", write(tmp_path), "-t", "sip:late@test", "--json", "--github", "--repeat", "2")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert (report["verdict"], len(report["scenarios"][0]["calls"])) == ("fail", 2)
    assert done.stderr.startswith("::error file=hello.yaml,line=")
    again = offhook("qa", "report", "last", "--json")
    assert (json.loads(again.stdout), again.exit_code, again.stderr) == (report, 1, "")


@pytest.mark.usefixtures("no_wire")
def test_annotations_stand_at_the_assertion(tmp_path: Path) -> None:
    path = write(tmp_path)
    done = offhook("qa", "run", path, "-t", "sip:late@test", "--github")
    [line] = [line for line in done.stdout.splitlines() if line.startswith("::")]
    row = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "within" in text and n > 6)
    assert line.startswith(f"::error file=hello.yaml,line={row},col=5,title=")
    assert offhook("qa", "run", path, "-t", "sip:good@test", "--github").stdout.count("::") == 0


def test_only_scenarios_with_a_tag_are_called(tmp_path: Path, no_wire: list[str]) -> None:
    write(tmp_path, "a", tags=["smoke"])
    write(tmp_path, "b", tags=["slow"])
    done = offhook("qa", "run", tmp_path, "-t", "sip:good@test", "--tag", "smoke", "--json")
    assert [one["name"] for one in json.loads(done.stdout)["scenarios"]] == ["a"]
    none = offhook("qa", "run", tmp_path, "-t", "sip:good@test", "--tag", "fast")
    assert (none.exit_code, none.stderr) == (2, "offhook: no scenario is tagged fast\n")
    assert no_wire == ["good"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "nmae=x"], "--set nmae: no scenario has a variable of that name; there are name"),
        (["--set", "name"], "--set: write NAME=VALUE, each name once"),
        (["--baseline", "nowhere"], "nowhere: no run there; name a folder with a run.json, or `last`"),
        (["--out", "hi.wav"], "--out hi.wav: Not a directory"),
        (["-t", "tel:+15550199"], ""),
    ],
)
def test_what_cannot_be_used_calls_nobody(tmp_path: Path, no_wire: list[str], words: list[str], says: str) -> None:
    path = write(tmp_path, vars={"name": "you"}, description="${name}")
    done = offhook("qa", "run", path, "-t", "sip:good@test", *words)
    assert done.exit_code == 2
    if says:
        assert done.stderr == f"offhook: {says}\n"
        assert no_wire == []


def test_without_a_target_nobody_is_called(tmp_path: Path) -> None:
    done = offhook("qa", "run", write(tmp_path))
    assert done.exit_code == 2
    assert "hello.yaml: there is no target; give --target" in done.stderr


def test_two_scenarios_of_one_name_are_refused(tmp_path: Path, no_wire: list[str]) -> None:
    (tmp_path / "more").mkdir()
    done = offhook("qa", "run", write(tmp_path), write(tmp_path / "more"), "-t", "sip:good@test")
    assert done.exit_code == 2
    assert "are both named hello; give each a `name:` of its own" in words_of(done.stderr)
    assert no_wire == []


def test_a_missing_wav_is_named_with_line_and_column(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "hi.wav").unlink()
    done = offhook("qa", "run", path, "-t", "sip:good@test")
    assert done.exit_code == 2
    row = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "wav:" in text)
    assert done.stderr.startswith(f"{path}:{row}:5: steps[2].say.wav: there is no file hi.wav beside the scenario")
    assert not (tmp_path / "qa-runs").exists()


@pytest.mark.usefixtures("no_wire")
def test_a_run_is_held_against_an_earlier_one(tmp_path: Path) -> None:
    path = write(tmp_path)
    first = offhook("qa", "run", path, "-t", "sip:good@test", "--repeat", "8", "-j", "8")
    assert first.exit_code == 0
    [baseline] = (tmp_path / "qa-runs").iterdir()
    again = offhook("qa", "run", path, "-t", "sip:good@test", "--repeat", "8", "--baseline", baseline.name, "--json")
    found = json.loads(again.stdout)
    assert (again.exit_code, found["verdict"], found["comparison"]["worse"]) == (0, "pass", False)
    worse = offhook("qa", "run", path, "-t", "sip:late@test", "--baseline", "last")
    assert worse.exit_code == 1
    assert "hello: pass → fail" in worse.stdout
    assert worse.stdout.splitlines()[-1].strip() == "worse"
    assert offhook("qa", "compare", baseline, "last").exit_code == 1
    assert offhook("qa", "compare", baseline, baseline / "run.json").exit_code == 0
    assert offhook("qa", "compare", baseline, "nothing").exit_code == 2


@pytest.mark.usefixtures("no_wire")
def test_a_crash_of_our_own_is_no_failure_of_the_bot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("of our own")

    monkeypatch.setattr(running, "conclude", broken)
    done = offhook("qa", "run", write(tmp_path), "-t", "sip:good@test")
    assert done.exit_code == 4
    assert "ZeroDivisionError: of our own" in done.stderr
    assert done.stderr.endswith("offhook: this is a mistake of offhook's own; it says nothing about the target\n")


@pytest.mark.usefixtures("no_wire")
def test_without_a_synthesiser_nothing_is_said_of_the_bot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = offhook("qa", "run", write(tmp_path, steps=[{"say": "Hello?"}]), "-t", "sip:good@test")
    assert done.exit_code == 4
    assert "apt install flite" in done.stdout


@pytest.mark.usefixtures("no_wire")
def test_without_a_recogniser_nothing_is_said_of_the_bot(tmp_path: Path) -> None:
    path = write(tmp_path, stt={"service": "deepgram"}, **{"assert": {"speech": {"must_hear": ["nine"]}}})
    done = offhook("qa", "run", path, "-t", "sip:good@test")
    assert done.exit_code == 4, done.output
    assert "hello: means: " in done.stdout


@pytest.mark.usefixtures("no_wire")
def test_brackets_in_names_are_no_markup(tmp_path: Path) -> None:
    done = offhook("qa", "run", write(tmp_path), "-t", "sip:good@[fe80::1]", "-o", "runs[/b]")
    assert done.exit_code == 0, done.output
    assert "sip:good@[fe80::1]" in done.stdout
    assert "Report: runs[/b]/" in done.stdout


# --- the other commands ------------------------------------------------------------------


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    none = offhook("qa", "report")
    assert (none.exit_code, none.stdout) == (2, "")
    assert "no run in qa-runs yet; `offhook qa run` makes one" in none.stderr
    (tmp_path / "qa-runs" / "x").mkdir(parents=True)
    (tmp_path / "qa-runs" / "x" / "run.json").write_text('{"run_id": 7')
    broken = offhook("qa", "report", "x")
    assert (broken.exit_code, broken.stdout) == (2, "")
    assert "qa-runs/x/run.json is no run of this version" in broken.stderr


def test_scenarios_are_checked_without_a_call(tmp_path: Path) -> None:
    good, bad = write(tmp_path), tmp_path / "bad.yaml"
    bad.write_text("name: bad\nsteps:\n  - sya: Hello?\n")
    assert offhook("qa", "validate", good).stdout == "1 scenario valid, 4 steps\n"
    assert json.loads(offhook("qa", "validate", good, "--json").stdout)["scenarios"] == ["hello"]
    done = offhook("qa", "validate", good, bad)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"{bad}:3:5: " in done.stderr
    assert "did you mean" in done.stderr
    found = offhook("qa", "validate", bad, "--json")
    assert (found.exit_code, json.loads(found.stdout)["ok"], found.stderr) == (2, False, "")
    assert json.loads(offhook("qa", "schema").stdout)["title"]


def test_a_first_scenario_is_written_once_and_can_be_used(tmp_path: Path) -> None:
    done = offhook("qa", "init", "first.yaml", "-t", "sip:good@test")
    assert (done.exit_code, done.stdout) == (0, "first.yaml is written. Run it: offhook qa run first.yaml\n")
    assert offhook("qa", "validate", "first.yaml").exit_code == 0
    again = offhook("qa", "init", "first.yaml")
    assert (again.exit_code, again.stderr) == (2, "offhook: first.yaml is there already; name another file\n")
    assert offhook("qa", "init", "no/where.yaml").exit_code == 2


def test_a_plan_for_load_is_checked_before_calling(tmp_path: Path) -> None:
    write(tmp_path)
    plan = tmp_path / "load.yaml"
    plan.write_text("mix: [{scenario: hello.yaml}]\narrivals: {start: '${rate:-1/s}', over: 2s}\n")
    unknown = offhook("qa", "load", plan, "-t", "sip:good@test", "--set", "rat=1/s")
    assert (unknown.exit_code, unknown.stderr) == (
        2,
        "offhook: --set rat: no scenario has a variable of that name; there are rate\n",
    )
    assert offhook("qa", "load", plan, "-t", "tel:1").exit_code == 2
    (tmp_path / "hi.wav").write_bytes(b"no sound")
    broken = offhook("qa", "load", plan, "-t", "sip:good@192.0.2.1")
    assert broken.exit_code == 2
    assert "is not a WAV file" in broken.stderr
    plan.write_text("mix: [{scenario: nothing.yaml}]\narrivals: {start: 1/s, over: 2s}\n")
    missing = offhook("qa", "load", plan, "-t", "sip:good@test")
    assert missing.exit_code == 2
    assert f"{plan}:1:" in missing.stderr


# --- with sockets and processes ----------------------------------------------------------


@contextmanager
def nobody(kind: socket.SocketKind) -> Iterator[int]:
    """A port at which nobody listens."""
    with socket.socket(socket.AF_INET, kind) as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        if kind == socket.SOCK_DGRAM:
            held.close()
        yield port


@pytest.mark.timing
@pytest.mark.parametrize("way", ["sip:bot@127.0.0.1:{}", "twilio+http://127.0.0.1:{}/voice", "link+ws://127.0.0.1:{}"])
def test_nobody_listening_is_unreachable(tmp_path: Path, way: str) -> None:
    kind = socket.SOCK_DGRAM if way.startswith("sip") else socket.SOCK_STREAM
    with nobody(kind) as port:
        target = way.format(port)
        done = subprocess.run(
            [*OFFHOOK, "qa", "run", write(tmp_path), "-t", target, "--json"],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout)
    [one] = report["scenarios"]
    why = one["reason"] or one["calls"][0]["findings"][0]["message"]
    assert str(port) in why
    assert "Traceback" not in done.stderr


@contextmanager
def session(*words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """`offhook` as a shell runs it: with all its children in a process group of its own."""
    command = [*OFFHOOK, *(str(word) for word in words)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


async def told(bot: Reference, what: str, count: int = 1) -> None:
    """Wait until the reference has noted something so often."""
    async with asyncio.timeout(20):
        while sum(entry["what"] == what for entry in bot.truth()) < count:
            await asyncio.sleep(0.05)


@pytest.mark.timing
async def test_ctrl_c_hangs_up_and_leaves_with_130(tmp_path: Path) -> None:
    path = write(tmp_path, steps=[{"wait": "40s"}])
    async with reference() as bot:
        with session("qa", "run", path, "-t", bot.sip_target, "--repeat", "2") as process:
            await told(bot, "answered", 2)
            os.killpg(process.pid, signal.SIGINT)
            out, err = await asyncio.to_thread(process.communicate, timeout=20)
        await told(bot, "ended", 2)
    assert (process.returncode, out) == (130, "")
    assert err == "offhook: interrupted; the calls were ended\n"


@pytest.mark.slow
async def test_ctrl_c_ends_a_load_with_its_report(tmp_path: Path) -> None:
    write(tmp_path)
    plan = tmp_path / "load.yaml"
    plan.write_text("mix: [{scenario: hello.yaml}]\narrivals: {start: 4/s, over: 60s, spread: even}\nwindow: 2s\n")
    async with reference() as bot:
        with session("qa", "load", plan, "-t", bot.sip_target, "--json") as process:
            await told(bot, "ended", 4)
            os.killpg(process.pid, signal.SIGINT)
            out, err = await asyncio.to_thread(process.communicate, timeout=20)
        begun = sum(entry["what"] == "answered" for entry in bot.truth())
        await told(bot, "ended", begun)
    assert (process.returncode, err) == (130, "")
    report = json.loads(out)
    assert report["reason"] == "stopped by hand"
    assert report["ended"] >= 3
    [folder] = (tmp_path / "qa-runs").iterdir()
    assert json.loads((folder / "load.json").read_text())["calls"] == report["calls"]
    assert (folder / "load.html").is_file()
    assert report["run_id"] == folder.name
