"""playhouse.reflection: models from a database, found on a worker."""

from __future__ import annotations

import peewee
import pytest
from playhouse.reflection import Introspector, generate_models, get_table_sql, introspect

from async_peewee import AsyncModel, BlockingCallError, aio
from tests.support import Models


async def test_introspection(models: Models) -> None:
    db = models.database
    found = await db.run(introspect, db)
    assert set(found.model_names) >= {"users", "tweets"}
    assert found.columns["users"]["age"].field_class is peewee.IntegerField
    assert [key.dest_table for key in found.foreign_keys["tweets"]] == ["users"]
    introspector = await db.run(Introspector.from_database, db)
    with pytest.raises(BlockingCallError, match=r"await db\."):
        introspector.introspect()
    assert "CREATE TABLE" in get_table_sql(models.User)


async def test_generated_models(models: Models) -> None:
    """They are plain models of Peewee: their queries run in db.run() or aio()."""
    db = models.database
    await models.User.create(name="Huey", age=3)
    generated = await db.run(generate_models, db, table_names=["users"])
    User = generated["users"]
    assert not issubclass(User, AsyncModel)
    assert await db.run(lambda: User.get(User.name == "Huey").age) == 3
    assert [user.name for user in await aio(User.select())] == ["Huey"]
    with pytest.raises(BlockingCallError, match=r"await db\.run\(function"):
        User.get()


async def test_a_generated_model_becomes_asynchronous_by_inheritance(models: Models) -> None:
    """A subclass with AsyncModel in front is a model like any other."""
    db = models.database
    await models.User.create(name="Huey", age=3)
    generated = (await db.run(generate_models, db, table_names=["users"]))["users"]
    User = type(
        "User", (AsyncModel, generated), {"Meta": type("Meta", (), {"table_name": "users", "database": db})}
    )
    assert (await User.get(User.name == "Huey")).age == 3  # type: ignore[attr-defined]
    assert (await User.create(name="Zaizee", age=2)).id == 2  # type: ignore[attr-defined]
