"""Calls a core, CPU a call-second and echo delay of a running gateway, beside yardsticks, in interleaved rounds.

    python bench/load.py --rig DIR [--rounds 3] [--calls 30] [--seconds 10] [--only echo,floor]
    python bench/load.py --rig DIR --ramp

DIR holds the load generator (`callload.py`, `audio.py`, `procstat.py`) and the yardstick servers
(`servers/floor_uvicorn.py`, `servers/pipecat_echo.py`): a carrier's side of N media-stream calls at real time that
rings through the signed webhook. Every server is pinned to core 0 with all its processes, the generator to core 1.
Machines drift, so only what ran in one round is compared: ratios are taken a round and their medians printed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

PORT = 18080
TOKEN = "bench-token"
PUBLIC = "https://voice.example.com"

GATEWAYS = {
    "echo": {"agent": "{kind: echo}"},
    "echo-recorded": {"agent": "{kind: echo}", "record": "true"},
    "echo-inline": {"agent": "{kind: echo, isolation: inline}"},
    "echo-16k": {"agent": '{kind: echo, format: "l16/16000"}'},
    "echo-vad": {"agent": "{kind: echo, vad: silero}"},
}
"""What of the gateway is measured: the agent behind the one route."""

YARDSTICKS = {
    "floor": ["servers/floor_uvicorn.py"],
    "pipecat-8k": ["servers/pipecat_echo.py"],
    "pipecat-16k": ["servers/pipecat_echo.py", "--rate", "16000"],
}
"""Servers of the rig: the least that uvicorn must do, and Pipecat's echo."""


def config(name: str, folder: Path) -> Path:
    """Write the configuration of one gateway."""
    what = GATEWAYS[name]
    path = folder / f"{name}.yaml"
    path.write_text(
        f"""
public_url: {PUBLIC}
listen: {{host: 127.0.0.1, port: {PORT}}}
data_dir: {folder / name}
carriers:
  twilio: {{account_sid: "AC{"0" * 32}", auth_token: "{TOKEN}", api_base: "http://127.0.0.1:9"}}
agents:
  under-test: {what["agent"]}
routes:
  - {{number: "*", agent: under-test, record: {what.get("record", "false")}}}
limits: {{max_calls: 5000}}
log: {{level: error}}
"""
    )
    return path


class Server:
    """One server on core 0, for as long as the `with` block lasts."""

    def __init__(self, name: str, args: argparse.Namespace, folder: Path) -> None:
        self.name = name
        if name in GATEWAYS:
            command = [sys.executable, "-m", "offhook.gateway", "serve", "--config", str(config(name, folder))]
            self.ring = [
                *("--webhook", f"http://127.0.0.1:{PORT}/twilio/voice", "--auth-token", TOKEN),
                *("--public-webhook", f"{PUBLIC}/twilio/voice"),
            ]
            self.probe = f"http://127.0.0.1:{PORT}/healthz"
        else:
            script, *options = YARDSTICKS[name]
            python = args.pipecat_python if "pipecat" in name else args.rig_python
            command = [python, str(args.rig / script), "--port", str(PORT), *options]
            self.ring = ["--url", f"ws://127.0.0.1:{PORT}/media"]
            self.probe = f"http://127.0.0.1:{PORT}/"
        self.command = ["taskset", "-c", "0", *command]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(self.probe, timeout=1)
                return self
            except urllib.error.HTTPError:
                return self  # it answers, if only with 404
            except OSError:
                time.sleep(0.2)
        raise TimeoutError(f"{self.name} did not come up")

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def load(self, args: argparse.Namespace, mode: str, *options: str) -> dict[str, Any]:
        """Run the generator against the server; gives its report."""
        with tempfile.NamedTemporaryFile(suffix=".json") as report:
            command = [args.rig_python, str(args.rig / "callload.py"), mode, *self.ring, *options]
            command += ["--server-pid", str(self.process.pid), "--server-core", "0", "--cpu", "1"]
            command += ["--json", report.name, "--seconds", str(args.seconds)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)
            found: dict[str, Any] = json.loads(Path(report.name).read_text())
            return found


def rounds(args: argparse.Namespace, names: list[str], folder: Path) -> None:
    """Every server once a round; print medians, and the ratio to the first yardstick of the same round."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(args.rounds):
        for name in names:
            with Server(name, args, folder) as server:
                runs[name].append(server.load(args, "run", "--calls", str(args.calls)))
    base = next((name for name in names if name in YARDSTICKS), names[0])

    def of(report: dict[str, Any], *path: str) -> float:
        value: Any = report
        for key in path:
            value = value[key]
        return float(value if value is not None else float("nan"))

    def median(name: str, *path: str) -> float:
        return statistics.median(of(report, *path) for report in runs[name])

    print(f"{args.calls} calls, {args.rounds} rounds of {args.seconds:g} s, medians; CPU in ms a call-second\n")
    print(f"| server | CPU ms | ÷ {base} | echo p50 / p99 ms | gaps > 20 ms | lost | memory a call |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in names:
        cpu = ("server", "cpu_ms_per_call_s")
        ratio = statistics.median(
            of(mine, *cpu) / of(theirs, *cpu) for mine, theirs in zip(runs[name], runs[base], strict=True)
        )
        print(
            f"| {name} | {median(name, *cpu):.1f} | {ratio:.2f} "
            f"| {median(name, 'echo_ms', 'p50'):.2f} / {median(name, 'echo_ms', 'p99'):.1f} "
            f"| {sum(r['gaps_gt20ms'] for r in runs[name])} (+{sum(r['excused_gaps_gt20ms'] for r in runs[name])}) "
            f"| {sum(r['frames_lost'] for r in runs[name])} | {median(name, 'server', 'rss_kb_per_call'):.0f} kB |"
        )


def ramp(args: argparse.Namespace, names: list[str], folder: Path) -> None:
    """Calls one core carries: echo p99 at most 100 ms above that of one call, and no gap over 20 ms."""
    print("| server | calls a core |\n|---|---:|")
    for name in names:
        with Server(name, args, folder) as server:
            found = server.load(args, "ramp", "--start", str(args.start), "--redo", "2")
        limited = " (the generator was the limit)" if found["generator_limited"] else ""
        print(f"| {name} | {found['max_calls']}{limited} |", flush=True)


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rig", type=Path, required=True, help="folder of the load generator")
    parser.add_argument("--rig-python", default=sys.executable, help="a Python with picows, uvloop, orjson and numpy")
    parser.add_argument("--pipecat-python", help="a Python with pipecat-ai; left out without one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--only", help="comma-separated names instead of all")
    parser.add_argument("--ramp", action="store_true", help="find the calls a core instead")
    parser.add_argument("--start", type=int, default=60, help="ramp: first number of calls")
    args = parser.parse_args()
    names = [*YARDSTICKS, *GATEWAYS] if not args.only else args.only.split(",")
    if not args.pipecat_python:
        names = [name for name in names if not name.startswith("pipecat")]
    with tempfile.TemporaryDirectory(prefix="offhook-bench-") as folder:
        (ramp if args.ramp else rounds)(args, names, Path(folder))


if __name__ == "__main__":
    main()
