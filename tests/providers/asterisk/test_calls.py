"""What a dialplan tells of a call, and ids that are good once."""

from __future__ import annotations

import uuid

from offhook.providers.asterisk.calls import (
    ID_LIFE,
    MAX_FIELD,
    MAX_FIELDS,
    MAX_IDS,
    AudioSocketIds,
    call_fields,
    incoming_call,
)


def test_numbers_as_dialplans_write_them() -> None:
    call = incoming_call("x", {"from": " 15550001111", "to": "100"}, "+15559990000")
    assert (call.from_number, call.to_number) == ("+15550001111", "100")
    call = incoming_call("x", {}, "+15559990000")
    assert (call.from_number, call.to_number, call.direction) == ("anonymous", "+15559990000", "inbound")


def test_a_call_of_ours() -> None:
    call = incoming_call("x", {"direction": "outbound", "channel": "our-id", "from": "a", "to": "b"}, "")
    assert (call.direction, call.outbound_id) == ("outbound", "our-id")


def test_fields_are_bounded() -> None:
    found = call_fields({f"k{n}": "v" * 5000 for n in range(500)}, {"OFFHOOK_A": "1", "PATH": "/"})
    assert len(found) == MAX_FIELDS
    assert found["a"] == "1"
    assert len(found["k0"]) == MAX_FIELD
    assert "PATH" not in found


def test_an_id_is_good_once() -> None:
    ids = AudioSocketIds()
    id = ids.issue("+15550001111", "100", {"channel": "17.1"}, now=10.0)
    assert str(uuid.UUID(id)) == id
    assert ids.redeem("0f2d3c4b-5a69-4788-96a5-b4c3d2e1f001", 10.0) is None
    call = ids.redeem(id, 10.5)
    assert call is not None
    assert (call.carrier_call_id, call.from_number, call.to_number) == (id, "+15550001111", "100")
    assert call.fields == {"channel": "17.1", "from": "+15550001111", "to": "100"}
    assert ids.redeem(id, 10.6) is None


def test_an_id_is_good_for_seconds() -> None:
    ids = AudioSocketIds()
    id = ids.issue("", "100", {}, now=10.0)
    assert ids.redeem(id, 10.0 + ID_LIFE) is None
    id = ids.issue("", "100", {}, now=10.0)
    assert ids.redeem(id, 10.0 + ID_LIFE - 0.01) is not None


def test_ids_that_wait_are_bounded() -> None:
    ids = AudioSocketIds()
    first, *_, last = [ids.issue("", "100", {}, now=1.0) for _ in range(MAX_IDS + 1)]
    assert ids.redeem(first, 1.0) is None
    assert ids.redeem(last, 1.0) is not None
    ids.issue("", "100", {}, now=100.0)
    assert len(ids._waiting) == 1
