"""RTP packets: what is read, what is refused, and that nothing else ever comes out of the parser."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.providers.rtp.packet import BadPacket, RtpPacket, is_rtcp, parse

PLAIN = bytes.fromhex("80803039000000a0deadbeef") + b"\xff" * 160


def test_a_packet_is_read_and_written_byte_for_byte() -> None:
    packet = parse(PLAIN)
    assert packet == RtpPacket(0, 12345, 160, 0xDEADBEEF, b"\xff" * 160, True)
    assert packet.encode() == PLAIN


def test_contributing_sources_extension_and_padding_are_skipped() -> None:
    head = bytes.fromhex("b2083039000000a0deadbeef")
    sources = bytes(8)
    extension = bytes.fromhex("bede0002") + bytes(8)
    packet = parse(head + sources + extension + b"\xd5" * 20 + b"\0\0\0\4")
    assert (packet.payload_type, packet.payload) == (8, b"\xd5" * 20)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "12 bytes"),
        (PLAIN[:11], "12 bytes"),
        (b"\x40" + PLAIN[1:], "version 1"),
        (b"\x8f" + PLAIN[1:20], "72 bytes"),
        (b"\x90" + PLAIN[1:14], "extension"),
        (b"\x90" + PLAIN[1:12] + b"\0\0\xff\xff", "bytes"),
        (b"\xa0" + PLAIN[1:-1] + b"\0", "padding of 0"),
        (b"\xa0" + PLAIN[1:-1] + b"\xff", "padding of 255"),
        (b"\xa0" + PLAIN[1:12], "padding"),
    ],
)
def test_inconsistent_packets_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(BadPacket, match=why):
        parse(data)


def test_padding_may_be_all_there_is() -> None:
    assert parse(b"\xa0" + PLAIN[1:12] + b"\0\0\0\4").payload == b""


def test_rtcp_is_told_by_its_type() -> None:
    assert is_rtcp(bytes.fromhex("80c90001"))
    assert not is_rtcp(PLAIN)
    assert not is_rtcp(b"\x80")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_packet_or_bad(data: bytes) -> None:
    try:
        packet = parse(data)
    except BadPacket:
        return
    assert len(packet.payload) <= len(data) - 12


@given(
    st.integers(0, 127),
    st.integers(0, 65535),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.binary(),
    st.booleans(),
)
def test_what_is_written_is_read_again(kind: int, seq: int, time: int, ssrc: int, payload: bytes, marker: bool) -> None:
    packet = RtpPacket(kind, seq, time, ssrc, payload, marker)
    assert parse(packet.encode()) == packet
