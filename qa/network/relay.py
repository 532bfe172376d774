"""What the two relays have in common: where they listen, whom they pass on to, and how much came of it."""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final, Literal, Self

from offhook.qa.network.model import NetworkModel, both_ways
from offhook.qa.scenario.model import Network

Kind = Literal["udp", "tcp"]

MAX_FLOWS: Final = 2048
"""Clients at once; each has a socket of its own towards the target."""


class RelayError(Exception):
    """A relay could not be opened. The text names the address and the remedy."""


@dataclass(slots=True)
class Totals:
    """What a relay did so far, both ways."""

    flows: int = 0
    "Clients, or connections."
    refused: int = 0
    "Of them: more than `MAX_FLOWS`, or nobody was at the target."
    packets: int = 0
    lost: int = 0
    "By the model; with TCP segments that came again."
    reordered: int = 0
    duplicated: int = 0

    def __str__(self) -> str:
        flows = f"{self.flows} {'flow' if self.flows == 1 else 'flows'}"
        refused = f" ({self.refused} refused)" if self.refused else ""
        return (
            f"{flows}{refused}, {self.packets} packets: {self.lost} lost, "
            f"{self.reordered} reordered, {self.duplicated} duplicated"
        )


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:5060`, `[::1]:5060` or `:5060`, which is all of this machine's IPv4 addresses.

    Raises:
        RelayError: it is none of these.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise RelayError(f"{text!r} is no address; write host:port, such as 127.0.0.1:5060 or [::1]:5060")
    return host or "0.0.0.0", int(port)  # noqa: S104  # asked for


class Relay(ABC):
    """Stands between clients and one target, and treats what passes as a bad network would. Use `async with`.

    Args:
        listen: Own host and port; port 0: any.
        to: Whom to pass on to.
        settings: What the network does, each way. Its clock begins with each flow.
    """

    kind: Kind

    def __init__(self, listen: tuple[str, int], to: tuple[str, int], settings: Network) -> None:
        self.listen = listen
        self.to = to
        self.settings = settings
        self._done = Totals()
        self._models: dict[int, tuple[NetworkModel, NetworkModel]] = {}

    @property
    def totals(self) -> Totals:
        """All flows together, those under way included."""
        totals = Totals(self._done.flows, self._done.refused)
        _add(totals, self._done.packets, self._done.lost, self._done.reordered, self._done.duplicated)
        for models in self._models.values():
            _count(totals, models)
        return totals

    @property
    @abstractmethod
    def address(self) -> tuple[str, int]:
        """Host and port where clients find it."""

    async def __aenter__(self) -> Self:
        """Begin to listen.

        Raises:
            RelayError: the address is taken or not ours, or the target has no address.
        """
        try:
            self.to = await _resolved(self.to, self.kind)
        except OSError as error:
            raise RelayError(f"{self.to[0]} has no address ({error.strerror or error}); check `--to`") from error
        try:
            await self._open()
        except OSError as error:
            where = f"{self.listen[0]}:{self.listen[1]}"
            raise RelayError(f"cannot listen on {where} ({error.strerror or error}); change `--listen`") from error
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._close()

    @abstractmethod
    async def _open(self) -> None:
        """Listen. Raises OSError."""

    @abstractmethod
    async def _close(self) -> None:
        """Stop at once; what is under way is lost."""

    def _begin(self) -> tuple[int, NetworkModel, NetworkModel] | None:
        """Number of a new flow and its network there and back; None: there are too many."""
        self._done.flows += 1
        if len(self._models) >= MAX_FLOWS:
            self._done.refused += 1
            return None
        number = self._done.flows
        there, back = self._models[number] = both_ways(self.settings, number, ordered=self.kind == "tcp")
        return number, there, back

    def _end(self, number: int, *, refused: bool = False) -> None:
        if models := self._models.pop(number, None):
            _count(self._done, models)
            self._done.refused += refused


def _count(totals: Totals, models: tuple[NetworkModel, NetworkModel]) -> None:
    for model in models:
        _add(totals, model.sent, model.lost, model.reordered, model.duplicated)


def _add(totals: Totals, packets: int, lost: int, reordered: int, duplicated: int) -> None:
    totals.packets += packets
    totals.lost += lost
    totals.reordered += reordered
    totals.duplicated += duplicated


async def _resolved(address: tuple[str, int], kind: Kind) -> tuple[str, int]:
    wanted = socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM
    found = await asyncio.get_running_loop().getaddrinfo(*address, type=wanted)
    host, port = found[0][4][:2]
    return str(host), int(port)
