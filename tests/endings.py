"""Programs that end in every way while tasks of theirs still write: run as a module, one way each time.

    python -m tests.endings ENDING OPENING LOOP URL [SCHEMA]

Each task in the background writes a row in its `finally`. Standard output says what became of it, `done` or
the error's name. OPENING is `opened` for a program in `async with db`, or `never`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import anyio.to_thread
import peewee

from async_peewee import AsyncModel, connect
from async_peewee._pool.worker import Worker

# A query that SQLite needs seconds for: it counts as far as it is told to.
COUNT = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT count(*) FROM n"

# How many tasks write at the end.
TASKS = 3

# Longer than a program that is over waits for its tasks before its workers do without owners, in seconds.
LONG = 0.7


def make_model(url: str, schema: str) -> Any:
    options = {"options": f"-c search_path={schema}", "application_name": schema} if schema else {}

    class Row(AsyncModel):
        text = peewee.TextField()

        class Meta:
            database = connect(url, **options)

    return Row


# -- what a task does in its `finally` --------------------------------------------------------


class Program:
    """A program: its model, its database, and how its tasks write when they are over."""

    def __init__(self, row: Any, is_opened: bool) -> None:
        self.Row = row
        self.db = row._meta.database
        self.is_opened = is_opened
        self.write: Callable[[], Awaitable[Any]] = self.create
        self.tasks: list[asyncio.Task[None]] = []
        self.generator: Any = None
        # Not used before the end.
        self.other = connect("sqlite:///:memory:")

    async def create(self) -> None:
        await self.Row.create(text="stopped")

    async def in_a_block(self) -> None:
        async with self.db.atomic():
            await self.create()

    async def shielded(self) -> None:
        await asyncio.shield(asyncio.ensure_future(self.create()))

    async def in_a_task_of_its_own(self) -> None:
        await asyncio.create_task(self.create())

    async def gathered(self) -> None:
        await asyncio.gather(self.Row.select().count(), self.create())

    async def late(self) -> None:
        await asyncio.sleep(LONG)
        await self.create()

    async def streamed(self) -> None:
        async for _ in self.Row.select().iterator():
            pass
        await self.create()

    async def in_a_group(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self.create)

    async def in_two_databases(self) -> None:
        await self.other.execute_sql("SELECT 1")
        await self.create()

    async def beside_close(self) -> None:
        if self.tasks and asyncio.current_task() is self.tasks[1]:
            await self.db.close()
        await self.create()

    async def last(self) -> None:
        """Run a statement that lasts longer than anybody will wait."""
        family = "sqlite" if isinstance(self.db, peewee.SqliteDatabase) else "postgresql"
        await self.db.execute_sql(COUNT.format(10**9) if family == "sqlite" else "SELECT pg_sleep(100)")

    async def begin_what_lasts(self, busy: int = 1) -> None:
        self.tasks.append(asyncio.create_task(self.last()))
        while (now := self.db.stats()).busy < busy or now.busy + now.idle < now.workers:
            await asyncio.sleep(0.01)

    async def stuck(self) -> None:
        """Be at work, and say so, when the signal comes."""
        await self.begin_what_lasts(busy=TASKS)
        print("stuck", flush=True)
        await self.tasks[-1]

    async def background(self) -> None:
        try:
            await anyio.sleep(100)
        finally:
            # A scope that was cancelled cancels what is in it again and again; task.cancel() does not.
            with anyio.CancelScope(shield=True):
                await self.say_what_becomes_of(self.write)

    async def say_what_becomes_of(self, write: Callable[[], Awaitable[Any]]) -> None:
        try:
            await write()
        except BaseException as error:
            print(type(error).__name__, flush=True)
            raise
        print("done", flush=True)

    async def generate(self) -> Any:
        try:
            yield 42
        finally:
            with anyio.CancelScope(shield=True):
                await self.say_what_becomes_of(self.create)

    async def main(self, end: Callable[[], Awaitable[Any]]) -> None:
        """Have the tasks in the background, on a database that has been used, and end."""
        async with AsyncExitStack() as stack:
            if self.is_opened:
                await stack.enter_async_context(self.db)
            await self.Row.select().count()
            self.tasks += [asyncio.create_task(self.background()) for _ in range(TASKS)]
            await asyncio.sleep(0.02)
            await end()

    async def main_with_a_group(self, end: Callable[[], Awaitable[Any]]) -> None:
        """Have the tasks in a group, as on trio, whose end cancels them."""
        async with AsyncExitStack() as stack:
            if self.is_opened:
                await stack.enter_async_context(self.db)
            await self.Row.select().count()
            async with anyio.create_task_group() as group:
                for _ in range(TASKS):
                    group.start_soon(self.background)
                await anyio.sleep(0.02)
                await end()
                group.cancel_scope.cancel()

    async def main_with_a_generator(self) -> None:
        """Leave a generator behind, which the loop closes when all tasks have ended."""
        self.generator = self.generate()
        await self.Row.select().count()
        await self.generator.__anext__()


# -- how the program ends ---------------------------------------------------------------------


async def return_() -> None: ...


async def fail() -> None:
    raise LookupError("as expected")


async def exit_() -> None:
    sys.exit(3)


async def interrupted() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    await anyio.sleep(100)


async def terminated() -> None:
    """As servers do: a handler of the loop's sets a flag, and main returns."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    os.kill(os.getpid(), signal.SIGTERM)
    await over.wait()


async def cancel_all() -> None:
    """As many programs do before they stop their loop."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


ENDS = {
    "returns": return_,
    "fails": fail,
    "exits": exit_,
    "interrupted": interrupted,
    "terminated": terminated,
    "cancels": cancel_all,
}
WRITES = (
    "in_a_block shielded in_a_task_of_its_own gathered late streamed in_a_group in_two_databases beside_close"
).split()


def run(loop: str, main: Callable[[], Awaitable[Any]]) -> None:
    if loop == "asyncio":
        asyncio.run(main())  # type: ignore[arg-type]
    elif loop == "uvloop":
        anyio.run(main, backend_options={"use_uvloop": True})
    else:
        anyio.run(main, backend=loop)


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def by_hand(program: Program, loop: asyncio.AbstractEventLoop) -> None:
    """The loop is run by the program itself, which cancels what is left and closes it."""
    loop.run_until_complete(program.main(return_))
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def run_twice(program: Program, loop: asyncio.AbstractEventLoop) -> None:
    """The tasks go on in the loop's second run, and end with it."""
    loop.run_until_complete(program.main(return_))
    assert not any(task.done() for task in program.tasks)
    by_hand(program, loop)


def bare(program: Program, loop: asyncio.AbstractEventLoop) -> None:
    """Nothing is cancelled."""
    loop.run_until_complete(program.main(return_))
    loop.close()


def left(program: Program, loop: asyncio.AbstractEventLoop) -> None:
    """The loop is not even closed."""
    loop.run_until_complete(program.main(return_))


def forever(program: Program, loop: asyncio.AbstractEventLoop) -> None:
    """No task runs the loop, so none is over when it is stopped."""

    async def stop() -> None:
        loop.stop()

    program.tasks.append(loop.create_task(program.main(stop)))
    loop.run_forever()
    loop.close()


def reported_late(program: Program, loop: asyncio.AbstractEventLoop) -> None:
    """The database is closed in time, and its threads come back when the loop is closed."""
    is_closed, serve = threading.Event(), Worker.serve

    def serve_slowly(worker: Worker) -> None:
        serve(worker)
        assert is_closed.wait(10)

    Worker.serve = serve_slowly  # type: ignore[method-assign]

    async def stop() -> None:
        await program.db.close()
        loop.stop()

    program.tasks.append(loop.create_task(program.main(stop)))
    loop.run_forever()
    loop.close()
    is_closed.set()


def made_late(program: Program, loop: asyncio.AbstractEventLoop) -> None:
    """The thread is made when the task that ran the loop is over already."""
    task = loop.create_task(program.main(return_))
    while not task.done():
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def exits_by_hand(program: Program, loop: asyncio.AbstractEventLoop) -> None:
    """What runs the loop leaves it by SystemExit, and the loop does not hear of it."""
    try:
        loop.run_until_complete(program.main(exit_))
    finally:
        loop.close()


def busy(program: Program, loop: asyncio.AbstractEventLoop) -> None:
    """A statement runs when the loop is closed."""
    loop.run_until_complete(program.main(program.begin_what_lasts))
    loop.close()


BY_HAND = {
    function.__name__: function
    for function in (by_hand, run_twice, bare, left, forever, reported_late, made_late, exits_by_hand, busy)
}


def in_a_thread(program: Program, is_daemon: bool) -> None:
    """The loop runs in a thread that goes on when the main thread has ended."""
    has_begun = threading.Event()

    async def main() -> None:
        await program.create()
        has_begun.set()
        while threading.main_thread().is_alive():
            await asyncio.sleep(0.01)
        await asyncio.sleep(LONG)
        await asyncio.gather(*(program.say_what_becomes_of(program.create) for _ in range(2)))

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=is_daemon)
    thread.start()
    assert has_begun.wait(10)


def main(ending: str, opening: str, loop: str, url: str, schema: str = "") -> None:
    program = Program(make_model(url, schema), opening == "opened")
    if ending in BY_HAND:
        BY_HAND[ending](program, new_loop(loop))
    elif ending in ("thread", "daemon"):
        in_a_thread(program, is_daemon=ending == "daemon")
    elif ending == "generator":
        run(loop, program.main_with_a_generator)
    elif loop == "trio":
        run(loop, lambda: program.main_with_a_group(ENDS[ending]))
    else:
        if ending in WRITES or ending == "stuck":
            program.write = getattr(program, ending)
        run(loop, lambda: program.main(ENDS.get(ending, return_)))


if __name__ == "__main__":
    main(*sys.argv[1:])
