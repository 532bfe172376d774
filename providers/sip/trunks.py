"""Who may call: the doorman, before whom every request outside a dialog comes.

    match doorman.admit(request, hop, now):
        case Admitted(trunk, slot): ...      # go on; release the slot when the call is over
        case Challenge(headers): ...         # answer 401 with these headers
        case Refused(status, reason): ...    # answer that
        case Dropped(why): ...               # answer nothing

A request is a trunk's when it comes from an address in its `sources`, when it proves the trunk's password, or by both,
as the trunk's `auth` says. Of several networks that an address is in the smallest counts. Nothing that costs us
anything is done before that: no socket, no provisional answer, no entry in a table that could grow.

* Whoever is not known is answered a few times a second and no more, with a 401 or a 403 that is about as long as the
  request: there is nothing to be amplified. All strangers share a budget, from which those who have proven a password
  lately, or answer a challenge that was sent to their very address, take nothing: a flood does not shut them out.
* A nonce is good only at the address it was sent to. So a forged source address can neither use a nonce, nor get
  another's address blocked by wrong passwords.
* Wrong password and unknown user get the same answer, after the same work. Too many of either from one address, and
  it is not answered at all for a while. Addresses on a trunk's list with `auth: ip` are never blocked.
* Full or draining: 503 with Retry-After, and only to those who were let in.

Every table here is bounded; what is used least goes first. IPv6 counts by /64, for that is what one customer gets.
"""

from __future__ import annotations

import hmac
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Generic, TypeVar

from offhook.providers.sip.digest import Credentials, Nonces, challenge, verify
from offhook.providers.sip.headers import BadHeader
from offhook.providers.sip.hop import Hop
from offhook.providers.sip.message import Request
from offhook.providers.sip.settings import DIGESTS, DigestAlgorithm, SipSettings, TrunkSettings
from offhook.providers.sip.uri import BadUri, Uri

MAX_SOURCES: Final = 10_000
"""Addresses that each table remembers: about 2 MB each."""

MAX_CREDENTIALS: Final = 4
"""Authorization headers of one request that are looked at; a client answers one realm, rarely two."""

MAX_REALMS: Final = 4
"""Realms challenged at once: 401s stay short."""

PROVEN: Final = 3600.0
"""Seconds that an address which proved a password is no stranger."""

_SEAL: Final = 12
"""Bytes that bind a nonce to an address."""

Ip = IPv4Address | IPv6Address
_V = TypeVar("_V")


class Slot:
    """One call's place under the limits. Release it once the call is over; again does no harm."""

    __slots__ = ("_release", "trunk")

    def __init__(self, trunk: str, release: Callable[[str], None]) -> None:
        self.trunk = trunk
        self._release: Callable[[str], None] | None = release

    def release(self) -> None:
        """Give the place back."""
        if self._release is not None:
            self._release(self.trunk)
            self._release = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request is that of a trunk."""

    trunk: str
    "Its name."
    settings: TrunkSettings
    slot: Slot | None = None
    "The place of the call that an INVITE begins; None for other methods."


@dataclass(frozen=True, slots=True)
class Challenge:
    """Answer 401."""

    headers: tuple[tuple[str, str], ...]
    wrong: str | None = None
    "The user by whose name a wrong password was given just now."


@dataclass(frozen=True, slots=True)
class Refused:
    """Answer with a final status."""

    status: int
    reason: str
    retry_after: int = 0
    "Seconds, for a Retry-After header; 0: none."


@dataclass(frozen=True, slots=True)
class Dropped:
    """Answer nothing."""

    why: str
    "`blocked`, `scanner`, `flood` or `stranger`; metrics are labelled with it."
    wrong: str | None = None
    "The user by whose name the wrong password was given that was one too many."


Verdict = Admitted | Challenge | Refused | Dropped


class Doorman:
    """Admission to every trunk.

    Args:
        settings: the section `sip:`.
        nonces: of the challenges.
        secret: binds nonces to addresses; as long as the process lives.
        max_sources: how many addresses each table remembers.
    """

    def __init__(
        self,
        settings: SipSettings,
        nonces: Nonces,
        *,
        secret: bytes | None = None,
        max_sources: int = MAX_SOURCES,
    ) -> None:
        limits = settings.limits
        self._settings, self._limits, self._nonces = settings, limits, nonces
        self._secret = secrets.token_bytes(32) if secret is None else secret
        self._scanners = tuple(part.lower() for part in settings.scanners if part)
        self._networks = _Networks(settings.trunks)
        self._learned: dict[Ip, list[str]] = {}
        self._users = {
            (trunk.realm or settings.realm, trunk.username): name
            for name, trunk in settings.trunks.items()
            if trunk.auth != "ip"
        }
        self._digests: dict[str, Sequence[DigestAlgorithm]] = {}
        "Realm → what all its trunks take, the best first."
        for realm, name in ((realm, name) for (realm, _), name in self._users.items()):
            common = self._digests.get(realm, DIGESTS)
            self._digests[realm] = [one for one in common if one in settings.trunks[name].digest]
        self._everywhere = [name for name, trunk in settings.trunks.items() if trunk.auth == "digest"]
        self._calls: dict[str, int] = {}
        self._total = 0
        self._rate = _Bucket(limits.calls_per_second)
        self._trunk_rates = {name: _Bucket(trunk.max_cps) for name, trunk in settings.trunks.items() if trunk.max_cps}
        self._source_calls = _Buckets(limits.source_calls_per_second, max_sources)
        self._source_requests = _Buckets(limits.source_requests_per_second, max_sources)
        self._strangers = _Bucket(limits.strangers_per_second)
        self._stranger = _Buckets(limits.stranger_requests_per_second, max_sources)
        self._failures: _Table[tuple[int, float]] = _Table(max_sources)
        self._blocked: _Table[float] = _Table(max_sources)
        self._proven: _Table[float] = _Table(max_sources)
        self.draining = False
        "While true every new call is refused; set it when the gateway is about to end."

    # --- requests ---------------------------------------------------------------------

    def admit(self, request: Request, hop: Hop, now: float) -> Verdict:
        """Judge a request outside a dialog. Costs one slot when it is an INVITE that is admitted."""
        ip = _ip(hop.host)
        if ip is None:
            return Dropped("stranger")
        source = _key(ip)
        trusted, partly = self._by_address(ip, request)
        if trusted:
            return self._let_in(trusted, request, source, now)
        if (until := self._blocked.get(source)) is not None:
            if now < until:
                return Dropped("blocked")
            self._blocked.drop(source)
        agent = (request.headers.get("User-Agent") or "")[:256].lower()
        if any(part in agent for part in self._scanners):
            return Dropped("scanner")
        if not partly and not self._everywhere:
            if self._settings.strangers == "drop":
                return Dropped("stranger")
            return Refused(403, "Forbidden") if self._heard(source, now) else Dropped("flood")
        return self._by_password(request, source, [*partly, *self._everywhere], now)

    def reserve(self, trunk: str, now: float) -> Slot | Refused:
        """Take a place for a call of ours. Raises KeyError for a trunk that there is not."""
        settings = self._settings.trunks[trunk]
        if refused := self.refusal(trunk):
            return refused
        rates = [self._rate]
        if settings.max_cps:
            rates.append(self._trunk_rates[trunk])
        return self._take(trunk, now) if _take_all(rates, now) else self._busy("Too Many Calls A Second")

    def refusal(self, trunk: str) -> Refused | None:
        """What a new call of this trunk would be told, rates aside; None: welcome. The truth for OPTIONS."""
        limit = self._settings.trunks[trunk].max_calls
        if self.draining:
            return self._busy("Draining")
        if self._total >= self._settings.max_calls or (limit is not None and self._calls.get(trunk, 0) >= limit):
            return self._busy("Too Many Calls")
        return None

    def calls(self, trunk: str = "") -> int:
        """Calls now, of one trunk or in all."""
        return self._calls.get(trunk, 0) if trunk else self._total

    def learn(self, trunk: str, hosts: Iterable[str]) -> None:
        """Take these addresses, and no others learned before, for the registrar of a trunk that registers.

        They are sources of the trunk then. What the configuration says of an address goes before.
        """
        for names in self._learned.values():
            if trunk in names:
                names.remove(trunk)
        for host in hosts:
            if (ip := _ip(host)) is not None:
                self._learned.setdefault(ip, []).append(trunk)
        self._learned = {ip: names for ip, names in self._learned.items() if names}

    def knows(self, host: str) -> bool:
        """Whether an address is on a trunk's list, and so worth an answer to a message that cannot be read."""
        ip = _ip(host)
        return ip is not None and (ip in self._learned or bool(self._networks.find(ip)))

    # --- by address -------------------------------------------------------------------

    def _by_address(self, ip: Ip, request: Request) -> tuple[str, list[str]]:
        """The trunk that the address alone proves, or those that need a password besides."""
        names = self._networks.find(ip)
        trunks = self._settings.trunks
        if not names:
            names = self._learned.get(ip, [])
        alone = [name for name in names if trunks[name].auth == "ip"]
        if len(alone) > 1:  # several extensions of one PBX: it calls the address that we registered
            user = _user(request.uri)
            alone = [name for name in alone if user in _names_of(trunks[name])] or alone
        return (alone[0], []) if alone else ("", [name for name in names if trunks[name].auth == "both"])

    def _let_in(self, name: str, request: Request, source: str, now: float) -> Verdict:
        trunk = self._settings.trunks[name]
        if request.method != "INVITE":
            if not self._source_requests.take(source, now):
                return self._busy("Too Many Requests")
            return Admitted(name, trunk)
        if refused := self.refusal(name):
            return refused
        rates = [self._rate, self._source_calls.bucket(source)]
        if trunk.max_cps:
            rates.append(self._trunk_rates[name])
        if not _take_all(rates, now):
            return self._busy("Too Many Calls A Second")
        return Admitted(name, trunk, self._take(name, now))

    def _take(self, name: str, now: float) -> Slot:
        self._calls[name] = self._calls.get(name, 0) + 1
        self._total += 1
        return Slot(name, self._give_back)

    def _give_back(self, name: str) -> None:
        self._calls[name] -= 1
        self._total -= 1

    def _busy(self, reason: str) -> Refused:
        return Refused(503, reason, self._limits.retry_after)

    # --- by password ------------------------------------------------------------------

    def _by_password(self, request: Request, source: str, candidates: Sequence[str], now: float) -> Verdict:
        trunks, realm = self._settings.trunks, self._settings.realm
        realms = list(dict.fromkeys(trunks[name].realm or realm for name in candidates))[:MAX_REALMS]
        credentials = self._credentials(request, source, realms)
        if credentials is None:
            return self._challenge(realms, source, now) if self._heard(source, now) else Dropped("flood")

        def password_of(user: str, realm: str) -> str | None:
            found = self._users.get((realm, user))
            password = trunks[found].password if found is not None and found in candidates else None
            return password.get_secret_value() if password else None

        algorithms = self._digests[credentials.realm]
        user = verify(credentials, request.method, request.uri, password_of, algorithms=algorithms, body=request.body)
        if user is None:
            if self._failed(source, now):
                return Dropped("blocked", credentials.user)
            return replace(self._challenge(realms, source, now), wrong=credentials.user)
        if self._nonces.check(_unbound(credentials.nonce), credentials.count, now) != "ok":
            return self._challenge(realms, source, now, stale=True)
        self._proven.put(source, now + PROVEN)
        return self._let_in(self._users[credentials.realm, user], request, source, now)

    def _credentials(self, request: Request, source: str, realms: Sequence[str]) -> Credentials | None:
        """Those that answer a challenge which we sent to this very address."""
        for line in request.headers.lines("Authorization")[:MAX_CREDENTIALS]:
            try:
                found = Credentials.parse(line)
            except BadHeader:
                continue
            inner, _, seal = found.nonce.rpartition(".")
            # compared as bytes: what came over the network need not be ASCII
            if found.realm in realms and hmac.compare_digest(seal.encode(), self._seal(inner, source).encode()):
                return found
        return None

    def _challenge(self, realms: Sequence[str], source: str, now: float, *, stale: bool = False) -> Challenge:
        inner = self._nonces.make(now)
        nonce = f"{inner}.{self._seal(inner, source)}"
        values = [value for realm in realms for value in challenge(realm, nonce, self._digests[realm], stale=stale)]
        return Challenge(tuple(("WWW-Authenticate", value) for value in values))

    def _seal(self, nonce: str, source: str) -> str:
        seal = hmac.digest(self._secret, f"{source} {nonce}".encode("utf-8", "replace"), "sha256")[:_SEAL]
        return urlsafe_b64encode(seal).decode()

    def _failed(self, source: str, now: float) -> bool:
        """Count a wrong password; whether it was the one too many."""
        count, since = self._failures.get(source) or (0, now)
        if now - since > self._limits.failure_window:
            count, since = 0, now
        if count + 1 >= self._limits.failures:
            self._failures.drop(source)
            self._blocked.put(source, now + self._limits.block)
            return True
        self._failures.put(source, (count + 1, since))
        return False

    def _heard(self, source: str, now: float) -> bool:
        """Whether an unproven address is answered once more."""
        if now < (self._proven.get(source) or 0.0):
            return self._source_requests.take(source, now)
        # its own rate first, so that one address alone cannot use up what is there for all
        return self._stranger.take(source, now) and self._strangers.take(now)


# --- tables ---------------------------------------------------------------------------


class _Table(Generic[_V]):
    """A mapping of bounded size; what was touched least recently goes first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: dict[str, _V] = {}

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: str) -> _V | None:
        value = self._items.pop(key, None)
        if value is not None:
            self._items[key] = value
        return value

    def put(self, key: str, value: _V) -> None:
        self._items.pop(key, None)
        if len(self._items) >= self._size:
            del self._items[next(iter(self._items))]
        self._items[key] = value

    def drop(self, key: str) -> None:
        self._items.pop(key, None)


class _Bucket:
    """So many a second, and as many at once after a pause."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._burst = self._tokens = max(1.0, rate)
        self._at: float | None = None

    def ready(self, now: float) -> bool:
        """Whether one may pass."""
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
        return self._tokens >= 1.0

    def take(self, now: float) -> bool:
        """Let one pass, if it may."""
        if not self.ready(now):
            return False
        self._tokens -= 1.0
        return True


class _Buckets:
    """A bucket for each address."""

    def __init__(self, rate: float, size: int) -> None:
        self._rate = rate
        self._table: _Table[_Bucket] = _Table(size)

    def __len__(self) -> int:
        return len(self._table)

    def bucket(self, source: str) -> _Bucket:
        found = self._table.get(source)
        if found is None:
            found = _Bucket(self._rate)
            self._table.put(source, found)
        return found

    def take(self, source: str, now: float) -> bool:
        return self.bucket(source).take(now)


def _take_all(buckets: Sequence[_Bucket], now: float) -> bool:
    """Take one of each, or none of any."""
    return all(bucket.ready(now) for bucket in buckets) and all(bucket.take(now) for bucket in buckets)


class _Networks:
    """The sources of all trunks, found by a lookup for each length of prefix that there is."""

    def __init__(self, trunks: Mapping[str, TrunkSettings]) -> None:
        self._by_length: dict[tuple[int, int], dict[int, list[str]]] = {}
        for name, trunk in trunks.items():
            for network in trunk.sources if trunk.auth != "digest" else ():
                group = self._by_length.setdefault((network.version, network.prefixlen), {})
                group.setdefault(
                    int(network.network_address) >> (network.max_prefixlen - network.prefixlen), []
                ).append(name)
        self._lengths = {
            version: sorted((length for at, length in self._by_length if at == version), reverse=True)
            for version in (4, 6)
        }

    def find(self, ip: Ip) -> list[str]:
        """Trunks of the smallest network that the address is in."""
        number = int(ip)
        for length in self._lengths[ip.version]:
            if found := self._by_length[ip.version, length].get(number >> (ip.max_prefixlen - length)):
                return found
        return []


def _ip(host: str) -> Ip | None:
    """An address without zone; one of IPv4 that came to an IPv6 socket as what it is. None for a name."""
    try:
        ip = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip


def _key(ip: Ip) -> str:
    """Who is counted as one."""
    return str(ip) if ip.version == 4 else f"{int(ip) >> 64:x}/64"


def _user(uri: str) -> str:
    try:
        return Uri.parse(uri).number
    except BadUri:
        return ""


def _names_of(trunk: TrunkSettings) -> set[str]:
    """What a trunk is called by: the extension it registered, its numbers."""
    registered = trunk.register_with.user if trunk.register_with else ""
    return {registered or trunk.username, *trunk.numbers} - {""}


def _unbound(nonce: str) -> str:
    return nonce.rpartition(".")[0]
