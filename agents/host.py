"""The agent host: a process that runs agents, joined to the gateway by one Unix socket.

`python -m offhook.agents.host FD` is started by the gateway with its end of a socket pair as file descriptor
FD. The first message is HostConfig; the host imports what it names, says HostReady, and from then on beats.
The host dies with the gateway: on end of file it leaves, and the kernel kills it when its parent is gone,
even if an agent spins.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
import time
from typing import Final, cast

import structlog

from offhook.agents import link
from offhook.agents.api import Agent
from offhook.agents.frames import FrameWriter
from offhook.agents.parent import die_with_parent
from offhook.agents.registry import agent_class
from offhook.agents.runtime import AgentSession
from offhook.agents.vad import VadService

logger = logging.getLogger("offhook.agents.host")

READY_BUDGET: Final = 5.0
"""Seconds that a class of agents has to connect to what its calls share; then the host takes calls all the same."""

SHUT_DOWN_BUDGET: Final = 2.0
"""Seconds that a class of agents has to let go of what its calls shared."""

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int | str = "self") -> int:
    """Resident set of a process in bytes, from proc(5). Raises OSError when it is gone."""
    with open(f"/proc/{pid}/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE


class _CallWire:
    """One call's way out through the host's socket."""

    __slots__ = ("_call", "_host")

    def __init__(self, host: AgentHostProtocol, call: int) -> None:
        self._host, self._call = host, call

    def event(self, message: link.FromAgent) -> None:
        """Raises ValueError for a message that would break the connection of every call here."""
        body = link.encode(message)
        if len(body) > link.MAX_BODY:
            raise ValueError(f"{type(message).__name__} of {len(body)} bytes; the agent link carries {link.MAX_BODY}")
        self._host.write(self._call, link.EVENT, body)

    def audio(self, data: bytes) -> None:
        self._host.write(self._call, link.AUDIO, data)


class AgentHostProtocol(asyncio.Protocol):
    """The host's end of the socket: frames in, sessions fed, frames out in one write a loop turn."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = link.FrameReader()
        self._sessions: dict[int, AgentSession] = {}
        self._vad = VadService()
        self._classes: set[type[Agent]] = set()
        self._readying: asyncio.Task[None] | None = None
        self._beat_due = 0.0
        self._retiring = False
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self.write = FrameWriter(self._transport).write

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()

    def data_received(self, data: bytes) -> None:
        sessions = self._sessions
        for call, kind, body in self._reader.feed(data):
            if kind == link.AUDIO:
                if (session := sessions.get(call)) is not None:
                    session.receive_audio(body)
            else:
                self._event(call, link.decode_to_agent(body))

    def _event(self, call: int, message: link.ToAgent | link.ToHost) -> None:
        if isinstance(message, link.Offer):
            self._offer(call, message)
        elif isinstance(message, link.HostConfig):
            self._configure(message)
        elif isinstance(message, link.Retire):
            self._retiring = True
            self._leave_if_done()
        elif (session := self._sessions.get(call)) is not None:
            session.receive(message)

    def _offer(self, call: int, offer: link.Offer) -> None:
        def done() -> None:
            self._sessions.pop(call, None)
            self._leave_if_done()

        wire = _CallWire(self, call)
        try:
            found = agent_class(offer.kind)
        except Exception as error:  # importing is agent code
            wire.event(link.Failed(error=f"{type(error).__name__}: {error}"))
            return
        self._classes.add(found)
        self._sessions[call] = AgentSession(offer, found, wire, vad=self._vad, on_done=done)

    def _configure(self, config: link.HostConfig) -> None:
        logging.getLogger().setLevel(config.log_level.upper())
        sys.path += config.path
        for kind, settings in zip(config.kinds, config.warm or [{}] * len(config.kinds), strict=True):
            try:
                agent_class(kind).warm(settings)
                if settings.get("vad") == "silero" or agent_class(kind).vad == "silero":
                    self._vad.load()
            except Exception:  # a broken agent fails its own calls when they come, not this host
                logger.exception("agent kind %s cannot be warmed up", kind)
        self._readying = self._loop.create_task(self._get_ready(config), name="agent-host-ready")

    async def _get_ready(self, config: link.HostConfig) -> None:
        for kind, settings in zip(config.kinds, config.warm or [{}] * len(config.kinds), strict=True):
            try:
                found = agent_class(kind)
                self._classes.add(found)
                async with asyncio.timeout(READY_BUDGET):
                    await found.get_ready(settings)
            except Exception:  # its calls will say so again, to whom it concerns
                logger.exception("agent kind %s cannot get ready", kind)
        # What start-up made stays for good: the collector need not walk it on every pass.
        gc.collect()
        gc.freeze()
        self.write(0, link.EVENT, link.encode(link.HostReady(os.getpid())))
        self._interval = config.beat_interval
        self._beat_due = self._loop.time() + self._interval
        self._loop.call_at(self._beat_due, self._beat)

    def _beat(self) -> None:
        now = self._loop.time()
        beat = link.Beat(time.monotonic(), (now - self._beat_due) * 1e3, resident_bytes(), len(self._sessions))
        self.write(0, link.EVENT, link.encode(beat))
        self._beat_due = now + self._interval
        self._loop.call_at(self._beat_due, self._beat)

    def _leave_if_done(self) -> None:
        if self._retiring and not self._sessions:
            self._transport.close()

    async def shut_down(self) -> None:
        """Let go of the model's thread and of what agents shared."""
        self._vad.close()
        if self._readying is not None:
            self._readying.cancel()
            await asyncio.wait([self._readying])
        for found in self._classes:
            try:
                async with asyncio.timeout(SHUT_DOWN_BUDGET):
                    await found.shut_down()
            except Exception:  # the process ends all the same
                logger.exception("agent class %s cannot be shut down", found.__name__)


def _log_as_json() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
            foreign_pre_chain=[
                structlog.stdlib.add_logger_name,
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO)


async def serve(connection: socket.socket) -> None:
    """Run agents until the gateway closes the connection."""
    loop = asyncio.get_running_loop()
    _, host = await loop.create_connection(AgentHostProtocol, sock=connection)
    try:
        await host.closed.wait()
    finally:
        await host.shut_down()


def main() -> None:
    """Entry point of the child process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the gateway decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    die_with_parent()
    _log_as_json()
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.setblocking(False)
    try:
        import uvloop
    except ImportError:
        runner = asyncio.Runner()
    else:
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with runner, contextlib.suppress(KeyboardInterrupt):
        runner.run(serve(connection))


if __name__ == "__main__":
    main()
