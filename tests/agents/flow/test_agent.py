"""The flow agent on one call: keys, words and silence in, and what reaches the gateway."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from offhook.agents import link, sound
from offhook.agents.api import SettingsError, SettingsWarning
from offhook.agents.flow import agent as subject
from offhook.agents.flow.agent import Flow
from offhook.agents.receptionist.agent import close_recognizer
from offhook.agents.runtime import AgentSession
from offhook.agents.speech import tts
from offhook.agents.vad import VadService
from offhook.codecs.audio import PCMU

pytestmark = [
    pytest.mark.own_tasks("the fixture `ring` ends every session"),
    pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed"),
]

INFO = link.CallInfo("c1", "+15550001", "+15550100", "twilio")
BYE: dict[str, Any] = {"say": "Goodbye.", "hangup": "done"}
MENU = {"say": "Press one.", "menu": {"keys": {"1": "bye", "2": "number"}}}
WORDS = {"say": "Press one.", "menu": {"words": {"goodbye": "bye", "wait a moment": "main"}}}
NUMBER = {"say": "Type it.", "gather": {"into": "n", "digits": 2, "goto": "bye"}}


class Line:
    """The gateway's end of the wire. What is said counts as heard at once, unless it is told to hold."""

    def __init__(self, settings: dict[str, Any], vad: VadService) -> None:
        self.events: list[link.FromAgent] = []
        self.hold = False
        self.over = False
        self._speaking: set[int] = set()
        self._arrived = asyncio.Event()
        self.session = AgentSession(link.Offer(INFO, "ivr", settings, "pcmu/8000"), Flow, self, vad=vad)

    def answer(self) -> None:
        self.session.receive(link.Answered())

    def event(self, message: link.FromAgent) -> None:
        self.events.append(message)
        self._arrived.set()
        if isinstance(message, link.Speak):
            self._speaking.add(message.utterance)
        elif isinstance(message, link.Spoken) and not self.hold:
            asyncio.get_running_loop().call_soon(self.end, message.utterance, "played")
        elif isinstance(message, link.Clear):
            for utterance in list(self._speaking):
                asyncio.get_running_loop().call_soon(self.end, utterance, "cut")

    def audio(self, data: bytes) -> None:
        pass

    def end(self, utterance: int, outcome: Any) -> None:
        if utterance in self._speaking:
            self._speaking.discard(utterance)
            self.session.receive(link.UtteranceEnded(utterance, outcome, 1000, 1000))

    def finish(self) -> None:
        """Everything was heard."""
        for utterance in sorted(self._speaking):
            self.end(utterance, "played")

    def press(self, keys: str) -> None:
        for key in keys:
            self.session.receive(link.Dtmf(key))

    async def until(self, true: Callable[[], Any], timeout: float = 5.0) -> Any:
        async with asyncio.timeout(timeout):
            while not (found := true()):
                self._arrived.clear()
                await self._arrived.wait()
        await asyncio.sleep(0)
        return found

    async def hear(self, *texts: str, timeout: float = 5.0) -> None:
        """Wait until just this was said since the last time."""
        await self.until(lambda: len(self.said()) >= self._heard + len(texts), timeout)
        assert self.said()[self._heard : self._heard + len(texts)] == list(texts)
        self._heard += len(texts)
        for _ in range(3):
            await asyncio.sleep(0)

    _heard = 0

    async def ends(self) -> str:
        ends = await self.until(lambda: self.of(link.HangUp))
        return str(ends[0].reason)  # the second says that the agent is done

    def said(self) -> list[str]:
        return [event.text for event in self.of(link.Speak)]

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def notes(self, name: str) -> list[dict[str, Any]]:
        return [note.data for note in self.of(link.Note) if note.name == name]


Ring = Callable[..., Line]


@pytest.fixture(autouse=True, scope="module")
def _words() -> Iterator[None]:
    tts.prerender(["Press one.", "Type it."])
    Flow.warm({"start": "main", "steps": {"main": WORDS, "bye": BYE}})
    yield
    close_recognizer()


@pytest.fixture
async def ring() -> AsyncIterator[Ring]:
    lines: list[Line] = []
    vad = VadService()

    def begin(answer: bool = True, **steps: Any) -> Line:
        lines.append(Line({"start": "main", "steps": {"bye": BYE, **steps}}, vad))
        if answer:
            lines[-1].answer()
        return lines[-1]

    yield begin
    for line in lines:
        line.session.receive(link.Over("test over"))
        await line.session._ending
    vad.close()


async def test_a_key_leads_through_the_menu_to_the_end(ring: Ring) -> None:
    line = ring(main=MENU, number=NUMBER)
    await line.hear("Press one.")
    line.press("1")
    await line.hear("Goodbye.")
    assert await line.ends() == "done"
    assert line.notes("choice") == [{"step": "main", "by": "1", "to": "bye"}]
    [turn] = line.of(link.Turn)
    assert 0 < turn.caller_stopped <= turn.reply_text <= turn.reply_audio
    assert turn.utterance == 2


async def test_a_key_cuts_the_words_short(ring: Ring) -> None:
    line = ring(main=MENU, number=NUMBER)
    line.hold = True
    await line.hear("Press one.")
    line.press("2")
    await line.hear("Type it.")
    assert len(line.of(link.Clear)) == 1
    line.press("4")
    await line.until(lambda: len(line.of(link.Clear)) == 2)
    line.press("2")
    await line.hear("Goodbye.")
    assert await line.ends() == "done"
    assert len(line.of(link.Clear)) == 2, "the goodbye is heard"


async def test_who_types_ahead_is_not_told_what_he_knows(ring: Ring) -> None:
    line = ring(main=MENU, number=NUMBER)
    line.hold = True
    await line.hear("Press one.")
    line.press("242")
    await line.hear("Goodbye.")
    assert line.said() == ["Press one.", "Goodbye."]


async def test_what_may_not_be_interrupted_is_heard_out(ring: Ring) -> None:
    line = ring(main={**MENU, "interrupt": False}, number=NUMBER)
    line.hold = True
    await line.hear("Press one.")
    line.press("1")
    await asyncio.sleep(0.05)
    assert line.said() == ["Press one."]
    assert not line.of(link.Clear)
    line.finish()
    await line.hear("Goodbye.")


@pytest.mark.virtual_time
async def test_silence_counts_from_the_last_word(ring: Ring) -> None:
    line = ring(main={"say": "Press one.", "menu": {"keys": {"1": "bye"}, "retries": 0, "otherwise": "bye"}})
    line.hold = True
    await line.hear("Press one.")
    await asyncio.sleep(60)
    assert len(line.said()) == 1
    before = asyncio.get_running_loop().time()
    line.finish()
    await line.hear("Goodbye.", timeout=10)
    assert asyncio.get_running_loop().time() - before == pytest.approx(5, abs=0.1)
    assert not line.of(link.Turn), "nobody spoke: there is no reply to time"


async def test_music_is_a_bed_and_an_unknown_key_disturbs_nobody(ring: Ring) -> None:
    line = ring(main={"queue": {"music": "ringback", "volume": 0.5, "goto": "bye", "keys": {"9": "bye"}}})
    [bed] = await line.until(lambda: line.of(link.Bed))
    assert (bed.audio, bed.gain) == (sound.load("ringback", PCMU), 0.5)
    line.press("4")
    await asyncio.sleep(0.02)
    assert not line.of(link.Clear)
    line.press("9")
    await line.hear("Goodbye.")
    assert line.of(link.Bed)[1] == link.Bed()
    assert line.of(link.Turn)


async def test_a_sound_is_played(ring: Ring) -> None:
    line = ring(main={"play": "ringback-us", "goto": "bye"})
    await line.hear("(ringback-us)", "Goodbye.")


async def test_a_transfer_that_is_refused_leads_on(ring: Ring) -> None:
    line = ring(main={"transfer": {"to": "+15550199", "otherwise": "bye"}})
    [order] = await line.until(lambda: line.of(link.Transfer))
    assert (order.to, order.after_speech) == ("+15550199", True)
    line.session.receive(link.OrderRefused("dtmf.send", "no"))
    await asyncio.sleep(0.01)
    assert not line.said()
    line.session.receive(link.OrderRefused("transfer", "no"))
    await line.hear("Goodbye.")


async def test_a_message_is_left_after_the_tone(ring: Ring) -> None:
    line = ring(main={"record": {"seconds": 1, "pause": 1, "goto": "bye"}})
    await line.hear("(tone)")
    line.press("#")
    await line.hear("Goodbye.")
    assert line.notes("message") == [{"caller": "+15550001", "called": "+15550100", "seconds": "0"}]


@pytest.mark.virtual_time
@pytest.mark.parametrize(("talks", "seconds"), [((), "2"), ((0.5, 1.5), "4"), ((0.5, 20), "10")])
async def test_a_message_ends_with_a_pause_or_with_its_time(ring: Ring, talks: tuple[float, ...], seconds: str) -> None:
    line = ring(main={"record": {"seconds": 10, "pause": 2, "goto": "bye"}})
    agent = line.session.agent
    assert isinstance(agent, Flow)
    await line.hear("(tone)")
    loop = asyncio.get_running_loop()
    if talks:
        loop.call_later(talks[0], agent.on_speech_started, 0.0)
        loop.call_later(talks[1], agent.on_speech_stopped, 0.0)
    await line.hear("Goodbye.", timeout=15)
    assert line.notes("message")[0]["seconds"] == seconds


def test_warming_up_finds_what_is_missing(tmp_path: Any) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.wav"):
        Flow.warm({"start": "a", "steps": {"a": {"play": str(tmp_path / "nowhere.wav"), "hangup": True}}})
    with pytest.raises(SettingsError, match=r"'tune'"):
        Flow.warm({"start": "a", "steps": {"a": {"queue": {"music": "tune", "goto": "b"}}, "b": BYE}})
    with pytest.warns(SettingsWarning, match=r"steps\.b: no step leads there"):
        Flow.warm({"start": "a", "steps": {"a": BYE, "b": BYE}})


# --- words


async def speak(line: Line, text: str) -> None:
    audio = await asyncio.to_thread(tts.speak, text, "flite", PCMU)
    data = PCMU.silence * 15 + audio + PCMU.silence * 30
    for at in range(0, len(data), PCMU.frame_bytes):  # faster than real time: the detector goes by the audio
        line.session.receive_audio(data[at : at + PCMU.frame_bytes])
        await asyncio.sleep(0.001)


async def test_a_word_chooses_and_cuts_the_words_short(ring: Ring) -> None:
    line = ring(main=WORDS)
    line.hold = True
    await line.hear("Press one.")
    await speak(line, "goodbye")
    await line.hear("Goodbye.")
    assert line.of(link.Clear)
    assert [said.text for said in line.of(link.Transcript)] == ["goodbye"]
    [turn] = line.of(link.Turn)
    assert turn.caller_stopped <= turn.turn_ended <= turn.understood <= turn.reply_text


async def test_words_the_recogniser_does_not_know_are_found_beforehand() -> None:
    with pytest.raises(SettingsError, match="dictionary has no frobnicate"):
        await asyncio.to_thread(
            Flow.warm, {"start": "a", "steps": {"a": {"menu": {"words": {"frobnicate": "b"}}}, "b": BYE}}
        )


async def test_a_recogniser_that_dies_is_a_caller_not_understood(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dead:
        async def recognize(self, grammar: Any, pcm: bytes) -> Any:
            raise subject.RecognizerFailed("gone")

    monkeypatch.setattr(subject, "recognizer", Dead)
    line = ring(main=WORDS)
    await line.hear("Press one.")
    agent = line.session.agent
    assert isinstance(agent, Flow)
    agent.on_audio(bytes(320))
    agent.on_speech_started(0.0)
    agent.on_speech_stopped(0.0)
    await line.hear("Sorry, I did not get that.", "Press one.")
    assert line.notes("recogniser_failed") == [{"error": "gone"}]


async def test_a_line_that_never_falls_silent_is_no_answer(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MAX_SENTENCE", 0.1)
    line = ring(main={**WORDS, "say": "Press one."})
    await line.hear("Press one.")
    agent = line.session.agent
    assert isinstance(agent, Flow)
    agent.on_speech_started(0.0)
    for _ in range(20):
        agent.on_audio(bytes(320))
    line.press("x")  # something to look at, so that the wait begins anew
    await line.hear("Sorry, I did not get that.")
