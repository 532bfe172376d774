"""How each carrier speaks, one package a carrier. The table below is where a new one is registered."""

from __future__ import annotations

from importlib import import_module

from offhook.providers.base import Provider

SIP = "sip"
"""Name of the provider of SIP calls, which has a section of its own in the configuration."""

PROVIDERS = {
    "asterisk": "offhook.providers.asterisk.adapter:AsteriskProvider",
    "freeswitch": "offhook.providers.freeswitch.adapter:FreeswitchProvider",
    "jambonz": "offhook.providers.freeswitch.jambonz:JambonzProvider",
    "plivo": "offhook.providers.plivo.adapter:PlivoProvider",
    "twilio": "offhook.providers.twilio.adapter:TwilioProvider",
}
"""Name under `carriers:` in the configuration → where its Provider class is; imported only when configured."""


def provider_class(name: str) -> type[Provider]:
    """The Provider class of a carrier. Raises KeyError for an unknown one."""
    module, _, attribute = PROVIDERS[name].partition(":")
    found: type[Provider] = getattr(import_module(module), attribute)
    return found
