"""What everything of Deepgram's has in common: the key, the region, and the way into its SDK.

Keys are made at https://console.deepgram.com. Audio and text are processed in the United States unless `base_url`
names another place: `wss://api.eu.deepgram.com` never leaves the European Union (the same keys work there), and a
Deepgram Dedicated or self-hosted installation has an address of its own.

The SDK writes the messages and reads the answers (`AsyncV1SocketClient` and its siblings, which ask no more of a
connection than `send` and `recv`). The connection itself is ours, since the SDK's `connect` uses the deprecated client
of `websockets`, which loads the certificates for every call on the event loop (33 ms), and drops the Retry-After of a
refusal.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from pydantic import Field, SecretStr
from websockets.asyncio.client import ClientConnection

from offhook.agents.services.access import ApiKey, WebSocketUrl, key_from
from offhook.agents.services.base import ServiceSettings
from offhook.agents.services.websocket import connection_options, open_socket
from offhook.codecs.audio import L16_8K, L16_16K, L16_24K, PCMA, PCMU, AudioFormat, Encoding

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it imports the client of `websockets` that we do not use
    from deepgram.listen.v1.socket_client import AsyncV1SocketClient as ListenV1
    from deepgram.listen.v1.types import ListenV1Error, ListenV1Results, ListenV1SpeechStarted
    from deepgram.listen.v2.socket_client import AsyncV2SocketClient as ListenV2
    from deepgram.listen.v2.types import ListenV2FatalError, ListenV2TurnInfo, ListenV2Warning
    from deepgram.speak.v1.socket_client import AsyncV1SocketClient as SpeakV1
    from deepgram.speak.v1.types import SpeakV1Text

__all__ = [
    "ENCODINGS",
    "FORMATS",
    "DeepgramSettings",
    "ListenV1",
    "ListenV1Error",
    "ListenV1Results",
    "ListenV1SpeechStarted",
    "ListenV2",
    "ListenV2FatalError",
    "ListenV2TurnInfo",
    "ListenV2Warning",
    "SpeakV1",
    "SpeakV1Text",
    "connect",
]

ENCODINGS: Final[Mapping[Encoding, str]] = {"pcmu": "mulaw", "pcma": "alaw", "l16": "linear16"}

FORMATS: Final = (PCMU, PCMA, L16_8K, L16_16K, L16_24K, AudioFormat("l16", 48000))
"""What Deepgram takes and gives without a container; G.711 passes untouched."""


class DeepgramSettings(ServiceSettings):
    """Settings of every Deepgram service."""

    api_key: Annotated[ApiKey, key_from("DEEPGRAM_API_KEY", "https://console.deepgram.com")] = Field(
        default=SecretStr(""), validate_default=True
    )
    "From https://console.deepgram.com. Taken from the environment variable DEEPGRAM_API_KEY when it is not given."
    base_url: WebSocketUrl = "wss://api.deepgram.com"
    """Where the data goes: wss://api.eu.deepgram.com keeps it in the EU, api.au in Australia, api.in in India;
    Dedicated and self-hosted have their own."""
    mip_opt_out: bool = False
    "Keep what is said out of Deepgram's Model Improvement Program. Changes the price."

    async def warm(self) -> None:
        """Read the certificates from the disk."""
        await connection_options(self.base_url, self.timeout)


async def connect(settings: DeepgramSettings, path: str, query: Mapping[str, Any]) -> ClientConnection:
    """Open a WebSocket of Deepgram's.

    Args:
        path: such as `/v1/listen`.
        query: parameters; None leaves one out, several values repeat it, truth values are written as Deepgram wants.

    Raises:
        ServiceError: it cannot be reached, or refused.
    """
    pairs = [(name, _written(one)) for name, value in query.items() for one in _several(value)]
    headers = {"Authorization": f"Token {settings.api_key.get_secret_value()}"}
    url = f"{settings.base_url}{path}?{urlencode(pairs)}"
    return await open_socket(settings.service, url, headers, settings.timeout)


def _several(value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    return value if isinstance(value, list | tuple) else (value,)


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
