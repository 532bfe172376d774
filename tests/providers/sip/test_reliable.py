"""Reliable provisional responses on their own; within calls they are in test_invite_incoming and _outgoing."""

from __future__ import annotations

import pytest

from offhook.providers.sip.message import BadMessage, Headers, Request, Response
from offhook.providers.sip.reliable import MAX_WAITING, ReliableReceiver, ReliableSender, is_reliable, parse_rack
from offhook.providers.sip.timers import Timers


def prack(rack: str) -> Request:
    return Request("PRACK", "sip:a@b", Headers([("RAck", rack)] if rack else []))


def test_one_after_the_other() -> None:
    sent: list[tuple[int, str | None]] = []
    timers = Timers()
    sender = ReliableSender(
        timers,
        lambda response, now: sent.append((response.status, response.headers.get("RSeq"))),
        lambda now: None,
        number=7,
        t1=0.5,
    )
    for status in (183, 180, 181):
        sender.send(Response(status), 0.0)
    assert sent == [(183, "7")]
    assert sender.pending
    assert not sender.acknowledged(prack("8 1 INVITE"), 1, 0.1)
    assert not sender.acknowledged(prack("7 2 INVITE"), 1, 0.1)
    assert sender.acknowledged(prack("7 1 INVITE"), 1, 0.1)
    assert not sender.acknowledged(prack("7 1 INVITE"), 1, 0.1)
    assert sender.acknowledged(prack("8 1 INVITE"), 1, 0.1)
    assert sender.acknowledged(prack("9 1 INVITE"), 1, 0.1)
    assert sent == [(183, "7"), (180, "8"), (181, "9")]
    assert not sender.pending
    assert timers.next() is None


def test_few_wait() -> None:
    sent: list[int] = []
    sender = ReliableSender(Timers(), lambda r, now: sent.append(r.status), lambda now: None, number=1, t1=0.5)
    for status in (183, *[180] * (MAX_WAITING + 5)):
        sender.send(Response(status), 0.0)
    number = 1
    while sender.acknowledged(prack(f"{number} 1 INVITE"), 1, 0.0):
        number += 1
    assert len(sent) == MAX_WAITING + 1


def test_receiver_takes_each_once_in_order() -> None:
    receiver = ReliableReceiver()
    numbers = [receiver.take(Response(180, "", Headers([("RSeq", str(n))]))) for n in (5, 5, 7, 6, 7, 4)]
    assert numbers == [5, None, None, 6, 7, None]
    with pytest.raises(BadMessage):
        receiver.take(Response(180))
    with pytest.raises(BadMessage):
        receiver.take(Response(180, "", Headers([("RSeq", "x")])))


def test_which_are_reliable() -> None:
    require = Headers([("Require", "100rel")])
    assert is_reliable(Response(180, "", require))
    assert not is_reliable(Response(180))
    assert not is_reliable(Response(100, "", require))
    assert not is_reliable(Response(200, "", require))


@pytest.mark.parametrize("rack", ["", "1", "1 2", "x 2 INVITE", "1 x INVITE", "1 2 INVITE y", "99999999999 1 INVITE"])
def test_rack_that_cannot_be_read(rack: str) -> None:
    with pytest.raises(BadMessage):
        parse_rack(prack(rack))
