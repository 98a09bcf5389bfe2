"""Every case is in the default run or in one lane, and every test has a case in the default run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.flavours import OURS, THEIRS, Cell
from tests.lanes import LANES, lane_of

ROOT = Path(__file__).parent.parent
ASYNCIO, UVLOOP = ("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})
TRIO = ("trio", {})

# How many cases of the default run have these at least.
OFTEN = {"sqlite": 200, "psycopg2": 200, "psycopg3": 100, "pymysql": 100, "trio": 500, "uvloop": 50}

# Run by a pytest of its own, for what was deselected here is not to be had any more.
COLLECT = """
import sys, pytest

class Print:
    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items):
        for item in items:
            marks = ",".join(mark.name for mark in item.iter_markers())
            print("case", item.nodeid.partition("[")[0], marks, item.nodeid, sep="\\t")

    def pytest_deselected(self, items):
        for item in items:
            print("deselected", item.nodeid, sep="\\t")

sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider"], [Print()]))
"""


class Case(NamedTuple):
    test: str
    lanes: list[str]
    name: str


class Collected(NamedTuple):
    cases: list[Case]
    deselected: set[str]


def collected() -> Collected:
    """Return what README's command collects, and what it leaves out."""
    done = subprocess.run([sys.executable, "-c", COLLECT], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    cases = [
        Case(test, [mark for mark in marks.split(",") if mark in LANES], name)
        for _, test, marks, name in (row for row in rows if row[0] == "case")
    ]
    return Collected(cases, {row[1] for row in rows if row[0] == "deselected"})


def test_each_case_is_in_one_lane_or_in_the_default_run() -> None:
    """What README's command leaves out has the marker of one lane, and what it runs has none.

    Each test has a case in the default run, except for the few that name their lane themselves; and
    each usual database and each loop is in many.
    """
    cases, deselected = collected()
    assert {len(case.lanes) for case in cases} == {0, 1}
    assert {case.name for case in cases if case.lanes} == deselected
    assert {lane for case in cases for lane in case.lanes} == set(LANES)
    default = [case for case in cases if not case.lanes]
    missing = {case.test for case in cases} - {case.test for case in default}
    lanes = Counter(lane for _, lane in {(case.test, *case.lanes) for case in cases if case.test in missing})
    assert set(lanes) == {"soak", "servers"}
    assert max(lanes.values()) < 30, "the tests that a newcomer does not run are few"
    parts = Counter(part for case in default for part in set(re.split(r"[][-]", case.name)[1:]))
    assert {name: parts[name] for name in OFTEN if parts[name] < OFTEN[name]} == {}


@pytest.mark.parametrize(
    ("parameters", "path", "lane"),
    [
        ({}, "tests/test_urls.py", None),
        ({"scheme": "mysqlconnector"}, "tests/test_urls.py", None),
        ({"anyio_backend": ASYNCIO}, "tests/test_pool.py", None),
        ({"anyio_backend": TRIO, "make_database": "sqlite"}, "tests/test_pool.py", None),
        ({"anyio_backend": TRIO, "make_database": "psycopg2"}, "tests/test_pool.py", "wide"),
        ({"anyio_backend": TRIO, "make_database": "psycopg3"}, "tests/test_pool.py", None),
        ({"anyio_backend": TRIO, "make_database": "pymysql"}, "tests/test_pool.py", "wide"),
        ({"anyio_backend": UVLOOP}, "tests/test_pool.py", "wide"),
        ({"anyio_backend": UVLOOP}, "tests/reliability/test_queue.py", None),
        ({"anyio_backend": UVLOOP, "make_database": "psycopg2"}, "tests/reliability/test_queue.py", "wide"),
        ({"anyio_backend": ASYNCIO, "make_any": "apsw"}, "tests/test_drivers.py", "drivers"),
        ({"cell": Cell(OURS, "trio", "psycopg2")}, "tests/test_pwasyncio.py", "wide"),
        ({"cell": Cell(OURS, "trio", "psycopg")}, "tests/test_pwasyncio.py", None),
        ({"cell": Cell(THEIRS, "asyncio", "asyncpg")}, "tests/test_pwasyncio.py", "drivers"),
    ],
    ids=str,
)
def test_parameters_say_which_lane(parameters: dict[str, object], path: str, lane: str | None) -> None:
    assert lane_of(parameters, path) == lane


def test_a_case_asked_for_by_name_is_in_the_same_lane() -> None:
    """A lane does not depend on what else is collected: the other cases of the test are known."""
    case = "tests/reliability/test_queue.py::test_max_waiting_refuses_at_once[uvloop-psycopg2]"
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", case]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "1 deselected" in done.stdout
