"""The agent host's end of the link; processes are tried in tests/gateway/test_hosts.py."""

from __future__ import annotations

from typing import Any, cast

import pytest

from offhook.agents import link
from offhook.agents.host import AgentHostProtocol, _CallWire


class Host:
    """Takes what is written."""

    def __init__(self) -> None:
        self.written: list[tuple[int, int, bytes]] = []

    def write(self, call: int, kind: int, body: bytes) -> None:
        self.written.append((call, kind, body))


def test_a_message_too_large_fails_its_call_and_not_the_connection() -> None:
    host = Host()
    wire = _CallWire(cast(AgentHostProtocol, host), 7)
    wire.event(link.Spoken(1))
    with pytest.raises(ValueError, match=r"Bed of 1333.* bytes; the agent link carries 1048576"):
        wire.event(link.Bed("d", bytes(1_000_000)))
    wire.audio(b"abc")
    sent: list[Any] = [(call, kind) for call, kind, _ in host.written]
    assert sent == [(7, link.EVENT), (7, link.AUDIO)]
