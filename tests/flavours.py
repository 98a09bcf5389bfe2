"""One program, on this library and on playhouse.pwasyncio itself.

What a test says holds for both: the original shows that it is a fact about pwasyncio's
interface, and the other that a program which changes one import keeps it.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import peewee
import pytest

OURS = "async_peewee.pwasyncio"
THEIRS = "playhouse.pwasyncio"

LOOPS: dict[str, Any] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}


@dataclass(frozen=True)
class Cell:
    """Where a test runs: which module, on which loop, over which driver."""

    module: str
    loop: str
    driver: str

    def __str__(self) -> str:
        return f"{self.driver}-{self.loop}"


OUR_CELLS = [
    *(Cell(OURS, loop, "sqlite3") for loop in LOOPS),
    *(Cell(OURS, loop, driver) for driver in ("psycopg2", "pymysql") for loop in ("asyncio", "trio")),
    Cell(OURS, "trio", "psycopg"),
]
# The original has one loop, and needs greenlet and drivers of its own.
THEIR_CELLS = [
    Cell(THEIRS, "asyncio", driver)
    for driver in ("aiosqlite", "asyncpg", "aiomysql")
    if find_spec("greenlet") and find_spec(driver)
]
CELLS = OUR_CELLS + THEIR_CELLS


def cells(*drivers: str, theirs: bool = True) -> Any:
    """Run a test on the cells of these drivers, of all without any."""
    chosen = [c for c in (CELLS if theirs else OUR_CELLS) if not drivers or c.driver in drivers]
    return pytest.mark.parametrize("cell", chosen, ids=str, indirect=True)


SQLITE = ("sqlite3", "aiosqlite")
POSTGRESQL = ("psycopg2", "psycopg", "asyncpg")
MYSQL = ("pymysql", "aiomysql")


@pytest.fixture(params=[c for c in CELLS if c.driver in SQLITE], ids=str)
def cell(request: pytest.FixtureRequest) -> Cell:
    """Return where the test runs: on SQLite everywhere, if it does not say more by `cells`."""
    found: Cell = request.param
    return found


@pytest.fixture
def anyio_backend(cell: Cell) -> Any:
    if cell.loop != "asyncio":
        pytest.importorskip(cell.loop)
    return LOOPS[cell.loop]


@pytest.fixture
def pw(cell: Cell) -> Any:
    """Return the module of the one import that changes."""
    return importlib.import_module(cell.module)


@pytest.fixture
def make_db(pw: Any, cell: Cell, request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Return what makes database objects of pwasyncio's classes."""
    return Maker(pw, cell, request, tmp_path)


class Maker:
    """Make database objects on one database."""

    def __init__(self, pw: Any, cell: Cell, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        self.pw, self.cell, self.path = pw, cell, tmp_path / "pw.db"
        self.server: Any = None
        if cell.driver not in SQLITE:
            self.server = request.getfixturevalue("server" if cell.driver in POSTGRESQL else "mysql_server")

    def __call__(self, **options: Any) -> Any:
        if self.server is None:
            return self.pw.AsyncSqliteDatabase(str(self.path), **options)
        if self.cell.driver in MYSQL:
            given = {**self.server.connect_params(), "mariadb": True, **options}
            return self.pw.AsyncMySQLDatabase(self.server.name, **given)
        return self.pw.AsyncPostgresqlDatabase(self.server.url, **self._postgresql_options(), **options)

    def _postgresql_options(self) -> dict[str, Any]:
        if self.cell.driver == "asyncpg":
            name = self.server.name
            return {"server_settings": {"application_name": name, "search_path": name}}
        return {"prefer_psycopg3": self.cell.driver == "psycopg", **self.server.connect_params()}


@pytest.fixture
async def db(make_db: Any) -> AsyncIterator[Any]:
    database = make_db()
    yield database
    await database.close_pool()


@pytest.fixture
async def shelf(pw: Any, db: Any) -> Shelf:
    """Return two related models, their tables created."""
    made = Shelf(pw.AsyncModel, db)
    async with db:
        await db.acreate_tables([made.Author, made.Book])
    return made


class Shelf:
    """Authors and their books."""

    def __init__(self, base: type[peewee.Model], database: Any) -> None:
        class Base(base):  # type: ignore[valid-type, misc]
            class Meta:
                pass

        Base._meta.database = database

        class Author(Base):
            name = peewee.CharField(unique=True)
            born = peewee.IntegerField(default=0)

        class Book(Base):
            author = peewee.ForeignKeyField(Author, backref="books")
            editor = peewee.ForeignKeyField(Author, backref="edited", null=True)
            title = peewee.CharField()

        self.Author: Any = Author
        self.Book: Any = Book

    def titles(self) -> list[str]:
        """Return the titles, with plain synchronous Peewee."""
        return [book.title for book in self.Book.select().order_by(self.Book.title)]
