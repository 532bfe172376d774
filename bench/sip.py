"""SIP calls of a running gateway, measured from the far end: what a packet costs, how evenly packets leave, how long
signalling takes, what a bad line does to what is heard.

    python bench/sip.py [steady|rate|delay|noise …] [--calls 300] [--seconds 20]

* steady: `--calls` echo calls at once in one gateway process, beside bare UDP echoes with as many sockets in the same
  run, interleaved. Packets lost, gaps between packets, CPU for a packet in and one out.
* rate: `--pace` calls a second of 0.2 s each, set up and torn down for `--long` seconds; signalling times; what memory,
  files and ports are held afterwards.
* delay: 100 calls: from a packet sent to the packet that brings its audio back, and the gaps.
* noise: 5 % random loss and 40 ms of jitter towards the gateway: the longest gap heard, 500 keys.

The gateway runs on core 0, the generator (`sip_load.py`, `sip_noise.py`) on core 1. The agent is `echo` in the media
process. Compare only what was measured in one run; other programs on the machine spoil the tails, not the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

BENCH: Final = Path(__file__).resolve().parent
HOST: Final = "127.0.7.1"
OWN: Final = "127.0.7.2"
SIP_PORT: Final = 5060
HTTP_PORT: Final = 18081
FLOORS: Final = ("uvloop", "asyncio", "max_size")
"""Bare echoes: on the gateway's event loop, on Python's, and on Python's with small reads."""

STOCK: Final = (
    "import asyncio, sys, uvloop; uvloop.new_event_loop = asyncio.new_event_loop;"
    "from offhook.gateway.cli import main; sys.exit(main())"
)
"""The gateway on Python's own event loop."""


def pinned(args: argparse.Namespace, which: int) -> list[str]:
    """Put before a command, binds it to its core."""
    first = ["chrt", "-r", "1"] if args.first else []
    return [*first, "taskset", "-c", args.cores[which]]


class Gateway:
    """A gateway process on core 0, for as long as the `with` block lasts."""

    def __init__(self, folder: Path, args: argparse.Namespace, *, level: str = "error") -> None:
        self.folder = folder
        config = {
            "public_url": "https://voice.example.com",
            "listen": {"host": "127.0.0.1", "port": HTTP_PORT},
            "data_dir": str(folder / "var"),
            "sip": {
                "listen": [{"transport": "udp", "host": HOST, "port": SIP_PORT}],
                "trunks": {"bench": {"sources": [f"{OWN}/32"], "codecs": ["pcmu"]}},
                "limits": {"calls_per_second": 1000, "source_calls_per_second": 1000},
                "max_calls": 5000,
            },
            "agents": {"echo": {"kind": "echo", "isolation": args.isolation}},
            "routes": [{"number": "*", "agent": "echo"}],
            "limits": {"max_calls": 5000},
            "log": {"level": level},
        }
        (folder / "config.json").write_text(json.dumps(config))
        start = ["-c", STOCK] if args.loop == "asyncio" else ["-m", "offhook.gateway"]
        self._command = [*pinned(args, 0), sys.executable, *start, "serve", "--config"]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [*self._command, str(self.folder / "config.json")], stdout=subprocess.DEVNULL, cwd=self.folder
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self._process.poll() is None, "the gateway has ended"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{HTTP_PORT}/readyz", timeout=1):
                    return self
            except OSError:
                time.sleep(0.1)
        raise TimeoutError("the gateway did not come up")

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)

    @property
    def pid(self) -> int:
        return self._process.pid

    def holds(self) -> dict[str, int]:
        """What the media process has in hand."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return {
            "kB": int(fields["VmRSS"].split()[0]),
            "files": len(os.listdir(f"/proc/{self.pid}/fd")),
            "threads": int(fields["Threads"]),
        }

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask its records."""
        with sqlite3.connect(self.folder / "var" / "calls.db") as database:
            return database.execute(query).fetchall()


@contextmanager
def floor(kind: str, args: argparse.Namespace) -> Iterator[tuple[int, list[int]]]:
    """A bare echo on core 0: its process and ports."""
    command = [*pinned(args, 0), sys.executable, str(BENCH / "sip_floor.py"), str(args.calls), kind]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.pid, json.loads(process.stdout.readline())
    finally:
        process.communicate()


def load(args: argparse.Namespace, mode: str, pid: int, *, script: str = "sip_load.py", **job: Any) -> dict[str, Any]:
    """Run the generator on core 1; gives its report."""
    job = {"mode": mode, "host": HOST, "port": SIP_PORT, "own": OWN, "pids": [pid], **job}
    command = [*pinned(args, 1), sys.executable, str(BENCH / script), json.dumps(job)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    report: dict[str, Any] = json.loads(done.stdout)
    if args.verbose:
        print(json.dumps(report, indent=1), file=sys.stderr)
    return report


@contextmanager
def gateway(args: argparse.Namespace) -> Iterator[Gateway]:
    """A gateway with an empty folder."""
    with tempfile.TemporaryDirectory(prefix="offhook-bench-") as folder, Gateway(Path(folder), args) as found:
        yield found


def held(value: float, limit: float) -> str:
    """The value beside what it may be."""
    return f"{value:g} (limit {limit:g}{'' if value <= limit else ', EXCEEDED'})"


def tails(found: dict[str, float]) -> str:
    """p50 / p99 / max."""
    return " / ".join(f"{found.get(name, float('nan')):.2f}" for name in ("p50", "p99", "max"))


def media_table(reports: dict[str, dict[str, Any]]) -> None:
    """What was measured of streams of packets."""
    print("| | calls | CPU µs a pair | core | packets | lost | not back | gap p50 / p99 / max ms | > 40 ms |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, found in reports.items():
        print(
            f"| {name} | {found['calls']} | {found['us_a_pair'][0]:.1f} | {100 * found['core']:.0f} % "
            f"| {found['sent']} | {found['lost']} | {found['not_back']} | {tails(found['gap_ms'])} "
            f"| {found['gaps_over_40']} |"
        )
    print("\n| | there and back p50 / p99 / max ms | generator's core | its lateness p50 / p99 / max ms |")
    print("|---|---:|---:|---:|")
    for name, found in reports.items():
        own = found["generator"]
        print(f"| {name} | {tails(found['delay_ms'])} | {100 * own['core']:.0f} % | {tails(own['late_ms'])} |")
    print()


def steady(args: argparse.Namespace) -> None:
    """Many calls at once beside bare echoes."""
    reports: dict[str, dict[str, Any]] = {}
    for turn in range(args.rounds):
        suffix = f" ({turn + 1})" if args.rounds > 1 else ""
        for kind in args.floors.split(","):
            with floor(kind, args) as (pid, ports):
                found = load(args, "steady", pid, host="127.0.0.1", ports=ports, seconds=args.seconds)
            reports[f"bare echo, {kind}{suffix}"] = found
        with gateway(args) as ours:
            before = ours.holds()["kB"]
            found = load(args, "steady", ours.pid, calls=args.calls, seconds=args.seconds)
            found["kB"] = ours.holds()["kB"] - before
        reports[f"offhook{suffix}"] = found
    media_table(reports)
    for name, found in reports.items():
        if not name.startswith("offhook"):
            continue
        signalled = found["signalling"]
        beside = {kind: reports[name.replace("offhook", f"bare echo, {kind}")] for kind in args.floors.split(",")}
        print(f"{name}:")
        print(f"  calls that stayed up: {signalled['ends'].get('over', 0)} of {args.calls}")
        print(f"  CPU µs a packet pair: {held(found['us_a_pair'][0], 35)}")
        for kind, bare in beside.items():
            ratio = round(found["us_a_pair"][0] / bare["us_a_pair"][0], 2)
            print(f"  times the bare echo on {kind}: {held(ratio, 1.6) if kind == args.loop else f'{ratio:g}'}")
        print(f"  packet gap p99 ms: {held(found['gap_ms']['p99'], 40)}; packets skipped: {found['skipped']}")
        print(f"  memory a call: {found['kB'] / args.calls:.0f} kB")
        print(f"  INVITE to 100, p50 / p99 / max ms: {tails(signalled['invite_100_ms'])}")


def delay(args: argparse.Namespace) -> None:
    """What the gateway adds on a clean line."""
    with gateway(args) as ours:
        found = load(args, "steady", ours.pid, calls=100, seconds=args.seconds)
    media_table({"offhook": found})
    print(f"added delay, p99 ms: {held(found['delay_ms']['p99'], 40)}")
    print(f"  of it the wait for our clock's next tick, p50 / p99 / max of the calls: {tails(found['best_ms'])}")
    print(f"  and what varies from packet to packet, p50 / p99 / max: {tails(found['delay_beyond_best_ms'])}")
    print(f"playout gap, p99 ms: {held(found['gap_ms']['p99'], 25)}")


def rate(args: argparse.Namespace) -> None:
    """Calls that come and go."""
    with gateway(args) as ours:
        load(args, "rate", ours.pid, pace=args.pace, seconds=3, hold=0.2)
        time.sleep(1)
        before = ours.holds()
        found = load(args, "rate", ours.pid, pace=args.pace, seconds=args.long, hold=0.2)
        time.sleep(2)
        after = ours.holds()
        kept = ours.rows("select reason, count(*) from calls group by reason")
    signalled = found["signalling"]
    print(f"{found['placed']} calls, {args.pace:g} a second: complete {found['complete']}, with audio back ")
    print(
        f"  {found['with_audio']}; how they ended: {signalled['ends']}; requests repeated {signalled['retransmitted']}"
    )
    print(f"  the gateway's records, with those of the first 3 s: {dict(kept)}")
    print(f"  INVITE to 100, p99 ms: {held(signalled['invite_100_ms'].get('p99', float('inf')), 10)}")
    for name, title in (("100", "INVITE to 100"), ("180", "INVITE to 180"), ("200", "INVITE to 200")):
        print(f"  {title}, p50 / p99 / max ms: {tails(signalled[f'invite_{name}_ms'])}")
    print(f"  INVITE to 200, agent and all, p99 ms: {held(signalled['invite_200_ms'].get('p99', float('inf')), 50)}")
    print(f"  BYE to 200, p50 / p99 / max ms: {tails(signalled['bye_200_ms'])}")
    print(f"  core {100 * found['core']:.0f} %, CPU ms a call {found['ms_a_call']}")
    print(f"  generator's lateness p50 / p99 / max ms: {tails(found['generator']['late_ms'])}")
    print(f"  held before {before}, afterwards {after}")


def noise(args: argparse.Namespace) -> None:
    """A bad line towards the gateway."""
    with gateway(args) as ours:
        job = {"calls": 20, "keys": 25, "seconds": args.seconds, "loss": 0.05, "jitter": 0.04, "seed": 1}
        found = load(args, "noise", ours.pid, script="sip_noise.py", **job)
        time.sleep(2)
        query = (
            "select c.carrier_call_id, json_extract(e.data, '$.digit') from events e "
            "join calls c on c.id = e.call_id where e.event = 'dtmf' order by e.call_id, e.seq"
        )
        told: dict[str, str] = {}
        for id, digit in ours.rows(query):
            told[id] = told.get(id, "") + digit
    right = sum(told.get(id) == digits for id, digits in found["digits"].items())
    keys = sum(map(len, found["digits"].values()))
    heard = sum(map(len, told.values()))
    print(f"{found['sent']} packets in 20 calls, {found['lost']} lost on the way, the others 0 to 40 ms late")
    print(f"  longest hole heard, ms: {held(found['longest_hole_ms'], 60)}; of each call: {found['holes_ms']}")
    print(f"  keys pressed {keys}, told {heard}; calls with every key right, in order: {right} of 20")


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["steady", "delay", "rate", "noise"])
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--floors", default=",".join(FLOORS), help="bare echoes to measure")
    parser.add_argument("--pace", type=float, default=100.0, help="rate: calls a second")
    parser.add_argument("--long", type=float, default=60.0, help="rate: seconds")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop", help="event loop of the gateway")
    parser.add_argument("--isolation", choices=("inline", "host"), default="inline", help="where the agent runs")
    parser.add_argument("--cores", type=lambda text: text.split(","), default=["0", "1"], help="gateway,generator")
    parser.add_argument("--first", action="store_true", help="go before other programs of the machine (needs root)")
    parser.add_argument("--verbose", action="store_true", help="print the generator's reports as well")
    args = parser.parse_args()
    table = {"steady": steady, "delay": delay, "rate": rate, "noise": noise}
    for name in args.what:
        print(f"\n## {name}: python bench/sip.py {' '.join(sys.argv[1:])}\n", flush=True)
        table[name](args)


if __name__ == "__main__":
    main()
