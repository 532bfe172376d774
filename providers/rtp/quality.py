"""How a call sounded: counts, loss, jitter, round trip, and the opinion score they let us expect.

The score is the E-model of ITU-T G.107 (06/2015) with its default values, reduced to what IP telephony varies, as
G.113 appendix I tabulates it: R = 93.2 - Id - Ie_eff. The delay impairment Id is the usual straight-line fit of the
curve of G.107 (0.024 a millisecond of one-way delay, 0.11 more beyond 177.3 ms), and Ie_eff grows with random loss by
the codec's robustness Bpl. G.722 and Opus are put on the same narrowband scale, where nothing scores above 4.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

BEST_R: Final = 93.2
"""R of the default values of G.107: no delay, no loss, G.711."""

ROBUSTNESS: Final[Mapping[str, float]] = {"PCMU": 25.1, "PCMA": 25.1, "G722": 20.0, "L16": 25.1, "opus": 20.0}
"""Bpl: for G.711 with concealment as in G.113 appendix I (Ie 0); for the others, of which the appendix knows nothing
that fits our concealment, a little lower."""


@dataclass(frozen=True, slots=True)
class MediaStats:
    """The state of one call's audio. Times in milliseconds, None where nothing is known (yet)."""

    packets_received: int = 0
    packets_sent: int = 0
    octets_received: int = 0
    "Of payload."
    octets_sent: int = 0
    lost: int = 0
    "Packets that never came, or came too late to be heard."
    late: int = 0
    duplicate: int = 0
    reordered: int = 0
    concealed: int = 0
    "Stretches that were made up for what was lost."
    loss: float = 0.0
    "Share of the expected packets that were lost on the way to us, 0 to 1."
    jitter: float = 0.0
    "Interarrival jitter (RFC 3550 section 6.4.1)."
    depth: float = 0.0
    "Audio that waits in the jitter buffer."
    rtt: float | None = None
    "Round trip by RTCP."
    remote_loss: float | None = None
    "Share of our packets that the peer lost, by its latest report."
    remote_jitter: float | None = None
    mos: float = 1.0
    "1.0 to 4.5: what the caller's audio at our end is worth. Narrowband scale."
    dropped_out: int = 0
    "Milliseconds of our audio dropped because it could not leave in time."
    faults: Mapping[str, int] = field(default_factory=dict)
    "Datagrams that were refused, by kind of fault."
    last_heard: float = 0.0
    "Monotonic time of the peer's last valid packet, RTP or RTCP; 0.0: none yet."


def r_factor(codec: str, loss: float, delay: float) -> float:
    """R of G.107. `loss` is a share (0 to 1) of random loss, `delay` the one-way mouth-to-ear delay in ms."""
    delay_impairment = 0.024 * delay + (0.11 * (delay - 177.3) if delay > 177.3 else 0.0)
    percent = 100.0 * min(1.0, max(0.0, loss))
    loss_impairment = 95.0 * percent / (percent + ROBUSTNESS.get(codec, 20.0))
    return BEST_R - delay_impairment - loss_impairment


def mos(codec: str, loss: float, delay: float) -> float:
    """Expected mean opinion score, 1.0 to 4.5 (G.107 annex B); arguments as of `r_factor`."""
    r = r_factor(codec, loss, delay)
    if r <= 0:
        return 1.0
    if r >= 100:
        return 4.5
    return max(1.0, 1 + 0.035 * r + r * (r - 60) * (100 - r) * 7e-6)
