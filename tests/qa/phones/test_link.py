"""Calls to agents on the link, over real sockets: one written as its author would, and none at all."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.operators import Acting, listen, punctual
from fakes.served import free_port
from websockets.asyncio.server import ServerConnection, serve

from offhook.codecs.pcm import tone
from offhook.qa.activity import RATE, Samples, speech_spans
from offhook.qa.phones.base import CallerLine, CallLog, CallOrder, Unable, Unreachable
from offhook.qa.phones.link import LinkPhone
from offhook.qa.scenario.model import Media, Target

Answer = Callable[[ServerConnection], Awaitable[None]]
WORDS = tone(440, 1.0, 16_000)
"""A second of l16/16000."""


def hum(seconds: float) -> Samples:
    return np.frombuffer(tone(440, seconds, RATE), np.int16)


@asynccontextmanager
async def agent(answer: Answer) -> AsyncIterator[str]:
    async with serve(answer, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"link+ws://127.0.0.1:{port}/link"


async def call(to: str, caller: Acting, **more: Any) -> CallLog:
    media, timeout = Media.model_validate(more.pop("media", {})), more.pop("timeout", 20.0)
    target = Target.model_validate({"to": to, **more})
    async with LinkPhone(target) as phone:
        log = await phone.carry(CallOrder(target, media, "call-1", timeout=timeout), caller)
    assert caller.over
    return log


async def tell(socket: ServerConnection, type_: str, **fields: Any) -> None:
    await socket.send(json.dumps({"type": type_, **fields}))


class Speaker:
    """Greets for a second, is interrupted by a key, and says goodbye."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.audio = 0

    async def __call__(self, socket: ServerConnection) -> None:
        self.heard.append(json.loads(await socket.recv()))
        await tell(socket, "ready", format="l16/16000")
        async for message in socket:
            if isinstance(message, bytes):
                self.audio += len(message)
                continue
            event = json.loads(message)
            self.heard.append(event)
            if event["type"] == "answered":
                await self.speak(socket, 1, 2)
            elif event["type"] == "dtmf":
                await tell(socket, "clear")
                await tell(socket, "dtmf.send", digits="42")
                await self.speak(socket, 2, 1)
                await tell(socket, "hangup", reason="goodbye")

    async def speak(self, socket: ServerConnection, number: int, seconds: int) -> None:
        await tell(socket, "speak", utterance=number)
        for _ in range(seconds):
            await socket.send(WORDS)
        await tell(socket, "spoken", utterance=number)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.heard if event["type"] == kind]


async def test_an_agent_is_offered_heard_interrupted_and_let_go() -> None:
    def act(self: Acting, line: CallerLine) -> Iterator[None]:
        yield from self.until(lambda: line.activity.speaking_since is not None, 3.0, line)
        yield from self.until(lambda: False, 0.5, line)
        line.press("5", "rfc4733", 0.1, 0.1)
        yield from self.until(lambda: False, 10.0, line)

    speaker, caller = Speaker(), Acting(act)
    async with agent(speaker) as to:
        log = await call(to, caller, headers={"tier": "gold"})
    [offer] = speaker.of("offer")
    assert offer["format"] == "pcmu/8000"
    assert offer["call"]["from_number"] == "+15550100"
    assert offer["call"]["parameters"] == {"tier": "gold"}
    first, second = speaker.of("utterance.ended")
    assert (first["utterance"], first["outcome"], first["length_ms"]) == (1, "cut", 2000)
    assert first["heard_ms"] == pytest.approx(540, abs=80)
    assert second == {
        "type": "utterance.ended", "utterance": 2, "outcome": "played", "heard_ms": 1000, "length_ms": 1000,
    }  # fmt: skip
    assert speaker.heard[-1] == {"type": "over", "reason": "agent_hangup"}
    assert speaker.audio == pytest.approx(len(log.left_at) * 640, abs=700)
    assert (log.way, log.status, log.answered, log.codec) == ("link", 101, True, "L16")
    assert (log.ended_by, log.ended_how, log.faults) == ("agent", "the agent hung up: goodbye", [])
    assert [event.kind for event in log.events] == ["answered", "cleared", "dtmf", "ended"]
    assert sum(span.seconds for span in speech_spans(log.agent)) == pytest.approx(1.54, abs=0.08)
    assert len(log.clears) == 1
    titles = [rung.title for rung in log.ladder]
    assert [
        title for title in ("offer", "ready", "answered", "speak", "utterance.ended", "hangup") if title in titles
    ] == [*("offer", "ready", "answered", "speak", "utterance.ended", "hangup")]


@pytest.mark.timing
async def test_the_caller_is_heard_and_echoed_live() -> None:
    async def echo(socket: ServerConnection) -> None:
        await socket.recv()
        await tell(socket, "ready", format="l16/8000")
        async for message in socket:
            if isinstance(message, bytes):
                await socket.send(message)

    def act(self: Acting, line: CallerLine) -> Iterator[None]:
        yield from self.until(lambda: False, 0.3, line)
        yield from self.say(hum(0.5))
        yield from self.until(lambda: False, 0.4, line)

    async with agent(echo) as to:
        log = await punctual(lambda: call(to, Acting(act)))
        slow = await punctual(lambda: call(to, Acting(act), media={"network": {"delay": "50ms"}}))
    [said], [heard] = speech_spans(log.caller), speech_spans(log.agent)
    assert heard.seconds == pytest.approx(0.5, abs=0.011)
    assert heard.start - said.start == pytest.approx(0.02, abs=0.02)
    [said], [heard] = speech_spans(slow.caller), speech_spans(slow.agent)
    assert heard.start - said.start == pytest.approx(0.12, abs=0.02)
    assert slow.network_s == pytest.approx(0.05, abs=0.001)
    assert (log.ended_by, log.faults) == ("caller", [])


async def test_the_agent_of_the_documentation_can_be_called(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "link.md").read_text()
    program = text.partition("```python\n")[2].partition("```")[0]
    port = free_port()
    assert "9000" in program
    (tmp_path / "agent.py").write_text(program.replace("9000", str(port)))

    def act(self: Acting, line: CallerLine) -> Iterator[None]:
        yield from self.say(hum(0.3))
        line.press("1", "rfc4733", 0.1, 0.1)
        yield from self.until(lambda: False, 5.0, line)

    served = await asyncio.create_subprocess_exec(sys.executable, str(tmp_path / "agent.py"))
    try:
        async with asyncio.timeout(15):
            while True:
                try:
                    log = await call(f"link+ws://127.0.0.1:{port}", Acting(act))
                    break
                except Unreachable:
                    await asyncio.sleep(0.1)
    finally:
        served.terminate()
        await served.wait()
    assert (log.ended_by, log.ended_how) == ("agent", "the agent hung up: key pressed")
    assert [span.seconds for span in speech_spans(log.agent)] == [pytest.approx(0.3, abs=0.03)]


async def test_a_transfer_is_seen_before_the_call_is_over() -> None:
    over: list[str] = []

    async def hand_over(socket: ServerConnection) -> None:
        await socket.recv()
        await tell(socket, "ready")
        await tell(socket, "transfer", to="+15550155")
        over.extend([message async for message in socket if isinstance(message, str)])

    caller = Acting(listen(5.0))
    async with agent(hand_over) as to:
        log = await call(to, caller)
    assert [(event.kind, event.detail) for event in caller.events] == [("transfer", "+15550155")]
    assert (log.ended_by, log.ended_how) == ("agent", "transferred to +15550155")
    assert json.loads(over[-1]) == {"type": "over", "reason": "transferred"}


async def test_an_agent_may_refuse_or_break_the_link() -> None:
    said: list[dict[str, Any]] = []

    async def answer(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(json.dumps(said[0]))
        await socket.wait_closed()

    async with agent(answer) as to:
        said[:] = [{"type": "refuse", "reason": "closed today"}]
        refused = await call(to, Acting(listen(1.0)))
        said[:] = [{"type": "speak", "utterance": 1}]
        broken = await call(to, Acting(listen(1.0)))
        said[:] = [{"type": "ready", "format": "mp3/44100"}]
        strange = await call(to, Acting(listen(1.0)))
    assert (refused.answered, refused.status, refused.ended_how) == (False, 603, "refused: closed today")
    assert [event.kind for event in refused.events] == ["refused", "ended"]
    assert "answered the offer with Speak" in broken.faults[0]
    assert "mp3" in strange.faults[0]


async def test_an_agent_that_leaves_without_a_word_counts_as_crashed() -> None:
    async def vanish(socket: ServerConnection) -> None:
        await socket.recv()
        await tell(socket, "ready")
        await asyncio.sleep(0.2)

    async with agent(vanish) as to:
        log = await call(to, Acting(listen(5.0)))
    assert (log.answered, log.ended_by) == (True, "agent")
    assert "did not hang up: it counts as crashed" in log.faults[0]


async def test_a_call_ends_with_its_time() -> None:
    async def still(socket: ServerConnection) -> None:
        await socket.recv()
        await tell(socket, "ready")
        async for _ in socket:
            pass

    async def never(socket: ServerConnection) -> None:
        await socket.wait_closed()

    async with agent(still) as to:
        log = await call(to, Acting(listen(5.0)), timeout=0.4)
    async with agent(never) as to:
        ringing = await call(to, Acting(listen(5.0)), timeout=0.4)
    assert (log.ended_by, log.answered) == ("timeout", True)
    assert (ringing.ended_by, ringing.answered) == ("timeout", False)


async def test_nobody_there_and_what_the_link_has_not() -> None:
    with pytest.raises(Unreachable, match="is the agent running"):
        await call("link+ws://127.0.0.1:1", Acting(listen(1.0)))
    with pytest.raises(Unable, match="for carriers"):
        await call("link+ws://127.0.0.1:1", Acting(listen(1.0)), tamper="replayed_token")
    with pytest.raises(Unable, match="link\\+wss"):
        await call("link+ws://127.0.0.1:1", Acting(listen(1.0)), media={"srtp": True})
    with pytest.raises(Unable, match="write link"):
        LinkPhone(Target.model_validate({"to": "ws://127.0.0.1:1"}))
