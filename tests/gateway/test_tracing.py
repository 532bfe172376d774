"""Traces as a collector gets them: OTLP over HTTP, decoded from its protobuf."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry is not installed: pip install 'offhook[otel]'")

from fakes.otlp import Collector, attributes
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from offhook.gateway import tracing as subject
from offhook.gateway.config_sections import Tracing
from offhook.gateway.journal import Entry, Journal
from offhook.gateway.tracing import Tracer
from offhook.qa.simulator import CarrierSimulator
from offhook.qa.web import Unreachable

CALL = "0123456789abcdef0123456789abcdef"
WALL, MONO = 1_790_000_000.0, 5000.0


def entry(event: str, at: float, call: str = CALL, **data: Any) -> Entry:
    return Entry(call, 1, event, WALL + at, MONO + at, data)


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def tracer(endpoint: str, **settings: Any) -> Tracer:
    return Tracer(Tracing.model_validate({"endpoint": endpoint} | settings))


def seconds(span: Span) -> tuple[float, float]:
    return (round(span.start_time_unix_nano / 1e9 - WALL, 3), round(span.end_time_unix_nano / 1e9 - WALL, 3))


TURN = {
    "utterance": 2,
    "caller_stopped": MONO + 5.0,
    "voice_to_voice_ms": 600.0,
    "stages": {"endpointing": 300.0, "thinking": 200.0, "playout": 100.0},
    "hearing_ms": 80.0,
}

STORY = [
    entry("call.offered", 0, carrier="twilio", agent="desk", **{"from": "+15550142", "to": "+15550100"}),
    entry("call.answered", 0.5, format="pcmu/8000"),
    entry("turn", 1.5, utterance=1, caller_stopped=0.0, voice_to_voice_ms=0.0, stages={}, hearing_ms=None),
    entry("transcript", 4, role="caller", text="my card is 4111 1111"),
    entry("dtmf", 4, digit="4"),
    entry("service.fault", 4.5, role="stt", service="deepgram", fault="unavailable", detail="", ttfb_ms=0.0),
    entry("service.fault", 5.2, role="llm", service="openai", fault="timeout", detail="5 s", ttfb_ms=0.0),
    entry("turn", 6.1, **TURN),
    entry("agent.note", 8, name="function", data={"function": "book", "seconds": 1.5, "ok": False}),
    entry("agent.note", 8, name="mood", data={"is": "fine"}),
    entry("barge_in", 9, heard_ms=700),
    entry("transfer", 9.5, to="+15550111", ok=True, error=""),
    entry("call.ended", 10, status="failed", reason="agent_crashed", ended_by="gateway", detail="exit 3", seconds=9.5),
    entry("recording.stopped", 11, reason="complete"),
]


async def test_a_call_is_a_trace_a_turn_a_span_and_its_stages_are_below_it(collector: Collector) -> None:
    made = tracer(collector.endpoint, headers={"x-api-key": "hunter2"}, service_name="front")
    for one in STORY:
        made.entry(one)
    await made.close()
    assert made.lost == 0
    assert collector.headers[0]["x-api-key"] == "hunter2"
    resource = attributes(collector.requests[0].resource_spans[0].resource)
    assert resource["service.name"] == "front"
    spans = collector.spans
    assert {span.trace_id.hex() for span in spans} == {CALL}
    assert [(span.name, *seconds(span)) for span in spans] == [
        ("call", 0.0, 10.0),
        ("ring", 0.0, 0.5),
        ("turn", 5.0, 5.68),
        ("endpointing", 5.0, 5.3),
        ("thinking", 5.3, 5.5),
        ("playout", 5.5, 5.6),
        ("hearing", 5.6, 5.68),
        ("function book", 6.5, 8.0),
    ]
    call, ring, turn, *stages, function = spans
    assert call.parent_span_id == b""
    assert {span.parent_span_id for span in (ring, turn, function)} == {call.span_id}
    assert {span.parent_span_id for span in stages} == {turn.span_id}
    assert function.status.code == call.status.code == Status.STATUS_CODE_ERROR
    assert call.status.message == "exit 3"
    said = attributes(call)
    assert (said["offhook.carrier"], said["offhook.reason"]) == ("twilio", "agent_crashed")
    assert said["offhook.talk_seconds"] == 9.5
    assert attributes(turn)["offhook.voice_to_ear_ms"] == 680.0
    assert [(event.name, attributes(event)["service"]) for event in turn.events] == [("service.fault", "openai")]
    assert [event.name for event in call.events] == ["service.fault", "barge_in", "transfer"]
    wire = b"".join(request.SerializeToString() for request in collector.requests)
    assert not [secret for secret in (b"+1555", b"4111", b"dtmf") if secret in wire]


async def test_a_share_of_the_calls_is_traced_the_same_on_every_node(collector: Collector) -> None:
    made = tracer(collector.endpoint, sample=0.5)
    for first in "0123456789abcdef":
        made.entry(entry("call.offered", 0, first + CALL[1:]))
        made.entry(entry("call.ended", 1, first + CALL[1:], status="completed"))
    await made.close()
    assert sorted(span.trace_id.hex()[0] for span in collector.spans) == list("01234567")


async def test_what_is_no_call_of_ours_is_left_alone(collector: Collector) -> None:
    made = tracer(collector.endpoint)
    for one in (
        entry("call.offered", 0, "warm"),
        entry("call.ended", 0, status="lost"),
        entry("turn", 0, "f" * 32, **TURN),
    ):
        made.entry(one)
    await made.close()
    assert (collector.requests, made.lost) == ([], 0)


async def test_odd_data_costs_its_own_entry_only(collector: Collector) -> None:
    made = tracer(collector.endpoint)
    made.entry(STORY[0])
    made.entry(entry("turn", 1, voice_to_voice_ms="fast", stages=7))
    made.entry(entry("turn", 1, voice_to_voice_ms=float("nan"), caller_stopped=1.0))
    made.entry(entry("agent.note", 1, name="function", data="book"))
    made.entry(entry("agent.note", 2, name="function", data={"function": 7, "seconds": "long", "ok": None}))
    made.entry(STORY[-2])
    await made.close()
    assert "call" in [span.name for span in collector.spans]


async def test_the_journal_is_what_traces_are_made_of(collector: Collector, tmp_path: Path) -> None:
    journal, made = Journal(tmp_path), tracer(collector.endpoint + "/v1/traces")
    journal.tap = made.entry
    journal.append(CALL, "call.offered", {"carrier": "plivo"})
    now = time.monotonic()
    journal.append(CALL, "turn", TURN | {"caller_stopped": now - 1.0})
    journal.append(CALL, "call.ended", {"status": "completed"})
    journal.close()
    await made.close()
    turn = next(span for span in collector.spans if span.name == "turn")
    assert abs(turn.start_time_unix_nano / 1e9 - (time.time() - (time.monotonic() - now) - 1.0)) < 0.1
    assert next(span for span in collector.spans if span.name == "call").status.code == Status.STATUS_CODE_UNSET


async def test_a_collector_that_fails_is_mentioned_once_and_what_it_missed_is_counted(
    collector: Collector, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    collector.status = 400
    made = tracer(collector.endpoint)
    for _ in range(3):
        for one in STORY:
            made.entry(one)
        async with asyncio.timeout(5):
            while made._entries:
                await asyncio.sleep(0.01)
        await asyncio.to_thread(made._provider.force_flush)
    assert made.lost >= 24
    collector.status = 200
    for one in STORY:
        made.entry(one)
    await made.close()
    assert len(collector.spans) == 8
    said = capsys.readouterr().out + caplog.text
    assert said.count("traces cannot be exported") == 1
    assert said.count("traces are exported again") == 1
    assert "Failed to export" not in said


async def test_a_collector_that_is_away_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subject, "CLOSE_BUDGET", 0.1)
    monkeypatch.setattr(subject, "MAX_ENTRIES", 100)
    made = tracer("http://127.0.0.1:9/v1/traces")
    before = time.perf_counter()
    for _ in range(200):
        for one in STORY:
            made.entry(one)
    assert time.perf_counter() - before < 0.1
    assert len(made._entries) <= 100
    before = time.perf_counter()
    await made.close()
    assert time.perf_counter() - before < 3
    assert made.lost > 2000
    assert capsys.readouterr().out.count("cannot be exported") <= 1
    assert logging.getLogger("opentelemetry").level == logging.CRITICAL


def test_an_endpoint_is_a_url_and_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Tracing(endpoint="http://c:4318").endpoint == "http://c:4318/v1/traces"
    assert Tracing(endpoint="https://c/otlp").endpoint == "https://c/otlp"
    with pytest.raises(ValueError, match="write it with its scheme"):
        Tracing(endpoint="collector:4318")
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        Tracing(sample=-1)
    monkeypatch.setattr("offhook.gateway.config_sections.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"run: pip install 'offhook\[otel\]'"):
        Tracing(endpoint="http://c:4318")
    assert Tracing().endpoint == ""


@pytest.mark.timing
async def test_a_call_through_a_gateway_process_is_traced_under_its_own_id(
    collector: Collector, tmp_path: Path
) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    async with CarrierSimulator(
        "twilio",
        f"http://127.0.0.1:{port}/twilio/voice",
        "test-token",
        public_url="https://voice.example.com",
        status_url="/twilio/status",
    ) as carrier:
        twilio = {"account_sid": carrier.carrier.account, "auth_token": "test-token", "api_base": carrier.api_base}
        config = {
            "public_url": "https://voice.example.com",
            "listen": {"port": port},
            "carriers": {"twilio": twilio},
            "agents": {"echo": {"kind": "echo"}},
            "routes": [{"number": "*", "agent": "echo"}],
            "tracing": {"endpoint": collector.endpoint},
        }
        (tmp_path / "config.yaml").write_text(json.dumps(config))
        with (tmp_path / "log").open("wb") as log:
            gateway = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "offhook.gateway", "serve"), stdout=log, stderr=log, cwd=tmp_path
            )
        async with asyncio.timeout(40):
            while True:
                with contextlib.suppress(Unreachable):
                    if (await carrier.web.request("GET", f"http://127.0.0.1:{port}/readyz", {})).status == 200:
                        break
                assert gateway.returncode is None, (tmp_path / "log").read_text()
                await asyncio.sleep(0.05)
            call = await carrier.ring("+15550001", "+15550100")
            await call.listen(0.3)
            await call.hang_up()
            await call.wait_over()
            gateway.terminate()
            assert await gateway.wait() == 0
    [root] = [span for span in collector.spans if span.name == "call"]
    assert attributes(root)["offhook.carrier_call_id"] == call.card.call_id
    assert attributes(root)["offhook.reason"] == "caller_hangup"
    assert f'"call_id": "{root.trace_id.hex()}"' in (tmp_path / "log").read_text()
