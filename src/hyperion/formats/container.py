"""What every model file looks like from above: metadata, and tensors that are runs of bytes in files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from hyperion.errors import HyperionIOError, InvalidArgumentError

__all__ = ["Container", "TensorInfo", "open_for_reading"]


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """One tensor.

    Attributes
    ----------
    name : str
        As in the file; never used as a path.
    type : int
        GGUF's number of the numeric type (see :mod:`hyperion.formats.types`).
    type_name : str
    shape : tuple of int
        NumPy order: rows first.
    path : str
        The file that has it.
    offset, nbytes : int
        Where it is in that file.
    """

    name: str
    type: int
    type_name: str
    shape: tuple[int, ...]
    path: str
    offset: int
    nbytes: int


def open_for_reading(path: str) -> int:
    """A descriptor of a regular file; HyperionIOError where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise HyperionIOError(f"cannot open {path!r}: {error.strerror}", path=path) from None
    import stat

    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise HyperionIOError(f"{path!r} is not a regular file", path=path)
    return fd


class Container:
    """An open model file, or several that belong together.

    Reading goes through positioned reads into memory of the caller; a file that changed since it was opened is an error.

    Attributes
    ----------
    path : str
        What was opened.
    metadata : Mapping
        GGUF keys and values; for a Hugging Face directory its configuration under "config".
    tensors : dict of str to TensorInfo
    files : tuple of str
    """

    format = "container"

    def __init__(self, path: str, metadata: Mapping[str, Any], tensors: dict[str, TensorInfo], files: dict[str, int]) -> None:
        self.path, self.metadata, self.tensors = path, metadata, tensors
        self._fds = files
        self.files = tuple(files)
        self._states = {name: _state(fd) for name, fd in files.items()}

    def read(self, tensor: TensorInfo) -> np.ndarray:
        """The tensor's bytes, uint8 [nbytes]."""
        out = np.empty(tensor.nbytes, np.uint8)
        self.read_into(tensor, out)
        return out

    def read_into(self, tensor: TensorInfo, buffer: Any, offset: int = 0, nbytes: int | None = None) -> None:
        """Read bytes [offset, offset + nbytes) of a tensor into a writable buffer of that size.

        Raises
        ------
        InvalidArgumentError
            If that is not within the tensor, or the buffer has another size.
        HyperionIOError
            If the file has changed since it was opened, ended early, or fails.
        """
        view = memoryview(buffer).cast("B")
        nbytes = tensor.nbytes - offset if nbytes is None else nbytes
        if offset < 0 or nbytes < 0 or offset + nbytes > tensor.nbytes or view.nbytes != nbytes:
            raise InvalidArgumentError(
                f"bytes {offset} to {offset + nbytes} of tensor {tensor.name!r} ({tensor.nbytes} bytes) into {view.nbytes}"
            )
        fd = self._fds.get(tensor.path)
        if fd is None:
            raise HyperionIOError(f"{self.path}: the container is closed", path=self.path)
        if _state(fd) != self._states[tensor.path]:
            raise HyperionIOError(
                f"tensor {tensor.name!r}: {tensor.path!r} was changed, replaced or truncated after it was opened", path=tensor.path
            )
        read_exactly(fd, view, tensor.offset + offset, f"tensor {tensor.name!r} of {tensor.path!r}")

    def close(self) -> None:
        """Close the files; closing twice is allowed."""
        fds, self._fds = self._fds, {}
        for fd in fds.values():
            os.close(fd)

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fds", None):
            self.close()


def _state(fd: int) -> tuple[int, int, int, bool]:
    s = os.fstat(fd)
    return s.st_ino, s.st_size, s.st_mtime_ns, s.st_nlink > 0


def read_exactly(fd: int, view: memoryview, offset: int, what: str) -> None:
    """Fill a view from an offset, over short reads; HyperionIOError at an early end."""
    done = 0
    while done < view.nbytes:
        try:
            got = _pread(fd, view[done:], offset + done)
        except OSError as error:
            raise HyperionIOError(f"{what}: reading at byte {offset + done} failed: {error.strerror}", offset=offset + done) from None
        if got == 0:
            raise HyperionIOError(
                f"{what}: the file ends at byte {offset + done}, {view.nbytes - done} bytes early", offset=offset + done
            )
        done += got


if hasattr(os, "preadv"):

    def _pread(fd: int, view: memoryview, offset: int) -> int:
        return os.preadv(fd, [view[: 1 << 30]], offset)

elif hasattr(os, "pread"):

    def _pread(fd: int, view: memoryview, offset: int) -> int:
        data = os.pread(fd, min(len(view), 1 << 24), offset)
        view[: len(data)] = data
        return len(data)

else:  # Windows: one reader at a time a descriptor
    import threading

    _seek_lock = threading.Lock()

    def _pread(fd: int, view: memoryview, offset: int) -> int:
        with _seek_lock:
            os.lseek(fd, offset, os.SEEK_SET)
            data = os.read(fd, min(len(view), 1 << 24))
        view[: len(data)] = data
        return len(data)
