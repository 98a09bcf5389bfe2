"""What is registered on an SQLite database (functions, extensions, pragmas), on every worker.

Peewee loads a late registration into the calling thread's connection. Here each one also
renews a token, by which a worker's driver sees that its connection lacks something, and loads
that. It never opens a new connection for it: `:memory:` would lose its data.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import peewee

from .._bridge.calls import refuse_async
from .._bridge.places import current_connection, on_loop_thread
from .._drivers.sqlite import Registries, draft_of, registries_of

REGISTERING_METHODS = (
    "register_aggregate register_collation register_function register_window_function "
    "unregister_aggregate unregister_collation unregister_function unregister_window_function "
    "register_module unregister_module register_table_function unregister_table_function "
    "load_extension unload_extension attach detach"
).split()


# What SQLite calls of an aggregate or a window function.
PARTS = "step inverse value finalize".split()


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


# -- what a class gets -----------------------------------------------------------------


def _registering(cls: type[Any], name: str) -> Callable[..., Any]:
    """Return Peewee's method of that name, its effect brought to every worker.

    On the loop it stores what it is given, without I/O; a worker or plain thread first tries
    it on its own connection.
    """

    @functools.wraps(getattr(cls, name))
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        for given in (*args, *kwargs.values()):
            _refuse_async_parts(given, f"db.{name}()")

        def native(draft: Any) -> Any:
            return getattr(super(cls, draft), name)(*args, **kwargs)

        connection: Any = current_connection(self)
        if connection is not None and not self.is_closed():
            connection.change(native)
        elif not on_loop_thread():
            native(draft_of(self, registries_of(self)))
        # On the registries themselves, which the copy shares; the connection has it by now.
        result = native(draft_of(self, {}, is_closed=True))
        self.versions.registrations = object()
        return result

    method.is_registering = True  # type: ignore[attr-defined]
    return method


def _refuse_async_parts(given: Any, what: str) -> None:
    for function in (given, *(getattr(given, part, None) for part in PARTS)):
        refuse_async(function, what, "which SQLite calls")


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
            self.versions.registrations = object()
        return result

    return pragma


def _get_timeout(database: Any) -> float:
    """How long SQLite waits for a lock of another process, in seconds."""
    return float(database._timeout)


def _set_timeout(database: Any, seconds: float) -> None:
    if on_loop_thread() or current_connection(database) is not None:
        database._timeout = seconds
    else:
        peewee.SqliteDatabase.timeout.fset(database, seconds)  # type: ignore[attr-defined]
    database.versions.registrations = object()
