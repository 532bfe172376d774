"""A recorded call of a gateway as a scenario: what its caller did, replayed."""

from __future__ import annotations

import asyncio
import sys
import wave
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fakes.line import voice
from fakes.served import PUBLIC, free_port, gateway

from offhook.codecs.wav import StereoWavWriter
from offhook.gateway.from_call import scenario_from
from offhook.gateway.journal import Entry
from offhook.gateway.records import CallRecord
from offhook.qa.activity import Samples
from offhook.qa.running.run import Run, RunOptions
from offhook.qa.scenario.from_recording import RecordingError
from offhook.qa.scenario.load import load

# Started by the first process of a pool and never ended, by design of the standard library: no test's leak.
resource_tracker.ensure_running()

TOKEN = "tok-0123456789"
OFFHOOK = [sys.executable, "-c", "from offhook.gateway.cli import main; main()"]


def laid(seconds: float, *pieces: tuple[float, Samples]) -> Samples:
    track = np.zeros(round(seconds * 8000), np.int16)
    for at, piece in pieces:
        track[round(at * 8000) :][: len(piece)] = piece
    return track


def entry(event: str, mono: float, **data: Any) -> Entry:
    return Entry("C1", 0, event, 0.0, mono, data)


def record(path: str, **more: Any) -> CallRecord:
    found = CallRecord("C1")
    found.recording_path = path
    for name, value in more.items():
        setattr(found, name, value)
    return found


FIRST = """
name: first
timeout: 30s
steps:
  - wait: agent_done
  - say: {wav: hi.wav}
    expect: {agent_speaks: true, within: 2s}
  - wait: agent_done
  - dtmf: "12"
  - wait: 700ms
  - hang_up: true
"""

OFFERED, ANSWERED = 100.0, 101.5

EVENTS = [
    entry("call.offered", OFFERED),
    entry("call.answered", ANSWERED),
    entry("transcript", ANSWERED + 2.6, role="caller", text="an appointment", utterance=None),
    entry("dtmf", ANSWERED + 6.0, digit="1"),
    entry("dtmf", ANSWERED + 6.3, digit="2"),
]


def recorded(folder: Path) -> str:
    writer = StereoWavWriter(folder / "C1.wav", 8000)
    caller = laid(8.0, (2.0, voice(1.0, 1)))
    agent = laid(8.0, (0.3, voice(1.0, 2)), (3.7, voice(1.5, 3)))
    writer.append(caller.tobytes(), agent.tobytes())
    writer.close()
    return str(folder / "C1.wav")


def test_what_was_said_and_pressed_is_done_again_in_order(tmp_path: Path) -> None:
    path = scenario_from(
        record(recorded(tmp_path), ended_by="agent"), EVENTS, tmp_path / "out", "again", to="sip:bot@x"
    )
    steps = yaml.safe_load(path.read_text())["steps"]
    verbs = [next(iter(step)) for step in steps]
    assert verbs == ["wait", "say", "wait", "wait", "dtmf", "expect"]  # to the end of its turn, and as long as then
    assert steps[0]["wait"]["for"] == "agent_done"
    assert steps[1]["expect"] == {"agent_speaks": True, "within": "3000ms"}
    assert steps[4]["dtmf"] == {"digits": "12", "gap": "200ms"}
    assert steps[5]["expect"]["hangup"] == "by_agent"
    assert "# caller: an appointment" in path.read_text()
    assert "# caller: 1" not in path.read_text()
    with wave.open(str(path.parent / "again-01.wav")) as file:
        assert file.getnframes() / file.getframerate() == pytest.approx(1.0, abs=0.05)
    assert load(path).scenario.target.to == "sip:bot@x"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", r"call C1 was not recorded; set `record: true` on its route"),
        ("gone.wav", "cannot be read: No such file or directory"),
        ("text.wav", "not a WAV file"),
        ("mono.wav", "no stereo recording"),
    ],
)
def test_what_is_no_recording_is_told(tmp_path: Path, path: str, says: str) -> None:
    (tmp_path / "text.wav").write_text("some words")
    with wave.open(str(tmp_path / "mono.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1600))
    with pytest.raises(RecordingError, match=says):
        scenario_from(record(str(tmp_path / path) if path else ""), EVENTS, tmp_path, "again")


def test_a_call_that_was_never_answered_has_nothing_to_replay(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="call C1 was never answered"):
        scenario_from(record(recorded(tmp_path)), EVENTS[:1], tmp_path, "again")


BRIEF = """
import asyncio
import numpy as np
from offhook.agents.api import Agent
from offhook.codecs.audio import L16_8K
from offhook.codecs.pcm import tone

class Brief(Agent):
    format = L16_8K
    quiet = 99

    async def on_answer(self):
        self.call.speak(tone(440, 0.8, 8000))
        await asyncio.Event().wait()

    def on_audio(self, audio):
        self.quiet = 0 if np.abs(np.frombuffer(audio, np.int16)).max() > 1000 else self.quiet + 1
        if self.quiet == 30:
            self.call.speak(tone(440, 1.0, 8000))
"""


@pytest.mark.slow
async def test_a_call_of_a_real_gateway_is_replayed_to_it(tmp_path: Path) -> None:
    (tmp_path / "brief.py").write_text(BRIEF)
    port = free_port()
    config = {
        "public_url": PUBLIC,
        "listen": {"port": port},
        "data_dir": str(tmp_path / "var"),
        "carriers": {"twilio": {"account_sid": "AC" + "1" * 32, "auth_token": TOKEN}},
        "agents": {"agent": {"kind": "brief:Brief", "path": str(tmp_path)}},
        "routes": [{"number": "*", "agent": "agent", "record": True}],
        "log": {"level": "error"},
    }
    with wave.open(str(tmp_path / "hi.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(voice(0.7, 1).tobytes())
    (tmp_path / "first.yaml").write_text(FIRST)
    options = RunOptions(
        target=f"twilio+http://127.0.0.1:{port}/twilio/voice", public_url=PUBLIC, credentials={"auth_token": TOKEN}
    )
    async with gateway(tmp_path, config):
        one = await Run([load(tmp_path / "first.yaml")], options).run()
        assert one.verdict == "pass", one.scenarios
        again = load(await asyncio.wait_for(_from_call(tmp_path), 30))
        verbs = [step.verb for step in again.scenario.steps]
        assert verbs[:2] == ["wait", "say"]
        assert verbs[-1] == "hang_up"
        assert [step.dtmf.digits for step in again.scenario.steps if step.dtmf] == ["12"]
        two = await Run([again], options).run()
    assert two.verdict == "pass", two.scenarios
    before, after = one.scenarios[0].calls[0], two.scenarios[0].calls[0]
    for metric in ("dtmf_in", "caller_turns", "response_rate_pct"):
        assert after.metrics[metric] == before.metrics[metric], metric
    assert before.metrics["dtmf_in"] == 2
    assert after.metrics["caller_speaking_s"] == pytest.approx(before.metrics["caller_speaking_s"], abs=0.05)
    assert after.seconds == pytest.approx(before.seconds, abs=1.0)


async def _from_call(folder: Path) -> Path:
    """`offhook qa from-call last`, until the record of the call is written."""
    words = [
        "qa",
        "from-call",
        "last",
        "-c",
        str(folder / "config.yaml"),
        "-o",
        str(folder / "again"),
        "--name",
        "again",
    ]
    while True:
        process = await asyncio.create_subprocess_exec(*OFFHOOK, *words, stdout=-1, stderr=-1)
        out, err = await process.communicate()
        if process.returncode == 0:
            assert "offhook qa run" in out.decode()
            return folder / "again" / "again.yaml"
        assert process.returncode == 1, err
        assert b"no call" in err or b"not recorded" in err or b"cannot be read" in err, err
        await asyncio.sleep(0.3)
