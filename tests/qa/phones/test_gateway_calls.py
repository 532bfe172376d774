"""Calls of a carrier to a real gateway, with its tokens, signatures and transfers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.operators import Acting, listen
from fakes.served import PUBLIC, free_port, gateway

from offhook.codecs.pcm import tone
from offhook.qa.activity import RATE, Samples, speech_spans
from offhook.qa.phones.base import CallerLine, CallLog, CallOrder
from offhook.qa.phones.carriers import CarrierPhone
from offhook.qa.scenario.model import Media, Target

TOKEN = "tok-0123456789"
WEBHOOKS = {"twilio": "/twilio/voice", "plivo": "/plivo/answer"}
SECRETS = {"twilio": ("account_sid", "auth_token"), "plivo": ("auth_id", "auth_token")}

LEAVER = """
from offhook.agents.api import Agent

class Leaver(Agent):
    def on_dtmf(self, digit):
        if digit == "9":
            self.call.transfer("+15550155")
        else:
            self.call.hang_up("a key was pressed")
"""


def hum(seconds: float) -> Samples:
    return np.frombuffer(tone(440, seconds, RATE), np.int16)


@asynccontextmanager
async def answering(name: str, folder: Path, agent: dict[str, Any]) -> AsyncIterator[tuple[CarrierPhone, Target]]:
    """A phone, and a gateway that knows its API and whose agent answers every number."""
    port = free_port()
    target = Target.model_validate({"to": f"{name}+http://127.0.0.1:{port}{WEBHOOKS[name]}", "public_url": PUBLIC})
    async with CarrierPhone(target, auth_token=TOKEN) as phone:
        account, token = SECRETS[name]
        config = {
            "public_url": PUBLIC,
            "listen": {"port": port},
            "data_dir": str(folder / "var"),
            "carriers": {name: {account: phone.account, token: TOKEN, "api_base": phone.api_base}},
            "agents": {"agent": agent},
            "routes": [{"number": "*", "agent": "agent", "allow_transfer": ["+15550155"]}],
            "log": {"level": "error"},
        }
        async with gateway(folder, config):
            yield phone, target


async def dial(phone: CarrierPhone, target: Target, caller: Acting, **changed: Any) -> CallLog:
    order = CallOrder(target.model_copy(update=changed), Media(), "call-1", timeout=20)
    return await phone.carry(order, caller)


@pytest.mark.timing
@pytest.mark.parametrize("name", ["twilio", "plivo"])
async def test_an_echo_comes_back_through_the_gateway(tmp_path: Path, name: str) -> None:
    def act(self: Acting, line: CallerLine) -> Iterator[None]:
        yield from self.until(lambda: line.seconds >= 0.5, 5.0, line)
        yield from self.say(hum(0.5))
        yield from self.until(lambda: False, 0.5, line)

    async with answering(name, tmp_path, {"kind": "echo"}) as (phone, target):
        log = await dial(phone, target, Acting(act))
        forged = await dial(phone, target, Acting(listen(1.0)), tamper="wrong_signature")
        stolen = await dial(phone, target, Acting(listen(0.5)), tamper="replayed_token")
    assert (log.status, log.ended_by, log.faults) == (200, "caller", [])
    [said], [heard] = speech_spans(log.caller), speech_spans(log.agent)
    assert heard.seconds == pytest.approx(0.5, abs=0.06)
    assert 0 <= heard.start - said.start < 0.15
    assert (forged.answered, forged.status) == (False, 403)
    assert (stolen.answered, stolen.status) == (True, 403)
    assert "refused" in [event.kind for event in stolen.events]


@pytest.mark.parametrize("name", ["twilio", "plivo"])
async def test_keys_reach_the_agent_which_hangs_up_or_transfers(tmp_path: Path, name: str) -> None:
    (tmp_path / "leaver.py").write_text(LEAVER)

    def pressing(key: str) -> Acting:
        def act(self: Acting, line: CallerLine) -> Iterator[None]:
            line.press(key, "rfc4733", 0.1, 0.1)
            yield from self.until(lambda: False, 10.0, line)

        return Acting(act)

    agent = {"kind": "leaver:Leaver", "path": str(tmp_path)}
    async with answering(name, tmp_path, agent) as (phone, target):
        left = await dial(phone, target, pressing("1"))
        moved = await dial(phone, target, pressing("9"))
    assert (left.ended_by, [key for _, key in left.pressed]) == ("agent", ["1"])
    [transfer] = [event.detail for event in moved.events if event.kind == "transfer"]
    assert transfer.removeprefix("+") == "15550155"
    assert moved.ended_by == "agent"
