"""pgbouncer in front of the tests' PostgreSQL, and databases that connect through it."""

from __future__ import annotations

import contextlib
import pwd
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from async_peewee import AsyncPostgresqlDatabase
from tests.servers.processes import Process, find_program, free_port, server_folder, user_of_servers
from tests.support import Server, end_all

# Whatever a client may ask for, and how much of the server it may have. Not `options`, which older
# ones do not pass on: so the tests have a database of their own, not a schema.
DEFAULTS = {
    "listen_addr": "127.0.0.1",
    "auth_type": "trust",
    "max_client_conn": "100",
    "default_pool_size": "6",
    "server_reset_query": "DISCARD ALL",
    # How long it waits until it connects again, where it was refused or a server was lost, in seconds.
    "server_login_retry": "1",
    "log_connections": "0",
    "log_disconnections": "0",
}


class Bouncer:
    """A pgbouncer of the tests' own, in session or transaction mode."""

    def __init__(self, server: Server, folder: Path, mode: str, settings: dict[str, str]) -> None:
        self.server = server
        self.mode = mode
        self.port = free_port()
        self._folder = folder
        info = server.info()
        self.user, self.dbname = info.user, info.dbname
        own = {"listen_port": str(self.port), "pool_mode": mode, "admin_users": info.user}
        # For the console, which must be let in whatever is asked of clients.
        own["unix_socket_dir"] = str(folder)
        files = {"auth_file": f"{folder}/users", "pidfile": f"{folder}/pgbouncer.pid"}
        lines = [f"{name} = {value}" for name, value in {**DEFAULTS, **own, **files, **settings}.items()]
        password = f" password='{info.password}'" if info.password else ""
        target = f"* = host={info.host} port={info.port}{password}"
        (folder / "users").write_text(f'"{info.user}" ""\n')
        (folder / "ini").write_text("\n".join(["[databases]", target, "[pgbouncer]", *lines, ""]))
        command = [find_program("pgbouncer"), str(folder / "ini")]
        self._process = Process(command, folder, _user_for(info.host))

    def start(self) -> None:
        self._process.start(lambda: self.admin("SHOW VERSION"))

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it at once, and all connections with it."""
        self._process.stop(number)

    def restart(self) -> None:
        self.stop()
        self.start()

    def connect_params(self) -> dict[str, Any]:
        return {"host": "127.0.0.1", "port": self.port, "user": self.user}

    def admin(self, sql: str) -> list[dict[str, Any]]:
        """Run a command of its console."""
        import psycopg2

        where = {**self.connect_params(), "host": str(self._folder)}
        with contextlib.closing(psycopg2.connect(dbname="pgbouncer", **where)) as console:
            console.autocommit = True  # it knows no transactions
            cursor = console.cursor()
            cursor.execute(sql)
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in (cursor.fetchall() if names else [])]

    def clients(self) -> list[dict[str, Any]]:
        """Return the connections of clients, the console's aside."""
        return [row for row in self.admin("SHOW CLIENTS") if row["database"] == self.dbname]

    def servers_at_work(self) -> list[dict[str, Any]]:
        """Return its connections to the server that a client has now."""
        return [row for row in self.admin("SHOW SERVERS") if row["state"] == "active"]


def _user_for(host: str) -> pwd.struct_passwd:
    # The folder of a server's socket may be its owner's only.
    return pwd.getpwuid(Path(host).stat().st_uid) if host.startswith("/") else user_of_servers()


@contextlib.contextmanager
def bouncing(
    server: Server, mode: str, files: Mapping[str, str] | None = None, **settings: str
) -> Iterator[Bouncer]:
    """Run a pgbouncer in front of a server, with files that its settings name."""
    with server_folder() as folder:
        for name, text in (files or {}).items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o600)
        bouncer = Bouncer(server, folder, mode, settings)
        bouncer.start()
        try:
            yield bouncer
        finally:
            bouncer.stop()


class Pooled:
    """Make databases that connect through a pgbouncer, by one of the drivers."""

    def __init__(self, bouncer: Bouncer, driver: str) -> None:
        self.bouncer = bouncer
        self.server = bouncer.server
        self.driver = driver

    def __call__(self, **settings: Any) -> Any:
        own = {"application_name": self.server.name, "prefer_psycopg3": self.driver == "psycopg3"}
        return AsyncPostgresqlDatabase(
            self.bouncer.dbname, **{**self.bouncer.connect_params(), **own, **settings}
        )

    def empty(self) -> None:
        """Leave nothing of a test in the database, and no session that it has changed."""
        end_all(self.server)
        self.server.query("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
