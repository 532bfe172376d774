"""Telephone-events: every key once, whatever the sender's habits and the network's."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.providers.rtp.dtmf import KEYS, MAX_KEYS, KeyReceiver, KeySender

Packet = tuple[int, int, bool, bytes]
"""Sequence number, timestamp, marker, payload."""


def event(code: int, duration: int, *, ended: bool = False) -> bytes:
    return bytes((code, 0x8A if ended else 0x0A)) + duration.to_bytes(2, "big")


def press(
    code: int, sequence: int, timestamp: int, packets: int = 8, ends: int = 3, marker: bool = True
) -> list[Packet]:
    """A key as the RFC has it: growing durations, one timestamp, the end repeated."""
    sent = [(sequence + i & 0xFFFF, timestamp, marker and i == 0, event(code, 160 * (i + 1))) for i in range(packets)]
    return sent + [
        (sequence + packets + i & 0xFFFF, timestamp, False, event(code, 160 * (packets + 1), ended=True))
        for i in range(ends)
    ]


def heard(packets: list[Packet], *, ssrc: int = 7, start: float = 0.0, step: float = 0.02) -> str:
    receiver = KeyReceiver()
    return "".join(
        receiver.receive(ssrc, sequence, timestamp, marker, payload, start + i * step)
        for i, (sequence, timestamp, marker, payload) in enumerate(packets)
    )


def test_the_example_of_the_rfc_is_a_five() -> None:
    assert KeyReceiver().receive(1, 1, 1, False, bytes.fromhex("058a0640"), 0.0) == "5"


def test_eight_packets_and_three_ends_are_one_key() -> None:
    assert heard(press(5, 100, 1000)) == "5"


def test_without_any_end_it_is_one_key_and_released_after_a_while() -> None:
    receiver = KeyReceiver()
    for i, (sequence, timestamp, marker, payload) in enumerate(press(5, 100, 1000, ends=0)):
        receiver.receive(7, sequence, timestamp, marker, payload, i * 0.02)
    assert receiver.active(0.2)
    assert not receiver.active(0.35)


def test_two_presses_of_one_key_are_two() -> None:
    assert heard(press(5, 100, 1000) + press(5, 115, 5000)) == "55"


def test_two_presses_whose_ends_are_lost_are_two_by_their_sequence() -> None:
    assert heard(press(5, 100, 1000, ends=0) + press(5, 115, 5000, marker=False)) == "55"


def test_ends_alone_are_one_key_and_more_than_three_too() -> None:
    assert heard(press(9, 100, 1000, packets=0)) == "9"
    assert heard(press(9, 100, 1000, ends=7)) == "9"


def test_a_timestamp_for_every_packet_is_one_key() -> None:
    moving = [(seq, ts + 160 * i, False, data) for i, (seq, ts, _, data) in enumerate(press(3, 100, 1000))]
    assert heard(moving) == "3"


def test_a_key_of_ten_seconds_goes_on_under_another_timestamp() -> None:
    first = [(i, 1000, i == 0, event(1, min(65535, 160 * (i + 1)))) for i in range(410)]
    second = [(410 + i, 1000 + 65535, False, event(1, 160 * (i + 1), ended=i > 5)) for i in range(8)]
    assert heard(first + second) == "1"


def test_different_keys_without_a_pause_are_different() -> None:
    assert heard(press(1, 100, 1000, ends=0) + press(2, 108, 2280, ends=0) + press(1, 116, 3560)) == "121"


def test_late_and_repeated_packets_tell_nothing_new() -> None:
    packets = press(5, 100, 1000) + press(6, 115, 5000)
    late = [packets[2], packets[9], packets[14]]
    assert heard(packets + late + late) == "56"


def test_the_sequence_may_wrap_within_a_key() -> None:
    assert heard(press(5, 65532, 2**32 - 400)) == "5"


def test_two_sources_are_kept_apart() -> None:
    receiver = KeyReceiver()
    assert receiver.receive(1, 1, 1000, True, event(5, 160), 0.0) == "5"
    assert receiver.receive(2, 1, 1000, True, event(5, 160), 0.0) == "5"


@pytest.mark.parametrize("code", [16, 32, 255])
def test_flash_and_modem_tones_are_no_keys(code: int) -> None:
    assert KeyReceiver().receive(1, 1, 1, True, event(code, 160), 0.0) == ""


def test_a_short_payload_is_refused() -> None:
    with pytest.raises(ValueError, match="4 bytes"):
        KeyReceiver().receive(1, 1, 1, True, b"\x05\x8a\x06", 0.0)


@given(
    st.lists(
        st.tuples(st.integers(0, 65535), st.integers(0, 2**32 - 1), st.booleans(), st.binary(min_size=4, max_size=4))
    )
)
def test_any_events_give_keys_or_nothing(packets: list[Packet]) -> None:
    assert set(heard(packets)) <= set(KEYS)


# --- sending


def run(sender: KeySender, ticks: int = 160, clock: int = 8000, timestamp: int = 0) -> list[Packet]:
    """Every packet until it is done; silence goes out too, and counts in the sequence."""
    sent = []
    for sequence in range(10_000):
        if not sender.active:
            return sent
        found = sender.next(timestamp, ticks, clock)
        if found is not None:
            payload, start, marker = found
            sent.append((sequence, start, marker, payload))
        timestamp += ticks
    raise AssertionError("never done")


def test_a_key_is_sent_as_the_rfc_has_it() -> None:
    sender = KeySender()
    sender.press("5")
    sent = run(sender)
    assert [payload.hex() for *_, payload in sent] == [
        *("050a00a0", "050a0140", "050a01e0", "050a0280", "050a0320"),
        *("058a03c0", "058a03c0", "058a03c0"),
    ]
    assert {timestamp for _, timestamp, _, _ in sent} == {0}
    assert [marker for _, _, marker, _ in sent] == [True] + [False] * 7


@pytest.mark.parametrize("ms", [10, 20, 30, 40, 50, 60])
@pytest.mark.parametrize("clock", [8000, 16000, 48000])
def test_what_is_sent_is_heard_at_every_packet_length(ms: int, clock: int) -> None:
    sender = KeySender()
    sender.press("0123456789*#abcd11")
    sent = run(sender, clock * ms // 1000, clock)
    assert heard(sent, step=ms / 1000) == "0123456789*#ABCD11"


def test_five_percent_loss_and_reordering_lose_no_key_of_five_hundred() -> None:
    chance = random.Random(4733)
    digits = "".join(chance.choice(KEYS) for _ in range(500))
    sent: list[Packet] = []
    timestamp = 0
    for start in range(0, 500, 100):
        sender = KeySender()
        sender.press(digits[start : start + 100])
        base = len(sent) and sent[-1][0] + 5
        part = run(sender, timestamp=timestamp)
        sent += [(base + sequence & 0xFFFF, at, marker, payload) for sequence, at, marker, payload in part]
        timestamp += 8000 * 100
    arriving = sorted(
        (i * 0.02 + chance.random() * 0.04, packet) for i, packet in enumerate(sent) if chance.random() > 0.05
    )
    receiver = KeyReceiver()
    got = "".join(
        receiver.receive(7, sequence, at, marker, payload, when) for when, (sequence, at, marker, payload) in arriving
    )
    assert got == digits


def test_keys_that_wait_can_be_taken_back_and_the_present_one_ends_well() -> None:
    sender = KeySender()
    sender.press("12")
    sender.next(0, 160, 8000)
    sender.release()
    assert heard(run(sender, timestamp=160)) == "1"
    sender.release()
    assert not sender.active


@pytest.mark.parametrize("digits", ["12x", "1 2", "W", "1" * (MAX_KEYS + 1)])
def test_what_is_no_key_is_refused_as_a_whole(digits: str) -> None:
    sender = KeySender()
    with pytest.raises(ValueError, match="key"):
        sender.press(digits)
    assert not sender.active


def test_a_w_is_half_a_second_without_a_key() -> None:
    sender = KeySender()
    sender.press("1w2")
    packets = run(sender)
    assert heard(packets) == "12"
    starts = [timestamp for _, timestamp, marker, _ in packets if marker]
    assert (starts[1] - starts[0]) / 8000 == pytest.approx(0.12 + 0.08 + 0.5, abs=0.021)
    sender.press("w")
    assert sender.active
    assert run(sender) == []
    assert not sender.active


def test_nothing_pressed_is_nothing_sent() -> None:
    sender = KeySender()
    sender.press("")
    assert not sender.active
