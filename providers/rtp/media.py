"""What two sides agreed on for the audio of one call: the result of offer and answer, all that RTP needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

Direction = Literal["sendrecv", "sendonly", "recvonly", "inactive"]
"""As we see it: sendonly means that we send and do not listen."""


class Address(NamedTuple):
    """Where datagrams go. `host` is an IP literal."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Codec:
    """An audio codec as SDP names it (RFC 3551, 7587)."""

    name: Literal["PCMU", "PCMA", "G722", "L16", "opus"]
    clock: int
    "RTP clock in Hz: 8000 for G.722 too, 48000 for Opus."
    channels: int = 1
    "2 for Opus, always; its audio is mono all the same."
    fmtp: str = ""


PCMU: Final = Codec("PCMU", 8000)
PCMA: Final = Codec("PCMA", 8000)
G722: Final = Codec("G722", 8000)
L16_8K: Final = Codec("L16", 8000)
L16_16K: Final = Codec("L16", 16000)
OPUS: Final = Codec("opus", 48000, 2, "useinbandfec=1")

STATIC_TYPES: Final[Mapping[int, Codec]] = {0: PCMU, 8: PCMA, 9: G722}
"""Payload types that need no rtpmap (RFC 3551 section 6)."""

COMFORT_NOISE: Final = 13
"""RFC 3389; 19 is the same in old peers."""

Suite = Literal["AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32", "AEAD_AES_128_GCM", "AEAD_AES_256_GCM"]


@dataclass(frozen=True, slots=True)
class SrtpKey:
    """Master key and salt of one direction (RFC 4568)."""

    suite: Suite
    key: bytes = field(repr=False)
    "Key and salt, one after the other."


@dataclass(frozen=True, slots=True)
class MediaPlan:
    """The agreed audio stream."""

    codec: Codec
    "What we send, and expect to receive."
    send_type: int
    "Payload type of `codec` in packets to the peer: the peer's number."
    receive_types: Mapping[int, Codec]
    "Payload types that may arrive (ours), and what they are."
    dtmf_send_type: int | None = None
    "Payload type of telephone-event to the peer, with the clock of `codec`; None: the peer has none."
    dtmf_receive_types: frozenset[int] = frozenset()
    comfort_noise: bool = False
    "Whether the peer takes comfort noise (payload type 13)."
    ptime: int = 20
    "Milliseconds of audio in a packet to the peer: 10 to 60."
    remote: Address | None = None
    "Where to send; None: nowhere until the peer has been heard (c=0.0.0.0)."
    remote_rtcp: Address | None = None
    rtcp_mux: bool = False
    direction: Direction = "sendrecv"
    srtp_send: SrtpKey | None = None
    "The key of our own SDP; None: plain RTP."
    srtp_receive: SrtpKey | None = None
