"""Asterisk as a carrier: calls by chan_websocket and by AudioSocket, orders by ARI."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import ClassVar, Final, Literal, Self
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, Field, model_validator

from offhook.providers.asterisk.ari import AriSettings, AsteriskControl, Line
from offhook.providers.asterisk.audiosocket import AudioSocketStream
from offhook.providers.asterisk.auth import SUBPROTOCOL, verify_basic, verify_subprotocol
from offhook.providers.asterisk.calls import FROM, MAX_FIELDS, TO, AudioSocketIds, incoming_call
from offhook.providers.asterisk.media import MediaChannelStream
from offhook.providers.base import (
    CarrierProtocolError,
    CarrierRequest,
    CarrierResponse,
    IncomingCall,
    SocketProvider,
)
from offhook.providers.settings import CarrierSettings, Secrets, plain
from offhook.providers.webhook import fields, need

TICKET_PATH: Final = "/asterisk/audiosocket"
"""Where a dialplan asks for the id of an AudioSocket call, by GET or POST, with Basic credentials."""


class AudioSocketSettings(BaseModel):
    """The section `carriers.asterisk.audiosocket`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    "Address to bind. The protocol has neither encryption nor a password: keep it in a private network."
    port: int = Field(default=9092, ge=0, le=65535)
    "0 takes any free port."
    sources: list[IPv4Network | IPv6Network] = []
    "Networks that may connect. Empty: any, for the id of a call is good once and for seconds."
    number: str = ""
    """Called number of a connection whose UUID offhook has not given out. Unset: such a connection is refused. Needs
    `sources`."""

    @model_validator(mode="after")
    def _number_needs_sources(self) -> Self:
        if self.number and not self.sources:
            raise ValueError("number lets in whoever connects: list the networks of your PBX under `sources`")
        return self


class AsteriskSettings(CarrierSettings):
    """The section `carriers.asterisk`."""

    username: str = Field(default="offhook", min_length=1)
    """Name that Asterisk signs in with, at the media socket and for AudioSocket ids."""
    password: Secrets | None = None
    """Its password; a list while it is rotated. Unset: no media socket is accepted and no id given out."""
    number: str = ""
    """Called number of a call whose dialplan names none."""
    require_subprotocol: bool = True
    """Whether a media socket must offer the subprotocol `media`. Asterisks of before it do not."""
    marks: bool = True
    """Whether this Asterisk knows MARK_MEDIA: 20.18, 22.8, 23.2 and later. Without, offhook goes by the clock."""
    dtmf: Literal["inband", "ari"] = "inband"
    """How an agent's keys are sent: as tones in the audio, or by ARI on channels that are in a Stasis application."""
    audiosocket: AudioSocketSettings | None = None
    """Where AudioSocket connections are taken; unset: nowhere."""
    ari: AriSettings | None = None
    """Where orders go; unset: calls cannot be transferred or placed."""

    @model_validator(mode="after")
    def _some_way_in(self) -> Self:
        if self.password is None and not (self.audiosocket is not None and self.audiosocket.number):
            raise ValueError("nobody may come in: set password, or audiosocket with `sources` and `number`")
        return self


class AsteriskProvider(SocketProvider):
    """Asterisk 18 and later with AudioSocket, 20.16, 21.11, 22.6 and later with chan_websocket."""

    name: ClassVar[str] = "asterisk"
    Settings: ClassVar[type[BaseModel]] = AsteriskSettings
    socket_path: ClassVar[str] = "/asterisk/media"
    ticket_path: ClassVar[str] = TICKET_PATH
    subprotocols = (SUBPROTOCOL,)
    control: AsteriskControl

    def __init__(self, settings: BaseModel) -> None:
        if not isinstance(settings, AsteriskSettings):
            raise TypeError(f"settings is a {type(settings).__name__}, not AsteriskSettings")
        self._settings = settings
        self._passwords = plain(settings.password) if settings.password is not None else []
        self._ids = AudioSocketIds()
        self.audiosocket = settings.audiosocket
        "Where the AudioSocket server is to listen; None: nowhere."
        self.control = AsteriskControl(settings.ari, timeout=settings.api_timeout)

    # --- chan_websocket

    def verify_upgrade(self, request: CarrierRequest) -> None:
        verify_basic(request, self._settings.username, self._passwords)
        if self._settings.require_subprotocol:
            verify_subprotocol(request)

    def open(self, request: CarrierRequest) -> MediaChannelStream:
        query = request.url.partition("#")[0].partition("?")[2]
        try:
            pairs = parse_qsl(query, keep_blank_values=True, errors="replace", max_num_fields=MAX_FIELDS)
        except ValueError:  # more of them than any dialplan writes
            pairs = []
        return MediaChannelStream(
            dict(pairs),
            number=self._settings.number,
            marks=self._settings.marks,
            tones=self._settings.dtmf == "inband",
            register=self._register,
        )

    # --- AudioSocket

    def ticket(self, request: CarrierRequest, now: float) -> CarrierResponse:
        """Answer a request to TICKET_PATH: note the call it tells of, give the UUID for AudioSocket as plain text.

        Raises:
            CarrierAuthError: wrong credentials.
            CarrierProtocolError: `to` is missing and no number is configured, or AudioSocket is off.
        """
        verify_basic(request, self._settings.username, self._passwords)
        if self.audiosocket is None:
            raise CarrierProtocolError("AudioSocket is off: set carriers.asterisk.audiosocket")
        found = fields(request)
        to = found.get(TO) or self.audiosocket.number or self._settings.number or need(found, TO)
        id = self._ids.issue(found.get(FROM, ""), to, found, now)
        return CarrierResponse(id, content_type="text/plain")

    def admits(self, host: str) -> bool:
        """Whether an AudioSocket connection from this address (an IP literal) is taken at all."""
        if self.audiosocket is None:
            return False
        if not self.audiosocket.sources:
            return True
        address = ip_address(host.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self.audiosocket.sources)

    def audiosocket_stream(self) -> AudioSocketStream:
        """A fresh stream for a connection that was admitted."""
        return AudioSocketStream(self._redeem, tones=self._settings.dtmf == "inband", register=self._register)

    def _redeem(self, id: str, now: float) -> IncomingCall | None:
        call = self._ids.redeem(id, now)
        if call is None and self.audiosocket is not None and self.audiosocket.number:
            # From a listed source: its UUIDs are its own affair.
            call = incoming_call(id, {}, self.audiosocket.number)
        return call

    def _register(self, carrier_call_id: str, line: Line) -> None:
        self.control.lines[carrier_call_id] = line
