"""TwiML: what we answer Twilio's webhooks with, and what Twilio would do with an answer.

Source: Twilio's documentation of TwiML for Programmable Voice. `build` writes one of our answers;
`parse` reads any bot's, as leniently as Twilio does, for the simulator.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from offhook.codecs.audio import PCMU
from offhook.providers import markup
from offhook.providers.base import Answer, DialAnswer, HangUpAnswer, RejectAnswer, SayAnswer, StreamAnswer
from offhook.providers.carrier_side import CarrierFault
from offhook.providers.markup import Element, Markup, Verb, element, whole_number

MAX_PARAMETER: Final = 500
"""Characters of a `<Parameter>`'s name and value together."""

MAX_INLINE: Final = 4000
"""Characters of TwiML that fit into an API request."""

BAD_DOCUMENT: Final = "12100"
BAD_SCHEMA: Final = "12200"
BAD_SCHEME: Final = "31922"
BAD_URL: Final = "31923"


# --- writing ------------------------------------------------------------------------


def build(answer: Answer) -> str:
    """Write the TwiML for an answer.

    Raises:
        ValueError: a field that Twilio would refuse, named with the remedy.
    """
    return markup.render(Element("Response", children=list(_verbs(answer))))


def _verbs(answer: Answer) -> Iterator[Element]:
    match answer:
        case StreamAnswer():
            yield _connect(answer)
            # Reached when the socket could not be opened, and after it closed when nobody is to be asked. With
            # an `action` Twilio asks there; should it not, the redirect asks the same question.
            if answer.after_url:
                yield element("Redirect", answer.after_url, method="POST")
            else:
                yield element("Hangup")
        case RejectAnswer():
            yield element("Reject", reason=answer.reason)
        case SayAnswer():
            yield element("Say", answer.text)
            yield _dial(DialAnswer(answer.then_dial)) if answer.then_dial else element("Hangup")
        case DialAnswer():
            yield _dial(answer)
        case HangUpAnswer():
            yield element("Hangup")


def _connect(answer: StreamAnswer) -> Element:
    check_stream_url(answer.url)
    stream = element("Stream", url=answer.url)
    if answer.status_url:
        stream.attributes |= {"statusCallback": answer.status_url, "statusCallbackMethod": "POST"}
    for name, value in answer.parameters.items():
        if not name or len(name) + len(value) > MAX_PARAMETER:
            raise ValueError(
                f"parameters: {name[:40]!a} and its value are over {MAX_PARAMETER} characters: shorten them"
            )
        stream.children.append(Element("Parameter", {"name": name, "value": value}))
    return element("Connect", "", stream, action=answer.after_url, method="POST" if answer.after_url else "")


def _dial(answer: DialAnswer) -> Element:
    if answer.to.startswith("sip:"):
        target = element("Sip", answer.to)
    elif answer.to.startswith("client:"):
        target = element("Client", answer.to.removeprefix("client:"))
    elif answer.to.removeprefix("+").isdigit():
        target = element("Number", answer.to)
    else:
        raise ValueError(f"to: {answer.to[:40]!a} is neither a number nor begins with sip: or client:")
    return element("Dial", "", target, callerId=answer.caller_id, timeout=answer.timeout)


def check_stream_url(url: str) -> None:
    """Raise ValueError for a stream URL that Twilio refuses (31922, 31923) or whose query it drops."""
    parts = urlsplit(url)
    if parts.scheme != "wss" or not parts.hostname:
        raise ValueError(f"url: stream {url[:80]!a} must begin with wss:// (Twilio error {BAD_SCHEME})")
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise ValueError(f"url: stream {url[:80]!a} has a query string, which Twilio drops: use the path or parameters")


# --- reading ------------------------------------------------------------------------


def parse(document: str | bytes, *, base_url: str = "") -> Markup:
    """Say what Twilio would do with an answer. Never raises; what is wrong with it stands in `faults`.

    Args:
        document: the body of the answer.
        base_url: where it came from; relative URLs in it are meant from there.
    """
    return _Reader(base_url).parse(document)


class _Reader(markup.Reader):
    """Turns the children of a Response into verbs, noting what is wrong on the way."""

    KNOWN = frozenset({"Enqueue", "Gather", "Leave", "Pay", "Prompt", "Queue", "Record", "Refer", "Sms", "Stop"})
    "Verbs that exist and that a simulator of streams has no use for."

    bad_document = BAD_DOCUMENT

    def __init__(self, base_url: str) -> None:
        super().__init__(base_url)
        self._seen = 0

    def verbs(self, item: Element) -> Iterator[Verb]:
        self._seen += 1
        match item.name:
            case "Connect" | "Start":
                yield from self._nested(item)
            case "Say":
                language = item.get("language")
                yield markup.Say(item.all_text(), item.get("voice"), language, whole_number(item.get("loop"), 1))
            case "Play":
                digits, url = item.get("digits"), item.text.strip()
                if digits:
                    yield markup.PlayDigits(digits)
                if url:
                    yield markup.Play(self.url(url), whole_number(item.get("loop"), 1))
                if not digits and not url:
                    self.complain("Play has nothing to play", BAD_SCHEMA)
            case "Pause":
                yield markup.Pause(whole_number(item.get("length"), 1))
            case "Dial":
                yield self._dial(item)
            case "Redirect":
                yield markup.Redirect(self.url(item.text.strip()), self.method(item))
            case "Reject":
                if self._seen > 1:
                    self.complain("Reject must be the first verb", BAD_SCHEMA)
                yield markup.Reject(item.get("reason", "rejected"))
            case "Hangup":
                yield markup.HangUp()
            case _:
                if item.name not in self.KNOWN:
                    self.complain(f"{item.name[:40]!a} is no verb", BAD_SCHEMA)
                yield markup.Unknown(item.name, item)

    def _nested(self, item: Element) -> Iterator[Verb]:
        for child in item.children:
            if child.name == "Stream":
                yield self._stream(item, child)
            else:
                yield markup.Unknown(child.name, child)
        if not item.children:
            self.complain(f"{item.name} has nothing inside", BAD_SCHEMA)

    def _stream(self, parent: Element, item: Element) -> markup.OpenStream:
        blocking = parent.name == "Connect"
        track = item.get("track", "inbound_track")
        if blocking and track != "inbound_track":
            self.complain(f"track {track[:40]!a}: <Connect> carries inbound_track only", BAD_SCHEMA)
        url, refused = self._stream_url(item.get("url"))
        after = parent.get("action") if blocking else ""
        return markup.OpenStream(
            url=url,
            parameters=dict(self._parameter(child) for child in item.children if child.name == "Parameter"),
            bidirectional=blocking,
            blocking=blocking,
            format=PCMU,
            name=item.get("name"),
            track=track.removesuffix("_track").removesuffix("_tracks"),
            status_url=self.url(item.get("statusCallback")),
            status_method=self.method(item, "statusCallbackMethod"),
            after_url=self.url(after),
            after_method=self.method(parent),
            refused=refused,
        )

    def _stream_url(self, text: str) -> tuple[str, CarrierFault | None]:
        url = text.strip()
        if url.startswith("/") and self.base_url:
            url = self.url(url).replace("http", "ws", 1)
        if refused := self.secure_url(url, bad_scheme=BAD_SCHEME, bad_url=BAD_URL):
            return url, refused
        parts = urlsplit(url)
        if parts.query:
            self.complain("the query string of a stream URL is dropped; use <Parameter>")
        return parts._replace(query="", fragment="").geturl(), None

    def _parameter(self, item: Element) -> tuple[str, str]:
        name, value = item.get("name"), item.get("value")
        if len(name) + len(value) > MAX_PARAMETER:
            self.complain(f"parameter {name[:40]!a} and its value are over {MAX_PARAMETER} characters", BAD_SCHEMA)
        return name, value

    def _dial(self, item: Element) -> markup.Dial:
        targets = [text] if (text := item.text.strip()) else []
        for child in item.children:
            prefix = "client:" if child.name == "Client" else ""
            if child.name in ("Number", "Sip", "Client"):
                targets.append(prefix + child.text.strip())
        return markup.Dial(
            targets=tuple(targets),
            caller_id=item.get("callerId"),
            timeout=whole_number(item.get("timeout"), 30),
            after_url=self.url(item.get("action")),
            after_method=self.method(item),
        )
