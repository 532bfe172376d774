"""Keys of SRTP in SDP: the `a=crypto` line (RFC 4568, suites of RFC 4568 section 6.2 and RFC 7714)."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, cast

from offhook.providers.rtp.media import SrtpKey, Suite

KEY_SIZES: Final[Mapping[Suite, int]] = {
    "AES_CM_128_HMAC_SHA1_80": 30,
    "AES_CM_128_HMAC_SHA1_32": 30,
    "AEAD_AES_128_GCM": 28,
    "AEAD_AES_256_GCM": 44,
}
"""Bytes of master key and master salt together."""

MAX_LINES: Final = 16
"""Lines of one stream that are looked at: there are not that many suites."""

MAX_TAG: Final = 999_999_999
"""RFC 4568 section 9.1: nine digits."""

_HARMLESS: Final = ("WSH=", "FEC_ORDER=")
"""Session parameters that change nothing for a receiver that keeps a window of its own and uses no FEC."""


@dataclass(frozen=True, slots=True)
class CryptoLine:
    """One `a=crypto` line that we can use."""

    tag: int
    key: SrtpKey

    def __str__(self) -> str:
        return f"{self.tag} {self.key.suite} inline:{b64encode(self.key.key).decode()}"


def parse(value: str) -> CryptoLine | None:
    """Read the value of an `a=crypto` line.

    Padding may be missing and spaces doubled. None for a line that cannot be used: an unknown suite, a key of the wrong
    size, a master key identifier (`|1:4`, packets would carry it), more than one key, a session parameter that changes
    the packets (`UNENCRYPTED_SRTP`, `KDR=`) or one that is unknown.
    """
    words = value.split()
    if len(words) < 3 or not (words[0].isascii() and words[0].isdigit()) or len(words[0]) > len(str(MAX_TAG)):
        return None
    suite = words[1].upper()
    if suite not in KEY_SIZES:
        return None
    method, _, rest = words[2].partition(":")
    if method.lower() != "inline" or ";" in rest:
        return None
    text, *extras = rest.split("|")
    if len(extras) > 1 or any(":" in extra for extra in extras):
        return None  # a lifetime may stand there, for no call lasts for 2^31 packets; a key identifier may not
    # a parameter with a hyphen before it may be ignored (RFC 4568 section 6.3.7)
    if any(not word.startswith("-") and not word.upper().startswith(_HARMLESS) for word in words[3:]):
        return None
    bare = text.rstrip("=")
    try:
        key = b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    known = cast(Suite, suite)
    return CryptoLine(int(words[0]), SrtpKey(known, key)) if len(key) == KEY_SIZES[known] else None


def usable(values: Iterable[str]) -> list[CryptoLine]:
    """The lines that we can use, in their order."""
    return [line for value in list(values)[:MAX_LINES] if (line := parse(value)) is not None]
