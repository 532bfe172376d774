"""The Agent API: write a class, point a route at it, and it answers the phone.

    from offhook.agents import Agent

    class Parrot(Agent):
        async def on_answer(self) -> None:
            await self.say("Hello. I repeat what you press.")
            while (digit := await self.next_digit(timeout=10)) is not None:
                await self.say(digit)
            await self.say("Goodbye.")

One instance serves one call. `on_answer` is the conversation: when it returns, the call ends after the last
word has been heard. An exception in any handler ends this call alone, with the apology and the fallback.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Mapping
from typing import Any, Literal

from offhook.agents.link import CallInfo, UtteranceEnded
from offhook.codecs.audio import L16_8K, AudioFormat


class Utterance:
    """One thing the agent says. `await utterance` waits until it is over and gives how."""

    def __init__(self, id: int, text: str) -> None:
        self.id = id
        self.text = text
        self.started_at = 0.0
        "Monotonic seconds when its first audio went to the carrier; 0 before."
        self._ended: asyncio.Future[UtteranceEnded] = asyncio.get_running_loop().create_future()

    @property
    def over(self) -> bool:
        """True once the gateway has reported how it ended."""
        return self._ended.done()

    def __await__(self) -> Generator[Any, None, UtteranceEnded]:
        return asyncio.shield(self._ended).__await__()

    def _end(self, ended: UtteranceEnded) -> None:
        if not self._ended.done():
            self._ended.set_result(ended)


class AgentCall(ABC):
    """The agent's hold on its call. Everything returns at once; audio is in the agent's own `format`."""

    info: CallInfo
    format: AudioFormat
    "What the carrier speaks; an agent whose own `format` is None gets just that."
    history: list[dict[str, Any]]
    "The conversation so far when this agent takes the call over from one that was lost; else empty."

    @abstractmethod
    def speak(self, audio: bytes = b"", *, text: str = "", last: bool = True) -> Utterance:
        """Open an utterance with its first audio. With `last=False` more follows by `add`, then `finish`."""

    @abstractmethod
    def add(self, utterance: Utterance, audio: bytes) -> None:
        """Append audio to the open utterance (the latest one opened with `last=False`)."""

    @abstractmethod
    def finish(self, utterance: Utterance) -> None:
        """No more audio for the utterance."""

    @abstractmethod
    def stream(self, audio: bytes) -> None:
        """Send live audio outside any utterance (echo, relay). What the caller cannot hear in time is dropped."""

    @abstractmethod
    def clear(self) -> None:
        """Stop speaking now. Every utterance not over yet ends as cut or dropped."""

    @abstractmethod
    def hang_up(self, reason: str = "", *, after_speech: bool = True) -> None:
        """End the call."""

    @abstractmethod
    def transfer(self, to: str, *, after_speech: bool = True) -> None:
        """Hand the caller to a number. The gateway checks it against the route's allow list."""

    @abstractmethod
    def send_dtmf(self, digits: str) -> None:
        """Play DTMF to the caller, where the carrier can."""

    @abstractmethod
    def transcript(self, role: Literal["caller", "agent"], text: str, utterance: Utterance | None = None) -> None:
        """Put what was said into the record. What the agent says gets there by itself, from `speak(text=…)`."""

    @abstractmethod
    def turn(self, utterance: Utterance, **marks: float) -> None:
        """Record where the time of a reply went; keywords are the fields of `link.Turn`."""

    @abstractmethod
    def note(self, name: str, **data: Any) -> None:
        """Put an event of the agent's own into the call record."""

    @abstractmethod
    def remember(self, start: int, messages: list[dict[str, Any]]) -> None:
        """Put the conversation from message `start` on into the journal, for an agent that must take the call over."""

    @abstractmethod
    def bed(self, audio: bytes = b"", gain: float = 1.0) -> None:
        """Loop this sound, in the carrier's `format`, under everything from now on; empty: silence again."""

    @abstractmethod
    def set_attributes(self, values: Mapping[str, str]) -> None:
        """What the carrier is to be told about the call, such as SIP headers; see a trunk's `attributes`.

        Set before the answer they go with the answer, later with the transfer or the hang-up.
        """

    @abstractmethod
    def service(self, role: Literal["stt", "llm", "tts"], name: str, ttfb: float, fault: str, detail: str) -> None:
        """Report what a service did: seconds to its first result, or the kind of its fault."""


class Agent:
    """Base of every agent. Override what you need; all handlers run on the agent host's event loop."""

    format: AudioFormat | None = L16_8K
    """What this agent hears and speaks; may be set in __init__. None: whatever the carrier speaks, untouched."""

    vad: Literal["silero", "webrtc", "none"] = "none"
    """Which voice activity detector calls `on_speech_started` and `on_speech_stopped`; may be set in __init__."""

    vad_silence_ms: float = 320
    """Silence after which `on_speech_stopped` comes; may be set in __init__. In the middle of sentences people pause
    for longer than that."""

    noise_filter: Callable[[bytes], bytes] | None = None
    """What the caller's audio passes through before the detector and `on_audio`: int16 at 8 kHz, as much out as in.
    May be set in __init__. The recording keeps the audio as it came."""

    def __init__(self, call: AgentCall, settings: dict[str, Any]) -> None:
        """Take the call and the agent's section of the configuration.

        Raise `SettingsError` for a setting that cannot work; `offhook check` constructs agents to find out.
        """
        self.call = call
        self.settings = settings
        self._digits: deque[str] = deque()
        self._digit_waiter: asyncio.Future[None] | None = None
        self._there = asyncio.Event()
        self._there.set()

    @classmethod
    def warm(cls, settings: dict[str, Any]) -> None:
        """Load models and caches, once a host, before its first call. May block."""

    @classmethod
    async def get_ready(cls, settings: dict[str, Any]) -> None:
        """Connect to what calls share, once a host, after `warm` and before its first call. Faults are only logged."""

    @classmethod
    async def shut_down(cls) -> None:
        """Let go of what calls shared, once a host, after its last call; a few seconds at most."""

    # --- handlers

    async def on_ring(self) -> None:
        """The phone rings; return when ready to answer, or raise Refused. The route's ring budget (3 s) caps it."""

    async def on_answer(self) -> None:
        """The conversation. When it returns the call ends after the last word. Default: listen until hang-up."""
        await asyncio.Event().wait()

    def on_audio(self, audio: bytes) -> None:
        """Caller audio in `format`, 20 ms as a rule. Must return within a millisecond or so."""

    def on_speech_started(self, at: float) -> None:
        """The caller began to speak; `at` is the arrival time of the first voiced frame."""

    def on_speech_stopped(self, at: float) -> None:
        """The caller fell silent; `at` is the arrival time of the last voiced frame."""

    def on_dtmf(self, digit: str) -> None:
        """The caller pressed a key. The default keeps it for `next_digit`."""
        self._digits.append(digit)
        if self._digit_waiter is not None and not self._digit_waiter.done():
            self._digit_waiter.set_result(None)

    def on_hold(self, held: bool) -> None:
        """The caller put the call on hold, or is back. What is said meanwhile waits. Default: see `back_from_hold`."""
        (self._there.clear if held else self._there.set)()

    def on_utterance_started(self, utterance: Utterance) -> None:
        """The first audio of an utterance went to the carrier, at `utterance.started_at`."""

    def on_utterance_ended(self, ended: UtteranceEnded) -> None:
        """An utterance is over: played, cut or dropped."""

    def on_order_refused(self, order: str, reason: str) -> None:
        """The gateway did not carry out a `transfer` or `send_dtmf`; the call goes on."""

    async def on_over(self, reason: str) -> None:
        """The call has ended; a few seconds to tidy up."""

    # --- conveniences

    async def back_from_hold(self) -> bool:
        """Wait until the caller is there; False when he was all the time. A silence on hold is none."""
        held = not self._there.is_set()
        await self._there.wait()
        return held

    async def next_digit(self, timeout: float | None = None) -> str | None:
        """The next key the caller presses (or pressed already); None after `timeout` seconds without one."""
        if not self._digits:
            self._digit_waiter = asyncio.get_running_loop().create_future()
            try:
                await asyncio.wait_for(self._digit_waiter, timeout)
            except TimeoutError:
                return None
            finally:
                self._digit_waiter = None
        return self._digits.popleft()

    async def say(self, text: str) -> UtteranceEnded:
        """Speak a sentence with the built-in synthesiser; returns when it is over, telling how."""
        from offhook.agents.speech.tts import synthesize

        audio = await synthesize(text, self.format or L16_8K)
        return await self.call.speak(audio, text=text)


class Refused(Exception):
    """Raise it in `on_ring` with the reason: this agent does not take the call, the route's fallback does.

    In `on_answer` as well, when the agent must give the call up and another of its kind would fare no better.
    """


class SettingsError(ValueError):
    """A setting of an agent cannot work; the text names the setting and the remedy."""


class SettingsWarning(UserWarning):
    """A setting works, but is hardly meant. Given with `warnings.warn` in `warm`; `offhook check` tells it."""
