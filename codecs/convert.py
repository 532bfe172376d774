"""From one audio format to another: a live stream frame by frame, or a whole file at its best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import soxr

from offhook.codecs.audio import AudioFormat, Encoding
from offhook.codecs.g711 import alaw_to_pcm, pcm_to_alaw, pcm_to_ulaw, ulaw_to_pcm
from offhook.codecs.pcm import WholeSamples
from offhook.codecs.resample import Resampler

__all__ = ["Converter", "convert_all", "resample_all"]

Step = Callable[[bytes], bytes]

_TO_PCM: Final[dict[Encoding, Step]] = {"pcmu": ulaw_to_pcm, "pcma": alaw_to_pcm}
_FROM_PCM: Final[dict[Encoding, Step]] = {"pcmu": pcm_to_ulaw, "pcma": pcm_to_alaw}


class Converter:
    """Converts one live stream: 20 ms out for every 20 ms in, from the first frame on.

    Not thread-safe: one object a stream and direction.
    """

    def __init__(self, src: AudioFormat, dst: AudioFormat) -> None:
        self.delay = 0.0
        "Seconds by which the output lags the input; 0 where the rate stays."
        self._steps: tuple[Step, ...] = ()
        if src == dst:
            return
        steps = [_TO_PCM[src.encoding]] if src.encoding in _TO_PCM else []
        if src.rate != dst.rate:
            resampler = Resampler(src.rate, dst.rate)
            self.delay = resampler.delay
            steps.append(resampler.process)
        elif not steps:
            steps.append(WholeSamples().push)
        if dst.encoding in _FROM_PCM:
            steps.append(_FROM_PCM[dst.encoding])
        self._steps = tuple(steps)

    def convert(self, data: bytes) -> bytes:
        """Take any number of bytes of `src`; give all of `dst` that they determine.

        `data` itself when both formats are equal. How the input is cut never changes the output.
        """
        for step in self._steps:
            data = step(data)
        return data


def convert_all(data: bytes, src: AudioFormat, dst: AudioFormat) -> bytes:
    """Convert a whole recording or prompt, without delay and at soxr's best quality (VHQ).

    Raises:
        ValueError: linear `data` ends within a sample.
    """
    if src == dst:
        return data
    pcm = _TO_PCM[src.encoding](data) if src.encoding in _TO_PCM else data
    if src.rate != dst.rate:
        pcm = resample_all(pcm, src.rate, dst.rate)
    return _FROM_PCM[dst.encoding](pcm) if dst.encoding in _FROM_PCM else pcm


def resample_all(pcm: bytes, source: int, target: int) -> bytes:
    """Resample a whole stretch of int16 mono between any two rates, such as a synthesiser's 22050 Hz.

    The output lasts as long as the input, to the nearest sample, and is aligned with it.

    Raises:
        ValueError: `pcm` ends within a sample.
    """
    if len(pcm) % 2:
        raise ValueError(f"pcm of {len(pcm)} bytes ends within a 16-bit sample: it was cut, or is not 16-bit audio")
    samples = np.frombuffer(pcm, "<i2").astype(np.float64)
    wanted = round(len(samples) * target / source)
    outputs = np.zeros(wanted)
    if wanted:
        converted = soxr.resample(samples, source, target, quality="VHQ")[:wanted]
        outputs[: len(converted)] = converted
    return np.rint(outputs).clip(-32768, 32767).astype("<i2").tobytes()
