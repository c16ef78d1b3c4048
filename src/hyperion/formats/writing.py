"""Writing model files: GGUF v3 as :mod:`hyperion.formats.gguf` describes it."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hyperion.errors import InvalidArgumentError
from hyperion.formats.gguf import MAX_KEY, MAX_NAME, StringArray
from hyperion.io import AtomicFile

__all__ = ["GGUFWriter", "TensorLayout", "Typed"]

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_KIND_OF_DTYPE = {"u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "b1": 7, "u8": 10, "i8": 11, "f8": 12}
_STRING, _ARRAY = 8, 9


class Typed(NamedTuple):
    """A metadata value with the number of its GGUF type."""

    kind: int
    value: Any


class TensorLayout(NamedTuple):
    """A tensor that will be written: `shape` in NumPy order, `type` as GGUF numbers it."""

    name: str
    type: int
    shape: tuple[int, ...]
    nbytes: int


class GGUFWriter:
    """Writes one GGUF v3 file front to back: the header, then every tensor's bytes in the order of the list.

    Parameters
    ----------
    path : str or PathLike
    metadata : mapping of str to Typed
        Without ``general.alignment``, which `alignment` becomes.
    tensors : sequence of TensorLayout
    alignment : int
    file : AtomicFile, optional
        Where to write; by default a file that will be `path`.

    Notes
    -----
    Values whose size is known before their content (checksums) may be given as zeros and set by :meth:`finish`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        metadata: Mapping[str, Typed],
        tensors: Sequence[TensorLayout],
        alignment: int = 32,
        file: AtomicFile | None = None,
    ) -> None:
        self.metadata = {**metadata, "general.alignment": Typed(4, alignment)}
        self.tensors, self.alignment = tensors, alignment
        header = self._header()
        self._header_bytes = len(header)
        self.nbytes = len(header) + sum(self._aligned(t.nbytes) for t in tensors)
        self._next = self._at = 0
        self.file = AtomicFile(path, self.nbytes) if file is None else file
        try:
            self.file.write(header)
        except BaseException:
            self.file.close()
            raise

    def _aligned(self, at: int) -> int:
        return -(-at // self.alignment) * self.alignment

    def _header(self) -> bytes:
        """Everything before the data, padded where data follows."""
        parts = [b"GGUF", struct.pack("<IQQ", 3, len(self.tensors), len(self.metadata))]
        for key, (kind, value) in self.metadata.items():
            parts += [_string(_name("a key", key, MAX_KEY)), struct.pack("<I", kind), _value(key, kind, value)]
        at = 0
        for name, number, shape, nbytes in self.tensors:
            dims = tuple(reversed(shape))
            parts.append(_string(_name("a tensor's name", name, MAX_NAME)))
            parts.append(struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, number, at))
            at = self._aligned(at + nbytes)
        header = b"".join(parts)
        return header + b"\0" * (self._aligned(len(header)) - len(header)) if self.tensors else header

    def write(self, data: Any) -> None:
        """The next bytes of the tensor whose turn it is; bytes of two tensors need two calls."""
        size = memoryview(data).nbytes
        if self._next == len(self.tensors) or size > self.tensors[self._next].nbytes - self._at:
            raise InvalidArgumentError(f"{size} bytes do not fit tensor {self._next} of {len(self.tensors)} at byte {self._at}")
        self.file.write(data)
        self._at += size
        if self._at == self.tensors[self._next].nbytes:
            self.file.write(b"\0" * (self._aligned(self._at) - self._at))
            self._next, self._at = self._next + 1, 0

    def finish(self, metadata: Mapping[str, Typed] | None = None) -> None:
        """Complete the file and give it its name.

        Parameters
        ----------
        metadata : mapping, optional
            Values to set in place of those that have the same type and size.
        """
        if self._next != len(self.tensors):
            raise InvalidArgumentError(f"tensor {self.tensors[self._next].name!r} is not written to its end")
        if metadata:
            self.metadata.update(metadata)
            header = self._header()
            if len(header) != self._header_bytes:
                raise InvalidArgumentError("a value that is set at the end has another size than at the start")
            self.file.rewrite(header)
        self.file.commit()

    def __enter__(self) -> GGUFWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _name(what: str, text: str, most: int) -> bytes:
    data = text.encode()
    if not 0 < len(data) < most:
        raise InvalidArgumentError(f"{what} has {len(data)} bytes, expected 1 to {most - 1}: {text!r:.80}")
    return data


def _string(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def _text(value: str) -> bytes:
    return _string(value.encode("utf-8", "surrogateescape"))


def _value(key: str, kind: int, value: Any) -> bytes:
    try:
        if kind in _SCALARS:
            return struct.pack(_SCALARS[kind], value)
        if kind == _STRING:
            return _text(value)
        if kind == _ARRAY:
            return _array(value)
    except (struct.error, TypeError, AttributeError, OverflowError, UnicodeEncodeError) as error:
        raise InvalidArgumentError(f"metadata {key!r}: {value!r:.60} is no value of GGUF type {kind}: {error}") from None
    raise InvalidArgumentError(f"metadata {key!r}: {kind} is not a GGUF value type")


def _array(value: Any) -> bytes:
    """Element type, count and elements: a NumPy array's dtype says the type, a list holds strings or arrays."""
    if isinstance(value, np.ndarray):
        return struct.pack("<IQ", _KIND_OF_DTYPE[value.dtype.str[1:]], len(value)) + value.astype(value.dtype.newbyteorder("<")).tobytes()
    if isinstance(value, StringArray):
        return struct.pack("<IQ", _STRING, len(value)) + value.encoded()
    if len(value) and not isinstance(value[0], str):
        return struct.pack("<IQ", _ARRAY, len(value)) + b"".join(map(_array, value))
    return struct.pack("<IQ", _STRING, len(value)) + b"".join(map(_text, value))
