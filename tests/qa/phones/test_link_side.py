"""The gateway's side of the link, step by step: what is heard, and how each utterance is reported."""

from __future__ import annotations

import json

from offhook.agents import link
from offhook.codecs.audio import L16_16K, PCMU
from offhook.providers.carrier_side import DtmfPlayed
from offhook.qa.phones.link_side import MAX_LIVE_S, LinkSide

SECOND = b"\x01" * 8000


def opened() -> LinkSide:
    side = LinkSide("c1", PCMU)
    assert [json.loads(message) for message in side.open(100.0)] == [{"type": "answered"}]
    return side


def tell(side: LinkSide, message: link.FromAgent, now: float) -> None:
    side.receive(link.encode(message).decode(), now)


def reports(side: LinkSide, now: float) -> list[object]:
    return [link.decode_to_agent(message) for message in side.due(now)]


def test_an_utterance_is_started_when_it_is_heard_and_played_when_all_of_it_was() -> None:
    side = opened()
    tell(side, link.Speak(1), 101.0)
    side.receive_binary(SECOND, 101.0)
    tell(side, link.Spoken(1), 101.0)
    assert reports(side, 101.0) == [link.UtteranceStarted(1)]
    assert reports(side, 101.9) == []
    assert side.next_due() == 102.0
    assert reports(side, 102.0) == [link.UtteranceEnded(1, "played", 1000, 1000)]
    heard = side.play(102.5)
    assert (len(heard), heard.index(1), heard.rindex(1)) == (20_000, 8_000, 15_999)


def test_a_clear_cuts_what_plays_and_drops_what_waits() -> None:
    side = opened()
    for number in (1, 2, 3):
        tell(side, link.Speak(number), 100.0)
        side.receive_binary(SECOND, 100.0)
        tell(side, link.Spoken(number), 100.0)
    tell(side, link.Clear(), 101.25)
    assert reports(side, 101.25) == [
        link.UtteranceStarted(1),
        link.UtteranceEnded(1, "played", 1000, 1000),
        link.UtteranceStarted(2),
        link.UtteranceEnded(2, "cut", 250, 1000),
        link.UtteranceEnded(3, "dropped", 0, 1000),
    ]
    assert reports(side, 101.3) == []
    assert side.queued(101.25) == 0


def test_what_is_under_way_at_the_end_is_reported_before_over() -> None:
    side = opened()
    tell(side, link.Speak(7), 100.0)
    side.receive_binary(SECOND, 100.0)
    side.play(100.3)
    last = [link.decode_to_agent(message) for message in side.stop()]
    assert last == [
        link.UtteranceStarted(7),
        link.UtteranceEnded(7, "cut", 300, 1000),
        link.Over("caller_hangup"),
    ]


def test_an_utterance_without_audio_is_played_at_once() -> None:
    side = opened()
    tell(side, link.Speak(1), 100.0)
    tell(side, link.Spoken(1), 100.0)
    assert reports(side, 100.0) == [link.UtteranceEnded(1, "played", 0, 0)]


def test_live_audio_is_dropped_when_it_cannot_be_heard_in_time() -> None:
    side = opened()
    for _ in range(100):
        side.receive_binary(SECOND[:160], 100.0)
    assert MAX_LIVE_S <= side.queued(100.0) <= MAX_LIVE_S + 0.021
    assert {fault.kind for fault in side.faults} == {"overflow"}
    assert reports(side, 101.0) == []


def test_a_hang_up_waits_for_the_last_word_unless_it_is_told_not_to() -> None:
    side = opened()
    tell(side, link.Speak(1), 100.0)
    side.receive_binary(SECOND, 100.0)
    tell(side, link.HangUp("done"), 100.0)
    assert not side.leaves(100.5)
    assert side.leaves(101.0)
    side = opened()
    side.receive_binary(SECOND, 100.0)
    tell(side, link.HangUp(after_speech=False), 100.0)
    assert side.leaves(100.0)


def test_live_audio_holds_up_no_hang_up() -> None:
    side = opened()
    side.receive_binary(SECOND[:800], 100.0)
    tell(side, link.HangUp("done"), 100.0)
    side.receive_binary(SECOND, 100.05)
    assert not side.leaves(100.09)
    assert side.leaves(100.1)


def test_breaches_are_noted_and_the_call_goes_on() -> None:
    side = LinkSide("c1", L16_16K)
    side.open(100.0)
    tell(side, link.Speak(1), 100.0)
    tell(side, link.Speak(1), 100.0)
    tell(side, link.Ready(), 100.0)
    side.receive("{}", 100.0)
    side.receive_binary(b"\0\0\0", 100.0)
    tell(side, link.Failed("ValueError: no"), 100.0)
    assert [fault.kind for fault in side.faults] == ["bad-message"] * 3 + ["odd-length", "bad-message"]
    assert side.leaves(100.1)


def test_keys_and_orders_of_the_agent_are_told() -> None:
    told: list[str] = []
    side = LinkSide("c1", PCMU, told.append)
    side.open(100.0)
    assert side.receive(link.encode(link.SendDtmf("12#")).decode(), 100.0) == [DtmfPlayed(100.0, "12#")]
    tell(side, link.Transcript("agent", "Hello"), 100.0)
    tell(side, link.Transfer("+15550111"), 100.0)
    assert [json.loads(text)["type"] for text in told] == ["dtmf.send", "transcript", "transfer"]
    assert isinstance(side.leaving, link.Transfer)
