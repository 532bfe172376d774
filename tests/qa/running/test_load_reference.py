"""A load against the reference, whose delays are known, over real sockets and in a process of its own."""

from __future__ import annotations

from multiprocessing import resource_tracker
from pathlib import Path

import numpy as np
import pytest

from offhook.codecs.wav import wav_file
from offhook.qa.reference.process import reference
from offhook.qa.running.load import run_load
from offhook.qa.running.load_model import load_plan
from offhook.qa.running.result import Verdict

SCENARIO = """\
name: hello
timeout: 30s
steps:
  - expect: {agent_speaks: true, within: 2s}
  - wait: agent_done
  - say: {wav: hi.wav}
    expect: {agent_speaks: true, within: 2s}
  - hang_up: true
"""

PLAN = """\
mix: [{scenario: hello.yaml}]
arrivals: {start: 5/s, over: 3s, spread: even}
window: 4s
"""


@pytest.fixture(scope="module")
def _tracker() -> None:
    """Python's own helper of processes, which it starts once and keeps."""
    resource_tracker.ensure_running()


@pytest.mark.timing
@pytest.mark.usefixtures("_tracker")
async def test_the_references_delays_are_found_under_load(tmp_path: Path) -> None:
    (tmp_path / "hello.yaml").write_text(SCENARIO)
    (tmp_path / "load.yaml").write_text(PLAN)
    hi = np.random.default_rng(1).normal(0, 3000, 4000).astype("<i2")
    (tmp_path / "hi.wav").write_bytes(wav_file(hi.tobytes(), 8000))
    async with reference() as known:
        report = await run_load(load_plan(tmp_path / "load.yaml"), known.sip_target, processes=1, target_pid=known.pid)
    assert (report.verdict, report.calls, report.ended, report.failed) == (Verdict.PASS, 15, 15, 0)
    assert report.figures["v2v_ms"]["p50"] == pytest.approx(700, abs=20)
    assert report.figures["greeting_ms"]["p50"] == pytest.approx(300, abs=20)
    assert report.knee is not None
    assert report.knee.per_core is not None
