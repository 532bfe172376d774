"""When each call of a load begins: an open loop, planned to the last call before the first one is made.

With a rate that goes straight from a to b over T seconds, and then stays, the calls expected by second t are
Λ(t) = a·t + (b - a)·t²/2T. Arrivals are where Λ passes 0, 1, 2, … (even), or the sums of exponential steps of mean 1
(a Poisson process with that rate, by inversion: Çinlar, Introduction to Stochastic Processes, 1975, section 4.5).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, takewhile
from math import sqrt
from random import Random
from typing import Final

MAX_CALLS: Final = 500_000
"""Calls of one load: a day at 6 a second; all of them are planned ahead, in some 50 MB."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One call to come."""

    number: int
    "From 1."
    at: float
    "Seconds from the beginning of the load."
    part: int
    "Index in the mix."


def expected(start: float, to: float, over: float, hold: float) -> float:
    """Calls that begin in a ramp of `over` seconds from rate `start` to rate `to`, and `hold` seconds after it."""
    return (start + to) / 2 * over + to * hold


def times(start: float, to: float, over: float, hold: float, *, even: bool, seed: int) -> Iterator[float]:
    """Seconds at which calls begin, in order."""
    steps: Iterator[float]
    if even:
        steps = (float(number) for number in count())
    else:
        chance = Random(f"{seed}/arrivals")  # noqa: S311  # chance that must repeat itself
        steps = accumulate(chance.expovariate(1.0) for _ in count())
    in_ramp = expected(start, to, over, 0.0)
    bend = (to - start) / over if over else 0.0
    for step in takewhile(lambda step: step < expected(start, to, over, hold), steps):
        if step < in_ramp:
            # the root of a·t + s·t²/2 = x in the form that bears s = 0, and a = 0 but for x = 0
            root = start + sqrt(max(0.0, start * start + 2 * bend * step))
            yield 2 * step / root if root else 0.0
        else:
            yield over + (step - in_ramp) / to


def arrivals(
    start: float, to: float, over: float, hold: float, *, weights: Sequence[float], even: bool = False, seed: int = 1
) -> list[Arrival]:
    """Plan a load.

    Args:
        start: Calls a second at the beginning; `to`: at the end of the ramp and after it.
        over: Seconds of the ramp; `hold`: seconds after it.
        weights: Of the parts of the mix. Every call draws its own.
        even: Like clockwork instead of like strangers.
        seed: Of everything random.
    """
    chance = Random(f"{seed}/mix")  # noqa: S311  # chance that must repeat itself
    parts = range(len(weights))
    return [
        Arrival(number, at, chance.choices(parts, weights)[0])
        for number, at in enumerate(times(start, to, over, hold, even=even, seed=seed), 1)
    ]
