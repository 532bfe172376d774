"""Count the faults of services and the agents that took a call over."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_COUNTS = ("service_faults", "takeovers")


def upgrade() -> None:
    """Add the columns; calls of before have none."""
    for name in _COUNTS:
        op.add_column("calls", sa.Column(name, sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Drop them."""
    for name in _COUNTS:
        op.drop_column("calls", name)
