"""Everything about a call that its wire tells without a model: `measure_call`, and `METRICS`, which names it all.

Latencies run from the moment the caller's sample was on the wire to the moment the agent could be heard; what the
caller's frames left late is not in them. What `media.network` added is taken out of them, too: it is
ours, not the target's; `network_ms` says how much that was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple

from offhook.qa.activity import Samples, Span
from offhook.qa.caller.record import CallerRecord
from offhook.qa.measuring import artifacts, packets, turntaking
from offhook.qa.measuring.keys import KeyHeard, agent_keys, spelled
from offhook.qa.measuring.mos import burst_ratio, mos_e
from offhook.qa.measuring.signalling import complete, retransmissions
from offhook.qa.measuring.timeline import (
    Turn,
    Utterance,
    agent_turns,
    holds,
    network_back,
    network_to_answer,
    overlap,
    silences,
    union,
    utterances,
    voiced_spans,
)
from offhook.qa.phones.base import CallLog
from offhook.qa.scenario.model import Scenario

DEAD_AIR_S: Final = 3.0
"""Silence of both sides longer than this is counted: people ask whether anybody is there."""

Better = Literal["low", "high", ""]


class Metric(NamedTuple):
    """What a measured value is."""

    unit: str
    "ms, s, pct, dBov, MOS; empty: a count, or 1 for yes and 0 for no."
    meaning: str
    good: float | None = None
    bad: float | None = None
    "Beyond it a call is bad; None: there is no such bound."
    better: Better = "low"
    samples: bool = False
    "It happens several times a call, and is a list."


METRICS: Final[Mapping[str, Metric]] = {
    "setup_ms": Metric("ms", "INVITE or webhook sent → answered", None, 5000),
    "pdd_ms": Metric("ms", "INVITE sent → first 180 or 183", 1000, 3000),
    "greeting_ms": Metric("ms", "answer → first voiced agent sample", 1000, 1700),
    "v2v_ms": Metric("ms", "last voiced caller sample → next first voiced agent sample", 800, 2000, samples=True),
    "barge_stop_ms": Metric(
        "ms", "first voiced sample of an interruption → last voiced agent sample", 500, 2000, samples=True
    ),
    "barge_clear_ms": Metric(
        "ms", "first voiced sample of an interruption → order to empty the play-out buffer", 300, 2000, samples=True
    ),
    "barge_success_pct": Metric("pct", "interruptions at which the agent fell silent within 2 s", 95, 80, "high"),
    "interruptions": Metric("", "interruptions by the caller while the agent spoke", better=""),
    "missed_interrupts": Metric("", "interruptions over which the agent talked on for more than 2 s", 0, 0),
    "backchannels": Metric("", "back-channels and coughs while the agent spoke", better=""),
    "false_interrupts": Metric("", "back-channels and coughs at which the agent stopped", 0, 0),
    "agent_interrupts_caller": Metric("", "turns of the caller into which the agent began to speak", 0, 0),
    "overlap_s": Metric("s", "both speak, back-channels apart"),
    "talk_over_pct": Metric("pct", "share of overlap_s in the time in which anybody speaks", 3, 10),
    "dead_air_max_s": Metric("s", "longest time in which nobody speaks, holds apart", 3, 4),
    "dead_air_count": Metric("", "times of more than 3 s in which nobody speaks, holds apart", 0, 0),
    "caller_turns": Metric("", "turns of the caller that were answered or waited 2 s for an answer", better=""),
    "response_rate_pct": Metric("pct", "share of caller_turns that were answered", 100, 99, "high"),
    "tail_cut": Metric("", "1: the call ended in the midst of the agent's speech, by the agent's side", 0, 0),
    "holes": Metric("", "silences of 60 to 500 ms torn into the agent's speech", 0, 0),
    "hole_max_ms": Metric("ms", "the longest of the holes", 0, 60),
    "clicks": Metric("", "jumps in the agent's audio that no voice makes", 0, 5),
    "clipping_pct": Metric("pct", "share of the agent's speech that is cut off at full scale", 0.1, 1),
    "dc_pct": Metric("pct", "mean of the agent's speech, of full scale", 1, 3),
    "agent_level_dbov": Metric("dBov", "level of the louder half of the agent's speech", better=""),
    "agent_speaking_s": Metric("s", "the agent speaks", better=""),
    "caller_speaking_s": Metric("s", "the caller speaks", better=""),
    "dtmf_in": Metric("", "keys that the caller pressed, how many", better=""),
    "dtmf_out": Metric("", "keys that the agent pressed, how many", better=""),
    "dtmf_out_accuracy_pct": Metric(
        "pct", "keys expected of the agent that came, order and doubles count", 100, 99, "high"
    ),
    "dtmf_tone_ms": Metric("ms", "how long the agent's in-band keys sound", better="", samples=True),
    "dtmf_gap_ms": Metric("ms", "silence between the agent's in-band keys", better="", samples=True),
    "packets": Metric("", "RTP packets of the agent", better=""),
    "packet_gap_p99_ms": Metric("ms", "99th percentile of the time between packets of running speech", 30, 40),
    "packet_gap_max_ms": Metric("ms", "the longest of these times", 60, 100),
    "rtp_loss_pct": Metric("pct", "RTP packets that never came", 0.1, 1),
    "jitter_ms": Metric("ms", "mean of the interarrival jitter of RFC 3550", 5, 20),
    "jitter_max_ms": Metric("ms", "its highest value", 10, 40),
    "seq_gaps": Metric("", "places where sequence numbers are missing", 0, None),
    "duplicates": Metric("", "RTP packets that came twice", 0, None),
    "reordered": Metric("", "RTP packets that were overtaken", 0, None),
    "ts_discontinuity": Metric("", "jumps of RTP timestamps that no pause explains", 0, 0),
    "ssrc_changes": Metric("", "changes of the RTP source", 0, None),
    "mos_e": Metric(
        "MOS", "opinion score by the E-model of G.107, from loss, jitter, delay and codec", 4.0, 3.6, "high"
    ),
    "network_ms": Metric("ms", "round trip that media.network added; taken out of the latencies", better=""),
    "sip_final": Metric("", "final status of the INVITE, or HTTP's of the webhook or media socket", better=""),
    "sip_retransmissions": Metric("", "SIP messages that were sent again, by either side", 0, None),
    "sip_complete": Metric("", "1: INVITE, 200, ACK, BYE and its 200 are all there", 1, 0, "high"),
    "protocol_faults": Metric("", "what the agent did against the protocol", 0, 0),
    "own_late_p99_ms": Metric("ms", "99th percentile of how late the caller's own frames left", 5, 20),
    "call_s": Metric("s", "how long the line was up", better=""),
}
"""Every metric that can be asserted. `good` and `bad` are for colours and words in reports; they gate nothing."""


@dataclass(slots=True)
class Metrics:
    """What was measured in one call."""

    values: dict[str, float | list[float] | None]
    "By the names of METRICS; None: there was nothing to measure, [] likewise of lists."
    turns: list[Turn]
    "Both sides, in order."
    said: list[Utterance]
    replies: list[turntaking.Reply]
    interruptions: list[turntaking.Interruption]
    "Back-channels over the agent's speech included; `aside` tells them."
    agent: list[Span]
    "Where the agent speaks."
    holes: list[Span]
    holes_excused: list[Span]
    "Holes while this program itself was late: not the target's."
    clicks: list[float]
    dead_air: list[Span]
    keys: list[KeyHeard]
    "That the agent pressed, in order."
    interrupts: list[float]
    "When the agent began to speak into a turn of the caller."

    def __getitem__(self, name: str) -> float | list[float] | None:
        return self.values[name]

    def samples(self, name: str) -> list[float]:
        """All values of a metric: one at most of those that are no lists."""
        value = self.values[name]
        return [] if value is None else list(value) if isinstance(value, list) else [value]

    @property
    def keys_heard(self) -> str:
        """The keys that the agent pressed."""
        return spelled(self.keys)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `CallReport.metrics`, by the names of METRICS, rounded to what is meant by them."""
        return {name: _plain(value) for name, value in self.values.items()}

    def turns_as_dicts(self) -> list[dict[str, Any]]:
        """For `CallReport.turns`."""
        return [turn.as_dict() for turn in self.turns]


def _plain(value: float | list[float] | None) -> float | list[float] | None:
    if isinstance(value, list):
        return [round(item, 1) for item in value]
    return round(value, 3) if isinstance(value, float) else value


def measure_call(
    log: CallLog, record: CallerRecord, scenario: Scenario, *, sounds: Mapping[str, Samples] | None = None
) -> Metrics:
    """Measure one call.

    Args:
        log: what was on the wire.
        record: what the caller did.
        scenario: whose caller it was.
        sounds: what each `StepRecord.source` sounds like, from its first voiced sample on; pauses within a sentence
            are then no overlap.
    """
    heard, events = agent_keys(log)
    ignore = [Span(key.start, key.end) for key in heard]
    agent = voiced_spans(log.agent, ignore=ignore)
    said = utterances(log, record, scenario)
    talk = turntaking.take(log, said, agent, end_silence=scenario.caller.end_silence)
    spans = agent_turns(agent, said, scenario.caller.end_silence)
    rtp = packets.examine(log.arrivals, log.stalls) if log.arrivals is not None else None
    stops = [found.stopped for found in talk.interruptions if found.stopped is not None]
    holes, excused = artifacts.holes(log, agent, stops)
    clicks = artifacts.clicks(log.agent, agent)
    cut = artifacts.tail_cut(log, agent)
    keys = sorted([*heard, *events], key=lambda key: key.start)

    caller = _voiced_parts(said, record, sounds or {})
    both = overlap(union([span for span, aside in caller if not aside]), agent)
    anybody = sum(span.seconds for span in union([*(span for span, _ in caller), *agent]))
    held = holds(log, record)
    speech = [*(u.span for u in said), *agent, *ignore, *held]
    quiet = list(silences(speech, 0.0, log.seconds)) if log.answered else []
    dead = [span for span in quiet if span.seconds > DEAD_AIR_S]

    real = [found for found in talk.interruptions if not found.aside]
    asides = [found for found in talk.interruptions if found.aside]
    network = log.network_s * 1000
    values: dict[str, float | list[float] | None] = {
        "setup_ms": log.setup_ms,
        "pdd_ms": log.pdd_ms,
        "greeting_ms": _greeting_ms(log, agent[0].start) if agent else None,
        "v2v_ms": [reply.v2v_ms for reply in talk.replies],
        "barge_stop_ms": [found.stop_ms for found in real if found.stop_ms is not None],
        "barge_clear_ms": [found.clear_ms for found in real if found.clear_ms is not None],
        "barge_success_pct": _share(sum(found.yielded for found in real), len(real)),
        "interruptions": len(real),
        "missed_interrupts": sum(not found.yielded for found in real),
        "backchannels": len(asides),
        "false_interrupts": sum(found.yielded for found in asides),
        "agent_interrupts_caller": len(talk.interrupts),
        "overlap_s": both,
        "talk_over_pct": _share(both, anybody) if anybody else None,
        "dead_air_max_s": max((span.seconds for span in quiet), default=None),
        "dead_air_count": len(dead),
        "caller_turns": talk.asked,
        "response_rate_pct": _share(talk.answered, talk.asked),
        "tail_cut": None if cut is None else int(cut),
        "holes": len(holes),
        "hole_max_ms": max((hole.seconds * 1000 for hole in holes), default=0.0),
        "clicks": len(clicks),
        "clipping_pct": artifacts.clipping_pct(log.agent, agent),
        "dc_pct": artifacts.dc_pct(log.agent, agent),
        "agent_level_dbov": artifacts.level_dbov(log.agent, agent),
        "agent_speaking_s": sum(span.seconds for span in agent),
        "caller_speaking_s": sum(span.seconds for span, _ in caller),
        "dtmf_in": _pressed(log, record, scenario),
        "dtmf_out": len(keys),
        "dtmf_out_accuracy_pct": _dtmf_accuracy(scenario, spelled(keys)),
        "dtmf_tone_ms": [(key.end - key.start) * 1000 for key in heard],
        "dtmf_gap_ms": [(b.start - a.end) * 1000 for a, b in pairwise(heard)],
        "packets": rtp.packets if rtp else None,
        "packet_gap_p99_ms": rtp.gap_p99_ms if rtp else None,
        "packet_gap_max_ms": rtp.gap_max_ms if rtp else None,
        "rtp_loss_pct": rtp.loss * 100 if rtp else None,
        "jitter_ms": rtp.jitter_ms if rtp else None,
        "jitter_max_ms": rtp.jitter_max_ms if rtp else None,
        "seq_gaps": len(rtp.lost_runs) if rtp else None,
        "duplicates": rtp.duplicates if rtp else None,
        "reordered": rtp.reordered if rtp else None,
        "ts_discontinuity": rtp.discontinuities if rtp else None,
        "ssrc_changes": rtp.ssrc_changes if rtp else None,
        "mos_e": _mos(log, rtp, agent, holes),
        "network_ms": 2 * network,
        "sip_final": log.status or None,
        "sip_retransmissions": retransmissions(log),
        "sip_complete": complete(log),
        "protocol_faults": len(log.faults),
        "own_late_p99_ms": packets.percentile([late * 1000 for late in log.lateness], 99),
        "call_s": log.seconds,
    }
    return Metrics(
        values=values,
        turns=_turns(said, spans, talk, bool(cut)),
        said=said,
        replies=talk.replies,
        interruptions=talk.interruptions,
        agent=agent,
        holes=holes,
        holes_excused=excused,
        clicks=clicks,
        dead_air=dead,
        keys=keys,
        interrupts=talk.interrupts,
    )


def _greeting_ms(log: CallLog, began: float) -> float:
    return (began - log.answered_at - network_to_answer(log) - network_back(log, began)) * 1000


def _pressed(log: CallLog, record: CallerRecord, scenario: Scenario) -> int:
    """How many keys the caller pressed; the line knows nothing of those that sounded in the caller's audio."""
    sounded = 0
    for done in record.steps:
        step = scenario.steps[done.index].dtmf if done.index < len(scenario.steps) else None
        if step is not None and (step.by or scenario.media.dtmf) == "inband" and not done.failed:
            sounded += len(done.keys)
    return sounded + sum(len(key) for _, key in log.pressed)


def _share(part: float, whole: float) -> float | None:
    return 100 * part / whole if whole else None


def _voiced_parts(
    said: Sequence[Utterance], record: CallerRecord, sounds: Mapping[str, Samples]
) -> list[tuple[Span, bool]]:
    """Where the caller speaks, without pauses in sentences where the sound is known; and whether it is an aside."""
    sources = {step.index: step.source for step in record.steps}
    parts: list[tuple[Span, bool]] = []
    for utterance in said:
        sound = sounds.get(sources.get(utterance.step, "")) if utterance.step is not None else None
        inner = voiced_spans(sound) if sound is not None and len(sound) else []
        begin = utterance.span.start
        spans = [Span(begin + part.start, min(begin + part.end, utterance.span.end)) for part in inner]
        spans = [span for span in spans if span.seconds > 0] or [utterance.span]
        parts += [(span, utterance.kind == "aside") for span in spans]
    return parts


def _dtmf_accuracy(scenario: Scenario, heard: str) -> float | None:
    """Share of the expected keys that came, by the fewest corrections; None when none were expected."""
    expected = "".join(step.expect.dtmf.upper() for step in scenario.steps if step.expect and step.expect.dtmf)
    if not expected:
        return None
    row = list(range(len(heard) + 1))
    for i, wanted in enumerate(expected, 1):
        before, row[0] = row[0], i
        for j, came in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (wanted != came))
    return 100 * max(0.0, 1 - row[-1] / len(expected))


def _mos(log: CallLog, rtp: packets.Reception | None, agent: Sequence[Span], holes: Sequence[Span]) -> float | None:
    """Of the agent's audio as the caller got it; where there are no packets, by the holes."""
    codec = log.codec or "PCMU"
    if rtp is not None:
        if not rtp.packets:
            return None
        burst = burst_ratio(rtp.lost_runs, rtp.packets)
        return mos_e(codec, rtp.loss, delay_ms=log.network_s * 1000, jitter_ms=rtp.jitter_ms or 0.0, burst=burst)
    spoken = sum(span.seconds for span in agent)
    if not spoken:
        return None
    return mos_e(codec, sum(hole.seconds for hole in holes) / spoken, delay_ms=log.network_s * 1000)


def _turns(said: Sequence[Utterance], agent: Sequence[Span], talk: turntaking.TurnTaking, cut: bool) -> list[Turn]:
    stops = {id(found.utterance): found.stop_ms for found in talk.interruptions if not found.aside}
    turns = [Turn("caller", u.span.start, u.span.end, u.name, u.step, barge_stop_ms=stops.get(id(u))) for u in said]
    for span in agent:
        reply = next((r for r in talk.replies if span.start - 1e-9 <= r.agent_began < span.end), None)
        turn = Turn("agent", span.start, span.end)
        if reply is not None:
            turn.v2v_ms, turn.step, turn.name = reply.v2v_ms, reply.step, reply.name
        turns.append(turn)
    if cut and agent:
        turns[-1].cut = True
    return sorted(turns, key=lambda turn: turn.start)
