"""A plan for load, as its YAML file says it: which scenarios, how many calls a second, when to stop, what is good."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from offhook.agents.config_source import Problem, Source
from offhook.qa.running.arrivals import MAX_CALLS, expected
from offhook.qa.scenario.load import Loaded, ScenarioError, expand, load, read_model
from offhook.qa.scenario.model import Part, Text, _Number
from offhook.qa.scenario.units import Duration, Limit, LimitOf, in_unit

FIGURES: Final = {
    "v2v_p50": "ms",
    "v2v_p95": "ms",
    "v2v_p99": "ms",
    "greeting_p50": "ms",
    "greeting_p95": "ms",
    "greeting_p99": "ms",
    "setup_p95": "ms",
    "packet_gap_p99": "ms",
    "failures": "%",
}
"""What is known of a window of time, and its unit."""

_RATE: Final = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)\s*/\s*(s|m|h)\Z")
_PER: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}


def rate(value: Any) -> float:
    """Calls a second of `20/s`, `90/m`, `1000/h`; numbers are kept.

    Raises:
        PydanticCustomError: it has no unit.
    """
    if isinstance(value, float):
        return value
    found = _RATE.match(str(value).strip())
    if not found:
        message = f"{value!s} is no rate; write a number of calls and its time, such as 2/s, 90/m or 1000/h"
        raise PydanticCustomError("quantity", "{message}", {"message": message})
    return float(found[1]) / _PER[found[2]]


Rate = Annotated[float, BeforeValidator(rate), WithJsonSchema({"type": "string", "examples": ["2/s", "90/m"]})]
"""Calls a second."""


def _figures(value: Any) -> Any:
    """Limits by name, in the unit of their figure."""
    if not isinstance(value, dict):
        return value
    wrong = sorted(set(value) - set(FIGURES))
    if wrong:
        message = f"{wrong[0]} is no figure of load; there are {', '.join(FIGURES)}"
        raise PydanticCustomError("figure", "{message}", {"message": message})
    return value


def _converted(limits: dict[str, Limit]) -> dict[str, Limit]:
    found = {}
    for name, limit in limits.items():
        unit = FIGURES[name]
        try:
            found[name] = in_unit(limit, unit)._replace(unit=unit)  # a bare number has no unit yet
        except ValueError as error:
            message = f"{name} is in {unit}, and {limit.unit} is something else; write {limit.op}{limit.value:g}{unit}"
            raise PydanticCustomError("figure", "{message}", {"message": message}) from error
    return found


class MixPart(Part):
    """A scenario, and how often it is called beside the others."""

    scenario: Text
    """A file beside this one, or a built-in suite such as `suite:greeting`."""
    weight: float = Field(1.0, gt=0, le=1e6)


class Arrivals(Part):
    """When calls begin: at a rate of their own, however many are still under way (open loop)."""

    start: Rate
    """At the beginning."""
    to: Rate | None = None
    """At the end of the ramp; by default as at the beginning."""
    over: Duration = 60.0
    """How long the ramp takes. It is straight."""
    spread: Literal["poisson", "even"] = "poisson"
    """As strangers call, or like clockwork."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.start and not self.to:
            raise PydanticCustomError("arrivals", "nobody ever calls: `start` and `to` are both 0")
        return self


class StopWhen(Part):
    """Stop when one of these is true for so long. The load has failed then."""

    for_: Duration = Field(30.0, alias="for")
    v2v_p50: LimitOf | None = None
    v2v_p95: LimitOf | None = None
    """Voice to voice: end of the caller's words to the agent's first; `">1500ms"`."""
    v2v_p99: LimitOf | None = None
    greeting_p50: LimitOf | None = None
    greeting_p95: LimitOf | None = None
    """From the answer to the agent's first sound."""
    greeting_p99: LimitOf | None = None
    setup_p95: LimitOf | None = None
    """From the INVITE or the webhook to the answer."""
    packet_gap_p99: LimitOf | None = None
    """Between two of the agent's RTP packets that follow each other; SIP only."""
    failures: LimitOf | None = None
    """Share of calls that failed; `">5%"`."""

    @property
    def limits(self) -> dict[str, Limit]:
        """Figure → what must not be true of it."""
        return _converted({name: limit for name in FIGURES if (limit := getattr(self, name)) is not None})

    @model_validator(mode="after")
    def _units(self) -> Self:
        _ = self.limits
        return self


class ReportOf(Part):
    """What is looked for."""

    knee: bool = True
    """The most calls at once at which the limits were kept."""
    per_core: bool = True
    """Calls a core of the target: needs `--target-pid` or `--target-cores`."""


def _default_limits() -> dict[str, Limit]:
    return {
        "v2v_p95": Limit("<=", 1500.0, "ms"),
        "packet_gap_p99": Limit("<=", 40.0, "ms"),
        "failures": Limit("<=", 1.0, "%"),
    }


class LoadPlan(Part):
    """A plan for load."""

    version: Annotated[Literal[1], _Number] = Field(1, alias="schema")
    name: str = Field("load", pattern=r"^[a-z0-9][a-z0-9._-]{0,79}$")
    description: str = ""
    vars: dict[str, Text] = Field(default_factory=dict)
    """Defaults of what `${name}` stands for in this file; `--set name=value` goes before them."""
    target: Text = ""
    """Whom to call, instead of the scenarios' own `target.to`. `--target` goes before it."""
    mix: list[MixPart] = Field(min_length=1, max_length=100)
    arrivals: Arrivals
    hold: Duration = 0.0
    """How long calls go on arriving at the last rate, once the ramp is over."""
    max_calls: int = Field(1000, ge=1, le=10_000)
    """At once. What would arrive above it is left out, and counted."""
    window: Duration = Field(10.0, ge=1.0, le=600.0)
    """Figures are of so much time each."""
    limits: Annotated[dict[str, LimitOf], BeforeValidator(_figures), AfterValidator(_converted)] = Field(
        default_factory=_default_limits
    )
    """What good service is, for the knee: figure → limit. By default `v2v_p95` up to 1500ms, `packet_gap_p99` up to
    40ms and `failures` up to 1%."""
    stop_when: StopWhen | None = None
    report: ReportOf = ReportOf()
    seed: int = 1
    """Of arrivals, of which scenario each call follows, and of the callers."""

    @model_validator(mode="after")
    def _sane(self) -> Self:
        last = self.arrivals.start if self.arrivals.to is None else self.arrivals.to
        if (count := expected(self.arrivals.start, last, self.arrivals.over, self.hold)) > MAX_CALLS:
            message = f"these are {count:.0f} calls, and {MAX_CALLS} is the most; lower the rate or the time"
            raise PydanticCustomError("arrivals", "{message}", {"message": message})
        if count < 1:
            raise PydanticCustomError("arrivals", "not one call would be made; raise the rate or the time")
        return self


@dataclass(frozen=True, slots=True)
class LoadedPlan:
    """A plan and the scenarios it names."""

    plan: LoadPlan
    path: Path
    scenarios: tuple[Loaded, ...]
    "One for each part of the mix, in its order."
    variables: frozenset[str] = frozenset()
    "Of the plan and its scenarios; a `--set` of another name is a mistake."


def load_plan(path: str | Path, *, sets: Mapping[str, str] | None = None) -> LoadedPlan:
    """Read and check a plan and every scenario of its mix; variables go to both.

    Raises:
        ScenarioError: with every fault that was found, in whichever file.
    """
    path = Path(path)
    plan, source, asked = read_model(path, LoadPlan, sets=sets)
    scenarios, problems = [], []
    for number, part in enumerate(plan.mix):
        try:
            scenarios.append(load(_file_of(part, path, source, number), sets=sets))
        except ScenarioError as error:
            problems += error.problems
    if problems:
        raise ScenarioError(problems)
    variables = asked.union(*(one.variables for one in scenarios))
    return LoadedPlan(plan, path, tuple(scenarios), variables)


def _file_of(part: MixPart, path: Path, source: Source, number: int) -> Path:
    if part.scenario.startswith("suite:"):
        found = expand([part.scenario])
        if len(found) == 1:
            return found[0]
        message = f"{part.scenario} is {len(found)} scenarios; name one in each part of the mix"
    else:
        beside = path.parent / part.scenario
        if beside.is_file():
            return beside
        message = f"there is no file {part.scenario} beside {path.name}; check its name"
    where = f"mix[{number}].scenario"
    raise ScenarioError([Problem(source.origin(("mix", number, "scenario")), where, message)])
