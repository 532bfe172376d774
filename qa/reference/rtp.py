"""The audio of one SIP call of the reference, on a socket and a timer of its own.

Frame k leaves k packets' time after the answer, on absolute deadlines; its first sample is at just that second of the
line's clock. What comes is put on that clock by its RTP timestamps and by the fastest of its packets, by the kernel's
time stamps, so that neither jitter nor a late event loop moves what the caller said.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from offhook.codecs.audio import L16_8K
from offhook.providers.rtp.coding import Decoder, Encoder, packet_ms
from offhook.providers.rtp.dtmf import KeyReceiver, KeySender
from offhook.providers.rtp.media import MediaPlan
from offhook.providers.rtp.packet import MAX_DATAGRAM, BadPacket, RtpPacket, is_rtcp, parse
from offhook.providers.rtp.srtp import SrtpContext, SrtpError
from offhook.qa.reference.brain import Brain, Order, Play, SendKeys, Stop
from offhook.qa.reference.ear import RATE

STAMPED: Final = 35
"""SO_TIMESTAMPNS of Linux."""

_timespec: Final = struct.Struct("@ll")

JUMP_S: Final = 0.150
"""Packets this far behind the fastest one, `JUMPS` of them in a row, mean another time base."""
JUMPS: Final = 5

MAX_BEHIND: Final = 50
"""Packets that are made up for after the process was held up; beyond that the rest is left out."""


class Anchor:
    """Where a stream's own time lies on the line's clock: the fastest packet decides."""

    def __init__(self) -> None:
        self._offset: float | None = None
        self._late = 0

    def place(self, begins: float, lasts: float, arrived: float) -> float:
        """The line second of a packet's first sample.

        Args:
            begins: of the packet in the stream's own time, seconds.
            lasts: seconds of audio in it; the last was on the line when it left.
            arrived: line second.
        """
        offset = arrived - lasts - begins
        if self._offset is None or offset < self._offset:
            self._offset, self._late = offset, 0
        elif offset > self._offset + JUMP_S:
            self._late += 1
            if self._late >= JUMPS:
                self._offset, self._late = offset, 0
        else:
            self._late = 0
        return self._offset + begins

    def reset(self) -> None:
        """Another stream comes."""
        self._offset, self._late = None, 0


class RtpAudio:
    """Carries one call's audio between a socket and a brain. `on_order` gets the orders that are no audio."""

    def __init__(
        self, sock: socket.socket, brain: Brain, on_order: Callable[[Order], None], rng: random.Random
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock, self._brain, self._on_order = sock, brain, on_order
        self._timer: asyncio.TimerHandle | None = None
        self._zero = 0.0
        self._frames = 0
        self._samples = 160
        self._sequence = rng.randrange(1 << 16)
        self._timestamp = rng.randrange(1 << 31)
        self._ssrc = rng.randrange(1, 1 << 32)
        self._plan: MediaPlan | None = None
        self._decoder: Decoder | None = None
        self._decoding = -1
        self._encoder: Encoder | None = None
        self._protect: SrtpContext | None = None
        self._unprotect: SrtpContext | None = None
        self._receiver, self._sender = KeyReceiver(), KeySender()
        self._anchor = Anchor()
        self._their_ssrc: int | None = None
        self._their_first = 0
        self._their_last = 0
        self._playing = np.zeros(0, np.int16)
        self._play_from = 0
        "Sample of the line's clock at which `playing` begins."
        self._lost = range(0)
        "Frames that are not sent."
        self._marked = self._closed = False
        self.late = 0.0
        "By how much the worst frame left late, seconds."
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # elsewhere the time of reading must do
            sock.setsockopt(socket.SOL_SOCKET, STAMPED, 1)

    def start(self, plan: MediaPlan) -> None:
        """The call is answered: the line's clock begins."""
        self._zero = self._loop.time()
        self._loop.add_reader(self._sock.fileno(), self._readable)
        self.adopt(plan)
        self._tick()

    def adopt(self, plan: MediaPlan) -> None:
        """Go on with what was agreed on now."""
        old = self._plan
        self._plan = plan
        if old is None or old.codec != plan.codec:
            self._encoder = Encoder(plan.codec, L16_8K)
            self._decoding = -1
        if old is None or old.srtp_send != plan.srtp_send:
            self._protect = SrtpContext(plan.srtp_send, sending=True) if plan.srtp_send else None
        if old is None or old.srtp_receive != plan.srtp_receive:
            self._unprotect = SrtpContext(plan.srtp_receive, sending=False) if plan.srtp_receive else None
        samples = packet_ms(plan.codec, plan.ptime) * RATE // 1000
        if samples != self._samples:
            # The line's clock goes on; frames are counted in the new size from here.
            done = self._frames * self._samples
            self._samples, self._frames = samples, -(-done // samples)

    @property
    def now(self) -> float:
        """Line second."""
        return self._loop.time() - self._zero

    def close(self) -> None:
        """No more of it."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()

    # --- what comes in -------------------------------------------------------------------

    def _readable(self) -> None:
        while True:
            try:
                data, control, _, _ = self._sock.recvmsg(MAX_DATAGRAM, 64)
            except BlockingIOError:
                return
            except OSError:
                continue  # the network refused something that we sent
            age = max(0.0, time.time() - _stamp(control, time.time()))
            if not is_rtcp(data):
                self._take(data, self.now - age)

    def _take(self, data: bytes, at: float) -> None:
        plan = self._plan
        assert plan is not None
        try:
            if self._unprotect is not None:
                data = self._unprotect.unprotect(data)
            packet = parse(data)
            if packet.payload_type in plan.dtmf_receive_types:
                key = self._receiver.receive(
                    packet.ssrc, packet.sequence, packet.timestamp, packet.marker, packet.payload, at
                )
                if key:
                    self._brain.key(key, at)
                return
            if packet.payload_type in plan.receive_types:
                self._hear(packet, plan, at)
        except (BadPacket, SrtpError, ValueError):
            return  # whatever it was, it was no audio

    def _hear(self, packet: RtpPacket, plan: MediaPlan, at: float) -> None:
        codec = plan.receive_types[packet.payload_type]
        if self._decoder is None or self._decoding != packet.payload_type:
            if self._decoder is not None and self._decoder.codec.clock != codec.clock:
                self._their_ssrc = None  # timestamps count otherwise from here on
            self._decoder, self._decoding = Decoder(codec, L16_8K), packet.payload_type
        ticks = (packet.timestamp - self._their_last + (1 << 31)) % (1 << 32) - (1 << 31)
        if packet.ssrc != self._their_ssrc or abs(ticks) > 60 * codec.clock:
            self._their_ssrc, self._their_first = packet.ssrc, 0
            self._anchor.reset()
        else:
            self._their_first += ticks
        self._their_last = packet.timestamp
        lasts = self._decoder.ticks(packet.payload) / codec.clock
        begins = self._anchor.place(self._their_first / codec.clock, lasts, at)
        self._brain.hear(np.frombuffer(self._decoder.decode(packet.payload), "<i2"), begins)

    # --- what goes out -------------------------------------------------------------------

    def _tick(self) -> None:
        for _ in range(MAX_BEHIND):
            due = self._frames * self._samples / RATE
            late = self.now - due
            if late < 0:
                break
            self.late = max(self.late, late)
            self._frame()
        else:
            self._frames = int(self.now * RATE / self._samples)
        if not self._closed:
            self._timer = self._loop.call_at(self._zero + self._frames * self._samples / RATE, self._tick)

    def _frame(self) -> None:
        begin = self._frames * self._samples
        for order in self._brain.advance((begin + self._samples) / RATE):
            self.do(order)
        self._send(begin)
        self._frames += 1

    def do(self, order: Order) -> None:
        """Carry an order out."""
        if isinstance(order, Play):
            self._playing, self._play_from = order.samples, round(order.at * RATE)
            first = (self._play_from + order.lost[0]) // self._samples
            self._lost = range(first, first + order.lost[1])
        elif isinstance(order, Stop):
            self._playing = self._playing[: max(0, round(order.at * RATE) - self._play_from)]
        elif isinstance(order, SendKeys):
            self._sender.press(order.keys)
        else:
            self._on_order(order)

    def _send(self, begin: int) -> None:
        plan, encoder = self._plan, self._encoder
        assert plan is not None
        assert encoder is not None
        ticks = self._samples * plan.codec.clock // RATE
        timestamp, self._timestamp = self._timestamp, (self._timestamp + ticks) & 0xFFFFFFFF
        payload = encoder.convert(self._piece(begin))
        if encoder.encode is not None:
            payload = encoder.encode(payload)
        kind, marker = plan.send_type, not self._marked
        if self._sender.active and plan.dtmf_send_type is not None:
            event = self._sender.next(timestamp, ticks, plan.codec.clock)
            if event is not None:
                payload, timestamp, marker = event
                kind = plan.dtmf_send_type
        if plan.remote is None or plan.direction in ("recvonly", "inactive"):
            return
        sequence, self._sequence = self._sequence, (self._sequence + 1) & 0xFFFF
        self._marked = True
        if self._frames in self._lost:
            return
        data = RtpPacket(kind, sequence, timestamp, self._ssrc, payload, marker).encode()
        if self._protect is not None:
            data = self._protect.protect(data)
        try:
            self._sock.sendto(data, plan.remote)
        except OSError:
            return  # nobody listens there at present, which SIP will tell

    def _piece(self, begin: int) -> bytes:
        """The frame that begins at this sample of the line's clock."""
        frame = np.zeros(self._samples, "<i2")
        at = begin - self._play_from
        part = self._playing[max(0, at) : max(0, at + self._samples)]
        if len(part):
            skip = max(0, -at)
            frame[skip : skip + len(part)] = part
        return frame.tobytes()


def _stamp(control: Sequence[tuple[int, int, bytes]], unknown: float) -> float:
    """When a datagram came, Unix seconds."""
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == STAMPED and len(data) == _timespec.size:
            seconds, nanoseconds = _timespec.unpack(data)
            return float(seconds + nanoseconds * 1e-9)
    return unknown
