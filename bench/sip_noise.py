"""Calls over a bad line: 5 % of the packets lost at random, the others up to 40 ms late. Started by `bench/sip.py`.

First a tone, of which the echo must show no hole; then keys by telephone-event (RFC 4733), which the gateway's journal
must show one by one. The line is bad towards the gateway only, so that what is measured here is its own doing.
"""

from __future__ import annotations

import heapq
import json
import math
import random
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from sip_caller import Caller, Line, udp

from offhook.codecs.audio import L16_8K, PCMU
from offhook.codecs.convert import convert_all

KEYS: Final = "0123456789*#ABCD"
TONE: Final = 400.0
"""Hz; twenty of its periods make 50 ms, so that frames repeat soon."""

WINDOW: Final = 40
"""Samples (5 ms) in which the level is taken."""

QUIET: Final = 0.05
"""Share of the tone's level below which a window counts as a hole."""

ON, OFF = 6, 5
"""Packets (20 ms) of a key and of the tone after it."""


@dataclass
class Talk:
    """One call's stream."""

    line: Line
    sock: socket.socket
    digits: str
    start: float
    sequence: int = 0
    frame: int = 0
    heard: dict[int, bytes] = field(default_factory=dict)
    "Timestamp → payload of what came back, while the tone was sent."


class Noise:
    """All calls, one loop."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.chance = job, random.Random(job["seed"])
        self.base = udp(job["own"])
        self.caller = Caller(job["own"], (job["host"], job["port"]), 0)
        wave = 0.3 * 32767 * np.sin(2 * math.pi * TONE * np.arange(8000) / 8000)
        audio = convert_all(wave.astype("<i2").tobytes(), L16_8K, PCMU)
        self.tone = [audio[i : i + 160] for i in range(0, 8000, 160)]
        self.level = float(np.sqrt(np.mean(wave**2)))
        self.calls: list[Talk] = []
        self.wire: list[tuple[float, int, Talk, bytes]] = []
        self.lost = self.sent = 0

    def run(self) -> dict[str, Any]:
        """Call, talk, press, hang up."""
        job = self.job
        for number in range(job["calls"]):
            sock = udp(job["own"])
            self.caller.media_port = sock.getsockname()[1]
            line = self.caller.call(number)
            while line.state == "calling":
                self.caller.tick()
                self.caller.receive()
                time.sleep(0.001)
            assert line.state == "up", line
            digits = "".join(self.chance.choice(KEYS) for _ in range(job["keys"]))
            self.calls.append(Talk(line, sock, digits, time.monotonic() + 0.2 + 0.001 * number))
        frames = int(job["seconds"] * 50)
        end = frames + (ON + OFF) * job["keys"] + 10
        poll = select.epoll()
        by_number = {talk.sock.fileno(): talk for talk in self.calls}
        for number in by_number:
            poll.register(number, select.EPOLLIN)
        while any(talk.frame < end for talk in self.calls) or self.wire:
            now = time.monotonic()
            for talk in self.calls:
                while talk.frame < end and talk.start + 0.02 * talk.frame <= now:
                    self._frame(talk, frames)
            while self.wire and self.wire[0][0] <= now:
                _, _, talk, packet = heapq.heappop(self.wire)
                talk.sock.sendto(packet, (job["host"], talk.line.port))
            for number, _ in poll.poll(0.001):
                self._heard(by_number[number], frames)
            self.caller.tick()
            self.caller.receive()
        time.sleep(0.5)
        for talk in self.calls:
            self.caller.hang_up(talk.line)
        time.sleep(0.5)
        self.caller.receive()
        holes = [self._longest_hole(talk) for talk in self.calls]
        return {
            "sent": self.sent,
            "lost": self.lost,
            "longest_hole_ms": max(holes),
            "holes_ms": sorted(holes),
            "digits": {talk.line.id: talk.digits for talk in self.calls},
        }

    def _frame(self, talk: Talk, frames: int) -> None:
        """Put the next packet on the wire, or lose it."""
        number = talk.frame
        timestamp = 160 * number
        kind, payload = 0, self.tone[number % len(self.tone)]
        packets = 1
        if (into := number - frames) >= 0 and into // (ON + OFF) < len(talk.digits):
            key, at = divmod(into, ON + OFF)
            code = KEYS.index(talk.digits[key])
            if at < ON:
                over = at == ON - 1
                kind = 101 | (0x80 if at == 0 else 0)
                payload = struct.pack("!BBH", code, 0x8A if over else 0x0A, 160 * (at + 1))
                timestamp = 160 * (number - at)
                packets = 3 if over else 1  # the end is sent three times
        for _ in range(packets):
            header = struct.pack("!BBHII", 0x80, kind, talk.sequence & 0xFFFF, timestamp, talk.line.number + 1)
            talk.sequence += 1
            self.sent += 1
            if self.chance.random() < self.job["loss"]:
                self.lost += 1
                continue
            due = talk.start + 0.02 * number + self.chance.random() * self.job["jitter"]
            heapq.heappush(self.wire, (due, self.sent, talk, header + payload))
        talk.frame += 1

    def _heard(self, talk: Talk, frames: int) -> None:
        data = talk.sock.recv(2048)
        if talk.frame < frames and len(data) > 12:
            talk.heard[struct.unpack_from("!I", data, 4)[0]] = data[12:]

    def _longest_hole(self, talk: Talk) -> float:
        """Milliseconds of the longest silence between the first and the last of the tone that came back."""
        audio = b"".join(talk.heard[timestamp] for timestamp in sorted(talk.heard))
        wave = np.frombuffer(convert_all(audio, PCMU, L16_8K), "<i2").astype(float)
        count = len(wave) // WINDOW
        loud = np.sqrt(np.mean(wave[: count * WINDOW].reshape(count, WINDOW) ** 2, axis=1)) > QUIET * self.level
        where = np.flatnonzero(loud)
        if not len(where):
            return math.inf
        return float(np.diff(where).max() - 1) * 1000 * WINDOW / 8000


if __name__ == "__main__":
    print(json.dumps(Noise(json.loads(sys.argv[1])).run()))
