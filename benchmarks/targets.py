"""What this library means to reach, and what a run says about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.cells import Cell
from benchmarks.results import Results, Spread

POINTS = ("get", "create", "run")
# All but slow SQL: where SQLite itself does the work, all threads are equal.
PEERS = ("get", "create", "list_100", "atomic", "list_2000", "stream")
NEAR = ("sqlite", "psycopg2", "psycopg3")
FAR = ("psycopg2-1ms", "psycopg3-1ms")
MANY = (10, 100, 1000)
HELD = "pwasyncio-held"


@dataclass(frozen=True)
class Target:
    """A ratio of ours to somebody's, in every cell that fits, and the limit it must keep."""

    title: str
    base: str
    limit: float
    operations: tuple[str, ...]
    tasks: tuple[int, ...] = (1, *MANY)
    databases: tuple[str, ...] = NEAR
    measure: str = "rate"
    at_most: bool = False
    only_free_threaded: bool = False

    def fits(self, cell: Cell) -> bool:
        mine = cell.contender == "ours" and cell.operation in self.operations
        return mine and cell.tasks in self.tasks and cell.database in self.databases

    def is_kept_by(self, ratio: float) -> bool:
        return ratio <= self.limit if self.at_most else ratio >= self.limit


def pairs(
    title: str, base: str, sqlite: float, postgresql: float, operations: tuple[str, ...]
) -> list[Target]:
    """Return two targets that differ by the database."""
    return [
        Target(f"{title}, SQLite", base, sqlite, operations, databases=("sqlite",)),
        Target(f"{title}, PostgreSQL", base, postgresql, operations, databases=NEAR[1:]),
    ]


TARGETS = [
    Target("10 to 1,000 tasks, against 1 thread", "plain", 0.85, (*POINTS, "list_100"), MANY),
    Target("1 task, against 1 thread", "plain", 0.55, (*POINTS, "list_100"), (1,)),
    *pairs("get, create, run, against pwasyncio, held", HELD, 1.3, 1.1, POINTS),
    Target("get, create, run, against pwasyncio, per call", "pwasyncio-call", 2, POINTS),
    *pairs("list of 100, against pwasyncio, held", HELD, 1.3, 1.0, ("list_100",)),
    Target("async with atomic(), against pwasyncio, held", HELD, 1.5, ("atomic",)),
    Target("everything, against peewee-async", "peewee-async", 1.3, PEERS, (1, 8, *MANY)),
    Target("everything, against peewee-aio", "peewee-aio", 1.3, PEERS, (1, 8, *MANY)),
    Target("slow SQL, against 1 thread", "plain", 1.8, ("slow",), (10,), ("sqlite",)),
    Target("1 ms network, 100 tasks, against 1 thread", "plain", 6, (*POINTS, "list_100"), (100,), FAR),
    Target(
        "lag p99, 8 tasks list 2,000, against pwasyncio",
        HELD,
        0.25,
        ("list_2000",),
        (8,),
        measure="lag_p99_ms",
        at_most=True,
    ),
    Target("rate of these lists, against pwasyncio", HELD, 1.0, ("list_2000",), (8,)),
    Target("streaming, against Query.iterator()", "plain", 0.8, ("stream",)),
    Target("streaming, against pwasyncio", HELD, 2, ("stream",)),
    Target(
        "free-threaded, lists on 2 cores, against 1 thread",
        "plain",
        1.6,
        ("list_100", "list_2000"),
        (8, 10, 100),
        ("sqlite",),
        only_free_threaded=True,
    ),
]


@dataclass(frozen=True)
class Verdict:
    """What became of a target: the cell that is furthest from it, and how many keep it."""

    target: Target
    worst: tuple[Cell, Spread] | None
    kept: int
    cells: int

    @property
    def is_reached(self) -> bool:
        return self.cells > 0 and self.kept == self.cells


def check(results: Results, loop: str = "asyncio") -> Iterator[Verdict]:
    """Compare the medians with each target."""
    for target in TARGETS:
        ratios: list[tuple[Cell, Spread]] = []
        for cell in results.cells:
            has_gil = results.median(cell, "gil") != 0
            if target.fits(cell) and cell.loop == loop and not (target.only_free_threaded and has_gil):
                spread = results.ratio(cell, cell.of(target.base), target.measure)
                if spread is not None:
                    ratios.append((cell, spread))
        ratios.sort(key=lambda pair: pair[1].median, reverse=target.at_most)
        kept = sum(target.is_kept_by(spread.median) for _, spread in ratios)
        yield Verdict(target, ratios[0] if ratios else None, kept, len(ratios))
