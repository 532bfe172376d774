"""How evenly the caller's frames leave while one process on one core carries many scripted calls, and what they cost.

    python bench/dialer.py [--calls 200] [--seconds 30] [--codec PCMU] [--core 1] [--agent-core 0]

The agent is SIPp, which echoes what it hears, on another core. Every call runs a real scenario: the caller says a
sentence, waits, presses a key, and so on; each hears its own echo. Calls begin over `--ramp` seconds; frames count
that left while all calls were up. Prints one JSON object. Other programs on the machine spoil the tails.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from offhook.qa.caller.machine import Caller
from offhook.qa.caller.script import prepare
from offhook.qa.phones.base import CallLog, CallOrder
from offhook.qa.phones.sip import SipPhone
from offhook.qa.scenario.model import Media, Scenario, Target

HOST: Final = "127.0.8.1"
SIP_PORT: Final = 5070
RTP_PORT: Final = 6000

SENTENCE: Final = "I would like to move my appointment to Thursday afternoon, if that is possible."


def scenario(args: argparse.Namespace) -> Scenario:
    """A call that talks for longer than it is measured."""
    turns = [{"say": SENTENCE}, {"wait": "1500ms"}, {"dtmf": "5"}, {"wait": "500ms"}]
    return Scenario.model_validate(
        {
            "name": "bench",
            "media": {"codecs": [args.codec], "srtp": args.srtp},
            "steps": turns * 10,
        }
    )


async def carry(phone: SipPhone, made: Scenario, script: Any, number: int, args: argparse.Namespace) -> CallLog:
    """One call."""
    await asyncio.sleep(args.ramp * number / args.calls)
    order = CallOrder(
        phone.target,
        Media(codecs=[args.codec], srtp=args.srtp),
        f"bench-{number}",
        seed=number,
        timeout=args.ramp * (1 - number / args.calls) + args.seconds,
        keep_packets=False,
    )
    return await phone.carry(order, Caller(made, script, number))


async def run(args: argparse.Namespace) -> dict[str, Any]:
    """All calls; gives the figures."""
    made = scenario(args)
    script = await prepare(made, Path.cwd())
    gc.collect()
    gc.freeze()
    async with SipPhone(Target(to=f"sip:echo@{HOST}:{SIP_PORT}")) as phone:
        calls = [asyncio.create_task(carry(phone, made, script, number, args)) for number in range(args.calls)]
        await asyncio.sleep(args.ramp + 1)
        began, used = time.monotonic(), time.process_time()
        await asyncio.sleep(args.seconds - 2)
        cpu = (time.process_time() - used) / (time.monotonic() - began)
        logs = await asyncio.gather(*calls)
    # a second at either end is left out, where calls begin and end all at once
    late = np.concatenate([np.array(log.lateness)[-int((args.seconds - 1) * 50) : -50] for log in logs]) * 1000
    heard = [len(log.arrivals.at) if log.arrivals is not None else 0 for log in logs]
    sent = sum(len(log.left_at) for log in logs)
    p50, p90, p99, p999 = (round(float(value), 2) for value in np.percentile(late, [50, 90, 99, 99.9]))
    return {
        "calls": len(logs),
        "answered": sum(log.answered for log in logs),
        "frames": len(late),
        "late_ms": {"p50": p50, "p90": p90, "p99": p99, "p99.9": p999, "max": round(float(late.max()), 2)},
        "frames_missing": sum(log.due - len(log.left_at) for log in logs),
        "echoed": round(sum(heard) / sent, 4),
        "core_percent": round(100 * cpu, 1),
        "us_a_frame": round(1e6 * cpu / (args.calls * 50), 1),
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """Start the agent, bind both to their cores, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30.0, help="with all calls up")
    parser.add_argument("--ramp", type=float, default=5.0)
    parser.add_argument("--codec", default="PCMU", choices=["PCMU", "PCMA", "G722", "opus"])
    parser.add_argument("--srtp", action="store_true", help="needs another agent than SIPp")
    parser.add_argument("--core", type=int, default=1)
    parser.add_argument("--agent-core", type=int, default=0)
    parser.add_argument("--first", action="store_true", help="before all other programs (SCHED_RR); needs root")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first = ["chrt", "-r", "1"] if args.first else []
        command = [*first, "taskset", "-c", str(args.agent_core), "sipp", "-sn", "uas", "-i", HOST, "-p", str(SIP_PORT)]
        command += ["-mi", HOST, "-mp", str(RTP_PORT), "-rtp_echo", "-nostdin", "-m", "100000"]
        agent = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            os.sched_setaffinity(0, {args.core})
            if args.first:
                os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
            _await_port()
            print(json.dumps(asyncio.run(run(args)), indent=2))
        finally:
            agent.terminate()
            agent.wait(10)


def _await_port() -> None:
    """Until SIPp has its socket."""
    for _ in range(100):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            try:
                taken.bind((HOST, SIP_PORT))
            except OSError:
                return
        time.sleep(0.05)
    raise SystemExit("SIPp did not start; is it installed (apt-get install sip-tester)?")


if __name__ == "__main__":
    main()
