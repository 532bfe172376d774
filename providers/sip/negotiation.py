"""Offer and answer (RFC 3264) for the one audio stream of a call.

    negotiator = MediaNegotiator(codecs=(PCMU, PCMA), srtp="allowed", session_id=17)
    body, plan = negotiator.answer(their_offer, Address("192.0.2.1", 20000))   # they offered
    body = negotiator.offer(Address("192.0.2.1", 20000))                       # or we do,
    plan = negotiator.take_answer(their_answer)                                # and they answer

One negotiator serves a call from its first description to its last and remembers what must stay the same: the id of
the session and its version, which grows when and only when the description changed; the order of the streams; the
meaning of payload types; our keys. What was agreed on changes at two moments only, when `answer` and when
`take_answer` return. One that raises changes nothing, so that a re-INVITE that fails leaves the call as it was.

The other side's numbers name the payload types that we send, ours those that we receive. In an answer both are the
offer's. Of several audio streams the first that can be used is taken, an encrypted one before a plain one; all others
are refused, at their place. A stream whose address is `0.0.0.0` is on hold, whatever its direction says.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from itertools import chain
from typing import Final, Literal, cast

from offhook.providers.rtp.media import (
    COMFORT_NOISE,
    STATIC_TYPES,
    Address,
    Codec,
    Direction,
    MediaPlan,
    SrtpKey,
    Suite,
)
from offhook.providers.sip import crypto
from offhook.providers.sip.sdp import DIRECTIONS, Attribute, BadSdp, Media, Origin, RtpMap, Session, is_address, parse

__all__ = ["DEFAULT_SUITES", "BadSdp", "MediaNegotiator", "NotAcceptable"]

DEFAULT_SUITES: Final[tuple[Suite, ...]] = ("AES_CM_128_HMAC_SHA1_80", "AEAD_AES_256_GCM", "AES_CM_128_HMAC_SHA1_32")
"""What we offer, best known first: every line makes an INVITE longer, and it should fit into one datagram."""

EVENTS: Final = "telephone-event"
NOISE: Final = "CN"

EVENT_RANGE: Final = "0-15"
"""The keys of a telephone (RFC 4733 section 3.2)."""

MIN_PTIME: Final = 10
MAX_PTIME: Final = 60
"""Milliseconds of a packet."""

MAX_PAYLOAD: Final = 1280
"""Bytes of audio in a packet, so that it stays below the smallest MTU of the internet with room for SRTP."""

_PROTOCOLS: Final[Mapping[str, bool]] = {"RTP/AVP": False, "RTP/AVPF": False, "RTP/SAVP": True, "RTP/SAVPF": True}
"""Transports of a stream that we speak, and whether they are encrypted. DTLS is not among them."""

FIRST_DYNAMIC: Final = 35
"""Payload types from here on have no meaning of their own (RFC 3551 section 6)."""

_SPELLING: Final = {name.lower(): name for name in ("PCMU", "PCMA", "G722", "L16", "opus", EVENTS, NOISE)}
"""Names of encodings as we write them; their case means nothing."""

_FIRST_CHOICE: Final[Mapping[tuple[str, int], int]] = {
    ("L16", 8000): 97,
    ("L16", 16000): 98,
    ("opus", 48000): 96,
    (EVENTS, 8000): 101,
    (EVENTS, 16000): 102,
    (EVENTS, 48000): 110,
}
"""Payload types by custom. 101 is what peers that know only one number for keys expect."""


class NotAcceptable(Exception):
    """The description is well-formed, but no call can be made of it. Nothing has changed."""

    status: Final = 488

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        "Warning code of RFC 3261 section 20.43."
        self.text = text

    @property
    def warning(self) -> str:
        """Value of a Warning header."""
        return f'{self.code} offhook "{self.text}"'


@dataclass(frozen=True, slots=True)
class _Offered:
    """What we offered, as long as an answer may come for it."""

    session: Session
    index: int
    held: bool

    @property
    def media(self) -> Media:
        return self.session.media[self.index]


@dataclass(frozen=True, slots=True)
class _Choice:
    """What of a stream of theirs can be used."""

    index: int
    media: Media
    codec: Codec
    number: int
    "Payload type of the codec, theirs."
    crypto: crypto.CryptoLine | None


class MediaNegotiator:
    """Offers and answers of one call.

    Args:
        codecs: those we speak, best first.
        srtp: disabled: neither offer nor take it; allowed: take it where it is offered, offer it beside plain RTP
            (`a=crypto` on RTP/AVP, which peers that do not know it ignore); required: nothing without it.
        session_id: of our `o=` line; below 2^63, of the call alone.
        ptime: milliseconds of audio in the packets that we would like to get.
        dtmf: whether to agree to telephone-event (RFC 4733).
        comfort_noise: whether to agree to comfort noise (RFC 3389).
        prefer: whose order of codecs decides when they offer.
        suites: of SRTP, in the order we offer them; any of RFC 4568 and 7714 is taken.
        random_bytes: where keys come from.
    """

    def __init__(
        self,
        *,
        codecs: Sequence[Codec],
        srtp: Literal["disabled", "allowed", "required"] = "disabled",
        session_id: int,
        ptime: int = 20,
        dtmf: bool = True,
        comfort_noise: bool = False,
        prefer: Literal["theirs", "ours"] = "theirs",
        suites: Sequence[Suite] = DEFAULT_SUITES,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        if not codecs:
            raise ValueError("codecs is empty; a call needs at least one")
        self._codecs = tuple(codecs)
        self._srtp = srtp
        self._ptime = ptime
        self._dtmf = dtmf
        self._comfort_noise = comfort_noise
        self._prefer = prefer
        self._suites = tuple(suites)
        self._random_bytes = random_bytes
        self._session_id = session_id
        self._version = 0
        self._body = b""
        "What we sent last."
        self._agreed = Session(Origin("-", str(session_id), "0", ""))
        "Our side of what holds."
        self._offered: _Offered | None = None
        self._index = 0
        self._numbers: dict[int, tuple[str, int]] = {}
        "What each dynamic payload type has meant so far; it must not come to mean anything else."
        self._keys: dict[Suite, SrtpKey] = {}
        self._held = False
        self._plan: MediaPlan | None = None

    @property
    def plan(self) -> MediaPlan | None:
        """What is agreed on now; None before the first agreement."""
        return self._plan

    @property
    def held(self) -> bool:
        """Whether we hold the call (not: whether we are held)."""
        return self._held

    @property
    def offering(self) -> bool:
        """Whether an offer of ours may be answered."""
        return self._offered is not None

    def speak(self, codecs: Sequence[Codec]) -> None:
        """Offer and take these codecs from now on, best first. What is agreed on holds until the next agreement."""
        if not codecs:
            raise ValueError("codecs is empty; a call needs at least one")
        self._codecs = tuple(codecs)

    # --- we offer ---------------------------------------------------------------------

    def offer(self, local: Address, *, hold: bool = False) -> bytes:
        """Describe all that we could do: for an INVITE, or the answer to one without an offer.

        Args:
            local: where we receive RTP; RTCP comes to the port above.
            hold: whether to put the other side on hold (we send and do not listen).
        """
        media = self._stream("RTP/SAVP" if self._srtp == "required" else "RTP/AVP", local)
        codecs = self._in_use_first()
        attributes: list[Attribute] = []
        taken: set[int] = set()
        for codec in codecs:
            self._describe(media, attributes, taken, codec.name, codec.clock, codec.channels, codec.fmtp)
        if self._dtmf:
            for clock in dict.fromkeys(codec.clock for codec in codecs):
                self._describe(media, attributes, taken, EVENTS, clock, 1, EVENT_RANGE)
        if self._comfort_noise and any(codec.clock == 8000 for codec in codecs):
            media.formats.append(str(COMFORT_NOISE))
        media.attributes += attributes
        if self._srtp != "disabled":
            lines = [crypto.CryptoLine(tag, self._key(suite)) for tag, suite in enumerate(self._suites, 1)]
            media.attributes += [Attribute("crypto", str(line)) for line in lines]
        media.attributes.append(Attribute("rtcp-mux"))
        media.attributes.append(Attribute("sendonly" if hold else "sendrecv"))
        streams = [_refused(stream) for stream in self._agreed.media]
        streams[self._index : self._index + 1] = [media]
        self._offered = _Offered(self._publish(streams, local.host), self._index, hold)
        return self._body

    def refresh(self) -> bytes:
        """Offer just what holds: the description of a session refresh (RFC 4028 section 7.4), o= version unchanged.

        Raises:
            RuntimeError: nothing has been agreed on.
        """
        if self._plan is None:
            raise RuntimeError("nothing has been agreed on that could be refreshed")
        self._offered = _Offered(self._publish(self._agreed.media, self._agreed.host), self._index, self._held)
        return self._body

    def take_answer(self, body: bytes) -> MediaPlan:
        """Read the answer to our last offer. May be called again, for an answer that another phone of a fork gives.

        Raises:
            BadSdp: it is no session description.
            NotAcceptable: it refuses the stream, or agrees to nothing that we offered.
            RuntimeError: nothing was offered.
        """
        offered = self._offered
        if offered is None:
            raise RuntimeError("there is no offer of ours that this could answer")
        session = parse(body)
        if len(session.media) <= offered.index or session.media[offered.index].kind != "audio":
            raise NotAcceptable(304, "the answer has no audio stream where it was offered")
        media = session.media[offered.index]
        if not media.port:
            raise NotAcceptable(304, "the answer refuses the audio stream")
        if media.proto.upper() not in _PROTOCOLS:
            raise NotAcceptable(302, "the answer changes the transport protocol")
        ours, theirs = _meanings(offered.media), _meanings(media)
        agreed: list[tuple[int, Codec]] = []
        for number, what in theirs.items():
            if what in ours.values() and (known := self._codec(what)) is not None:
                agreed.append((number, known))
        if not agreed:
            raise NotAcceptable(305, "the answer agrees to no codec that was offered")
        number, codec = agreed[0]
        keys = self._agreed_keys(offered.media, media)
        named = [known for _, known in agreed]
        # our numbers, and those of their own answer, for peers are met that send by them
        receive = {kind: known for kind, known in agreed if kind not in ours}
        receive |= {kind: known for kind, what in ours.items() if (known := self._codec(what)) in named and known}
        direction = _directed(session, media, offered.held)
        plan = self._make_plan(session, media, codec, number, receive, keys, theirs, direction, offered.session.host)
        events = {kind for kind in plan.dtmf_receive_types if kind not in ours}
        plan = replace(plan, dtmf_receive_types=_event_types(ours) | events)
        self._agree(offered.session, offered.index, plan)
        self._held = offered.held
        return plan

    def withdraw(self) -> None:
        """Forget an offer that was refused: what was agreed on before holds."""
        self._offered = None

    # --- they offer ------------------------------------------------------------------

    def answer(self, body: bytes, local: Address) -> tuple[bytes, MediaPlan]:
        """Answer an offer.

        Args:
            local: where we receive RTP; RTCP comes to the port above, unless both use one port.

        Raises:
            BadSdp: it is no session description.
            NotAcceptable: nothing in it can be used.
        """
        session = parse(body)
        choice = self._choose(session)
        media, codec = choice.media, choice.codec
        theirs = _meanings(media)
        direction = _directed(session, media, self._held)
        keys = (self._key(choice.crypto.key.suite), choice.crypto.key) if choice.crypto else (None, None)
        receive = {choice.number: codec}
        plan = self._make_plan(session, media, codec, choice.number, receive, keys, theirs, direction, local.host)

        mine = self._stream(media.proto, local)
        channels = f"/{codec.channels}" if codec.channels > 1 else ""
        mine.formats = [str(choice.number)]
        mine.attributes.append(Attribute("rtpmap", f"{choice.number} {codec.name}/{codec.clock}{channels}"))
        if codec.fmtp:
            mine.attributes.append(Attribute("fmtp", f"{choice.number} {codec.fmtp}"))
        for number in sorted(plan.dtmf_receive_types):
            mine.formats.append(str(number))
            mine.attributes.append(Attribute("rtpmap", f"{number} {EVENTS}/{theirs[number].clock}"))
            mine.attributes.append(Attribute("fmtp", f"{number} {EVENT_RANGE}"))
        if plan.comfort_noise:
            mine.formats.append(str(COMFORT_NOISE))
        if choice.crypto and plan.srtp_send:
            mine.attributes.append(Attribute("crypto", str(crypto.CryptoLine(choice.crypto.tag, plan.srtp_send))))
        if plan.rtcp_mux:
            mine.attributes.append(Attribute("rtcp-mux"))
        mine.attributes.append(Attribute(direction))

        streams = [_refused(stream) for stream in session.media]
        streams[choice.index] = mine
        self._agree(self._publish(streams, local.host), choice.index, plan)
        self._offered = None
        return self._body, plan

    def _choose(self, session: Session) -> _Choice:
        """The stream and the codec to use. Raises NotAcceptable with the reason that came nearest to success."""
        found: list[_Choice] = []
        fault = NotAcceptable(304, "there is no audio stream in the offer")
        for index, media in enumerate(session.media):
            if media.kind != "audio" or not media.port:
                continue
            encrypted = _PROTOCOLS.get(media.proto.upper())
            lines = crypto.usable(media.every("crypto")) if self._srtp != "disabled" else []
            if encrypted is None:
                fault = NotAcceptable(302, f"the transport protocol {_quotable(media.proto)} is not spoken here")
            elif encrypted and not lines:
                fault = NotAcceptable(302, "no key of the offer can be used, or encrypted media is not enabled")
            elif self._srtp == "required" and not lines:
                fault = NotAcceptable(302, "media must be encrypted; offer RTP/SAVP with a=crypto")
            elif (pair := self._choose_codec(media)) is None:
                fault = NotAcceptable(305, "no codec of the offer is spoken here")
            else:
                found.append(_Choice(index, media, pair[1], pair[0], lines[0] if lines else None))
        if not found:
            raise fault
        # an encrypted stream before a plain one, then the one in use, then the first
        return min(found, key=lambda it: (it.crypto is None, it.index != self._index, it.index))

    def _choose_codec(self, media: Media) -> tuple[int, Codec] | None:
        """Payload type and codec by the order that counts; None: there is none in common."""
        common = [(number, codec) for number, what in _meanings(media).items() if (codec := self._codec(what))]
        if self._prefer == "ours":
            common.sort(key=lambda pair: self._codecs.index(pair[1]))
        return common[0] if common else None

    # --- both -------------------------------------------------------------------------

    def _make_plan(
        self,
        session: Session,
        media: Media,
        codec: Codec,
        number: int,
        receive: Mapping[int, Codec],
        keys: tuple[SrtpKey | None, SrtpKey | None],
        theirs: Mapping[int, RtpMap],
        direction: Direction,
        local_host: str,
    ) -> MediaPlan:
        remote = _remote(session.host_of(media), media.port, local_host)
        mux = media.attribute("rtcp-mux") is not None
        events = [kind for kind, what in theirs.items() if what.name == EVENTS] if self._dtmf else []
        fitting = [kind for kind in events if theirs[kind].clock == codec.clock]
        return MediaPlan(
            codec=codec,
            send_type=number,
            receive_types=dict(receive),
            dtmf_send_type=fitting[0] if fitting else None,
            # keys with the clock of another codec are still better read than lost
            dtmf_receive_types=frozenset(fitting[:1] or events[:1]),
            comfort_noise=self._comfort_noise and codec.clock == 8000 and COMFORT_NOISE in theirs,
            ptime=_ptime(session, media, codec, self._ptime),
            remote=remote,
            remote_rtcp=remote if mux else _rtcp(media, remote),
            rtcp_mux=mux,
            direction=direction,
            srtp_send=keys[0],
            srtp_receive=keys[1],
        )

    def _agreed_keys(self, ours: Media, theirs: Media) -> tuple[SrtpKey | None, SrtpKey | None]:
        """Our key and theirs, by the line of ours that they took."""
        lines = crypto.usable(theirs.every("crypto"))
        if self._srtp == "disabled" or (not lines and self._srtp == "allowed" and not theirs.every("crypto")):
            if _PROTOCOLS[theirs.proto.upper()]:
                raise NotAcceptable(302, "the answer is encrypted, and gives no key for what was offered")
            return None, None
        offered = {line.tag: line.key for line in crypto.usable(ours.every("crypto"))}
        for line in lines:
            if (key := offered.get(line.tag)) is not None and key.suite == line.key.suite:
                return key, line.key
        raise NotAcceptable(302, "the answer takes none of the keys that were offered")

    def _stream(self, proto: str, local: Address) -> Media:
        attributes = [Attribute("ptime", str(self._ptime)), Attribute("maxptime", str(MAX_PTIME))]
        return Media("audio", local.port, proto, [], attributes=attributes)

    def _describe(
        self, media: Media, lines: list[Attribute], taken: set[int], name: str, clock: int, channels: int, fmtp: str
    ) -> None:
        """Add one encoding to an offer of ours."""
        number = self._number(name, clock, taken)
        taken.add(number)
        media.formats.append(str(number))
        lines.append(Attribute("rtpmap", f"{number} {name}/{clock}" + (f"/{channels}" if channels > 1 else "")))
        if fmtp:
            lines.append(Attribute("fmtp", f"{number} {fmtp}"))

    def _number(self, name: str, clock: int, taken: set[int]) -> int:
        """Payload type of an encoding: the one it had before, else its own, else the first that is free."""
        for number, codec in STATIC_TYPES.items():
            if (codec.name, codec.clock) == (name, clock):
                return number
        for number, meaning in self._numbers.items():
            if meaning == (name, clock) and number not in taken:
                return number
        wanted = _FIRST_CHOICE.get((name, clock), 96)
        for free in chain((wanted,), range(96, 128), range(FIRST_DYNAMIC, 64)):
            if free not in self._numbers and free not in taken:
                return free
        # they renumbered so often that every number has meant something: the old meanings are long gone
        return next(free for free in chain((wanted,), range(96, 128)) if free not in taken)

    def _agree(self, ours: Session, index: int, plan: MediaPlan) -> None:
        self._agreed, self._index, self._plan = ours, index, plan
        for number, what in _meanings(ours.media[index]).items():
            if number >= FIRST_DYNAMIC:
                self._numbers[number] = (what.name, what.clock)

    def _in_use_first(self) -> list[Codec]:
        """Our codecs, the one in use first, so that a change of direction is no change of codec."""
        plan = self._plan
        return sorted(self._codecs, key=lambda codec: plan is None or codec != plan.codec)

    def _codec(self, what: RtpMap) -> Codec | None:
        """Our codec of that name, clock and number of channels."""
        for codec in self._codecs:
            if (codec.name, codec.clock, codec.channels) == what:
                return codec
        return None

    def _key(self, suite: Suite) -> SrtpKey:
        if suite not in self._keys:
            self._keys[suite] = SrtpKey(suite, self._random_bytes(crypto.KEY_SIZES[suite]))
        return self._keys[suite]

    def _publish(self, streams: list[Media], host: str) -> Session:
        """Our description; its version grows when it says something else than the last one that was sent."""
        origin = Origin("-", str(self._session_id), str(self._version), host)
        session = Session(origin, host, streams, name="offhook")
        if self._body and session.encode() != self._body:
            self._version += 1
            session.origin = origin._replace(version=str(self._version))
        self._body = session.encode()
        return session


def _meanings(media: Media) -> dict[int, RtpMap]:
    """What the payload types of a stream stand for, in its order. Names as we write them."""
    maps = media.rtpmaps()
    found: dict[int, RtpMap] = {}
    for number in media.payload_types():
        if (what := maps.get(number)) is not None:
            name = _SPELLING.get(what.name.lower(), what.name)
            # Opus has two channels by definition (RFC 7587 section 7), whatever they write
            found[number] = RtpMap(name, what.clock, 2 if name == "opus" else what.channels)
        elif (codec := STATIC_TYPES.get(number)) is not None:
            found[number] = RtpMap(codec.name, codec.clock, codec.channels)
        elif number == COMFORT_NOISE:
            found[number] = RtpMap(NOISE, 8000)
    return found


def _event_types(meanings: Mapping[int, RtpMap]) -> frozenset[int]:
    return frozenset(number for number, what in meanings.items() if what.name == EVENTS)


def _refused(media: Media) -> Media:
    """The same stream with port 0: it keeps its place (RFC 3264 section 6)."""
    return Media(media.kind, 0, media.proto, media.formats[:1])


def _remote(host: str, port: int, local_host: str) -> Address | None:
    """Where to send; None for hold, and for a name: who has one is told by the packets that come from there."""
    if _is_nowhere(host) or not is_address(host):
        return None
    if ip_address(host).is_multicast:
        raise NotAcceptable(301, "media goes to no multicast group")
    if (":" in host) != (":" in local_host):
        raise NotAcceptable(300, "media goes by IPv4 here and by IPv6 there")
    return Address(host, port)


def _is_nowhere(host: str) -> bool:
    return host in ("0.0.0.0", "::")  # noqa: S104  # the sign for hold of RFC 2543, nothing is bound here


def _directed(session: Session, media: Media, held: bool) -> Direction:
    """The direction of a stream as we see it: what they allow, less what we do not want."""
    theirs = session.direction_of(media)
    if _is_nowhere(session.host_of(media)):
        theirs = {"sendrecv": "sendonly", "recvonly": "inactive"}.get(theirs, theirs)
    ours = DIRECTIONS[theirs]
    if held:  # we send, and do not listen
        ours = {"sendrecv": "sendonly", "recvonly": "inactive"}.get(ours, ours)
    return cast(Direction, ours)


def _ptime(session: Session, media: Media, codec: Codec, ours: int) -> int:
    """Milliseconds of audio in a packet to them: their wish, as far as it can be kept."""
    wish = _milliseconds(media.attribute("ptime") or session.attribute("ptime")) or ours
    most = _milliseconds(media.attribute("maxptime") or session.attribute("maxptime")) or MAX_PTIME
    if codec.name == "L16":
        most = min(most, MAX_PAYLOAD * 1000 // (2 * codec.clock * codec.channels))
    chosen = max(MIN_PTIME, min(wish, most, MAX_PTIME) // 10 * 10)
    # Opus has frames of 10, 20, 40 and 60 ms (RFC 6716 section 2.1.4)
    return {30: 20, 50: 40}.get(chosen, chosen) if codec.name == "opus" else chosen


def _milliseconds(text: str | None) -> int | None:
    """A number of milliseconds; a fraction, which peers are met to write, is dropped. None: there is none."""
    whole = (text or "").partition(".")[0].strip()
    return int(whole) or None if whole.isascii() and whole.isdigit() and len(whole) < 6 else None


def _rtcp(media: Media, remote: Address | None) -> Address | None:
    """Where RTCP goes when it has a port of its own (RFC 3605)."""
    if remote is None:
        return None
    words = (media.attribute("rtcp") or "").split()
    if (
        not words
        or not (words[0].isascii() and words[0].isdigit())
        or len(words[0]) > 5
        or not 0 < int(words[0]) < 65536
    ):
        return Address(remote.host, remote.port + 1) if remote.port < 65535 else None
    host = words[3] if len(words) == 4 and is_address(words[3]) and not _is_nowhere(words[3]) else remote.host
    return Address(host, int(words[0]))


def _quotable(text: str) -> str:
    """A word of theirs for a Warning header: nothing that could end the quoted text."""
    return "".join(char for char in text[:40] if char.isascii() and (char.isalnum() or char in "/-_."))
