"""What every model file looks like from above: metadata, and tensors that are runs of bytes in files."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hyperion.errors import HyperionIOError, HyperionRuntimeError, InvalidArgumentError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Container", "TensorInfo", "open_for_reading", "read_exactly"]


class TensorInfo(NamedTuple):
    """One tensor.

    Attributes
    ----------
    name : str
        As in the file; never used as a path.
    type : int
        GGUF's number of the numeric type (see :mod:`hyperion.formats.types`).
    type_name : str
        The type's name, as GGUF spells it where it knows it.
    shape : tuple of int
        NumPy order: rows first.
    path : str
        The file that has it.
    offset, nbytes : int
        Where it is in that file.
    packed : bool
        The bytes are packed panels of that type, not rows of blocks.
    checksums : memoryview of uint32, optional
        One for each panel, or one for all bytes of a tensor that is not packed.
    offsets : ndarray of uint64, optional
        Of block-sparse panels: where each of them begins in the tensor's bytes, and where the last one ends.
    """

    name: str
    type: int
    type_name: str
    shape: tuple[int, ...]
    path: str
    offset: int
    nbytes: int
    packed: bool = False
    checksums: memoryview | None = None
    offsets: np.ndarray | None = None

    @property
    def checked_runs(self) -> np.ndarray:
        """Where the bytes of each checksum begin, and where the last ones end: uint64 [checksums + 1]."""
        assert self.checksums is not None
        if self.offsets is not None:
            return self.offsets
        n = len(self.checksums)
        return np.arange(n + 1, dtype=np.uint64) * np.uint64(self.nbytes // max(n, 1))


def open_for_reading(path: str) -> int:
    """A descriptor of a regular file; HyperionIOError where there is none."""
    flags = sum(getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NONBLOCK"))  # a FIFO must not block
    try:
        fd = os.open(path, os.O_RDONLY | flags)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise HyperionIOError(f"cannot open {path!r}: {reason}", path=path) from None
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
    format : str
        "gguf", "hyperion", "huggingface" or "safetensors".
    metadata : Mapping
        GGUF keys and values; for a Hugging Face directory its configuration under "config".
    tensors : dict of str to TensorInfo
        All tensors by name, in the files' order.
    files : tuple of str
        Paths of the files.
    """

    format = "container"

    def __init__(self, path: str, metadata: Mapping[str, Any], tensors: dict[str, TensorInfo], files: dict[str, int]) -> None:
        self.path, self.metadata, self.tensors = path, metadata, tensors
        self._fds = files
        self.files = tuple(files)
        self._states = {name: _state(fd) for name, fd in files.items()}

    def read(self, tensor: TensorInfo) -> np.ndarray:
        """The tensor's bytes, uint8 [nbytes]; errors as for :meth:`read_into`."""
        out = np.empty(tensor.nbytes, np.uint8)
        self.read_into(tensor, out)
        return out

    def read_into(
        self, tensor: TensorInfo, buffer: Any, offset: int = 0, nbytes: int | None = None, *, what: str = ""
    ) -> None:
        """Read bytes [offset, offset + nbytes) of a tensor into a writable buffer of that size; messages begin with `what`.

        Raises
        ------
        InvalidArgumentError
            If that is not within the tensor, or the buffer has another size.
        HyperionIOError
            If the file has changed since it was opened, ended early, or fails; it names the tensor.
        HyperionRuntimeError
            If the container is closed.
        """
        view = memoryview(buffer).cast("B") if tensor.nbytes else memoryview(b"")
        nbytes = tensor.nbytes - offset if nbytes is None else nbytes
        if offset < 0 or nbytes < 0 or offset + nbytes > tensor.nbytes or view.nbytes != nbytes:
            raise InvalidArgumentError(
                f"bytes {offset} to {offset + nbytes} of tensor {tensor.name!r} ({tensor.nbytes} bytes) into {view.nbytes}"
            )
        what = f"{what + ': ' if what else ''}tensor {tensor.name!r} of {tensor.path!r}"
        fd = self.check_unchanged(tensor.path, what)
        read_exactly(fd, view, tensor.offset + offset, what)

    def check_unchanged(self, path: str, what: str = "") -> int:
        """The descriptor of one of the files, after making sure that it is what it was when it was opened.

        Parameters
        ----------
        path : str
            One of :attr:`files`.
        what : str
            For whom, in the message.

        Raises
        ------
        HyperionIOError
            If the file's size, time of change or number of names differ: it was written, truncated or replaced.
        HyperionRuntimeError
            If the container is closed.
        """
        fd = self._fds.get(path)
        if fd is None:
            raise HyperionRuntimeError(f"{self.path}: the container is closed", path=self.path)
        before, now = self._states[path], _state(fd)
        if now != before:
            what = f"{what}: " if what else ""
            if now.size < before.size:
                how = f"truncated from {before.size} to {now.size} bytes"
            else:
                how = "removed or replaced" if before.named and not now.named else "changed"
            raise HyperionIOError(f"{what}{path!r} was {how} after it was opened", path=path)
        return fd

    def detach(self) -> dict[str, int]:
        """Give the open descriptors, by path, to the caller, who closes them; the container is closed."""
        fds, self._fds = self._fds, {}
        return fds

    def close(self) -> None:
        """Close the files; closing twice is allowed."""
        for fd in self.detach().values():
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fds", None):
            self.close()


class _State(NamedTuple):
    inode: int
    size: int
    changed_ns: int
    named: bool


def _state(fd: int) -> _State:
    s = os.fstat(fd)
    return _State(s.st_ino, s.st_size, s.st_mtime_ns, s.st_nlink > 0)


def read_exactly(fd: int, view: memoryview, offset: int, what: str) -> None:
    """Fill a view from an offset, over short reads; HyperionIOError at an early end."""
    done = 0
    while done < view.nbytes:
        at = offset + done
        try:
            got = _pread(fd, view[done:], at)
        except OSError as error:
            raise HyperionIOError(f"{what}: reading at byte {at} failed: {error.strerror}", offset=at) from None
        if got == 0:
            raise HyperionIOError(f"{what}: the file ends at byte {at}, {view.nbytes - done} bytes early", offset=at)
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
