"""Take each guard out of a copy of the package, and see the test that is there for it fail.

    python tests/reliability/mutations.py [--part 1/4] [--minutes 10] [name ...]

Not collected by pytest: it runs pytest itself, once for each mutation, on a copy. A mutation
that no test notices, or one that cannot be tried, ends it with an error, after all others: an
edit that does not fit the source any more, or tests that are none.
"""

# ruff: noqa: E501  (an edit shows best in one line)

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@dataclass
class Mutation:
    """An edit that removes one guard, and the tests of which one must fail."""

    guard: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = [
    Mutation(
        "generation check",
        "_pool/worker.py",
        "            if self._job is not job:\n                return False\n",
        "            if self._job is None:\n                return False\n",
        "tests/pool/test_interrupts.py",
    ),
    Mutation(
        "interrupt under the guard",
        "_pool/worker.py",
        "        with self._guard:\n            if self._job is not job:\n                return False\n            if kill:",
        "        with self._guard:\n            if self._job is not job:\n                return False\n        if True:\n            if kill:",
        "tests/pool/test_interrupts.py",
    ),
    Mutation(
        "a lease has an identity",
        "_pool/scheduler.py",
        "        if lease.state is not Lease.HELD:\n            raise lease.end_error()\n",
        "        if worker is None or worker.lease is None:\n            raise lease.end_error()\n        lease = worker.lease\n",
        "tests/pool/test_leases.py",
    ),
    Mutation(
        "a lease ends after what was placed for it",
        "_pool/scheduler.py",
        "        lease.jobs.append(job)\n",
        "        (lease.jobs.appendleft if job.ends_lease else lease.jobs.append)(job)\n",
        "tests/pool/test_leases.py",
    ),
    Mutation(
        "a finalizer stays outside the pool's lock",
        "_pool/pool.py",
        "        self.loop.wake(partial(self._tell_posted, self._scheduler.end, lease, last))\n",
        "        self._tell_posted(self._scheduler.end, lease, last)\n",
        "tests/pool/test_leases.py -k finalizer",
    ),
    Mutation(
        "a worker stands among the idle once",
        "_pool/scheduler.py",
        "            self.idle.append(worker)\n",
        "            self.idle.append(worker)\n            self.idle.append(worker)\n",
        "tests/pool/test_state_machine.py",
    ),
    Mutation(
        "a job that was handed out is waited for",
        "_pool/worker.py",
        "            if job is None and self.job is not None:\n",
        "            if False:\n",
        "tests/pool/test_ending.py -k handed_out",
    ),
    Mutation(
        "a job that has begun meanwhile is left alone",
        "_pool/pool.py",
        "            self._tell(self._scheduler.drop, job)\n",
        "            self._cancel(job)\n",
        "tests/pool/test_interrupts.py -k asks_whether",
    ),
    Mutation(
        "an owner that never began",
        "_eventloops.py",
        "            if not has_begun:\n                never_began()\n",
        "",
        "tests/pool/test_ending.py -k before_it_begins",
    ),
    Mutation(
        "nobody is hired for dropped calls",
        "_pool/jobs.py",
        "        if job.state is State.QUEUED and job.deadline:\n            self.ready -= 1\n",
        "",
        "tests/pool/test_hiring.py -k nobody_wants",
    ),
    Mutation(
        "with nobody left the pool grows at once",
        "_pool/scheduler.py",
        "        if self.workers and time.monotonic() < self._no_growth_until:\n",
        "        if time.monotonic() < self._no_growth_until:\n",
        "tests/pool/test_hiring.py -k nobody_lives",
    ),
    Mutation(
        "a call behind another of its block is watched",
        "_pool/scheduler.py",
        "            # It stood behind this job, and the turn went to another worker.\n            self._begin_watching(actions)\n",
        "            pass\n",
        "tests/pool/test_order.py -k stuck",
    ),
    Mutation(
        "shielded rollback",
        "_bridge/connections.py",
        "            with anyio.CancelScope(shield=True):\n                await pool.end(lease, job)",
        "            job.parker = pool.loop.parker()\n            pool._tell(pool._scheduler.end, lease, job)\n            await pool.wait(job)",
        "tests/reliability/test_cancellation.py -k leaving_a_cancelled_block",
    ),
    Mutation(
        "ROLLBACK has an end",
        "_orm/execution.py",
        'with worker.interrupter.uninterrupted(), worker.connection.within_grace("ROLLBACK"):',
        "with worker.interrupter.uninterrupted():",
        "tests/reliability/test_silence.py -k stopped_server",
    ),
    Mutation(
        "RELEASE has an end",
        "_orm/execution.py",
        '        if is_savepoint and sql.startswith("RELEASE"):\n',
        "        if False:\n",
        "tests/reliability/test_silence.py -k every_way_out",
    ),
    Mutation(
        "the end of a stream has an end",
        "_drivers/base.py",
        '            with self.within_grace("the end of a stream"):\n',
        "            with contextlib.nullcontext():\n",
        "tests/reliability/test_silence.py -k every_way_out",
    ),
    Mutation(
        "a reset has an end",
        "_drivers/base.py",
        'with self.within_grace("the reset of its session"):',
        "with contextlib.nullcontext():",
        "tests/reliability/test_silence.py -k every_way_out",
    ),
    Mutation(
        "a ping has an end",
        "_drivers/base.py",
        'with self.within_grace("the question whether it answers"):',
        "with contextlib.nullcontext():",
        "tests/reliability/test_silence.py -k every_way_out",
    ),
    Mutation(
        "a set-up has an end",
        "_orm/database.py",
        "            of_worker.begin_set_up()\n",
        "            pass\n",
        "tests/reliability/test_silence.py -k set_up",
    ),
    Mutation(
        "close() cuts a COMMIT",
        "_pool/pool.py",
        "        worker.interrupter.limit_commit()\n",
        "",
        "tests/reliability/test_silence.py -k close_cuts_a_commit",
    ),
    Mutation(
        "a cut COMMIT is not a mere cancellation",
        "_bridge/connections.py",
        "    if job.was_cut and job.error is not None:\n",
        "    if False:\n",
        "tests/reliability/test_silence.py -k end_of_the_loop",
    ),
    Mutation(
        "the second Ctrl-C on trio",
        "_eventloops.py",
        "        if self._count > 1:\n",
        "        if False:\n",
        "tests/reliability/test_silence.py -k ctrl_c",
    ),
    Mutation(
        "what has ended is not cut afterwards",
        "_pool/deadlines.py",
        "                self._call_late(time.monotonic())\n",
        "                late = [one for one in self._pending if one.at <= time.monotonic()]\n                self._pending.difference_update(late)\n            for one in late:\n                one.late()\n            with self._lock:\n",
        "tests/pool/test_deadlines.py",
    ),
    Mutation(
        "COMMIT is not interrupted",
        "_orm/execution.py",
        '        with worker.committing():\n            try:\n                self._control("COMMIT"',
        '        if True:\n            try:\n                self._control("COMMIT"',
        "tests/reliability/test_wire.py -k 'explicit_commit'",
    ),
    Mutation(
        "never-retry rule",
        "_orm/execution.py",
        '            if _is_lost(worker, error):\n                raise _explain_loss(error, worker, "a statement") from error\n',
        "            if _is_lost(worker, error):\n                worker.connection.ensure_connected(worker.interrupter.check)\n                return super()._execute_cursor(sql, params, **options)  # type: ignore[misc]\n",
        "tests/reliability/test_wire.py -k sent_once",
    ),
    Mutation(
        "write lock",
        "_pool/write_lock.py",
        "            if not self._held:\n",
        "            if True:\n",
        "tests/reliability/test_sqlite_writers.py -k queue",
    ),
    Mutation(
        "fork guard",
        "_bridge/fork.py",
        "    os.register_at_fork(after_in_child=forget_in_child)",
        "    pass",
        "tests/reliability/test_fork.py -k 'psycopg2 or gate'",
    ),
    Mutation(
        "dead-transaction guard",
        "_drivers/base.py",
        "        if self.dead:\n            raise",
        "        if False:\n            raise",
        "tests/reliability/test_cancellation.py tests/reliability/test_dead_transactions.py -k 'half_transaction or refused or dead'",
    ),
    Mutation(
        "dead after an error inside a function",
        "_orm/execution.py",
        "            worker.connection.check_transaction()\n            self._explain(error)\n",
        "            self._explain(error)\n",
        "tests/reliability/test_dead_transactions.py -k sqlite",
    ),
    Mutation(
        "one attempt to grow beside others that live",
        "_pool/scheduler.py",
        "            self._refuse_growth(error, actions)\n            self._stop(worker, actions)\n",
        "            self._refuse_growth(error, actions)\n",
        "tests/pool/test_hiring.py",
    ),
    Mutation(
        "one worker at a time tries to grow",
        "_pool/scheduler.py",
        "if self._opens_slowly and not self._is_refused else 1",
        "if self._opens_slowly else 1",
        "tests/pool/test_hiring.py",
    ),
    Mutation(
        "no COMMIT over a connection that has ended",
        "_orm/execution.py",
        "        _check_before_commit(worker)\n",
        "",
        "tests/reliability/test_dead_connections.py -k commit",
    ),
    Mutation(
        "something to read is no farewell",
        "_drivers/sockets.py",
        "return error if error is not None and self.has_gone(error) else None",
        "return error",
        "tests/reliability/test_dead_connections.py -k commit",
    ),
    Mutation(
        "what may be open is asked for before it is warned of",
        "_drivers/mysql.py",
        "        if self.in_transaction():\n            with contextlib",
        "        if False:\n            with contextlib",
        "tests/test_mysql_deadlock.py",
    ),
    Mutation(
        "dead after a change that the snapshot has not",
        "_drivers/mysql.py",
        "PERHAPS_ROLLED_BACK = (1020, 1205)",
        "PERHAPS_ROLLED_BACK = ()",
        "tests/test_mysql_deadlock.py",
    ),
    Mutation(
        "a wait at the write lock is called so",
        "_pool/scheduler.py",
        "            if job.state is State.AT_LOCK and job.write_lock is not None:\n",
        "            if False:\n",
        "tests/reliability/test_deadlock.py",
    ),
    Mutation(
        "a role whose name begins like its password",
        "_drivers/urls.py",
        "        if ORDINARY.fullmatch(secret):\n",
        "        if False:\n",
        "tests/reliability/test_secrets.py",
    ),
    Mutation(
        "dead after a deadlock",
        "_drivers/mysql.py",
        "\nROLLED_BACK = (1213,)",
        "\nROLLED_BACK = ()",
        "tests/reliability/test_dead_transactions.py -k pymysql",
    ),
    Mutation(
        "control returns when the worker is free, not earlier",
        "_pool/pool.py",
        "        return self._tell(self._scheduler.cancel, job).is_dropped\n",
        "        self._tell(self._scheduler.cancel, job)\n        return True\n",
        "tests/reliability/test_cancellation.py -k waited_for",
    ),
    Mutation(
        "a worker is freed when its thread is, not earlier",
        "_pool/scheduler.py",
        "            actions.interrupt = (job,)\n        return actions\n",
        "            actions.interrupt = (job,)\n            self.workers.discard(job.worker)\n            actions.is_dropped = True\n        return actions\n",
        "tests/reliability/test_cancellation.py -k 'fifteen and psycopg2'",
    ),
    Mutation(
        "a run that ends waits for its workers",
        "_pool/threads.py",
        "            await self.wait_until_gone(0)\n",
        "            self._dismiss(worker)\n",
        "tests/pool/test_ending.py",
    ),
    Mutation(
        "workers outlast the tasks that still write",
        "_pool/threads.py",
        "        elif await self._loop.outlast_others():\n",
        "        else:\n",
        "tests/reliability/test_endings.py -k 'is_done and sqlite'",
    ),
    Mutation(
        "tasks that wait for each other at the end are not waited for without end",
        "_eventloops.py",
        "            if patience <= 0:\n                return False\n",
        "",
        "tests/reliability/test_endings.py -k 'cancels and sqlite and asyncio'",
    ),
    Mutation(
        "a thread that was lent ends by itself",
        "_eventloops.py",
        "                _end_thread(thread[0])\n",
        "                pass\n",
        "tests/reliability/test_endings.py -k 'nobody_winds_up'",
    ),
    Mutation(
        "a loop that is closed under running jobs is watched",
        "_pool/threads.py",
        "            if self._is_forsaken():\n",
        "            if False:\n",
        "tests/reliability/test_endings.py -k 'nobody_winds_up and asyncio-bare'",
    ),
    Mutation(
        "trio hires nobody at its end",
        "_eventloops.py",
        "            never_began()\n\n    async def lend_thread(self, function: Callback, limiter: anyio.CapacityLimiter) -> None:\n        await",
        "            pass\n\n    async def lend_thread(self, function: Callback, limiter: anyio.CapacityLimiter) -> None:\n        await",
        "tests/reliability/test_endings.py -k 'trio_closes'",
    ),
    Mutation(
        "orphans of tasks that are kept",
        "_bridge/connections.py",
        "            call_at_end(task, self._left_behind)\n",
        "",
        "tests/reliability/test_orphans.py -k 'kept and sqlite'",
    ),
    Mutation(
        "orphans of tasks that are gone",
        "_bridge/entries.py",
        "are no more: their entries go with them.\n        self.reclaim()\n",
        "are no more: their entries go with them.\n        pass\n",
        "tests/reliability/test_orphans.py -k 'ends_inside and trio and sqlite'",
    ),
    Mutation(
        "a query belongs to the block in which it was made",
        "_bridge/calls.py",
        "    if entry is None and made_in:\n        entry = connections.find(made_in)\n",
        "",
        "tests/reliability/test_made_in_a_block.py -k 'asyncio and psycopg2'",
    ),
    Mutation(
        "a query keeps no block alive",
        "_bridge/entries.py",
        "own = entry.task(), (weakref.ref(entry),)",
        "own = entry.task(), ((lambda: entry),)",
        "tests/reliability/test_made_in_a_block.py -k 'kept and asyncio and sqlite'",
    ),
    Mutation(
        "a child is warned of before it waits for its parent",
        "_bridge/connections.py",
        "            outside.warn()  # before it waits for what the parent holds\n",
        "            pass\n",
        "tests/reliability/test_child_tasks.py -k 'before_it_waits and asyncio and psycopg2'",
    ),
    Mutation(
        "allow_sync() is not inherited",
        "_bridge/places.py",
        "    return any(reference() is owner for reference in tuple(_permitted))",
        "    return True",
        "tests/test_guard.py -k 'not_inherited and asyncio'",
    ),
    Mutation(
        "a loop on a worker is refused",
        "_bridge/dual.py",
        '        elif running_asyncio() is not None or ("trio" in loaded and running_key() is not None):',
        "        elif False:",
        "tests/test_loops_on_workers.py -k 'asyncio and sqlite'",
    ),
    Mutation(
        "a block is undone when it was cancelled on entry",
        "_bridge/connections.py",
        "                    await self.end(pool, lease, undo)\n",
        "                    pass\n",
        "tests/reliability/test_orphans.py -k 'just_entered and sqlite'",
    ),
    Mutation(
        "a bound for one attempt to connect",
        "_drivers/connecting.py",
        '    return {"connect_timeout": ATTEMPT, **parameters} if has_server and not is_bound else parameters\n',
        "    return parameters\n",
        "tests/reliability/test_connecting.py -k 'says_nothing_end and psycopg2 and asyncio'",
    ),
    Mutation(
        "connecting one at a time",
        "_orm/database.py",
        "        self._lock = contextlib.nullcontext()\n",
        "",
        "tests/reliability/test_connecting.py -k 'says_nothing_end and psycopg3 and asyncio'",
    ),
    Mutation(
        "a cut statement ends on the server",
        "_drivers/postgresql.py",
        "for sql in (SETTINGS_WITH_WATCH, SETTINGS)",
        "for sql in (SETTINGS,)",
        "tests/reliability/test_connecting.py -k 'was_cut and psycopg2 and asyncio'",
    ),
    Mutation(
        "jitter of max_lifetime",
        "_drivers/base.py",
        "random.uniform(SHORTEST_LIFE, 1.0)",
        "1.0",
        "tests/reliability/test_connecting.py -k 'burst and psycopg2 and asyncio'",
    ),
    Mutation(
        "KILL QUERY at the same server only",
        "_drivers/mysql.py",
        "                if identity_of(session, cursor) == identity:\n",
        "                if identity_of(session, cursor) or True:\n",
        "tests/reliability/test_interrupts_elsewhere.py -k 'mariadb and pymysql and asyncio'",
    ),
    Mutation(
        "only our own descriptor is cut",
        "_drivers/sockets.py",
        "        if os.path.samestat(os.fstat(copy), noted):\n",
        "        if True:\n",
        "tests/reliability/test_interrupts_elsewhere.py -k 'unseen and psycopg2 and asyncio'",
    ),
    Mutation(
        "a new connection is noted, whoever opened it",
        "_orm/database.py",
        "        if is_new and of_worker is not None:\n",
        "        if is_new and of_worker is not None and of_worker._socket is None:\n",
        "tests/reliability/test_interrupts_elsewhere.py -k 'reconnected and psycopg2 and asyncio'",
    ),
    Mutation(
        "an interrupt without an answer",
        "_drivers/base.py",
        "            self._has_gone = self._has_gone or isinstance(error, TimeoutError)\n",
        "",
        "tests/reliability/test_interrupts_elsewhere.py -k 'not_answered and psycopg2 and asyncio'",
    ),
    Mutation(
        "a server that became read-only",
        "_drivers/base.py",
        "        self._replace_at = 0.0\n\n    def clean_up",
        "        pass\n\n    def clean_up",
        "tests/reliability/test_changed_servers.py -k 'one_write and psycopg2 and asyncio'",
    ),
    Mutation(
        "session reset",
        "_drivers/base.py",
        "        if (self.session_changed or",
        "        if (False or",
        "tests/reliability/test_hygiene.py -k 'session_state and asyncio'",
    ),
    Mutation(
        "who compares is told to await",
        "_bridge/unawaited.py",
        "code.co_name in COMPARISONS or is_peewee(frame) or",
        "",
        "tests/test_calls.py -k 'comparison_says and asyncio'",
    ),
    Mutation(
        "what is not awaited is no pattern's subject",
        "_bridge/unawaited.py",
        " or code.co_code[frame.f_lasti] == MATCH_CLASS",
        "",
        "tests/test_calls.py -k 'comparison_says and asyncio'",
    ),
    Mutation(
        "what is not awaited is no key",
        "_bridge/unawaited.py",
        '        if not sys._getframe(1).f_globals.get("__name__", "").startswith("asyncio."):\n            self._misused()\n',
        "",
        "tests/test_calls.py -k 'comparison_says and asyncio'",
    ),
    Mutation(
        "a query is compared with queries alone",
        "_orm/queries.py",
        "        query.refuse_comparison()\n",
        "        pass\n",
        "tests/test_calls.py -k 'queries_alone and asyncio'",
    ),
    Mutation(
        "containers are looked into",
        "_bridge/detaching.py",
        "DEPTH = 8\n",
        "DEPTH = 0\n",
        "tests/test_results.py -k 'container and sqlite and asyncio'",
    ),
    Mutation(
        "handlers of signals are plain functions",
        "_orm/signals.py",
        "    return (CheckedSignals, *bases)\n",
        "    return bases\n",
        "tests/extensions/test_signals.py -k 'refused and asyncio'",
    ),
    Mutation(
        "no database for each thread",
        "_orm/models.py",
        "            _refuse_thread_local(metadata, name)\n",
        "",
        "tests/test_models.py -k 'each_thread'",
    ),
    Mutation(
        "a fresh session after a reset",
        "_drivers/postgresql.py",
        "        self.database._initialize_connection(self.dbapi_connection)\n",
        "",
        "tests/reliability/test_sessions.py -k 'brings_back and hook and psycopg2 and asyncio'",
    ),
    Mutation(
        "a reset of what a _connect() has set up",
        "_drivers/postgresql.py",
        "self.was_handed_out or has_own_connect(self.database)",
        "self.was_handed_out",
        "tests/reliability/test_sessions.py -k 'brings_back and by_connect and psycopg2 and asyncio'",
    ),
    Mutation(
        "a default that cannot be had is forgone",
        "_drivers/sqlite.py",
        "    except Exception as error:  # each driver has classes of its own\n",
        "    except ZeroDivisionError as error:\n",
        "tests/reliability/test_journal_modes.py -k 'written_elsewhere and asyncio'",
    ),
    Mutation(
        "the loop's thread looks at the clock when it makes rows",
        "_bridge/results.py",
        "            if clock() >= until:\n                break\n",
        "",
        "tests/test_rows.py -k 'turns_slow and asyncio'",
    ),
    Mutation(
        "a stream that turns slow goes to its worker",
        "_bridge/streams.py",
        "        self._judge(count, used, is_late=left <= 0)\n",
        "",
        "tests/test_rows.py -k 'turns_slow and asyncio'",
    ),
    Mutation(
        "a kept connection is closed",
        "_drivers/postgresql.py",
        "self.was_handed_out or has_own_connect(self.database)",
        "has_own_connect(self.database)",
        "tests/reliability/test_sessions.py -k 'kept and psycopg2 and asyncio'",
    ),
    Mutation(
        "functions of the user's are noticed",
        "_drivers/functions.py",
        "    return not names <= HARMLESS_FUNCTIONS",
        "    return False",
        "tests/reliability/test_sessions.py -k 'of_ones_own_leaves and psycopg2 and asyncio'",
    ),
    Mutation(
        "no held cursor behind a pooler",
        "_drivers/postgresql.py",
        "        if not self._is_pooled:\n",
        "        if True:\n",
        "tests/servers/test_pgbouncer.py -k 'test_a_stream_outside_a_block and transaction and asyncio'",
    ),
    Mutation(
        "psycopg prepares nothing behind a pooler",
        "_drivers/postgresql.py",
        "            self.dbapi_connection.prepare_threshold = None\n",
        "            pass\n",
        "tests/servers/test_pgbouncer.py -k 'not_prepared_twice and transaction and psycopg3'",
    ),
    Mutation(
        "a reset behind a pooler brings back what was asked for",
        "_drivers/postgresql.py",
        "        if gone := dict(self._settings.items() - self._reports().items()):\n",
        "        if gone := {}:\n",
        "tests/servers/test_pgbouncer.py -k test_a_reset_brings_back",
    ),
    Mutation(
        "a stream's cursor in a block ends with it",
        "_drivers/postgresql.py",
        "CURSOR FOR {sql}",
        "CURSOR WITH HOLD FOR {sql}",
        "tests/test_streams.py -k 'leaving_a_block and psycopg2'",
    ),
]


# What pytest returns when a test failed. Anything else, no tests for one, shows nothing.
NOTICED = 1

# Some mutations let their test hang, which is noticed as well.
HANGS = 90


def complaint_about(mutation: Mutation) -> str:
    """Return why a mutation is not known to be noticed, "" if it is; print what its test says."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder) / "copy"
        ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, copy, ignore=ignored)
        if fits := mutate(copy / "async_peewee" / mutation.file, mutation):
            return fits
        options = "-m pytest -x -q -p no:cacheprovider --tb=line -m 'not soak'"
        # Not by a shell: of one that hangs the shell alone would be killed.
        command = [sys.executable, *shlex.split(f"{options} {mutation.tests}")]
        try:
            done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=HANGS)
        except subprocess.TimeoutExpired:
            print(f"  {mutation.tests}: hangs")
            return ""
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR", "E  "))]
    print(*[f"  {line}" for line in lines[:3]], sep="\n", flush=True)
    return "" if done.returncode == NOTICED else said_by(done.returncode)


def mutate(path: Path, mutation: Mutation) -> str:
    """Make the edit in a file, or return why it cannot be made."""
    source = path.read_text() if path.exists() else ""
    if (places := source.count(mutation.old)) != 1:
        return f"the edit fits {places} places of {mutation.file}"
    path.write_text(source.replace(mutation.old, mutation.new))
    return ""


def said_by(returned: int) -> str:
    return "no test notices" if returned == 0 else f"pytest could not run its tests: {returned}"


def share(part: str) -> list[Mutation]:
    """Return one part of the list, "2/4" for the second of four; the parts together are all of it."""
    found = re.fullmatch(r"(\d+)/(\d+)", part)
    number, parts = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= parts:
        raise ValueError(f"{part!r} is no part like 1/4")
    return MUTATIONS[number - 1 :: parts]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help="of guards; without any, all")
    parser.add_argument("--part", type=share, default=MUTATIONS, help="1/4 is the first of four parts")
    parser.add_argument("--minutes", type=float, default=60.0, help="none is begun after that")
    options = parser.parse_args(arguments)
    chosen = [mutation for mutation in options.part if not options.names or mutation.guard in options.names]
    complaints = [] if chosen else ["nothing was chosen"]
    end = time.monotonic() + options.minutes * 60
    for mutation in chosen:
        if time.monotonic() > end:
            print(f"{mutation.guard}: not tried, the time is over", flush=True)
            continue
        print(mutation.guard, flush=True)
        if complaint := complaint_about(mutation):
            complaints.append(f"{mutation.guard}: {complaint}")
    sys.exit("\n".join(complaints) or None)


if __name__ == "__main__":
    main(sys.argv[1:])
