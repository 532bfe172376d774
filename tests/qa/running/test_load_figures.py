"""What processes tell becomes figures of windows, and a late process's results become nothing."""

from __future__ import annotations

import pytest

from offhook.qa.running.load_figures import MAX_REASONS, OTHER, Figures
from offhook.qa.running.load_worker import Batch, Ended, merged, percentile
from offhook.qa.running.statistics import spread

ON_TIME = {0: 500}
LATE = {0: 400, 80: 100}


def _ended(at: float, **more: object) -> Ended:
    return Ended(1, 0, at - 1, at, **more)  # type: ignore[arg-type]  # whichever fields a test is about


def test_percentiles_of_histograms_are_upper_edges() -> None:
    assert percentile({}, 0.5) is None
    assert percentile({0: 99, 30: 1}, 0.99) == 1
    assert percentile({0: 98, 30: 2}, 0.99) == 31
    assert merged([{1: 2}, {1: 1, 3: 4}]) == {1: 3, 3: 4}


def test_nothing_has_no_percentiles() -> None:
    assert spread([]) == {"n": 0, "p50": None, "p90": None, "p95": None, "p99": None, "max": None}
    assert spread([1.0, 3.0])["p50"] == 2


def test_few_events_make_no_figure() -> None:
    figures = Figures(10)
    figures.add(0, Batch(replies=[(1.0, 0, 700.0)] * 9, beats={0: ON_TIME}))
    assert next(figures.windows(10)).figures["v2v_p95"] is None
    figures.add(0, Batch(replies=[(9.9, 0, 700.0), (10.1, 0, 5000.0)]))
    assert next(figures.windows(10)).figures["v2v_p95"] == 700


def test_what_is_found_at_a_calls_end_stands_for_what_was_told_before() -> None:
    figures = Figures(10)
    figures.add(0, Batch(replies=[(1.0, 1, 740.0), (2.0, 2, 740.0)] * 10, beats={0: ON_TIME}))
    assert next(figures.windows(10)).figures["v2v_p50"] == 740
    figures.add(0, Batch(ended=[_ended(5.0, replies=((1.0, 700.0),) * 20)]))
    assert next(figures.windows(10)).figures["v2v_p50"] == 700
    assert figures.overall()["v2v_ms"]["n"] == 20


def test_what_a_late_process_measured_is_left_out_and_its_calls_are_counted() -> None:
    figures = Figures(10)
    for process, beats, milliseconds in ((0, ON_TIME, 700.0), (1, LATE, 4000.0)):
        ended = _ended(5.0, replies=((1.0, milliseconds),) * 20)
        figures.add(process, Batch(began=[0.5], ended=[ended], beats={0: beats}))
    window = next(figures.windows(10))
    assert not window.doubtful
    assert (window.began, window.ended) == (2, 2)
    assert (window.figures["v2v_p95"], window.late_ms) == (700, 1)
    assert figures.overall()["v2v_ms"]["max"] == 700
    assert figures.part(0, "hello", "hello.yaml").v2v_ms["n"] == 20
    assert figures.process(1, 42).late_p99_ms == 81


def test_a_call_whose_own_frames_were_late_counts_neither_way() -> None:
    figures = Figures(10)
    late = _ended(5.0, failed="the agent hung up", replies=((1.0, 4000.0),) * 20, late=LATE)
    figures.add(0, Batch(ended=[late, late, _ended(6.0)], beats={0: ON_TIME}))
    window = next(figures.windows(10))
    assert (window.ended, window.failed, window.late, window.doubtful) == (1, 0, 2, True)
    assert figures.overall()["v2v_ms"]["n"] == 0
    assert (figures.totals.late, figures.reasons) == (2, {})


def test_a_window_in_which_all_were_late_is_doubtful() -> None:
    figures = Figures(10)
    figures.add(0, Batch(replies=[(1.0, 1, 700.0)] * 20, beats={0: LATE}))
    window = next(figures.windows(10))
    assert window.doubtful
    assert window.late_ms == 81
    assert window.figures["v2v_p95"] is None


def test_calls_under_way_are_an_average_over_the_window() -> None:
    figures = Figures(10)
    figures.add(0, Batch(began=[0.0, 5.0, 12.0], ended=[_ended(15.0)]))
    first, second, third = figures.windows(25.0)
    assert first.calls == pytest.approx(1.5)
    assert second.calls == pytest.approx(2 + 0.8 - 0.5)
    assert (third.calls, third.start, third.end) == (2, 20, 25)
    assert next(figures.windows(20, 1)).calls == second.calls


def test_a_shorter_last_window_counts_what_is_in_it() -> None:
    figures = Figures(10)
    figures.add(0, Batch(began=[1.0]))
    assert next(figures.windows(2.0)).calls == pytest.approx(0.5)


def test_calls_that_were_cut_count_neither_way_and_mistakes_are_our_own() -> None:
    figures = Figures(10)
    figures.add(0, Batch(ended=[_ended(1.0, failed="x", cut=True), _ended(2.0, mistake="y"), _ended(3.0, failed="z")]))
    assert (figures.totals.ended, figures.totals.failed, figures.cut) == (1, 1, 1)
    assert (figures.reasons, figures.mistakes) == ({"z": 1}, {"y": 1})


def test_what_is_known_at_a_calls_end_goes_to_the_window_it_is_of() -> None:
    figures = Figures(10)
    ended = _ended(25.0, greeting=(3.0, 400.0), setup_ms=7.0, gaps=((0, {20: 50}), (1, {20: 99, 60: 1})))
    figures.add(0, Batch(ended=[ended] * 10))
    first, second, _ = figures.windows(30.0)
    assert (first.figures["greeting_p95"], first.figures["packet_gap_p99"]) == (400, 21)
    assert (second.figures["greeting_p95"], second.figures["packet_gap_p99"]) == (None, 21)
    assert figures.overall()["packet_gap_ms"]["max"] == 61


def test_reasons_are_many_at_most() -> None:
    figures = Figures(10)
    figures.add(0, Batch(ended=[_ended(1.0, failed=f"reason {n}") for n in range(MAX_REASONS + 5)]))
    assert len(figures.reasons) == MAX_REASONS + 1
    assert figures.reasons[OTHER] == 5
