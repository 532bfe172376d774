"""What the reference says."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from offhook.qa.activity import Span
from offhook.qa.measuring.artifacts import holes
from offhook.qa.phones.base import CallLog
from offhook.qa.reference.lines import GREETING, KEY_GAP_S, VOICED, Lines, at_level, louder_half, made_up


def test_makes_a_voice_that_sets_in_and_breaks_off_at_once() -> None:
    voice = made_up("Hello there.")
    assert np.array_equal(voice, made_up("Hello there."))
    assert not np.array_equal(voice[:800], made_up("Good evening.")[:800])
    size = np.abs(voice.astype(np.int32))
    assert size[0] >= VOICED <= size[-1]
    loud = np.flatnonzero(size >= VOICED)
    assert np.diff(loud).max() < 80  # no pause of 10 ms in it


def test_speaks_at_the_level_it_is_told() -> None:
    for level in (-15.0, -20.0, -30.0):
        assert louder_half(at_level(made_up("Hello there."), level)) == pytest.approx(level, abs=0.05)
    assert louder_half(np.full(1600, -32768, np.int16)) == pytest.approx(0)


def test_keeps_its_crest_below_full_scale_unless_told_to_clip() -> None:
    lines = Lines("made-up")
    assert np.abs(lines.line(GREETING, -20.0).samples.astype(np.int32)).max() < 32000
    assert np.abs(lines.line(GREETING, -20.0, 20.0).samples.astype(np.int32)).max() >= 32767


def test_speaks_keys_one_by_one() -> None:
    line = Lines("made-up").keys("1#", -20.0)
    assert line.text == "You pressed one pound"
    silent = np.flatnonzero(np.diff(np.flatnonzero(line.samples)) > 0.9 * KEY_GAP_S * 8000)
    assert len(silent) == 2


def test_the_pauses_between_keys_are_no_holes() -> None:
    samples = Lines("made-up").keys("1234567890*#", -20.0).samples
    assert abs(int(samples[0])) >= VOICED / 2 <= abs(int(samples[-1]))
    log = CallLog("c1", "sip", "sip:bot@127.0.0.1", 0.0, answered=True, agent=samples, seconds=len(samples) / 8000)
    assert holes(log, [Span(0.0, log.seconds)]) == ([], [])


@pytest.mark.skipif(shutil.which("flite") is None, reason="needs flite")
def test_says_words_with_flite() -> None:
    from offhook.qa.reference.lines import _flite

    voice = _flite("Hello there.")
    assert 0.5 < len(voice) / 8000 < 1.5
    assert abs(int(voice[0])) >= VOICED <= abs(int(voice[-1]))


def test_says_what_is_missing_where_flite_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="apt install flite"):
        Lines("flite")
