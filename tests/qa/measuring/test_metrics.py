"""Every latency within 20 ms, and every level within 1 dB, of what was built into the call."""

from __future__ import annotations

import json
from array import array
from typing import Any

import numpy as np
import pytest
from fakes.known_calls import Made, Said, laid, made_up, spoken

from offhook.codecs.audio import L16_8K
from offhook.codecs.dtmf import tones
from offhook.qa.activity import RATE, Span
from offhook.qa.caller.record import StepRecord
from offhook.qa.measuring.metrics import METRICS
from offhook.qa.network.model import Delays
from offhook.qa.phones.base import Arrivals, LineEvent

MS = 20
CALLER = made_up(1.203, seed=2)
LONG = made_up(6.0, seed=3)
REPLY = made_up(2.0, seed=4)


def exchange(delay: float, **more: Any) -> Made:
    said = Said(3.0, CALLER)
    return Made(said=[said], agent=[(0.5, made_up(1.5)), (said.end + delay, REPLY)], **more)


@pytest.mark.parametrize("law", ["PCMU", "PCMA"])
@pytest.mark.parametrize("delay", [0.12, 0.3, 0.7, 1.234, 2.5])
def test_voice_to_voice_is_the_delay_that_was_built_in(delay: float, law: str) -> None:
    made = exchange(delay, law=law).measured()
    assert made["v2v_ms"] == pytest.approx([delay * 1000], abs=2)
    assert made.replies[0].step == 0
    assert made["response_rate_pct"] == 100
    assert made["barge_stop_ms"] == []


@pytest.mark.parametrize("noise", [None, -65.0, -55.0])
@pytest.mark.parametrize("dbov", [-15.0, -20.0, -32.0])
@pytest.mark.parametrize("law", ["PCMU", "PCMA"])
def test_levels_noise_and_laws_move_no_latency(law: str, dbov: float, noise: float | None) -> None:
    said = Said(3.0, CALLER)
    voice = made_up(2.0, dbov, seed=4)
    made = Made(said=[said], agent=[(0.5, voice), (said.end + 0.7, voice)], law=law, noise=noise).measured()
    assert made["greeting_ms"] == pytest.approx(500, abs=MS)
    assert made["v2v_ms"] == pytest.approx([700], abs=MS)
    assert made["agent_level_dbov"] == pytest.approx(dbov, abs=0.5)


@pytest.mark.parametrize("sentence", ["greeting", "six", "please", "bye", "question"])
@pytest.mark.parametrize("law", ["PCMU", "PCMA"])
def test_real_speech_is_measured_to_20_ms(sentence: str, law: str) -> None:
    said, voice = Said(4.5, spoken()["ask"]), spoken()[sentence]
    begins = said.end + 0.7
    made = Made(said=[said], agent=[(0.4, spoken()["greeting"]), (begins, voice)], law=law).measured()
    assert made["greeting_ms"] == pytest.approx(400, abs=MS)
    assert made["v2v_ms"] == pytest.approx([700], abs=MS)
    assert made.turns[-1].end == pytest.approx(begins + len(voice) / RATE, abs=0.02)
    assert made["agent_level_dbov"] == pytest.approx(-20, abs=1)
    assert (made["holes"], made["clicks"], made["clipping_pct"]) == (0, 0, 0)


def test_a_soft_voice_over_a_little_noise_is_measured_too() -> None:
    said = Said(4.5, spoken()["ask"])
    soft = np.rint(spoken()["question"] * 0.5).astype(np.int16)
    made = Made(said=[said], agent=[(0.4, soft), (said.end + 0.7, soft)], noise=-66.0, law="PCMA").measured()
    assert made["v2v_ms"] == pytest.approx([700], abs=MS)
    assert made["agent_level_dbov"] == pytest.approx(-26, abs=1)


def test_greeting_counts_from_the_answer() -> None:
    made = Made(agent=[(0.731, REPLY)], log={"answered_at": -0.1}).measured()
    assert made["greeting_ms"] == pytest.approx(831, abs=MS)


def test_a_silent_agent_has_no_latencies_and_answers_nothing() -> None:
    made = Made(said=[Said(1.0, CALLER)], seconds=8.0).measured()
    assert made["greeting_ms"] is None
    assert made["v2v_ms"] == []
    assert made["response_rate_pct"] == 0
    assert made["dead_air_max_s"] == pytest.approx(8 - 2.203, abs=0.02)
    assert made["agent_level_dbov"] is None
    assert made["mos_e"] is None


def test_what_the_caller_sent_late_is_not_the_targets_delay() -> None:
    left = [(n + 1) * 0.02 for n in range(700)]
    left[int((3.0 + len(CALLER) / RATE) / 0.02)] += 0.06
    made = exchange(0.5, log={"left_at": left}).measured()
    assert made["v2v_ms"] == pytest.approx([440], abs=2)


def test_the_networks_round_trip_is_taken_out() -> None:
    made = exchange(0.5, log={"network_s": 0.05}).measured()
    assert made["v2v_ms"] == pytest.approx([400], abs=2)
    assert made["greeting_ms"] == pytest.approx(450, abs=2)
    assert made["network_ms"] == pytest.approx(100)
    stream = exchange(0.5, log={"network_s": 0.05, "way": "twilio"}).measured()
    assert stream["greeting_ms"] == pytest.approx(400, abs=2), "the start of a stream has to get there, too"


def test_a_freeze_of_the_network_is_taken_out_where_it_was_and_nowhere_else() -> None:
    out, back = Delays(), Delays()
    for n in range(700):
        out.note((n + 1) * 0.02, 0.3 if n * 0.02 > 2.9 else 0.05)
        back.note(n * 0.02, 0.1 if n * 0.02 > 2.9 else 0.4)
    made = exchange(0.8, log={"network_s": 0.2, "added_out": out, "added_back": back}).measured()
    assert made["v2v_ms"] == pytest.approx([400], abs=2)
    assert made["greeting_ms"] == pytest.approx(100, abs=2)


def test_two_sentences_of_one_turn_are_answered_once() -> None:
    said = [Said(3.0, CALLER), Said(4.5, CALLER)]
    made = Made(said=said, agent=[(0.5, REPLY), (said[1].end + 0.6, REPLY)]).measured()
    assert made["v2v_ms"] == pytest.approx([600], abs=2)
    assert made["caller_turns"] == 1
    assert made.replies[0].step == 1


def test_a_last_word_before_hanging_up_needs_no_answer() -> None:
    made = Made(said=[Said(3.0, CALLER), Said(8.0, CALLER)], agent=[(5.0, REPLY)], seconds=9.8).measured()
    assert (made["caller_turns"], made["response_rate_pct"]) == (1, 100)


# --- interruptions ---------------------------------------------------------------------


@pytest.mark.parametrize("law", ["PCMU", "PCMA"])
@pytest.mark.parametrize("stop", [0.07, 0.15, 0.25, 0.6, 1.4])
def test_an_interruption_is_measured_to_the_agents_last_sample(stop: float, law: str) -> None:
    said = Said(3.0, CALLER, "barge_in")
    cut = LONG[: round((2.0 + stop) * RATE)]
    answer = max(said.end, 3.0 + stop) + 0.7
    made = Made(said=[said], agent=[(1.0, cut), (answer, REPLY)], law=law).measured()
    assert made["barge_stop_ms"] == pytest.approx([stop * 1000], abs=MS)
    assert made["barge_success_pct"] == 100
    assert (made["missed_interrupts"], made["agent_interrupts_caller"], made["holes"]) == (0, 0, 0)
    assert made.turns[1].barge_stop_ms == pytest.approx(stop * 1000, abs=MS)
    if 3.0 + stop < said.end:
        assert made["v2v_ms"] == pytest.approx([700], abs=2)


def test_real_speech_that_is_cut_is_measured_to_20_ms() -> None:
    said = Said(2.0, spoken()["stop"], "barge_in")
    cut = spoken()["greeting"][: round(1.25 * RATE)]
    made = Made(said=[said], agent=[(1.0, cut)]).measured()
    assert made["barge_stop_ms"] == pytest.approx([250], abs=MS)


@pytest.mark.parametrize("pause", [0.0, 0.3, 0.6])
def test_an_agent_that_talks_on_did_not_stop_in_the_pause_between_two_sentences(pause: float) -> None:
    said = Said(3.0, made_up(1.5, seed=9), "barge_in")
    talk = [(1.0, made_up(2.2)), (3.2 + pause, LONG)]
    made = Made(said=[said], agent=talk).measured()
    assert made["barge_success_pct"] == 0
    assert made["missed_interrupts"] == 1
    assert made.samples("barge_stop_ms")[0] > 2000
    assert made["v2v_ms"] == []
    assert made["agent_interrupts_caller"] == 0


def test_an_agent_that_was_ending_anyway_was_not_interrupted() -> None:
    made = Made(said=[Said(3.0, CALLER)], agent=[(1.0, made_up(2.05))]).measured()
    assert made["interruptions"] == 0


def test_the_order_to_clear_is_measured_where_there_is_one() -> None:
    said = Said(3.0, CALLER, "barge_in")
    made = Made(said=[said], agent=[(1.0, LONG[: round(2.2 * RATE)])], log={"clears": [3.15]}).measured()
    assert made["barge_clear_ms"] == pytest.approx([150], abs=1)
    assert made["barge_stop_ms"] == pytest.approx([200], abs=MS)


@pytest.mark.parametrize(("ends", "stopped"), [(3.3, 1), (3.9, 1), (6.0, 0)])
def test_a_back_channel_must_not_stop_the_agent(ends: float, stopped: int) -> None:
    said = Said(3.0, made_up(0.4, seed=8), "backchannel")
    made = Made(said=[said], agent=[(1.0, LONG[: round((ends - 1.0) * RATE)])]).measured()
    assert (made["backchannels"], made["false_interrupts"]) == (1, stopped)
    assert (made["interruptions"], made["overlap_s"], made["caller_turns"]) == (0, 0, 0)


def test_a_pause_of_an_agent_that_goes_on_is_no_stop_for_a_back_channel() -> None:
    said = Said(3.0, made_up(0.4, seed=8), "backchannel")
    made = Made(said=[said], agent=[(1.0, made_up(2.3)), (3.8, LONG)]).measured()
    assert (made["backchannels"], made["false_interrupts"]) == (1, 0)


def test_the_agent_speaking_into_a_turn_is_counted() -> None:
    made = Made(said=[Said(2.0, made_up(2.0))], agent=[(3.0, REPLY)]).measured()
    assert made["agent_interrupts_caller"] == 1
    assert made.interrupts == pytest.approx([3.0], abs=0.02)
    assert made["v2v_ms"] == []
    assert made["overlap_s"] == pytest.approx(1.0, abs=0.02)
    assert made["talk_over_pct"] == pytest.approx(100 / 3, abs=1)


# --- silence -----------------------------------------------------------------------------


def test_dead_air_is_what_nobody_fills_and_no_hold_explains() -> None:
    said = Said(3.0, CALLER)
    hold = StepRecord(1, "hold", began=8.0, ended=12.0)
    events = [LineEvent(12.2, "held"), LineEvent(13.8, "resumed")]
    made = Made(said=[said], agent=[(0.5, REPLY)], seconds=14.0, steps=[hold], log={"events": events}).measured()
    assert made["dead_air_max_s"] == pytest.approx(8.0 - said.end, abs=0.02)
    assert made["dead_air_count"] == 1
    assert made.dead_air[0].start == pytest.approx(said.end, abs=0.01)


@pytest.mark.parametrize(("ended_by", "cut"), [("agent", 1), ("network", 1), ("caller", None)])
def test_a_tail_is_cut_when_the_agents_side_ends_in_speech(ended_by: str, cut: int | None) -> None:
    made = Made(agent=[(1.0, LONG)], seconds=5.0, log={"ended_by": ended_by}).measured()
    assert made["tail_cut"] == cut
    assert made.turns[-1].cut == bool(cut)


@pytest.mark.parametrize(("rest", "cut"), [(0.0, 1), (0.3, 0)])
def test_a_word_cut_where_it_is_soft_is_told_by_the_hang_up_right_behind_it(rest: float, cut: int) -> None:
    sound = made_up(1.0)[:7000].astype(np.float64)
    sound[-400:] *= np.linspace(1, 0, 400) ** 2
    made = Made(agent=[(1.0, sound.astype(np.int16))], seconds=1.875 + rest, log={"ended_by": "agent"})
    assert made.measured()["tail_cut"] == cut


def test_a_good_bye_that_ends_is_not_cut() -> None:
    bye = spoken()["bye"]
    fade = bye.astype(np.float64)
    fade[-80:] *= np.linspace(1, 0, 80)
    made = Made(agent=[(1.0, fade.astype(np.int16))], seconds=1.1 + len(bye) / RATE, log={"ended_by": "agent"})
    assert made.measured()["tail_cut"] == 0


# --- keys, packets, plain data ---------------------------------------------------------------


def test_keys_of_the_agent_are_compared_with_those_expected() -> None:
    keys = [(2.0 + 0.2 * n, np.frombuffer(tones(key, 0.1, L16_8K), "<i2")) for n, key in enumerate("4*7")]
    events = [LineEvent(3.0, "dtmf", "1"), LineEvent(2.05, "dtmf", "4")]
    scenario = {"steps": [{"expect": {"dtmf": "4*71"}}]}
    made = Made(agent=[(0.5, made_up(1.0)), *keys], log={"events": events}, scenario=scenario).measured()
    assert made.keys_heard == "4*71"
    assert made["dtmf_out"] == 4
    assert made["dtmf_out_accuracy_pct"] == 100
    assert made["dtmf_tone_ms"] == pytest.approx([100] * 3, abs=6)
    assert made["dtmf_gap_ms"] == pytest.approx([100] * 2, abs=6)
    assert [turn.who for turn in made.turns] == ["agent"]
    scenario = {"steps": [{"expect": {"dtmf": "4*781"}}]}
    made = Made(agent=keys, log={"events": events}, scenario=scenario).measured()
    assert made["dtmf_out_accuracy_pct"] == 80


def test_packets_make_the_opinion_score() -> None:
    count = 400
    whole = Arrivals(
        at=array("d", [n * 0.02 for n in range(count)]),
        sequence=array("i", range(count)),
        timestamp=array("q", [160 * n for n in range(count)]),
        size=array("i", [160] * count),
        ssrc=array("q", [7] * count),
    )
    made = exchange(0.7, log={"arrivals": whole}).measured()
    assert made["rtp_loss_pct"] == 0
    assert made.samples("mos_e")[0] > 4.3
    assert made["packet_gap_p99_ms"] == pytest.approx(20)


def test_everything_is_named_and_plain() -> None:
    made = exchange(0.7).measured()
    assert set(made.values) == set(METRICS)
    assert json.loads(json.dumps(made.as_dict()))["v2v_ms"] == pytest.approx([700], abs=2)
    turns = made.turns_as_dicts()
    assert [turn["who"] for turn in turns] == ["agent", "caller", "agent"]
    assert turns[2]["v2v_ms"] == pytest.approx(700, abs=2)
    for name, metric in METRICS.items():
        assert isinstance(made[name], list) == metric.samples, name
        assert not metric.unit or name.endswith(("_" + metric.unit.lower(), "mos_e")), name


def test_a_caller_without_steps_is_heard_by_its_track() -> None:
    said = Said(3.0, CALLER)
    made = Made(agent=[(said.end + 0.5, REPLY)], log={"caller": laid(14.0, (3.0, CALLER))}).measured()
    assert made["v2v_ms"] == pytest.approx([500], abs=2)
    assert made.said[0].span == Span(pytest.approx(3.0, abs=0.002), pytest.approx(said.end, abs=0.002))


def test_keys_count_however_they_are_pressed() -> None:
    steps: Any = [{"dtmf": "12"}, {"dtmf": {"digits": "3", "by": "inband"}}, {"dtmf": {"digits": "4", "by": "inband"}}]
    done = [
        StepRecord(0, "dtmf", keys="12"),
        StepRecord(1, "dtmf", keys="3"),
        StepRecord(2, "dtmf", keys="4", failed="the call ended before all keys were pressed"),
    ]
    made = Made(steps=done, scenario={"steps": steps}, log={"pressed": [(1.0, "1"), (1.2, "2")]}).measured()
    assert made["dtmf_in"] == 3
