"""Keys in the agent's audio, with their edges, and what is none."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.known_calls import SENTENCES, Made, carried, laid, spoken

from offhook.codecs.audio import L16_8K
from offhook.codecs.dtmf import DIGITS, tones
from offhook.qa.activity import Samples
from offhook.qa.measuring.keys import agent_keys, decode, spelled
from offhook.qa.phones.base import LineEvent


def key(digit: str, seconds: float) -> Samples:
    return np.frombuffer(tones(digit, seconds, L16_8K), "<i2")


@pytest.mark.parametrize("law", ["PCMU", "PCMA"])
@pytest.mark.parametrize(("tone", "gap"), [(0.05, 0.05), (0.09, 0.07), (0.25, 0.1)])
def test_every_key_is_found_with_its_length(tone: float, gap: float, law: str) -> None:
    begins = [0.5137 + n * (tone + gap) for n in range(len(DIGITS))]
    pieces = [(at, key(digit, tone)) for at, digit in zip(begins, DIGITS, strict=True)]
    found = decode(carried(laid(7.0, *pieces), law, -55.0))
    assert spelled(found) == DIGITS
    assert [heard.start for heard in found] == pytest.approx(begins, abs=0.006)
    assert [heard.end - heard.start for heard in found] == pytest.approx([tone] * len(DIGITS), abs=0.010)


def test_a_key_at_either_end_of_the_track_is_found() -> None:
    track = np.concatenate([key("1", 0.1), np.zeros(1600, np.int16), key("1", 0.1)])
    assert spelled(decode(track)) == "11"


def test_speech_holds_no_keys() -> None:
    for name in SENTENCES:
        assert decode(carried(spoken()[name])) == []


def test_a_key_that_comes_in_both_ways_is_one() -> None:
    events = [LineEvent(1.08, "dtmf", "5"), LineEvent(2.0, "dtmf", "6#"), LineEvent(2.5, "dtmf", "5")]
    log = Made(agent=[(1.0, key("5", 0.1))], log={"events": events}).caller_log
    heard, sent = agent_keys(log)
    assert spelled(heard) == "5"
    assert spelled(sent) == "6#5"
    assert [found.way for found in sent] == ["event"] * 3
