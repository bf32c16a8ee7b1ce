"""Hosts that ask to be let in without a token wait in a table of their own."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql, sqlite

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

EXACT: dict[str, Any] = {
    "sqlite_strict": True,
    "mysql_engine": "InnoDB",
    "mysql_default_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}

INT64 = sa.BigInteger().with_variant(sqlite.INTEGER(), "sqlite")
INT32 = sa.Integer().with_variant(sqlite.INTEGER(), "sqlite")
INT16 = sa.SmallInteger().with_variant(sqlite.INTEGER(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "pending_host",
        _column("place", INT32, "from 1; so many may wait at once", primary_key=True, autoincrement=False),
        _column("fingerprint", _bytes(64), "hex SHA-256 of the public key", unique=True),
        _column("hostname", _bytes(200), "the name that it asked for"),
        _column("public_key", _bytes(32), "Ed25519, raw"),
        _column("address", _bytes(64), "where it asked from", nullable=True),
        _column("asked_at", INT64, "Unix seconds; a day later it is over"),
        _column("refused", INT16, "1 where somebody has said no"),
        **EXACT,
    )


def _bytes(length: int) -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary().with_variant(mysql.VARBINARY(length), "mysql", "mariadb")


def _column(name: str, type_: Any, comment: str, **options: Any) -> sa.Column[Any]:  # noqa: ANN401 - any column
    return sa.Column(name, type_, comment=comment, **{"nullable": False, **options})
