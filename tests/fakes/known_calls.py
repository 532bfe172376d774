"""Calls whose truth is known: voices laid into tracks, carried by either law, and the records that go with them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest

from offhook.codecs.g711 import alaw_to_pcm, pcm_to_alaw, pcm_to_ulaw, ulaw_to_pcm
from offhook.qa.activity import RATE, Samples, Span
from offhook.qa.caller.record import CallerRecord, StepRecord
from offhook.qa.match import AUDIBLE
from offhook.qa.measuring.metrics import Metrics, measure_call
from offhook.qa.phones.base import CallLog
from offhook.qa.scenario.model import Scenario
from offhook.qa.sounds import at_level
from offhook.qa.voice import Voice

SENTENCES = {
    "greeting": "Hello, this is the clinic. How can I help you today?",
    "six": "Six of them, yes.",
    "please": "Please hold the line, I will put you through.",
    "bye": "Thank you for calling. Goodbye.",
    "question": "What is your date of birth?",
    "ask": "I need to move my appointment, please.",
    "stop": "Sorry, can I type it?",
}


def made_up(seconds: float, dbov: float = -20.0, seed: int = 1) -> Samples:
    """A voice of pulses through two resonances: it sets in and breaks off from one sample to the next."""
    rng = np.random.default_rng(seed)
    size = round(seconds * RATE)
    time = np.arange(RATE // 100) / RATE
    ring = np.exp(-time * 300) * (np.cos(2 * np.pi * 620 * time) + 0.6 * np.cos(2 * np.pi * 1500 * time))
    pulses = np.zeros(size)
    at = 0.0
    while at < size:
        pulses[int(at)] = 1.0
        at += RATE / (115 + 15 * rng.random())
    wave = np.convolve(pulses, ring)[:size]
    return np.rint(at_level(wave, dbov) * 32768).astype(np.int16)


def laid(seconds: float, *pieces: tuple[float, Samples]) -> Samples:
    """A track with pieces from given seconds on."""
    track = np.zeros(round(seconds * RATE), np.int16)
    for at, piece in pieces:
        begin = round(at * RATE)
        track[begin : begin + len(piece)] = piece[: len(track) - begin]
    return track


LAWS: Mapping[str, Callable[[bytes], bytes]] = {
    "L16": lambda pcm: pcm,
    "PCMU": lambda pcm: ulaw_to_pcm(pcm_to_ulaw(pcm)),
    "PCMA": lambda pcm: alaw_to_pcm(pcm_to_alaw(pcm)),
}


def carried(track: Samples, law: str = "PCMU", noise_dbov: float | None = None, seed: int = 5) -> Samples:
    """What arrives of a track, with white noise all over it."""
    wave = track.astype(np.float64)
    if noise_dbov is not None:
        wave += np.random.default_rng(seed).normal(0, 32768 * 10 ** (noise_dbov / 20), len(wave))
    pcm = np.clip(np.rint(wave), -32768, 32767).astype("<i2").tobytes()
    return np.frombuffer(LAWS[law](pcm), "<i2")


@dataclass
class Said:
    """A step of the caller that makes a sound."""

    at: float
    sound: Samples
    verb: str = "say"

    @property
    def end(self) -> float:
        return self.at + len(self.sound) / RATE


@dataclass
class Made:
    """A call in the making."""

    seconds: float = 14.0
    said: Sequence[Said] = ()
    agent: Sequence[tuple[float, Samples]] = ()
    law: str = "PCMU"
    noise: float | None = None
    log: dict[str, Any] = field(default_factory=dict)
    scenario: dict[str, Any] = field(default_factory=dict)
    steps: Sequence[StepRecord] = ()

    @property
    def caller_log(self) -> CallLog:
        frames = round(self.seconds * 50)
        plain: dict[str, Any] = {
            "call_id": "c1",
            "way": "sip",
            "target": "sip:bot@127.0.0.1",
            "began": 0.0,
            "status": 200,
            "answered": True,
            "seconds": self.seconds,
            "codec": "PCMU",
            "caller": laid(self.seconds, *((said.at, said.sound) for said in self.said)),
            "agent": carried(laid(self.seconds, *self.agent), self.law, self.noise),
            "left_at": [(n + 1) * 0.02 for n in range(frames)],
            "lateness": [0.0] * frames,
            "due": frames,
        }
        return CallLog(**{**plain, **self.log})

    @property
    def record(self) -> CallerRecord:
        steps = [
            StepRecord(n, said.verb, began=said.at, ended=said.end, spoken=Span(said.at, said.end), source=f"s{n}")
            for n, said in enumerate(self.said)
        ]
        return CallerRecord([*steps, *self.steps])

    @property
    def sounds(self) -> dict[str, Samples]:
        return {f"s{n}": said.sound for n, said in enumerate(self.said)}

    def measured(self) -> Metrics:
        steps = [{said.verb: "x"} for said in self.said] or [{"wait": "1s"}]
        scenario = Scenario.model_validate({"schema": 1, "name": "made", "steps": steps, **self.scenario})
        return measure_call(self.caller_log, self.record, scenario, sounds=self.sounds)


@cache
def spoken() -> Mapping[str, Samples]:
    """Real speech by the names of SENTENCES, -20 dBov, from its first to its last audible sample."""
    if shutil.which("flite") is None:
        pytest.skip("needs flite")

    async def speak() -> list[Samples]:
        voice = Voice("flite", "slt")
        return [await voice.speak(text) for text in SENTENCES.values()]

    said = {}
    for name, sound in zip(SENTENCES, asyncio.run(speak()), strict=True):
        wave = np.rint(at_level(sound / 32768, -20.0) * 32768).astype(np.int16)
        loud = np.flatnonzero(np.abs(wave.astype(np.int32)) >= AUDIBLE)
        said[name] = np.array(wave[loud[0] : loud[-1] + 1])
    return said
