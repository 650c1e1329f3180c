"""Bring a database's tables to the newest revision; alembic is imported only when one has to be changed."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from sqlalchemy import insert, inspect, select

from limner.errors import BadInput
from limner.store.db.tables import HEAD, metadata, revision

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine


def bring_up_to_date(engine: Engine) -> None:
    """Make the tables of an empty database, migrate those of an older one, leave a current one alone.

    Raises BadInput when the database is of a newer Limner than this one.
    """
    with engine.begin() as connection:
        present = set(inspect(connection).get_table_names())
        found = connection.scalar(select(revision.c.version_num)) if revision.name in present else None
        if found == HEAD:
            return
        if found is None and not present & set(metadata.tables):
            # The same tables as running every migration (held by a test), a quarter of a second sooner.
            metadata.create_all(connection)
            revision.create(connection, checkfirst=True)
            connection.execute(insert(revision).values(version_num=HEAD))
            return
        upgrade(connection, found)


def upgrade(connection: Connection, found: str | None, target: str = "head") -> None:
    """Run alembic from the database's revision `found` to `target` on an open connection."""
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(files("limner.store") / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise BadInput(
            f"The database is at revision {found}, which this version does not know.",
            why=f"It was written by a newer version; this one knows {', '.join(sorted(known))}.",
            do="Update Limner, or choose another file with --database-url.",
        )
    command.upgrade(config, target)
