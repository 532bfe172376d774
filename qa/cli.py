"""`offhook qa …`: test calls from the command line.

Exit codes:

* 0: everything passed;
* 1: something failed;
* 2: a scenario, an option or a target that cannot be used;
* 3: nobody answers at the target;
* 4: the run says nothing about the target: the caller itself misbehaved, or a recogniser or voice was not there;
* 130: interrupted by Ctrl-C; the calls were hung up.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from offhook.qa.command_line import (
    CODES,
    FAILED,
    INTERRUPTED,
    INVALID,
    OK,
    UNREACHABLE,
    USAGE,
    careful,
    check_names,
    check_set,
    console_on,
    credentials_of,
    earlier_run,
    fail,
    folder_for,
    keep,
    load_scenarios,
    loop_factory,
    print_json,
    run_async,
    say_problems,
    until_interrupted,
    values_of,
)

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
@careful
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
    from offhook.qa.report.write import write_report
    from offhook.qa.running.compare import compare as compared
    from offhook.qa.running.folder import plain
    from offhook.qa.running.result import EXIT_CODE
    from offhook.qa.running.run import Run, RunOptions
    from offhook.qa.terminal.run_screen import RunScreen

    before = None if baseline is None else earlier_run(baseline, out)[1]
    loaded = [one for one in load_scenarios(scenarios, sets) if not tag or set(tag) & set(one.scenario.tags)]
    if not loaded:
        fail(f"no scenario is tagged {' or '.join(tag or ())}", USAGE)
    for one in loaded:
        if not (target or one.scenario.target.to):
            fail(f"{one.path}: there is no target; give --target or `target: {{to: …}}`", USAGE)
    check_names(loaded)
    folder = folder_for(out)
    options = RunOptions(
        target=target,
        from_number=from_number,
        number=number,
        public_url=public_url,
        credentials=credentials_of(auth_token, username, password, api_listen, ca_file, insecure),
        repeat=repeat,
        jobs=jobs,
        seed=seed,
        audio=audio,
        folder=folder,
    )
    with RunScreen(console_on(sys.stderr), quiet=as_json) as screen:
        job = Run(loaded, options, screen.progress, run_id=folder.name)
        report = run_async(job.run())
    keep(lambda: write_report(report, folder), folder)
    code = EXIT_CODE[report.verdict]
    comparison = compared(before, report) if before is not None else None
    if as_json:
        from dataclasses import asdict

        more = {} if comparison is None else {"comparison": comparison.as_dict()}
        print_json(plain(asdict(report) | more))
    else:
        RunScreen(console_on()).conclude(report, folder)
        if comparison is not None:
            comparison.show(console_on())
    if github:
        from offhook.qa.report.github import annotations

        # GitHub reads both; what prints JSON prints nothing else.
        (sys.stderr if as_json else sys.stdout).write("".join(f"{line}\n" for line in annotations(report)))
    if comparison is not None and comparison.worse and code in (OK, INVALID):
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
        fail(f"{file} is there already; name another file", USAGE)
    except OSError as error:
        fail(f"{file}: {error.strerror}", USAGE)
    aim = "" if target else " --target sip:…"
    console_on().print(f"{file} is written. Run it: offhook qa run {file}{aim}", markup=False, soft_wrap=True)


@app.command(epilog=CODES)
def validate(scenarios: Scenarios, sets: Sets = None, as_json: AsJson = False) -> None:
    """Check scenarios without calling anybody; every fault is reported with its line and column."""
    loaded = load_scenarios(scenarios, sets, as_json=as_json)
    if as_json:
        print_json({"ok": True, "scenarios": [one.scenario.name for one in loaded], "problems": []})
    else:
        steps = sum(len(one.scenario.steps) for one in loaded)
        one_or_more = f"{len(loaded)} scenario{'s' if len(loaded) != 1 else ''}"
        console_on().print(f"[green]{one_or_more} valid[/green], {steps} steps")


@app.command(epilog=CODES)
def schema() -> None:
    """Print the JSON Schema of a scenario, for completion and checks in editors."""
    from offhook.qa.scenario.schema import json_schema

    print_json(json_schema())


@app.command(epilog=CODES)
@careful
def compare(
    before: Annotated[Path, typer.Argument(help="A run's folder, its name there, or its run.json.")],
    after: Annotated[Path, typer.Argument(help="A later run.")] = Path("last"),
    out: Annotated[Path, typer.Option("--out", "-o", help="Where runs are kept.")] = RUNS,
    as_json: AsJson = False,
) -> None:
    """Compare two runs; 1 when the later one is worse beyond noise."""
    from offhook.qa.running.compare import compare as compared

    found = compared(earlier_run(before, out)[1], earlier_run(after, out)[1])
    if as_json:
        print_json(found.as_dict())
    else:
        found.show(console_on())
    raise typer.Exit(FAILED if found.worse else OK)


@app.command(epilog=CODES)
@careful
def report(
    run: Annotated[Path, typer.Argument(help="A run's folder, its run.json, or `last`.")] = Path("last"),
    out: Annotated[Path, typer.Option("--out", "-o", help="Where runs are kept.")] = RUNS,
    as_json: AsJson = False,
) -> None:
    """Show a run again, and write its report anew."""
    from offhook.qa.report.write import write_report
    from offhook.qa.running.folder import plain
    from offhook.qa.running.result import EXIT_CODE
    from offhook.qa.terminal.run_screen import RunScreen

    folder, found = earlier_run(run, out)
    keep(lambda: write_report(found, folder), folder)
    if as_json:
        from dataclasses import asdict

        print_json(plain(asdict(found)))
    else:
        RunScreen(console_on()).conclude(found, folder)
    raise typer.Exit(EXIT_CODE[found.verdict])


@app.command(epilog=CODES)
@careful
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
    """Call a bot at a rate of calls a second, and find how many it answers well.

    The first Ctrl-C hangs up and reports what was measured until then; the second leaves at once.
    """
    from offhook.qa.caller.script import ScriptError
    from offhook.qa.phones.base import Unable
    from offhook.qa.report.write import write_load
    from offhook.qa.running.folder import plain
    from offhook.qa.running.load import LoadFailed, LoadReport, run_load
    from offhook.qa.running.load_model import load_plan
    from offhook.qa.running.result import EXIT_CODE
    from offhook.qa.scenario.load import ScenarioError
    from offhook.qa.terminal.load_screen import LoadScreen
    from offhook.qa.voice import VoiceUnavailable

    values = values_of(sets)
    try:
        loaded = load_plan(plan, sets=values)
    except ScenarioError as error:
        say_problems(error.problems)
    check_set(values, loaded.variables)
    folder = folder_for(out)
    with LoadScreen(console_on(sys.stderr), quiet=as_json) as screen:

        def work(stop: asyncio.Event) -> Coroutine[Any, Any, LoadReport]:
            return run_load(
                loaded,
                target,
                on_progress=screen.progress,
                processes=processes,
                credentials=credentials_of(auth_token, username, password, api_listen, ca_file, insecure),
                target_pid=target_pid,
                target_cores=target_cores,
                stop=stop,
                run_id=folder.name,
            )

        try:
            found, interrupted = run_async(until_interrupted(work))
        except (Unable, ProcessLookupError, ScriptError) as error:
            fail(str(error), USAGE)
        except (LoadFailed, VoiceUnavailable) as error:
            fail(str(error), INVALID)
    keep(lambda: write_load(found, folder), folder)
    if as_json:
        print_json(plain(found.as_dict()))
    else:
        LoadScreen(console_on()).conclude(found, folder)
    raise typer.Exit(INTERRUPTED if interrupted else EXIT_CODE[found.verdict])


@app.command(epilog=CODES)
@careful
def calibrate(
    way: Annotated[Literal["all", "sip", "twilio"], typer.Option(help="Only this way of calling.")] = "all",
    as_json: AsJson = False,
) -> None:
    """Call a bot whose delays and levels are known, and show this dialer's own error on this machine."""
    from offhook.qa.running.calibrate import WAYS
    from offhook.qa.running.calibrate import calibrate as measured

    console = console_on(sys.stderr)

    def tell(what: str) -> None:
        if console.is_terminal and not as_json:
            console.print(f"[dim]{what}[/dim]")

    try:
        found = run_async(measured(WAYS if way == "all" else (way,), on_call=tell))
    except RuntimeError as error:
        fail(str(error), INVALID)
    if as_json:
        print_json(found.as_dict())
    else:
        sys.stdout.write(found.as_text() + "\n")
        verdict = "[green]calibrated[/green]" if found.passed else "[red]not calibrated[/red]"
        console_on().print(f"{verdict}; the caller's own frames were late by {found.own_late_p99_ms:.1f} ms (p99)")
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
    console = console_on(sys.stderr)

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
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(relay())
    except ValidationError as error:
        first = error.errors()[0]
        fail(f"--{first['loc'][0]}: {first['msg']}", USAGE)
    except RelayError as error:
        fail(str(error), USAGE)
    except KeyboardInterrupt:
        raise typer.Exit(OK) from None


@app.command(
    epilog=CODES, context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def callee(context: typer.Context) -> None:
    """Run the reference: a bot of known delays and faults, to try scenarios and this dialer on."""
    from offhook.qa.reference.server import main

    raise typer.Exit(main(context.args))


@careful
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
        fail(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", USAGE)
    if wav is not None and wav.exists():
        fail(f"{wav} is there already; name another file", USAGE)
    credentials = credentials_of(auth_token, username, password, api_listen, ca_file, insecure)
    console = console_on()
    if sys.stdin is None:  # it was closed, and its number would be given to a socket
        sys.stdin = open(os.devnull)  # noqa: SIM115  # for as long as we live
    if sys.stdin.isatty():
        console.print(f"[dim]{HELP}[/dim]")
    from offhook.qa.phones.base import Unable, Unreachable
    from offhook.qa.voice import VoiceUnavailable

    try:
        answered = run_async(place(scenario, credentials, console, listen=listen, wav=wav))
    except Unable as error:
        fail(str(error), USAGE)
    except Unreachable as error:
        fail(str(error), UNREACHABLE)
    except VoiceUnavailable as error:
        fail(str(error), INVALID)
    raise typer.Exit(OK if answered else FAILED)
