"""Every method of a model under its own name, on every database."""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path
from typing import Any

import anyio
import peewee
import pytest
from playhouse.shortcuts import ThreadSafeDatabaseMetadata

from async_peewee import AsyncModel, AsyncSqliteDatabase
from tests.support import Models, base_of


async def test_create_and_get(models: Models) -> None:
    """create() gives the row its key; get() by condition, by filter and by key gives an equal row."""
    User = models.User
    huey = await User.create(name="Huey", age=3)
    assert isinstance(huey, User)
    assert (huey.id, huey.is_dirty()) == (1, False)
    for row in (
        await User.get(User.name == "Huey"),
        await User.get(name="Huey"),
        await User.get(huey.id),
        await User.get_by_id(huey.id),
        await User[huey.id],
        await User.get_or_none(name="Huey"),
    ):
        assert (row, row.name, row.age) == (huey, "Huey", 3)


async def test_what_is_not_there(models: Models) -> None:
    """get(), get_by_id() and Model[key] raise the model's own DoesNotExist, get_or_none() gives None."""
    User = models.User
    for call in (User.get(name="nobody"), User.get_by_id(7), User[7]):
        with pytest.raises(User.DoesNotExist, match="matching query does not exist"):
            await call
    assert await User.get_or_none(User.id == 7) is None


async def test_get_or_create(models: Models) -> None:
    """It creates once, with the defaults, and then finds; inside a transaction it is a savepoint."""
    User = models.User
    huey, created = await User.get_or_create(name="Huey", defaults={"age": 3})
    assert (huey.age, created) == (3, True)
    async with models.database.atomic():
        assert await User.get_or_create(name="Huey", defaults={"age": 4}) == (huey, False)
    with pytest.raises(peewee.IntegrityError):
        await User.get_or_create(age=5, defaults={"name": "Huey"})
    assert await User.select().count() == 1


async def test_save(models: Models) -> None:
    """It inserts, then updates; `only` and dirty fields limit it; a duplicate raises IntegrityError."""
    User = models.User
    huey = User(name="Huey", age=3)
    assert await huey.save() == 1
    assert huey.id is not None
    huey.name, huey.age = "Zaizee", 4
    assert await huey.save(only=[User.age]) == 1
    assert (await User.get_by_id(huey.id)).name == "Huey"
    assert huey.dirty_fields == [User.name]
    assert await huey.save() == 1
    assert (await User.get_by_id(huey.id)).name == "Zaizee"
    assert await User(id=50, name="forced").save(force_insert=True) == 1
    with pytest.raises(peewee.IntegrityError):
        await User.create(name="forced")
    assert await User.select().count() == 2


async def test_methods_by_key(models: Models) -> None:
    """set_by_id() updates, or inserts without a key; delete_by_id() counts what it deleted."""
    User = models.User
    assert await User.set_by_id(None, {"name": "Huey"}) == 1
    assert await User.set_by_id(1, {"name": "Zaizee"}) == 1
    assert (await User[1]).name == "Zaizee"
    assert await User.delete_by_id(1) == 1
    assert await User.delete_by_id(1) == 0


async def test_bulk_methods(models: Models) -> None:
    """bulk_create() writes all rows in batches, bulk_update() one column of all of them."""
    User = models.User
    await User.bulk_create([User(name=str(n)) for n in range(5)], batch_size=2)
    rows = list(await User.select().order_by(User.id))
    for row in rows:
        row.age = 10 * int(row.name)
    assert await User.bulk_update(rows[1:], fields=[User.age], batch_size=3) == 4
    assert await User.select(User.age).order_by(User.id).scalars() == [0, 10, 20, 30, 40]


async def test_delete_instance(models: Models) -> None:
    """It refuses while rows point to this one, as the database does; recursive takes them with it."""
    User, Tweet = models.User, models.Tweet
    huey, mickey = await User.create(name="Huey"), await User.create(name="Mickey")
    for user in (huey, huey, mickey):
        await Tweet.create(user=user, text="meow")
    if not isinstance(models.database, AsyncSqliteDatabase):  # its foreign keys are off by default
        with pytest.raises(peewee.IntegrityError):
            await huey.delete_instance()
    assert await huey.delete_instance(recursive=True) == 1
    assert [tweet.user_id async for tweet in Tweet.select()] == [mickey.id]
    assert await huey.delete_instance() == 0


async def test_tables(models: Models) -> None:
    """table_exists, create_table, truncate_table and drop_table, and the database's methods for several."""
    User, Tweet, db = models.User, models.Tweet, models.database
    assert await User.table_exists()
    await User.create_table()  # safe by default
    with pytest.raises((peewee.OperationalError, peewee.ProgrammingError)):
        await User.create_table(safe=False)
    await Tweet.create(user=await User.create(name="Huey"), text="meow")
    await Tweet.truncate_table()
    assert await Tweet.select().count() == 0
    await Tweet.drop_table()
    assert not await Tweet.table_exists()
    assert await db.table_exists(User)
    await db.drop_tables(models.all)
    assert not await db.table_exists("users")
    await db.create_tables(models.all)
    assert {"users", "tweets"} <= set(await db.get_tables())
    assert [column.name for column in await db.get_columns("users")] == ["id", "name", "age"]
    assert await db.get_primary_keys("users") == ["id"]
    assert (await db.get_foreign_keys("tweets"))[0].dest_table == "users"
    assert any(index.unique for index in await db.get_indexes("users"))


async def test_composite_keys(db: Any) -> None:
    """get, save, update and delete by a key of two columns."""

    class Grade(base_of(db)):
        student = peewee.CharField()
        course = peewee.CharField()
        mark = peewee.IntegerField()

        class Meta:
            primary_key = peewee.CompositeKey("student", "course")

    await Grade.create_table()
    grade = await Grade.create(student="Huey", course="Hunting", mark=1)
    await Grade.create(student="Huey", course="Sleeping", mark=5)
    assert await Grade["Huey", "Hunting"] == await Grade.get_by_id(("Huey", "Hunting")) == grade
    grade.mark = 2
    assert await grade.save() == 1
    assert await Grade.select(Grade.mark).order_by(Grade.mark).scalars() == [2, 5]
    with pytest.raises(peewee.IntegrityError):
        await Grade.create(student="Huey", course="Hunting", mark=3)
    assert await grade.delete_instance() == 1
    assert await Grade.select().count() == 1


def test_a_model_with_its_own_key_has_no_id() -> None:
    """As in plain Peewee; a model without one has its automatic key."""

    class Page(AsyncModel):
        slug = peewee.TextField(primary_key=True)

    class Note(AsyncModel):
        text = peewee.TextField()

    assert not hasattr(Page, "id")
    assert not hasattr(Page(slug="a"), "id")
    assert Page._meta.primary_key is Page.slug
    assert Note(id=7).id == 7
    assert [*Note._meta.fields] == ["id", "text"]


class Threaded(ThreadSafeDatabaseMetadata):
    """A class of one's own made of it."""


class ThreadedBase(peewee.Model):
    """A plain model from which one may inherit it."""

    class Meta:
        model_metadata_class = Threaded


def threaded_meta() -> Any:
    return type("Item", (AsyncModel,), {"Meta": type("Meta", (), {"model_metadata_class": Threaded})})


def threaded_base() -> Any:
    return type("Item", (ThreadedBase, AsyncModel), {})


@pytest.mark.parametrize("make", [threaded_meta, threaded_base])
def test_a_database_for_each_thread_is_refused(make: Any) -> None:
    """When the class is made: half of its calls would go to the database that another thread has chosen."""
    with pytest.raises(TypeError, match=r"Item cannot have Threaded: .*await query\.execute\(database\)"):
        make()


async def test_another_database_by_query_and_by_model(tmp_path: Path) -> None:
    """What is written instead: both of the databases have what was meant for them."""

    class Item(AsyncModel):
        name = peewee.CharField()

        class Meta:
            database = AsyncSqliteDatabase(tmp_path / "main.db")

    class Other(Item):
        class Meta:
            database = AsyncSqliteDatabase(tmp_path / "other.db")
            table_name = "item"

    main, other = Item._meta.database, Other._meta.database  # type: ignore[attr-defined]
    async with main, other:
        await main.create_tables([Item])
        await other.create_tables([Other])
        await Other.create(name="by model")
        await Item.insert(name="by query").execute(other)
        assert await Item.select().count() == 0
        assert {item.name for item in await Item.select().execute(other)} == {"by model", "by query"}


async def test_a_database_for_each_task(tmp_path: Path) -> None:
    """Metadata of one's own that choose by a context variable: a call sees what its task has chosen."""
    databases = [AsyncSqliteDatabase(tmp_path / f"{n}.db") for n in range(2)]
    chosen: ContextVar[Any] = ContextVar("chosen", default=databases[0])

    class PerTask(peewee.Metadata):
        database = property(lambda self: chosen.get(), lambda self, value: None)

    class Item(AsyncModel):
        name = peewee.CharField()

        class Meta:
            model_metadata_class = PerTask

    async def work(n: int) -> None:
        chosen.set(databases[n])
        await databases[n].create_tables([Item])
        item = await Item.create(name="created")
        item.name = f"saved in {n}"
        await item.save()
        async with databases[n].atomic() as transaction:
            await Item.create(name="rolled back")
            await transaction.rollback()
        await Item.insert(name=f"inserted into {n}")
        assert {item.name async for item in Item.select()} == {f"saved in {n}", f"inserted into {n}"}

    async with databases[0], databases[1], anyio.create_task_group() as group:
        group.start_soon(work, 0)
        group.start_soon(work, 1)
