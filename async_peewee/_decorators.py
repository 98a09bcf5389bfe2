"""Decorators: `@db.atomic()` and the like, on `def` and on `async def`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from ._calls import call_on_worker, on_loop_thread
from ._results import sealed

if TYPE_CHECKING:
    from ._typing import DualValue

F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])
P = ParamSpec("P")
T = TypeVar("T")


class Decorator:
    """The side of a block that decorates functions."""

    db: Any
    # How the block is spelled, for messages: db.atomic().
    spelling = "block"

    @overload
    def __call__(self, function: F) -> F: ...  # type: ignore[overload-overlap]  # a coroutine is a T as well
    @overload
    def __call__(self, function: Callable[P, T]) -> Callable[P, DualValue[T]]: ...
    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate a function: each call runs in a block of its own.

        A plain function runs with its block on a worker, in one hop, when it is called on
        the loop's thread; an `async def` runs there itself.
        """
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise TypeError(
                f"@db.{self.spelling}() cannot decorate the generator {function.__qualname__}: "
                "its block would stay open between its values"
            )
        if inspect.iscoroutinefunction(function):
            return self._decorate_async(function)
        return self._decorate(super().__call__(function), function)  # type: ignore[misc]

    def _decorate_async(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            async with self._build_ctx():  # type: ignore[attr-defined]
                return await function(*args, **kwargs)

        return wrapper

    def _decorate(self, in_block: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if on_loop_thread():
                call = sealed(in_block, *args, **kwargs)
                return call_on_worker(function.__qualname__, self.db.contexts, call)
            return in_block(*args, **kwargs)

        return wrapper
