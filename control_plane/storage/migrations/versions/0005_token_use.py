"""When and from where API tokens were used last."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql, sqlite

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

EXACT: dict[str, Any] = {
    "sqlite_strict": True,
    "mysql_engine": "InnoDB",
    "mysql_default_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}
INT64 = sa.BigInteger().with_variant(sqlite.INTEGER(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "token_use",
        _column("token_id", _bytes(200), "the API token", primary_key=True),
        _column("used_us", INT64, "UTC microseconds of its last use, as far as it was written"),
        _column("address", _bytes(255), "where that came from, if it is known", nullable=True),
        **EXACT,
    )


def _bytes(length: int) -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary().with_variant(mysql.VARBINARY(length), "mysql", "mariadb")


def _column(name: str, type_: Any, comment: str, **options: Any) -> sa.Column[Any]:  # noqa: ANN401 - any column
    return sa.Column(name, type_, comment=comment, **{"nullable": False, **options})
