"""The RTP of one call with its two sockets: encryption, reports, and the network between as bad as one asks for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from random import Random
from typing import Any, Final

from offhook.providers.rtp.latch import PROBATION, Latch
from offhook.providers.rtp.media import Address, MediaPlan, SrtpKey
from offhook.providers.rtp.packet import is_rtcp
from offhook.providers.rtp.reports import Reporter
from offhook.providers.rtp.rtcp import BadRtcp, parse
from offhook.providers.rtp.sockets import PortPair, drain
from offhook.providers.rtp.srtp import SrtpContext, SrtpError
from offhook.qa.network.model import Delays, Transit, both_ways
from offhook.qa.phones.pacer import Pacer
from offhook.qa.phones.rtp_in import RtpIn
from offhook.qa.phones.rtp_out import RtpOut
from offhook.qa.scenario.model import Network

OVERHEAD: Final = 28
"""Bytes of IP and UDP headers, which a slow link carries, too."""

Tap = Callable[[bytes, bool, tuple[str, int], tuple[str, int], str, float | None], None]
"""Told every datagram: data, whether it is ours, our address, theirs, `rtp` or `rtcp`, and when it came, monotonic;
None: it leaves now."""


class RtpAudio:
    """One call's audio on the wire, from the answer to the end.

    Args:
        started: second 0 of the track, monotonic.
        signalling: host that the agent's signalling comes from.
        rng: of what is random in RTP.
        network: what happens to packets on their way; None: nothing.
        seed: of that.
        on_key: told every key of the agent, and the second at which it came.
        tap: told every datagram; None: nobody listens.

    Raises:
        ValueError: an address of the plan is a name, or a key has a wrong length.
        RuntimeError: a library that the plan needs is not installed.
    """

    def __init__(
        self,
        port: PortPair,
        pacer: Pacer,
        plan: MediaPlan,
        started: float,
        *,
        signalling: str,
        rng: Random,
        network: Network | None,
        seed: int,
        on_key: Callable[[str, float], None],
        tap: Tap | None,
    ) -> None:
        self.port, self.started = port, started
        self.unsent = 0
        "Packets that the network refused."
        self._pacer, self._plan, self._on_key, self._tap = pacer, plan, on_key, tap
        loopback = signalling.startswith("127.") or signalling == "::1"
        self._latch = Latch(plan.remote, signalling, authenticated=plan.srtp_receive is not None, loopback=loopback)
        self._protect = SrtpContext(plan.srtp_send, sending=True) if plan.srtp_send else None
        self._unprotect = SrtpContext(plan.srtp_receive, sending=False) if plan.srtp_receive else None
        # below 2^15, so that no peer is in doubt about SRTP's first rollover (RFC 3711 section 3.3.1)
        ssrc, sequence, timestamp = rng.getrandbits(32), rng.getrandbits(15), rng.getrandbits(32)
        self.out = RtpOut(plan, ssrc=ssrc, sequence=sequence, timestamp=timestamp)
        self.heard = RtpIn(plan)
        self._reporter = Reporter(ssrc, f"{rng.getrandbits(64):x}", 0.0, rng.random)
        self._reported = 0
        self._to_agent: Transit[bytes] | None = None
        self._from_agent: Transit[tuple[bytes, Any, float]] | None = None
        self.added_out: Delays | None = None
        "What the network added to our packets, by the second at which they left."
        if network is not None:
            there, back = both_ways(network, seed)
            self._to_agent, self._from_agent = Transit(there), Transit(back)
            self.added_out, self.heard.added = Delays(), Delays()
        self._last_came = 0.0
        self._waiting: list[tuple[bytes, float, float]] = []
        "Packets of a source that has yet to prove itself: when it has, they were the agent's."
        for sock in (port.rtp, port.rtcp):
            drain(sock)  # early media, and what was meant for an earlier call
        pacer.sockets.add(port.rtp, self._rtp_came)
        pacer.sockets.add(port.rtcp, self._rtcp_came)
        if network is not None:
            pacer.often(self.flow)

    def update(self, plan: MediaPlan, signalling: str) -> None:
        """A new agreement. Raises ValueError or RuntimeError; the old one holds then."""
        unprotect = _context(self._unprotect, plan.srtp_receive, sending=False)
        protect = _context(self._protect, plan.srtp_send, sending=True)
        self.heard.update(plan)
        self.out.update(plan)
        self._latch.update(plan.remote, signalling, authenticated=plan.srtp_receive is not None)
        self._protect, self._unprotect, self._plan = protect, unprotect, plan

    @property
    def plan(self) -> MediaPlan:
        """The agreement in force."""
        return self._plan

    @property
    def network_s(self) -> float:
        """Mean one-way delay that the network added, both ways together."""
        models = [way.model for way in (self._to_agent, self._from_agent) if way is not None]
        return sum(model.mean_delay for model in models) / len(models) if models else 0.0

    # --- out

    def send(self, pcm: bytes | None, at: float) -> None:
        """Send a frame at that second; None: silence."""
        packets = self.out.frame(pcm)
        peer = self._latch.peer
        if peer is not None:
            for packet in packets:
                data = packet if self._protect is None else self._protect.protect(packet)
                if self._to_agent is None:
                    self._put(data, peer)
                else:
                    arrives = self._to_agent.put(data, len(data) + OVERHEAD, at)
                    if arrives is not None and self.added_out is not None:
                        self.added_out.note(at, arrives - at)
        if at >= self._reporter.next_at:
            self._report(at, leaving=False)

    def flow(self, now: float) -> None:
        """Let go on what was held up by the network until now, monotonic seconds."""
        at, peer = now - self.started, self._latch.peer
        if self._to_agent is not None and peer is not None:
            for _, data in self._to_agent.due(at):
                self._put(data, peer)
        if self._from_agent is not None:
            for came, (data, source, sent) in self._from_agent.due(at):
                self._take(data, source, came, came - sent)

    def _put(self, data: bytes, peer: Address) -> None:
        try:
            self.port.rtp.sendto(data, peer)
        except OSError:
            self.unsent += 1  # one datagram that the network refuses; a dead line shows by its silence
        if self._tap is not None:
            self._tap(data, True, self.port.local, peer, "rtp", None)

    def _report(self, at: float, *, leaving: bool) -> None:
        out, heard = self.out, self.heard
        sent = out.packets if out.packets > self._reported else 0
        self._reported = out.packets
        data = self._reporter.report(
            at, out.timestamp, sent, out.octets, heard.reception, heard.jitter, leaving=leaving
        )
        peer, plan = self._latch.peer, self._plan
        if peer is None:
            return
        target = peer if plan.rtcp_mux else Address(peer.host, min(65535, peer.port + 1))
        if not plan.rtcp_mux and peer == plan.remote and plan.remote_rtcp is not None:
            target = plan.remote_rtcp
        if self._protect is not None:
            data = self._protect.protect_rtcp(data)
        sock = self.port.rtp if plan.rtcp_mux else self.port.rtcp
        with contextlib.suppress(OSError):
            sock.sendto(data, target)
        if self._tap is not None:
            local = self.port.local if plan.rtcp_mux else Address(self.port.local.host, self.port.local.port + 1)
            self._tap(data, True, local, target, "rtcp", None)

    # --- in

    def _rtp_came(self, data: bytes, source: Any, now: float) -> None:
        if is_rtcp(data):
            self._rtcp_came(data, source, now)
            return
        if self._tap is not None:
            self._tap(data, False, self.port.local, source[:2], "rtp", now)
        at = now - self.started
        if self._from_agent is None:
            self._take(data, source, at)
            return
        # what the kernel stamped may be a little out of order between two looks
        self._last_came = max(self._last_came, at)
        self._from_agent.put((data, source, self._last_came), len(data) + OVERHEAD, self._last_came)

    def _take(self, data: bytes, source: Any, at: float, added: float = 0.0) -> None:
        if self._unprotect is not None:
            try:
                data = self._unprotect.unprotect(data)
            except SrtpError as error:
                self.heard.fault(f"SRTP: {error}")
                return
        latch = self._latch
        if not (latch.locked and source == latch.peer):
            address = Address(*source[:2])
            if not latch.accept(address, int.from_bytes(data[8:12], "big")):
                if latch.on_probation(address):
                    self._waiting = [*self._waiting, (data, at, added)][1 - PROBATION :]
                else:
                    self.heard.fault(f"RTP from {address.host}:{address.port}, which is not the agent's address")
                return
            waiting, self._waiting = self._waiting, []
            for earlier in waiting:  # of this source, or of one that has given up: then they are of another stream
                if earlier[0][8:12] == data[8:12]:
                    self._hear(*earlier)
        self._hear(data, at, added)

    def _hear(self, data: bytes, at: float, added: float) -> None:
        key = self.heard.take(data, at, added)
        if key:
            self._on_key(key, at)

    def _rtcp_came(self, data: bytes, source: Any, now: float) -> None:
        if self._tap is not None:
            host, port = self.port.local
            self._tap(data, False, (host, port if self._plan.rtcp_mux else port + 1), source[:2], "rtcp", now)
        try:
            if self._unprotect is not None:
                data = self._unprotect.unprotect_rtcp(data)
            self._reporter.receive(parse(data), now - self.started)
        except (SrtpError, BadRtcp) as error:
            self.heard.fault(f"RTCP: {error}")

    def close(self, at: float) -> None:
        """Say goodbye, and hear no more. The sockets stay the owner's to close."""
        self._report(at, leaving=True)
        self._pacer.seldom(self.flow)
        self._pacer.sockets.discard(self.port.rtp)
        self._pacer.sockets.discard(self.port.rtcp)


def _context(present: SrtpContext | None, key: SrtpKey | None, *, sending: bool) -> SrtpContext | None:
    """The same key keeps its context, and with it rollover counter and replay window."""
    if key is None or (present is not None and present.key == key):
        return present if key is not None else None
    return SrtpContext(key, sending=sending)
