"""One-time tokens for media sockets: what binds a WebSocket upgrade to the call it belongs to."""

from __future__ import annotations

import secrets
from typing import Final, Generic, TypeVar

T = TypeVar("T")

TOKEN_BYTES: Final = 24
"""Random bytes of a token; 192 bits cannot be guessed, and 32 characters fit every carrier's URL limits."""

TOKEN_LIFE: Final = 60.0
"""Seconds from the answer to the upgrade. Carriers connect within one; a minute allows for their retries."""


class Tokens(Generic[T]):
    """Tokens not yet redeemed. `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._issued: dict[str, tuple[T, float]] = {}

    def issue(self, owner: T, now: float) -> str:
        """A fresh token for `owner`."""
        token = secrets.token_urlsafe(TOKEN_BYTES)
        self._issued[token] = (owner, now + TOKEN_LIFE)
        return token

    def owner(self, token: str, now: float) -> T | None:
        """Whose the token is, without using it up; None when it was never issued, was used, or is too old."""
        found = self._issued.get(token)
        if found is None:
            return None
        owner, expires = found
        return owner if now < expires else None

    def redeem(self, token: str, now: float) -> T | None:
        """As `owner`, and the token is used up."""
        owner = self.owner(token, now)
        self._issued.pop(token, None)
        return owner

    def expire(self, now: float) -> list[T]:
        """Forget the tokens that nobody redeemed in time; gives their owners."""
        old = [token for token, (_, expires) in self._issued.items() if now >= expires]
        return [self._issued.pop(token)[0] for token in old]

    def revoke(self, owner: T) -> None:
        """Forget the tokens of one owner."""
        for token in [token for token, (whose, _) in self._issued.items() if whose is owner]:
            del self._issued[token]
