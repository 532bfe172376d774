"""What no single field can know: faults between the parts of a scenario."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from offhook.agents.config_source import Path as At
from offhook.qa.measuring.metrics import METRICS
from offhook.qa.scenario.model import KEYS, MAX_TEXT, Background, Expect, Heard, Scenario, Speech, Step
from offhook.qa.scenario.units import Limit, in_unit

MAX_STEPS: Final = 1000
MAX_REGEX: Final = 500

PERCENTILES: Final = ("p50", "p90", "p95", "p99", "max")
"""What can be asked of a metric over all calls of a scenario."""

Fault = tuple[At, str]

_SCHEMES: Final = ("sip:", "sips:", "twilio+http", "plivo+http", "link+ws")


def faults_in(scenario: Scenario, folder: Path) -> Iterator[Fault]:
    """Every fault with its path and a message.

    Args:
        scenario: what each field for itself allows.
        folder: where the scenario lies, and the files that it names.
    """
    to = scenario.target.to
    if to and not to.startswith(_SCHEMES):
        yield (
            ("target", "to"),
            f"{to!r} has no known scheme; write one of sip:, sips:, twilio+http:, plivo+http:, link+ws:",
        )
    if scenario.caller.noise is not None:
        yield from _noise(scenario.caller.noise, ("caller", "noise"), folder)
    if len(scenario.steps) > MAX_STEPS:
        yield ("steps",), f"{len(scenario.steps)} steps; the limit is {MAX_STEPS}"
    gone = False
    for index, step in enumerate(scenario.steps):
        at = ("steps", index)
        yield from _step(step, at, folder)
        if step.converse is not None and scenario.caller.persona is None:
            yield (*at, "converse"), "there is nobody to talk; describe them under `caller.persona`"
        if gone and step.verb not in ("expect", "wait"):
            yield at, "comes after hang_up; nothing can be done in a call that is over"
        gone = gone or bool(step.hang_up)
    yield from _assertions(scenario)


def _step(step: Step, at: At, folder: Path) -> Iterator[Fault]:
    for verb in ("say", "barge_in", "backchannel"):
        speech: Speech | None = getattr(step, verb)
        if speech is None:
            continue
        if speech.after and verb == "say":
            yield (*at, verb, "after"), "is for barge_in and backchannel; put a `wait:` step before this one"
        if len(speech.text) > MAX_TEXT:
            yield (*at, verb), f"has {len(speech.text)} letters; the limit is {MAX_TEXT}: make several steps of it"
        if speech.wav:
            yield from _file(speech.wav, (*at, verb, "wav"), folder)
        if not speech.text.strip() and not (speech.wav or speech.sound):
            yield (*at, verb), "has no words"
    if isinstance(step.noise, Background):
        yield from _noise(step.noise, (*at, "noise"), folder)
    if step.hang_up is False:
        yield (*at, "hang_up"), "must be true; without the step the caller hangs up after the last one"
    if step.expect is not None:
        yield from _expect(step.expect, step.verb, (*at, "expect"))


def _expect(expect: Expect, verb: str, at: At) -> Iterator[Fault]:
    if expect.agent_stops_within is not None and verb != "barge_in":
        yield (*at, "agent_stops_within"), "counts from an interruption; it belongs to a step with `barge_in`"
    if expect.agent_keeps_talking is not None and verb not in ("backchannel", "barge_in", "say"):
        yield (*at, "agent_keeps_talking"), "counts from a sound of the caller; it belongs to a step with `backchannel`"
    if expect.answer is False and expect.agent_speaks:
        yield (*at, "agent_speaks"), "cannot be where the call is not answered"
    if expect.dtmf is not None and (wrong := sorted(set(expect.dtmf.upper()) - KEYS)):
        yield (*at, "dtmf"), f"{wrong[0]!r} is no key; keys are 0-9, *, # and A-D, in quotes"
    for name, heard in (("heard", expect.heard), ("not_heard", expect.not_heard)):
        if heard is not None:
            yield from _heard(heard, (*at, name))
    if expect.transfer is not None:
        yield from _regex(expect.transfer.to, (*at, "transfer", "to"))
        for header, pattern in expect.transfer.headers.items():
            yield from _regex(pattern, (*at, "transfer", "headers", header))


def _assertions(scenario: Scenario) -> Iterator[Fault]:
    for metric, limits in scenario.assert_.wire.items():
        yield from _limits(metric, limits, ("assert", "wire", metric))
    speech = scenario.assert_.speech
    for name in ("must_hear", "never_hear"):
        for index, heard in enumerate(getattr(speech, name)):
            yield from _heard(heard, ("assert", "speech", name, index))
    firm = bool(scenario.assert_.wire or speech.must_hear or speech.never_hear)
    firm = firm or any(step.expect is not None for step in scenario.steps)
    for index, judge in enumerate(scenario.assert_.judge):
        if judge.gate and not firm:
            message = "a judge is never the only gate; add `expect:` to a step, or limits under `assert.wire`"
            yield ("assert", "judge", index, "gate"), message


def _limits(name: str, limits: Limit | dict[str, Limit], at: At) -> Iterator[Fault]:
    metric = METRICS.get(name)
    if metric is None:
        close = get_close_matches(name, METRICS, 1)
        known = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(METRICS)}"
        yield at, f"there is no such metric; {known}"
        return
    for which, limit in {"": limits}.items() if isinstance(limits, Limit) else limits.items():
        inner = (*at, which) if which else at
        if which and which not in PERCENTILES:
            yield inner, f"is no percentile; take one of {', '.join(PERCENTILES)}"
        try:
            in_unit(limit, metric.unit)
        except ValueError:
            unit = f"has the unit {metric.unit}" if metric.unit else "is a bare number"
            yield inner, f"{name} {unit}; {limit} cannot be held against it"
    if isinstance(limits, dict) and not limits:
        yield at, f"has no limit; write {PERCENTILES[2]}: and a limit"


def _heard(heard: Heard, at: At) -> Iterator[Fault]:
    yield from _regex(heard.regex, (*at, "regex"))
    for name in ("any", "all"):
        for index, phrase in enumerate(getattr(heard, name)):
            if not any(letter.isalnum() for letter in phrase):
                yield (*at, name, index), "has no words"


def _regex(pattern: str, at: At) -> Iterator[Fault]:
    if len(pattern) > MAX_REGEX:
        yield at, f"has {len(pattern)} signs; the limit is {MAX_REGEX}"
        return
    try:
        re.compile(pattern)
    except re.error as error:
        yield at, f"is no regular expression: {error}"


def _noise(noise: Background, at: At, folder: Path) -> Iterator[Fault]:
    if noise.file:
        yield from _file(noise.file, (*at, "file"), folder)


def _file(name: str, at: At, folder: Path) -> Iterator[Fault]:
    if not (folder / name).is_file():
        yield at, f"there is no file {name} beside the scenario (in {folder.resolve()})"
