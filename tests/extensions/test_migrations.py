"""playhouse.migrate, migrations and schema_diff: changes of the schema, on a worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peewee
import pytest
from playhouse.migrate import SchemaMigrator, migrate
from playhouse.migrations import MigrationError, Runner
from playhouse.schema_diff import diff_models

from async_peewee import BlockingCallError
from tests.support import Models


def columns(models: Models) -> Any:
    database = models.database
    return database.run(lambda: [column.name for column in database.get_columns("users")])


async def test_migrate(models: Models) -> None:
    """The operations are built on the loop, and run on a worker."""
    db = models.database
    migrator = SchemaMigrator.from_database(db)
    operations = [
        migrator.add_column("users", "born", peewee.IntegerField(null=True)),
        migrator.rename_column("users", "age", "years"),
        migrator.add_index("users", ("years",), unique=False),
    ]
    with pytest.raises(BlockingCallError, match=r"await db\.run\(function"):
        migrate(*operations)
    await db.run(migrate, *operations)
    assert await columns(models) == ["id", "name", "years", "born"]
    await db.run(migrate, migrator.drop_column("users", "born"))
    assert await columns(models) == ["id", "name", "years"]


async def test_a_migration_is_rolled_back_with_its_block(sqlite_models: Models) -> None:
    """SQLite and PostgreSQL change the schema in transactions."""
    db = sqlite_models.database
    migrator = SchemaMigrator.from_database(db)
    with pytest.raises(ValueError, match="roll back"):
        async with db.atomic():
            await db.run(migrate, migrator.add_column("users", "born", peewee.IntegerField(null=True)))
            raise ValueError("roll back")
    assert await columns(sqlite_models) == ["id", "name", "age"]


MIGRATION = """
import peewee
from playhouse.migrate import migrate

def up(migrator, db):
    migrate(migrator.add_column("users", "{0}", peewee.TextField(null=True)))

def down(migrator, db):
    migrate(migrator.drop_column("users", "{0}"))
"""


async def test_migrations_from_files(models: Models, tmp_path: Path) -> None:
    """A Runner is made, applies, reports and reverts on a worker; its history is in the database."""
    db = models.database
    runner = await db.run(Runner, db, str(tmp_path))
    for name in ("first", "second"):
        await db.run(runner.create, name, MIGRATION.format(name))
    assert await db.run(runner.up, "0001_first") == ["0001_first"]
    assert await db.run(runner.up) == ["0002_second"]
    assert [bool(migration.applied) for migration in await db.run(runner.status)] == [True, True]
    assert await columns(models) == ["id", "name", "age", "first", "second"]
    assert await db.run(runner.down) == ["0002_second"]
    assert await columns(models) == ["id", "name", "age", "first"]
    with pytest.raises(MigrationError, match="unknown migration"):
        await db.run(runner.up, "0003_third")
    await db.run(runner.History.drop_table)


async def test_diff_models(models: Models) -> None:
    """What differs between models and tables is found on a worker."""
    db = models.database
    assert not await db.run(diff_models, db, models.all)
    await db.execute_sql("ALTER TABLE users ADD COLUMN extra INTEGER")
    difference = await db.run(diff_models, db, models.all)
    assert list(difference.drop_columns) == [("users", "extra")]
