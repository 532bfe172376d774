"""The phone menu of docs/flow.md on a real gateway: whole calls, by key and by ear."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fakes.served import served

from offhook.gateway.store import Store
from offhook.qa.call import SimulatedCall
from offhook.qa.simulator import CarrierSimulator

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.timing,
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed"),
]


def documented() -> dict[str, Any]:
    [block] = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "flow.md").read_text(), re.DOTALL | re.MULTILINE)
    config: dict[str, Any] = yaml.safe_load(block)
    return config


@asynccontextmanager
async def gateway(tmp_path: Path) -> AsyncIterator[CarrierSimulator]:
    """One gateway with the flow, whose queue moves on faster than written."""
    config = documented()
    [agent] = config["agents"].values()
    [route] = config["routes"]
    agent["steps"]["sales"]["queue"] |= {"every": 3, "seconds": 5}
    async with served(tmp_path, agent, routes=[route | {"agent": "agent"}]) as made:
        yield made


async def recorded(folder: Path, call: SimulatedCall) -> tuple[Any, list[Any]]:
    """The call's row and its events, once it has ended in them."""
    store = Store(f"sqlite+aiosqlite:///{folder / 'var' / 'calls.db'}")
    await store.open_existing()
    try:
        async with asyncio.timeout(10):
            while True:
                for record in await store.calls(limit=5):
                    if record.carrier_call_id == call.card.call_id and record.status != "live":
                        return record, await store.events(record.id)
                await asyncio.sleep(0.05)
    finally:
        await store.close()


def of(events: list[Any], kind: str) -> list[Any]:
    return [event.data for event in events if event.event == kind]


async def type_a_number(simulator: CarrierSimulator, tmp_path: Path) -> None:
    call = await simulator.ring("+15550001", "+15550100")
    await call.wait_agent_speaking(seconds=1.0)
    await call.dtmf("2")  # into the middle of the welcome
    await call.wait_agent_turn()
    await call.dtmf("1230")
    await call.wait_over()
    record, events = await recorded(tmp_path, call)
    assert (record.status, record.reason, record.detail) == ("completed", "agent_hangup", "order told")
    said = of(events, "utterance")
    assert [one["outcome"] for one in said] == ["cut", "played", "played"]
    assert 700 < said[0]["heard_ms"] < 1800
    assert said[2]["text"] == "Order 1 2 3 0 was sent yesterday. Goodbye."
    notes = [note["data"] for note in of(events, "agent.note")]
    assert notes == [
        {"step": "welcome", "by": "2", "to": "order"},
        {"step": "order", "into": "order", "digits": "4"},
    ]
    result = call.result()
    assert not result.errors
    assert not result.measures.gaps


async def wait_in_the_queue(simulator: CarrierSimulator, tmp_path: Path) -> None:
    call = await simulator.ring("+15550001", "+15550100")
    await call.wait_agent_speaking(seconds=0.3)
    await call.dtmf("1")
    await call.wait_over(timeout=60)
    result = call.result()
    assert not result.errors
    assert result.transfers
    record, events = await recorded(tmp_path, call)
    assert (record.reason, record.transferred_to) == ("transferred", "+15550199")
    texts = [one["text"] for one in of(events, "utterance")]
    assert [text.partition(".")[0] for text in texts[1:]] == [
        "Please wait, all our colleagues are speaking to somebody",
        "Thank you for waiting",
        "I am connecting you",
    ]
    # Music from the words to the message, without a hole of a frame.
    loud = np.abs(result.agent.astype(int)[: len(result.agent) // 160 * 160]).reshape(-1, 160).max(axis=1) > 40
    assert not result.measures.gaps
    assert np.convolve(loud, np.ones(25), "valid").max() == 25


async def leave_a_message(simulator: CarrierSimulator, tmp_path: Path) -> None:
    call = await simulator.ring("+15550001", "+15550100")
    await call.wait_agent_speaking(seconds=0.3)
    await call.dtmf("3")
    await call.wait_agent_turn(seconds=1.0)
    hum = (6000 * np.sin(np.arange(8000) * 2 * np.pi * 300 / 8000)).astype(np.int16)
    await call.say(hum)
    await call.dtmf("#")
    await call.wait_over()
    record, events = await recorded(tmp_path, call)
    assert (record.reason, record.detail) == ("agent_hangup", "flow over")
    notes = {note["name"]: note["data"] for note in of(events, "agent.note")}
    assert 1 <= int(notes["voicemail"]["seconds"]) <= 4
    assert notes["voicemail"]["caller"] == "+15550001"
    assert record.recording_path


async def test_three_callers_of_one_menu(tmp_path: Path) -> None:
    async with gateway(tmp_path) as simulator, asyncio.TaskGroup() as callers:
        for caller in (type_a_number, wait_in_the_queue, leave_a_message):
            callers.create_task(caller(simulator, tmp_path))
