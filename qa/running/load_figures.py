"""Figures of a load by windows of time, put together from what its processes tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from offhook.qa.result import TRUSTED_LATE_MS
from offhook.qa.running.knee import FEWEST, Window
from offhook.qa.running.load_worker import Batch, Ended, Histogram, percentile
from offhook.qa.running.statistics import Spread, spread

MAX_REASONS: Final = 50
"""Different reasons of failures that are counted apart."""

OTHER: Final = "other reasons"


@dataclass(slots=True)
class _Cell:
    """What one process told of one window."""

    began: int = 0
    ended: int = 0
    failed: int = 0
    left_out: int = 0
    mistakes: int = 0
    late: int = 0
    replies: list[float] = field(default_factory=list)
    greetings: list[float] = field(default_factory=list)
    setups: list[float] = field(default_factory=list)
    gaps: Counter[int] = field(default_factory=Counter)
    beats: Counter[int] = field(default_factory=Counter)

    @property
    def late_ms(self) -> float | None:
        return percentile(self.beats, 0.99)

    @property
    def counts(self) -> bool:
        """Whether the process was on time; otherwise what it measured in the window is left out."""
        late = self.late_ms
        return not self.mistakes and (late is None or late <= TRUSTED_LATE_MS)


@dataclass(slots=True)
class ProcessReport:
    """How one of our own processes did."""

    pid: int
    calls: int = 0
    late_p99_ms: float | None = None
    "Of its heartbeats, all the load long."
    late_max_ms: float | None = None
    frames: int = 0
    "Of its callers."
    frames_late_p99_ms: float | None = None


@dataclass(slots=True)
class PartReport:
    """One scenario of the mix."""

    name: str
    file: str
    calls: int = 0
    failed: int = 0
    v2v_ms: Spread = field(default_factory=dict)


class Figures:
    """Everything that was told so far.

    Args:
        window: Seconds of a window.
    """

    def __init__(self, window: float) -> None:
        self.length = window
        self.totals = _Cell()
        self.cut = 0
        "Calls that were under way when the load was stopped; they count neither way."
        self.unreachable = 0
        self.reasons: Counter[str] = Counter()
        "Why calls failed."
        self.mistakes: Counter[str] = Counter()
        "What went wrong in this program."
        self.by_part: dict[int, tuple[int, int]] = {}
        "Calls that ended, and that failed, of each part of the mix."
        self._cells: dict[int, dict[int, _Cell]] = {}
        self._under_way: dict[int, tuple[int, float]] = {}
        "Window → calls that began less those that ended in it, and for how long they count there."
        self._replies: list[tuple[int, int, int, float]] = []
        "Window, process, part of the mix and ms, of calls that are over."
        self._told: dict[int, list[tuple[int, int, float]]] = {}
        "The same of calls under way, by their numbers: window, process and ms."
        self._late: dict[int, Counter[int]] = {}
        self._own: dict[int, Counter[int]] = {}

    def add(self, process: int, batch: Batch) -> None:
        """Take what a process tells."""
        for at in batch.began:
            self._cell(process, at).began += 1
            self.totals.began += 1
            self._count(at, 1)
        for at in batch.left_out:
            self._cell(process, at).left_out += 1
            self.totals.left_out += 1
        for at, call, milliseconds in batch.replies:
            self._told.setdefault(call, []).append((self._number(at), process, milliseconds))
        for number, beats in batch.beats.items():
            self._numbered(process, number).beats.update(beats)
            self._own.setdefault(process, Counter()).update(beats)
        for ended in batch.ended:
            self._ended(process, ended)

    def _ended(self, process: int, ended: Ended) -> None:
        cell = self._cell(process, ended.at)
        self._count(ended.at, -1)
        self._late.setdefault(process, Counter()).update(ended.late)
        self._told.pop(ended.number, None)
        if (percentile(ended.late, 0.99) or 0.0) > TRUSTED_LATE_MS and not ended.cut:
            # Whatever the target did, it heard a caller who stammers.
            cell.late += 1
            self.totals.late += 1
            return
        for at, milliseconds in ended.replies:
            self._cell(process, at).replies.append(milliseconds)
            self._replies.append((self._number(at), process, ended.part, milliseconds))
        if ended.greeting is not None:
            self._cell(process, ended.greeting[0]).greetings.append(ended.greeting[1])
        if ended.setup_ms is not None:
            self._cell(process, ended.began).setups.append(ended.setup_ms)
        for number, gaps in ended.gaps:
            self._numbered(process, number).gaps.update(gaps)
        if ended.mistake:
            cell.mistakes += 1
            self.totals.mistakes += 1
            _note(self.mistakes, ended.mistake)
        elif ended.cut:
            self.cut += 1
        else:
            for count in (cell, self.totals):
                count.ended += 1
                count.failed += bool(ended.failed)
            calls, failed = self.by_part.get(ended.part, (0, 0))
            self.by_part[ended.part] = (calls + 1, failed + bool(ended.failed))
            self.unreachable += ended.unreachable
            if ended.failed:
                _note(self.reasons, ended.failed)

    def _number(self, at: float) -> int:
        return int(max(0.0, at) / self.length)

    def _cell(self, process: int, at: float) -> _Cell:
        return self._numbered(process, self._number(at))

    def _numbered(self, process: int, number: int) -> _Cell:
        return self._cells.setdefault(number, {}).setdefault(process, _Cell())

    def _count(self, at: float, change: int) -> None:
        number = self._number(at)
        net, area = self._under_way.get(number, (0, 0.0))
        self._under_way[number] = net + change, area + change * ((number + 1) * self.length - at)

    def windows(self, until: float, first: int = 0) -> Iterator[Window]:
        """The windows from number `first` to second `until`; the last one may be shorter."""
        level = sum(self._under_way[number][0] for number in self._under_way if number < first)
        number = first
        while number * self.length < until:
            end = min((number + 1) * self.length, until)
            net, area = self._under_way.get(number, (0, 0.0))
            seconds = end - number * self.length
            cut = (number + 1) * self.length - end
            yield self._window(number, end, level + (area - net * cut) / seconds)
            level += net
            number += 1

    def _window(self, number: int, end: float, calls: float) -> Window:
        cells = self._cells.get(number, {})
        trusted = {process: cell for process, cell in cells.items() if cell.counts}
        good = list(trusted.values())
        told = [
            milliseconds
            for replies in self._told.values()
            for window, process, milliseconds in replies
            if window == number and process in trusted
        ]
        late = [cell.late_ms for cell in (good or cells.values()) if cell.late_ms is not None]
        ended, failed = sum(cell.ended for cell in good), sum(cell.failed for cell in good)
        gaps: Counter[int] = Counter()
        for cell in good:
            gaps.update(cell.gaps)
        replies = _enough(told + [value for cell in good for value in cell.replies])
        greetings = _enough([value for cell in good for value in cell.greetings])
        setups = _enough([value for cell in good for value in cell.setups])
        figures = {
            **{f"v2v_{name}": replies[name] for name in ("p50", "p95", "p99")},
            **{f"greeting_{name}": greetings[name] for name in ("p50", "p95", "p99")},
            "setup_p95": setups["p95"],
            "packet_gap_p99": percentile(gaps, 0.99),
            "failures": 100 * failed / ended if ended >= FEWEST else None,
        }
        return Window(
            start=number * self.length,
            end=round(end, 3),
            calls=round(calls, 3),
            began=sum(cell.began for cell in cells.values()),
            ended=sum(cell.ended for cell in cells.values()),
            failed=sum(cell.failed for cell in cells.values()),
            left_out=sum(cell.left_out for cell in cells.values()),
            figures={name: None if value is None else round(value, 3) for name, value in figures.items()},
            late_ms=max(late, default=None),
            late=sum(cell.late for cell in cells.values()),
            doubtful=bool(cells) and (not good or sum(cell.late for cell in good) > ended),
        )

    # --- the whole of it ---

    def _trusted(self, number: int, process: int) -> bool:
        return self._cells[number][process].counts

    def overall(self) -> dict[str, Spread]:
        """All of the load, but for what late processes measured."""
        cells = [cell for cells in self._cells.values() for cell in cells.values() if cell.counts]
        gaps: Counter[int] = Counter()
        for cell in cells:
            gaps.update(cell.gaps)
        return {
            "v2v_ms": spread([value for cell in cells for value in cell.replies]),
            "greeting_ms": spread([value for cell in cells for value in cell.greetings]),
            "setup_ms": spread([value for cell in cells for value in cell.setups]),
            "packet_gap_ms": _of_histogram(gaps),
        }

    def part(self, number: int, name: str, file: str) -> PartReport:
        """One scenario of the mix."""
        calls, failed = self.by_part.get(number, (0, 0))
        replies = [
            value for window, process, part, value in self._replies if part == number and self._trusted(window, process)
        ]
        return PartReport(name, file, calls, failed, spread(replies))

    def process(self, number: int, pid: int) -> ProcessReport:
        """One of our own processes."""
        beats, late = self._own.get(number, Counter()), self._late.get(number, Counter())
        began = sum(cells[number].began for cells in self._cells.values() if number in cells)
        return ProcessReport(
            pid,
            began,
            percentile(beats, 0.99),
            percentile(beats, 1.0),
            late.total(),
            percentile(late, 0.99),
        )


def _enough(values: list[float]) -> Spread:
    return spread(values if len(values) >= FEWEST else [])


def _of_histogram(histogram: Histogram) -> Spread:
    shares = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {"n": sum(histogram.values()), **{name: percentile(histogram, share) for name, share in shares.items()}}


def _note(reasons: Counter[str], reason: str) -> None:
    reasons[reason if reason in reasons or len(reasons) < MAX_REASONS else OTHER] += 1
