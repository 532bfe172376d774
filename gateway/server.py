"""The process: everything started in order, signals, drain, everything stopped in order.

Signals are ours, not uvicorn's, which would close every live socket 50 ms after SIGTERM. SIGTERM drains: no
new calls, those that are up run to their end or to `drain.deadline`, and the exit code is 0. SIGINT, or a second
SIGTERM, ends every call with an apology.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

import structlog
import uvicorn
import uvloop

from offhook.agents.speech.tts import SpeechUnavailable, synthesize
from offhook.codecs.audio import L16_8K
from offhook.codecs.pcm import tone
from offhook.gateway.app import App
from offhook.gateway.config import Config
from offhook.gateway.direct import DirectLine
from offhook.gateway.hosts import AgentPool, AgentSpec, HostLimits
from offhook.gateway.journal import Journal
from offhook.gateway.logs import close_logs, configure_logs
from offhook.gateway.media_socket import DeadlineHttpProtocol, MediaWebSocketProtocol
from offhook.gateway.metrics import Metrics
from offhook.gateway.reasons import EndedBy, EndReason
from offhook.gateway.recording import Recorder
from offhook.gateway.store import Shipper, Store
from offhook.gateway.switchboard import Switchboard, apology_text
from offhook.providers import provider_class
from offhook.providers.base import Provider
from offhook.providers.rtp.clock import FrameClock

if TYPE_CHECKING:
    from offhook.gateway.sip.service import SipService

log = structlog.get_logger("offhook.gateway.server")

MAX_MESSAGE: Final = 64 * 1024
"""Bytes of one WebSocket message; a carrier's media message is about 300 (OWASP: 64 KiB)."""

PING_INTERVAL, PING_TIMEOUT = 5.0, 10.0
"""Seconds. A frozen carrier is noticed within 15; the defaults of 20 and 20 would be 40 s of dead air."""

KILL_BUDGET: Final = 2.0
"""Seconds the apologies may take when an operator wants the process gone now."""

ORDER_BUDGET: Final = 5.0
"""Seconds that orders to carriers, such as the last hang-ups, may take at the end."""


class Server(uvicorn.Server):
    """uvicorn without its signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(config: Config) -> int:
    """Serve until told to stop; the exit code of the process.

    Raises:
        OSError: the port is taken, or data_dir cannot be written.
    """
    configure_logs(config)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(Gateway(config).serve())
    finally:
        close_logs()


COLLECT: Final = (2_000, 5, 300)
"""When garbage is collected. An ended call leaves none, so this is for agents in this process and for libraries: often
and little at a time, a millisecond for what three calls hold. A full collection walks all calls, 60 ms for 300 of them,
in which no packet leaves: after some ten thousand calls."""


class Gateway:
    """One gateway process, from its configuration to its exit."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._signals = 0
        self._told = asyncio.Event()
        self._kill = asyncio.Event()

    async def serve(self) -> int:
        """Start, serve, drain, stop."""
        config = self.config
        listening = _listen(config.listen.host, config.listen.port)
        metrics = Metrics()
        journal = Journal(config.journal_dir)
        store = Store(config.store_url)
        recorder = Recorder(config.recording_dir)
        providers = {name: provider_class(name)(settings) for name, settings in config.carriers.items()}
        pool = AgentPool(_specs(config), _limits(config))
        shipper = Shipper(journal, store, node=config.node_name)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(listening.close)
            stack.push_async_callback(store.close)
            stack.callback(journal.close)
            if config.tracing.endpoint:
                from offhook.gateway.tracing import Tracer  # an extra

                tracer = Tracer(config.tracing)
                stack.push_async_callback(tracer.close)
                journal.tap = tracer.entry
                metrics.read("offhook_trace_spans_lost", "Spans not exported.", lambda: tracer.lost, counter=True)
            await shipper.reap()
            shipper.start()
            stack.push_async_callback(shipper.close)
            stack.push_async_callback(recorder.close)
            stack.push_async_callback(_close_controls, providers)
            stack.push_async_callback(pool.close)
            _, apologies = await asyncio.gather(pool.start(), _apologies(config))
            board = Switchboard(config, providers, pool, journal, recorder, metrics, apologies)
            metrics.watch(board, shipper)
            metrics.read("offhook_tasks", "asyncio tasks of the media process.", lambda: len(asyncio.all_tasks()))
            board.start()
            await _serve_audiosocket(board, stack)
            sip: SipService | None = None
            if config.sip is not None:
                from offhook.gateway.sip.service import SipService  # only where there is SIP

                sip = SipService(config.sip, board)
                stack.push_async_callback(sip.close)
                await sip.start()
            stack.push_async_callback(board.close, ORDER_BUDGET)
            # What start-up made stays for good: the collector need not walk it while calls are up.
            gc.collect()
            gc.freeze()
            gc.set_threshold(*COLLECT)
            await self._serve_http(App(board, metrics, sip), board, listening)
        log.info("gateway stopped")
        return 0

    async def _serve_http(self, app: App, board: Switchboard, listening: socket.socket) -> None:
        config = self.config
        server = Server(
            uvicorn.Config(
                app,
                http=DeadlineHttpProtocol,
                ws=MediaWebSocketProtocol,
                ws_max_size=MAX_MESSAGE,
                ws_per_message_deflate=False,
                ws_ping_interval=PING_INTERVAL,
                ws_ping_timeout=PING_TIMEOUT,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                forwarded_allow_ips=list(config.listen.trusted_proxies),
                timeout_graceful_shutdown=2,
            )
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number, board)
        serving = asyncio.create_task(server.serve(sockets=[listening]), name="http")
        told = asyncio.create_task(self._told.wait(), name="signals")
        host, port = listening.getsockname()[:2]
        log.info("gateway is up", host=host, port=port, public_url=config.public_url, slots=board.slots)
        await asyncio.wait([serving, told], return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            await self._drain(board)
            server.should_exit = True
        told.cancel()
        await serving

    def _signalled(self, number: int, board: Switchboard) -> None:
        self._signals += 1
        log.info("signal", name=signal.Signals(number).name, live=board.live)
        board.drain()
        if number == signal.SIGINT or self._signals > 1:
            self._kill.set()
        self._told.set()

    async def _drain(self, board: Switchboard) -> None:
        idle = asyncio.create_task(board.idle(), name="drain")
        kill = asyncio.create_task(self._kill.wait(), name="kill")
        deadline = self.config.drain.deadline
        await asyncio.wait([idle, kill], timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
        if not idle.done():
            killed = kill.done()
            reason = EndReason.OPERATOR_KILL if killed else EndReason.DRAIN_DEADLINE
            log.warning("ending live calls", reason=reason, live=board.live)
            board.end_all(reason, EndedBy.OPERATOR if killed else EndedBy.GATEWAY)
            await asyncio.wait([idle], timeout=KILL_BUDGET if killed else 10.0)
        for task in (idle, kill):
            task.cancel()


async def _serve_audiosocket(board: Switchboard, stack: contextlib.AsyncExitStack) -> None:
    """Listen for Asterisk's AudioSocket where that is configured. Raises OSError."""
    if (asterisk := board.providers.get("asterisk")) is None:
        return
    from offhook.gateway.audiosocket import AudioSocketServer
    from offhook.providers.asterisk.adapter import AsteriskProvider

    assert isinstance(asterisk, AsteriskProvider)
    pbx: AsteriskProvider = asterisk
    if pbx.audiosocket is not None:
        server = AudioSocketServer(pbx, lambda stream, socket: DirectLine(board, pbx, stream, socket), FrameClock())
        stack.push_async_callback(server.close)
        await server.start()


def _listen(host: str, port: int) -> socket.socket:
    """Bind before anything else starts: a taken port is the commonest mistake."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2048)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise OSError(error.errno, f"listen: cannot bind {host}:{port}: {error.strerror}") from error
    return listening


def _specs(config: Config) -> list[AgentSpec]:
    return [AgentSpec(name, agent.kind, agent.settings, agent.isolation) for name, agent in config.agents.items()]


def _limits(config: Config) -> HostLimits:
    hosts = config.agent_hosts
    return HostLimits(
        processes=hosts.processes,
        memory_mb=hosts.memory_mb,
        hung_after=hosts.hung_after,
        warm=hosts.warm,
        log_level=config.log.level,
        directory=str(config.directory),
    )


async def _apologies(config: Config) -> Mapping[str, bytes]:
    """The clips for callers whose agent is lost, rendered before anything can go wrong: text → int16 at 8 kHz."""
    clips: dict[str, bytes] = {}
    for text in {apology_text(route) for route in config.routes}:
        try:
            clips[text] = await synthesize(text, L16_8K)
        except SpeechUnavailable as error:
            log.warning("apology is a tone: no synthesiser", error=str(error))
            # The special information tone every caller knows (ITU-T E.180).
            clips[text] = b"".join(tone(hertz, 0.33, rate=8000, level=-20.0) for hertz in (950, 1400, 1800))
    return clips


async def _close_controls(providers: Mapping[str, Provider]) -> None:
    for provider in providers.values():
        await provider.control.close()
