"""The turn-taker: hears what happens on a call and decides who has the floor."""

from __future__ import annotations

from offhook.agents.turns.events import Decision
from offhook.agents.turns.settings import TurnSettings


class TurnTaker:
    """One call's turn-taker. No clock, no timer: `now` is monotonic seconds and never goes back.

    Every method gives what is decided by it, in order. When `deadline` is not None, call `tick` then.
    """

    def __init__(self, settings: TurnSettings, *, stt_ends_turns: bool = False, has_model: bool = False) -> None:
        self.settings = settings

    @property
    def deadline(self) -> float | None:
        """When `tick` must be called; None when nothing is waited for."""
        return None

    @property
    def text(self) -> str:
        """What has been heard of the turn so far."""
        return ""

    def speech_started(self, at: float, now: float) -> list[Decision]:
        """The detector hears the caller; `at` is his first voiced frame."""
        return []

    def speech_stopped(self, at: float, now: float) -> list[Decision]:
        """The detector has heard nothing for `vad_silence_ms`; `at` is the last voiced frame."""
        return []

    def partial(self, text: str, now: float) -> list[Decision]:
        """What the caller seems to have said since the last final."""
        return []

    def final(self, text: str, now: float, *, answers_finalize: bool = False) -> list[Decision]:
        """Text that will not change any more."""
        return []

    def service_heard_speech(self, now: float) -> list[Decision]:
        """The speech-to-text service noticed speech."""
        return []

    def service_ended_turn(self, text: str, now: float) -> list[Decision]:
        """The speech-to-text service takes the turn for finished; `text` is the whole of it, or empty."""
        return []

    def service_eager(self, text: str, now: float) -> list[Decision]:
        """The speech-to-text service takes the turn for probably finished."""
        return []

    def service_resumed(self, now: float) -> list[Decision]:
        """It was not."""
        return []

    def verdict(self, number: int, probability: float | None, now: float) -> list[Decision]:
        """The end-of-turn model's answer to AskModel: probability that the caller has finished; None: it failed."""
        return []

    def agent_speaking(
        self, speaking: bool, now: float, *, interruptible: bool = True, until: float | None = None
    ) -> list[Decision]:
        """The agent is heard from now on, or no longer.

        Args:
            speaking: True also when it goes on with another utterance.
            now: monotonic seconds.
            interruptible: whether the caller may stop it.
            until: when all that it has to say will have been said, if that is known.
        """
        return []

    def mute(self, muted: bool, now: float) -> list[Decision]:
        """What the caller says does not count from now on, or counts again."""
        return []

    def tick(self, now: float) -> list[Decision]:
        """Time has passed."""
        return []

    def reset(self, now: float) -> list[Decision]:
        """Forget what was heard; the next word begins anew."""
        return []
