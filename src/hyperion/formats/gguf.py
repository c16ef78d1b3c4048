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
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hyperion.errors import FormatError, HyperionIOError
from hyperion.formats.container import Container, TensorInfo, open_for_reading, read_exactly
from hyperion.formats.types import TYPES

__all__ = ["GGUFContainer", "StringArray", "is_gguf"]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 16
MAX_STRINGS = 1 << 22
MAX_NAME = 64
MAX_KEY = 1 << 16
MAX_ALIGNMENT = 1 << 16
MAX_DEPTH = 4
SPLIT_NAME = re.compile(r"^(.*)-(\d{5})-of-(\d{5})\.gguf$", re.DOTALL)

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9


def is_gguf(head: bytes) -> bool:
    """Whether a file that begins so claims to be GGUF."""
    return head[:4] == MAGIC


class StringArray(Sequence[str]):
    """An array of strings as it lies in the file; a string is decoded when it is asked for.

    Bytes that are not UTF-8 come as surrogate escapes, so that any token survives the way through `str`.
    """

    def __init__(self, data: bytes, ends: np.ndarray) -> None:
        self._data, self._ends = data, ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        n = len(self._ends)
        if not -n <= i < n:
            raise IndexError(f"string {i} of {n}")
        i += n if i < 0 else 0
        start = int(self._ends[i - 1]) if i else 0
        return self._data[start : int(self._ends[i])].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in self._ends.tolist():
            yield self._data[start:end].decode("utf-8", "surrogateescape")
            start = end

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and not isinstance(other, str) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class _Reader:
    """A cursor over the header, read from the file in growing steps."""

    STEP = 1 << 20

    def __init__(self, fd: int, size: int, path: str) -> None:
        self.fd, self.size, self.path = fd, size, path
        self.at = 0
        self._base = 0
        self._data = memoryview(b"")

    def fail(self, message: str, at: int | None = None) -> FormatError:
        offset = self.at if at is None else at
        return FormatError(f"{self.path}: {message} (at byte {offset})", path=self.path, offset=offset)

    def take(self, n: int) -> memoryview:
        """The next n bytes; n has been compared with nothing yet."""
        if n > self.size - self.at:
            raise self.fail(f"{n} bytes are wanted and the file has {self.size - self.at} more")
        start = self.at - self._base
        if start + n > len(self._data):
            length = min(max(n, self.STEP), self.size - self.at)
            buffer = bytearray(length)
            read_exactly(self.fd, memoryview(buffer), self.at, self.path)
            self._base, self._data, start = self.at, memoryview(buffer), 0
        self.at += n
        return self._data[start : start + n]

    def number(self, code: str) -> Any:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def name(self, what: str, most: int) -> str:
        """A key or a tensor's name: strict UTF-8 without NUL."""
        start = self.at
        length = self.number("<Q")
        if not 0 < length < most:
            raise self.fail(f"{what} has {length} bytes, expected 1 to {most - 1}", start)
        try:
            text = bytes(self.take(length)).decode()
        except UnicodeDecodeError:
            raise self.fail(f"{what} is not UTF-8", start) from None
        if "\0" in text:
            raise self.fail(f"{what} has a NUL in it", start)
        return text

    def string(self) -> str:
        return bytes(self.take(self.number("<Q"))).decode("utf-8", "surrogateescape")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in _SCALARS:
            value = self.number(_SCALARS[kind])
            return self._bool(value) if kind == _BOOL else value
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array(depth)
        raise self.fail(f"value type {kind} is not one of 0 to 12", self.at - 4)

    def _bool(self, value: int) -> bool:
        if value > 1:
            raise self.fail(f"a bool is {value}, expected 0 or 1", self.at - 1)
        return bool(value)

    def _array(self, depth: int) -> Any:
        start = self.at
        if depth >= MAX_DEPTH:
            raise self.fail(f"arrays are nested more than {MAX_DEPTH} deep", start)
        kind, count = self.number("<I"), self.number("<Q")
        if kind in _SCALARS:
            width = struct.calcsize(_SCALARS[kind])
            if count > (self.size - self.at) // width:
                raise self.fail(f"an array of {count} elements does not fit the file", start)
            values = np.frombuffer(self.take(count * width), _SCALARS[kind]).copy()
            if kind == _BOOL:
                if values.size and values.max() > 1:
                    raise self.fail("an array of bools has values beside 0 and 1", start)
                return values.astype(bool)
            return values
        if count > (self.size - self.at) // (8 if kind == _STRING else 12):
            raise self.fail(f"an array of {count} elements does not fit the file", start)
        if kind == _STRING:
            return self._strings(count, start)
        if kind == _ARRAY:
            if count > MAX_KEYS:
                raise self.fail(f"an array of {count} arrays, expected at most {MAX_KEYS}", start)
            return [self._array(depth + 1) for _ in range(count)]
        raise self.fail(f"element type {kind} is not one of 0 to 12", start)

    def _strings(self, count: int, start: int) -> StringArray:
        """Lengths are walked once; the bytes are kept together, without the lengths between them."""
        if count > MAX_STRINGS:
            raise self.fail(f"an array of {count} strings, expected at most {MAX_STRINGS}", start)
        ends = np.empty(count, np.int64)
        data, total = bytearray(), 0
        unpack = struct.Struct("<Q").unpack_from
        i = 0
        while i < count:
            self.take(0)
            window = self._window()
            at = 0
            while i < count and at + 8 <= len(window):
                (length,) = unpack(window, at)
                if length > len(window) - at - 8:
                    break
                data += window[at + 8 : at + 8 + length]
                total += length
                at += 8 + length
                ends[i] = total
                i += 1
            self.at += at
            if i < count and at == 0:  # a string longer than what was read ahead
                data += self.take(self.number("<Q"))
                total = len(data)
                ends[i] = total
                i += 1
        return StringArray(bytes(data), ends)

    def _window(self) -> memoryview:
        """What is read ahead of the cursor, refilled when little of it is left."""
        left = self._base + len(self._data) - self.at
        if left < 4096 and self.at + left < self.size:
            self._base = self.at  # with nothing held, take reads from here
            self._data = memoryview(b"")
            at = self.at
            self.take(min(self.STEP, self.size - self.at))
            self.at = at
        return self._data[self.at - self._base :]


class GGUFContainer(Container):
    """A GGUF file, or all parts of a split one (any part may be named)."""

    format = "gguf"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = os.fspath(path)
        fds: dict[str, int] = {}
        try:
            metadata, tensors = _open_part(path, fds)
            if "split.count" in metadata and metadata["split.count"] != 1:
                metadata, tensors = _open_split(path, metadata, tensors, fds)
            super().__init__(path, metadata, tensors, fds)
        except BaseException:
            for fd in fds.values():
                os.close(fd)
            raise


def _open_part(path: str, fds: dict[str, int]) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    fd = fds[path] = open_for_reading(path)
    reader = _Reader(fd, os.fstat(fd).st_size, path)
    if reader.size < 24:
        raise reader.fail(f"a file of {reader.size} bytes is no GGUF file", 0)
    magic = bytes(reader.take(4))
    if magic != MAGIC:
        raise reader.fail(f"magic is {magic!r}, expected {MAGIC!r}", 0)
    version = reader.number("<I")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
        raise reader.fail("the file is big-endian" if swapped else f"version {version}, expected 2 or 3", 4)
    tensor_count, key_count = reader.number("<Q"), reader.number("<Q")
    if tensor_count > min(MAX_TENSORS, reader.size // 24):
        raise reader.fail(f"{tensor_count} tensors do not fit the file (or pass {MAX_TENSORS})", 8)
    if key_count > min(MAX_KEYS, reader.size // 13):
        raise reader.fail(f"{key_count} keys do not fit the file (or pass {MAX_KEYS})", 16)
    metadata = _read_keys(reader, key_count)
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 8 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise reader.fail(f"general.alignment is {alignment!r}, expected a power of two from 8 to {MAX_ALIGNMENT}")
    return metadata, _read_tensors(reader, tensor_count, alignment)


def _read_keys(reader: _Reader, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        start = reader.at
        key = reader.name("a key", MAX_KEY)
        if key in metadata:
            raise reader.fail(f"key {key!r} comes twice", start)
        metadata[key] = reader.value(reader.number("<I"))
    return metadata


def _read_tensors(reader: _Reader, count: int, alignment: int) -> dict[str, TensorInfo]:
    rows = []
    names: set[str] = set()
    for _ in range(count):
        start = reader.at
        name = reader.name("a tensor's name", MAX_NAME)
        if name in names:
            raise reader.fail(f"tensor {name!r} comes twice", start)
        names.add(name)
        dims, kind = _dims(reader, name)
        at = reader.at
        rows.append((name, dims, kind, _nbytes(reader, name, dims, kind), reader.number("<Q"), at))
    data = -(-reader.at // alignment) * alignment
    _check_extents(reader, rows, data, alignment)
    return {
        name: TensorInfo(name, kind, TYPES[kind].name, tuple(reversed(dims)), reader.path, data + offset, nbytes)
        for name, dims, kind, nbytes, offset, _ in rows
    }


def _dims(reader: _Reader, name: str) -> tuple[list[int], int]:
    n = reader.number("<I")
    if not 1 <= n <= 4:
        raise reader.fail(f"tensor {name!r} has {n} dims, expected 1 to 4", reader.at - 4)
    dims = list(struct.unpack(f"<{n}Q", reader.take(8 * n)))
    kind = reader.number("<I")
    if kind not in TYPES:
        raise reader.fail(f"tensor {name!r} has the unknown type {kind if kind < 1 << 31 else kind - (1 << 32)}", reader.at - 4)
    return dims, kind


def _nbytes(reader: _Reader, name: str, dims: list[int], kind: int) -> int:
    """Bytes of a tensor; Python's integers do not wrap, the file's size bounds them."""
    t = TYPES[kind]
    elements = 1
    for dim in dims:
        elements *= dim
    if dims[0] % t.block_len:
        raise reader.fail(f"tensor {name!r}: rows of {dims[0]} are not whole blocks of {t.block_len} ({t.name})")
    nbytes = elements // t.block_len * t.block_bytes
    if nbytes > reader.size or any(dim > 1 << 62 for dim in dims):
        raise reader.fail(f"tensor {name!r} of dims {dims} takes {nbytes} bytes, more than the file has")
    return nbytes


def _check_extents(reader: _Reader, rows: list[Any], data: int, alignment: int) -> None:
    """Offsets are aligned, within the file, and overlap nowhere."""
    end = data
    last = ""
    for name, _, _, nbytes, offset, at in sorted(rows, key=lambda row: (row[4], row[3])):
        if offset % alignment:
            raise reader.fail(f"tensor {name!r}: offset {offset} is not a multiple of {alignment}", at)
        if data + offset + nbytes > reader.size:
            missing = data + offset + nbytes - reader.size
            raise reader.fail(f"tensor {name!r} ends {missing} bytes past the end of the file", at)
        if nbytes and data + offset < end:
            raise reader.fail(f"tensor {name!r} overlaps tensor {last!r}", at)
        if nbytes:
            end, last = data + offset + nbytes, name


def _open_split(
    path: str, metadata: dict[str, Any], tensors: dict[str, TensorInfo], fds: dict[str, int]
) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    """All parts of a split file: name-00001-of-0000N.gguf, each with its number, the first with the metadata."""
    count, number = metadata.get("split.count"), metadata.get("split.no")
    match = SPLIT_NAME.match(os.path.basename(path))
    if not isinstance(count, int) or not isinstance(number, int) or not 0 <= number < count <= 99999:
        raise FormatError(f"{path}: split.no {number!r} of split.count {count!r} cannot be", path=path, offset=0)
    if match is None or int(match[3]) != count or int(match[2]) != number + 1:
        raise FormatError(
            f"{path}: part {number + 1} of {count} of a split file must be called *-{number + 1:05d}-of-{count:05d}.gguf",
            path=path, offset=0,
        )  # fmt: skip
    folder = os.path.dirname(path)
    first: dict[str, Any] = metadata
    merged: dict[str, TensorInfo] = {}
    for i in range(count):
        name = os.path.join(folder, f"{match[1]}-{i + 1:05d}-of-{count:05d}.gguf")
        if i == number:
            part_metadata, part = metadata, tensors
        else:
            if not os.path.exists(name):
                raise HyperionIOError(f"{path}: part {i + 1} of {count} is missing: {name!r}", path=name)
            part_metadata, part = _open_part(name, fds)
        if part_metadata.get("split.no") != i or part_metadata.get("split.count") != count:
            raise FormatError(f"{name}: says it is part {part_metadata.get('split.no')!r}, expected {i}", path=name, offset=0)
        twice = merged.keys() & part.keys()
        if twice:
            raise FormatError(f"{name}: tensor {min(twice)!r} is in two parts", path=name, offset=0)
        merged.update(part)
        first = part_metadata if i == 0 else first
    expected = first.get("split.tensors.count")
    if expected is not None and expected != len(merged):
        raise FormatError(f"{path}: the parts have {len(merged)} tensors, split.tensors.count says {expected}", path=path, offset=0)
    return first, merged
