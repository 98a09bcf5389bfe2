"""What is registered on an SQLite database (functions, extensions, pragmas), on every worker.

Peewee loads a late registration into the calling thread's connection. Here each one also
renews a token, by which a worker's driver sees that its connection lacks something, and loads
that. It never opens a new connection for it: `:memory:` would lose its data.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import peewee

from ._calls import on_loop_thread
from ._pins import current_driver
from ._results import driver_errors

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
    "register_module unregister_module register_table_function unregister_table_function "
    "load_extension unload_extension attach detach"
).split()

Registries = dict[str, Any]


def install_registrations(cls: type[Any]) -> None:
    """Have what registers something on a class of SQLite databases take effect on every worker."""
    for name in REGISTERING_METHODS:
        inherited = getattr(cls, name, None)
        if inherited is not None and name not in vars(cls) and not hasattr(inherited, "is_registering"):
            setattr(cls, name, _registering(cls, name))
    if not hasattr(cls, "_load_registries"):
        cls._load_registries = _load_registries(cls)
        cls.timeout = property(_get_timeout, _set_timeout)
        for name, override in {"_add_conn_hooks": _add_conn_hooks, "pragma": _pragma(cls)}.items():
            if name not in vars(cls):
                setattr(cls, name, override)


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
        draft = draft_of(self._database, self._registries, is_closed=True)
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
        timeout = ("busy_timeout", int((self._database._timeout or 0) * 1000))  # milliseconds
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


def draft_of(database: Any, registries: Registries, is_closed: bool = False) -> Any:
    """Return a copy of a database, with registries of its own; `is_closed`: it meets no connection."""
    draft = copy.copy(database)
    vars(draft).update({name: copy.copy(registry) for name, registry in registries.items()})
    if is_closed:
        draft.is_closed = lambda: True
    return draft


# -- what a class gets -----------------------------------------------------------------


def _registering(cls: type[Any], name: str) -> Callable[..., Any]:
    """Return Peewee's method of that name, its effect brought to every worker.

    On the loop it stores what it is given, without I/O; a worker or plain thread first tries
    it on its own connection.
    """

    @functools.wraps(getattr(cls, name))
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        def native(draft: Any) -> Any:
            return getattr(super(cls, draft), name)(*args, **kwargs)

        driver: Any = current_driver(self)
        if driver is not None and not self.is_closed():
            driver.change(native)
        elif not on_loop_thread():
            native(draft_of(self, registries_of(self)))
        # On the registries themselves, which the copy shares; the connection has it by now.
        result = native(draft_of(self, {}, is_closed=True))
        self.registered = object()
        return result

    method.is_registering = True  # type: ignore[attr-defined]
    return method


def _load_registries(cls: type[Any]) -> Callable[..., None]:
    def load_registries(self: Any, connection: Any, registries: Registries) -> None:
        """Load what these registries hold into a connection, as Peewee does for a new one."""
        super(cls, draft_of(self, registries))._add_conn_hooks(connection)

    return load_registries


def _add_conn_hooks(self: Any, connection: Any) -> None:
    self._load_registries(connection, registries_of(self))


def _pragma(cls: type[Any]) -> Callable[..., Any]:
    def pragma(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = self._pragmas
        try:
            result = super(cls, self).pragma(*args, **kwargs)
        except BaseException:
            self._pragmas = before  # a permanent one that fails would break every later connect
            raise
        if self._pragmas is not before:
            self.registered = object()
        return result

    return pragma


def _get_timeout(database: Any) -> float:
    """How long SQLite waits for a lock of another process, in seconds."""
    return float(database._timeout)


def _set_timeout(database: Any, seconds: float) -> None:
    if on_loop_thread() or current_driver(database) is not None:
        database._timeout = seconds
    else:
        peewee.SqliteDatabase.timeout.fset(database, seconds)  # type: ignore[attr-defined]
    database.registered = object()
