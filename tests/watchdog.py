"""End a server when the process that has started it ends, by whatever signal.

Run as a program, beside the tests, with the server's folder: it waits until its standard input
is closed, by the kernel if nobody else did. Then it ends the server, if that still runs, and
removes the folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

# A server that is just being started has no process id yet.
STARTING = 3.0
ENDING = 10.0


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Let a server in this folder outlive neither the block nor this process."""
    # A session of its own: what a terminal sends to the tests is not meant for it.
    dog = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(folder)], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield
    finally:
        dog.communicate(b"done")


def pid_of(folder: Path) -> int | None:
    """Return the process id of the server in a folder or below it, None if there is none."""
    try:
        return int(next(folder.rglob("*.pid")).read_text().split()[0])
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def end(pid: int) -> None:
    """End a server at once, and wait until it has."""
    limit = time.monotonic() + ENDING
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGQUIT)
        while is_alive(pid) and time.monotonic() < limit:
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)


def main(folder: Path) -> None:
    is_ended = bool(sys.stdin.buffer.read())
    limit = time.monotonic() + (0 if is_ended else STARTING)
    while (pid := pid_of(folder)) is None and time.monotonic() < limit:
        time.sleep(0.05)
    if pid is not None:
        end(pid)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
