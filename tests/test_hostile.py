"""Files that lie: refused with a typed error, quickly, without memory, without anything written."""

import json
import tracemalloc

import numpy as np
import pytest

import hyperion
from hostile_files import F32, Q4_0, Q8_0, array, gguf, safetensors, tensor, text, u32, u64, value
from hyperion.formats import open_container
from hyperion.memory import process_budget

ONE = [tensor("a", [8])]
DATA = bytes(32)

GOOD_KEYS = [
    ("general.architecture", value("str", "llama")),
    ("n", value("u32", 7)),
    ("flag", value("bool", 1)),
    ("names", array("str", ["a", "", "ü"])),
    ("scores", array("f32", [1.0, 2.0])),
]
GOOD = gguf(GOOD_KEYS, [tensor("a", [8]), tensor("b", [32, 2], Q4_0, 32)], bytes(32 + 36))


def nested(depth):
    return u32(9) + (u32(9) + u64(1)) * depth + u32(4) + u64(1) + u32(0)


REFUSED = {
    "empty file": b"",
    "bad magic": gguf(tensors=ONE, data=DATA, magic=b"GGUX"),
    "version 0": gguf(tensors=ONE, data=DATA, version=0),
    "version 1": gguf(tensors=ONE, data=DATA, version=1),
    "version 4": gguf(tensors=ONE, data=DATA, version=4),
    "big-endian": gguf(tensors=ONE, data=DATA, version=3 << 24),
    "2^63 tensors": gguf(tensor_count=1 << 63),
    "-1 tensors": gguf(tensor_count=-1),
    "2^50 keys in 24 bytes": gguf(key_count=1 << 50),
    "-1 keys": gguf(key_count=-1),
    "key length 2^64-1": gguf(key_count=1) + u64(-1) + bytes(40),
    "empty key": gguf([("", value("u8", 1))]),
    "duplicate key": gguf([("a", value("u8", 1)), ("a", value("u8", 1))]),
    "key with bad UTF-8": gguf([(b"\xff\xfe", value("u8", 1))]),
    "key with NUL": gguf([("a\0b", value("u8", 1))]),
    "value type 99": gguf([("a", u32(99) + bytes(64))]),
    "bool 2": gguf([("a", value("bool", 2))]),
    "array of bools with a 2": gguf([("a", array("bool", [1, 2]))]),
    "string length 2^63": gguf([("a", u32(8) + u64(1 << 63) + b"abc")]),
    "array of 2^61": gguf([("a", u32(9) + u32(4) + u64(1 << 61) + bytes(64))]),
    "array of 2^61 strings": gguf([("a", u32(9) + u32(8) + u64(1 << 61) + bytes(64))]),
    "array of 2^61 arrays": gguf([("a", u32(9) + u32(9) + u64(1 << 61) + bytes(64))]),
    "array of type 77": gguf([("a", u32(9) + u32(77) + u64(1) + bytes(64))]),
    "array nested 5,000 deep": gguf([("a", nested(5000))]),
    "alignment 0": gguf([("general.alignment", value("u32", 0))], ONE, DATA),
    "alignment 3": gguf([("general.alignment", value("u32", 3))], ONE, DATA),
    "alignment 2^31": gguf([("general.alignment", value("u32", 1 << 31))], ONE, DATA),
    "alignment a string": gguf([("general.alignment", value("str", "32"))], ONE, DATA),
    "tensor name of 64 bytes": gguf(tensors=[tensor("a" * 64, [8])], data=DATA),
    "empty tensor name": gguf(tensors=[tensor("", [8])], data=DATA),
    "duplicate tensor": gguf(tensors=[tensor("a", [8]), tensor("a", [8], F32, 32)], data=bytes(64)),
    "0 dims": gguf(tensors=[tensor("a", [])], data=DATA),
    "5 dims": gguf(tensors=[tensor("a", [1, 1, 1, 1, 8])], data=DATA),
    "dim -1": gguf(tensors=[tensor("a", [-1])], data=DATA),
    "dims 2^32 x 2^32": gguf(tensors=[tensor("a", [1 << 32, 1 << 32])], data=DATA),
    "Q8_0 row that wraps": gguf(tensors=[tensor("a", [542551296285575072], Q8_0)], data=DATA),
    "element count that wraps": gguf(tensors=[tensor("a", [1 << 31, 1 << 31, 4])], data=DATA),
    "type -1": gguf(tensors=[tensor("a", [8], -1)], data=DATA),
    "type 4": gguf(tensors=[tensor("a", [32], 4)], data=bytes(64)),
    "type 999": gguf(tensors=[tensor("a", [8], 999)], data=DATA),
    "row that is no multiple of the block": gguf(tensors=[tensor("a", [33], Q4_0)], data=bytes(64)),
    "unaligned offset": gguf(tensors=[tensor("a", [8], F32, 4)], data=bytes(64)),
    "overlapping tensors": gguf(tensors=[tensor("a", [16]), tensor("b", [8], F32, 32)], data=bytes(64)),
    "offset past the end": gguf(tensors=[tensor("a", [8], F32, 1 << 20)], data=DATA),
    "offset that wraps": gguf(tensors=[tensor("a", [8], F32, -32)], data=DATA),
    "data one byte short": gguf(tensors=ONE, data=bytes(31)),
    "49-byte array": gguf([("a", u32(9) + u32(8) + u64(1 << 40))]),
    "claims 1 TiB": gguf(tensors=[tensor("a", [1 << 38])], data=DATA),
}


def refuse(path, expected=hyperion.FormatError, opener=open_container):
    """Open, and check the error, what it cost, and that nothing was left behind."""
    files = sorted(path.parent.iterdir())
    size = path.stat().st_size if path.is_file() else 1 << 16
    tracemalloc.start()
    try:
        with pytest.raises(expected) as caught:
            opener(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 4 * size + (1 << 19)
    assert sorted(path.parent.iterdir()) == files
    return caught.value


@pytest.mark.parametrize("name", REFUSED)
def test_gguf_is_refused_with_an_offset(tmp_path, name):
    path = tmp_path / "m.gguf"
    path.write_bytes(REFUSED[name])
    error = refuse(path)
    assert error.context["offset"] >= 0
    assert error.code == hyperion.ErrorCode.INVALID_ARGUMENT


@pytest.mark.parametrize("kind", ["str", "u8"])
def test_millions_of_empty_elements_are_bounded(tmp_path, kind):
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf([("a", u32(9) + u32(8) + u64(5_000_000) + bytes(8 * 5_000_000))]) if kind == "str" else gguf(
        tensors=[], tensor_count=2_000_000) + bytes(48_000_000))  # fmt: skip
    refuse(path)


def test_the_good_file_opens(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(GOOD)
    with open_container(path) as c:
        assert c.metadata["n"] == 7 and c.metadata["flag"] is True
        assert list(c.metadata["names"]) == ["a", "", "ü"]
        assert c.tensors["b"].shape == (2, 32) and c.tensors["b"].nbytes == 36
        assert c.read(c.tensors["b"]).nbytes == 36


def test_cut_at_every_byte_is_refused(tmp_path):
    path = tmp_path / "m.gguf"
    for n in range(len(GOOD)):
        path.write_bytes(GOOD[:n])
        with pytest.raises(hyperion.FormatError):
            open_container(path)


def test_any_flipped_byte_opens_or_is_a_hyperion_error(tmp_path):
    path = tmp_path / "m.gguf"
    for i in range(len(GOOD)):
        for flip in (0x01, 0x80, 0xFF):
            data = bytearray(GOOD)
            data[i] ^= flip
            path.write_bytes(data)
            try:
                open_container(path).close()
            except hyperion.HyperionError:
                continue


def test_a_dim_of_zero_is_an_empty_tensor(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(tensors=[tensor("a", [0]), tensor("b", [8])], data=DATA))
    with open_container(path) as c:
        assert c.tensors["a"].nbytes == 0 and c.read(c.tensors["a"]).size == 0


def test_a_tensor_name_is_never_a_path(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(tensors=[tensor("../../x", [8])], data=DATA))
    with open_container(path) as c:
        c.read(c.tensors["../../x"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf"]
    assert not (tmp_path.parent.parent / "x").exists()


@pytest.mark.parametrize("what", ["directory", "missing", "text", "device"])
def test_what_is_no_model_is_a_clear_error(tmp_path, what):
    path = {"directory": tmp_path, "missing": tmp_path / "none.gguf", "text": tmp_path / "t.gguf", "device": "/dev/zero"}[what]
    if what == "text":
        path.write_text("hello, this is no model at all")
    with pytest.raises((hyperion.FormatError, hyperion.HyperionIOError)):
        open_container(path)


# ---- models that are well-formed files and impossible models --------------------------------------------------------


def model_file(tmp_path, **changes):
    """The demo-sized metadata of a llama with one layer and no tensors, changed."""
    keys = {
        "general.architecture": value("str", "llama"),
        "llama.block_count": value("u32", 1),
        "llama.context_length": value("u32", 32),
        "llama.embedding_length": value("u32", 8),
        "llama.feed_forward_length": value("u32", 8),
        "llama.attention.head_count": value("u32", 2),
        "llama.attention.layer_norm_rms_epsilon": value("f32", 1e-5),
        "tokenizer.ggml.model": value("str", "llama"),
        "tokenizer.ggml.tokens": array("str", ["<unk>", "<s>", "</s>", "a"]),
        "tokenizer.ggml.scores": array("f32", [0, 0, 0, 0]),
    } | {k.replace("__", "."): v for k, v in changes.items()}
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf([(k, v) for k, v in keys.items() if v is not None], [tensor("token_embd.weight", [8, 4])], bytes(128)))
    return path


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"llama.block_count": value("u32", 2**32 - 1)}, hyperion.FormatError),
        ({"llama.block_count": value("u32", 0)}, hyperion.FormatError),
        ({"llama.block_count": value("str", "1")}, hyperion.FormatError),
        ({"llama.attention.head_count": value("u32", 0)}, hyperion.FormatError),
        ({"llama.attention.head_count_kv": value("u32", 3)}, hyperion.FormatError),
        ({"llama.embedding_length": value("u32", 2**31)}, hyperion.FormatError),
        ({"llama.attention.layer_norm_rms_epsilon": value("f32", float("nan"))}, hyperion.FormatError),
        ({"llama.rope.freq_base": value("f32", float("inf"))}, hyperion.FormatError),
        ({"llama.rope.scaling.type": value("str", "yarn")}, hyperion.UnsupportedError),
        ({"llama.expert_count": value("u32", 8)}, hyperion.UnsupportedError),
        ({"general.architecture": value("str", "mamba")}, hyperion.UnsupportedError),
        ({"general.architecture": None}, hyperion.FormatError),
        ({"tokenizer.ggml.tokens": array("str", ["a", "b"])}, hyperion.FormatError),
    ],
)
def test_impossible_models_are_refused(tmp_path, changes, error):
    used = process_budget().used
    with pytest.raises(error):
        hyperion.load_model(model_file(tmp_path, **changes))
    assert process_budget().used == used


def test_an_unknown_architecture_names_what_is_supported(tmp_path):
    with pytest.raises(hyperion.UnsupportedError, match="llama, qwen2, qwen3"):
        hyperion.load_model(model_file(tmp_path, **{"general.architecture": value("str", "gpt-j")}))


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_scales_that_are_not_finite_are_reported(shared, tmp_path, scale):
    source = shared / "models" / "shakespeare" / "shakespeare-q8_0.gguf"
    with open_container(source) as c:
        where = c.tensors["blk.1.ffn_up.weight"].offset
    data = bytearray(source.read_bytes())
    data[where : where + 2] = np.float16(scale).tobytes()
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(hyperion.FormatError, match=r"blk\.1\.ffn_up\.weight"):
        hyperion.load_model(path)


# ---- safetensors ----------------------------------------------------------------------------------------------------


def entry(dtype="F32", shape=(2,), begin=0, end=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


BAD_SAFETENSORS = {
    "header length 2^64-1": safetensors(b"{}", length=-1),
    "header past the end": safetensors(b"{}", length=100),
    "header over 100 MB": safetensors(b"{}", length=100_000_001),
    "header length 0": safetensors(b"", length=0),
    "duplicate keys": safetensors(b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}", bytes(8)),
    "overlapping ranges": safetensors({"a": entry(), "b": entry(begin=4, end=12)}, bytes(12)),
    "reversed range": safetensors({"a": entry(begin=8, end=0)}, bytes(8)),
    "hole": safetensors({"a": entry(), "b": entry(begin=16, end=24)}, bytes(24)),
    "negative offset": safetensors({"a": entry(begin=-8, end=0)}, bytes(8)),
    "float offset": safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0.0, 8.0]}}, bytes(8)),
    "huge offset": safetensors({"a": entry(begin=1 << 70, end=(1 << 70) + 8)}, bytes(8)),
    "shape that wraps": safetensors({"a": entry(shape=(1 << 62, 4), end=0)}, b""),
    "negative shape": safetensors({"a": entry(shape=(-2,), end=8)}, bytes(8)),
    "bool shape": safetensors({"a": entry(shape=(True, 2), end=8)}, bytes(8)),
    "trailing bytes": safetensors({"a": entry()}, bytes(9)),
    "data one byte short": safetensors({"a": entry()}, bytes(7)),
    "unknown dtype": safetensors({"a": entry(dtype="F33")}, bytes(8)),
    "missing field": safetensors({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "nested 100,000 deep": safetensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "not an object": safetensors(b"[1, 2, 3]"),
    "not JSON": safetensors(b"{nope}      "),
    "NaN": safetensors(b'{"a": NaN}'),
    "not UTF-8": safetensors(b'{"\xff": 1}'),
    "digits without end": safetensors(b'{"a": ' + b"9" * 10_000 + b"}"),
}


@pytest.mark.parametrize("name", BAD_SAFETENSORS)
def test_safetensors_is_refused(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    path = tmp_path / "model.safetensors"
    path.write_bytes(BAD_SAFETENSORS[name])
    refuse(path)
    with pytest.raises(hyperion.FormatError):
        open_container(tmp_path)


@pytest.mark.parametrize("shard", ["../evil.safetensors", "a/b.safetensors", "..", "/etc/passwd", "x\\y"])
def test_an_index_never_leaves_its_directory(tmp_path, shard):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(hyperion.FormatError, match="name of a file"):
        open_container(tmp_path)


def test_shards_are_read_together_and_checked(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for i, name in enumerate("ab"):
        (tmp_path / f"model-{i}.safetensors").write_bytes(safetensors({name: entry()}, np.float32([i, 5]).tobytes()))
    index = {"weight_map": {"a": "model-0.safetensors", "b": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with open_container(tmp_path) as c:
        assert [c.read(c.tensors[n]).view(np.float32).tolist() for n in "ab"] == [[0, 5], [1, 5]]
    index["weight_map"]["b"] = "model-0.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(hyperion.FormatError, match="is not in"):
        open_container(tmp_path)


def test_split_gguf_opens_from_any_part_and_misses_none(tmp_path):
    def part(i, tensors, data, count=2):
        keys = [("split.no", value("u16", i)), ("split.count", value("u16", count)), ("split.tensors.count", value("i32", 2))]
        (tmp_path / f"m-{i + 1:05d}-of-00002.gguf").write_bytes(gguf(keys, tensors, data))

    part(0, [tensor("a", [8])], np.arange(8, dtype=np.float32).tobytes())
    part(1, [tensor("b", [8])], np.ones(8, np.float32).tobytes())
    for i in (1, 2):
        with open_container(tmp_path / f"m-0000{i}-of-00002.gguf") as c:
            assert sorted(c.tensors) == ["a", "b"]
            assert c.read(c.tensors["a"]).view(np.float32)[7] == 7
    part(1, [tensor("a", [8])], bytes(32))
    refuse(tmp_path / "m-00001-of-00002.gguf")
    part(1, [tensor("b", [8])], bytes(32), count=3)
    refuse(tmp_path / "m-00001-of-00002.gguf")
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    refuse(tmp_path / "m-00001-of-00002.gguf", hyperion.HyperionIOError)
    (tmp_path / "m-00001-of-00002.gguf").rename(tmp_path / "other.gguf")
    refuse(tmp_path / "other.gguf")


def test_reading_notices_a_changed_file(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(GOOD)
    with open_container(path) as c:
        path.write_bytes(GOOD + b"x")
        with pytest.raises(hyperion.HyperionIOError, match="changed, replaced or truncated"):
            c.read(c.tensors["a"])


def test_text_helper_writes_what_it_says():
    assert text("ab") == u64(2) + b"ab"
