"""Agent hosts seen from the gateway: started, fed, watched, killed and replaced.

Theory of operation
-------------------
`AgentPool.open` gives a call its leg to an agent. Where the agent runs is its isolation:

* `inline`: in the media process itself, for what cannot block (echo in tests, relays);
* `host`: in one of a few shared host processes, the one with the fewest calls;
* `call`: in a process of its own, taken from a small stock of warm ones and retired after the call. The
  default for every class that did not come with offhook, since nobody can know whether it blocks.

A host beats once a second. One that has been silent for `hung_after` seconds dumps its stacks to stderr and is
killed; one over its memory limit is killed; one that exits is replaced, later and later when it keeps dying.
Whatever the cause, every call that it carried is told once, by `agent_lost`, and goes on to its fallback.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, cast

import structlog

from offhook.agents import link
from offhook.agents.frames import FrameWriter
from offhook.agents.host import resident_bytes
from offhook.agents.registry import agent_class
from offhook.agents.runtime import AgentSession
from offhook.agents.vad import VadService
from offhook.gateway.reasons import EndReason

log = structlog.get_logger("offhook.gateway.hosts")

BEAT_INTERVAL: Final = 1.0
"""Seconds between two beats of a host."""

START_BUDGET: Final = 30.0
"""Seconds a host may take to import its agents and say that it is ready."""

SWEEP: Final = 0.5
"""Seconds between two looks at all hosts."""

DUMP_GRACE: Final = 0.3
"""Seconds between asking a hung host for its stacks and killing it."""

BACKOFF: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds before a host that died is started again, by how often it died within BACKOFF_MEMORY."""

BACKOFF_MEMORY: Final = 60.0

MAX_UNSENT: Final = 4 << 20
"""Bytes waiting for a host that does not read; more caller audio is dropped (8 minutes of one call)."""

Isolation = Literal["inline", "host", "call"]


class AgentListener(Protocol):
    """The call's ears for its agent."""

    def agent_event(self, message: link.FromAgent) -> None:
        """The agent said something."""

    def agent_audio(self, data: bytes) -> None:
        """The agent sent audio, in the link's format."""

    def agent_lost(self, reason: EndReason, detail: str) -> None:
        """The agent is gone and says nothing more. Given at most once."""


class AgentLeg(ABC):
    """The call's mouth to its agent. Nothing blocks; after the agent was lost everything goes nowhere."""

    @abstractmethod
    def event(self, message: link.ToAgent) -> None:
        """Send one event."""

    @abstractmethod
    def audio(self, data: bytes) -> None:
        """Send caller audio in the link's format."""

    @abstractmethod
    def close(self) -> None:
        """Forget the listener, after `Over` was sent."""


@dataclass(frozen=True)
class AgentSpec:
    """One agent of the configuration."""

    name: str
    kind: str
    settings: dict[str, Any]
    isolation: Isolation


@dataclass(frozen=True)
class HostLimits:
    """What a host may take."""

    processes: int = 1
    "Shared hosts."
    memory_mb: int = 1024
    "Resident megabytes before a host is killed."
    hung_after: float = 6.0
    "Seconds without a beat before a host is killed."
    warm: int = 2
    "Idle processes kept ready for each agent of isolation `call`."
    log_level: str = "info"
    directory: str = ""
    "Where hosts run: the configuration's folder, where paths of agents begin and `module:Class` agents are found."


class AgentHost(asyncio.Protocol):
    """One host process and the socket to it."""

    def __init__(self, name: str, specs: Sequence[AgentSpec], limits: HostLimits, on_exit: Callable[[AgentHost], None]):
        self.name = name
        self._specs, self._limits, self._on_exit = specs, limits, on_exit
        self._loop = asyncio.get_running_loop()
        self._reader = link.FrameReader()
        self._legs: dict[int, HostLeg] = {}
        self._next = 1
        self._transport: asyncio.Transport | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._warned = False
        self._verdict: tuple[EndReason, str] | None = None
        self.last_beat = 0.0
        self.loop_lag_ms = 0.0
        self.rss_bytes = 0
        self.dead = False
        self.dropped_bytes = 0

    @property
    def calls(self) -> int:
        """Calls on this host."""
        return len(self._legs)

    @property
    def serves(self) -> bool:
        """Whether it can be offered a call."""
        return not self.dead and self._verdict is None

    @property
    def pid(self) -> int:
        """Process id. Valid once started."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start the process and wait until it is ready.

        Raises:
            TimeoutError: not ready within START_BUDGET; the process is killed.
            RuntimeError: it exited instead.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",  # nothing in the configuration's folder may stand in for a module of Python's
                    "-m",
                    "offhook.agents.host",
                    str(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                    cwd=self._limits.directory or None,
                )
            except BaseException:
                ours.close()
                raise
        # At once: whoever stops the host while it starts waits for this.
        self._watcher = asyncio.create_task(self._watch(), name=f"agent-host-{self.name}")
        ours.setblocking(False)
        await self._loop.create_connection(lambda: self, sock=ours)
        self._write(
            0,
            link.EVENT,
            link.encode(
                link.HostConfig(
                    name=self.name,
                    kinds=[spec.kind for spec in self._specs],
                    warm=[spec.settings for spec in self._specs],
                    beat_interval=BEAT_INTERVAL,
                    log_level=self._limits.log_level,
                    path=[self._limits.directory] if self._limits.directory else [],
                )
            ),
        )
        try:
            async with asyncio.timeout(START_BUDGET):
                await asyncio.shield(self._ready)
        except TimeoutError as error:
            detail = f"agent host {self.name} was not ready after {START_BUDGET:.0f} s"
            self.kill(EndReason.AGENT_NOT_READY, detail)
            raise TimeoutError(detail) from error

    # --- socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._write = FrameWriter(self._transport).write

    def data_received(self, data: bytes) -> None:
        legs = self._legs
        try:
            for call, kind, body in self._reader.feed(data):
                if kind == link.AUDIO:
                    if (leg := legs.get(call)) is not None:
                        leg.listener.agent_audio(body)
                else:
                    message = link.decode_from_agent(body)
                    if isinstance(message, link.Beat):
                        self.last_beat = self._loop.time()
                        self.loop_lag_ms = message.loop_lag_ms
                    elif isinstance(message, link.HostReady):
                        self.last_beat = self._loop.time()
                        if not self._ready.done():
                            self._ready.set_result(None)
                    elif (leg := legs.get(call)) is not None:
                        leg.listener.agent_event(message)
        except link.LinkError as error:
            self.kill(EndReason.AGENT_PROTOCOL_ERROR, str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._process is not None and not self.dead:
            # A host that closed its socket is of no use any more, whatever else it does.
            self._signal(signal.SIGKILL)

    def write_audio(self, call: int, data: bytes) -> None:
        """Queue caller audio; a host that does not read loses it rather than fill our memory."""
        transport = self._transport
        if transport is None or transport.get_write_buffer_size() > MAX_UNSENT:
            self.dropped_bytes += len(data)
            return
        self._write(call, link.AUDIO, data)

    # --- calls

    def open(self, offer: link.Offer, listener: AgentListener) -> HostLeg:
        """Offer a call to this host."""
        leg = HostLeg(self, self._next, listener)
        self._legs[self._next] = leg
        self._next += 1
        leg.event(offer)
        return leg

    def release(self, number: int) -> None:
        """Forget a call."""
        self._legs.pop(number, None)

    def retire(self) -> None:
        """Let the process exit once its calls are over."""
        self._write(0, link.EVENT, link.encode(link.Retire()))

    # --- life and death

    def look(self, now: float) -> None:
        """Kill the host if it hangs or has grown too big. Called every SWEEP seconds."""
        if self.dead or self._verdict is not None or not self._ready.done():
            return
        with contextlib.suppress(OSError):
            self.rss_bytes = resident_bytes(self.pid)
        limit = self._limits.memory_mb << 20
        if self.rss_bytes > limit:
            self.kill(
                EndReason.AGENT_OUT_OF_MEMORY,
                f"{self.rss_bytes >> 20} MB resident; the limit is agent_hosts.memory_mb = {self._limits.memory_mb}",
            )
        elif self.rss_bytes > 0.8 * limit and not self._warned:
            self._warned = True
            log.warning("agent host nears its memory limit", host=self.name, pid=self.pid, mb=self.rss_bytes >> 20)
        silent = now - self.last_beat
        if silent > self._limits.hung_after:
            self._signal(signal.SIGUSR1)
            self.kill(EndReason.AGENT_HUNG, f"no beat for {silent:.1f} s", grace=DUMP_GRACE)

    def kill(self, reason: EndReason, detail: str, *, grace: float = 0.0) -> None:
        """Kill the process; its calls learn `reason` at once."""
        if self._verdict is None:
            self._verdict = (reason, detail)
            log.error("agent host killed", host=self.name, pid=self.pid, reason=reason, detail=detail, calls=self.calls)
            self._lose_calls(reason, detail)
        if grace:
            self._loop.call_later(grace, self.kill, reason, detail)
            return
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        # Not by Process.kill: it may reap the child under asyncio's watcher, and the exit code would be lost.
        if self._process is not None and not self.dead:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _lose_calls(self, reason: EndReason, detail: str) -> None:
        legs = list(self._legs.values())
        self._legs.clear()
        for leg in legs:
            leg.listener.agent_lost(reason, detail)

    async def _watch(self) -> None:
        assert self._process is not None
        code = await self._process.wait()
        self.dead = True
        if self._transport is not None:
            self._transport.abort()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if not self._ready.done():
            self._ready.set_exception(RuntimeError(f"agent host {self.name} ended with {how} before it was ready"))
            self._ready.exception()  # seen by start(), which may have given up already
        self._lose_calls(EndReason.AGENT_CRASHED, f"agent host ended with {how}")
        self._on_exit(self)

    async def stop(self) -> None:
        """Close the socket, which ends the process; kill it if it does not go."""
        if self._transport is not None:
            self._transport.close()
        if self._process is not None:
            try:
                async with asyncio.timeout(2.0):
                    await asyncio.shield(self._watcher)
            except TimeoutError:
                self._signal(signal.SIGKILL)
                await self._watcher


class HostLeg(AgentLeg):
    """A call's leg to an agent in a host process."""

    __slots__ = ("_host", "_number", "listener")

    def __init__(self, host: AgentHost, number: int, listener: AgentListener) -> None:
        self._host, self._number, self.listener = host, number, listener

    @property
    def host(self) -> AgentHost:
        """The host this leg leads to."""
        return self._host

    def event(self, message: link.ToAgent) -> None:
        self._host._write(self._number, link.EVENT, link.encode(message))

    def audio(self, data: bytes) -> None:
        self._host.write_audio(self._number, data)

    def close(self) -> None:
        self._host.release(self._number)


class InlineLeg(AgentLeg):
    """A call's leg to an agent in this very process."""

    def __init__(self, spec: AgentSpec, offer: link.Offer, listener: AgentListener, vad: VadService) -> None:
        self._listener: AgentListener | None = listener
        self._loop = asyncio.get_running_loop()
        self._session = AgentSession(offer, agent_class(spec.kind), _InlineWire(self), vad=vad)
        self.audio = self._session.receive_audio  # type: ignore[method-assign]  # nothing in between

    def event(self, message: link.ToAgent) -> None:
        self._session.receive(message)

    def audio(self, data: bytes) -> None:
        self._session.receive_audio(data)

    def close(self) -> None:
        self._listener = None


class _InlineWire:
    def __init__(self, leg: InlineLeg) -> None:
        self._leg = leg

    def event(self, message: link.FromAgent) -> None:
        # Not at once: the agent may speak from inside a call that the gateway made.
        self._leg._loop.call_soon(self._deliver, message)

    def _deliver(self, message: link.FromAgent) -> None:
        if self._leg._listener is not None:
            self._leg._listener.agent_event(message)

    def audio(self, data: bytes) -> None:
        self._leg._loop.call_soon(self._deliver_audio, data)

    def _deliver_audio(self, data: bytes) -> None:
        if self._leg._listener is not None:
            self._leg._listener.agent_audio(data)


class AgentPool:
    """All hosts of this gateway."""

    def __init__(self, specs: Sequence[AgentSpec], limits: HostLimits) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._limits = limits
        self._shared: list[AgentHost] = []
        self._warm: dict[str, deque[AgentHost]] = {spec.name: deque() for spec in specs if spec.isolation == "call"}
        self._all: set[AgentHost] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._deaths: deque[float] = deque(maxlen=len(BACKOFF))
        self._replaced = asyncio.Event()
        self._closing = False
        self._inline_vad: VadService | None = None
        self.restarts = 0
        "Shared hosts replaced so far."

    async def start(self) -> None:
        """Start the shared hosts and the warm stock; returns when they are ready. Raises what AgentHost.start does."""
        async with asyncio.TaskGroup() as group:
            if any(spec.isolation == "host" for spec in self._specs.values()):
                for i in range(self._limits.processes):
                    group.create_task(self._start_shared(i))
            for name in self._warm:
                for _ in range(self._limits.warm):
                    group.create_task(self._stock(name))
        self._spawn(self._sweep(), "agent-hosts-sweep")

    async def open(self, name: str, offer: link.Offer, listener: AgentListener) -> AgentLeg:
        """Offer a call to an agent.

        Raises:
            KeyError: no agent of this name.
            RuntimeError, TimeoutError, OSError: no process could be started for the call.
        """
        spec = self._specs[name]
        if spec.isolation == "inline":
            if self._inline_vad is None:
                self._inline_vad = VadService()
            return InlineLeg(spec, offer, listener, self._inline_vad)
        if spec.isolation == "call":
            host = await self._take_warm(name)
        else:
            while not (hosts := [host for host in self._shared if host.serves]):
                self._replaced.clear()
                await self._replaced.wait()  # the ring budget caps it
            host = min(hosts, key=lambda host: host.calls)
        return host.open(offer, listener)

    async def _take_warm(self, name: str) -> AgentHost:
        stock = self._warm[name]
        host = None
        while stock and host is None:
            candidate = stock.popleft()
            host = None if candidate.dead else candidate
        if host is None:
            host = await self._start_host(name, [self._specs[name]])
        self._spawn(self._stock(name), f"agent-host-stock-{name}")
        return host

    async def _stock(self, name: str) -> None:
        if len(self._warm[name]) >= self._limits.warm or self._closing:
            return
        try:
            self._warm[name].append(await self._start_host(name, [self._specs[name]]))
        except (RuntimeError, TimeoutError, OSError) as error:
            log.error("agent host does not start", agent=name, error=str(error))

    async def _start_host(self, name: str, specs: Sequence[AgentSpec]) -> AgentHost:
        host = AgentHost(name, specs, self._limits, self._exited)
        self._all.add(host)
        try:
            await host.start()
        except BaseException:
            if host._process is None:
                self._all.discard(host)
            raise
        return host

    async def _start_shared(self, index: int) -> None:
        specs = [spec for spec in self._specs.values() if spec.isolation == "host"]
        self._shared.append(await self._start_host(f"shared-{index}", specs))

    def _exited(self, host: AgentHost) -> None:
        self._all.discard(host)
        for stock in self._warm.values():
            if host in stock:
                stock.remove(host)
        if host in self._shared:
            self._shared.remove(host)
            if not self._closing:
                self.restarts += 1
                self._spawn(self._replace(host), f"agent-host-replace-{host.name}")

    async def _replace(self, host: AgentHost) -> None:
        loop = asyncio.get_running_loop()
        self._deaths.append(loop.time())
        while not self._closing:
            recent = sum(loop.time() - at < BACKOFF_MEMORY for at in self._deaths)
            await asyncio.sleep(BACKOFF[min(recent, len(BACKOFF)) - 1] if recent else 0.0)
            try:
                self._shared.append(await self._start_host(host.name, host._specs))
                self._replaced.set()
            except (RuntimeError, TimeoutError, OSError) as error:
                log.error("agent host does not start", host=host.name, error=str(error))
                self._deaths.append(loop.time())
            else:
                log.info("agent host replaced", host=host.name)
                return

    def retire(self, leg: AgentLeg) -> None:
        """A call is over; a process of its own may go once the agent has tidied up."""
        leg.close()
        if isinstance(leg, HostLeg) and leg.host not in self._shared:
            leg.host.retire()

    @property
    def hosts(self) -> list[AgentHost]:
        """Every live host, for metrics."""
        return list(self._all)

    @property
    def ready(self) -> bool:
        """True while every agent could be offered a call."""
        return any(host.serves for host in self._shared) or all(
            spec.isolation != "host" for spec in self._specs.values()
        )

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP)
            now = loop.time()
            for host in tuple(self._all):
                host.look(now)

    def _spawn(self, work: Any, name: str) -> None:
        if self._closing:
            work.close()
            return
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End every host and every task; safe to call twice."""
        self._closing = True
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.gather(*(host.stop() for host in tuple(self._all)))
        if self._inline_vad is not None:
            self._inline_vad.close()
