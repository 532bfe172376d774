"""Flows as they are written: what is refused, and with which words."""

from __future__ import annotations

from typing import Any

import pytest

from offhook.agents.api import SettingsError
from offhook.agents.flow.settings import MAX_STEPS, fill, load

BYE = {"say": "Goodbye.", "hangup": True}
MENU = {"say": "Press one.", "menu": {"keys": {"1": "bye"}}}


def flow(**steps: Any) -> dict[str, Any]:
    return {"start": next(iter(steps)), "steps": steps}


def refused(settings: dict[str, Any]) -> str:
    with pytest.raises(SettingsError) as error:
        load(settings)
    return str(error.value)


def test_a_small_flow_is_read_once() -> None:
    settings = flow(main=MENU, bye=BYE)
    found = load(settings)
    assert found is load(flow(main=MENU, bye=BYE))
    assert found.steps["bye"].hangup == "flow over"
    assert not found.listens
    assert found.unreachable() == []


def test_keys_need_no_quotes() -> None:
    found = load(flow(main={"menu": {"keys": {1: "bye", "*": "bye"}}}, bye=BYE))
    assert found.steps["main"].menu is not None
    assert found.steps["main"].menu.keys == {"1": "bye", "*": "bye"}


def test_a_key_twice_is_refused() -> None:
    settings = flow(main={"menu": {"keys": {1: "bye", "1": "main"}}}, bye=BYE)
    assert refused(settings) == "the key '1' is given twice, with quotes and without; remove one"


@pytest.mark.parametrize("key", ["10", "A", "", "one"])
def test_what_is_no_key_is_refused(key: str) -> None:
    said = refused(flow(main={"menu": {"keys": {key: "bye"}}}, bye=BYE))
    assert said.startswith(f"steps.main.menu.keys: {key!r} is no key of a telephone")


@pytest.mark.parametrize(
    ("place", "step"),
    [
        ("menu.keys.1", {"menu": {"keys": {"1": "by"}}}),
        ("menu.words.goodbye", {"menu": {"words": {"goodbye": "by"}}}),
        ("menu.otherwise", {"menu": {"keys": {"1": "bye"}, "otherwise": "by"}}),
        ("gather.goto", {"gather": {"into": "n", "digits": 4, "goto": "by"}}),
        ("gather.otherwise", {"gather": {"into": "n", "digits": 4, "goto": "bye", "otherwise": "by"}}),
        ("queue.goto", {"queue": {"goto": "by"}}),
        ("queue.keys.1", {"queue": {"goto": "bye", "keys": {"1": "by"}}}),
        ("record.goto", {"record": {"goto": "by"}}),
        ("transfer.otherwise", {"transfer": {"to": "+1555", "otherwise": "by"}}),
        ("if.goto", {"if": {"value": "{caller}", "equals": "x", "goto": "by", "otherwise": "bye"}}),
        ("if.otherwise", {"if": {"value": "{caller}", "equals": ["x"], "goto": "bye", "otherwise": "by"}}),
        ("goto", {"goto": "by"}),
    ],
)
def test_an_unknown_step_is_named_with_the_nearest(place: str, step: dict[str, Any]) -> None:
    said = refused(flow(main=step, bye=BYE))
    assert said == f"steps.main.{place} leads to 'by', which is no step; did you mean bye?".replace(
        "steps.main", said[:10]
    )


def test_an_unknown_start_is_told_what_there_is() -> None:
    assert refused({"start": "x", "steps": {"main": BYE}}).endswith(
        "start leads to 'x', which is no step; there are main"
    )


def test_a_dead_end_is_refused() -> None:
    assert refused(flow(main={"say": "Hello."})) == (
        "steps.main: the step leads nowhere; end it with one of menu, gather, queue, record, transfer, if, goto, hangup"
    )


def test_two_ways_at_once_are_refused() -> None:
    said = refused(flow(main={"goto": "bye", "hangup": True}, bye=BYE))
    assert said.startswith("steps.main: the step has goto and hangup; keep one")


def test_a_circle_without_a_wait_is_refused() -> None:
    branch = {"value": "{caller}", "matches": "x", "goto": "b", "otherwise": "c"}
    said = refused(flow(a={"say": "A.", "goto": "b"}, b={"if": branch}, c={"goto": "b"}))
    assert "b → b goes round without waiting" in said
    said = refused(flow(a={"say": "A.", "goto": "b"}, b={"goto": "a"}))
    assert "a → b → a goes round without waiting for the caller; put a menu or a hangup into it" in said
    load(flow(a={"menu": {"keys": {"1": "b"}}}, b={"goto": "a"}))


def test_steps_nobody_comes_to_are_known() -> None:
    assert load(flow(main=MENU, bye=BYE, lost={"goto": "island"}, island=BYE)).unreachable() == ["lost", "island"]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (
            {"say": "Hello {name}.", "hangup": True},
            "steps.main.say: nothing sets the variable 'name'; there are called, cal",
        ),
        ({"say": "Hello {", "hangup": True}, "write variables as {name}"),
        ({"say": "Hello {0}.", "hangup": True}, "{0} is no variable"),
        ({"say": "Hello {caller!r}.", "hangup": True}, "{caller} is no variable"),
        ({"transfer": "{x}"}, "steps.main.transfer.to: nothing sets the variable 'x'"),
        ({"set": {"caller": "x"}, "hangup": True}, "'caller' cannot be a variable"),
        ({"set": {"a-b": "x"}, "hangup": True}, "'a-b' cannot be a variable"),
        ({"gather": {"into": "a b", "digits": 2, "goto": "main"}}, "'a b' cannot be a variable"),
        ({"gather": {"into": "a_spoken", "digits": 2, "goto": "main"}}, "'a_spoken' cannot be a variable"),
    ],
)
def test_variables_are_set_somewhere_and_plain(step: dict[str, Any], said: str) -> None:
    assert said in refused(flow(main=step))


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"sya": "Hello.", "hangup": True}, "steps.main.sya: no such key; did you mean say?"),
        ({"say": "Hello.", "hangup": True, "qqqq": 1}, "steps.main.qqqq: no such key; remove it"),
        ({"transfer": 15550199}, "steps.main.transfer: 15550199 is a number; put telephone numbers in quotes"),
        ({"say": 5, "hangup": True}, "steps.main.say: 5 is no text; put it in quotes"),
        ({"menu": {}}, "steps.main.menu: a menu needs keys or words"),
        ({"gather": {"digits": 4, "goto": "main"}}, "steps.main.gather.into: is missing; write it"),
        ({"gather": {"into": "n", "digits": 4, "least": 5, "goto": "main"}}, "least is 5, more than digits, 4"),
        ({"if": {"value": "a", "goto": "main", "otherwise": "main"}}, "give equals or matches, one of the two"),
        ({"if": {"value": "a", "matches": "(", "goto": "main", "otherwise": "main"}}, "is no regular expression"),
        ({"menu": {"words": {"<day>": "main"}}}, "steps.main.menu.words: phrase '<day>': there is no rule <day>"),
        ({"menu": {"keys": {"1": "main"}, "timeout": 0}}, "steps.main.menu.timeout: Input should be greater"),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_remedy(step: dict[str, Any], said: str) -> None:
    assert said in refused(flow(main=step))


def test_a_flow_needs_steps_and_not_too_many() -> None:
    assert refused({"start": "a", "steps": {}}).startswith("steps: ")
    assert refused({"steps": {"a": BYE}}) == "start: is missing; write it"
    assert refused(flow(**{f"s{n}": BYE for n in range(MAX_STEPS + 1)})).startswith("steps: ")


def test_a_long_chain_is_no_circle() -> None:
    chain = {f"s{n}": {"goto": f"s{n + 1}"} for n in range(MAX_STEPS - 1)}
    assert load(flow(**chain, **{f"s{MAX_STEPS - 1}": BYE})).unreachable() == []


def test_what_is_said_on_every_call_is_known_beforehand() -> None:
    found = load(
        flow(
            main={"say": "Hi {caller_spoken}.", "menu": {"keys": {"1": "hold"}, "invalid": "What?"}},
            hold={"say": "Wait.", "queue": {"message": "Still busy.", "goto": "bye", "music": "tune.wav"}},
            bye={"set": {"x": "unsaid"}, "say": "Wait.", "play": "gong.wav", "hangup": True},
        )
    )
    assert found.fixed_texts() == [found.failed, "What?", "Wait.", "Still busy."]
    assert found.sounds() == ({"gong.wav"}, {"tune.wav"})


def test_a_grammar_answers_with_the_step() -> None:
    found = load(flow(main={"menu": {"words": {"sales": "bye", "[the] desk": "main", "buy": "bye"}}}, bye=BYE))
    grammar = found.grammar("main")
    assert grammar is found.grammar("main")
    assert grammar is not None
    for words, step in (("sales", "bye"), ("buy", "bye"), ("the desk", "main")):
        meaning = grammar.parse(words)
        assert meaning is not None
        assert meaning.answer == step
    assert found.grammar("bye") is None
    assert found.grammars() == [grammar]
    assert found.listens


def test_variables_are_put_in() -> None:
    variables = {"pin": "0420", "caller": "+1555"}
    assert (
        fill("{pin}, {pin_spoken}; {caller_spoken}; {unset}{unset_spoken}.", variables) == "0420, 0 4 2 0; 1 5 5 5; ."
    )
