"""Servers that speak TLS and ask their clients for a certificate, and how each driver gives one."""

from __future__ import annotations

import contextlib
import pwd
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import pytest

from tests.kinds import ALL, class_of
from tests.servers.processes import (
    Process,
    becoming,
    find_program,
    free_port,
    give,
    server_folder,
    user_of_servers,
)
from tests.support import MySQLServer, Server

# The server's certificate is for this name, not for 127.0.0.1.
NAME, OTHER_NAME = "localhost", "127.0.0.1"

USER = "app"


class Certificates(NamedTuple):
    """Files: who is trusted, what the client shows, and an authority that has signed nothing here."""

    ca: str
    cert: str
    key: str
    other_ca: str


def make_certificates(folder: Path) -> Certificates:
    """Make what a server and its client need; the server's own are `server.crt` and `server.key`."""
    trustme = pytest.importorskip("trustme")
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.crt")
    other.cert_pem.write_to_path(folder / "other.crt")
    for name, issued in {
        "server": authority.issue_cert(NAME),
        "client": authority.issue_cert(f"{USER}@example.org", common_name=USER),
    }.items():
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.crt")
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        (folder / f"{name}.key").chmod(0o600)
    return Certificates(*(str(folder / name) for name in ("ca.crt", "client.crt", "client.key", "other.crt")))


def run_as(user: pwd.struct_passwd, *command: str) -> None:
    """Run a program that sets a server up."""
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", **becoming(user))
    if done.returncode:
        pytest.fail(f"{command[0]} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")


@contextlib.contextmanager
def encrypted_postgresql(folder: Path) -> Iterator[Server]:
    """Run a PostgreSQL that lets `app` in by certificate only, and give the tests' own way into it."""
    with server_folder() as data:
        user, port = user_of_servers(), free_port()
        give(data, user)
        run_as(user, find_program("initdb"), "-D", f"{data}/db", "-U", USER, "--auth=trust", "--no-sync")
        for name in ("server.crt", "server.key", "ca.crt"):
            copy(folder / name, data / name)
        hosts = f"local all all trust\nhostssl all {USER} 127.0.0.1/32 cert\n"
        (data / "db" / "pg_hba.conf").write_text(hosts)
        settings = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": data,
            "ssl": "on",
            "ssl_cert_file": data / "server.crt",
            "ssl_key_file": data / "server.key",
            "ssl_ca_file": data / "ca.crt",
            "fsync": "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        process = Process([find_program("postgres"), "-D", f"{data}/db", *options], data, user)
        url = f"postgresql://{USER}@/postgres?host={data}&port={port}"
        process.start(lambda: Server(url).close())
        try:
            with contextlib.closing(Server(url)) as server:
                yield server
        finally:
            process.stop(signal.SIGQUIT)


@contextlib.contextmanager
def encrypted_mysql(folder: Path) -> Iterator[MySQLServer]:
    """Run a MariaDB that lets `app` in by certificate only, and give the tests' own way into it."""
    with server_folder() as data:
        user, port = user_of_servers(), free_port()
        give(data, user)
        setup = ["--no-defaults", f"--datadir={data}/db", "--auth-root-authentication-method=normal"]
        run_as(user, find_program("mariadb-install-db"), *setup, "--skip-test-db", "--force")
        for name in ("server.crt", "server.key", "ca.crt"):
            copy(folder / name, data / name)
        options = {
            "datadir": f"{data}/db",
            "port": port,
            "bind-address": "127.0.0.1",
            "socket": f"{data}/socket",
            "pid-file": f"{data}/mariadbd.pid",
            "ssl-ca": f"{data}/ca.crt",
            "ssl-cert": f"{data}/server.crt",
            "ssl-key": f"{data}/server.key",
            "innodb-flush-log-at-trx-commit": 0,
        }
        given = [f"--{name}={value}" for name, value in options.items()]
        process = Process([find_program("mariadbd"), "--no-defaults", *given], data, user)
        own = {"host": "127.0.0.1", "port": port, "user": "root", "password": ""}
        process.start(lambda: MySQLServer(own).close())
        try:
            with contextlib.closing(MySQLServer(own)) as server:
                server.query(f"CREATE USER {USER} REQUIRE X509")
                server.query(f"GRANT ALL ON *.* TO {USER}")
                yield server
        finally:
            process.stop(signal.SIGTERM)


def copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())
    target.chmod(0o600)


class Encrypted:
    """Make databases that connect by TLS, by one of the drivers."""

    def __init__(self, driver: str, server: Any, certificates: Certificates) -> None:
        self.driver = driver
        self.server = server
        self.certificates = certificates

    def parameters(
        self, ca: str | None = None, host: str = NAME, with_certificate: bool = True
    ) -> dict[str, Any]:
        """Return what a driver needs to verify the server, and to show who it is."""
        ca = ca or self.certificates.ca
        own = {"cert": self.certificates.cert, "key": self.certificates.key} if with_certificate else {}
        if self.driver == "pymysql":
            names = {f"ssl_{name}": value for name, value in own.items()}
            verify = {"ssl_ca": ca, "ssl_verify_cert": True, "ssl_verify_identity": True}
            return {**self.server.connect_params(), "host": host, "user": USER, **verify, **names}
        names = {f"ssl{name}": value for name, value in own.items()}
        info = self.server.info()
        where = {"host": host, "port": info.port, "user": USER}
        verify = {"sslmode": "verify-full", "sslrootcert": ca}
        return {**self.server.connect_params(), **where, **verify, **names}

    def url(self) -> str:
        """Return the same as a URL."""
        scheme = {"psycopg2": "postgresql", "psycopg3": "psycopg3", "pymysql": "mysql"}[self.driver]
        given = {name: value for name, value in self.parameters().items() if value}
        name = self.server.name if self.driver == "pymysql" else "postgres"
        address = f"{given.pop('user')}@{given.pop('host')}:{given.pop('port')}/{name}"
        return f"{scheme}://{address}?{urlencode(given, quote_via=quote)}"

    def __call__(self, **settings: Any) -> Any:
        parameters = self.parameters(
            **{name: settings.pop(name) for name in ("ca", "host", "with_certificate") if name in settings}
        )
        name = self.server.name if self.driver == "pymysql" else "postgres"
        return class_of(self.driver)(name, **{**parameters, **ALL[self.driver].options, **settings})
