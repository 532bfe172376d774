"""FreeSWITCH as a carrier: media sockets that are calls, and orders by its event socket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from offhook.providers.base import CarrierRequest, SocketProvider
from offhook.providers.freeswitch import auth
from offhook.providers.freeswitch.control import FreeswitchControl
from offhook.providers.freeswitch.metadata import Metadata
from offhook.providers.freeswitch.playback import PLAYBACKS, Playback
from offhook.providers.freeswitch.wire import FreeswitchStream
from offhook.providers.settings import CarrierSettings, Secret, Secrets, plain

Mode = Literal["auto", "audio_fork", "jambonz", "audio_stream"]

SUBPROTOCOLS: Final = ("audio.drachtio.org", "audio.jambonz.org")
"""What mod_audio_fork offers: by default, and in jambonz's installations. mod_audio_stream offers none."""

STOP_MEDIA: Final = ("uuid_audio_fork {uuid} stop offhook", "uuid_audio_stream {uuid} stop")
"""Ends the media socket: mod_audio_fork's command and mod_audio_stream's."""

MAX_QUERY: Final = 32
"""Fields of the URL's query."""

PLAYBACK_KEY: Final = "playback"
"""Field of the query that chooses the way out for one call."""


class EventSocketSettings(BaseModel):
    """The section `carriers.freeswitch.esl`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    host: str = Field(default="127.0.0.1", min_length=1)
    """Where FreeSWITCH's event socket listens."""
    port: int = Field(default=8021, ge=1, le=65535)
    """Its port."""
    password: Secret
    """Of `event_socket.conf.xml`. Change the one it comes with."""
    context: str = Field(default="default", pattern=r"^[A-Za-z0-9_.-]+$")
    """Dialplan context that transferred calls go to."""
    dial_string: str = Field(default="sofia/gateway/provider/{to}", pattern=r"^[^\s{}]*\{to\}[^\s{}]*$")
    """What outbound calls ring; `{to}` is the number."""
    dial_to: str = Field(default="offhook XML default", pattern=r"^[^\s]+( [^\s]+){0,2}$")
    """Extension, dialplan and context of an outbound call that was answered. It starts the media socket."""
    stop_media: str = Field(default="", pattern=r"^(\S+( \S+)*)?$")
    """What ends the media socket of a call that was transferred; `{uuid}` is the channel. Unset: the module's own
    command, where mod_audio_fork's bug is named `offhook`."""


class FreeswitchSettings(CarrierSettings):
    """The section `carriers.freeswitch`."""

    username: str = ""
    """For Basic credentials: channel variable MOD_AUDIO_BASIC_AUTH_USERNAME."""
    password: Secrets | None = None
    """Likewise MOD_AUDIO_BASIC_AUTH_PASSWORD. A list while it is replaced."""
    token: Secrets | None = None
    """Bearer token: `Authorization` among STREAM_EXTRA_HEADERS. A list while it is replaced."""
    mode: Mode = "auto"
    """Who connects. `auto`: whoever offers a subprotocol is mod_audio_fork, all others are mod_audio_stream."""
    playback: Literal["auto", "stream", "binary", "clips", "files"] = "auto"
    """How the agent's voice goes back. `auto`: stream, or files for mod_audio_stream."""
    sample_rate: Literal[8000, 16000, 24000, 48000] = 8000
    """Samples a second of a socket whose first message does not say it."""
    mix: Literal["mono", "mixed", "stereo"] = "mono"
    """Mix type of a socket whose first message does not say it."""
    audio_first: bool = False
    """Take sockets that begin with audio, though neither their URL nor a first message names the call."""
    number: str = ""
    """The called number of a socket that does not say it."""
    esl: EventSocketSettings | None = None
    """The event socket; without it calls can be neither transferred nor dialled nor, often, hung up."""

    @model_validator(mode="after")
    def _has_credentials(self) -> Self:
        if bool(self.username) != (self.password is not None):
            raise ValueError("username and password go together: set both or none")
        if self.password is None and self.token is None:
            raise ValueError("set username and password, or token: whoever opens the media socket places a call")
        return self


class FreeswitchProvider(SocketProvider):
    """FreeSWITCH with mod_audio_fork or mod_audio_stream, and jambonz applications of one's own with `listen`."""

    name: ClassVar[str] = "freeswitch"
    Settings: ClassVar[type[BaseModel]] = FreeswitchSettings
    socket_path: ClassVar[str] = "/freeswitch/media"
    subprotocols = SUBPROTOCOLS
    control: FreeswitchControl

    def __init__(self, settings: BaseModel) -> None:
        if not isinstance(settings, FreeswitchSettings):
            raise TypeError(f"settings is a {type(settings).__name__}, not FreeswitchSettings")
        self._settings = settings
        self._passwords = plain(settings.password) if settings.password is not None else []
        self._tokens = plain(settings.token) if settings.token is not None else []
        esl = settings.esl
        self.control = FreeswitchControl(
            host=esl.host if esl else "",
            port=esl.port if esl else 0,
            password=esl.password.get_secret_value() if esl else "",
            context=esl.context if esl else "",
            dial_string=esl.dial_string if esl else "",
            dial_to=esl.dial_to if esl else "",
            stop_media=(esl.stop_media if esl else "") or STOP_MEDIA[settings.mode == "audio_stream"],
            timeout=settings.api_timeout,
        )

    def verify_upgrade(self, request: CarrierRequest) -> None:
        auth.verify_upgrade(request, username=self._settings.username, passwords=self._passwords, tokens=self._tokens)

    def open(self, request: CarrierRequest) -> FreeswitchStream:
        settings, query = self._settings, _query(request)
        return PLAYBACKS[self._playback(request, query)](
            query=query,
            number=settings.number,
            rate=settings.sample_rate,
            mix=settings.mix,
            audio_first=settings.audio_first or bool(Metadata(query).call_id),
        )

    def _playback(self, request: CarrierRequest, query: Mapping[str, str]) -> Playback:
        asked = query.get(PLAYBACK_KEY, "")
        for name in PLAYBACKS:
            if name == asked or (not asked and name == self._settings.playback):
                return name
        mode = self._settings.mode
        if mode == "auto":
            offered = ",".join(request.headers.get("sec-websocket-protocol", ()))
            fork = any(part.strip() in SUBPROTOCOLS for part in offered.split(","))
            mode = "audio_fork" if fork else "audio_stream"
        return "files" if mode == "audio_stream" else "stream"


def _query(request: CarrierRequest) -> dict[str, str]:
    """The fields of the upgrade's query: facts about the call that need no metadata."""
    try:
        return dict(parse_qsl(urlsplit(request.url).query, errors="replace", max_num_fields=MAX_QUERY))
    except ValueError:
        return {}
