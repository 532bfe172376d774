"""The schema for editors takes what the loader takes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from offhook.qa.scenario.load import suite_paths
from offhook.qa.scenario.schema import json_schema
from offhook.qa.scenario.template import first_scenario

jsonschema = pytest.importorskip("jsonschema")


def faults(scenario: Any) -> list[str]:
    validator = jsonschema.Draft202012Validator(json_schema())
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(scenario)]


def test_it_is_a_schema() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema
    assert schema["title"] == "offhook scenario"
    assert schema["$defs"]["Expect"]["properties"]["within"]["description"].startswith("From the end of the step")


def test_it_takes_what_comes_with_offhook() -> None:
    for path in suite_paths().values():
        assert faults(yaml.safe_load(path.read_text("utf-8"))) == [], path
    assert faults(yaml.safe_load(first_scenario())) == []


@pytest.mark.parametrize(
    "step",
    [
        {"say": 12},
        {"dtmf": 412},
        {"wait": "${for}"},
        {"noise": "off"},
        {"noise": {"kind": "white"}},
        {"expect": {"heard": "hello", "transfer": "+15550100", "answer": "${yes}"}},
    ],
)
def test_shorthands_and_variables(step: dict[str, Any]) -> None:
    assert faults({"name": "one", "steps": [step]}) == []


@pytest.mark.parametrize(
    "step", [{"barg_in": "x"}, {"say": None}, {"expect": {"hangup": "by_nobody"}}, {"silence": []}, "wait"]
)
def test_faults(step: Any) -> None:
    assert faults({"name": "one", "steps": [step]})


def test_defaults_are_as_one_writes_them() -> None:
    caller = json_schema()["$defs"]["CallerSettings"]["properties"]
    assert caller["gain"]["default"] == "-22dB"
    assert caller["end_silence"]["default"] == "0.7s"
