"""Settings: argument, else environment, else default; a bad value is refused at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import peewee
import pytest

from async_peewee import AsyncSqliteDatabase, ConfigurationError
from async_peewee._settings import PoolSettings

ARABIC_EIGHT = "\N{ARABIC-INDIC DIGIT EIGHT}"

DEFAULTS = {
    "pool_size": 10,
    "pool_min_size": 1,
    "acquire_timeout": 30.0,
    "max_waiting": None,
    "idle_timeout": 300.0,
    "max_lifetime": 3600.0,
}
WHOLE = ["pool_size", "pool_min_size", "max_waiting"]
SECONDS = ["acquire_timeout", "idle_timeout", "max_lifetime"]

# What no setting takes: neither a plain number nor empty on purpose.
NOT_NUMBERS = ["1e3", "", " ", "-1", "abc", "1_000", "+4", "0x10", "nan", "inf", ARABIC_EIGHT, "8\n", "1 2"]


def variable(name: str) -> str:
    return f"ASYNC_PEEWEE_{name.upper()}"


@pytest.fixture(autouse=True)
def no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DEFAULTS:
        monkeypatch.delenv(variable(name), raising=False)


def settings_of(**arguments: Any) -> PoolSettings:
    """Return the settings of a database in a file: one in memory has a single worker anyway."""
    return AsyncSqliteDatabase("never-opened.db", **arguments).connections.pools.settings


def refused(**arguments: Any) -> str:
    """Return the message of the error that making a database raises."""
    with pytest.raises(ConfigurationError) as caught:
        settings_of(**arguments)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, peewee.ImproperlyConfigured)
    return str(caught.value)


def test_the_defaults() -> None:
    settings = settings_of()
    assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize("name", DEFAULTS)
def test_argument_then_environment_then_default(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Each setting by itself; None counts as not given, and the others keep their defaults."""
    monkeypatch.setenv(variable(name), "8")
    expected = {**DEFAULTS, name: 8}
    for arguments in ({}, {name: None}):
        settings = settings_of(**arguments)
        assert {field: getattr(settings, field) for field in DEFAULTS} == expected
    assert getattr(settings_of(**{name: 7}), name) == 7
    monkeypatch.delenv(variable(name))
    assert getattr(settings_of(), name) == DEFAULTS[name]


def test_a_bad_variable_does_not_matter_beside_an_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument wins: the variable is not even read."""
    monkeypatch.setenv("ASYNC_PEEWEE_POOL_SIZE", "abc")
    assert settings_of(pool_size=4).pool_size == 4


@pytest.mark.parametrize("value", ["8", " 8 ", "\t8", "008"])
def test_blanks_and_leading_zeros_are_taken(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ASYNC_PEEWEE_POOL_SIZE", value)
    monkeypatch.setenv("ASYNC_PEEWEE_IDLE_TIMEOUT", value)
    assert (settings_of().pool_size, settings_of().idle_timeout) == (8, 8.0)


def test_seconds_may_have_a_fraction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNC_PEEWEE_ACQUIRE_TIMEOUT", "2.5")
    assert settings_of(idle_timeout=0.25).acquire_timeout == 2.5
    assert settings_of(idle_timeout=0.25).idle_timeout == 0.25


def test_they_are_read_when_the_database_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is set later is for later databases."""
    before = AsyncSqliteDatabase("never-opened.db")
    monkeypatch.setenv("ASYNC_PEEWEE_POOL_SIZE", "3")
    assert (before.connections.pools.settings.pool_size, settings_of().pool_size) == (10, 3)


def test_they_are_not_read_at_import() -> None:
    """A bad variable stops nobody who only imports; the first database is refused."""
    code = "import async_peewee; print('imported'); async_peewee.AsyncSqliteDatabase('never-opened.db')"
    path = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "ASYNC_PEEWEE_POOL_SIZE": "abc", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "imported\n"
    assert "ConfigurationError: ASYNC_PEEWEE_POOL_SIZE='abc' is not valid" in done.stderr


@pytest.mark.parametrize("value", [*NOT_NUMBERS, "0", "1001", "9999999", "8.0", "9" * 4500, "x" * 300])
def test_a_bad_pool_size_names_variable_value_and_range(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Of the value no more than 40 characters are quoted."""
    monkeypatch.setenv("ASYNC_PEEWEE_POOL_SIZE", value)
    message = refused()
    assert message.startswith(f"ASYNC_PEEWEE_POOL_SIZE={value[:40]!r} is ")
    assert "from 1 to 1000" in message
    assert value[:41] not in message or len(value) <= 40


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(variable(name), value)
    assert refused().startswith(f"{variable(name)}={value!r} is ")


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", ["0", "0.0", ".5", "5.", "1,5", "1" * 10])
def test_seconds_are_more_than_zero_and_written_plainly(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(variable(name), value)
    assert "expected a number of seconds > 0" in refused()


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_number_has_no_fraction(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(variable(name), "2.0")
    assert "expected a whole number" in refused()


def test_an_empty_variable_is_called_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNC_PEEWEE_POOL_SIZE", "")
    assert "is set but empty" in refused()


def assert_refused(name: str, value: Any) -> None:
    assert refused(**{name: value}).startswith(f"{name}={repr(value)[:40]}")


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("value", [True, False, "abc", "1e3", "", -1, object(), [], b"8"])
def test_a_bad_argument_is_named(name: str, value: Any) -> None:
    assert_refused(name, value)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [1.5, 2.0, float("nan")])
def test_an_argument_that_is_not_whole_is_named(name: str, value: Any) -> None:
    assert_refused(name, value)


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", [0, 0.0, float("inf"), float("nan"), pytest.param(10**400, id="huge")])
def test_an_argument_that_no_clock_can_count_is_named(name: str, value: Any) -> None:
    assert_refused(name, value)


@pytest.mark.parametrize("value", [0, 1001, "0", "1001"], ids=repr)
def test_a_pool_size_out_of_range_is_named(value: Any) -> None:
    assert_refused("pool_size", value)


@pytest.mark.parametrize("value", [10**300, "x" * 300, ["x" * 300]], ids=["int", "str", "list"])
def test_of_a_long_argument_at_most_40_characters_are_quoted(value: Any) -> None:
    """Besides quotation marks, which say where a string begins and ends."""
    quoted = refused(pool_size=value).removeprefix("pool_size=").partition(" is not valid")[0]
    assert len(quoted.strip("'")) <= 40


@pytest.mark.parametrize("size", [1, 2, 10, 1000])
def test_a_pool_size_alone_is_never_refused(size: int) -> None:
    settings = settings_of(pool_size=size)
    assert (settings.pool_size, settings.pool_min_size) == (size, 1)


@pytest.mark.parametrize("least", [0, 2])
def test_the_minimum_goes_from_zero_to_the_size(least: int) -> None:
    assert settings_of(pool_size=2, pool_min_size=least).pool_min_size == least


def test_a_minimum_above_the_size_is_refused() -> None:
    assert refused(pool_size=2, pool_min_size=3).startswith("pool_min_size=3 is not valid")
    assert "from 0 to pool_size=10" in refused(pool_min_size=11)


def test_a_minimum_above_the_size_is_named_where_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment it is the variable that has to be changed."""
    monkeypatch.setenv("ASYNC_PEEWEE_POOL_MIN_SIZE", "5")
    assert refused(pool_size=2).startswith("ASYNC_PEEWEE_POOL_MIN_SIZE=")


@pytest.mark.parametrize("value", ["changed", "always", "never"])
def test_when_sessions_are_reset(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Argument, else environment, else after what may have changed them."""
    monkeypatch.delenv("ASYNC_PEEWEE_SESSION_RESET", raising=False)
    assert settings_of().session_reset == "changed"
    assert settings_of(session_reset=value).session_reset == value
    monkeypatch.setenv("ASYNC_PEEWEE_SESSION_RESET", f" {value} ")
    assert settings_of().session_reset == value
    assert settings_of(session_reset="changed").session_reset == "changed"


@pytest.mark.parametrize("value", ["", "Always", "on", "1", True, 1, [], b"always"], ids=repr)
def test_a_bad_session_reset_is_named(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    assert_refused("session_reset", value)
    assert refused(session_reset=value).endswith("expected one of changed, always, never (default changed)")
    if isinstance(value, str):
        monkeypatch.setenv("ASYNC_PEEWEE_SESSION_RESET", value)
        assert refused().startswith(f"ASYNC_PEEWEE_SESSION_RESET={value!r} is ")
