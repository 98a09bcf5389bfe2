"""The cells: what is measured once in each round, and which of them are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from benchmarks.contenders import CONTENDERS
from benchmarks.workloads import OWN_TASKS, STREAM

# A database as users choose it: a server, and the driver of those who use synchronous ones.
# "-1ms" is the same server behind a network whose replies take a millisecond.
DATABASES = {
    "sqlite": "sqlite",
    "psycopg2": "postgresql",
    "psycopg3": "postgresql",
    "psycopg2-1ms": "postgresql-1ms",
    "psycopg3-1ms": "postgresql-1ms",
}
LOOPS = ("asyncio", "uvloop", "trio")


@dataclass(frozen=True)
class Cell:
    """One figure: who does what, where, how many at a time."""

    database: str
    operation: str
    tasks: int
    contender: str
    loop: str = "asyncio"

    def of(self, contender: str) -> Cell:
        """Return the cell of another contender that this one is compared with."""
        entry = CONTENDERS[contender]
        database = self.database if entry.uses_drivers else DATABASES.get(self.database, self.database)
        # One thread is measured again beside each number of tasks, several threads only once.
        tasks = 0 if entry.threads == "pool" else self.tasks
        loop = self.loop if self.loop in entry.loops else (*entry.loops, "")[0]
        return replace(self, contender=contender, database=database, tasks=tasks, loop=loop)


@dataclass(frozen=True)
class Choice:
    """What a run is to measure."""

    contenders: Sequence[str]
    databases: Sequence[str]
    operations: Sequence[str]
    tasks: Sequence[int]
    loops: Sequence[str]


def plan(choice: Choice) -> list[Cell]:
    """Return the cells, with those that are compared next to one another."""
    servers = dict.fromkeys(DATABASES[name] for name in choice.databases)
    cells: list[Cell] = []
    for server, operation in product(servers, choice.operations):
        own = OWN_TASKS.get(operation)
        for tasks in choice.tasks if own is None else [own]:
            # All who work on one server, whatever their drivers, come together.
            databases = [name for name in choice.databases if DATABASES[name] == server]
            for contender, database, loop in product(choice.contenders, databases, choice.loops):
                cells.append(Cell(database, operation, tasks, "ours", loop).of(contender))
    return [cell for cell in dict.fromkeys(cells) if is_wanted(cell, choice)]


def is_wanted(cell: Cell, choice: Choice) -> bool:
    """Leave out what a contender cannot do, what says nothing, and most of what other loops repeat."""
    entry = CONTENDERS[cell.contender]
    if cell.operation not in entry.operations or (entry.loops and cell.loop not in choice.loops):
        return False
    if not cell.database.startswith("sqlite") and cell.operation == "slow":
        return False
    if cell.database.endswith("-1ms") and (cell.operation in (STREAM, "list_2000") or cell.tasks > 100):
        return False
    if cell.loop in ("", choice.loops[0]):
        return True
    if cell.database.endswith("-1ms"):
        return False
    middle = sorted(choice.tasks)[len(choice.tasks) // 2]
    return cell.contender in ("ours", "pwasyncio-held") and cell.tasks == middle
