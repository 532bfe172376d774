"""From what somebody wrote after `--target` to a phone that reaches it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from offhook.qa.phones.base import Phone, Unable, Way
from offhook.qa.scenario.model import Scenario, Target

ENVIRONMENT: Final = {
    "auth_token": "OFFHOOK_QA_AUTH_TOKEN",
    "username": "OFFHOOK_QA_USERNAME",
    "password": "OFFHOOK_QA_PASSWORD",
}
"""Where secrets are taken from that are not given: what stands on a command line is seen by everybody."""

WAYS: Final[dict[str, Way]] = {
    "sip": "sip",
    "sips": "sip",
    "twilio+http": "twilio",
    "twilio+https": "twilio",
    "plivo+http": "plivo",
    "plivo+https": "plivo",
    "link+ws": "link",
    "link+wss": "link",
}
"""Scheme of a target → the way of calling."""

_FORMS: Final = (
    "sip:user@host, sips:user@host, twilio+http://host/webhook, plivo+http://host/webhook, link+ws://host:port"
)

_HINTS: Final = {
    "http": "put the carrier that the bot expects before it: twilio+{to} or plivo+{to}",
    "https": "put the carrier that the bot expects before it: twilio+{to} or plivo+{to}",
    "ws": "for an agent on the agent link write link+{to}; a carrier's bot is called by its webhook, as twilio+http://…",
    "wss": "for an agent on the agent link write link+{to}; a carrier's bot is called by its webhook, as twilio+http://…",
    "tel": "a number is called through a SIP trunk: sip:+15550199@trunk.example.com",
}


def way_of(to: str) -> Way:
    """By which way a target is called.

    Raises:
        Unable: it is not one that is known; the text says how targets are written.
    """
    scheme, colon, rest = to.partition(":")
    scheme = scheme.strip().lower()
    if not to.strip():
        raise Unable(f"no target: give one by --target or `target.to`, such as {_FORMS}")
    if not colon or scheme not in WAYS:
        hint = _HINTS.get(scheme, "targets are " + _FORMS)
        raise Unable(f"target {to[:200]!r} names no way of calling; {hint.format(to=to[:200])}")
    if WAYS[scheme] != "sip":
        try:
            parts = urlsplit(rest)
            known = bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            known = False
        if not known:
            raise Unable(f"target {to[:200]!r} has no host; write {scheme}://host:port/path")
    elif not rest.strip("/"):
        raise Unable(f"target {to[:200]!r} has no host; write {scheme}:user@host:port")
    return WAYS[scheme]


def unmet(scenario: Scenario) -> str:
    """What a scenario needs that its target is not; empty: nothing. Raises Unable, as `way_of`."""
    way = way_of(scenario.target.to)
    ways = {need for need in scenario.requires if need != "stt"}
    have = {way} | ({"carrier"} if way in ("twilio", "plivo") else set())
    if ways and not ways & have:
        return f"needs a target of {' or '.join(sorted(ways))}; this is {way}"
    return ""


def open_phone(
    target: Target,
    *,
    auth_token: str = "",
    username: str = "",
    password: str = "",
    api_listen: str = "",
    host: str = "",
    ca_file: str = "",
    insecure: bool = False,
) -> Phone:
    """The phone for a target; open it with `async with`.

    Args:
        target: whom to call.
        auth_token: of a carrier's account: signs webhooks and upgrades and is asked for by the carrier's API; empty:
            OFFHOOK_QA_AUTH_TOKEN, and if that is empty, too, nothing is signed.
        username: of SIP's digest authentication, or the carrier's account id; empty: OFFHOOK_QA_USERNAME.
        password: of SIP's digest authentication; empty: OFFHOOK_QA_PASSWORD.
        api_listen: `host:port` at which the carrier's API is served, for bots that hang up or transfer by it; empty: a
            free port of 127.0.0.1.
        host: own address, for SIP; empty: found by routing.
        ca_file: whose certificates SIP over TLS trusts; empty: the system's.
        insecure: take any certificate of SIP over TLS.

    Raises:
        Unable: no such way of calling.
    """
    way = way_of(target.to)
    auth_token, username, password = (
        given or os.environ.get(ENVIRONMENT[name], "")
        for name, given in (("auth_token", auth_token), ("username", username), ("password", password))
    )
    # Each way brings libraries of its own; a call needs one of them.
    if way == "sip":
        from offhook.qa.phones.sip import SipPhone

        trusted = Path(ca_file) if ca_file else None
        return SipPhone(target, username=username, password=password, host=host, ca_file=trusted, verify=not insecure)
    if way == "link":
        from offhook.qa.phones.link import LinkPhone

        return LinkPhone(target)
    from offhook.qa.phones.carriers import CarrierPhone

    return CarrierPhone(target, auth_token=auth_token, account=username, api_listen=api_listen)
