"""One process of a load: makes its share of the calls, measures them as cheaply as can be, and tells how late it was.

Theory of operation
-------------------
Calls begin at the times planned, whatever became of those before them. What is measured of a call is what costs next to
nothing while hundreds are under way: where the agent's speech begins, as the caller's own detector hears it, which
misses weak consonants before the first vowel. Replies are told at once like that, so that a load can be stopped while
the calls are still up; at a call's end the beginnings are looked for anew in the second around each, to the sample.

A heartbeat every 20 ms measures how late this process is, whether or not a call notices. Whoever puts the figures
together leaves out what a late process measured.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np

from offhook.qa.activity import RATE, WINDOW_S, Samples, Span
from offhook.qa.caller.machine import Caller
from offhook.qa.caller.record import CallerRecord
from offhook.qa.caller.script import Script
from offhook.qa.measuring.timeline import voiced_spans
from offhook.qa.phones.base import Arrivals, CallerLine, CallLog, CallOrder, Phone, PhoneError, Unreachable
from offhook.qa.phones.targets import open_phone
from offhook.qa.running.arrivals import Arrival
from offhook.qa.scenario.model import Scenario, Target

BEAT_S: Final = 0.020
"""Between two heartbeats: a frame."""

TELL_S: Final = 0.25
"""Between two batches of results."""

LOOK_BACK_S: Final = 0.5
LOOK_ON_S: Final = 0.5
"""Around the beginning of speech: a first s may be 200 ms long, and the voice after it shows how loud the agent is."""

LONGEST_MS: Final = 1000
"""Last bucket of histograms: so much, and all above it."""

GRACE_S: Final = 5.0
"""Seconds that calls get to end themselves once they were told to hang up; then they are cut off."""

Histogram = dict[int, int]
"""Whole milliseconds → how often."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a process is to do. Pickled to it."""

    run_id: str
    scenarios: tuple[Scenario, ...]
    "With the target in them."
    scripts: tuple[Script, ...]
    arrivals: tuple[Arrival, ...]
    max_calls: int
    "At once."
    window: float
    "Seconds."
    seed: int
    credentials: Mapping[str, Any] = field(default_factory=dict)
    "Keyword arguments of `open_phone`."


@dataclass(frozen=True, slots=True)
class Ended:
    """A call that is over. Times in seconds from the beginning of the load."""

    number: int
    part: int
    "Index in the mix."
    began: float
    at: float
    failed: str = ""
    "Why; empty: it was made to its end. Expectations of the scenario are not judged."
    mistake: str = ""
    "Of this program: nothing is said about the target."
    cut: bool = False
    "The load was stopped meanwhile."
    unreachable: bool = False
    greeting: tuple[float, float] | None = None
    "When, and how long it took in ms."
    replies: tuple[tuple[float, float], ...] = ()
    "When, and voice to voice in ms; in place of those of this call that were told before."
    setup_ms: float | None = None
    gaps: tuple[tuple[int, Histogram], ...] = ()
    "Number of a window → ms between packets that follow each other."
    frames: int = 0
    late: Histogram = field(default_factory=dict)
    "How late the caller's frames left, ms."


@dataclass(slots=True)
class Batch:
    """What happened since the one before."""

    began: list[float] = field(default_factory=list)
    left_out: list[float] = field(default_factory=list)
    "Calls that did not begin: there were `max_calls`."
    replies: list[tuple[float, int, float]] = field(default_factory=list)
    "When, number of the call, and voice to voice in ms, of calls under way."
    ended: list[Ended] = field(default_factory=list)
    beats: dict[int, Histogram] = field(default_factory=dict)
    "Number of a window → how late the heartbeats were, ms."


Tell = Callable[[Batch], None]


OpenPhone = Callable[..., Phone]
"""How a phone is opened: `open_phone`, or a test's own with its signature."""


class Meter:
    """Sits between a line and its caller, and notes where the agent's replies begin.

    Args:
        caller: who makes the call.
        on_reply: Told the milliseconds between the caller's last voiced sample and the agent's first, as soon as it is
            heard. A sentence into which the agent still spoke at its end has none.
    """

    def __init__(self, caller: Caller, on_reply: Callable[[float], None]) -> None:
        self._caller = caller
        self._on_reply = on_reply
        self._onset: float | None = None
        self._voiced = 0.0
        "End of the agent's voice, as of the frame before."
        self._answered = -1
        "Index of the last step that had its reply."
        self.replies: list[tuple[float, float]] = []
        "Track seconds at which the caller had finished a sentence, and the agent began to answer it."
        self.onsets: list[float] = []
        "Track seconds at which the agent began to speak."
        self.up = False
        "There was a frame."
        self.hang_up = False
        "Hang up at the next frame."

    def frame(self, line: CallerLine) -> None:
        """Pass the frame on, and look."""
        self.up = True
        self._caller.frame(line)
        onset = line.activity.speaking_since
        if onset is not None and onset != self._onset:
            self._onset = onset
            self.onsets.append(onset)
            self._began(onset)
        self._voiced = line.activity.last_voiced or 0.0
        if self.hang_up:
            line.hang_up()

    def ended(self) -> None:
        """Pass it on."""
        self._caller.ended()

    def _began(self, onset: float) -> None:
        for step in reversed(self._caller.record.steps):
            if step.index <= self._answered:
                return
            if step.spoken is None or step.verb == "backchannel" or step.spoken.end > onset:
                continue
            self._answered = step.index
            if self._voiced <= step.spoken.end:
                self.replies.append((step.spoken.end, onset))
                self._on_reply((onset - step.spoken.end) * 1000)
            return


class LoadWorker:
    """Makes calls. Nothing of it needs a process of its own.

    Args:
        job: Which calls.
        tell: Given what happened, every `TELL_S`.
        open_way: Opens the phone for a target.
    """

    def __init__(self, job: Job, tell: Tell, *, open_way: OpenPhone = open_phone) -> None:
        self._job = job
        self._tell = tell
        self._open_way = open_way
        self._loop = asyncio.get_running_loop()
        self._origin = 0.0
        self._batch = Batch()
        self._phones: dict[str, Phone] = {}
        self._nowhere: dict[str, Unreachable] = {}
        "Targets to which there is no phone."
        self._calls: dict[asyncio.Task[None], Meter] = {}
        self._stopping = asyncio.Event()
        self._beating: asyncio.TimerHandle | None = None

    async def run(self, origin: float) -> None:
        """Make all calls; second 0 is `origin` of the loop's clock.

        Raises:
            Unable: the target cannot be called like this.
        """
        self._origin = origin
        due = origin
        teller = asyncio.create_task(self._telling(), name="load:telling")
        self._beat(max(origin, self._loop.time()))
        try:
            for scenario in self._job.scenarios:
                if scenario.target.to not in self._phones:
                    await self._open(scenario.target)
            for arrival in self._job.arrivals:
                due = origin + arrival.at
                if await self._stopped_within(due - self._loop.time()):
                    break
                self._begin(arrival)
            while self._calls and not self._stopping.is_set():
                await self._stopped_within(TELL_S)
            await self._wind_up()
        finally:
            for task in self._calls:
                task.cancel()
            await asyncio.gather(*self._calls, return_exceptions=True)
            for phone in self._phones.values():
                await phone.__aexit__(None, None, None)
            if self._beating is not None:
                self._beating.cancel()
            teller.cancel()
            await asyncio.gather(teller, return_exceptions=True)
            self._flush()

    async def _open(self, target: Target) -> None:
        phone = self._open_way(target, **self._job.credentials)
        try:
            self._phones[target.to] = await phone.__aenter__()
        except Unreachable as error:
            self._nowhere[target.to] = error  # what every call to it comes to

    def stop(self) -> None:
        """Begin no more calls, and hang up."""
        self._stopping.set()

    async def _stopped_within(self, seconds: float) -> bool:
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._stopping.wait()
            except TimeoutError:
                return False
        return self._stopping.is_set()

    async def _wind_up(self) -> None:
        for task, meter in self._calls.items():
            meter.hang_up = True
            if not meter.up:
                task.cancel()  # it rings, and has no frame at which it could hang up
        if self._calls:
            await asyncio.wait(list(self._calls), timeout=GRACE_S)

    def _begin(self, arrival: Arrival) -> None:
        now = self._loop.time() - self._origin
        if len(self._calls) >= self._job.max_calls:
            self._batch.left_out.append(now)
            return
        self._batch.began.append(now)
        scenario, script = self._job.scenarios[arrival.part], self._job.scripts[arrival.part]
        caller = Caller(scenario, script, self._job.seed + arrival.number)

        def on_reply(milliseconds: float) -> None:
            self._batch.replies.append((self._loop.time() - self._origin, arrival.number, milliseconds))

        meter = Meter(caller, on_reply)
        name = f"load:{arrival.number}"
        task = asyncio.create_task(self._call(arrival, scenario, caller.record, meter, now), name=name)
        self._calls[task] = meter
        task.add_done_callback(self._calls.pop)

    async def _call(
        self, arrival: Arrival, scenario: Scenario, record: CallerRecord, meter: Meter, began: float
    ) -> None:
        log: CallLog | None = None
        failed = mistake = ""
        unreachable = False
        order = CallOrder(
            scenario.target,
            scenario.media,
            f"{self._job.run_id}-{arrival.number}",
            seed=self._job.seed + arrival.number,
            timeout=scenario.timeout,
            keep_packets=False,
        )
        try:
            if (nowhere := self._nowhere.get(scenario.target.to)) is not None:
                failed, unreachable = str(nowhere), True
            else:
                log = await self._phones[scenario.target.to].carry(order, meter)
                failed = failure(log, record, scenario, meter.onsets)
        except Unreachable as error:
            failed, unreachable = str(error), True
        except PhoneError as error:
            mistake = str(error)  # the plan's, to be exact: this target cannot do what a scenario asks for
        except asyncio.CancelledError:
            failed = "cut off"
        except Exception as error:  # a call's root: one that broke here must not end the others, and is told
            mistake = f"{type(error).__name__}: {error}"
        at = self._loop.time() - self._origin
        cut = self._stopping.is_set()
        if log is None:
            ended = Ended(arrival.number, arrival.part, began, at, failed, mistake, cut, unreachable)
        else:
            opened = at - log.seconds
            first = exact_onset(log.agent, meter.onsets[0]) if meter.onsets else None
            replies = []
            for said, onset in meter.replies:
                await asyncio.sleep(0)  # a millisecond each; the frames of other calls come first
                replies.append((said, exact_onset(log.agent, onset)))
            ended = Ended(
                number=arrival.number,
                part=arrival.part,
                began=began,
                at=at,
                failed=failed,
                cut=cut,
                greeting=None if first is None else (opened + first, (first - log.answered_at) * 1000),
                replies=tuple((opened + onset, (onset - said) * 1000) for said, onset in replies),
                setup_ms=log.setup_ms,
                gaps=() if log.arrivals is None else packet_gaps(log.arrivals, opened, self._job.window),
                frames=len(log.lateness),
                late=_histogram(np.asarray(log.lateness, np.float64)),
            )
        self._batch.ended.append(ended)

    # --- how late we are, and what there is to tell ---

    def _beat(self, due: float) -> None:
        now = self._loop.time()
        late = min(LONGEST_MS, max(0, int((now - due) * 1000)))
        window = int(max(0.0, due - self._origin) / self._job.window)
        beats = self._batch.beats.setdefault(window, {})
        beats[late] = beats.get(late, 0) + 1
        # Beats that were missed are as late as they would have been: a stall of 100 ms makes five.
        due += BEAT_S
        while due <= now:
            missed = min(LONGEST_MS, int((now - due) * 1000))
            beats[missed] = beats.get(missed, 0) + 1
            due += BEAT_S
        self._beating = self._loop.call_at(due, self._beat, due)

    async def _telling(self) -> None:
        while True:
            await asyncio.sleep(TELL_S)
            self._flush()

    def _flush(self) -> None:
        batch, self._batch = self._batch, Batch()
        self._tell(batch)


def failure(log: CallLog, record: CallerRecord, scenario: Scenario, onsets: Sequence[float]) -> str:
    """Why a call has failed; empty: the caller came to its end and was spoken to whenever that was expected.

    Limits on time and words are not judged: a late answer is in the figures. One that never came would be in none.
    """
    if not log.answered:
        return f"refused with {log.status}" if log.status else "not answered"
    if record.gave_up:
        return record.gave_up
    if log.ended_by == "timeout":
        return "not over within the scenario's timeout"
    if log.ended_by == "network":
        return f"connection lost: {log.ended_how}"
    said = Span(0.0, 0.0)
    for done, step in zip(record.steps, scenario.steps, strict=False):
        said = done.spoken or said
        if step.expect is None or not step.expect.agent_speaks or done.skipped:
            continue
        # An answer may begin before the caller's last word is over.
        since = said.start if abs(done.since - said.end) < BEAT_S else done.since
        if not any(since <= onset <= done.ended for onset in onsets):
            return f"the agent did not speak (step {done.index + 1}, {done.verb})"
    return ""


def exact_onset(agent: Samples, onset: float) -> float:
    """Where a stretch of the agent's speech begins to the sample, that was heard to begin at `onset`; seconds."""
    start = max(0, round((onset - LOOK_BACK_S) * RATE))
    piece = agent[start : round((onset + LOOK_ON_S) * RATE)]
    found = (start / RATE + span.start for span in reversed(voiced_spans(piece)))
    return next((at for at in found if at <= onset + 2 * WINDOW_S), onset)


def packet_gaps(arrivals: Arrivals, opened: float, window: float) -> tuple[tuple[int, Histogram], ...]:
    """How far apart packets came that were sent one after the other, by windows of time.

    Args:
        arrivals: Of a call.
        opened: When its track began.
        window: Seconds; the first one begins at 0.
    """
    at = np.asarray(arrivals.at, np.float64)
    if len(at) < 2:
        return ()
    # A pause that was meant is none of the network: after it the timestamp goes further than one packet.
    follows = (np.diff(np.asarray(arrivals.timestamp, np.int64)) == arrivals.ticks) & (
        np.diff(np.asarray(arrivals.ssrc, np.int64)) == 0
    )
    gap = np.clip(np.diff(at)[follows] * 1000, 0, LONGEST_MS).astype(np.int64)
    number = np.maximum(0, (opened + at[1:][follows]) // window).astype(np.int64)
    return tuple((int(one), _counted(gap[number == one])) for one in np.unique(number))


def _histogram(seconds: np.ndarray) -> Histogram:
    return _counted(np.clip(seconds * 1000, 0, LONGEST_MS).astype(np.int64))


def _counted(milliseconds: np.ndarray) -> Histogram:
    found, often = np.unique(milliseconds, return_counts=True)
    return dict(zip(found.tolist(), often.tolist(), strict=True))


def merged(histograms: list[Histogram]) -> Histogram:
    """All of them together."""
    total: Counter[int] = Counter()
    for one in histograms:
        total.update(one)
    return dict(total)


def percentile(histogram: Histogram, share: float) -> float | None:
    """The whole milliseconds that `share` of the values do not exceed, and one bucket's width; None: there are none."""
    total = sum(histogram.values())
    passed = 0
    for bucket in sorted(histogram):
        passed += histogram[bucket]
        if passed >= share * total:
            return float(bucket + 1)
    return None


# --- in a process of its own ---


def serve(job: Job, pipe: Connection) -> None:
    """Run a worker at the end of a pipe. It says "ready", is sent when to begin, sends batches, and at the end "done",
    or what went wrong; anything else that it is sent, and the end of the pipe, stop it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process is told, and tells us
    gc.freeze()
    asyncio.run(_serve(job, pipe))


async def _serve(job: Job, pipe: Connection) -> None:
    loop = asyncio.get_running_loop()
    began: asyncio.Future[float] = loop.create_future()
    worker = LoadWorker(job, pipe.send)

    def told() -> None:
        try:
            order = pipe.recv()
        except EOFError:
            loop.remove_reader(pipe.fileno())
            order = None
        if isinstance(order, float) and not began.done():
            began.set_result(order)
        else:
            worker.stop()
            if not began.done():
                began.cancel()

    loop.add_reader(pipe.fileno(), told)
    try:
        pipe.send(os.getpid())
        await worker.run(await began)
        pipe.send("")
    except PhoneError as error:
        pipe.send(str(error))
    except (BrokenPipeError, asyncio.CancelledError):
        return  # nobody listens any more
    finally:
        loop.remove_reader(pipe.fileno())
