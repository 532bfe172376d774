"""The recording of an RTP call: both sides lie where they were heard, whatever becomes of the caller's packets."""

from __future__ import annotations

import random

import numpy as np
import pytest
from numpy.typing import NDArray

from offhook.codecs.g711 import pcm_to_ulaw
from offhook.gateway.timeline import Timeline
from offhook.providers.base import MediaReceived
from offhook.providers.rtp.media import PCMU, Address, MediaPlan
from offhook.providers.rtp.packet import RtpPacket
from offhook.providers.rtp.rtcp import ReceiverReport, build
from offhook.providers.rtp.session import RtpSession

PEER = Address("192.0.2.10", 4000)
PLAN = MediaPlan(PCMU, 0, {0: PCMU}, 101, frozenset({101}), remote=PEER)
QUIET = b"\xff" * 160
BEEP = pcm_to_ulaw(np.full(160, 8000, "<i2").tobytes())
SECONDS = 12


def recorded(
    arrivals: list[tuple[float, bytes]], *, seconds: int = SECONDS, reports: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where, in milliseconds of the recording, the caller's and the agent's beeps begin; one of ours every second."""
    session = RtpSession(PLAN, 100.0, ssrc=1)
    timeline = Timeline(session.format)
    left, right = b"", b""
    for frame in range(seconds * 50):
        now = 100 + frame * 0.02
        while arrivals and arrivals[0][0] <= now:
            at, data = arrivals.pop(0)
            for event in session.receive(data, PEER, at):
                if isinstance(event, MediaReceived):
                    timeline.caller(event.payload, at)
        if reports and frame % 250 == 0:
            session.receive(build([ReceiverReport(7, ())], "peer"), PEER, now, is_rtcp=True)
        session.tick(now)
        for event in session.poll(now):
            if isinstance(event, MediaReceived):
                timeline.caller(event.payload, now)
        timeline.agent(BEEP if frame % 50 == 25 else QUIET, now)
        if frame % 25 == 24:
            more = timeline.take(now)
            left, right = left + more[0], right + more[1]
    more = timeline.take(100.0 + seconds, last=True)
    return begins(left + more[0]), begins(right + more[1])


def begins(pcm: bytes) -> NDArray[np.float64]:
    loud = np.flatnonzero(np.abs(np.frombuffer(pcm, "<i2").astype(int)) > 4000)
    return loud[np.flatnonzero(np.diff(loud, prepend=-9999) > 800)] / 8


def packets(seconds: int = SECONDS) -> list[bytes]:
    """The caller beeps in the same frame of every second as the agent."""
    return [RtpPacket(0, i, i * 160, 7, BEEP if i % 50 == 25 else QUIET).encode() for i in range(seconds * 50)]


def apart(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """The largest distance in ms of a caller's beep from the agent's nearest."""
    return float(max(np.abs(right - at).min() for at in left))


def test_on_a_clean_line_the_sides_are_together() -> None:
    left, right = recorded([(100 + i * 0.02, data) for i, data in enumerate(packets())])
    assert len(left) == len(right) == SECONDS
    assert apart(left, right) <= 20


@pytest.mark.parametrize("seed", [1, 2])
def test_loss_leaves_no_hole_and_moves_nothing(seed: int) -> None:
    chance = random.Random(seed)
    kept = [(100 + i * 0.02, data) for i, data in enumerate(packets()) if i % 50 == 25 or chance.random() > 0.05]
    left, right = recorded(kept)
    assert len(left) == len(right) == SECONDS
    assert apart(left, right) <= 20


@pytest.mark.parametrize("stall", [0.15, 0.5])
def test_when_the_delay_of_a_stall_has_gone_the_sides_are_together(stall: float) -> None:
    first, last = 100, 100 + round(stall / 0.02)
    kept = [(100 + (last if first <= i < last else i) * 0.02, data) for i, data in enumerate(packets(18))]
    left, right = recorded(sorted(kept, key=lambda pair: pair[0]), seconds=18)
    assert apart(left[:2], right) <= 20
    assert apart(left[-2:], right) <= 20


@pytest.mark.parametrize("hole", [0.1, 0.3, 1.0, 2.5])
def test_an_outage_is_as_long_in_the_recording_as_it_was(hole: float) -> None:
    lost = range(130, 130 + round(hole / 0.02))
    kept = [(100 + i * 0.02, data) for i, data in enumerate(packets()) if i not in lost]
    left, right = recorded(kept)
    assert len(right) == SECONDS
    assert len(left) == SECONDS - sum(i % 50 == 25 for i in lost)
    assert apart(left, right) <= 20
    assert right[-1] == pytest.approx(11_500, abs=200)


@pytest.mark.parametrize("reports", [True, False])
def test_a_caller_who_sends_nothing_while_he_is_silent_stays_in_place(reports: bool) -> None:
    every = [(100 + i * 0.02, RtpPacket(0, 0, i * 160, 7, data[12:])) for i, data in enumerate(packets())]
    spoken = [every[i] for i in range(len(every)) if i < 60 or 205 <= i < 240 or i >= 515]
    kept = [(at, packet._replace(sequence=number).encode()) for number, (at, packet) in enumerate(spoken)]
    left, right = recorded(kept, reports=reports)
    assert len(left) == 4
    assert apart(left, right) <= 20
    assert right[-1] == pytest.approx(11_500, abs=40)
