"""Environments of their own for contenders whose pins clash with ours, made once under `.envs`."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent / ".envs"


class NotInstallableError(Exception):
    """The packages of a contender could not be had."""


def python_with(name: str, packages: Sequence[str]) -> str:
    """Return an interpreter that has the packages; without any, the one that runs now."""
    if not packages:
        return sys.executable
    wanted = "\n".join([sys.version, *packages])
    folder = FOLDER / f"{name}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    python = folder / "bin" / "python"
    if not (folder / "ensure_connected").exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        command = [str(python), "-m", "pip", "install", "-q", *packages]
        installed = subprocess.run(command, capture_output=True, text=True)
        if installed.returncode:
            raise NotInstallableError(installed.stderr.strip().splitlines()[-1])
        (folder / "ensure_connected").touch()
    return str(python)


def versions_in(python: str) -> dict[str, str]:
    """Return the installed version of each package of an interpreter, by name."""
    code = "from importlib.metadata import distributions as d; [print(x.name, x.version) for x in d()]"
    listed = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return dict(sorted(line.split() for line in listed.stdout.splitlines()))
