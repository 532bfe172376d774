"""One call: who calls, where its audio goes, and how it ends.

While the phone rings the agent is offered the call. Live, frames pass from the carrier's socket to the agent and
from the agent to the playout; nothing in between waits for anything. Which state may follow which, and why, is in
`call_state`. Everything a call holds is let go of in `end`, the one way out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog

from offhook.agents import link
from offhook.codecs.audio import L16_8K, AudioFormat
from offhook.codecs.convert import convert_all
from offhook.gateway.bed import CallBeds
from offhook.gateway.call_keys import Keys
from offhook.gateway.call_plan import APOLOGY, OFFERED, TRANSFER_BUDGET, CallPlan, Departure
from offhook.gateway.call_state import LIVE, TRANSITIONS, CallState, IllegalStepError, Step
from offhook.gateway.latency import CallerVoice, Turns
from offhook.gateway.orders import NOT_UP
from offhook.gateway.playout import Playout
from offhook.gateway.reasons import STATUS_OF, EndedBy, EndReason, end_of_stream, of_parties
from offhook.gateway.takeover import BUDGET as TAKEOVER_BUDGET
from offhook.gateway.takeover import Memory, Takeovers
from offhook.providers.base import (
    Answer,
    DialAnswer,
    DirectStream,
    DtmfReceived,
    HangUpAnswer,
    HoldChanged,
    IncomingCall,
    MarkReached,
    MediaReceived,
    MediaStream,
    MessagesDue,
    ProtocolFault,
    Provider,
    StreamEnded,
    StreamEvent,
    StreamStarted,
)

if TYPE_CHECKING:
    from offhook.gateway.direct import MediaSocket
    from offhook.gateway.hosts import AgentLeg
    from offhook.gateway.recording import Recording
    from offhook.gateway.switchboard import Switchboard

MAX_LOST_FILL: Final = 1.0
"""Seconds of silence at most that stand in for audio the carrier lost; the agent's clock need not be exact."""


class Call:
    """One call. Lives on the event loop; every method returns at once."""

    def __init__(self, board: Switchboard, provider: Provider, incoming: IncomingCall, plan: CallPlan, id: str) -> None:
        self.id, self.provider, self.incoming, self.plan = id, provider, incoming, plan
        self._board = board
        self._loop = asyncio.get_running_loop()
        self.state = CallState.RINGING
        self.log = structlog.get_logger("offhook.gateway.call").bind(call_id=id)
        self.offered_at, self.answered_at = self._loop.time(), 0.0
        self.last_heard = self._loop.time()
        "When the carrier's socket last said anything."
        self.answer: asyncio.Future[Answer] = self._loop.create_future()
        "What the webhook is answered with; repeats of the webhook get the same."
        self.after: Answer = HangUpAnswer()  # told to the carrier that asks how to go on after the stream
        self.over: asyncio.Future[EndReason] = self._loop.create_future()
        self.recording: Recording | None = None
        self.stream: MediaStream | None = None
        self.frames_in = 0
        self.faults: dict[str, int] = {}
        self._agent: AgentLeg | None = None
        self._lost: tuple[EndReason, str] | None = None
        self.memory = Memory()
        "What the agent has said of the conversation, for one that must go on with it."
        self.attributes: dict[str, str] = {}
        "What the agent wants the carrier to be told about the call, where the carrier takes such things."
        self._takeovers = Takeovers(plan.max_takeovers)
        self._keys = Keys(self, board)
        self._socket: MediaSocket | None = None
        self._close_code = 1006
        self._playout: Playout | None = None
        self._beds = CallBeds(board.sounds)
        self._departure: Departure | None = None
        self._waiting_to_depart = self._transferring = False
        self._turns = Turns(partial(board.turn, self))
        self._caller_voice = CallerVoice()
        self._timers: list[asyncio.TimerHandle] = []

    def _step(self, step: Step) -> None:
        try:
            self.state = TRANSITIONS[self.state][step]
        except KeyError:
            raise IllegalStepError(f"call {self.id}: {step} in state {self.state}") from None

    @property
    def live(self) -> bool:
        """True while audio flows."""
        return self.state in LIVE

    @property
    def wants_agent(self) -> bool:
        """True while an agent that joins is welcome."""
        return self.state is CallState.RESUMING or (self.state is CallState.RINGING and not self.answer.done())

    def quiet(self, now: float) -> float:
        """Seconds since the carrier's side said anything; 0 while nothing is to be expected, as on hold."""
        stream = self.stream
        return 0.0 if stream is None or stream.silent else now - max(self.last_heard, stream.last_heard)

    @property
    def _format(self) -> AudioFormat:
        return OFFERED if self._playout is None or self.stream is None else self.stream.format

    @property
    def playout(self) -> Playout | None:
        """The way out, once the carrier's stream has started."""
        return self._playout

    def note(self, event: str, data: dict[str, Any], *, sync: bool = False) -> None:
        """Put an event into the journal."""
        self._board.journal.append(self.id, event, data, sync=sync)

    # --- ringing

    def agent_joined(self, leg: AgentLeg) -> None:
        """The leg to the agent stands; its Ready, Refuse or failure comes by itself."""
        self._agent = leg

    def answered(self, answer: Answer) -> None:
        """The agent is ready: the carrier is told to connect the audio."""
        self._step(Step.AGENT_READY)
        if not self.answer.done():
            self.answer.set_result(answer)

    def announce(self, reason: EndReason, answer: Answer, detail: str = "") -> None:
        """Answer without an agent: the caller hears the plan's apology, and is then transferred or hung up."""
        self._lost = (reason, detail)
        self.answered(answer)

    # --- the carrier's side

    def connect(self, socket: MediaSocket, stream: MediaStream) -> Callable[[bytes, bool], None]:
        """Take the media socket; gives what takes its messages."""
        self._socket, self.stream = socket, stream
        receive, receive_binary, event = stream.receive, stream.receive_binary, self.carrier_event
        clock = self._loop.time

        def on_message(data: bytes, is_text: bool) -> None:
            self.last_heard = now = clock()
            for what in receive(data, now) if is_text else receive_binary(data, now):
                if type(what) is MediaReceived:
                    self.media(what, now)
                else:
                    event(what)

        return on_message

    @property
    def writable(self) -> bool:
        """Whether the carrier takes what we send."""
        socket, stream = self._socket, self.stream
        return socket is not None and socket.writable_now and stream is not None and stream.writable

    def send(self, message: bytes) -> None:
        """Send one message to the carrier."""
        if message and self._socket is not None:
            self._socket.send_message(message)

    def media(self, media: MediaReceived, now: float) -> None:
        """Audio of the caller."""
        if self.state not in LIVE:
            return
        self.frames_in += 1
        self._caller_voice.frames.append((now, media.payload))
        if self.recording is not None:
            self.recording.caller(media.payload, now, media.lost_ms)
        agent = self._agent
        if agent is not None and self.state is not CallState.RESUMING:
            if media.lost_ms:
                assert self.stream is not None
                agent.audio(self.stream.format.hush(min(media.lost_ms / 1000, MAX_LOST_FILL)))
            agent.audio(media.payload)

    def carrier_event(self, event: StreamEvent) -> None:
        """Anything of the carrier's; of its audio `media` is the short way."""
        if self.state is CallState.ENDED:
            return
        if isinstance(event, MediaReceived):
            self.media(event, self._loop.time())
        elif isinstance(event, MarkReached) and self._playout is not None:
            self._playout.mark_reached(event.name, event.cleared)
        elif isinstance(event, DtmfReceived):
            self.note("dtmf", {"digit": event.digit})
            if self.state is CallState.RESUMING:
                self._takeovers.missed(link.Dtmf(event.digit))
            else:
                self.tell(link.Dtmf(event.digit))
        elif isinstance(event, StreamStarted):
            self._started(event)
        elif isinstance(event, ProtocolFault):
            self._fault(event)
        elif isinstance(event, StreamEnded):
            self._stream_ended(event.reason, event.detail)
        elif isinstance(event, HoldChanged):
            self.note("hold", {"held": event.held})
            self.tell(link.Held(event.held))
            if self._waiting_to_depart:
                self._depart_when_heard()
        elif isinstance(event, MessagesDue):
            for message in event.messages:
                self.send(message)

    def _started(self, event: StreamStarted) -> None:
        assert self.stream is not None
        self._step(Step.STREAM_STARTED)
        now = self.answered_at = self._loop.time()
        format = event.format
        self._playout = Playout(self._board.clock, self.stream, self, self)
        self._playout.lay(self._beds.bed(format))
        self.note("call.answered", {"stream_id": event.stream_id, "format": str(format)}, sync=True)
        if self.plan.record:
            self._start_recording(format)
        too_long = partial(self.leave, EndReason.MAX_DURATION, EndedBy.GATEWAY)
        self._timers.append(self._loop.call_later(self.plan.max_seconds, too_long))
        self._board.call_answered(self)
        if self._lost is not None:
            self.agent_lost(*self._lost)
            return
        self.tell(link.Answered(at=now, format="" if format == OFFERED else str(format)))

    def _start_recording(self, format: AudioFormat) -> None:
        self.recording = self._board.open_recording(self, format)
        self.audio_sent = self.recording.agent  # type: ignore[method-assign]  # nothing in between
        self.audio_cut = self.recording.cut  # type: ignore[method-assign]

    def recording_lost(self) -> None:
        """The recording has stopped by itself; the call goes on without."""
        self.recording = None
        del self.audio_sent, self.audio_cut

    def _fault(self, fault: ProtocolFault) -> None:
        count = self.faults[fault.kind] = self.faults.get(fault.kind, 0) + 1
        self._board.fault(self.provider.name, fault.kind)
        if count == 1:
            self.log.warning("carrier protocol fault", kind=fault.kind, detail=fault.detail, carrier=self.provider.name)
            self.note("fault", {"kind": fault.kind, "detail": fault.detail, "count": 1})
        if fault.close_code:
            self.end(EndReason.CARRIER_PROTOCOL_ERROR, EndedBy.CARRIER, fault.kind, close_code=fault.close_code)

    def _stream_ended(self, reason: str, cause: str) -> None:
        departure = self._departure
        if self.state is CallState.LEAVING and departure is not None:
            if departure.to and not isinstance(self.after, DialAnswer):  # before the transfer was asked for
                self.end(EndReason.CALLER_HANGUP, EndedBy.CALLER, "before the transfer")
            else:
                if self._transferring:  # the carrier did it before it said so
                    self.note("transfer", {"to": departure.to, "ok": True}, sync=True)
                self._conclude(departure)
        else:
            why, by, detail = end_of_stream(reason, self._close_code, self._loop.time() - self.last_heard)
            self.end(why, by, cause or detail)

    def socket_closed(self, code: int) -> None:
        """The media socket is gone."""
        if self.state is CallState.ENDED or self.stream is None:
            return
        self._close_code = code
        started = bool(self.answered_at)
        for event in self.stream.closed(self._loop.time()):
            self.carrier_event(event)
        if not started:
            self.end(EndReason.CARRIER_RESET, EndedBy.CARRIER, f"the media socket closed with {code} before start")

    # --- the agent's side

    def agent_audio(self, data: bytes) -> None:
        """Audio of the agent."""
        if self.state is CallState.LIVE and self._playout is not None:
            self._playout.audio(data)

    def agent_event(self, message: link.FromAgent) -> None:
        """Anything of the agent's but audio."""
        if self.state is CallState.ENDED:
            return
        match message:
            case link.Speak(utterance, text) if self.state is CallState.LIVE and self._playout is not None:
                self._playout.speak(utterance, text)
            case link.Spoken(utterance) if self._playout is not None:
                self._playout.spoken(utterance)
            case link.Clear():
                self._barge_in()
            case link.Turn():
                self._turns.turn(self._caller_voice.refine(message, self._format))
            case link.Transcript(role, text):
                if not (role == "agent" and message.utterance):  # those come with the utterance, as heard
                    self.note("transcript", {"role": role, "text": text, "utterance": message.utterance})
            case link.Bed():
                self._lay_bed(message)
            case link.Context(start, messages):
                self.memory.put(start, messages)
                self.note("context", {"start": start, "messages": messages})
            case link.Attributes(values):
                self.attributes.update(values)
                self.note("attributes", {"values": values})
            case link.Service():
                self._board.service(self, message)
            case link.Note(name, data):
                self.note("agent.note", {"name": name, "data": data})
            case link.HangUp(reason, after_speech):
                self._leave(Departure(EndReason.AGENT_HANGUP, EndedBy.AGENT, reason), after_speech)
            case link.Transfer(to, after_speech):
                self._agent_transfer(to, after_speech)
            case link.SendDtmf(digits):
                self._keys.press(digits)
            case link.Failed(error, traceback):
                self.note("agent.failed", {"error": error, "traceback": traceback})
                self.agent_lost(EndReason.AGENT_CRASHED, error)
            case link.Ready() if self.state is CallState.RESUMING:
                self._resumed()
            case link.Ready():
                self._board.agent_ready(self)
            case link.Refuse(reason):
                self.agent_lost(EndReason.AGENT_REFUSED, reason)
            case _:
                pass  # Speak or Spoken after the end of talking: nobody is to hear it

    def agent_lost(self, reason: EndReason, detail: str, by: EndedBy = EndedBy.GATEWAY) -> None:
        """The agent is gone, or taken off the call: another takes over, or else we apologise, then the fallback."""
        if self.state is CallState.ENDED:
            return
        self._drop_agent("lost")
        knows = self.state is CallState.LIVE and bool(self.memory.history)
        if knows and self._takeovers.begin(reason, detail, self._loop.time()):
            self._resume(reason, detail)
            return
        if self.state is CallState.RESUMING:
            self._board.metrics.takeover("failed")
            reason, detail = self._takeovers.failed(reason, detail)
        first, self._lost = self._lost is None, self._lost or (reason, detail)
        if self.state is CallState.RINGING:
            self._board.agent_unready(self, reason, detail)
            return
        leaving = self.state is CallState.LEAVING
        if first:
            self.log.error("agent lost", reason=reason, detail=detail, agent=self.plan.agent)
        self._step(Step.AGENT_LOST)
        if self.state is not CallState.LEAVING or leaving:
            return  # not started yet, or on the way out anyhow
        assert self._playout is not None
        assert self.stream is not None
        self._departure = Departure(reason, by, detail, to=self.plan.fallback_transfer)
        self._playout.clear()
        if self.plan.apology:
            self._playout.say(APOLOGY, "(apology)", convert_all(self.plan.apology, L16_8K, self.stream.format))
        self._depart_when_heard()

    def _resume(self, reason: EndReason, detail: str) -> None:
        """Offer the call to a fresh agent that knows what was said."""
        assert self._playout is not None
        self._step(Step.AGENT_REPLACED)
        self.log.error("agent lost; another is to take over", reason=reason, detail=detail, agent=self.plan.agent)
        self.note("agent.lost", {"reason": reason, "detail": detail})
        self._playout.clear()
        self._turns.forget()
        self.memory = self.memory.hand_over()
        self._timers.append(self._loop.call_later(TAKEOVER_BUDGET, self._not_resumed))
        self._board.run(self._board.join_agent(self), f"call-{self.id}:take-over")

    def _resumed(self) -> None:
        """The fresh agent is ready."""
        now = self._loop.time()
        self._step(Step.AGENT_READY)
        resumed = self._takeovers.resumed(now) | {"messages": len(self.memory.history)}
        self.log.info("another agent took over", agent=self.plan.agent, **resumed)
        self.note("resumed", resumed)
        self._board.metrics.takeover("resumed")
        self.tell(link.Answered(at=now))
        for key in self._takeovers.keys:
            self.tell(key)

    def _not_resumed(self) -> None:
        if self.state is CallState.RESUMING:
            self.agent_lost(EndReason.AGENT_NOT_READY, f"not ready within {TAKEOVER_BUDGET:g} s")

    def tell(self, message: link.ToAgent) -> None:
        """Send the agent an event, where there is one."""
        if self._agent is not None:
            self._agent.event(message)

    def _drop_agent(self, reason: str) -> None:
        if self._agent is not None:
            agent, self._agent = self._agent, None
            agent.event(link.Over(reason))
            self._board.retire(agent)
            self._beds = CallBeds(self._board.sounds)
            if self._playout is not None:
                self._playout.lay(None)

    def _barge_in(self) -> None:
        playout = self._playout
        if playout is None:
            return
        speaking = playout.speaking
        ends = playout.clear()
        if speaking:
            heard = next((end.heard_ms for end in ends if end.outcome == "cut"), 0)
            self.note("barge_in", {"heard_ms": heard})
            self._board.barged_in(self)

    def _lay_bed(self, message: link.Bed) -> None:
        if not self._beds.receive(message, self._format):
            self.note("fault", {"kind": "unknown-bed", "detail": f"sound {message.sound!r} never came", "count": 1})
        if self._playout is not None:
            self._playout.lay(self._beds.bed(self._format))

    def _agent_transfer(self, to: str, after_speech: bool) -> None:
        if self.state is CallState.LEAVING:
            return
        refusal = self.plan.orders.transfer(to) if self.state is CallState.LIVE else NOT_UP
        if refusal:
            self.log.warning("transfer denied", to=to, route=self.plan.route, reason=refusal)
            self.note("transfer", {"to": to, "ok": False, "error": refusal})
            self.tell(link.OrderRefused("transfer", refusal))
            return
        self._leave(Departure(EndReason.TRANSFERRED, EndedBy.AGENT, to=to), after_speech)

    # --- playout's side

    def utterance_started(self, utterance: int, at: float) -> None:
        """Its first audio left."""
        self._turns.started(utterance, at)
        self.tell(link.UtteranceStarted(utterance, at))

    def utterance_voiced(self, utterance: int, at: float) -> None:
        """The first voiced frame of an utterance left."""
        self._turns.voiced(utterance, at)

    def utterance_heard(self, utterance: int, at: float) -> None:
        """The caller has heard it."""
        self._turns.heard(utterance, at)

    def utterance_ended(self, ended: link.UtteranceEnded, text: str) -> None:
        """An utterance is over: the agent and the record are told."""
        self._turns.ended(ended.utterance)
        self.note(
            "utterance",
            {
                "id": ended.utterance,
                "outcome": ended.outcome,
                "heard_ms": ended.heard_ms,
                "length_ms": ended.length_ms,
                "text": text,
            },
        )
        if ended.utterance != APOLOGY:
            self.tell(ended)

    def audio_sent(self, payload: bytes, play_at: float) -> None:
        """Audio left; a recording puts itself here."""

    def audio_cut(self, at: float) -> None:
        """Audio was taken back; a recording puts itself here."""

    def playout_idle(self) -> None:
        """Everything was heard."""
        if self._departure is not None and self._waiting_to_depart:
            self._waiting_to_depart = False
            self._loop.call_soon(self._depart)

    # --- leaving

    def _leave(self, departure: Departure, after_speech: bool) -> None:
        if self.state not in (CallState.LIVE, CallState.RESUMING):
            if self.state in (CallState.RINGING, CallState.ANSWERED) and not departure.to:
                self.end(departure.reason, departure.by, departure.detail)
            return
        self._step(Step.LEAVE)
        self._departure = departure
        if self._playout is not None and not after_speech:
            self._playout.clear()
        self._depart_when_heard()

    def _depart_when_heard(self) -> None:
        playout = self._playout
        if playout is not None and playout.held:
            playout.clear()  # who holds us hears nothing, and may never come back
        if playout is None or playout.idle:
            self._depart()
        else:
            self._waiting_to_depart = True
            playout.tell_when_idle()

    def _depart(self) -> None:
        departure = self._departure
        if self.state is not CallState.LEAVING or departure is None:
            return
        if departure.to:
            self._board.run(self._transfer(departure), f"call-{self.id}:transfer")
        else:
            self._conclude(departure)

    async def _transfer(self, departure: Departure) -> None:
        self.after = answer = DialAnswer(departure.to, caller_id=self.incoming.to_number)
        self._transferring = True
        id, after_url = self.incoming.carrier_call_id, self._board.after_url(self.provider)
        order = self.provider.control.transfer(id, answer, fetch_url=after_url)
        ok = await self._board.order(self, "transfer", order)
        self._transferring = False
        if self.state is not CallState.LEAVING:
            return
        self.note("transfer", {"to": departure.to, "ok": ok}, sync=True)
        if ok:
            # The carrier takes the stream away; if it does not, we let go.
            self._timers.append(self._loop.call_later(TRANSFER_BUDGET, self._conclude, departure))
            return
        self.after = HangUpAnswer()
        if self._agent is not None:
            self._departure = None
            self._step(Step.TRANSFER_FAILED)
            self.tell(link.OrderRefused("transfer", "the carrier did not transfer the call"))
        else:
            self.end(departure.reason, departure.by, departure.detail, hang_up=True)

    def _conclude(self, gone: Departure) -> None:
        self.end(gone.reason, gone.by, gone.detail, hang_up=not gone.to)

    def leave(self, reason: EndReason, by: EndedBy, *, apologise: bool = False) -> None:
        """End the call from our side: after what is being said, or after the apology."""
        if self.state in (CallState.RINGING, CallState.ANSWERED):
            self.end(reason, by, hang_up=True)
        elif apologise and self.state in (CallState.LIVE, CallState.RESUMING):
            self.agent_lost(reason, "", by)
        elif self.state in (CallState.LIVE, CallState.RESUMING):
            self._leave(Departure(reason, by), after_speech=True)

    # --- the end

    def end(
        self,
        reason: EndReason,
        by: EndedBy,
        detail: str = "",
        *,
        hang_up: bool | None = None,
        close_code: int = 1000,
    ) -> None:
        """End the call now. `hang_up`: also order the carrier to; default: whenever it was not the carrier's doing."""
        if self.state is CallState.ENDED:
            return
        was = self.state
        reason, by = of_parties(reason, by, self.incoming.direction)
        self._step(Step.END)
        for timer in self._timers:
            timer.cancel()
        if self._playout is not None:
            self._playout.close()
        self._drop_agent(str(reason))
        if hang_up is None:
            hang_up = by in (EndedBy.GATEWAY, EndedBy.AGENT, EndedBy.OPERATOR)
        if isinstance(self.stream, DirectStream):  # the socket is the call: closing it is what hangs up
            for message in self.stream.hang_up() if hang_up else ():
                self.send(message)
            hang_up = hang_up and not self.stream.closing_hangs_up
        if self.stream is not None and (quality := self.stream.quality()):
            self.note("media.quality", dict(quality))
            self._board.metrics.media_quality(quality)
        if self._socket is not None:
            self._socket.close(close_code)
        if hang_up and was is not CallState.RINGING:
            order = self._board.order(self, "hang_up", self.provider.control.hang_up(self.incoming.carrier_call_id))
            self._board.run(order, f"call-{self.id}:hang-up")
        self.note(
            "call.ended",
            {
                "status": STATUS_OF[reason],
                "reason": reason,
                "ended_by": by,
                "detail": detail,
                "seconds": self.answered_at and round(self._loop.time() - self.answered_at, 3),
                "faults": self.faults,
                "dropped_ms": self._playout.dropped_ms if self._playout is not None else 0,
            },
            sync=True,
        )
        self.log.info("call ended", reason=reason, ended_by=by, detail=detail)
        if not self.answer.done():
            self.answer.set_result(HangUpAnswer())
        self.over.set_result(reason)
        self._board.call_ended(self, reason)
        self._playout = None  # else the two would wait for the garbage collector, in whose pauses no packet leaves
        self._turns.close()
