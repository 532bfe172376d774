"""Loss, order, jitter and gaps of packets whose faults are known; the opinion score; the ladder."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import pytest
from fakes.known_calls import Made

from offhook.providers.rtp.quality import mos
from offhook.qa.activity import Span
from offhook.qa.measuring.mos import burst_ratio, mos_e
from offhook.qa.measuring.packets import Reception, examine, percentile
from offhook.qa.measuring.signalling import complete, retransmissions
from offhook.qa.phones.base import Arrivals, Rung

Packet = tuple[float, int, int]
"""When it came, its sequence number, its timestamp."""


def stream(count: int, first: int = 65_500) -> list[Packet]:
    return [(n * 0.02, (first + n) & 0xFFFF, (4_294_960_000 + 160 * n) & 0xFFFFFFFF) for n in range(count)]


def look(packets: Sequence[Packet], stalls: Sequence[Span] = (), ssrc: Sequence[int] = ()) -> Reception:
    return examine(
        Arrivals(
            at=array("d", [at for at, _, _ in packets]),
            sequence=array("i", [sequence for _, sequence, _ in packets]),
            timestamp=array("q", [timestamp for _, _, timestamp in packets]),
            size=array("i", [160] * len(packets)),
            ssrc=array("q", ssrc or [1] * len(packets)),
        ),
        stalls,
    )


def test_a_clean_stream_has_no_faults_though_its_numbers_wrap() -> None:
    found = look(stream(200))
    assert (found.packets, found.loss, found.lost_runs, found.duplicates, found.reordered) == (200, 0, [], 0, 0)
    assert (found.discontinuities, found.ssrc_changes) == (0, 0)
    assert found.jitter_max_ms == pytest.approx(0, abs=1e-6)
    assert found.gap_p99_ms == pytest.approx(20)


def test_what_is_lost_doubled_and_overtaken_is_counted() -> None:
    packets = stream(200)
    packets[120], packets[121] = (packets[120][0], *packets[121][1:]), (packets[121][0], *packets[120][1:])
    packets.insert(60, packets[59])
    del packets[30:34], packets[10]
    found = look(packets)
    assert found.lost_runs == [1, 4]
    assert found.loss == pytest.approx(5 / 200)
    assert (found.duplicates, found.reordered, found.packets) == (1, 1, 195)
    assert found.gap_max_ms == pytest.approx(100)
    assert found.discontinuities == 0


def test_a_pause_of_the_sender_is_no_gap_and_no_discontinuity() -> None:
    packets = stream(100) + [(at + 3.0, sequence, timestamp + 24_000) for at, sequence, timestamp in stream(200)[100:]]
    found = look(packets)
    assert (found.discontinuities, found.loss) == (0, 0)
    assert found.gap_max_ms == pytest.approx(20)
    assert found.jitter_max_ms == pytest.approx(0, abs=0.1)


def test_timestamps_that_jump_are_discontinuities() -> None:
    ahead = [
        (at, sequence, (timestamp + 16_000 * (n >= 50)) & 0xFFFFFFFF)
        for n, (at, sequence, timestamp) in enumerate(stream(100))
    ]
    standing = [(at + 2.0 * (n >= 50), sequence, timestamp) for n, (at, sequence, timestamp) in enumerate(stream(100))]
    assert look(ahead).discontinuities == 1
    assert look(standing).discontinuities == 1
    assert look(standing).gap_max_ms == pytest.approx(20)


def test_a_stream_that_begins_anew_is_not_loss() -> None:
    found = look(stream(50) + [(1 + at, s, t) for at, s, t in stream(50, first=20_000)])
    assert (found.packets, found.loss, found.discontinuities) == (100, 0, 1)
    found = look(stream(50) + [(1 + at, s, t) for at, s, t in stream(50, first=9)], ssrc=[1] * 50 + [2] * 50)
    assert (found.loss, found.discontinuities, found.ssrc_changes) == (0, 0, 1)


def test_gaps_while_this_program_was_late_are_left_out() -> None:
    packets = [(at + 0.08 * (n == 40), s, t) for n, (at, s, t) in enumerate(stream(41))]
    assert look(packets).gap_max_ms == pytest.approx(100)
    assert look(packets, [Span(0.8, 0.87)]).gap_max_ms == pytest.approx(20)


def test_jitter_is_that_of_rfc_3550() -> None:
    """Packets 5 ms early and late in turn: every transit differs by 10 ms from the one before."""
    packets = [(at + (0.005 if n % 2 else -0.005), s, t) for n, (at, s, t) in enumerate(stream(500))]
    found = look(packets)
    assert found.jitter_max_ms == pytest.approx(10, abs=0.1)
    assert found.jitter_ms == pytest.approx(10, abs=0.5)
    assert found.gap_p99_ms == pytest.approx(30, abs=0.1)


def test_nothing_has_no_figures() -> None:
    found = look([])
    assert (found.packets, found.loss, found.jitter_ms, found.gap_p99_ms) == (0, 0, None, None)
    assert percentile([], 99) is None


# --- opinion score -------------------------------------------------------------------


def test_random_loss_scores_as_the_gateway_scores_it() -> None:
    for codec in ("PCMU", "G722", "opus"):
        for loss in (0.0, 0.01, 0.05, 0.2):
            assert mos_e(codec, loss) == pytest.approx(mos(codec, loss, 40.0))
    assert mos_e("PCMU", 0.0) > 4.3
    assert 1.0 <= mos_e("PCMU", 1.0, burst=10) < 1.3


def test_bursts_delay_and_jitter_make_it_worse() -> None:
    assert mos_e("PCMU", 0.05, burst=3) < mos_e("PCMU", 0.05) - 0.05
    assert mos_e("PCMU", 0.0, delay_ms=300) < mos_e("PCMU", 0.0) - 0.5
    assert mos_e("PCMU", 0.0, jitter_ms=60) < mos_e("PCMU", 0.0) - 0.2


def test_burst_ratio_is_one_for_random_loss() -> None:
    lost = np.random.default_rng(1).random(100_000) < 0.1
    edges = np.flatnonzero(np.diff(np.concatenate([[0], lost, [0]])))
    runs = [int(end - start) for start, end in edges.reshape(-1, 2)]
    assert burst_ratio(runs, int((~lost).sum())) == pytest.approx(1.0, abs=0.02)
    assert burst_ratio([5] * 100, 9500) == pytest.approx(4.75, abs=0.01)
    assert burst_ratio([], 100) == 1.0


# --- ladder ------------------------------------------------------------------------


def rungs(*titles: str) -> list[Rung]:
    return [Rung(n / 10, title.startswith(">"), title[1:]) for n, title in enumerate(titles)]


@pytest.mark.parametrize(
    ("ladder", "answered", "whole"),
    [
        (rungs(">INVITE", "<100 Trying", "<200 OK", ">ACK", ">BYE", "<200 OK"), True, 1),
        (rungs(">INVITE", "<180 Ringing", "<200 OK", ">ACK", "<BYE", ">200 OK"), True, 1),
        (rungs(">INVITE", "<200 OK", ">ACK", ">BYE"), True, 0),
        (rungs(">INVITE", "<200 OK", "<BYE", ">200 OK"), True, 0),
        (rungs(">INVITE", "<200 OK", ">ACK"), True, 0),
        (rungs(">INVITE", "<486 Busy Here", ">ACK"), False, 1),
        (rungs(">INVITE", "<486 Busy Here"), False, 0),
        (rungs(">INVITE", "<180 Ringing", ">CANCEL", "<200 OK", "<487 Request Terminated", ">ACK"), False, 1),
        (rungs(">INVITE"), False, 0),
    ],
)
def test_a_ladder_is_complete_or_not(ladder: list[Rung], answered: bool, whole: int) -> None:
    log = Made(log={"ladder": ladder, "answered": answered}).caller_log
    assert complete(log) == whole
    assert retransmissions(log) == 0


def test_a_stream_has_no_ladder_of_sip() -> None:
    log = Made(log={"way": "twilio", "ladder": rungs(">POST /voice", "<200 OK")}).caller_log
    assert complete(log) is None
    assert retransmissions(log) is None
    assert retransmissions(Made(log={"ladder": [Rung(0.5, True, "INVITE", again=True)]}).caller_log) == 1
