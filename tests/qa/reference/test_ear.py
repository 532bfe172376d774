"""Where a sound begins and ends."""

from __future__ import annotations

import numpy as np
import pytest

from offhook.codecs.g711 import pcm_to_ulaw, ulaw_to_pcm
from offhook.qa.reference.ear import RATE, Ear, Samples, Sound
from offhook.qa.reference.lines import made_up


def sounds_in(track: Samples, *, size: int = 160) -> list[Sound]:
    ear, found = Ear(), list[Sound]()
    for at in range(0, len(track), size):
        before = ear.sound
        ear.feed(track[at : at + size], at / RATE)
        if ear.sound is not None and ear.sound is not before:
            found.append(ear.sound)
    return found


def placed(*parts: tuple[float, Samples], seconds: float) -> Samples:
    track = np.zeros(int(seconds * RATE), np.int16)
    for at, part in parts:
        track[round(at * RATE) : round(at * RATE) + len(part)] = part
    return track


@pytest.mark.parametrize("size", [80, 160, 480])
def test_finds_first_and_last_voiced_sample(size: int) -> None:
    voice = made_up("Where is my parcel?")
    carried = np.frombuffer(ulaw_to_pcm(pcm_to_ulaw(voice.tobytes())), "<i2")
    (sound,) = sounds_in(placed((1.00025, carried), seconds=3), size=size)
    assert sound.onset == pytest.approx(1.00025, abs=0.0002)
    assert sound.last == pytest.approx(1.00025 + len(voice) / RATE, abs=0.0002)


def test_parts_sounds_by_pauses_above_200_ms() -> None:
    burst = np.full(1600, 3000, np.int16)
    found = sounds_in(placed((0.5, burst), (0.89, burst), (1.4, burst), seconds=2))
    assert [(round(sound.onset, 3), round(sound.last, 3)) for sound in found] == [(0.5, 1.09), (1.4, 1.6)]


def test_lets_no_click_begin_a_sound() -> None:
    click, burst = np.full(40, 3000, np.int16), np.full(1600, 3000, np.int16)
    assert sounds_in(placed((0.5, click), (0.6, burst), seconds=1))[-1].onset == pytest.approx(0.6)


def test_hears_a_voice_in_noise_and_not_the_noise() -> None:
    noise = np.random.default_rng(1).normal(0, 400, 8 * RATE).astype(np.int16)
    voice = made_up("Where is my parcel?")
    noise[5 * RATE : 5 * RATE + len(voice)] += voice
    found = [sound for sound in sounds_in(noise) if sound.seconds > 0.1]
    assert len(found) == 1
    assert found[0].onset == pytest.approx(5, abs=0.02)
    assert found[0].last == pytest.approx(5 + len(voice) / RATE, abs=0.05)


def test_takes_nothing_for_nothing() -> None:
    assert Ear().feed(np.zeros(0, np.int16), 0.0) == []
    assert sounds_in(np.full(RATE, 200, np.int16)) == []
