"""The receptionist on one call: real synthetic speech in, frame by frame, and what reaches the gateway.

The other end of the wire is played here: it takes what the agent says as heard at once, and feeds the caller's
sentences faster than real time.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from offhook.agents import link
from offhook.agents.api import SettingsError
from offhook.agents.receptionist import agent as subject
from offhook.agents.receptionist.agent import Receptionist, close_recognizer, recognizer
from offhook.agents.runtime import AgentSession
from offhook.agents.speech import tts
from offhook.agents.vad import VadService
from offhook.codecs.audio import PCMU

pytestmark = [
    pytest.mark.own_tasks("the fixture `ring` ends every session"),
    pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed"),
]

INFO = link.CallInfo("c1", "+15550001", "+15550100", "twilio")
CONNECTED = {"departments": {"sales": {"key": "3", "transfer": "+15550199"}}}


class Line:
    """The gateway's end of the wire. Everything said counts as heard at once, unless it is told to hold."""

    def __init__(self, settings: dict[str, Any], vad: VadService) -> None:
        self.events: list[link.FromAgent] = []
        self.sound = 0
        self.hold = False
        self._speaking: dict[int, int] = {}
        self._arrived = asyncio.Event()
        offer = link.Offer(INFO, "front-desk", settings, "pcmu/8000")
        self.session = AgentSession(offer, Receptionist, self, vad=vad)
        self.session.receive(link.Answered())

    # --- as the agent's wire

    def event(self, message: link.FromAgent) -> None:
        self.events.append(message)
        self._arrived.set()
        loop = asyncio.get_running_loop()
        if isinstance(message, link.Speak):
            self._speaking[message.utterance] = 0
        elif isinstance(message, link.Spoken) and not self.hold:
            loop.call_soon(self.end, message.utterance, "played")
        elif isinstance(message, link.Clear):
            for utterance in list(self._speaking):
                loop.call_soon(self.end, utterance, "cut")

    def audio(self, data: bytes) -> None:
        self.sound += len(data)

    def end(self, utterance: int, outcome: Any) -> None:
        if self._speaking.pop(utterance, None) is not None:
            self.session.receive(link.UtteranceEnded(utterance, outcome, 1000, 1000))

    # --- as the caller

    async def hear(self, text: str, timeout: float = 10) -> None:
        """Wait for the agent to say this, after what was heard before."""
        async with asyncio.timeout(timeout):
            while not (found := [n for n, said in enumerate(self.said()) if n >= self._heard and text in said]):
                self._arrived.clear()
                await self._arrived.wait()
        self._heard = found[0] + 1
        for _ in range(5):
            await asyncio.sleep(0)

    _heard = 0

    async def say(self, text: str, voice: str = "slt") -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(tts.ENGINES, "flite", voice)
            audio = await asyncio.to_thread(tts.speak, text, "flite", PCMU)
        await self.play(PCMU.silence * 15 + audio + PCMU.silence * 40)

    async def play(self, audio: bytes) -> None:
        """Ten times faster than real time; the detector goes by the audio, not by the clock."""
        for at in range(0, len(audio), PCMU.frame_bytes):
            self.session.receive_audio(audio[at : at + PCMU.frame_bytes])
            await asyncio.sleep(0.002)

    def press(self, keys: str) -> None:
        for key in keys:
            self.session.receive(link.Dtmf(key))

    def said(self) -> list[str]:
        return [event.text for event in self.of(link.Speak)]

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def notes(self, name: str) -> list[dict[str, Any]]:
        return [note.data for note in self.of(link.Note) if note.name == name]


Ring = Callable[..., Line]


@pytest.fixture
async def ring() -> AsyncIterator[Ring]:
    lines: list[Line] = []
    vad = VadService()

    def begin(**settings: Any) -> Line:
        lines.append(Line(settings, vad))
        return lines[-1]

    yield begin
    for line in lines:
        line.session.receive(link.Over("test over"))
        await line.session._ending
        assert line.of(link.Failed) == []
    vad.close()
    await asyncio.gather(*tts._running.values())  # a sentence under way is every call's, and no call ends it
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture(autouse=True)
def _recognizer() -> Iterator[None]:
    yield
    close_recognizer()


# --- conversations ----------------------------------------------------------------------


@pytest.mark.parametrize("vad", ["silero", "webrtc"])
async def test_an_appointment_is_booked_by_voice(ring: Ring, vad: str) -> None:
    line = ring(vad=vad)
    await line.hear("How can I help you?")
    await line.say("I would like an appointment on Tuesday at three o'clock")
    await line.hear("An appointment on Tuesday at three o'clock. Is that right?")
    await line.say("yes please")
    await line.hear("Is there anything else?")
    await line.say("no thank you")
    await line.hear("Goodbye.")
    assert line.notes("appointment") == [{"day": "Tuesday", "time": "three o'clock"}]
    assert [event.text for event in line.of(link.Transcript)] == [
        "i would like an appointment on tuesday at three o'clock",
        "yes please",
        "no thank you",
    ]
    assert [note["question"] for note in line.notes("heard")] == ["main", "confirm_appointment", "more"]
    hang_up = line.of(link.HangUp)[0]
    assert hang_up == link.HangUp("conversation over", after_speech=True)
    assert line.sound > PCMU.size(5)


async def test_every_reply_tells_where_its_time_went(ring: Ring) -> None:
    line = ring()
    await line.hear("How can I help you?")
    assert line.of(link.Turn) == []
    await line.say("opening hours")
    await line.hear("anything else?")
    [turn] = line.of(link.Turn)
    assert turn.utterance == 2, "the first utterance of the reply"
    marks = [turn.caller_stopped, turn.turn_ended, turn.understood, turn.reply_text, turn.reply_audio]
    assert marks == sorted(marks)
    assert marks[0] > 0
    assert marks[-1] < time.monotonic()
    line.press("2")
    await line.hear("Goodbye.")
    keyed = line.of(link.Turn)[1]
    assert 0 < keyed.caller_stopped <= keyed.turn_ended <= keyed.reply_text <= keyed.reply_audio
    assert keyed.understood == 0


async def test_a_word_in_between_clears_at_once(ring: Ring) -> None:
    line = ring()
    line.hold = True
    await line.hear("How can I help you?")
    await line.say("opening hours")
    before = [type(event) for event in line.events]
    assert before.count(link.Clear) == 1
    assert link.Transcript not in before[: before.index(link.Clear)], "it does not wait for the meaning"
    line.hold = False
    await line.hear("We are open Monday to Friday")


async def test_noise_while_nobody_speaks_clears_nothing(ring: Ring) -> None:
    line = ring()
    await line.hear("How can I help you?")
    await line.say("opening hours")
    await line.hear("anything else?")
    assert line.of(link.Clear) == []


async def test_keys_alone_do(ring: Ring) -> None:
    line = ring()
    await line.hear("How can I help you?")
    line.press("1")
    await line.hear("For which day")
    line.press("23")
    await line.hear("An appointment on Tuesday at two o'clock. Is that right?")
    line.press("1")
    await line.hear("anything else?")
    line.press("2")
    await line.hear("Goodbye.")
    assert line.notes("appointment") == [{"day": "Tuesday", "time": "two o'clock"}]
    assert line.of(link.HangUp)[0].reason == "conversation over"


async def test_a_key_cuts_the_sentence(ring: Ring) -> None:
    line = ring()
    line.hold = True
    await line.hear("How can I help you?")
    line.press("1")
    await line.hear("For which day")
    assert len(line.of(link.Clear)) == 1


async def test_a_number_is_typed_with_and_without_a_hash(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "BETWEEN_KEYS", 0.1)
    line = ring()
    await line.hear("How can I help you?")
    line.press("6")
    await line.hear("phone number")
    line.press("5550199#")
    await line.hear("5 5 5 0 1 9 9. Is that right?")
    line.press("2")
    await line.hear("phone number")
    line.press("77777")
    await line.hear("7 7 7 7 7. Is that right?")
    assert line.notes("callback") == []


async def test_a_transfer_follows_the_last_word(ring: Ring) -> None:
    line = ring(business=CONNECTED)
    await line.hear("How can I help you?")
    await line.say("sales please")
    await line.hear("I am connecting you to sales.")
    assert line.events[-1] == link.Transfer("+15550199", after_speech=True)
    assert line.of(link.HangUp) == []


async def test_a_refused_transfer_leads_to_a_message(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MESSAGE_PAUSE", 0.2)
    line = ring(business=CONNECTED)
    await line.hear("How can I help you?")
    line.press("3")
    await line.hear("I am connecting you to sales.")
    line.session.receive(link.OrderRefused("transfer", "not on the allow list"))
    await line.hear("Would you like to leave a message?")
    line.press("1")
    await line.hear("(tone)")
    await line.say("this is a message")
    await line.hear("Your message is recorded.")
    assert line.notes("message")[0]["department"] == "sales"
    await line.hear("Goodbye.")


async def test_the_message_begins_after_the_tone(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MESSAGE_PAUSE", 0.1)
    line = ring()
    await line.hear("How can I help you?")
    line.hold = True
    line.press("7")
    await line.hear("Please leave your message")
    await asyncio.sleep(0.3)
    assert "(tone)" not in line.said()
    line.end(2, "played")
    await line.hear("(tone)")
    await asyncio.sleep(0.3)
    assert line.notes("message") == [], "the tone is still being heard"
    line.end(3, "played")
    await line.hear("Your message is recorded.")
    assert line.notes("message") == [{"seconds": "0"}]


async def test_a_key_ends_the_message(ring: Ring) -> None:
    line = ring()
    await line.hear("How can I help you?")
    line.press("7")
    await line.hear("(tone)")
    line.press("#")
    await line.hear("Your message is recorded.", timeout=2)
    assert len(line.notes("message")) == 1


async def test_a_silent_caller_is_asked_twice_and_let_go(ring: Ring) -> None:
    line = ring(silence=1)
    line.session.agent._silence = 0.1  # type: ignore[union-attr]
    await line.hear("How can I help you?")
    await line.hear("Sorry, I did not understand.")
    await line.hear("press one")
    await line.hear("I cannot hear you.")
    await line.hear("Goodbye.")
    assert line.of(link.HangUp)[0].reason == "caller silent"


async def test_a_caller_who_put_the_call_on_hold_is_not_silent(ring: Ring) -> None:
    line = ring(silence=1)
    line.session.agent._silence = 0.05  # type: ignore[union-attr]
    await line.hear("How can I help you?")
    line.session.receive(link.Held(True))
    before = line.said()
    await asyncio.sleep(0.25)
    assert line.said() == before
    line.session.receive(link.Held(False))
    await line.hear("")
    assert len(line.said()) > len(before)


async def test_nobody_is_silent_while_being_spoken_to(ring: Ring) -> None:
    line = ring()
    line.hold = True
    line.session.agent._silence = 0.05  # type: ignore[union-attr]
    await line.hear("How can I help you?")
    await asyncio.sleep(0.3)
    assert len(line.said()) == 1
    line.end(1, "played")
    await line.hear("Sorry")


async def test_what_is_not_understood_is_asked_again(ring: Ring) -> None:
    line = ring()
    await line.hear("How can I help you?")
    await line.say("my cat has eaten the newspaper again")
    await line.hear("Sorry, I did not understand.")
    assert [event.text for event in line.of(link.Transcript)] == ["(not understood)"]
    await line.say("when are you open")
    await line.hear("We are open Monday to Friday")


async def test_a_pause_in_the_middle_of_a_sentence_is_waited_for(ring: Ring) -> None:
    line = ring()
    await line.hear("How can I help you?")
    await line.say("an appointment on")
    await line.say("Friday")
    await line.hear("For which day")
    [said] = line.of(link.Transcript)
    assert said.text == "an appointment on friday"


async def test_a_dead_recogniser_costs_one_sentence(ring: Ring) -> None:
    line = ring()
    await line.hear("How can I help you?")
    await asyncio.to_thread(Receptionist.warm, {})
    [child] = recognizer()._children
    os.kill(child._process.pid, signal.SIGKILL)
    await line.say("opening hours")
    await line.hear("Sorry, I did not understand.")
    [note] = line.notes("recogniser_failed")
    assert "process" in note["error"]
    await line.say("opening hours")
    await line.hear("We are open Monday to Friday", timeout=20)  # another process has started by then


# --- settings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"silence": 0}, "silence: 0 is no number of seconds from 1 to 60"),
        ({"silence": True}, "silence: True is no number"),
        ({"silence": "6"}, "silence: '6' is no number"),
        ({"vad": "none"}, "vad: 'none' is not one of silero, webrtc"),
        ({"voice": "slt"}, "voice: no such setting; there are dialogue, business, silence and vad"),
        ({"dialogue": "nowhere.yaml"}, "dialogue: nowhere.yaml cannot be read"),
        ({"dialogue": 5}, "dialogue: 5 is no path"),
        ({"business": {"nmae": "x"}}, "business.nmae: no such key; did you mean name?"),
        ({"business": "Acme"}, "business: 'Acme' must be a mapping"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Receptionist.warm(settings)
    assert complaint in str(caught.value)


def test_words_that_cannot_be_heard_are_named_before_the_first_call(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"dictionary has no zyxgnat; use other words"):
        Receptionist.warm({"business": {"departments": {"zyxgnat": {"key": "3"}}}})


def test_after_warming_the_greeting_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    tts._cache.clear()
    Receptionist.warm({"business": {"name": "Miller"}})
    assert any(text.startswith("Thank you for calling Miller. You can") for text, _ in tts._cache)


async def test_a_line_that_never_falls_silent_is_spoken_over(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MAX_SENTENCE", 0.5)
    line = ring(silence=1)
    await line.hear("How can I help you")
    line.session.agent.on_speech_started(time.monotonic())  # type: ignore[union-attr]
    for _ in range(60):
        line.session.agent.on_audio(b"\0" * 320)  # type: ignore[union-attr]
    await line.hear("Sorry")
    assert line.of(link.Clear) == []
    line.press("2")
    await line.hear("We are open")
