"""playhouse.signals: handlers run where Peewee runs them, which is on the worker, in the transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import peewee
import pytest
from playhouse import signals

from async_peewee import AsyncModel
from tests.support import in_thread


async def noisy_on(db: Any) -> Any:
    """Return a model with signals, its table created."""

    class Noisy(signals.Model, AsyncModel):
        name = peewee.TextField()

        class Meta:
            pass

    Noisy._meta.database = db  # type: ignore[attr-defined]
    await db.create_tables([Noisy])
    return Noisy


@pytest.fixture
async def noisy(db: Any) -> Any:
    return await noisy_on(db)


@pytest.fixture
async def noisy_sqlite(sqlite_db: Any) -> Any:
    return await noisy_on(sqlite_db)


async def test_every_signal_is_sent(noisy: Any) -> None:
    """Around awaited calls the handlers use the database like any synchronous code."""
    heard: list[Any] = []
    for name in ("pre_init", "pre_save", "post_save", "pre_delete", "post_delete"):

        def handler(sender: Any, instance: Any, created: Any = None, name: str = name) -> None:
            heard.append((name, created, None if name == "pre_init" else sender.select().count()))

        getattr(signals, name).connect(handler, sender=noisy)
    row = await noisy.create(name="a")
    row.name = "b"
    await row.save()
    assert await row.delete_instance() == 1
    assert heard == [
        *(("pre_init", None, None), ("pre_save", True, 0), ("post_save", True, 1)),
        *(("pre_save", False, 1), ("post_save", False, 1)),
        *(("pre_delete", None, 1), ("post_delete", None, 0)),
    ]


async def test_a_handler_that_raises_ends_the_transaction(noisy: Any) -> None:
    """Its error arrives where the call is awaited; what it wrote is rolled back with the block."""

    @signals.post_save(sender=noisy)
    def refuse(sender: Any, instance: Any, created: bool) -> None:
        sender.insert(name="a note about it").execute()
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        async with noisy._meta.database.atomic():
            await noisy.create(name="a")
    assert await noisy.select().count() == 0


ran: list[Any] = []


async def note(*args: Any, **kwargs: Any) -> None:
    ran.append(args)


async def note_in_turn(*args: Any, **kwargs: Any) -> AsyncIterator[None]:
    yield ran.append(args)


class Noter:
    """An object that is called as a handler."""

    async def __call__(self, *args: Any, **kwargs: Any) -> None:
        ran.append(args)

    async def method(self, *args: Any, **kwargs: Any) -> None:
        ran.append(args)


HANDLERS = {
    "async generator": note_in_turn,
    "partial": partial(note, "more"),
    "object": Noter(),
    "method": Noter().method,
}


USES: dict[str, Callable[[Any], Any]] = {
    "pre_init": lambda noisy: noisy(name="b"),
    "pre_save": lambda noisy: noisy.create(name="b"),
    "post_save": lambda noisy: noisy.create(name="b"),
    "pre_delete": lambda noisy: next(iter(noisy.select())).delete_instance(),
    "post_delete": lambda noisy: next(iter(noisy.select())).delete_instance(),
}


@pytest.mark.parametrize(
    ("name", "handler"),
    [*((name, note) for name in USES), *(("post_save", handler) for handler in HANDLERS.values())],
)
async def test_an_async_handler_is_refused(noisy_sqlite: Any, name: str, handler: Any) -> None:
    """Before anything is done, on every thread, with what to write; connected to all or to a base as well."""
    db, signal, use = noisy_sqlite._meta.database, getattr(signals, name), USES[name]
    await noisy_sqlite.create(name="a")
    for sender in (noisy_sqlite, None, signals.Model):
        signal.connect(handler, name="note", sender=sender)
        try:
            for where in (db.run, in_thread):
                with pytest.raises(TypeError, match=rf"{name} of Noisy and is async.*db\.after_commit\("):
                    await where(lambda: db.connection_context()(use)(noisy_sqlite))
        finally:
            signal.disconnect(name="note", sender=sender)
    assert (await noisy_sqlite.select().count(), ran) == (1, [])


async def test_a_call_on_the_loop_refuses_it_too(noisy_sqlite: Any) -> None:
    """The awaited call does, of a subclass as well; the handlers of another model do not matter."""

    class Louder(noisy_sqlite):  # type: ignore[misc, valid-type]
        pass

    class Other(signals.Model, AsyncModel):
        class Meta:
            database = noisy_sqlite._meta.database

    await noisy_sqlite._meta.database.create_tables([Louder, Other])
    signals.post_save(sender=noisy_sqlite)(note)
    for model in (noisy_sqlite, Louder):
        with pytest.raises(TypeError, match=r"note is connected to post_save"):
            await model.create(name="a")
        assert await model.select().count() == 0
    await Other.create()


@pytest.mark.parametrize("commits", [True, False])
async def test_a_handler_has_its_coroutine_awaited_after_the_commit(noisy_sqlite: Any, commits: bool) -> None:
    """What the refusal says to write: on the loop, in a block when that is over, never after a rollback."""
    db, awaited = noisy_sqlite._meta.database, []

    async def announce(name: str) -> None:
        awaited.append((name, await noisy_sqlite.select().count()))

    @signals.post_save(sender=noisy_sqlite)
    def hand_over(sender: Any, instance: Any, created: bool) -> None:
        db.after_commit(partial(announce, instance.name))

    async with db.atomic() as transaction:
        await noisy_sqlite.create(name="a")
        assert awaited == []
        if not commits:
            await transaction.rollback()
    assert awaited == ([("a", 1)] if commits else [])
    await noisy_sqlite.create(name="b")
    await db.run(db.atomic()(noisy_sqlite.create), name="c")
    assert [name for name, _ in awaited[-2:]] == ["b", "c"]
