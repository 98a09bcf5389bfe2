"""Settings of the pool: an argument, else an environment variable, else the default.

They are read when the database object is made, never at import, so that a program may
set its environment after it has imported its models.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, fields, replace
from typing import Any

from ._errors import ConfigurationError

PREFIX = "ASYNC_PEEWEE_"


# A bad value is quoted in the message, but never more of it than this: it may be a
# secret that landed in the wrong variable.
QUOTED_CHARACTERS = 40


MAX_WORKERS = 1000


# When a connection's session is reset: after SQL or user code that may have changed it, after
# each call outside a block and each block, or not at all.
SESSION_RESETS = ("changed", "always", "never")


@dataclass(frozen=True)
class PoolSettings:
    """Hold the settings of one pool. Times are in seconds."""

    pool_size: int = 10
    pool_min_size: int = 1
    acquire_timeout: float = 30.0
    max_waiting: int | None = None
    idle_timeout: float = 300.0
    max_lifetime: float = 3600.0
    session_reset: str = "changed"

    @classmethod
    def resolve(cls, **arguments: Any) -> PoolSettings:
        """Return the settings that the arguments and the environment give.

        An argument of None counts as not given. Raises ConfigurationError, which names
        the argument or variable, the value and the accepted range.
        """
        given = {}
        for field in fields(cls):
            source, value = _find(field.name, arguments.get(field.name))
            if value is not None:
                given[field.name] = _READERS[field.name](source, value, field.default)
        settings = cls(**_fit_min_size(given))
        _check_min_size(settings, _find("pool_min_size", arguments.get("pool_min_size"))[0])
        return settings

    def for_one_worker(self) -> PoolSettings:
        """Return these settings for a database that exists on one connection only, and with it."""
        return replace(self, pool_size=1, pool_min_size=1, max_lifetime=math.inf)


def _fit_min_size(given: dict[str, Any]) -> dict[str, Any]:
    # pool_size=... alone must never be refused because of a default of another setting.
    if "pool_min_size" in given or "pool_size" not in given:
        return given
    return {**given, "pool_min_size": min(PoolSettings.pool_min_size, given["pool_size"])}


def _check_min_size(settings: PoolSettings, source: str) -> None:
    if settings.pool_min_size > settings.pool_size:
        raise ConfigurationError(
            f"{source}={settings.pool_min_size} is not valid: expected a whole number from 0 "
            f"to pool_size={settings.pool_size}"
        )


def _find(name: str, argument: Any) -> tuple[str, Any]:
    """Return where a setting comes from and its raw value, None if it is not given."""
    if argument is not None:
        return name, argument
    variable = PREFIX + name.upper()
    return variable, os.environ.get(variable)


def _reject(source: str, value: Any, expected: str, default: Any) -> ConfigurationError:
    if isinstance(value, str):
        shown = repr(value[:QUOTED_CHARACTERS])[: QUOTED_CHARACTERS + 2]  # two for the quotation marks
    else:
        shown = repr(value)[:QUOTED_CHARACTERS]
    problem = "is set but empty" if value == "" else "is not valid"
    return ConfigurationError(f"{source}={shown} {problem}: expected {expected} (default {default})")


def _whole_number(source: str, value: Any, default: Any, low: int, high: int | None) -> int:
    expected = f"a whole number from {low} to {high}" if high is not None else f"a whole number >= {low}"
    if isinstance(value, str):
        # int() would also take '+4', '1_000' and digits of other scripts.
        if not re.fullmatch(r"[0-9]{1,9}", value.strip(" \t"), re.ASCII):
            raise _reject(source, value, expected, default)
        number = int(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    else:
        raise _reject(source, value, expected, default)
    if number < low or (high is not None and number > high):
        raise _reject(source, value, expected, default)
    return number


def _pool_size(source: str, value: Any, default: Any) -> int:
    return _whole_number(source, value, default, 1, MAX_WORKERS)


def _min_size(source: str, value: Any, default: Any) -> int:
    return _whole_number(source, value, default, 0, MAX_WORKERS)


def _count(source: str, value: Any, default: Any) -> int:
    return _whole_number(source, value, default, 0, None)


def _seconds(source: str, value: Any, default: Any) -> float:
    expected = "a number of seconds > 0"
    if isinstance(value, str):
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value.strip(" \t"), re.ASCII):
            raise _reject(source, value, expected, default)
        seconds = float(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        # As large as it may be, an int never overflows a comparison.
        seconds = float(value) if value < 10**300 else math.inf
    else:
        raise _reject(source, value, expected, default)
    if not (seconds > 0 and math.isfinite(seconds)):
        raise _reject(source, value, expected, default)
    return seconds


def _session_reset(source: str, value: Any, default: Any) -> str:
    chosen = value.strip(" \t") if isinstance(value, str) else value
    if chosen not in SESSION_RESETS:
        raise _reject(source, value, f"one of {', '.join(SESSION_RESETS)}", default)
    return str(chosen)


_READERS = {
    "pool_size": _pool_size,
    "pool_min_size": _min_size,
    "acquire_timeout": _seconds,
    "max_waiting": _count,
    "idle_timeout": _seconds,
    "max_lifetime": _seconds,
    "session_reset": _session_reset,
}
