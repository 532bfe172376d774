"""The scenarios that come with offhook."""

from __future__ import annotations

import re

import pytest

from offhook.qa.scenario.load import load_suite, suite_paths

NAMES = (
    *("angry-double-talk", "back-channel", "codec-change", "dtmf-menu", "goodbye", "greeting", "hold", "interruption"),
    *("long-monologue", "noisy-caller", "replayed-token", "silence", "transfer", "wrong-signature"),
)


def test_all_are_there() -> None:
    assert tuple(suite_paths()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_loads_and_asserts_something(name: str) -> None:
    loaded = load_suite(name)
    scenario = loaded.scenario
    assert scenario.name == name
    assert scenario.description
    assert "suite" in scenario.tags
    assert not scenario.target.to
    assert any(step.expect is not None for step in scenario.steps)
    # No model is needed where nobody asks for words.
    assert not scenario.stt
    assert not any(step.expect is not None and step.expect.heard is not None for step in scenario.steps)


@pytest.mark.parametrize("name", NAMES)
def test_each_variable_is_explained_and_used(name: str) -> None:
    path = suite_paths()[name]
    head, body = path.read_text("utf-8").split("schema: 1\n", 1)
    explained = set(re.findall(r"--set (\w+)=", head))
    loaded = load_suite(name)
    assert explained == set(loaded.scenario.vars) == set(re.findall(r"\$\{(\w+)\}", body)) == set(loaded.variables)


def test_each_limit_can_be_set() -> None:
    loaded = load_suite("interruption", sets={"stop": "500ms", "reply": "800ms", "question": "Who are you?"})
    barge_in = next(step for step in loaded.scenario.steps if step.verb == "barge_in")
    assert barge_in.expect is not None
    assert (barge_in.expect.agent_stops_within, barge_in.expect.within) == (0.5, 0.8)
    ask = next(step for step in loaded.scenario.steps if step.verb == "say")
    assert ask.say is not None
    assert ask.say.text == "Who are you?"


def test_words_can_be_asked_for() -> None:
    loaded = load_suite("dtmf-menu", sets={"digits": "12#", "says": "sales"})
    step = next(step for step in loaded.scenario.steps if step.verb == "dtmf")
    assert step.dtmf is not None
    assert step.dtmf.digits == "12#"
    assert step.expect is not None
    assert step.expect.heard is not None
    assert step.expect.heard.all == ["sales"]
