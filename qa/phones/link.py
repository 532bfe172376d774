"""Calls an agent that is served alone, as the gateway does: over the agent link, with no gateway and no carrier.

The agent is a WebSocket server (docs/link.md). It is offered the call, and the line opens when it said `ready`.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Literal

from offhook.agents import link
from offhook.codecs.audio import PCMU, AudioFormat
from offhook.qa.line import Line
from offhook.qa.phones.base import Ability, CallLog, CallOrder, LineEvent, Operator, Phone, Unable, Unreachable
from offhook.qa.phones.link_side import LinkSide
from offhook.qa.phones.stream import Notes, write_log
from offhook.qa.scenario.model import Target
from offhook.qa.session import MediaSession
from offhook.qa.websocket import SocketRefused

ABILITIES: Final[frozenset[Ability]] = frozenset({"transfer", "rfc4733", "inband"})

READY_TIMEOUT_S: Final = 3.0
"""The gateway's ring budget: an agent that is not ready by then does not get the call."""

TRANSFER_S: Final = 0.2
"""How long the caller stays on the line after the agent has handed the call over."""

ANSWERED: Final = 101
DECLINED: Final = 603
"""Status of a call that the agent refused: SIP's Decline, for the link has no numbers (RFC 3261 section 21.6.2)."""


class LinkPhone(Phone):
    """Calls an agent at `link+ws://host:port/path`.

    Raises:
        Unable: the target is none of these.
    """

    way: Literal["link"] = "link"
    abilities = ABILITIES

    def __init__(self, target: Target) -> None:
        scheme, plus, self._url = target.to.partition("+")
        if scheme != "link" or not plus:
            raise Unable(f"{target.to!r} is no agent on the link; write link+ws://host:port")

    async def carry(self, order: CallOrder, operator: Operator) -> CallLog:
        """Make a call; see `Phone.carry`."""
        if order.target.tamper:
            raise Unable(f"target.tamper: {order.target.tamper} is for carriers; the agent link has neither")
        if order.media.srtp:
            raise Unable("media.srtp: the agent link is protected by TLS; use a target of link+wss, or a sip: one")
        call = _LinkCall(order, operator)
        try:
            return await call.make(order.target.to.partition("+")[2] or self._url)
        finally:
            operator.ended()


class _LinkCall:
    """One call."""

    def __init__(self, order: CallOrder, operator: Operator) -> None:
        self._order, self._operator = order, operator
        self._notes = Notes(order.keep_packets)
        self._log = CallLog(order.call_id, "link", order.target.to, time.time())
        self._over = asyncio.Event()
        "Set when this side is to end the call."
        self._timed_out = False
        self._hung_up = False
        self._transferred_at: float | None = None
        self._side: LinkSide | None = None
        self._frames = 0
        line = self._line = Line(keep_media=False, abilities=ABILITIES)
        line.on_hang_up = self._hang_up
        line.on_event = self._log.events.append
        if order.keep_packets:
            line.on_control = self._notes.sent
        self._session = MediaSession(line, self._moved, network=order.media.network, seed=order.seed, binary=True)

    async def make(self, url: str) -> CallLog:
        """See the call through. Raises Unreachable."""
        log, line, to = self._log, self._line, self._order.target.to
        asked = time.monotonic()
        timer = asyncio.get_running_loop().call_later(self._order.timeout, self._time_out)
        try:
            refusal = await self._offer(url)
            answered = time.monotonic()
            if not refusal:
                await self._session.run(self._over, asyncio.Event())
        except SocketRefused as error:
            if not error.status:
                raise Unreachable(f"{to}: nobody answers: {error}; is the agent running?") from error
            log.status, refusal = error.status, str(error)
            self._notes.note(False, str(error.status), refusal)
        finally:
            timer.cancel()
            await self._session.close()
        ended = time.monotonic()
        started = line.started if line.opened else asked
        if refusal:
            log.ended_by, log.ended_how = "timeout" if self._timed_out else "agent", refusal
            log.events.append(LineEvent(ended - started, "refused", str(log.status)))
        else:
            write_log(log, line, ended)
            log.answered, log.status = True, ANSWERED
            log.setup_ms, log.answered_at = (answered - asked) * 1000, min(0.0, answered - started)
            log.events.insert(0, LineEvent(log.answered_at, "answered"))
            log.network_s = self._session.network_delay
            log.added_out, log.added_back = self._session.added_out, self._session.added_back
            self._tell_end(log)
        if self._side is not None:
            log.faults += [f"{fault.kind}: {fault.detail}" for fault in self._side.faults]
        log.events.append(LineEvent(ended - started, "ended", log.ended_how))
        log.ladder = self._notes.ladder(started)
        return log

    async def _offer(self, url: str) -> str:
        """Offer the call; gives why it is not to be, empty when the agent is ready. Raises SocketRefused."""
        target = self._order.target
        self._notes.note(True, f"GET {url}", "Upgrade: websocket")
        await self._session.open(url, {})
        self._notes.note(False, str(ANSWERED))
        self._log.status = ANSWERED
        parameters = dict(target.headers)
        info = link.CallInfo(self._order.call_id, target.from_, target.number, "qa", parameters=parameters)
        offer = link.encode(link.Offer(info, "qa", {}, str(PCMU)))
        self._notes.sent(offer)
        patience = min(READY_TIMEOUT_S, self._order.timeout)
        try:
            async with asyncio.timeout(patience):
                said = await self._session.ask(offer)
        except TimeoutError:
            return f"the agent was not ready within {patience:g} s"
        except ConnectionError as error:
            return f"the agent neither took nor refused the call: {error}"
        self._told(said if isinstance(said, str) else "(audio)")
        try:
            answer = link.decode_from_agent(said)
            if isinstance(answer, link.Refuse):
                self._log.status = DECLINED
                return f"refused: {answer.reason}"
            if not isinstance(answer, link.Ready):
                raise link.LinkError(f"the agent answered the offer with {type(answer).__name__}, not ready or refuse")
            format = AudioFormat.parse(answer.format) if answer.format else PCMU
        except (link.LinkError, ValueError) as error:
            self._log.faults.append(str(error))
            return str(error)
        self._side = LinkSide(self._order.call_id, format, self._told)
        self._line.attach(self._side)
        self._log.codec = format.encoding.upper()
        return ""

    def _told(self, text: str) -> None:
        """An event of the agent, into the ladder."""
        if self._order.keep_packets:
            kind = text.partition('"type":')[2].partition('"')[2].partition('"')[0]
            self._notes.note(False, kind or "message", text)

    def _time_out(self) -> None:
        self._timed_out = True
        self._over.set()

    def _hang_up(self) -> None:
        self._hung_up = True
        self._over.set()

    def _moved(self) -> None:
        line, side = self._line, self._side
        if side is None or self._frames == len(line.left_at):
            return
        self._frames = len(line.left_at)
        if side.leaving is not None and not self._over.is_set():
            self._let_go(side, line)
        self._operator.frame(line)

    def _let_go(self, side: LinkSide, line: Line) -> None:
        """The agent wants to end its part of the call."""
        if not side.leaves(time.monotonic()):
            return
        if isinstance(side.leaving, link.Transfer):
            if self._transferred_at is None:
                self._transferred_at = line.seconds
                line.happened("transfer", side.leaving.to)
            if line.seconds < self._transferred_at + TRANSFER_S:
                return
            side.over_reason = "transferred"
        else:
            side.over_reason = "agent_hangup"
        self._over.set()

    def _tell_end(self, log: CallLog) -> None:
        side = self._side
        assert side is not None
        if self._timed_out:
            log.ended_by, log.ended_how = "timeout", f"not over within {self._order.timeout:g} s"
        elif self._hung_up:
            log.ended_by, log.ended_how = "caller", "the caller hung up"
        elif self._session.was_reset:
            log.ended_by, log.ended_how = "network", "the connection was reset"
        elif isinstance(side.leaving, link.Transfer):
            log.ended_by, log.ended_how = "agent", f"transferred to {side.leaving.to}"
        elif side.leaving is not None:
            log.ended_by, log.ended_how = "agent", f"the agent hung up: {side.leaving.reason}".rstrip(": ")
        else:
            code = self._session.close_code
            log.ended_by, log.ended_how = "agent", f"the agent closed its socket ({code})"
            log.faults.append(f"the agent closed its socket with {code} and did not hang up: it counts as crashed")
