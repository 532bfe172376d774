"""The receptionist: answers the phone with no key and no network.

It says what the dialogue asks, listens out of small grammars, and takes every answer by key as well. The caller
may interrupt at any word. Hearing and deciding are kept apart: this module turns audio, speech events and keys
into the dialogue's events, and its actions into speech; what is said and what follows is `dialogue`'s business.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

from offhook.agents.api import Agent, AgentCall, SettingsError, Utterance
from offhook.agents.receptionist import dialogue as script
from offhook.agents.receptionist.dialogue import Action, Conversation, Dialogue, Listen
from offhook.agents.speech.sentence import IncomingSentence
from offhook.agents.speech.stt import Heard, Recognizer, RecognizerFailed
from offhook.agents.speech.tts import prerender, synthesize
from offhook.codecs.audio import L16_8K
from offhook.codecs.pcm import tone

MAX_SENTENCE: Final = 20.0
"""Seconds of one sentence that are kept."""

PATIENCE: Final = 0.5
"""Seconds more for a caller whose sentence so far means nothing: people stop to think in the middle of one."""

BETWEEN_KEYS: Final = 3.0
"""Seconds after the last key of a number without a hash."""

MESSAGE_PAUSE: Final = 3.0
"""Seconds of silence that end a message."""


@dataclass(frozen=True, slots=True)
class _Started:
    at: float


@dataclass(frozen=True, slots=True)
class _Stopped:
    at: float
    known: float
    "When the detector said so."


@dataclass(frozen=True, slots=True)
class _Key:
    digit: str


@dataclass(frozen=True, slots=True)
class _Quiet:
    """The agent has nothing more to say."""


_Event = _Started | _Stopped | _Key | _Quiet

_recognizer: Recognizer | None = None
_lock = threading.Lock()


def recognizer() -> Recognizer:
    """The recogniser that all receptionists of this process share."""
    global _recognizer
    with _lock:
        if _recognizer is None:
            _recognizer = Recognizer()
        return _recognizer


def close_recognizer() -> None:
    """End the shared recogniser's processes; the next receptionist starts them again."""
    global _recognizer
    with _lock:
        if _recognizer is not None:
            _recognizer.close()
            _recognizer = None


class Receptionist(Agent):
    """Finds out what the caller wants, does it or passes it on.

    Settings: `dialogue`, a dialogue file (default: the built-in one); `business`, what overrides the file's
    section of that name (`name`, `hours`, `departments`); `silence`, seconds before a silent caller is asked again
    (default 6); `vad`, `silero` (default) or `webrtc`.
    """

    format = L16_8K
    vad = "silero"

    def __init__(self, call: AgentCall, settings: dict[str, Any]) -> None:
        super().__init__(call, settings)
        self._dialogue, self._silence, self.vad = _read(settings)
        self._talk = Conversation(self._dialogue)
        self._events: asyncio.Queue[_Event] = asyncio.Queue()
        self._sentence = IncomingSentence(MAX_SENTENCE)
        self._saying: list[Utterance] = []
        self._marks: dict[str, float] = {}
        self._refused = asyncio.Event()

    @classmethod
    def warm(cls, settings: dict[str, Any]) -> None:
        found, _, _ = _read(settings)
        grammars = [grammar for name in found.questions if (grammar := found.grammar(name)) is not None]
        unknown = recognizer().prepare(grammars)
        if unknown:
            raise SettingsError(
                f"dialogue: the recogniser's dictionary has no {', '.join(unknown)}; use other words in the phrases"
            )
        prerender(found.fixed_texts(), L16_8K)

    @property
    def _speaking(self) -> bool:
        return any(not utterance.over for utterance in self._saying)

    # --- what happens on the line

    def on_audio(self, audio: bytes) -> None:
        self._sentence.push(audio)

    def on_speech_started(self, at: float) -> None:
        self._sentence.begin()
        if self._speaking:
            self.call.clear()
        self._events.put_nowait(_Started(at))

    def on_speech_stopped(self, at: float) -> None:
        self._sentence.pause()
        self._events.put_nowait(_Stopped(at, time.monotonic()))

    def on_dtmf(self, digit: str) -> None:
        if self._speaking:
            self.call.clear()
        self._events.put_nowait(_Key(digit))

    def on_utterance_ended(self, ended: Any) -> None:
        if not self._speaking:
            self._events.put_nowait(_Quiet())

    def on_order_refused(self, order: str, reason: str) -> None:
        if order == "transfer":
            self._refused.set()

    # --- the conversation

    async def on_ring(self) -> None:
        await synthesize(self._first_text(), L16_8K)

    async def on_answer(self) -> None:
        actions = self._talk.begin()
        while (listen := await self._perform(actions)) is not None:
            actions = await self._hear(listen)

    def _first_text(self) -> str:
        return next(action.text for action in Conversation(self._dialogue).begin() if isinstance(action, script.Say))

    async def _perform(self, actions: list[Action]) -> Listen | None:
        """Carry out actions; gives what to listen for, None when the conversation is over."""
        self._saying = []
        for action in actions:
            if isinstance(action, script.Say):
                await self._say(action.text)
            elif isinstance(action, script.Note):
                self.call.note(action.name, **action.slots)
            elif isinstance(action, script.Transfer):
                self._refused.clear()
                self.call.transfer(action.to)
                await self._refused.wait()  # when it succeeds, the call is over
                return await self._perform(self._talk.transfer_failed())
            elif isinstance(action, script.End):
                self.call.hang_up(action.reason)
                return None
            else:
                return action
        raise RuntimeError("the dialogue neither listens nor ends")

    async def _say(self, text: str) -> None:
        self._marks.setdefault("reply_text", time.monotonic())
        audio = await synthesize(text, L16_8K)
        self._marks.setdefault("reply_audio", time.monotonic())
        utterance = self.call.speak(audio, text=text)
        if "caller_stopped" in self._marks:
            self.call.turn(utterance, **self._marks)
        self._marks = {}
        self._saying.append(utterance)
        if self._sentence.talking:  # the caller began while this was being made
            self.call.clear()

    async def _hear(self, listen: Listen) -> list[Action]:
        """Wait for the caller; gives what the dialogue makes of it."""
        if listen.record is not None:
            return await self._record(listen.record.seconds)
        typing = False
        while True:
            event = await self._next(BETWEEN_KEYS if typing else listen.patience or self._silence)
            if event is None:
                if typing:
                    return self._talk.typed()
                if not self._sentence.talking and not self._speaking:
                    return self._talk.silent()
                if self._sentence.full:
                    # A line that never falls silent, such as a television: speak over it, and go by keys.
                    self._sentence.pause()
                    self._sentence.forget()
                    return self._talk.missed()
            elif isinstance(event, _Key):
                self._marks = {"caller_stopped": time.monotonic(), "turn_ended": time.monotonic()}
                actions = self._talk.key(event.digit)
                if actions is not None:
                    return actions
                typing = True
            elif isinstance(event, _Stopped):
                actions = await self._understand(listen, event)
                if actions is not None:
                    return actions

    async def _next(self, timeout: float) -> _Event | None:
        try:
            async with asyncio.timeout(timeout):
                return await self._events.get()
        except TimeoutError:
            return await self._next(timeout) if await self.back_from_hold() else None

    async def _understand(self, listen: Listen, stopped: _Stopped) -> list[Action] | None:
        """Make something of the sentence so far; None: the caller goes on speaking, or it was nothing."""
        frames = len(self._sentence)
        pcm = self._sentence.pcm
        if listen.grammar is None or not pcm:  # nothing: it was understood with the sentence before
            self._sentence.forget()
            return None
        try:
            heard = await recognizer().recognize(listen.grammar, pcm)
        except RecognizerFailed as error:
            self.call.note("recogniser_failed", error=str(error))
            heard = Heard("", 0.0, None)
        if self._sentence.talking or len(self._sentence) > frames:  # it is longer by now; its end is yet to come
            return None
        if heard.meaning is None and await self._goes_on():
            return None
        self._sentence.forget()
        self._marks = {
            "caller_stopped": stopped.at,
            "turn_ended": stopped.known,
            "understood": time.monotonic(),
        }
        self.call.transcript("caller", heard.text or "(not understood)")
        self.call.note("heard", text=heard.text, score=round(heard.score, 3), question=listen.question)
        return self._talk.missed() if heard.meaning is None else self._talk.understood(heard.meaning)

    async def _goes_on(self) -> bool:
        """Give a caller who paused in the middle a moment; True when speech or a key came in it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        while not self._sentence.talking and (left := deadline - loop.time()) > 0:
            event = await self._next(left)
            if isinstance(event, _Started):
                return True
            if isinstance(event, _Key):
                self._sentence.forget()
                self._events.put_nowait(event)
                return True
        return self._sentence.talking

    async def _record(self, seconds: float) -> list[Action]:
        """Let the caller leave a message; it is in the call's recording."""
        for utterance in self._saying:
            await utterance
        if not self._sentence.talking:
            beep = self.call.speak(tone(1000, 0.3, 8000), text="(tone)")
            self._saying.append(beep)
            await beep
        while not self._events.empty():  # a key or a word before the tone only cut the sentence short
            self._events.get_nowait()
        began = time.monotonic()
        while (left := began + seconds - time.monotonic()) > 0:
            event = await self._next(min(left, MESSAGE_PAUSE) if not self._sentence.talking else left)
            if isinstance(event, _Key) or (event is None and not self._sentence.talking):
                break
        self._sentence.forget()
        return self._talk.recorded(time.monotonic() - began)


def _read(settings: dict[str, Any]) -> tuple[Dialogue, float, Any]:
    silence = settings.get("silence", 6.0)
    if not isinstance(silence, int | float) or isinstance(silence, bool) or not 1 <= silence <= 60:
        raise SettingsError(f"silence: {silence!r} is no number of seconds from 1 to 60")
    vad = settings.get("vad", "silero")
    dialogue = settings.get("dialogue", "")
    if not isinstance(dialogue, str):
        raise SettingsError(f"dialogue: {dialogue!r} is no path of a dialogue file")
    if vad not in ("silero", "webrtc"):
        raise SettingsError(f"vad: {vad!r} is not one of silero, webrtc; the receptionist needs one")
    unknown = set(settings) - {"dialogue", "business", "silence", "vad"}
    if unknown:
        names = ", ".join(sorted(unknown))
        raise SettingsError(f"{names}: no such setting; there are dialogue, business, silence and vad")
    return script.load(dialogue, settings.get("business")), float(silence), vad
