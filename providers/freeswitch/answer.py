"""jambonz's verbs: the JSON array that answers its webhooks.

Source: jambonz/schema (2026-08) and https://docs.jambonz.org/verbs. `listen` carries a call's audio both ways; it
blocks until its socket closes, and then `actionHook` is asked how to go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from offhook.providers.base import (
    AcceptAnswer,
    Answer,
    DialAnswer,
    HangUpAnswer,
    RejectAnswer,
    SayAnswer,
    StreamAnswer,
)
from offhook.providers.freeswitch.wire import JAMBONZ_KEYS

REJECTIONS: Final = {"busy": (486, "Busy Here"), "rejected": (603, "Decline")}
"""SIP status and reason of each rejection."""

Verb = dict[str, Any]


def build(answer: Answer, *, rate: int, listen: str = "listen") -> str:
    """Write the verbs for an answer.

    Args:
        rate: samples a second of a stream, both ways.
        listen: the verb's name; `stream` is its younger one.

    Raises:
        ValueError: jambonz would refuse it; the text names field and remedy.
    """
    return msgspec.json.encode(verbs(answer, rate=rate, listen=listen)).decode()


def verbs(answer: Answer, *, rate: int, listen: str = "listen") -> list[Verb]:
    """The same, not yet JSON."""
    return list(_verbs(answer, rate, listen))


def _verbs(answer: Answer, rate: int, listen: str) -> Iterator[Verb]:
    match answer:
        case StreamAnswer():
            yield {"verb": "answer"}
            yield _listen(answer, rate, listen)
            if not answer.after_url:
                yield {"verb": "hangup"}
        case SayAnswer():
            yield {"verb": "say", "text": answer.text}
            yield _dial(DialAnswer(answer.then_dial)) if answer.then_dial else {"verb": "hangup"}
        case DialAnswer():
            yield _dial(answer)
            yield {"verb": "hangup"}
        case RejectAnswer():
            status, reason = REJECTIONS[answer.reason]
            yield {"verb": "sip:decline", "status": status, "reason": reason}
        case HangUpAnswer():
            yield {"verb": "hangup"}
        case AcceptAnswer():
            raise ValueError("answer: jambonz needs the address of a media socket; answer with a stream")


def _listen(answer: StreamAnswer, rate: int, listen: str) -> Verb:
    if not answer.url.startswith(("wss://", "ws://")):
        raise ValueError(f"url: stream {answer.url[:80]!a} must begin with wss:// or ws://")
    if taken := JAMBONZ_KEYS & answer.parameters.keys():
        raise ValueError(f"parameters: {sorted(taken)[0]!r} would overwrite jambonz's own key; give it another name")
    verb: Verb = {
        "verb": listen,
        "url": answer.url,
        "mixType": "mono",
        "sampleRate": rate,
        "passDtmf": True,
        "bidirectionalAudio": {"enabled": True, "streaming": True, "sampleRate": rate},
    }
    if answer.parameters:
        verb["metadata"] = dict(answer.parameters)
    if answer.after_url:
        verb["actionHook"] = answer.after_url
    return verb


def _dial(answer: DialAnswer) -> Verb:
    target = (
        {"type": "sip", "sipUri": answer.to}
        if answer.to.startswith(("sip:", "sips:"))
        else {"type": "phone", "number": answer.to}
    )
    verb: Verb = {"verb": "dial", "target": [target], "timeout": answer.timeout}
    if answer.caller_id:
        verb["callerId"] = answer.caller_id
    return verb
