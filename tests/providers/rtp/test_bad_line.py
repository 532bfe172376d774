"""A line that loses five packets in a hundred and delays the others by up to 40 ms: what is heard of it."""

from __future__ import annotations

import random

import numpy as np
import pytest

from offhook.codecs.g711 import pcm_to_ulaw, ulaw_to_pcm
from offhook.codecs.pcm import tone
from offhook.providers.base import DtmfReceived, MediaReceived
from offhook.providers.rtp.media import PCMU, Address, MediaPlan
from offhook.providers.rtp.packet import RtpPacket
from offhook.providers.rtp.session import RtpSession

PEER = Address("192.0.2.10", 4000)
PLAN = MediaPlan(PCMU, 0, {0: PCMU}, 101, frozenset({101}), remote=PEER)
SECONDS = 10.0


def arrivals(packets: list[bytes], seed: int, loss: float, jitter: float) -> list[tuple[float, bytes]]:
    chance = random.Random(seed)
    kept = [
        (100 + i * 0.02 + chance.random() * jitter, data) for i, data in enumerate(packets) if chance.random() >= loss
    ]
    return sorted(kept, key=lambda pair: pair[0])


def heard(packets: list[tuple[float, bytes]]) -> tuple[RtpSession, list[tuple[float, bytes]], str]:
    """Audio with the time it was heard, and keys."""
    session = RtpSession(PLAN, 100.0, ssrc=1)
    audio, keys, at = [], "", 0
    for tick in range(round((SECONDS + 1) / 0.02)):
        now = 100 + tick * 0.02
        events = []
        while at < len(packets) and packets[at][0] <= now:
            events += [(packets[at][0], event) for event in session.receive(packets[at][1], PEER, packets[at][0])]
            at += 1
        session.tick(now)
        events += [(now, event) for event in session.poll(now)]
        audio += [(when, event.payload) for when, event in events if isinstance(event, MediaReceived)]
        keys += "".join(event.digit for _, event in events if isinstance(event, DtmfReceived))
    return session, audio, keys


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_hole_of_more_than_60_ms_is_heard(seed: int) -> None:
    voice = pcm_to_ulaw(tone(200, SECONDS, 8000))
    packets = [
        RtpPacket(0, 65_400 + i & 0xFFFF, i * 160, 7, voice[i * 160 : i * 160 + 160]).encode()
        for i in range(round(SECONDS * 50))
    ]
    session, audio, _ = heard(arrivals(packets, seed, 0.05, 0.04))
    sound = b"".join(payload for when, payload in audio if when < 100 + SECONDS)
    assert len(sound) == pytest.approx(len(voice), abs=1600)
    levels = np.abs(np.frombuffer(ulaw_to_pcm(sound), "<i2").astype(int))
    loud = np.flatnonzero(levels > 500)
    assert np.diff(loud).max() <= 0.060 * 8000
    times = np.array([when for when, _ in audio if 102 < when < 100 + SECONDS])
    assert np.diff(times).max() < 0.1
    stats = session.stats()
    assert stats.loss == pytest.approx(0.05, abs=0.03)
    assert stats.depth <= 60
    assert stats.mos > 3


def test_a_clean_line_costs_no_delay_once_it_is_known() -> None:
    packets = [RtpPacket(0, i, i * 160, 7, bytes([i % 200 + 1]) * 160).encode() for i in range(round(SECONDS * 50))]
    arriving = arrivals(packets, 1, 0.0, 0.004)
    _, audio, _ = heard(arriving)
    assert len(audio) >= len(packets)
    late = [heard_at - came for (heard_at, _), (came, _) in list(zip(audio, arriving, strict=False))[200:]]
    assert max(late) <= 0.005
    assert b"".join(payload for _, payload in audio)[:80_000] == b"".join(data[12:] for _, data in arriving)


def test_every_key_of_five_hundred_is_heard_once() -> None:
    chance = random.Random(500)
    for block in range(10):
        digits = "".join(chance.choice("0123456789*#") for _ in range(50))
        sender = RtpSession(PLAN, 100.0, ssrc=7, sequence=65_000, timestamp=2**32 - 9000)
        assert sender.send_dtmf(digits)
        sent = [
            data for i in range(round(SECONDS * 50)) for data, _, is_rtcp in sender.tick(100 + i * 0.02) if not is_rtcp
        ]
        assert heard(arrivals(sent, block, 0.05, 0.04))[2] == digits
