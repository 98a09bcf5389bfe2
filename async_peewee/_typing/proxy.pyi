"""What type checkers are told of AsyncDatabaseProxy; no part of it exists when the program runs."""

# Peewee's proxy and database do not know of each other.
# mypy: disable-error-code="misc, override"

from collections.abc import Callable
from typing import Any

import peewee

from .._orm.database import AsyncDatabase

class TypedProxy(AsyncDatabase, peewee.DatabaseProxy):
    """The base of AsyncDatabaseProxy to a type checker: it stands for a database, so it is one."""

    def __init__(self) -> None: ...
    def initialize(self, obj: AsyncDatabase) -> None: ...
    def attach_callback(self, callback: Callable[[Any], object]) -> Callable[[Any], object]: ...
