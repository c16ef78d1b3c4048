"""Files, directories and paths: thin over :mod:`os` and :mod:`pathlib`, with the library's errors.

Paths are str or PathLike. A file is written whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, overload

from .errors import HyperionIOError, InvalidArgumentError

__all__ = [
    "AtomicFile",
    "SpoolFile",
    "create_dir",
    "file_exists",
    "get_base_name",
    "get_dir_name",
    "join_path",
    "list_dir",
    "read_file",
    "write_file",
]

PathLike = str | os.PathLike[str]
_STEP = 1 << 30  # Linux reads and writes at most 2 GiB in one call


def _path(path: Any) -> Path:
    """A path that the system can be asked for."""
    try:
        result = Path(os.fsdecode(os.fspath(path)))
    except TypeError:
        raise InvalidArgumentError(f"a path is a str or a PathLike, not {type(path).__name__}") from None
    if "\0" in str(result):
        raise InvalidArgumentError(f"a path cannot hold a null character: {str(result)!r}")
    return result


@contextlib.contextmanager
def _telling(doing: str, path: PathLike) -> Iterator[None]:
    """System errors as HyperionIOError that names the file."""
    try:
        yield
    except HyperionIOError:
        raise
    except OSError as error:
        message = f"cannot {doing} {str(path)!r}: {error.strerror or error}"
        raise HyperionIOError(message, path=str(path), errno=error.errno) from None


def _mode(path: PathLike) -> int | None:
    """Type and permissions of what is there, or None."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


# ---- Files -------------------------------------------------------------------------------------------------


def file_exists(path: PathLike) -> bool:
    """Return whether there is a regular file (or a link to one) under this name; a directory is none."""
    return _path(path).is_file()


@overload
def read_file(path: PathLike, buffer: None = None, size: int | None = None) -> bytes: ...


@overload
def read_file(path: PathLike, buffer: Any, size: int | None = None) -> int: ...


def read_file(path: PathLike, buffer: Any = None, size: int | None = None) -> bytes | int:
    """Read a file from its beginning.

    Parameters
    ----------
    path : str or PathLike
        A regular file.
    buffer : buffer, optional
        Writable and contiguous (bytearray, NumPy array, memory block, ...), to be filled from its beginning.
    size : int, optional
        Bytes to read, exactly. By default the whole file, which must fit the buffer.

    Returns
    -------
    bytes or int
        The bytes; with a buffer, how many were read into it.

    Raises
    ------
    HyperionIOError
        If the file cannot be read, is no regular file or has fewer than `size` bytes.
    InvalidArgumentError
        If the buffer cannot be written or is too small.
    """
    target = None if buffer is None else _writable(buffer)
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
        raise InvalidArgumentError(f"size is {size!r}, expected a number of bytes")
    if target is not None and size is not None and size > target.nbytes:
        raise InvalidArgumentError(f"the buffer has {target.nbytes} bytes, {size} are to be read")
    path = _path(path)
    with _telling("read", path):
        # A pipe would have the caller wait for whoever writes to it: opened without waiting, then refused.
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
        with open(fd, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            if target is None:
                data = file.read() if size is None else b"".join(_pieces(file, size))
                _check_length(path, len(data), size)
                return data
            done = 0
            end = target.nbytes if size is None else size
            while done < end and (count := file.readinto(target[done : min(end, done + _STEP)])):
                done += count
            if size is None and file.read(1):
                raise InvalidArgumentError(f"the buffer has {target.nbytes} bytes, {str(path)!r} has {os.fstat(fd).st_size}")
            _check_length(path, done, size)
            return done


def _pieces(file: Any, size: int) -> Iterator[bytes]:
    """At most `size` bytes; what the file does not have is not allocated."""
    while size and (piece := file.read(min(size, 1 << 24))):
        size -= len(piece)
        yield piece


def _check_length(path: Path, have: int, size: int | None) -> None:
    if size is not None and have < size:
        raise HyperionIOError(f"cannot read {size} bytes of {str(path)!r}: it has {have}", path=str(path), size=have)


def _writable(buffer: Any) -> memoryview:
    view = _view(buffer)
    if view.readonly:
        raise InvalidArgumentError(f"the buffer is read-only: {type(buffer).__name__}")
    return view


def _view(buffer: Any) -> memoryview:
    """The bytes of a contiguous buffer."""
    try:
        view = memoryview(buffer)
        return view.cast("B") if view.nbytes else memoryview(bytearray())
    except TypeError as error:
        raise InvalidArgumentError(f"expected a contiguous buffer of bytes, not {type(buffer).__name__}: {error}") from None


def write_file(path: PathLike, buffer: Any, size: int | None = None) -> int:
    """Write a file: all of it or nothing.

    The bytes go to a temporary file in the same directory, which is made durable and takes the name in one step: a reader
    sees the old file or the new one, and a failure leaves what was there.

    Parameters
    ----------
    path : str or PathLike
        In a directory that exists. A symbolic link is followed.
    buffer : buffer or str
        Contiguous bytes (bytes, bytearray, NumPy array, memory block, ...); a str is written as UTF-8.
    size : int, optional
        Write only so many bytes from the beginning.

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    HyperionIOError
        If it cannot be written.
    InvalidArgumentError
        If `buffer` is no contiguous buffer, or shorter than `size`.
    """
    if isinstance(buffer, str):
        try:
            buffer = buffer.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(f"the text cannot be written as UTF-8: {error}") from None
    view = _view(buffer)
    if size is not None:
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= view.nbytes:
            raise InvalidArgumentError(f"size is {size!r}, expected 0 to {view.nbytes}, the bytes of the buffer")
        view = view[:size]
    with AtomicFile(_path(path), view.nbytes) as file:
        file.write(view)
        file.commit()
    return view.nbytes


class AtomicFile:
    """A file that appears under its name when it is complete, or not at all.

    The bytes go to a file without a name in the same directory, so that even a killed process leaves nothing; where the
    system has no such files, to one with a temporary name. :meth:`commit` makes them durable and gives them the name in one
    step; until then what was there stays, and leaving the ``with`` block throws the new file away. A file that is replaced
    hands its permissions on, as far as the umask allows.

    Parameters
    ----------
    path : str or PathLike
        A symbolic link is followed: the file that it names is replaced.
    size : int
        Bytes that will be written: a disk that has fewer free is told of at once.

    Raises
    ------
    HyperionIOError
        If the directory is missing or cannot be written, or `path` is not a regular file.
    """

    def __init__(self, path: str | os.PathLike[str], size: int = 0) -> None:
        import shutil  # brings the compression libraries along: a process that only reads need not hold them

        self.path = self._told = os.path.realpath(os.fsdecode(os.fspath(path)))  # the second is what errors name
        folder, name = os.path.split(self.path)
        with _telling("create", self.path):
            mode = _mode(self.path)
            if mode is not None and not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, "it exists and is not a regular file")
            if size > (free := shutil.disk_usage(folder).free):
                raise OSError(errno.ENOSPC, f"{size} bytes are needed and the disk has {free} free")
            self.temporary = ""  # the name that has to be removed if nothing comes of it
            self._hidden = os.path.join(folder, f".{name[:200]}.{os.urandom(6).hex()}.partial")
            self._fd = self._create(folder, 0o666 if mode is None else stat.S_IMODE(mode))

    def _create(self, folder: str, mode: int) -> int:
        """A new file in the directory, without a name where that can be."""
        if (fd := _nameless_file(folder, mode)) is not None:
            return fd
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        fd = os.open(self._hidden, flags, mode)
        self.temporary = self._hidden
        return fd

    def write(self, data: Any) -> None:
        """Append all of a buffer."""
        view = memoryview(data).cast("B")
        with _telling("write", self._told):
            while view.nbytes:
                done = os.write(self._fd, view[:_STEP])
                if done == 0:
                    raise OSError(errno.EIO, "nothing was written")
                view = view[done:]

    def rewrite(self, data: bytes, offset: int = 0) -> None:
        """Replace bytes that were written before; the next :meth:`write` appends as if nothing had been."""
        with _telling("write", self._told):
            end = os.lseek(self._fd, 0, os.SEEK_CUR)
            os.lseek(self._fd, offset, os.SEEK_SET)
            self.write(data)
            os.lseek(self._fd, end, os.SEEK_SET)

    def commit(self) -> None:
        """Make what was written durable and give it its name."""
        with _telling("write", self._told):
            os.fsync(self._fd)
            fd, self._fd = self._fd, -1
            kept = -1 if self.temporary else os.dup(fd)  # what closing has to tell is told before the file has a name
            try:
                os.close(fd)
                if kept >= 0:
                    self._name(kept)
            finally:
                if kept >= 0:
                    os.close(kept)
            if self.temporary:
                os.replace(self.temporary, self.path)
                self.temporary = ""
            if hasattr(os, "O_DIRECTORY"):  # the name is durable when the directory is
                folder = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(folder)
                except OSError as error:
                    if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems have no such operation
                        raise
                finally:
                    os.close(folder)

    def _name(self, fd: int) -> None:
        """Give the nameless file its name; a link replaces nothing, so a file that is there needs a name in between."""
        if not os.path.lexists(self.path):
            with contextlib.suppress(FileExistsError):
                _link(fd, self.path)
                return
        _link(fd, self._hidden)
        self.temporary = self._hidden

    def close(self) -> None:
        """Throw away what was not committed."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):
                os.close(fd)
        if self.temporary:
            with contextlib.suppress(OSError):
                os.unlink(self.temporary)
            self.temporary = ""

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class SpoolFile(AtomicFile):
    """A file for this process alone, which is read after :meth:`commit` and is gone after :meth:`discard`.

    Attributes
    ----------
    path : str
        Where it can be opened meanwhile. A file without a name (Linux) is opened through the process's own descriptor, so that
        even a killed process leaves nothing; elsewhere it has a name in `folder`, which :meth:`discard` removes.

    Parameters
    ----------
    folder : str or PathLike
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__(os.path.join(os.fspath(folder), "hyperion"))
        self.path = self.temporary or f"/proc/self/fd/{self._fd}"
        self._told = self.temporary or os.path.join(os.path.dirname(self._told), "(a temporary file)")
        self._committed = False
        self.discard = weakref.finalize(self, _discard, self._fd, self.temporary)

    def commit(self) -> None:
        """What was written can be read now; it is not made durable."""
        self._committed = True

    def close(self) -> None:
        """Throw it away if it was not committed."""
        if not self._committed:
            self.discard()


def _discard(fd: int, name: str) -> None:
    with contextlib.suppress(OSError):
        os.close(fd)
    if name:
        with contextlib.suppress(OSError):
            os.unlink(name)


def _nameless_file(folder: str, mode: int) -> int | None:
    """A descriptor of a file that no directory has, or None where there are none or they could not be named later."""
    if not hasattr(os, "O_TMPFILE") or not os.path.isdir("/proc/self/fd"):
        return None
    try:
        return os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):  # the file system, or an old kernel
            return None
        raise


def _link(fd: int, path: str) -> None:
    """Name a nameless file. Only with a directory's descriptor does :func:`os.link` follow the link that /proc has."""
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(f"/proc/self/fd/{fd}", os.path.basename(path), src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


# ---- Directories and paths ---------------------------------------------------------------------------------


def create_dir(path: PathLike) -> None:
    """Make a directory, those above it too; one that is there already stays as it is.

    Raises
    ------
    HyperionIOError
        If it cannot be made, or something that is no directory has the name.
    """
    path = _path(path)
    with _telling("create the directory", path):
        path.mkdir(parents=True, exist_ok=True)


def list_dir(path: PathLike = ".") -> list[str]:
    """Return the names in a directory, sorted, without ``.`` and ``..``.

    Raises
    ------
    HyperionIOError
        If it is no directory or cannot be read.
    """
    path = _path(path)
    with _telling("list the directory", path):
        return sorted(os.listdir(path))


def join_path(path: PathLike, *parts: PathLike) -> str:
    """Join paths as :class:`pathlib.PurePath` does: an absolute part discards what comes before it."""
    return str(_path(path).joinpath(*map(_path, parts)))


def get_dir_name(path: PathLike) -> str:
    """Return the path without its last component; ``"."`` for a bare name, a root for a root."""
    return str(_path(path).parent)


def get_base_name(path: PathLike) -> str:
    """Return the last component of a path, suffix included; ``""`` for a root."""
    return _path(path).name
