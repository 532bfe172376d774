"""The clips that turn-taking is measured on: the truth about them is true, and they come out the same every time."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from offhook.qa.activity import RATE, levels, speech_spans
from offhook.qa.spoken import PAUSE, SPEAKERS, Speaker, say, say_haltingly
from offhook.qa.turn_corpus import Clip, corpus

pytestmark = pytest.mark.skipif(
    not (shutil.which("flite") and shutil.which("espeak-ng")), reason="flite or espeak-ng is not installed"
)

FLITE, ESPEAK = SPEAKERS[0], SPEAKERS[1]


@pytest.fixture(scope="module")
def quiet() -> list[Clip]:
    return corpus(snrs=(None,))


@pytest.mark.parametrize("speaker", [FLITE, ESPEAK], ids=str)
def test_every_word_has_its_place_and_the_order_of_the_sentence(speaker: Speaker) -> None:
    said = say(speaker, "Can you tell me your opening hours?")
    assert [word for word, _, _ in said.words] == ["Can", "you", "tell", "me", "your", "opening", "hours?"]
    times = [time for _, start, end in said.words for time in (start, end)]
    assert times == sorted(times)
    assert times[0] == 0
    assert times[-1] == pytest.approx(said.seconds, abs=0.05)


@pytest.mark.parametrize("speaker", [FLITE, ESPEAK], ids=str)
def test_a_sentence_is_opened_at_the_pause_and_the_word_before_it_drawn_out(speaker: Speaker) -> None:
    text = f"I would like to {PAUSE} book a table."
    plain, after = say_haltingly(speaker, text, "plain", np.random.default_rng(1))
    drawn, _ = say_haltingly(speaker, text, "drawn", np.random.default_rng(1))
    filled, _ = say_haltingly(speaker, text, "filler", np.random.default_rng(1))
    assert [word for word, _, _ in plain.words] == ["I", "would", "like", "to"]
    assert [word for word, _, _ in after.words] == ["book", "a", "table."]
    assert plain.seconds + 0.1 < drawn.seconds < plain.seconds + 0.35
    assert filled.seconds > plain.seconds + 0.3
    assert filled.words == plain.words, "no recogniser writes an um"


def test_words_that_cannot_be_told_apart_are_refused_rather_than_timed_wrongly() -> None:
    with pytest.raises(ValueError, match="choose another sentence"):
        say(FLITE, "fine - thanks")


def test_the_truth_about_a_clip_is_what_can_be_heard(quiet: list[Clip]) -> None:
    for clip in (clip for clip in quiet if clip.kind == "finished"):
        heard = speech_spans(clip.audio)
        assert heard[0].start == pytest.approx(clip.speech[0].start, abs=0.12)
        assert heard[-1].end == pytest.approx(clip.speech[-1].end, abs=0.12)
        assert clip.words[0].start_ms >= 1000 * clip.speech[0].start
        assert clip.words[-1].end_ms <= 1000 * clip.speech[-1].end + 1


def test_a_pause_is_silent_and_as_long_as_it_says(quiet: list[Clip]) -> None:
    pauses = [clip for clip in quiet if clip.pause is not None]
    assert pauses
    for clip in pauses:
        assert clip.pause is not None
        begin, end = round(clip.pause.start * RATE), round(clip.pause.end * RATE)
        assert (end - begin) / RATE == pytest.approx(float(clip.name.split("(")[1].split(" ms")[0]) / 1000, abs=0.001)
        assert levels(clip.audio[begin + 80 : end - 80]).max() < -55


def test_the_noise_is_as_far_below_the_voice_as_it_says() -> None:
    for clip in corpus(snrs=(20, 5), every=20):
        background = np.sort(levels(clip.audio[: round(0.9 * RATE)]))[-45:].mean()
        assert clip.snr is not None
        assert background == pytest.approx(-20 - clip.snr, abs=5)


def test_the_same_clips_come_out_every_time() -> None:
    once, again = (corpus(snrs=(10,), every=30) for _ in range(2))
    assert [clip.name for clip in once] == [clip.name for clip in again]
    assert all((a.audio == b.audio).all() for a, b in zip(once, again, strict=True))


def test_clips_have_names_of_their_own_and_every_kind_is_there(quiet: list[Clip]) -> None:
    clips = [*quiet, *corpus(snrs=(20,), every=8)]
    assert len({clip.name for clip in clips}) == len(clips) > 140
    kinds = {clip.kind for clip in clips}
    assert kinds == {
        "finished", "paused", "interruption", "double talk", "back-channel", "cough", "keys", "noise",
    }  # fmt: skip
