"""Calls that end at any moment, by anybody: nothing may be left of them, and nothing may be raised.

Every case is a seed: who calls, what the telephones and the agent do, and when somebody has enough. A telephone may
hang up, fall silent for ever, hold, transfer, answer or refuse; the agent may hang up, transfer or crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.sip_desk import OURS, PBX, SipDesk
from fakes.sip_phones import Phone

from offhook.agents import link
from offhook.gateway.operator_api import BadOrder, PlaceCall
from offhook.gateway.reasons import EndedBy, EndReason
from offhook.providers.base import CarrierUnavailable
from offhook.providers.sip.core import IllegalStep
from offhook.providers.sip.events import OfferReceived, ReferReceived, RequestArrived, UaEvent
from offhook.providers.sip.invite import InviteSession
from offhook.providers.sip.transfer import replaces_of

pytestmark = [
    pytest.mark.virtual_time,
    pytest.mark.own_tasks("`desk` closes the switchboard, and the test looks for tasks itself"),
]

SEEDS = 40

SDP = (
    b"v=0\r\no=- %d %d IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    b"m=audio 9 RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\na=%b\r\n"
)

TRUNKS: list[dict[str, Any]] = [
    {},
    {"early_media": True},
    {"reliable_provisional": "required", "early_media": True},
    {"transfer": "attended"},
    {"session_expires": 90, "accept_refer": ["2*"]},
    {"accept_refer": ["2*"], "proxies": ["sip:127.0.0.13:5060", f"sip:{PBX}:5060"]},
]


class Actor:
    """What a telephone does, by chance."""

    def __init__(self, desk: SipDesk, phone: Phone, rng: random.Random) -> None:
        self.desk, self.phone, self.rng = desk, phone, rng
        self.loop = asyncio.get_running_loop()
        self.version = 0
        phone.on_event = self.event

    def sdp(self) -> bytes:
        self.version += 1
        directions = [b"sendrecv", b"sendrecv", b"sendonly", b"inactive"]
        return SDP % (int(self.phone.host[-1]), self.version, self.rng.choice(directions))

    def later(self, seconds: float, what: Callable[..., object], *about: object) -> None:
        def act() -> None:
            with contextlib.suppress(IllegalStep):  # too late for it
                what(*about)
            self.phone.hear(self.phone.ua.events(), self.loop.time())
            self.desk.wire.flush(self.phone)

        self.loop.call_later(seconds, act)

    def event(self, phone: Phone, event: UaEvent, now: float) -> None:
        rng = self.rng
        if isinstance(event, RequestArrived):
            if event.request.method != "INVITE":
                phone.ua.dismiss(event.tx, now)
            elif rng.random() < 0.9:
                session = phone.ua.take_invite(event.tx, now, reliable=rng.choice(["off", "supported", "required"]))
                if session is not None:
                    phone.calls.append(session)
                    self.answer(session)
        elif isinstance(event, OfferReceived):
            if rng.random() < 0.8:
                self.later(rng.random() * 0.2, lambda: event.session.answer_offer(self.sdp(), now=self.loop.time()))
        elif isinstance(event, ReferReceived):
            self.later(0.0, self.refer, event)

    def refer(self, event: ReferReceived) -> None:
        session, rng = event.session, self.rng
        if rng.random() < 0.2:
            session.refuse_refer(event.tx, now=self.loop.time())
            return
        session.accept_refer(event.tx, self.loop.time())
        for status in rng.choice([[], [180], [180, 200], [486], [200]]):
            self.later(rng.random(), lambda status=status: session.refer_progress(status, now=self.loop.time()))

    def answer(self, session: InviteSession) -> None:
        rng = self.rng
        seconds = 0.0
        for _ in range(rng.randrange(3)):
            seconds += rng.random() * 0.5
            sdp = rng.choice([None, self.sdp()])
            self.later(seconds, lambda sdp=sdp: session.ring(rng.choice([180, 183]), sdp, now=self.loop.time()))
        seconds += rng.random() * 0.5
        if rng.random() < 0.7:
            self.later(seconds, lambda: session.answer(self.sdp(), now=self.loop.time()))
        elif rng.random() < 0.8:
            status = rng.choice([302, 404, 486, 500, 503, 603])
            self.later(seconds, lambda: session.refuse(status, now=self.loop.time()))
        self.meddle(session)

    def call(self, old: InviteSession | None = None) -> None:
        """Call the gateway; `old`: a call that this one replaces."""
        offerless = self.rng.random() < 0.2
        session = self.phone.call(
            OURS,
            self.loop.time(),
            sdp=None if offerless else self.sdp(),
            reliable=self.rng.choice(["off", "supported"]),
            session_expires=self.rng.choice([0, 90, 1800]),
            replaces=replaces_of(old) if old is not None else None,
        )
        self.meddle(session)

    def meddle(self, session: InviteSession) -> None:
        """Do something in the call, at a moment of chance."""
        rng = self.rng

        def now() -> float:
            return self.loop.time()

        deeds: list[Callable[[], object]] = [
            lambda: session.hang_up(now=now()),
            lambda: session.offer(self.sdp(), now(), update=rng.random() < 0.5),
            lambda: session.refer(f"sip:{rng.choice(['200', '999'])}@127.0.0.12", now=now()),
            lambda: session.info(b"Signal=5\r\n", "application/dtmf-relay", now()),
            lambda: self.call(session),
            lambda: self.desk.wire.cut.add(self.phone.host),
        ]
        for _ in range(rng.randrange(4)):
            self.later(moment(rng), rng.choice(deeds))
        if rng.random() < 0.2:  # as telephones do that transfer: hang up at once
            at = moment(rng)
            self.later(at, deeds[2])
            self.later(at + rng.random() * 0.05, deeds[0])


def moment(rng: random.Random) -> float:
    """While it is set up, as a rule, when every 5 ms make a difference; or in the middle of the call."""
    return rng.choice([rng.randrange(60) * 0.005, rng.random() * 2, rng.random() * 8])


def agent_acts(desk: SipDesk, rng: random.Random) -> None:
    if not desk.pool.agents:
        return
    messages = [
        link.HangUp("done", after_speech=False),
        link.Transfer("200", after_speech=False),
        link.Transfer("sip:nobody", after_speech=False),
        link.SendDtmf("12"),
        link.Failed("boom", ""),
        link.Attributes({"X-Note": "yes", "bad": "no"}),
    ]
    rng.choice(desk.pool.agents).says(rng.choice(messages))


async def place(desk: SipDesk, rng: random.Random) -> None:
    with contextlib.suppress(BadOrder, CarrierUnavailable):  # no room, or none any more
        await desk.service.place(PlaceCall("200", ring_timeout=rng.choice([1, 5, 20])))


@pytest.fixture
def _no_collector() -> Iterator[None]:
    """What reference counts do not free stays, and is found at the end."""
    gc.collect()
    gc.disable()
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()
    gc.collect()


def in_circles() -> Counter[str]:
    """Objects of ours that nobody can reach but one another: classes, and how many of each."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    classes = (type(thing) for thing in gc.garbage)
    return Counter(
        f"{kind.__module__}.{kind.__qualname__}" for kind in classes if kind.__module__.startswith("offhook")
    )


@pytest.fixture
async def desk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SipDesk]:
    made = SipDesk(tmp_path, **TRUNKS[request.param % len(TRUNKS)])
    yield made
    await made.close()


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize(("desk", "seed"), [(seed, seed) for seed in range(SEEDS)], indirect=["desk"])
async def test_nothing_is_left(desk: SipDesk, seed: int) -> None:
    rng = random.Random(seed)
    loop = asyncio.get_running_loop()
    desk.pool.delay = rng.choice([0.0, 0.05, 0.3, 30.0])
    if rng.random() < 0.1:
        desk.pool.first = link.Refuse("no")
    actors = [Actor(desk, desk.phone(host), rng) for host in ("127.0.0.12", "127.0.0.14", PBX)]
    for actor in actors[:2]:
        if rng.random() < 0.8:
            actor.later(rng.random(), actor.call)
    for _ in range(rng.randrange(3)):
        loop.call_later(rng.random(), lambda: desk.board.run(place(desk, rng), "place"))
    for _ in range(rng.randrange(4)):
        loop.call_later(moment(rng) + 0.1, agent_acts, desk, rng)
    if rng.random() < 0.1:
        loop.call_later(moment(rng), desk.board.drain)
    await asyncio.sleep(20)
    if rng.random() < 0.5:  # else the time runs out, or silence ends them
        desk.board.end_all(EndReason.DRAIN_DEADLINE, EndedBy.GATEWAY)
    await asyncio.sleep(40)
    for call in desk.board.calls:
        call.leave(EndReason.OPERATOR_HANGUP, EndedBy.OPERATOR)
    await asyncio.sleep(100)
    assert desk.left() == {}, "\n".join(desk.wire.log[-60:])
    assert in_circles() == {}
