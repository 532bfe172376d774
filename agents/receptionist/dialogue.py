"""The receptionist's dialogue: data that a business edits, and the machine that follows it.

Theory of operation
-------------------
A dialogue is a set of questions. One is open at a time; it is said, and what the caller says or presses is held
against its answers. An answer can say something, fill slots, leave a note in the record, and lead on: to another
question, to a department, to the end. A question whose `fills` are all known already is passed over, so a caller
who says "an appointment on Tuesday at three" is not asked when.

Nothing understood, or nothing said: the question is asked again, `again[0]` and then `again[1]`, the second one
naming the keys. After that the caller gets the `lost` question, in which a message can be left; there is no way
round and round. Pure: events in, actions out, no clocks, no audio.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator
from pydantic_core import ErrorDetails

from offhook.agents.api import SettingsError
from offhook.agents.speech.grammar import Grammar, GrammarError, Meaning

BUILT_IN: Final = Path(__file__).with_name("dialogue.yaml")

MAX_FILE: Final = 256 * 1024
"""Bytes of a dialogue file."""

MAX_STEPS: Final = 20
"""Questions that may follow each other without a word from the caller; more is a circle in the file."""

MAX_CORRECTIONS: Final = 3
"""Times that a caller may take back what was understood: one who is misheard so often is offered a message."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Department(_Section):
    """Whom a caller can ask for."""

    phrases: list[str] = []
    "What callers call it, besides its name."
    key: str = Field(default="", pattern=r"^[0-9]?$")
    transfer: str = ""
    "Number to connect the caller to; without one a message is taken."


class Business(_Section):
    """What the receptionist knows of the business."""

    name: str
    hours: str
    "Opening hours as they are said."
    departments: dict[str, Department] = {}


class Answer(_Section):
    """One thing a caller may say to a question, and what follows."""

    phrases: list[str] = []
    key: str = Field(default="", pattern=r"^[0-9*#]?$")
    set: dict[str, str] = {}
    "Slots to fill, besides those of the rules in the phrases."
    clear: list[str] = []
    "Slots to forget."
    say: str = ""
    note: str = ""
    "Name of a note for the record; it carries every slot."
    go: str = ""
    "The next question, or `transfer`, `end`; empty: this question again."


class Digits(_Section):
    """A question whose answer is a number, said or typed."""

    slot: str
    least: int = Field(default=1, ge=1)
    most: int = Field(default=15, ge=1)
    go: str
    "The next question when the number is complete."

    @model_validator(mode="after")
    def _order(self) -> Digits:
        if self.least > self.most:
            raise ValueError("least is more than most")
        return self


class Record(_Section):
    """A question whose answer is a message: it is in the call's recording, and in the record as a note."""

    seconds: int = Field(default=60, ge=5, le=300)
    note: str = "message"
    say: str = ""
    go: str


class Question(_Section):
    """One question."""

    ask: str
    again: list[str] = Field(default=[], max_length=2)
    fills: list[str] = []
    "Slots this question is for; when all are known, `filled` comes next instead."
    filled: str = ""
    answers: dict[str, Answer] = {}
    digits: Digits | None = None
    record: Record | None = None
    patience: float = Field(default=0.0, ge=0, le=60)
    "Seconds before a silent caller is taken for one; 0: the agent's `silence`."
    silent: str = ""
    "Where silence leads; empty: the question is asked again."

    @model_validator(mode="after")
    def _one_kind(self) -> Question:
        if bool(self.fills) != bool(self.filled):
            raise ValueError("fills and filled go together: give both or none")
        if self.record is None and self.digits is None and not self.answers:
            raise ValueError("a question needs answers, digits or record")
        return self


class Dialogue(_Section):
    """A whole dialogue file."""

    business: Business
    rules: dict[str, dict[str, list[str]]] = {}
    "Words that several phrases share: rule → value as it is said back → phrases."
    start: str
    lost: str
    "The question for callers who were not understood three times."
    goodbye: str
    "Said before hanging up."
    silent: str
    "Said when the caller has not answered at all, before goodbye."
    failed: str = "I am sorry, that did not work."
    "Said when a transfer does not go through."
    questions: dict[str, Question]

    _grammars: dict[str, Grammar | None] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Dialogue:
        for place, target in self._ways():
            if target not in self.questions and (target not in ("transfer", "end") or place in ("start", "lost")):
                names = ", ".join(self.questions)
                raise ValueError(f"{place} leads to {target!r}, which is no question; there are {names}")
        if not self.business.departments and any(target == "transfer" for _, target in self._ways()):
            raise ValueError("an answer leads to `transfer`, but business.departments is empty")
        for name, question in self.questions.items():
            self._keys_differ(name, question)
        return self

    def _keys_differ(self, name: str, question: Question) -> None:
        owners: dict[str, str] = {}
        keys = [(f"questions.{name}.answers.{answer}", found.key) for answer, found in question.answers.items()]
        if any(answer.go == "transfer" for answer in question.answers.values()):
            keys += [(f"business.departments.{d}", found.key) for d, found in self.business.departments.items()]
        for owner, key in keys:
            if key and owners.setdefault(key, owner) != owner:
                raise ValueError(f"{owner}: {owners[key]} has the key {key} too; give one of them another")

    @model_validator(mode="after")
    def _slots_exist(self) -> Dialogue:
        known = {*self.facts(), *self.rules, "department", "digit"}
        for question in self.questions.values():
            known |= {slot for answer in question.answers.values() for slot in answer.set}
            if question.digits is not None:
                known |= {question.digits.slot, question.digits.slot + "_spoken"}
        used = [(place, slot) for place, text in _templates(self) for slot in _names(text, place)]
        for name, question in self.questions.items():
            used += [(f"questions.{name}.fills", slot) for slot in question.fills]
            for answer, found in question.answers.items():
                used += [(f"questions.{name}.answers.{answer}.clear", slot) for slot in found.clear]
        for place, slot in used:
            if slot not in known:
                raise ValueError(f"{place}: there is no slot {slot!r}; there are {', '.join(sorted(known))}")
        return self

    def _ways(self) -> list[tuple[str, str]]:
        ways = [("start", self.start), ("lost", self.lost)]
        for name, question in self.questions.items():
            place = f"questions.{name}"
            ways += [(f"{place}.answers.{a}.go", answer.go) for a, answer in question.answers.items() if answer.go]
            ways += [(f"{place}.filled", question.filled)] if question.filled else []
            ways += [(f"{place}.silent", question.silent)] if question.silent else []
            ways += [(f"{place}.digits.go", question.digits.go)] if question.digits else []
            ways += [(f"{place}.record.go", question.record.go)] if question.record else []
        return ways

    def facts(self) -> dict[str, str]:
        """What sentences may say of the business."""
        return {"name": self.business.name, "hours": self.business.hours}

    def slots(self) -> set[str]:
        """The rules whose values are worth keeping: those that a question asks for or a sentence says back."""
        said = {name for place, text in _templates(self) for name in _names(text, place)}
        return {"department", *said, *(slot for question in self.questions.values() for slot in question.fills)}

    def fixed_texts(self) -> list[str]:
        """The sentences that are the same on every call, ready to be synthesised beforehand."""
        facts = self.facts()
        return [
            _fill(template, facts)
            for place, template in _templates(self)
            if template and _names(template, place) <= facts.keys()
        ]

    def grammar(self, name: str) -> Grammar | None:
        """What may be said to a question; None when it is answered by keys or a message only."""
        if name not in self._grammars:
            self._grammars[name] = self._grammar(self.questions[name])
        return self._grammars[name]

    def _grammar(self, question: Question) -> Grammar | None:
        rules: dict[str, Mapping[str, list[str]]] = dict(self.rules)
        rules["department"] = {
            name: [name, *department.phrases] for name, department in self.business.departments.items()
        } or {"nobody": ["nobody"]}
        rules["digit"] = DIGIT_WORDS
        phrases = {answer: found.phrases for answer, found in question.answers.items() if found.phrases}
        if question.digits is not None:
            phrases = {**phrases, "": ["<digit>+"]}
        return Grammar(phrases, rules) if phrases else None


DIGIT_WORDS: Final[dict[str, list[str]]] = {
    str(digit): [word]
    for digit, word in enumerate(("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"))
} | {"0": ["zero", "oh"]}


def load(path: str | Path = "", business: Mapping[str, Any] | None = None) -> Dialogue:
    """Read a dialogue file, the built-in one by default; `business` overrides what it says of the business.

    Raises:
        SettingsError: the file cannot be read or cannot work; the text names file, place and remedy.
    """
    if business is not None and not isinstance(business, Mapping):
        raise SettingsError(f"business: {business!r} must be a mapping with name, hours or departments")
    file = Path(path) if path else BUILT_IN
    try:
        stamp = file.stat().st_mtime_ns
    except OSError as error:
        raise SettingsError(f"dialogue: {file} cannot be read: {error.strerror}") from error
    return _load(file, stamp, json.dumps(business, sort_keys=True, default=str))


@lru_cache(maxsize=64)
def _load(file: Path, stamp: int, overriding: str) -> Dialogue:
    """Every call asks for its dialogue, and reading one takes longer than a frame of audio."""
    try:
        text = file.read_text(encoding="utf-8")
        if len(text) > MAX_FILE:
            raise SettingsError(f"dialogue: {file} has {len(text)} characters; the limit is {MAX_FILE}")
        tree = yaml.safe_load(text)
    except OSError as error:
        raise SettingsError(f"dialogue: {file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"dialogue: {file} is no YAML: {error}") from error
    if not isinstance(tree, dict):
        raise SettingsError(f"dialogue: {file} must be a mapping with business, start, questions and so on")
    if (business := json.loads(overriding)) is not None:
        own = tree.get("business")
        tree["business"] = {**(own if isinstance(own, dict) else {}), **business}
    try:
        dialogue = Dialogue.model_validate(tree)
        for name in dialogue.questions:
            dialogue.grammar(name)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"{part}." for part in first["loc"])[:-1]
        raise SettingsError(f"dialogue: {file}: {place}{place and ': '}{_remedy(first)}") from error
    except GrammarError as error:
        raise SettingsError(f"dialogue: {file}: {error}") from error
    return dialogue


def _remedy(error: ErrorDetails) -> str:
    """What is wrong, and what to write instead."""
    if error["type"] == "extra_forbidden":
        sections = (Dialogue, Business, Department, Question, Answer, Digits, Record)
        known = sorted({name for section in sections for name in section.model_fields})
        near = get_close_matches(str(error["loc"][-1]), known, 1)
        return f"no such key; did you mean {near[0]}?" if near else "no such key; remove it"
    if error["type"] == "missing":
        return "is missing; write it"
    if error["type"] == "string_type":
        return f"{error['input']!r} is no text; put it in quotes"
    if error["type"] == "string_pattern_mismatch":
        return f"{error['input']!r} is no key; write one of 0 to 9, in quotes"
    return error["msg"].removeprefix("Value error, ")


def _templates(dialogue: Dialogue) -> list[tuple[str, str]]:
    found = [("goodbye", dialogue.goodbye), ("silent", dialogue.silent), ("failed", dialogue.failed)]
    for name, question in dialogue.questions.items():
        found += [(f"questions.{name}.ask", question.ask)]
        found += [(f"questions.{name}.again", text) for text in question.again]
        found += [(f"questions.{name}.answers.{a}.say", answer.say) for a, answer in question.answers.items()]
        found += [(f"questions.{name}.record.say", question.record.say)] if question.record else []
    return found


def _names(template: str, place: str) -> set[str]:
    """The slots that a sentence says. Raises ValueError for what is no plain {name}."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{place}: {template!r}: {error}; write slots as {{name}}") from error
    for _, name, form, conversion in parts:
        if name is not None and (not name.isidentifier() or form or conversion):
            raise ValueError(f"{place}: {template!r}: {{{name}}} is no slot; write slots as {{name}}")
    return {name for _, name, _, _ in parts if name}


class _Blank(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return ""


def _fill(template: str, slots: Mapping[str, str]) -> str:
    return template.format_map(_Blank(slots))


# --- what the machine asks for -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Say:
    """Say this; the caller may interrupt."""

    text: str


@dataclass(frozen=True, slots=True)
class Listen:
    """Wait for the caller."""

    question: str
    grammar: Grammar | None
    digits: Digits | None = None
    record: Record | None = None
    patience: float = 0.0
    "Seconds to wait; 0: as usual."


@dataclass(frozen=True, slots=True)
class Note:
    """Put this into the record."""

    name: str
    slots: dict[str, str]


@dataclass(frozen=True, slots=True)
class Transfer:
    """Connect the caller, after the last word."""

    to: str
    department: str


@dataclass(frozen=True, slots=True)
class End:
    """Hang up, after the last word."""

    reason: str


Action = Say | Listen | Note | Transfer | End


@dataclass
class Conversation:
    """One caller's way through a dialogue. Every method gives what to do next."""

    dialogue: Dialogue
    slots: dict[str, str] = field(default_factory=dict)
    question: str = ""
    misses: int = 0
    "Times in a row that nothing was understood."
    corrections: int = 0
    "Times that slots were taken back before they were noted."
    silences: int = 0
    _typed: str = ""

    def __post_init__(self) -> None:
        self._facts = self.dialogue.facts()
        self._grammars = {name: self.dialogue.grammar(name) for name in self.dialogue.questions}
        self._kept = self.dialogue.slots()

    def begin(self) -> list[Action]:
        """The call is up."""
        return self._ask(self.dialogue.start)

    def understood(self, meaning: Meaning) -> list[Action]:
        """The caller said something that the open question's grammar has."""
        question = self.dialogue.questions[self.question]
        self.silences = 0
        if meaning.answer == "":  # the number of a Digits question
            return self._digits("".join(meaning.slots["digit"]))
        self.misses = 0
        self.slots |= {name: values[-1] for name, values in meaning.slots.items() if name in self._kept}
        return self._answer(question.answers[meaning.answer])

    def missed(self) -> list[Action]:
        """The caller said something that was not understood."""
        self.silences = 0
        return self._again()

    def silent(self) -> list[Action]:
        """The caller said nothing for a while."""
        if target := self.dialogue.questions[self.question].silent:
            return self._go(target)
        self.silences += 1
        if self.silences > 2:
            return [Say(self._text(self.dialogue.silent)), *self._end("caller silent")]
        return self._again()

    def key(self, digit: str) -> list[Action] | None:
        """The caller pressed a key; None: it is part of a number, and more may come."""
        question = self.dialogue.questions[self.question]
        if question.digits is not None and digit.isdigit():
            self._typed += digit
            return self._digits(self._typed) if len(self._typed) == question.digits.most else None
        if question.digits is not None and digit == "#":
            return self._digits(self._typed)
        self.silences = 0
        for answer in question.answers.values():
            if answer.key == digit:
                self.misses = 0
                return self._answer(answer)
        if any(answer.go == "transfer" for answer in question.answers.values()):
            for name, department in self.dialogue.business.departments.items():
                if department.key == digit:
                    self.misses = 0
                    self.slots["department"] = name
                    return self._go("transfer")
        return self._again()

    def typed(self) -> list[Action]:
        """No further key came."""
        return self._digits(self._typed)

    def recorded(self, seconds: float) -> list[Action]:
        """The message is over."""
        record = self.dialogue.questions[self.question].record
        assert record is not None
        actions: list[Action] = [Note(record.note, {**self.slots, "seconds": f"{seconds:.0f}"})]
        if record.say:
            actions.append(Say(self._text(record.say)))
        return actions + self._go(record.go)

    def transfer_failed(self) -> list[Action]:
        """The transfer did not go through."""
        return [Say(self._text(self.dialogue.failed)), *self._ask(self.dialogue.lost)]

    # --- steps

    def _text(self, template: str) -> str:
        return _fill(template, {**self._facts, **self.slots})

    def _answer(self, answer: Answer) -> list[Action]:
        self.slots |= answer.set
        taken_back = [slot for slot in answer.clear if self.slots.pop(slot, "")]
        if answer.note:
            self.corrections = -1  # forgetting what has been noted makes way for the next matter
        elif taken_back:
            self.corrections += 1
            if self.corrections >= MAX_CORRECTIONS:
                self.corrections = 0
                return self._ask(self.dialogue.lost)
        actions: list[Action] = [Note(answer.note, dict(self.slots))] if answer.note else []
        if answer.say:
            actions.append(Say(self._text(answer.say)))
        return actions + self._go(answer.go or self.question)

    def _go(self, target: str) -> list[Action]:
        if target == "end":
            return self._end("conversation over")
        if target == "transfer":
            name = self.slots.get("department", "")
            department = self.dialogue.business.departments.get(name)
            if department is None or not department.transfer:
                return self._ask(self.dialogue.lost)
            return [Say(f"I am connecting you to {name}."), Transfer(department.transfer, name)]
        return self._ask(target)

    def _ask(self, name: str) -> list[Action]:
        for _ in range(MAX_STEPS):
            question = self.dialogue.questions[name]
            if not question.fills or not all(self.slots.get(slot) for slot in question.fills):
                break
            name = question.filled
            if name in ("end", "transfer"):
                return self._go(name)
        self.question, self.misses, self._typed = name, 0, ""
        return [Say(self._text(question.ask)), self._listen()]

    def _listen(self) -> Listen:
        question = self.dialogue.questions[self.question]
        return Listen(self.question, self._grammars[self.question], question.digits, question.record, question.patience)

    def _again(self) -> list[Action]:
        question = self.dialogue.questions[self.question]
        self.misses += 1
        self._typed = ""
        if self.misses <= 2:
            words = question.again[self.misses - 1 : self.misses] or [question.ask]
            return [Say(self._text(words[0])), self._listen()]
        if self.question == self.dialogue.lost:
            return self._end("not understood")
        return self._ask(self.dialogue.lost)

    def _digits(self, digits: str) -> list[Action]:
        wanted = self.dialogue.questions[self.question].digits
        assert wanted is not None
        self._typed = ""
        if not wanted.least <= len(digits) <= wanted.most:
            return self._again()
        self.slots[wanted.slot] = digits
        self.slots[wanted.slot + "_spoken"] = " ".join(digits)
        self.misses = self.silences = 0
        return self._go(wanted.go)

    def _end(self, reason: str) -> list[Action]:
        return [Say(self._text(self.dialogue.goodbye)), End(reason)]


__all__ = ["Action", "Conversation", "Dialogue", "End", "Listen", "Note", "Say", "Transfer", "load"]
