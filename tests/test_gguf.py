"""The GGUF reader on files that are right: values, tensors, split files, files that change while they are open."""

import os
import shutil
import struct

import numpy as np
import pytest

import hostile_files as h
from hostile_files import ARRAY, I32, STRING, U8, U16, U32, array, gguf, key, tensor, text
from hyperion.errors import FormatError, HyperionIOError, HyperionRuntimeError, InvalidArgumentError
from hyperion.formats import TYPES, open_container
from hyperion.formats.gguf import StringArray


@pytest.fixture
def write(tmp_path):
    def make(data, name="m.gguf"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return make


@pytest.mark.parametrize("version", [2, 3])
def test_every_kind_of_value(write, version):
    values = {h.U8: 255, h.I8: -128, U16: 65535, h.I16: -32768, U32: 2**32 - 1, I32: -(2**31), h.F32: 0.5,
              h.BOOL: 1, h.U64: 2**64 - 1, h.I64: -(2**63), h.F64: 1e300}  # fmt: skip
    keys = [key(f"k{kind}", kind, v) for kind, v in values.items()]
    keys += [key(f"a{kind}", ARRAY, array(kind, [v, 0, v])) for kind, v in values.items()]
    keys += [key("text", STRING, text("gr\u00fcn \0")), key("none", ARRAY, array(STRING)), key("bytes", STRING, text(b"\xff"))]
    with open_container(write(gguf(keys, version=version))) as c:
        for kind, v in values.items():
            assert c.metadata[f"k{kind}"] == v
            assert type(c.metadata[f"k{kind}"]) is type(v) or kind == h.BOOL
            found = c.metadata[f"a{kind}"]
            assert isinstance(found, np.ndarray)
            assert found.dtype == np.dtype("?" if kind == h.BOOL else "<" + h.CODES[kind])
            assert found.tolist() == [v, 0, v]
        assert c.metadata[f"k{h.BOOL}"] is True
        assert c.metadata["text"] == "gr\u00fcn \0"
        assert c.metadata["bytes"].encode("utf-8", "surrogateescape") == b"\xff"
        assert list(c.metadata["none"]) == []
        assert c.tensors == {}


def test_arrays_in_arrays(write):
    inner = array(U8, [1, 2]) + array(STRING, ["x", "y"]) + h.u32(ARRAY) + h.u64(0)
    with open_container(write(gguf([key("k", ARRAY, h.u32(ARRAY) + h.u64(3) + inner), key("end", U8, 7)]))) as c:
        numbers, words, nothing = c.metadata["k"]
        assert numbers.tolist() == [1, 2]
        assert list(words) == ["x", "y"]
        assert nothing == []
        assert c.metadata["end"] == 7


@pytest.mark.parametrize("seed", range(4))
def test_string_arrays_across_the_steps_of_the_reader(write, seed):
    rng = np.random.default_rng(seed)
    lengths = np.concatenate([rng.integers(0, 30, 3000), rng.integers(0, 9000, 60), [0, 1 << 21, 0]])
    words = [rng.integers(0, 256, n, dtype=np.uint8).tobytes() for n in rng.permutation(lengths)]
    data = gguf([key("a", ARRAY, array(STRING, words)), key("b", STRING, text("behind")), key("c", ARRAY, array(STRING, words[:9]))])
    with open_container(write(data)) as c:
        found = c.metadata["a"]
        assert isinstance(found, StringArray)
        assert [w.encode("utf-8", "surrogateescape") for w in found] == words
        assert c.metadata["b"] == "behind"
        assert c.metadata["c"] == found[:9]


def test_a_string_array_is_a_sequence(write):
    words = ["a", "", "gr\u00fcn", "d"]
    with open_container(write(gguf([key("k", ARRAY, array(STRING, words))]))) as c:
        found = c.metadata["k"]
    assert len(found) == 4
    assert list(found) == words
    assert [found[i] for i in range(-4, 4)] == words * 2
    assert found[1:3] == ["", "gr\u00fcn"]
    assert found[::-1] == words[::-1]
    assert found == words
    assert found != words[:3]
    assert found != [*words[:3], "e"]
    assert found != "abcd"
    assert "gr\u00fcn" in found
    assert found.index("d") == 3
    assert repr(found) == "StringArray(['a', '', 'gr\u00fcn', ...], 4 strings)"
    for i in (4, -5):
        with pytest.raises(IndexError):
            found[i]


def test_tensors(write):
    whole, data = h.small_gguf()
    path = write(whole)
    with open_container(str(path)) as c:
        a, b, empty = (c.tensors[n] for n in ("token_embd.weight", "blk.0.attn_norm.weight", "empty"))
        assert (a.shape, a.type, a.type_name, a.offset, a.nbytes) == ((3, 32), 8, "Q8_0", data, 102)
        assert (b.shape, b.type, b.type_name, b.offset, b.nbytes) == ((4,), 0, "F32", data + 128, 16)
        assert (empty.shape, empty.nbytes) == ((2, 0), 0)
        assert c.read(a).tobytes() == bytes(range(102))
        assert c.read(b).view("<f4").tolist() == [1, 2, 3, 4]
        assert c.read(empty).size == 0
        assert c.files == (str(path),)
        assert all(t.path == str(path) and t.name == name for name, t in c.tensors.items())


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_alignment(write, alignment):
    keys = [key("general.alignment", U32, alignment)]
    rest = np.arange(8, dtype="<f4").tobytes()
    data = gguf(keys, [tensor("a", [8]), tensor("b", [8], 0, -(-32 // alignment) * alignment)], b"", alignment=alignment)
    with open_container(write(data + rest + bytes(-32 % alignment) + rest)) as c:
        assert c.tensors["a"].offset % alignment == c.tensors["b"].offset % alignment == 0
        assert c.read(c.tensors["b"]).tobytes() == rest


def test_the_last_tensor_needs_no_padding_and_gaps_may_be(write):
    with open_container(write(gguf([], [tensor("b", [1], 0, 64), tensor("a", [1])], bytes(64) + struct.pack("<f", 5)))) as c:
        assert c.read(c.tensors["b"]).view("<f4")[0] == 5
        assert list(c.tensors) == ["b", "a"]


def test_a_name_is_never_a_path(write, tmp_path):
    names = ["../../x", "/etc/passwd", "a/b", "x" * 63, "\u00fc"]
    path = write(gguf([], [tensor(n, [8], 0, 32 * i) for i, n in enumerate(names)], bytes(160)))
    with open_container(path) as c:
        assert list(c.tensors) == names
        for info in c.tensors.values():
            c.read(info)
    assert os.listdir(tmp_path) == ["m.gguf"]


def test_sizes_of_all_types_agree_with_the_gguf_package():
    sizes = pytest.importorskip("gguf.constants").GGML_QUANT_SIZES
    for kind, (block, nbytes) in sizes.items():
        if kind.name == "Q8_1":  # its constant is 40, the C structure has 36 bytes
            continue
        assert (TYPES[int(kind)].name, TYPES[int(kind)].block_len, TYPES[int(kind)].block_bytes) == (kind.name, block, nbytes)


def test_every_type_is_read(write):
    tensors, at = [], 0
    for t in TYPES.values():
        tensors.append(tensor(t.name, [t.block_len * 2, 3], t.id, at))
        at += -(-6 * t.block_bytes // 32) * 32
    with open_container(write(gguf([], tensors, bytes(at)))) as c:
        for t in TYPES.values():
            assert c.tensors[t.name].nbytes == 6 * t.block_bytes
            assert c.tensors[t.name].shape == (3, 2 * t.block_len)


def test_what_the_gguf_package_writes(tmp_path):
    package = pytest.importorskip("gguf")
    rng = np.random.default_rng(0)
    path = tmp_path / "m.gguf"
    writer = package.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 7)
    writer.add_float32("f", 1.5)
    writer.add_array("tokenizer.ggml.tokens", ["a", "\u2581b", ""])
    writer.add_array("tokenizer.ggml.scores", [0.0, -1.5, 2.0])
    writer.add_array("tokenizer.ggml.token_type", [1, 2, 3])
    a, b = rng.standard_normal((3, 5), np.float32), rng.standard_normal((2, 64), np.float32)
    writer.add_tensor("a", a)
    writer.add_tensor("h", a.astype(np.float16))
    writer.add_tensor("b", package.quantize(b, package.GGMLQuantizationType.Q5_1), raw_dtype=package.GGMLQuantizationType.Q5_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_container(path) as c:
        assert c.metadata["llama.block_count"] == 7
        assert list(c.metadata["tokenizer.ggml.tokens"]) == ["a", "\u2581b", ""]
        assert c.metadata["tokenizer.ggml.scores"].dtype == np.float32
        assert c.metadata["tokenizer.ggml.token_type"].dtype == np.int32
        assert np.array_equal(c.read(c.tensors["a"]).view("<f4").reshape(c.tensors["a"].shape), a)
        assert np.array_equal(c.read(c.tensors["h"]).view("<f2").reshape(c.tensors["h"].shape), a.astype(np.float16))
        assert c.tensors["b"].shape == (2, 64)
        raw = c.read(c.tensors["b"])
        assert np.array_equal(raw.reshape(2, -1), package.quantize(b, package.GGMLQuantizationType.Q5_1))


def test_real_files_agree_with_the_gguf_package(shared):
    package = pytest.importorskip("gguf")
    files = [shared / "models" / "shakespeare" / f"shakespeare-{t}.gguf" for t in ("q4_k_m", "iq4_nl", "f16")]
    for file in [*files, shared / "vocab" / "ggml-vocab-llama-spm.gguf"]:
        reference = package.GGUFReader(file)
        with open_container(file) as c:
            for name, stored in reference.fields.items():
                if not name.startswith("GGUF."):
                    expected, found = stored.contents(), c.metadata[name]
                    assert list(found) == expected if isinstance(expected, list) else found == expected, name
            assert list(c.tensors) == [t.name for t in reference.tensors]
            for t in reference.tensors:
                info = c.tensors[t.name]
                assert info.shape == tuple(int(n) for n in reversed(t.shape))
                assert np.array_equal(c.read(info), np.asarray(t.data).reshape(-1).view(np.uint8))


def test_a_vocabulary_of_128_thousand_strings_takes_little_memory(shared):
    import tracemalloc

    path = shared / "vocab" / "ggml-vocab-llama-bpe.gguf"
    tracemalloc.start()
    try:
        with open_container(path) as c:
            assert tracemalloc.get_traced_memory()[1] < 3 * path.stat().st_size
            assert len(c.metadata["tokenizer.ggml.tokens"]) == 128256
    finally:
        tracemalloc.stop()


def test_the_header_is_read_and_the_weights_are_not(write, monkeypatch):
    from hyperion.formats import container

    path = write(gguf([], [tensor("a", [1 << 28])]))  # 1 GiB, sparse
    size = path.stat().st_size
    os.truncate(path, size + (1 << 30))
    reads = []
    real = container._pread
    monkeypatch.setattr(container, "_pread", lambda fd, view, offset: reads.append(len(view)) or real(fd, view, offset))
    with open_container(path) as c:
        assert sum(reads) <= size + 8192
        part = np.ones(4096, np.uint8)
        c.read_into(c.tensors["a"], part, (1 << 30) - 4096, 4096)
        assert not part.any()


# ---- split files -------------------------------------------------------------------------------------------------


def write_parts(folder, parts, **changes):
    """Parts of a split file, one tensor each by default; `changes`: metadata of all parts that replaces the right one."""
    n = len(parts)
    for i, tensors in enumerate(parts):
        keys = {"split.no": (U16, i), "split.count": (U16, n), "split.tensors.count": (I32, sum(map(len, parts)))} | changes
        keys = [key(k, *v) for k, v in keys.items() if v is not None] + [key("part", U8, i)]
        data = b"".join(np.full(8, ord(t), "<f4").tobytes() for t in tensors)
        entries = [tensor(t, [8], 0, 32 * j) for j, t in enumerate(tensors)]
        (folder / f"m-{i + 1:05d}-of-{n:05d}.gguf").write_bytes(gguf(keys, entries, data))
    return folder / f"m-00001-of-{n:05d}.gguf"


def test_any_part_opens_all_parts(tmp_path):
    write_parts(tmp_path, ["", "ab", "c"])
    for i in (1, 2, 3):
        with open_container(tmp_path / f"m-{i:05d}-of-00003.gguf") as c:
            assert [os.path.basename(f) for f in c.files] == [f"m-{j:05d}-of-00003.gguf" for j in (1, 2, 3)]
            assert list(c.tensors) == ["a", "b", "c"]
            assert c.metadata["part"] == 0
            for name, info in c.tensors.items():
                assert set(c.read(info).view("<f4")) == {ord(name)}


def test_a_single_part_may_have_any_name(tmp_path):
    path = write_parts(tmp_path, ["ab"])
    shutil.copy(path, tmp_path / "x")
    with open_container(tmp_path / "x") as c:
        assert list(c.tensors) == ["a", "b"]


@pytest.mark.parametrize(
    "changes",
    [
        {"split.no": (U16, 0)},
        {"split.no": (U16, 9)},
        {"split.no": None},
        {"split.no": (STRING, text("0"))},
        {"split.count": (U16, 3)},
        {"split.count": (U16, 0)},
        {"split.count": (U32, 100_000)},
        {"split.count": (ARRAY, array(U16, [2, 2]))},
        {"split.tensors.count": (I32, 3)},
        {"split.tensors.count": (ARRAY, array(I32, [2, 2]))},
        {"split.tensors.count": (h.F32, 2.0)},
    ],
    ids=str,
)
def test_parts_that_do_not_fit_together(tmp_path, changes):
    with pytest.raises(FormatError):
        open_container(write_parts(tmp_path, ["a", "b"], **changes))


def test_a_tensor_in_two_parts(tmp_path):
    with pytest.raises(FormatError, match="two parts"):
        open_container(write_parts(tmp_path, ["a", "a"]))


def test_a_missing_part_is_named(tmp_path):
    path = write_parts(tmp_path, ["a", "b", "c"])
    (tmp_path / "m-00002-of-00003.gguf").unlink()
    with pytest.raises(HyperionIOError, match="m-00002-of-00003"):
        open_container(path)


def test_a_part_under_another_name(tmp_path):
    path = write_parts(tmp_path, ["a", "b"])
    path.rename(tmp_path / "m.gguf")
    with pytest.raises(FormatError, match="00001-of-00002"):
        open_container(tmp_path / "m.gguf")


# ---- what can go wrong while a file is open ----------------------------------------------------------------------


not_on_windows = pytest.mark.skipif(os.name == "nt", reason="Windows does not let an open file be replaced")


@pytest.fixture
def opened(write):
    path = write(h.small_gguf()[0])
    with open_container(path) as c:
        yield path, c, c.tensors["token_embd.weight"]


def test_parts_of_a_tensor(opened):
    _, c, info = opened
    out = bytearray(10)
    c.read_into(info, out, 5, 10)
    assert out == bytes(range(5, 15))
    c.read_into(info, np.empty((51, 2), np.uint8))
    c.read_into(info, bytearray(0), 102, 0)
    for offset, nbytes, room in ((0, 103, 103), (-1, 10, 10), (100, 3, 3), (0, 10, 9), (0, -1, 0), (1 << 70, 1, 1)):
        with pytest.raises(InvalidArgumentError, match="token_embd"):
            c.read_into(info, bytearray(room), offset, nbytes)


@not_on_windows
def test_a_file_that_is_truncated(opened):
    path, c, info = opened
    os.truncate(path, info.offset + 3)
    with pytest.raises(HyperionIOError, match=r"token_embd.*truncated"):
        c.read(info)


def test_a_file_that_is_written(opened):
    path, c, info = opened
    with path.open("r+b") as file:
        file.seek(info.offset)
        file.write(b"other")
    os.utime(path, ns=(1, 1))  # the clock of file times may be coarser than this test
    with pytest.raises(HyperionIOError, match=r"token_embd.*changed"):
        c.read(info)


@not_on_windows
def test_a_file_that_is_replaced(opened, tmp_path):
    path, c, info = opened
    (tmp_path / "new").write_bytes(path.read_bytes())
    os.replace(tmp_path / "new", path)
    with pytest.raises(HyperionIOError, match=r"token_embd.*replaced"):
        c.read(info)


def test_short_reads_go_on(opened, monkeypatch):
    from hyperion.formats import container

    _, c, info = opened
    real = container._pread
    monkeypatch.setattr(container, "_pread", lambda fd, view, offset: real(fd, view[:7], offset))
    assert c.read(info).tobytes() == bytes(range(102))


@pytest.mark.parametrize("failure", [OSError(5, "Input/output error"), 0])
def test_failing_reads_name_the_tensor(opened, monkeypatch, failure):
    from hyperion.formats import container

    def fail(fd, view, offset):
        if isinstance(failure, OSError):
            raise failure
        return failure

    _, c, info = opened
    monkeypatch.setattr(container, "_pread", fail)
    with pytest.raises(HyperionIOError, match="token_embd"):
        c.read(info)


def test_closing(opened):
    _, c, info = opened
    c.close()
    c.close()
    with pytest.raises(HyperionRuntimeError, match="closed"):
        c.read(info)


# ---- choosing the format -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m.gguf", "m.hyperion", "m.tmai", "m.bin", "m"])
def test_the_content_counts_and_not_the_name(write, name):
    with open_container(write(h.small_gguf()[0], name)) as c:
        assert c.format == "gguf"


def test_what_is_no_model(write, tmp_path):
    for data in (b"", b"G", b"GGU", b"A text, not a model.", b'{"a": 1}', bytes(100)):
        with pytest.raises(FormatError, match="x"):
            open_container(write(data, "x"))
    with pytest.raises(FormatError, match=r"config\.json"):
        open_container(tmp_path)
    for missing in ("none.gguf", "none/none.gguf", "x/none.gguf", "a\0b", "l" * 5000):
        with pytest.raises(HyperionIOError):
            open_container(tmp_path / missing)
    for wrong in (None, 5, ["m.gguf"]):
        with pytest.raises(InvalidArgumentError):
            open_container(wrong)
    with open_container(os.fsencode(write(h.small_gguf()[0]))) as c:
        assert c.path == str(tmp_path / "m.gguf")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_or_a_device_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", os.devnull):
        with pytest.raises(HyperionIOError, match="regular file"):
            open_container(path)
