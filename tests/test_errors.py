"""The exception tree and the public names."""

from __future__ import annotations

import peewee
import pytest

import async_peewee

TREE = {
    "BlockingCallError": (peewee.InterfaceError,),
    "PoolClosed": (peewee.InterfaceError,),
    "TransactionFinished": (peewee.InterfaceError,),
    "PoolTimeout": (peewee.OperationalError,),
    "PoolFull": (peewee.OperationalError,),
    "ConfigurationError": (peewee.ImproperlyConfigured, ValueError),
    "OutsideTransactionWarning": (RuntimeWarning,),
}

PUBLIC_NAMES = """
    AsyncDatabase AsyncDatabaseProxy AsyncManyToManyQuery AsyncModel AsyncModelSelect AsyncMySQLDatabase
    AsyncPostgresqlDatabase AsyncSqliteDatabase AsyncTable BlockingCallError ConfigurationError
    OutsideTransactionWarning PendingCall PoolClosed PoolFull PoolStats PoolTimeout Rows SharedConnection
    TransactionFinished aio blocking connect model_to_dict prefetch
""".split()


@pytest.mark.parametrize(("name", "bases"), TREE.items())
def test_an_error_stands_right_under_peewees_own(name: str, bases: tuple[type, ...]) -> None:
    """So `except` clauses written for Peewee hold, and no two of ours catch each other."""
    assert getattr(async_peewee, name).__bases__ == bases


def test_the_tree_is_whole() -> None:
    """Every public exception is in it."""
    public = [getattr(async_peewee, name) for name in async_peewee.__all__]
    errors = {x.__name__ for x in public if isinstance(x, type) and issubclass(x, BaseException)}
    assert errors == set(TREE)


@pytest.mark.parametrize("name", TREE)
def test_a_traceback_shows_the_name_that_users_import(name: str) -> None:
    error = getattr(async_peewee, name)
    assert (error.__module__, error.__qualname__) == ("async_peewee", name)


def test_the_public_names() -> None:
    """Adding or removing one is a decision, made here too."""
    assert sorted(async_peewee.__all__, key=str.lower) == sorted(PUBLIC_NAMES, key=str.lower)


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_a_public_name_can_be_imported(name: str) -> None:
    namespace: dict[str, object] = {}
    exec(f"from async_peewee import {name}", namespace)
    assert namespace[name] is getattr(async_peewee, name)


def test_everything_that_can_be_imported_without_an_underscore_is_public() -> None:
    """Modules aside: what is not meant for users does not lie about at the door."""
    modules = {"TYPE_CHECKING", "PackageNotFoundError", "version", "pwasyncio", "postgres_ext"}
    names = {name for name in vars(async_peewee) if not name.startswith("_")}
    assert names - modules == set(PUBLIC_NAMES)


def test_messages_say_what_and_what_to_do() -> None:
    blocked = async_peewee.BlockingCallError("len(query)", "len(await query)")
    assert str(blocked) == "len(query) would block the event loop; write instead: len(await query)"
    assert str(async_peewee.PoolClosed("app.db")) == "the pool of app.db is closed"
    assert "max_waiting=3" in str(async_peewee.PoolFull("app.db", 3))
