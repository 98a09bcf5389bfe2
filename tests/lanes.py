"""Which tests the default run has, and which wait for a lane of their own.

A newcomer's run has each test, in the cells that differ most: loops, databases, drivers. What the
others would show on top takes most of the time. They are in lanes, by marker: `soak` has what takes
many seconds, `servers` what needs servers that come in no wheel, `drivers` the drivers that fewer
people use, `wide` the rest of the product of loops and databases. Each case is in one lane, or in
the default run; a test that names its lane is in that one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

LANES = {
    "soak": "chaos, soaks, and what else takes many seconds",
    "servers": "pgbouncer, and servers that speak TLS, from the system's packages",
    "drivers": "the drivers that fewer people use",
    "wide": "the other combinations of loops and databases",
}

# Without a database of some kind, a test is about the loop, or about SQLite in a file.
DEFAULT_CELLS = {
    None: ("asyncio", "trio"),
    "sqlite": ("asyncio", "trio"),
    "psycopg2": ("asyncio",),
    "psycopg3": ("trio",),
    "pymysql": ("asyncio",),
}

# A test that goes through many ways to do one thing has all of them on these, by default.
CELLS_OF_WAYS = {"sqlite": ("trio",), "psycopg2": ("asyncio",)}
NAME_OF_WAYS = "way"

# Where uvloop could behave in its own way, it is in the default run as well, on SQLite.
UVLOOP_MATTERS = "tests/reliability/"

# mysqlclient and MariaDB Connector are only where they have been built.
BUILT = ("mysqlclient", "mariadbconnector")
FEWER_USE = ("apsw", "cysqlite", "sqlcipher", "cockroach2", "cockroach3", "mysqlconnector", *BUILT)

# What pwasyncio's tests call their drivers, and the drivers that only its original has.
KINDS = {"sqlite3": "sqlite", "psycopg": "psycopg3", "aiosqlite": "sqlite"}
THEIRS = ("asyncpg", "aiomysql")

# The parameters of tests that say which database and which loop; others may have the same values.
NAMES_OF_KINDS = ("make_database", "make_any", "kind", "driver", "models", "pair", "through_proxy")
NAMES_OF_LOOPS = ("anyio_backend", "backend", "loop")


def loop_of(parameters: dict[str, Any]) -> str | None:
    """Return the loop that a case runs on, None if it has none."""
    if "cell" in parameters:
        return str(parameters["cell"].loop)
    for name in NAMES_OF_LOOPS:
        if name in parameters:
            value = parameters[name]
            backend, options = value if isinstance(value, tuple) else (value, {})
            return "uvloop" if options.get("use_uvloop") else str(backend)
    return None


def kind_of(parameters: dict[str, Any]) -> str | None:
    """Return the kind of database that a case runs on, None if it does not say."""
    if "cell" in parameters:
        driver = parameters["cell"].driver
        return str(KINDS.get(driver, driver))
    known = {*DEFAULT_CELLS, *FEWER_USE}
    found = (parameters[name] for name in NAMES_OF_KINDS if name in parameters)
    return next((kind for kind in found if isinstance(kind, str) and kind in known), None)


def lane_of(parameters: dict[str, Any], path: str) -> str | None:
    """Return the lane of a case, None for the default run."""
    kind, loop = kind_of(parameters), loop_of(parameters)
    if kind in FEWER_USE or kind in THEIRS:
        return "drivers"
    if NAME_OF_WAYS in parameters and kind in DEFAULT_CELLS:
        return None if loop in CELLS_OF_WAYS.get(kind or "sqlite", ()) else "wide"
    if loop is None or loop in DEFAULT_CELLS[kind]:
        return None
    if loop == "uvloop" and kind in (None, "sqlite") and path.startswith(UVLOOP_MATTERS):
        return None
    return "wide"


def marked_lanes(item: pytest.Item) -> list[str]:
    """Return the lanes whose markers a case has."""
    return [mark.name for mark in item.iter_markers() if mark.name in LANES]


def assign(items: Iterable[object], root: Path) -> None:
    """Put the cases of one test into their lanes; one of them at least stays in the default run."""
    cases = [item for item in items if isinstance(item, pytest.Function) and not marked_lanes(item)]
    lanes = [_lane_of_item(item, root) for item in cases]
    if cases and None not in lanes:
        lanes[min(range(len(cases)), key=lambda number: _strangeness(cases[number], lanes[number]))] = None
    for case, lane in zip(cases, lanes, strict=True):
        if lane is not None:
            case.add_marker(lane)


def _lane_of_item(item: pytest.Function, root: Path) -> str | None:
    return lane_of(_parameters_of(item), item.path.relative_to(root).as_posix())


def _strangeness(item: pytest.Function, lane: str | None) -> tuple[bool, bool]:
    """Return what tells the case that stays in the default run: of equal ones, it is the first."""
    return lane == "drivers", kind_of(_parameters_of(item)) in BUILT


def _parameters_of(item: pytest.Function) -> dict[str, Any]:
    return item.callspec.params if hasattr(item, "callspec") else {}
