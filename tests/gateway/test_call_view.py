"""How a call is shown: what only calls over a trunk have. The rest is tried through the command line."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from offhook.gateway.call_view import print_call
from offhook.gateway.journal import Entry
from offhook.gateway.records import CallRecord


def shown(events: list[tuple[str, dict[str, Any]]]) -> list[str]:
    console = Console(file=io.StringIO(), width=120)
    entries = [Entry(seq, "c1", event, 10.0 + seq, 5.0 + seq, data) for seq, (event, data) in enumerate(events)]
    print_call(console, CallRecord("c1", carrier="sip", direction="inbound", carrier_call_id="x"), entries)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_trunk_and_the_audio_of_a_sip_call() -> None:
    quality = {"packets_received": 0, "packets_sent": 812, "remote_loss_percent": 1.5, "rtt_ms": 20.0}
    lines = shown([("call.offered", {"fields": {"trunk": "pbx"}}), ("media.quality", quality)])
    assert "carrier  sip pbx · inbound · x" in lines
    assert "audio    received 0 packets · sent 812 · lost there 1.5 % · round trip 20 ms" in lines


def test_a_call_of_which_neither_is_known() -> None:
    lines = shown([("call.offered", {"fields": "odd"}), ("media.quality", {"mos": "odd"})])
    assert "carrier  sip · inbound · x" in lines
    assert "audio    score 0" in lines
    assert not any(line.startswith("audio") for line in shown([]))
