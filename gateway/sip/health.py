"""Which addresses of our trunks answer."""

from __future__ import annotations

from offhook.providers.sip.events import RequestDone
from offhook.providers.sip.hop import Hop


class Health:
    """Addresses that failed lately."""

    def up(self, hop: Hop) -> bool:
        return True

    def failed(self, hop: Hop, status: int, now: float) -> None:
        pass

    def done(self, event: RequestDone) -> None:
        pass
