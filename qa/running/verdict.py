"""From what was measured to what is said of it: every expectation and assertion of a scenario, judged for one call.

Nothing here looks at how the caller fared while the call ran, but for steps that could not be done. Times are held
against limits as they were on the wire: from the frame in which the caller's last voiced sample left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from offhook.qa.caller.record import CallerRecord, StepRecord
from offhook.qa.measuring.metrics import METRICS, Metrics
from offhook.qa.measuring.speech import Transcript
from offhook.qa.measuring.timeline import network_back, network_out, network_to_answer
from offhook.qa.measuring.turntaking import Interruption
from offhook.qa.measuring.words import described
from offhook.qa.phones.base import CallLog
from offhook.qa.running.result import Finding, Kind, Verdict
from offhook.qa.running.statistics import FEWEST_OF_A_RATE, samples_of, spread
from offhook.qa.scenario.load import Loaded
from offhook.qa.scenario.model import Expect, Heard, Scenario
from offhook.qa.scenario.units import Limit, in_unit

SAME_S: Final = 0.020
"""Two moments this close are one: a frame."""

REST_S: Final = 0.200
"""Sound this shortly after a caller's word is the end of what the agent was saying, where it is to be silent."""

HALF_MS: Final = 0.5
"""Figures are given in whole milliseconds, and what is shown as equal to the limit keeps it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known about one call."""

    loaded: Loaded
    log: CallLog
    record: CallerRecord
    metrics: Metrics
    transcript: Transcript | None = None
    "None: no assertion asks for words, or they are not to be had."
    no_words: str = ""
    "Why they are not to be had."

    @property
    def scenario(self) -> Scenario:
        """The scenario."""
        return self.loaded.scenario


def wanted_words(scenario: Scenario) -> list[Heard]:
    """Everything that the scenario's assertions ask the recogniser for."""
    expects = [step.expect for step in scenario.steps if step.expect is not None]
    asked = [heard for expect in expects for heard in (expect.heard, expect.not_heard) if heard is not None]
    return [*asked, *scenario.assert_.speech.must_hear, *scenario.assert_.speech.never_hear]


def judge(facts: Facts, doubts: Sequence[str] = ()) -> list[Finding]:
    """Judge one call, its language models apart.

    Args:
        facts: what is known.
        doubts: why the caller is not to be believed.
    """
    found = [Finding("caller", False, doubt) for doubt in doubts]
    found += _answer(facts)
    for step in facts.record.steps:
        found += _step(facts, step)
    found += _course(facts)
    if facts.log.answered:
        told = any(finding.failed for finding in found)
        found += _wire(facts, told=told)
        found += _speech(facts)
    return found


def verdict_of(findings: Sequence[Finding]) -> Verdict:
    """What the findings come to.

    A caller that misbehaved makes the call invalid, whatever else was found. Means that were not there do so when
    nothing else failed.
    """
    failed = {finding.kind for finding in findings if finding.failed}
    if "caller" in failed:
        return Verdict.INVALID
    if failed - {"means"}:
        return Verdict.FAIL
    return Verdict.INVALID if failed else Verdict.PASS


# --- the call as a whole -----------------------------------------------------------------


def _answer(facts: Facts) -> Iterator[Finding]:
    """A call that nobody answered has failed, unless just that was expected."""
    expects = [step.expect for step in facts.scenario.steps if step.expect is not None]
    spoken_of = any(expect.answer is not None or expect.refused is not None for expect in expects)
    if not facts.log.answered and not spoken_of:
        yield Finding("answer", False, f"the call was not answered: {_ending(facts.log)}")


def _ending(log: CallLog) -> str:
    how = log.ended_how or "no reason was given"
    return how if not log.status or how.startswith(str(log.status)) else f"{log.status} {how}"


def _course(facts: Facts) -> Iterator[Finding]:
    log = facts.log
    if log.ended_by == "timeout" and log.answered:
        yield Finding("timeout", False, f"the call was not over within {facts.scenario.timeout:g} s", at=log.seconds)
    if not log.answered or log.ended_by not in ("agent", "network") or facts.record.gave_up:
        return
    steps = facts.scenario.steps
    awaited = next((n for n, step in enumerate(steps) if step.expect is not None and step.expect.hangup), len(steps))
    # Once it was to hang up, nothing is missed; and somebody who was about to hang up misses nothing either.
    missed = [step for step in facts.record.steps[: awaited + 1] if step.skipped and step.verb != "hang_up"]
    if missed:
        first = missed[0]
        by = "the agent hung up" if log.ended_by == "agent" else "the network ended the call"
        message = f"{by} at {log.seconds:.1f} s, before step {first.index + 1} ({_title(first)}): {log.ended_how}"
        yield Finding("hangup", False, message, first.index, log.seconds, where=_where(facts, first))


def _title(step: StepRecord) -> str:
    return f"{step.verb} {step.name}".strip()


def _where(facts: Facts, step: StepRecord, *inner: str) -> str:
    if step.index >= len(facts.scenario.steps):
        return ""
    return facts.loaded.where("steps", step.index, *inner)


# --- steps -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    """One step's expectation, and from when it counts."""

    facts: Facts
    step: StepRecord
    expect: Expect
    ref: float
    "Track second from which times count, on the wire."
    until: float
    "Track second at which the caller's next utterance left: what comes later answers that one."
    network: float
    "Seconds that the network added to what the caller sent then."

    def finding(
        self, kind: Kind, ok: bool, message: str, field: str, *, measured: float | None = None, limit: str = ""
    ) -> Finding:
        return Finding(
            kind,
            ok,
            message,
            self.step.index,
            round(self.ref, 3),
            name=self.step.name,
            measured=measured,
            limit=limit,
            where=_where(self.facts, self.step, "expect", field),
        )

    def after(self, at: float) -> float:
        """How long after `ref` something of the agent's came, what the network added both ways taken out."""
        return at - self.ref - self.network - network_back(self.facts.log, at)

    @property
    def title(self) -> str:
        return f"step {self.step.index + 1} ({_title(self.step)})"


def _step(facts: Facts, step: StepRecord) -> Iterator[Finding]:
    expect = facts.scenario.steps[step.index].expect if step.index < len(facts.scenario.steps) else None
    if step.failed:
        kind: Kind = step.lacking or "step"
        if kind == "no-answer" and any(s.start < step.ended and s.end > step.began for s in facts.metrics.agent):
            kind = "step"  # it spoke, but not for as long as was asked, or as no answer
        message = f"step {step.index + 1} ({_title(step)}): {step.failed}"
        yield Finding(kind, False, message, step.index, step.ended, name=step.name, where=_where(facts, step))
        return
    if expect is None or (step.skipped and expect.hangup is None):
        return
    asked = _asked(facts, step, expect)
    if expect.answer is not None:
        yield _is_answered(asked, expect.answer)
    if expect.refused is not None:
        yield _is_refused(asked, expect.refused)
    if not facts.log.answered:
        return  # there was nobody to do anything else
    if expect.agent_speaks is not None:
        yield _speaks(asked) if expect.agent_speaks else _keeps_silent(asked)
    if expect.agent_stops_within is not None:
        yield _stops(asked, expect.agent_stops_within)
    if expect.agent_keeps_talking is not None:
        yield _keeps_talking(asked, expect.agent_keeps_talking)
    if expect.heard is not None:
        yield _heard(asked, expect.heard, wanted=True)
    if expect.not_heard is not None:
        yield _heard(asked, expect.not_heard, wanted=False)
    if expect.dtmf is not None:
        yield _keys(asked, expect.dtmf)
    if expect.transfer is not None:
        yield _transferred(asked)
    if expect.hangup is not None:
        yield _hung_up(asked, expect.hangup)
    if expect.tail_intact is not None:
        yield _tail(asked, expect.tail_intact)


def _asked(facts: Facts, step: StepRecord, expect: Expect) -> _Asked:
    own = next((one for one in facts.metrics.said if one.step == step.index), None)
    since = own.span.end if own is not None else step.since
    last = next((one for one in facts.metrics.said if abs(one.span.end - since) <= SAME_S), None)
    ref = last.done if last is not None else since
    network = network_out(facts.log, ref)
    if last is None and since <= 0.0:
        ref, network = facts.log.answered_at, network_to_answer(facts.log)
    later = (one.left for one in facts.metrics.said if one.left > ref and (own is None or one is not own))
    return _Asked(facts, step, expect, ref, min(later, default=facts.log.seconds + 1.0), network)


def _is_answered(asked: _Asked, wanted: bool) -> Finding:
    log = asked.facts.log
    if log.answered != wanted:
        said = f"the call was not answered: {_ending(log)}" if wanted else "the call was answered, and should not be"
        return asked.finding("answer", False, said, "answer")
    if not wanted or asked.expect.within is None or log.setup_ms is None:
        return asked.finding("answer", True, "answered" if wanted else f"not answered: {_ending(log)}", "answer")
    limit = asked.expect.within * 1000
    message = f"answered after {log.setup_ms:.0f} ms; at most {limit:.0f} ms were expected"
    within = log.setup_ms <= limit + HALF_MS
    return asked.finding("answer", within, message, "within", measured=log.setup_ms, limit=f"<={limit:.0f}ms")


def _is_refused(asked: _Asked, statuses: Sequence[int]) -> Finding:
    log = asked.facts.log
    expected = " or ".join(map(str, statuses)) or "any status"
    replayed = asked.facts.scenario.target.tamper == "replayed_token"  # its first media socket is a call like others
    ok = log.answered == replayed and (log.status in statuses or (not statuses and log.status >= 300))
    got = "answered" if log.answered and not replayed else f"refused with {log.status or 'no status at all'}"
    message = f"the call was {got}; a refusal with {expected} was expected"
    if replayed:
        first = "" if log.answered else ", and so was the first call, whose token was not used yet: check its secrets"
        message = f"the replayed token was {got}{first}; a refusal with {expected} was expected"
    return asked.finding("refused", ok, message, "refused", measured=float(log.status))


def _speaks(asked: _Asked) -> Finding:
    facts = asked.facts
    within, given = asked.step.within, asked.expect.within is not None
    limit, field = within * 1000, "within" if given else "agent_speaks"
    # Words are answered by what goes on after them, and keys by what goes on after the last: a key is known as soon as
    # it goes down.
    begun = asked.step.spoken.start if asked.step.spoken else asked.step.began if asked.step.keys else None
    began = next(
        (
            span.start
            for span in facts.metrics.agent
            if span.start < asked.until
            and (
                span.start >= asked.ref - SAME_S or (begun is not None and span.start > begun and span.end > asked.ref)
            )
        ),
        None,
    )
    if began is None:
        waited = min(asked.until, facts.log.seconds) - asked.ref
        message = f"{asked.title}: the agent said nothing for {max(0.0, waited):.1f} s"
        return asked.finding("no-answer", False, message, field, limit=f"<={limit:.0f}ms")
    after = max(0.0, asked.after(began) * 1000)
    ok = after <= limit + HALF_MS
    message = f"{asked.title}: the agent spoke after {after:.0f} ms; at most {limit:.0f} ms were expected"
    return asked.finding("late-answer", ok, message, field, measured=after, limit=f"<={limit:.0f}ms")


def _keeps_silent(asked: _Asked) -> Finding:
    start, end = asked.ref + REST_S, asked.ref + asked.step.within
    spoke = next((span for span in asked.facts.metrics.agent if span.start < end and span.end > start), None)
    message = f"{asked.title}: the agent was to say nothing for {asked.step.within:g} s"
    if spoke is not None:
        message += f", and spoke after {max(0.0, spoke.start - asked.ref):.1f} s"
    return asked.finding("unwanted-speech", spoke is None, message, "agent_speaks")


def _interrupted(asked: _Asked) -> Interruption | None:
    """What the agent did while the step's sound was made."""
    return next((one for one in asked.facts.metrics.interruptions if one.utterance.step == asked.step.index), None)


def _stops(asked: _Asked, within: float) -> Finding:
    found = _interrupted(asked)
    limit = within * 1000
    if found is None:
        message = f"{asked.title}: the agent was not speaking when it was interrupted; let it say something longer"
        return asked.finding("caller", False, message, "agent_stops_within")
    stop_ms = found.stop_ms or 0.0
    ok = found.stopped is not None and stop_ms <= limit + HALF_MS
    how = "stopped after" if found.stopped is not None else "never stopped: it talked on for"
    message = f"{asked.title}: the interrupted agent {how} {stop_ms:.0f} ms; at most {limit:.0f} ms were expected"
    return asked.finding(
        "ignored-barge-in", ok, message, "agent_stops_within", measured=stop_ms, limit=f"<={limit:.0f}ms"
    )


def _keeps_talking(asked: _Asked, seconds: float) -> Finding:
    found, log = _interrupted(asked), asked.facts.log
    if found is None:
        message = f"{asked.title}: the agent was not speaking at the caller's sound; let it say something longer"
        return asked.finding("caller", False, message, "agent_keeps_talking")
    need = seconds + asked.network + network_back(log, found.at)
    if log.ended_by not in ("agent", "network"):
        need = min(need, log.seconds - found.at)  # a caller who hangs up hears no more
    lasted = _lasted(asked.facts, found.at)
    kept = lasted >= need - SAME_S
    message = f"{asked.title}: the agent was to talk on for {seconds:g} s"
    if not kept:
        gone = log.ended_by in ("agent", "network") and lasted > log.seconds - found.at - SAME_S
        message += f", and {'was gone' if gone else 'fell silent'} after {lasted * 1000:.0f} ms"
    limit = f">={seconds * 1000:.0f}ms"
    return asked.finding(
        "stopped-for-backchannel", kept, message, "agent_keeps_talking", measured=lasted * 1000, limit=limit
    )


def _lasted(facts: Facts, since: float) -> float:
    """How long the agent talked on, pauses within its turn included."""
    until = since
    for span in facts.metrics.agent:
        if span.end > until:
            if span.start - until > facts.scenario.caller.end_silence:
                break
            until = span.end
    return until - since


def _heard(asked: _Asked, what: Heard, *, wanted: bool) -> Finding:
    field: str = "heard" if wanted else "not_heard"
    kind: Kind = "heard" if wanted else "not-heard"
    transcript = asked.facts.transcript
    if transcript is None:
        return asked.finding("means", False, f"{asked.title}: {asked.facts.no_words}", field)
    spoken = asked.step.spoken
    start = asked.ref if spoken is None or spoken.end <= asked.ref else spoken.start
    end = min(asked.until, max(asked.step.ended, asked.ref + asked.step.within))
    said = transcript.said(start, end)
    ok = transcript.heard(what, start, end) == wanted
    if ok and wanted and asked.expect.agent_speaks is None and asked.expect.within is not None:
        # What is expected is the next turn, and that it begins in time; of what is not expected there is no time.
        turns = (turn.span for turn in transcript.turns if turn.span.start < end and turn.span.end > start)
        began = min((span.start for span in turns), default=asked.ref)
        late = _late(asked, began, f"{described(what)} was said in a turn that began", field)
        if late is not None:
            return late
    word = "expected" if wanted else "not to be heard"
    message = f"{asked.title}: {described(what)} was {word}; the agent said {said!r}"
    return asked.finding(kind, ok, message + _unknown(transcript, ok), field)


def _unknown(transcript: Transcript, ok: bool) -> str:
    """Why a phrase could hardly have been found."""
    if ok or not transcript.unknown:
        return ""
    return f"; the offline recogniser does not know {', '.join(transcript.unknown)}: set `stt` to a service"


def _late(asked: _Asked, at: float, what: str, field: str) -> Finding | None:
    """That something came later than its `within`; None: it did not."""
    within = asked.expect.within
    after = asked.after(at)
    if within is None or after <= within + SAME_S:
        return None
    message = f"{asked.title}: {what} after {after * 1000:.0f} ms; at most {within * 1000:.0f} ms were expected"
    return asked.finding("late-answer", False, message, field, measured=after * 1000, limit=f"<={within * 1000:.0f}ms")


def _keys(asked: _Asked, digits: str) -> Finding:
    start = _unmet_since(asked, "dtmf")
    end = max(asked.step.ended, min(asked.until, asked.ref + asked.step.within)) + REST_S
    came = "".join(key.digit for key in asked.facts.metrics.keys if start - SAME_S <= key.start <= end)
    message = f"{asked.title}: the agent was to press {digits!r} and pressed {came!r}"
    if came == digits.upper():
        last = max(key.start for key in asked.facts.metrics.keys if key.start <= end)
        late = _late(asked, last, f"the last of the keys {digits!r} came", "dtmf")
        if late is not None:
            return late
    return asked.finding("dropped-digit", came == digits.upper(), message, "dtmf")


def _unmet_since(asked: _Asked, field: str) -> float:
    """From when on things count that no expectation before has met: what the agent does while the caller waits for the
    end of its turn, the one that follows is for."""
    steps, scenario = asked.facts.record.steps[: asked.step.index], asked.facts.scenario
    expects = ((step, scenario.steps[step.index].expect) for step in steps)
    met = (step.ended for step, expect in expects if expect is not None and getattr(expect, field) is not None)
    return max(met, default=0.0)


def _transferred(asked: _Asked) -> Finding:
    where, within = asked.expect.transfer, asked.step.within
    assert where is not None
    events = [event for event in asked.facts.log.events if event.kind == "transfer"]
    since = min(asked.ref, _unmet_since(asked, "transfer"))
    came = next((event for event in events if event.at >= since - SAME_S), None)
    if came is None:
        message = f"{asked.title}: no transfer within {within:g} s"
        return asked.finding("transfer", False, message, "transfer")
    wrong = [] if re.search(where.to, came.detail) else [f"to {came.detail!r}, not {where.to!r}"]
    headers = {name.lower(): value for name, value in came.headers.items()}
    for name, pattern in where.headers.items():
        value = headers.get(name.lower())
        if value is None or not re.search(pattern, value):
            wrong.append(f"with {name}: {value!r}, not {pattern!r}")
    after = asked.after(came.at)
    if after > within + SAME_S:
        wrong.append(f"after {after:.1f} s, later than {within:g} s")
    message = f"{asked.title}: transferred {'; '.join(wrong) or f'to {came.detail}'}"
    return asked.finding("transfer", not wrong, message, "transfer", measured=max(0.0, after) * 1000)


def _hung_up(asked: _Asked, by: str) -> Finding:
    log, within = asked.facts.log, asked.expect.within
    who = {"agent": "by_agent", "caller": "by_caller"}.get(log.ended_by, "")
    ok = bool(who) and by in (who, "by_anyone")
    message = f"{asked.title}: the call was to be ended {by.replace('_', ' ')}; it was ended by {_ender(log)}"
    after = log.seconds - asked.ref
    if ok and within is not None and asked.after(log.seconds) > within + SAME_S:
        ok = False
        message += f" after {after:.1f} s, later than {within:g} s"
    return asked.finding("hangup", ok, message, "hangup", measured=after * 1000)


def _ender(log: CallLog) -> str:
    return {"agent": "the agent", "caller": "the caller", "": "nobody"}.get(log.ended_by, f"the {log.ended_by}")


def _tail(asked: _Asked, wanted: bool) -> Finding:
    cut = bool(asked.facts.metrics["tail_cut"])
    message = "the agent's last word was cut off" if cut else "the agent's last word was heard to its end"
    return asked.finding("cut-tail", cut != wanted, message, "tail_intact")


# --- assertions --------------------------------------------------------------------------


def _wire(facts: Facts, *, told: bool) -> Iterator[Finding]:
    """Limits on this call. That an agent's silence leaves nothing to measure is not said again where `told` already."""
    for name, limits in facts.scenario.assert_.wire.items():
        if isinstance(limits, Limit):
            samples = facts.metrics.samples(name)
            if not samples and not facts.metrics.agent and told:
                continue
            where = facts.loaded.where("assert", "wire", name)
            yield _held(name, limits, samples, "each" if METRICS[name].samples else "", where)


def over_all(loaded: Loaded, metrics: Sequence[Mapping[str, object]]) -> list[Finding]:
    """Judge the limits on percentiles, over all calls of a scenario together.

    Args:
        loaded: the scenario.
        metrics: of every call that counts, as in CallReport.metrics.
    """
    found = []
    for name, limits in loaded.scenario.assert_.wire.items():
        if isinstance(limits, Limit):
            continue
        values = [value for one in metrics for value in samples_of(one.get(name))]
        figures = spread(values)
        for which, limit in limits.items():
            figure = figures[which]
            where = loaded.where("assert", "wire", name, which)
            found.append(_held(name, limit, [] if figure is None else [figure], which, where, len(values)))
    return found


def _held(name: str, limit: Limit, samples: Sequence[float], which: str, where: str, of: int = 0) -> Finding:
    """Hold values against a limit. Without any, nothing can be said, and that is no pass."""
    metric = METRICS[name]
    own = in_unit(limit, metric.unit)
    title = f"{name} {which}".strip() if which != "each" else name
    if not samples:
        message = f"{title}: nothing was measured; {metric.meaning} did not come about in this call"
        return Finding("metric", False, message, metric=name, limit=str(limit), where=where)
    # As they are shown: a tenth of a millisecond, a thousandth of everything else.
    values = [round(value, 1 if metric.unit == "ms" else 3) for value in samples]
    wrong = [value for value in values if not own.holds(value)]
    worst = (min if own.op in (">=", ">") else max)(wrong or values)
    rest = f", {len(wrong)} of {len(samples)} times" if len(samples) > 1 and wrong else ""
    few = f" (of {of} only)" if 0 < of < FEWEST_OF_A_RATE and which not in ("", "each", "max") else ""
    message = f"{title} is {worst:.10g} {metric.unit}".rstrip() + f"{few}; {limit} was asked for{rest}"
    return Finding("metric", not wrong, message, metric=name, measured=worst, limit=str(limit), where=where)


def _speech(facts: Facts) -> Iterator[Finding]:
    speech = facts.scenario.assert_.speech
    for field, wanted, all_of in (("must_hear", True, speech.must_hear), ("never_hear", False, speech.never_hear)):
        for number, what in enumerate(all_of):
            where = facts.loaded.where("assert", "speech", field, number)
            if facts.transcript is None:
                yield Finding("means", False, facts.no_words, where=where)
                continue
            kind: Kind = "heard" if wanted else "not-heard"
            ok = facts.transcript.heard(what) == wanted
            word = "was expected" if wanted else "was not to be heard"
            message = f"{described(what)} {word}; the agent said {facts.transcript.text!r}"
            yield Finding(kind, ok, message + _unknown(facts.transcript, ok), where=where)
