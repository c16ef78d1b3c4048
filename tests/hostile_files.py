"""Writers of GGUF and safetensors files that may lie about anything."""

import json
import struct

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
CODES = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}
BIG = 1 << 64


def u32(n):
    return struct.pack("<I", n % (1 << 32))


def u64(n):
    return struct.pack("<Q", n % BIG)


def text(s, length=None):
    raw = s if isinstance(s, bytes) else s.encode()
    return u64(len(raw) if length is None else length) + raw


def value(kind, v):
    return text(v) if kind == STRING else struct.pack("<" + CODES[kind], v)


def array(kind, values=(), count=None):
    """Payload of an array value; of strings or numbers."""
    return u32(kind) + u64(len(values) if count is None else count) + b"".join(value(kind, v) for v in values)


def nested(depth):
    """An array of an array of ... of no numbers."""
    return (u32(ARRAY) + u64(1)) * (depth - 1) + u32(U8) + u64(0)


def key(name, kind, payload):
    """One key; `payload` is bytes, or a value of that kind."""
    return text(name) + u32(kind) + (payload if isinstance(payload, bytes) else value(kind, payload))


def tensor(name, dims, kind=0, offset=0, n_dims=None):
    """One tensor's entry; dims fastest first."""
    return text(name) + u32(len(dims) if n_dims is None else n_dims) + b"".join(map(u64, dims)) + u32(kind) + u64(offset)


def gguf(keys=(), tensors=(), data=b"", *, magic=b"GGUF", version=3, tensor_count=None, key_count=None, alignment=32):
    """A file of keys and tensors as made above, padded, and its data."""
    head = magic + u32(version)
    head += u64(len(tensors) if tensor_count is None else tensor_count) + u64(len(keys) if key_count is None else key_count)
    head += b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + data


def small_gguf():
    """A valid file with a value of every kind and three tensors; (bytes, where the data begins)."""
    keys = [key(f"k.{kind}", kind, 1) for kind in CODES]
    keys += [
        key("general.architecture", STRING, text("llama")),
        key("words", ARRAY, array(STRING, ["a", "", "gr\u00fcn", b"\xff\xfe"])),
        key("numbers", ARRAY, array(F32, [0.5, -1.5])),
        key("flags", ARRAY, array(BOOL, [1, 0])),
        key("lists", ARRAY, u32(ARRAY) + u64(2) + array(U8, [1, 2]) + array(STRING, ["x"])),
    ]
    tensors = [
        tensor("token_embd.weight", [32, 3], 8, 0),
        tensor("blk.0.attn_norm.weight", [4], 0, 128),
        tensor("empty", [0, 2], 1, 160),
    ]
    data = bytes(range(102)) + bytes(26) + struct.pack("<4f", 1, 2, 3, 4) + bytes(16)
    whole = gguf(keys, tensors, data)
    return whole, len(whole) - len(data)


def safetensors(header, data=b"", length=None):
    """A file with a header (an object, or the JSON text itself)."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return u64(len(raw) if length is None else length) + raw + data


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def small_safetensors():
    """A valid file; (bytes, where the data begins)."""
    header = {
        "__metadata__": {"format": "pt", "note": 'say "so"\n'},
        "model.embed_tokens.weight": entry([3, 2], 0, 12, "F16"),
        "model.layers.0.mlp.down_proj.weight": entry([2, 2], 12, 28),
        "empty": entry([0, 7], 28, 28),
        "gr\u00fcn\t": entry([], 28, 30, "BF16"),
    }
    whole = safetensors(header, bytes(range(30)))
    return whole, len(whole) - 30
