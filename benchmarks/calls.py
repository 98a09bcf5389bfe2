"""Count what one warm call passes through: functions of the package entered, and changes of file.

    python -m benchmarks.calls [--list]

Counts, not times: the same on every machine. A profile hook on every thread sees each Python
function begin. The call finds an idle worker and nobody waiting, on SQLite in a file.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

from peewee import TextField

import async_peewee
from async_peewee import AsyncModel, AsyncSqliteDatabase

PACKAGE = str(Path(async_peewee.__file__).parent)

# How often a call is made before it is counted: what is made once has been made then.
WARM = 20


class Counter:
    """Note each function of the package that begins while it counts."""

    def __init__(self) -> None:
        self.is_counting = False
        self.entered: list[tuple[str, str]] = []

    def hook(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if self.is_counting and event == "call" and code.co_filename.startswith(PACKAGE):
            name = code.co_filename.removeprefix(PACKAGE + "/")
            self.entered.append((name, getattr(code, "co_qualname", code.co_name)))

    async def count(self, call: Callable[[], Awaitable[Any]]) -> list[tuple[str, str]]:
        """Return the functions, with their files, that one warm call enters."""
        for _ in range(WARM):
            await call()
        await asyncio.sleep(0.05)  # nothing of the last one is under way any more
        self.entered, self.is_counting = [], True
        await call()
        await asyncio.sleep(0.02)
        self.is_counting = False
        return self.entered


async def measure(counter: Counter, path: str) -> dict[str, list[tuple[str, str]]]:
    """Return what each of the calls enters."""
    db = AsyncSqliteDatabase(path, pool_size=2)

    class User(AsyncModel):
        name = TextField()

        class Meta:
            database = db

    async def create() -> None:
        await User.create(name="Huey")

    async def rows() -> None:
        await User.select().limit(20)

    async def block() -> None:
        async with db.atomic():
            await User.create(name="Huey")

    async with db:
        await User.create_table()
        return {
            "await User.create()": await counter.count(create),
            "await User.select().limit(20)": await counter.count(rows),
            "async with db.atomic(): create": await counter.count(block),
        }


def report(entered: list[tuple[str, str]]) -> str:
    files = [file for file, _ in entered]
    changes = sum(file != other for file, other in pairwise(files))
    pool = sum(file.startswith("_pool") for file in files)
    return f"{len(entered):4} functions {len(set(files)):3} files {changes:4} changes {pool:4} in the pool"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="name each function")
    options = parser.parse_args()
    counter = Counter()
    threading.setprofile(counter.hook)
    sys.setprofile(counter.hook)
    with tempfile.TemporaryDirectory() as folder:
        measured = asyncio.run(measure(counter, str(Path(folder) / "calls.db")))
    sys.setprofile(None)
    for call, entered in measured.items():
        print(f"{call:32} {report(entered)}")
        if options.list:
            print(*[f"    {file:28} {name}" for file, name in entered], sep="\n")


if __name__ == "__main__":
    main()
