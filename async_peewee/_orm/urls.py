"""connect(): a database object from a URL, in the manner of playhouse.db_url."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, unquote

from .._drivers.urls import SECRET_NAMES, address_of, check_url, credentials_of, hosts_of
from .._errors import ConfigurationError
from .database import AsyncDatabase, AsyncMySQLDatabase, AsyncPostgresqlDatabase, AsyncSqliteDatabase
from .playhouse import optional_class

# The class, or its name if it comes with playhouse, and what is added to its arguments.
SCHEMES: dict[str, tuple[Any, dict[str, Any]]] = {
    "sqlite": (AsyncSqliteDatabase, {}),
    "apsw": ("AsyncAPSWDatabase", {}),
    "cysqlite": ("AsyncCySqliteDatabase", {}),
    "sqlcipher": ("AsyncSqlCipherDatabase", {}),
    "postgres": (AsyncPostgresqlDatabase, {}),
    "postgresql": (AsyncPostgresqlDatabase, {}),
    "psycopg3": (AsyncPostgresqlDatabase, {"prefer_psycopg3": True}),
    "cockroachdb": ("AsyncCockroachDatabase", {}),
    "crdb": ("AsyncCockroachDatabase", {}),
    "mysql": (AsyncMySQLDatabase, {}),
    "mariadb": (AsyncMySQLDatabase, {"mariadb": True}),
    "mysqlconnector": ("AsyncMySQLConnectorDatabase", {}),
    "mariadbconnector": ("AsyncMariaDBConnectorDatabase", {}),
}


FILES = ("sqlite", "apsw", "cysqlite", "sqlcipher")


# Those of libpq, which tries several servers in turn, and finds a socket in a folder by itself.
SEVERAL_HOSTS = ("postgres", "postgresql", "psycopg3", "cockroachdb", "crdb")


# Those whose drivers take the path of a socket, under another name than that of a host.
SOCKET_FILES = ("mysql", "mariadb", "mysqlconnector", "mariadbconnector")


def connect(url: str, **options: Any) -> AsyncDatabase:
    """Return the asynchronous database of a URL; nothing is opened yet.

        playhouse.db_url.connect("sqlite:///app.db")   ->   connect("sqlite:///app.db?pool_size=4")

    The query string holds settings of the pool and arguments of the driver; `options` go
    before it. So whoever writes the URL decides which files the driver reads and which
    statements it sends: take none from strangers. User, password, host and name are
    percent-decoded. PostgreSQL takes several hosts, `a:5432,b:5433`, as libpq does; a host
    that is a path (`%2Frun%2Fmysqld.sock`) is a socket. Raises ConfigurationError, without any
    part of the URL, for one that is not valid, and ImportError if the driver is not installed.
    """
    scheme = _scheme_of(url)
    chosen, extra = SCHEMES[scheme]
    arguments = _parse(url, scheme)
    if not arguments["database"]:
        raise ConfigurationError(f"the database URL has no name in it; write {_example(scheme)}")
    database_class = optional_class(chosen) if isinstance(chosen, str) else chosen
    return database_class(**{**extra, **arguments, **options})  # type: ignore[no-any-return]


def _scheme_of(url: str) -> str:
    scheme = url.partition("://")[0]
    if scheme.removesuffix("+pool") in SCHEMES and scheme.endswith("+pool"):
        plain = scheme.removesuffix("+pool")
        raise ConfigurationError(
            f"{scheme}:// is not needed, for every database has a pool; write {plain}://"
        )
    if "://" not in url or scheme not in SCHEMES:
        shown = f" {scheme}" if re.fullmatch(r"[a-z0-9+]{1,20}", scheme) and "://" in url else ""
        raise ConfigurationError(
            f"the scheme{shown} of the database URL is not known: expected one of {', '.join(SCHEMES)}"
        )
    return scheme


def _parse(url: str, scheme: str) -> dict[str, Any]:
    # Imported here: it imports every driver that is installed.
    from playhouse.db_url import parse

    address = address_of(url)
    if scheme not in FILES:
        check_url(url, scheme)
    elif address or "#" in url:
        raise ConfigurationError(f"the database URL is not valid for a file; write {_example(scheme)}")
    # Without the address, of which Python and Peewee know one form only.
    path, _, query = url.partition("://")[2][len(address) :].partition("?")
    arguments = parse(f"{scheme}://{path}?{query}")
    if "database" not in dict(parse_qsl(query)):
        arguments["database"] = unquote(arguments["database"])
    # Peewee makes numbers of what looks like one; a secret stays what it is.
    secrets = {key: value for key, value in parse_qsl(query) if key in SECRET_NAMES}
    return {**_parse_address(url, scheme), **arguments, **secrets}


def _parse_address(url: str, scheme: str) -> dict[str, Any]:
    """Return user, password, host and port, as far as they are in the URL."""
    user, password = map(unquote, credentials_of(url))
    hosts, ports = zip(*hosts_of(url), strict=True)
    given: dict[str, Any] = {"user": user, "passwd" if scheme == "mysql" else "password": password}
    if len(hosts) > 1:
        if scheme not in SEVERAL_HOSTS:
            raise ConfigurationError(f"the database URL has several hosts in it; {scheme}:// takes one")
        # As libpq takes them; an empty port is the default one.
        given.update(host=",".join(hosts), port=",".join(ports) if any(ports) else "")
    else:
        is_socket = scheme in SOCKET_FILES and hosts[0].startswith("/")
        given.update({"unix_socket" if is_socket else "host": hosts[0], "port": int(ports[0] or 0)})
    return {key: value for key, value in given.items() if value}


def _example(scheme: str) -> str:
    if scheme in FILES:
        return (
            f"{scheme}:///app.db, {scheme}:////folder/app.db or {scheme}:///:memory: (three or four slashes)"
        )
    return f"{scheme}://user:password@host:port/name"
