"""TLS in words: options of another driver's, and files that are not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import peewee

from .._errors import ConfigurationError

# The options that name a file: libpq's, and those of MySQL's drivers.
LIBPQ_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
MYSQL_FILES = ("ssl_ca", "ssl_cert", "ssl_key")
# And those of a dict that is given as ssl.
DICT_FILES = ("ca", "cert", "key")


LIBPQ_WORDS = (
    "PostgreSQL's drivers have libpq's options: write sslmode=require, or sslmode=verify-full and "
    "sslrootcert=/path/to/ca.pem to check the server's certificate"
)
MYSQL_WORDS = (
    "write ssl_ca=/path/to/ca.pem and ssl_verify_cert=true, and ssl_verify_identity=true to check the "
    "server's name too"
)


def check_tls_options(database: Any, options: dict[str, Any]) -> None:
    """Raise ConfigurationError for an option of TLS that the database's driver does not have."""
    foreign, words = _foreign_options(database, options)
    for name in foreign:
        value = options.get(name)
        if value is not None:
            raise ConfigurationError(f"{name}={value!r} is not valid for {type(database).__name__}: {words}")


def _foreign_options(database: Any, options: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    """Return the names that are not the driver's, and what to write instead."""
    if isinstance(database, peewee.PostgresqlDatabase):
        return ("ssl", *MYSQL_FILES), LIBPQ_WORDS
    if not isinstance(database, peewee.MySQLDatabase):
        return (), ""
    libpqs, bases = ("sslmode", *LIBPQ_FILES), {base.__name__ for base in type(database).__mro__}
    if "MariaDBConnectorDatabase" in bases:
        return libpqs, f"MariaDB Connector takes ssl=true; {MYSQL_WORDS}"
    if "MySQLConnectorDatabase" in bases:
        return ("ssl", *libpqs), f"MySQL Connector uses TLS where the server has it; {MYSQL_WORDS}"
    driver = getattr(vars(peewee).get("mysql"), "__name__", "the driver")
    # A dict or a context is what both drivers take, and nothing for none.
    own = ("ssl",) if options.get("ssl") and isinstance(options["ssl"], (bool, int, str)) else ()
    return (*own, *libpqs), f"{driver} takes a dict as ssl; {MYSQL_WORDS}"


def explain_missing_file(database: Any, error: Exception) -> None:
    """Raise ConfigurationError if an attempt to connect has failed because a file of TLS is not there.

    Python's ssl does not say which file, and libpq's words are those for a server that is not there.
    """
    for name, path in _files(database):
        # One that is not needed may be missing, and something else has failed.
        is_the_cause = isinstance(error, FileNotFoundError) or path in str(error)
        if is_the_cause and not Path(path).exists():
            raise ConfigurationError(
                f"{name}={path} is not valid: there is no such file here, or this user may not see it"
            ) from None


def _files(database: Any) -> Iterator[tuple[str, str]]:
    given = dict(database.connect_params)
    if "://" in str(database.database):
        given.update(parse_qsl(str(database.database).partition("?")[2]))
    for name in (*LIBPQ_FILES, *MYSQL_FILES):
        if given.get(name):
            yield name, str(given[name])
    if isinstance(given.get("ssl"), dict):  # as PyMySQL takes them
        yield from ((f"ssl {name}", str(path)) for name, path in given["ssl"].items() if name in DICT_FILES)
