"""The SIP of a gateway in virtual time: its switchboard, its agents, and telephones on a wire that loses nothing.

The telephones are user agents in the same process (`sip_phones.Phone`). Only RTP has real sockets, at an address of
this machine that other test processes do not use.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from fakes.journal import Journal
from fakes.sip_phones import Phone

from offhook.agents import link
from offhook.codecs.pcm import tone
from offhook.gateway.config import Config
from offhook.gateway.hosts import AgentLeg, AgentListener
from offhook.gateway.metrics import Metrics
from offhook.gateway.recording import Recorder
from offhook.gateway.sip.service import SipService
from offhook.gateway.switchboard import DEFAULT_APOLOGY, Switchboard
from offhook.providers.sip.hop import Hop
from offhook.providers.sip.message import parse
from offhook.providers.sip.settings import SipSettings

OURS = f"127.{80 + os.getpid() % 64}.{os.getpid() // 64 % 250}.1"
"""Where our RTP is, and our SIP is said to be."""

PBX = "127.0.0.11"

DELAY = 0.01
"""Seconds that a message takes."""


class Agent(AgentLeg):
    """The agent's end of the link."""

    def __init__(self, offer: link.Offer, call: AgentListener) -> None:
        self.offer, self.call = offer, call
        self.told: list[link.ToAgent] = []

    def event(self, message: link.ToAgent) -> None:
        self.told.append(message)

    def audio(self, data: bytes) -> None:
        pass

    def close(self) -> None:
        pass

    def says(self, message: link.FromAgent) -> None:
        self.call.agent_event(message)


class Pool:
    """Hands out agents that say `first` after `delay` seconds."""

    def __init__(self) -> None:
        self.agents: list[Agent] = []
        self.delay = 0.1
        self.first: link.FromAgent = link.Ready()
        self.ready = True
        self.out = 0
        "Agents that were not given back."

    async def open(self, name: str, offer: link.Offer, listener: AgentListener) -> AgentLeg:
        agent = Agent(offer, listener)
        self.agents.append(agent)
        self.out += 1
        asyncio.get_running_loop().call_later(self.delay, listener.agent_event, self.first)
        return agent

    def retire(self, leg: AgentLeg) -> None:
        self.out -= 1


class Wire:
    """Stands in for `SipTransport`: what is sent reaches the telephone at that address, or nobody."""

    def __init__(self, arrived: Callable[[Any, Hop], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived = arrived
        self._phones: dict[str, Phone] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.addresses = [("udp", OURS, 5060)]
        self.log: list[str] = []
        self.cut: set[str] = set()
        "Addresses that neither send nor receive any more."

    def join(self, phone: Phone) -> None:
        self._phones[phone.host] = phone

    def local_to(self, host: str) -> str:
        return OURS

    def send(self, data: bytes, hop: Hop) -> None:
        self.log.append(f"{self._loop.time():8.3f} to {hop.host} {_first_line(data)}")
        self._loop.call_later(DELAY, self._deliver, data, hop.host)

    async def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()

    def _deliver(self, data: bytes, host: str) -> None:
        phone = self._phones.get(host)
        if phone is not None and host not in self.cut:
            now = self._loop.time()
            phone.hear(phone.ua.receive(parse(data), Hop("udp", OURS, 5060, host, 5060), now), now)
            self.flush(phone)

    def flush(self, phone: Phone) -> None:
        """Carry what a telephone wants to send, and wake it when it is due."""
        outbox = phone.ua.outbox[:]
        phone.ua.outbox.clear()
        for data, _ in outbox:
            self.log.append(f"{self._loop.time():8.3f} from {phone.host} {_first_line(data)}")
            if phone.host not in self.cut:
                self._loop.call_later(DELAY, self._take, data, phone.host)
        if (timer := self._timers.pop(phone.host, None)) is not None:
            timer.cancel()
        if (due := phone.ua.next_timer()) is not None:
            self._timers[phone.host] = self._loop.call_at(due, self._tick, phone)

    def _take(self, data: bytes, host: str) -> None:
        self._arrived(parse(data), Hop("udp", host, 5060, OURS, 5060))

    def _tick(self, phone: Phone) -> None:
        now = self._loop.time()
        phone.hear(phone.ua.tick(now), now)
        self.flush(phone)


class SipDesk:
    """A gateway's SIP, and who calls it.

    Args:
        trunk: settings of the one trunk, whose calls of ours go to `PBX` and whose peers are all of 127.0.0.0/24.
    """

    def __init__(self, folder: Path, **trunk: Any) -> None:
        self.errors: list[str] = []
        asyncio.get_running_loop().set_exception_handler(self._raised)
        section = {
            "listen": [{"host": OURS}],
            "media": {"host": OURS, "port_low": 40000, "port_high": 40199},
            "trunks": {
                "pbx": {"sources": ["127.0.0.0/24"], "proxies": [f"sip:{PBX}:5060"], "numbers": ["100"]} | trunk
            },
        }
        config = Config.model_validate(
            {
                "public_url": "https://voice.example.com",
                "sip": section,
                "agents": {"desk": {"kind": "echo"}},
                "routes": [{"number": "*", "agent": "desk", "allow_transfer": ["*"], "allow_dtmf": True}],
            }
        )
        settings = SipSettings.model_validate(section)
        self.journal, self.pool, self.recorder = Journal(), Pool(), Recorder(folder)
        self.board = Switchboard(
            config,
            {},
            self.pool,  # type: ignore[arg-type]
            self.journal,  # type: ignore[arg-type]
            self.recorder,
            Metrics(),
            {DEFAULT_APOLOGY: tone(440, 0.5, 8000)},
        )
        self.board.run = self._run  # type: ignore[method-assign]
        self.board.start()
        self.service = SipService(settings, self.board)
        self.wire = Wire(self.service._sip.receive)
        self.service._sip.transport = self.wire  # type: ignore[assignment]

    def _raised(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.errors.append(context["message"] + "".join(traceback.format_exception(error) if error else ()))

    def _run(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        async def watched() -> None:
            try:
                await work
            except Exception as error:
                self.errors.append(f"{name}: {error!r}\n{traceback.format_exc()}")

        Switchboard.run(self.board, watched(), name)

    def phone(self, host: str, seed: int = 1) -> Phone:
        """A telephone of the trunk, which answers nothing by itself."""
        phone = Phone(host, seed=seed)
        self.wire.join(phone)
        return phone

    @property
    def ended(self) -> Sequence[str]:
        """Reasons of the calls that are over."""
        return [str(data["reason"]) for data in self.journal.of("call.ended")]

    def left(self) -> dict[str, object]:
        """All that calls may hold, as far as there is any of it."""
        service = self.service
        held = {
            "legs": service._legs,
            "sessions": service._sessions,
            "opening": service._opening,
            "slots": service._slots,
            "doorman": service._doorman.calls() or service._doorman.calls("pbx"),
            "ports": service._ports._taken,
            "clock": len(service._clock),
            "calls": self.board.active,
            "tasks": self.board._tasks,
            "agents": self.pool.out,
            "ua": service._sip.ua.sessions,
            "transactions": len(service._sip.ua._transactions),
            "invites": service._sip.ua._invites,
            "undecided": service._sip.ua._undecided,
            "errors": self.errors,
        }
        return {name: value for name, value in held.items() if value}

    async def close(self) -> None:
        await self.board.close(1.0)
        await self.service.close()
        await self.recorder.close()


def _first_line(data: bytes) -> str:
    return data.split(b"\r\n", 1)[0].decode()
