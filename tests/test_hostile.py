"""Files that were made to crash, to fill memory or to run forever: each is a typed error that names a byte."""

import json
import os
import tracemalloc

import numpy as np
import pytest

import hostile_files as h
from hostile_files import ARRAY, F32, STRING, U8, U32, array, entry, gguf, key, tensor, text, u32, u64
from hyperion import load_model
from hyperion.errors import FormatError, HyperionError, HyperionIOError, UnsupportedError
from hyperion.formats import open_container
from hyperion.formats.gguf import MAX_KEYS, MAX_STRINGS, MAX_TENSORS
from hyperion.memory import process_budget

SLACK = 48 << 10  # an exception with its traceback, descriptors, the first step of a read
HUGE_ROW = 542551296285575072  # a Q8_0 row of so many weights seems to take 26 bytes in 64 bits


def refuse(path, header_bytes, expected=FormatError):
    """Open a bad file: a typed error with an offset in the file, little memory, nothing written, no descriptor left."""
    with pytest.raises(HyperionError):  # what is imported and cached at the first failure is not counted
        open_container(path)
    before = sorted(os.listdir(path.parent)), count_descriptors()
    size = path.stat().st_size
    tracemalloc.start()
    try:
        with pytest.raises(expected) as caught:
            open_container(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0 <= caught.value.context["offset"] <= size
    assert peak <= 4 * header_bytes + SLACK
    assert (sorted(os.listdir(path.parent)), count_descriptors()) == before
    return caught.value


def count_descriptors():
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


@pytest.fixture
def refuse_bytes(tmp_path):
    def check(data, name="model.gguf", **options):
        path = tmp_path / name
        path.write_bytes(data)
        return refuse(path, len(data), **options)

    return check


def one_key(payload, kind=ARRAY, name="k"):
    return gguf([key(name, kind, payload)])


def one_tensor(*args, data=bytes(64), **options):
    return gguf([], [tensor(*args, **options)], data)


def aligned(n, kind=U32):
    return gguf([key("general.alignment", kind, n)], [tensor("t", [8], 0, 0)], bytes(64))


GGUF = {
    "empty file": b"",
    "text": b"This is no model at all, it is a sentence.",
    "bad magic": gguf(magic=b"GGUX"),
    "old magic": gguf(magic=b"ggjt"),
    "version 0": gguf(version=0),
    "version 1": gguf(version=1),
    "version 4": gguf(version=4),
    "big-endian": b"GGUF" + (3).to_bytes(4, "big") + bytes(16),
    "tensor count 2^63": gguf(tensor_count=1 << 63),
    "tensor count -1": gguf(tensor_count=-1),
    "one tensor too many": gguf([], [tensor("t", [8])], bytes(64), tensor_count=2),
    "kv count 2^50 in 24 bytes": gguf(key_count=1 << 50)[:24],
    "kv count -1": gguf(key_count=-1),
    "key length 2^64-1": gguf([text("k", -1) + u32(U8) + b"\1"]),
    "key length 2^63": gguf([text("k", 1 << 63) + u32(U8) + b"\1"]),
    "key too long": gguf([key("k" * (1 << 16), U8, 1)]),
    "empty key": gguf([key("", U8, 1)]),
    "duplicate key": gguf([key("k", U8, 1), key("k", U8, 2)]),
    "key of bad UTF-8": gguf([key(b"\xff\xfe", U8, 1)]),
    "key with a NUL": gguf([key("a\0b", U8, 1)]),
    "value type 99": gguf([key("k", 99, b"\0" * 8)]),
    "value type 2^32-1": gguf([key("k", -1, b"\0" * 8)]),
    "bool 2": gguf([key("k", h.BOOL, 2)]),
    "bool 2 in an array": one_key(array(h.BOOL, [0, 1, 2])),
    "string length 2^63": gguf([key("k", STRING, text("abc", 1 << 63))]),
    "string length -1": gguf([key("k", STRING, text("abc", -1))]),
    "string past the end": gguf([key("k", STRING, text("abc", 4000))]),
    "array of 2^61": one_key(array(h.U64, [1], 1 << 61)),
    "array of 2^61 strings": one_key(array(STRING, ["a"], 1 << 61)),
    "array of 2^61 arrays": one_key(array(ARRAY, [], 1 << 61) + array(U8)),
    "array of -1": one_key(array(U8, [1, 2], -1)),
    "array of type 13": one_key(array(U8, [1, 2])).replace(u32(U8) + u64(2), u32(13) + u64(2)),
    "array of strings, one of 2^64-1": one_key(array(STRING, ["a"], 2) + text("b", -1)),
    "array of strings, one past the end": one_key(array(STRING, ["a"], 2) + text("b", 10**6)),
    "array nested 5000 deep": one_key(h.nested(5000)),
    "a million arrays": one_key(array(ARRAY, [], MAX_KEYS + 1) + array(U8) * (MAX_KEYS + 1)),
    "too many keys": gguf([key(f"k{i}", U8, 1) for i in range(MAX_KEYS + 1)]),
    "alignment 0": aligned(0),
    "alignment 3": aligned(3),
    "alignment 2^31": aligned(1 << 31),
    "alignment 1.5": aligned(1.5, F32),
    "alignment true": aligned(1, h.BOOL),
    "alignment text": gguf([key("general.alignment", STRING, text("32"))], [tensor("t", [8])], bytes(64)),
    "alignment array": gguf([key("general.alignment", ARRAY, array(U32, [32, 32]))], [tensor("t", [8])], bytes(64)),
    "tensor name of 64 bytes": one_tensor("x" * 64, [8]),
    "tensor name of 2^64-1 bytes": gguf([], [text("t", -1)], bytes(64)),
    "tensor without a name": one_tensor("", [8]),
    "tensor name of bad UTF-8": one_tensor(b"\xc3(", [8]),
    "tensor name with a NUL": one_tensor("a\0", [8]),
    "duplicate tensor": gguf([], [tensor("t", [8], 0, 0), tensor("t", [8], 0, 32)], bytes(64)),
    "n_dims 0": one_tensor("t", []),
    "n_dims 5": one_tensor("t", [1, 1, 1, 1, 1]),
    "n_dims 2^32-1": one_tensor("t", [1], n_dims=-1),
    "dim -1": one_tensor("t", [-1]),
    "dim -1 beside 0": one_tensor("t", [-1, 0]),
    "dims 2^32 x 2^32": one_tensor("t", [1 << 32, 1 << 32]),
    "dims 2^16 four times": one_tensor("t", [1 << 16] * 4),
    "dims 2^62 x 4": one_tensor("t", [1 << 62, 4], 24),
    "empty with dims that wrap": one_tensor("t", [0, 1 << 32, 1 << 32]),
    "Q8_0 row that wraps to 26 bytes": one_tensor("t", [HUGE_ROW], 8),
    "Q8_0 rows that wrap": one_tensor("t", [32, (1 << 64) // 34 + 1], 8),
    "element count 2^64-1": one_tensor("t", [(1 << 64) - 1], 24),
    "padded size that wraps": one_tensor("t", [(1 << 64) - 31], 24),
    "type -1": one_tensor("t", [8], -1),
    "type 4": one_tensor("t", [8], 4),
    "type 999": one_tensor("t", [8], 999),
    "Q8_0 row of 33": one_tensor("t", [33], 8),
    "Q4_K row of 128": one_tensor("t", [128], 12),
    "offset 4": one_tensor("t", [8], 0, 4),
    "offset past the end": one_tensor("t", [8], 0, 1 << 20),
    "offset 2^64-32": one_tensor("t", [8], 0, (1 << 64) - 32),
    "empty at offset 2^63": one_tensor("t", [0], 0, 1 << 63),
    "offsets the same": gguf([], [tensor("a", [8]), tensor("b", [8])], bytes(64)),
    "offsets overlapping": gguf([], [tensor("a", [16]), tensor("b", [8], 0, 32)], bytes(64)),
    "one inside the other": gguf([], [tensor("a", [64]), tensor("b", [8], 0, 64), tensor("c", [8], 0, 256)], bytes(288)),
    "data one byte short": one_tensor("t", [16], data=bytes(63)),
    "no data at all": one_tensor("t", [8], data=b""),
    "1 TiB in 96 bytes": gguf([], [tensor("t", [1 << 38])])[:96].ljust(96, b"\0"),
}


@pytest.mark.parametrize("name", GGUF)
def test_gguf_is_refused(name, refuse_bytes):
    refuse_bytes(GGUF[name])


def test_millions_of_empty_strings(refuse_bytes):
    error = refuse_bytes(one_key(array(STRING, [], MAX_STRINGS + 1) + bytes(8 * (MAX_STRINGS + 1))))
    assert "strings" in str(error)
    n = 1 << 17
    before = one_key(array(STRING, [], n))[: 24 + 9 + 4 + 12]
    error = refuse_bytes(before + bytes(8 * n - 8) + u64(1))  # the last one is missing its byte
    assert error.context["offset"] == len(before) + 8 * n - 8


def test_millions_of_tensors(refuse_bytes):
    n = MAX_TENSORS + 1
    assert refuse_bytes(gguf([], [], bytes(40 * n), tensor_count=n)).context["offset"] == 8
    names = [tensor(f"blk.{i // 16}.attn_q{i % 16}.weight", [32, 32], 8, 0) for i in range(1 << 13)]
    refuse_bytes(gguf([], names, b"\0" * 1088))  # all of them at the same place


def test_long_strings_are_not_copied_often(refuse_bytes):
    long = "\u0105" * (1 << 20)
    refuse_bytes(gguf([key("k", STRING, text(long)), key("k", U8, 1)]))
    refuse_bytes(gguf([key("k", ARRAY, array(STRING, [long, "a", long, long])), key("k", U8, 1)]))
    numbers = u32(h.BOOL) + u64(4 << 20) + bytes(4 << 20)
    refuse_bytes(gguf([key("k", ARRAY, numbers), key("k", U8, 1)]))


def test_a_large_file_with_a_small_bad_header_is_not_read(tmp_path):
    path = tmp_path / "model.gguf"
    head = gguf([], [tensor("a", [8]), tensor("a", [8])])
    with path.open("wb") as file:
        file.write(head)
        file.truncate(1 << 30)  # sparse
    refuse(path, len(head))


def test_offsets_name_the_place(refuse_bytes):
    assert refuse_bytes(GGUF["bad magic"]).context["offset"] == 0
    assert refuse_bytes(GGUF["version 4"]).context["offset"] == 4
    assert refuse_bytes(GGUF["tensor count 2^63"]).context["offset"] == 8
    assert refuse_bytes(GGUF["kv count -1"]).context["offset"] == 16
    assert refuse_bytes(GGUF["duplicate key"]).context["offset"] == 24 + 14
    assert refuse_bytes(GGUF["value type 99"]).context["offset"] == 24 + 9
    assert refuse_bytes(GGUF["alignment 3"]).context["offset"] == 24
    assert refuse_bytes(GGUF["type 999"]).context["offset"] == 24 + 9 + 4 + 8
    assert refuse_bytes(GGUF["offset 4"]).context["offset"] == 24 + 9 + 4 + 8 + 4


def open_or_refuse(path):
    """Open a damaged file and read all of it: nothing but a HyperionError may come."""
    try:
        with open_container(path) as container:
            for info in container.tensors.values():
                container.read(info)
    except HyperionError:
        return False
    return True


def test_gguf_cut_at_every_byte(tmp_path):
    whole, _ = h.small_gguf()
    path = tmp_path / "model.gguf"
    path.write_bytes(whole)
    assert open_or_refuse(path)
    for n in reversed(range(len(whole) - 32)):  # behind that is padding
        os.truncate(path, n)
        with pytest.raises(FormatError) as caught:
            open_container(path)
        assert 0 <= caught.value.context["offset"] <= n


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_gguf_with_every_byte_changed(tmp_path, flip):
    whole, data = h.small_gguf()
    path = tmp_path / "model.gguf"
    path.write_bytes(whole)
    opened = 0
    with path.open("r+b", buffering=0) as file:
        for at in range(data):
            for byte in (whole[at] ^ flip, whole[at]):
                file.seek(at)
                file.write(bytes([byte]))
                if byte != whole[at]:
                    opened += open_or_refuse(path)
    assert 0 < opened < data  # a changed value is as good as any, a changed length is not


# ---- safetensors -------------------------------------------------------------------------------------------------

X = entry([2], 0, 8)


def raw(*parts, data=bytes(8)):
    return h.safetensors(b"".join(parts), data)


def field(name, text_):
    """A file whose one tensor has this text for a field."""
    fields = {"dtype": '"F32"', "shape": "[2]", "data_offsets": "[0,8]", name: text_}
    return raw(b'{"a":{' + ",".join(f'"{k}":{v}' for k, v in fields.items() if v is not None).encode() + b"}}")


SAFETENSORS = {
    "header length 2^64-1": h.safetensors({"a": X}, bytes(8), -1),
    "header length 2^63": h.safetensors({"a": X}, bytes(8), 1 << 63),
    "header past the end": h.safetensors({"a": X}, b"", 400),
    "header length 0": h.safetensors({"a": X}, bytes(8), 0),
    "header length 1": h.safetensors(b"{", bytes(8)),
    "header cut": h.safetensors({"a": X}, bytes(8), 20),
    "duplicate tensors": raw(b'{"a":', json.dumps(X).encode(), b',"a":', json.dumps(X).encode(), b"}"),
    "duplicate by an escape": raw(b'{"a":', json.dumps(X).encode(), rb',"\u0061":', json.dumps(X).encode(), b"}"),
    "duplicate dtype": raw(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
    "duplicate shape": raw(b'{"a":{"dtype":"F32","shape":[3],"shape":[2],"data_offsets":[0,8]}}'),
    "duplicate metadata": raw(b'{"__metadata__":{},"__metadata__":{},"a":', json.dumps(X).encode(), b"}"),
    "duplicate metadata key": raw(b'{"__metadata__":{"k":"1","k":"2"},"a":', json.dumps(X).encode(), b"}"),
    "metadata of numbers": raw(b'{"__metadata__":{"k":1},"a":', json.dumps(X).encode(), b"}"),
    "ranges overlap": h.safetensors({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
    "ranges the same": h.safetensors({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, bytes(8)),
    "range reversed": h.safetensors({"a": entry([2], 8, 0)}, bytes(8)),
    "hole at the start": h.safetensors({"a": entry([2], 4, 12)}, bytes(12)),
    "hole between": h.safetensors({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)),
    "trailing bytes": h.safetensors({"a": X}, bytes(9)),
    "data one byte short": h.safetensors({"a": X}, bytes(7)),
    "trailing bytes and no tensors": h.safetensors({}, b"\0"),
    "offset negative": field("data_offsets", "[-8,0]"),
    "offset float": field("data_offsets", "[0,8.0]"),
    "offset exponent": field("data_offsets", "[0,8e0]"),
    "offset text": field("data_offsets", '["0","8"]'),
    "offset true": field("data_offsets", "[false,8]"),
    "offset 2^64": field("data_offsets", f"[{1 << 64},{(1 << 64) + 8}]"),
    "offset of 5000 digits": field("data_offsets", f"[0,{'8' * 5000}]"),
    "offset octal": field("data_offsets", "[00,8]"),
    "three offsets": field("data_offsets", "[0,8,8]"),
    "no offsets": field("data_offsets", None),
    "offsets null": field("data_offsets", "null"),
    "shape negative": field("shape", "[-2]"),
    "shape that wraps": field("shape", f"[{1 << 62},4]"),
    "shape 2^32 x 2^32": field("shape", f"[{1 << 32},{1 << 32}]"),
    "empty shape that wraps": h.safetensors({"a": entry([0, 1 << 32, 1 << 32], 0, 0)}),
    "shape of 100 dims": field("shape", "[" + ",".join(["1"] * 100) + "]"),
    "shape a number": field("shape", "2"),
    "shape nested": field("shape", "[[2]]"),
    "shape does not fit": field("shape", "[3]"),
    "dtype unknown": field("dtype", '"F33"'),
    "dtype a number": field("dtype", "32"),
    "half a byte": h.safetensors({"a": entry([1], 0, 0, "F4")}),
    "unknown field": field("strides", "[1]"),
    "tensor an array": raw(b'{"a":[1,2]}'),
    "JSON nested 100,000 deep": raw(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "objects nested 100,000 deep": raw(b'{"a":' * 100_000 + b"}" * 100_000),
    "an array": raw(b"[1]" + b" " * 8),
    "not JSON": raw(b"{a:1}"),
    "NaN": raw(b'{"a":NaN}'),
    "text behind": raw(b'{"a":', json.dumps(X).encode(), b"} x"),
    "comma at the end": raw(b'{"a":', json.dumps(X).encode(), b",}"),
    "string without end": raw(b'{"a'),
    "name of bad UTF-8": raw(b'{"\xff":', json.dumps(X).encode(), b"}"),
    "half a surrogate pair": raw(rb'{"\ud800":', json.dumps(X).encode(), b"}"),
    "bad escape": raw(rb'{"\x":', json.dumps(X).encode(), b"}"),
    "a line break in a name": raw(b'{"a\n":', json.dumps(X).encode(), b"}"),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_safetensors_is_refused(name, refuse_bytes):
    refuse_bytes(SAFETENSORS[name], "model.safetensors")


def test_a_header_of_more_than_100_mb(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(u64(100_000_001) + b"{")
        file.truncate(1 << 30)
    refuse(path, 0)


def test_headers_of_many_small_things(refuse_bytes):
    """What a general JSON parser would build of these takes many times their size."""
    refuse_bytes(raw(b'{"a":{"shape":[' + b"0," * 100_000 + b"0]}}"), "m.safetensors")
    refuse_bytes(raw(b'{"a":[' + b"{}," * 100_000 + b"{}]}"), "m.safetensors")
    refuse_bytes(raw(b'{"__metadata__":{"a":"' + rb"\"" * 100_000 + b'"},"b":1}'), "m.safetensors")
    refuse_bytes(raw(b'{"__metadata__":{"a":"' + rb"\\" * 100_000 + b'"},"b":1}'), "m.safetensors")
    refuse_bytes(raw(b'{"a"' + b" " * 2_000_000 + b"1}"), "m.safetensors")
    n = 5_000
    many = {f"model.layers.{i}.self_attn.q_proj.weight": entry([1, 2], 8 * i, 8 * i + 8) for i in range(n)}
    refuse_bytes(h.safetensors(many, bytes(8 * n - 1)), "m.safetensors")


def test_safetensors_cut_at_every_byte(tmp_path):
    whole, _ = h.small_safetensors()
    path = tmp_path / "model.safetensors"
    path.write_bytes(whole)
    assert open_or_refuse(path)
    for n in reversed(range(len(whole))):
        os.truncate(path, n)
        with pytest.raises(FormatError) as caught:
            open_container(path)
        assert 0 <= caught.value.context["offset"] <= n


@pytest.mark.parametrize("flip", [0x01, 0x20, 0xFF])
def test_safetensors_with_every_byte_changed(tmp_path, flip):
    whole, data = h.small_safetensors()
    path = tmp_path / "model.safetensors"
    path.write_bytes(whole)
    opened = 0
    with path.open("r+b", buffering=0) as file:
        for at in range(data):
            for byte in (whole[at] ^ flip, whole[at]):
                file.seek(at)
                file.write(bytes([byte]))
                if byte != whole[at]:
                    opened += open_or_refuse(path)
    assert opened < data


# ---- directories and indexes -------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path):
    """A folder with two shards and a configuration; its index is for the test to write."""
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    for i in (1, 2):
        (folder / f"model-{i}.safetensors").write_bytes(h.safetensors({f"t{i}": X}, bytes(8)))
    (tmp_path / "outside.safetensors").write_bytes(h.safetensors({"t1": X}, bytes(8)))
    return folder


def index(folder, content):
    text_ = content if isinstance(content, str) else json.dumps({"metadata": {"total_size": 16}, "weight_map": content})
    (folder / "model.safetensors.index.json").write_text(text_)


BOTH = {"t1": "model-1.safetensors", "t2": "model-2.safetensors"}


def test_the_index_of_shards(directory):
    index(directory, BOTH)
    with open_container(directory) as container:
        assert list(container.tensors) == ["t1", "t2"]
        assert [os.path.basename(f) for f in container.files] == ["model-1.safetensors", "model-2.safetensors"]


@pytest.mark.parametrize(
    "content",
    [
        {"t1": "../outside.safetensors"},
        {"t1": "sub/../../outside.safetensors"},
        {"t1": "..\\outside.safetensors"},
        {"t1": "C:outside.safetensors"},
        {"t1": ".."},
        {"t1": "."},
        {"t1": ""},
        {"t1": "model-1.safetensors\0"},
        {"t1": 1},
        {"t1": None},
        {},
        [],
        "{}",
        "[]",
        "",
        '{"weight_map": {"t1": "model-1.safetensors"}, "weight_map": {}}',
        '{"weight_map": {"t1": "model-1.safetensors", "t1": "model-2.safetensors"}}',
        '{"metadata": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"metadata": {"a": tru}, "weight_map": {"t1": "model-1.safetensors"}}',
        '{"metadata": [1, "a" 2], "weight_map": {"t1": "model-1.safetensors"}}',
        '{"metadata": "\\q", "weight_map": {"t1": "model-1.safetensors"}}',
        {"t1": "model-2.safetensors", "t2": "model-1.safetensors"},
        {**BOTH, "t3": "model-1.safetensors"},
    ],
    ids=lambda c: json.dumps(c)[:40],
)
def test_a_bad_index(directory, content):
    index(directory, content)
    with pytest.raises(FormatError) as caught:
        open_container(directory)
    assert isinstance(caught.value.context["offset"], int)


def test_an_absolute_path_in_an_index(directory):
    index(directory, {"t1": str(directory.parent / "outside.safetensors")})
    with pytest.raises(FormatError):
        open_container(directory)


def test_an_index_may_have_anything_in_its_metadata(directory):
    metadata = {"total_size": 1.5e3, "x": [None, True, False, -1, [], {}, {"a": [{"b": '\\"\u00e9"'}]}], "": ""}
    index(directory, json.dumps({"metadata": metadata, "weight_map": BOTH, "more": "\u00df"}, indent=3))
    with open_container(directory) as container:
        assert len(container.tensors) == 2


def test_a_tensor_in_two_shards(directory):
    (directory / "model-2.safetensors").write_bytes(h.safetensors({"t1": X, "t2": entry([2], 8, 16)}, bytes(16)))
    index(directory, BOTH)
    with pytest.raises(FormatError, match="two shards"):
        open_container(directory)


def test_a_missing_shard(directory):
    index(directory, {**BOTH, "t3": "model-3.safetensors"})
    with pytest.raises(HyperionIOError, match="model-3"):
        open_container(directory)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"a": 1, "a": 2}', '{"a": NaN}', "[" * 100_000, "[" * 60_000, '{"a":' * 30_000, "\u00e9".encode("latin-1"),
     b"\xff{}", '{"a": [' + "0," * 100_000 + "0]}", '{"n": ' + "9" * 6000 + "}"],
    ids=lambda c: repr(c[:12]),
)  # fmt: skip
def test_a_bad_configuration(directory, content):
    index(directory, BOTH)
    (directory / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FormatError) as caught:
        open_container(directory)
    assert isinstance(caught.value.context["offset"], int)


def test_a_configuration_that_is_too_long(directory):
    with (directory / "config.json").open("wb") as file:
        file.truncate(1 << 30)
    index(directory, BOTH)
    with pytest.raises(FormatError, match="bytes of JSON"):
        open_container(directory)


# ---- whole models ------------------------------------------------------------------------------------------------


def llama(**changes):
    """A Llama of one block that nothing is wrong with, apart from `changes`: metadata key -> (kind, value) or None."""
    n = 32
    keys = {
        "general.architecture": (STRING, text("llama")),
        "llama.block_count": (U32, 1),
        "llama.context_length": (U32, 64),
        "llama.embedding_length": (U32, n),
        "llama.feed_forward_length": (U32, n),
        "llama.attention.head_count": (U32, 2),
        "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
        "tokenizer.ggml.model": (STRING, text("llama")),
        "tokenizer.ggml.tokens": (ARRAY, array(STRING, TOKENS)),
        "tokenizer.ggml.scores": (ARRAY, array(F32, [0.0] * len(TOKENS))),
        "tokenizer.ggml.token_type": (ARRAY, array(h.I32, [2, 3, 3] + [6] * 256)),
    }
    keys.update(changes)
    vocab = len(TOKENS)
    shapes = {"token_embd.weight": [n, vocab], "output_norm.weight": [n], "output.weight": [n, vocab]}
    shapes |= {f"blk.0.{name}_norm.weight": [n] for name in ("attn", "ffn")}
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes |= {f"blk.0.{name}.weight": [n, n] for name in names}
    tensors, data = [], b""
    for name, dims in shapes.items():
        tensors.append(tensor(name, dims, 0, len(data)))
        data += np.ones(dims[::-1], "<f4").tobytes()
    return gguf([key(k, *v) for k, v in keys.items() if v is not None], tensors, data)


TOKENS = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
SCORES = "tokenizer.ggml.scores"
MODELS = {
    "scores of strings": {SCORES: (ARRAY, array(STRING, ["0"] * len(TOKENS)))},
    "scores a number": {SCORES: (U32, 1)},
    "too few scores": {SCORES: (ARRAY, array(F32, [0.0]))},
    "scores NaN": {SCORES: (ARRAY, array(F32, [float("nan")] * len(TOKENS)))},
    "block_count 2^32-1": {"llama.block_count": (U32, -1 % (1 << 32))},
    "block_count 2^64-1": {"llama.block_count": (h.U64, (1 << 64) - 1)},
    "block_count text": {"llama.block_count": (STRING, text("1"))},
    "block_count 0": {"llama.block_count": (U32, 0)},
    "head_count 0": {"llama.attention.head_count": (U32, 0)},
    "head_count an array": {"llama.attention.head_count": (ARRAY, array(U32, [2, 2]))},
    "context_length 0": {"llama.context_length": (U32, 0)},
    "embedding_length 2^32-1": {"llama.embedding_length": (U32, (1 << 32) - 1)},
    "epsilon NaN": {"llama.attention.layer_norm_rms_epsilon": (F32, float("nan"))},
    "no architecture": {"general.architecture": None},
    "architecture an array": {"general.architecture": (ARRAY, array(U8, [1]))},
    "architecture bytes": {"general.architecture": (STRING, text(b"\xff"))},
    "vocabulary of two tokens": {
        "tokenizer.ggml.tokens": (ARRAY, array(STRING, TOKENS[:2])),
        SCORES: (ARRAY, array(F32, [0.0] * 2)),
        "tokenizer.ggml.token_type": (ARRAY, array(h.I32, [2, 3])),
    },
    "tokens of numbers": {"tokenizer.ggml.tokens": (ARRAY, array(U32, [1] * len(TOKENS)))},
    "head_count_kv 3": {"llama.attention.head_count_kv": (U32, 3)},
    "rope base infinite": {"llama.rope.freq_base": (F32, float("inf"))},
    "YaRN": {"llama.rope.scaling.type": (STRING, text("yarn"))},
    "experts": {"llama.expert_count": (U32, 8)},
    "another architecture": {"general.architecture": (STRING, text("mamba"))},
    "tokens a string": {"tokenizer.ggml.tokens": (STRING, text("abc"))},
}


def test_the_model_that_nothing_is_wrong_with(tmp_path):
    (tmp_path / "m.gguf").write_bytes(llama())
    with load_model(tmp_path / "m.gguf", memory_budget="64MB") as model:
        assert np.isfinite(model.logits([1, 5, 6])).all()


def expected_error(name):
    return UnsupportedError if name in ("YaRN", "experts", "another architecture", "architecture bytes") else FormatError


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_lies(tmp_path, name):
    path = tmp_path / "m.gguf"
    path.write_bytes(llama(**MODELS[name]))
    used = process_budget().used
    tracemalloc.start()
    try:
        with pytest.raises(expected_error(name)) as caught:
            load_model(path, memory_budget="64MB")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    str(caught.value).encode()  # can be printed
    assert process_budget().used == used


def test_an_unknown_architecture_names_what_is_supported(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(llama(**{"general.architecture": (STRING, text("gpt-j"))}))
    with pytest.raises(UnsupportedError, match="llama, qwen2, qwen3"):
        load_model(path)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_scales_that_are_not_finite_are_reported(shared, tmp_path, scale):
    source = shared / "models" / "shakespeare" / "shakespeare-q8_0.gguf"
    with open_container(source) as c:
        where = c.tensors["blk.1.ffn_up.weight"].offset
    data = bytearray(source.read_bytes())
    data[where : where + 2] = np.float16(scale).tobytes()
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"blk\.1\.ffn_up\.weight"):
        load_model(path)


def test_tensors_without_a_configuration_are_no_model(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(h.small_safetensors()[0])
    with pytest.raises(FormatError, match=r"config\.json"):
        load_model(path)
