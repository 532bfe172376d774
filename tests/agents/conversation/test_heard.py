"""What was heard of a sentence, and where it goes on."""

from __future__ import annotations

import numpy as np
import pytest

from offhook.agents.conversation.heard import heard_text, restart_ms
from offhook.agents.services.base import Word
from offhook.codecs.audio import L16_8K, PCMU
from offhook.codecs.convert import convert_all

TEXT = "We are open from nine to five."
WORDS = [
    Word("We", 0, 150),
    Word("are", 150, 300),
    Word("open", 300, 700),
    Word("from", 700, 900),
    Word("nine", 900, 1300),
    Word("to", 1300, 1400),
    Word("five.", 1400, 2000),
]


@pytest.mark.parametrize(
    ("heard_ms", "text"),
    [
        (0, ""),
        (100, "We"),
        (500, "We are"),
        (520, "We are open"),
        (1200, "We are open from nine"),
        (1650, "We are open from nine to"),
        (1800, "We are open from nine to five."),
        (2000, TEXT),
        (9000, TEXT),
    ],
)
def test_with_word_times(heard_ms: int, text: str) -> None:
    assert heard_text(TEXT, WORDS, heard_ms, 2000) == text


@pytest.mark.parametrize(
    ("heard_ms", "text"),
    [(0, ""), (1, ""), (500, "We are"), (1000, "We are open from"), (1999, TEXT), (2000, TEXT)],
)
def test_in_proportion(heard_ms: int, text: str) -> None:
    assert heard_text(TEXT, [], heard_ms, 2000) == text


def test_words_that_the_voice_writes_otherwise() -> None:
    words = [Word("It", 0, 100), Word("costs", 100, 400), Word("twenty", 400, 700), Word("euros", 700, 1000)]
    assert heard_text("It costs 20 euros today.", words, 390, 2000) == "It costs"
    assert heard_text("It costs 20 euros today.", words, 990, 2000) == "It costs 20 euros"


def test_goes_on_at_the_word_it_stopped_in() -> None:
    assert restart_ms(WORDS, 800, b"", PCMU) == 700
    assert restart_ms(WORDS, 0, b"", PCMU) == 0


def test_goes_on_in_the_gap_before_when_words_are_not_known() -> None:
    rng = np.random.default_rng(1)
    pcm = (rng.normal(0, 4000, 8000)).astype("<i2")
    pcm[4800:5200] = 0  # 600 to 650 ms
    audio = convert_all(pcm.tobytes(), L16_8K, PCMU)
    assert 600 <= restart_ms([], 900, audio, PCMU) <= 640
    assert restart_ms([], 0, audio, PCMU) == 0
