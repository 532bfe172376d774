"""Recorded calls become scenarios that load, and say what the caller did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from offhook.codecs.audio import L16_8K
from offhook.codecs.dtmf import tones
from offhook.codecs.wav import parse_wav
from offhook.qa.activity import RATE, Samples
from offhook.qa.scenario.from_recording import MAX_SAID, MAX_SECONDS, Recorded, RecordingError, write_scenario
from offhook.qa.scenario.load import load

SECONDS = 30.0


def track(*stretches: tuple[float, float], level: float = 3000.0) -> Samples:
    """A track that is voiced from here to there, in seconds."""
    voice = np.random.default_rng(1).normal(0, level, round(SECONDS * RATE))
    shape = np.zeros(len(voice))
    for start, end in stretches:
        shape[round(start * RATE) : round(end * RATE)] = 1
    return np.asarray(voice * shape, np.int16)


def steps(folder: Path, recorded: Recorded) -> list[dict[str, Any]]:
    """What was written, having been loaded as a scenario."""
    path = write_scenario(folder, "again", recorded, to="sip:bot@127.0.0.1")
    assert load(path).scenario.name == "again"
    found: list[dict[str, Any]] = yaml.safe_load(path.read_text())["steps"]
    return found


def test_said_after_the_agents_turn(tmp_path: Path) -> None:
    recorded = Recorded(track((3.5, 5.0)), track((0.5, 3.0), (6.0, 8.0)))
    waits, says, hears, ends = steps(tmp_path, recorded)
    assert waits == {"wait": {"for": "agent_done", "silence": "500ms", "timeout": "30000ms"}}
    assert says["say"]["wav"] == "again-01.wav"
    assert says["expect"] == {"agent_speaks": True, "within": "3000ms"}
    assert hears == {"wait": {"for": "agent_done", "timeout": "30000ms"}}
    assert ends == {"hang_up": True}


def test_the_wav_is_what_was_said_at_its_level(tmp_path: Path) -> None:
    loud, quiet = track((3.5, 5.0), level=3000), track((3.5, 5.0), level=300)
    gains = []
    for caller in (loud, quiet):
        does = steps(tmp_path, Recorded(caller, track((0.5, 3.0))))
        gains.append(float(does[1]["say"]["gain"].removesuffix("dBov")))
        encoding, rate, channels, data = parse_wav((tmp_path / "again-01.wav").read_bytes(), name="again-01")
        assert (encoding, rate, channels) == ("l16", RATE, 1)
        assert len(data) / 2 / RATE == pytest.approx(1.52, abs=0.001)
        assert data == caller[round(3.49 * RATE) : round(5.01 * RATE)].tobytes()
    assert gains[0] == pytest.approx(20 * np.log10(3000 / 32768), abs=0.5)
    assert gains[0] - gains[1] == pytest.approx(20, abs=0.2)


def test_a_long_silence_is_kept(tmp_path: Path) -> None:
    found = steps(tmp_path, Recorded(track((8.0, 9.0)), track((0.5, 3.0))))
    assert found[:2] == [
        {"wait": {"for": "agent_done", "silence": "700ms", "timeout": "30000ms"}},
        {"wait": "4300ms"},
    ]


def test_spoken_before_the_agent(tmp_path: Path) -> None:
    found = steps(tmp_path, Recorded(track((1.2, 2.0), (3.2, 4.0)), track()))
    assert [next(iter(step)) for step in found] == ["wait", "say", "wait", "say", "hang_up"]
    assert found[0] == {"wait": "1200ms"}
    assert found[2] == {"wait": "1200ms"}
    assert "expect" not in found[1], "nothing was answered"


@pytest.mark.parametrize(
    ("caller", "agent", "verb", "expect"),
    [
        ((4.0, 6.0), (1.0, 4.4), "barge_in", None),
        ((4.0, 4.6), (1.0, 12.0), "backchannel", {"agent_keeps_talking": "1s"}),
        ((4.0, 8.0), (1.0, 12.0), "barge_in", None),
    ],
)
def test_said_into_the_agents_turn(
    tmp_path: Path,
    caller: tuple[float, float],
    agent: tuple[float, float],
    verb: str,
    expect: dict[str, str] | None,
) -> None:
    found = steps(tmp_path, Recorded(track(caller), track(agent)))
    assert found[0][verb]["after"] == "3000ms"
    assert found[0].get("expect") == expect


def test_both_at_once_is_no_interruption(tmp_path: Path) -> None:
    found = steps(tmp_path, Recorded(track((5.0, 6.0)), track((1.0, 4.0), (4.95, 7.0))))
    assert [next(iter(step)) for step in found[:3]] == ["wait", "wait", "say"]


def test_keys_are_pressed_in_groups(tmp_path: Path) -> None:
    keys = [(5.0, "0"), (5.3, "4"), (5.6, "1"), (12.0, "#"), (20.0, ""), (21.0, "flash")]
    found = steps(tmp_path, Recorded(track(), track((1.0, 4.0)), keys=keys))
    assert [step for step in found if "dtmf" in step] == [
        {"dtmf": {"digits": "041", "gap": "200ms"}},
        {"dtmf": {"digits": "#", "gap": "100ms"}},
    ]
    scenario = load(tmp_path / "again.yaml").scenario
    assert [step.dtmf.digits for step in scenario.steps if step.dtmf] == ["041", "#"]


def test_keys_that_sound_are_not_said_as_well(tmp_path: Path) -> None:
    caller = track().copy()
    for at, key in ((5.0, "0"), (5.3, "4")):
        tone = np.frombuffer(tones(key, 0.1, L16_8K), "<i2")
        caller[round(at * RATE) : round(at * RATE) + len(tone)] = tone
    found = steps(tmp_path, Recorded(caller, track((1.0, 4.0)), keys=[(5.0, "0"), (5.3, "4")]))
    assert [next(iter(step)) for step in found] == ["wait", "wait", "dtmf", "hang_up"]


def test_keys_pressed_into_the_agents_turn(tmp_path: Path) -> None:
    found = steps(tmp_path, Recorded(track(), track((1.0, 9.0)), keys=[(3.0, "1")]))
    assert found[0] == {"wait": {"agent_speaking_for": "2000ms", "timeout": "30000ms"}}
    assert found[1]["dtmf"]["digits"] == "1"


def test_the_agent_hung_up(tmp_path: Path) -> None:
    found = steps(tmp_path, Recorded(track((5.0, 6.0)), track((1.0, 4.0)), ended_by="agent"))
    assert found[-1] == {"expect": {"hangup": "by_agent", "within": "30000ms"}}


def test_texts_become_comments(tmp_path: Path) -> None:
    texts = [
        (1.0, "agent", "Hello,\nhow can\x00 I help?"),
        (5.0, "caller", "# A table: for two"),
        (7.0, "agent", "Bye."),
    ]
    recorded = Recorded(track((5.0, 6.0)), track((1.0, 4.0), (7.0, 8.0)), texts=texts)  # type: ignore[arg-type]  # literals
    steps(tmp_path, recorded)
    text = (tmp_path / "again.yaml").read_text()
    assert "  # agent: Hello, how can I help?\n  # caller: # A table: for two\n  - say:" in text
    assert "  # agent: Bye.\n" in text


def test_recordings_that_are_of_no_use(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="neither speaks nor presses a key"):
        write_scenario(tmp_path, "again", Recorded(track(), track((1.0, 4.0))))
    long = np.zeros(round(MAX_SECONDS * RATE) + 1, np.int16)
    with pytest.raises(RecordingError, match="longer than 3600 s"):
        write_scenario(tmp_path, "again", Recorded(long, long))
    many = [(at * 4.0, "1") for at in range(MAX_SAID + 1)]
    with pytest.raises(RecordingError, match="does 501 things"):
        write_scenario(tmp_path, "again", Recorded(track(), track(), keys=many))
    assert not list(tmp_path.iterdir())
