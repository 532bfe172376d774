"""Lines are spoken in order, stop at once, go on at the word they stopped in, and know what of them was heard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from fakes.conversation import MS_PER_CHARACTER, PlayingGateway, Script, ScriptedSession

from offhook.agents.api import Agent
from offhook.agents.conversation import speaker as module
from offhook.agents.conversation.speaker import CallVoice, Line, Speaker
from offhook.agents.link import Clear, UtteranceEnded
from offhook.agents.services.base import ServiceError, Spoken
from offhook.codecs.audio import PCMU

pytestmark = pytest.mark.virtual_time


class Talker(Agent):
    format = None

    def __init__(self, call: Any, settings: dict[str, Any]) -> None:
        super().__init__(call, settings)
        self.script = Script(ttfb=0.1)
        self.faults: list[tuple[str, int]] = []
        self.bugs: list[BaseException] = []
        self.speaker = Speaker(
            call, lambda: None, lambda line, error, running: self.faults.append((error.kind, running)), self.bugs.append
        )
        self.voice = CallVoice("v", ScriptedSession(self.script), PCMU)

    def on_utterance_ended(self, ended: UtteranceEnded) -> None:
        self.speaker.utterance_ended(ended)

    def line(self, text: str, **options: Any) -> Line:
        return self.speaker.say(Line(text, self.voice, **options))

    async def on_over(self, reason: str) -> None:
        await self.speaker.close()


@pytest.fixture
async def gateway() -> AsyncIterator[PlayingGateway]:
    gateway = PlayingGateway(Talker, {})
    await gateway.answer()
    yield gateway
    await gateway.close()


def seconds(text: str) -> float:
    return sum(len(word) + 1 for word in text.split()) * MS_PER_CHARACTER / 1000


async def test_lines_follow_each_other_without_a_gap(gateway: PlayingGateway) -> None:
    talker = gateway.agent
    began = gateway.loop.time()
    texts = ["This is the first sentence.", "This is the second.", "And the third one.", "A fourth.", "Fifth."]
    lines = [talker.line(text) for text in texts]
    assert talker.speaker.busy
    await talker.speaker.silent()
    assert [said.text for said in gateway.said] == texts
    assert all(said.outcome == "played" for said in gateway.said)
    assert gateway.loop.time() - began == pytest.approx(0.1 + sum(map(seconds, texts)), abs=0.02)
    assert all(line.over.result() for line in lines)
    assert not talker.speaker.busy


async def test_synthesis_stays_a_little_ahead_only(gateway: PlayingGateway) -> None:
    talker = gateway.agent
    for i in range(8):
        talker.line(f"This is sentence number {i}.")
    await asyncio.sleep(0.8)
    assert len(talker.script.spoken) == 1 + module.LINES_AHEAD


async def test_hold_and_resume_at_the_word(gateway: PlayingGateway) -> None:
    talker = gateway.agent
    line = talker.line("We are open from nine to five.")
    await asyncio.sleep(0.1 + seconds("We are open") + 0.1)
    talker.speaker.hold()
    assert len(gateway.of(Clear)) == 1
    await asyncio.sleep(0.5)
    assert gateway.said[0].outcome == "cut"
    assert not line.over.done()
    talker.speaker.resume()
    await asyncio.sleep(0)
    assert gateway.said[1].text == "from nine to five."
    assert await line.over
    assert talker.script.spoken == ["We are open from nine to five."], "made once"
    assert line.text_so_far == "We are open from nine to five."


async def test_drop_keeps_what_was_heard(gateway: PlayingGateway) -> None:
    talker = gateway.agent
    one, two, three = (talker.line(text) for text in ("We are open from nine.", "We close at five.", "Anything else?"))
    await asyncio.sleep(0.1 + seconds("We are open from nine.") + seconds("We close") + 0.05)
    talker.speaker.drop()
    await asyncio.sleep(0.01)
    assert [line.text_so_far for line in (one, two, three)] == ["We are open from nine.", "We close", ""]
    assert not talker.speaker.busy


async def test_drop_after_hold(gateway: PlayingGateway) -> None:
    talker = gateway.agent
    one, two = talker.line("We are open from nine."), talker.line("We close at five.")
    await asyncio.sleep(0.1 + seconds("We are") + 0.1)
    talker.speaker.hold()
    await asyncio.sleep(0.3)
    talker.speaker.drop()
    assert (one.text_so_far, two.text_so_far) == ("We are", "")
    new = talker.line("Of course.")
    assert await new.over


async def test_what_must_be_said_is_said_again_after_a_drop(gateway: PlayingGateway) -> None:
    talker = gateway.agent
    talker.line("This may be cut.")
    must = talker.line("This call is recorded.", interruptible=False)
    await asyncio.sleep(0.5)
    talker.speaker.drop()
    assert await must.over
    assert gateway.said[-1].text == "This call is recorded."
    assert gateway.said[-1].outcome == "played"


async def test_staged_lines_are_made_and_wait(gateway: PlayingGateway) -> None:
    talker = gateway.agent
    one, two = talker.line("Prepared.", staged=True), talker.line("More of it.", staged=True)
    await asyncio.sleep(1)
    assert not gateway.said
    assert not talker.speaker.busy
    assert talker.script.spoken == ["Prepared."], "of a reply that may be void only the beginning is made"
    other = talker.line("Not staged.")
    assert await other.over
    began = gateway.loop.time()
    talker.speaker.release([one, two])
    assert gateway.said[-1].text == "Prepared."
    assert gateway.said[-1].started == began, "at once"
    assert await two.over


async def test_forgotten_lines_are_never_spoken(gateway: PlayingGateway) -> None:
    talker = gateway.agent
    lines = [talker.line("Prepared.", staged=True), talker.line("More.", staged=True)]
    await asyncio.sleep(0.05)
    talker.speaker.forget(lines)
    said = talker.line("Something else.")
    assert await said.over
    assert [said.text for said in gateway.said] == ["Something else."]
    assert [line.text_so_far for line in lines] == ["", ""]


async def test_fixed_lines_are_made_once_a_host(gateway: PlayingGateway) -> None:
    talker = gateway.agent
    for _ in range(2):
        assert await talker.line("Hello there.", fixed=True).over
    assert talker.script.spoken == ["Hello there."]
    module._kept.clear()


async def test_a_voice_that_fails_is_told_and_the_next_line_is_tried(gateway: PlayingGateway) -> None:
    talker = gateway.agent
    talker.script.voice_fault = ServiceError("voice", "unavailable", "gone")
    lines = [talker.line("Hello."), talker.line("There.")]
    await asyncio.sleep(0.3)
    assert talker.faults == [("unavailable", 1), ("unavailable", 2)]
    assert all(line.over.done() for line in lines)
    talker.script.voice_fault = None
    assert await talker.line("Again.").over
    talker.script.voice_fault = ServiceError("voice", "timeout", "slow")
    talker.line("Hello.")
    await asyncio.sleep(0.3)
    assert talker.faults[-1] == ("timeout", 1)


async def test_silent_tells_whether_the_caller_let_it_finish(gateway: PlayingGateway) -> None:
    talker = gateway.agent
    talker.line("Goodbye.")
    assert await talker.speaker.silent()
    talker.line("Goodbye, and thank you for calling.")
    waits = asyncio.create_task(talker.speaker.silent())
    await asyncio.sleep(0.5)
    talker.speaker.hold()
    await asyncio.sleep(0.5)
    assert not waits.done(), "a cough"
    talker.speaker.resume()
    await asyncio.sleep(0.5)
    talker.speaker.drop()
    assert await waits is False


async def test_what_is_left_of_a_line_that_broke_off_is_what_was_heard(gateway: PlayingGateway) -> None:
    class Breaks(ScriptedSession):
        async def synthesize(self, text: str, *, previous: str = "") -> AsyncGenerator[Spoken, None]:
            async for piece in super().synthesize(" ".join(text.split()[:3])):
                yield piece
            raise ServiceError("voice", "unavailable", "gone")

    talker = gateway.agent
    talker.voice.voice = Breaks(talker.script)
    line = talker.line("We are open from nine to five.")
    assert await line.over is False
    assert line.text_so_far == "We are open"
    assert gateway.said[0].outcome == "played"


async def test_a_voice_that_says_nothing_is_a_fault(gateway: PlayingGateway) -> None:
    class Mute(ScriptedSession):
        async def synthesize(self, text: str, *, previous: str = "") -> AsyncGenerator[Spoken, None]:
            return
            yield

    talker = gateway.agent
    talker.voice.voice = Mute(talker.script)
    line = talker.line("Hello.")
    assert await line.over is False
    assert line.text_so_far == ""
    assert talker.faults == [("bad_reply", 1)]


async def test_a_bug_in_a_voice_is_reported(gateway: PlayingGateway) -> None:
    talker = gateway.agent
    talker.script.voice_fault = ValueError("a bug")
    talker.line("Hello.")
    await asyncio.sleep(0.3)
    assert [str(bug) for bug in talker.bugs] == ["a bug"]


async def test_nothing_is_kept_of_what_was_said(gateway: PlayingGateway) -> None:
    talker = gateway.agent
    heard, cut = talker.line("We are open."), talker.line("On every day of the week.")
    await heard.over
    await asyncio.sleep(0.2)
    talker.speaker.drop()
    await cut.over
    assert not heard.audio
    assert not cut.audio
    assert (heard.text_so_far, cut.text_so_far) == ("We are open.", "On")


async def test_after_the_end_nothing_waits(gateway: PlayingGateway) -> None:
    talker = gateway.agent
    speaking = talker.line("We are open.")
    await asyncio.sleep(0.3)
    await talker.speaker.close()
    assert speaking.over.done()
    assert await talker.line("Is anybody there?").over is False


async def test_what_a_stand_in_says_is_not_kept_for_other_calls(gateway: PlayingGateway) -> None:
    class StandIn(ScriptedSession):
        first_choice = False

    talker = gateway.agent
    talker.voice.voice = StandIn(talker.script)
    await talker.line("Hello.", fixed=True).over
    assert not module._kept
