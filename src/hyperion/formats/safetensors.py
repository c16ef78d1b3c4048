"""safetensors, read strictly.

Layout: 1. u64 little-endian length of the header; 2. the header, a JSON object: tensor name -> {"dtype", "shape",
"data_offsets": [begin, end]}, and "__metadata__"; 3. the data, where the ranges of all tensors meet without holes.
Source: the format section of the safetensors project.
"""

from __future__ import annotations

import os
import re
import struct
from typing import Any

from hyperion.errors import FormatError
from hyperion.formats.container import Container, TensorInfo, open_for_reading, read_exactly
from hyperion.formats.strict_json import Scanner
from hyperion.formats.types import BY_NAME, UNKNOWN_TYPE

__all__ = ["SafetensorsContainer", "read_header"]

MAX_HEADER = 100_000_000
MAX_TENSORS = 1 << 16
BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16,
    "U8": 8, "BOOL": 8, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
"""Bits of one value by dtype."""

_COUNT = rb"(?:0|[1-9][0-9]{0,19})"
_SPACE = rb"[ \t\n\r]*"
_FIELD = re.compile(
    rb'%(s)s"(dtype|shape|data_offsets)"%(s)s:%(s)s'
    rb'(?:"([A-Z0-9_]{1,16})"|\[%(s)s((?:%(n)s(?:%(s)s,%(s)s%(n)s){0,63})?)%(s)s\])%(s)s([,}])'
    % {b"s": _SPACE, b"n": _COUNT}
)  # fmt: skip
_FIELDS = ("dtype", "shape", "data_offsets")


class SafetensorsContainer(Container):
    """One safetensors file on its own: tensors, and under "safetensors" its free metadata, but no configuration."""

    format = "safetensors"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = os.fspath(path)
        fds: dict[str, int] = {}
        try:
            tensors, metadata = read_header(path, fds)
            super().__init__(path, {"safetensors": metadata}, tensors, fds)
        except BaseException:
            for fd in fds.values():
                os.close(fd)
            raise


def read_header(path: str, fds: dict[str, int]) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Open a file and check every tensor's range.

    Parameters
    ----------
    path : str
    fds : dict
        The file's descriptor goes in here, also when an error follows.

    Returns
    -------
    (tensors, metadata)
        `metadata` is the file's own "__metadata__".
    """
    fd = fds[path] = open_for_reading(path)
    size = os.fstat(fd).st_size
    if size < 8:
        raise FormatError(f"{path}: a file of {size} bytes is no safetensors file", path=path, offset=0)
    head = bytearray(8)
    read_exactly(fd, memoryview(head), 0, path)
    (length,) = struct.unpack("<Q", head)
    if not 2 <= length <= min(MAX_HEADER, size - 8):
        raise FormatError(
            f"{path}: a header of {length} bytes, expected 2 to {min(MAX_HEADER, size - 8)} (at byte 0)", path=path, offset=0
        )
    raw = bytearray(length)
    read_exactly(fd, memoryview(raw), 8, path)
    if raw[0] != 0x7B:
        raise FormatError(f"{path}: the header begins with {bytes(raw[:1])!r}, expected '{{' (at byte 8)", path=path, offset=8)
    tensors, metadata = _Header(raw, path).parse(8 + length)
    _check_ranges(path, tensors, 8 + length, size)
    return tensors, metadata


class _Header:
    def __init__(self, raw: bytearray, path: str) -> None:
        self.scan = Scanner(raw, path, 8)
        self.path = path
        self._shapes: dict[bytes, tuple[int, ...]] = {}  # many tensors have the same: kept once

    def parse(self, data: int) -> tuple[dict[str, TensorInfo], dict[str, str]]:
        tensors: dict[str, TensorInfo] = {}
        metadata: dict[str, str] | None = None
        for name in self.scan.members():
            if name == "__metadata__":
                if metadata is not None:
                    raise self.scan.fail("'__metadata__' comes twice")
                metadata = self._metadata()
                continue
            if name in tensors:
                raise self.scan.fail(f"tensor {name!r:.80} comes twice")
            if len(tensors) == MAX_TENSORS:
                raise self.scan.fail(f"more than {MAX_TENSORS} tensors")
            tensors[name] = self._tensor(name, data)
        self.scan.end()
        return tensors, metadata or {}

    def _metadata(self) -> dict[str, str]:
        result: dict[str, str] = {}
        for key in self.scan.members():
            if key in result:
                raise self.scan.fail(f"key {key!r:.80} of __metadata__ comes twice")
            result[key] = self.scan.string()
        return result

    def _tensor(self, name: str, data: int) -> TensorInfo:
        scan = self.scan
        scan.expect(b"{")
        start = scan.at
        found: dict[bytes, bytes] = {}
        last = b","
        while last == b",":
            scan.step()
            match = _FIELD.match(scan.data, scan.at)
            if match is None or match[1] in found or (match[2] is None) == (match[1] == b"dtype"):
                raise self._wrong(name, f"expected dtype, shape and data_offsets in whole numbers, got {scan.shown()}")
            key, text, numbers, last = match.groups()
            found[key] = numbers if text is None else text
            scan.at = match.end()
        if len(found) != len(_FIELDS):
            raise self._wrong(name, f"has {', '.join(sorted(k.decode() for k in found))} only", start)
        dtype = found[b"dtype"].decode()
        if dtype not in BITS:
            raise self._wrong(name, f"unknown dtype {dtype!r}", start)
        shape = self._shapes.get(found[b"shape"]) or self._shape(found[b"shape"])
        offsets = _counts(found[b"data_offsets"])
        if len(offsets) != 2 or offsets[1] >= 1 << 63:
            raise self._wrong(name, f"data_offsets are {list(offsets)!s:.60}, expected a begin and an end", start)
        nbits, extent = BITS[dtype], 8
        for n in shape:
            nbits *= n
            extent *= n or 1
        if extent >= 1 << 63:
            raise self._wrong(name, f"shape {list(shape)!s:.80} is past any memory", start)
        nbytes = nbits // 8
        if nbits % 8 or offsets[1] - offsets[0] != nbytes:
            raise self._wrong(
                name, f"shape {list(shape)!s:.80} of {dtype} takes {nbits / 8:g} bytes, data_offsets are {list(offsets)}", start
            )
        kind = BY_NAME.get(dtype)
        number = kind.id if kind is not None else UNKNOWN_TYPE
        type_name = kind.name if kind is not None else dtype
        return TensorInfo(name, number, type_name, shape, self.path, data + offsets[0], nbytes)

    def _shape(self, raw: bytes) -> tuple[int, ...]:
        shape = self._shapes[raw] = _counts(raw)
        return shape

    def _wrong(self, name: str, message: str, at: int | None = None) -> FormatError:
        return self.scan.fail(f"tensor {name!r:.80}: {message}", at)


def _counts(raw: bytes) -> tuple[int, ...]:
    return tuple(int(n) for n in raw.split(b",")) if raw else ()


def _check_ranges(path: str, tensors: dict[str, TensorInfo], data: int, size: int) -> None:
    """The ranges cover the data exactly once."""

    def fail(message: str, at: int) -> Any:
        return FormatError(f"{path}: {message} (at byte {at})", path=path, offset=at)

    at = data
    for t in sorted(tensors.values(), key=lambda t: (t.offset, t.nbytes)):
        if t.offset != at:
            what = "overlaps the one before" if t.offset < at else "leaves a hole before it"
            raise fail(f"tensor {t.name!r:.80} {what}", min(t.offset, size))
        at += t.nbytes
        if at > size:
            raise fail(f"tensor {t.name!r:.80} ends {at - size} bytes past the end of the file", t.offset)
    if at != size:
        raise fail(f"the tensors end here, the file has {size - at} more bytes", at)
