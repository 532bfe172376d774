"""The reference in this process, over SIP and behind a Twilio number, and the program that it is in one of its own."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

from offhook.qa.listener import Listener
from offhook.qa.reference.behaviour import FAULTS, HABITS, Behaviour, behaviour
from offhook.qa.reference.lines import Lines, Voice
from offhook.qa.reference.sip import SipReference
from offhook.qa.reference.truth import TruthLog
from offhook.qa.reference.twilio import TwilioReference

AUTH_TOKEN: Final = "OFFHOOK_QA_AUTH_TOKEN"  # noqa: S105  # its name
"""Environment variable with the account's secret; without it one is made up."""


class ReferenceServer:
    """The reference on the running loop. An asynchronous context manager.

    Args:
        sip, http: host and port to listen on; port 0 lets the system choose, None leaves that way out.
        base: its delays.
        truth: file to which the truth is written.
        auth_token: secret of the Twilio account; empty: made up.
        public_url: origin over which webhooks are signed; by default where it listens.
    """

    def __init__(
        self,
        *,
        sip: tuple[str, int] | None = ("127.0.0.1", 0),
        http: tuple[str, int] | None = ("127.0.0.1", 0),
        base: Behaviour | None = None,
        truth: Path | None = None,
        auth_token: str = "",
        public_url: str = "",
        voice: Voice = "auto",
    ) -> None:
        self.auth_token = auth_token or secrets.token_hex(16)
        self.log = TruthLog(truth)
        self._sip_at, self._http_at, self._public_url = sip, http, public_url
        self._base, self._voice = base or behaviour(), voice
        self._stack = contextlib.AsyncExitStack()
        self.sip_target = self.twilio_target = ""

    async def __aenter__(self) -> Self:
        """Raises OSError when a port cannot be had, RuntimeError when there is no such voice."""
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.log.close)
            lines = await asyncio.to_thread(Lines, self._voice)
            if self._sip_at is not None:
                sip = SipReference(lines, self._base, self.log)
                stack.push_async_callback(sip.close)
                host = self._sip_at[0]
                port = await sip.listen(*self._sip_at)
                self.sip_target = f"sip:reference@{host}:{port}"
            if self._http_at is not None:
                twilio = TwilioReference(lines, self._base, self.log, self.auth_token)
                listener = await stack.enter_async_context(Listener(twilio.app, *self._http_at))
                twilio.public_url = self._public_url or listener.url
                self.twilio_target = f"twilio+{listener.url}/twilio/voice"
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    def ready(self) -> dict[str, Any]:
        """Where it is to be reached."""
        return {"sip": self.sip_target, "twilio": self.twilio_target, "auth_token": self.auth_token}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it until SIGTERM or SIGINT, or until its input ends with `--attached`. Prints one JSON line when it is up."""
    args = _parser().parse_args(arguments)
    try:
        return asyncio.run(_serve(args))
    except (OSError, RuntimeError, ValueError) as error:
        sys.stderr.write(f"reference: {error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m offhook.qa.reference",
        description="A bot of known behaviour to hold measurements against.",
        epilog="faults and habits: " + "; ".join(f"{name}: {what}" for name, (what, _) in {**FAULTS, **HABITS}.items()),
    )
    parser.add_argument("--sip", metavar="HOST:PORT", type=_address, help="listen for SIP, UDP and TCP")
    parser.add_argument("--twilio", metavar="HOST:PORT", type=_address, help="listen for Twilio's webhooks and streams")
    parser.add_argument("--fault", action="append", default=[], metavar="NAME", help="behave so; may be repeated")
    parser.add_argument("--truth", type=Path, metavar="FILE", help="write what it did, JSON lines")
    parser.add_argument("--public-url", default="", metavar="URL", help="origin that webhooks are signed over")
    parser.add_argument("--voice", choices=("auto", "flite", "made-up"), default="auto")
    for name in ("greeting", "answer", "stop", "ignore", "reprompt", "hole", "level", "transfer-after"):
        parser.add_argument(f"--{name}", type=float, metavar="DBOV" if name == "level" else "SECONDS")
    parser.add_argument("--attached", action="store_true", help=argparse.SUPPRESS)
    return parser


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no address; write 127.0.0.1:5070")
    return host.strip("[]"), int(port)


async def _serve(args: argparse.Namespace) -> int:
    names = ("greeting", "answer", "stop", "ignore", "reprompt", "hole", "level", "transfer_after")
    given: dict[str, Any] = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    nowhere = args.sip is None and args.twilio is None
    server = ReferenceServer(
        sip=("127.0.0.1", 0) if nowhere else args.sip,
        http=("127.0.0.1", 0) if nowhere else args.twilio,
        base=behaviour(*args.fault, base=Behaviour(**given)),
        truth=args.truth,
        auth_token=os.environ.get(AUTH_TOKEN, ""),
        public_url=args.public_url,
        voice=args.voice,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with server:
        sys.stdout.write(json.dumps(server.ready()) + "\n")
        sys.stdout.flush()
        if args.attached:
            loop.add_reader(sys.stdin.fileno(), stop.set)  # whoever started us has closed it, or is gone
        await stop.wait()
        if args.attached:
            loop.remove_reader(sys.stdin.fileno())
    return 0
