"""Plivo XML: what we answer Plivo's webhooks with, and what Plivo would do with an answer.

Source: Plivo's XML reference. `build` writes one of our answers; `parse` reads any bot's, as leniently as
Plivo does, for the simulator.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from offhook.codecs.audio import L16_8K, PCMU, AudioFormat
from offhook.providers import markup
from offhook.providers.base import Answer, DialAnswer, HangUpAnswer, RejectAnswer, SayAnswer, StreamAnswer
from offhook.providers.markup import Element, Markup, Verb, element, whole_number
from offhook.providers.plivo.wire import CONTENT_TYPES, parse_format

MAX_EXTRA_HEADERS: Final = 512
"""Bytes of the `extraHeaders` attribute."""

STREAM_TIMEOUT: Final = 86_400
"""Seconds after which Plivo ends a stream by itself. Ours end by our own limits, long before."""

_WORD = re.compile("[A-Za-z0-9]+", re.ASCII)
"""What a key or a value of `extraHeaders` may consist of."""


# --- writing ------------------------------------------------------------------------


def build(answer: Answer, *, format: AudioFormat = PCMU) -> str:
    """Write the XML for an answer; `format` is what a stream is to carry.

    Raises:
        ValueError: a field that Plivo would refuse, named with the remedy.
    """
    return markup.render(Element("Response", children=list(_verbs(answer, format))))


def _verbs(answer: Answer, format: AudioFormat) -> Iterator[Element]:
    match answer:
        case StreamAnswer():
            yield stream_element(answer.url, answer.parameters, format=format, status_url=answer.status_url)
            # With keepCallAlive the document goes on when the stream has ended.
            if answer.after_url:
                yield element("Redirect", answer.after_url, method="POST")
            else:
                yield element("Hangup")
        case RejectAnswer():
            yield element("Hangup", reason=answer.reason)
        case SayAnswer():
            yield element("Speak", answer.text)
            yield _dial(DialAnswer(answer.then_dial)) if answer.then_dial else element("Hangup")
        case DialAnswer():
            yield _dial(answer)
        case HangUpAnswer():
            yield element("Hangup")


def stream_element(
    url: str,
    parameters: Mapping[str, str],
    *,
    format: AudioFormat = PCMU,
    status_url: str = "",
    bidirectional: bool = True,
    audio_track: str = "inbound",
) -> Element:
    """Build `<Stream>`. Raises ValueError naming what Plivo would refuse.

    `keepCallAlive` is set and `contentType` is always written: the documents disagree on what happens without.
    """
    parts = urlsplit(url)
    if parts.scheme != "wss" or not parts.hostname:
        raise ValueError(f"url: stream {url[:80]!a} must begin with wss://")
    if bidirectional and audio_track != "inbound":
        raise ValueError(f"audio_track: {audio_track!r} is not possible with bidirectional; leave it inbound")
    if format not in CONTENT_TYPES:
        raise ValueError(f"format: Plivo does not carry {format}; it has {', '.join(map(str, CONTENT_TYPES))}")
    attributes = {
        "bidirectional": "true" if bidirectional else "false",
        "keepCallAlive": "true",
        "audioTrack": audio_track,
        "contentType": f"{CONTENT_TYPES[format]};rate={format.rate}",
        "streamTimeout": str(STREAM_TIMEOUT),
    }
    if status_url:
        attributes |= {"statusCallbackUrl": status_url, "statusCallbackMethod": "POST"}
    if parameters:
        attributes["extraHeaders"] = extra_headers(parameters)
    return Element("Stream", attributes, url)


def extra_headers(parameters: Mapping[str, str]) -> str:
    """Write the `extraHeaders` attribute. Raises ValueError for what it cannot hold."""
    for name, value in parameters.items():
        for word in (name, value):
            if not _WORD.fullmatch(word):
                raise ValueError(f"parameters: {word[:40]!a} of {name[:40]!a} may hold letters and digits only")
    text = ",".join(f"{name}={value}" for name, value in parameters.items())
    if len(text) > MAX_EXTRA_HEADERS:
        raise ValueError(f"parameters: {len(text)} bytes, Plivo takes {MAX_EXTRA_HEADERS}: shorten them")
    return text


def _dial(answer: DialAnswer) -> Element:
    if answer.to.startswith("sip:"):
        target = element("User", answer.to)
    elif answer.to.removeprefix("+").isdigit():
        target = element("Number", answer.to.removeprefix("+"))
    else:
        raise ValueError(f"to: {answer.to[:40]!a} is neither a number nor begins with sip:")
    return element("Dial", "", target, callerId=answer.caller_id.removeprefix("+"), timeout=answer.timeout)


# --- reading ------------------------------------------------------------------------


def parse(document: str | bytes, *, base_url: str = "") -> Markup:
    """Say what Plivo would do with an answer. Never raises; what is wrong with it stands in `faults`.

    Args:
        document: the body of the answer.
        base_url: where it came from; relative URLs in it are meant from there.
    """
    return _Reader(base_url).parse(document)


class _Reader(markup.Reader):
    """Turns the children of a Response into verbs, noting what is wrong on the way."""

    KNOWN = frozenset({"Conference", "GetDigits", "GetInput", "Message", "MultiPartyCall", "Record"})
    "Elements that exist and that a simulator of streams has no use for."

    def verbs(self, item: Element) -> Iterator[Verb]:
        text = item.text.strip()
        match item.name:
            case "Stream":
                yield self._stream(item)
            case "Speak":
                loop = whole_number(item.get("loop"), 1)
                yield markup.Say(item.all_text(), item.get("voice"), item.get("language"), loop)
            case "Play":
                yield markup.Play(self.url(text), whole_number(item.get("loop"), 1))
            case "DTMF":
                yield markup.PlayDigits(text)
            case "Wait":
                yield markup.Pause(whole_number(item.get("length"), 1))
            case "Dial":
                targets = tuple(child.text.strip() for child in item.children if child.name in ("Number", "User"))
                yield markup.Dial(
                    targets=targets,
                    caller_id=item.get("callerId"),
                    timeout=whole_number(item.get("timeout"), 120),
                    after_url=self.url(item.get("action")),
                    after_method=self.method(item),
                )
            case "Redirect":
                yield markup.Redirect(self.url(text), self.method(item))
            case "Hangup":
                reason = item.get("reason")
                yield markup.Reject(reason) if reason in ("busy", "rejected") else markup.HangUp()
            case "PreAnswer":
                for child in item.children:
                    yield from self.verbs(child)
            case _:
                if item.name not in self.KNOWN:
                    self.complain(f"{item.name[:40]!a} is no element of an answer")
                yield markup.Unknown(item.name, item)

    def _stream(self, item: Element) -> markup.OpenStream:
        url = item.text.strip()
        refused = self.secure_url(url)
        bidirectional = self._flag(item, "bidirectional")
        track = item.get("audioTrack", "inbound")
        if bidirectional and track != "inbound":
            refused = self.complain(f"audioTrack {track[:40]!a} is not possible with bidirectional")
        return markup.OpenStream(
            url=url,
            parameters=self._parameters(item.get("extraHeaders")),
            bidirectional=bidirectional,
            blocking=bidirectional or self._flag(item, "keepCallAlive"),
            format=self._format(item),
            track=track,
            status_url=self.url(item.get("statusCallbackUrl")),
            status_method=self.method(item, "statusCallbackMethod"),
            keeps_call=self._flag(item, "keepCallAlive"),
            refused=refused,
        )

    def _format(self, item: Element) -> AudioFormat:
        content_type = item.get("contentType")
        if not content_type:
            self.complain("contentType is missing: Plivo's documents disagree on the default, write it")
            return L16_8K
        _, _, rate = content_type.partition("rate=")
        format = parse_format(content_type, whole_number(rate, 8000))
        if format is None:
            self.complain(f"contentType {content_type[:60]!a} is none that Plivo has")
        return format or L16_8K

    def _parameters(self, text: str) -> dict[str, str]:
        if len(text.encode()) > MAX_EXTRA_HEADERS:
            self.complain(f"extraHeaders has {len(text.encode())} bytes, limit {MAX_EXTRA_HEADERS}")
        found: dict[str, str] = {}
        for pair in filter(None, text.split(",")):
            name, _, value = pair.strip().partition("=")
            if not (_WORD.fullmatch(name) and _WORD.fullmatch(value)):
                self.complain(f"extraHeaders {pair[:60]!a}: key and value may hold letters and digits only")
            found[name] = value
        return found

    def _flag(self, item: Element, attribute: str) -> bool:
        return item.get(attribute).strip().lower() == "true"
