"""Calls from blocking code, against a phone without a wire that runs at twenty times the speed."""

from __future__ import annotations

import threading
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.line import Agent, FakePhone, voice

from offhook.qa.activity import RATE, Span
from offhook.qa.caller import desk as desk_module
from offhook.qa.caller.desk import Desk, DialledCall
from offhook.qa.caller.script import Script, sound_key
from offhook.qa.measuring.speech import Transcript, TurnText
from offhook.qa.phones import targets
from offhook.qa.phones.base import LineEvent, Unreachable
from offhook.qa.scenario.model import Speech, Target

PACE = 0.001

Dial = Callable[..., DialledCall]


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    async def add_speech(self: Script, speech: Speech, *, path: tuple[str | int, ...] = ()) -> np.ndarray:
        key = sound_key(speech, self.settings)
        self.sounds[key] = voice(0.9, len(self.sounds))
        return self.sounds[key]

    monkeypatch.setattr(Script, "add_speech", add_speech)
    with Desk("sip:agent@127.0.0.1") as made:
        yield made


@pytest.fixture
def dial(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Dial:
    """Dial an agent of these habits."""

    def dial_agent(agent: Agent | None = None, *, status: int = 200, **settings: Any) -> DialledCall:
        def open_phone(target: Target, **credentials: str | bool) -> FakePhone:
            phone = FakePhone(lambda: agent or Agent(), pace=PACE, status=status)
            settings_seen.append((target, credentials))
            return phone

        monkeypatch.setattr(targets, "open_phone", open_phone)
        return desk.dial(**settings)

    settings_seen.clear()
    return dial_agent


settings_seen: list[tuple[Target, dict[str, str | bool]]] = []


def test_a_call_is_made_line_by_line(dial: Dial) -> None:
    call = dial(Agent(talks=[(0.3, 2.0)], answers_after=0.7))
    assert not call.over
    assert call.expect_agent(within=1.5) == pytest.approx(0.3, abs=0.021)
    call.wait_agent_done()
    said = call.say("Hello.")
    assert said.start > 2.0
    assert said.seconds == pytest.approx(0.9)
    assert call.expect_agent(within="1500ms") == pytest.approx(0.7, abs=0.04)
    call.hang_up()
    assert call.over
    assert call.status == 200
    assert call.log.ended_by == "caller"
    assert len(call.heard) == 2


def test_an_answer_that_is_late_fails_with_what_was_measured(dial: Dial) -> None:
    call = dial(Agent(answers_after=1.2))
    call.say("Hello.")
    with pytest.raises(AssertionError, match=r"spoke after 1\.[12]\d s; at most 0\.5 s were expected"):
        call.expect_agent(within=0.5)


def test_silence_instead_of_an_answer_and_the_other_way_round(dial: Dial) -> None:
    call = dial()
    with pytest.raises(AssertionError, match=r"the agent said nothing for \d"):
        call.expect_agent(within=0.2)
    assert call.expect_agent(speaks=False, within=1) is None
    call = dial(Agent(answers_after=0.4))
    call.say("Hello.")
    with pytest.raises(AssertionError, match=r"was to say nothing for 2 s, and spoke after 0\.4"):
        call.expect_agent(speaks=False, within=2)


def test_an_agent_that_is_interrupted_stops_or_does_not(dial: Dial) -> None:
    call = dial(Agent(talks=[(0.2, 300)], stops_after=0.25))
    said = call.barge_in("Sorry?", after=0.8)
    assert said.start >= 0.98
    assert call.expect_agent(stops_within=0.5) == pytest.approx(0.25, abs=0.03)
    call = dial(Agent(talks=[(0.2, 300)]))
    call.barge_in("Sorry?", after="500ms")
    with pytest.raises(AssertionError, match=r"talked on for \d\.\d+ s; at most 0\.4 s"):
        call.expect_agent(stops_within="400ms")


def test_an_agent_goes_on_after_a_sound_of_listening_or_does_not(dial: Dial) -> None:
    call = dial(Agent(talks=[(0.2, 300)]))
    call.backchannel("mm-hm", after=0.5)
    assert call.expect_agent(keeps_talking=2) is None
    call = dial(Agent(talks=[(0.2, 300)], stops_after=0.3))
    call.backchannel("mm-hm", after=0.5)
    with pytest.raises(AssertionError, match=r"to talk on for 2 s, and fell silent after 0\.3"):
        call.expect_agent(keeps_talking=2)


def test_what_interrupts_must_have_been_said_before(dial: Dial) -> None:
    call = dial(Agent(talks=[(0.2, 300)]))
    with pytest.raises(AssertionError, match="nothing was said before"):
        call.expect_agent(stops_within=0.1)
    with pytest.raises(AssertionError, match="nothing was said before"):
        call.expect_agent(keeps_talking=0.1)


def test_words_come_from_the_recogniser(dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Span, int]] = []

    async def transcribe(turns: Any, settings: Any, expected: Any, *, recogniser: Any = None) -> Transcript:
        given.extend((span, len(samples)) for span, samples in turns)
        return Transcript(tuple(TurnText(span, "we open at nine") for span, _ in turns), "offline")

    monkeypatch.setattr(desk_module, "transcribe", transcribe)
    call = dial(Agent(answers_after=0.5, answer=1.5))
    call.say("Hello.")
    call.expect_agent(within=3, heard={"any": ["nine", "ten"]}, not_heard="closed")
    [(span, size)] = given
    assert span.seconds == pytest.approx(1.5, abs=0.03)
    assert size / RATE == pytest.approx(span.seconds + 0.6, abs=0.05)
    call.say("Once more.")
    with pytest.raises(AssertionError, match="'closed' was expected; the agent said 'we open at nine'"):
        call.expect_agent(heard="closed")
    call.say("Once more.")
    with pytest.raises(AssertionError, match="'nine' was not to be said"):
        call.expect_agent(not_heard="nine")


def test_keys_go_both_ways(dial: Dial) -> None:
    call = dial(Agent(events=[LineEvent(0.5, "dtmf", "4"), LineEvent(1.0, "dtmf", "2"), LineEvent(4.0, "dtmf", "7")]))
    call.expect_keys("42")
    with pytest.raises(AssertionError, match="was to press '8' and pressed '7'"):
        call.expect_keys("8")
    call.dtmf("12#", tone="80ms", gap=0.1)
    assert [key for _, key in call.log.pressed] == ["1", "2", "#"]


def test_a_transfer_is_followed_to_its_number(dial: Dial) -> None:
    handed = [LineEvent(0.5, "transfer", "sip:desk@example.com")]
    assert dial(Agent(events=handed)).expect_transfer("desk@") == "sip:desk@example.com"
    with pytest.raises(AssertionError, match="not to 'sales@'"):
        dial(Agent(events=handed)).expect_transfer("sales@")
    with pytest.raises(AssertionError, match="did not transfer"):
        dial().expect_transfer(within=0.2)


def test_the_end_is_expected_of_one_of_both(dial: Dial) -> None:
    call = dial(Agent(hangs_up_at=1.0))
    call.expect_hangup(within=5)
    assert call.over
    call = dial(Agent(hangs_up_at=1.0))
    call.expect_hangup(by="anyone")
    with pytest.raises(AssertionError, match=r"the call was not over after 3"):
        dial().expect_hangup(within=0.2)


def test_what_is_wanted_of_a_call_that_is_over_says_so(dial: Dial) -> None:
    call = dial(Agent(hangs_up_at=0.5))
    with pytest.raises(AssertionError, match="ended"):
        call.wait_agent_speaks()
    call.hang_up()
    with pytest.raises(AssertionError, match=r"over since second 0\.5: it was ended by the agent"):
        call.say("Hello?")


def test_waits_that_take_too_long_fail(dial: Dial) -> None:
    call = dial(patience="500ms")
    with pytest.raises(AssertionError, match=r"did not speak within 0\.5 s"):
        call.wait_agent_speaks()
    with pytest.raises(AssertionError, match=r"did not speak within 0\.2 s"):
        call.wait_agent_done(timeout=0.2, silence="100ms")


def test_noise_hold_codec_and_silence(dial: Dial) -> None:
    call = dial(noise={"kind": "street", "snr": "30dB"})
    call.silence(0.5)
    call.noise("off")
    call.silence("500ms")
    call.noise("white", snr=20)
    call.hold(0.2)
    call.codec("PCMA")
    track = call.log.caller
    assert track[160 : RATE // 4].any()
    assert call.log.seconds > 1.2


def test_settings_go_where_they_belong(dial: Dial) -> None:
    call = dial(
        target="sip:other@127.0.0.1",
        codecs=["G722"],
        headers={"X-Test": "1"},
        gain=-30,
        auth_token="secret",  # of nobody
        timeout=30,
        seed=7,
    )
    [(target, credentials)] = settings_seen
    assert (target.to, target.headers) == ("sip:other@127.0.0.1", {"X-Test": "1"})
    assert credentials == {"auth_token": "secret"}
    call.say("Hello.")
    assert call.report.target == "sip:other@127.0.0.1"


def test_a_call_over_tls_may_trust_whom_it_likes(dial: Dial) -> None:
    dial(ca_file="own.pem", insecure=True)
    assert settings_seen[0][1] == {"ca_file": "own.pem", "insecure": True}


def test_what_dial_does_not_know_is_refused(dial: Dial, desk: Desk) -> None:
    with pytest.raises(TypeError, match=r"no setting 'codec'; it has .*codecs"):
        dial(codec="PCMU")
    with pytest.raises(ValueError, match="long is no duration"):
        dial(end_silence="long")
    desk.target = ""
    with pytest.raises(ValueError, match="--offhook-target"):
        dial()


def test_a_call_that_is_not_answered(dial: Dial) -> None:
    with pytest.raises(AssertionError, match="the call was not answered: 403"):
        dial(status=403)
    call = dial(status=403, answer=False)
    assert call.status == 403
    with pytest.raises(AssertionError, match="the call was answered"):
        dial(answer=False)


def test_nobody_there_is_no_failed_assertion(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dead(FakePhone):
        async def carry(self, order: Any, operator: Any) -> Any:
            raise Unreachable("connection refused")

    monkeypatch.setattr(targets, "open_phone", lambda target, **credentials: Dead())
    with pytest.raises(Unreachable, match="refused"):
        desk.dial()


def test_the_report_comes_from_the_wire(dial: Dial) -> None:
    call = dial(Agent(talks=[(0.3, 2.0)], answers_after=0.7))
    call.wait_agent_done()
    call.say("Hello.")
    call.expect_agent(within=1.5)
    call.wait_agent_done()
    report = call.report
    assert call.over
    assert report.verdict == "pass", report.findings
    assert report.metrics["v2v_ms"] == [pytest.approx(700, abs=21)]
    assert [turn["who"] for turn in report.turns] == ["agent", "caller", "agent"]
    assert report.turns[1]["text"] == "Hello."
    assert call.report is report


def test_a_recording_is_written(dial: Dial, tmp_path: Path) -> None:
    call = dial(Agent(talks=[(0.1, 0.5)]))
    call.say("Hello.")
    call.write(tmp_path / "a.wav")
    call.write(tmp_path / "a.wav")
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnchannels(), file.getframerate()) == (2, RATE)
        assert file.getnframes() == len(call.log.caller)


def test_a_desk_hangs_up_what_is_up_and_leaves_no_thread(desk: Desk, dial: Dial) -> None:
    call = dial()
    assert any(thread.name == "offhook-calls" for thread in threading.enumerate())
    desk.forget()
    assert call.over
    assert desk.calls == []
    desk.close()
    assert not any(thread.name == "offhook-calls" for thread in threading.enumerate())


def test_a_desk_that_never_dialled_has_no_thread() -> None:
    before = threading.active_count()
    with Desk():
        assert threading.active_count() == before
