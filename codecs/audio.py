"""What a stretch of audio is: encoding and sample rate, and the arithmetic that follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, Self, get_args

Encoding = Literal["pcmu", "pcma", "l16"]
"""G.711 μ-law, G.711 A-law, or linear 16-bit little-endian signed PCM."""

FRAME_MS: Final = 20
"""Length of one frame; every carrier we speak to packs 20 ms by default."""

RATES: Final = (8000, 16000, 24000, 48000)
"""Sample rates in Hz that offhook carries and converts between."""


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """Encoding and sample rate of mono audio.

    Raises:
        ValueError: the encoding or the rate is not one offhook carries, or G.711 is not at 8 kHz.
    """

    encoding: Encoding
    rate: int
    """Samples a second."""

    def __post_init__(self) -> None:
        if self.encoding not in get_args(Encoding):
            raise ValueError(f"encoding {self.encoding!r} is not one of {', '.join(get_args(Encoding))}")
        if self.rate not in RATES:
            raise ValueError(f"rate {self.rate!r} is not one of {', '.join(map(str, RATES))}")
        if self.encoding != "l16" and self.rate != 8000:
            raise ValueError(f"{self.encoding} is defined at 8000 Hz only (RFC 3551 4.5.14), not {self.rate}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the form `encoding/rate`, such as `pcmu/8000`."""
        encoding, slash, rate = text.partition("/")
        if not slash or not rate.isascii() or not rate.isdigit():
            raise ValueError(f"audio format {text!r} is not of the form encoding/rate, such as l16/16000")
        return cls(encoding, int(rate))  # type: ignore[arg-type]  # checked in __post_init__

    def __str__(self) -> str:
        return f"{self.encoding}/{self.rate}"

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        return 2 if self.encoding == "l16" else 1

    @property
    def frame_bytes(self) -> int:
        """Bytes of one 20 ms frame."""
        return self.rate * FRAME_MS // 1000 * self.sample_bytes

    @property
    def silence(self) -> bytes:
        """One 20 ms frame of silence."""
        return {"pcmu": b"\xff", "pcma": b"\xd5", "l16": b"\0"}[self.encoding] * self.frame_bytes

    def hush(self, seconds: float) -> bytes:
        """So much silence, rounded down to whole samples."""
        size, frame = self.size(seconds), self.silence
        return (frame * (size // len(frame) + 1))[:size]

    def duration(self, size: int) -> float:
        """Seconds that `size` bytes of this format last."""
        return size / (self.rate * self.sample_bytes)

    def size(self, seconds: float) -> int:
        """Bytes that `seconds` of this format take, whole samples, rounded down."""
        return int(seconds * self.rate + 1e-6) * self.sample_bytes


PCMU: Final = AudioFormat("pcmu", 8000)
PCMA: Final = AudioFormat("pcma", 8000)
L16_8K: Final = AudioFormat("l16", 8000)
L16_16K: Final = AudioFormat("l16", 16000)
L16_24K: Final = AudioFormat("l16", 24000)
