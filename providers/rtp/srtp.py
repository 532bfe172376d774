"""SRTP and SRTCP (RFC 3711, 7714) with keys from SDP (RFC 4568), by libsrtp.

libsrtp keeps what the RFC wants kept: the rollover counter of each SSRC, which starts at 0 for a new one, and a replay
window. A key that stays the same across re-INVITEs keeps its context, and with it the counter; a new key starts anew.
"""

from __future__ import annotations

from typing import Any, Final

from offhook.providers.rtp.media import SrtpKey, Suite

KEY_BYTES: Final[dict[Suite, int]] = {
    "AES_CM_128_HMAC_SHA1_80": 30,
    "AES_CM_128_HMAC_SHA1_32": 30,
    "AEAD_AES_128_GCM": 28,
    "AEAD_AES_256_GCM": 44,
}
"""Master key and salt."""

REPLAY_WINDOW: Final = 128
"""Packets; RFC 3711 section 3.3.2 wants 64 at least."""


class SrtpError(ValueError):
    """A packet that is not authentic, was received before, or is too long."""


class SrtpContext:
    """One direction of one call, RTP and RTCP.

    Raises:
        ValueError: the key has not the length of its suite.
        RuntimeError: pylibsrtp is not installed.
    """

    def __init__(self, key: SrtpKey, *, sending: bool) -> None:
        if len(key.key) != KEY_BYTES[key.suite]:
            raise ValueError(f"a key of {key.suite} has {KEY_BYTES[key.suite]} bytes with its salt, not {len(key.key)}")
        try:
            from pylibsrtp import Error, Policy, Session
        except ImportError as error:
            raise RuntimeError("SRTP needs pylibsrtp: pip install 'offhook[sip]'") from error
        profile = {
            "AES_CM_128_HMAC_SHA1_80": Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
            "AES_CM_128_HMAC_SHA1_32": Policy.SRTP_PROFILE_AES128_CM_SHA1_32,
            "AEAD_AES_128_GCM": Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
            "AEAD_AES_256_GCM": Policy.SRTP_PROFILE_AEAD_AES_256_GCM,
        }[key.suite]
        policy = Policy(
            key=key.key,
            ssrc_type=Policy.SSRC_ANY_OUTBOUND if sending else Policy.SSRC_ANY_INBOUND,
            srtp_profile=profile,
        )
        policy.window_size = REPLAY_WINDOW
        self.key = key
        self._session: Any = Session(policy)
        self._errors = (Error, ValueError, TypeError)

    def protect(self, packet: bytes) -> bytes:
        """Encrypt one RTP packet.

        Raises:
            SrtpError: it is too long (some 1350 bytes are fine), or its sequence number was used before.
        """
        return self._run(self._session.protect, packet)

    def unprotect(self, packet: bytes) -> bytes:
        """Authenticate and decrypt one RTP packet.

        Raises:
            SrtpError: it is not authentic, or was received before.
        """
        return self._run(self._session.unprotect, packet)

    def protect_rtcp(self, packet: bytes) -> bytes:
        """Encrypt one compound RTCP packet; raises as `protect`."""
        return self._run(self._session.protect_rtcp, packet)

    def unprotect_rtcp(self, packet: bytes) -> bytes:
        """Authenticate and decrypt one compound RTCP packet; raises as `unprotect`."""
        return self._run(self._session.unprotect_rtcp, packet)

    def _run(self, work: Any, packet: bytes) -> bytes:
        try:
            done: bytes = work(packet)
        except self._errors as error:
            raise SrtpError(str(error)) from None
        return done
