"""Clips played to the turn-taker: what the agent did is told as it was."""

from __future__ import annotations

import numpy as np
import pytest

from offhook.agents.services.base import Word
from offhook.agents.turns.settings import TurnSettings
from offhook.qa.activity import RATE, Span
from offhook.qa.turn_corpus import Clip, Kind
from offhook.qa.turn_play import REPLY, STOPPING, Hears, Play, Result
from offhook.qa.turn_score import figures, matrix

WINDOW = 0.032


def clip(kind: Kind, *spoken: tuple[float, float, str], agent: float | None = None, seconds: float = 6) -> Clip:
    """A clip with these stretches of speech, its words evenly in each."""
    words = []
    for start, end, text in spoken:
        said = text.split()
        for n, word in enumerate(said):
            begin, to = (start + (end - start) * i / len(said) for i in (n, n + 1))
            words.append(Word(word, round(1000 * begin), round(1000 * to)))
    speech = tuple(Span(start, end) for start, end, _ in spoken)
    audio = np.zeros(round(seconds * RATE), np.int16)
    return Clip(f"{kind} {spoken}", kind, "nobody", audio, tuple(words), speech, agent_from=agent)


def play(made: Clip, voice: tuple[Span, ...] = (), *, hears: Hears = "streaming", **settings: object) -> Result:
    """Play it to a detector that hears what is spoken, or `voice`, and a model that knows the truth."""
    spans = voice or made.speech
    ends = [n * WINDOW for n in range(1, int(made.seconds / WINDOW) + 1)]
    probabilities = [0.99 if any(span.start < end - 0.01 <= span.end for span in spans) else 0.01 for end in ends]

    def judge(asked: Clip, begin: int, end: int) -> float:
        return 0.95 if end / RATE > asked.speech[-1].end else 0.05

    chosen = TurnSettings.model_validate({"end": "model", **settings})
    return Play(made, probabilities, chosen, judge, hears).run()


def test_a_finished_turn_is_answered_after_its_last_word() -> None:
    result = play(clip("finished", (1.0, 2.0, "what are your hours")))
    assert (result.reaction, result.why, result.complete, result.right) == ("answered", "model", True, True)
    assert result.response_ms is not None
    assert 250 < result.response_ms < 450
    assert result.voice_ms == pytest.approx(result.response_ms + 1000 * REPLY)


def test_a_fixed_silence_answers_in_a_long_pause_and_the_model_does_not() -> None:
    paused = clip("paused", (1.0, 2.0, "i would like to"), (3.0, 4.0, "book a table"), seconds=8)
    assert play(paused).reaction == "answered"
    early = play(paused, end="silence")
    assert (early.reaction, early.right) == ("too early", False)


def test_an_interruption_stops_the_agent_as_soon_as_it_is_heard() -> None:
    result = play(clip("interruption", (2.0, 3.0, "no that is wrong"), agent=0.5))
    assert (result.reaction, result.right) == ("stopped", True)
    assert result.stop_ms is not None
    assert 1000 * STOPPING < result.stop_ms < 1000 * STOPPING + 60


def test_an_agent_that_may_not_be_interrupted_has_missed_it() -> None:
    result = play(clip("interruption", (2.0, 3.0, "no that is wrong"), agent=0.5), interrupt="off")
    assert (result.reaction, result.right) == ("went on", False)


def test_noise_that_stopped_the_agent_before_the_caller_began_is_told_apart() -> None:
    made = clip("interruption", (4.0, 5.0, "wait a second"), agent=0.5, seconds=8)
    result = play(made, (Span(1.0, 7.0),), hears="blocks")
    assert (result.reaction, result.right) == ("too early", False)


def test_a_back_channel_holds_the_agent_for_a_moment() -> None:
    result = play(clip("back-channel", (2.0, 2.4, "uh-huh"), agent=0.5))
    assert (result.reaction, result.right) == ("held", True)
    assert result.gap_ms is not None
    assert 200 < result.gap_ms < 1000


def test_a_back_channel_that_the_agent_does_not_mind() -> None:
    result = play(clip("back-channel", (2.0, 2.4, "uh-huh"), agent=0.5), interrupt="words")
    assert (result.reaction, result.gap_ms) == ("went on", None)


def test_a_sound_that_nobody_hears_changes_nothing() -> None:
    made = clip("cough")
    assert play(made).reaction == "waited"


def test_without_interim_text_the_whole_turn_comes_at_the_pause() -> None:
    result = play(clip("finished", (1.0, 2.0, "what are your hours")), hears="blocks")
    assert (result.reaction, result.complete) == ("answered", True)


def test_the_figures_count_what_they_say() -> None:
    results = [
        play(clip("back-channel", (2.0, 2.4, "uh-huh"), agent=0.5)),
        play(clip("interruption", (2.0, 3.0, "no that is wrong"), agent=0.5)),
        play(clip("interruption", (2.0, 3.0, "no that is wrong"), agent=0.5), interrupt="off"),
        play(clip("finished", (1.0, 2.0, "what are your hours"))),
    ]
    found = figures(results)
    assert found["false stops on coughs and back-channels"] == {"count": 0, "of": 1, "percent": 0.0}
    assert found["held for a moment by them"]["count"] == 1
    assert found["missed interruptions"] == {"count": 1, "of": 2, "percent": 50.0}
    assert found["turns not answered"] == {"count": 0, "of": 1, "percent": 0.0}
    rows = matrix(results).splitlines()
    assert rows[2] == "| back-channel over the agent | 1 |  |  |  |  | **1** |  |  |"
    assert rows[3] == "| interrupted the agent | 2 |  |  |  | **1** |  | 1 |  |"
