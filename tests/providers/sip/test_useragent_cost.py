"""What a call costs."""

from __future__ import annotations

import gc
import time

import pytest
from fakes.sip_phones import ANSWER, Network, Phone

from offhook.providers.sip.events import RequestArrived, UaEvent

CALLS = 300
MOST = 0.003
"""Seconds of CPU for a whole call at one end, reading, transactions and session together. About 0.9 ms was measured;
a core that sets up and tears down 100 calls a second must have most of its time left for their audio."""


@pytest.mark.timing
def test_a_whole_call_costs_little() -> None:
    alice, bob = Phone("10.0.0.1", own_tokens=False), Phone("10.0.0.2", own_tokens=False)

    def answer(phone: Phone, event: UaEvent, now: float) -> None:
        if isinstance(event, RequestArrived):
            session = phone.ua.take_invite(event.tx, now)
            assert session is not None
            session.ring(now=now)
            session.answer(ANSWER, now=now)

    bob.on_event = answer
    network = Network(alice, bob, delay=0.001)
    gc.collect()
    start = time.process_time()
    for _ in range(CALLS):
        call = alice.call("10.0.0.2", network.now)
        network.run(0.005)
        assert call.confirmed
        call.hang_up(now=network.now)
        network.run(0.005)
        alice.events.clear()
        bob.events.clear()
        network.log.clear()
    spent = time.process_time() - start
    assert spent / CALLS / 2 < MOST
    network.run(40)
    assert len(alice.ua._transactions) == len(bob.ua._transactions) == 0
