"""How turns are taken: what stands under `turns:` in an agent's settings."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from offhook.agents.api import SettingsError

End = Literal["silence", "transcript", "model", "service"]
"""What can end a turn."""


class TurnSettings(BaseModel):
    """When the caller has finished and when he interrupts. Times in seconds unless the name says otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    language: str = Field(
        default="en",
        pattern=r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*$",
        description="What the caller speaks, such as en, en-GB or de: picks the word lists for unfinished sentences "
        "and for back-channels. A language without lists goes by punctuation alone.",
    )

    end: Literal["auto", "silence", "transcript", "model", "service"] = Field(
        default="auto",
        description="What ends the caller's turn. silence: a fixed pause. transcript: a pause, short when the text "
        "looks finished, long when it does not. model: the end-of-turn model listens to each pause. service: the "
        "speech-to-text service decides. auto: service where it can, else model where one is installed, else "
        "transcript.",
    )
    silence: float = Field(
        default=0.8,
        ge=0.1,
        le=5,
        description="Silence that ends a turn when nothing else is known about it, or when its words are finished and "
        "its melody is not.",
    )
    short_silence: float = Field(
        default=0.33,
        ge=0.1,
        le=5,
        description="Silence that ends a turn whose text looks finished.",
    )
    long_silence: float = Field(
        default=1.5,
        ge=0.1,
        le=10,
        description="Silence that ends a turn whose text or melody is unfinished: the caller thinks.",
    )
    model_silence: float = Field(
        default=0.3,
        ge=0.1,
        le=5,
        description="Silence that ends a turn which the end-of-turn model takes for finished.",
    )
    model_threshold: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="Probability from which the end-of-turn model's answer counts as finished.",
    )
    model_path: str = Field(
        default="",
        description="File of the end-of-turn model (Smart Turn v3, ONNX). Empty: the one in the package pipecat-ai, "
        "which `pip install --no-deps pipecat-ai` brings.",
    )
    timeout: float = Field(
        default=2.0,
        ge=0.2,
        le=10,
        description="Silence after which a turn ends although the speech-to-text service has not ended it.",
    )
    transcript_timeout: float = Field(
        default=0.6,
        ge=0,
        le=5,
        description="Longest wait for the text of a pause, from when it was asked for; then what there is counts.",
    )
    max_turn: float = Field(
        default=60.0,
        ge=5,
        le=600,
        description="Longest turn; then the agent answers what was heard. Noise without a pause ends so, too.",
    )
    eager: bool = Field(
        default=False,
        description="Prepare the reply as soon as the caller pauses, and throw it away when he goes on. Saves some "
        "200 ms a turn for up to twice the language model's tokens.",
    )
    vad_silence_ms: float = Field(
        default=120,
        ge=60,
        le=500,
        description="Milliseconds of silence that make a pause, in which text is asked for; the rest is counted from "
        "there. Below 100 the gaps within words are pauses.",
    )

    interrupt: Literal["vad", "words", "transcript", "off"] = Field(
        default="vad",
        description="What makes the agent stop when the caller speaks over it. vad: his voice, and the agent goes on "
        "when it was a cough or an uh-huh. words: min_words words that are no back-channel. transcript: the first "
        "such word, or the speech-to-text service noticing speech. off: nothing; what he said is answered afterwards.",
    )
    min_words: int = Field(
        default=2,
        ge=1,
        le=20,
        description="Words that interrupt with `interrupt: words`, and words that do when the detector heard no voice.",
    )
    back_channels: tuple[str, ...] | None = Field(
        default=None,
        description="Words and phrases by which a caller only says that he listens, such as uh-huh. Left out: the list "
        "of the language. Empty: everything he says interrupts.",
    )
    back_channel_length: float = Field(
        default=0.9,
        ge=0.2,
        le=5,
        description="Longest back-channel. A voice over the agent that lasts longer interrupts before it is text where "
        "the speech-to-text service gives no partial text; where it does, a voice without new words is noise by then.",
    )
    false_interruption_after: float = Field(
        default=0.6,
        ge=0.1,
        le=5,
        description="Silence after a sound over the agent that brought no text, until the agent goes on.",
    )

    @model_validator(mode="after")
    def _silences_in_order(self) -> Self:
        if self.short_silence > self.long_silence:
            raise ValueError(
                f"short_silence {self.short_silence:g} is longer than long_silence {self.long_silence:g}: swap them"
            )
        return self

    def resolve_end(self, *, stt_ends_turns: bool, has_model: bool) -> End:
        """What ends turns on this call, with `auto` resolved.

        Raises:
            SettingsError: `end` asks for a service that ends turns, or for a model, and there is none.
        """
        if self.end == "auto":
            return "service" if stt_ends_turns else "model" if has_model else "transcript"
        if self.end == "service" and not stt_ends_turns:
            raise SettingsError("turns.end: service, but the speech-to-text service does not end turns; use auto")
        if self.end == "model" and not has_model:
            raise SettingsError("turns.end: model, but there is no end-of-turn model; use auto or transcript")
        return self.end

    def end_with(self, *, stt_ends_turns: bool, has_model: bool) -> End:
        """The same for a service that stands in for the one that `end` was chosen for: raises nothing."""
        if self.end == "service" and not stt_ends_turns:
            return "model" if has_model else "transcript"
        return self.resolve_end(stt_ends_turns=stt_ends_turns, has_model=has_model)
