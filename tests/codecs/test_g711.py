"""G.711 against tables worked out from the text of the recommendation, not from any library."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable

import pytest

from offhook.codecs.audio import PCMA, PCMU
from offhook.codecs.g711 import alaw_to_pcm, pcm_to_alaw, pcm_to_ulaw, ulaw_to_pcm

CODES = bytes(range(256))


def ulaw_value(code: int) -> int:
    """ITU-T G.711 table 2: complemented bits; sign, 3 bits of segment, 4 of step; bias 33 of 14 bits."""
    code ^= 0xFF
    segment, step = code >> 4 & 7, code & 15
    magnitude = ((2 * step + 33) << segment) - 33
    return 4 * (-magnitude if code & 0x80 else magnitude)


def alaw_value(code: int) -> int:
    """ITU-T G.711 table 1: even bits inverted; sign (1 = positive), 3 bits of segment, 4 of step; 13 bits."""
    code ^= 0x55
    segment, step = code >> 4 & 7, code & 15
    magnitude = 2 * step + 1 if segment == 0 else (2 * step + 33) << segment - 1
    return 8 * (magnitude if code & 0x80 else -magnitude)


def values(pcm: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(pcm) // 2}h", pcm)


def pcm_of(*samples: int) -> bytes:
    return struct.pack(f"<{len(samples)}h", *samples)


def test_every_ulaw_code_decodes_as_the_recommendation_says() -> None:
    assert values(ulaw_to_pcm(CODES)) == tuple(ulaw_value(code) for code in CODES)


def test_every_alaw_code_decodes_as_the_recommendation_says() -> None:
    assert values(alaw_to_pcm(CODES)) == tuple(alaw_value(code) for code in CODES)


def test_every_code_survives_decoding_and_encoding() -> None:
    # Code 0x7F is mu-law's negative zero; linear PCM has one zero only.
    assert pcm_to_ulaw(ulaw_to_pcm(CODES)) == CODES.replace(b"\x7f", b"\xff")
    assert pcm_to_alaw(alaw_to_pcm(CODES)) == CODES


def test_every_sample_is_encoded_within_half_a_step() -> None:
    samples = range(-32768, 32768)
    pcm = pcm_of(*samples)
    for back in (values(ulaw_to_pcm(pcm_to_ulaw(pcm))), values(alaw_to_pcm(pcm_to_alaw(pcm)))):
        for sample, heard in zip(samples, back, strict=True):
            # Half a step is a 32nd of the value and up; the encoders drop up to 3 (mu-law) or 7 (A-law) first.
            assert abs(sample - heard) <= max(abs(sample) / 32 + 12, abs(sample) - 32124)


def test_full_scale_saturates_instead_of_wrapping() -> None:
    assert pcm_to_ulaw(pcm_of(32767, -32768)) == b"\x80\x00"
    assert pcm_to_alaw(pcm_of(32767, -32768)) == b"\xaa\x2a"


def test_the_silence_of_each_format_is_zero() -> None:
    assert max(map(abs, values(ulaw_to_pcm(PCMU.silence)))) == 0
    assert max(map(abs, values(alaw_to_pcm(PCMA.silence)))) <= 8
    assert pcm_to_ulaw(bytes(320)) == PCMU.silence
    assert pcm_to_alaw(bytes(320)) == PCMA.silence


def test_nothing_is_nothing() -> None:
    assert ulaw_to_pcm(b"") == alaw_to_pcm(b"") == pcm_to_ulaw(b"") == pcm_to_alaw(b"") == b""


@pytest.mark.parametrize("encode", [pcm_to_ulaw, pcm_to_alaw])
def test_half_a_sample_is_refused_with_the_remedy(encode: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ValueError, match=r"pcm of 3 bytes ends within .*WholeSamples"):
        encode(b"abc")


def test_importing_warns_of_nothing() -> None:
    script = "import offhook.codecs.g711, warnings; assert warnings.filters[0][0] == 'error', warnings.filters"
    assert subprocess.run([sys.executable, "-W", "error", "-c", script], check=False).returncode == 0
