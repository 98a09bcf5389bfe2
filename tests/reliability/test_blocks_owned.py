"""Blocks have an owner each: one object for several tasks, an order of leaving, dropped generators."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio
import peewee
import pytest

from async_peewee import TransactionFinished
from tests.support import Maker, Models, wait_until

# trio warns of generators that are dropped, whatever they hold.
dropping = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")


@contextlib.asynccontextmanager
async def models_of(make_database: Maker, **settings: Any) -> AsyncIterator[Models]:
    """Give models on a database, and look at its pool at the end."""
    async with make_database(**{"pool_size": 3, "acquire_timeout": 10, **settings}) as database:
        models = Models(database)
        await database.create_tables(models.all)
        yield models
        gc.collect()
        await wait_until(lambda: database.stats().idle == database.stats().workers)
        database.connections.pools.get().check()
        assert not database.in_transaction()


async def names(models: Models) -> set[str]:
    return {user.name for user in await models.User.select()}


def block_of(models: Models, spelling: str) -> Any:
    """Return a block that may be open several times at once, on SQLite too."""
    arguments = ["DEFERRED"] if "Sqlite" in type(models.database).__name__ and spelling != "savepoint" else []
    return getattr(models.database, spelling)(*([] if spelling == "connection_context" else arguments))


# -- one object -----------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["atomic", "transaction", "savepoint", "connection_context"])
async def test_one_object_entered_by_several_tasks_at_once(make_database: Maker, spelling: str) -> None:
    """Each has a connection of its own, and an error in one takes no row of another."""
    async with models_of(make_database) as models:
        block, workers, all_in = block_of(models, spelling), [], anyio.Event()
        left = [anyio.Event() for _ in range(4)]
        left[0].set()

        async def use(number: int) -> None:
            around = block_of(models, "atomic") if spelling == "savepoint" else contextlib.nullcontext()
            with contextlib.suppress(KeyError):
                async with around, block:
                    workers.append(await models.database.run(threading.get_ident))
                    if len(workers) == 3:
                        all_in.set()
                    await all_in.wait()
                    await left[number].wait()  # SQLite has one writer
                    await models.User.create(name=str(number))
                    if number == 1:
                        raise KeyError
            left[number + 1].set()

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(use, number)
        assert len(set(workers)) == 3
        is_transaction = spelling != "connection_context"
        assert await names(models) == ({"0", "2"} if is_transaction else {"0", "1", "2"})


async def test_one_object_entered_again_and_again(make_database: Maker) -> None:
    """After a commit, after an error, and inside of itself, where it is a savepoint."""
    async with models_of(make_database) as models:
        block = models.database.atomic()
        async with block:
            await models.User.create(name="first")
        with pytest.raises(KeyError):
            async with block:
                await models.User.create(name="failed")
                raise KeyError
        async with block:
            await models.User.create(name="outer")
            with pytest.raises(KeyError):
                async with block:
                    await models.User.create(name="inner")
                    raise KeyError
            async with block:
                await models.User.create(name="second inner")
        assert await names(models) == {"first", "outer", "second inner"}
        with pytest.raises(peewee.InterfaceError, match="was not entered"):
            await block.__aexit__(None, None, None)


@pytest.mark.parametrize("inner", ["savepoint", "atomic", "transaction"])
async def test_nested_blocks_left_out_of_order(make_database: Maker, inner: str) -> None:
    """An error that names both, nothing is committed, and the task is outside of both."""
    async with models_of(make_database) as models:
        around = models.database.transaction()
        inside = getattr(models.database, inner)()
        await around.__aenter__()
        await inside.__aenter__()
        await models.User.create(name="lost")
        with pytest.raises(
            peewee.InterfaceError, match=rf"transaction\(\) was left before {inner}\(\).*both are rolled back"
        ):
            await around.__aexit__(None, None, None)
        with pytest.raises(TransactionFinished):
            await models.User.create(name="in the inner one")
        with pytest.raises(TransactionFinished):
            await inside.__aexit__(None, None, None)
        await models.User.create(name="outside")
        assert await names(models) == {"outside"}


async def test_three_blocks_left_from_the_middle(make_database: Maker) -> None:
    """The one around them is not touched: it goes on, and commits what is its own."""
    async with models_of(make_database) as models:
        async with models.database.atomic():
            await models.User.create(name="outer")
            middle, inside = models.database.atomic(), models.database.savepoint()
            await middle.__aenter__()
            await inside.__aenter__()
            await models.User.create(name="lost")
            with pytest.raises(peewee.InterfaceError, match=r"atomic\(\) was left before savepoint\(\)"):
                await middle.__aexit__(None, None, None)
            with pytest.raises(TransactionFinished):
                await inside.__aexit__(None, None, None)
            await models.User.create(name="outer again")
        assert await names(models) == {"outer", "outer again"}


# -- generators with a block inside ---------------------------------------------------------


async def values(models: Models) -> AsyncIterator[int]:
    """Hold a block from the first value to the last."""
    async with models.database.atomic():
        await models.User.create(name="of the generator")
        for number in range(10):
            yield number


async def write(models: Models, name: str, kept: set[str]) -> None:
    """Create a row, and note that it must be there; or be refused with a sentence."""
    try:
        await models.User.create(name=name)
    except TransactionFinished as error:
        assert "aclosing" in str(error)
    else:
        kept.add(name)


@dropping
@pytest.mark.parametrize("closing", ["later", "first"])
async def test_a_row_after_a_break_is_kept_or_refused(make_database: Maker, closing: str) -> None:
    """Never lost silently, whether the loop (trio: a system task) closes the generator before or after it."""
    async with models_of(make_database) as models:
        kept: set[str] = set()
        async for _ in values(models):
            break
        if closing == "first":
            await anyio.wait_all_tasks_blocked()
        for number in range(3):
            await write(models, str(number), kept)
        assert kept >= ({"0", "1", "2"} if closing == "first" else {"2"})
        await wait_until(lambda: models.database.stats().leased == 0)
        assert await names(models) == kept


@dropping
@pytest.mark.parametrize("closing", ["later", "first"])
async def test_a_row_after_a_break_inside_a_block(make_database: Maker, closing: str) -> None:
    """The generator's block is a savepoint of the caller's: what that writes then is kept or refused."""
    async with models_of(make_database) as models:
        kept: set[str] = set()
        async with models.database.atomic():
            await write(models, "before", kept)
            async for _ in values(models):
                break
            if closing == "first":
                await anyio.wait_all_tasks_blocked()
            for number in range(3):
                await write(models, str(number), kept)
        assert kept >= ({"before", "0", "1", "2"} if closing == "first" else {"before", "2"})
        assert await names(models) == kept


@dropping
@pytest.mark.parametrize("around", [False, True], ids=["outside", "inside"])
async def test_a_block_after_a_break(make_database: Maker, around: bool) -> None:
    """The caller's next block is entered or refused, and commits or says that it did not."""
    async with models_of(make_database) as models:
        kept: set[str] = set()
        async with models.database.atomic() if around else contextlib.nullcontext():
            async for _ in values(models):
                break
            for number in range(3):
                written: set[str] = set()
                try:
                    async with models.database.atomic():
                        await models.User.create(name=f"first {number}")
                        await models.User.create(name=f"second {number}")
                        written = {f"first {number}", f"second {number}"}
                except (TransactionFinished, peewee.InterfaceError):
                    continue
                kept |= written
        assert "second 2" in kept
        await wait_until(lambda: models.database.stats().leased == 0)
        assert await names(models) == kept


@pytest.mark.parametrize("around", [False, True], ids=["outside", "inside"])
async def test_with_aclosing_all_is_well(make_database: Maker, around: bool) -> None:
    """The generator's block ends with the loop over it; what comes afterwards is the caller's."""
    async with models_of(make_database) as models:
        async with models.database.atomic() if around else contextlib.nullcontext():
            async with contextlib.aclosing(values(models)) as numbers:
                async for _ in numbers:
                    break
            await models.User.create(name="after")
            async with models.database.atomic():
                await models.User.create(name="in a block")
        assert await names(models) == {"after", "in a block"}


async def test_a_generator_closed_by_another_task_under_a_statement(make_database: Maker) -> None:
    """The statement, which is on its worker, is rolled back with the block, and its task is told."""
    async with models_of(make_database) as models:
        numbers, begun, go_on = values(models), threading.Event(), threading.Event()
        plain_create = models.User.create

        def slowly() -> None:
            begun.set()
            assert go_on.wait(10)
            plain_create(name="under way")

        async def consume() -> None:
            async for _ in numbers:
                with pytest.raises(TransactionFinished, match="aclosing"):
                    await models.database.run(slowly)
                await models.User.create(name="outside")
                break

        async def let_go() -> None:
            await anyio.wait_all_tasks_blocked()
            go_on.set()

        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            await wait_until(begun.is_set)
            group.start_soon(let_go)
            await numbers.aclose()
        assert await names(models) == {"outside"}


@pytest.mark.parametrize("fails", [False, True], ids=["without an error", "with an error"])
async def test_a_block_left_by_another_task(make_database: Maker, fails: bool) -> None:
    """It commits or rolls back as ever; the task that entered it is outside of it then."""
    async with models_of(make_database) as models:
        block, entered, left = models.database.atomic(), anyio.Event(), anyio.Event()

        async def enter() -> None:
            await block.__aenter__()
            await models.User.create(name="inside")
            entered.set()
            await left.wait()
            assert not models.database.in_transaction()
            await models.User.create(name="outside")

        async with anyio.create_task_group() as group:
            group.start_soon(enter)
            await entered.wait()
            error = KeyError() if fails else None
            await block.__aexit__(type(error) if error else None, error, None)
            left.set()
        assert await names(models) == ({"outside"} if fails else {"inside", "outside"})
