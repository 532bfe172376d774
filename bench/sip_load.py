"""The far end of many SIP calls, cheap enough to hold hundreds of them beside the gateway that it measures.

    python bench/sip_load.py '{"host": "127.0.0.1", "port": 5060, "calls": 300, …}'

Started by `bench/sip.py`; prints one JSON object. All calls share one socket for audio and one for SIP. Packets lie
ready in one array, a tenth of a millisecond's worth of which leaves by one `sendmmsg`; what comes back is taken in by
`recvmmsg` and looked at when the run is over. When it came is the kernel's word, not ours: this process may be late
without the gateway being blamed. How late it was itself in sending is reported.

A payload carries the number of its call, its own, and the time it was sent at; an echo gives all of them back.
"""

from __future__ import annotations

import ctypes
import heapq
import json
import socket
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sip_caller import LOST_AFTER, Caller, Line, udp

SLOTS: Final = 200
"""Tenths of a millisecond of a frame. Calls are spread over them, as those of strangers are: packets that came in lumps
would cost the other side less than they do in life."""

ROOM: Final = 8
"""Calls in one slot at most."""

LOOK: Final = 0.002
"""Seconds between two looks at what has come."""

BATCH: Final = 256
"""Packets read at once."""

MAGIC: Final = 0x6F66686B
TIMERSLACK: Final = 29
"""PR_SET_TIMERSLACK: sleep as exactly as the kernel can, not to 50 microseconds."""


PACKET: Final = np.dtype(
    [
        ("first", "u1"),
        ("second", "u1"),
        ("sequence", ">u2"),
        ("timestamp", ">u4"),
        ("ssrc", ">u4"),
        ("magic", ">u4"),
        ("call", ">u4"),
        ("number", ">u4"),
        ("sent", ">u8"),
        ("rest", "u1", (140,)),
    ]
)
NAME: Final = np.dtype([("family", "<u2"), ("port", ">u2"), ("host", "u1", (4,)), ("zero", "u1", (8,))])
CONTROL: Final = np.dtype([("len", "u8"), ("level", "i4"), ("type", "i4"), ("sec", "i8"), ("nsec", "i8")])
_NAMES: Final = ("name", "namelen", "_1", "iov", "iovlen", "control", "controllen", "flags", "_2", "len", "_3")
_TYPES: Final = ("u8", "u4", "u4", "u8", "u8", "u8", "u8", "i4", "u4", "u4", "u4")
HEADER: Final = np.dtype(list(zip(_NAMES, _TYPES, strict=True)))
"""struct mmsghdr of 64-bit Linux."""

IOVEC: Final = np.dtype([("base", "u8"), ("len", "u8")])

Rows = NDArray[Any]

libc = ctypes.CDLL(None, use_errno=True)


def messages(packets: Rows, names: Rows, control: Rows | None = None) -> Rows:
    """The kernel's description of packets that lie one after another."""
    count = len(packets)
    vectors = np.zeros(count, IOVEC)
    vectors["base"] = packets.ctypes.data + np.arange(count) * packets.dtype.itemsize
    vectors["len"] = packets.dtype.itemsize
    found = np.zeros(count, HEADER)
    found["name"] = names.ctypes.data + np.arange(count) * NAME.itemsize
    found["namelen"] = NAME.itemsize
    found["iov"] = vectors.ctypes.data + np.arange(count) * IOVEC.itemsize
    found["iovlen"] = 1
    if control is not None:
        found["control"] = control.ctypes.data + np.arange(count) * CONTROL.itemsize
        found["controllen"] = CONTROL.itemsize
    VECTORS.append(vectors)  # the kernel is given their addresses
    return found


VECTORS: list[Rows] = []


class Media:
    """The audio of all calls."""

    def __init__(self, host: str) -> None:
        self.sock = udp(host)
        self.port = self.sock.getsockname()[1]
        self.rtcp = udp(host, self.port + 1, room=1 << 16)  # takes reports, which nobody reads
        self._packets = np.zeros(SLOTS * ROOM, PACKET)
        self._packets["first"] = 0x80
        self._packets["magic"] = MAGIC
        self._packets["rest"] = 0x55
        self._names = np.zeros(SLOTS * ROOM, NAME)
        self._names["family"] = socket.AF_INET
        self._out = messages(self._packets, self._names)
        self._used = [0] * SLOTS
        self._where: dict[int, tuple[int, int]] = {}
        self._calls = [[0] * ROOM for _ in range(SLOTS)]
        self._in_packets = np.zeros(BATCH, PACKET)
        self._in_names = np.zeros(BATCH, NAME)
        self._control = np.zeros(BATCH, CONTROL)
        self._in = messages(self._in_packets, self._in_names, self._control)
        self._chunks: list[tuple[Rows, Rows, Rows]] = []
        self.late: list[float] = []
        "Seconds by which each slot left late."
        self.sent = 0
        self.refused = 0
        self._slot = 0
        self.due = 0.0

    def __len__(self) -> int:
        return sum(self._used)

    def add(self, call: int, host: str, port: int) -> None:
        """Speak to this address from now on."""
        slot = min(range(SLOTS), key=self._used.__getitem__)
        place = self._used[slot]
        if place == ROOM:
            raise RuntimeError(f"{SLOTS * ROOM} calls is all there is room for")
        self._used[slot] += 1
        self._calls[slot][place] = call
        self._where[call] = slot, place
        row = slot * ROOM + place
        packet = self._packets[row]
        packet["ssrc"] = call + 1
        packet["call"] = call
        packet["sequence"], packet["timestamp"], packet["number"] = 1000, 160_000, 0
        self._names[row]["port"] = port
        self._names[row]["host"] = tuple(socket.inet_aton(host))

    def drop(self, call: int) -> int:
        """Stop; gives how many packets were sent."""
        if call not in self._where:
            return 0
        slot, place = self._where.pop(call)
        self._used[slot] -= 1
        row, last = slot * ROOM + place, slot * ROOM + self._used[slot]
        sent = int(self._packets[row]["number"])
        if row != last:
            self._packets[row] = self._packets[last]
            self._names[row] = self._names[last]
            moved = self._calls[slot][place] = self._calls[slot][self._used[slot]]
            self._where[moved] = slot, place
        return sent

    def begin(self, now: float) -> None:
        """Slots are sent from now on."""
        self.due = now

    def send(self, now: float) -> None:
        """Send the slots that are due."""
        while self.due <= now:
            slot, self._slot = self._slot, (self._slot + 1) % SLOTS
            used = self._used[slot]
            if used:
                self.late.append(now - self.due)
                self._send(slot * ROOM, used)
                now = time.monotonic()
            self.due += 0.02 / SLOTS

    def _send(self, row: int, used: int) -> None:
        packets = self._packets[row : row + used]
        packets["sequence"] += 1
        packets["timestamp"] += 160
        packets["number"] += 1
        packets["sent"] = time.time_ns()
        done = 0
        while done < used:
            at = self._out.ctypes.data + (row + done) * HEADER.itemsize
            count = libc.sendmmsg(self.sock.fileno(), ctypes.c_void_p(at), used - done, 0)
            if count > 0:
                done += count
            else:  # such as a port that is closed by now: the next one is not to suffer for it
                self.refused += 1
                done += 1
        self.sent += used

    def receive(self) -> None:
        """Take in what has come."""
        while True:
            self._in["namelen"] = NAME.itemsize
            self._in["controllen"] = CONTROL.itemsize
            at = ctypes.c_void_p(self._in.ctypes.data)
            count = libc.recvmmsg(self.sock.fileno(), at, BATCH, socket.MSG_DONTWAIT, None)
            if count <= 0:
                return
            self._chunks.append(
                (
                    self._in_packets[["sequence", "timestamp", "magic", "call", "number", "sent"]][:count].copy(),
                    self._in_names["port"][:count].astype("u4"),
                    self._control["sec"][:count] * 1_000_000_000 + self._control["nsec"][:count],
                )
            )
            if count < BATCH:
                return

    def received(self) -> tuple[Rows, Rows, Rows]:
        """All that came: packets, ports that they came from, and times in ns."""
        if not self._chunks:
            return np.zeros(0, PACKET), np.zeros(0, "u4"), np.zeros(0, "i8")
        packets, ports, times = zip(*self._chunks, strict=True)
        return np.concatenate(packets), np.concatenate(ports), np.concatenate(times)

    def forget(self) -> None:
        """Measure from now on."""
        self._chunks.clear()
        self.late.clear()
        self.sent = 0


def spread(values: Iterable[float] | Rows, unit: float = 1e3, places: int = 2) -> dict[str, float]:
    """Median, 99th percentile and largest of seconds, in milliseconds."""
    found = np.asarray(list(values) if not isinstance(values, np.ndarray) else values, float) * unit
    if not len(found):
        return {"count": 0}
    p50, p99 = np.percentile(found, [50, 99])
    named = {"p50": p50, "p99": p99, "max": found.max()}
    return {"count": len(found)} | {name: round(float(value), places) for name, value in named.items()}


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has taken, all its threads together."""
    return time.clock_gettime((~pid << 3) | 2)


class Load:
    """One run: calls that begin at a given pace, audio for each, and what came of it."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.media = Media(job["own"])
        self.caller = Caller(job["own"], (job["host"], job.get("port", 0)), self.media.port)
        self.caller.answered, self.caller.ended = self._answered, self._ended
        self._hang_ups: list[tuple[float, int, Line]] = []
        self.up = self.over = 0
        self.sent_by_call: dict[int, int] = {}

    def _answered(self, line: Line) -> None:
        self.up += 1
        self.media.add(line.number, self.job["host"], line.port)
        if hold := self.job.get("hold"):
            heapq.heappush(self._hang_ups, (time.monotonic() + hold, line.number, line))

    def _ended(self, line: Line) -> None:
        self.over += 1
        line.packets += self.media.drop(line.number)

    def hang_up(self, line: Line) -> None:
        """Stop its audio, then say so."""
        line.packets = self.media.drop(line.number)
        self.caller.hang_up(line)

    def until(self, done: Callable[[], bool], budget: float) -> bool:
        """Keep everything going until it is done."""
        end = time.monotonic() + budget
        look = 0.0
        while True:
            now = time.monotonic()
            self.media.send(now)
            if now < look:
                if (pause := self.media.due - time.monotonic()) > 0:
                    time.sleep(pause)
                continue
            look = now + LOOK
            self.caller.receive()
            self.media.receive()
            self.caller.tick()
            while self._hang_ups and self._hang_ups[0][0] <= now:
                self.hang_up(heapq.heappop(self._hang_ups)[2])
            if done():
                return True
            if now > end:
                return False

    def place(self, count: int, pace: float, first: int = 0) -> None:
        """Begin `count` calls, `pace` a second, and wait until each is up or has failed."""
        begin = time.monotonic()
        placed = 0

        def done() -> bool:
            nonlocal placed
            due = min(count, int((time.monotonic() - begin) * pace) + 1)
            while placed < due:
                self.caller.call(first + placed)
                placed += 1
            return placed == count and all(line.state != "calling" for line in self.caller.lines.values())

        self.until(done, count / pace + LOST_AFTER)

    def steady(self) -> dict[str, Any]:
        """A number of calls at once, for some seconds: gaps, delay, loss, CPU."""
        job, media = self.job, self.media
        media.begin(time.monotonic())
        if ports := job.get("ports"):  # a bare echo: no signalling
            for call, port in enumerate(ports):
                media.add(call, job["host"], port)
        else:
            self.place(job["calls"], job.get("pace", 50))
        calls = len(media)
        self.until(lambda: False, job.get("warm_up", 2.0))
        media.forget()
        begin, taken = time.time_ns(), [cpu(pid) for pid in job["pids"]]
        own, clock = time.process_time(), time.monotonic()
        self.until(lambda: False, job["seconds"])
        seconds = time.monotonic() - clock
        own = time.process_time() - own
        used = [cpu(pid) - before for pid, before in zip(job["pids"], taken, strict=True)]
        sent, late = media.sent, np.array(media.late)
        end = time.time_ns()
        for line in list(self.caller.lines.values()):
            line.packets = media.drop(line.number)
        for call in range(len(job.get("ports", ()))):
            media.drop(call)
        self.until(lambda: False, 0.3)
        report = self._heard(begin, end, calls)
        for line in self.caller.lines.values():
            self.caller.hang_up(line)
        self.until(lambda: not any(line.state == "leaving" for line in self.caller.lines.values()), LOST_AFTER)
        report |= {
            "calls": calls,
            "sent": sent,
            "core": round(sum(used) / seconds, 3),
            "us_a_pair": [round(1e6 * one / sent, 2) for one in used],
            "generator": {"core": round(own / seconds, 3), "late_ms": spread(late), "refused": media.refused},
            "signalling": self.signalling(),
        }
        return report

    def _heard(self, begin: int, end: int, calls: int) -> dict[str, Any]:
        packets, ports, times = self.media.received()
        order = np.lexsort((times, ports))
        packets, ports, times = packets[order], ports[order], times[order]
        within = (times >= begin) & (times < end)
        together = (ports[1:] == ports[:-1]) & within[1:] & within[:-1]
        gaps = (times[1:] - times[:-1])[together] / 1e9
        steps = (packets["sequence"][1:].astype("i4") - packets["sequence"][:-1].astype("i4"))[together] & 0xFFFF
        clocks = (packets["timestamp"][1:].astype("i8") - packets["timestamp"][:-1].astype("i8"))[together]
        lost = int(np.where(steps < 0x8000, np.maximum(0, steps - 1), 0).sum()) if len(steps) else 0
        echoes = (packets["magic"] == MAGIC) & (packets["sent"].astype("i8") >= begin)
        delays = (times[echoes] - packets["sent"][echoes].astype("i8")) / 1e9
        back = packets[echoes & (packets["sent"].astype("i8") < end)]
        unique = len(np.unique(back["call"].astype("u8") << np.uint64(32) | back["number"].astype("u8")))
        # The least delay of a call is its place on the gateway's clock; what goes beyond is the gateway's doing.
        best = np.full(int(packets["call"][echoes].max()) + 1 if echoes.any() else 1, np.inf)
        np.minimum.at(best, packets["call"][echoes], delays)
        return {
            "received": int(within.sum()),
            "lost": lost,
            "skipped": int((clocks[steps == 1] != 160).sum()) if not self.job.get("ports") else 0,
            "not_back": self.media.sent - unique,
            "gap_ms": spread(gaps),
            "gaps_over_40": int((gaps > 0.04).sum()),
            "delay_ms": spread(delays),
            "delay_beyond_best_ms": spread(delays - best[packets["call"][echoes]]),
            "best_ms": spread(best[np.isfinite(best)]),
        }

    def rate(self) -> dict[str, Any]:
        """Short calls at a steady pace."""
        job = self.job
        self.media.begin(time.monotonic())
        taken, clock = [cpu(pid) for pid in job["pids"]], time.monotonic()
        count = int(job["pace"] * job["seconds"])
        self.place(count, job["pace"])
        self.until(lambda: self.over == count, LOST_AFTER)
        seconds = time.monotonic() - clock
        used = sum(cpu(pid) - before for pid, before in zip(job["pids"], taken, strict=True))
        packets, _, _ = self.media.received()
        lines = self.caller.lines.values()
        heard = set(packets["call"][packets["magic"] == MAGIC].tolist())
        return {
            "placed": count,
            "complete": sum(line.state == "over" and line.status == 200 for line in lines),
            "with_audio": len(heard & {line.number for line in lines}),
            "core": round(used / seconds, 3),
            "ms_a_call": round(1e3 * used / count, 2),
            "generator": {"late_ms": spread(np.array(self.media.late)), "refused": self.media.refused},
            "signalling": self.signalling(),
        }

    def signalling(self) -> dict[str, Any]:
        """What the callers saw."""
        lines = list(self.caller.lines.values())
        ends: dict[str, int] = {}
        for line in lines:
            end = line.state if line.status in (0, 200) else f"{line.state} {line.status}"
            ends[end] = ends.get(end, 0) + 1
        return {
            "ends": ends,
            "retransmitted": self.caller.retransmitted,
            "requests_of_gateway": self.caller.surprises,
            "invite_100_ms": spread(line.trying - line.invited for line in lines if line.trying),
            "invite_180_ms": spread(line.ringing - line.invited for line in lines if line.ringing),
            "invite_200_ms": spread(line.answered - line.invited for line in lines if line.answered),
            "bye_200_ms": spread(line.over - line.bye for line in lines if line.over and line.bye),
        }


def main() -> None:
    """Do the job of the command line."""
    libc.prctl(TIMERSLACK, ctypes.c_ulong(1), 0, 0, 0)
    job = json.loads(sys.argv[1])
    load = Load(job)
    print(json.dumps(getattr(load, {"steady": "steady", "rate": "rate"}[job["mode"]])()))


if __name__ == "__main__":
    main()
