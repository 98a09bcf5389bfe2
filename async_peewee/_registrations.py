"""What is registered on an SQLite database (functions, extensions, pragmas), on every worker.

Peewee loads a late registration into the calling thread's connection. Here each one also
renews a token, by which a worker's driver sees that its connection lacks something, and loads
that. It never opens a new connection for it: `:memory:` would lose its data.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import peewee

from ._calls import on_loop_thread
from ._pins import current_driver
from ._results import driver_errors
from ._worker import Worker

# Where Peewee keeps them. The last two are APSW's and cysqlite's.
REGISTRIES = (
    "_attached _pragmas _aggregates _collations _functions _window_functions _extensions "
    "_modules _table_functions"
).split()

# SQLite refuses some of these inside a transaction.
OUTSIDE_TRANSACTION = ("_attached", "_pragmas")

REGISTERING_METHODS = (
    "register_aggregate register_collation register_function register_window_function "
    "unregister_aggregate unregister_collation unregister_function unregister_window_function "
    "load_extension unload_extension attach detach"
).split()

Registries = dict[str, Any]


def registries_of(database: Any) -> Registries:
    """Return copies of what is registered: another thread may register more at any time."""
    return {name: copy.copy(getattr(database, name)) for name in REGISTRIES if hasattr(database, name)}


class Loaded:
    """What one connection has of what is registered on its database. On the worker's thread."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self._token: object = None
        self._registries: Registries = {}

    def connecting(self) -> None:
        """Note what the connection is about to be opened with."""
        self._token, self._registries = self._database.registered, self._wanted()

    def catch_up(self, connection: Any, in_transaction: bool) -> None:
        """Load what was registered since; what cannot be inside a transaction stays for later."""
        token, wanted = self._database.registered, self._wanted()
        if in_transaction:
            wanted.update({name: self._registries[name] for name in OUTSIDE_TRANSACTION})
        self._load(connection, wanted)
        self._token = None if in_transaction else token

    def is_behind(self) -> bool:
        """Return True if something was registered that the connection may lack."""
        return self._token is not self._database.registered

    def change(self, connection: Any, method: Callable[..., Any]) -> None:
        """Register something on this connection alone; if it fails, nothing is registered."""
        draft = self._database._draft(self._registries, is_closed=True)
        method(draft)
        self._load(connection, {name: getattr(draft, name) for name in self._registries})

    def _load(self, connection: Any, wanted: Registries) -> None:
        # Only what is missing: SQLite replaces no function while a statement is open.
        missing = {name: _lacking(wanted[name], self._registries[name]) for name in wanted}
        with driver_errors:
            attached = self._detach(connection, wanted["_attached"])
            missing["_attached"] = {k: v for k, v in missing["_attached"].items() if k not in attached}
            self._database._load_registries(connection, missing)
        self._registries = wanted

    def _wanted(self) -> Registries:
        wanted = registries_of(self._database)
        timeout = ("busy_timeout", int((self._database.timeout or 0) * 1000))  # milliseconds
        return {**wanted, "_pragmas": [timeout, *wanted["_pragmas"]]}

    def _detach(self, connection: Any, wanted: dict[str, str]) -> set[str]:
        """Detach what is attached no more, or is another file now; return what remains."""
        cursor = connection.cursor()
        attached = {row[1] for row in cursor.execute("PRAGMA database_list").fetchall()}
        for name, file in self._registries["_attached"].items():
            if name in attached and wanted.get(name) != file:
                cursor.execute(f'DETACH DATABASE "{name}"')
                attached.remove(name)
        return attached


def _lacking(wanted: Any, loaded: Any) -> Any:
    """Return what one registry has and another has not; of the same type."""
    if isinstance(wanted, dict):
        return {name: value for name, value in wanted.items() if loaded.get(name) != value}
    return type(wanted)(item for item in wanted if item not in loaded)


def registering(name: str) -> Callable[..., Any]:
    """Return Peewee's method of that name, its effect brought to every worker.

    On the loop it stores what it is given, without I/O; a worker or plain thread first tries
    it on its own connection.
    """

    def method(self: SqliteRegistrations, *args: Any, **kwargs: Any) -> Any:
        def native(draft: SqliteRegistrations) -> Any:
            return getattr(super(SqliteRegistrations, draft), name)(*args, **kwargs)

        driver: Any = current_driver(self)
        if driver is not None:
            driver.change(native)
        elif not on_loop_thread():
            native(self._draft(registries_of(self)))
        # On the registries themselves, which the copy shares; the connection has it by now.
        result = native(self._draft({}, is_closed=True))
        self.registered = object()
        return result

    method.__name__ = name
    return method


class SqliteRegistrations:
    """What registers something on an SQLite database; it takes effect on every worker.

    A connection gets what is new before its next statement. Attached databases and pragmas
    wait for the end of a transaction that has begun.
    """

    is_closed: Callable[[], bool]
    _pragmas: Any
    _timeout: float

    # Changes with each registration.
    registered: object = None

    @property
    def timeout(self) -> float:
        """How long SQLite waits for a lock of another process, in seconds."""
        return self._timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        if on_loop_thread() or current_driver(self) is not None:
            self._timeout = seconds
        else:
            peewee.SqliteDatabase.timeout.fset(self, seconds)  # type: ignore[attr-defined]
        self.registered = object()

    def pragma(self, *args: Any, **kwargs: Any) -> Any:
        before = self._pragmas
        try:
            result = super().pragma(*args, **kwargs)  # type: ignore[misc]
        except BaseException:
            self._pragmas = before  # a permanent one that fails would break every later connect
            raise
        if self._pragmas is not before:
            self.registered = object()
        return result

    def _draft(self, registries: Registries, is_closed: bool = False) -> Any:
        """Return a copy of this database, with registries of its own; `is_closed`: it meets no connection."""
        draft = copy.copy(self)
        vars(draft).update({name: copy.copy(registry) for name, registry in registries.items()})
        if is_closed:
            draft.is_closed = lambda: True
        return draft

    def _load_registries(self, connection: Any, registries: Registries) -> None:
        """Load what these registries hold into a connection, as Peewee does for a new one."""
        super(SqliteRegistrations, self._draft(registries))._add_conn_hooks(connection)  # type: ignore[misc]

    def _add_conn_hooks(self, connection: Any) -> None:
        self._load_registries(connection, registries_of(self))

    def _check_statement(self, worker: Worker, sql: str) -> None:
        super()._check_statement(worker, sql)  # type: ignore[misc]
        driver: Any = current_driver(self)
        driver.catch_up()


for _name in REGISTERING_METHODS:
    setattr(SqliteRegistrations, _name, registering(_name))
