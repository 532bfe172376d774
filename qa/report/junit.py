"""JUnit XML, which every build server reads: a suite for each scenario, a case for each call.

There is no standard. This is what both usual schemas take: Jenkins' `junit-10.xsd` of the xUnit plug-in, and the
older one of Apache Ant, which has but one `failure` or `error` a case; all that failed is in its text.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree

from offhook.qa.report.faults import OURS
from offhook.qa.report.plain import line, number, shown
from offhook.qa.running.result import CallReport, Finding, RunReport, ScenarioReport, Verdict

TITLE: Final = 300
"""Characters of a failure's `message`; the text has all."""

_RESULTS: Final = {Verdict.FAIL: "failure", Verdict.SKIPPED: "skipped", Verdict.PASS: ""}


def junit(report: RunReport) -> str:
    """The run as XML, with its declaration."""
    root = ElementTree.Element("testsuites", name=line(f"offhook {report.run_id}"), time=f"{report.seconds:.3f}")
    for number_, scenario in enumerate(report.scenarios):
        root.append(_suite(number_, scenario, report))
    for count in ("tests", "failures", "errors"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in root)))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(number_: int, scenario: ScenarioReport, report: RunReport) -> ElementTree.Element:
    cases = [_call(call) for call in scenario.calls]
    if scenario.findings:
        cases.append(_case(scenario.name, "all calls", 0.0, _worst(scenario.findings), scenario.findings))
    elif not cases or (scenario.reason and scenario.verdict not in {call.verdict for call in scenario.calls}):
        cases.append(_case(scenario.name, "calls", 0.0, scenario.verdict, [], scenario.reason))
    results = [child.tag for case in cases for child in case]
    suite = ElementTree.Element(
        "testsuite",
        {
            "name": line(scenario.name),
            "id": str(number_),
            "package": "offhook",
            "hostname": platform.node() or "localhost",
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(report.began)),
            "tests": str(len(cases)),
            "failures": str(results.count("failure")),
            "errors": str(results.count("error")),
            "skipped": str(results.count("skipped")),
            "time": f"{sum(call.seconds for call in scenario.calls):.3f}",
        },
    )
    properties = ElementTree.SubElement(suite, "properties")
    given = {"file": scenario.file, "target": report.target, "passed": f"{scenario.passed}/{len(scenario.calls)}"}
    given |= {"pass_k": f"{scenario.pass_k:.3f}"} if scenario.pass_k is not None else {}
    for metric, figures in scenario.statistics.items():
        for which in ("p50", "p95"):
            value = figures.get(which)
            if value is not None:
                given[f"{metric}.{which}"] = f"{value:g}"
    for name, text in given.items():
        ElementTree.SubElement(properties, "property", name=line(name), value=line(text))
    suite.extend(cases)
    ElementTree.SubElement(suite, "system-out")
    ElementTree.SubElement(suite, "system-err")
    return suite


def _call(call: CallReport) -> ElementTree.Element:
    return _case(call.scenario, f"call {call.number}", call.seconds, call.verdict, call.findings, call.ended)


def _case(
    scenario: str, name: str, seconds: float, verdict: Verdict, findings: Sequence[Finding], reason: str = ""
) -> ElementTree.Element:
    case = ElementTree.Element("testcase", name=name, classname=f"offhook.{line(scenario)}", time=f"{seconds:.3f}")
    tag = _RESULTS.get(verdict, "error")
    if not tag:
        return case
    failed = [one for one in findings if one.failed]
    # What the verdict rests on goes first: of an invalid call, why it is not to be believed.
    failed.sort(key=lambda one: (one.kind in OURS) != (verdict == Verdict.INVALID))
    message = failed[0].message if failed else reason or str(verdict)
    result = ElementTree.SubElement(case, tag, message=line(message, TITLE))
    if tag != "skipped":
        result.set("type", failed[0].kind if failed else str(verdict))
        result.text = "\n".join(_sentence(one) for one in failed) or shown(reason)
    return case


def _sentence(finding: Finding) -> str:
    where = f" ({line(finding.where)})" if finding.where else ""
    moment = f" at {number(finding.at, 's')}" if finding.at is not None else ""
    return f"{finding.kind}{moment}: {line(finding.message)}{where}"


def _worst(findings: Sequence[Finding]) -> Verdict:
    failed = [one for one in findings if one.failed]
    if not failed:
        return Verdict.PASS
    return Verdict.INVALID if all(one.kind in OURS for one in failed) else Verdict.FAIL
