"""The demo's screen, and a demo that cannot be carried out."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from offhook.gateway import demo
from offhook.gateway.demo_judge import Check, TurnRow
from offhook.gateway.demo_screen import Screen
from offhook.gateway.latency import STAGE_HEADS

STAGES = dict(zip(STAGE_HEADS, (630.0, 50.0, 240.0, 120.0, 112.0, 3.0, 1640.0), strict=True))


def screen(**options: object) -> tuple[Screen, io.StringIO]:
    output = io.StringIO()
    return Screen(console=Console(file=output, width=80, **options)), output  # type: ignore[arg-type]


def show_everything(shown: Screen) -> None:
    shown.title("title")
    shown.step("step")
    with shown.waiting("starting"):
        pass
    with shown.live():
        shown.agent_meter.feed(b"\x00\x20" * 800)
        shown.status(61.25, True, False)
    shown.line(0.2, "agent", "Thank you for calling. " * 5, "(cut after 1.3 s)", 0.3)
    shown.line(61.25, "caller", "I would like to make an appointment, please.")
    shown.line(62.0, "heard", "appointment")
    shown.line(63.0, "", "the agent hung up")
    rows = [TurnRow("I would like to make an appointment, please.", 898.2, 1795.0, STAGES)]
    shown.turns([*rows, TurnRow("Yes.", 700.0, None, {})])
    shown.checks([Check("greeting", True, "first word"), Check("heard", False, "no " * 60)])
    shown.paths([("recording", Path("/x" * 60))])


def test_everything_fits_80_columns_without_a_terminal() -> None:
    shown, output = screen()
    show_everything(shown)
    lines = output.getvalue().splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines if "/x/x" not in line)
    text = output.getvalue()
    assert "\x1b" not in text
    assert "1:01.2 caller I would like" in text
    assert "understood: appointment" in text
    [row] = [line.split() for line in lines if "898" in line]
    assert row[-9:] == ["898", "1795", "630", "50", "240", "120", "112", "3", "1640"]
    assert "/x" * 60 in text  # paths are never broken, so that they can be copied


def test_a_terminal_gets_colour_and_a_status_line() -> None:
    shown, output = screen(force_terminal=True, color_system="standard")
    show_everything(shown)
    assert "\x1b[32m" in output.getvalue()
    assert "● " in output.getvalue()
    assert "█" in output.getvalue()


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show_everything(Screen(quiet=True))
    assert capsys.readouterr().out == ""


@pytest.mark.timing
def test_a_gateway_that_does_not_start_is_quoted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "SERVE", "print('the port is taken'); raise SystemExit(3)")
    assert demo.run_demo(json_output=True, directory=tmp_path / "demo") == 3
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is False
    assert "exited with code 3: the port is taken" in said["error"]
    assert said["checks"] == []


def test_a_directory_with_something_in_it_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious").write_text("x")
    assert demo.run_demo(directory=tmp_path) == 3
    assert "is not empty" in " ".join(capsys.readouterr().out.split())
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.skipif(shutil.which("flite") is None, reason="the demo's caller speaks with flite")
def test_the_demo_is_heard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = demo.run_demo(json_output=True, directory=tmp_path / "demo")
    said = json.loads(capsys.readouterr().out)
    assert [check for check in said["checks"] if not check["ok"]] == []
    assert (code, said["ok"], len(said["turns"])) == (0, True, 3)
    for turn in said["turns"]:
        assert turn["record_ms"] == pytest.approx(sum(turn["stages"].values()), abs=0.5)
        assert turn["record_ms"] == pytest.approx(turn["wire_ms"], abs=20)
    assert Path(said["recording"]).is_file()
    assert said["wire"]["ended_by"] == "bot"
