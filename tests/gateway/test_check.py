"""The doctor finds what would make the first call fail, and says what to do."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import resource
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from offhook.gateway import check
from offhook.gateway.check import Finding
from offhook.gateway.config import load
from offhook.gateway.journal import LOCK_NAME
from offhook.gateway.tables import SCHEMA

CONFIG = """
public_url: https://127.0.0.1
carriers:
  twilio: {account_sid: "AC00000000000000000000000000000000", auth_token: "0123456789abcdef0123456789abcdef"}
  plivo: {auth_id: "MA0000000000000000AA", auth_token: "0123456789abcdef0123456789abcdef0123"}
agents:
  echo: {kind: echo}
routes:
  - {number: "*", agent: echo, fallback: {say: "Please call again."}}
listen: {port: %d}
"""


def one(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    assert bool(finding.remedy) == (finding.state != "ok"), "what is not ok has a remedy, what is ok has none"
    return finding


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def config_path(tmp_path: Path, free_port: int) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG % free_port)
    return path


# --- as a whole ---------------------------------------------------------------------


def test_a_sound_configuration_passes(config_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.run_check(config_path) == 0
    out = capsys.readouterr().out
    assert "Nothing stands in the way of a call" in out
    assert "1 route, 1 agent, 2 carriers" in out
    assert "echo (echo) is ready" in out
    assert not (config_path.parent / "var").exists(), "looking changes nothing"


def test_json_says_the_same(config_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.run_check(config_path, json_output=True) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is True
    assert {finding["check"] for finding in said["findings"]} >= {
        *("config", "python", "uvicorn", "clock", "speech", "vad", "public_url", "port", "data_dir", "store"),
        *("descriptors", "carriers", "routes", "agents"),
    }
    assert all(finding["state"] in ("ok", "warn") for finding in said["findings"])


def test_something_in_the_way_gives_1_with_its_remedy(config_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config_path.write_text(config_path.read_text().replace("https://127", "http://127"))
    assert check.run_check(config_path) == 1
    out = capsys.readouterr().out
    assert "is not https" in out
    assert "→ use https" in out
    assert "1 in the way of a call" in out


def test_an_unreadable_configuration_gives_2_and_every_fault(
    config_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config_path.write_text("public_url: https://x.test\ncarrier: {}\nroutes: []\n")
    assert check.run_check(config_path, json_output=True) == 2
    said = json.loads(capsys.readouterr().out)
    faults = [finding["text"] for finding in said["findings"] if finding["check"] == "config"]
    assert any("carrier" in fault and "did you mean" in fault for fault in faults)
    assert len(faults) >= 3
    assert any(finding["check"] == "python" for finding in said["findings"]), "the machine is looked at all the same"


# --- one by one ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "state", "words"),
    [
        ("https://voice.example.com", "fail", "the example's"),
        ("http://voice.test", "fail", "not https"),
        ("https://192.168.1.4", "warn", "192.168.1.4"),
        ("https://8.8.8.8/base", "ok", "8.8.8.8"),
    ],
)
def test_public_url(url: str, state: str, words: str) -> None:
    finding = one(check.check_public_url(url))
    assert (finding.state, words in finding.text) == (state, True)


def test_a_public_url_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_args: object, **_kwargs: object) -> object:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    finding = one(check.check_public_url("https://voice.test"))
    assert finding.state == "fail"
    assert "Name or service not known" in finding.text


def test_a_taken_port(free_port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port))
        taken.listen()
        finding = one(check.check_port("127.0.0.1", free_port))
    assert finding.state == "fail"
    assert "in use" in finding.text
    assert one(check.check_port("127.0.0.1", free_port)).state == "ok"


def test_a_port_taken_by_the_gateway_itself(free_port: int) -> None:
    body = b'{"state":"ready","active":0,"live":0,"slots":100}'
    with socket.create_server(("127.0.0.1", free_port)) as taken:

        def answer() -> None:
            peer, _ = taken.accept()
            with peer:
                peer.recv(1024)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

        thread = threading.Thread(target=answer)
        thread.start()
        assert "gateway is up" in one(check.check_port("127.0.0.1", free_port)).text
        thread.join()


def test_port_zero_is_worth_a_warning() -> None:
    assert one(check.check_port("127.0.0.1", 0)).state == "warn"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    finding = one(check.check_folder("data_dir", Path("/proc/offhook")))
    assert finding.state == "fail"
    assert one(check.check_folder("data_dir", tmp_path / "not" / "there" / "yet")).state in ("ok", "warn")
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize(("free", "state"), [(50 << 20, "fail"), (1 << 30, "warn"), (1 << 40, "ok")])
def test_room_on_the_disk(free: int, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free})())
    assert one(check.check_folder("data_dir", tmp_path)).state == state


@pytest.mark.parametrize(("calls", "allowed", "state"), [(100, 1024, "ok"), (500, 1024, "warn"), (1, 200, "fail")])
def test_open_files(calls: int, allowed: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (allowed, 4096))
    finding = one(check.check_descriptors(calls))
    assert finding.state == state
    assert state == "ok" or f"ulimit -n {256 + 3 * calls}" in finding.remedy


def test_no_synthesiser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.shutil, "which", lambda _: None)
    first, *_ = check.check_speech(None)
    assert (first.state, first.remedy) == ("fail", "apt-get install flite")


def test_a_clock_in_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.time, "time", lambda: 86_400.0)
    assert one(check.check_clock()).state == "fail"


def test_an_old_uvicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.importlib.metadata, "version", lambda _: "0.51.0")
    finding = one(check.check_uvicorn())
    assert (finding.state, "0.52.1" in finding.remedy) == ("fail", True)


def test_secrets_that_everybody_can_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TWILIO_AUTH_TOKEN=x\n")
    os.chmod(tmp_path / ".env", 0o644)
    assert one(check.check_secrets(tmp_path / "config.yaml")).state == "warn"
    os.chmod(tmp_path / ".env", 0o600)
    assert list(check.check_secrets(tmp_path / "config.yaml")) == []


def test_a_database_that_does_not_answer(free_port: int) -> None:
    finding = one(check.check_store(f"postgresql+asyncpg://offhook:secret@127.0.0.1:{free_port}/offhook"))
    assert finding.state == "warn", "the gateway starts without it"
    assert "secret" not in finding.text


@pytest.mark.parametrize(("schema", "state"), [(SCHEMA, "ok"), ("9999", "fail"), (None, "ok")])
def test_the_schema_of_the_database(schema: str | None, state: str, tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/calls.db"
    assert "made at the first start" in one(check.check_store(url)).text
    with contextlib.closing(sqlite3.connect(tmp_path / "calls.db")) as database:
        if schema is not None:
            database.execute("CREATE TABLE alembic_version (version_num TEXT)")
            database.execute("INSERT INTO alembic_version VALUES (?)", [schema])
        database.execute("CREATE TABLE other (x TEXT)")
        database.commit()
    assert one(check.check_store(url)).state == state


def test_a_journal_that_another_process_writes(config_path: Path) -> None:
    config = load(config_path, {})
    assert list(check.check_journal(config)) == []
    config.journal_dir.mkdir(parents=True)
    with open(config.journal_dir / LOCK_NAME, "w") as lock:
        assert list(check.check_journal(config)) == []
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert one(check.check_journal(config)).state == "fail"


AGENTS = """
import os, sys, time
from offhook.agents import Agent, SettingsError

class Good(Agent):
    def __init__(self, call, settings):
        super().__init__(call, settings)
        print("agents may print")

class Unset(Agent):
    def __init__(self, call, settings):
        raise SettingsError("greeting: is missing; add it")

class Broken(Agent):
    @classmethod
    def warm(cls, settings):
        {}["model"]

class Gone(Agent):
    @classmethod
    def warm(cls, settings):
        os._exit(7)

class Stuck(Agent):
    @classmethod
    def warm(cls, settings):
        time.sleep(60)
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Good", ""),
        ("Unset", "greeting: is missing; add it"),
        ("Broken", "KeyError: 'model'"),
        ("Gone", "its process ended with 7"),
        ("Stuck", "not ready after 2 s"),
        ("Absent", "cannot be imported"),
    ],
)
def test_agents_are_tried_in_a_process_of_their_own(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "shop_agents.py").write_text(AGENTS)
    budget = 2.0 if name == "Stuck" else 30.0
    error = check.try_agent(f"shop_agents:{name}", {}, tmp_path, budget=budget)
    assert (words in error) if words else (error == "")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, ""),
        ({"prompt": None}, "prompt: "),
        ({"llm": {"service": "openai"}}, "api_key"),
        ({"stt": {"service": "nobody"}}, "stt: no service 'nobody' is installed"),
        ({"sound": {"ambience": "missing.wav"}}, "missing.wav"),
    ],
)
def test_an_assistant_is_tried_with_its_services(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    sound = {
        "prompt": "You answer.",
        "stt": {"service": "deepgram", "api_key": "k"},
        "llm": {"service": "openai", "api_key": "k"},
        "tts": {"service": "flite"},
    }
    error = check.try_agent("assistant", sound | settings, tmp_path)
    assert (words in error) if words else (error == "")


@pytest.mark.parametrize("name", ["assistant", "phone-menu"])
def test_the_agents_that_the_example_comments_out_work(name: str, tmp_path: Path) -> None:
    example = (Path(__file__).parents[2] / "config.example.yaml").read_text()
    section = example.partition("\nagents:\n")[2].partition("\n# Which agent")[0]
    shown = re.sub(r"\$\{[A-Z_]+\}", "k", re.sub(r"^  # ", "  ", section, flags=re.MULTILINE))
    settings = yaml.safe_load(shown)[name]
    assert check.try_agent(settings.pop("kind"), settings, tmp_path) == ""


def test_what_an_agent_warns_of_is_told(config_path: Path) -> None:
    steps = {"main": {"say": "Hi.", "hangup": True}, "island": {"hangup": True}}
    tree = yaml.safe_load(config_path.read_text()) | {
        "agents": {"ivr": {"kind": "flow", "start": "main", "steps": steps}}
    }
    config_path.write_text(yaml.safe_dump(tree | {"routes": [{"number": "*", "agent": "ivr"}]}))
    ready, warning = check.check_agents(load(config_path, {}))
    assert (ready.state, warning.state) == ("ok", "warn")
    assert warning.text == "ivr (flow): steps.island: no step leads there"
    assert warning.remedy == "correct agents.ivr"
