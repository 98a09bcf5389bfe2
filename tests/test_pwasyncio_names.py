"""Every public name of playhouse.pwasyncio is here, or on a list that says why not."""

from __future__ import annotations

import ast
import asyncio
import inspect
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import peewee
import pytest

import async_peewee
from async_peewee import pwasyncio

# Read, not imported: that would take greenlet.
SOURCE = find_spec("playhouse.pwasyncio")
assert SOURCE is not None
assert SOURCE.origin is not None
TREE = ast.parse(Path(SOURCE.origin).read_text())

# What a program has no use for: the parts of connections and drivers that this library has not.
LEFT_OUT = {
    "AsyncMySQLConnection": "a connection of aiomysql",
    "AsyncPgAdapter": "what asyncpg needs of Peewee",
    "AsyncPgAtomic": "asyncpg's transactions; here db.atomic() is Peewee's on every database",
    "AsyncPostgresqlConnection": "a connection of asyncpg",
    "AsyncSqliteConnection": "a connection of aiosqlite",
    "AsyncSqlitePool": "a pool of aiosqlite's connections",
    "CursorAdapter": "the cursor over asynchronous drivers; here cursors are buffered",
    "DummyCursor": "stands in for a cursor of an asynchronous connection",
    "logger": "the logger of its pool, peewee.pwasyncio; here it is async_peewee",
    "AsyncConnectionWrapper.cursor": "a DummyCursor",
    "AsyncConnectionWrapper.stale": "asks asyncpg's and aiomysql's connections",
    "AsyncConnectionWrapper.close": "the connection belongs to its worker",
    "AsyncConnectionWrapper.execute_iter": "what iterate() is made of",
    "AsyncConnectionWrapper.streaming_timeout": "a query may run while another one streams",
    "AsyncPostgresqlDatabase.register_adapters": "JSON for asyncpg; psycopg has its own",
}


def own_names() -> list[str]:
    """Return the module's public classes, functions and variables, and the members of its classes."""
    names = []
    for node in TREE.body:
        found = [name for name in defined(node) if not name.startswith("_")]
        names += found
        if isinstance(node, ast.ClassDef) and found and node.name not in LEFT_OUT:
            members = [name for member in node.body for name in defined(member)]
            names += [f"{node.name}.{name}" for name in members if not name.startswith("_")]
    return sorted(set(names))


def defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []


def find(name: str) -> Any:
    # A mixin's execute_sql() comes from the class that it is mixed into.
    found: Any = pwasyncio
    for part in name.replace("AsyncDatabaseMixin.", "AsyncSqliteDatabase.").split("."):
        found = inspect.getattr_static(found, part, None)
    return found


def test_every_name_of_pwasyncio_is_here_or_left_out_for_a_reason() -> None:
    missing = {name for name in own_names() if find(name) is None}
    assert missing == set(LEFT_OUT)


def test_the_walk_sees_what_it_should() -> None:
    """The names of the documentation are among those that it compares."""
    names = own_names()
    assert len(names) > 50
    assert {"await_", "async_atomic", "AsyncModelMixin.afetch", "AsyncDatabaseMixin.iterate"} <= set(names)


@pytest.mark.parametrize("name", [name for name in own_names() if name.partition(".")[2].startswith("a")])
def test_a_prefixed_name_is_a_coroutine_function(name: str) -> None:
    """As in pwasyncio: it can be started as a task."""
    pure = {"after_commit", "atomic"}
    function = find(name)
    function = getattr(function, "__func__", function)
    # Before Python 3.12 nothing but the code of a function tells inspect; asyncio can be told.
    asks = inspect if sys.version_info >= (3, 12) else asyncio
    assert asks.iscoroutinefunction(function) is (name.partition(".")[2] not in pure)


def test_star_import_gives_peewee_and_these_names() -> None:
    """And asyncio, which pwasyncio's own gives too; nothing of this library's insides."""
    space: dict[str, Any] = {}
    exec("from async_peewee.pwasyncio import *", space)
    del space["__builtins__"]
    own = {name for name in own_names() if "." not in name and name not in LEFT_OUT}
    assert set(space) == set(peewee.__all__) | own | {"asyncio"}
    assert space["fn"] is peewee.fn
    assert space["MissingGreenletBridge"] is async_peewee.BlockingCallError
    assert issubclass(space["AsyncModel"], async_peewee.AsyncModel)


DOCUMENT = (Path(__file__).parent.parent / "docs" / "pwasyncio.md").read_text()


def test_the_page_about_it_has_every_name() -> None:
    """But for the methods that Peewee's own databases have too."""
    missing = []
    for name in set(own_names()) - set(LEFT_OUT):
        written = name.rpartition(".")[2]
        is_peewees = "." in name and hasattr(peewee.PostgresqlDatabase, written)
        if not is_peewees and f"`{written}" not in DOCUMENT and f".{written}" not in DOCUMENT:
            missing.append(name)
    assert missing == []
