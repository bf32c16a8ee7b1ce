"""What Alembic runs: on the connection that `storage.migrate` gave it, within that one's transaction."""

from alembic import context

from control_plane.storage.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
