"""The elements of tensors: in pages, in a pool, or in a file behind a window; views of them without copies."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperion._kernels.exports import Exporter
from hyperion.errors import HyperionRuntimeError, InvalidArgumentError
from hyperion.memory import MemoryBudget, allocate, parse_size, process_budget

from .config import (
    SEGMENT,
    DataType,
    TensorAllocStrategy,
    TensorMemoryConfig,
    TensorMemoryStats,
    check_dims,
    count,
)
from .window import Window

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Elements"]

class Elements(Exporter):
    """Where the elements of a :class:`hyperion.Tensor` are, and every way to them. Its parameters are the tensor's."""

    _config: TensorMemoryConfig
    _window: Window | None
    _memory: Any  # what holds the elements

    def __init__(
        self,
        dims: int | Sequence[int],
        dtype: Any = DataType.FLOAT32,
        config: TensorMemoryConfig | None = None,
        *,
        budget: MemoryBudget | None = None,
    ) -> None:
        self._set(check_dims(dims), DataType.of(dtype), TensorMemoryConfig() if config is None else config)
        if not isinstance(self._config, TensorMemoryConfig):
            raise InvalidArgumentError(f"config must be a TensorMemoryConfig, not {type(config).__name__}")
        self._budget = budget if budget is not None else process_budget()
        strategy = self._config.strategy
        if strategy is TensorAllocStrategy.STREAMING:
            size = parse_size(self._config.stream_buffer_size) // (8 * SEGMENT) * (8 * SEGMENT)
            directory: Any = self._config.stream_directory
            self._window = Window(self.nbytes, size, directory, self._budget)
        else:
            if strategy is TensorAllocStrategy.POOLED:
                self._memory = self._config.pool(self._budget).alloc(max(self.nbytes, 1))
                self._resident = self._memory.nbytes
            else:
                self._memory = allocate(self._budget, "tensor", self.nbytes)
                self._resident = self._memory.mapped
            self.exported = np.frombuffer(self._memory, self.dtype.numpy, self.size).reshape(self.shape)
            if strategy is TensorAllocStrategy.POOLED:
                self.exported[...] = 0
        self._config = self._config.copy()

    def _set(self, shape: tuple[int, ...], dtype: DataType, config: TensorMemoryConfig) -> None:
        self._shape, self._dtype, self._config = shape, dtype, config
        self._window = self._memory = None
        self._budget = process_budget()
        self._resident = self._streamed = self._done = 0
        self._owned, self._closed = True, False
        self._lock = threading.RLock()

    @classmethod
    def wrap(cls, data: Any) -> Self:
        """Make a tensor over elements that somebody else owns, without a copy.

        Parameters
        ----------
        data : ndarray, buffer, or object with DLPack on the processor's side
            In C order; what cannot be written makes a tensor that cannot.

        Raises
        ------
        InvalidArgumentError
            If it is none of these, its elements are of another type, or not in C order.
        """
        try:
            if isinstance(data, np.ndarray):
                array = np.asarray(data)
            else:
                array = np.from_dlpack(data) if hasattr(data, "__dlpack__") else np.asarray(memoryview(data))
        except (TypeError, ValueError, RuntimeError, BufferError) as error:
            raise InvalidArgumentError(f"cannot make a tensor over {type(data).__name__}: {error}") from None
        if not array.flags.c_contiguous:
            raise InvalidArgumentError(f"a tensor's elements are in C order; these have shape {array.shape}, strides {array.strides}")
        tensor = cls.__new__(cls)
        tensor._set(array.shape, DataType.of(array.dtype), TensorMemoryConfig())
        tensor.exported = array.view()
        tensor._owned = False
        return tensor

    # ---- what it is ----------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions."""
        return self._shape

    @property
    def dtype(self) -> DataType:
        """Type of the elements."""
        return self._dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self._shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self._shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self._dtype.numpy.itemsize

    @property
    def config(self) -> TensorMemoryConfig:
        """A copy of the settings."""
        return self._config.copy()

    @property
    def is_streaming(self) -> bool:
        """Whether the elements are in a file."""
        return self._window is not None

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    @property
    def stats(self) -> TensorMemoryStats:
        """What it takes and what it moved."""
        self._check_open()
        strategy: Any = self._config.strategy if self._owned else None
        if self._window is None:
            return TensorMemoryStats(strategy, self.nbytes, self._resident, 0, self._streamed, in_place_ops=self._done)
        w = self._window
        return TensorMemoryStats(
            strategy, self.nbytes, w.resident, w.nbytes, self._streamed, w.bytes_read, w.bytes_written, w.moves, self._done
        )

    # ---- views without copies ------------------------------------------------------------------------------------

    def numpy(self) -> np.ndarray:
        """The elements as an array, without a copy; it keeps the memory alive.

        Raises
        ------
        InvalidArgumentError
            If the tensor is STREAMING: :meth:`read` and :meth:`blocks` give parts of it.
        """
        self._check_open()
        if self.exported is None:
            raise InvalidArgumentError(self.no_buffer())
        return self.exported.view()

    def no_buffer(self) -> str:
        """Why the tensor is no buffer."""
        if self._closed:
            return "the tensor is closed"
        return f"a streaming tensor of {self.nbytes} bytes is not in memory: read() and blocks() give parts of it"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError(f"a tensor of {array.dtype} cannot be an array of {dtype} without a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(self, **options: Any) -> Any:
        """The elements as a DLPack capsule."""
        try:
            return self.numpy().__dlpack__(**options)
        except TypeError:  # NumPy before 2.1 knows only `stream`
            return self.numpy().__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    # ---- parts ---------------------------------------------------------------------------------------------------

    def stream(self, data: Any, offset: int = 0, size: int | None = None) -> int:
        """Write elements.

        Parameters
        ----------
        data : buffer
            Contiguous; an array of numbers must have the tensor's dtype, anything of bytes is taken as they are.
        offset : int
            Byte of the tensor where the first one goes.
        size : int, optional
            Bytes to write; all of `data` by default.

        Returns
        -------
        int
            Bytes written.

        Raises
        ------
        InvalidArgumentError
            If they do not fit, or `data` does not serve; nothing is written then.
        HyperionIOError
            STREAMING: if the file cannot be written.
        """
        source = self._source(data)
        size = source.size if size is None else count("size", size)
        offset = count("offset", offset)
        if size > source.size:
            raise InvalidArgumentError(f"{size} bytes are to be written, the data has {source.size}")
        if offset + size > self.nbytes:
            raise InvalidArgumentError(f"{size} bytes at byte {offset} do not fit the tensor's {self.nbytes}")
        self._check_writable()
        with self._lock:
            self._check_open()
            if self._window is None:
                self.exported.reshape(-1).view(np.uint8)[offset : offset + size] = source[:size]
            else:
                for at in range(0, size, self._window.size):
                    self._window.write(offset + at, source[at : min(at + self._window.size, size)])
            self._streamed += size
        return size

    def _source(self, data: Any) -> np.ndarray:
        """The bytes of a buffer."""
        self._check_open()
        dtype = getattr(data, "dtype", None)
        kind = dtype.numpy if isinstance(dtype, DataType) else dtype
        if kind is not None and kind != self._dtype.numpy and kind != np.uint8:
            raise InvalidArgumentError(f"the data is of {kind}, the tensor of {self._dtype.value}")
        try:
            view = memoryview(data)
            return np.frombuffer(view.cast("B"), np.uint8) if view.nbytes else np.empty(0, np.uint8)
        except (TypeError, BufferError, ValueError) as error:
            raise InvalidArgumentError(f"expected a contiguous buffer, not {type(data).__name__}: {error}") from None

    def read(self, offset: int = 0, size: int | None = None, out: Any = None) -> np.ndarray:
        """Copy elements out.

        Parameters
        ----------
        offset : int
            Byte of the tensor where the first one is: a multiple of the element's size.
        size : int, optional
            Bytes, a multiple too; up to the end (or as `out` holds) by default.
        out : ndarray, optional
            Takes them: contiguous, of the tensor's dtype.

        Returns
        -------
        ndarray
            One-dimensional, or `out`.
        """
        self._check_open()
        item = self._dtype.numpy.itemsize
        offset = count("offset", offset)
        if out is not None:
            if not isinstance(out, np.ndarray) or out.dtype != self._dtype.numpy or not out.flags.c_contiguous or not out.flags.writeable:
                raise InvalidArgumentError(f"out must be a writable contiguous array of {self._dtype.value}")
            size = out.nbytes if size is None else count("size", size)
        size = self.nbytes - offset if size is None else count("size", size)
        if offset % item or size % item or offset + size > self.nbytes or size < 0 or (out is not None and size > out.nbytes):
            room = "" if out is None else f" or out's {out.nbytes}"
            raise InvalidArgumentError(f"{size} bytes at byte {offset} are not elements within the tensor's {self.nbytes} bytes{room}")
        result = np.empty(size // item, self._dtype.numpy) if out is None else out
        target = result.reshape(-1).view(np.uint8)[:size]
        with self._lock:
            self._check_open()
            if self._window is None:
                target[...] = self.exported.reshape(-1).view(np.uint8)[offset : offset + size]
            else:
                for start, stop, place in self._pieces(self._window, offset, offset + size):
                    target[start - offset : stop - offset] = self._window.view(start, stop, around=place)
        return result

    def _pieces(self, window: Window, start: int, stop: int) -> Iterator[tuple[int, int, tuple[int, int]]]:
        """A range cut where the window's places begin, with those places."""
        while start < stop:
            place = start // window.size * window.size
            after = min(place + window.size, self.nbytes)
            yield start, min(stop, after), (place, after)
            start = after

    def __getitem__(self, index: Any) -> Any:
        """Elements as NumPy's indexing gives them: a view; of a STREAMING tensor rows (an integer or a slice without a step), copied."""
        if self._window is None:
            return self.numpy()[index]
        start, rows = self._rows(index)
        found = self.read(start * self._row_bytes, rows * self._row_bytes).reshape(rows, *self._shape[1:])
        return found if isinstance(index, slice) else found[0]

    def __setitem__(self, index: Any, value: Any) -> None:
        """Set elements as NumPy's indexing does; of a STREAMING tensor rows."""
        if self._window is None:
            self._check_writable()
            self.numpy()[index] = value
            return
        start, rows = self._rows(index)
        given = np.asarray(value)
        if not np.can_cast(given.dtype, self._dtype.numpy, "same_kind"):
            raise InvalidArgumentError(f"values of {given.dtype} do not fit a tensor of {self._dtype.value}")
        try:
            given = np.broadcast_to(given, (rows, *self._shape[1:]))
        except ValueError:
            raise InvalidArgumentError(f"values of shape {given.shape} do not fit {rows} rows of {self._shape[1:]}") from None
        self.stream(np.ascontiguousarray(given, self._dtype.numpy), start * self._row_bytes)

    @property
    def _row_bytes(self) -> int:
        return math.prod(self._shape[1:]) * self._dtype.numpy.itemsize

    def _rows(self, index: Any) -> tuple[int, int]:
        """First row and number of rows that an index of a STREAMING tensor means."""
        self._check_open()
        whole = isinstance(index, slice)
        if self._shape and (whole or hasattr(index, "__index__")):
            try:
                found = range(self._shape[0])[index]
            except TypeError as error:
                raise InvalidArgumentError(f"{index!r} is no row of a tensor of shape {self._shape}: {error}") from None
            if not isinstance(found, range):
                return found, 1
            if found.step == 1:
                return found.start, len(found)
        raise InvalidArgumentError(f"of a streaming tensor of shape {self._shape} rows can be had, not {index!r:.80}")

    def blocks(self, *, write: bool = False, read: bool = True, multiple: int = SEGMENT) -> Iterator[tuple[int, np.ndarray]]:
        """Go through all elements in parts that are in memory.

        Parameters
        ----------
        write : bool
            Whether the parts will be changed.
        read : bool
            False: what is in them does not matter, as all of it will be written.
        multiple : int
            Elements: every part but the last has a multiple of so many.

        Yields
        ------
        int, ndarray
            Index of the first element, and the elements, one-dimensional: a view that is valid until the next part.

        Raises
        ------
        InvalidArgumentError
            If `multiple` elements do not fit the window.
        """
        self._check_open()
        if write:
            self._check_writable()
        dtype = self._dtype.numpy
        unit = multiple * dtype.itemsize
        room = self.nbytes if self._window is None else self._window.size
        step = self.nbytes if self._window is None or self.nbytes <= room else room // unit * unit
        if self.nbytes and not step:
            raise InvalidArgumentError(
                f"{multiple} elements must be in memory at once: stream_buffer_size must be {unit} bytes or more, it is {room}"
            )
        for start in range(0, self.nbytes, max(step, 1)):
            stop = min(start + step, self.nbytes)
            if self._window is None:
                view = self.exported.reshape(-1)
            else:
                view = self._window.view(start, stop, read=read, write=write).view(dtype)
            yield start // dtype.itemsize, view

    @contextlib.contextmanager
    def _locked(self, *others: Any) -> Iterator[None]:
        """Hold the locks of this tensor and of those among `others`, in an order that all threads keep."""
        tensors = {id(t): t for t in (self, *others) if isinstance(t, Elements)}
        with contextlib.ExitStack() as stack:
            for key in sorted(tensors):
                stack.enter_context(tensors[key]._lock)
            yield

    # ---- end -----------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise HyperionRuntimeError("the tensor is closed")

    def _check_writable(self) -> None:
        self._check_open()
        if self._window is None and not self.exported.flags.writeable:
            raise InvalidArgumentError("the tensor is over memory that cannot be written")

    def close(self) -> None:
        """Give the memory and the file back: at once, or with the last view. May be called again."""
        with self._lock:
            if self._closed:
                return
            self._closed, self.exported = True, None
            if self._window is not None:
                self._window.close()
            if self._memory is not None:
                release = getattr(self._memory, "close", None) or self._memory.free
                release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        if not self._shape:
            raise TypeError("a tensor without dimensions has no length")
        return self._shape[0]

    def __repr__(self) -> str:
        where = "closed" if self._closed else self._config.strategy.name if self._owned else "wrapped"  # type: ignore[union-attr]
        return f"{type(self).__name__}({list(self._shape)}, {self._dtype.value}, {where})"
