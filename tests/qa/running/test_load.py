"""Loads against a target whose limits are known, in virtual time; and through processes of their own."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from fakes.line import FakeLine

from offhook.codecs.wav import wav_file
from offhook.qa.activity import LiveActivity
from offhook.qa.phones.base import CallLog, CallOrder, Operator, Phone, Unable, Unreachable
from offhook.qa.running.load import LoadReport, Progress, run_load
from offhook.qa.running.load_model import LoadedPlan, load_plan
from offhook.qa.running.result import Verdict
from offhook.qa.scenario.model import Target

TO = "sip:bot@192.0.2.1"

SCENARIO = """\
name: hello
timeout: 20s
caller: {end_silence: 300ms, patience: 6s}
steps:
  - expect: {agent_speaks: true, within: 2s}
  - wait: agent_done
  - say: {wav: hi.wav}
    expect: {agent_speaks: true, within: 2s}
  - hang_up: true
"""

GREETING_S = 0.4
SPOKEN_S = 0.3


class _Activity(LiveActivity):
    """What is heard of an agent whose words are known."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.spans: deque[tuple[float, float]] = deque()

    def look(self, now: float) -> None:
        self.now = now
        while self.spans and self.spans[0][0] <= now:
            start, end = self.spans[0]
            self.speaking_since = start
            self.last_voiced = min(now, end)
            if now < end + 0.2:
                return
            self.speaking_since = None
            self.spans.popleft()

    def silent_for(self) -> float:
        return self.now - (self.last_voiced or 0.0)


class _Line(FakeLine):
    """Counts frames and looks at none: there are too many."""

    def __init__(self) -> None:
        super().__init__(abilities=())
        self.activity: _Activity = _Activity()
        self.frames = 0

    @property
    def seconds(self) -> float:
        return self.frames * 0.02


@dataclass
class _Bot(Phone):
    """Answers after a time that grows with the calls that are up. In virtual time."""

    base: float = 0.5
    "Seconds to the first word of a reply."
    bears: int = 10_000
    "Calls; of each one more, a reply takes 0.2 s longer."
    silent_from: int = 10_000
    "Number of the call from which on nothing is said any more."
    unreachable: bool = False
    nowhere: bool = False
    "There is no way to it, which is found when the phone is opened."
    breaks: bool = False
    late: float = 0.001
    "Seconds that our own frames leave late."
    blocks: float = 0.0
    "Seconds for which each call blocks the loop."
    way = "sip"
    calls: int = 0
    up: int = 0
    most: int = 0
    orders: list[CallOrder] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        if self.nowhere:
            raise Unreachable("nobody is at 192.0.2.1; start the bot")
        return self

    async def carry(self, order: CallOrder, operator: Operator) -> CallLog:
        self.orders.append(order)
        if self.unreachable:
            raise Unreachable("nobody is at 192.0.2.1; start the bot")
        if self.breaks:
            raise ValueError("this phone is broken")
        self.calls += 1
        number = self.calls
        self.up += 1
        self.most = max(self.most, self.up)
        line = _Line()
        line.activity.spans.append((GREETING_S, GREETING_S + SPOKEN_S))
        said = False
        ended_by: Any = "caller"
        try:
            while not line.ended_by:
                await asyncio.sleep(0.2)
                if self.blocks:
                    asyncio.get_running_loop()._jumping.now += self.blocks  # type: ignore[attr-defined]
                for _ in range(10):
                    line.mouth.frame()
                    line.frames += 1
                    line.activity.look(line.seconds)
                    if said and not line.mouth.saying and number < self.silent_from:
                        begins = line.seconds + self.base + 0.2 * max(0, self.up - self.bears)
                        line.activity.spans.append((begins, begins + SPOKEN_S))
                    said = line.mouth.saying
                    operator.frame(line)
                if line.seconds >= order.timeout:
                    ended_by = "timeout"
                    break
        finally:
            self.up -= 1
            operator.ended()
        log = CallLog(order.call_id, "sip", order.target.to, 0.0, status=200, answered=True, setup_ms=12.0)
        log.seconds, log.ended_by, log.lateness = line.seconds, ended_by, [self.late] * line.frames
        return log


def _opens(bot: _Bot) -> Any:
    def open_way(target: Target, **credentials: str) -> Phone:
        assert target.to == TO
        assert credentials == {"username": "u"}
        return bot

    return open_way


def _plan(folder: Path, scenario: str = SCENARIO, **plan: Any) -> LoadedPlan:
    (folder / "hello.yaml").write_text(scenario)
    hi = np.random.default_rng(1).normal(0, 3000, 1600).astype("<i2")
    (folder / "hi.wav").write_bytes(wav_file(hi.tobytes(), 8000))
    text = {"mix": [{"scenario": "hello.yaml"}], "arrivals": {"start": "2/s", "over": "20s", "spread": "even"}}
    (folder / "load.yaml").write_text(json.dumps(text | plan))
    return load_plan(folder / "load.yaml")


async def _load(bot: _Bot, loaded: LoadedPlan, **options: Any) -> LoadReport:
    return await run_load(
        loaded, TO, processes=0, credentials={"username": "u"}, open_way=_opens(bot), run_id="test", **options
    )


@pytest.mark.virtual_time
async def test_a_target_that_bears_the_load_passes_with_its_own_times(tmp_path: Path) -> None:
    told: list[Progress] = []
    bot = _Bot()
    report = await _load(bot, _plan(tmp_path), on_progress=told.append)
    assert (report.verdict, report.reason) == (Verdict.PASS, "")
    assert (report.planned, report.calls, report.ended, report.failed) == (40, 40, 40, 0)
    assert report.figures["v2v_ms"]["n"] == 40
    assert report.figures["v2v_ms"]["p95"] == pytest.approx(520, abs=21)
    assert report.figures["greeting_ms"]["p50"] == pytest.approx(400, abs=1)
    assert report.figures["setup_ms"]["max"] == 12
    assert [(order.call_id, order.seed, order.keep_packets) for order in bot.orders[:2]] == [
        ("test-1", 2, False),
        ("test-2", 3, False),
    ]
    assert report.knee is not None
    assert not report.knee.reached
    assert sum(window.began for window in report.windows) == 40
    # two calls a second that last almost two seconds each; the first window begins with none
    assert 3 < report.windows[0].calls < 4
    assert told[-1].ended == 40
    assert (told[10].rate, told[10].planned, told[10].stopping) == (2, 40, "")
    json.dumps(report.as_dict())


@pytest.mark.virtual_time
async def test_the_same_plan_makes_the_same_calls(tmp_path: Path) -> None:
    plan = _plan(tmp_path, arrivals={"start": "2/s", "over": "15s"})
    first, second = [(await _load(_Bot(), plan)).as_dict() for _ in range(2)]
    for one in (first, second):
        del one["began"], one["processes"]
    assert first == second


@pytest.mark.virtual_time
async def test_the_knee_is_where_the_target_gets_slow(tmp_path: Path) -> None:
    plan = _plan(tmp_path, arrivals={"start": "1/s", "to": "10/s", "over": "20s", "spread": "even"}, window="2s")
    report = await _load(_Bot(bears=12), plan, target_cores=2)
    assert report.verdict == Verdict.PASS
    assert report.knee is not None
    assert report.knee.reached
    # with 17 calls a reply takes 0.5 + 5 · 0.2 s
    assert 12 <= report.knee.calls <= 17
    assert report.knee.per_core == report.knee.calls / 2
    assert report.knee.why[0].startswith("v2v_p95 ")


@pytest.mark.virtual_time
async def test_the_stop_rule_stops_a_load_and_hangs_up(tmp_path: Path) -> None:
    plan = _plan(
        tmp_path,
        arrivals={"start": "10/s", "over": "60s", "spread": "even"},
        window="2s",
        stop_when={"v2v_p95": ">1500ms", "for": "4s"},
    )
    bot = _Bot(base=2.0)
    report = await _load(bot, plan)
    assert report.verdict == Verdict.FAIL
    assert report.reason.startswith("v2v_p95 ")
    assert report.reason.endswith("was >1500ms for 4 s")
    assert report.calls < 150
    assert report.cut > 0
    assert report.failed == 0
    assert bot.up == 0


@pytest.mark.virtual_time
async def test_what_is_above_max_calls_is_left_out_and_counted(tmp_path: Path) -> None:
    bot = _Bot()
    report = await _load(bot, _plan(tmp_path, max_calls=3))
    assert bot.most == 3
    assert report.left_out > 0
    assert report.calls + report.left_out == report.planned == 40


@pytest.mark.virtual_time
async def test_an_agent_that_says_nothing_has_failed_although_it_has_no_figure(tmp_path: Path) -> None:
    report = await _load(_Bot(silent_from=21), _plan(tmp_path))
    assert report.failures == {"the agent did not speak (step 3, say)": 20}
    assert report.figures["v2v_ms"]["n"] == 20
    assert max(window.figures["failures"] or 0 for window in report.windows) == 100


@pytest.mark.virtual_time
@pytest.mark.parametrize("bot", [_Bot(unreachable=True), _Bot(nowhere=True)], ids=["refused", "no way"])
async def test_nobody_at_the_target_ends_a_load_early(tmp_path: Path, bot: _Bot) -> None:
    report = await _load(bot, _plan(tmp_path))
    assert (report.verdict, report.reason) == (Verdict.UNREACHABLE, "nobody is at 192.0.2.1; start the bot")
    assert report.calls < 15


@pytest.mark.virtual_time
async def test_our_own_mistakes_are_not_the_targets(tmp_path: Path) -> None:
    report = await _load(_Bot(breaks=True), _plan(tmp_path))
    assert report.verdict == Verdict.INVALID
    assert report.mistakes == {"ValueError: this phone is broken": 40}
    assert report.failed == 0


@pytest.mark.virtual_time
async def test_a_load_that_makes_its_own_process_late_says_so_and_nothing_of_the_target(tmp_path: Path) -> None:
    report = await _load(_Bot(blocks=0.1), _plan(tmp_path, window="2s"))
    assert report.verdict == Verdict.INVALID
    assert report.reason.startswith("this machine is too slow")
    assert report.windows[0].doubtful
    assert report.windows[0].figures["v2v_p95"] is None
    assert report.knee is None
    assert (report.processes[0].late_p99_ms or 0) > 20


@pytest.mark.virtual_time
async def test_calls_whose_frames_were_late_make_no_verdict(tmp_path: Path) -> None:
    report = await _load(_Bot(late=0.05, silent_from=0), _plan(tmp_path))
    assert (report.verdict, report.late, report.failed) == (Verdict.INVALID, 40, 0)
    assert report.reason.startswith("our own frames were late in 40 of 40 calls")


@pytest.mark.virtual_time
async def test_a_load_can_be_stopped_by_hand_and_is_reported(tmp_path: Path) -> None:
    stop = asyncio.Event()

    def look(progress: Progress) -> None:
        if progress.seconds > 12:
            stop.set()

    report = await _load(_Bot(), _plan(tmp_path), on_progress=look, stop=stop)
    assert (report.verdict, report.reason) == (Verdict.PASS, "stopped by hand")
    assert 20 < report.calls < 40


async def test_scenarios_that_no_load_can_make_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Unable, match="hello needs a target of twilio; this is sip"):
        await _load(_Bot(), _plan(tmp_path, SCENARIO + "requires: [twilio]\n"))


@pytest.fixture(scope="module")
def _tracker() -> None:
    """Python's own helper of processes, which it starts once and keeps."""
    resource_tracker.ensure_running()


@pytest.mark.usefixtures("_tracker")
async def test_processes_of_their_own_make_their_shares_and_leave(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as unused:
        unused.bind(("127.0.0.1", 0))
        to = f"twilio+http://127.0.0.1:{unused.getsockname()[1]}/voice"
    plan = _plan(tmp_path, arrivals={"start": "8/s", "over": "1s", "spread": "even"})
    report = await run_load(plan, to, processes=2)
    assert report.verdict == Verdict.UNREACHABLE
    assert [process.calls for process in report.processes] == [4, 4]
    assert len({process.pid for process in report.processes}) == 2


@pytest.mark.usefixtures("_tracker")
async def test_a_load_that_is_cancelled_hangs_up_and_leaves_no_process(tmp_path: Path) -> None:
    told: list[Progress] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        to = f"sip:bot@127.0.0.1:{silent.getsockname()[1]}"
        plan = _plan(tmp_path, arrivals={"start": "8/s", "over": "60s", "spread": "even"})
        load = asyncio.create_task(run_load(plan, to, processes=1, on_progress=told.append))
        while not told or not told[-1].began:
            await asyncio.sleep(0.02)
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        silent.setblocking(False)
        assert silent.recv(4096).startswith(b"INVITE sip:bot@127.0.0.1:")
