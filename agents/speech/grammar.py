"""Small grammars: what a caller may say to one question, and what it means.

Phrases are written as in JSGF: `[please]` may be left out, `(make | book)` is a choice, `<day>` stands for a
rule, `+` after an item means once or more. A rule is a list of phrases for each value it can have, so that
saying one of them sets the slot of the rule's name:

    rules = {"day": {"monday": ["monday"], "friday": ["friday", "end of the week"]}}
    grammar = Grammar({"book": ["[book] an appointment [on <day>]"], "hours": ["opening hours"]}, rules)
    grammar.parse("an appointment on friday")   # Meaning(answer="book", slots={"day": ("friday",)})

The recogniser gets the same grammar as a deterministic word graph. It is built here and not left to
pocketsphinx's JSGF compiler, whose null transitions make a loop over the 39 phones (the garbage branch)
cost six times real time; as plain arcs it costs a twentieth.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

Rules = Mapping[str, Mapping[str, Sequence[str]]]
"""Rule name, to value, to the phrases that mean the value."""

MAX_STATES: Final = 2000
"""States of one word graph. The built-in questions have under 100; beyond this a phrase has exploded."""

_TOKEN: Final = re.compile(r"\s*(?:(<[a-z][a-z0-9_]*>)|([a-z][a-z'.\-]*)|([()\[\]|+]))", re.ASCII)


class GrammarError(ValueError):
    """A phrase or rule cannot work; the text names it and says what to write instead."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a sentence of the grammar means."""

    answer: str
    slots: dict[str, tuple[str, ...]] = field(default_factory=dict)
    "Values of the rules used, in the order they were said."

    def slot(self, name: str) -> str | None:
        """The last value said for a rule; None when it was not said."""
        values = self.slots.get(name)
        return values[-1] if values else None


@dataclass(frozen=True, slots=True)
class Graph:
    """A deterministic word graph: states are numbers from 0, the start, on."""

    arcs: tuple[tuple[int, int, str], ...]
    "From, to, word."
    finals: frozenset[int]

    @property
    def words(self) -> frozenset[str]:
        """Every word on an arc."""
        return frozenset(word for _, _, word in self.arcs)


# --- phrases as trees -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Word:
    text: str


@dataclass(frozen=True, slots=True)
class _Sequence:
    items: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    items: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Some:
    """Once or more."""

    item: _Node


@dataclass(frozen=True, slots=True)
class _Slot:
    """One value of a rule, or an answer at the top."""

    name: str
    value: str
    item: _Node


_Node = _Word | _Sequence | _Choice | _Some | _Slot
_NOTHING: Final = _Sequence(())


class _PhraseParser:
    """Recursive descent over one phrase."""

    def __init__(self, phrase: str, rules: Mapping[str, _Node]) -> None:
        self._phrase, self._rules, self._at = phrase, rules, 0
        self._tokens: list[str] = []
        position, text = 0, phrase.lower().rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                odd = text[position:].lstrip()[0]
                hint = "write numbers as words" if odd.isdigit() else "words, [ ], ( | ), <rule> and + are"
                raise GrammarError(f"phrase {phrase!r}: {odd!r} is not understood there; {hint}")
            self._tokens.append(match.group().strip())
            position = match.end()

    def parse(self) -> _Node:
        node = self._choice()
        if self._at < len(self._tokens):
            raise GrammarError(f"phrase {self._phrase!r}: {self._tokens[self._at]!r} closes nothing")
        if node == _NOTHING:
            raise GrammarError("a phrase is empty; write at least one word")
        return node

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _choice(self) -> _Node:
        items = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            items.append(self._sequence())
        return items[0] if len(items) == 1 else _Choice(tuple(items))

    def _sequence(self) -> _Node:
        items: list[_Node] = []
        while (token := self._peek()) and token not in ("|", ")", "]"):
            items.append(self._item(token))
        return items[0] if len(items) == 1 else _Sequence(tuple(items))

    def _item(self, sign: str) -> _Node:
        self._at += 1
        node: _Node
        if sign in ("(", "["):
            node = self._choice()
            closing = {"(": ")", "[": "]"}[sign]
            if self._peek() != closing:
                raise GrammarError(f"phrase {self._phrase!r}: a {closing!r} is missing")
            self._at += 1
            if sign == "[":
                node = _Choice((node, _NOTHING))
        elif sign == "+":
            raise GrammarError(f"phrase {self._phrase!r}: '+' must follow a word, a rule or a group")
        elif sign.startswith("<"):
            if sign[1:-1] not in self._rules:
                known = ", ".join(f"<{name}>" for name in sorted(self._rules)) or "there are none yet"
                raise GrammarError(f"phrase {self._phrase!r}: there is no rule {sign}; rules known here: {known}")
            node = self._rules[sign[1:-1]]
        else:
            node = _Word(sign)
        if self._peek() == "+":
            self._at += 1
            node = _Some(node)
        return node


# --- the grammar -------------------------------------------------------------------------


class Grammar:
    """What may be said to one question.

    Args:
        answers: the phrases of each answer. Where a sentence fits several answers, the first one wins.
        rules: the rules the phrases may use. A rule may use those before it.

    Raises:
        GrammarError: a phrase does not parse, names an unknown rule, or can be left out entirely.
    """

    def __init__(self, answers: Mapping[str, Sequence[str]], rules: Rules | None = None) -> None:
        known: dict[str, _Node] = {}
        for name, values in (rules or {}).items():
            slots = [_Slot(name, value, _any_of(phrases, known)) for value, phrases in values.items()]
            if not slots:
                raise GrammarError(f"rule <{name}> has no values")
            known[name] = _Choice(tuple(slots))
        self._tops = [_Slot("", answer, _any_of(phrases, known)) for answer, phrases in answers.items() if phrases]
        self.graph = _graph(_Choice(tuple(self._tops)))
        if 0 in self.graph.finals:
            raise GrammarError("a phrase can be left out entirely; write at least one word outside [ ]")

    def parse(self, text: str) -> Meaning | None:
        """What a whole sentence means; None when the grammar does not have it."""
        words = text.lower().split()
        for top in self._tops:
            for end, slots in _matches(top.item, words, 0):
                if end == len(words):
                    values: dict[str, tuple[str, ...]] = {}
                    for name, value in slots:
                        values[name] = (*values.get(name, ()), value)
                    return Meaning(top.value, values)
        return None


def _any_of(phrases: Sequence[str], rules: Mapping[str, _Node]) -> _Node:
    return _Choice(tuple(_PhraseParser(phrase, rules).parse() for phrase in phrases))


def _matches(node: _Node, words: Sequence[str], at: int) -> Iterator[tuple[int, tuple[tuple[str, str], ...]]]:
    """Every way the node can cover words from `at` on: where it ends, and the slots it sets."""
    if isinstance(node, _Word):
        if at < len(words) and words[at] == node.text:
            yield at + 1, ()
    elif isinstance(node, _Slot):
        for end, slots in _matches(node.item, words, at):
            yield end, ((node.name, node.value), *slots)
    elif isinstance(node, _Choice):
        for item in node.items:
            yield from _matches(item, words, at)
    elif isinstance(node, _Some):
        for end, slots in _matches(node.item, words, at):
            yield end, slots
            if end > at:
                for further, more in _matches(node, words, end):
                    yield further, slots + more
    elif not node.items:
        yield at, ()
    else:
        rest = _Sequence(node.items[1:])
        for end, slots in _matches(node.items[0], words, at):
            for further, more in _matches(rest, words, end):
                yield further, slots + more


class _Nfa:
    """Thompson's construction: arcs with a word, or with None for nothing."""

    def __init__(self) -> None:
        self.arcs: list[list[tuple[str | None, int]]] = []

    def state(self) -> int:
        if len(self.arcs) >= 20 * MAX_STATES:
            raise GrammarError("the phrases of one question are too many; shorten them or use fewer [ ] and <rule>")
        self.arcs.append([])
        return len(self.arcs) - 1

    def add(self, node: _Node, start: int) -> int:
        """Append the node after `start`; returns the state it ends in."""
        if isinstance(node, _Word):
            end = self.state()
            self.arcs[start].append((node.text, end))
            return end
        if isinstance(node, _Slot):
            return self.add(node.item, start)
        if isinstance(node, _Choice):
            end = self.state()
            for item in node.items:
                self.arcs[self.add(item, start)].append((None, end))
            return end
        if isinstance(node, _Some):
            begin = self.state()
            self.arcs[start].append((None, begin))
            end = self.add(node.item, begin)
            self.arcs[end].append((None, begin))
            return end
        for item in node.items:
            start = self.add(item, start)
        return start

    def closure(self, states: frozenset[int]) -> frozenset[int]:
        """The states with all that are reached from them by nothing."""
        seen, todo = set(states), list(states)
        while todo:
            for word, target in self.arcs[todo.pop()]:
                if word is None and target not in seen:
                    seen.add(target)
                    todo.append(target)
        return frozenset(seen)


def _graph(node: _Node) -> Graph:
    """Determinise by subset construction: callers' phrases share beginnings, and every state costs decoding time."""
    nfa = _Nfa()
    start = nfa.state()
    final = nfa.add(node, start)
    first = nfa.closure(frozenset((start,)))
    numbers, todo, arcs = {first: 0}, deque((first,)), []
    while todo:
        here = todo.popleft()
        reached: dict[str, set[int]] = {}
        for state in here:
            for word, target in nfa.arcs[state]:
                if word is not None:
                    reached.setdefault(word, set()).add(target)
        for word, targets in sorted(reached.items()):
            there = nfa.closure(frozenset(targets))
            if there not in numbers:
                if len(numbers) >= MAX_STATES:
                    raise GrammarError("the phrases of one question are too many; use fewer [ ] and <rule>")
                numbers[there] = len(numbers)
                todo.append(there)
            arcs.append((numbers[here], numbers[there], word))
    return Graph(tuple(arcs), frozenset(number for subset, number in numbers.items() if final in subset))
