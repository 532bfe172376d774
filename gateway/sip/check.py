"""What would make the first SIP call fail, for `offhook check`."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import ssl
import time
from collections.abc import Iterator
from ctypes.util import find_library
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, Literal

from offhook.gateway.sip.targets import Targets
from offhook.providers.sip.resolver import Resolver, Unresolvable, is_ip
from offhook.providers.sip.sockets import client_context, server_context
from offhook.providers.sip.uri import Uri, format_host

if TYPE_CHECKING:
    from offhook.providers.sip.settings import SipListen, SipSettings, SipTls, TrunkSettings

State = Literal["ok", "warn", "fail"]
Told = tuple[State, str, str]
"""State, what was found, what to do about it."""

EXPIRES_SOON: Final = 14 * 86_400
"""Seconds before a certificate's end that are worth a warning."""

INSTALL: Final = "pip install 'offhook[sip]'"


def check_sip(settings: SipSettings, max_calls: int, *, running: bool) -> Iterator[Told]:
    """Look at the section `sip:`; nothing leaves the machine but look-ups of the trunks' names.

    Args:
        settings: the section.
        max_calls: of the whole process.
        running: a gateway is up here, most likely this one, and has the sockets.
    """
    for index, listen in enumerate(settings.listen):
        if not running:
            yield _socket(index, listen)
    yield from _address(settings)
    yield from _ports(settings, max_calls)
    yield from _certificates("sip.tls", settings.tls, server=any(it.transport == "tls" for it in settings.listen))
    if not settings.trunks:
        yield "fail", "there is no trunk: every call is refused", "add one under sip.trunks"
    for name, trunk in settings.trunks.items():
        yield from _trunk(name, trunk, settings)


def _socket(index: int, listen: SipListen) -> Told:
    kind = socket.SOCK_DGRAM if listen.transport == "udp" else socket.SOCK_STREAM
    where = f"{listen.transport} {format_host(listen.host, listen.port)}"
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    try:
        with socket.socket(family, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((listen.host, listen.port))
    except OSError as error:
        remedy = f"stop what listens there, or change sip.listen[{index}]"
        return "fail", f"{where} cannot be bound: {error.strerror or error}", remedy
    return "ok", f"{where} is free", ""


def _address(settings: SipSettings) -> Iterator[Told]:
    told = settings.public_address
    if not told:
        hosts = [listen.host for listen in settings.listen]
        wild = any(host in ("0.0.0.0", "::") for host in hosts)  # noqa: S104  # compared, not bound
        if not wild and any(ip_address(host).is_global for host in hosts):
            return
        text = "the other side is told the address of our socket, which behind a NAT it cannot reach"
        yield "warn", text, "set sip.public_address, unless the trunks are in your own network"
    elif not is_ip(told) and not settings.media.public_address:
        text = f"public_address {told} is a name; SDP needs an address and gets that of our socket"
        yield "warn", text, "set sip.media.public_address, too"


def _ports(settings: SipSettings, max_calls: int) -> Iterator[Told]:
    media = settings.media
    room = (media.port_high - media.port_low + 1) // 2
    calls = min(settings.max_calls, max_calls)
    text = f"RTP ports {media.port_low} to {media.port_high} have room for {room} calls"
    if room < calls:
        yield "warn", f"{text}; {calls} are allowed", "widen sip.media.port_low and port_high, two ports a call"
    else:
        yield "ok", text, ""


def _certificates(where: str, tls: SipTls, *, server: bool) -> Iterator[Told]:
    try:
        if server:
            server_context(tls)
        client_context(tls)
    except (OSError, ssl.SSLError) as error:
        yield "fail", f"{where}: {error}", "cert_file, key_file and ca_file are PEM files that this user can read"
        return
    if tls.cert_file is not None:
        # No public way to read a certificate from a file; this one is what the standard library itself tests with.
        found = ssl._ssl._test_decode_cert(str(tls.cert_file))  # type: ignore[attr-defined]
        left = ssl.cert_time_to_seconds(found["notAfter"]) - time.time()
        if left < EXPIRES_SOON:
            state: State = "warn" if left > 0 else "fail"
            yield state, f"{where}.cert_file ends {found['notAfter']}", "renew it and restart"
        else:
            yield "ok", f"{where}.cert_file is good until {found['notAfter']}", ""
    if not tls.verify:
        yield "warn", f"{where}.verify is off: anybody in between can listen in", "give ca_file instead"


def _trunk(name: str, trunk: TrunkSettings, settings: SipSettings) -> Iterator[Told]:
    where = f"trunk {name}"
    if trunk.tls is not None:
        yield from _certificates(f"sip.trunks.{name}.tls", trunk.tls, server=False)
    for feature in _missing(trunk):
        yield "fail", f"{where}: {feature}", INSTALL if "libopus" not in feature else "apt-get install libopus0"
    if trunk.srtp != "disabled" and all(listen.transport != "tls" for listen in settings.listen):
        yield (
            "warn",
            f"{where}: SRTP keys travel in the clear, for nothing listens on TLS",
            "add a tls entry to sip.listen",
        )
    if any(network.num_addresses > 1 << 24 for network in trunk.sources if network.version == 4):
        yield "warn", f"{where}: {trunk.sources[0]} is very wide", "list the carrier's own networks under sources"
    yield from _way_out(where, trunk)


def _missing(trunk: TrunkSettings) -> Iterator[str]:
    if "g722" in trunk.codecs and importlib.util.find_spec("G722") is None:
        yield "G.722 needs the package G722"
    if "opus" in trunk.codecs and find_library("opus") is None:
        yield "Opus needs the library libopus"
    if trunk.srtp != "disabled" and importlib.util.find_spec("pylibsrtp") is None:
        yield "SRTP needs the package pylibsrtp"


def _way_out(where: str, trunk: TrunkSettings) -> Iterator[Told]:
    proxies = Targets.proxies(trunk)
    if not proxies:
        yield "ok", f"{where}: takes calls, places none (no `proxies`)", ""
        return
    for proxy in [trunk.outbound_proxy] if trunk.outbound_proxy else proxies:
        try:
            hops = asyncio.run(Resolver().resolve(Uri.parse(proxy)))
        except Unresolvable as error:
            yield "fail", f"{where}: {proxy}: {error}", "check the spelling and the DNS entry"
        except RuntimeError as error:
            yield "fail", f"{where}: {error}", INSTALL
        else:
            places = ", ".join(f"{hop.transport} {format_host(hop.host, hop.port)}" for hop in hops[:4])
            yield "ok", f"{where}: {proxy} leads to {places}", ""
