"""Figures of many calls: percentiles, how sure they are, and whether two runs differ by more than chance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, comb
from typing import Final

import numpy as np

RESAMPLES: Final = 2000
"""Resamples of a bootstrap: the bounds of a 95 % interval then move by less than a tenth of its width."""

CONFIDENCE: Final = 0.95

FEWEST_OF_A_RATE: Final = 10
"""Events below which a rate is not shown: one of them would move it by more than a tenth."""

NOISE_SEED: Final = 20_260_101
"""Of the resampling: the same samples give the same interval."""

DEALT: Final = 200
"""Deals of a permutation test that are looked at together."""

Spread = dict[str, float | None]
"""n, p50, p90, p95, p99 and max; None where there is nothing."""

Statistics = dict[str, float | None]
"""A spread, and p95_low and p95_high, the bounds of the 95 % interval of p95."""


def spread(samples: Sequence[float]) -> Spread:
    """Percentiles by linear interpolation."""
    names = ("p50", "p90", "p95", "p99", "max")
    if not len(samples):
        return {"n": 0, **dict.fromkeys(names)}
    found = np.percentile(np.asarray(samples, np.float64), [50, 90, 95, 99, 100]).tolist()
    return {"n": len(samples), **dict(zip(names, found, strict=True))}


def statistics(samples: Sequence[float]) -> Statistics:
    """Percentiles by linear interpolation; all None without samples, the interval None with fewer than three."""
    low, high = p95_interval(samples) if len(samples) >= 3 else (None, None)
    return {**spread(samples), "p95_low": low, "p95_high": high}


def p95_interval(samples: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Bounds of the 95 % interval of the p95, by the percentile bootstrap (Efron 1979)."""
    drawn = _resampled_p95(np.asarray(samples, np.float64), np.random.default_rng(NOISE_SEED))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return float(low), float(high)


def _resampled_p95(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    picks = rng.integers(0, len(values), (RESAMPLES, len(values)))
    return np.asarray(np.percentile(values[picks], 95, axis=1))


def pass_power(passed: int, of: int, k: int) -> float | None:
    """pass^k: the chance that k calls, drawn from those made, all passed; None when fewer than k were made."""
    return comb(passed, k) / comb(of, k) if 0 < k <= of else None


def samples_of(value: object) -> list[float]:
    """The samples of one metric of one call, which has one value, a list of them, or none that is a number."""
    values = value if isinstance(value, list | tuple) else [value]
    return [float(item) for item in values if isinstance(item, int | float) and not isinstance(item, bool)]


def gathered(metrics: Iterable[Mapping[str, object]]) -> dict[str, Statistics]:
    """Statistics of every numeric metric over calls; lists are taken sample by sample."""
    samples: dict[str, list[float]] = {}
    for one in metrics:
        for name, value in one.items():
            samples.setdefault(name, []).extend(samples_of(value))
    return {name: statistics(values) for name, values in samples.items() if values}


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric in two runs."""

    metric: str
    before: float
    after: float
    "p95 of both."
    low: float
    high: float
    "95 % interval of after - before."
    samples: tuple[int, int]
    worse: bool
    "Worse beyond noise, and by more than what is worth a word."
    better: bool


def difference(
    metric: str, before: Sequence[float], after: Sequence[float], *, slack: float, higher_is_worse: bool = True
) -> Difference | None:
    """Compare the p95 of two runs; None when one has fewer than five samples.

    Args:
        metric: its name.
        before, after: samples.
        slack: a change smaller than this, in the metric's unit, is no change however sure it is.
        higher_is_worse: False of scores, whose p5 is compared instead.
    """
    if min(len(before), len(after)) < 5:
        return None
    sign = 1.0 if higher_is_worse else -1.0
    old, new = sign * np.asarray(before, np.float64), sign * np.asarray(after, np.float64)
    rng = np.random.default_rng(NOISE_SEED)
    drawn = _resampled_p95(new, rng) - _resampled_p95(old, rng)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = (float(value) for value in np.percentile(drawn, [tail, 100 - tail]))
    was, now = float(np.percentile(old, 95)), float(np.percentile(new, 95))
    worse, better = low > 0 and now - was > slack, high < 0 and was - now > slack
    low, high = sorted((sign * low, sign * high))
    return Difference(metric, sign * was, sign * now, low, high, (len(old), len(new)), worse, better)


Calls = Sequence[Sequence[float]]
"""Of one metric: the samples of each call."""


def beyond_chance(strata: Sequence[tuple[Calls, Calls]], *, level: float, higher_is_worse: bool = True) -> bool:
    """Whether two runs differ in their p95 (of scores: p5) by more than chance would make them.

    A permutation test (Fisher 1935): calls are dealt to both runs anew, each stratum for itself, and the difference
    must hardly ever be as great again. It is exact for however few calls, and samples of one call stay together.

    Args:
        strata: of each scenario the calls of the earlier and of the later run.
        level: share of the deals that may differ as much.
        higher_is_worse: as in `difference`.
    """
    sign = 1.0 if higher_is_worse else -1.0
    values: list[float] = []
    call_of: list[int] = []
    later: list[bool] = []
    parts = []
    for before, after in strata:
        begun = len(later)
        for run, calls in enumerate((before, after)):
            for samples in calls:
                values += [sign * value for value in samples]
                call_of += [len(later)] * len(samples)
                later.append(bool(run))
        parts.append(slice(begun, len(later)))
    order = np.argsort(np.asarray(values, np.float64), kind="stable")
    ranked, ranked_call = np.asarray(values, np.float64)[order], np.asarray(call_of, np.intp)[order]
    labels = np.asarray(later, np.bool_)
    seen = _p95_changes(ranked, labels[None, ranked_call])
    if not len(seen):
        return False
    deals = ceil(2 / level)
    allowed = int(level * (deals + 1)) - 1  # the deal that was seen is one of them
    rng = np.random.default_rng(NOISE_SEED)
    for done in range(0, deals, DEALT):
        dealt = np.tile(labels, (min(DEALT, deals - done), 1))
        for part in parts:
            dealt[:, part] = rng.permuted(dealt[:, part], axis=1)
        allowed -= int((np.abs(_p95_changes(ranked, dealt[:, ranked_call])) >= abs(seen[0]) - 1e-9).sum())
        if allowed < 0:
            return False
    return True


def _p95_changes(ranked: np.ndarray, later: np.ndarray) -> np.ndarray:
    """p95 of the later samples less that of the others, in each row; rows in which one side has none are left out.

    Args:
        ranked: samples in order.
        later: a row for each deal: which samples are the later run's.
    """
    some = later.any(axis=1) & ~later.all(axis=1)
    changes = np.zeros(int(some.sum()))
    for side, sign in ((later[some], 1.0), (~later[some], -1.0)):
        counts = side.cumsum(axis=1, dtype=np.int32)
        place = 0.95 * (counts[:, -1] - 1)
        low = np.floor(place).astype(np.int32)
        high = np.minimum(low + 1, counts[:, -1] - 1)
        first, second = (ranked[(counts > at[:, None]).argmax(axis=1)] for at in (low, high))
        changes += sign * (first + (place - low) * (second - first))
    return changes
