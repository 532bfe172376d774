"""G.711, both laws (ITU-T G.711; RTP payload types 0 and 8 of RFC 3551).

The C code of `audioop` does the work: the standard library's up to Python 3.12, `audioop-lts` from 3.13 on,
the same functions under the same name.
"""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # 3.11 and 3.12 warn that the module leaves the standard library; its successor is declared for 3.13.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

__all__ = ["alaw_to_pcm", "pcm_to_alaw", "pcm_to_ulaw", "ulaw_to_pcm"]


def ulaw_to_pcm(ulaw: bytes) -> bytes:
    """Decode μ-law, one byte a sample, to int16 little-endian."""
    return audioop.ulaw2lin(ulaw, 2)


def alaw_to_pcm(alaw: bytes) -> bytes:
    """Decode A-law, one byte a sample, to int16 little-endian."""
    return audioop.alaw2lin(alaw, 2)


def pcm_to_ulaw(pcm: bytes) -> bytes:
    """Encode int16 little-endian samples as μ-law, one byte a sample.

    Raises:
        ValueError: `pcm` ends within a sample.
    """
    try:
        return audioop.lin2ulaw(pcm, 2)
    except audioop.error as error:
        raise _half_sample(pcm) from error


def pcm_to_alaw(pcm: bytes) -> bytes:
    """Encode int16 little-endian samples as A-law, one byte a sample.

    Raises:
        ValueError: `pcm` ends within a sample.
    """
    try:
        return audioop.lin2alaw(pcm, 2)
    except audioop.error as error:
        raise _half_sample(pcm) from error


def _half_sample(pcm: bytes) -> ValueError:
    return ValueError(
        f"pcm of {len(pcm)} bytes ends within a 16-bit sample: keep the odd byte for the next call (pcm.WholeSamples)"
    )
