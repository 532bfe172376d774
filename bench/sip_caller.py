"""The callers' side of SIP for the benchmarks: hand-made messages over one UDP socket, as little as will do."""

from __future__ import annotations

import heapq
import os
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

LOST_AFTER: Final = 10.0
"""Seconds after which a call that was not answered counts as lost."""

TIMESTAMPNS: Final = 35
"""SO_TIMESTAMPNS of Linux, which `socket` has no name for."""


def udp(host: str, port: int = 0, *, room: int = 16 << 20) -> socket.socket:
    """A non-blocking socket with a large buffer and the kernel's time stamps."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    forced = getattr(socket, "SO_RCVBUFFORCE", 33)
    try:
        sock.setsockopt(socket.SOL_SOCKET, forced, room)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    sock.setsockopt(socket.SOL_SOCKET, TIMESTAMPNS, 1)
    sock.bind((host, port))
    sock.setblocking(False)
    return sock


@dataclass
class Line:
    """One call, as its caller sees it. Times in seconds of the wall clock."""

    number: int
    id: str
    state: str = "new"
    to: str = ""
    "To with the tag."
    target: str = ""
    port: int = 0
    invited: float = 0.0
    trying: float = 0.0
    ringing: float = 0.0
    answered: float = 0.0
    bye: float = 0.0
    over: float = 0.0
    status: int = 0
    packets: int = 0


@dataclass
class Caller:
    """The SIP side: one socket, all calls. `answered` and `ended` are told."""

    host: str
    target: tuple[str, int]
    media_port: int
    number: str = "+15550100"
    answered: Callable[[Line], None] = lambda line: None
    ended: Callable[[Line], None] = lambda line: None
    lines: dict[str, Line] = field(default_factory=dict)
    retransmitted: int = 0
    surprises: int = 0
    "Requests of the gateway."

    def __post_init__(self) -> None:
        self.sock = udp(self.host)
        self.port = self.sock.getsockname()[1]
        self._run = os.urandom(4).hex()
        self._timers: list[tuple[float, int, Line, str, float]] = []
        self._count = 0

    # --- sending

    def _request(self, line: Line, method: str, cseq: int, body: str = "", branch: str = "") -> None:
        uri = line.target or f"sip:{self.number}@{self.target[0]}:{self.target[1]}"
        to = line.to or f"<sip:{self.number}@{self.target[0]}>"
        self.sock.sendto(
            (
                f"{method} {uri} SIP/2.0\r\n"
                f"Via: SIP/2.0/UDP {self.host}:{self.port};branch=z9hG4bK{line.id}{branch or method};rport\r\n"
                "Max-Forwards: 70\r\n"
                f"From: <sip:+1555{line.number:07}@{self.host}>;tag=c{line.number}\r\n"
                f"To: {to}\r\n"
                f"Call-ID: {line.id}\r\n"
                f"CSeq: {cseq} {method}\r\n"
                f"Contact: <sip:c@{self.host}:{self.port}>\r\n"
                + ("Content-Type: application/sdp\r\n" if body else "")
                + f"Content-Length: {len(body)}\r\n\r\n{body}"
            ).encode(),
            self.target,
        )

    def _invite(self, line: Line) -> None:
        self._request(
            line,
            "INVITE",
            1,
            f"v=0\r\no=- {line.number} 1 IN IP4 {self.host}\r\ns=-\r\nc=IN IP4 {self.host}\r\nt=0 0\r\n"
            f"m=audio {self.media_port} RTP/AVP 0 101\r\na=rtpmap:0 PCMU/8000\r\n"
            "a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\n",
        )

    def call(self, number: int) -> Line:
        """Begin a call."""
        line = Line(number, f"{number}-{self._run}", "calling", invited=time.time())
        self.lines[line.id] = line
        self._invite(line)
        self._later(line, "calling", 0.5)
        return line

    def hang_up(self, line: Line) -> None:
        """End a call that is up."""
        if line.state == "up":
            line.state, line.bye = "leaving", time.time()
            self._request(line, "BYE", 2)
            self._later(line, "leaving", 0.5)

    def _later(self, line: Line, state: str, seconds: float) -> None:
        self._count += 1
        heapq.heappush(self._timers, (time.time() + seconds, self._count, line, state, seconds))

    def tick(self) -> None:
        """Repeat what was not answered."""
        now = time.time()
        while self._timers and self._timers[0][0] <= now:
            _, _, line, state, seconds = heapq.heappop(self._timers)
            if line.state != state or (state == "calling" and line.trying):
                continue
            self.retransmitted += 1
            if state == "calling":
                self._invite(line)
            else:
                self._request(line, "BYE", 2)
            if now - (line.invited if state == "calling" else line.bye) < LOST_AFTER:
                self._later(line, state, min(4.0, 2 * seconds))

    # --- receiving

    def receive(self) -> None:
        """Take in what has come."""
        while True:
            try:
                data, control, _, source = self.sock.recvmsg(4096, 64)
            except BlockingIOError:
                return
            stamp = np.frombuffer(control[0][2], "<i8") if control else None
            at = time.time() if stamp is None else float(stamp[0]) + float(stamp[1]) / 1e9
            self._message(data.decode(), at, source)

    def _message(self, text: str, at: float, source: tuple[str, int]) -> None:
        head, _, body = text.partition("\r\n\r\n")
        first, *rest = head.split("\r\n")
        headers: dict[str, str] = {}
        for entry in rest:
            name, _, value = entry.partition(":")
            headers.setdefault(name.lower(), value.strip())
        line = self.lines.get(headers.get("call-id", ""))
        if not first.startswith("SIP/2.0"):
            self._asked(first, rest, line, at, source)
            return
        if line is None:
            return
        status, method = int(first[8:11]), headers["cseq"].split()[1]
        if method == "BYE":
            if line.state == "leaving" and status >= 200:
                line.state, line.over = "over", at
                self.ended(line)
        elif method == "INVITE":
            self._progress(line, status, headers, body, at)

    def _progress(self, line: Line, status: int, headers: dict[str, str], body: str, at: float) -> None:
        line.trying = line.trying or at
        if 101 <= status < 200:
            line.ringing = line.ringing or at
        elif 200 <= status < 300:
            first = line.state == "calling"
            if first:
                line.to = headers["to"]
                line.target = headers["contact"].partition("<")[2].partition(">")[0]
                line.port = int(body.partition("m=audio ")[2].split(" ", 1)[0])
                line.state, line.answered, line.status = "up", at, status
            self._request(line, "ACK", 1)
            if first:
                self.answered(line)
        elif status >= 300:
            line.to = headers["to"]
            self._request(line, "ACK", 1, branch="INVITE")
            if line.state == "calling":
                line.state, line.status = "refused", status
                self.ended(line)

    def _asked(self, first: str, rest: Iterable[str], line: Line | None, at: float, source: tuple[str, int]) -> None:
        if first.startswith("ACK"):
            return
        self.surprises += 1
        copied = [entry for entry in rest if entry.lower().startswith(("via:", "from:", "to:", "call-id:", "cseq:"))]
        answer = "\r\n".join(["SIP/2.0 200 OK", *copied, "Content-Length: 0", "", ""])
        self.sock.sendto(answer.encode(), source)
        if line is not None and first.startswith("BYE") and line.state == "up":
            line.state, line.over, line.status = "over", at, -1
            self.ended(line)
