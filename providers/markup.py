"""The XML that tells a carrier what to do with a call: writing it, reading it, and what it means.

Twilio's TwiML and Plivo's XML are the same idea in other words: a `<Response>` whose children are done one
after the other. `Element` is the document for both; the verbs below are what the documents mean, in terms that
a carrier simulator can act on without knowing whose they were.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final
from urllib.parse import urljoin, urlsplit
from xml.parsers import expat

from offhook.codecs.audio import AudioFormat
from offhook.providers.carrier_side import CarrierFault

MAX_DOCUMENT: Final = 100_000
"""Characters of markup we read. Plivo takes 100 kB, Twilio 64 kB; an answer of ours has under 1 kB."""

MAX_DEPTH: Final = 20
"""Elements inside each other; the deepest useful document has four."""

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 (2.2) does not allow, not even escaped."""

_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\n": "&#10;", "\r": "&#13;", "\t": "&#9;"}
)


class MarkupError(ValueError):
    """The text is not well-formed XML, or larger than any answer."""


# --- the document -------------------------------------------------------------------


@dataclass(slots=True)
class Element:
    """One element: name, attributes in order, its own text, and its children."""

    name: str
    attributes: dict[str, str] = field(default_factory=dict)
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def get(self, attribute: str, default: str = "") -> str:
        """An attribute's value."""
        return self.attributes.get(attribute, default)

    def all_text(self) -> str:
        """The text of the element and of everything inside it, as a voice would read it out."""
        return " ".join(" ".join([self.text, *(child.all_text() for child in self.children)]).split())


def element(name: str, text: str = "", /, *children: Element, **attributes: str | int) -> Element:
    """Build an element; attributes that are empty are left out."""
    return Element(name, {key: str(value) for key, value in attributes.items() if value != ""}, text, list(children))


def render(root: Element) -> str:
    """Write a document. Raises ValueError for characters that XML cannot hold."""
    return '<?xml version="1.0" encoding="UTF-8"?>' + _render(root)


def _render(item: Element) -> str:
    attributes = "".join(f' {name}="{_escape(value)}"' for name, value in item.attributes.items())
    inside = _escape(item.text) + "".join(map(_render, item.children))
    return f"<{item.name}{attributes}>{inside}</{item.name}>" if inside else f"<{item.name}{attributes} />"


def _escape(text: str) -> str:
    if bad := _NOT_XML.search(text):
        raise ValueError(f"character {bad.group()!a} cannot stand in XML: take it out of {text[:40]!a}")
    return text.translate(_ESCAPES)


def read(document: str | bytes) -> Element:
    """Read a document. Raises MarkupError; a document type, and so every entity of its own, is refused."""
    data = document.encode("utf-8", "replace") if isinstance(document, str) else document
    if len(data) > MAX_DOCUMENT:
        raise MarkupError(f"{len(data)} bytes of markup, limit {MAX_DOCUMENT}")
    top = Element("")
    stack = [top]

    def start(name: str, attributes: dict[str, str]) -> None:
        if len(stack) > MAX_DEPTH:
            raise MarkupError(f"more than {MAX_DEPTH} elements inside each other")
        opened = Element(name, attributes)
        stack[-1].children.append(opened)
        stack.append(opened)

    def end(name: str) -> None:
        stack.pop()

    def text(data: str) -> None:
        stack[-1].text += data

    def doctype(*args: object) -> None:
        raise MarkupError("a document type declaration has no place in an answer")

    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = text, doctype
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise MarkupError(f"not well-formed: {error}") from error
    return top.children[0]


# --- what it means --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Open a media socket to `url`."""

    url: str
    parameters: Mapping[str, str]
    "What comes back in the start message."
    bidirectional: bool
    "False: the stream only listens; whatever the bot sends is a fault."
    blocking: bool
    "True: the next verb waits until the stream is over."
    format: AudioFormat
    name: str = ""
    track: str = "inbound"
    status_url: str = ""
    status_method: str = "POST"
    after_url: str = ""
    "Asked for new markup when the stream is over, instead of the next verb."
    after_method: str = "POST"
    keeps_call: bool = True
    "False: the call ends with the stream whatever follows."
    refused: CarrierFault | None = None
    "Set when the carrier would not even try this URL."


@dataclass(frozen=True, slots=True)
class Say:
    """Speak a text in the carrier's voice."""

    text: str
    voice: str = ""
    language: str = ""
    loop: int = 1


@dataclass(frozen=True, slots=True)
class Play:
    """Play a file."""

    url: str
    loop: int = 1


@dataclass(frozen=True, slots=True)
class PlayDigits:
    """Play keys to the caller."""

    digits: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect the caller to the first of `targets` that answers: numbers, `sip:…` or `client:…`."""

    targets: Sequence[str]
    caller_id: str = ""
    timeout: int = 30
    after_url: str = ""
    after_method: str = "POST"


@dataclass(frozen=True, slots=True)
class Redirect:
    """Ask `url` how to go on."""

    url: str
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class Reject:
    """Do not answer."""

    reason: str


@dataclass(frozen=True, slots=True)
class HangUp:
    """End the call."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A verb that a simulator need not understand (gathering, conferences, recording), or that does not exist."""

    name: str
    element: Element


Verb = OpenStream | Say | Play | PlayDigits | Pause | Dial | Redirect | Reject | HangUp | Unknown


@dataclass(frozen=True, slots=True)
class Markup:
    """What a carrier would do with an answer, in order; after the last verb it hangs up."""

    verbs: Sequence[Verb]
    faults: Sequence[CarrierFault]
    "What the carrier would log about the document; with a document it cannot read there are no verbs."

    @property
    def stream(self) -> OpenStream | None:
        """The first stream the carrier would open, if any."""
        return next((verb for verb in self.verbs if isinstance(verb, OpenStream) and verb.refused is None), None)


class Reader(ABC):
    """Turns a document into verbs the way one carrier does, noting what is wrong on the way.

    Args:
        base_url: where the document came from; relative URLs in it are meant from there.
    """

    bad_document: ClassVar[str] = ""
    "The carrier's number for a document that it cannot read."

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.faults: list[CarrierFault] = []

    @abstractmethod
    def verbs(self, item: Element) -> Iterator[Verb]:
        """What one child of the Response means."""

    def parse(self, document: str | bytes) -> Markup:
        """Read a whole document. Never raises."""
        verbs: list[Verb] = []
        try:
            root = read(document)
        except MarkupError as error:
            self.complain(str(error), self.bad_document)
        else:
            if root.name == "Response":
                verbs = [verb for child in root.children for verb in self.verbs(child)]
            else:
                self.complain(f"root element {root.name[:40]!a} must be Response", self.bad_document)
        return Markup(tuple(verbs), tuple(self.faults))

    def complain(self, detail: str, code: str = "") -> CarrierFault:
        """Note something wrong, and give it."""
        found = CarrierFault("bad-markup", detail[:200], code)
        self.faults.append(found)
        return found

    def url(self, text: str) -> str:
        """An absolute URL, as far as one can be made of it."""
        text = text.strip()
        try:
            return urljoin(self.base_url, text) if text and self.base_url else text
        except ValueError:  # such as an unfinished IPv6 address
            return text

    def method(self, item: Element, attribute: str = "method") -> str:
        """GET if the attribute says so, else POST."""
        return "GET" if item.get(attribute).strip().upper() == "GET" else "POST"

    def secure_url(self, text: str, *, bad_scheme: str = "", bad_url: str = "") -> CarrierFault | None:
        """Complain about a stream URL that no carrier would connect to."""
        try:
            parts = urlsplit(text)
            if parts.scheme != "wss":
                return self.complain(f"stream URL {text[:80]!a} must begin with wss://", bad_scheme)
            if not parts.hostname:
                return self.complain(f"stream URL {text[:80]!a} names no host", bad_url)
        except ValueError as error:
            return self.complain(f"stream URL {text[:80]!a}: {error}", bad_url)
        return None


def whole_number(text: str, default: int) -> int:
    """A non-negative number from an attribute, read leniently."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default
