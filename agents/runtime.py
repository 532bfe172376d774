"""Runs one agent on one call: link messages in, handlers called, link messages out.

Theory of operation
-------------------
A session is offered the call, constructs the agent, and runs one task: `on_ring`, then Ready, then, once
the gateway has answered, `on_answer`; when that returns the agent hangs up. Audio and keys arrive by plain
calls on the event loop, not through the task. Whatever a handler raises ends this session alone: `Failed`
goes to the gateway, which sees to the caller. After `Over` the task is cancelled, `on_over` gets OVER_BUDGET
seconds, and the session is forgotten.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Protocol

from offhook.agents import link
from offhook.agents.api import Agent, AgentCall, Refused, SettingsError, Utterance
from offhook.agents.vad import VadService, VadStream
from offhook.codecs.audio import L16_8K, AudioFormat
from offhook.codecs.convert import Converter

OVER_BUDGET: Final = 5.0
"""Seconds that `on_over` may take; the caller is gone by then."""

MAX_PIECE: Final = 16_000
"""Bytes of one audio message: 2 s of G.711, so that one call's long sentence does not hold up the others."""

MAX_TRACEBACK: Final = 4_000
"""Characters of a traceback that travel to the record."""

MAX_BEDS: Final = 8
"""Sounds that the gateway keeps for one call."""


class Wire(Protocol):
    """The way to the gateway. Neither method blocks."""

    def event(self, message: link.FromAgent) -> None:
        """Send one event."""

    def audio(self, data: bytes) -> None:
        """Send audio in the link's format."""


class AgentSession(AgentCall):
    """One agent on one call."""

    def __init__(
        self,
        offer: link.Offer,
        agent_class: Callable[[AgentCall, dict[str, Any]], Agent],
        wire: Wire,
        *,
        vad: VadService,
        on_done: Callable[[], None] = lambda: None,
    ) -> None:
        self.info = offer.call
        self.history = offer.history
        self._wire = wire
        self._vad_service = vad
        self._on_done = on_done
        self.format = self._mine = AudioFormat.parse(offer.format)
        self._next_id = 1
        self._utterances: dict[int, Utterance] = {}
        self._open: Utterance | None = None
        self._answered = asyncio.Event()
        self._over = False
        self._vad: VadStream | None = None
        self._hear: Callable[[bytes], bytes] | None = None
        self._voice: Converter | None = None
        self._live: Converter | None = None
        self._to_vad: Callable[[bytes], bytes] | None = None
        self._clean: Callable[[bytes], bytes] | None = None
        self._beds: set[str] = set()
        self.agent: Agent | None = None
        try:
            self.agent = agent_class(self, offer.settings)
            self._connect_audio()
        except Exception as error:  # a constructor is agent code: this call fails, nothing else
            self.agent = None
            self._fail(error)
            return
        self._task: asyncio.Task[None] = asyncio.create_task(self._run(), name=f"agent-{offer.call.id}")

    # --- the task

    async def _run(self) -> None:
        agent = self.agent
        assert agent is not None
        try:
            await agent.on_ring()
            self._wire.event(link.Ready())
            await self._answered.wait()
            await agent.on_answer()
            if not self._over:
                self.hang_up("agent finished")
        except Refused as refusal:
            self._order(link.Refuse(str(refusal)))
        except Exception as error:  # the root of agent code: reported, never hidden
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self._over:
            return
        text = "".join(traceback.format_exception(error))[-MAX_TRACEBACK:]
        self._wire.event(link.Failed(error=f"{type(error).__name__}: {error}"[:500], traceback=text))

    async def _finish(self, reason: str) -> None:
        agent = self.agent
        if agent is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            try:
                async with asyncio.timeout(OVER_BUDGET):
                    await agent.on_over(reason)
            except Exception as error:  # too late to tell the caller; the record still gets it
                self._wire.event(link.Note("on_over_failed", {"error": f"{type(error).__name__}: {error}"}))
            # Else the agent's code and we would hold each other, until the garbage collector comes by.
            self.agent = None
            del self._task
        self._on_done()
        del self._wire, self._on_done

    # --- audio formats

    def _connect_audio(self) -> None:
        agent = self.agent
        assert agent is not None
        wanted = agent.format or self.format
        self._mine = wanted
        same = wanted == self.format
        self._hear = None if same else Converter(self.format, wanted).convert
        self._live = None if same else Converter(wanted, self.format)
        self._to_vad = self._clean = None
        if agent.noise_filter is not None:
            decode, clean = Converter(self.format, L16_8K).convert, agent.noise_filter
            self._clean = lambda data: clean(decode(data))
            self._hear = None if wanted == L16_8K else Converter(L16_8K, wanted).convert
        if agent.vad not in ("silero", "webrtc", "none"):
            raise SettingsError(f"vad: {agent.vad!r} is not one of silero, webrtc, none")
        if agent.vad != "none":
            if wanted != L16_8K and self._clean is None:
                self._to_vad = Converter(self.format, L16_8K).convert
            if self._vad is None:
                self._vad = self._vad_service.open(
                    agent.vad, self._speech_started, self._speech_stopped, silence_ms=agent.vad_silence_ms
                )

    def _speech_started(self, at: float) -> None:
        if not self._over and self.agent is not None:
            self._guard(self.agent.on_speech_started, at)

    def _speech_stopped(self, at: float) -> None:
        if not self._over and self.agent is not None:
            self._guard(self.agent.on_speech_stopped, at)

    def _guard(self, handler: Callable[..., None], *arguments: Any) -> None:
        try:
            handler(*arguments)
        except Exception as error:  # the root of agent code again
            self._task.cancel()
            self._fail(error)

    # --- from the gateway

    def receive_audio(self, data: bytes) -> None:
        """Caller audio in the link's format."""
        agent = self.agent
        if agent is None or self._over:
            return
        try:
            if self._clean is not None:
                data = self._clean(data)
            heard = self._hear(data) if self._hear is not None else data
            if self._vad is not None:
                plain = data if self._clean is not None else heard
                self._vad.feed(plain if self._to_vad is None else self._to_vad(data), time.monotonic())
            agent.on_audio(heard)
        except Exception as error:  # the root of agent code; spelled out for the speed of the usual way
            self._task.cancel()
            self._fail(error)

    def receive(self, message: link.ToAgent) -> None:
        """An event of the gateway."""
        agent = self.agent
        if isinstance(message, link.Over):
            if not self._over:
                self._over = True
                self._close()
                self._ending = asyncio.create_task(self._finish(message.reason), name=f"agent-{self.info.id}:over")
        elif agent is None:
            return
        elif isinstance(message, link.Answered):
            if message.format and message.format != str(self.format):
                self.format = AudioFormat.parse(message.format)
                self._connect_audio()
            self._answered.set()
        elif isinstance(message, link.Dtmf):
            self._guard(agent.on_dtmf, message.digit)
        elif isinstance(message, link.Held):
            self._guard(agent.on_hold, message.held)
        elif isinstance(message, link.UtteranceStarted):
            if (utterance := self._utterances.get(message.utterance)) is not None:
                utterance.started_at = message.at
                self._guard(agent.on_utterance_started, utterance)
        elif isinstance(message, link.UtteranceEnded):
            if (utterance := self._utterances.pop(message.utterance, None)) is not None:
                utterance._end(message)
                self._guard(agent.on_utterance_ended, message)
        elif isinstance(message, link.OrderRefused):
            self._guard(agent.on_order_refused, message.order, message.reason)

    def _close(self) -> None:
        if self._vad is not None:
            self._vad.close()
            self._vad = None
        for utterance in self._utterances.values():
            utterance._end(link.UtteranceEnded(utterance.id, "dropped", 0, 0))
        self._utterances.clear()

    # --- AgentCall

    def speak(self, audio: bytes = b"", *, text: str = "", last: bool = True) -> Utterance:
        utterance = Utterance(self._next_id, text)
        self._next_id += 1
        if self._over:
            utterance._end(link.UtteranceEnded(utterance.id, "dropped", 0, 0))
            return utterance
        if self._open is not None:
            self.finish(self._open)
        self._utterances[utterance.id] = utterance
        self._wire.event(link.Speak(utterance.id, text))
        self._open = utterance
        self._voice = None if self._mine == self.format else Converter(self._mine, self.format)
        if audio:
            self.add(utterance, audio)
        if last:
            self.finish(utterance)
        return utterance

    def add(self, utterance: Utterance, audio: bytes) -> None:
        if self._over or utterance is not self._open:
            return  # cleared or ended meanwhile: nobody is to hear it
        if self._voice is not None:
            audio = self._voice.convert(audio)
        for start in range(0, len(audio), MAX_PIECE):
            self._wire.audio(audio[start : start + MAX_PIECE])

    def finish(self, utterance: Utterance) -> None:
        if utterance is self._open:
            self._open = None
            if not self._over:
                self._wire.event(link.Spoken(utterance.id))

    def stream(self, audio: bytes) -> None:
        if not self._over:
            self._wire.audio(audio if self._live is None else self._live.convert(audio))

    def clear(self) -> None:
        self._open = None
        if not self._over:
            self._wire.event(link.Clear())

    def hang_up(self, reason: str = "", *, after_speech: bool = True) -> None:
        self._order(link.HangUp(reason, after_speech))

    def transfer(self, to: str, *, after_speech: bool = True) -> None:
        self._order(link.Transfer(to, after_speech))

    def send_dtmf(self, digits: str) -> None:
        self._order(link.SendDtmf(digits))

    def transcript(self, role: Literal["caller", "agent"], text: str, utterance: Utterance | None = None) -> None:
        self._order(link.Transcript(role, text, utterance.id if utterance else 0, time.monotonic()))

    def turn(self, utterance: Utterance, **marks: float) -> None:
        self._order(link.Turn(utterance.id, **marks))

    def note(self, name: str, **data: Any) -> None:
        self._order(link.Note(name, data))

    def remember(self, start: int, messages: list[dict[str, Any]]) -> None:
        self._order(link.Context(start, messages))

    def bed(self, audio: bytes = b"", gain: float = 1.0) -> None:
        digest = hashlib.sha256(audio).hexdigest()[:16] if audio else ""
        known = digest in self._beds
        if len(self._beds) >= MAX_BEDS and not known:
            self._beds.clear()  # the gateway has forgotten the oldest by now: each is sent again when it is wanted
        self._beds.add(digest)
        self._order(link.Bed(digest, b"" if known else audio, gain))

    def set_attributes(self, values: Mapping[str, str]) -> None:
        self._order(link.Attributes(dict(values)))

    def service(self, role: Literal["stt", "llm", "tts"], name: str, ttfb: float, fault: str, detail: str) -> None:
        self._order(link.Service(role, name, round(ttfb * 1000, 1), fault, detail))

    def _order(self, message: link.FromAgent) -> None:
        if not self._over:
            self._wire.event(message)
