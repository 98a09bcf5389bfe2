"""What type checkers are told of results; results.py has what the names are when the program runs.

A dual method returns one thing on an event loop, a PendingCall, and another on a worker, its
result. No type is both, so these are: awaitable on the one side, the result on the other. The
names say what they stand for on a worker. Peewee's own stubs, peewee-stubs, are underneath.
"""

from collections.abc import AsyncIterator, Awaitable, Coroutine, Generator, Iterator
from types import TracebackType
from typing import Any, Generic, SupportsIndex, TypeAlias, TypeVar, overload

import peewee
from typing_extensions import Self as Self

T = TypeVar("T")
U = TypeVar("U")

class Dual(Awaitable[T]):
    """The result of a dual method: awaited, a T."""

    def __await__(self) -> Generator[Any, Any, T]: ...

# None and `User | None` cannot be subclassed. To mypy such a result is Any on a worker. To
# pyright it is a coroutine, which it reports if nobody awaits it, and nothing on a worker:
# with a base that is Any it would not take a class with such a method for known, which is
# what `pyright --verifytypes` asks. mypy takes a name MYPY for true; pyright, which knows
# nothing of it, goes by the last of the two.
MYPY: bool

if MYPY:
    class DualValue(Dual[T], Any): ...  # type: ignore[misc]
    # mypy would not report a subclass of tuple as never awaited.
    class DualPair(DualValue[tuple[T, U]], Generic[T, U]): ...
    DualAny: TypeAlias = DualValue[Any]
    # What aio() and run() await when a function returns it.
    Returned: TypeAlias = Dual[T]

else:
    DualValue: TypeAlias = Coroutine[Any, Any, T]
    class DualPair(tuple[T, U], Dual[tuple[T, U]]): ...
    DualAny: TypeAlias = Any
    Returned: TypeAlias = Dual[T] | Coroutine[Any, Any, T]

# bool is final, so that no class at run time can be one; to a checker one may.
class DualBool(bool, Dual[bool]): ...  # type: ignore[misc]
class DualInt(int, Dual[int]): ...
class DualList(list[T], Dual[list[T]]): ...

class Rows(peewee.CursorWrapper, Generic[T]):
    """The filled result of a query: Peewee's CursorWrapper, which knows its rows."""

    def __iter__(self) -> Iterator[T]: ...
    @overload
    def __getitem__(self, item: SupportsIndex) -> T: ...
    @overload
    def __getitem__(self, item: slice) -> list[T]: ...
    def __len__(self) -> int: ...

class DualRows(Rows[T], Dual[Rows[T]]): ...

class RowStream(AsyncIterator[T], Iterator[T]):
    """What iterator() returns: an asynchronous iterator on the loop, a generator elsewhere."""

    async def __anext__(self) -> T: ...
    def __next__(self) -> T: ...
    async def aclose(self) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

class AwaitableModel(peewee.Model):
    """A model whose instances may be awaited as far as types go, and are themselves then.

    At run time an instance cannot be awaited. But `Model.create()` is typed as an instance
    for the sake of workers, and so is `tweet.user`, and both are awaited on a loop.
    """

    def __await__(self) -> Generator[Any, Any, Self]: ...
