"""A worker process and how to talk to it: one JSON object a line, over pipes.

A request is ``{"op": name, ...arguments}``, a reply ``{"ok": result}`` or ``{"error": text}``. Workers stay alive between
requests and do nothing then, so measurements of several of them interleave without two running at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

IDLE_SECONDS = 0.05  # by then the spinning threads of every OpenMP runtime have gone to sleep


class WorkerError(RuntimeError):
    """A worker refused a request or died; the text says how."""


class Worker:
    """The parent's side of a worker process.

    Parameters
    ----------
    module : str
        What to run as ``python -m module``.
    python : str, optional
        Another interpreter, where the peer lives in an environment of its own.
    env : dict, optional
        Environment variables to add.
    """

    def __init__(self, module: str, *, python: str | None = None, env: dict[str, str] | None = None) -> None:
        self.module = module
        self.process = subprocess.Popen(
            [python or sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            text=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests, self.replies = self.process.stdin, self.process.stdout

    def ask(self, op: str, **arguments: Any) -> Any:
        """Send a request and wait for its result.

        Raises
        ------
        WorkerError
            If the worker replies with an error or ends.
        """
        try:
            self.requests.write(json.dumps({"op": op, **arguments}) + "\n")
            self.requests.flush()
            line = self.replies.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self.process.wait()
            how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
            raise WorkerError(f"{self.module} ended with {how} in {op!r}")
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(f"{self.module}: {reply['error']}")
        return reply["ok"]

    def close(self) -> None:
        """End the process; one that hangs is killed."""
        with contextlib.suppress(OSError):
            self.requests.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.replies.close()


def serve(operations: dict[str, Callable[..., Any]]) -> None:
    """The worker's side: answer requests until the parent closes the pipe.

    Standard output is moved away first, so that nothing a library prints can break the protocol.
    """
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"ok": operations[request.pop("op")](**request)}
        except Exception as error:  # noqa: BLE001 - the parent decides what an error means
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")


def peak_memory() -> int | None:
    """Bytes of the largest resident set so far (VmHWM), or None where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None


def token_ids(n: int, vocab: int, seed: int = 0) -> list[int]:
    """The same ordinary tokens for every peer: no control or byte tokens."""
    return np.random.default_rng(seed).integers(300, vocab, n).tolist()
