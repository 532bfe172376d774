"""The RTP of one call without its sockets: datagrams and time in, events and datagrams out.

`receive` takes what came, `tick` gives what has to go, `poll` what time alone has made due; both are called every
20 ms. Nothing a peer sends makes any of them raise. The format of the call's audio is that of the first codec and
stays: a re-INVITE that changes the codec changes only what is on the line.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Final, Literal

from offhook.codecs.audio import AudioFormat
from offhook.providers.base import HoldChanged, ProtocolFault, StreamEvent
from offhook.providers.rtp import rtcp
from offhook.providers.rtp.coding import Decoder, Encoder, format_of, packet_ms
from offhook.providers.rtp.dtmf import codes
from offhook.providers.rtp.incoming import ECHO, Incoming
from offhook.providers.rtp.latch import Latch, ip
from offhook.providers.rtp.media import Address, MediaPlan, SrtpKey
from offhook.providers.rtp.outgoing import Outgoing
from offhook.providers.rtp.packet import HEADER, HEADER_BYTES, MAX_DATAGRAM, PLAIN, BadPacket, payload_of
from offhook.providers.rtp.quality import MediaStats, mos
from offhook.providers.rtp.reports import Reporter
from offhook.providers.rtp.srtp import SrtpContext, SrtpError

_unpack = HEADER.unpack_from

BURST: Final = 200
"""Datagrams that may come at once: two seconds at 10 ms each, which a stall of the network may let loose."""

REFILL: Final = 20
"""Datagrams a tick that are taken after that: ten times what the shortest packets need."""

SRTCP_BYTES: Final = 22
"""The least that encrypted RTCP needs: a header, an index and a tag (RFC 3711 section 3.4). What is shorter is plain,
such as the packet by which baresip opens a NAT; it says nothing, and is no fault."""

_NOTHING: Final[Sequence[StreamEvent]] = ()


class RtpSession:
    """One call's audio stream.

    Args:
        plan: the agreement; `update` takes the next one.
        signalling: host that the signalling comes from, where packets may come from as well (see latch).
        inband_dtmf: listen for and send tones in the audio while the peer has no telephone-event.
        loopback_latch: any loopback address may stand for any other; for tests on one machine.
        cname: our name in RTCP; random by default (RFC 7022).
        ssrc, sequence, timestamp: where our stream begins; random by default.
        chance: numbers from 0 to 1, which spread the reports.

    Raises:
        ValueError: an address of the plan is a name, a key has a wrong length, or a rate is not carried.
        RuntimeError: a library that the plan needs is not installed.
    """

    __slots__ = (
        "_budget",
        "_counts",
        "_former_unprotect",
        "_incoming",
        "_latch",
        "_outgoing",
        "_plan",
        "_protect",
        "_reporter",
        "_rtcp_peer",
        "_sent_at_report",
        "_signalling",
        "_unprotect",
        "backlog",
        "format",
        "held",
        "inband_dtmf",
        "last_heard",
    )

    def __init__(
        self,
        plan: MediaPlan,
        now: float,
        *,
        signalling: str = "",
        inband_dtmf: bool = False,
        loopback_latch: bool = False,
        cname: str = "",
        ssrc: int | None = None,
        sequence: int | None = None,
        timestamp: int | None = None,
        chance: Callable[[], float] | None = None,
    ) -> None:
        self.format: AudioFormat = format_of(plan.codec)
        "What the gateway hears and says; fixed for the call."
        self.inband_dtmf = inband_dtmf
        self.held = _held(plan)
        "True while the peer has us on hold: nothing is sent, nothing heard."
        self.last_heard = 0.0
        "When the peer's last valid packet came, RTP or RTCP; 0.0: none yet."
        self._plan = plan
        self._signalling = signalling
        self._counts: dict[str, int] = {}
        self._budget = BURST
        self._unprotect = SrtpContext(plan.srtp_receive, sending=False) if plan.srtp_receive else None
        self._former_unprotect: SrtpContext | None = None
        self._protect = SrtpContext(plan.srtp_send, sending=True) if plan.srtp_send else None
        self._latch = Latch(
            plan.remote, signalling, authenticated=plan.srtp_receive is not None, loopback=loopback_latch
        )
        if plan.remote_rtcp is not None:
            ip(plan.remote_rtcp.host, "plan.remote_rtcp.host")
        self._rtcp_peer: Address | None = None
        ours = secrets.randbits(32) if ssrc is None else ssrc
        self._outgoing = Outgoing(
            plan,
            self.format,
            now,
            ssrc=ours,
            # below 2^15, so that no peer is in doubt about SRTP's first rollover (RFC 3711 section 3.3.1)
            sequence=secrets.randbits(15) if sequence is None else sequence,
            timestamp=secrets.randbits(32) if timestamp is None else timestamp,
        )
        self.backlog = self._outgoing.backlog
        "Seconds of audio that wait to be sent."
        self._incoming = Incoming(plan, self.format, detect_tones=self._by_tone)
        self._reporter = Reporter(ours, cname or secrets.token_hex(12), now, chance or _chance)
        self._sent_at_report = 0

    @property
    def plan(self) -> MediaPlan:
        """The agreement in force."""
        return self._plan

    @property
    def peer(self) -> Address | None:
        """Where our audio goes."""
        return self._latch.peer

    @property
    def silent(self) -> bool:
        """True while no audio of the peer is to be expected."""
        return self._plan.direction != "sendrecv"

    @property
    def queued(self) -> float:
        """Seconds of audio that wait to be sent."""
        return self._outgoing.backlog()

    @property
    def _by_tone(self) -> bool:
        return self.inband_dtmf and self._plan.dtmf_send_type is None

    # --- from the peer

    def receive(self, data: bytes, source: Address, now: float, *, is_rtcp: bool = False) -> Sequence[StreamEvent]:
        """Take one datagram; `is_rtcp` when it came to the RTCP port. Never raises.

        `source` may be a plain pair of host and port, as a socket gives it.
        """
        budget = self._budget
        if not budget:
            return self._fault("flood", f"more than {REFILL} datagrams in 20 ms")
        self._budget = budget - 1
        size = len(data)
        if not size or data[0] < PLAIN:
            # Another version than RTP's and RTCP's: what keeps a NAT open (RFC 6263 section 4), STUN, ZRTP, DTLS (RFC
            # 7983). Many phones begin with it; it is no fault, and says nothing about where audio comes from.
            return _NOTHING
        if is_rtcp or (size > 1 and 192 <= data[1] <= 223):
            return self._receive_rtcp(data, source, now)
        if not HEADER_BYTES <= size <= MAX_DATAGRAM:
            return self._fault("bad-packet", f"a datagram of {size} bytes is no RTP packet")
        if self._unprotect is not None:
            try:
                data = self._unprotect.unprotect(data)
            except SrtpError as error:
                former = self._by_former_key(data)
                if former is None:
                    return self._fault("srtp", str(error))
                data = former
            else:
                self._former_unprotect = None
            if len(data) < HEADER_BYTES:
                return self._fault("bad-packet", "an SRTP packet without a header")
        first, second, sequence, timestamp, ssrc = _unpack(data)
        latch = self._latch
        incoming = self._incoming
        if first == PLAIN and second == incoming.payload_type and latch.locked and source == latch.peer:
            reception = incoming.reception
            if reception is not None and reception.ssrc == ssrc:
                # The short way, of nearly every packet there is: the next of the stream that is heard already.
                self.last_heard = now
                events = incoming.audio(sequence, timestamp, data[HEADER_BYTES:], now)
                return self._with_faults(events) if incoming.faults else events
        if not (source == latch.peer if latch.locked else latch.accept(Address(*source), ssrc)):
            if latch.on_probation(Address(*source)):
                return _NOTHING
            return self._fault("wrong-source", f"RTP from {source[0]}:{source[1]}, which is not the peer")
        if first == PLAIN:
            payload = data[HEADER_BYTES:]
        else:
            try:
                payload = payload_of(data)
            except BadPacket as error:
                return self._fault("bad-packet", str(error))
        self.last_heard = now
        events = incoming.take(second & 0x7F, second > 0x7F, sequence, timestamp, ssrc, payload, now)
        if incoming.faults:
            return self._with_faults(events)
        return events

    def _receive_rtcp(self, data: bytes, source: Address, now: float) -> Sequence[StreamEvent]:
        source = Address(*source)
        if not self._latch.accept_rtcp(source):
            return self._fault("wrong-source", f"RTCP from {source[0]}:{source[1]}, which is not the peer")
        if self._unprotect is not None:
            if len(data) < SRTCP_BYTES:
                return _NOTHING
            try:
                data = self._unprotect.unprotect_rtcp(data)
            except SrtpError as error:
                return self._fault("srtp", str(error))
        try:
            reports = rtcp.parse(data)
        except rtcp.BadRtcp as error:
            return self._fault("bad-rtcp", str(error))
        self.last_heard = now
        self._incoming.alive(now)
        self._rtcp_peer = source
        self._reporter.receive(reports, now)
        return _NOTHING

    def _by_former_key(self, data: bytes) -> bytes | None:
        """What the peer sent before it heard of the new agreement; None: it is not that either."""
        if self._former_unprotect is not None:
            try:
                return self._former_unprotect.unprotect(data)
            except SrtpError:
                return None
        return None

    def poll(self, now: float) -> Sequence[StreamEvent]:
        """What time has made due: audio that waited in the jitter buffer, silence for a peer that pauses."""
        events = self._incoming.poll(now)
        if self._incoming.faults:
            return self._with_faults(events)
        return events

    # --- to the peer

    def play(self, audio: bytes) -> None:
        """Queue audio in `format`."""
        self._outgoing.play(audio)

    def clear(self) -> None:
        """Forget the audio that waits; keys are still sent."""
        self._outgoing.clear()

    def send_dtmf(self, digits: str) -> bool:
        """Send keys after one another; False when the peer has no telephone-event and tones are not wanted.

        Raises:
            ValueError: one of them is no key, or too many would wait.
        """
        way: Literal["event", "tone"] = "event" if self._plan.dtmf_send_type is not None else "tone"
        if way == "tone" and not self._by_tone:
            codes(digits)
            return False
        self._outgoing.press(digits, way)
        return True

    def tick(self, now: float) -> Sequence[tuple[bytes, Address, bool]]:
        """The datagrams that are due: what, where to, and whether from the RTCP port."""
        budget = self._budget + REFILL
        self._budget = budget if budget < BURST else BURST
        peer = self._latch.peer
        sent: list[tuple[bytes, Address, bool]] = []
        if self._outgoing.toning:
            self._incoming.deaf_until = now + ECHO
        packets = self._outgoing.due(now)
        if peer is not None:
            if self._protect is not None:
                packets = [self._protect.protect(packet) for packet in packets]
            sent += [(packet, peer, False) for packet in packets]
        if now >= self._reporter.next_at:
            self._report(now, sent, leaving=False)
        return sent

    def leave(self, now: float) -> Sequence[tuple[bytes, Address, bool]]:
        """The last datagrams of the call: a report with a goodbye."""
        sent: list[tuple[bytes, Address, bool]] = []
        self._report(now, sent, leaving=True)
        return sent

    def _report(self, now: float, sent: list[tuple[bytes, Address, bool]], *, leaving: bool) -> None:
        outgoing = self._outgoing
        lately = outgoing.packets if outgoing.packets > self._sent_at_report else 0
        self._sent_at_report = outgoing.packets
        data = self._reporter.report(
            now,
            outgoing.timestamp_at(now),
            lately,
            outgoing.octets,
            self._incoming.reception,
            self._incoming.buffer.stats.jitter,
            leaving=leaving,
        )
        target = self._rtcp_target()
        if target is not None:
            if self._protect is not None:
                data = self._protect.protect_rtcp(data)
            sent.append((data, target, not self._plan.rtcp_mux))

    def _rtcp_target(self) -> Address | None:
        peer = self._latch.peer
        if self._plan.rtcp_mux or peer is None:
            return peer
        if self._rtcp_peer is not None:
            return self._rtcp_peer
        wanted = self._plan.remote_rtcp
        if wanted is not None and peer == self._plan.remote:
            return wanted
        return Address(peer.host, peer.port + 1) if peer.port < 65535 else None

    # --- changes

    def update(self, plan: MediaPlan, now: float, *, signalling: str | None = None) -> Sequence[StreamEvent]:
        """A new agreement (re-INVITE, UPDATE): address, codec, keys, hold. The latch opens for one more source.

        `signalling` is the host that the signalling comes from now, where that has changed.

        Raises:
            ValueError, RuntimeError: as the class; the old agreement is in force then.
        """
        old = self._plan
        unprotect = self._context(self._unprotect, plan.srtp_receive, sending=False)
        protect = self._context(self._protect, plan.srtp_send, sending=True)
        if plan.codec != old.codec:
            Encoder(plan.codec, self.format)  # raises before anything has changed
            Decoder(plan.codec, self.format)
        if plan.remote_rtcp is not None:
            ip(plan.remote_rtcp.host, "plan.remote_rtcp.host")
        if signalling is None:
            signalling = self._signalling
        self._latch.update(plan.remote, signalling, authenticated=plan.srtp_receive is not None)
        self._signalling = signalling
        if unprotect is not self._unprotect:
            self._former_unprotect = self._unprotect
        self._unprotect, self._protect = unprotect, protect
        self._plan = plan
        if plan.remote != old.remote or plan.remote_rtcp != old.remote_rtcp:
            self._rtcp_peer = None
        self._outgoing.update(plan, now)
        self._incoming.update(plan, detect_tones=self._by_tone)
        held = _held(plan)
        if held == self.held:
            return _NOTHING
        self.held = held
        return (HoldChanged(held),)

    @staticmethod
    def _context(present: SrtpContext | None, key: SrtpKey | None, *, sending: bool) -> SrtpContext | None:
        """The same key keeps its context, and with it rollover counter and replay window."""
        if key is None:
            return None
        if present is not None and present.key == key:
            return present
        return SrtpContext(key, sending=sending)

    # --- figures

    def stats(self) -> MediaStats:
        """How the call sounds so far."""
        incoming, outgoing, reporter = self._incoming, self._outgoing, self._reporter
        buffer = incoming.buffer
        figures = buffer.stats
        loss = incoming.loss
        codec = self._plan.codec
        own = packet_ms(codec, self._plan.ptime)
        delay = (reporter.rtt or 0.0) * 500 + buffer.delay * 1000 + 2 * own
        return MediaStats(
            packets_received=incoming.packets,
            packets_sent=outgoing.packets,
            octets_received=incoming.octets,
            octets_sent=outgoing.octets,
            lost=figures.lost,
            late=figures.late,
            duplicate=figures.duplicate,
            reordered=figures.reordered,
            concealed=incoming.concealed,
            loss=loss,
            jitter=1000 * figures.jitter,
            depth=1000 * buffer.delay,
            rtt=None if reporter.rtt is None else 1000 * reporter.rtt,
            remote_loss=reporter.loss,
            remote_jitter=None if reporter.remote_jitter is None else 1000 * reporter.remote_jitter / codec.clock,
            mos=mos(codec.name, max(loss, _share(figures.lost, figures.received)), delay),
            dropped_out=round(1000 * outgoing.dropped_seconds),
            faults=dict(self._counts),
            last_heard=self.last_heard,
        )

    # --- faults

    def _fault(self, kind: str, detail: str) -> Sequence[StreamEvent]:
        """Count it; the first of each kind is told, for a stranger must not fill the log."""
        count = self._counts.get(kind, 0) + 1
        self._counts[kind] = count
        return (ProtocolFault(kind, detail[:200]),) if count == 1 else _NOTHING

    def _with_faults(self, events: Sequence[StreamEvent]) -> Sequence[StreamEvent]:
        every = list(events)
        for kind, detail in self._incoming.faults:
            every.extend(self._fault(kind, detail))
        self._incoming.faults.clear()
        return every


def _held(plan: MediaPlan) -> bool:
    """The peer sends only (music, perhaps) or not at all: it has us on hold (RFC 3264 section 8.4)."""
    return plan.direction in ("recvonly", "inactive")


def _share(lost: int, received: int) -> float:
    return lost / (lost + received) if lost else 0.0


def _chance() -> float:
    return secrets.randbits(32) / 2**32
