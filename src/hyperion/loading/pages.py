"""One file as pages of memory: views of it, pages brought in and given back."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from hyperion.errors import HyperionIOError

__all__ = ["AROUND", "FileMapping"]

# Populates page tables like reading would, but a page that is not in the file is an error and not SIGBUS (Linux 5.14).
# The mmap module has no name for it.
_POPULATE_READ = 22
_PAGE = mmap.ALLOCATIONGRANULARITY

AROUND = 2 << 20
"""Touching a page may bring its neighbours in too: as many as the page cache holds in one piece, aligned to its size."""


class FileMapping:
    """A read-only mapping of a whole file.

    Arrays from :meth:`view` keep it alive, also past :meth:`close`. What they show is the file: whoever truncates it
    while they are read ends the process by SIGBUS, which is in the nature of mappings.
    """

    def __init__(self, fd: int, path: str) -> None:
        self.path = path
        self.fd = fd
        try:
            self._map: mmap.mmap | None = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise HyperionIOError(f"cannot map {path!r}: {error}", path=path) from None
        if hasattr(mmap, "MADV_NOHUGEPAGE"):  # a huge page goes as a whole, with the neighbours that are on it
            with contextlib.suppress(OSError):  # a kernel without huge pages
                self._map.madvise(mmap.MADV_NOHUGEPAGE)
        self._populates = hasattr(os, "uname") and os.uname().sysname == "Linux"

    def view(self, offset: int, nbytes: int, dtype: Any) -> np.ndarray:
        """A flat read-only array of a range, without reading it."""
        if nbytes == 0:
            empty = np.empty(0, dtype)
            empty.flags.writeable = False
            return empty
        assert self._map is not None
        return np.frombuffer(self._map, np.uint8, nbytes, offset).view(dtype)

    def populate(self, start: int, end: int, what: str) -> None:
        """Map the pages of a range that is in the page cache; messages begin with `what`.

        Raises
        ------
        HyperionIOError
            If the file no longer has them.
        """
        if self._map is None or not self._populates or end <= start:
            return
        first = start - start % _PAGE
        try:
            self._map.madvise(_POPULATE_READ, first, end - first)
        except OSError as error:
            if error.errno != 22:  # EINVAL: an older kernel; pages are then mapped when they are touched
                message = f"{what}: bytes {start} to {end} of {self.path!r} are no longer there"
                raise HyperionIOError(message, path=self.path, offset=start) from None
            self._populates = False

    def unmap(self, start: int, end: int, keep: Iterable[tuple[int, int]] = ()) -> None:
        """Take the pages of a range out of this process, and those around it that may have come with them.

        Pages with bytes of the ranges in `keep` stay. A view that is read later brings its pages in again.
        """
        if self._map is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        at, last = start - start % AROUND, min(end + -end % AROUND, len(self._map))
        for first, after in [*sorted(keep), (last + -last % _PAGE, last)]:
            free = min(first - first % _PAGE, last)
            if free > at:
                self._map.madvise(mmap.MADV_DONTNEED, at, free - at)
            at = max(at, after + -after % _PAGE)

    def forget(self, start: int, end: int) -> None:
        """Let the page cache drop a range that nobody maps any more."""
        if self._map is not None and end > start and hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):  # advice
                os.posix_fadvise(self.fd, start, end - start, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Unmap the file, or leave that to the last view."""
        mapping, self._map = self._map, None
        if mapping is not None:
            with contextlib.suppress(BufferError):  # views are alive: the mapping ends with them
                mapping.close()
