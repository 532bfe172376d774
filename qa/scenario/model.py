"""A scenario, as its YAML file says it. `load` (in `load.py`) reads one; every field is explained here."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from offhook.qa.scenario.units import Decibel, Duration, LimitOf, Share

SCHEMA: Final = 1

DtmfWay = Literal["rfc4733", "inband", "info"]
"""telephone-events, tones in the audio, SIP INFO. On a carrier's stream, `rfc4733` is the carrier's own message."""

KEYS: Final = frozenset("0123456789*#ABCD")

MAX_TEXT: Final = 2000
"""Letters a caller says at a time: two minutes, and more than a synthesiser is asked in earnest."""


def _text(value: Any) -> Any:
    """A scalar keeps the letters it was written with: 0412 is four keys, no number."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_text)]


def _number(value: Any) -> Any:
    """An integer that was written as text: literals take no text."""
    return int(value) if isinstance(value, str) and value.isdigit() else value


_Number = BeforeValidator(_number)


class Part(BaseModel):
    """Base of everything in a scenario: unknown keys are errors, nothing changes after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, populate_by_name=True
    )


def _short(field: str) -> BeforeValidator:
    """Let a bare value stand for the mapping with that one field."""
    return BeforeValidator(lambda value: value if isinstance(value, dict | BaseModel) else {field: value})


# --- where and by what -----------------------------------------------------------------


class Target(Part):
    """Whom to call. `--target` and other options of the command line go before it."""

    to: Text = ""
    """`sip:user@host`, `sips:…`, `twilio+http://host/webhook`, `plivo+http://…`, `link+ws://host:port`."""
    from_: Text = Field("+15550100", alias="from")
    """Number the call comes from."""
    number: Text = "+15550199"
    """Number that was dialled, for carriers' webhooks; with SIP it is the user of `to`."""
    headers: dict[str, Text] = {}
    """SIP headers of the INVITE, or custom parameters of the carrier's stream where it has such."""
    public_url: str = ""
    """Origin that the bot believes to be reached at, over which webhooks are signed; by default that of `to`."""
    tamper: Literal["", "wrong_signature", "replayed_token"] = ""
    """Ring as an attacker would: a webhook signed with another key, or a second media socket with a used token."""


class Network(Part):
    """What the network does to the audio, both ways. The same seed does the same."""

    delay: Duration = 0.0
    """Added to every packet."""
    jitter: Duration = 0.0
    """Standard deviation of a normal distribution added to the delay; order is kept unless `reorder` says otherwise."""
    loss: Share = 0.0
    """Chance that a packet is lost."""
    burst: float = Field(1.0, ge=1.0, le=100.0)
    """Mean length of a run of losses, in packets (Gilbert model); 1: independent losses."""
    reorder: Share = 0.0
    """Chance that a packet is overtaken by the next one."""
    duplicate: Share = 0.0
    """Chance that a packet arrives twice."""
    rate: int = Field(0, ge=0)
    """Bits a second that get through; 0: no limit."""
    freeze: list[tuple[Duration, Duration]] = []
    """`[when, how long]` pairs in which nothing gets through; what was sent meanwhile comes at once afterwards."""
    reset: Duration | None = None
    """When TCP connections are reset; None: never."""
    seed: int = 1
    """Of everything random."""


class Media(Part):
    """Audio on the line."""

    codecs: list[Literal["PCMU", "PCMA", "G722", "opus"]] = ["PCMU", "PCMA"]
    """In order of preference; SIP only."""
    ptime: Annotated[Literal[10, 20, 30, 40, 60], _Number] = 20
    """Milliseconds a packet; SIP only."""
    dtmf: DtmfWay = "rfc4733"
    """How keys are pressed where a step does not say."""
    srtp: bool = False
    """Offer encrypted audio (SDES), and take nothing else."""
    network: Network | None = None


class VoiceOf(Part):
    """What the caller speaks with."""

    engine: Literal["", "flite", "espeak-ng"] = ""
    """Empty: the first that is installed."""
    name: str = ""
    """A voice of the engine; empty: its default."""


class Background(Part):
    """What is heard behind the caller all the time."""

    file: str = ""
    """A WAV file, looked for beside the scenario; it is repeated."""
    kind: Literal["", "white", "babble", "street"] = ""
    """Made by a seed, instead of a file."""
    snr: Decibel = 15.0
    """How far the caller's speech stands above it."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if bool(self.file) == bool(self.kind):
            raise PydanticCustomError("background", "name either a `file` or a `kind` of noise")
        return self


class Persona(Part):
    """A caller whom a language model plays, from the step `converse` on. What it says differs from run to run."""

    instructions: str
    """Who the caller is, what they want and when they are content."""
    llm: dict[str, Any]
    """The service, as in the configuration of the gateway: `{service: openai, model: …}`."""
    max_turns: int = Field(20, ge=1, le=200)
    """How often it speaks at most."""


class CallerSettings(Part):
    """The caller."""

    voice: VoiceOf = VoiceOf()
    gain: Decibel = -22.0
    """Level of the speech, dBov of its louder half."""
    noise: Background | None = None
    end_silence: Duration = 0.7
    """Silence after which the caller takes the agent's turn to be over."""
    patience: Duration = 15.0
    """How long a wait lasts at most where the step does not say."""
    persona: Persona | None = None


# --- steps -----------------------------------------------------------------------------


class Heard(Part):
    """What must be (or must not be) in the words that the agent said. Letter case and punctuation do not count."""

    any: list[Text] = []
    """One of these."""
    all: list[Text] = []
    """Every one of these."""
    regex: str = ""
    """Found somewhere in the words, which are lower case, numbers as the recogniser wrote them."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.any or self.all or self.regex):
            raise PydanticCustomError("heard", "say what must be heard: `any`, `all` or `regex`")
        return self


HeardOf = Annotated[Heard, BeforeValidator(lambda value: {"all": [value]} if isinstance(value, str) else value)]


def _unless_empty(value: Any) -> Any:
    """Nothing for an empty text, so that a variable can leave an expectation out."""
    return None if value == "" else value


class TransferTo(Part):
    """Where the agent must hand the caller to."""

    to: Text = ""
    """Regular expression for the number or URI; empty: anywhere."""
    headers: dict[str, Text] = {}
    """Headers that must go with it, each a regular expression; SIP only."""


class Expect(Part):
    """What must happen. Several fields must all hold. A field that fails is recorded and the call goes on."""

    answer: bool | None = None
    """The call is answered (true), or not (false)."""
    refused: list[int] | None = None
    """The call is refused with one of these statuses: HTTP of the webhook or of the media socket, or SIP."""
    agent_speaks: bool | None = None
    """The agent begins to speak (true), or says nothing during `within` (false)."""
    agent_stops_within: Duration | None = None
    """From the caller's first voiced sample on, in a step with `barge_in`."""
    agent_keeps_talking: Duration | None = None
    """For so long after the caller's sound began, pauses between sentences included."""
    heard: Annotated[HeardOf | None, BeforeValidator(_unless_empty)] = None
    """In the agent's next turn, or the one under way. Needs a recogniser. An empty text expects nothing."""
    not_heard: Annotated[HeardOf | None, BeforeValidator(_unless_empty)] = None
    """What must not be said there. An empty text expects nothing."""
    dtmf: Annotated[Text | None, BeforeValidator(_unless_empty)] = None
    """Keys that the agent presses, all of them, in order. An empty text expects nothing."""
    transfer: Annotated[TransferTo, _short("to")] | None = None
    hangup: Literal["by_agent", "by_caller", "by_anyone"] | None = None
    """The call ends, and by whom."""
    tail_intact: bool | None = None
    """The last word before the hang-up was not cut: the agent's audio ends in silence, not in speech."""
    within: Duration | None = None
    """From the end of the step before: of speech, from its last voiced sample. By default the caller's patience."""
    as_: str = Field("", alias="as")
    """Name for the measurement in reports and in `compare`."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set - {"within", "as_"}:
            raise PydanticCustomError("expect", "say what is expected: agent_speaks, heard, hangup, …")
        return self


class Speech(Part):
    """Something the caller says."""

    text: Text = ""
    """Words for the synthesiser."""
    wav: str = ""
    """A WAV file beside the scenario, instead of words."""
    sound: Literal["", "cough", "knock", "hum"] = ""
    """A sound that is no speech, made by the seed."""
    gain: Decibel | None = None
    """Level of this alone, instead of `caller.gain`."""
    after: Duration = 0.0
    """Of `barge_in` and `backchannel`: how long the agent has been speaking by then."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(map(bool, (self.text, self.wav, self.sound))) != 1:
            raise PydanticCustomError("speech", "give one of `text`, `wav` and `sound`")
        return self


class Dtmf(Part):
    """Keys that the caller presses."""

    digits: Text
    """0-9, *, # and A-D."""
    tone: Duration = 0.1
    """How long each sounds."""
    gap: Duration = 0.1
    """Silence between two."""
    by: DtmfWay | None = None
    """How, instead of `media.dtmf`."""

    @model_validator(mode="after")
    def _keys(self) -> Self:
        wrong = sorted(set(self.digits.upper()) - KEYS)
        if wrong or not self.digits:
            said = f"{wrong[0]!r} is no key" if wrong else "there is no key"
            raise PydanticCustomError("dtmf", "{said}; keys are 0-9, *, # and A-D, in quotes", {"said": said})
        return self


class Wait(Part):
    """What the caller waits for. When it does not come in time the step fails, and the caller hangs up."""

    for_: Literal["", "answer", "agent_speaks", "agent_done", "hangup"] = Field("", alias="for")
    """That the call is answered, the agent begins to speak, has finished its turn, or hangs up."""
    agent_speaking_for: Duration | None = None
    """The agent has been speaking for so long."""
    time: Duration | None = None
    """Just let so much time pass, saying nothing; what the agent does meanwhile is its own affair."""
    silence: Duration | None = None
    """Of `agent_done`: how long the agent must have been silent; by default `caller.end_silence`."""
    timeout: Duration | None = None
    """How long it may take, instead of `caller.patience`."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum((bool(self.for_), self.agent_speaking_for is not None, self.time is not None)) != 1:
            raise PydanticCustomError("wait", "wait for one of answer, agent_speaks, agent_done, hangup, or a time")
        return self


def _wait(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return {"time": value} if value[:1].isdigit() else {"for": value}


class Step(Part):
    """One thing the caller does; just one of the fields down to `expect` is its verb. `expect` may be added to any."""

    say: Annotated[Speech, _short("text")] | None = None
    """Speak. Waits for nothing first; returns when the last sample has left."""
    barge_in: Annotated[Speech, _short("text")] | None = None
    """Wait until the agent speaks (has spoken for `after`), then speak, and return when the last sample has left."""
    backchannel: Annotated[Speech, _short("text")] | None = None
    """As `barge_in`, but a sound of listening: the agent must not stop."""
    wait: Annotated[Wait, BeforeValidator(_wait)] | None = None
    """Wait for something, or some time: `wait: agent_done`, `wait: 2s`."""
    silence: Duration | None = None
    """Say nothing for so long (less when `expect` is fulfilled earlier), to see what the agent does."""
    dtmf: Annotated[Dtmf, _short("digits")] | None = None
    """Press keys: `dtmf: "12#"`. Returns when the last has been let go."""
    noise: Background | Literal["off"] | None = None
    """Change what is heard behind the caller from now on."""
    hold: Duration | None = None
    """Put the agent on hold for so long, then come back; SIP only."""
    codec: Literal["PCMU", "PCMA", "G722", "opus"] | None = None
    """Change the codec by a re-INVITE; SIP only."""
    converse: Duration | None = None
    """Let the persona talk for so long at most, or until it hangs up or is content."""
    hang_up: bool | None = None
    """`true`: end the call. After the last step the caller does so anyhow."""
    expect: Expect | None = None
    """What must come of it. Alone, it is a step in which the caller listens."""
    as_: str = Field("", alias="as")
    """Name of the step in reports."""

    @property
    def verb(self) -> str:
        """Which of the fields is what the caller does; `expect` when it only listens."""
        return next((verb for verb in VERBS if getattr(self, verb) is not None), "expect")

    @model_validator(mode="after")
    def _one(self) -> Self:
        verbs = [verb for verb in VERBS if getattr(self, verb) is not None]
        if len(verbs) > 1:
            raise PydanticCustomError(
                "step", "one step does one thing; this has {verbs}", {"verbs": " and ".join(verbs)}
            )
        if not verbs and self.expect is None:
            raise PydanticCustomError(
                "step", "say what the caller does: {verbs} or expect", {"verbs": ", ".join(VERBS)}
            )
        return self


VERBS: Final = (
    *("say", "barge_in", "backchannel", "wait", "silence", "dtmf"),
    *("noise", "hold", "codec", "converse", "hang_up"),
)


# --- what must come of it ----------------------------------------------------------------


class SpeechAssertions(Part):
    """About the agent's words in the whole call. Needs a recogniser."""

    must_hear: list[HeardOf] = []
    """Each of these somewhere in the call."""
    never_hear: list[HeardOf] = []
    """None of these anywhere."""


class Judge(Part):
    """A question to a language model about the transcript, answered yes or no."""

    ask: str
    """The question, such as `Did the agent remain polite?`"""
    llm: dict[str, Any]
    """The service, as in the configuration of the gateway."""
    votes: Annotated[Literal[1, 3, 5], _Number] = 3
    """The majority counts."""
    gate: bool = False
    """Whether a no fails the call. Never the only gate: there must be wire or speech assertions, too."""


class Assertions(Part):
    """About the whole call."""

    wire: dict[str, LimitOf | dict[str, LimitOf]] = {}
    """Metric → limit, which each of its values must keep, or → percentile (`p50`, `p90`, `p95`, `p99`, `max`) → limit,
    which is over all calls of the scenario. Names are those of `qa.measuring.metrics.METRICS`."""
    speech: SpeechAssertions = SpeechAssertions()
    judge: list[Judge] = []


class PassRule(Part):
    """When a scenario that is called several times has passed."""

    rate: Share = 1.0
    """Share of the calls that must pass."""
    k: int | None = Field(None, ge=1)
    """pass^k: report the chance that k calls in a row pass, and require it to reach `rate`."""


class Scenario(Part):
    """One scenario."""

    version: Annotated[Literal[1], _Number] = Field(1, alias="schema")
    """Of this format."""
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,79}$")
    """In reports and file names: small letters, digits, `.`, `_` and `-`."""
    description: str = ""
    """A sentence for people."""
    tags: list[str] = []
    """For `offhook qa run --tag`."""
    requires: list[Literal["sip", "carrier", "twilio", "plivo", "link", "stt"]] = []
    """Ways of calling (one of those named) and means that it needs; elsewhere it is skipped, and the reason is said."""
    vars: dict[str, Text] = {}
    """Defaults of what `${name}` stands for in this file; `--set name=value` goes before them."""
    target: Target = Field(default_factory=lambda: Target.model_validate({}))
    media: Media = Media()
    caller: CallerSettings = CallerSettings()
    stt: dict[str, Any] = {}
    """The recogniser of speech assertions: `{service: deepgram, …}` as in the configuration of the gateway; by default
    the offline one."""
    repeat: int = Field(1, ge=1, le=1000)
    """How often it is called."""
    timeout: Duration = 90.0
    """The whole call; the caller hangs up then, and the call has failed."""
    steps: list[Step] = Field(min_length=1)
    """What the caller does, in order."""
    assert_: Assertions = Field(Assertions(), alias="assert")
    pass_: PassRule = Field(default_factory=lambda: PassRule.model_validate({}), alias="pass")
