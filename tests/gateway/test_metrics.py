"""Metrics: the names, the labels, what is read at a scrape, and what a call pays."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from offhook.agents.link import Service
from offhook.gateway.journal import JournalStats
from offhook.gateway.latency import HEARING, STAGES, Split
from offhook.gateway.metrics import MAX_SERVICES, Metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    body, content_type = metrics.exposition()
    assert content_type.startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def board() -> Any:
    return SimpleNamespace(
        draining=False,
        active=4,
        live=3,
        slots=100,
        admits=True,
        clock=SimpleNamespace(ticks=1000, late_ticks=2),
        journal=SimpleNamespace(stats=JournalStats(written=50, appended_bytes=900, settled_bytes=800)),
        recorder=SimpleNamespace(bytes_written=32_000, stopped_early=1, live=2),
        pool=SimpleNamespace(restarts=3, hosts=[SimpleNamespace(rss_bytes=10), SimpleNamespace(rss_bytes=5)]),
        totals=lambda: (5000, 4000),
    )


def test_what_happens_is_counted_by_few_labels() -> None:
    metrics = Metrics()
    metrics.webhook("twilio", "incoming", 200, 0.02)
    metrics.unauthorized("plivo")
    metrics.call_answered("twilio", 0.4)
    metrics.call_ended("twilio", "completed", "caller_hangup", 61.0)
    metrics.call_ended("twilio", "refused", "no_capacity")
    metrics.fault("twilio", "bad-json")
    metrics.barge_in(0.004)
    metrics.barge_in()
    metrics.loop_lag(0.001)
    found = samples(metrics)
    twilio = ("carrier", "twilio")
    assert found["offhook_webhook_seconds_count", (twilio, ("code", "200"), ("kind", "incoming"))] == 1
    assert found["offhook_unauthorized_total", (("carrier", "plivo"),)] == 1
    assert found["offhook_answer_seconds_sum", (twilio,)] == 0.4
    assert found["offhook_calls_total", (twilio, ("reason", "caller_hangup"), ("status", "completed"))] == 1
    assert found["offhook_calls_total", (twilio, ("reason", "no_capacity"), ("status", "refused"))] == 1
    assert found["offhook_call_seconds_count", (twilio,)] == 1
    assert found["offhook_carrier_faults_total", (twilio, ("kind", "bad-json"))] == 1
    assert found["offhook_barge_ins_total", ()] == 2
    assert found["offhook_barge_in_stop_seconds_count", ()] == 1
    assert found["offhook_loop_lag_seconds_count", ()] == 1
    assert next(key for key in found if key[0] == "offhook_info")[1][0][0] == "version"


def test_turns_are_split_into_stages() -> None:
    metrics = Metrics()
    metrics.turn(Split(640.0, {"endpointing": 400.0, "thinking": 240.0}, 60.0))
    metrics.turn(Split(360.0, {"endpointing": 360.0}))
    metrics.turn(Split(0.0))
    found = samples(metrics)
    assert found["offhook_voice_to_voice_seconds_count", ()] == 2
    assert found["offhook_voice_to_voice_seconds_sum", ()] == 1.0
    assert found["offhook_voice_to_ear_seconds_count", ()] == 1
    assert found["offhook_voice_to_ear_seconds_sum", ()] == 0.7
    assert found["offhook_stage_seconds_sum", (("stage", "endpointing"),)] == 0.76
    assert found["offhook_stage_seconds_sum", (("stage", "hearing"),)] == 0.06
    stages = {key[1][0][1] for key in found if key[0] == "offhook_stage_seconds_count"}
    assert stages == {*STAGES, HEARING}


def test_nobody_outside_makes_up_labels() -> None:
    metrics = Metrics()
    for n in range(50):
        metrics.fault(f"carrier-{n}", f"kind-{n}")
        metrics.unauthorized(f"carrier-{n}")
    found = samples(metrics)
    assert found["offhook_carrier_faults_total", (("carrier", "other"), ("kind", "other"))] == 50
    assert found["offhook_unauthorized_total", (("carrier", "other"),)] == 50


def test_services_are_measured_and_their_names_bounded() -> None:
    metrics = Metrics()
    metrics.service(Service("llm", "openai", ttfb_ms=250.0))
    metrics.service(Service("llm", "openai", fault="timeout", detail="5 s"))
    metrics.service(Service("tts", "openai", ttfb_ms=90.0, fault="unavailable"))
    metrics.service(Service("stt", "x" * 1000, fault="made up"))
    for n in range(100):
        metrics.service(Service("stt", f"service-{n}", ttfb_ms=100.0))
    found = samples(metrics)
    openai = (("role", "llm"), ("service", "openai"))
    assert found["offhook_service_first_result_seconds_sum", openai] == 0.25
    assert found["offhook_service_faults_total", (("fault", "timeout"), *openai)] == 1
    assert found["offhook_service_faults_total", (("fault", "other"), ("role", "stt"), ("service", "other"))] == 1
    assert found["offhook_service_first_result_seconds_count", (("role", "tts"), ("service", "openai"))] == 1
    named = {dict(key[1])["service"] for key in found if key[0] == "offhook_service_first_result_seconds_count"}
    assert len(named) == MAX_SERVICES + 1
    assert found["offhook_service_first_result_seconds_count", (("role", "stt"), ("service", "other"))] == 69


def test_take_overs_are_counted_by_how_they_went() -> None:
    metrics = Metrics()
    metrics.takeover("resumed")
    metrics.takeover("failed")
    found = samples(metrics)
    assert found["offhook_takeovers_total", (("outcome", "resumed"),)] == 1
    assert found["offhook_takeovers_total", (("outcome", "failed"),)] == 1


def test_the_media_path_is_read_when_somebody_scrapes() -> None:
    metrics, watched = Metrics(), board()
    metrics.watch(watched, SimpleNamespace(shipped=45, lag=1.5))
    found = samples(metrics)
    expected = {
        "offhook_live_calls": 3,
        "offhook_slots": 100,
        "offhook_slots_used": 4,
        "offhook_admitting": 1,
        "offhook_draining": 0,
        "offhook_agent_hosts": 2,
        "offhook_agent_host_bytes": 15,
        "offhook_live_recordings": 2,
        "offhook_journal_waiting_bytes": 100,
        "offhook_journal_disk_full": 0,
        "offhook_frames_in_total": 5000,
        "offhook_frames_out_total": 4000,
        "offhook_playout_ticks_total": 1000,
        "offhook_playout_late_ticks_total": 2,
        "offhook_agent_host_restarts_total": 3,
        "offhook_recording_bytes_total": 32_000,
        "offhook_recordings_stopped_total": 1,
        "offhook_journal_entries_total": 50,
        "offhook_journal_dropped_total": 0,
        "offhook_journal_failures_total": 0,
        "offhook_store_lag_seconds": 1.5,
        "offhook_store_entries_total": 45,
    }
    assert {name: found[name, ()] for name in expected} == expected
    watched.live = 99
    assert samples(metrics)["offhook_live_calls", ()] == 99


def test_anything_else_can_be_read_too() -> None:
    metrics = Metrics()
    value = 1.0
    metrics.read("offhook_test", "A test.", lambda: value)
    metrics.read("offhook_test_things", "More.", lambda: 7, counter=True)
    found = samples(metrics)
    assert (found["offhook_test", ()], found["offhook_test_things_total", ()]) == (1.0, 7.0)


def test_the_process_itself_is_measured_and_registries_are_apart() -> None:
    first, second = Metrics(), Metrics()
    first.barge_in()
    assert samples(second)["offhook_barge_ins_total", ()] == 0
    assert ("process_open_fds", ()) in samples(first)
    assert not [key for key in samples(first) if key[0].endswith("_created")]


def test_every_name_is_ours_with_its_unit() -> None:
    metrics = Metrics()
    metrics.watch(board())
    for name, _ in samples(metrics):
        assert name.startswith(("offhook_", "process_"))
        assert "_ms" not in name


@pytest.mark.timing
def test_a_count_costs_a_few_microseconds() -> None:
    metrics = Metrics()
    best = 1.0
    for _ in range(20):
        started = time.thread_time()
        for _ in range(100):
            metrics.fault("twilio", "bad-json")
        best = min(best, (time.thread_time() - started) / 100)
    assert best < 10e-6
