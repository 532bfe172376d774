"""Small grammars: what a phrase accepts, what it means, and the word graph that the recogniser gets."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from offhook.agents.speech.grammar import MAX_STATES, Grammar, GrammarError, Graph, Meaning

RULES = {
    "day": {"monday": ["monday"], "friday": ["friday", "end of the week"]},
    "digit": {"0": ["zero", "oh"], "1": ["one"]},
}


def accepts(graph: Graph, sentence: str) -> bool:
    state = 0
    ways = {(start, word): end for start, end, word in graph.arcs}
    for word in sentence.split():
        if (state, word) not in ways:
            return False
        state = ways[state, word]
    return state in graph.finals


def sentences(graph: Graph, longest: int) -> Iterator[str]:
    """Every sentence of the graph with at most so many words."""
    todo: list[tuple[int, tuple[str, ...]]] = [(0, ())]
    while todo:
        state, words = todo.pop()
        if state in graph.finals:
            yield " ".join(words)
        if len(words) < longest:
            todo += [(end, (*words, word)) for start, end, word in graph.arcs if start == state]


@pytest.mark.parametrize(
    ("phrase", "yes", "no"),
    [
        ("opening hours", ["opening hours"], ["opening", "hours", "opening hours please", ""]),
        ("[an] appointment [please]", ["appointment", "an appointment", "an appointment please"], ["an", "please"]),
        ("(make | book) it", ["make it", "book it"], ["it", "make book it"]),
        ("make | book it", ["make", "book it"], ["make it"]),
        ("[very [very]] good", ["good", "very good", "very very good"], ["very very very good"]),
        ("very+ good", ["very good", "very very very good"], ["good"]),
        ("x [very]+", ["x", "x very", "x very very"], ["very"]),
        ("(a | b)+", ["a", "b a b"], ["c", ""]),
        ("on <day>", ["on monday", "on end of the week"], ["on", "on day"]),
        ("that's o'clock e.g. x-ray", ["that's o'clock e.g. x-ray"], ["thats oclock"]),
        ("YES", ["yes"], ["no"]),
        ("(|a) b", ["b", "a b"], ["a"]),
    ],
)
def test_what_a_phrase_accepts(phrase: str, yes: list[str], no: list[str]) -> None:
    grammar = Grammar({"answer": [phrase]}, RULES)
    for sentence in yes:
        assert grammar.parse(sentence) is not None, sentence
        assert accepts(grammar.graph, sentence), sentence
    for sentence in no:
        assert grammar.parse(sentence) is None, sentence
        assert not accepts(grammar.graph, sentence), sentence


def test_saying_a_value_sets_the_slot() -> None:
    grammar = Grammar({"book": ["an appointment [on <day>]"], "hours": ["opening hours"]}, RULES)
    assert grammar.parse("an appointment on end of the week") == Meaning("book", {"day": ("friday",)})
    assert grammar.parse("An Appointment") == Meaning("book", {})
    assert grammar.parse("opening hours") == Meaning("hours", {})


def test_slots_said_again_are_kept_in_order() -> None:
    meaning = Grammar({"number": ["<digit>+"]}, RULES).parse("one oh one zero")
    assert meaning == Meaning("number", {"digit": ("1", "0", "1", "0")})
    assert meaning is not None
    assert meaning.slot("digit") == "0"
    assert meaning.slot("day") is None


def test_a_long_number_is_parsed_at_once() -> None:
    grammar = Grammar({"number": ["<digit>+"]}, RULES)
    began = time.perf_counter()
    assert grammar.parse("one " * 60) is not None
    assert grammar.parse("one " * 60 + "two") is None
    assert time.perf_counter() - began < 0.5


def test_a_rule_may_use_those_before_it() -> None:
    rules = {"part": {"am": ["in the morning"]}, "time": {"nine": ["nine [<part>]"]}}
    meaning = Grammar({"at": ["at <time>"]}, rules).parse("at nine in the morning")
    assert meaning == Meaning("at", {"time": ("nine",), "part": ("am",)})
    with pytest.raises(GrammarError, match=r"'nine \[<part>\]': there is no rule <part>; rules known here: there are"):
        Grammar({"at": ["at <time>"]}, dict(reversed(rules.items())))


def test_the_first_answer_wins() -> None:
    grammar = Grammar({"one": ["yes"], "two": ["yes [please]"]})
    assert grammar.parse("yes") == Meaning("one")
    assert grammar.parse("yes please") == Meaning("two")


@pytest.mark.parametrize(
    ("phrase", "complaint"),
    [
        ("at 9", "phrase 'at 9': '9' is not understood there; write numbers as words"),
        ("R&D", "phrase 'R&D': '&' is not understood"),
        ("(a | b", "phrase '(a | b': a ')' is missing"),
        ("[a", "phrase '[a': a ']' is missing"),
        ("[a)", "phrase '[a)': a ']' is missing"),
        ("a ]", "phrase 'a ]': ']' closes nothing"),
        ("+ a", "phrase '+ a': '+' must follow"),
        ("on <month>", "phrase 'on <month>': there is no rule <month>; rules known here: <day>, <digit>"),
        ("", "a phrase is empty; write at least one word"),
        ("()", "a phrase is empty"),
        ("[please]", "a phrase can be left out entirely; write at least one word outside [ ]"),
        ("a | [b]", "a phrase can be left out entirely"),
        ("café", "phrase 'café': 'é' is not understood"),
    ],
)
def test_errors_name_the_phrase_and_the_remedy(phrase: str, complaint: str) -> None:
    with pytest.raises(GrammarError) as caught:
        Grammar({"answer": [phrase]}, RULES)
    assert complaint in str(caught.value)


def test_a_rule_needs_values() -> None:
    with pytest.raises(GrammarError, match="rule <day> has no values"):
        Grammar({"answer": ["yes"]}, {"day": {}})


def test_beginnings_are_shared() -> None:
    graph = Grammar({"a": ["call me back", "call me later"], "b": ["call him"]}).graph
    assert len([arc for arc in graph.arcs if arc[0] == 0]) == 1
    assert graph.words == {"call", "me", "back", "later", "him"}


def test_the_same_phrases_give_the_same_graph() -> None:
    answers = {"a": ["[x] (y | z)+ <day>"], "b": ["x y"]}
    assert Grammar(answers, RULES).graph == Grammar(answers, RULES).graph


def test_phrases_that_explode_are_refused_in_time() -> None:
    # After n more words the graph must remember each of the last n: 2 ** n states.
    phrase = "(a | b)+ a " + "(a | b) " * 14
    began = time.perf_counter()
    with pytest.raises(GrammarError, match="too many; use fewer"):
        Grammar({"answer": [phrase]})
    assert time.perf_counter() - began < 5
    with pytest.raises(GrammarError, match="too many; shorten them"):
        Grammar({"answer": ["a " * 20 * MAX_STATES]})


def groups(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(" ".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda items: f"({' | '.join(items)})"),
        inner.map(lambda item: f"[{item}]"),
        inner.map(lambda item: f"({item})+"),
    )


PHRASES = st.recursive(st.sampled_from(["a", "b", "c", "<r>"]), groups, max_leaves=5).map(lambda phrase: f"x {phrase}")
SENTENCES = st.lists(st.sampled_from(["a", "b", "c"]), max_size=4).map(lambda words: " ".join(["x", *words]))


@given(st.lists(PHRASES, min_size=1, max_size=2), st.lists(SENTENCES, min_size=10, max_size=20))
@example(["x [a]+"], ["x", "x a", "x a a"])
@example(["x ([a] [b])+"], ["x", "x b a", "x a b"])
def test_tree_and_graph_accept_the_same_sentences(phrases: list[str], said: list[str]) -> None:
    grammar = Grammar({str(i): [phrase] for i, phrase in enumerate(phrases)}, {"r": {"v": ["a b", "c"]}})
    for sentence in said:
        assert (grammar.parse(sentence) is not None) == accepts(grammar.graph, sentence), sentence
    for sentence in sentences(grammar.graph, 4):
        assert grammar.parse(sentence) is not None, sentence


@given(st.lists(PHRASES, min_size=1, max_size=3))
def test_the_graph_is_deterministic_and_every_state_is_reached(phrases: list[str]) -> None:
    graph = Grammar({"answer": phrases}, {"r": {"v": ["a b", "c"]}}).graph
    assert len({(start, word) for start, _, word in graph.arcs}) == len(graph.arcs)
    states = {0} | {end for _, end, _ in graph.arcs}
    assert states == set(range(len(states)))
    assert {start for start, _, _ in graph.arcs} | graph.finals == states
