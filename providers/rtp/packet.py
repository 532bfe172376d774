"""RTP packets (RFC 3550 section 5.1): fixed header, contributing sources, extension, padding."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

HEADER: Final = struct.Struct("!BBHII")
"""Version and flags, marker and payload type, sequence number, timestamp, SSRC."""

HEADER_BYTES: Final = 12

PLAIN: Final = 0x80
"""First byte of a packet with no padding, no extension and no contributing source: nearly every packet there is."""

MARKER: Final = 0x80
"""In the second byte: the first packet after a pause."""

MAX_DATAGRAM: Final = 2048
"""Bytes read of a datagram: above an Ethernet frame, and little enough that the kernel's copy costs nothing."""


class BadPacket(ValueError):
    """A datagram that is no RTP packet, or an inconsistent one."""


class RtpPacket(NamedTuple):
    """One packet, as far as a gateway uses it; extension and contributing sources are skipped, padding is cut off."""

    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes
    marker: bool = False

    def encode(self) -> bytes:
        """The packet with the plain 12-byte header."""
        second = self.payload_type | (MARKER if self.marker else 0)
        return HEADER.pack(PLAIN, second, self.sequence, self.timestamp, self.ssrc) + self.payload


def parse(data: bytes) -> RtpPacket:
    """Read one datagram.

    Raises:
        BadPacket: too short, another version, or lengths within it that exceed it.
    """
    payload = payload_of(data)
    _, second, sequence, timestamp, ssrc = HEADER.unpack_from(data)
    return RtpPacket(second & 0x7F, sequence, timestamp, ssrc, payload, second >= MARKER)


def payload_of(data: bytes) -> bytes:
    """What stands behind the header, without padding.

    Raises:
        BadPacket: as `parse`.
    """
    size = len(data)
    if size < HEADER_BYTES:
        raise BadPacket(f"an RTP packet has 12 bytes at least, this datagram {size}")
    first = data[0]
    if first == PLAIN:
        return data[HEADER_BYTES:]
    if first >> 6 != 2:
        raise BadPacket(f"RTP version {first >> 6}, not 2")
    start = HEADER_BYTES + 4 * (first & 0x0F)
    if first & 0x10:
        if size < start + 4:
            raise BadPacket(f"the header extension would begin at byte {start} of {size}")
        start += 4 + 4 * int.from_bytes(data[start + 2 : start + 4], "big")
    if start > size:
        raise BadPacket(f"the header would have {start} bytes, the datagram has {size}")
    if first & 0x20:
        padding = data[-1]
        if not 0 < padding <= size - start:
            raise BadPacket(f"padding of {padding} bytes in a payload of {size - start}")
        size -= padding
    return data[start:size]


def is_rtcp(data: bytes) -> bool:
    """Whether a datagram on a shared port is RTCP (RFC 5761 section 4): its packet type is 192 to 223."""
    return len(data) > 1 and 192 <= data[1] <= 223
