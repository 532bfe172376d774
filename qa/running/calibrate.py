"""The dialer's own error: the reference is called, and what was measured is held against what it really did.

The reference runs in a process of its own, decides by the sample, and shares no code with the measuring. Its sentences
and the caller's are a made-up voice that sets in and breaks off from one sample to the next, so that there is one truth
about when somebody speaks.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from offhook.codecs.wav import wav_file
from offhook.qa.caller.machine import Caller
from offhook.qa.caller.script import prepare
from offhook.qa.measuring.metrics import Metrics, measure_call
from offhook.qa.phones.base import CallOrder, PhoneError, Way
from offhook.qa.phones.targets import open_phone
from offhook.qa.reference import Reference, reference
from offhook.qa.reference.ear import RATE
from offhook.qa.reference.lines import made_up
from offhook.qa.result import TRUSTED_LATE_MS
from offhook.qa.scenario.model import Scenario
from offhook.qa.voice import VoiceUnavailable

TOLERANCE_MS: Final = 20.0
TOLERANCE_DB: Final = 1.0

WAYS: Final[tuple[Way, ...]] = ("sip", "twilio")

QUESTIONS: Final = ("What are your opening hours?", "And on Sundays, do you open then?", "Where can I find you?")
INTERRUPTION: Final = "Stop, that is not what I meant at all."

SETTLE_S: Final = 10.0
"""Until the reference must have noted that a call has ended."""


ATTEMPTS: Final = 3
"""Times that a call is made while this machine is too busy for it, whatever was measured in it."""

STALL_MS: Final = 40.0
"""Lateness of the reference's worst frame that is: it makes a hole that the reference did not mean."""


class _NotComparable(Exception):
    """A call to the reference did not go as planned, so that there is nothing to compare; the text says how."""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric over one way."""

    way: str
    metric: str
    unit: str
    true: float
    "Median of what the reference did."
    measured: float
    "Median of what was measured."
    error: float
    "The largest difference of any one sample, with its sign."
    tolerance: float
    n: int

    @property
    def ok(self) -> bool:
        """Whether every sample is within the tolerance."""
        return abs(self.error) <= self.tolerance


@dataclass(slots=True)
class Calibration:
    """The whole table."""

    rows: list[Row] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    "What could not be compared at all, as whole sentences."
    own_late_p99_ms: float = 0.0
    "The caller's own lateness: above 5 ms, a busy machine has a part in the errors."
    reference_late_ms: float = 0.0
    "The worst frame of the reference, likewise."

    @property
    def passed(self) -> bool:
        """Whether everything was compared, and every error is within its tolerance."""
        return bool(self.rows) and not self.wrong and all(row.ok for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        rows = [{**asdict(row), "ok": row.ok} for row in self.rows]
        return {
            "passed": self.passed,
            "rows": rows,
            "wrong": self.wrong,
            "own_late_p99_ms": round(self.own_late_p99_ms, 2),
            "reference_late_ms": round(self.reference_late_ms, 2),
        }

    def as_text(self) -> str:
        """A table for people."""
        head = f"{'way':8}{'metric':22}{'n':>3}{'true':>10}{'measured':>10}{'error':>9}{'limit':>8}"
        lines = [head] + [
            f"{row.way:8}{row.metric:22}{row.n:3}{row.true:10.1f}{row.measured:10.1f}{row.error:+9.1f}"
            f"{row.tolerance:8g} {row.unit}{'' if row.ok else '  TOO MUCH'}"
            for row in self.rows
        ]
        lines += self.wrong
        if not self.passed and (self.own_late_p99_ms > TRUSTED_LATE_MS or self.reference_late_ms > STALL_MS):
            lines.append(
                f"This machine is too busy: the caller's frames left {self.own_late_p99_ms:.0f} ms late (p99), the "
                f"reference's up to {self.reference_late_ms:.0f} ms. Calibrate when nothing else runs."
            )
        return "\n".join(lines)


OnCall = Callable[[str], None]
"""Told in words which call is made."""


async def calibrate(
    ways: Sequence[Way] = WAYS, *, seed: int = 1, on_call: OnCall = lambda what: None, cache: Path | None = None
) -> Calibration:
    """Call the reference every way, and compare. Takes some 40 s, all calls side by side.

    Raises:
        RuntimeError: the reference could not be started.
        ValueError: the reference cannot be called that way.
    """
    if unknown := [way for way in ways if way not in WAYS]:
        raise ValueError(f"the reference cannot be called by {unknown[0]}, only by {' and '.join(WAYS)}")
    found = Calibration()
    with tempfile.TemporaryDirectory(prefix="offhook-calibration-") as name:
        folder = Path(name)
        for number, text in enumerate((*QUESTIONS, INTERRUPTION)):
            _write(folder / f"{number}.wav", text)
        async with reference(voice="made-up") as ref:
            bench = _Bench(ref, folder, cache, seed, on_call, found)
            async with asyncio.TaskGroup() as group:
                for way in ways:
                    for calls in (bench.talk, bench.holes, bench.keys, bench.ends):
                        group.create_task(bench.guarded(calls, way), name=f"calibrate-{way}")
    found.wrong.sort()
    found.rows.sort(key=lambda row: (row.way, row.metric, row.true))
    return found


def _write(path: Path, text: str) -> None:
    path.write_bytes(wav_file(made_up(text).astype("<i2").tobytes(), RATE))


class _Bench:
    """What the calls of one calibration share."""

    def __init__(
        self, ref: Reference, folder: Path, cache: Path | None, seed: int, on_call: OnCall, found: Calibration
    ) -> None:
        self._ref, self._folder, self._cache, self._seed = ref, folder, cache, seed
        self._on_call, self._found = on_call, found
        self._calls = 0

    async def guarded(self, calls: Callable[[Way], Awaitable[None]], way: Way) -> None:
        """Make these calls; what goes wrong is noted, and the other calls go on."""
        try:
            await calls(way)
        except (_NotComparable, PhoneError, VoiceUnavailable) as error:
            self._found.wrong.append(f"{way}: {error}")
        except TimeoutError:
            self._found.wrong.append(f"{way}: the reference did not note the end of a call within {SETTLE_S:g} s")

    # --- the calls ---------------------------------------------------------------------------

    async def talk(self, way: Way) -> None:
        """Delays and level."""
        steps: list[dict[str, Any]] = [{"expect": {"answer": True, "within": "5s"}}, {"wait": "agent_done"}]
        for number in range(len(QUESTIONS)):
            steps += [{"say": {"wav": f"{number}.wav"}, "expect": {"agent_speaks": True}}]
            if number < 2:
                steps.append({"barge_in": {"wav": "3.wav", "after": "800ms"}, "expect": {"agent_speaks": True}})
            steps.append({"wait": "agent_done"})
        metrics, truth = await self._call(way, "", "delays and level", [*steps, {"hang_up": True}])
        spoke = [entry for entry in truth if entry["what"] == "spoke"]
        answers = [entry for entry in spoke if entry["kind"] == "answer"]
        cut = [entry for entry in spoke if entry["cut"] == "interrupted"]
        connected = next(entry["after"] for entry in truth if entry["what"] == "answered")
        self._compare(way, "greeting_ms", [1000 * (spoke[0]["at"] + connected)], metrics)
        self._compare(way, "v2v_ms", [1000 * (entry["at"] - entry["after"]) for entry in answers], metrics)
        stops = [1000 * (entry["end"] - entry["interrupted_at"]) for entry in cut]
        self._compare(way, "barge_stop_ms", stops, metrics)
        level = [statistics.median(entry["level"] for entry in spoke)]
        self._compare(way, "agent_level_dbov", level, metrics, TOLERANCE_DB, "dB")
        self._same(way, "holes", 0, metrics)

    async def holes(self, way: Way) -> None:
        """Silence within a sentence, short and long."""
        steps: list[dict[str, Any]] = [{"wait": "agent_done"}, {"say": {"wav": "0.wav"}}, {"wait": "agent_done"}]
        metrics, truth = await self._call(way, "hole", "a hole of 120 ms", steps)
        holes = [1000 * (entry["end"] - entry["at"]) for entry in truth if entry["what"] == "hole"]
        # Those that a busy machine excuses are what they are all the same.
        torn = [1000 * span.seconds for span in (*metrics.holes, *metrics.holes_excused)]
        self._add(way, "hole_ms", holes, torn)
        steps[2] = {"wait": "13s"}
        metrics, truth = await self._call(way, "dead-air", "5 s of dead air", steps)
        silent = [1000 * (entry["end"] - entry["at"]) for entry in truth if entry["what"] == "dead-air"]
        self._add(way, "dead_air", silent, [1000 * span.seconds for span in metrics.dead_air])

    async def keys(self, way: Way) -> None:
        """Keys both ways."""
        steps: list[dict[str, Any]] = [{"wait": "agent_done"}]
        for digits in ("*159D#", "**2580#"):
            steps += [{"dtmf": {"digits": digits, "tone": "100ms", "gap": "100ms"}}, {"wait": "3s"}]
        metrics, truth = await self._call(way, "", "keys both ways", [*steps, {"hang_up": True}])
        heard = "".join(entry["key"] for entry in truth if entry["what"] == "key")
        if heard != "*159D#**2580#":
            self._found.wrong.append(f"{way}: of the keys *159D#**2580# the reference heard {heard}")
        sent = [entry for entry in truth if entry["what"] == "keys-sent"]
        keys = "".join(entry["keys"] for entry in sent)
        if metrics.keys_heard != keys or not keys:
            self._found.wrong.append(f"{way}: of the reference's keys {keys} the dialer heard {metrics.keys_heard}")
        tones = sum(len(entry["keys"]) for entry in sent if entry["way"] == "inband")
        self._compare(way, "dtmf_tone_ms", [100.0] * tones, metrics)

    async def ends(self, way: Way) -> None:
        """Whether the last word is whole."""
        steps: list[dict[str, Any]] = [
            {"wait": "agent_done"},
            {"dtmf": "9"},
            {"wait": {"for": "hangup", "timeout": "12s"}},
        ]
        metrics, _ = await self._call(way, "", "an end that is whole", steps)
        self._same(way, "tail_cut", 0, metrics)
        metrics, _ = await self._call(way, "cut-tail", "an end that is cut", steps)
        self._same(way, "tail_cut", 1, metrics)

    # --- making and comparing them --------------------------------------------------------------

    async def _call(
        self, way: Way, name: str, what: str, steps: Sequence[Mapping[str, Any]]
    ) -> tuple[Metrics, list[dict[str, Any]]]:
        """One call, made again while the machine is too busy; gives what was measured, and the truth about it."""
        for attempt in range(1, ATTEMPTS + 1):
            self._on_call(f"{way}: {what}")
            metrics, truth = await self._call_once(way, name, what, steps)
            own = max(metrics.samples("own_late_p99_ms"), default=0.0)
            theirs = truth[-1]["late_ms"]
            if attempt == ATTEMPTS or (own <= TRUSTED_LATE_MS and theirs <= STALL_MS):
                break
        found = self._found
        found.own_late_p99_ms = max(found.own_late_p99_ms, own)
        found.reference_late_ms = max(found.reference_late_ms, theirs)
        return metrics, truth

    async def _call_once(
        self, way: Way, name: str, what: str, steps: Sequence[Mapping[str, Any]]
    ) -> tuple[Metrics, list[dict[str, Any]]]:
        self._calls += 1
        number = f"+1555{self._calls:07}"
        to = self._ref.target(way, name) if name else {"sip": self._ref.sip_target}.get(way, self._ref.twilio_target)
        scenario = Scenario.model_validate(
            {"schema": 1, "name": "calibration", "target": {"to": to, "from": number}, "steps": list(steps)}
        )
        script = await prepare(scenario, self._folder, cache=self._cache, seed=self._seed)
        caller = Caller(scenario, script, self._seed)
        order = CallOrder(scenario.target, scenario.media, f"calibration-{self._calls}", seed=self._seed)
        async with open_phone(scenario.target, auth_token=self._ref.auth_token) as phone:
            log = await phone.carry(order, caller)
        record = caller.record
        if not log.answered or record.gave_up:
            raise _NotComparable(f"{what}: {record.gave_up or f'not answered, status {log.status}'}")
        metrics = await asyncio.to_thread(measure_call, log, record, scenario, sounds=script.sounds)
        return metrics, await self._truth(number)

    async def _truth(self, number: str) -> list[dict[str, Any]]:
        """What the reference noted of the call from this number."""
        async with asyncio.timeout(SETTLE_S):
            while True:
                entries = self._ref.truth()
                ids = {entry["call"] for entry in entries if str(entry.get("from", "")).endswith(number[1:])}
                mine = [entry for entry in entries if entry["call"] in ids]
                if mine and mine[-1]["what"] == "ended":
                    return mine
                await asyncio.sleep(0.05)

    def _compare(
        self,
        way: str,
        metric: str,
        true: Sequence[float],
        metrics: Metrics,
        tolerance: float = TOLERANCE_MS,
        unit: str = "ms",
    ) -> None:
        self._add(way, metric, true, metrics.samples(metric), tolerance, unit)

    def _add(
        self,
        way: str,
        metric: str,
        true: Sequence[float],
        measured: Sequence[float],
        tolerance: float = TOLERANCE_MS,
        unit: str = "ms",
    ) -> None:
        if len(true) != len(measured) or not true:
            said = f"there were {len(true)} and {len(measured)} were measured: {_list(true)} and {_list(measured)}"
            self._found.wrong.append(f"{way} {metric}: {said}")
            return
        error = max((b - a for a, b in zip(true, measured, strict=True)), key=abs)
        medians = statistics.median(true), statistics.median(measured)
        self._found.rows.append(Row(way, metric, unit, *medians, error, tolerance, len(true)))

    def _same(self, way: str, metric: str, true: float, metrics: Metrics) -> None:
        self._add(way, metric, [true], metrics.samples(metric), 0.0, "")


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in values) or "none"
