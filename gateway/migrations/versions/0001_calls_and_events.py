"""Make the tables of calls and events."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_WHO = ("node", "carrier", "carrier_call_id", "direction", "from_number", "to_number", "route", "agent")
_END = ("status", "reason", "ended_by", "detail")


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False, server_default="")


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False, server_default="0")


def _moment(name: str, *, nullable: bool = True) -> sa.Column[datetime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "calls",
        sa.Column("id", sa.Text(), primary_key=True),
        *map(_text, (*_WHO, *_END)),
        _moment("offered_at", nullable=False),
        _moment("answered_at"),
        _moment("ended_at"),
        sa.Column("ring_seconds", sa.Float()),
        sa.Column("talk_seconds", sa.Float()),
        *map(_text, ("format", "transferred_to", "carrier_status", "carrier_cause")),
        _count("turns"),
        sa.Column("voice_to_voice_p50_ms", sa.Float()),
        sa.Column("voice_to_voice_p95_ms", sa.Float()),
        *map(_count, ("utterances", "barge_ins", "digits", "faults", "agent_failures")),
        *map(_text, ("recording_status", "recording_path")),
        sa.Column("recording_seconds", sa.Float()),
        sa.Column("recording_bytes", sa.BigInteger()),
        _text("recording_sha256"),
        _count("events"),
        _moment("last_at"),
    )
    op.create_index("ix_calls_node_status", "calls", ["node", "status"])
    for column in ("carrier_call_id", "from_number", "to_number", "offered_at"):
        op.create_index(f"ix_calls_{column}", "calls", [column])
    op.create_table(
        "events",
        sa.Column("call_id", sa.Text(), primary_key=True),
        sa.Column("seq", sa.BigInteger(), primary_key=True, autoincrement=False),
        _text("event"),
        sa.Column("at", sa.Float(53), nullable=False),
        sa.Column("mono", sa.Float(53), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("events")
    op.drop_table("calls")
