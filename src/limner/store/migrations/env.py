"""Run the migrations on the connection that `limner.store.db.migrate` passes in."""

from __future__ import annotations

from alembic import context

from limner.store.db.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter a column in place
)
with context.begin_transaction():
    context.run_migrations()
