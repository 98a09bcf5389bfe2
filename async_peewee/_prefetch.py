"""prefetch(): a query and the queries for its related rows, put together on a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

import peewee

from ._calls import call_on_worker, on_loop_thread
from ._lookup import contexts_of
from ._queries import describe
from ._results import sealed

if TYPE_CHECKING:
    from ._typed_queries import SelectCalls
    from ._typing import DualList

R = TypeVar("R")
M = TypeVar("M", bound=peewee.Model)


@overload
def prefetch(query: SelectCalls[R], *subqueries: Any, **options: Any) -> DualList[R]: ...
@overload
def prefetch(query: peewee.ModelSelect[M], *subqueries: Any, **options: Any) -> DualList[M]: ...
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
    function = sealed(_prefetch_list, query.clone(), *clones, **options)
    return call_on_worker(f"{describe(query)}.prefetch", contexts_of(query._database), function)


def _prefetch_list(query: Any, *subqueries: Any, **options: Any) -> list[Any]:
    return list(peewee.prefetch(query, *subqueries, **options))


def _clone_of(item: Any) -> Any:
    if isinstance(item, tuple):
        return (_clone_of(item[0]), *item[1:])
    return item.clone() if isinstance(item, peewee.BaseQuery) else item
