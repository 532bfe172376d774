"""The command line: what it prints, for people and for programs, and the codes it exits with."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
import typer
from click.testing import Result
from typer.testing import CliRunner

import offhook.gateway.check
import offhook.gateway.demo
import offhook.gateway.server
from offhook.gateway import cli
from offhook.gateway.cli import app
from offhook.gateway.journal import Journal
from offhook.gateway.latency import STAGES
from offhook.gateway.store import Shipper, Store

CONFIG = """\
public_url: https://voice.example.com
carriers: {twilio: {account_sid: "${SID}", auth_token: "${TOKEN}"}}
agents: {echo: {kind: echo}}
routes: [{number: "*", agent: echo}]
"""
ENV = {"SID": "AC1", "TOKEN": "secret-token"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with a configuration, in which commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TZ", "UTC")
    for name in (*ENV, "FORCE_COLOR", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config.yaml").write_text(CONFIG)
    yield tmp_path
    from offhook.gateway.logs import close_logs

    close_logs()
    structlog.reset_defaults()


def run(*arguments: str, **env: str) -> Result:
    return CliRunner().invoke(app, arguments, env=env)


async def _fill(home: Path) -> None:
    wall, mono = 1_790_000_000.0, 500.0
    journal = Journal(home / "var/journal", wall=lambda: wall, monotonic=lambda: mono)
    store = Store(f"sqlite+aiosqlite:///{home}/var/calls.db")
    await store.open()
    for n in range(3):
        call = f"{'abc'[n]}bcdef0123456789"

        def note(event: str, _call: str = call, **data: Any) -> None:
            journal.append(_call, event, data)

        party = "+15550142" if n else "client:\x1b[31mevil"
        note(
            "call.offered",
            carrier="twilio",
            carrier_call_id=f"CA{n}",
            direction="inbound",
            route="*",
            agent="echo",
            **{"from": party, "to": "+15550100"},
        )
        wall, mono = wall + 0.4, mono + 0.4
        note("call.answered", format="pcmu/8000")
        note("recording.started", path="/r/x.wav")
        wall, mono = wall + 3, mono + 3
        note("utterance", id=1, outcome="played", heard_ms=2000, length_ms=2000, text="Hello, what can I do for you?")
        note("transcript", role="caller", text="the [bold]workshop[/bold] please", utterance=0)
        note(
            "turn",
            utterance=2,
            caller_stopped=mono - 1.0,
            turn_ended=mono - 0.58,
            first_voiced=mono - 0.358,
            first_heard=mono - 0.27,
            voice_to_voice_ms=642.4,
            stages={"endpointing": 420.0, "understanding": 200.0, "synthesis": 21.0, "playout": 1.4},
            hearing_ms=88.0,
        )
        wall, mono = wall + 2, mono + 2
        note("barge_in", heard_ms=1200)
        note("utterance", id=2, outcome="cut", heard_ms=1200, length_ms=4400, text="We are open from eight to five.")
        note("utterance", id=3, outcome="dropped", heard_ms=0, length_ms=900, text="And on Saturday.")
        note("dtmf", digit="5")
        wall, mono = wall + 60, mono + 60
        if n < 2:
            reason = ("caller_hangup", "agent_crashed")[n]
            note("call.ended", status=("completed", "failed")[n], reason=reason, ended_by="caller", detail="")
            note("recording.stopped", reason="complete", seconds=65.0, bytes=2_080_044, sha256="ab", path="/r/x.wav")
        wall, mono = wall + 3600, mono + 3600
    await Shipper(journal, store, node="box").close()
    shipper = Shipper(journal, store, node="box")
    shipper.start()
    await shipper.close()
    journal.close()
    await store.close()


@pytest.fixture
def calls(home: Path) -> None:
    """Three calls: one completed, one failed, one live."""
    asyncio.run(_fill(home))


# --- general ----------------------------------------------------------------------------


def test_version_and_help() -> None:
    assert re.fullmatch(r"offhook \d+\.\d+\.\d+\n", run("--version").stdout)
    result = run("--help")
    assert result.exit_code == 0
    for command in ("serve", "demo", "check", "config", "calls"):
        assert f" {command} " in result.stdout
    assert "Exit codes: 0 all is well; 1 there is a problem; 2 bad usage" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    "arguments",
    [["--nonsense"], ["nonsense"], ["serve", "--port", "70000"], ["calls", "list", "--status", "x"], ["calls", "show"]],
)
def test_bad_usage_is_code_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_help_is_quick_since_it_imports_next_to_nothing() -> None:
    program = (
        "import sys; from offhook.gateway.cli import app; from typer.testing import CliRunner;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0;"
        "print([name for name in ('sqlalchemy', 'pydantic', 'uvicorn', 'numpy', 'twilio', 'structlog', 'alembic')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"[]\n", done.stdout


# --- config -----------------------------------------------------------------------------


def test_a_valid_configuration_is_said_to_be_valid() -> None:
    result = run("config", "validate", **ENV)
    assert (result.exit_code, result.stdout) == (0, "config.yaml is valid: 1 carrier, 1 agent, 1 route\n")
    result = run("config", "validate", "--json", **ENV)
    assert json.loads(result.stdout) == {"ok": True, "problems": [], "carriers": 1, "agents": 1, "routes": 1}


def test_every_problem_is_printed_with_its_place() -> None:
    result = run("config", "validate")
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0].startswith("config.yaml:2:34: carriers.twilio.account_sid: environment variable SID is not set;")
    assert lines[-1] == "2 problems in the configuration"


def test_problems_for_programs(home: Path) -> None:
    (home / "config.yaml").write_text(CONFIG.replace("agents:", "agnets:"))
    result = run("config", "validate", "--json", **ENV)
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert not found["ok"]
    assert {"file": "config.yaml", "line": 3, "column": 1, "path": "agnets"}.items() <= found["problems"][1].items()
    assert found["problems"][1]["message"] == "unknown key; did you mean 'agents'?"


def test_dotenv_is_read(home: Path) -> None:
    (home / ".env").write_text("SID=AC1\nTOKEN=t\n")
    assert run("config", "validate").exit_code == 0


def test_the_schema_is_json() -> None:
    result = run("config", "schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["required"] == ["agents", "routes"]


# --- serve, check, demo -----------------------------------------------------------------


def test_serve_names_the_webhooks_and_hands_over_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Any] = []
    monkeypatch.setattr(offhook.gateway.server, "run", lambda config: served.append(config) or 0)
    result = run("serve", "--port", "9000", "--host", "0.0.0.0", **ENV)
    assert result.exit_code == 0
    assert "https://voice.example.com/twilio/voice" in result.stderr
    assert "https://voice.example.com/twilio/status" in result.stderr
    assert "/twilio/after" not in result.stderr
    (config,) = served
    assert (config.listen.port, config.listen.host) == (9000, "0.0.0.0")
    assert config.directory == Path.cwd()
    assert "secret-token" in config.secrets


def test_serve_with_a_bad_configuration_is_code_2() -> None:
    result = run("serve")
    assert result.exit_code == 2
    assert "environment variable TOKEN is not set" in result.stderr


def test_serve_on_a_taken_port_is_code_3(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-c", "from offhook.gateway.cli import main; main()", "serve", "--port", str(port)],
            env={**os.environ, **ENV},
            capture_output=True,
            cwd=home,
            check=False,
        )
    assert done.returncode == 3
    assert f"cannot bind 127.0.0.1:{port}" in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_check_and_demo_are_handed_their_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def check(path: Path, **options: Any) -> int:
        seen.append((path, options))
        return 1

    def demo(**options: Any) -> int:
        seen.append(options)
        return 0

    monkeypatch.setattr(offhook.gateway.check, "run_check", check)
    monkeypatch.setattr(offhook.gateway.demo, "run_demo", demo)
    assert run("check", "-c", "other.yaml", "--online", "--json").exit_code == 1
    assert run("demo", "--directory", "d", "--json").exit_code == 0
    assert seen == [
        (Path("other.yaml"), {"json_output": True, "online": True}),
        {"json_output": True, "directory": Path("d")},
    ]


# --- calls ------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 120, 160])
def test_a_list_fits_the_terminal(calls: None, columns: int) -> None:
    result = run("calls", "list", COLUMNS=str(columns))
    assert result.exit_code == 0
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert len(lines) == 4
    assert max(map(len, lines)) <= columns
    assert lines[0].split()[:3] == ["started", "from", "to"]
    assert [line.split()[-1] for line in lines[1:]] == ["cbcdef01", "bbcdef01", "abcdef01"]
    assert all(word in lines[2] for word in ("+15550142", "+15550100", "1:05", "agent_crashed"))
    assert ("echo" in lines[1]) == (columns > 80)
    assert "\x1b" not in result.stdout


def test_lists_are_filtered(calls: None) -> None:
    def ids(*options: str) -> list[str]:
        result = run("calls", "list", "--json", *options)
        assert result.exit_code == 0
        return [record["id"][0] for record in json.loads(result.stdout)]

    assert ids() == ["c", "b", "a"]
    assert ids("--limit", "1") == ["c"]
    assert ids("--status", "failed") == ["b"]
    assert ids("--number", "+1 555 0142") == ["c", "b"]
    assert ids("--since", "2026-09-21T15:00+00:00") == ["c", "b"]
    assert ids("--since", "1s") == []


def test_records_are_read_without_the_carriers_secrets_and_before_there_are_any() -> None:
    result = run("calls", "list")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "No calls yet.\n")
    assert json.loads(run("calls", "list", "--json").stdout) == []
    assert not Path("var").exists()


def test_a_filter_that_fits_nothing_says_so(calls: None) -> None:
    assert run("calls", "list", "--number", "999").stderr == "No such calls.\n"


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_one_call_is_shown_whole(calls: None, columns: int) -> None:
    result = run("calls", "show", "abc", COLUMNS=str(columns))
    assert result.exit_code == 0
    text = result.stdout
    assert max(len(line.rstrip()) for line in text.splitlines()) <= columns
    for wanted in (
        "abcdef0123456789",
        r"client:\x1b[31mevil → +15550100",
        "rang 0.4 s · talked 65.0 s · pcmu/8000",
        "completed · caller_hangup · by caller",
        "p50 642 ms, p95 642 ms · 1 turn",
        "complete · 65.0 s · 2.1 MB · /r/x.wav",
        "0:01.4  agent   Hello, what can I do for you?",
        "0:03.4  caller  the [bold]workshop[/bold] please",
        "We are open from eight to five.  (cut after 1.2 of 4.4 s)",
        "And on Saturday.  (not heard)",
        "caller  5  (key)",
        " 0:00.000  call.offered       carrier=twilio",
        " 1:05.400  call.ended         status=completed",
    ):
        assert wanted in text, wanted
    head, row = [line.split() for line in text.partition("Turns, in ms\n")[2].splitlines()[:2]]
    if columns == 80:
        assert head == ["at", "turn", "words", "token", "reply", "voice", "play", "total", "hear"]
    else:
        assert head == ["at", *STAGES, "total", "hearing"]
    assert row == ["0:03.0", "420", "200", "21", "1", "642", "88"]
    assert "\x1b" not in text


def test_one_call_for_programs(calls: None) -> None:
    found = json.loads(run("calls", "show", "last", "--json").stdout)
    assert found["call"]["id"] == "cbcdef0123456789"
    assert found["call"]["offered_at"] == "2026-09-21T16:15:30.800000+00:00"
    assert [line["role"] for line in found["conversation"]] == ["agent", "caller", "agent", "agent", "caller"]
    assert found["turns"] == [
        {
            "at": 3.042,
            "utterance": 2,
            "total_ms": 642.4,
            "stages": {"endpointing": 420.0, "understanding": 200.0, "synthesis": 21.0, "playout": 1.4},
            "hearing_ms": 88.0,
            "heard_ms": 730.4,
            "marks": {"caller_stopped": 2.4, "turn_ended": 2.82, "first_voiced": 3.042, "first_heard": 3.13},
        }
    ]
    assert [event["event"] for event in found["events"]][:3] == ["call.offered", "call.answered", "recording.started"]
    assert found["events"][0]["data"]["carrier_call_id"] == "CA2"


def test_a_call_is_found_by_the_carriers_id(calls: None) -> None:
    assert json.loads(run("calls", "show", "CA1", "--json").stdout)["call"]["id"] == "bbcdef0123456789"


def test_a_call_that_is_not_there_is_code_1(calls: None) -> None:
    result = run("calls", "show", "zzz")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "offhook: no call 'zzz'; `offhook calls list` shows those there are\n"


def test_a_database_that_is_away_is_code_3(home: Path) -> None:
    pytest.importorskip("asyncpg")
    (home / "config.yaml").write_text(CONFIG + f"store: {{url: 'postgresql://u:hunter2@/none?host={home}'}}\n")
    for command in (["calls", "list"], ["calls", "show", "last"]):
        result = run(*command)
        assert result.exit_code == 3
        assert "the record store cannot be read" in result.stderr
        assert "hunter2" not in result.stderr


# --- --since ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ago"),
    [("90s", timedelta(seconds=90)), ("30m", timedelta(minutes=30)), ("2 h", timedelta(hours=2)), ("1W", timedelta(7))],
)
def test_spans_count_back_from_now(text: str, ago: timedelta) -> None:
    found = cli._since(text)
    assert found is not None
    assert abs(datetime.now().astimezone() - ago - found) < timedelta(seconds=5)


def test_days_begin_at_midnight_and_moments_without_a_zone_are_local() -> None:
    today, yesterday = cli._since("today"), cli._since("Yesterday")
    assert today is not None
    assert yesterday is not None
    assert (today.hour, today.minute, today - yesterday) == (0, 0, timedelta(days=1))
    assert cli._since("2026-01-31") == datetime(2026, 1, 31).astimezone()
    assert cli._since("2026-01-31T09:00+02:00") == datetime.fromisoformat("2026-01-31T09:00+02:00")
    assert cli._since("") is None


@pytest.mark.parametrize("text", ["tomorrow", "5", "-3h", "2026-13-01", "999999999d"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="write 2h, 7d, today"):
        cli._since(text)
