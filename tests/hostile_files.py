"""Small model files, written byte by byte, so that any byte of them can be wrong."""

import json
import struct

F32, F16, Q4_0, Q8_0 = 0, 1, 2, 8
KINDS = {"u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": 4, "i32": 5, "f32": 6, "bool": 7, "str": 8, "arr": 9, "u64": 10, "i64": 11, "f64": 12}
CODES = {"u8": "<B", "i8": "<b", "u16": "<H", "i16": "<h", "u32": "<I", "i32": "<i", "f32": "<f", "bool": "<B", "u64": "<Q", "i64": "<q", "f64": "<d"}


def u32(n):
    return struct.pack("<I", n & 0xFFFFFFFF)


def u64(n):
    return struct.pack("<Q", n & 0xFFFFFFFFFFFFFFFF)


def text(value):
    data = value if isinstance(value, bytes) else value.encode()
    return u64(len(data)) + data


def value(kind, v):
    """The type's number and the value."""
    if kind == "str":
        return u32(KINDS[kind]) + text(v)
    return u32(KINDS[kind]) + struct.pack(CODES[kind], v)


def array(kind, items):
    body = b"".join(text(i) for i in items) if kind == "str" else b"".join(struct.pack(CODES[kind], i) for i in items)
    return u32(9) + u32(KINDS[kind]) + u64(len(items)) + body


def tensor(name, dims, kind=F32, offset=0):
    return text(name) + u32(len(dims)) + b"".join(u64(d) for d in dims) + u32(kind) + u64(offset)


def gguf(keys=(), tensors=(), data=b"", *, magic=b"GGUF", version=3, tensor_count=None, key_count=None, alignment=32):
    """A file of (key, encoded value) pairs, encoded tensors, and data behind the padding."""
    head = magic + u32(version)
    head += u64(len(tensors) if tensor_count is None else tensor_count) + u64(len(keys) if key_count is None else key_count)
    head += b"".join(text(k) + v for k, v in keys) + b"".join(tensors)
    return head + (b"\0" * (-len(head) % alignment) + data if tensors else b"")


def safetensors(header, data=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return u64(len(raw) if length is None else length) + raw + data
