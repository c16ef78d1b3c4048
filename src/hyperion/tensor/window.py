"""A window in memory over a file that may be larger than memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from hyperion.errors import HyperionIOError, HyperionRuntimeError
from hyperion.memory import MemoryBudget, allocate

__all__ = ["Window"]


class Window:
    """Bytes of a temporary file without a name, at most `size` of them in memory at one time.

    Parameters
    ----------
    nbytes : int
        Size of the file; it reads as zeros at first and takes disk space as it is written.
    size : int
        Bytes of the window.
    directory : str, optional
        Where the file is.
    budget : MemoryBudget
        Where the window counts.

    Raises
    ------
    MemoryBudgetError
        If the ledger cannot hold the window.
    HyperionIOError
        If the file cannot be made, or the disk has not as many bytes free.
    """

    def __init__(self, nbytes: int, size: int, directory: str | None, budget: MemoryBudget) -> None:
        import tempfile  # brings random and the compression libraries along, which few processes need

        self.nbytes, self.size = nbytes, min(size, max(nbytes, 1))
        self.lock = threading.RLock()
        self.bytes_read = self.bytes_written = self.moves = 0
        self._start = self._stop = 0
        self._dirty = False
        self._where = directory or tempfile.gettempdir()
        self._file: Any = None
        self._memory = allocate(budget, "tensor window", self.size, huge=False)
        self._bytes = np.frombuffer(self._memory, np.uint8, self.size)
        try:
            make = tempfile.TemporaryFile
            self._file = self._telling("make", lambda: make(buffering=0, dir=directory))
            self._telling("make", self._claim)
        except BaseException:
            self.close()
            raise

    def _claim(self) -> None:
        if hasattr(os, "statvfs"):
            disk = os.statvfs(self._file.fileno())
            if self.nbytes > disk.f_bavail * disk.f_frsize:
                raise OSError(f"{self.nbytes} bytes are needed, the disk has {disk.f_bavail * disk.f_frsize} free")
        self._file.truncate(self.nbytes)

    def _telling(self, doing: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except OSError as error:
            reason = error.strerror or error
            message = f"cannot {doing} a streaming tensor's file of {self.nbytes} bytes in {self._where}: {reason}"
            raise HyperionIOError(message, path=self._where, errno=error.errno) from None

    # ---- access --------------------------------------------------------------------------------------------------

    def view(self, start: int, stop: int, *, around: tuple[int, int] | None = None, write: bool = False, read: bool = True) -> np.ndarray:
        """Bytes `start` to `stop` as an array of uint8, which is valid until the next call of any method.

        Parameters
        ----------
        start, stop : int
            At most the window's size apart.
        around : (int, int), optional
            What to bring into memory when they are not there; by default they alone.
        write : bool
            Whether the bytes will be changed.
        read : bool
            False: what is in them does not matter, as all of it will be written.
        """
        if self._file is None:
            raise HyperionRuntimeError("the tensor is closed")
        if start < self._start or stop > self._stop:
            self._move(*(around or (start, stop)), read)
        self._dirty |= write
        return self._bytes[start - self._start : stop - self._start]

    def write(self, start: int, data: np.ndarray) -> None:
        """Write at most the window's size of bytes; what follows on what the window holds joins it, and nothing is read for it."""
        stop = start + len(data)
        if self._start <= start <= self._stop and stop <= self._start + self.size:
            self._stop = max(self._stop, stop)
        self.view(start, stop, write=True, read=False)[...] = data

    def _move(self, start: int, stop: int, read: bool) -> None:
        self.flush()
        if self._stop > self._start:
            self._forget_pages()
        self._start = self._stop = start
        if read:
            self._telling("read", lambda: self._transfer(self._file.readinto, start, stop))
            self.bytes_read += stop - start
        self._stop = stop
        self.moves += 1

    def _transfer(self, call: Callable[[Any], int | None], start: int, stop: int) -> None:
        """Read or write the bytes of the window from its beginning, however many a call takes."""
        self._file.seek(start)
        done = 0
        while done < stop - start:
            count = call(self._bytes[done : min(stop - start, done + (1 << 30))])
            if not count:
                raise OSError(f"the file ends at byte {start + done}")
            done += count

    def _forget_pages(self) -> None:
        """The page cache need not keep what the window has passed; what is not written yet begins to be."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def flush(self) -> None:
        """Write a changed window to the file."""
        if self._dirty and self._file is not None:
            self._telling("write", lambda: self._transfer(self._file.write, self._start, self._stop))
            self.bytes_written += self._stop - self._start
            self._dirty = False

    @property
    def resident(self) -> int:
        """Bytes of memory that it holds."""
        return int(self._memory.mapped)

    def close(self) -> None:
        """Give the memory and the file back."""
        with self.lock:
            file, self._file = self._file, None
            self._dirty = False
            self._bytes = np.empty(0, np.uint8)
            self._memory.close()
            if file is not None:
                file.close()
