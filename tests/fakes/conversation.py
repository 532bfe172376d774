"""Services that do what a test says, and a gateway that plays what an agent says in the loop's time.

The services keep their contracts (`offhook.agents.services.base`) and are named `module:Class` like anybody's own, so
the engine in between is the real one; only what would be a vendor's cloud is scripted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from offhook.agents import link
from offhook.agents.api import Agent, AgentCall
from offhook.agents.runtime import AgentSession
from offhook.agents.services.base import (
    Audio,
    Delta,
    Final,
    FunctionCall,
    FunctionSchema,
    Heard,
    LanguageModel,
    Message,
    Partial,
    ServiceSettings,
    SpeechToText,
    Spoken,
    TextDelta,
    TextToSpeech,
    Transcription,
    Voice,
    Word,
)
from offhook.agents.vad import VadService
from offhook.codecs.audio import PCMU, AudioFormat

MS_PER_CHARACTER = 60
"""The scripted voice's pace."""

Replier = Callable[[list[Message]], "str | Sequence[Delta | float | BaseException]"]


@dataclass
class Script:
    """What the services of one test do. Times in seconds."""

    reply: Replier = lambda messages: "Fine."
    stt_delay: float = 0.15
    ttft: float = 0.25
    ttfb: float = 0.1
    words: bool = True
    ends_turns: bool = False
    streams: list[ScriptedTranscription] = field(default_factory=list)
    requests: list[list[Message]] = field(default_factory=list)
    schemas: list[list[str]] = field(default_factory=list)
    spoken: list[str] = field(default_factory=list)
    cancelled: int = 0
    voice_fault: BaseException | None = None


scripts: dict[str, Script] = {}


class ScriptSettings(ServiceSettings):
    script: str


class ScriptedTranscription(Transcription):
    def __init__(self, script: Script, hear: Callable[[Heard], None]) -> None:
        self.script, self.hear = script, hear
        self.pending = ""
        "What was said since the last final."
        self._before, self._said, self._final_words = "", "", 0
        self.bytes = 0
        self.closed = False

    def push(self, audio: bytes) -> None:
        self.bytes += len(audio)

    def begin(self) -> None:
        """The caller begins a sentence."""
        self._before, self._said, self._final_words = self.pending, "", 0

    def say(self, text: str) -> None:
        """The caller has said this much of his sentence; it shows as a partial at once."""
        self._said = text
        rest = " ".join(text.split()[self._final_words :])
        self.pending = f"{self._before} {rest}".strip()
        self.hear(Partial(self.pending))

    def finalize(self) -> None:
        asyncio.get_running_loop().call_later(self.script.stt_delay, self._final)

    def _final(self) -> None:
        if not self.closed:
            text, self.pending = self.pending, ""
            self._before, self._final_words = "", len(self._said.split())
            self.hear(Final(text, answers_finalize=True))

    async def close(self) -> None:
        self.closed = True


class ScriptedSpeech(SpeechToText):
    Settings = ScriptSettings
    formats = (PCMU,)

    def __init__(self, settings: ScriptSettings) -> None:
        super().__init__(settings)
        self.script = scripts[settings.script]
        self.ends_turns = self.script.ends_turns

    async def open(self, format: AudioFormat, hear: Callable[[Heard], None]) -> Transcription:
        stream = ScriptedTranscription(self.script, hear)
        self.script.streams.append(stream)
        return stream


class ScriptedModel(LanguageModel):
    Settings = ScriptSettings

    def __init__(self, settings: ScriptSettings) -> None:
        super().__init__(settings)
        self.script = scripts[settings.script]

    async def reply(
        self, messages: Sequence[Message], functions: Sequence[FunctionSchema] = ()
    ) -> AsyncGenerator[Delta, None]:
        script = self.script
        script.requests.append(list(messages))
        script.schemas.append([function.name for function in functions])
        wanted = script.reply(list(messages))
        deltas: Sequence[Delta | float | BaseException] = [TextDelta(wanted)] if isinstance(wanted, str) else wanted
        try:
            await asyncio.sleep(script.ttft)
            for delta in deltas:
                if isinstance(delta, float):
                    await asyncio.sleep(delta)
                elif isinstance(delta, BaseException):
                    raise delta
                else:
                    yield delta
        except (asyncio.CancelledError, GeneratorExit):
            script.cancelled += 1
            raise


class ScriptedSession(Voice):
    def __init__(self, script: Script) -> None:
        self.script = script

    async def synthesize(self, text: str, *, previous: str = "") -> AsyncGenerator[Spoken, None]:
        script = self.script
        await asyncio.sleep(script.ttfb)
        if script.voice_fault is not None:
            raise script.voice_fault
        script.spoken.append(text)
        at = 0
        for word in text.split():
            length = (len(word) + 1) * MS_PER_CHARACTER
            if script.words:
                yield Word(word, at, at + length)
            yield Audio(b"\x20" * (length * 8))
            at += length

    async def close(self) -> None:
        pass


class ScriptedVoice(TextToSpeech):
    Settings = ScriptSettings
    formats = (PCMU,)

    def __init__(self, settings: ScriptSettings) -> None:
        super().__init__(settings)
        self.script = scripts[settings.script]

    async def open(self, format: AudioFormat) -> Voice:
        return ScriptedSession(self.script)


def call(name: str, arguments: str = "{}", id: str = "f1") -> FunctionCall:
    """The model wants this function."""
    return FunctionCall(id, name, arguments)


def services(script: Script, name: str) -> dict[str, Any]:
    """The three sections of an assistant's settings."""
    scripts[name] = script
    return {
        role: {"service": f"fakes.conversation:{kind}", "script": name}
        for role, kind in {"stt": "ScriptedSpeech", "llm": "ScriptedModel", "tts": "ScriptedVoice"}.items()
    }


# --- the gateway ------------------------------------------------------------------------


@dataclass
class Said:
    """One utterance as the caller got it."""

    id: int
    text: str
    at: float
    audio: int = 0
    closed: bool = False
    started: float = 0.0
    outcome: str = ""
    heard_ms: int = 0
    timer: asyncio.TimerHandle | None = None


class PlayingGateway:
    """The gateway's side of the link: plays in the loop's time, reports what was heard, keeps everything."""

    def __init__(
        self,
        agent_class: Callable[[AgentCall, dict[str, Any]], Agent],
        settings: dict[str, Any],
        history: Sequence[Message] = (),
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.events: list[link.FromAgent] = []
        self.said: list[Said] = []
        self.play_end = 0.0
        self.over = False
        self.vad = VadService()
        self.refuse: dict[type[link.FromAgent], link.OrderRefused] = {}
        self.history = list(history)
        info = link.CallInfo("c1", "+15550001", "+15550100", "twilio")
        offer = link.Offer(info, "a", settings, "pcmu/8000", history=list(history))
        self.session = AgentSession(offer, agent_class, self, vad=self.vad)
        self.agent: Any = self.session.agent  # the session lets go of it at the end

    def event(self, message: link.FromAgent) -> None:
        self.events.append(message)
        if isinstance(message, link.Speak):
            self.said.append(Said(message.utterance, message.text, self.loop.time()))
        elif isinstance(message, link.Spoken):
            said = self._find(message.utterance)
            said.closed = True
            if not said.outcome:
                said.timer = self.loop.call_at(max(self.play_end, self.loop.time()), self._ended, said, "played")
        elif isinstance(message, link.Clear):
            for said in self.said:
                if not said.outcome:
                    self._ended(said, "cut" if self._heard(said) else "dropped")
            self.play_end = self.loop.time()
        elif isinstance(message, link.Context):
            self.history[message.start :] = message.messages
        elif isinstance(message, link.HangUp):
            self.loop.call_at(max(self.play_end, self.loop.time()), self.hang_up)
        elif isinstance(message, link.Refuse | link.Failed):
            self.loop.call_soon(self.hang_up)
        elif type(message) in self.refuse:
            self.loop.call_soon(self.session.receive, self.refuse[type(message)])

    def audio(self, data: bytes) -> None:
        said = self.said[-1]
        now = self.loop.time()
        if not said.audio:
            said.started = max(self.play_end, now)
            self.loop.call_soon(self.session.receive, link.UtteranceStarted(said.id, now))
        said.audio += len(data)
        self.play_end = max(self.play_end, now) + len(data) / 8000

    def _find(self, id: int) -> Said:
        return next(said for said in self.said if said.id == id)

    def _heard(self, said: Said) -> int:
        if not said.audio:
            return 0
        return max(0, min(round((self.loop.time() - said.started) * 1000), said.audio // 8))

    def _ended(self, said: Said, outcome: Any) -> None:
        if said.outcome or self.over:
            return
        if said.timer is not None:
            said.timer.cancel()
        said.outcome, said.heard_ms = outcome, said.audio // 8 if outcome == "played" else self._heard(said)
        ended = link.UtteranceEnded(said.id, outcome, said.heard_ms, said.audio // 8)
        self.loop.call_soon(self.session.receive, ended)

    async def answer(self) -> None:
        """Wait for Ready, then answer."""
        while not any(isinstance(event, link.Ready | link.Refuse | link.Failed) for event in self.events):
            await asyncio.sleep(0.01)
        self.session.receive(link.Answered(self.loop.time()))
        await asyncio.sleep(0)

    def hang_up(self) -> None:
        """The call ends."""
        if not self.over:
            self.over = True
            self.session.receive(link.Over("caller_hangup"))

    async def close(self) -> None:
        """Hang up and wait until the agent has gone."""
        self.hang_up()
        await self.session._ending
        self.vad.close()

    def of(self, kind: type[Any]) -> list[Any]:
        """The agent's events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def notes(self, name: str) -> list[dict[str, Any]]:
        """What the agent noted under a name."""
        return [event.data for event in self.of(link.Note) if event.name == name]

    # --- the caller

    @property
    def stream(self) -> ScriptedTranscription:
        """The open speech-to-text stream."""
        return next(iter(scripts.values())).streams[-1]

    async def speak(self, text: str, seconds: float = 1.0, *, stt: ScriptedTranscription) -> None:
        """The caller says this; the detector notices him, words come one by one, and a short pause follows."""
        agent = self.agent
        agent.on_speech_started(self.loop.time())
        stt.begin()
        words = text.split()
        for i in range(len(words)):
            await asyncio.sleep(seconds / len(words))
            stt.say(" ".join(words[: i + 1]))
        if not words:
            await asyncio.sleep(seconds)
        last = self.loop.time()
        await asyncio.sleep(agent.vad_silence_ms / 1000)
        agent.on_speech_stopped(last)
