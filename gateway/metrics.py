"""Numbers for Prometheus. Labels are short closed lists: a carrier, a status, a reason; never a number or a call.

What the media path counts it counts in plain integers, which are read when somebody scrapes (`watch`); everything
else is one method call here, its labelled children found once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Final, Literal, Protocol, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from offhook.agents.link import Service
from offhook.agents.services.base import FaultKind
from offhook.gateway.journal import JournalStats
from offhook.gateway.latency import HEARING, STAGES, Split
from offhook.providers import PROVIDERS, SIP
from offhook.providers.base import FAULT_KINDS

_no_creation_times: Callable[[], None] = disable_created_metrics
"""A series more for each counter and histogram, that nobody asks for."""

OTHER: Final = "other"
"""Stands for any label value that is in no list, so that nobody from outside can make up labels."""

MAX_SERVICES: Final = 32
"""Services that have a name in metrics; the others share one. A few roles with a few providers each."""

MAX_SERVICE_NAME: Final = 64
"""Characters of such a name."""

SERVICE_FAULTS: Final = frozenset(get_args(FaultKind))

TURN_BUCKETS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 8.0)
STAGE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 4.0)
SERVICE_BUCKETS: Final = (0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.5, 5.0, 10.0)
WEBHOOK_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 15.0)
"""Up to Twilio's limit of 15 s."""
BARGE_IN_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
LAG_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.3, 1.0)
MOS_BUCKETS: Final = (1.0, 2.0, 2.5, 3.0, 3.25, 3.5, 3.75, 4.0, 4.2, 4.3, 4.4, 4.5)
LOSS_BUCKETS: Final = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
CALL_BUCKETS: Final = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)


class WatchedRecorder(Protocol):
    """What is read of the recorder."""

    bytes_written: int
    stopped_early: int

    @property
    def live(self) -> int: ...


class WatchedClock(Protocol):
    """What is read of the playout clock."""

    ticks: int
    late_ticks: int


class WatchedJournal(Protocol):
    """What is read of the journal."""

    @property
    def stats(self) -> JournalStats: ...


class WatchedShipper(Protocol):
    """What is read of the shipper."""

    shipped: int

    @property
    def lag(self) -> float: ...


class WatchedHost(Protocol):
    """What is read of one agent host."""

    rss_bytes: int


class WatchedPool(Protocol):
    """What is read of the agent hosts."""

    restarts: int

    @property
    def hosts(self) -> Iterable[WatchedHost]: ...


class Watched(Protocol):
    """What is read of the switchboard when somebody scrapes."""

    draining: bool

    @property
    def active(self) -> int: ...
    @property
    def live(self) -> int: ...
    @property
    def slots(self) -> int: ...
    @property
    def admits(self) -> bool: ...
    @property
    def clock(self) -> WatchedClock: ...
    @property
    def journal(self) -> WatchedJournal: ...
    @property
    def recorder(self) -> WatchedRecorder: ...
    @property
    def pool(self) -> WatchedPool: ...
    def totals(self) -> tuple[int, int]: ...


class Metrics:
    """Every metric of one process, in a registry of its own."""

    def __init__(self) -> None:
        _no_creation_times()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        info = Gauge("offhook_info", "Which offhook this is.", ["version"], registry=self.registry)
        info.labels(version("offhook")).set(1)

        self._calls = self._counter("offhook_calls", "Calls that ended.", "carrier", "status", "reason")
        self._ring = self._histogram(
            "offhook_answer_seconds", "From the carrier's webhook to the first audio.", STAGE_BUCKETS, "carrier"
        )
        self._duration = self._histogram("offhook_call_seconds", "Length of answered calls.", CALL_BUCKETS, "carrier")
        self._webhooks = self._histogram(
            "offhook_webhook_seconds", "Time to answer a carrier's webhook.", WEBHOOK_BUCKETS, "carrier", "kind", "code"
        )
        self._unauthorized = self._counter(
            "offhook_unauthorized", "Webhooks and sockets that were not signed or had no valid token.", "carrier"
        )
        self._faults = self._counter("offhook_carrier_faults", "Breaches of a carrier's protocol.", "carrier", "kind")
        self._turn = self._histogram(
            "offhook_voice_to_voice_seconds",
            "From the caller's last voiced frame to the first voiced frame of the reply, as sent.",
            TURN_BUCKETS,
        )
        self._heard = self._histogram(
            "offhook_voice_to_ear_seconds",
            "From the caller's last voiced frame until the reply is heard: voice-to-voice and the stage hearing.",
            TURN_BUCKETS,
        )
        stages = self._histogram(
            "offhook_stage_seconds", "Stages of voice-to-voice, and of hearing after it.", STAGE_BUCKETS, "stage"
        )
        self._stages = {stage: stages.labels(stage) for stage in (*STAGES, HEARING)}
        self._first_results = self._histogram(
            "offhook_service_first_result_seconds",
            "Time of a speech or language service to its first result.",
            SERVICE_BUCKETS,
            "role",
            "service",
        )
        self._service_faults = self._counter(
            "offhook_service_faults", "Times a service did not do its work.", "role", "service", "fault"
        )
        self._services: set[str] = set()
        self._takeovers = self._counter(
            "offhook_takeovers", "Calls whose agent was lost and that were offered to another.", "outcome"
        )
        self._barge_ins = self._counter("offhook_barge_ins", "Times a caller interrupted the agent.")
        self._barge_in = self._histogram(
            "offhook_barge_in_stop_seconds", "From the interruption to the clear sent to the carrier.", BARGE_IN_BUCKETS
        )
        self._sip_refused = self._counter("offhook_sip_refused", "SIP requests that were not admitted.", "why")
        self._mos = self._histogram(
            "offhook_media_mos", "Quality of the caller's audio a call, 1 to 4.5 (E-model).", MOS_BUCKETS
        )
        self._loss = self._histogram("offhook_media_loss_percent", "Packets of a call that were lost.", LOSS_BUCKETS)
        self._lag = self._histogram("offhook_loop_lag_seconds", "How late the event loop runs its timers.", LAG_BUCKETS)
        # Children are found once a combination; the combinations are few (see `_known`).
        self._child = lru_cache(maxsize=4096)(_child)

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(name, help, labels, registry=self.registry)

    def _histogram(self, name: str, help: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, help, labels, buckets=buckets, registry=self.registry)

    # --- what happens

    def webhook(self, carrier: str, kind: str, code: int, seconds: float) -> None:
        """A webhook was answered. `kind` as in `providers.base.Webhook`."""
        self._child(self._webhooks, _carrier(carrier), kind, str(code)).observe(seconds)

    def unauthorized(self, carrier: str) -> None:
        """A webhook or a socket was refused before anything was started."""
        self._child(self._unauthorized, _carrier(carrier)).inc()

    def call_answered(self, carrier: str, seconds: float) -> None:
        """Audio is connected, `seconds` after the webhook."""
        self._child(self._ring, _carrier(carrier)).observe(seconds)

    def call_ended(self, carrier: str, status: str, reason: str, seconds: float | None = None) -> None:
        """A call is over; `seconds` of audio, None when it was never answered. Status and reason as in `reasons`."""
        self._child(self._calls, _carrier(carrier), str(status), str(reason)).inc()
        if seconds is not None:
            self._child(self._duration, _carrier(carrier)).observe(seconds)

    def fault(self, carrier: str, kind: str) -> None:
        """A carrier broke its protocol; `kind` as in `providers.base.FAULT_KINDS`."""
        self._child(self._faults, _carrier(carrier), kind if kind in FAULT_KINDS else OTHER).inc()

    def turn(self, turn: Split) -> None:
        """A reply was heard. A total of 0 is a reply to nothing (a greeting) and is not counted."""
        if turn.total_ms <= 0:
            return
        self._turn.observe(turn.total_ms / 1000)
        for stage, ms in turn.stages_ms.items():
            self._stages[stage].observe(ms / 1000)
        if turn.hearing_ms is not None and turn.heard_ms is not None:
            self._stages[HEARING].observe(turn.hearing_ms / 1000)
            self._heard.observe(turn.heard_ms / 1000)

    def service(self, report: Service) -> None:
        """A service gave its first result, or failed. Names are the agents' own: the first MAX_SERVICES are kept."""
        name = report.service
        if name not in self._services:
            if len(self._services) < MAX_SERVICES and len(name) <= MAX_SERVICE_NAME:
                self._services.add(name)
            else:
                name = OTHER
        if report.ttfb_ms > 0:
            self._child(self._first_results, report.role, name).observe(report.ttfb_ms / 1000)
        if report.fault:
            fault = report.fault if report.fault in SERVICE_FAULTS else OTHER
            self._child(self._service_faults, report.role, name, fault).inc()

    def takeover(self, outcome: Literal["resumed", "failed"]) -> None:
        """An agent took a lost one's call over, or none did."""
        self._child(self._takeovers, outcome).inc()

    def barge_in(self, seconds: float | None = None) -> None:
        """The agent was interrupted; `seconds` of ours from knowing it to the clear, where it was measured."""
        self._barge_ins.inc()
        if seconds is not None:
            self._barge_in.observe(seconds)

    def sip_refused(self, why: str) -> None:
        """A SIP request was not admitted: challenged, refused, or dropped and why (`providers.sip.trunks`)."""
        self._child(self._sip_refused, why).inc()

    def media_quality(self, quality: Mapping[str, float]) -> None:
        """How well a call's audio came through, as `MediaStream.quality` tells. None came: nothing is measured."""
        if "mos" not in quality:
            return
        self._mos.observe(quality["mos"])
        self._loss.observe(quality["loss_percent"])

    def loop_lag(self, seconds: float) -> None:
        """A timer of the event loop ran this late."""
        self._lag.observe(seconds)

    # --- what is read

    def watch(self, board: Watched, shipper: WatchedShipper | None = None) -> None:
        """Read the plain counters of the media path, the journal, the recorder and the hosts at every scrape."""
        self.registry.register(_Watcher(board, shipper))

    def read(self, name: str, help: str, value: Callable[[], float], *, counter: bool = False) -> None:
        """Export anything else that is read when somebody scrapes."""
        self.registry.register(_Reader(name, help, value, counter))

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """The page for the scraper, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


def _child(metric: Counter | Histogram, *labels: str) -> Any:
    return metric.labels(*labels)


def _carrier(name: str) -> str:
    return name if name in PROVIDERS or name == SIP else OTHER


class _Reader(Collector):
    def __init__(self, name: str, help: str, value: Callable[[], float], counter: bool) -> None:
        self._name, self._help, self._value, self._counter = name, help, value, counter

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily if self._counter else GaugeMetricFamily
        yield family(self._name, self._help, value=self._value())


class _Watcher(Collector):
    def __init__(self, board: Watched, shipper: WatchedShipper | None) -> None:
        self._board, self._shipper = board, shipper

    def describe(self) -> Iterable[Metric]:
        return ()  # the registry would otherwise collect at once, before anything runs

    def collect(self) -> Iterator[Metric]:
        board, stats = self._board, self._board.journal.stats
        hosts = list(board.pool.hosts)
        frames_in, frames_out = board.totals()
        gauges: list[tuple[str, str, float]] = [
            ("offhook_live_calls", "Calls whose audio flows.", board.live),
            ("offhook_slots", "Calls this process takes at once.", board.slots),
            ("offhook_slots_used", "Slots taken: calls that ring, are up, or are leaving.", board.active),
            ("offhook_admitting", "1 while one more call would be taken.", board.admits),
            ("offhook_draining", "1 while the process waits for its last calls.", board.draining),
            ("offhook_agent_hosts", "Agent-host processes.", len(hosts)),
            ("offhook_agent_host_bytes", "Memory of all agent hosts.", sum(host.rss_bytes for host in hosts)),
            ("offhook_live_recordings", "Recordings that are open.", board.recorder.live),
            ("offhook_journal_waiting_bytes", "Journal entries that are not on disk.", stats.waiting_bytes),
            ("offhook_journal_disk_full", "1 while the journal cannot write as usual.", stats.disk_full),
        ]
        counters: list[tuple[str, str, float]] = [
            ("offhook_frames_in", "Media frames from carriers.", frames_in),
            ("offhook_frames_out", "Media frames to carriers.", frames_out),
            ("offhook_playout_ticks", "Ticks of the playout clock.", board.clock.ticks),
            ("offhook_playout_late_ticks", "Ticks more than 20 ms late.", board.clock.late_ticks),
            ("offhook_agent_host_restarts", "Agent hosts that were replaced.", board.pool.restarts),
            ("offhook_recording_bytes", "Audio written to recordings.", board.recorder.bytes_written),
            ("offhook_recordings_stopped", "Recordings that stopped before their calls.", board.recorder.stopped_early),
            ("offhook_journal_entries", "Journal entries written.", stats.written),
            ("offhook_journal_dropped", "Journal entries lost for want of room.", stats.dropped),
            ("offhook_journal_failures", "Writes of the journal that failed.", stats.failures),
        ]
        if self._shipper is not None:
            gauges.append(("offhook_store_lag_seconds", "Age of the oldest entry not in the store.", self._shipper.lag))
            counters.append(("offhook_store_entries", "Journal entries moved into the store.", self._shipper.shipped))
        for name, help, value in gauges:
            yield GaugeMetricFamily(name, help, value=value)
        for name, help, value in counters:
            yield CounterMetricFamily(name, help, value=value)
