"""The flow agent: a phone menu without any AI, told by its settings alone (docs/flow.md).

`script` decides what follows; here its actions become sound, and keys, words and silence become its events.
"""

from __future__ import annotations

import asyncio
import warnings
from dataclasses import dataclass
from typing import Any, Final, Literal

from offhook.agents import sound
from offhook.agents.api import Agent, AgentCall, SettingsError, SettingsWarning, Utterance
from offhook.agents.flow import script
from offhook.agents.flow.script import Action, Script, Wait
from offhook.agents.flow.settings import FlowSettings, load
from offhook.agents.receptionist.agent import recognizer
from offhook.agents.speech.sentence import IncomingSentence
from offhook.agents.speech.stt import RecognizerFailed
from offhook.agents.speech.tts import prerender, synthesize
from offhook.codecs.audio import L16_8K, PCMU
from offhook.codecs.pcm import tone

MAX_SENTENCE: Final = 10.0
"""Seconds of speech that are listened to; a line that never falls silent, such as a television, is no answer."""

BEEP: Final = tone(1000, 0.3, 8000)
"""After this the caller's message is taken."""


@dataclass(frozen=True, slots=True)
class _Key:
    digit: str
    at: float


@dataclass(frozen=True, slots=True)
class _Stopped:
    """The caller has fallen silent."""

    at: float


@dataclass(frozen=True, slots=True)
class _Quiet:
    """The agent has nothing more to say."""


_Event = _Key | _Stopped | _Quiet


class Flow(Agent):
    """Follows the steps in its settings: see `settings.FlowSettings` for what there is."""

    format = L16_8K
    vad: Literal["silero", "webrtc", "none"] = "silero"  # loaded once a host; an instance that does not listen has none

    def __init__(self, call: AgentCall, settings: dict[str, Any]) -> None:
        super().__init__(call, settings)
        self._flow = load(settings)
        self.vad = self._flow.vad if self._flow.listens else "none"
        self._script = _script(self._flow, call)
        self._events: asyncio.Queue[_Event] = asyncio.Queue()
        self._keys = 0
        "Keys among the events that wait."
        self._sentence = IncomingSentence(MAX_SENTENCE)
        self._for_words = False
        "The current step listens to words."
        self._saying: list[Utterance] = []
        self._marks: dict[str, float] = {}
        self._refused = asyncio.Event()

    @classmethod
    def warm(cls, settings: dict[str, Any]) -> None:
        flow = load(settings)
        for name in flow.unreachable():
            warnings.warn(f"steps.{name}: no step leads there", SettingsWarning, stacklevel=2)
        once, music = flow.sounds()
        for source in once:
            sound.prompt(source, L16_8K)
        for source in music:
            sound.load(source, PCMU)  # what the carrier most likely speaks
        if grammars := flow.grammars():
            unknown = recognizer().prepare(grammars)
            if unknown:
                raise SettingsError(
                    f"menu.words: the recogniser's dictionary has no {', '.join(unknown)}; use other words"
                )
        prerender(flow.fixed_texts(), L16_8K)

    @property
    def _speaking(self) -> bool:
        return any(not utterance.over for utterance in self._saying)

    # --- what happens on the line

    def on_audio(self, audio: bytes) -> None:
        self._sentence.push(audio)

    def on_speech_started(self, at: float) -> None:
        self._sentence.begin()
        if self._for_words and self._speaking:
            self.call.clear()

    def on_speech_stopped(self, at: float) -> None:
        self._sentence.pause()
        self._events.put_nowait(_Stopped(at))

    def on_dtmf(self, digit: str) -> None:
        self._keys += 1
        self._events.put_nowait(_Key(digit, _now()))

    def on_utterance_ended(self, ended: Any) -> None:
        if not self._speaking:
            self._events.put_nowait(_Quiet())

    def on_order_refused(self, order: str, reason: str) -> None:
        if order == "transfer":
            self._refused.set()

    # --- the conversation

    async def on_ring(self) -> None:
        """Have the first words ready: a flow says them the moment the call is up."""
        for action in _script(self._flow, self.call).begin():
            if isinstance(action, script.Say | script.Play):
                await self._audio(action)

    async def on_answer(self) -> None:
        actions = self._script.begin()
        while (wait := await self._perform(actions)) is not None:
            actions = await self._answer(wait)

    async def _perform(self, actions: list[Action]) -> Wait | None:
        """Carry out actions; gives what to wait for, None when the call is on its way out."""
        self._saying, self._for_words = [], False
        while True:
            last = actions[-1]
            if isinstance(last, Wait):
                self._listen(last)
            for action in actions[:-1]:
                if isinstance(action, script.Say | script.Play):
                    await self._say(action, may_skip=isinstance(last, Wait))
                elif isinstance(action, script.Music):
                    await self._music(action)
                elif isinstance(action, script.Note):
                    self.call.note(action.name, **action.data)
            if isinstance(last, Wait):
                return last
            if isinstance(last, script.Record):
                actions = self._script.recorded(await self._message(last))
            elif isinstance(last, script.Transfer):
                self._refused.clear()
                self.call.transfer(last.to)
                await self._refused.wait()  # when it succeeds, the call is over
                actions = self._script.transfer_refused()
            else:
                assert isinstance(last, script.Hangup)
                self.call.hang_up(last.reason)
                return None

    def _listen(self, wait: Wait) -> None:
        self._for_words = wait.grammar is not None
        if not self._sentence.talking:
            self._sentence.forget()

    async def _say(self, action: script.Say | script.Play, *, may_skip: bool) -> None:
        if may_skip and action.interrupt and (self._keys or (self._for_words and self._sentence.talking)):
            return  # the caller knows the way already
        marks, self._marks = self._marks, {}
        if marks:
            marks["reply_text"] = _now()
        audio = await self._audio(action)
        text = action.text if isinstance(action, script.Say) else f"({action.sound})"
        utterance = self.call.speak(audio, text=text)
        if marks:
            self.call.turn(utterance, **marks, reply_audio=_now())
        self._saying.append(utterance)
        if not action.interrupt:
            hearing, self._for_words = self._for_words, False
            await utterance
            self._for_words = hearing

    async def _audio(self, action: script.Say | script.Play) -> bytes:
        if isinstance(action, script.Say):
            return await synthesize(action.text, L16_8K)
        return await asyncio.to_thread(sound.prompt, action.sound, L16_8K)

    async def _music(self, music: script.Music) -> None:
        loop = await asyncio.to_thread(sound.load, music.sound, self.call.format) if music.sound else b""
        self.call.bed(loop, music.volume)

    # --- what the caller answers

    async def _answer(self, wait: Wait) -> list[Action]:
        """Wait for the caller; gives what the script makes of it."""
        quiet_since = _now()
        while True:
            if self._sentence.talking and self._for_words:
                left = MAX_SENTENCE
            elif self._speaking:
                left = None  # its end comes as an event
            else:
                left = max(0.0, quiet_since + wait.seconds - _now())
            event = await self._next(left)
            actions: list[Action] | None = None
            if event is None:
                self._marks = {}
                if self._sentence.talking and self._for_words:
                    self._sentence.pause()
                    self._sentence.forget()
                    actions = self._script.said(None)
                else:
                    actions = self._script.timed_out()
            elif isinstance(event, _Key):
                actions = self._script.key(event.digit)
                self._marks = {"caller_stopped": event.at, "turn_ended": event.at} if actions is not None else {}
            elif isinstance(event, _Stopped):
                actions = await self._understand(wait, event)
                quiet_since = _now()
            else:
                quiet_since = _now()
            if actions is not None:
                if self._speaking:
                    self.call.clear()
                return actions

    async def _next(self, timeout: float | None) -> _Event | None:
        try:
            async with asyncio.timeout(timeout):
                event = await self._events.get()
        except TimeoutError:
            return await self._next(timeout) if await self.back_from_hold() else None
        self._keys -= isinstance(event, _Key)
        return event

    async def _understand(self, wait: Wait, stopped: _Stopped) -> list[Action] | None:
        """What was said, if it is over and words count here."""
        frames, pcm = len(self._sentence), self._sentence.pcm
        if wait.grammar is None or not pcm:
            self._sentence.forget()
            return None
        known = _now()
        try:
            heard = await recognizer().recognize(wait.grammar, pcm)
        except RecognizerFailed as error:
            self.call.note("recogniser_failed", error=str(error))
            return self._script.said(None)
        if self._sentence.talking or len(self._sentence) > frames:  # it is longer by now; its end is yet to come
            return None
        self._sentence.forget()
        self._marks = {"caller_stopped": stopped.at, "turn_ended": known, "understood": _now()}
        self.call.transcript("caller", heard.text or "(not understood)")
        return self._script.said(None if heard.meaning is None else heard.meaning.answer)

    async def _message(self, record: script.Record) -> float:
        """Let the caller leave a message, which is in the call's recording; gives its seconds."""
        for utterance in self._saying:
            await utterance
        await self.call.speak(BEEP, text="(tone)")
        while not self._events.empty():  # what came before the tone is no part of the message
            await self._next(None)
        began = silent_since = _now()
        while (left := began + record.seconds - _now()) > 0:
            if not self._sentence.talking:
                left = min(left, max(0.0, silent_since + record.pause - _now()))
            event = await self._next(left)
            if isinstance(event, _Key) or (event is None and not self._sentence.talking):
                break
            if isinstance(event, _Stopped):
                silent_since = _now()
        self._sentence.forget()
        return _now() - began


def _now() -> float:
    return asyncio.get_running_loop().time()


def _script(flow: FlowSettings, call: AgentCall) -> Script:
    return Script(flow, {"caller": call.info.from_number, "called": call.info.to_number})
