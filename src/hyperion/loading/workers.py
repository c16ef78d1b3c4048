"""A few threads that take jobs from a queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Workers"]


class Workers:
    """Threads that start when there is work and end with :meth:`close`. A job deals with its own errors.

    Parameters
    ----------
    name : str
        How the threads are called.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[tuple[Callable[..., None], Any] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(self, most: int, job: Callable[..., None], argument: Any) -> None:
        """Run ``job(argument)`` on one of at most `most` threads."""
        self._jobs.put((job, argument))
        if len(self._threads) < most:
            thread = threading.Thread(target=_work, args=(self._jobs,), name=self._name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """End the threads: jobs under way and those before this call are finished first."""
        threads, self._threads = self._threads, []
        for _ in threads:
            self._jobs.put(None)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()


def _work(jobs: queue.SimpleQueue[tuple[Callable[..., None], Any] | None]) -> None:
    while (item := jobs.get()) is not None:
        job, argument = item
        job(argument)
        del item, job, argument  # nothing is kept alive while waiting
