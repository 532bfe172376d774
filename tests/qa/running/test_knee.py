"""What windows say: the knee, and when to stop."""

from __future__ import annotations

from offhook.qa.running.knee import StopRule, Window, broken_limits, find_knee, stopped_for_ourselves
from offhook.qa.scenario.units import Limit

KEPT = {"v2v_p95": Limit("<=", 1500, "ms"), "failures": Limit("<=", 1, "%")}


def _windows(*seen: tuple[float, float | None], doubtful: tuple[int, ...] = ()) -> list[Window]:
    """Windows of 10 s, of (calls, v2v_p95)."""
    found = []
    for number, (calls, v2v) in enumerate(seen):
        window = Window(number * 10, number * 10 + 10, calls, figures={"v2v_p95": v2v})
        window.doubtful = number in doubtful
        window.broken = broken_limits(window.figures, KEPT)
        found.append(window)
    return found


def test_a_limit_that_is_not_kept_is_said_with_what_was_measured() -> None:
    figures = {"v2v_p95": 1830.44, "failures": 0.5, "greeting_p95": None}
    assert broken_limits(figures, KEPT) == ["v2v_p95 1830 ms is not <=1500ms"]


def test_the_knee_is_the_most_calls_before_service_went_bad() -> None:
    knee = find_knee(_windows((10, 700), (20, 800), (30, 900), (40, 1600), (50, 2500), (60, 900)), KEPT)
    assert knee is not None
    assert (knee.calls, knee.at, knee.reached) == (30, 20, True)
    assert str(knee) == "30 calls at once; above that v2v_p95 1600 ms is not <=1500ms"


def test_one_bad_window_may_be_chance() -> None:
    knee = find_knee(_windows((10, 700), (20, 1600), (30, 900), (40, 800)), KEPT)
    assert knee is not None
    assert (knee.calls, knee.reached) == (40, False)
    assert str(knee) == "at least 40 calls at once: the limits were never broken for long"


def test_a_bad_window_at_the_end_is_above_the_knee() -> None:
    knee = find_knee(_windows((10, 700), (20, 800), (30, 1600)), KEPT)
    assert knee is not None
    assert (knee.calls, knee.reached) == (20, True)


def test_a_target_that_is_bad_from_the_beginning_has_no_calls_to_speak_of() -> None:
    knee = find_knee(_windows((10, 1700), (20, 1800)), KEPT)
    assert knee is not None
    assert (knee.calls, knee.reached, knee.per_core) == (0, True, None)


def test_windows_that_say_nothing_make_no_knee() -> None:
    assert find_knee(_windows((10, None), (20, 5000), doubtful=(1,)), KEPT) is None


def test_a_doubtful_window_is_not_blamed_on_the_target() -> None:
    knee = find_knee(_windows((10, 700), (20, 9000), (20, 9000), (30, 800), doubtful=(1, 2)), KEPT)
    assert knee is not None
    assert (knee.calls, knee.reached) == (30, False)


def test_calls_a_core_are_those_of_the_cores_in_use_or_else_of_those_there_are() -> None:
    windows = _windows((10, 700), (40, 800))
    windows[1].cores = 0.5
    used, given = find_knee(windows, KEPT, cores=8), find_knee(_windows((40, 800)), KEPT, cores=4)
    assert used is not None
    assert given is not None
    assert (used.per_core, given.per_core) == (80, 10)
    assert str(used).endswith("(80.0 a core)")


def test_a_load_stops_when_it_is_bad_for_long_enough() -> None:
    rule = StopRule({"v2v_p95": Limit(">", 1500, "ms")}, 30)
    said = [rule.look(window) for window in _windows((1, 1600), (1, 900), (1, 1600), (1, 1700), (1, 1800))]
    assert said == ["", "", "", "", "v2v_p95 1800 ms was >1500ms for 30 s"]


def test_what_is_not_known_neither_stops_a_load_nor_excuses_it() -> None:
    rule = StopRule({"v2v_p95": Limit(">", 1500, "ms")}, 30)
    said = [rule.look(window) for window in _windows((1, 1600), (1, None), (1, 1700), doubtful=(1,))]
    assert said == ["", "", "v2v_p95 1700 ms was >1500ms for 30 s"]


def test_a_load_whose_own_processes_are_late_is_stopped_for_itself() -> None:
    windows = _windows((1, 1), (1, 1), (1, 1), (1, 1), doubtful=(1, 2, 3))
    assert stopped_for_ourselves(windows)
    assert not stopped_for_ourselves(windows[:3])
