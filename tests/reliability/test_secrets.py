"""No password, and no URL with one, in a message, a repr, a log line or a warning."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import quote

import peewee
import pytest

from async_peewee import AsyncMySQLDatabase, AsyncPostgresqlDatabase, ConfigurationError
from async_peewee._drivers.urls import redacted

PASSWORD = "s3cr3t%zz/p@ss"
PIECES = ("s3cr3t", "p@ss", "zz/p")

MALFORMED = [
    f"postgresql://user:{PASSWORD}@127.0.0.1/name",
    "postgresql://user:s3cr3t@p@ss@127.0.0.1/name",
    "postgresql://user:s3cr3t/zz/p@127.0.0.1/name",
    "postgresql://user:s3cr3t%zzp@127.0.0.1/name",
    "postgresql://user:s3cr3t#p@127.0.0.1/name",
    "postgresql://user:s3cr3t?p@127.0.0.1/name",
    "postgresql://user@127.0.0.1:s3cr3t/name",
    "mysql://user:s3cr3t@127.0.0.1/name",
]


@pytest.mark.parametrize("url", MALFORMED)
def test_a_malformed_url_is_refused_without_quoting_it(url: str) -> None:
    """At construction, as ConfigurationError, and the driver's own message is never asked for."""
    with pytest.raises(ConfigurationError, match="URL is not valid") as caught:
        AsyncPostgresqlDatabase(url)
    assert not any(piece in str(caught.value) for piece in PIECES)
    assert caught.value.__cause__ is None


def test_a_url_with_encoded_characters_is_taken() -> None:
    url = "postgres://us%40er:s3cr3t%2Fp%40ss@[::1]:5432/name?connect_timeout=3"
    database = AsyncPostgresqlDatabase(url)
    assert "s3cr3t" not in repr(database)
    assert database.database.startswith("postgresql://")


HIDDEN = {
    "password=kit host=h": "password=*** host=h",
    "{'passwd': 'kit', 'user': 'kit_10'}": "{'passwd': '***', 'user': 'kit_10'}",
    "postgresql://kit_10:kit@kit.org/kit_10": "postgresql://kit_10:***@kit.org/kit_10",
    'too many connections for role "kit_10"': 'too many connections for role "kit_10"',
    'invalid port number: "kit"': 'invalid port number: "***"',
    "no kit of kit-10 is in toolkit.py": "no kit of kit-10 is in toolkit.py",
}


@pytest.mark.parametrize("text", HIDDEN)
def test_a_password_is_hidden_where_it_stands_as_one(text: str) -> None:
    """And no word that is equal to it, or begins like it."""
    database = AsyncPostgresqlDatabase("name", user="kit_10", password="kit")
    assert str(redacted(peewee.OperationalError(text), database)) == HIDDEN[text]


@pytest.mark.parametrize("secret", ["s3cr3t", "p@ss word", "#1.2", "a.b-c"])
@pytest.mark.parametrize("text", ["tried {0}.", "({0})", "x={0},y", "a '{0}' b", "u:{0}@h", "{0}"])
def test_a_password_that_is_no_ordinary_word_is_hidden_anywhere(secret: str, text: str) -> None:
    """Also without quotation marks, as argument, in a URL and in a DSN, and its number stays beside it."""
    encoded = quote(secret, safe="")
    databases = [
        AsyncPostgresqlDatabase("name", password=secret),
        AsyncPostgresqlDatabase(f"postgresql://user:{encoded}@host/name"),
        AsyncPostgresqlDatabase(f"postgresql://user@host/name?password={encoded}"),
    ]
    for database in databases:
        for shown in (secret, encoded):
            error = redacted(peewee.OperationalError(2003, text.format(shown)), database)
            assert error.args == (2003, text.format("***"))


async def test_a_failing_connect_says_no_password(
    anyio_backend: Any, caplog: pytest.LogCaptureFixture, postgresql_url: str
) -> None:
    """Neither as argument nor in a URL or DSN, in the error, its causes, the repr or the log."""
    caplog.set_level(logging.DEBUG)
    databases: list[Any] = [
        AsyncPostgresqlDatabase("name", host="127.0.0.1", port=1, password="s3cr3t", acquire_timeout=0.1),
        AsyncPostgresqlDatabase("postgresql://user:s3cr3t@127.0.0.1:1/name", acquire_timeout=0.1),
        AsyncMySQLDatabase("name", host="127.0.0.1", port=1, password="s3cr3t", acquire_timeout=0.1),
    ]
    for database in databases:
        with pytest.raises(peewee.OperationalError) as caught:
            await database.connect()
        assert "s3cr3t" not in str(caught.value)
        assert "s3cr3t" not in repr(caught.value)
        assert caught.value.__cause__ is None
        assert database.is_closed()
    assert "s3cr3t" not in repr(databases)
    assert "s3cr3t" not in caplog.text
