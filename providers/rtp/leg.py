"""One call's RTP sockets, and the stream that the gateway takes them for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self

from offhook.codecs.audio import AudioFormat
from offhook.providers.base import MediaStream, StreamEnded, StreamEvent
from offhook.providers.rtp.clock import FrameClock
from offhook.providers.rtp.latch import ip
from offhook.providers.rtp.media import Address, MediaPlan
from offhook.providers.rtp.ports import PortPool
from offhook.providers.rtp.quality import MediaStats
from offhook.providers.rtp.session import RtpSession
from offhook.providers.rtp.sockets import PortPair, drain

BIND_TRIES: Final = 8
"""Ports tried when other programs hold some of the range."""

OnEvents = Callable[[Sequence[StreamEvent], float], None]


class RtpLeg(MediaStream):
    """Stream and socket of one call in one object.

    `open` binds a port pair, `start` begins to send and to hear by the first plan, `update` takes the next ones.
    What the peer says comes by `on_events(events, now)`, never by `receive`. StreamStarted is the owner's to give,
    for it is signalling that starts a SIP call.
    """

    paced = True

    def __init__(self, pair: PortPair, clock: FrameClock) -> None:
        """Use `open`."""
        self.local = pair.local
        "Where we hear RTP; RTCP is on the next port."
        self.stream_id = f"rtp-{pair.local.port}"
        self.on_events: OnEvents = _nobody
        self.closed_by_us = False
        self.early = 0
        "Datagrams that came before there was a plan, and were thrown away."
        self._pair, self._clock = pair, clock
        self._loop = asyncio.get_running_loop()
        self.session: RtpSession | None = None
        "None before `start`."
        self._rtp: socket.socket | None = pair.rtp
        self._rtcp: socket.socket | None = pair.rtcp
        self._ended = False

    @classmethod
    async def open(cls, ports: PortPool, clock: FrameClock, host: str) -> Self:
        """Bind a port pair at `host`, an IP literal of this machine (`0.0.0.0` and `::` are fine).

        Raises:
            NoPortLeft: the range is used up, or other programs hold it.
            OSError: `host` is no address of this machine.
            ValueError: `host` is a name.
        """
        ip(host)
        return cls(PortPair(ports, host, asyncio.get_running_loop().time(), tries=BIND_TRIES), clock)

    # --- the agreement

    def start(self, plan: MediaPlan, **settings: Any) -> None:
        """Begin by the first plan; `settings` are the keyword arguments of RtpSession (signalling, inband_dtmf…).

        Raises:
            ValueError, RuntimeError: as RtpSession, or the peer's address is of another family than our socket.
        """
        assert self.session is None, "a leg starts once; update() takes further plans"
        self._check(plan)
        self.session = RtpSession(plan, self._loop.time(), **settings)
        self.backlog = self.session.backlog  # type: ignore[method-assign]  # nothing in between
        for sock, take in ((self._rtp, self._rtp_came), (self._rtcp, self._rtcp_came)):
            if sock is not None:
                self.early += drain(sock)
                self._clock.sockets.add(sock, take)
        self._clock.add(self)

    def update(self, plan: MediaPlan, *, signalling: str | None = None) -> None:
        """Take the next plan; a change of hold comes by `on_events`. `signalling` as of RtpSession.update.

        Raises:
            ValueError, RuntimeError: as `start`; the old plan is in force then.
        """
        assert self.session is not None, "update() before start()"
        self._check(plan)
        now = self._loop.time()
        events = self.session.update(plan, now, signalling=signalling)
        if events:
            self.on_events(events, now)

    def _check(self, plan: MediaPlan) -> None:
        ours = ip(self.local.host).version
        for remote in (plan.remote, plan.remote_rtcp):
            if remote is not None and ip(remote.host, "plan.remote.host").version != ours:
                raise ValueError(f"the peer's media address {remote.host} is not IPv{ours}, as our socket is")

    # --- the stream

    @property
    def format(self) -> AudioFormat:  # type: ignore[override]  # fixed from start() on, never set
        """What the gateway hears and says; valid after `start`."""
        assert self.session is not None, "no format before start()"
        return self.session.format

    @property
    def silent(self) -> bool:  # type: ignore[override]  # follows the plan
        """True while no audio of the peer is to be expected, as on hold."""
        return self.session is not None and self.session.silent

    @property
    def on_hold(self) -> bool:  # type: ignore[override]  # follows the plan
        """True while the peer has us on hold, which one that only listens has not."""
        return self.session is not None and self.session.held

    def backlog(self) -> float:
        """Seconds of audio that are queued, to leave at the pace of speech."""
        return 0.0  # start() puts the session's own here

    def receive(self, data: bytes | str, now: float) -> Sequence[StreamEvent]:
        """Nothing: what comes is read from the socket here, and given to `on_events`."""
        return ()

    def receive_binary(self, data: bytes, now: float) -> Sequence[StreamEvent]:
        """Nothing, as `receive`."""
        return ()

    def closed(self, now: float) -> Sequence[StreamEvent]:
        """The call is over: StreamEnded, once."""
        if self._ended:
            return ()
        self._ended = True
        return (StreamEnded("stop" if self.closed_by_us else "transport-lost"),)

    def media(self, payload: bytes) -> bytes:
        """The payload itself; `send_message` queues it."""
        return payload

    def mark(self, name: str) -> None:
        """RTP has no marks: what was heard goes by the clock."""

    def clear(self, now: float) -> Sequence[bytes]:
        """Empty the queue."""
        if self.session is not None:
            self.session.clear()
        return ()

    def send_dtmf(self, digits: str) -> bytes | None:
        """Send keys by telephone-event, or by tone where that was agreed; None when neither is possible.

        Raises:
            ValueError: one of them is no key, or too many would wait.
        """
        if self.session is not None and self.session.send_dtmf(digits):
            return b""
        return None

    def quality(self) -> Mapping[str, float]:
        """Packets both ways, loss, jitter, round trip and opinion score, as far as they are known.

        No packet received, or all of ours lost, is one-way audio.
        """
        if self.session is None:
            return {}
        stats = self.session.stats()
        known: dict[str, float] = {"packets_received": stats.packets_received, "packets_sent": stats.packets_sent}
        if stats.packets_received:
            known["loss_percent"] = round(100 * stats.loss, 2)
            known["jitter_ms"] = round(stats.jitter, 2)
            known["mos"] = round(stats.mos, 2)
        if stats.remote_loss is not None:
            known["remote_loss_percent"] = round(100 * stats.remote_loss, 2)
        if stats.rtt is not None:
            known["rtt_ms"] = round(stats.rtt, 2)
        return known

    def stats(self) -> MediaStats:
        """All figures; empty ones before `start`."""
        return self.session.stats() if self.session is not None else MediaStats()

    @property
    def last_heard(self) -> float:  # type: ignore[override]  # follows the session
        """Loop time of the peer's last valid packet, RTP or RTCP; 0.0: none yet."""
        return self.session.last_heard if self.session is not None else 0.0

    # --- the socket

    @property
    def writable_now(self) -> bool:
        """False on hold, before the start and after the end."""
        session = self.session
        return session is not None and not session.held and self._rtp is not None

    def send_message(self, message: bytes) -> None:
        """Queue audio of `media`."""
        if self.session is not None:
            self.session.play(message)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye by RTCP, close the sockets, let the ports rest. A second time does nothing."""
        now = self._loop.time()
        if self.session is not None and self._rtp is not None:
            self._clock.discard(self)
            self._send(self.session.leave(now))
        self.closed_by_us = True
        for sock in (self._rtp, self._rtcp):
            if sock is not None:
                self._clock.sockets.discard(sock)
        self._rtp = self._rtcp = None
        self.on_events = _nobody
        self._pair.close(now)

    def tick(self, now: float) -> None:
        """Every 20 ms, by the clock: send what is owed, hear what is due."""
        session = self.session
        assert session is not None
        self._send(session.tick(now))
        events = session.poll(now)
        if events:
            self.on_events(events, now)

    def _send(self, datagrams: Sequence[tuple[bytes, Address, bool]]) -> None:
        for data, target, is_rtcp in datagrams:
            sock = self._rtcp if is_rtcp else self._rtp
            if sock is not None:
                try:
                    sock.sendto(data, target)
                except OSError:
                    continue  # one datagram that the network refuses; a dead line shows by its silence

    def _rtcp_came(self, data: bytes, source: Any, now: float) -> None:
        self._rtp_came(data, source, now, True)

    def _rtp_came(self, data: bytes, source: Any, now: float, is_rtcp: bool = False) -> None:
        session = self.session
        assert session is not None
        if len(source) > 2:  # IPv6: flow and scope are nobody's address
            source = source[:2]
        events = session.receive(data, source, now, is_rtcp=is_rtcp)
        if events:
            self.on_events(events, now)


def _nobody(events: Sequence[StreamEvent], now: float) -> None:
    """Until somebody listens, and after the end."""
