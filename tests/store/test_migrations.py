from __future__ import annotations

import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, select, text

from limner.errors import BadInput
from limner.store.db.migrate import bring_up_to_date, upgrade
from limner.store.db.tables import HEAD, metadata, revision


def test_running_every_migration_makes_the_tables_that_the_code_uses():
    with create_engine("sqlite://").connect() as connection:
        upgrade(connection, None)
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert connection.scalar(select(revision.c.version_num)) == HEAD


def test_the_newest_migration_is_the_one_the_code_names():
    config = Config()
    config.set_main_option("script_location", "limner.store:migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_a_new_database_gets_the_same_tables_without_alembic(tmp_path):
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    script = (
        "import sys; from limner.store.jobs import JobStore\n"
        "JobStore.open(sys.argv[1]).close(); JobStore.open(sys.argv[1]).close()\n"
        "sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script, url], check=False).returncode == 0
    with create_engine(url).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_tables_without_a_revision_are_not_taken_for_current():
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        connection.execute(text("create table jobs (id integer)"))
    with pytest.raises(Exception, match="jobs already exists"):
        bring_up_to_date(engine)


def test_a_database_of_a_newer_version_is_refused_untouched(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'jobs.db'}")
    bring_up_to_date(engine)
    with engine.begin() as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    with pytest.raises(BadInput, match="newer version"):
        bring_up_to_date(engine)
