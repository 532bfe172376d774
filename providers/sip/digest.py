"""Digest authentication, both sides (RFC 7616, RFC 8760, RFC 3261 section 22; RFC 2617 peers are understood).

The server keeps nothing for a challenge it sends: a nonce carries its own time and a seal (HMAC), so a flood of
unauthenticated requests costs no memory. Only nonces that were used with a right password are remembered, in a
bounded table, so that nobody uses the same count twice.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from offhook.providers.sip.headers import BadHeader, parse_auth, quote
from offhook.providers.sip.uri import BadUri, Uri

MAX_USED = 10_000  # nonces remembered as used: a registering phone needs one, about 200 bytes each
NONCE_LIFE = 300.0  # seconds: longer than any exchange takes, short enough for a nonce that leaks
_SEAL = 16  # bytes of the HMAC that are sent; nobody guesses 128 bits
_SALT = 6  # bytes that tell nonces of one millisecond apart
_NONCE_BYTES = 8 + _SALT + _SEAL

# In the order of our preference, not of the challenges (RFC 8760 section 2.4 lets us ignore those we do not like).
SUPPORTED: Final = ("SHA-256", "SHA-256-sess", "MD5", "MD5-sess")


class BadChallenge(ValueError):
    """None of the challenges can be answered; the message says why."""


class Nonces:
    """Makes nonces and recognises them again."""

    def __init__(
        self,
        secret: bytes,
        life: float = NONCE_LIFE,
        *,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        max_used: int = MAX_USED,
    ) -> None:
        """`secret`: 16 bytes or more, the same as long as `now` counts on; `life`: seconds that a nonce is good for."""
        if len(secret) < 16:
            raise ValueError("the secret of the nonces needs at least 16 bytes")
        self._secret, self._life, self._random_bytes, self._max_used = secret, life, random_bytes, max_used
        self._used: dict[bytes, int] = {}  # nonce → the highest count seen, the least recently added first
        self._forgotten = -1  # ms: nonces made until then that are not in the table may have been used

    def make(self, now: float) -> str:
        """A new nonce."""
        plain = max(0, int(now * 1000)).to_bytes(8) + self._random_bytes(_SALT)
        return urlsafe_b64encode(plain + self._seal(plain)).decode()

    def check(self, nonce: str, nc: int, now: float) -> Literal["ok", "stale", "bad"]:
        """Judge a nonce that came with a right password, and remember its count; 0 when the client does not count.

        `stale` asks for another try with a new nonce: it is too old, or the count was used before. `bad` is not ours.
        """
        try:
            raw = urlsafe_b64decode(nonce.encode("ascii")) if len(nonce) <= 2 * _NONCE_BYTES else b""
        except (Base64Error, ValueError):
            return "bad"
        plain = raw[:-_SEAL]
        if len(raw) != _NONCE_BYTES or not hmac.compare_digest(self._seal(plain), raw[-_SEAL:]):
            return "bad"
        made = int.from_bytes(plain[:8])
        last = self._used.get(plain)
        if not 0 <= int(now * 1000) - made <= self._life * 1000:
            return "stale"
        if last is None:
            if made <= self._forgotten:
                return "stale"
            if len(self._used) >= self._max_used:
                oldest = next(iter(self._used))
                del self._used[oldest]
                self._forgotten = max(self._forgotten, int.from_bytes(oldest[:8]))
        elif nc <= last:
            return "stale"
        self._used[plain] = nc
        return "ok"

    def _seal(self, plain: bytes) -> bytes:
        return hmac.digest(self._secret, plain, "sha256")[:_SEAL]


def challenge(
    realm: str, nonce: str, algorithms: Sequence[str] = ("SHA-256", "MD5"), *, stale: bool = False
) -> list[str]:
    """The values of WWW-Authenticate (or Proxy-Authenticate), one header for each algorithm, the best first."""
    tail = ', qop="auth"' + (", stale=true" if stale else "")
    return [f"Digest realm={quote(realm)}, nonce={quote(nonce)}, algorithm={name}{tail}" for name in algorithms]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client answered to a challenge."""

    user: str
    realm: str
    nonce: str
    uri: str
    response: str
    algorithm: str
    "One of SUPPORTED; MD5 when the client names none."
    qop: str
    "`auth`, `auth-int`, or empty for an RFC 2069 client."
    nc: str
    "The count as it was written, eight hexadecimal digits; empty without qop."
    cnonce: str

    @classmethod
    def parse(cls, text: str) -> Credentials:
        """Read an Authorization or Proxy-Authorization. Raises BadHeader when it is no digest that we understand."""
        scheme, params = parse_auth(text)
        if scheme != "digest":
            raise BadHeader("the authentication scheme is not Digest")
        try:
            user, realm, nonce, uri, response = (
                params[name] for name in ("username", "realm", "nonce", "uri", "response")
            )
        except KeyError as error:
            raise BadHeader(f"credentials without {error.args[0]}") from None
        algorithm = _algorithm(params.get("algorithm", ""))
        qop, nc, cnonce = params.get("qop", "").lower(), params.get("nc", ""), params.get("cnonce", "")
        if not algorithm or qop not in ("", "auth", "auth-int"):
            raise BadHeader("credentials of an unknown algorithm or qop")
        if qop and not (len(nc) == 8 and all(sign in "0123456789abcdefABCDEF" for sign in nc) and cnonce):
            raise BadHeader("credentials with a qop need nc (eight hexadecimal digits) and cnonce")
        return cls(user, realm, nonce, uri, response.lower(), algorithm, qop, nc if qop else "", cnonce)

    @property
    def count(self) -> int:
        """`nc` as a number; 0 without one."""
        return int(self.nc, 16) if self.nc else 0


def verify(
    credentials: str | Credentials,
    method: str,
    uri: str,
    password_of: Callable[[str, str], str | None],
    *,
    realm: str | None = None,
    algorithms: Sequence[str] = ("SHA-256", "MD5"),
    body: bytes = b"",
) -> str | None:
    """The user whose password made these credentials; None when it did not, for whatever reason.

    Afterwards the nonce must be judged: `nonces.check(credentials.nonce, credentials.count, now)`.

    Args:
        credentials: the value of Authorization, or what `Credentials.parse` made of it.
        method: of the request.
        uri: the Request-URI; the one in the credentials must lead to the same user at the same host, because a
            proxy on the way may have changed the port or the parameters.
        password_of: the password of (user, realm); None for a user nobody knows, which takes as long to find out as
            a wrong password does.
        realm: the one that was challenged; None accepts any.
        algorithms: those that were offered.
        body: the body, for clients that protect it (auth-int).
    """
    if isinstance(credentials, str):
        try:
            credentials = Credentials.parse(credentials)
        except BadHeader:
            return None
    if realm is not None and credentials.realm != realm:
        return None
    if credentials.algorithm not in algorithms or not _same_target(credentials.uri, uri):
        return None
    password = password_of(credentials.user, credentials.realm)
    wanted = response_of(credentials, method, password if password is not None else "", body)
    right = hmac.compare_digest(wanted.encode(), _octets(credentials.response))
    return credentials.user if right and password is not None else None


def answer(
    challenges: Sequence[str],
    method: str,
    uri: str,
    user: str,
    password: str,
    *,
    body: bytes = b"",
    cnonce: str = "",
    count: int = 1,
) -> str:
    """The value of Authorization (or Proxy-Authorization) that answers a 401 (or 407).

    Args:
        challenges: the values of WWW-Authenticate (or Proxy-Authenticate), one for each header; the strongest
            algorithm that is supported is taken.
        uri: the Request-URI of the request that will carry the answer.
        body: its body, used when the server asks for auth-int and nothing less.
        cnonce: our own nonce; empty: a random one.
        count: how often this nonce of the server has been used, this time included.

    Raises:
        BadChallenge: there is nothing that could be answered.
    """
    options: list[tuple[int, str, dict[str, str]]] = []
    for text in challenges:
        try:
            scheme, params = parse_auth(text)
        except BadHeader:
            continue  # another challenge may be readable
        algorithm = _algorithm(params.get("algorithm", ""))
        if scheme == "digest" and algorithm and "nonce" in params and _qop(params) is not None:
            options.append((SUPPORTED.index(algorithm), algorithm, params))
    if not options:
        raise BadChallenge(f"no challenge that can be answered: Digest with one of {', '.join(SUPPORTED)} is needed")
    _, algorithm, params = min(options, key=lambda option: option[0])
    qop = _qop(params) or ""
    cnonce = cnonce or secrets.token_hex(8)
    mine = Credentials(
        user,
        params.get("realm", ""),
        params["nonce"],
        uri,
        "",
        algorithm,
        qop,
        f"{count:08x}" if qop else "",
        cnonce,
    )
    parts = [
        f"Digest username={quote(user)}, realm={quote(mine.realm)}, nonce={quote(mine.nonce)}, uri={quote(uri)}",
        f'response="{response_of(mine, method, password, body)}"',
    ]
    if "algorithm" in params:
        parts.append(f"algorithm={algorithm}")
    if qop:
        parts.append(f"qop={qop}, nc={mine.nc}")
    if qop or algorithm.endswith("-sess"):
        parts.append(f"cnonce={quote(cnonce)}")
    if "opaque" in params:
        parts.append(f"opaque={quote(params['opaque'])}")
    return ", ".join(parts)


def is_stale(challenges: Sequence[str]) -> bool:
    """Whether the server only wants a new nonce: the password was right."""
    for text in challenges:
        try:
            if parse_auth(text)[1].get("stale", "").lower() == "true":
                return True
        except BadHeader:
            continue
    return False


def response_of(credentials: Credentials, method: str, password: str, body: bytes = b"") -> str:
    """The digest that proves the password, in hexadecimal (RFC 7616 section 3.4.1)."""
    made = credentials
    digest = _sha256 if made.algorithm.startswith("SHA-256") else _md5
    secret = digest(_octets(f"{made.user}:{made.realm}:{password}"))
    if made.algorithm.endswith("-sess"):
        secret = digest(_octets(f"{secret}:{made.nonce}:{made.cnonce}"))
    request = f"{method}:{made.uri}"
    if made.qop == "auth-int":
        request += f":{digest(body)}"
    between = f"{made.nonce}:{made.nc}:{made.cnonce}:{made.qop}" if made.qop else made.nonce
    return digest(_octets(f"{secret}:{between}:{digest(_octets(request))}"))


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _algorithm(name: str) -> str:
    """The supported algorithm of that name in any case; empty for one we do not know."""
    return next((known for known in SUPPORTED if known.lower() == (name or "MD5").lower()), "")


def _qop(params: dict[str, str]) -> Literal["", "auth", "auth-int"] | None:
    """What to use of the qop list of a challenge; None when it has only what we do not know."""
    if "qop" not in params:
        return ""
    offered = {name.strip().lower() for name in params["qop"].split(",")}
    if "auth" in offered:
        return "auth"
    return "auth-int" if "auth-int" in offered else None


def _same_target(claimed: str, actual: str) -> bool:
    if claimed == actual:
        return True
    try:
        one, two = Uri.parse(claimed), Uri.parse(actual)
    except BadUri:
        return False
    return one.user == two.user and one.host.lower() == two.host.lower()
