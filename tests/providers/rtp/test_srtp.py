"""SRTP: every suite both ways, replays, the rollover of the sequence, keys that change."""

from __future__ import annotations

import pytest

from offhook.providers.rtp.media import SrtpKey, Suite
from offhook.providers.rtp.packet import RtpPacket
from offhook.providers.rtp.rtcp import ReceiverReport, build
from offhook.providers.rtp.srtp import KEY_BYTES, SrtpContext, SrtpError


def key(suite: Suite, fill: int = 1) -> SrtpKey:
    return SrtpKey(suite, bytes(range(fill, fill + KEY_BYTES[suite])))


def pair(suite: Suite) -> tuple[SrtpContext, SrtpContext]:
    return SrtpContext(key(suite), sending=True), SrtpContext(key(suite), sending=False)


@pytest.mark.parametrize("suite", list(KEY_BYTES))
def test_every_suite_round_trips(suite: Suite) -> None:
    there, here = pair(suite)
    plain = RtpPacket(0, 1, 160, 7, b"\xff" * 160).encode()
    sealed = there.protect(plain)
    assert plain[12:] not in sealed
    assert len(sealed) == len(plain) + {"AES_CM_128_HMAC_SHA1_80": 10, "AES_CM_128_HMAC_SHA1_32": 4}.get(suite, 16)
    assert here.unprotect(sealed) == plain
    report = build([ReceiverReport(7)], "name")
    assert here.unprotect_rtcp(there.protect_rtcp(report)) == report


def test_a_replay_a_forgery_and_plain_rtp_are_refused() -> None:
    there, here = pair("AES_CM_128_HMAC_SHA1_80")
    plain = RtpPacket(0, 1, 160, 7, b"\xff" * 160).encode()
    sealed = there.protect(plain)
    other = there.protect(RtpPacket(0, 2, 320, 7, b"\xff" * 160).encode())
    here.unprotect(sealed)
    with pytest.raises(SrtpError, match="replay"):
        here.unprotect(sealed)
    with pytest.raises(SrtpError, match="auth"):
        here.unprotect(other[:-1] + bytes([other[-1] ^ 1]))
    for junk in (plain, b"", b"\x80", bytes(1600), bytearray(20)):
        with pytest.raises(SrtpError):
            here.unprotect(junk)  # type: ignore[arg-type]


def test_the_sequence_may_wrap() -> None:
    there, here = pair("AES_CM_128_HMAC_SHA1_32")
    for number in range(65500, 65600):
        plain = RtpPacket(0, number & 0xFFFF, number * 160, 7, b"\xff" * 20).encode()
        assert here.unprotect(there.protect(plain)) == plain


def test_another_ssrc_begins_with_its_own_rollover() -> None:
    there, here = pair("AEAD_AES_128_GCM")
    for ssrc in (1, 2):
        for number in (65535, 0):
            plain = RtpPacket(0, number, 0, ssrc, b"a").encode()
            assert here.unprotect(there.protect(plain)) == plain


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="30 bytes"):
        SrtpContext(SrtpKey("AES_CM_128_HMAC_SHA1_80", bytes(28)), sending=True)


def test_a_key_never_shows() -> None:
    assert "0102" not in repr(key("AEAD_AES_128_GCM")).lower()
    assert "\\x01" not in repr(key("AEAD_AES_128_GCM"))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pylibsrtp", None)
    with pytest.raises(RuntimeError, match=r"offhook\[sip\]"):
        SrtpContext(key("AEAD_AES_128_GCM"), sending=True)
