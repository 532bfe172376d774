"""SIP as a carrier, in the eyes of a Call: its name, and the orders a call may be given."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel

from offhook.providers import SIP
from offhook.providers.base import CarrierControl, CarrierRefused, DialAnswer, Provider
from offhook.providers.sip.settings import SipSettings

if TYPE_CHECKING:
    from offhook.gateway.sip.leg import SipLeg
    from offhook.gateway.sip.service import SipService


class SipControl(CarrierControl):
    """Orders to a call's own SIP session; there is no API to ask."""

    def __init__(self, service: SipService) -> None:
        self._service = service

    def _leg(self, carrier_call_id: str) -> SipLeg:
        leg = self._service.leg(carrier_call_id)
        if leg is None:
            raise CarrierRefused("the call is over", status=481)
        return leg

    async def hang_up(self, carrier_call_id: str) -> None:
        leg = self._service.leg(carrier_call_id)
        if leg is not None:
            leg.hang_up()

    async def transfer(self, carrier_call_id: str, answer: DialAnswer, *, fetch_url: str) -> None:
        await self._leg(carrier_call_id).transfer(answer.to)

    async def dial(self, to: str, from_number: str, *, answer_url: str, status_url: str, ring_timeout: int = 60) -> str:
        return (await self._service.dial(to, from_number, ring_timeout=ring_timeout))["carrier_call_id"]

    async def send_dtmf(self, carrier_call_id: str, digits: str) -> bool:
        return self._leg(carrier_call_id).send_info(digits)

    async def check(self) -> str:
        return ", ".join(self._service.summary())


class SipProvider(Provider):
    """All trunks together."""

    name: ClassVar[str] = SIP
    Settings: ClassVar[type[BaseModel]] = SipSettings
    control: SipControl

    def __init__(self, settings: BaseModel) -> None:
        if not isinstance(settings, SipSettings):
            raise TypeError(f"settings is a {type(settings).__name__}, not SipSettings")
