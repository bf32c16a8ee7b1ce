"""A log that has lost its end is closed until somebody has decided."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    reason = sa.LargeBinary().with_variant(mysql.VARBINARY(255), "mysql", "mariadb")
    op.add_column("log_head", sa.Column("closed", reason, comment="why nothing may be appended, where its end is lost"))
