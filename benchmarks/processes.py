"""The contenders' processes, seen from the one that asks them."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent


class Process:
    """One contender's process, started when it is first asked and again after it has died."""

    def __init__(self, python: str, contender: str, log: Path) -> None:
        self._command = [python, "-W", "ignore", "-m", "benchmarks.child", contender]
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Have a cell measured; the answer is its figures, or {"error": why there are none}."""
        process = self._process or self._start()
        pipe_in, pipe_out = process.stdin, process.stdout
        assert pipe_in is not None
        assert pipe_out is not None
        timer = threading.Timer(timeout, process.kill)
        timer.start()
        try:
            line = self._exchange(pipe_in, pipe_out, json.dumps(request))
        finally:
            timer.cancel()
        if line:
            return dict(json.loads(line))
        self.close()
        return {"error": f"the process died, or took longer than {timeout:.0f} s; see {self._log}"}

    def _exchange(self, pipe_in: IO[str], pipe_out: IO[str], request: str) -> str:
        try:
            pipe_in.write(request + "\n")
            pipe_in.flush()
        except BrokenPipeError:
            return ""
        return pipe_out.readline()

    def _start(self) -> subprocess.Popen[str]:
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        return self._process

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
