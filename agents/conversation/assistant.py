"""The assistant: hears, decides whose turn it is, thinks, calls functions, speaks.

    from offhook.agents import Assistant, tool

    class Pizzeria(Assistant):
        prompt = "You take orders for Mario's. Ask for the pizza, the size and the name."
        greeting = "Mario's, what can I get you?"

        @tool
        async def order(self, pizza: str, size: str, name: str) -> str:
            \"\"\"Send an order to the kitchen.\"\"\"
            return "ready in 20 minutes"

Every setting may be an attribute of the class or stand in the configuration, which wins.

Theory of operation
-------------------
Four parts, one call: `Ears` turn audio into decisions about whose turn it is, the `Mind` makes answers, the
`Speaker` says them, and this class does what the decisions ask of the two others. The agent holds the floor from the
moment it decides to answer until its last word was heard; what the caller says meanwhile is an interruption or none.

Everything runs on the event loop of the agent host; models that need time have threads of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, ClassVar, Final

from pydantic import BaseModel

from offhook.agents import sound
from offhook.agents.api import Agent, AgentCall, Refused, SettingsError, Utterance
from offhook.agents.conversation.context import Context
from offhook.agents.conversation.control import AssistantControl
from offhook.agents.conversation.ears import Ears
from offhook.agents.conversation.listeners import Inject, Listener, Score, Stop
from offhook.agents.conversation.mind import Mind
from offhook.agents.conversation.personas import Cast
from offhook.agents.conversation.settings import (
    AssistantSettings,
    ListenerSettings,
    PersonaSettings,
    read_settings,
)
from offhook.agents.conversation.speaker import Line, Speaker
from offhook.agents.functions import toolbox
from offhook.agents.functions.call_tools import call_tools
from offhook.agents.functions.http import SHARED
from offhook.agents.functions.toolbox import mcp_servers
from offhook.agents.link import UtteranceEnded
from offhook.agents.services.base import Service, ServiceError
from offhook.agents.services.resilience import ResilientModel, ResilientSpeechToText
from offhook.agents.services.shared import begin_warming, close_shared, services_of
from offhook.agents.turns.events import Decision, Discard, EndTurn, Hold, Interrupt, Prepare, Resume
from offhook.agents.turns.smart_turn import SmartTurn
from offhook.codecs.audio import L16_8K, PCMU
from offhook.codecs.convert import Converter
from offhook.codecs.noise import NoiseFilter, NoiseFilterError, filter_class
from offhook.codecs.tones import BeepDetector

GREETING_TIME: Final = 2.0
"""Seconds the greeting may take to be ready while the phone rings; then the phone is answered all the same."""

KEYS_PAUSE: Final = 2.0
"""Seconds after a key that end what the caller keyed in."""

RESUMED: Final = "The line broke for a moment, and the caller heard nothing since. Apologise briefly and go on."
"""Tells the model of an assistant that took a call over in the middle."""


class Assistant(Agent):
    """A conversation: any speech-to-text service, language model and voice. Settings: `AssistantSettings`."""

    format = None
    _own: ClassVar[tuple[str, ...]] = tuple(AssistantSettings.model_fields)

    def __init__(self, call: AgentCall, settings: dict[str, Any]) -> None:
        super().__init__(call, settings)
        self.options = options = read_settings({**self._attributes(), **settings})
        turns = options.turns
        if "language" not in turns.model_fields_set:
            turns = turns.model_copy(update={"language": options.language})
        self.vad = options.vad
        self.vad_silence_ms = turns.vad_silence_ms
        self._loop = asyncio.get_running_loop()
        self._filter: NoiseFilter | None = None
        if options.noise:
            name, rest = _noise_section(options.noise)
            self._filter = _noise_class(name)(rest)
            self.noise_filter = self._filter.process
        self.context = Context(call.history)
        self.speaker = Speaker(call, self.answer_changed, self._speech_failed, self.mind_failed)
        self.mind = Mind(call, options, self.context, self.speaker, self)
        self.control = AssistantControl(self)
        self._stt = ResilientSpeechToText(services_of("stt", options.stt), call.service)
        self.cast = Cast(self, self.control)
        model = _turn_model(turns.end, turns.model_path, self._stt.ends_turns)
        self.ears = Ears(turns, self._stt, model, self._decide, self.mind_failed)
        self._listeners = [
            Listener(
                listener, ResilientModel(services_of("llm", listener.llm or options.llm), call.service), call, self
            )
            for listener in options.listeners
        ]
        self._finished: asyncio.Future[None] = self._loop.create_future()
        self._greeting: list[Line] = []
        self._answered = False
        self._floor = (False, True)
        self._muted = False
        self._deaf: set[str] = set()
        self._talking = False
        self._last_voice = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_prompts = 0
        self._thinking_timer: asyncio.TimerHandle | None = None
        self._thinking = False
        self._limit_timer: asyncio.TimerHandle | None = None
        self._keys = ""
        self._keys_timer: asyncio.TimerHandle | None = None
        self._collecting = 0
        self._beep: asyncio.Future[None] | None = None
        self._beeps = BeepDetector()
        self._to_pcm: Converter | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._sounds: dict[str, bytes] = {}
        self._made_for = call.format
        "What the greeting and the sounds were made for."

    # --- settings

    @classmethod
    def _attributes(cls) -> dict[str, Any]:
        """Settings that a subclass has as attributes."""
        found: dict[str, Any] = {}
        for klass in reversed(cls.__mro__[: cls.__mro__.index(Assistant)]):
            found |= {name: value for name, value in vars(klass).items() if name in cls._own}
        return found

    @classmethod
    def warm(cls, settings: dict[str, Any]) -> None:
        options = read_settings({**cls._attributes(), **settings})
        _services(options)
        stt = services_of("stt", options.stt)[0]
        call_tools(options.call_tools, transfer_to=options.transfer_to)
        mcp_servers(options.mcp)
        if (model := _turn_model(options.turns.end, options.turns.model_path, stt.ends_turns)) is not None:
            model.load()
        if options.noise:
            name, rest = _noise_section(options.noise)
            _noise_class(name).warm(rest)
        sounds = options.sound
        for source in filter(None, (sounds.ambience, sounds.thinking, sounds.hold)):
            sound.load(source, PCMU)

    @classmethod
    async def get_ready(cls, settings: dict[str, Any]) -> None:
        options = read_settings({**cls._attributes(), **settings})
        await asyncio.wait([begin_warming(service) for service in _services(options)])

    @classmethod
    async def shut_down(cls) -> None:
        await close_shared()
        await toolbox.close_shared()
        await SHARED.close()
        SmartTurn.close_shared()
        _turn_model.cache_clear()

    # --- the call begins

    async def on_ring(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.cast.open())
                group.create_task(self._open_ears())
                group.create_task(self._load_sounds())
        except* ServiceError as errors:
            raise Refused("; ".join(_reasons(errors))) from errors
        if not self.call.history:
            self._greeting = self._staged_greeting()
        if self._greeting:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._greeting[0].complete.wait(), GREETING_TIME)
            if self._finished.done():
                raise Refused(f"the greeting cannot be spoken: {self._finished.exception()}")

    async def _open_ears(self) -> None:
        await self._stt.warm()
        await self.ears.open(self.call.format)

    async def _load_sounds(self) -> None:
        """Have the sounds at hand; a thread reads and converts those that are new to this host."""
        wanted = self.options.sound
        for source in filter(None, (wanted.ambience, wanted.thinking, wanted.hold)):
            try:
                self._sounds[source] = await asyncio.to_thread(sound.load, source, self.call.format)
            except SettingsError as error:  # its file was there when the host began: the call goes on without
                self.call.note("sound_missing", error=str(error))

    def _staged_greeting(self) -> list[Line]:
        return self.mind.say(self.options.greeting, interruptible=self.options.interruptible_greeting, staged=True)

    async def on_answer(self) -> None:
        format = self.call.format
        self.ears.listen(format)
        self._to_pcm = Converter(format, L16_8K)
        if format != self._made_for:  # the carrier negotiated another one than it had offered
            self.speaker.forget(self._greeting)
            await self._load_sounds()
        self._answered = True
        self.play_ambience()
        if self.options.max_minutes:
            self._limit_timer = self._loop.call_later(self.options.max_minutes * 60, self._time_is_up)
        if self.call.history:
            self.mind.begin("", nudge=RESUMED)
        else:
            if format != self._made_for:
                self._greeting = self._staged_greeting()
            self.mind.keep(self._greeting)
            self.speaker.release(self._greeting)
        self.answer_changed()
        self._rest_idle()
        await self._finished

    async def on_over(self, reason: str) -> None:
        for timer in (self._idle_timer, self._thinking_timer, self._limit_timer, self._keys_timer):
            if timer is not None:
                timer.cancel()
        if self._finished.done() and not self._finished.cancelled():
            self._finished.exception()  # the gateway knows of it, or the call was over before
        self._finished.cancel()
        for task in self._closing:
            task.cancel()
        # All at once: each may take seconds, and there are five for everything.
        results = await asyncio.gather(
            self.ears.close(),
            *(listener.close() for listener in self._listeners),
            self.speaker.close(),
            self.mind.close(),
            self.cast.close(),
            *self._closing,
            return_exceptions=True,
        )
        if self._filter is not None:
            self._filter.close()
        if faults := [result for result in results if isinstance(result, Exception)]:
            raise ExceptionGroup("the assistant did not close well", faults)

    # --- what happens on the line

    def on_audio(self, audio: bytes) -> None:
        self.ears.audio(audio)
        if self._beep is not None and self._to_pcm is not None:
            heard = self._beeps.push(self._to_pcm.convert(audio))
            if heard and not self._beep.done():
                self._beep.set_result(None)

    def on_speech_started(self, at: float) -> None:
        self._talking = True
        self._rest_idle()
        self.ears.told(self.ears.taker.speech_started(at, self._loop.time()))

    def on_speech_stopped(self, at: float) -> None:
        self._talking = False
        self._last_voice = self._loop.time()
        self.ears.told(self.ears.taker.speech_stopped(at, self._loop.time()))
        self._rest_idle()

    def on_utterance_ended(self, ended: UtteranceEnded) -> None:
        self.speaker.utterance_ended(ended)

    def on_utterance_started(self, utterance: Utterance) -> None:
        self._stop_thinking_sound()

    def on_order_refused(self, order: str, reason: str) -> None:
        self.control.refused(order, reason)

    def on_dtmf(self, digit: str) -> None:
        self._rest_idle()
        if self._collecting:
            super().on_dtmf(digit)
        elif self.options.keys == "turn":
            self._keys += digit
            if self._keys_timer is not None:
                self._keys_timer.cancel()
            self._keys_timer = self._loop.call_later(0 if digit == "#" else KEYS_PAUSE, self._keyed)

    def _keyed(self) -> None:
        keys, self._keys = self._keys, ""
        now = self._loop.time()
        if not self._deaf:
            with self.reported():
                self._take_turn(f"[keys pressed: {keys}]", {"caller_stopped": now, "turn_ended": now})

    # --- whose turn it is

    def _decide(self, decision: Decision) -> None:
        match decision:
            case Hold():
                self.speaker.hold()
            case Resume(heard):
                self.speaker.resume()
                self.call.note("false_interruption", heard=heard)
            case Interrupt():
                self._give_way()
            case Prepare(text):
                if not self.mind.busy and not self.speaker.busy:
                    self.mind.begin(text, staged=True)
            case Discard():
                self.mind.discard()
            case EndTurn():
                self._turn_ended(decision)
            case _:
                raise TypeError(f"{decision!r} concerns the ears alone")

    def _give_way(self) -> None:
        self.mind.stop()
        self.speaker.drop()

    def _turn_ended(self, turn: EndTurn) -> None:
        self.call.transcript("caller", turn.text)
        self.call.note("turn_ended", why=turn.why, text=turn.text)
        marks = {"caller_stopped": turn.stopped_at, "turn_ended": turn.decided_at, "understood": turn.understood_at}
        prepared = self.mind.prepared(turn.text)
        if prepared is not None:
            self._idle_prompts = 0
            self.mind.release(prepared, marks)
            self._tell_listeners()
        else:
            self._take_turn(turn.text, marks)

    def _take_turn(self, text: str, marks: dict[str, float]) -> None:
        self._idle_prompts = 0
        self._give_way()
        self.mind.begin(text, marks)
        self._tell_listeners()

    def _tell_listeners(self) -> None:
        for listener in self._listeners:
            listener.hear(self.context.messages())

    # --- what follows from a change (MindOwner)

    def answer_changed(self) -> None:
        if not self._answered or self._finished.done():
            return
        now = self._loop.time()
        floor = (self.speaker.busy or self.mind.busy, self.speaker.interruptible)
        had = self._floor
        if floor != had:
            self._floor = floor
            self.ears.told(self.ears.taker.agent_speaking(floor[0], now, interruptible=floor[1]))
        muted = self._is_muted()
        if muted != self._muted:
            self._muted = muted
            self.ears.told(self.ears.taker.mute(muted, now))
        self._watch_waiting()
        if (changes := self.context.changes()) is not None:
            self.call.remember(*changes)
        self._rest_idle()
        if had[0] and not floor[0]:
            self._tell_listeners()
            self.mind.told()

    @contextmanager
    def reported(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the root of what a timer or a task's end calls
            self.mind_failed(error)

    def mind_failed(self, error: BaseException) -> None:
        """The call cannot go on with this assistant: the gateway apologises and falls back."""
        if isinstance(error, ServiceError):  # an assistant that took the call over would have the same services
            error = Refused(str(error))
        if not self._finished.done():
            self._finished.set_exception(error)

    def _speech_failed(self, line: Line, error: ServiceError, running: int) -> None:
        """A sentence could not be spoken: ask the caller to say it again; the second time in a row give up.

        One that broke off goes on with the next, which is likely to be understood.
        """
        if running > 1 or not self._answered or not self.options.trouble:
            self.mind_failed(error)
        elif not line.audio:
            self.mind.say(self.options.trouble)

    def floor_is_free(self) -> bool:
        busy = self._talking or self._floor[0] or self._deaf or self._collecting
        return not busy and not self.ears.taker.text

    def _is_muted(self) -> bool:
        strategies = self.options.mute
        greeting = "greeting" in strategies and not all(line.over.done() for line in self._greeting)
        functions = "functions" in strategies and self.mind.functions_running > 0
        speaking = "speaking" in strategies and self.speaker.busy
        return bool(self._deaf) or greeting or functions or speaking

    # --- nobody says anything, or for too long

    def on_hold(self, held: bool) -> None:
        (self._deaf.add if held else self._deaf.discard)("hold")
        self._rest_idle()

    def _rest_idle(self) -> None:
        """Count the silence from now on, if it is one."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._answered and not self._floor[0] and not self._talking and not self._deaf and not self._collecting:
            self._idle_timer = self._loop.call_later(self.options.idle.after, self._idle)

    def _idle(self) -> None:
        with self.reported():
            if self.ears.taker.text:  # it is being decided whether he has finished
                self._rest_idle()
            else:
                self._ask_whether_he_is_there()

    def _ask_whether_he_is_there(self) -> None:
        idle = self.options.idle
        if self._idle_prompts < len(idle.prompts):
            self._idle_prompts += 1
            self.mind.say(idle.prompts[self._idle_prompts - 1])
        else:
            self._end(idle.goodbye, "the caller was silent")

    def _time_is_up(self) -> None:
        with self.reported():
            self._end(self.options.time_is_up, "max_minutes")

    def _end(self, goodbye: str, reason: str) -> None:
        """Say a last sentence and hang up."""
        if "ending" in self._deaf:
            return
        self._deaf.add("ending")
        self._give_way()
        if goodbye:
            self.mind.say(goodbye, interruptible=False)
        task = self._loop.create_task(self.control.hang_up(reason), name=f"ending-{self.call.info.id}")
        self._closing.add(task)
        task.add_done_callback(self._hung_up)

    def _hung_up(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.mind_failed(error)

    # --- sounds

    def play_bed(self, source: str, gain: float) -> None:
        """Loop one of the sounds of the settings under the call; empty, or missing: none."""
        self.call.bed(self._sounds.get(source, b""), gain)

    def play_ambience(self) -> None:
        """What is heard when nothing special is."""
        if self.options.sound.ambience or self._answered:
            self.play_bed(self.options.sound.ambience, self.options.sound.ambience_gain)

    def _watch_waiting(self) -> None:
        """Play the sound of thinking while the caller waits for an answer."""
        thinking = self.options.sound
        if not thinking.thinking:
            return
        waits = self.mind.busy and not self.speaker.busy and not self._deaf and not self._collecting
        if not waits:
            self._stop_thinking_sound()
        elif self._thinking_timer is None and not self._thinking:
            self._thinking_timer = self._loop.call_later(thinking.thinking_after, self._start_thinking_sound)

    def _start_thinking_sound(self) -> None:
        self._thinking_timer = None
        self._thinking = True
        self.play_bed(self.options.sound.thinking, 1.0)

    def _stop_thinking_sound(self) -> None:
        if self._thinking_timer is not None:
            self._thinking_timer.cancel()
            self._thinking_timer = None
        if self._thinking:
            self._thinking = False
            self.play_ambience()

    # --- for functions and listeners

    @contextmanager
    def deaf(self, why: str) -> Iterator[None]:
        """What the caller says does not count meanwhile."""
        self._deaf.add(why)
        self.answer_changed()
        try:
            yield
        finally:
            self._deaf.discard(why)
            self.answer_changed()

    @contextmanager
    def collecting_keys(self) -> Iterator[None]:
        """Keys go to whoever waits in `next_digit` meanwhile."""
        self._collecting += 1
        self._digits.clear()
        self.answer_changed()
        try:
            yield
        finally:
            self._collecting -= 1
            self.answer_changed()

    async def mailbox_is_ready(self, patience: float, silence: float) -> None:
        """Wait for the tone of a mailbox, or for its greeting to end in silence."""
        self._beeps = BeepDetector()
        self._beep = self._loop.create_future()
        until = self._loop.time() + patience
        try:
            while not self._beep.done() and self._loop.time() < until:
                quiet_since = self._last_voice or until - patience
                if not self._talking and self._loop.time() - quiet_since >= silence:
                    return
                await asyncio.wait([self._beep], timeout=0.1)
        finally:
            self._beep = None

    def heed(self, listener: str, wish: BaseModel) -> None:
        """Do what a listener wants."""
        if isinstance(wish, Stop):
            self._end(wish.say, f"{listener}: {wish.reason}")
        elif isinstance(wish, Inject):
            self.context.note(wish.text)
            if wish.now and self.floor_is_free():
                self.mind.begin("", nudge=wish.text)
        else:
            assert isinstance(wish, Score)  # it is in the record already


def _reasons(errors: BaseExceptionGroup[ServiceError]) -> Iterator[str]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _reasons(error)
        else:
            yield str(error)


def _services(options: AssistantSettings) -> list[Service]:
    """Every service that calls with these settings may use."""
    others: list[PersonaSettings | ListenerSettings] = [*options.agents.values(), *options.listeners]
    models = [options.llm, *(other.llm for other in others if other.llm)]
    voices = [options.tts, *(persona.tts for persona in options.agents.values() if persona.tts)]
    return [
        *services_of("stt", options.stt),
        *(service for section in models for service in services_of("llm", section)),
        *(service for section in voices for service in services_of("tts", section)),
    ]


@cache
def _turn_model(end: str, path: str, stt_ends_turns: bool) -> SmartTurn | None:
    """The end-of-turn model these settings want; looked for once, for the files of a host do not change."""
    if end == "model" or (end == "auto" and not stt_ends_turns and SmartTurn.installed(path)):
        return SmartTurn.shared(path)
    return None


def _noise_section(section: str | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and settings of a noise filter."""
    if isinstance(section, str):
        return section, {}
    return str(section.get("filter", "")), {name: value for name, value in section.items() if name != "filter"}


def _noise_class(name: str) -> type[NoiseFilter]:
    try:
        return filter_class(name)
    except NoiseFilterError as error:
        raise SettingsError(f"noise: {error}") from error
