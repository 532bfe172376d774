"""RTCP: packets both ways, and what reports tell."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.providers.rtp.reports import Reception, Reporter
from offhook.providers.rtp.rtcp import (
    BadRtcp,
    Goodbye,
    ReceiverReport,
    ReportBlock,
    SenderReport,
    build,
    parse,
)

BLOCK = ReportBlock(7, 64, -3, 0x1_0005, 80, 0x12345678, 65536)


def test_a_sender_report_and_a_goodbye_come_back() -> None:
    report = SenderReport(1, 0x0123456789ABCDEF, 160, 50, 8000, (BLOCK,))
    data = build([report, Goodbye((1,))], "name")
    assert data[1] == 200
    assert len(data) % 4 == 0
    assert parse(data) == [report, Goodbye((1,))]


def test_an_empty_receiver_report_has_the_name_behind_it() -> None:
    data = build([ReceiverReport(0xAABBCCDD)], "ab")
    assert data.hex() == "80c90001aabbccdd" + "81ca0003aabbccdd0102616200000000"
    assert parse(data) == [ReceiverReport(0xAABBCCDD)]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("", "0 bytes are left"),
        ("80c9", "2 bytes are left"),
        ("40c90001aabbccdd", "version 1"),
        ("80c90002aabbccdd", "end at byte 12"),
        ("81c90001aabbccdd", "1 blocks"),
        ("80c80001aabbccdd", "0 blocks"),
        ("82cb0001aabbccdd", "goodbye of 2"),
        ("80c90001aabbccdd80", "1 bytes are left"),
        ("80cc0000" * 17, "more than 16"),
        ("80c90000", "blocks"),
    ],
)
def test_inconsistent_compounds_are_refused(data: str, why: str) -> None:
    with pytest.raises(BadRtcp, match=why):
        parse(bytes.fromhex(data))


@given(st.binary(max_size=200))
def test_any_bytes_are_reports_or_bad(data: bytes) -> None:
    with contextlib.suppress(BadRtcp):
        parse(data)


@given(st.lists(st.tuples(st.integers(0, 199), st.integers(0, 255)), max_size=6))
def test_a_damaged_compound_is_reports_or_bad(changes: list[tuple[int, int]]) -> None:
    data = bytearray(build([SenderReport(1, 2, 3, 4, 5, (BLOCK, BLOCK)), Goodbye((1,))], "somebody"))
    for place, value in changes:
        data[place % len(data)] = value
    with contextlib.suppress(BadRtcp):
        parse(bytes(data))


# --- figures


def test_reception_counts_loss_over_the_wrap() -> None:
    reception = Reception(9, 8000)
    for number in range(65530, 65550):
        if number != 65540:
            reception.count(number & 0xFFFF)
    assert reception.expected == 20
    assert reception.received == 19
    block = reception.block(0, 0.0, 0.01)
    assert (block.lost, block.fraction_lost, block.highest, block.jitter) == (1, 256 // 20, 0x1_000D, 80)
    assert reception.block(0, 0.0, 0.01).fraction_lost == 0  # since the last report


def test_reception_takes_a_leap_for_a_new_run_and_a_reordering_for_none() -> None:
    reception = Reception(9, 8000)
    for number in (10, 12, 11, 13, 13, 40_000, 40_001):
        reception.count(number)
    assert reception.expected == 6
    assert reception.received == 7


def test_the_round_trip_comes_out_of_two_reports() -> None:
    ours = Reporter(1, "us", 100.0, lambda: 0.5)
    theirs = Reporter(2, "them", 500.0, lambda: 0.5)
    heard = Reception(1, 8000)
    heard.count(1)
    assert ours.next_at == 102.5
    report = ours.report(102.5, 160, 5, 800, None)
    assert ours.next_at == 107.5
    theirs.receive(parse(report), 502.52)
    ours.receive(parse(theirs.report(503.52, 0, 0, 0, heard)), 103.58)
    assert ours.rtt == pytest.approx(0.08, abs=0.001)
    assert ours.loss == 0.0
    assert ours.remote_jitter == 0.0


def test_an_absurd_round_trip_is_not_believed() -> None:
    ours = Reporter(1, "us", 100.0, lambda: 0.5)
    ours.receive([ReceiverReport(2, (ReportBlock(1, 128, 0, 0, 0, 5, 0), ReportBlock(3, 1, 0, 0, 0, 5, 0)))], 200.0)
    assert ours.rtt is None
    assert ours.loss == 0.5
