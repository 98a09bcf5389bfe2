"""Servers that these tests start from the system's packages: found, run as somebody else than root, ended."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.watchdog import watched

# What an administrator runs, and where Debian keeps the servers of PostgreSQL.
FOLDERS = ["/usr/sbin", "/usr/local/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]

# Root may not run PostgreSQL and pgbouncer, so they run as whom every system has.
NOBODY = "nobody"

# How long a server may take to start, in seconds.
STARTING = 30.0


def find_program(name: str) -> str:
    """Return where a program is; skip the test where it is nowhere."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *FOLDERS]))
    if found is None:
        pytest.skip(f"no {name} is installed")
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def server_folder() -> Iterator[Path]:
    """Return a new folder; a server that writes its process id there does not outlive the block."""
    folder = Path(tempfile.mkdtemp(prefix="async_peewee-"))
    with watched(folder):
        yield folder


def user_of_servers() -> pwd.struct_passwd:
    """Return who servers run as: the tests' own user, unless that is root."""
    return pwd.getpwuid(os.getuid()) if os.getuid() else pwd.getpwnam(NOBODY)


def becoming(user: pwd.struct_passwd) -> dict[str, Any]:
    """Return what has a process run as another user, which root alone may ask for."""
    return {} if os.getuid() else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def give(folder: Path, user: pwd.struct_passwd) -> None:
    """Make a folder and all that is in it the user's."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid)


class Process:
    """A server that runs in the foreground, and what it has written."""

    def __init__(self, command: list[str], folder: Path, user: pwd.struct_passwd) -> None:
        self._command = command
        self._folder = folder
        self._user = user
        self._log = folder / "log"
        self._log.touch()
        give(folder, user)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, is_up: Callable[[], object]) -> None:
        """Start it, and wait until `is_up` does not raise any more."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # What a terminal sends to the tests is not meant for it.
                start_new_session=True,
                **becoming(self._user),
            )
        end = time.monotonic() + STARTING
        while True:
            try:
                is_up()
                return
            except Exception as error:
                if self.process.poll() is not None or time.monotonic() > end:
                    self.stop(signal.SIGKILL)
                    pytest.fail(f"{self._command[0]} does not start ({error}): {self.tail()}")
                time.sleep(0.02)

    def tail(self) -> str:
        """Return the end of what it has written."""
        return self._log.read_text(errors="replace")[-2000:]

    def stop(self, number: int) -> None:
        """End it by a signal, and wait until it has ended."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(STARTING)
