"""All calls of this process: admitted, joined with their agents, watched, ended, counted.

A call takes its slot before anything is awaited, so two callers cannot both have the last one, and gives it
back when it has ended. A repeat of a webhook gets the answer of the first, and the webhook of a call that is up
is a replay and gets none. A call that has just ended here may still be up at the carrier, whose markup sends it
back to us: for `AFTER_MEMORY` seconds it may ring again, as a new call whose agent is told what was said before;
after that its webhook is a replay.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict, deque
from collections.abc import Awaitable, Coroutine, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from offhook.agents import link
from offhook.codecs.audio import AudioFormat
from offhook.gateway.bed import Sounds
from offhook.gateway.call import Call
from offhook.gateway.call_plan import OFFERED, CallPlan, PastCall
from offhook.gateway.call_state import CallState
from offhook.gateway.config import Closed, Config, Fallback, Route
from offhook.gateway.hosts import AgentLeg, AgentPool
from offhook.gateway.journal import Journal
from offhook.gateway.latency import Sent, split
from offhook.gateway.metrics import Metrics
from offhook.gateway.orders import Orders
from offhook.gateway.playout import PlayoutClock
from offhook.gateway.reasons import STATUS_OF, EndedBy, EndReason
from offhook.gateway.recording import Recorder, Recording, RecordingResult
from offhook.gateway.routing import Router
from offhook.gateway.tokens import Tokens
from offhook.providers.base import (
    AcceptAnswer,
    Answer,
    CallStatusChanged,
    CarrierError,
    DialAnswer,
    HangUpAnswer,
    IncomingCall,
    Provider,
    RejectAnswer,
    SayAnswer,
    StreamAnswer,
    WebhookProvider,
)

log = structlog.get_logger("offhook.gateway.switchboard")

SWEEP: Final = 1.0
"""Seconds between two looks at all calls."""

CARRIER_SILENCE: Final = 15.0
"""Seconds a live carrier socket may say nothing; carriers send silence as audio, so this one is dead."""

REMEMBERED: Final = 100_000
"""Ended calls whose carrier ids are remembered, so that a replayed webhook starts no second call."""

AFTER_MEMORY: Final = 120.0
"""Seconds an ended call is kept for the carrier that asks how to go on, or sends it back to us."""

_NEVER: Final = object()

DEFAULT_APOLOGY: Final = "We are sorry. Something went wrong on our side. Please call again later."
"""Said when an agent is lost and the route has no `fallback.say` of its own."""

MAX_DETAIL: Final = 500
"""Characters of a service's fault that the record keeps."""

STATUS_GRACE: Final = 2.0
"""Seconds between a "completed" callback and the end of a call whose stream did not end by itself."""


class ReplayedWebhookError(Exception):
    """The webhook of a call that is already up or over. Answered with 409."""


class DrainingError(Exception):
    """This process takes no new calls. Answered with 503, so that the carrier goes to its fallback URL."""


class Switchboard:
    """The calls of one process. Lives on the event loop."""

    def __init__(
        self,
        config: Config,
        providers: Mapping[str, Provider],
        pool: AgentPool,
        journal: Journal,
        recorder: Recorder,
        metrics: Metrics,
        apologies: Mapping[str, bytes],
    ) -> None:
        self.config, self.providers, self.pool = config, providers, pool
        self.journal, self.recorder, self.metrics = journal, recorder, metrics
        self.clock = PlayoutClock()
        self.sounds = Sounds()
        self.draining = False
        self._apologies = apologies
        self._router = Router(config)
        self._loop = asyncio.get_running_loop()
        self._tokens: Tokens[Call] = Tokens()
        self._calls: dict[str, Call] = {}
        self._by_carrier: dict[tuple[str, str], Call] = {}
        self._ended: OrderedDict[tuple[str, str], PastCall | None] = OrderedDict()
        "Calls that are over; None for those that may not ring again."
        self._recent: deque[tuple[float, tuple[str, str], PastCall]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._sweeper: asyncio.Task[None] | None = None
        self.frames_in = 0
        "Frames of calls that have ended; `totals` adds the live ones."
        self.frames_out = 0

    def start(self) -> None:
        """Begin to watch the calls."""
        self._sweeper = asyncio.create_task(self._sweep(), name="switchboard-sweep")

    # --- slots

    @property
    def active(self) -> int:
        """Slots in use: calls that ring, are up, or are leaving."""
        return len(self._calls)

    @property
    def calls(self) -> Iterable[Call]:
        """Those that are not over."""
        return tuple(self._calls.values())

    def call(self, id: str) -> Call | None:
        """One that is not over, by our id of it."""
        return self._calls.get(id)

    @property
    def slots(self) -> int:
        """Calls this process takes at once."""
        return self.config.limits.max_calls

    @property
    def live(self) -> int:
        """Calls whose audio flows."""
        return sum(call.live for call in self._calls.values())

    @property
    def admits(self) -> bool:
        """Whether one more call would be taken now."""
        return not self.draining and self.active < self.slots and self.pool.ready

    def totals(self) -> tuple[int, int]:
        """Media frames in and out since start."""
        frames_in, frames_out = self.frames_in, self.frames_out
        for call in self._calls.values():
            frames_in += call.frames_in
            if call.playout is not None:
                frames_out += call.playout.frames_sent
        return frames_in, frames_out

    # --- webhooks

    async def incoming(self, provider: Provider, incoming: IncomingCall, *, agent: str = "") -> Answer:
        """Decide what happens to a call that rings, or that we are about to place.

        Args:
            agent: who is to take the call, instead of the route's agent.

        Raises:
            ReplayedWebhookError: the call is already up or over.
            DrainingError: we are shutting down and the route has no fallback.
        """
        key = (provider.name, incoming.carrier_call_id)
        known = self._by_carrier.get(key)
        if known is not None and known.state in (CallState.RINGING, CallState.ANSWERED):
            return await asyncio.shield(known.answer)
        earlier = self._ended.get(key, _NEVER)
        if known is not None or earlier is None:
            raise ReplayedWebhookError(incoming.carrier_call_id)

        ours, theirs = incoming.to_number, incoming.from_number
        if incoming.direction == "outbound":
            ours, theirs = theirs, ours
        match = self._router.route(ours, theirs, datetime.now(UTC))
        route = match.route
        if route is None:
            return self._refuse(provider, incoming, EndReason.NO_ROUTE, None, RejectAnswer("rejected"))
        agent = agent or match.agent_name
        if not agent:
            closing = _instead(match.closed) or RejectAnswer("busy")
            room = self.active < self.slots and not self.draining
            if room and isinstance(closing, SayAnswer | DialAnswer) and not isinstance(provider, WebhookProvider):
                return self._announce(provider, incoming, route, closing)
            return self._refuse(provider, incoming, EndReason.CLOSED_HOURS, route, closing)
        if self.draining:
            fallback = _instead(route.fallback)
            self._refuse(provider, incoming, EndReason.DRAINING, route, fallback or HangUpAnswer())
            if fallback is None:
                raise DrainingError
            return fallback
        if self.active >= self.slots:
            busy = _instead(route.fallback) or RejectAnswer("busy")
            return self._refuse(provider, incoming, EndReason.NO_CAPACITY, route, busy)

        # The slot is taken, before the first await.
        call = self._open(provider, incoming, self._plan(route, agent, provider))
        if isinstance(earlier, PastCall) and earlier.agent == agent and earlier.memory.history:
            call.memory = earlier.memory.hand_over()
            call.note("context", {"start": 0, "messages": call.memory.history, "of_call": earlier.id})
        call.log.info("call offered", carrier=provider.name, to=ours, from_number=theirs, agent=agent)
        budget = self._loop.call_later(route.ring_budget, self._ring_budget_over, call, route.ring_budget)
        try:
            await self.join_agent(call)
            return await asyncio.shield(call.answer)
        finally:
            budget.cancel()

    def _open(self, provider: Provider, incoming: IncomingCall, plan: CallPlan) -> Call:
        call = Call(self, provider, incoming, plan, uuid.uuid4().hex)
        self._calls[call.id] = self._by_carrier[provider.name, incoming.carrier_call_id] = call
        self._idle.clear()
        self._journal_offer(call.id, provider, incoming, plan.route, plan.agent, plan.record)
        return call

    def _announce(
        self, provider: Provider, incoming: IncomingCall, route: Route, closing: SayAnswer | DialAnswer
    ) -> Answer:
        """Answer a call that no agent takes, say the sentence, and transfer it or hang up.

        A carrier with a webhook says it in its own voice; of the others we must take the call to say anything.
        """
        text, to = (closing.text, closing.then_dial) if isinstance(closing, SayAnswer) else ("", closing.to)
        plan = CallPlan(
            route=route.number,
            agent="",
            unready=HangUpAnswer(),
            orders=Orders(route),
            fallback_transfer=to,
            apology=self._apologies.get(text, b""),
        )
        call = self._open(provider, incoming, plan)
        call.announce(EndReason.CLOSED_HOURS, AcceptAnswer())
        return AcceptAnswer()

    async def join_agent(self, call: Call) -> None:
        """Offer a call to its agent; what comes of it, the call is told."""
        spec = self.config.agents[call.plan.agent]
        incoming = call.incoming
        offer = link.Offer(
            call=link.CallInfo(
                id=call.id,
                from_number=incoming.from_number,
                to_number=incoming.to_number,
                carrier=call.provider.name,
                direction=incoming.direction,
                fields=dict(incoming.fields),
            ),
            agent=call.plan.agent,
            settings=spec.settings,
            format=str(OFFERED if call.stream is None else call.stream.format),
            kind=spec.kind,
            history=call.memory.history,
        )
        try:
            leg = await self.pool.open(call.plan.agent, offer, call)
        except (RuntimeError, TimeoutError, OSError) as error:
            call.agent_lost(EndReason.AGENT_NOT_READY, str(error))
            return
        if call.wants_agent:
            call.agent_joined(leg)
        else:  # gave up, or failed, while the host was being had
            leg.event(link.Over("too late"))
            self.pool.retire(leg)

    def _ring_budget_over(self, call: Call, budget: float) -> None:
        if call.state is CallState.RINGING:
            call.agent_lost(EndReason.AGENT_NOT_READY, f"not ready within the ring budget of {budget:g} s")

    def _plan(self, route: Route, agent: str, provider: Provider) -> CallPlan:
        # A SIP peer that is refused can go elsewhere; a carrier with a webhook has nowhere to go.
        nothing = SayAnswer(DEFAULT_APOLOGY) if isinstance(provider, WebhookProvider) else HangUpAnswer()
        fallback = route.fallback.transfer if route.fallback is not None else None
        return CallPlan(
            route=route.number,
            agent=agent,
            unready=_instead(route.fallback) or nothing,
            orders=Orders(route),
            record=self.config.records(route),
            fallback_transfer=fallback or "",
            max_seconds=float(self.config.max_duration(route)),
            max_takeovers=self.config.limits.max_takeovers,
            apology=self._apologies.get(apology_text(route), b""),
        )

    def _refuse(
        self, provider: Provider, incoming: IncomingCall, reason: EndReason, route: Route | None, answer: Answer
    ) -> Answer:
        """Refuse in the carrier's language; the record says so."""
        id = uuid.uuid4().hex
        self._journal_offer(id, provider, incoming, route.number if route else "", "", False)
        ended = {"status": STATUS_OF[reason], "reason": reason, "ended_by": EndedBy.GATEWAY, "detail": "", "seconds": 0}
        self.journal.append(id, "call.ended", ended)
        self.metrics.call_ended(provider.name, STATUS_OF[reason], reason)
        log.warning("call refused", call_id=id, carrier=provider.name, reason=reason, to=incoming.to_number)
        self._remember((provider.name, incoming.carrier_call_id), None)
        return answer

    def _journal_offer(
        self, id: str, provider: Provider, incoming: IncomingCall, route: str, agent: str, record: bool
    ) -> None:
        self.journal.append(
            id,
            "call.offered",
            {
                "carrier": provider.name,
                "carrier_call_id": incoming.carrier_call_id,
                "direction": incoming.direction,
                "from": incoming.from_number,
                "to": incoming.to_number,
                "route": route,
                "agent": agent,
                "record": record,
                "fields": dict(incoming.fields),
            },
        )

    def unanswerable(self, provider: Provider, incoming: IncomingCall, detail: str) -> None:
        """The carrier cannot be told our answer, as when `public_url` is not https: the call is over."""
        call = self.find(provider, incoming.carrier_call_id)
        if call is not None:
            call.end(EndReason.NO_ANSWER_POSSIBLE, EndedBy.GATEWAY, detail, hang_up=False)

    def after(self, provider: Provider, carrier_call_id: str) -> Answer:
        """What to do with a call whose stream has ended."""
        key = (provider.name, carrier_call_id)
        call = self._by_carrier.get(key) or self._ended.get(key)
        if call is not None:
            return call.after
        # Not ours: most likely a call that a process before us carried when it died.
        return SayAnswer(DEFAULT_APOLOGY)

    def status(self, provider: Provider, changed: CallStatusChanged) -> None:
        """A status callback; late, repeated and out of order."""
        call = self._by_carrier.get((provider.name, changed.carrier_call_id))
        if call is None:
            return
        data = {
            "status": changed.status,
            "cause": changed.cause,
            "sequence": changed.sequence,
            "fields": dict(changed.fields),
        }
        call.note("carrier.status", data)
        if changed.status in ("completed", "busy", "failed", "no-answer", "canceled"):
            detail = changed.cause or str(changed.status)
            if call.live:
                self._loop.call_later(STATUS_GRACE, call.end, EndReason.CALLER_HANGUP, EndedBy.CALLER, detail)
            else:
                call.end(EndReason.CALLER_HANGUP, EndedBy.CALLER, detail)

    # --- media sockets

    def find(self, provider: Provider, carrier_call_id: str) -> Call | None:
        """A call that is not over, by the carrier's id of it."""
        return self._by_carrier.get((provider.name, carrier_call_id))

    def redeem(self, token: str) -> Call | None:
        """The call a token belongs to; the token is used up."""
        return self._tokens.redeem(token, self._loop.time())

    # --- what calls ask of the board

    def agent_ready(self, call: Call) -> None:
        """The agent says Ready."""
        if call.state is not CallState.RINGING:
            return
        if not isinstance(call.provider, WebhookProvider):
            call.answered(AcceptAnswer(call.attributes))
            return
        token = self._tokens.issue(call, self._loop.time())
        url = self.config.public_ws_url + call.provider.media_path.replace("{token}", token)
        call.answered(
            StreamAnswer(
                url, status_url=self.webhook_url(call.provider, "status"), after_url=self.after_url(call.provider)
            )
        )

    def agent_unready(self, call: Call, reason: EndReason, detail: str) -> None:
        """The agent was lost before the phone was answered: the caller gets the route's fallback."""
        log.error("agent not ready", call_id=call.id, agent=call.plan.agent, reason=reason, detail=detail)
        if isinstance(call.plan.unready, SayAnswer | DialAnswer) and not isinstance(call.provider, WebhookProvider):
            call.announce(reason, AcceptAnswer(), detail)
            return
        if not call.answer.done():
            call.answer.set_result(call.plan.unready)
        call.end(reason, EndedBy.GATEWAY, detail, hang_up=False)

    def webhook_url(self, provider: Provider, kind: str) -> str:
        """The public URL of a provider's webhook of this kind; empty when it has none."""
        webhooks = provider.webhooks if isinstance(provider, WebhookProvider) else ()
        path = next((webhook.path for webhook in webhooks if webhook.kind == kind), "")
        return self.config.public_url + path if path else ""

    def after_url(self, provider: Provider) -> str:
        """Where the carrier asks how to go on."""
        return self.webhook_url(provider, "after")

    def call_answered(self, call: Call) -> None:
        """The carrier's audio is connected."""
        self.metrics.call_answered(call.provider.name, self._loop.time() - call.offered_at)

    def open_recording(self, call: Call, format: AudioFormat) -> Recording:
        """Start recording a call."""

        def stopped(result: RecordingResult) -> None:
            call.recording_lost()
            self._recording_stopped(call, result)

        recording = self.recorder.open(call.id, format, on_stopped=stopped)
        call.note("recording.started", {"path": str(recording.path)})
        return recording

    def _close_recording(self, call: Call, recording: Recording) -> None:
        def closed(future: asyncio.Future[RecordingResult]) -> None:
            self._recording_stopped(call, future.result())

        recording.close().add_done_callback(closed)

    def _recording_stopped(self, call: Call, result: RecordingResult) -> None:
        call.note(
            "recording.stopped",
            {
                "reason": result.reason,
                "seconds": result.seconds,
                "bytes": result.bytes,
                "sha256": result.sha256,
                "path": str(result.path),
            },
            sync=True,
        )

    def turn(self, call: Call, turn: link.Turn, sent: Sent) -> None:
        """A reply was heard: the record and the histograms get where its time went."""
        found = split(turn, sent)
        call.note(
            "turn",
            {
                "utterance": turn.utterance,
                "caller_stopped": turn.caller_stopped,
                "turn_ended": turn.turn_ended,
                "understood": turn.understood,
                "first_token": turn.first_token,
                "reply_text": turn.reply_text,
                "reply_audio": turn.reply_audio,
                "first_sent": sent.first,
                "first_voiced": sent.voiced,
                "first_heard": sent.heard,
                "voice_to_voice_ms": found.total_ms,
                "stages": found.stages_ms,
                "hearing_ms": found.hearing_ms,
            },
        )
        self.metrics.turn(found)

    def service(self, call: Call, report: link.Service) -> None:
        """What a service did: counted, and its faults recorded."""
        self.metrics.service(report)
        if report.fault:
            data = {"role": report.role, "service": report.service, "fault": report.fault}
            call.note("service.fault", data | {"detail": report.detail[:MAX_DETAIL], "ttfb_ms": report.ttfb_ms})

    def barged_in(self, call: Call) -> None:
        """The agent was interrupted."""
        self.metrics.barge_in()

    def fault(self, carrier: str, kind: str) -> None:
        """A carrier broke its protocol."""
        self.metrics.fault(carrier, kind)

    async def order(self, call: Call, what: str, work: Awaitable[Any]) -> bool:
        """Carry out an order at the carrier; False when it did not succeed."""
        try:
            result = await work
        except CarrierError as error:
            call.log.error("carrier order failed", order=what, carrier=call.provider.name, error=str(error))
            call.note("carrier.order_failed", {"order": what, "error": str(error)[:500]})
            return False
        return result is not False

    def run(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        """Run something for a call; it is owned here and finished at shutdown."""
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task failed", task=task.get_name(), exc_info=error)

    def retire(self, leg: AgentLeg) -> None:
        """A call has no more use for its agent."""
        self.pool.retire(leg)

    def call_ended(self, call: Call, reason: EndReason) -> None:
        """The slot is free again."""
        del self._calls[call.id]
        key = (call.provider.name, call.incoming.carrier_call_id)
        if self._by_carrier.get(key) is call:
            del self._by_carrier[key]
        self._tokens.revoke(call)
        # Of a carrier without webhooks nobody asks how to go on, nor sends the call back.
        returns = isinstance(call.provider, WebhookProvider)
        self._remember(key, PastCall(call.id, call.plan.agent, call.memory, call.after) if returns else None)
        self.frames_in += call.frames_in
        if call.playout is not None:
            self.frames_out += call.playout.frames_sent
        if call.recording is not None:
            self._close_recording(call, call.recording)
        seconds = self._loop.time() - call.answered_at if call.answered_at else None
        self.metrics.call_ended(call.provider.name, STATUS_OF[reason], reason, seconds)
        if not self._calls:
            self._idle.set()

    def _remember(self, key: tuple[str, str], past: PastCall | None) -> None:
        self._ended[key] = past
        if past is not None:
            self._recent.append((self._loop.time(), key, past))
        while len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)

    # --- watching

    async def _sweep(self) -> None:
        while True:
            due = self._loop.time() + SWEEP
            await asyncio.sleep(SWEEP)
            now = self._loop.time()
            self.metrics.loop_lag(max(0.0, now - due))
            for call in tuple(self._calls.values()):
                if call.live and call.quiet(now) > CARRIER_SILENCE:
                    call.end(EndReason.CARRIER_TIMEOUT, EndedBy.CARRIER, f"nothing heard for {CARRIER_SILENCE:g} s")
            for call in self._tokens.expire(now):
                if call.state is CallState.ANSWERED and call.stream is None:
                    call.end(EndReason.MEDIA_NEVER_CAME, EndedBy.CARRIER, "the carrier opened no media socket")
            while self._recent and now - self._recent[0][0] >= AFTER_MEMORY:
                _, key, ended = self._recent.popleft()
                if self._ended.get(key) is ended:
                    self._ended[key] = None

    # --- shutting down

    def drain(self) -> None:
        """Take no new calls; those that are up run to their end."""
        self.draining = True

    async def idle(self) -> None:
        """Wait until no call is left."""
        await self._idle.wait()

    def end_all(self, reason: EndReason, by: EndedBy) -> None:
        """Apologise on every call and end it."""
        for call in tuple(self._calls.values()):
            call.leave(reason, by, apologise=True)

    async def close(self, budget: float) -> None:
        """End what is left at once, and finish orders to carriers within `budget` seconds."""
        for call in tuple(self._calls.values()):
            call.end(EndReason.OPERATOR_KILL, EndedBy.OPERATOR)
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=budget)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)


def apology_text(route: Route) -> str:
    """What a caller of this route hears when its agent is lost."""
    return route.fallback.say if route.fallback is not None and route.fallback.say else DEFAULT_APOLOGY


def _instead(plan: Fallback | Closed | None) -> Answer | None:
    """What a caller gets in place of an agent; None when nothing was configured."""
    if plan is None:
        return None
    if plan.say:
        return SayAnswer(plan.say, plan.transfer or "")
    return DialAnswer(plan.transfer) if plan.transfer else None


__all__ = ["DrainingError", "ReplayedWebhookError", "Switchboard", "apology_text"]
