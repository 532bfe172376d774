"""The carrier that providers/README.md builds works as it stands there."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from offhook.codecs.audio import PCMU
from offhook.providers.base import (
    CarrierAuthError,
    CarrierRequest,
    CarrierUnavailable,
    DialAnswer,
    DtmfReceived,
    HangUpAnswer,
    MarkReached,
    MediaReceived,
    ProtocolFault,
    RejectAnswer,
    SayAnswer,
    StreamAnswer,
    StreamEnded,
    StreamEvent,
    StreamStarted,
)
from offhook.providers.carrier_side import CarrierFault

README = Path(__file__).resolve().parents[2] / "providers" / "README.md"
FILES = ("wire", "auth", "answer", "api", "adapter")
FRAME = bytes(range(160))
CALL_URL = "https://gw.example.net/acme/call"


@pytest.fixture(scope="module")
def acme() -> Iterator[dict[str, Any]]:
    """The README's five files, as modules."""
    package = "offhook.providers.acme"
    blocks = re.findall(r"```python\n# providers/acme/(\w+)\.py\n(.*?)```", README.read_text(), re.DOTALL)
    assert [name for name, _ in blocks] == list(FILES)
    root = ModuleType(package)
    root.__path__ = []
    sys.modules[package] = root
    found: dict[str, Any] = {}
    for name, source in blocks:
        module = ModuleType(f"{package}.{name}")
        sys.modules[module.__name__] = found[name] = module
        setattr(root, name, module)
        exec(compile(source, f"{README}:{name}.py", "exec"), module.__dict__)
    yield found
    for name in [package, *(module.__name__ for module in found.values())]:
        del sys.modules[name]


def test_wire(acme: dict[str, Any]) -> None:
    stream = acme["wire"].AcmeStream(expect_call_id="c-1")
    side = acme["wire"].AcmeCarrierSide(call_id="c-1", stream_id="s-1")
    assert isinstance(side.receive(stream.media(FRAME), 0.0)[0], CarrierFault)
    events: list[StreamEvent] = []

    def up(messages: list[bytes], now: float) -> None:
        for message in messages:
            events.extend(stream.receive(message, now))

    up(side.open(0.0), 0.0)
    up([side.media(FRAME)], 0.02)
    side.lose(FRAME)
    up([side.media(FRAME), side.dtmf("5")], 0.06)
    for message in (stream.media(FRAME), stream.mark("a"), stream.media(FRAME), stream.mark("b")):
        assert not isinstance(side.receive(message, 0.06)[0], CarrierFault)
    up(side.due(0.09), 0.09)
    (clear,) = stream.clear(0.09)
    side.receive(clear, 0.09)
    up(side.due(0.09), 0.09)
    up([b"{}", *side.stop()], 0.1)
    assert events[:-2] == [
        StreamStarted("s-1", "c-1", PCMU, {}),
        MediaReceived(FRAME, 0),
        MediaReceived(FRAME, 20),
        DtmfReceived("5"),
        MarkReached("a", cleared=False),
        MarkReached("b", cleared=True),
    ]
    assert isinstance(events[-2], ProtocolFault)
    assert events[-1] == StreamEnded("stop")
    assert stream.send_dtmf("1") is None
    assert isinstance(side.receive(b"{", 0.1)[0], CarrierFault)
    assert isinstance(side.receive(stream.media(bytes(8000 * 61)), 0.1)[0], CarrierFault)
    refused = acme["wire"].AcmeStream(expect_call_id="c-1").receive(side.open(0.0)[0].replace(b"ulaw", b"opus"), 0.0)
    assert refused[-1] == StreamEnded("protocol-error")


def test_answer(acme: dict[str, Any]) -> None:
    build, parse = acme["answer"].build, acme["answer"].parse
    for answer in (
        StreamAnswer("wss://gw.example.net/acme/media/t", after_url="https://gw.example.net/acme/after"),
        StreamAnswer("wss://gw.example.net/acme/media/t"),
        RejectAnswer(),
        SayAnswer("Hi"),
        SayAnswer("Hi", "+15550001111"),
        DialAnswer("+15550001111"),
        HangUpAnswer(),
    ):
        found = parse(build(answer))
        assert found.verbs
        assert found.faults == ()
        assert (found.stream is not None) is isinstance(answer, StreamAnswer)
    assert parse("<Response><Sing/></Response>").faults
    with pytest.raises(ValueError, match=r"^url: "):
        build(StreamAnswer("ws://gw.example.net/acme/media/t"))


async def test_provider(acme: dict[str, Any], api: Any, reply: Any) -> None:
    adapter = acme["adapter"]
    provider = adapter.AcmeProvider(
        adapter.AcmeSettings.model_validate({"account": "a", "token": ["new", "old"], "api_base": api.url})
    )
    body = b"id=c-1&from=15550001111&to=15550002222&status=over"
    for token in ("new", "old"):
        signature = acme["auth"].sign(token, CALL_URL, body)
        request = CarrierRequest("POST", CALL_URL, {"x-acme-signature": [signature]}, body)
        provider.verify(request)
        provider.verify_upgrade(request)
    for headers in ({}, {"x-acme-signature": [signature, signature]}, {"x-acme-signature": ["é"]}):
        with pytest.raises(CarrierAuthError):
            provider.verify(CarrierRequest("POST", CALL_URL, headers, body))
    call = provider.incoming(request)
    assert (call.carrier_call_id, call.from_number, call.to_number) == ("c-1", "+15550001111", "+15550002222")
    assert provider.status(request).status == "completed"
    assert provider.answer(HangUpAnswer()).content_type == "text/xml"
    assert provider.stream(expect_call_id="c-1").stream_id == ""

    api.answer(reply(404, {}))
    await provider.control.hang_up("c-1")
    api.answer(reply(200, {"id": "c-2", "name": "Acme Ltd"}))
    await provider.control.transfer("c-1", DialAnswer("+15550001111"), fetch_url="https://gw.example.net/acme/after")
    urls = {"answer_url": CALL_URL, "status_url": CALL_URL}
    assert await provider.control.dial("+15550001111", "+15550002222", **urls) == "c-2"
    assert await provider.control.check() == "Acme Ltd"
    assert await provider.control.send_dtmf("c-1", "1") is False
    api.answer(reply(503, {}))
    with pytest.raises(CarrierUnavailable):
        await provider.control.dial("+15550001111", "+15550002222", **urls)
    assert [request.method for request in api.requests] == ["DELETE", "POST", "POST", "GET", "POST"]
    await provider.control.close()
