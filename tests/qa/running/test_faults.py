"""The dialer's self-test: a bot with one fault after another, each of which must be caught by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from offhook.qa.reference.process import Reference, reference
from offhook.qa.running.result import ScenarioReport, Verdict
from offhook.qa.running.run import Run, RunOptions
from offhook.qa.scenario.load import load

Steps = list[dict[str, Any]]

ANSWERED: Final[Steps] = [{"expect": {"answer": True, "within": "3s"}}]
GREETED: Final[Steps] = [*ANSWERED, {"wait": "agent_done"}]
QUESTION: Final = "Tell me about the opening hours."

ASKED: Final[Steps] = [*GREETED, {"say": QUESTION, "expect": {"agent_speaks": True, "within": "1500ms"}}]
INTERRUPTED: Final[Steps] = [
    *GREETED,
    {"say": QUESTION},
    {
        "barge_in": {"text": "Stop, that is enough, thank you.", "after": "600ms"},
        "expect": {"agent_stops_within": "500ms"},
    },
]
HEARD_OUT: Final[Steps] = [*ASKED, {"wait": "agent_done"}]

FAULTS: Final[dict[str, tuple[str, Steps, dict[str, Any]]]] = {
    # fault: (kind of finding, or the metric that tells it; steps; wire assertions)
    "ignore-barge-in": ("ignored-barge-in", INTERRUPTED, {}),
    "slow-stop": ("ignored-barge-in", INTERRUPTED, {}),
    "cut-tail": ("cut-tail", [*GREETED, {"dtmf": "9", "expect": {"hangup": "by_agent", "tail_intact": True}}], {}),
    "no-hangup": ("hangup", [*GREETED, {"dtmf": "9", "expect": {"hangup": "by_agent", "within": "6s"}}], {}),
    "drop-digit": ("dropped-digit", [*GREETED, {"dtmf": "*123#", "expect": {"dtmf": "123", "within": "6s"}}], {}),
    "late-answer": ("late-answer", ASKED, {}),
    "late-greeting": ("late-answer", [*ANSWERED, {"expect": {"agent_speaks": True, "within": "4s"}}], {}),
    "silent": ("no-answer", [*ANSWERED, {"expect": {"agent_speaks": True, "within": "2s"}}], {}),
    "busy": ("answer", ANSWERED, {}),
    "hang-up-early": ("no-answer", ASKED, {}),
    "wrong-transfer": (
        "transfer",
        [*GREETED, {"dtmf": "0", "expect": {"transfer": r"\+15550123", "within": "8s"}}],
        {},
    ),
    "stop-for-anything": (
        "stopped-for-backchannel",
        [
            *GREETED,
            {"say": QUESTION},
            {"backchannel": {"sound": "cough", "after": "600ms"}, "expect": {"agent_keeps_talking": "1s"}},
        ],
        {},
    ),
    # Twice, for a hole that falls together with a stall of this machine is excused.
    "hole": ("holes", [*HEARD_OUT, *HEARD_OUT[len(GREETED) :]], {"holes": 0}),
    "lost-packets": ("rtp_loss_pct", HEARD_OUT, {"rtp_loss_pct": "<=0.5"}),
    "dead-air": ("dead_air_max_s", [*ASKED, {"wait": "8s"}], {"dead_air_max_s": "<=4"}),
    "clipped": ("clipping_pct", HEARD_OUT, {"clipping_pct": "<=0.5"}),
    "quiet": ("agent_level_dbov", HEARD_OUT, {"agent_level_dbov": ">=-30"}),
}

AT_ONCE: Final = (len(FAULTS), 4, 1)
"""Calls at once, in the first and in the further attempts."""


def written(folder: Path, name: str, steps: Steps, wire: dict[str, Any]) -> Path:
    path = folder / f"{name}.yaml"
    scenario = {"schema": 1, "name": name, "timeout": "40s", "steps": steps, "assert": {"wire": wire}}
    path.write_text(yaml.safe_dump(scenario, sort_keys=False))
    return path


def told(reports: list[ScenarioReport]) -> dict[str, set[str]]:
    """Scenario → kinds of what failed; of a metric its name."""
    return {
        one.name: {
            finding.metric or finding.kind
            for call in one.calls
            for finding in call.findings
            if not finding.ok and finding.gate
        }
        for one in reports
    }


async def dialled(
    bot: Reference, folder: Path, scenarios: dict[str, tuple[Steps, dict[str, Any]]], called: Callable[[str], str] = str
) -> list[ScenarioReport]:
    """Call one bot side by side. Who is called, by the name of the scenario, names the bot's fault.

    An invalid call says that the machine was too busy, and nothing of the bot: it is made again, with fewer at once.
    """
    _, _, host = bot.sip_target.partition("@")
    left = []
    for name, (steps, wire) in scenarios.items():
        one = load(written(folder, name, steps, wire))
        scenario = one.scenario.model_copy(
            update={"target": one.scenario.target.model_copy(update={"to": f"sip:{called(name)}@{host}"})}
        )
        left.append(replace(one, scenario=scenario))
    reports: dict[str, ScenarioReport] = {}
    for jobs in AT_ONCE:
        report = await Run(left, RunOptions(jobs=jobs, cache=folder / "voice")).run()
        reports.update((one.name, one) for one in report.scenarios)
        left = [one for one in left if reports[one.scenario.name].verdict == Verdict.INVALID]
        if not left:
            break
    return list(reports.values())


@pytest.mark.timing
@pytest.mark.timeout(240)
async def test_every_fault_is_caught_by_its_name(tmp_path: Path) -> None:
    async with reference() as bot:
        reports = await dialled(bot, tmp_path, {name: (steps, wire) for name, (_, steps, wire) in FAULTS.items()})
    found = told(reports)
    missed = {name: found[name] for name, (kind, _, _) in FAULTS.items() if kind not in found[name]}
    assert not missed
    assert {one.verdict for one in reports} == {Verdict.FAIL}


@pytest.mark.timing
@pytest.mark.timeout(240)
async def test_a_bot_without_fault_passes_what_catches_the_faults(tmp_path: Path) -> None:
    good = {name: (steps, wire) for name, (_, steps, wire) in FAULTS.items()}
    async with reference() as bot:
        # A cough is longer than what the reference ignores, but for its patient self.
        reports = await dialled(bot, tmp_path, good, lambda name: "patient" if name == "stop-for-anything" else "bot")
    wrong = {
        one.name: [finding.message for call in one.calls for finding in call.findings if not finding.ok] or one.reason
        for one in reports
        if one.verdict != Verdict.PASS
    }
    assert not wrong
