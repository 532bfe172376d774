"""RTCP packets (RFC 3550 section 6): sender and receiver reports, source descriptions, goodbye."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

SENDER_REPORT, RECEIVER_REPORT, DESCRIPTION, GOODBYE = 200, 201, 202, 203

MAX_PACKETS: Final = 16
"""Packets read of one compound; real ones have two or three."""

_SENDER: Final = struct.Struct("!QIII")
_BLOCK: Final = struct.Struct("!IIIIII")


class BadRtcp(ValueError):
    """A datagram that is no compound RTCP packet, or an inconsistent one."""


class ReportBlock(NamedTuple):
    """What one receiver says of one sender's packets."""

    ssrc: int
    "Of the sender that is reported on."
    fraction_lost: int
    "Since the last report, in 1/256."
    lost: int
    "In all; negative where duplicates outweigh the losses."
    highest: int
    "Highest sequence number received, with its cycles in the upper 16 bits."
    jitter: int
    "In ticks of the RTP clock."
    last_report: int
    "Middle 32 bits of the NTP time of the last sender report received; 0: none."
    delay: int
    "Since that report, in 1/65536 s."


class SenderReport(NamedTuple):
    """What a sender has sent, and how it hears others."""

    ssrc: int
    ntp: int
    "64 bits, 1/2^32 s."
    timestamp: int
    packets: int
    octets: int
    blocks: tuple[ReportBlock, ...] = ()


class ReceiverReport(NamedTuple):
    """How somebody who sends nothing hears others."""

    ssrc: int
    blocks: tuple[ReportBlock, ...] = ()


class Goodbye(NamedTuple):
    """Sources that leave. The call goes on all the same: only signalling ends it."""

    ssrcs: tuple[int, ...]


Report = SenderReport | ReceiverReport | Goodbye


def parse(data: bytes) -> list[Report]:
    """Read one compound packet; descriptions, application packets and unknown types are skipped.

    Raises:
        BadRtcp: another version, lengths that exceed the datagram, or too many packets.
    """
    reports: list[Report] = []
    at, size = 0, len(data)
    for _ in range(MAX_PACKETS):
        if size - at < 4:
            raise BadRtcp(f"{size - at} bytes are left for an RTCP packet, which has 4 at least")
        first, kind = data[at], data[at + 1]
        if first >> 6 != 2:
            raise BadRtcp(f"RTCP version {first >> 6}, not 2")
        end = at + 4 + 4 * int.from_bytes(data[at + 2 : at + 4], "big")
        if end > size:
            raise BadRtcp(f"an RTCP packet of type {kind} would end at byte {end} of {size}")
        if kind in (SENDER_REPORT, RECEIVER_REPORT):
            reports.append(_report(data, at, end, kind == SENDER_REPORT))
        elif kind == GOODBYE:
            count = first & 0x1F
            if end - at < 4 + 4 * count:
                raise BadRtcp(f"a goodbye of {count} sources has {end - at} bytes")
            reports.append(Goodbye(struct.unpack_from(f"!{count}I", data, at + 4)))
        if end == size:
            return reports
        at = end
    raise BadRtcp(f"more than {MAX_PACKETS} packets in one compound")


def _report(data: bytes, at: int, end: int, sender: bool) -> SenderReport | ReceiverReport:
    count = data[at] & 0x1F
    blocks_at = at + (28 if sender else 8)
    if end < blocks_at + 24 * count:
        raise BadRtcp(f"a report with {count} blocks has {end - at} bytes")
    (ssrc,) = struct.unpack_from("!I", data, at + 4)
    blocks = []
    for number in range(count):
        source, losses, highest, jitter, last, delay = _BLOCK.unpack_from(data, blocks_at + 24 * number)
        lost = losses & 0xFFFFFF
        lost -= (lost & 0x800000) << 1
        blocks.append(ReportBlock(source, losses >> 24, lost, highest, jitter, last, delay))
    if sender:
        ntp, timestamp, packets, octets = _SENDER.unpack_from(data, at + 8)
        return SenderReport(ssrc, ntp, timestamp, packets, octets, tuple(blocks))
    return ReceiverReport(ssrc, tuple(blocks))


def build(reports: Sequence[Report], cname: str) -> bytes:
    """A compound packet: the reports, of which the first is a sender's or receiver's, then the sender's name."""
    parts = []
    for report in reports:
        if isinstance(report, Goodbye):
            body = struct.pack(f"!{len(report.ssrcs)}I", *report.ssrcs)
            parts.append(_packet(GOODBYE, len(report.ssrcs), body))
            continue
        body = b"".join(map(_block, report.blocks))
        if isinstance(report, SenderReport):
            head = _SENDER.pack(report.ntp, report.timestamp, report.packets & 0xFFFFFFFF, report.octets & 0xFFFFFFFF)
            body = report.ssrc.to_bytes(4, "big") + head + body
            parts.append(_packet(SENDER_REPORT, len(report.blocks), body))
        else:
            parts.append(_packet(RECEIVER_REPORT, len(report.blocks), report.ssrc.to_bytes(4, "big") + body))
        if report is reports[0]:
            parts.append(_description(report.ssrc, cname))
    return b"".join(parts)


def _packet(kind: int, count: int, body: bytes) -> bytes:
    return struct.pack("!BBH", 0x80 | count, kind, len(body) // 4) + body


def _block(block: ReportBlock) -> bytes:
    lost = max(-0x800000, min(0x7FFFFF, block.lost)) & 0xFFFFFF
    losses = (block.fraction_lost & 0xFF) << 24 | lost
    return _BLOCK.pack(block.ssrc, losses, block.highest, block.jitter, block.last_report, block.delay)


def _description(ssrc: int, cname: str) -> bytes:
    name = cname.encode()[:255]
    item = ssrc.to_bytes(4, "big") + bytes((1, len(name))) + name
    return _packet(DESCRIPTION, 1, item + bytes(4 - len(item) % 4))
