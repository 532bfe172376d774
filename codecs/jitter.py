"""The jitter buffer: RTP packets in as they arrive, the stream out in order and at an even pace.

Theory of operation. A packet's transit is its arrival minus its timestamp, in seconds; only differences of transits
mean anything. A packet is due at timestamp + offset. Were the offset the largest transit there is, nothing would ever
be late; were it the smallest, nothing would ever wait. So the offset goes up at once to the transit of a packet that
came late, and comes down slowly towards what the last seconds needed: the largest transit of each of the last
`WINDOWS` seconds, the worst `IGNORED` of these left out. Where arrivals lie within `CALM` of each other, the line is
clean and the offset is the smallest transit: every packet is due the moment it arrives.

Clock drift needs nothing of its own: transits that grow or shrink take the offset with them, and packets leave at the
sender's pace.

A missing packet is given up when it is due and a later one is here, since only then is it known that it was sent.
Where nothing is here, the buffer waits, and plays what comes in order however late it is: a stalled line loses nothing.
Nothing is said for a pause of the sender, when the timestamp moves on and the sequence does not.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

__all__ = ["JitterBuffer", "JitterStats", "Played"]

CALM: Final = 0.010
"""Seconds between the fastest and the slowest packet of a clean line: half a frame, which whoever plays can hold."""

EARLY: Final = 0.005
"""Seconds by which a packet may leave before it is due: `pop` comes every 10 ms or so, and rounding up only delays."""

WINDOW: Final = 1.0
WINDOWS: Final = 8
"""How far back the offset looks: 8 windows of a second. Jitter of access networks comes and goes within seconds."""

IGNORED: Final = 2
"""Worst windows of the 8 that do not hold the offset up: one spike in three seconds is not worth a constant delay."""

EASE: Final = 0.0008
"""Seconds by which the offset comes down with a packet: 4 % of its length, so that a spike of 150 ms is forgotten in
four seconds and nothing leaves in bursts."""

JUMP: Final = 3.0
"""Seconds of media time by which a stream may leap before it counts as another one (or as one begun anew)."""

JUMP_PACKETS: Final = 300
"""The same in sequence numbers, at the shortest packets there are (10 ms). It also bounds what is held."""

REMEMBERED: Final = 256
"""Packets given up that are remembered, so that a late one is told from a duplicate."""


class Played(NamedTuple):
    """A stretch of the stream."""

    payload: bytes | None
    "As it was pushed; None: lost, to be concealed."
    ticks: int
    "How long it lasts, in units of the RTP clock."


@dataclass(slots=True)
class JitterStats:
    """What has happened since the buffer was made; `reset` does not begin anew."""

    received: int = 0
    "Packets pushed, duplicates and late ones too."
    lost: int = 0
    "Packets given up."
    late: int = 0
    "Packets that came after they had been given up; these are among the lost."
    duplicate: int = 0
    reordered: int = 0
    "Packets that came after a later one, but in time."
    resets: int = 0
    "Leaps of the sequence or the timestamp, and calls of `reset`."
    jitter: float = 0.0
    "Interarrival jitter in seconds, smoothed as RFC 3550 6.4.1 does; times the clock rate it is the RTCP field."


class JitterBuffer:
    """Puts one RTP stream (one SSRC) in order. Call `reset` when the SSRC changes.

    Args:
        rate: RTP clock in Hz (8000 for G.722 too, 48000 for Opus).
        first_delay: seconds that the first packets wait, until the line is known.
        max_delay: seconds that a packet waits at most.
    """

    __slots__ = (
        "_drained",
        "_end",
        "_first_delay",
        "_given_up",
        "_goal",
        "_held",
        "_high",
        "_highs",
        "_late_above",
        "_low",
        "_lows",
        "_max_delay",
        "_next",
        "_offset",
        "_seconds",
        "_smallest",
        "_step",
        "_strange",
        "_timestamp",
        "_transit",
        "_until",
        "rate",
        "stats",
    )

    def __init__(self, rate: int, *, first_delay: float = 0.02, max_delay: float = 0.2) -> None:
        if rate <= 0:
            raise ValueError(f"rate {rate} is no RTP clock; give samples a second, such as 8000")
        if not 0 <= first_delay <= max_delay:
            raise ValueError(f"first_delay {first_delay} is not between 0 and max_delay {max_delay}; both are seconds")
        self.rate = rate
        self.stats = JitterStats()
        self._seconds = 1 / rate
        self._first_delay = first_delay
        self._max_delay = max_delay
        self._held: dict[int, tuple[int, bytes, int]] = {}  # sequence number, unwrapped: timestamp, payload, ticks
        self._drained: list[Played] = []  # left over by a reset, to be played first
        self._given_up: set[int] = set()
        self._lows: deque[float] = deque(maxlen=WINDOWS)
        self._highs: deque[float] = deque(maxlen=WINDOWS)
        self._next = -1  # sequence number, unwrapped, that is played next; -1: no packet yet
        self._timestamp = 0  # of the packet pushed last, unwrapped
        self._end: int | None = None  # timestamp at which what was played ends; None: nothing was
        self._step = 0  # ticks of the packet played last
        self._strange = -1  # sequence number that would confirm a leap
        self._transit = 0.0
        self._offset = self._goal = self._late_above = self._smallest = 0.0
        self._low, self._high = math.inf, -math.inf
        self._until = 0.0

    @property
    def depth(self) -> int:
        """Packets held."""
        return len(self._held)

    @property
    def delay(self) -> float:
        """Seconds that the fastest packets wait at present; 0 on a clean line."""
        return max(0.0, self._offset - self._smallest)

    def peek(self) -> bytes | None:
        """The payload that follows what was popped last, if it is here: it may carry a copy of what was lost (FEC)."""
        packet = self._held.get(self._next)
        return packet[1] if packet else None

    def reset(self) -> None:
        """Begin anew with the next packet, whatever its numbers. What is held comes out with the next `pop`."""
        held = self._held
        self._drained += [Played(held[seq][1], held[seq][2]) for seq in sorted(held) if held[seq][2]]
        held.clear()
        self._given_up.clear()
        self._next = self._strange = -1
        self._end = None
        self.stats.resets += 1

    def push(self, seq: int, timestamp: int, payload: bytes, ticks: int, now: float) -> None:
        """Take a packet.

        Args:
            seq: 16-bit sequence number.
            timestamp: 32-bit timestamp.
            payload: given back by `pop`, never looked at.
            ticks: how long the payload lasts in units of the clock; 0 for a packet of the stream that carries no
                audio (telephone-event), which only holds its place in the sequence.
            now: monotonic seconds.
        """
        stats = self.stats
        stats.received += 1
        following = self._next
        if following < 0:
            if not ticks:
                return  # nothing has begun that it could hold a place in
            self._begin(seq, timestamp, now)
            following = self._next
            time = timestamp
            transit = self._transit
        else:
            # Numbers are unwrapped by the shorter way round from what is expected.
            ahead = (seq - following & 0xFFFF ^ 0x8000) - 0x8000
            if ahead:
                if not -JUMP_PACKETS < ahead < JUMP_PACKETS:
                    if seq != self._strange:
                        # RFC 3550 A.1: one packet far off is a stray, two in sequence are a sender begun anew.
                        self._strange = seq + 1 & 0xFFFF
                        return
                    self.reset()
                    if not ticks:
                        return
                    self._begin(seq, timestamp, now)
                    ahead = 0
                    following = self._next
                elif ahead < 0 and self._end is not None:
                    self._overtaken(following + ahead, timestamp, ticks, now)
                    return
            time = self._timestamp
            time += (timestamp - time & 0xFFFFFFFF ^ 0x80000000) - 0x80000000
            transit = now - time * self._seconds
            if ticks and not -JUMP < transit - self._offset < JUMP:
                self.reset()
                self._begin(seq, timestamp, now)
                time, transit, following, ahead = timestamp, self._transit, self._next, 0
            following += ahead
            if following in self._held:
                stats.duplicate += 1
                return
            if time < self._timestamp and ticks:
                stats.reordered += 1
            if ahead < 0:
                self._next = following  # nothing has been played yet: the first packets came out of order
        self._held[following] = (time, payload, ticks)
        if ticks:
            self._timestamp = time
            self._measure(transit, now)

    def pass_on(self, seq: int, timestamp: int, ticks: int, now: float) -> bool:
        """Take a packet that is the next one, due already, with nothing before it, as on a clean line all of them are.

        True: play it, it will not come out of `pop`. False: nothing has changed, `push` it. Arguments as of `push`.
        """
        following = self._next
        if self._held or following < 0 or (seq ^ following) & 0xFFFF or now >= self._until or not ticks:
            return False
        ahead = timestamp - self._timestamp & 0xFFFFFFFF
        time = self._timestamp + ahead
        transit = now - time * self._seconds
        late = transit - self._offset
        if ahead > 0x7FFFFFFF or not -EARLY <= late < JUMP or self._drained:
            return False
        self.stats.received += 1
        self._timestamp = time
        self._measure(transit, now)
        self._end = time + ticks
        self._step = ticks
        self._next = following + 1
        return True

    def pop(self, now: float) -> list[Played]:
        """Give what is due, in order. To be called after every `push` and whenever a frame's time has passed."""
        held = self._held
        played: list[Played] = []
        if self._drained:
            played, self._drained = self._drained, played
        if not held:
            return played
        due = now - self._offset
        while held:
            following = self._next
            packet = held.get(following)
            if packet is None:
                if not self._give_up(due, played):
                    break
                continue
            time, payload, ticks = packet
            if ticks:
                if time * self._seconds > due + EARLY:
                    break
                self._end = time + ticks
                self._step = ticks
                played.append(Played(payload, ticks))
            del held[following]
            self._next = following + 1
        return played

    def _give_up(self, due: float, played: list[Played]) -> bool:
        """Deal with the missing packet: True when the sequence moved on, False when it may still come."""
        later = min(self._held)
        time, _, ticks = self._held[later]
        gap = later - self._next
        end = self._end
        silent = 0 if end is None else time - end
        if end is None or not 0 < silent <= JUMP * self.rate:
            # No audio is missing: what was lost carried none, or the sender leapt.
            self._forget(later)
            return True
        if end * self._seconds > due:
            return False
        # A gap longer than its packets holds a pause as well.
        step = min(silent // gap, max(self._step, ticks)) or silent
        played.append(Played(None, step))
        self._end = end + step
        self._forget(self._next + 1)
        return True

    def _forget(self, until: int) -> None:
        if len(self._given_up) > REMEMBERED:
            self._given_up.clear()
        self._given_up.update(range(self._next, until))
        self.stats.lost += until - self._next
        self._next = until

    def _overtaken(self, seq: int, timestamp: int, ticks: int, now: float) -> None:
        """A packet whose time is over: had it been late, the next ones shall wait for the likes of it."""
        if seq not in self._given_up:
            self.stats.duplicate += 1
            return
        self._given_up.discard(seq)
        self.stats.late += 1
        time = self._timestamp + ((timestamp - self._timestamp & 0xFFFFFFFF ^ 0x80000000) - 0x80000000)
        transit = now - time * self._seconds
        if ticks and -JUMP < transit - self._offset < JUMP:
            self._measure(transit, now)

    def _begin(self, seq: int, timestamp: int, now: float) -> None:
        self._next = seq + 0x10000  # room for earlier packets that come later
        self._timestamp = timestamp
        self._transit = self._smallest = transit = now - timestamp * self._seconds
        self._lows.clear()
        self._highs.clear()
        self._low = self._high = transit
        self._until = now + WINDOW
        self._goal = transit + self._first_delay
        self._set(self._goal)

    def _measure(self, transit: float, now: float) -> None:
        stats = self.stats
        stats.jitter += (abs(transit - self._transit) - stats.jitter) / 16
        self._transit = transit
        if transit < self._low:
            self._low = transit
            if transit < self._smallest:
                self._smallest = transit
                self._set(min(self._offset, transit + self._max_delay))
        if transit > self._high:
            self._high = transit
        if transit > self._late_above:
            self._goal = transit  # until the window ends
            self._set(min(transit, self._smallest + self._max_delay))
        elif self._offset > self._goal:
            self._set(max(self._goal, self._offset - EASE))
        if now >= self._until:
            self._turn(now)

    def _turn(self, now: float) -> None:
        """A window ends: forget the oldest and let the offset come down."""
        lows, highs = self._lows, self._highs
        if lows and self._low > min(lows) + self._max_delay:
            # The way has become longer for good, or the sender's timestamps stood still for a while.
            lows.clear()
            highs.clear()
        lows.append(self._low)
        highs.append(self._high)
        self._low, self._high = math.inf, -math.inf
        self._until = now + WINDOW
        smallest = self._smallest = min(lows)
        needed = sorted(highs)[len(highs) - 1 - len(highs) * IGNORED // WINDOWS]
        self._goal = smallest if needed - smallest <= CALM else needed
        self._set(min(max(self._goal, self._offset), smallest + self._max_delay))

    def _set(self, offset: float) -> None:
        self._offset = offset
        self._late_above = max(offset, self._smallest + CALM)
