"""The section `sip:` of the configuration: where we listen, where media goes, and the trunks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from offhook.providers.rtp.media import G722, L16_8K, L16_16K, OPUS, PCMA, PCMU, Codec
from offhook.providers.settings import Secret
from offhook.providers.sip.hop import Transport
from offhook.providers.sip.uri import BadUri, Uri

CodecName = Literal["pcmu", "pcma", "g722", "l16/8000", "l16/16000", "opus"]
SrtpPolicy = Literal["disabled", "allowed", "required"]
DigestAlgorithm = Literal["SHA-256", "MD5"]
DIGESTS: Final[tuple[DigestAlgorithm, ...]] = ("SHA-256", "MD5")
"""The best first: the order of a challenge (RFC 8760 section 2.4)."""

Network = IPv4Network | IPv6Network

CODECS: Final[Mapping[CodecName, Codec]] = {
    "pcmu": PCMU,
    "pcma": PCMA,
    "g722": G722,
    "l16/8000": L16_8K,
    "l16/16000": L16_16K,
    "opus": OPUS,
}

MIN_SE: Final = 90
"""Seconds; RFC 4028 section 5 allows no shorter session interval."""

MAX_TRUNKS: Final = 1000
"""A gateway for people to read; carriers with more customers put a proxy in front."""

SCANNERS: Final = ("friendly-scanner", "sipvicious", "sipcli", "sip-scan", "sundayddr", "vaxsipuseragent", "pplsip")
"""What the tools that sweep the net for open gateways call themselves."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9.!%*_+`'~-]{1,100}")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NOT_OURS: Final = frozenset(
    {
        *("via", "v", "from", "f", "to", "t", "call-id", "i", "cseq", "contact", "m", "max-forwards", "route"),
        *(
            "record-route",
            "content-length",
            "l",
            "content-type",
            "c",
            "content-encoding",
            "e",
            "allow",
            "supported",
            "k",
        ),
        *("supported", "require", "proxy-require", "unsupported", "authorization", "www-authenticate"),
        *("proxy-authorization", "proxy-authenticate", "session-expires", "x", "min-se", "rseq", "rack", "replaces"),
        *("refer-to", "r", "event", "o", "subscription-state", "expires", "retry-after"),
    }
)
"""Headers that steer transactions, dialogs and authentication: an agent that set them would break the call."""


class SipSection(BaseModel):
    """Base of every model here: unknown keys are errors, nothing changes after loading, no secret in an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True, use_attribute_docstrings=True
    )


# --- the types of single values -----------------------------------------------------


def _target(value: str) -> str:
    """A SIP address; `pbx.example.net:5070` stands for `sip:pbx.example.net:5070`."""
    text = value.strip()
    if not re.match(r"sips?:", text, re.IGNORECASE):
        text = f"sip:{text}"
    try:
        uri = Uri.parse(text)
    except BadUri as error:
        raise PydanticCustomError(
            "sip_uri", "{fault}; write it as sip:host:port;transport=tcp", {"fault": str(error)}
        ) from error
    if (transport := uri.params.get("transport", "udp").lower()) not in ("udp", "tcp", "tls"):
        raise PydanticCustomError("sip_uri", "transport {it} is none of udp, tcp, tls", {"it": repr(transport)})
    return text


def _network(value: Any) -> Any:
    """An address stands for the network of that address alone; host bits are an error, for they hide mistakes."""
    if isinstance(value, str):
        try:
            return ip_network(value.strip())
        except ValueError as error:
            message = "{fault}; write an address or a network such as 192.0.2.0/28 (names are not taken here)"
            raise PydanticCustomError("network", message, {"fault": str(error)}) from error
    return value


def _header(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise PydanticCustomError("header", "{name} is no name of a header", {"name": repr(name)})
    if name.lower() in _NOT_OURS:
        message = "{name} belongs to the protocol and cannot be mapped; use a header of your own such as X-{name}"
        raise PydanticCustomError("header", message, {"name": name})
    return name


def _prefix(value: str) -> str:
    if len(value) < 2:
        raise PydanticCustomError("header_prefix", 'too short; write the start of names, such as "X-"')
    return _header(value)


def _address(value: str) -> str:
    plain = value.strip().removeprefix("[").removesuffix("]")
    try:
        return str(ip_address(plain))
    except ValueError as error:
        raise PydanticCustomError("address", "must be an IP address, such as 192.0.2.10") from error


def _address_or_empty(value: str) -> str:
    return _address(value) if value.strip() else ""


def _number(value: Any) -> Any:
    if isinstance(value, int | float):
        raise PydanticCustomError("number", 'write the number in quotes, such as "+15550100"')
    return value


Target = Annotated[str, AfterValidator(_target)]
"""A SIP address to send requests to."""

HeaderName = Annotated[str, AfterValidator(_header)]
Number = Annotated[str, BeforeValidator(_number), Field(min_length=1, max_length=64, pattern=r"^[+0-9A-Za-z_.*#-]+$")]
"""A phone number or the name of an extension."""


# --- sections ------------------------------------------------------------------------


class SipTls(SipSection):
    """Certificates, as PEM files."""

    ca_file: Path | None = None
    "Authorities that the other side's certificate is checked against; unset: the system's."
    cert_file: Path | None = None
    "Our certificate, with its chain. A server needs one."
    key_file: Path | None = None
    "Its private key; unset: it is in cert_file."
    verify: bool = True
    "False accepts any certificate: for a laboratory, for it lets anyone listen in."

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if self.key_file is not None and self.cert_file is None:
            raise PydanticCustomError("tls", "key_file without cert_file; give both, or neither")
        return self


class Registration(SipSection):
    """Registering with a PBX or a carrier as an extension."""

    registrars: Annotated[list[Target], Field(min_length=1, max_length=8)]
    "Tried in this order; the next one when one does not answer."
    user: str = Field(default="", max_length=100)
    "The extension; unset: the trunk's username."
    expires: int = Field(default=3600, ge=60, le=86400)
    "Seconds we ask for; the registrar has the last word."


class TrunkSettings(SipSection):
    """One carrier or PBX that calls us, that we call, or both."""

    sources: list[Annotated[Network, BeforeValidator(_network)]] = Field(default=[], max_length=256)
    "Addresses and networks that this trunk's calls come from. With `register`, the registrar's are added."
    auth: Literal["ip", "digest", "both"] = "ip"
    "What proves an incoming call: an address in `sources`, username and password, or both at once."
    username: str = Field(default="", max_length=100)
    "Digest user, for their requests to us and for ours to them."
    password: Secret | None = None
    "Its password."
    realm: str = Field(default="", max_length=200)
    "Realm of the challenges we send to this trunk; unset: `sip.realm`."

    digest: list[DigestAlgorithm] = Field(default=list(DIGESTS), min_length=1, max_length=2)
    """How passwords of this trunk may be proved to us. Telephones and PBXs older than RFC 8760 give up where SHA-256 is
    offered at all: write `[MD5]` for them. Trunks of one realm are offered what all of them take."""

    proxies: list[Target] = Field(default=[], max_length=16)
    """Where our calls go, in order of preference: `sip:sbc.example.net`, with port and `;transport=` where they are
    not to be looked up. The next one is tried when one fails."""
    outbound_proxy: Target | Literal[""] = ""
    "Every request to this trunk goes there first."
    register_with: Registration | None = Field(default=None, alias="register")
    "Register with the other side as an extension."
    from_domain: str = Field(default="", max_length=255, pattern=r"^[A-Za-z0-9.:\[\]_-]*$")
    "Host of our From address; unset: the host of the proxy."
    numbers: list[Number] = Field(default=[], max_length=10_000)
    "Our numbers at this trunk; the first is shown where an outgoing call names none."

    codecs: list[CodecName] = Field(default=["pcmu", "pcma", "g722"], min_length=1, max_length=len(CODECS))
    "Those we speak, best first."
    prefer: Literal["theirs", "ours"] = "theirs"
    "Whose order of codecs decides when the other side offers."
    ptime: Literal[10, 20, 30, 40, 50, 60] = 20
    "Milliseconds of audio in a packet that we ask for."
    srtp: SrtpPolicy = "disabled"
    "Encrypted media (SDES). Keys travel in the signalling: use it over TLS."
    dtmf: Literal["auto", "rfc4733", "info", "inband"] = "auto"
    "How keys travel; auto: telephone-event where it was agreed on, else tones; INFO is understood."
    comfort_noise: bool = False
    "Whether we agree to comfort noise packets in place of silence."
    early_media: bool = False
    "Whether audio flows before the call is answered (183 with SDP)."

    max_calls: int | None = Field(default=None, gt=0)
    "Calls at once over this trunk, both ways."
    max_cps: float | None = Field(default=None, gt=0)
    "New calls a second over this trunk, both ways."

    attributes: dict[str, HeaderName] = Field(default={}, max_length=64)
    """Attribute of a call → header, both ways: the agent reads the attribute where the header came, and the header
    is sent where the agent sets the attribute. Such as `account: X-Account-Id`, `uui: User-to-User`."""
    pass_headers: list[Annotated[str, AfterValidator(_prefix)]] = Field(default=["X-"], max_length=16)
    "Headers that begin so are attributes by their own names, both ways."

    session_expires: int = Field(default=1800, ge=0, le=86400)
    "Seconds after which a call that was not refreshed is over (RFC 4028); 0: no session timer of ours."
    min_se: int = Field(default=MIN_SE, ge=MIN_SE, le=86400)
    "Shortest session timer that we agree to."
    reliable_provisional: Literal["off", "supported", "required"] = "supported"
    "Acknowledged ringing (100rel, RFC 3262)."
    accept_refer: list[str] = Field(default=[], max_length=256)
    "Numbers that the other side may transfer us to, such as `+1555*`. Empty: none, it is answered 603."
    transfer: Literal["refer", "attended"] = "refer"
    "How a transfer of ours is done: blind, or with a call to the target first that then replaces ours."
    options_ping: float = Field(default=0, ge=0, le=3600)
    "Seconds between OPTIONS to each proxy, so that a dead one is known before a call; 0: none."
    tls: SipTls | None = None
    "For connections that we open to this trunk; unset: `sip.tls`."

    @property
    def media_codecs(self) -> tuple[Codec, ...]:
        """`codecs`, as negotiation takes them."""
        return tuple(CODECS[name] for name in self.codecs)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.auth != "ip" and not (self.username and self.password):
            raise PydanticCustomError("trunk", "auth: digest and both need username and password")
        if self.auth == "both" and not self.sources and self.register_with is None:
            raise PydanticCustomError("trunk", "auth: both needs `sources`; without them write auth: digest")
        if self.auth == "digest" and self.sources:
            raise PydanticCustomError("trunk", "auth: digest looks at no address; drop `sources` or write auth: both")
        if self.password is not None and not self.username:
            raise PydanticCustomError("trunk", "a password without username; give both")
        if self.register_with is not None and not (self.register_with.user or self.username):
            raise PydanticCustomError("trunk", "register needs a user; give `username` or `register.user`")
        if self.auth == "ip" and not (self.sources or self.proxies or self.outbound_proxy or self.register_with):
            raise PydanticCustomError("trunk", "takes and places no calls; give `sources`, `proxies` or `register`")
        if len(set(self.codecs)) != len(self.codecs):
            raise PydanticCustomError("trunk", "a codec stands twice under `codecs`")
        if 0 < self.session_expires < self.min_se:
            raise PydanticCustomError("trunk", "session_expires is below min_se; raise it, or write 0 for no timer")
        return self


class SipListen(SipSection):
    """One socket that SIP arrives at."""

    transport: Transport = "udp"
    "What is spoken there; `tls` needs `sip.tls.cert_file`."
    host: Annotated[str, AfterValidator(_address)] = "0.0.0.0"  # noqa: S104  # a telephone is there to be called
    "IP address to bind; `0.0.0.0` or `::` for every interface."
    port: int = Field(default=5060, ge=0, le=65535)
    "0 takes any free port."


class SipMedia(SipSection):
    """Where RTP is sent from and received at."""

    host: Annotated[str, AfterValidator(_address_or_empty)] = ""
    "Address to bind; unset: the address that the signalling of the call came to."
    public_address: Annotated[str, AfterValidator(_address_or_empty)] = ""
    "Address to put into SDP, where a NAT stands before us; unset: `sip.public_address` if that is one, else `host`."
    port_low: int = Field(default=20_000, ge=1024, le=65534)
    "First port of the range; open it in the firewall for UDP, to port_high."
    port_high: int = Field(default=29_999, ge=1025, le=65535)
    "Last port of the range. A call takes two, and they rest for a while after it."

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.port_high - self.port_low < 3:
            raise PydanticCustomError("ports", "port_high must be at least port_low + 3: a call takes two ports")
        return self


class SipLimits(SipSection):
    """What strangers, and those who only seem to be none, may cost us."""

    calls_per_second: float = Field(default=200, gt=0)
    "New calls a second in all; beyond them 503."
    source_calls_per_second: float = Field(default=100, gt=0)
    "New calls a second from one address."
    source_requests_per_second: float = Field(default=50, gt=0)
    "Other requests a second from one trusted address, such as OPTIONS."
    stranger_requests_per_second: float = Field(default=5, gt=0)
    "Requests a second of one unproven address that are answered at all, with a challenge or 403."
    strangers_per_second: float = Field(default=100, gt=0)
    "The same for all unproven addresses together."
    failures: int = Field(default=10, ge=1, le=1000)
    "Wrong passwords from one address before it is not answered any more."
    failure_window: float = Field(default=300, gt=0, le=86400)
    "Seconds after which a wrong password is forgotten."
    block: float = Field(default=900, gt=0, le=86400)
    "Seconds that such an address is not answered."
    retry_after: int = Field(default=5, ge=1, le=3600)
    "What a 503 tells the other side to wait, in seconds."


class SipSettings(SipSection):
    """SIP without a carrier's cloud between: no port is open without this section."""

    listen: list[SipListen] = Field(default=[SipListen()], min_length=1, max_length=16)
    "Sockets; unset: UDP at port 5060 of every IPv4 interface."
    public_address: str = Field(default="", max_length=255, pattern=r"^[A-Za-z0-9.:_-]*$")
    "Name or address at which the others reach us, for Contact and Via; unset: the address of the socket."
    local_networks: list[Annotated[Network, BeforeValidator(_network)]] = Field(default=[], max_length=64)
    """Networks that reach us without a NAT between, such as that of a PBX beside us: they are told the address of the
    socket, never `public_address`."""
    realm: str = Field(default="offhook", min_length=1, max_length=200)
    "Realm of the challenges we send."
    user_agent: str = Field(default="offhook", max_length=100, pattern=r"^[ -~]*$")
    "What we call ourselves; empty: nothing."
    media: SipMedia = SipMedia()
    "Addresses and ports of RTP."
    trunks: dict[str, TrunkSettings] = Field(default={}, max_length=MAX_TRUNKS)
    "Name of a trunk → its settings."
    max_calls: int = Field(default=500, gt=0)
    "SIP calls at once, both ways."
    limits: SipLimits = SipLimits()
    "Rates, and what wrong passwords lead to."
    strangers: Literal["refuse", "drop"] = "refuse"
    "What a request from an address of no trunk gets: 403 (within the limits), or nothing at all."
    scanners: list[str] = Field(default=list(SCANNERS), max_length=64)
    "Parts of User-Agent, in lower case, whose requests are not answered."
    tls: SipTls = SipTls()
    "Our certificate for TLS, and the authorities we trust."

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if any(listen.transport == "tls" for listen in self.listen) and self.tls.cert_file is None:
            raise PydanticCustomError("tls", "a TLS socket needs `sip.tls.cert_file`")
        networks: dict[Network, tuple[str, bool]] = {}
        users: dict[tuple[str, str], str] = {}
        digests: dict[str, set[DigestAlgorithm]] = {}
        for name, trunk in self.trunks.items():
            if not _NAME.fullmatch(name):
                raise PydanticCustomError("trunk", "{name}: names are letters, digits, - and _", {"name": repr(name)})
            for network in trunk.sources:
                # both: username and password tell trunks of one address apart
                other, alone = networks.setdefault(network, (name, trunk.auth == "ip"))
                if other != name and (alone or trunk.auth == "ip"):
                    message = "{network} is a source of {one} and of {two}; tell them apart by auth: both"
                    context = {"network": str(network), "one": other, "two": name}
                    raise PydanticCustomError("trunk", message, context)
            if trunk.auth != "ip":
                user = (trunk.realm or self.realm, trunk.username)
                if (twin := users.setdefault(user, name)) != name:
                    message = "username {user} is that of {one} and of {two}; give each its own"
                    raise PydanticCustomError("trunk", message, {"user": user[1], "one": twin, "two": name})
                common = digests.setdefault(user[0], set(DIGESTS))
                common.intersection_update(trunk.digest)
                if not common:
                    message = "{name}: trunks of realm {realm} share no algorithm under `digest`; give it its own realm"
                    raise PydanticCustomError("trunk", message, {"name": name, "realm": repr(user[0])})
        return self
