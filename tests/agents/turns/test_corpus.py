"""Turn-taking on synthetic telephone clips: whoever changes the policy must keep these limits.

The whole corpus is slow; a third of it, on a quiet line and in noise of 10 dB, stands in for it otherwise. What went
wrong on which clip: `python bench/turns.py --policy model --wrong`, and `--log` with a part of the clip's name.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import numpy as np
import pytest

from offhook.agents.turns.settings import TurnSettings
from offhook.agents.turns.smart_turn import SmartTurn
from offhook.qa.turn_corpus import corpus
from offhook.qa.turn_play import Play, Result, voiced
from offhook.qa.turn_score import CachedModel, figures

MODEL = TurnSettings(end="model")
TRANSCRIPT = TurnSettings(end="transcript")

pytestmark = [
    pytest.mark.skipif(
        not (shutil.which("flite") and shutil.which("espeak-ng")), reason="the voices of the corpus are not installed"
    ),
    pytest.mark.skipif(not SmartTurn.installed(), reason="no end-of-turn model: pip install --no-deps pipecat-ai"),
]


def play(snrs: tuple[int | None, ...], every: int) -> dict[str, list[Result]]:
    clips = corpus(snrs=snrs, every=every)
    probabilities = voiced(clips)
    model = CachedModel()
    try:
        return {
            settings.end: [Play(c, p, settings, model).run() for c, p in zip(clips, probabilities, strict=True)]
            for settings in (MODEL, TRANSCRIPT)
        }
    finally:
        model.close()


def share_of(results: Sequence[Result], what: str) -> float:
    """Percent, of at least 15 clips."""
    found = figures(results)[what]
    assert found["of"] >= 15
    return float(found["percent"])


def check(played: dict[str, list[Result]]) -> None:
    for results in played.values():
        assert share_of(results, "false stops on coughs and back-channels") < 5
        assert share_of(results, "missed interruptions") < 5
        assert share_of(results, "pause of 700 ms answered too early") < 5
        assert share_of(results, "turns not answered") < 5
        # People talking behind the caller keep the detector awake: there the agent stops at his first word.
        stops = [r.stop_ms for r in results if r.stop_ms is not None and r.clip.noise != "babble"]
        assert np.percentile(stops, 95) <= 300
    response = [r.response_ms for r in played["model"] if r.response_ms is not None and r.clip.snr is None]
    assert np.percentile(response, 50) <= 500


@pytest.mark.timeout(180)
def test_a_third_of_the_corpus_keeps_the_limits() -> None:
    check(play((None, 10), every=3))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_corpus_keeps_the_limits() -> None:
    check(play((None, 20, 10, 5), every=1))
