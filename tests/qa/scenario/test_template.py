"""The scenario to begin with."""

from __future__ import annotations

import re

from offhook.qa.scenario.load import parse
from offhook.qa.scenario.template import first_scenario


def test_it_loads_and_says_how_it_is_run() -> None:
    text = first_scenario()
    loaded = parse(text)
    assert loaded.scenario.name == "first-call"
    assert loaded.scenario.target.to == "sip:bot@127.0.0.1:5060"
    assert [step.verb for step in loaded.scenario.steps] == [
        "expect", "expect", "wait", "say", "barge_in", "wait", "hang_up",
    ]  # fmt: skip
    assert "offhook qa run first-call.yaml --target sip:" in text


def test_names_and_targets_are_made_fit() -> None:
    target = 'twilio+http://h/a"b\\c?d=${e}'
    scenario = parse(first_scenario(' Größe "Ä" / 1', target, file="x y.yaml")).scenario
    assert scenario.name == "gr-e-1"
    assert scenario.target.to == target
    assert parse(first_scenario("…")).scenario.name == "first-call"


def test_what_is_commented_out_works_when_it_is_not() -> None:
    text = re.sub(r"^  #   (?=- |  expect)", "  ", first_scenario(), flags=re.MULTILINE)
    text = re.sub(r"^  # (?=speech:|  (?:must|never)_hear:)", "  ", text, flags=re.MULTILINE)
    scenario = parse(text).scenario
    verbs = [step.verb for step in scenario.steps]
    assert verbs[-6:] == ["wait", "dtmf", "silence", "backchannel", "say", "hang_up"]
    assert scenario.assert_.speech.must_hear[0].all == ["monday"]
