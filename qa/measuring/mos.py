"""What a call's audio is worth by the E-model: ITU-T G.107 (06/2015) with the burst ratio of its section 3.5.

`providers.rtp.quality` knows the model for random loss. Loss in bursts hurts more: G.107 divides the loss by the burst
ratio in the denominator of Ie_eff. The random loss that hurts as much is given to that model, so both agree wherever
loss is random.
"""

from __future__ import annotations

from typing import Final

from offhook.providers.rtp.quality import ROBUSTNESS, mos

BUFFER_MS: Final = 40.0
"""A telephone's own jitter buffer where the network does not jitter: two packets."""


def burst_ratio(lost_runs: list[int], received: int) -> float:
    """Mean length of the runs of lost packets over that of random loss, at least 1 (G.107 section 3.5)."""
    lost = sum(lost_runs)
    if not lost or not received:
        return 1.0
    random = (lost + received) / received  # 1 / (1 - p)
    return max(1.0, lost / len(lost_runs) / random)


def mos_e(codec: str, loss: float, *, delay_ms: float = 0.0, jitter_ms: float = 0.0, burst: float = 1.0) -> float:
    """Mean opinion score to be expected, 1.0 to 4.5.

    Args:
        codec: PCMU, PCMA, G722, opus; others count as the last two.
        loss: share of the audio that never came, 0 to 1.
        delay_ms: one way, on the network.
        jitter_ms: by RFC 3550; a receiver buffers four times as much, two packets at least.
        burst: the burst ratio.
    """
    percent = 100 * min(1.0, max(0.0, loss))
    robust = ROBUSTNESS.get(codec, 20.0)
    harm = min(0.99, percent / (percent / burst + robust))
    equal = harm * robust / (1 - harm)
    return mos(codec, equal / 100, delay_ms + max(BUFFER_MS, 4 * jitter_ms))
