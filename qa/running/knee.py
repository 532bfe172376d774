"""What the windows of a load say: whether service was good, when to stop, and how much it bears (the knee)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from offhook.qa.scenario.units import Limit

FEWEST: Final = 10
"""Events of a window below which a percentile or share of them is not given: one would move it by a tenth."""

SUSTAINED: Final = 2
"""Judged windows in a row that must be bad before the knee is behind; one may be chance."""


@dataclass(slots=True)
class Window:
    """A stretch of time. JSON all the way down."""

    start: float
    "Seconds from the beginning of the load."
    end: float
    calls: float = 0.0
    "Under way, on average."
    began: int = 0
    ended: int = 0
    failed: int = 0
    late: int = 0
    "Calls that ended and count neither way, for our own frames of them were late."
    left_out: int = 0
    "Calls that did not begin, because there were `max_calls`."
    figures: dict[str, float | None] = field(default_factory=dict)
    "As in `load_model.FIGURES`; None: too little was measured."
    late_ms: float | None = None
    "p99 of how late the callers' own processes were, the worst of those that count."
    doubtful: bool = False
    "Our own processes were late or failed, or most calls were late: what was measured says nothing about the target."
    broken: list[str] = field(default_factory=list)
    "Limits that were not kept, as sentences."
    cores: float | None = None
    "Of CPU that the target used; None: not known."


def broken_limits(figures: Mapping[str, float | None], limits: Mapping[str, Limit]) -> list[str]:
    """The limits that figures do not keep, as `v2v_p95 1830 ms is not <=1500ms`. What is not known breaks none."""
    found = []
    for name, limit in limits.items():
        measured = figures.get(name)
        if measured is not None and not limit.holds(measured):
            found.append(f"{name} {measured:.4g} {limit.unit} is not {limit}")
    return found


def judged(window: Window, limits: Mapping[str, Limit]) -> bool:
    """Whether a window says anything about the target."""
    return not window.doubtful and any(window.figures.get(name) is not None for name in limits)


@dataclass(frozen=True, slots=True)
class Knee:
    """How much the target bears."""

    calls: float
    "At once, on average over the best window before the first bad ones; 0: not even the first windows were good."
    at: float
    "Second at which that window began."
    reached: bool
    "Service went bad above it. False: it never did, and the target bears more than was tried."
    why: list[str] = field(default_factory=list)
    "Which limits were broken."
    per_core: float | None = None
    "Calls for each core that the target used in that window, or that it was said to have."

    def __str__(self) -> str:
        calls = f"{self.calls:.0f} calls at once"
        if not self.reached:
            calls = f"at least {calls}: the limits were never broken for long"
        elif self.why:
            calls = f"{calls}; above that " + ", ".join(self.why)
        return calls if self.per_core is None else f"{calls} ({self.per_core:.1f} a core)"


def find_knee(windows: Iterable[Window], limits: Mapping[str, Limit], *, cores: float | None = None) -> Knee | None:
    """The most calls at once at which the limits were kept, before they were broken for long.

    Args:
        windows: In order of time; `broken` is filled in.
        limits: What good service is.
        cores: Of the target, where its CPU is not looked at.

    Returns:
        None when no window says anything.
    """
    good: list[Window] = []
    bad: list[Window] = []
    some = False
    for window in windows:
        if not judged(window, limits):
            continue
        some = True
        if window.broken:
            bad.append(window)
            if len(bad) == SUSTAINED:
                break
        else:
            bad.clear()
            good.append(window)
    if not some:
        return None
    if not good:
        return Knee(0.0, bad[0].start, reached=True, why=list(bad[0].broken))
    best = max(good, key=lambda window: window.calls)
    used = best.cores if best.cores is not None else cores
    # A bad window at the very end may be chance, but nothing above it was found good either.
    return Knee(
        best.calls, best.start, bool(bad), list(bad[0].broken) if bad else [], best.calls / used if used else None
    )


class StopRule:
    """Says when a load must be stopped, window by window.

    Args:
        limits: Figure → what must not become true.
        seconds: For so long.
    """

    def __init__(self, limits: Mapping[str, Limit], seconds: float) -> None:
        self._limits = limits
        self._seconds = seconds
        self._since: dict[str, float] = {}

    def look(self, window: Window) -> str:
        """Why to stop now; empty: go on. Doubtful windows, and those of too few calls, change nothing."""
        for name, limit in self._limits.items():
            measured = window.figures.get(name)
            if window.doubtful or measured is None:
                continue
            if not limit.holds(measured):
                self._since.pop(name, None)
                continue
            since = self._since.setdefault(name, window.start)
            if window.end - since >= self._seconds - 1e-9:
                return f"{name} {measured:.4g} {limit.unit} was {limit} for {window.end - since:g} s"
        return ""


def stopped_for_ourselves(windows: Sequence[Window], count: int = 3) -> bool:
    """Whether the latest windows are all doubtful: going on would measure this machine."""
    return len(windows) >= count and all(window.doubtful for window in windows[-count:])
