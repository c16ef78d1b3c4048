"""safetensors, read strictly.

Layout: 1. u64 little-endian length of the header; 2. the header, a JSON object: tensor name -> {"dtype", "shape",
"data_offsets": [begin, end]}, and "__metadata__"; 3. the data, where the ranges of all tensors meet without holes.
Source: the format section of the safetensors project.
"""

from __future__ import annotations

import os
import struct
from typing import Any

from hyperion.errors import FormatError
from hyperion.formats.container import TensorInfo, open_for_reading, read_exactly
from hyperion.formats.strict_json import parse_object
from hyperion.formats.types import BY_NAME

__all__ = ["read_header"]

MAX_HEADER = 100_000_000
WIDTHS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
UNKNOWN_TYPE = -1
"""Number of a type that GGUF does not have; such tensors are listed and cannot be computed with."""


def read_header(path: str, fds: dict[str, int]) -> dict[str, TensorInfo]:
    """Open a file (its descriptor goes into `fds`) and check every tensor's range."""
    fd = fds[path] = open_for_reading(path)
    size = os.fstat(fd).st_size
    if size < 8:
        raise FormatError(f"{path}: a file of {size} bytes is no safetensors file", path=path, offset=0)
    head = bytearray(8)
    read_exactly(fd, memoryview(head), 0, path)
    (length,) = struct.unpack("<Q", head)
    if not 2 <= length <= min(MAX_HEADER, size - 8):
        raise FormatError(
            f"{path}: a header of {length} bytes, expected 2 to {min(MAX_HEADER, size - 8)}", path=path, offset=0
        )
    raw = bytearray(length)
    read_exactly(fd, memoryview(raw), 8, path)
    header = parse_object(bytes(raw), path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError(f"{path}: __metadata__ is not an object of strings", path=path, offset=8)
    tensors = {name: _tensor(path, name, entry, 8 + length) for name, entry in header.items()}
    _check_ranges(path, tensors, 8 + length, size)
    return tensors


def _tensor(path: str, name: str, entry: Any, data: int) -> TensorInfo:
    def fail(message: str) -> FormatError:
        return FormatError(f"{path}: tensor {name!r}: {message}", path=path, offset=8, tensor=name)

    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise fail("expected an object of dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise fail(f"unknown dtype {dtype!r:.40}")
    if not isinstance(shape, list) or not all(_count(n) for n in shape) or len(shape) > 64:
        raise fail(f"shape {shape!r:.60} is not a list of counts")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_count(n) for n in offsets):
        raise fail(f"data_offsets {offsets!r:.60} are not two counts")
    nbytes = WIDTHS[dtype]
    for n in shape:
        nbytes *= n
    if offsets[1] - offsets[0] != nbytes:
        raise fail(f"shape {shape} of {dtype} takes {nbytes} bytes, data_offsets {offsets} have {offsets[1] - offsets[0]}")
    number = BY_NAME[dtype].id if dtype in BY_NAME else UNKNOWN_TYPE
    return TensorInfo(name, number, dtype, tuple(shape), path, data + offsets[0], nbytes)


def _count(n: Any) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 63


def _check_ranges(path: str, tensors: dict[str, TensorInfo], data: int, size: int) -> None:
    """The ranges cover the data exactly once."""
    at = data
    for t in sorted(tensors.values(), key=lambda t: (t.offset, t.nbytes)):
        if t.offset != at:
            what = "overlaps the one before" if t.offset < at else "leaves a hole before it"
            raise FormatError(f"{path}: tensor {t.name!r} {what} (at byte {t.offset})", path=path, offset=t.offset)
        at += t.nbytes
    if at != size:
        raise FormatError(f"{path}: tensors end at byte {at}, the file has {size}", path=path, offset=min(at, size))
