"""playhouse.kv: a dictionary in a table; every access of it runs SQL, so it goes through db.run()."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playhouse.kv import KeyValue

from async_peewee import BlockingCallError


async def test_a_store_is_made_and_used_on_workers(db: Any) -> None:
    """Its methods are called by name, or several of them in one function; errors arrive."""
    store = await db.run(KeyValue, database=db, table_name="store")
    await db.run(store.__setitem__, "a", {"x": 1})
    await db.run(store.update, b=2, c=[3])
    assert await db.run(store.__getitem__, "a") == {"x": 1}
    assert await db.run(store.get, "missing", "default") == "default"
    assert await db.run(lambda: sorted(store.items())) == [("a", {"x": 1}), ("b", 2), ("c", [3])]
    assert await db.run(store.pop, "b") == 2
    assert await db.run(len, store) == 2
    with pytest.raises(KeyError):
        await db.run(store.__getitem__, "b")
    assert await db.run(store.__getitem__, store.key < "c") == [{"x": 1}]
    await db.run(store.clear)
    assert await db.run(lambda: "a" in store) is False
    await db.run(store.model.drop_table)


async def test_it_is_part_of_the_tasks_transaction(db: Any) -> None:
    store = await db.run(KeyValue, database=db, table_name="store")
    with pytest.raises(ValueError, match="roll back"):
        async with db.atomic():
            await db.run(store.__setitem__, "a", 1)
            raise ValueError("roll back")
    assert await db.run(len, store) == 0
    await db.run(store.model.drop_table)


USES: dict[str, Callable[[KeyValue], Any]] = {
    "read": lambda store: store["a"],
    "write": lambda store: store.__setitem__("a", 1),
    "delete": lambda store: store.__delitem__("a"),
    "contains": lambda store: "a" in store,
    "length": len,
    "iterate": list,
    "keys": lambda store: list(store.keys()),
    "pop": lambda store: store.pop("a"),
    "update": lambda store: store.update(a=1),
    "clear": lambda store: store.clear(),
    "make": lambda store: KeyValue(database=store._database),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_on_the_loop_it_says_what_to_write(sqlite_db: Any, use: Callable[[KeyValue], Any]) -> None:
    async with sqlite_db:
        store = await sqlite_db.run(KeyValue, database=sqlite_db)
        with pytest.raises(BlockingCallError, match=r"write instead: .*(await|async)"):
            use(store)
