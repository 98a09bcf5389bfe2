"""connect(): a database object from a URL, in the manner of playhouse.db_url."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from .._drivers.urls import SECRET_NAMES, check_url
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


def connect(url: str, **options: Any) -> AsyncDatabase:
    """Return the asynchronous database of a URL; nothing is opened yet.

        playhouse.db_url.connect("sqlite:///app.db")   ->   connect("sqlite:///app.db?pool_size=4")

    The query string holds settings of the pool and arguments of the driver; `options` go
    before it. User and password are percent-decoded. Raises ConfigurationError, without any
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

    if scheme not in FILES:
        check_url(url, scheme)
    elif urlsplit(url).netloc or "#" in url:
        raise ConfigurationError(f"the database URL is not valid for a file; write {_example(scheme)}")
    try:
        arguments = parse(url, unquote_password=True, unquote_user=True)
    except ValueError:  # whose text quotes the URL
        raise ConfigurationError(f"the database URL is not valid; write {_example(scheme)}") from None
    # Peewee makes numbers of what looks like one; a secret stays what it is.
    secrets = {key: value for key, value in parse_qsl(urlsplit(url).query) if key in SECRET_NAMES}
    return {**arguments, **secrets}


def _example(scheme: str) -> str:
    if scheme in FILES:
        return (
            f"{scheme}:///app.db, {scheme}:////folder/app.db or {scheme}:///:memory: (three or four slashes)"
        )
    return f"{scheme}://user:password@host:port/name"
