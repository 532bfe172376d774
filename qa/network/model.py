"""What a network does to packets in one direction: when each one arrives, if at all. No clock and no socket in here.

Theory of operation
-------------------
A packet passes, in this order:

1. the queue of a link with `rate` bits a second, which holds `MAX_QUEUE_S` and drops what comes to a full one;
2. chance: Gilbert's model of loss. A good state loses nothing, a bad one everything; the chances of changing between
   them follow from the mean `loss` and the mean length `burst` of a run. Where `burst` is no longer than the runs of
   independent losses are anyway, losses are independent;
3. the way: `delay` plus a normal deviation of `jitter`, never less than nothing, never before the packet sent earlier;
4. overtaking: a packet that is to be `reorder`ed comes just after its successor;
5. a `freeze`: what would arrive within it arrives at its end.

TCP (`ordered`) shows the program nothing of losses, duplicates and overtaking but delay: a lost segment comes again
after a retransmission time-out, which doubles each time, and all that was sent later waits behind it.

Each fault draws from a source of chance of its own, once a packet: whether packet 17 is lost depends on the seed and
the loss settings alone, not on the time, the jitter, or what the other direction does.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from heapq import heappop, heappush
from random import Random
from typing import Final, Generic, TypeVar

from offhook.qa.scenario.model import Network

MAX_QUEUE_S: Final = 1.0
"""Seconds of backlog that a slow link holds before it drops datagrams; home routers hold about so much."""

RETRANSMIT_S: Final = 0.2
"""Least retransmission time-out of TCP, Linux's `TCP_RTO_MIN` (RFC 6298 section 2.4 would have a second)."""

MAX_RETRANSMISSIONS: Final = 6
"""After which a segment gets through however bad the line is: the wait has doubled to 13 s by then."""

USUAL_GAP_S: Final = 0.02
"""Between two packets, as long as no two were sent."""

MAX_GAP_S: Final = 0.06
"""Longest time that a packet waits to be overtaken; after a pause the successor is not waited for."""

SAME_S: Final = 0.0001
"""Two times that differ by no more than this are one: they were computed in two ways."""

Item = TypeVar("Item")


class NetworkModel:
    """One direction of a network.

    Times are seconds of whatever clock `now` is from; `freeze` and `reset` count from its second 0. On a call that is
    the track clock, in a relay it begins with the flow.

    Args:
        settings: What the network does.
        seed: Told apart from the other directions and calls; goes with `settings.seed`.
        ordered: The packets are parts of a TCP connection.
    """

    def __init__(self, settings: Network, seed: int | str = 0, *, ordered: bool = False) -> None:
        self.settings = settings
        self.ordered = ordered
        self.sent = 0
        "Packets."
        self.lost = 0
        "Of them: by chance, or by a full queue. With TCP: segments that had to be sent again."
        self.reordered = 0
        self.duplicated = 0
        self._delays = 0.0
        self._loss, self._jitter, self._order, self._twice = (
            Random(f"{settings.seed}/{seed}/{fault}")  # noqa: S311  # chance that must repeat itself
            for fault in ("loss", "jitter", "order", "twice")
        )
        # Gilbert, Capacity of a burst-noise channel, Bell System Technical Journal 39 (1960)
        if settings.loss < 1:
            self._heal = 1 / max(settings.burst, 1 / (1 - settings.loss))
            self._fall = settings.loss * self._heal / (1 - settings.loss)
        else:
            self._heal, self._fall = 0.0, 1.0
        self._bad = self._loss.random() < settings.loss
        # No two packets in a row can be overtaken by the next one, so the others must be so more often.
        self._overtaken = min(1.0, settings.reorder / max(1e-9, 1 - settings.reorder))
        self._freezes = sorted((when, when + long) for when, long in settings.freeze)
        self._deviation = self._deviate()
        "Of the next packet: known ahead, so that one which is to be overtaken knows when that will be."
        self._busy_until = float("-inf")
        self._floor = float("-inf")
        "Nothing arrives before what was sent earlier."
        self._held: float | None = None
        "When the packet before arrives, if it is to be overtaken by this one."
        self._last_sent: float | None = None

    @property
    def reset_at(self) -> float | None:
        """When TCP connections are reset; None: never."""
        return self.settings.reset

    @property
    def mean_delay(self) -> float:
        """Seconds that were added on average to what arrived."""
        arrived = self.sent - (0 if self.ordered else self.lost)
        return self._delays / arrived if arrived else 0.0

    def backlog(self, now: float) -> float:
        """Seconds of traffic that wait for the link. With TCP whoever sends should wait while it is long."""
        return max(0.0, self._busy_until - now)

    def send(self, size: int, now: float) -> tuple[float, ...]:
        """Send a packet.

        Args:
            size: Bytes, with as much of the headers as `rate` is meant to count.
            now: Never less than at the packet before.

        Returns:
            When it arrives: nothing if it is lost, two times if it is duplicated.
        """
        settings = self.settings
        self.sent += 1
        gap = USUAL_GAP_S if self._last_sent is None else min(MAX_GAP_S, now - self._last_sent)
        self._last_sent = now
        deviation, self._deviation = self._deviation, self._deviate()
        lost = self._is_lost()
        overtaken = self._order.random() < self._overtaken and self._held is None and not self.ordered
        twice = self._twice.random() < settings.duplicate and not self.ordered
        leaves = now
        if settings.rate:
            full = self._busy_until - now > MAX_QUEUE_S
            if full and not self.ordered:
                return self._nowhere()
            leaves = self._busy_until = max(now, self._busy_until) + size * 8 / settings.rate
        if self.ordered:
            leaves += self._retransmitted(lost)
        elif lost:
            return self._nowhere()
        arrives = max(self._floor, leaves + max(0.0, settings.delay + deviation))
        if overtaken:
            self.reordered += 1
            successor = max(arrives, leaves + gap + max(0.0, settings.delay + self._deviation))
            arrives = self._held = self._thawed(successor + gap / 4)
        else:
            arrives = self._thawed(arrives)
            # Only its successor comes before the one that was held back.
            self._floor = max(arrives, self._held or arrives)
            self._held = None
        self._delays += arrives - now
        if twice:
            self.duplicated += 1
            return (arrives, arrives)
        return (arrives,)

    def _nowhere(self) -> tuple[float, ...]:
        self.lost += 1
        self._floor = max(self._floor, self._held or self._floor)
        self._held = None
        return ()

    def _deviate(self) -> float:
        return self._jitter.gauss(0.0, self.settings.jitter) if self.settings.jitter else 0.0

    def _is_lost(self) -> bool:
        lost = self._bad
        self._bad = self._loss.random() >= self._heal if lost else self._loss.random() < self._fall
        return lost

    def _retransmitted(self, lost: bool) -> float:
        """Seconds until a segment is sent for the last time."""
        wait, timeout = 0.0, RETRANSMIT_S + 2 * self.settings.delay
        for _ in range(MAX_RETRANSMISSIONS):
            if not lost:
                break
            self.lost += 1
            wait += timeout
            timeout *= 2
            lost = self._is_lost()
        return wait

    def _thawed(self, at: float) -> float:
        for begins, ends in self._freezes:
            if begins <= at < ends:
                at = ends
        return at


class Delays:
    """What a network added to a stream in one direction, from packet to packet. Pickles as it is."""

    def __init__(self) -> None:
        self._at = array("d")
        self._added = array("d")

    def __len__(self) -> int:
        return len(self._at)

    def note(self, at: float, added: float) -> None:
        """A packet of that second came `added` seconds later than without the network. `at` never decreases."""
        if not self._at or at >= self._at[-1]:
            self._at.append(at)
            self._added.append(added)

    def of_next(self, at: float) -> float:
        """What was added to the first packet from that second on that arrived at all; after the last, to that."""
        return self._added[min(bisect_left(self._at, at - SAME_S), len(self._at) - 1)]

    def of_last(self, at: float) -> float:
        """What was added to the last packet up to that second; before the first, to that."""
        return self._added[max(bisect_right(self._at, at + SAME_S) - 1, 0)]


class Transit(Generic[Item]):
    """Packets under way through a model, in the order of their arrival."""

    def __init__(self, model: NetworkModel) -> None:
        self.model = model
        self._count = 0
        self._under_way: list[tuple[float, int, Item]] = []

    def __len__(self) -> int:
        return len(self._under_way)

    @property
    def next_at(self) -> float | None:
        """When the next packet arrives; None: none is under way."""
        return self._under_way[0][0] if self._under_way else None

    def put(self, item: Item, size: int, now: float) -> float | None:
        """Send a packet of `size` bytes; gives when it arrives, None when it is lost."""
        arrives = self.model.send(size, now)
        for at in arrives:
            self._count += 1
            heappush(self._under_way, (at, self._count, item))
        return arrives[0] if arrives else None

    def due(self, now: float) -> Iterator[tuple[float, Item]]:
        """Take what has arrived by `now`, each with the second of its arrival."""
        while self._under_way and self._under_way[0][0] <= now:
            at, _, item = heappop(self._under_way)
            yield at, item


def both_ways(settings: Network, seed: int | str = 0, *, ordered: bool = False) -> tuple[NetworkModel, NetworkModel]:
    """The network from the caller to the agent, and back."""
    return (
        NetworkModel(settings, f"{seed}/out", ordered=ordered),
        NetworkModel(settings, f"{seed}/back", ordered=ordered),
    )
