"""What each side tells the other of its reception: the figures of RFC 3550 appendix A, and when to report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from offhook.providers.rtp import rtcp

INTERVAL: Final = 5.0
"""Seconds between reports, halved or half as much again by chance (RFC 3550 section 6.2)."""

JUMP: Final = 3000
"""Sequence numbers ahead that still are a loss; further is another stream (RFC 3550 appendix A.1)."""

MISORDER: Final = 100
"""Sequence numbers behind that still are a reordering."""

MAX_RTT: Final = 30.0
"""Seconds; a longer round trip is a peer that counts wrongly."""


class Reception:
    """One stream of the peer, by the numbers of its packets."""

    __slots__ = (
        "_before",
        "_clock",
        "_expected_then",
        "_first",
        "_received_then",
        "received",
        "ssrc",
        "top",
    )

    def __init__(self, ssrc: int, clock: int) -> None:
        self.ssrc = ssrc
        self.received = 0
        self.top = -1
        "Highest sequence number, with its cycles above 16 bits; -1: none yet."
        self._clock = clock
        self._first = 0
        self._before = 0  # packets expected in earlier runs of numbers
        self._expected_then = self._received_then = 0

    def count(self, sequence: int) -> None:
        """Take a packet of any kind."""
        self.received += 1
        top = self.top
        ahead = (sequence - top) & 0xFFFF
        if ahead == 1 and top >= 0:
            self.top = top + 1
        elif top < 0:
            self.top = self._first = sequence
        elif ahead < JUMP:
            self.top = top + ahead
        elif 0x10000 - ahead > MISORDER:
            self._before = self.expected
            self.top = self._first = sequence

    @property
    def expected(self) -> int:
        """Packets that the peer has sent, as far as the numbers tell."""
        return self._before + (self.top - self._first + 1 if self.top >= 0 else 0)

    def block(self, last_report: int, delay: float, jitter: float) -> rtcp.ReportBlock:
        """What to tell the peer; the fraction is that since the last call. Both times in seconds."""
        expected, received = self.expected, self.received
        span, came = expected - self._expected_then, received - self._received_then
        self._expected_then, self._received_then = expected, received
        fraction = min(255, max(0, (span - came) * 256 // span)) if span > 0 else 0
        ticks = min(0xFFFFFFFF, int(jitter * self._clock))
        since = min(0xFFFFFFFF, int(delay * 65536)) if last_report else 0
        return rtcp.ReportBlock(
            self.ssrc, fraction, expected - received, self.top & 0xFFFFFFFF, ticks, last_report, since
        )


class Reporter:
    """Both directions of RTCP of one call. NTP times are those of our monotonic clock (RFC 3550 section 6.4.1)."""

    __slots__ = ("_chance", "_cname", "_heard_at", "_heard_report", "_ssrc", "loss", "next_at", "remote_jitter", "rtt")

    def __init__(self, ssrc: int, cname: str, now: float, chance: Callable[[], float]) -> None:
        self._ssrc, self._cname, self._chance = ssrc, cname, chance
        self.next_at = now + INTERVAL * (0.25 + 0.5 * chance())
        "When to report; the first time after half the interval."
        self._heard_report = 0
        self._heard_at = 0.0
        self.rtt: float | None = None
        "Seconds."
        self.loss: float | None = None
        "Share of our packets that the peer lost since its report before, 0 to 1."
        self.remote_jitter: float | None = None
        "In ticks of our clock."

    def report(
        self,
        now: float,
        timestamp: int,
        packets: int,
        octets: int,
        reception: Reception | None,
        jitter: float = 0.0,
        *,
        leaving: bool = False,
    ) -> bytes:
        """A compound packet.

        `timestamp` is that of our stream at `now`; `packets` is 0 where we have sent nothing lately; `jitter` is the
        interarrival jitter of the reception in seconds.
        """
        self.next_at = now + INTERVAL * (0.5 + self._chance())
        blocks: tuple[rtcp.ReportBlock, ...] = ()
        if reception is not None and reception.received:
            blocks = (reception.block(self._heard_report, now - self._heard_at, jitter),)
        head: rtcp.Report = rtcp.ReceiverReport(self._ssrc, blocks)
        if packets:
            head = rtcp.SenderReport(self._ssrc, _ntp(now), timestamp, packets, octets, blocks)
        return rtcp.build([head, rtcp.Goodbye((self._ssrc,))] if leaving else [head], self._cname)

    def receive(self, reports: list[rtcp.Report], now: float) -> None:
        """Take what the peer reports."""
        for report in reports:
            if isinstance(report, rtcp.Goodbye):
                continue
            if isinstance(report, rtcp.SenderReport):
                self._heard_report, self._heard_at = report.ntp >> 16 & 0xFFFFFFFF, now
            for block in report.blocks:
                if block.ssrc == self._ssrc:
                    self._hear(block, now)

    def _hear(self, block: rtcp.ReportBlock, now: float) -> None:
        self.loss = block.fraction_lost / 256
        self.remote_jitter = float(block.jitter)
        if block.last_report:
            # RFC 3550 section 6.4.1: A - LSR - DLSR; a little below zero is rounding.
            round_trip = (_ntp(now) >> 16) - block.last_report - block.delay & 0xFFFFFFFF
            if round_trip > 0xFFFF0000:
                round_trip = 0
            if round_trip <= MAX_RTT * 65536:
                self.rtt = round_trip / 65536


def _ntp(now: float) -> int:
    return int(now * 4294967296.0) & 0xFFFFFFFFFFFFFFFF
