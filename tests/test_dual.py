"""Dual methods: one name, and the place of the call decides; overrides, mixins, foreign databases."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peewee
import pytest
from playhouse import migrate, signals
from playhouse.dataset import DataSet
from playhouse.kv import KeyValue
from playhouse.reflection import Introspector

from async_peewee import (
    AsyncModel,
    AsyncSqliteDatabase,
    BlockingCallError,
    PendingCall,
    blocking,
)
from async_peewee._bridge.dual import is_dual
from tests.support import Models, in_thread, worker_threads


def place() -> str:
    """Return the kind of thread that this runs on."""
    return "worker" if threading.current_thread().name in worker_threads() else "elsewhere"


# -- where a method runs --------------------------------------------------------------


async def test_the_place_of_the_call_decides(models: Models) -> None:
    """A method looked up on the loop is pending there, and Peewee's own on a worker and on a plain thread."""
    User, db = models.User, models.database
    create, count = User.create, User.select().count
    pending = create(name="a")
    assert isinstance(pending, PendingCall)
    assert (await pending).name == "a"

    def use() -> tuple[str, int]:
        return create(name=place()).name, count()

    def use_and_close() -> Any:
        with db.connection_context():
            return use()

    assert await db.run(use) == ("worker", 2)
    assert await in_thread(use_and_close) == ("elsewhere", 3)


def test_a_plain_script_needs_no_event_loop(make_database: Any) -> None:
    """Models, queries, blocks, keys and back-references are Peewee's own where no loop runs."""
    db = make_database()
    models = Models(db)
    with db.connection_context():
        db.create_tables(models.all)
        with db.atomic():
            huey = models.User.create(name="Huey")
            models.Tweet.create(user=huey, text="meow")
        assert models.Tweet.get().user.name == "Huey"
        assert [tweet.text for tweet in huey.tweets] == ["meow"]
        assert (len(models.User), huey.id in models.User, models.User[huey.id]) == (1, True, huey)
        assert models.User.select()[0] == next(models.User.select().iterator()) == huey
    assert db.is_closed()
    assert worker_threads() == []


# -- Peewee's own code ----------------------------------------------------------------


class Plain(peewee.Model):
    """A model that knows nothing of us."""

    name = peewee.TextField()


PEEWEES: dict[str, Callable[[Models], Any]] = {
    "schema": lambda m: m.User._schema.create_all(),
    "migrate": lambda m: migrate.migrate(migrate.SchemaMigrator(m.database).drop_column("users", "age")),
    "introspector": lambda m: Introspector.from_database(m.database).introspect(),
    "key-value store": lambda m: KeyValue(database=m.database)["a"],
    "data set": lambda m: DataSet(m.database),
    "prefetch": lambda m: peewee.prefetch(m.User.select(), m.Tweet),
    "plain model": lambda m: make_plain_row(m),
    "table": lambda m: list(peewee.Table("users").bind(m.database).select()),
    "table insert": lambda m: peewee.Table("users").bind(m.database).insert(name="x").execute(),
}


def make_plain_row(models: Models) -> Any:
    with Plain.bind_ctx(models.database):
        return Plain.create(name="x")


@pytest.mark.parametrize("call", PEEWEES.values(), ids=PEEWEES)
async def test_peewees_own_calls_are_refused_on_the_loop(
    sqlite_models: Models, call: Callable[[Models], Any]
) -> None:
    """They raise at once and drop no pending call, which would warn; on a worker they go through."""
    with pytest.raises(BlockingCallError, match=r"await db\.run\(function|async for row in query"):
        call(sqlite_models)
    gc.collect()


async def test_playhouse_works_in_db_run(sqlite_models: Models) -> None:
    """Migrations, introspection, the key-value store and the data set run on a worker as they are."""
    db, User = sqlite_models.database, sqlite_models.User
    migrator = migrate.SqliteMigrator(db)
    await db.run(migrate.migrate, migrator.add_column("users", "born", peewee.IntegerField(null=True)))
    assert "born" in [column.name for column in await db.get_columns("users")]
    assert "users" in (await db.run(Introspector.from_database(db).introspect)).model_names

    def use_stores() -> list[Any]:
        store = KeyValue(database=db, key_field=peewee.TextField(primary_key=True))
        store["a"] = 1
        data = DataSet(db)
        data["users"].insert(name="Huey", age=3)
        return [store["a"], [row["name"] for row in data["users"].all()]]

    assert await db.run(use_stores) == [1, ["Huey"]]
    assert await User.select().count() == 1


# -- overrides ------------------------------------------------------------------------


async def test_an_override_runs_whole_on_the_worker(sqlite_models: Models) -> None:
    """`super().save()` in it is Peewee's own and returns its result; create() goes through it."""
    places = []

    class Shouting(sqlite_models.User):
        class Meta:
            table_name = "users"

        def save(self, *args: Any, **kwargs: Any) -> Any:
            places.append(place())
            self.name = self.name.upper()
            rows = super().save(*args, **kwargs)
            assert rows == 1
            assert type(self).select().where(type(self).name == self.name).exists()
            return rows

        @classmethod
        def get_by_id(cls, key: Any) -> Any:
            return super().get_by_id(key), place()

    user = await Shouting.create(name="huey")
    assert await Shouting[user.id] == (user, "worker")
    user.name = "zaizee"
    assert await user.save() == 1
    assert {user.name async for user in Shouting.select()} == {"ZAIZEE"}
    assert places == ["worker", "worker"]


async def test_mixins_and_diamonds_keep_their_order(sqlite_models: Models) -> None:
    """Plain mixins before and after the model, and two branches of a diamond, all run, each once."""
    steps: list[str] = []

    class Step:
        """A mixin that knows nothing of Peewee."""

        def save(self, *args: Any, **kwargs: Any) -> Any:
            steps.append(f"Step {place()}")
            return super().save(*args, **kwargs)  # type: ignore[misc]

        def delete_instance(self, *args: Any, **kwargs: Any) -> Any:
            steps.append("Step delete")
            return super().delete_instance(*args, **kwargs)  # type: ignore[misc]

    class Mixed(Step, sqlite_models.User):
        class Meta:
            table_name = "users"

    class Left(Mixed):
        class Meta:
            table_name = "users"

        def save(self, *args: Any, **kwargs: Any) -> Any:
            steps.append("Left")
            return super().save(*args, **kwargs)

    class Other(Step):
        def save(self, *args: Any, **kwargs: Any) -> Any:
            steps.append("Other")
            return super().save(*args, **kwargs)

    class Diamond(Left, Other):
        class Meta:
            table_name = "users"

    user = await Mixed.create(name="a")
    assert await user.delete_instance() == 1
    assert steps == ["Step worker", "Step delete"]
    steps.clear()
    assert await (await Diamond.create(name="b")).save() == 1
    # Left, then what Diamond's linearization has after it.
    assert steps == ["Left", "Other", "Step worker"] * 2


@pytest.mark.parametrize("first", ["signals", "ours"])
async def test_signals(sqlite_db: AsyncSqliteDatabase, first: str) -> None:
    """Handlers of playhouse.signals run on the worker around the call, in either order of the bases."""
    bases = (signals.Model, AsyncModel) if first == "signals" else (AsyncModel, signals.Model)
    Noisy: Any = type(
        "Noisy",
        bases,
        {"name": peewee.TextField(), "Meta": type("Meta", (), {"database": sqlite_db})},
    )
    heard: list[Any] = []
    for name in ("pre_save", "post_save", "pre_delete", "post_delete"):
        getattr(signals, name).connect(_handler(heard, name), name=f"{name} {first}", sender=Noisy)
    await Noisy.create_table()
    row = await Noisy.create(name="a")
    await row.delete_instance()
    assert heard == [("pre_save", 0), ("post_save", 1), ("pre_delete", 1), ("post_delete", 0)]


def _handler(heard: list[Any], name: str) -> Any:
    def handler(sender: Any, instance: Any, **_: Any) -> None:
        # It may use the database like any synchronous code.
        assert place() == "worker"
        heard.append((name, sender.select().count()))

    return handler


@pytest.mark.parametrize("name", ["save", "create", "delete_instance", "get_or_create"])
def test_an_async_override_is_refused_when_the_class_is_made(name: str) -> None:
    """Peewee would call it on the worker and drop its coroutine; the error says how to write it."""

    async def override(self: Any) -> None: ...

    async def generator(self: Any) -> Any:
        yield

    for function in (override, classmethod(override), generator):
        with pytest.raises(TypeError, match=f"Wrong.{name} cannot be async.*plain method"):
            type("Wrong", (AsyncModel,), {name: function})


async def test_blocking_makes_a_method_dual(sqlite_models: Models) -> None:
    """The whole method runs on a worker in one hop, inside the task's transaction; elsewhere it is plain."""
    db = sqlite_models.database

    class Poster(sqlite_models.User):
        class Meta:
            table_name = "users"

        @blocking
        def post(self, text: str, *, times: int = 1) -> str:
            """Write the same tweet several times."""
            for _ in range(times):
                sqlite_models.Tweet.create(user=self, text=text)
            return place()

        @classmethod
        @blocking
        def count(cls) -> int:
            return cls.select().count() if place() == "worker" else -1

    poster = await Poster.create(name="Huey")
    assert await poster.post("meow", times=2) == "worker"
    assert await Poster.count() == 1
    assert Poster.post.__doc__ == "Write the same tweet several times."
    with pytest.raises(ValueError, match="roll back"):
        async with db.atomic():
            await poster.post("lost")
            raise ValueError("roll back")
    assert await poster.tweets.count() == 2
    assert await db.run(poster.post, "on a worker already") == "worker"

    async def wrong(self: Any) -> None: ...

    with pytest.raises(TypeError, match="async already"):
        blocking(wrong)


# -- other databases ------------------------------------------------------------------


async def test_peewees_classes_are_untouched(sqlite_models: Models, tmp_path: Path) -> None:
    """No class of Peewee is dual, and a plain model on a plain database works on the loop as it ever did."""
    classes = (peewee.Model, peewee.ModelSelect, peewee.SqliteDatabase, peewee._atomic, peewee._transaction)
    for cls in classes:
        assert not [name for name in dir(cls) if is_dual(getattr(cls, name))]
    assert peewee.ForeignKeyField.accessor_class is peewee.ForeignKeyAccessor
    with Plain.bind_ctx(db := peewee.SqliteDatabase(tmp_path / "plain.db")), db:
        Plain.create_table()
        assert Plain.create(name="a") == Plain.get() == list(Plain.select())[0] == Plain.select()[0]  # noqa: RUF015


async def test_a_synchronous_database_is_told_apart(tmp_path: Path) -> None:
    """On the loop each call names the class of the database that cannot do it; elsewhere it works."""
    db = peewee.SqliteDatabase(tmp_path / "plain.db")
    models = Models(db)  # type: ignore[arg-type]
    calls = [models.User.create, models.User().save, models.User.select().count, lambda: models.User[1]]
    for call in calls:
        with pytest.raises(peewee.InterfaceError, match="SqliteDatabase is not an asynchronous database"):
            call()

    def use() -> int:
        with db:
            db.create_tables(models.all)
            models.User.create(name="a")
            return len(models.User)

    assert await in_thread(use) == 1


async def test_no_database_is_said_at_the_call(sqlite_models: Models) -> None:
    """A model without a database, and one on a proxy that stands for nothing yet."""
    homeless: Any = type("Homeless", (AsyncModel,), {})
    proxy = peewee.DatabaseProxy()
    proxied: Any = type("Proxied", (AsyncModel,), {"Meta": type("Meta", (), {"database": proxy})})
    for model in (homeless, proxied):
        with pytest.raises(peewee.InterfaceError, match="no database is set"):
            model.create()
    proxy.initialize(sqlite_models.database)
    await proxied.create_table()
    await proxied.insert({}).execute()
    assert await proxied.select().count() == len(await proxied.select()) == 1


async def test_a_database_argument_decides_where_a_query_goes(sqlite_models: Models, tmp_path: Path) -> None:
    """`execute(other)`, `count(other)` and the like ask another database than the model's own."""
    User = sqlite_models.User
    async with AsyncSqliteDatabase(tmp_path / "other.db") as other:

        def fill() -> None:
            with other.connection_context(), other.bind_ctx(sqlite_models.all):
                other.create_tables(sqlite_models.all)
                User.create(name="in the other")

        await in_thread(fill)
        threads: set[str] = set()
        other.query_hooks.append(lambda event: threads.add(threading.current_thread().name))
        query = User.select()
        assert (await query.count(), await query.count(other), await query.count(database=other)) == (0, 1, 1)
        assert [user.name for user in await User.select().execute(other)] == ["in the other"]
        assert [user.name async for user in User.select().iterator(other)] == ["in the other"]
        assert all("other.db" in thread for thread in threads)


async def test_two_threads_have_connections_of_their_own(sqlite_models: Models) -> None:
    """What a plain thread has open says nothing of the loop's pool, and the other way round."""
    db = sqlite_models.database

    def use() -> bool:
        assert db.is_closed()
        db.connect()
        try:
            return db.is_closed() or db.in_transaction()
        finally:
            db.close()

    async with db.atomic():
        assert await in_thread(use) is False
        assert db.in_transaction()
    assert not db.is_closed()
