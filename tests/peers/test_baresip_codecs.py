"""The tone matrix: each side plays a tone of its own, and hears exactly the other's, whatever the codec."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fakes.baresip import CODECS, LEVEL, Baresip, Sound, baresip, needs_baresip, steady
from fakes.sip_gateway import NUMBER, SipGateway, sip_gateway

HERE = Path(__file__).parent

WIDE_NUMBER = "+15550101"
CALLER, AGENT = 440.0, 1010.0
WIDE_CALLER, WIDE_AGENT = 5900.0, 5300.0
"""Hertz that no codec of 8000 samples a second carries."""

NAMES = {"PCMU/8000/1": "PCMU", "PCMA/8000/1": "PCMA", "G722/16000/1": "G722", "opus/48000/2": "opus"}
NAMES |= {"L16/16000/1": "L16", "L16/8000/1": "L16"}
WIDE = ("G722/16000/1", "opus/48000/2", "L16/16000/1")

TOLERANCE = 1.0
"""dB that a codec may change a tone by."""

CROSSTALK = -45.0
"""dB below full scale of the own tone in what is heard: the quantisation noise of G.711 is there as well."""


async def _talk(gateway: SipGateway, folder: Path, which: int, codec: str, hertz: float, number: str) -> Baresip:
    async with baresip(folder, gateway.peer(which), codec=codec, hertz=hertz) as phone:
        await phone.call(f"sip:{number}@{gateway.host}")
        await asyncio.sleep(1.6)
        await phone.hang_up()
        await phone.until("CALL_CLOSED")
    return phone


def _is(sound: Sound, hertz: float, other: float, what: str) -> None:
    found, level, purity = sound.tone()
    assert abs(found - hertz) < 4, (what, found, level, purity)
    assert abs(level - LEVEL) < TOLERANCE, (what, found, level, purity)
    assert sound.has(other) < CROSSTALK, (what, sound.has(other))


async def test_each_side_hears_exactly_the_other(tmp_path: Path) -> None:
    calls = [(codec, CALLER, AGENT, NUMBER) for codec in CODECS]
    calls += [(codec, WIDE_CALLER, WIDE_AGENT, WIDE_NUMBER) for codec in WIDE]
    agents = {
        "narrow": {"kind": "phone_agents:Tone", "isolation": "host", "hertz": AGENT},
        "wide": {"kind": "phone_agents:Tone", "isolation": "host", "hertz": WIDE_AGENT, "format": "l16/16000"},
    }
    routes = [{"number": WIDE_NUMBER, "agent": "wide"}, {"number": "*", "agent": "narrow", "record": True}]
    codecs = ["pcmu", "pcma", "g722", "opus", "l16/16000", "l16/8000"]
    async with sip_gateway(
        tmp_path, trunk={"codecs": codecs}, pythonpath=HERE, agents=agents, routes=routes
    ) as gateway:
        phones = []
        for start in range(0, len(calls), 3):  # the machine may be a small one
            batch = enumerate(calls[start : start + 3], start)
            phones += await asyncio.gather(
                *(
                    _talk(gateway, tmp_path / f"phone{index}", index + 2, codec, hertz, number)
                    for index, (codec, hertz, _, number) in batch
                )
            )
        records = await gateway.over(len(calls))
    by_phone = {
        row["data"]["fields"]["from_uri"]: row["call_id"] for row in gateway.events() if "fields" in row["data"]
    }
    assert len(by_phone) == len(calls)
    for phone, (codec, hertz, played, number) in zip(phones, calls, strict=True):
        what = f"{codec} {hertz:g} Hz"
        _is(steady(phone.heard), played, hertz, what)
        id = by_phone[f"sip:alice@{phone.host}"]
        events = {row["event"]: row["data"] for row in gateway.events(id)}
        assert events["sip.media"]["codec"] == NAMES[codec]
        [heard] = gateway.notes("heard", id)
        assert abs(heard["hertz"] - hertz) < 4, (what, heard)
        assert abs(heard["level"] - LEVEL) < TOLERANCE, (what, heard)
        assert heard["share"] > 0.99, (what, heard)
        record = next(row for row in records if row["id"] == id)
        assert (record["status"], record["reason"], record["faults"]) == ("completed", "caller_hangup", 0), what
        assert events["media.quality"]["loss_percent"] == 0, (what, events["media.quality"])
        if number == NUMBER:
            for channel, own, other in ((0, hertz, played), (1, played, hertz)):
                recording = Sound.read(Path(record["recording_path"]), channel)
                _is(steady(recording), own, other, f"{what}, recording channel {channel}")


pytestmark = needs_baresip
