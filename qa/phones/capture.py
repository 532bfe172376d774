"""Packets as a file that Wireshark and tshark read: classic pcap of bare IP packets (LINKTYPE_RAW, 101).

Everything is written as UDP, SIP over TCP and TLS too, in the clear: a message a packet. The port tells Wireshark
what SIP is; RTP is found by the SDP in it.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from sys import byteorder
from typing import Final

from offhook.qa.phones.base import WirePacket

_FILE: Final = struct.Struct("<IHHiIII")
_RECORD: Final = struct.Struct("<IIII")
_IPV4: Final = struct.Struct("!BBHHHBBH4s4s")
_UDP: Final = struct.Struct("!HHHH")

MAX_PACKET: Final = 65_535 - 48
"""Bytes of payload; a longer message is cut."""


def checksum(data: bytes) -> int:
    """The checksum of the internet (RFC 1071)."""
    words = array("H", data + b"\0" * (len(data) % 2))
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    found = ~total & 0xFFFF
    return found if byteorder == "big" else (found & 0xFF) << 8 | found >> 8


def datagram(source: tuple[str, int], target: tuple[str, int], data: bytes) -> bytes:
    """An IP packet with UDP in it, both checksums right (RFC 768, 791, 8200).

    Raises:
        ValueError: an address is none, or both are not of one family.
    """
    data = data[:MAX_PACKET]
    here, there = (ip_address(host.partition("%")[0]) for host, _ in (source, target))
    if here.version != there.version:
        raise ValueError(f"{source[0]} and {target[0]} are addresses of two families")
    size = _UDP.size + len(data)
    pseudo = here.packed + there.packed
    pseudo += struct.pack("!BBH", 0, 17, size) if here.version == 4 else struct.pack("!IHBB", size, 0, 0, 17)
    bare = _UDP.pack(source[1], target[1], size, 0)
    udp = _UDP.pack(source[1], target[1], size, checksum(pseudo + bare + data) or 0xFFFF)
    if here.version == 6:
        return struct.pack("!IHBB", 6 << 28, size, 17, 64) + here.packed + there.packed + udp + data
    head = _IPV4.pack(0x45, 0, 20 + size, 0, 0x4000, 64, 17, 0, here.packed, there.packed)
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + udp + data


def write_pcap(path: Path, packets: Iterable[WirePacket]) -> int:
    """Write a capture; gives the number of packets. Those whose addresses are not known are left out.

    Raises:
        OSError: it cannot be written.
    """
    count = 0
    with path.open("wb") as file:
        file.write(_FILE.pack(0xA1B2C3D4, 2, 4, 0, 0, 65_535, 101))
        for packet in sorted(packets, key=lambda packet: packet.at):
            source, target = (packet.local, packet.remote) if packet.out else (packet.remote, packet.local)
            try:
                data = datagram(source, target, packet.data)
            except ValueError:
                continue
            micros = round(packet.at * 1e6)
            file.write(_RECORD.pack(micros // 1_000_000, micros % 1_000_000, len(data), len(data)) + data)
            count += 1
    return count
