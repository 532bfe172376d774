"""A load: calls that begin at a rate of their own, from as many processes as it takes, and what came of them.

    loaded = load_plan("load.yaml")
    report = await run_load(loaded, "sip:agent@10.0.0.5", on_progress=print)

Theory of operation
-------------------
Every call is planned before the first one (`arrivals.py`) and dealt out to the processes in turn. They begin together,
once all of them are ready, and tell four times a second what happened (`load_worker.py`). Windows of time are closed a
second after their end: a bad one may stop the load. At the end all windows are put together anew, with what was only
known when calls ended, and the knee is looked for in those.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from math import ceil
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, Protocol

from offhook.qa.caller.script import prepare
from offhook.qa.phones.base import Unable
from offhook.qa.phones.targets import open_phone, unmet
from offhook.qa.running.arrivals import Arrival, arrivals
from offhook.qa.running.knee import (
    Knee,
    StopRule,
    Window,
    broken_limits,
    find_knee,
    judged,
    stopped_for_ourselves,
)
from offhook.qa.running.load_figures import Figures, PartReport, ProcessReport
from offhook.qa.running.load_model import LoadedPlan
from offhook.qa.running.load_worker import Batch, Job, LoadWorker, OpenPhone, Tell, serve
from offhook.qa.running.result import Verdict, this_machine
from offhook.qa.running.statistics import Spread
from offhook.qa.running.target_cpu import TargetCpu
from offhook.qa.scenario.model import Scenario

CALLS_A_PROCESS: Final = 200
"""What one process is sure to carry on one core, its frames on time."""

READY_S: Final = 30.0
"""Seconds that processes get to start."""

HEAD_START_S: Final = 0.25
"""From the order to begin to second 0."""

LOOK_S: Final = 0.25
"""Between two looks at what was told; the target's CPU is looked at as often."""

SETTLED_S: Final = 1.0
"""Seconds after a window's end at which all that is told at once has been told."""

GIVE_UP: Final = 10
"""Calls to a target that nobody answers at, after which a load stops."""

MAX_LATE: Final = 0.2
"""Share of the calls that may be late by our own fault; of a load with more, the figures are of a selection."""

LEAVE_S: Final = 10.0
"""Seconds that a process gets to end; longer than its calls get to hang up."""


@dataclass(slots=True)
class Progress:
    """How far a load is."""

    seconds: float
    "Since second 0."
    of: float
    "When the last call is to begin."
    planned: int
    began: int
    ended: int
    failed: int
    left_out: int
    rate: float
    "Calls a second that should begin now."
    under_way: int
    late_ms: float | None = None
    "p99 of our own processes' lateness, in the last window."
    window: Window | None = None
    "The last one that was closed."
    stopping: str = ""
    "Why the load is being stopped."


@dataclass(slots=True)
class LoadReport:
    """What a load found. JSON all the way down: `as_dict`."""

    run_id: str
    name: str
    file: str
    target: str
    began: float
    "Unix seconds."
    seconds: float
    verdict: Verdict
    reason: str = ""
    "Why it did not pass, or was stopped."
    planned: int = 0
    calls: int = 0
    "That began."
    ended: int = 0
    failed: int = 0
    cut: int = 0
    "Under way when the load was stopped; they count neither way."
    late: int = 0
    "That count neither way, for our own frames of them were late."
    left_out: int = 0
    "That did not begin, because there were `max_calls`."
    failures: dict[str, int] = field(default_factory=dict)
    "Reason → calls."
    mistakes: dict[str, int] = field(default_factory=dict)
    "What went wrong in this program → calls."
    figures: dict[str, Spread] = field(default_factory=dict)
    "v2v_ms, greeting_ms, setup_ms, packet_gap_ms: n, p50, p90, p95, p99, max."
    limits: dict[str, str] = field(default_factory=dict)
    "What good service was taken to be."
    scenarios: list[PartReport] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    knee: Knee | None = None
    processes: list[ProcessReport] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    schema: int = 1

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


OnProgress = Callable[[Progress], None]


class LoadFailed(RuntimeError):
    """One of our own processes broke. The text says which and how."""


def _ignore(progress: Progress) -> None:
    """Nobody looks on."""


async def run_load(
    loaded: LoadedPlan,
    target: str = "",
    *,
    on_progress: OnProgress = _ignore,
    processes: int | None = None,
    credentials: Mapping[str, Any] | None = None,
    target_pid: int | None = None,
    target_cores: float | None = None,
    cache: Path | None = None,
    stop: asyncio.Event | None = None,
    open_way: OpenPhone = open_phone,
    run_id: str = "",
) -> LoadReport:
    """Make a load.

    Args:
        loaded: The plan.
        target: Goes before the plan's and the scenarios' own.
        on_progress: Told four times a second.
        processes: That make calls; None: as many as the plan needs at `CALLS_A_PROCESS`, at most one a core; 0: none
            but this one.
        credentials: Keyword arguments of `open_phone`: auth_token, username, password …
        target_pid: The target's process, if it runs on this machine: its CPU is looked at, and that of its children.
        target_cores: How many cores the target has, if its CPU cannot be looked at.
        cache: Where synthesised speech is kept; None: the default.
        stop: Set it to end the load early; there is a report then, too.
        open_way: Opens phones, where `processes` is 0.
        run_id: Part of the calls' names.

    Raises:
        Unable: the target cannot be called like this, or not by these scenarios.
        VoiceUnavailable: what the callers say cannot be synthesised.
        ProcessLookupError: there is no process `target_pid`.
        LoadFailed: one of our own processes broke.
    """
    plan = loaded.plan
    scenarios = [aimed(one.scenario, target or plan.target) for one in loaded.scenarios]
    cpu = None if target_pid is None else TargetCpu(target_pid)
    files = [one.path.parent for one in loaded.scenarios]
    scripts = [await prepare(scenario, folder, cache=cache) for scenario, folder in zip(scenarios, files, strict=True)]
    last = plan.arrivals.start if plan.arrivals.to is None else plan.arrivals.to
    planned = arrivals(
        plan.arrivals.start,
        last,
        plan.arrivals.over,
        plan.hold,
        weights=[part.weight for part in plan.mix],
        even=plan.arrivals.spread == "even",
        seed=plan.seed,
    )
    peak = max(plan.arrivals.start, last)
    count = processes_for(peak, plan.max_calls, scenarios) if processes is None else processes
    run_id = run_id or time.strftime("%Y%m%d-%H%M%S")
    jobs = [
        Job(
            run_id,
            tuple(scenarios),
            tuple(scripts),
            tuple(share),
            plan.max_calls // max(1, count) + (number < plan.max_calls % max(1, count)),
            plan.window,
            plan.seed,
            dict(credentials or {}),
        )
        for number, share in enumerate(dealt(planned, max(1, count)))
    ]
    run = _Load(loaded, planned, on_progress, cpu, stop or asyncio.Event())
    async with _workers(jobs, run.figures.add, in_here=count == 0, open_way=open_way) as workers:
        began, seconds = time.time(), await run.run(workers)
    report = LoadReport(
        run_id,
        plan.name,
        str(loaded.path),
        ", ".join(sorted({scenario.target.to for scenario in scenarios})),
        began,
        round(seconds, 3),
        Verdict.PASS,
    )
    run.conclude(report, [worker.pid for worker in workers], target_cores)
    return report


def aimed(scenario: Scenario, to: str) -> Scenario:
    """The scenario with another target.

    Raises:
        Unable: it cannot be called there, or not under load.
    """
    if to:
        scenario = scenario.model_copy(update={"target": scenario.target.model_copy(update={"to": to})})
    if lacks := unmet(scenario):
        raise Unable(f"{scenario.name} {lacks}")
    if any(step.converse is not None for step in scenario.steps):
        raise Unable(f"{scenario.name} has a `converse` step, which no load can repeat; write what the caller says")
    return scenario


def processes_for(peak: float, max_calls: int, scenarios: Sequence[Scenario]) -> int:
    """How many processes a plan needs, if its calls are as long as they may be."""
    longest = max(scenario.timeout for scenario in scenarios)
    calls = min(max_calls, peak * longest)
    return max(1, min(os.cpu_count() or 1, ceil(calls / CALLS_A_PROCESS)))


def dealt(planned: Sequence[Arrival], count: int) -> list[Sequence[Arrival]]:
    """Calls in turn to each of `count` processes."""
    return [planned[number::count] for number in range(count)]


# --- those who make the calls ---


class _Worker(Protocol):
    pid: int

    def begin(self, origin: float) -> None:
        """Second 0 is then."""

    def stop(self) -> None:
        """Begin no more calls, and hang up."""

    @property
    def done(self) -> asyncio.Future[None]:
        """Done when all calls are over; raises Unable or LoadFailed."""


class _Here:
    """A worker in this very process."""

    def __init__(self, job: Job, tell: Tell, open_way: OpenPhone) -> None:
        self.pid = os.getpid()
        self._worker = LoadWorker(job, tell, open_way=open_way)
        self._task: asyncio.Task[None] | None = None

    @property
    def done(self) -> asyncio.Future[None]:
        assert self._task is not None
        return self._task

    def begin(self, origin: float) -> None:
        self._task = asyncio.create_task(self._worker.run(origin), name="load")

    def stop(self) -> None:
        self._worker.stop()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class _There:
    """A worker in a process of its own."""

    def __init__(self, number: int, job: Job, tell: Tell) -> None:
        self._loop = asyncio.get_running_loop()
        self._tell = tell
        self.pid = 0
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.done: asyncio.Future[None] = self._loop.create_future()
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(job, theirs), name=f"load-{number}", daemon=True)
        self._process.start()
        theirs.close()
        self._loop.add_reader(self._pipe.fileno(), self._told)

    def begin(self, origin: float) -> None:
        self._pipe.send(origin)

    def stop(self) -> None:
        if not self.done.done():
            with suppress(OSError):  # it has died just now, which we are about to be told
                self._pipe.send(None)

    def _told(self) -> None:
        try:
            while self._pipe.poll():
                self._take(self._pipe.recv())
        except (EOFError, ConnectionError):
            self._loop.remove_reader(self._pipe.fileno())
            for future in (self.ready, self.done):
                if not future.done():
                    future.set_exception(LoadFailed(f"{self._process.name} (process {self.pid}) has died"))

    def _take(self, told: Any) -> None:
        if isinstance(told, Batch):
            self._tell(told)
        elif isinstance(told, int):
            self.pid = told
            self.ready.set_result(None)
        elif told:
            self.done.set_exception(Unable(told))
        else:
            self.done.set_result(None)

    async def close(self) -> None:
        self._loop.remove_reader(self._pipe.fileno())
        self._pipe.close()
        for future in (self.ready, self.done):
            future.cancel()
            if future.done() and not future.cancelled():
                future.exception()  # whoever waits has it already
        await asyncio.to_thread(self._process.join, LEAVE_S)
        if self._process.is_alive():
            self._process.kill()
            await asyncio.to_thread(self._process.join)
        self._process.close()


@asynccontextmanager
async def _workers(
    jobs: Sequence[Job], tell: Callable[[int, Batch], None], *, in_here: bool, open_way: OpenPhone
) -> AsyncIterator[Sequence[_Worker]]:
    if in_here:
        here = _Here(jobs[0], partial(tell, 0), open_way)
        try:
            yield [here]
        finally:
            await here.close()
        return
    there: list[_There] = []
    try:
        for number, job in enumerate(jobs):
            there.append(_There(number, job, partial(tell, number)))
        try:
            async with asyncio.timeout(READY_S):
                await asyncio.gather(*(worker.ready for worker in there))
        except TimeoutError as error:
            raise LoadFailed(f"our own processes were not ready within {READY_S:g} s") from error
        yield there
    finally:
        await asyncio.gather(*(worker.close() for worker in there))


# --- the course of it ---


class _Load:
    """Watches a load, and stops it."""

    def __init__(
        self,
        loaded: LoadedPlan,
        planned: Sequence[Arrival],
        on_progress: OnProgress,
        cpu: TargetCpu | None,
        stop: asyncio.Event,
    ) -> None:
        self.figures = Figures(loaded.plan.window)
        self._loaded = loaded
        self._plan = loaded.plan
        self._planned = planned
        self._on_progress = on_progress
        self._cpu = cpu
        self._stop = stop
        self._windows: list[Window] = []
        self._stopping = ""
        self._seconds = 0.0
        self._rule = (
            StopRule(loaded.plan.stop_when.limits, loaded.plan.stop_when.for_) if loaded.plan.stop_when else None
        )
        self._by_rule = False
        self._workers: Sequence[_Worker] = ()

    async def run(self, workers: Sequence[_Worker]) -> float:
        """See it through. Gives how long it took, in seconds."""
        loop = asyncio.get_running_loop()
        self._workers = workers
        origin = loop.time() + HEAD_START_S
        for worker in workers:
            worker.begin(origin)
        left = {worker.done for worker in workers}
        while left:
            over, left = await asyncio.wait(left, timeout=LOOK_S, return_when=asyncio.FIRST_EXCEPTION)
            for one in over:
                one.result()
            self._look(loop.time() - origin)
        self._seconds = loop.time() - origin
        return self._seconds

    def _look(self, now: float) -> None:
        if self._cpu is not None:
            self._cpu.sample(now)
        while (len(self._windows) + 1) * self._plan.window + SETTLED_S <= now:
            end = (len(self._windows) + 1) * self._plan.window
            window = next(self.figures.windows(end, len(self._windows)))
            window.broken = broken_limits(window.figures, self._plan.limits)
            self._windows.append(window)
            if self._rule is not None and (why := self._rule.look(window)):
                self._by_rule = True
                self._end(why)
            elif stopped_for_ourselves(self._windows):
                self._end("this machine is too slow: give it more cores or fewer calls, or raise --processes")
        totals = self.figures.totals
        if not self._stopping and totals.ended >= GIVE_UP and self.figures.unreachable == totals.ended:
            self._end("nobody answers at the target")
        if self._stop.is_set():
            self._end("stopped by hand")
        latest = self._windows[-1] if self._windows else None
        self._on_progress(
            Progress(
                seconds=max(0.0, now),
                of=self._planned[-1].at if self._planned else 0.0,
                planned=len(self._planned),
                began=totals.began,
                ended=totals.ended,
                failed=totals.failed,
                left_out=totals.left_out,
                rate=self._rate(now),
                under_way=totals.began - totals.ended - totals.late - totals.mistakes - self.figures.cut,
                late_ms=None if latest is None else latest.late_ms,
                window=latest,
                stopping=self._stopping,
            )
        )

    def _rate(self, now: float) -> float:
        plan = self._plan.arrivals
        last = plan.start if plan.to is None else plan.to
        if now > plan.over + self._plan.hold:
            return 0.0
        return plan.start + (last - plan.start) * min(1.0, max(0.0, now) / plan.over) if plan.over else last

    def _end(self, why: str) -> None:
        if not self._stopping:
            self._stopping = why
            for worker in self._workers:
                worker.stop()

    # --- what came of it ---

    def conclude(self, report: LoadReport, pids: Sequence[int], cores: float | None) -> None:
        """Fill in the report."""
        figures, plan = self.figures, self._plan
        totals = figures.totals
        report.planned, report.calls = len(self._planned), totals.began
        report.ended, report.failed, report.left_out = totals.ended, totals.failed, totals.left_out
        report.cut, report.late = figures.cut, totals.late
        report.failures, report.mistakes = dict(figures.reasons.most_common()), dict(figures.mistakes.most_common())
        report.figures = figures.overall()
        report.limits = {name: str(limit) for name, limit in plan.limits.items()}
        report.scenarios = [
            figures.part(number, loaded.scenario.name, str(loaded.path))
            for number, loaded in enumerate(self._loaded.scenarios)
        ]
        report.windows = list(figures.windows(self._seconds))
        for window in report.windows:
            window.broken = broken_limits(window.figures, plan.limits)
            if self._cpu is not None:
                window.cores = self._cpu.cores(window.start, window.end)
        if plan.report.knee:
            per_core = plan.report.per_core
            if not per_core:
                for window in report.windows:
                    window.cores = None
            report.knee = find_knee(report.windows, plan.limits, cores=cores if per_core else None)
        report.processes = [figures.process(number, pid) for number, pid in enumerate(pids)]
        report.machine = this_machine()
        report.verdict, report.reason = self._verdict(report)

    def _verdict(self, report: LoadReport) -> tuple[Verdict, str]:
        if report.ended and self.figures.unreachable == report.ended:
            return Verdict.UNREACHABLE, next(iter(report.failures))
        if self._by_rule:
            return Verdict.FAIL, self._stopping
        if report.mistakes:
            return Verdict.INVALID, f"our own mistake: {next(iter(report.mistakes))}"
        if report.late > MAX_LATE * (report.ended + report.late):
            late = f"our own frames were late in {report.late} of {report.ended + report.late} calls"
            return Verdict.INVALID, f"{late}; give this machine more cores or fewer calls"
        if not any(judged(window, self._plan.limits) for window in report.windows):
            doubtful = any(window.doubtful for window in report.windows)
            why = "our own processes were late" if doubtful else "no window has calls enough for a figure"
            remedy = "fewer calls, or more processes" if doubtful else "longer windows, or more calls"
            return Verdict.INVALID, self._stopping or f"{why}; try {remedy}"
        if stopped_for_ourselves(self._windows):
            return Verdict.INVALID, self._stopping
        return Verdict.PASS, self._stopping
