"""prefetch(): a query and the queries for its related rows, put together on a worker."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from types import GenericAlias
from typing import TYPE_CHECKING, Any, TypeVar, overload

import peewee

from .._bridge.calls import PendingCall, call_on_worker, of_its_block
from .._bridge.connections import Connections, connections_of
from .._bridge.detaching import detached, detached_partly
from .._bridge.dual import dual, refuse_bind_ctx
from .._bridge.entries import Entries, made_here, open_blocks
from .._bridge.places import guard, on_loop_thread
from .._bridge.results import read_here
from .._bridge.streams import Stream
from .._typing.results import DualList
from .._writes import query_writes

if TYPE_CHECKING:
    from .._typing.queries import AsyncManyToManyQuery as AsyncManyToManyQuery
    from .._typing.queries import AsyncModelSelect as AsyncModelSelect
    from .._typing.queries import PlainModelSelect, SelectCalls, TypedTable
else:
    TypedTable = peewee.Table


# What the hash of a table, a CTE and a SELECT is made in.
_HashableSource: Any = vars(peewee)["_HashableSource"]


QUERY_METHODS = (
    "execute peek first scalar scalars count exists get get_or_none prefetch create_table add remove clear"
).split()


# These build an object of a class of their own choice: the compound operators, which join
# tables, and the way from a query to a source of rows and back.
BUILDERS = (
    "union_all union intersect except_ select_from cte select "
    "__add__ __or__ __and__ __sub__ __radd__ __ror__ __rand__ __rsub__"
).split()


SOURCE_BUILDERS = "clone join left_outer_join insert replace update delete __mul__ __rmul__".split()


def make_awaitable(node: Any) -> Any:
    """Give a query, or a source of rows, that Peewee has built its awaitable class; builders keep it."""
    if not isinstance(node, (AsyncQuery, AsyncSource)):
        cls: Any = type(node)
        node.__class__ = _async_class(cls)
        if isinstance(node, _HashableSource):
            node._update_hash()  # it is made of the class, and compares tables in a FROM
        if open_blocks.get() is not None and isinstance(node, AsyncQuery):
            _note_blocks(node)
    return node


def _note_blocks(query: Any) -> None:
    """Note in which blocks a query is made; a child task's copy of a query belongs to where that does."""
    query._made_in = made_here() or query._made_in


@functools.cache
def _async_class(cls: type) -> type:
    if cls in WRITTEN_OUT:
        return WRITTEN_OUT[cls]
    mixin: type = AsyncSource
    if issubclass(cls, peewee.BaseQuery):
        mixin = AsyncModelSelect if issubclass(cls, peewee.ModelSelect) else AsyncQuery
    made = type(f"Async{cls.__name__}", (mixin, cls), {"__module__": cls.__module__})
    _install_methods(made, cls)
    return made


def _install_methods(made: type, cls: type) -> None:
    """Give an awaitable class the methods of Peewee's, dual or keeping what they build awaitable."""
    is_query = issubclass(cls, peewee.BaseQuery)
    for name in BUILDERS if is_query else BUILDERS + SOURCE_BUILDERS:
        if hasattr(cls, name):
            setattr(made, name, _awaitable_builder(cls, name))
    if not is_query:
        return
    for name in QUERY_METHODS:
        if hasattr(cls, name):
            setattr(made, name, dual(name, getattr(cls, name), _pend_query))
    made.clone = _noting_clone(cls)  # type: ignore[attr-defined]
    made.aexecute = of_its_block(cls.aexecute)  # type: ignore[attr-defined]
    if not issubclass(cls, _HashableSource):  # of those Peewee makes SQL, or compares them
        made.__eq__ = _is_same  # type: ignore[assignment]


def _is_same(query: AsyncQuery, other: object) -> bool:
    if not isinstance(other, peewee.BaseQuery):
        query.refuse_comparison()
    return query is other


def _awaitable_builder(cls: type, name: str) -> Callable[..., Any]:
    native = getattr(cls, name)

    @functools.wraps(native)
    def build(self: Any, *args: Any, **kwargs: Any) -> Any:
        return make_awaitable(native(self, *args, **kwargs))

    return build


def _noting_clone(cls: Any) -> Callable[..., Any]:
    native = cls.clone

    @functools.wraps(native)
    def clone(self: Any) -> Any:
        # Every builder begins with it: each query belongs to the blocks in which it was built last.
        query = native(self)
        if open_blocks.get() is not None:
            _note_blocks(query)
        elif query._made_in:  # kept and built on by a task that has nothing to do with its maker's
            query._made_in = ()
        return query

    return clone


def _pend_query(
    query: Any, name: str, native: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> PendingCall[Any]:
    connections = _connections_for(query, name, args, kwargs)
    label = f"{describe(query)}.{name}"
    # One that writes does so each time it is executed, whatever rows it has from the last.
    writes = query_writes(query, name)
    if name == "execute" and _is_filled(query) and not writes:
        return call_on_worker(label, connections, lambda: query._cursor_wrapper, made_in=query._made_in)
    # A clone: execution changes a query, and two tasks may share this one.
    clone = _clone(query)
    detach = detached_partly if name == "execute" else detached
    function = detach(native, clone, *args, **kwargs)
    finish = _give_back(query, clone)
    return call_on_worker(label, connections, function, writes=writes, finish=finish, made_in=query._made_in)


def _connections_for(query: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Connections:
    """Return the connections of the database a call is for: its own argument, else the query's."""
    given = kwargs.get("database")
    if args and isinstance(args[0], (peewee.Database, peewee.Proxy)):
        given = args[0]
    return connections_of(given if given is not None else query._database)


def _clone(query: Any) -> Any:
    clone = super(AsyncQuery, query).clone()
    if _is_filled(query):
        clone._cursor_wrapper = query._cursor_wrapper
    return clone


def _give_back(query: Any, clone: Any) -> Callable[[Any], bool]:
    def finish(result: Any) -> bool:
        if isinstance(result, peewee.CursorWrapper) and not read_here(result):
            return False
        # So that `for`, len() and indexing work on the user's query too, as in Peewee. A
        # wrapper that get() or first() left half read stays behind with the clone.
        if _is_filled(clone):
            query._cursor_wrapper = clone._cursor_wrapper
        return True

    return finish


def _is_filled(query: Any) -> bool:
    # `is not None` would not do: first() leaves a wrapper that is open and half read.
    return query._cursor_wrapper is not None and query._cursor_wrapper.populated


def describe(query: Any) -> str:
    """Return the name of a query in messages: User.select()."""
    model = getattr(query, "model", None)
    kind = type(query).__name__.removeprefix("Async").removeprefix("Model")
    return f"{getattr(model, '__name__', 'query')}.{kind.lower()}()"


class AsyncQuery:
    """What every query of an asynchronous model can do besides being Peewee's."""

    model: Any
    clone: Any
    _database: Any
    _load_tree: Any
    _cursor_wrapper: Any

    __class_getitem__: Any = classmethod(GenericAlias)
    # The blocks that the task was in which has made it: it belongs to them, as a call does.
    _made_in: Entries = ()

    def __await__(self) -> Generator[Any, Any, Any]:
        """Execute the query; `await query` is `await query.execute()`."""
        return self.execute().__await__()  # type: ignore[attr-defined, no-any-return]

    def __aiter__(self) -> AsyncIterator[Any]:
        """Execute the query once and give its rows; they stay in the query, as with `for`."""
        return RowsInTurn(self)

    def iterator(self, database: Any = None) -> Any:
        """Stream the rows of the query, at most a chunk of them in memory.

            for row in query.iterator()   ->   async for row in query.iterator()

        On the loop's thread: an asynchronous iterator that pins a worker until it is
        exhausted, closed (`aclose()`, `async with`) or dropped by `break`; inside a block it
        uses the block's connection. Quick rows are made on the loop's thread, others on the
        worker; all fetching is on the worker. Elsewhere: Peewee's own generator. Raises
        ValueError with with_related(). Cancellation interrupts the fetch and ends the stream.
        """
        if not on_loop_thread():
            return super().iterator(database)  # type: ignore[misc]
        if getattr(self, "_load_tree", None):
            raise ValueError("with_related() is incompatible with iterator().")
        used = database if database is not None else self._database
        return Stream(connections_of(used), used, self.clone(), f"{describe(self)}.iterator", self._made_in)

    def __iter__(self) -> Iterator[Any]:
        self._guard("for row in query", "async for row in query, or await query.execute()")
        if isinstance(self, peewee.SelectBase) and _is_filled(self):
            # Peewee's own, before 4.5.3, takes a result without rows for none.
            return iter(self._cursor_wrapper)
        return super().__iter__()  # type: ignore[misc, no-any-return]

    def __len__(self) -> int:
        self._guard("len(query)", "await query.count(), or len(await query.execute())")
        return super().__len__()  # type: ignore[misc, no-any-return]

    def __bool__(self) -> bool:
        # Peewee has none, and Python falls back to len(), which runs the query.
        self._guard("the truth of a query", "await query.exists()")
        return len(self) > 0

    def __getitem__(self, index: Any) -> Any:
        self._guard("query[...]", "await query.first(), or (await query.limit(n).execute())[...]")
        return super().__getitem__(index)  # type: ignore[misc]

    def __contains__(self, row: Any) -> bool:
        self._guard("x in query", "await query.where(...).exists()")
        return any(row == other for other in self)

    def refuse_comparison(self) -> None:
        """Raise BlockingCallError on the loop's thread, unless the query has its rows."""
        if not _is_filled(self):
            instead = "await it first, as in (await query)"
            guard(f"comparing {describe(self)} before it was awaited", instead, "finds no result")

    def _guard(self, what: str, instead: str) -> None:
        if not _is_filled(self):
            guard(what, instead)


class RowsInTurn:
    """The rows of a query that is executed when the first one is asked for.

    Not an asynchronous generator: those complain when a loop is left early.
    """

    def __init__(self, query: AsyncQuery) -> None:
        self._query = query
        self._rows: Iterator[Any] | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self._rows is None:
            query: Any = self._query
            self._rows = iter(query._cursor_wrapper if _is_filled(query) else await query)
        for row in self._rows:
            return row
        raise StopAsyncIteration


class AsyncSource:
    """A table, a join or a common table expression whose queries can be awaited."""


class AsyncTable(AsyncSource, TypedTable):
    """A table without a model, whose queries can be awaited.

        users = Table("users", ("id", "name")).bind(db)        ->   AsyncTable(...).bind(db)
        list(users.select()), users.insert(name="x").execute() ->   await users.select(), ...

    Takes what peewee.Table takes. Rows come as dicts. A model's own, `User._meta.table`, is one.
    """

    def bind_ctx(self, database: Any = None) -> Any:
        """Bind the table to a database for a `with` block; refused on an event loop."""
        refuse_bind_ctx()
        return super().bind_ctx(database)


if not TYPE_CHECKING:  # a checker has them from the .pyi file

    class AsyncModelSelect(AsyncQuery, peewee.ModelSelect):
        """What `User.select()` returns; in annotations with its model: `AsyncModelSelect[User]`."""

    class AsyncManyToManyQuery(AsyncModelSelect, peewee.ManyToManyQuery):
        """What `student.courses` returns; in annotations with its model: `AsyncManyToManyQuery[Course]`."""


# The classes that are written out here; all others are made when Peewee builds the first of their kind.
WRITTEN_OUT: dict[type, type] = {
    peewee.Table: AsyncTable,
    peewee.ModelSelect: AsyncModelSelect,
    peewee.ManyToManyQuery: AsyncManyToManyQuery,
}


for _peewees, _ours in WRITTEN_OUT.items():
    _install_methods(_ours, _peewees)


R = TypeVar("R")


M = TypeVar("M", bound=peewee.Model)


if not TYPE_CHECKING:  # for the annotations below; Peewee's own class takes no [M] when the program runs
    SelectCalls = AsyncModelSelect
    PlainModelSelect = peewee.ModelSelect | AsyncModelSelect[M]


@overload
def prefetch(query: SelectCalls[R], *subqueries: Any, **options: Any) -> DualList[R]: ...


@overload
def prefetch(query: PlainModelSelect[M], *subqueries: Any, **options: Any) -> DualList[M]: ...


def prefetch(query: Any, *subqueries: Any, **options: Any) -> Any:
    """Run a query and the queries for its related rows, and put them together.

        peewee.prefetch(users, tweets)   ->   await prefetch(users, tweets)

    Runs on one worker as one call. Returns a list of model instances whose back-references
    are lists. Takes what Peewee's prefetch() takes, models and (query, model) tuples too.
    Cancellation interrupts the query that runs.
    """
    if not on_loop_thread():
        return peewee.prefetch(query, *subqueries, **options)
    clones = [_clone_of(item) for item in subqueries]
    function = detached(_prefetch_list, query.clone(), *clones, **options)
    made_in = getattr(query, "_made_in", ())
    return call_on_worker(
        f"{describe(query)}.prefetch", connections_of(query._database), function, made_in=made_in
    )


def _prefetch_list(query: Any, *subqueries: Any, **options: Any) -> list[Any]:
    return list(peewee.prefetch(query, *subqueries, **options))


def _clone_of(item: Any) -> Any:
    if isinstance(item, tuple):
        return (_clone_of(item[0]), *item[1:])
    return item.clone() if isinstance(item, peewee.BaseQuery) else item
