"""GGUF v2 and v3, read strictly: every count, length, offset and product is checked before anything is allocated by it.

Layout, little-endian:
  1. magic "GGUF", u32 version, u64 tensor count, u64 key count
  2. keys: u64 length + bytes, u32 value type, value; a string is u64 length + bytes; an array is u32 element type, u64
     count, elements (types 0-12: u8 i8 u16 i16 u32 i32 f32 bool string array u64 i64 f64)
  3. tensors: name, u32 number of dims, u64 dims (fastest first), u32 type, u64 offset from the data section
  4. padding to general.alignment (default 32), then the data, every tensor padded to the alignment
Source: the GGUF specification of the ggml project.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from hyperion.errors import FormatError
from hyperion.formats.container import Container, TensorInfo, open_for_reading, read_exactly
from hyperion.formats.types import TYPES, FileType

__all__ = ["GGUFContainer", "Metadata", "StringArray", "is_gguf"]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_KEYS = 1 << 12
MAX_TENSORS = 1 << 16
MAX_STRINGS = 1 << 20  # of one array; the longest known list of merges has half of it
MAX_ARRAYS = 1 << 12  # within arrays
MAX_DEPTH = 4
MAX_NAME = 64
MAX_KEY = 1 << 16
MAX_ALIGNMENT = 1 << 16

_SCALARS = {
    number: struct.Struct(code)
    for number, code in {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}.items()
}  # fmt: skip
_BOOL, _STRING, _ARRAY = 7, 8, 9
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_DIMS = [struct.Struct(f"<{n}Q") for n in range(5)]


def is_gguf(head: bytes | bytearray) -> bool:
    """Whether a file that begins so claims to be GGUF."""
    return head[:4] == MAGIC


class StringArray(Sequence[str]):
    """An array of strings as it lies in the file; a string is decoded when it is asked for.

    Bytes that are not UTF-8 come as surrogate escapes, so that any token survives the way through `str`:
    ``s.encode("utf-8", "surrogateescape")`` gives them back.
    """

    __slots__ = ("_data", "_ends")

    def __init__(self, data: bytes | bytearray, ends: Sequence[int]) -> None:
        self._data, self._ends = data, ends  # each string behind its length of 8 bytes; ends[i] is where string i ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        n = len(self._ends)
        if not -n <= i < n:
            raise IndexError(f"string {i} of {n}")
        i += n if i < 0 else 0
        start = (self._ends[i - 1] if i else 0) + 8
        return self._data[start : self._ends[i]].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        data, start = self._data, 8
        for end in self._ends:
            yield data[start:end].decode("utf-8", "surrogateescape")
            start = end + 8

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"StringArray([{shown}{', ...' if len(self) > 3 else ''}], {len(self)} strings)"

    @property
    def nbytes(self) -> int:
        """Bytes of all strings."""
        return self._ends[-1] - 8 * len(self._ends) if len(self._ends) else 0

    def encoded(self) -> bytes:
        """The strings as a file has them, each behind its length of 8 bytes."""
        return bytes(self._data[: self._ends[-1]]) if len(self._ends) else b""


class Metadata(dict[str, Any]):
    """Keys and values, and in `kinds` the number of each value's type as the file had it: other readers are strict."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: dict[str, int] = {}


class _Reader:
    """A cursor over the header, read from the file in steps that grow with what was read already."""

    FIRST_STEP, LAST_STEP = 1 << 12, 1 << 20

    def __init__(self, fd: int, size: int, path: str) -> None:
        self.fd, self.size, self.path = fd, size, path
        self.at = 0
        self._base = 0
        self._data = memoryview(b"")
        self._arrays = 0

    def fail(self, message: str, at: int | None = None) -> FormatError:
        offset = self.at if at is None else at
        return FormatError(f"{self.path}: {message} (at byte {offset})", path=self.path, offset=offset)

    def _fetch(self, n: int) -> int:
        """Make the next n bytes available; where they begin in the window. n has been compared with nothing yet."""
        if n > self.size - self.at:
            raise self.fail(f"{n} bytes are wanted and the file has {self.size - self.at} more")
        start = self.at - self._base
        if start + n > len(self._data):
            step = min(max(self.at, self.FIRST_STEP), self.LAST_STEP)
            self._data = memoryview(b"")  # before the next is there
            buffer = memoryview(bytearray(min(max(n, step), self.size - self.at)))
            read_exactly(self.fd, buffer, self.at, self.path)
            self._base, self._data, start = self.at, buffer, 0
        return start

    def take(self, n: int) -> memoryview:
        start = self._fetch(n)
        self.at += n
        return self._data[start : start + n]

    def number(self, code: struct.Struct) -> Any:
        start = self._fetch(code.size)
        self.at += code.size
        return code.unpack_from(self._data, start)[0]

    def name(self, what: str, most: int) -> str:
        """A key or a tensor's name: strict UTF-8 without NUL."""
        start = self.at
        length = self.number(_U64)
        if not 0 < length < most:
            raise self.fail(f"{what} has {length} bytes, expected 1 to {most - 1}", start)
        try:
            text = str(self.take(length), "utf-8")
        except UnicodeDecodeError as error:
            raise self.fail(f"{what} is not UTF-8", start + 8 + error.start) from None
        if "\0" in text:
            raise self.fail(f"{what} has a NUL in it", start)
        return text

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            value = self.number(_SCALARS[kind])
            if kind != _BOOL:
                return value
            if value > 1:
                raise self.fail(f"a bool is {value}, expected 0 or 1", self.at - 1)
            return bool(value)
        if kind == _STRING:
            return str(self.take(self.number(_U64)), "utf-8", "surrogateescape")
        if kind == _ARRAY:
            return self._array(1)
        raise self.fail(f"value type {kind} is not one of 0 to 12", self.at - 4)

    def _array(self, depth: int) -> Any:
        start = self.at
        kind, count = self.number(_U32), self.number(_U64)
        least = _SCALARS[kind].size if kind in _SCALARS else 8 if kind == _STRING else 12
        if kind > 12:
            raise self.fail(f"element type {kind} is not one of 0 to 12", start)
        if count > (self.size - self.at) // least:
            raise self.fail(f"an array of {count} elements does not fit the file", start)
        if kind == _STRING:
            if count > MAX_STRINGS:
                raise self.fail(f"an array of {count} strings, expected at most {MAX_STRINGS}", start)
            return self._strings(count)
        if kind == _ARRAY:
            self._arrays += count
            if depth == MAX_DEPTH or self._arrays > MAX_ARRAYS:
                raise self.fail(f"arrays nested more than {MAX_DEPTH} deep, or more than {MAX_ARRAYS} of them", start)
            return [self._array(depth + 1) for _ in range(count)]
        values = np.frombuffer(self.take(count * least), _SCALARS[kind].format)
        if kind == _BOOL:
            if values.size and values.max() > 1:
                raise self.fail("an array of bools has values beside 0 and 1", start)
            values = values.view(bool)
        return values.copy()

    def _strings(self, count: int) -> StringArray:
        """Walk the lengths once; the bytes stay as they lie in the file, lengths between them."""
        ends = array("q")
        data = bytearray()
        unpack, append = _U64.unpack_from, ends.append
        left = count
        while left:
            start = self._fetch(8)
            window = self._data[start:]
            size, shift = len(window), len(data)
            at = 0
            while left and at + 8 <= size:
                after = at + 8 + unpack(window, at)[0]
                if after > size:
                    break
                at = after
                append(shift + at)
                left -= 1
            if at == 0:  # a string that is longer than the window, or than the file
                at = 8 + unpack(window, 0)[0]
                start = self._fetch(at)
                window = self._data[start:]
                append(shift + at)
                left -= 1
            data += window[:at]
            self.at += at
        return StringArray(data, ends)


class GGUFContainer(Container):
    """A GGUF file, or all parts of a split one (any part may be named).

    `metadata` values are int, float, bool, str; arrays of numbers are NumPy arrays of the file's type, arrays of strings
    :class:`StringArray`, arrays of arrays lists. Of a split file it is the first part's.
    """

    format = "gguf"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = os.fspath(path)
        fds: dict[str, int] = {}
        try:
            metadata, tensors = _open_part(path, fds)
            if metadata.get("split.count") is not None and not _is(metadata["split.count"], 1):
                metadata, tensors = _open_split(path, metadata, tensors, fds)
            super().__init__(path, metadata, tensors, fds)
        except BaseException:
            for fd in fds.values():
                os.close(fd)
            raise


def _is(value: Any, number: int) -> bool:
    """Whether a metadata value is this integer; a file may have anything there."""
    return type(value) is int and value == number


def _open_part(path: str, fds: dict[str, int]) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    fd = fds[path] = open_for_reading(path)
    reader = _Reader(fd, os.fstat(fd).st_size, path)
    magic = bytes(reader.take(4))
    if magic != MAGIC:
        raise reader.fail(f"magic is {magic!r}, expected {MAGIC!r}", 0)
    version = reader.number(_U32)
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
        raise reader.fail("the file is big-endian" if swapped else f"version {version}, expected 2 or 3", 4)
    tensor_count, key_count = reader.number(_U64), reader.number(_U64)
    if tensor_count > min(MAX_TENSORS, reader.size // 24):
        raise reader.fail(f"{tensor_count} tensors do not fit the file (or pass {MAX_TENSORS})", 8)
    if key_count > min(MAX_KEYS, reader.size // 13):
        raise reader.fail(f"{key_count} keys do not fit the file (or pass {MAX_KEYS})", 16)
    metadata, where = _read_keys(reader, key_count)
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 8 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        what = f"general.alignment is {alignment!r:.40}, expected a power of two from 8 to {MAX_ALIGNMENT}"
        raise reader.fail(what, where)
    return metadata, _read_tensors(reader, tensor_count, alignment)


def _read_keys(reader: _Reader, count: int) -> tuple[Metadata, int]:
    """(keys and values, where general.alignment is)."""
    metadata = Metadata()
    where = 0
    for _ in range(count):
        start = reader.at
        key = reader.name("a key", MAX_KEY)
        if key in metadata:
            raise reader.fail(f"key {key!r:.80} comes twice", start)
        if key == "general.alignment":
            where = start
        kind = metadata.kinds[key] = reader.number(_U32)
        metadata[key] = reader.value(kind)
    return metadata, where


class _Table(NamedTuple):
    """Tensors as columns while they are checked: a header of a million names would cost a gigabyte as objects."""

    shapes: dict[str, tuple[int, ...]]
    types: array[int]
    nbytes: array[int]
    offsets: array[int]
    where: array[int]


def _read_tensors(reader: _Reader, count: int, alignment: int) -> dict[str, TensorInfo]:
    table = _Table({}, array("B"), array("q"), array("Q"), array("q"))
    known: dict[tuple[int, ...], tuple[int, ...]] = {}  # tensors of one shape share it
    for _ in range(count):
        start = reader.at
        name = reader.name("a tensor's name", MAX_NAME)
        if name in table.shapes:
            raise reader.fail(f"tensor {name!r} comes twice", start)
        shape, kind = _shape(reader, name)
        table.nbytes.append(_nbytes(reader, name, shape, kind))
        table.shapes[name] = known.setdefault(shape, shape)
        table.types.append(kind.id)
        table.where.append(reader.at)
        table.offsets.append(reader.number(_U64))
    data = -(-reader.at // alignment) * alignment
    _check_extents(reader, table, data, alignment)
    return {
        name: TensorInfo(name, kind, TYPES[kind].name, shape, reader.path, data + offset, nbytes)
        for (name, shape), kind, nbytes, offset in zip(
            table.shapes.items(), table.types, table.nbytes, table.offsets, strict=True
        )
    }


def _shape(reader: _Reader, name: str) -> tuple[tuple[int, ...], FileType]:
    n = reader.number(_U32)
    if not 1 <= n <= 4:
        raise reader.fail(f"tensor {name!r} has {n} dims, expected 1 to 4", reader.at - 4)
    shape = _DIMS[n].unpack(reader.take(8 * n))[::-1]
    kind = reader.number(_U32)
    if kind not in TYPES:
        signed = kind if kind < 1 << 31 else kind - (1 << 32)
        raise reader.fail(f"tensor {name!r} has the unknown type {signed}", reader.at - 4)
    return shape, TYPES[kind]


def _nbytes(reader: _Reader, name: str, shape: tuple[int, ...], kind: FileType) -> int:
    """Bytes of a tensor; Python's integers do not wrap, the file's size bounds them."""
    where = reader.at - 4 - 8 * len(shape)
    elements = extent = 1
    for dim in shape:
        elements *= dim
        extent *= dim or 1
    cols = shape[-1]
    if cols % kind.block_len:
        raise reader.fail(f"tensor {name!r}: rows of {cols} are not whole blocks of {kind.block_len} ({kind.name})", where)
    nbytes = elements // kind.block_len * kind.block_bytes
    if nbytes > reader.size or extent >= 1 << 60:  # an empty tensor may have large dims, but no wrapping ones
        raise reader.fail(f"tensor {name!r} of shape {list(shape)} takes {nbytes} bytes, more than the file has", where)
    return nbytes


def _check_extents(reader: _Reader, table: _Table, data: int, alignment: int) -> None:
    """Offsets are aligned, within the file, and overlap nowhere."""
    offsets = np.frombuffer(table.offsets, np.uint64)
    nbytes = np.frombuffer(table.nbytes, np.int64).astype(np.uint64)

    def fail(wrong: np.ndarray, message: str) -> FormatError:
        i = int(np.flatnonzero(wrong)[0])
        name = next(name for n, name in enumerate(table.shapes) if n == i)
        return reader.fail(f"tensor {name!r} ({table.nbytes[i]} bytes at offset {table.offsets[i]}) {message}", table.where[i])

    if not len(offsets):
        return
    unaligned = offsets % np.uint64(alignment) != 0
    if unaligned.any():
        raise fail(unaligned, f"does not begin at a multiple of {alignment}")
    room = reader.size - data
    past = offsets > np.uint64(max(room, 0))  # first alone: the sum must not wrap
    past |= offsets + nbytes > np.uint64(max(room, 0))
    if room < 0 or past.any():
        raise fail(past if past.any() else ~past, f"ends past the end of the file, {max(room, 0)} bytes of data")
    some = np.flatnonzero(nbytes)
    order = some[np.argsort(offsets[some], kind="stable")]
    overlaps = np.zeros(len(offsets), bool)
    overlaps[order[1:]] = offsets[order[1:]] < (offsets + nbytes)[order[:-1]]
    if overlaps.any():
        raise fail(overlaps, "overlaps another one")


def _open_split(
    path: str, metadata: dict[str, Any], tensors: dict[str, TensorInfo], fds: dict[str, int]
) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    """All parts of a split file: name-00001-of-0000N.gguf, each with its number, the first with the metadata."""

    def fail(name: str, message: str) -> FormatError:
        return FormatError(f"{name}: {message}", path=name, offset=0)

    count, number = metadata["split.count"], metadata.get("split.no")
    if type(count) is not int or type(number) is not int or not 0 <= number < count <= 99999:
        raise fail(path, f"split.no {number!r:.40} of split.count {count!r:.40} cannot be")
    end = f"-{number + 1:05d}-of-{count:05d}.gguf"
    if not path.endswith(end):
        raise fail(path, f"part {number + 1} of {count} of a split file must be called *{end}")
    stem = path[: -len(end)]
    first = metadata
    merged: dict[str, TensorInfo] = {}
    order = []
    for i in range(count):
        name = f"{stem}-{i + 1:05d}-of-{count:05d}.gguf"
        part_metadata, part = (metadata, tensors) if i == number else _open_part(name, fds)
        order.append(name)
        if not _is(part_metadata.get("split.no"), i) or not _is(part_metadata.get("split.count"), count):
            said = f"{part_metadata.get('split.no')!r:.40} of {part_metadata.get('split.count')!r:.40}"
            raise fail(name, f"says that it is number {said}, expected {i} of {count}")
        twice = merged.keys() & part.keys()
        if twice:
            raise fail(name, f"tensor {min(twice)!r} is in two parts")
        merged.update(part)
        first = part_metadata if i == 0 else first
    expected = first.get("split.tensors.count")
    if expected is not None and not _is(expected, len(merged)):
        raise fail(path, f"the parts have {len(merged)} tensors, split.tensors.count says {expected!r:.40}")
    opened = dict(fds)
    fds.clear()
    fds.update((name, opened[name]) for name in order)
    return first, merged
