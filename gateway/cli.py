"""The command line.

Exit codes, the same for every command:

* 0: done, and all is well;
* 1: done, and there is a problem: a check failed, the demo's caller did not hear, there is no such call;
* 2: bad usage or a bad configuration;
* 3: it could not be done now: the port is taken, the database is away, another offhook has the data.

Everything but the parser is imported by the command that needs it, so that `--help` is quick.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from offhook.gateway.reasons import CallStatus
from offhook.qa.cli import app as qa_app
from offhook.qa.cli import dial
from offhook.qa.command_line import CODES as QA_CODES
from offhook.qa.command_line import console_on, print_json

if TYPE_CHECKING:
    from offhook.gateway.config import Config
    from offhook.gateway.journal import Entry
    from offhook.gateway.records import CallRecord
    from offhook.gateway.store import Store

OK, PROBLEM, USAGE, UNABLE = 0, 1, 2, 3

CODES: Final = "Exit codes: 0 all is well; 1 there is a problem; 2 bad usage or configuration; 3 could not be done now."

MAX_LISTED: Final = 10_000
"""Calls that one list shows at most."""

app = typer.Typer(
    name="offhook",
    help="Answer the phone for voice agents.",
    epilog=CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they would print local variables, and those hold secrets
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Check a configuration, or print its JSON Schema.", no_args_is_help=True)
calls_app = typer.Typer(help="Look at calls that were, or are.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(calls_app, name="calls")
app.add_typer(qa_app, name="qa")
app.command(epilog=QA_CODES)(dial)

ConfigPath = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def main() -> None:
    """The `offhook` command."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"offhook {version('offhook')}\n")
        raise typer.Exit(OK)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Answer the phone for voice agents."""


@app.command(epilog=CODES)
def serve(
    config: ConfigPath = Path("config.yaml"),
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Listen here instead of listen.port.")] = None,
    host: Annotated[str, typer.Option(help="Listen here instead of listen.host.")] = "",
) -> None:
    """Run the gateway until SIGTERM (live calls run to their end) or SIGINT (they end with an apology)."""
    loaded = _load(config)
    listen = {name: value for name, value in (("port", port), ("host", host or None)) if value is not None}
    if listen:
        loaded = loaded.model_copy(update={"listen": loaded.listen.model_copy(update=listen)})
    from offhook.gateway.journal import JournalBusy
    from offhook.gateway.server import run
    from offhook.gateway.tables import StoreTooNew

    _print_webhooks(loaded)
    try:
        code = run(loaded)
    except (OSError, JournalBusy, StoreTooNew) as error:
        _fail(str(error), UNABLE)
    raise typer.Exit(code)


@app.command(epilog=CODES)
def demo(
    directory: Annotated[
        Path | None, typer.Option(help="Where recording, record and logs go; by default a fresh one in var/demo.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Place a call to the offline agent and show it; needs no configuration, no key and no network."""
    from offhook.gateway.demo import run_demo

    raise typer.Exit(run_demo(json_output=as_json, directory=directory))


@app.command(epilog=CODES)
def check(
    config: ConfigPath = Path("config.yaml"),
    online: Annotated[bool, typer.Option("--online", help="Also ask the carriers and public_url.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find everything that would make the first call fail, and say what to do about it."""
    from offhook.gateway.check import run_check

    raise typer.Exit(run_check(config, json_output=as_json, online=online))


@config_app.command("validate", epilog=CODES)
def config_validate(config: ConfigPath = Path("config.yaml"), as_json: AsJson = False) -> None:
    """Check a configuration file without starting anything; every fault is reported."""
    from offhook.gateway.config import ConfigError, environment, load

    try:
        loaded = load(config, environment(config, os.environ))
    except ConfigError as error:
        if as_json:
            problems = [
                {
                    "file": problem.origin.name,
                    "line": problem.origin.line or None,
                    "column": problem.origin.column or None,
                    "path": problem.path,
                    "message": problem.message,
                }
                for problem in error.problems
            ]
            print_json({"ok": False, "problems": problems})
        else:
            _print_problems(error)
        raise typer.Exit(USAGE) from error
    counts = {"carriers": len(loaded.carriers), "agents": len(loaded.agents), "routes": len(loaded.routes)}
    if as_json:
        print_json({"ok": True, "problems": [], **counts})
    else:
        said = ", ".join(f"{count} {word[:-1] if count == 1 else word}" for word, count in counts.items())
        console_on().print(f"[green]{config} is valid[/green]: {said}", highlight=False)


@config_app.command("schema", epilog=CODES)
def config_schema() -> None:
    """Print the JSON Schema of a configuration file, for completion and checks in editors."""
    from offhook.gateway.config import schema

    print_json(schema())


@calls_app.command("list", epilog=CODES)
def calls_list(
    config: ConfigPath = Path("config.yaml"),
    since: Annotated[str, typer.Option(help="90s, 30m, 2h, 7d, today, yesterday, or 2026-01-31T09:00.")] = "",
    number: Annotated[str, typer.Option(help="Part of the caller's or the called number.")] = "",
    status: Annotated[CallStatus | None, typer.Option(help="How the call ended.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LISTED, help="Most calls to show.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List calls, newest first."""
    moment = _since(since)
    from offhook.gateway.call_view import print_calls, record_json

    async def read(store: Store) -> Any:
        return await store.calls(since=moment, number=number, status=status.value if status else "", limit=limit)

    records = _from_store(config, read) or []
    if as_json:
        print_json([record_json(record) for record in records])
    elif records:
        print_calls(console_on(), records)
    else:
        console_on(sys.stderr).print("No such calls." if since or number or status else "No calls yet.")


@calls_app.command("show", epilog=CODES)
def calls_show(
    id: Annotated[
        str, typer.Argument(help="Id of the call, its beginning, or the carrier's id; `last` is the latest.")
    ],
    config: ConfigPath = Path("config.yaml"),
    as_json: AsJson = False,
) -> None:
    """Show one call: its record, what was said, where the time of each turn went, every event."""
    from offhook.gateway.call_view import call_json, print_call

    record, events = _one_call(config, id)
    if as_json:
        print_json(call_json(record, events))
    else:
        print_call(console_on(), record, events)


@calls_app.command("place", epilog=CODES)
def calls_place(
    to: Annotated[str, typer.Argument(help="Number to call, or an extension of the PBX.")],
    config: ConfigPath = Path("config.yaml"),
    from_number: Annotated[str, typer.Option("--from", help="Our number; by default the trunk's first.")] = "",
    agent: Annotated[str, typer.Option(help="Who talks; by default the agent of our number's route.")] = "",
    carrier: Annotated[str, typer.Option(help="sip or a name under `carriers:`, where there are several.")] = "",
    trunk: Annotated[str, typer.Option(help="Trunk of SIP, where there are several.")] = "",
    attribute: Annotated[list[str] | None, typer.Option(help="NAME=VALUE to tell the other side; repeatable.")] = None,
    ring_timeout: Annotated[int, typer.Option(min=1, max=300, help="Seconds to let the phone ring.")] = 60,
    as_json: AsJson = False,
) -> None:
    """Have the running gateway place a call; needs `api.token`."""
    from offhook.gateway.place import Unplaced, place

    attributes = dict(pair.split("=", 1) for pair in attribute or () if "=" in pair)
    if len(attributes) != len(attribute or ()):
        raise typer.BadParameter("write NAME=VALUE, each name once", param_hint="--attribute")
    order = {"to": to, "from": from_number, "agent": agent, "carrier": carrier, "trunk": trunk}
    try:
        placed = place(_load(config), {**order, "attributes": attributes, "ring_timeout": ring_timeout})
    except Unplaced as error:
        _fail(str(error), UNABLE if error.unreachable else PROBLEM)
    if as_json:
        print_json(placed)
    else:
        console_on().print(f"[green]placed[/green] {placed.get('id') or placed['carrier_call_id']}", highlight=False)


@qa_app.command("from-call", epilog=CODES)
def qa_from_call(
    id: Annotated[str, typer.Argument(help="Id of a recorded call, its beginning, or `last`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the scenario and its WAV files.")] = Path(),
    name: Annotated[str, typer.Option(help="Of the scenario; by default the call's id.")] = "",
    target: Annotated[str, typer.Option("--target", "-t", help="Whom the scenario calls.")] = "",
    config: ConfigPath = Path("config.yaml"),
) -> None:
    """Make a recorded call a scenario that does what its caller did, at the same moments of the conversation."""
    from offhook.gateway.from_call import scenario_from
    from offhook.qa.scenario.from_recording import RecordingError

    record, events = _one_call(config, id)
    try:
        path = scenario_from(record, events, out, name or f"call-{record.id[:8].lower()}", to=target)
    except RecordingError as error:
        _fail(str(error), PROBLEM)
    except OSError as error:
        _fail(f"{out}: {error.strerror}", USAGE)
    aim = "" if target else " --target sip:…"
    console_on().print(f"{path} is written. Run it: offhook qa run {path}{aim}", markup=False, soft_wrap=True)


# --- what the commands share --------------------------------------------------------


def _fail(message: str, code: int) -> Any:
    from offhook.gateway.logs import printable

    sys.stderr.write(f"offhook: {printable(message)}\n")
    raise typer.Exit(code)


def _print_problems(error: Any) -> None:
    from offhook.gateway.logs import printable

    for problem in error.problems:
        sys.stderr.write(printable(str(problem)) + "\n")
    count = len(error.problems)
    sys.stderr.write(f"{count} {'problem' if count == 1 else 'problems'} in the configuration\n")


@contextmanager
def _configuration() -> Iterator[None]:
    from offhook.gateway.config import ConfigError

    try:
        yield
    except ConfigError as error:
        _print_problems(error)
        raise typer.Exit(USAGE) from error


def _load(path: Path) -> Config:
    from offhook.gateway.config import environment, load

    with _configuration():
        return load(path, environment(path, os.environ))


def _print_webhooks(config: Config) -> None:
    """Say, on standard error, what to paste at the carriers."""
    from rich.table import Table
    from rich.text import Text

    from offhook.providers import provider_class
    from offhook.providers.base import SocketProvider, WebhookProvider

    table = Table.grid(padding=(0, 2))
    for name in config.carriers:
        carrier = provider_class(name)
        if issubclass(carrier, SocketProvider):
            url = "ws" + config.public_url.removeprefix("http") + carrier.socket_path
            table.add_row(name, Text(url, "bold"), Text("media sockets of calls", "dim"))
        if not issubclass(carrier, WebhookProvider):
            continue
        for webhook in carrier.webhooks:
            if webhook.kind == "after":
                continue  # our own answers name it
            table.add_row(name, Text(config.public_url + webhook.path, "bold"), Text(webhook.purpose, "dim"))
    for listen in config.sip.listen if config.sip is not None else ():
        host = config.sip.public_address if config.sip is not None and config.sip.public_address else listen.host
        table.add_row("sip", Text(f"{listen.transport} {host}:{listen.port}", "bold"), Text("trunks and PBXs", "dim"))
    console = console_on(sys.stderr)
    console.print("What to give the carriers:", style="bold")
    console.print(table)


def _one_call(config: Path, id: str) -> tuple[CallRecord, list[Entry]]:
    """The call that an id, its beginning or `last` means, and its events."""

    async def read(store: Store) -> Any:
        found = await store.calls(limit=1) if id == "last" else await store.find(id)
        return found, await store.events(found[0].id) if len(found) == 1 else []

    records, events = _from_store(config, read) or ([], [])
    if not records:
        _fail(f"no call {id!r}; `offhook calls list` shows those there are", PROBLEM)
    if len(records) > 1:
        _fail(f"{id!r} begins several ids: {', '.join(record.id for record in records)}", PROBLEM)
    return records[0], events


def _from_store(config: Path, read: Any) -> Any:
    """What `read(store)` gives; None when there is no store yet."""
    import asyncio

    from offhook.gateway.config import environment, locate_store
    from offhook.gateway.logs import configure_logs
    from offhook.gateway.store import Store, StoreUnavailable

    configure_logs(level="error", format="console", stream=sys.stderr)
    with _configuration():
        url = locate_store(config, environment(config, os.environ))

    async def ask() -> Any:
        store = Store(url)
        try:
            return await read(store) if await store.open_existing() else None
        finally:
            await store.close()

    try:
        return asyncio.run(ask())
    except StoreUnavailable as error:
        return _fail(f"the record store cannot be read: {error}", UNABLE)


_SPAN = re.compile(r"([0-9]{1,6})\s*([smhdw])")
_UNITS: Mapping[str, str] = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _since(text: str) -> datetime | None:
    """The moment that --since names; times without a zone are local."""
    now = datetime.now().astimezone()
    plain = text.strip().lower()
    if not plain:
        return None
    if plain in ("today", "yesterday"):
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight - timedelta(days=1) if plain == "yesterday" else midnight
    if match := _SPAN.fullmatch(plain):
        return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError) as error:
        message = f"{text!r} is no moment; write 2h, 7d, today, 2026-01-31 or 2026-01-31T09:00"
        raise typer.BadParameter(message, param_hint="--since") from error
