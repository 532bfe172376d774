"""The tables of the store and their migrations."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeDecorator

SCHEMA: Final = "0002"
"""The newest migration; a database that has it needs no alembic to start."""

MIGRATIONS: Final = Path(__file__).parent / "migrations"

_LOCK: Final = 0x0FF400C
"""Postgres advisory lock: of several nodes that start at once, one migrates."""


class Utc(TypeDecorator[datetime]):
    """An aware moment in UTC; SQLite, which knows no time zones, keeps it naive."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if not isinstance(value, datetime):
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


METADATA: Final = sa.MetaData()


def _text(name: str, **more: Any) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="", **more)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, server_default="0")


CALLS: Final = sa.Table(
    "calls",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    _text("node"),
    _text("carrier"),
    _text("carrier_call_id", index=True),
    _text("direction"),
    _text("from_number", index=True),
    _text("to_number", index=True),
    _text("route"),
    _text("agent"),
    _text("status"),
    _text("reason"),
    _text("ended_by"),
    _text("detail"),
    sa.Column("offered_at", Utc, nullable=False, index=True),
    sa.Column("answered_at", Utc),
    sa.Column("ended_at", Utc),
    sa.Column("ring_seconds", sa.Float),
    sa.Column("talk_seconds", sa.Float),
    _text("format"),
    _text("transferred_to"),
    _text("carrier_status"),
    _text("carrier_cause"),
    _count("turns"),
    sa.Column("voice_to_voice_p50_ms", sa.Float),
    sa.Column("voice_to_voice_p95_ms", sa.Float),
    _count("utterances"),
    _count("barge_ins"),
    _count("digits"),
    _count("faults"),
    _count("agent_failures"),
    _count("service_faults"),
    _count("takeovers"),
    _text("recording_status"),
    _text("recording_path"),
    sa.Column("recording_seconds", sa.Float),
    sa.Column("recording_bytes", sa.BigInteger),
    _text("recording_sha256"),
    _count("events"),
    sa.Column("last_at", Utc),
    sa.Index("ix_calls_node_status", "node", "status"),
)

EVENTS: Final = sa.Table(
    "events",
    METADATA,
    sa.Column("call_id", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    _text("event"),
    sa.Column("at", sa.Float(53), nullable=False),
    sa.Column("mono", sa.Float(53), nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
)


class StoreTooNew(Exception):
    """The database was made by a newer offhook."""


async def migrate(connection: AsyncConnection) -> None:
    """Bring the database to SCHEMA, inside the transaction of `connection`.

    Raises:
        StoreTooNew: it is ahead of us.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    await connection.run_sync(_migrate)


def _migrate(connection: Connection) -> None:
    if sa.inspect(connection).has_table("alembic_version"):
        found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        if found == SCHEMA:
            return
    from alembic import command  # needed once in the life of a database
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StoreTooNew(f"the database was made by a newer offhook ({error}); start that one") from error
