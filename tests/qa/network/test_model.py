"""What the network model does is what its settings say, and the same each time."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest

from offhook.qa.network.model import MAX_QUEUE_S, RETRANSMIT_S, Delays, NetworkModel, Transit, both_ways
from offhook.qa.scenario.model import Network

FRAME = 0.02
SIZE = 172


def _network(**settings: Any) -> Network:
    return Network.model_validate(settings)


def _sent(model: NetworkModel, count: int, gap: float = FRAME) -> list[tuple[float, ...]]:
    return [model.send(SIZE, n * gap) for n in range(count)]


def test_a_network_without_faults_delivers_at_once() -> None:
    model = NetworkModel(_network())
    assert _sent(model, 5) == [(n * FRAME,) for n in range(5)]
    assert (model.sent, model.lost, model.reordered, model.duplicated, model.mean_delay) == (5, 0, 0, 0, 0.0)


def test_delay_is_added_to_every_packet() -> None:
    model = NetworkModel(_network(delay="40ms"))
    assert model.send(SIZE, 1.0) == (1.04,)
    assert model.mean_delay == pytest.approx(0.04)


def test_the_same_seed_does_the_same_and_another_does_not() -> None:
    network = _network(delay="40ms", jitter="10ms", loss="5%", burst=3, reorder="5%", duplicate="5%", seed=7)
    first = _sent(NetworkModel(network, "a"), 500)
    assert _sent(NetworkModel(network, "a"), 500) == first
    assert _sent(NetworkModel(network, "b"), 500) != first
    assert _sent(NetworkModel(network.model_copy(update={"seed": 8}), "a"), 500) != first


def test_both_ways_have_chances_of_their_own() -> None:
    out, back = both_ways(_network(loss="20%"), 3)
    assert _sent(out, 200) != _sent(back, 200)


def test_which_packets_are_lost_depends_on_no_other_fault_and_on_no_time() -> None:
    def lost(gap: float, **more: Any) -> list[int]:
        model = NetworkModel(_network(loss="10%", burst=2, **more))
        return [n for n, arrivals in enumerate(_sent(model, 1000, gap)) if not arrivals]

    assert lost(FRAME) == lost(0.01, jitter="20ms", delay="50ms", reorder="10%", duplicate="10%")


@pytest.mark.parametrize(("loss", "burst"), [(0.01, 1), (0.1, 1), (0.1, 3), (0.3, 8)])
def test_loss_has_the_mean_and_the_bursts_that_were_asked_for(loss: float, burst: float) -> None:
    arrived = [bool(arrivals) for arrivals in _sent(NetworkModel(_network(loss=loss, burst=burst)), 40_000)]
    runs = [len(list(run)) for came, run in groupby(arrived) if not came]
    assert 1 - sum(arrived) / len(arrived) == pytest.approx(loss, rel=0.15)
    # independent losses come in runs of 1 / (1 - loss), too
    assert sum(runs) / len(runs) == pytest.approx(max(burst, 1 / (1 - loss)), rel=0.1)


def test_everything_may_be_lost() -> None:
    assert not any(_sent(NetworkModel(_network(loss="100%")), 100))


def test_jitter_keeps_the_order() -> None:
    arrivals = [at for (at,) in _sent(NetworkModel(_network(delay="60ms", jitter="20ms")), 5000)]
    delays = [at - n * FRAME for n, at in enumerate(arrivals)]
    assert arrivals == sorted(arrivals)
    assert min(delays) < 0.03
    assert max(delays) > 0.1


def test_jitter_without_delay_is_never_early() -> None:
    arrivals = [at for (at,) in _sent(NetworkModel(_network(jitter="20ms")), 500)]
    assert all(at >= n * FRAME for n, at in enumerate(arrivals))


def test_a_reordered_packet_comes_right_after_its_successor() -> None:
    model = NetworkModel(_network(delay="40ms", jitter="5ms", reorder="10%"))
    order = sorted(range(10_000), key=[at for (at,) in _sent(model, 10_000)].__getitem__)
    swapped = [n for place, n in enumerate(order) if n != place]
    assert model.reordered / 10_000 == pytest.approx(0.1, rel=0.1)
    assert len(swapped) == 2 * model.reordered
    assert all(later == earlier + 1 for later, earlier in zip(swapped[::2], swapped[1::2], strict=True))


def test_duplicates_come_twice() -> None:
    arrivals = _sent(NetworkModel(_network(duplicate="10%", delay="10ms")), 5000)
    assert sum(len(at) == 2 for at in arrivals) / 5000 == pytest.approx(0.1, rel=0.1)


def test_a_slow_link_sends_one_packet_after_the_other_and_drops_what_its_queue_does_not_hold() -> None:
    model = NetworkModel(_network(rate=8000))
    assert model.send(100, 0.0) == (pytest.approx(0.1),)
    assert model.send(100, 0.0) == (pytest.approx(0.2),)
    assert model.backlog(0.0) == pytest.approx(0.2)
    got = [model.send(100, 0.0) for _ in range(20)]
    assert max(at for arrivals in got for at in arrivals) <= MAX_QUEUE_S + 0.2
    assert model.lost == sum(not arrivals for arrivals in got) > 0
    assert model.send(100, 10.0) == (pytest.approx(10.1),)


def test_a_freeze_lets_nothing_through_and_everything_at_its_end() -> None:
    model = NetworkModel(_network(delay="10ms", freeze=[["1s", "500ms"]]))
    got = {now: model.send(SIZE, now)[0] for now in (0.98, 0.995, 1.2, 1.48, 1.495)}
    assert got == {0.98: pytest.approx(0.99), 0.995: 1.5, 1.2: 1.5, 1.48: 1.5, 1.495: pytest.approx(1.505)}


def test_freezes_that_touch_are_one() -> None:
    model = NetworkModel(_network(freeze=[["2s", "1s"], ["1s", "1s"]]))
    assert model.send(SIZE, 1.5) == (3.0,)


def test_a_reset_is_the_affair_of_whoever_has_the_connection() -> None:
    assert NetworkModel(_network(reset="3s")).reset_at == 3.0
    assert NetworkModel(_network()).reset_at is None


def test_tcp_loses_nothing_and_keeps_the_order() -> None:
    network = _network(delay="40ms", jitter="20ms", loss="10%", burst=2, reorder="20%", duplicate="20%")
    model = NetworkModel(network, ordered=True)
    got = _sent(model, 3000)
    arrivals = [at for (at,) in got]
    assert arrivals == sorted(arrivals)
    assert model.lost > 0
    assert (model.reordered, model.duplicated) == (0, 0)


def test_a_lost_segment_of_tcp_comes_after_the_time_out_and_holds_the_others_up() -> None:
    network = _network(delay="50ms", loss="5%", seed=2)
    arrivals = [at for (at,) in _sent(NetworkModel(network, ordered=True), 200)]
    delays = [round(at - n * FRAME, 3) for n, at in enumerate(arrivals)]
    first = next(n for n, delay in enumerate(delays) if delay > 0.05)
    assert delays[first] == pytest.approx(0.05 + RETRANSMIT_S + 0.1)
    assert delays[first + 1] == pytest.approx(delays[first] - FRAME)


def test_a_slow_link_of_tcp_drops_nothing() -> None:
    model = NetworkModel(_network(rate=8000), ordered=True)
    assert [at for _ in range(30) for at in model.send(100, 0.0)][-1] == pytest.approx(3.0)


def test_what_is_under_way_comes_in_the_order_of_its_arrival() -> None:
    transit: Transit[str] = Transit(NetworkModel(_network(delay="100ms")))
    assert transit.next_at is None
    transit.put("a", SIZE, 0.0)
    transit.put("b", SIZE, 0.02)
    assert transit.next_at == pytest.approx(0.1)
    assert list(transit.due(0.05)) == []
    assert [(round(at, 3), item) for at, item in transit.due(0.5)] == [(0.1, "a"), (0.12, "b")]
    assert len(transit) == 0


def test_delays_are_looked_up_by_the_packet_that_carried_a_moment() -> None:
    delays = Delays()
    assert not delays
    for at, added in ((0.02, 0.1), (0.04, 0.2), (0.06, 0.3)):
        delays.note(at, added)
    delays.note(0.05, 9.0)  # overtaken: it carries nothing first
    assert [delays.of_next(at) for at in (0.0, 0.02, 0.030, 0.05, 0.06, 0.07)] == [0.1, 0.1, 0.2, 0.3, 0.3, 0.3]
    assert [delays.of_last(at) for at in (0.0, 0.02, 0.039, 0.05, 0.06, 0.07)] == [0.1, 0.1, 0.1, 0.2, 0.3, 0.3]


def test_what_is_put_into_a_transit_is_known_to_arrive_or_not() -> None:
    transit: Transit[int] = Transit(NetworkModel(_network(delay="40ms")))
    assert transit.put(1, SIZE, 1.0) == pytest.approx(1.04)
    lossy: Transit[int] = Transit(NetworkModel(_network(loss="100%")))
    assert lossy.put(1, SIZE, 1.0) is None
