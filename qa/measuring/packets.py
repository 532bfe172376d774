"""What the agent's RTP packets tell: loss, jitter, gaps, order, timestamps (RFC 3550, RFC 3551)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from offhook.qa.activity import Span
from offhook.qa.phones.base import Arrivals

MISORDER: Final = 100
"""Sequence numbers behind the highest that still are the same run (RFC 3550 appendix A.1)."""

JUMP: Final = 3000
"""Sequence numbers ahead that still are a loss (the same place)."""

SILENCE_S: Final = 0.500
"""A sender that comes back after more than this was silent, whatever its timestamps say."""

PAUSE_SLACK_S: Final = 0.060
"""By how much a pause in timestamps may differ from the pause in packets: three packets."""

JITTER_GAIN: Final = 16
"""Of the estimator of RFC 3550 section 6.4.1."""


@dataclass(frozen=True, slots=True)
class Reception:
    """How a stream of packets came."""

    packets: int
    "Without duplicates."
    loss: float
    "Share of the expected packets, 0 to 1."
    lost_runs: list[int]
    "Length of every run of missing sequence numbers."
    duplicates: int
    reordered: int
    discontinuities: int
    ssrc_changes: int
    jitter_ms: float | None
    jitter_max_ms: float | None
    gap_p99_ms: float | None
    gap_max_ms: float | None


def percentile(values: Sequence[float], percent: float) -> float | None:
    """By linear interpolation; None of nothing."""
    return float(np.percentile(np.asarray(values), percent)) if len(values) else None


def examine(arrivals: Arrivals, stalls: Sequence[Span] = ()) -> Reception:
    """Look at all packets of a call.

    Args:
        arrivals: in the order they came.
        stalls: when this program was late; gaps that touch them are left out.
    """
    stream = _Stream(arrivals, stalls)
    runs = 0
    for number, ssrc in enumerate(arrivals.ssrc):
        if number == 0 or ssrc != arrivals.ssrc[number - 1]:
            stream.close()
            runs += 1
        stream.take(number)
    stream.close()
    lost = sum(stream.lost_runs)
    return Reception(
        packets=stream.packets,
        loss=lost / (lost + stream.packets) if stream.packets else 0.0,
        lost_runs=stream.lost_runs,
        duplicates=stream.duplicates,
        reordered=stream.reordered,
        discontinuities=stream.discontinuities,
        ssrc_changes=max(0, runs - 1),
        jitter_ms=float(np.mean(stream.jitters)) * 1000 if stream.jitters else None,
        jitter_max_ms=max(stream.jitters) * 1000 if stream.jitters else None,
        gap_p99_ms=percentile(stream.gaps_ms, 99),
        gap_max_ms=max(stream.gaps_ms, default=None),
    )


class _Stream:
    """The packets of one source after the other."""

    def __init__(self, arrivals: Arrivals, stalls: Sequence[Span]) -> None:
        self._all = arrivals
        self._stalls = sorted((stall.start, stall.end) for stall in stalls)
        self._stall_starts = [start for start, _ in self._stalls]
        self._seen: set[int] = set()
        self._first = self._top = -1
        self._last = -1  # the packet that came before, by its place
        self._last_sequence = -1
        self._jitter = 0.0
        self.packets = self.duplicates = self.reordered = self.discontinuities = 0
        self.lost_runs: list[int] = []
        self.jitters: list[float] = []
        self.gaps_ms: list[float] = []

    def close(self) -> None:
        """The source ends: what was not seen is lost."""
        run = 0
        for sequence in range(self._first, self._top + 1) if self._seen else ():
            if sequence not in self._seen:
                run += 1
            elif run:
                self.lost_runs.append(run)
                run = 0
        self._seen.clear()
        self._first = self._top = self._last = self._last_sequence = -1
        self._jitter = 0.0

    def take(self, number: int) -> None:
        sequence = self._all.sequence[number]
        if self._seen:
            ahead = ((sequence - self._top + 0x8000) & 0xFFFF) - 0x8000
            if not -MISORDER <= ahead < JUMP:
                self.discontinuities += 1
                self.close()
        if not self._seen:
            self._first = self._top = extended = sequence
        else:
            extended = self._top + ahead
            if extended in self._seen:
                self.duplicates += 1
                return
            if extended < self._top:
                self.reordered += 1
                self._first = min(self._first, extended)
        self._seen.add(extended)
        self.packets += 1
        if extended >= self._top:
            self._top = extended
            if self._last >= 0:
                self._follow(number, extended - self._last_sequence)
            self._last, self._last_sequence = number, extended

    def _follow(self, number: int, step: int) -> None:
        """Compare with the packet before in order; `step` is by how many sequence numbers it is ahead."""
        came, clock = self._all.at, self._all.clock
        gap = came[number] - came[self._last]
        ticks = ((self._all.timestamp[number] - self._all.timestamp[self._last] + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)
        if ticks == 0:
            return  # the same moment: a key's further packets
        expected = step * self._all.ticks
        pause = ticks > expected
        if ticks < 0 or (pause and abs(ticks / clock - gap) > PAUSE_SLACK_S) or gap > ticks / clock + SILENCE_S:
            self.discontinuities += 1
            return
        drift = abs(gap - ticks / clock)
        self._jitter += (drift - self._jitter) / JITTER_GAIN
        self.jitters.append(self._jitter)
        if not pause and not self._stalled(came[self._last], came[number]):
            self.gaps_ms.append(gap * 1000)

    def _stalled(self, start: float, end: float) -> bool:
        at = bisect_right(self._stall_starts, end) - 1
        return at >= 0 and self._stalls[at][1] > start
