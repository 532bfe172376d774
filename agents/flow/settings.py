"""What a flow is made of: steps that say something and then wait, branch, connect or hang up. All of it is data.

A step does its parts in this order: `set`, `say`, `play`, and then the one thing that leads on (`WAYS`). Everything
that can be found out before the first call is: steps that are missing, lead nowhere or in circles, keys given twice,
variables nobody sets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from string import Formatter
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from offhook.agents.api import SettingsError
from offhook.agents.speech.grammar import Grammar, GrammarError

MAX_STEPS: Final = 500
"""Steps of one flow; a larger one is better cut in two agents."""

WAYS: Final = ("menu", "gather", "queue", "record", "transfer", "if", "goto", "hangup")
"""What a step can end with, exactly one of them."""

KEYS: Final = frozenset("0123456789*#")

BUILT_IN: Final = ("caller", "called")
"""Variables that every flow has: both numbers of the call."""

SPOKEN: Final = "_spoken"
"""`{pin}` is said as a number, `{pin_spoken}` digit by digit."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _keys(value: Any) -> Any:
    for key in value if isinstance(value, dict) else ():
        if key not in KEYS:
            raise ValueError(f"{key!r} is no key of a telephone; write one of 0 to 9, * and #")
    return value


class _Asking(_Section):
    """What menus and numbers have in common: a caller may answer wrongly, or not at all."""

    timeout: float = Field(default=5.0, ge=0.5, le=120)
    "Seconds of silence after the last word, or the last key, before the caller is asked again."
    retries: int = Field(default=2, ge=0, le=10)
    "How often the caller is asked again."
    invalid: str = "Sorry, I did not get that."
    "Said when the answer was none, before the step's own words."
    otherwise: str = ""
    "The step for callers who did not answer; empty: hang up."


class Menu(_Asking):
    """The caller chooses, by a key or a word."""

    keys: dict[str, str] = {}
    "Key → step."
    words: dict[str, str] = {}
    "Phrase → step. A phrase is written as in a dialogue: `[the] sales [department]`, `(yes | sure)`."

    _read_keys = field_validator("keys", mode="before")(_keys)

    @model_validator(mode="after")
    def _offers_something(self) -> Menu:
        if not self.keys and not self.words:
            raise ValueError("a menu needs keys or words")
        return self


class Gather(_Asking):
    """The caller types a number."""

    into: str
    "Variable that takes the digits."
    digits: int = Field(ge=1, le=64)
    "The most digits there are; with the last one the number is complete."
    least: int = Field(default=1, ge=1)
    "The fewest."
    terminator: Literal["#", "*", ""] = "#"
    "Key that completes the number before that; empty: silence does."
    goto: str

    @model_validator(mode="after")
    def _order(self) -> Gather:
        if self.least > self.digits:
            raise ValueError(f"least is {self.least}, more than digits, {self.digits}")
        if not self.into.isidentifier() or self.into in BUILT_IN or self.into.endswith(SPOKEN):
            raise ValueError(f"into: {self.into!r} cannot be a variable; write a word of letters, digits and _")
        return self


class Queue(_Section):
    """The caller waits with music, and hears a message now and then; the first words are the step's own `say`."""

    message: str = ""
    music: str = "hold"
    "A WAV file, or a sound of offhook's own; empty: silence."
    volume: float = Field(default=1.0, ge=0, le=4)
    every: float = Field(default=30.0, ge=2, le=600)
    "Seconds of music before each message."
    seconds: float = Field(default=300.0, ge=2, le=7200)
    "How long the caller waits, without the messages."
    keys: dict[str, str] = {}
    "Key → step, for callers who do not want to wait."
    goto: str
    "The step after that."

    _read_keys = field_validator("keys", mode="before")(_keys)


class Record(_Section):
    """The caller leaves a message after the tone; it is in the call's recording, and a note says how long it is."""

    seconds: float = Field(default=60.0, ge=1, le=600)
    pause: float = Field(default=3.0, ge=1, le=30)
    "Seconds of silence that end it; any key does too."
    note: str = Field(default="message", min_length=1)
    "Name of the note in the call record; it carries every variable."
    goto: str = ""
    "The next step; empty: hang up."


class Transfer(_Section):
    """Connect the caller to somebody."""

    to: str = Field(min_length=1)
    "A number that the route allows; it may contain variables."
    otherwise: str = ""
    "The step when that does not work; empty: say so and hang up."


class Condition(_Section):
    """Branch on a variable."""

    value: str
    "What is looked at, such as `{customer}`."
    equals: list[str] = []
    matches: str = ""
    "A regular expression for the whole value."
    goto: str
    "The step when the value is one of `equals`, or matches."
    otherwise: str

    @field_validator("equals", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_test(self) -> Condition:
        if bool(self.equals) == bool(self.matches):
            raise ValueError("give equals or matches, one of the two")
        try:
            re.compile(self.matches)
        except re.error as error:
            raise ValueError(f"matches: {self.matches!r} is no regular expression: {error}") from error
        return self


class Step(_Section):
    """One step."""

    set: dict[str, str] = {}
    "Variable → text."
    say: str = ""
    play: str = ""
    "A WAV file, or a sound of offhook's own, once."
    interrupt: bool = True
    "Whether a key or a word cuts `say` and `play` short."
    menu: Menu | None = None
    gather: Gather | None = None
    queue: Queue | None = None
    record: Record | None = None
    transfer: Transfer | None = None
    condition: Condition | None = Field(default=None, alias="if")
    goto: str = ""
    hangup: str = ""
    "The reason in the call record."

    @field_validator("transfer", mode="before")
    @classmethod
    def _just_a_number(cls, value: Any) -> Any:
        if isinstance(value, int):
            raise ValueError(f"{value!r} is a number; put telephone numbers in quotes")
        return {"to": value} if isinstance(value, str) else value

    @field_validator("hangup", mode="before")
    @classmethod
    def _just_hang_up(cls, value: Any) -> Any:
        return "flow over" if value is True else value

    @model_validator(mode="after")
    def _one_way(self) -> Step:
        given = [way for way in WAYS if getattr(self, "condition" if way == "if" else way)]
        if not given:
            raise ValueError(f"the step leads nowhere; end it with one of {', '.join(WAYS)}")
        if len(given) > 1:
            raise ValueError(f"the step has {' and '.join(given)}; keep one, and move the others to steps of their own")
        return self

    def targets(self) -> Iterator[tuple[str, str]]:
        """Where the step can lead: (place in the settings, step)."""
        for name, asking in (("menu", self.menu), ("gather", self.gather)):
            if asking is not None and asking.otherwise:
                yield f"{name}.otherwise", asking.otherwise
        for name, choosing in (("menu", self.menu), ("queue", self.queue)):
            if choosing is not None:
                yield from ((f"{name}.keys.{key}", target) for key, target in choosing.keys.items())
        if self.menu is not None:
            yield from ((f"menu.words.{phrase}", target) for phrase, target in self.menu.words.items())
        if self.transfer is not None and self.transfer.otherwise:
            yield "transfer.otherwise", self.transfer.otherwise
        yield from self._onward()

    def _onward(self) -> Iterator[tuple[str, str]]:
        for name, going in (("gather", self.gather), ("queue", self.queue), ("record", self.record)):
            if going is not None and going.goto:
                yield f"{name}.goto", going.goto
        yield from self.at_once()

    def at_once(self) -> Iterator[tuple[str, str]]:
        """Those targets that follow without waiting for the caller or the carrier."""
        if self.goto:
            yield "goto", self.goto
        if self.condition is not None:
            yield "if.goto", self.condition.goto
            yield "if.otherwise", self.condition.otherwise

    def texts(self) -> Iterator[tuple[str, str]]:
        """Everything with variables in it: (place, text)."""
        yield "say", self.say
        yield from ((f"set.{name}", text) for name, text in self.set.items())
        for name, asking in (("menu", self.menu), ("gather", self.gather)):
            if asking is not None:
                yield f"{name}.invalid", asking.invalid
        if self.queue is not None:
            yield "queue.message", self.queue.message
        if self.transfer is not None:
            yield "transfer.to", self.transfer.to
        if self.condition is not None:
            yield "if.value", self.condition.value


class FlowSettings(_Section):
    """A whole flow."""

    start: str
    steps: dict[str, Step] = Field(min_length=1, max_length=MAX_STEPS)
    failed: str = "I am sorry, I could not connect you. Goodbye."
    "Said when a transfer without `otherwise` does not work."
    vad: Literal["silero", "webrtc"] = "silero"
    "What notices that the caller speaks, in flows with words or messages."

    _grammars: dict[str, Grammar] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _leads_somewhere(self) -> FlowSettings:
        for place, target in self._all_targets():
            if target not in self.steps:
                near = get_close_matches(target, self.steps, 1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(self.steps)}"
                raise ValueError(f"{place} leads to {target!r}, which is no step; {hint}")
        self._no_circles()
        return self

    def _all_targets(self) -> Iterator[tuple[str, str]]:
        yield "start", self.start
        for name, step in self.steps.items():
            yield from ((f"steps.{name}.{place}", target) for place, target in step.targets())

    def _no_circles(self) -> None:
        """Steps that lead back to themselves without ever waiting would talk for ever."""
        done: set[str] = set()

        def follow(name: str, path: tuple[str, ...]) -> None:
            if name in path:
                circle = " → ".join((*path[path.index(name) :], name))
                raise ValueError(f"{circle} goes round without waiting for the caller; put a menu or a hangup into it")
            if name in done:
                return
            for _, target in self.steps[name].at_once():
                follow(target, (*path, name))
            done.add(name)

        for name in self.steps:
            follow(name, ())

    @model_validator(mode="after")
    def _variables_exist(self) -> FlowSettings:
        known = set(BUILT_IN)
        for name, step in self.steps.items():
            for variable in step.set:
                if not variable.isidentifier() or variable in BUILT_IN or variable.endswith(SPOKEN):
                    raise ValueError(f"steps.{name}.set: {variable!r} cannot be a variable; use letters, digits and _")
            known |= {*step.set, *([step.gather.into] if step.gather is not None else [])}
        for place, text in self._texts():
            for variable in _variables(text, place):
                if variable.removesuffix(SPOKEN) not in known:
                    raise ValueError(
                        f"{place}: nothing sets the variable {variable!r}; there are {', '.join(sorted(known))}"
                    )
        return self

    def _texts(self) -> Iterator[tuple[str, str]]:
        yield "failed", self.failed
        for name, step in self.steps.items():
            yield from ((f"steps.{name}.{place}", text) for place, text in step.texts())

    @property
    def listens(self) -> bool:
        """Whether speech is looked for: there are words to understand, or messages to hear the end of."""
        return any(
            step.record is not None or (step.menu is not None and step.menu.words) for step in self.steps.values()
        )

    def unreachable(self) -> list[str]:
        """Steps that no way from the start leads to."""
        seen, todo = {self.start}, [self.start]
        while todo:
            for _, target in self.steps[todo.pop()].targets():
                if target not in seen:
                    seen.add(target)
                    todo.append(target)
        return [name for name in self.steps if name not in seen]

    def fixed_texts(self) -> list[str]:
        """What is said in the same words on every call, each once."""
        said = [
            (place, text)
            for place, text in self._texts()
            if place == "failed" or place.endswith((".say", ".invalid", ".queue.message"))
        ]
        return list(dict.fromkeys(text for place, text in said if text and not _variables(text, place)))

    def sounds(self) -> tuple[set[str], set[str]]:
        """The sounds that are played once, and those that are music."""
        once = {step.play for step in self.steps.values() if step.play}
        music = {step.queue.music for step in self.steps.values() if step.queue is not None and step.queue.music}
        return once, music

    def grammar(self, name: str) -> Grammar | None:
        """What may be said to a step; an answer is the step that follows. None where only keys count."""
        menu = self.steps[name].menu
        if menu is None or not menu.words:
            return None
        if name not in self._grammars:
            answers: dict[str, list[str]] = {}
            for phrase, target in menu.words.items():
                answers.setdefault(target, []).append(phrase)
            self._grammars[name] = Grammar(answers)
        return self._grammars[name]

    def grammars(self) -> list[Grammar]:
        """Those of all steps. Raises GrammarError."""
        return [grammar for name in self.steps if (grammar := self.grammar(name)) is not None]


def load(settings: Mapping[str, Any]) -> FlowSettings:
    """Read an agent's section of the configuration.

    Raises:
        SettingsError: it cannot work; the text names the place and the remedy.
    """
    return _load(json.dumps(settings, default=str))


@lru_cache(maxsize=64)
def _load(settings: str) -> FlowSettings:
    """Every call asks for its flow, and checking one takes longer than a frame of audio."""
    try:
        flow = FlowSettings.model_validate(json.loads(settings, object_pairs_hook=_once))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"{place}{place and ': '}{_remedy(first)}") from error
    for name in flow.steps:
        try:
            flow.grammar(name)
        except GrammarError as error:
            raise SettingsError(f"steps.{name}.menu.words: {error}") from error
    return flow


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping. YAML takes 1 and "1" for two keys; a telephone does not."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise SettingsError(f"the key {twice!r} is given twice, with quotes and without; remove one")
    return found


def _remedy(error: ErrorDetails) -> str:
    """What is wrong, and what to write instead."""
    kind = error["type"]
    if kind == "extra_forbidden":
        parts = (FlowSettings, Step, Menu, Gather, Queue, Record, Transfer, Condition)
        known = sorted({field.alias or name for part in parts for name, field in part.model_fields.items()})
        near = get_close_matches(str(error["loc"][-1]), known, 1)
        return f"no such key; did you mean {near[0]}?" if near else "no such key; remove it"
    if kind == "missing":
        return "is missing; write it"
    if kind == "string_type":
        return f"{error['input']!r} is no text; put it in quotes"
    return error["msg"].removeprefix("Value error, ")


# --- texts with variables ------------------------------------------------------------


def _variables(text: str, place: str) -> set[str]:
    """The variables in a text. Raises ValueError for what is no plain {name}."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{place}: {text!r}: {error}; write variables as {{name}}") from error
    for _, name, form, conversion in parts:
        if name is not None and (not name.isidentifier() or form or conversion):
            raise ValueError(f"{place}: {text!r}: {{{name}}} is no variable; write variables as {{name}}")
    return {name for _, name, _, _ in parts if name}


class _Said(dict[str, str]):
    """Variables as a text asks for them."""

    def __missing__(self, name: str) -> str:
        return " ".join(self.get(name.removesuffix(SPOKEN), "").removeprefix("+")) if name.endswith(SPOKEN) else ""


def fill(text: str, variables: Mapping[str, str]) -> str:
    """A text with its variables put in; those not set yet are left out."""
    return text.format_map(_Said(variables))
