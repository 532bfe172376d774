"""`offhook qa …`: test calls from the command line.

Exit codes:

* 0: everything passed;
* 1: something failed;
* 2: a scenario, an option or a target that cannot be used;
* 3: nobody answers at the target;
* 4: the run says nothing about the target: the caller itself misbehaved, or a recogniser or voice was not there.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from offhook.qa.scenario.load import Loaded

OK, FAILED, USAGE, UNREACHABLE, INVALID = 0, 1, 2, 3, 4

CODES: Final = "Exit codes: 0 passed; 1 failed; 2 bad scenario or usage; 3 target unreachable; 4 invalid run."

RUNS: Final = Path("qa-runs")

TARGET_HELP: Final = (
    "sip:user@host, sips:…, twilio+http://host/webhook, plivo+http://…, link+ws://host:port. "
    "Secrets: OFFHOOK_QA_AUTH_TOKEN, OFFHOOK_QA_USERNAME, OFFHOOK_QA_PASSWORD."
)

app = typer.Typer(
    name="qa",
    help="Dial test calls at a voice bot and measure them on the wire.",
    epilog=CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

T = TypeVar("T")

Scenarios = Annotated[
    list[str], typer.Argument(help="Files, directories, suite:NAME for a built-in one, suite:all for all of them.")
]
TargetOption = Annotated[str, typer.Option("--target", "-t", help=TARGET_HELP)]
Sets = Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE for ${NAME} in scenarios; repeatable.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
TokenOption = Annotated[str, typer.Option(envvar="OFFHOOK_QA_AUTH_TOKEN", help="Carrier's auth token of the bot.")]
UsernameOption = Annotated[str, typer.Option(envvar="OFFHOOK_QA_USERNAME", help="For SIP digest.")]
PasswordOption = Annotated[str, typer.Option(envvar="OFFHOOK_QA_PASSWORD", help="For SIP digest.")]
CaFileOption = Annotated[str, typer.Option(help="Certificates that SIP over TLS trusts; by default the system's.")]
InsecureOption = Annotated[bool, typer.Option("--insecure", help="Take any certificate of SIP over TLS.")]
ApiListenOption = Annotated[str, typer.Option(help="host:port at which a carrier's API is served to the bot.")]
PublicUrlOption = Annotated[str, typer.Option(help="Origin that the bot believes to be reached at (public_url).")]


@app.command(epilog=CODES)
def run(
    scenarios: Scenarios,
    target: TargetOption = "",
    sets: Sets = None,
    tag: Annotated[list[str] | None, typer.Option(help="Only scenarios with one of these tags.")] = None,
    repeat: Annotated[int | None, typer.Option(min=1, max=1000, help="Calls a scenario, instead of its own.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, max=200, help="Calls at once.")] = 10,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where runs are kept.")] = RUNS,
    audio: Annotated[Literal["all", "failed", "none"], typer.Option(help="Whose WAV and pcap are kept.")] = "all",
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 1,
    baseline: Annotated[Path | None, typer.Option(help="A run to compare with; worse beyond noise fails.")] = None,
    from_number: Annotated[str, typer.Option("--from", help="Number the calls come from.")] = "",
    number: Annotated[str, typer.Option(help="Number that was dialled, for carriers' webhooks.")] = "",
    public_url: PublicUrlOption = "",
    auth_token: TokenOption = "",
    username: UsernameOption = "",
    password: PasswordOption = "",
    api_listen: ApiListenOption = "",
    ca_file: CaFileOption = "",
    insecure: InsecureOption = False,
    github: Annotated[bool, typer.Option("--github", help="Print annotations for GitHub Actions.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run scenarios against a bot; leaves a report with recordings, captures and measurements."""
    from offhook.qa.running.folder import new_folder
    from offhook.qa.running.run import Run, RunOptions
    from offhook.qa.terminal.run_screen import RunScreen

    loaded = [one for one in _load(scenarios, sets) if not tag or set(tag) & set(one.scenario.tags)]
    if not loaded:
        _fail(f"no scenario is tagged {' or '.join(tag or ())}", USAGE)
    for one in loaded:
        if not (target or one.scenario.target.to):
            _fail(f"{one.path}: there is no target; give --target or `target: {{to: …}}`", USAGE)
    folder = new_folder(out)
    options = RunOptions(
        target=target,
        from_number=from_number,
        number=number,
        public_url=public_url,
        credentials=_given(auth_token, username, password, api_listen, ca_file, insecure),
        repeat=repeat,
        jobs=jobs,
        seed=seed,
        audio=audio,
        folder=folder,
    )
    with RunScreen(_console(sys.stderr), quiet=as_json) as screen:
        job = Run(loaded, options, screen.progress, run_id=folder.name)
        report = _asyncio(job.run())
    from offhook.qa.report.write import write_report
    from offhook.qa.running.compare import compare_files
    from offhook.qa.running.result import EXIT_CODE

    write_report(report, folder)
    code = EXIT_CODE[report.verdict]
    comparison = compare_files(baseline, folder) if baseline is not None else None
    if as_json:
        from dataclasses import asdict

        _print_json(asdict(report))
    else:
        screen.conclude(report, folder)
        if comparison is not None:
            comparison.show(_console())
    if github:
        from offhook.qa.report.github import annotations

        sys.stdout.write("".join(f"{line}\n" for line in annotations(report)))
    if comparison is not None and comparison.worse and code == OK:
        code = FAILED
    raise typer.Exit(code)


@app.command(epilog=CODES)
def init(
    file: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("scenario.yaml"),
    target: TargetOption = "",
) -> None:
    """Write a first scenario, explained line by line."""
    from offhook.qa.scenario.template import first_scenario

    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(first_scenario(target=target, file=str(file)))
    except FileExistsError:
        _fail(f"{file} is there already; name another file", USAGE)
    except OSError as error:
        _fail(f"{file}: {error.strerror}", USAGE)
    _console().print(
        f"[green]{file}[/green] is written. Run it: offhook qa run {file}{'' if target else ' --target sip:…'}",
        markup=True,
        soft_wrap=True,
    )


@app.command(epilog=CODES)
def validate(scenarios: Scenarios, sets: Sets = None, as_json: AsJson = False) -> None:
    """Check scenarios without calling anybody; every fault is reported with its line and column."""
    loaded = _load(scenarios, sets, as_json=as_json)
    if as_json:
        _print_json({"ok": True, "scenarios": [one.scenario.name for one in loaded], "problems": []})
    else:
        steps = sum(len(one.scenario.steps) for one in loaded)
        one_or_more = f"{len(loaded)} scenario{'s' if len(loaded) != 1 else ''}"
        _console().print(f"[green]{one_or_more} valid[/green], {steps} steps")


@app.command(epilog=CODES)
def schema() -> None:
    """Print the JSON Schema of a scenario, for completion and checks in editors."""
    from offhook.qa.scenario.schema import json_schema

    _print_json(json_schema())


@app.command(epilog=CODES)
def compare(
    before: Annotated[Path, typer.Argument(help="A run's folder or its run.json.")],
    after: Annotated[Path, typer.Argument(help="A later run.")],
    as_json: AsJson = False,
) -> None:
    """Compare two runs; 1 when the later one is worse beyond noise."""
    from offhook.qa.running.compare import compare_files
    from offhook.qa.running.folder import NoRun

    try:
        found = compare_files(before, after)
    except NoRun as error:
        _fail(str(error), USAGE)
    if as_json:
        _print_json(found.as_dict())
    else:
        found.show(_console())
    raise typer.Exit(FAILED if found.worse else OK)


@app.command(epilog=CODES)
def report(
    run: Annotated[Path, typer.Argument(help="A run's folder, its run.json, or `last`.")] = Path("last"),
    out: Annotated[Path, typer.Option("--out", "-o", help="Where runs are kept.")] = RUNS,
    as_json: AsJson = False,
) -> None:
    """Show a run again, and write its report anew."""
    from offhook.qa.report.write import write_report
    from offhook.qa.running.folder import NoRun, find_run, read_run
    from offhook.qa.running.result import EXIT_CODE
    from offhook.qa.terminal.run_screen import RunScreen

    try:
        folder = find_run(run, out)
        found = read_run(folder)
    except NoRun as error:
        _fail(str(error), USAGE)
    write_report(found, folder)
    if as_json:
        from dataclasses import asdict

        _print_json(asdict(found))
    else:
        RunScreen(_console(sys.stderr)).conclude(found, folder)
    raise typer.Exit(EXIT_CODE[found.verdict])


@app.command(epilog=CODES)
def load(
    plan: Annotated[Path, typer.Argument(help="The plan: which scenarios, how many calls a second, when to stop.")],
    target: TargetOption = "",
    sets: Sets = None,
    processes: Annotated[
        int | None, typer.Option(min=0, help="That make calls; by default what the plan needs.")
    ] = None,
    target_pid: Annotated[int | None, typer.Option(help="Process of the bot here; its CPU is looked at.")] = None,
    target_cores: Annotated[float | None, typer.Option(min=0.1, help="Cores the bot has, elsewhere.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where runs are kept.")] = RUNS,
    auth_token: TokenOption = "",
    username: UsernameOption = "",
    password: PasswordOption = "",
    api_listen: ApiListenOption = "",
    ca_file: CaFileOption = "",
    insecure: InsecureOption = False,
    as_json: AsJson = False,
) -> None:
    """Call a bot at a rate of calls a second, and find how many it answers well."""
    from offhook.qa.phones.base import Unable
    from offhook.qa.running.folder import new_folder
    from offhook.qa.running.load import LoadFailed, run_load
    from offhook.qa.running.load_model import load_plan
    from offhook.qa.running.result import EXIT_CODE
    from offhook.qa.scenario.load import ScenarioError
    from offhook.qa.terminal.load_screen import LoadScreen
    from offhook.qa.voice import VoiceUnavailable

    try:
        loaded = load_plan(plan, sets=_values(sets))
    except ScenarioError as error:
        _problems(error.problems)
    with LoadScreen(_console(sys.stderr), quiet=as_json) as screen:
        work = run_load(
            loaded,
            target,
            on_progress=screen.progress,
            processes=processes,
            credentials=_given(auth_token, username, password, api_listen, ca_file, insecure),
            target_pid=target_pid,
            target_cores=target_cores,
        )
        try:
            found = _asyncio(work)
        except (Unable, ProcessLookupError) as error:
            _fail(str(error), USAGE)
        except (LoadFailed, VoiceUnavailable) as error:
            _fail(str(error), INVALID)
    from offhook.qa.report.write import write_load

    folder = new_folder(out)
    write_load(found, folder)
    if as_json:
        _print_json(found.as_dict())
    else:
        screen.conclude(found, folder)
    raise typer.Exit(EXIT_CODE[found.verdict])


@app.command(epilog=CODES)
def calibrate(
    way: Annotated[Literal["all", "sip", "twilio"], typer.Option(help="Only this way of calling.")] = "all",
    as_json: AsJson = False,
) -> None:
    """Call a bot whose delays and levels are known, and show this dialer's own error on this machine."""
    from offhook.qa.running.calibrate import WAYS
    from offhook.qa.running.calibrate import calibrate as measured

    console = _console(sys.stderr)

    def tell(what: str) -> None:
        if console.is_terminal and not as_json:
            console.print(f"[dim]{what}[/dim]")

    try:
        found = _asyncio(measured(WAYS if way == "all" else (way,), on_call=tell))
    except RuntimeError as error:
        _fail(str(error), INVALID)
    if as_json:
        _print_json(found.as_dict())
    else:
        sys.stdout.write(found.as_text() + "\n")
        verdict = "[green]calibrated[/green]" if found.passed else "[red]not calibrated[/red]"
        _console().print(f"{verdict}; the caller's own frames were late by {found.own_late_p99_ms:.1f} ms (p99)")
    raise typer.Exit(OK if found.passed else INVALID)


@app.command(epilog=CODES)
def impair(
    kind: Annotated[Literal["udp", "tcp"], typer.Argument(help="What is relayed.")],
    listen: Annotated[str, typer.Option(help="host:port to take it at.")],
    to: Annotated[str, typer.Option(help="host:port to pass it on to.")],
    delay: Annotated[str, typer.Option(help="Added to every packet, such as 40ms.")] = "0ms",
    jitter: Annotated[str, typer.Option(help="Standard deviation of the delay.")] = "0ms",
    loss: Annotated[str, typer.Option(help="Share that is lost, such as 1%.")] = "0%",
    burst: Annotated[float, typer.Option(min=1, max=100, help="Mean length of a run of losses.")] = 1.0,
    reorder: Annotated[str, typer.Option(help="Share that is overtaken.")] = "0%",
    duplicate: Annotated[str, typer.Option(help="Share that arrives twice.")] = "0%",
    rate: Annotated[int, typer.Option(min=0, help="Bits a second that get through; 0: no limit.")] = 0,
    freeze: Annotated[list[str] | None, typer.Option(help="WHEN,HOW-LONG such as 10s,500ms; repeatable.")] = None,
    reset: Annotated[str, typer.Option(help="When TCP connections are reset, such as 30s.")] = "",
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 1,
) -> None:
    """Stand between two programs as a bad network, until Ctrl-C."""
    from pydantic import ValidationError

    from offhook.qa.network.relay import RelayError, parse_address
    from offhook.qa.network.tcp_relay import TcpRelay
    from offhook.qa.network.udp_relay import UdpRelay
    from offhook.qa.scenario.model import Network

    given = {
        "delay": delay,
        "jitter": jitter,
        "loss": loss,
        "burst": burst,
        "reorder": reorder,
        "duplicate": duplicate,
        "rate": rate,
        "reset": reset or None,
        "seed": seed,
        "freeze": [tuple(one.split(",")) for one in freeze or ()],
    }
    console = _console(sys.stderr)

    async def relay() -> None:
        way = UdpRelay if kind == "udp" else TcpRelay
        async with way(parse_address(listen), parse_address(to), network) as open_relay:
            host, port = open_relay.address
            console.print(f"{kind} {host}:{port} → {to}; Ctrl-C ends it")
            try:
                await asyncio.Event().wait()
            finally:
                console.print(str(open_relay.totals))

    try:
        network = Network.model_validate(given)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(relay())
    except ValidationError as error:
        first = error.errors()[0]
        _fail(f"--{first['loc'][0]}: {first['msg']}", USAGE)
    except RelayError as error:
        _fail(str(error), USAGE)
    except KeyboardInterrupt:
        raise typer.Exit(OK) from None


@app.command(
    epilog=CODES, context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def callee(context: typer.Context) -> None:
    """Run the reference: a bot of known delays and faults, to try scenarios and this dialer on."""
    from offhook.qa.reference.server import main

    raise typer.Exit(main(context.args))


def dial(
    target: Annotated[str, typer.Argument(help=TARGET_HELP)],
    from_number: Annotated[str, typer.Option("--from", help="Number the call comes from.")] = "+15550100",
    number: Annotated[str, typer.Option(help="Number that was dialled, for carriers' webhooks.")] = "+15550199",
    listen: Annotated[bool, typer.Option(help="Write down what the agent says, by the offline recogniser.")] = True,
    dtmf: Annotated[Literal["rfc4733", "inband", "info"], typer.Option(help="How keys are pressed.")] = "rfc4733",
    codec: Annotated[list[str] | None, typer.Option(help="PCMU, PCMA, G722 or opus; repeatable. SIP only.")] = None,
    srtp: Annotated[bool, typer.Option("--srtp", help="Encrypted audio only. SIP only.")] = False,
    wav: Annotated[Path | None, typer.Option(help="Record the call: left you, right the agent.")] = None,
    public_url: PublicUrlOption = "",
    auth_token: TokenOption = "",
    username: UsernameOption = "",
    password: PasswordOption = "",
    api_listen: ApiListenOption = "",
    ca_file: CaFileOption = "",
    insecure: InsecureOption = False,
) -> None:
    """Call a bot from the terminal: type to speak, keys on an empty line are DTMF, transcript and latency come live."""
    from pydantic import ValidationError

    from offhook.qa.scenario.model import Scenario
    from offhook.qa.terminal.dial import HELP, place

    settings = {
        "name": "dial",
        "target": {"to": target, "from": from_number, "number": number, "public_url": public_url},
        "media": {"dtmf": dtmf, "srtp": srtp} | ({"codecs": codec} if codec else {}),
        "steps": [{"wait": "answer"}],
        "timeout": "1h",
    }
    try:
        scenario = Scenario.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        _fail(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", USAGE)
    if wav is not None and wav.exists():
        _fail(f"{wav} is there already; name another file", USAGE)
    credentials = _given(auth_token, username, password, api_listen, ca_file, insecure)
    console = _console()
    if sys.stdin.isatty():
        console.print(f"[dim]{HELP}[/dim]")
    from offhook.qa.phones.base import Unable, Unreachable
    from offhook.qa.voice import VoiceUnavailable

    try:
        answered = _asyncio(place(scenario, credentials, console, listen=listen, wav=wav))
    except Unable as error:
        _fail(str(error), USAGE)
    except Unreachable as error:
        _fail(str(error), UNREACHABLE)
    except VoiceUnavailable as error:
        _fail(str(error), INVALID)
    raise typer.Exit(OK if answered else FAILED)


# --- what the commands share --------------------------------------------------------


def _values(sets: list[str] | None) -> dict[str, str]:
    """What `--set` gives."""
    values = dict(pair.split("=", 1) for pair in sets or () if "=" in pair)
    if len(values) != len(sets or ()):
        _fail("--set: write NAME=VALUE, each name once", USAGE)
    return values


def _given(
    auth_token: str, username: str, password: str, api_listen: str, ca_file: str, insecure: bool
) -> dict[str, str | bool]:
    """Keyword arguments of `open_phone`: what is not empty; for the rest a phone looks into the environment itself."""
    given: dict[str, str | bool] = {"auth_token": auth_token, "username": username, "password": password}
    given |= {"api_listen": api_listen, "ca_file": ca_file, "insecure": insecure}
    return {name: value for name, value in given.items() if value}


def _problems(problems: Sequence[Any], *, as_json: bool = False) -> NoReturn:
    """Say all that is wrong with scenarios, and exit with 2."""
    if as_json:
        _print_json({"ok": False, "problems": [str(problem) for problem in problems]})
    else:
        for problem in problems:
            sys.stderr.write(f"{problem}\n")
        sys.stderr.write(f"{len(problems)} problem{'s' if len(problems) != 1 else ''} in scenarios\n")
    raise typer.Exit(USAGE)


def _load(paths: list[str], sets: list[str] | None, *, as_json: bool = False) -> list[Loaded]:
    """Load scenarios, or say all that is wrong with them and exit with 2."""
    from offhook.qa.scenario.load import ScenarioError, expand, load

    values = _values(sets)
    loaded: list[Loaded] = []
    problems: list[Any] = []
    try:
        files = expand(paths)
    except ScenarioError as error:
        files, problems = [], list(error.problems)
    for file in files:
        try:
            loaded.append(load(file, sets=values))
        except ScenarioError as error:
            problems += error.problems
    if problems:
        _problems(problems, as_json=as_json)
    unknown = sorted(set(values) - {name for one in loaded for name in one.variables})
    if unknown:
        _fail(f"--set {unknown[0]}: no scenario has a variable of that name", USAGE)
    return loaded


def _asyncio(work: Coroutine[Any, Any, T]) -> T:
    """Run it on uvloop where there is one; Ctrl-C ends the calls and exits with 130."""
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(work)
    except KeyboardInterrupt:
        sys.stderr.write("offhook: interrupted; the calls were ended\n")
        raise typer.Exit(130) from None


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _console(file: Any = None) -> Console:
    from rich.console import Console

    file = file or sys.stdout
    return Console(file=file, highlight=False, width=None if file.isatty() or "COLUMNS" in os.environ else 240)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"offhook: {message}\n")
    raise typer.Exit(code)
