"""The safetensors reader and Hugging Face directories on files that are right."""

import json
import os

import numpy as np
import pytest

import hostile_files as h
from hyperion.errors import FormatError
from hyperion.formats import open_container

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?",
          "U16": "<u2", "U32": "<u4", "U64": "<u8"}  # fmt: skip


def test_every_dtype_that_the_package_writes(tmp_path):
    package = pytest.importorskip("safetensors.numpy")
    rng = np.random.default_rng(0)
    arrays = {name: (rng.random((3, 5)) * 2).astype(t) for name, t in DTYPES.items()}
    arrays |= {"scalar": np.array(3, np.float32), "empty": np.zeros((0, 4), np.float16), "gr\u00fcn": np.arange(3.0)}
    path = tmp_path / "m.safetensors"
    package.save_file(arrays, path, metadata={"format": "np"})
    with open_container(path) as c:
        assert c.format == "safetensors"
        assert c.metadata == {"safetensors": {"format": "np"}}
        assert sorted(c.tensors) == sorted(arrays)
        for name, a in arrays.items():
            info = c.tensors[name]
            assert info.shape == a.shape
            assert info.nbytes == a.nbytes
            assert np.array_equal(c.read(info).view(a.dtype).reshape(a.shape), a)
            if name in DTYPES:
                assert info.type_name == name


def test_types_that_numpy_lacks(tmp_path):
    bits = {"BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "C64": 64}
    header, at = {}, 0
    for name, n in bits.items():
        header[name] = h.entry([4, 2], at, at + n, name)
        at += n  # bytes of 8 values
    (tmp_path / "m").write_bytes(h.safetensors(header, bytes(at)))
    with open_container(tmp_path / "m") as c:
        assert {t.type_name: t.nbytes for t in c.tensors.values()} == bits
        assert c.tensors["BF16"].type == 30
        assert c.tensors["F4"].type == -1


def test_layout_of_the_header_is_free(tmp_path):
    """Order of the fields, white space, escapes, order and padding are the writer's choice."""
    header = rb"""{ "b\u0062\n" : { "data_offsets":[ 4 , 8 ],"shape" :[ ], "dtype": "F32"} ,
        "a":{"shape":[1,1 ,1],"dtype":"F32","data_offsets":[0,4]}, "__metadata__" : { "k\"" : "v\u00e9" , "":""}}     """
    (tmp_path / "m").write_bytes(h.safetensors(header, bytes(8)))
    with open_container(tmp_path / "m") as c:
        assert {n: (t.shape, t.offset - len(header) - 8) for n, t in c.tensors.items()} == {"bb\n": ((), 4), "a": ((1, 1, 1), 0)}
        assert c.metadata["safetensors"] == {'k"': "v\u00e9", "": ""}


@pytest.mark.parametrize("header", [b"{}", b"{ }", b'{"__metadata__":{}}', b'{"__metadata__":{ }} '])
def test_a_file_without_tensors(tmp_path, header):
    (tmp_path / "m").write_bytes(h.safetensors(header))
    with open_container(tmp_path / "m") as c:
        assert c.tensors == {}


def test_offsets_may_be_odd(tmp_path):
    header = {"a": h.entry([1], 0, 1, "U8"), "b": h.entry([2], 1, 9)}
    (tmp_path / "m").write_bytes(h.safetensors(header, b"x" + np.array([1, 2], "<f4").tobytes()))
    with open_container(tmp_path / "m") as c:
        assert c.read(c.tensors["b"]).view("<f4").tolist() == [1, 2]


# ---- directories -------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "nested": {"a": [1, 2.5, None, True]}}))
    (tmp_path / "model.safetensors").write_bytes(h.small_safetensors()[0])
    return tmp_path


def test_a_directory(model):
    with open_container(model) as c:
        assert c.format == "huggingface"
        assert c.metadata["config"] == {"model_type": "llama", "nested": {"a": [1, 2.5, None, True]}}
        assert c.metadata["tokenizer_file"] is None
        assert c.metadata["safetensors"]["format"] == "pt"
        assert c.files == (str(model / "model.safetensors"),)
        assert len(c.tensors) == 4


def test_one_file_of_a_directory(model):
    (model / "other.safetensors").write_bytes(h.safetensors({"x": h.entry([1], 0, 4)}, bytes(4)))
    with open_container(model / "other.safetensors") as c:
        assert list(c.tensors) == ["x"]
        assert c.metadata["config"]["model_type"] == "llama"


def test_a_relative_path(model, monkeypatch):
    monkeypatch.chdir(model)
    for path in ("model.safetensors", ".", os.curdir + os.sep):
        with open_container(path) as c:
            assert c.metadata["config"]["model_type"] == "llama"
            assert len(c.tensors) == 4


def test_which_tokenizer_is_there(model):
    (model / "tokenizer.model").write_bytes(b"x")
    with open_container(model) as c:
        assert c.metadata["tokenizer_file"] == str(model / "tokenizer.model")
    (model / "tokenizer.json").write_bytes(b"{}")
    with open_container(model) as c:
        assert c.metadata["tokenizer_file"] == str(model / "tokenizer.json")


def test_shards(model):
    os.unlink(model / "model.safetensors")
    for i, name in enumerate("ab"):
        (model / f"{name}.safetensors").write_bytes(h.safetensors({name: h.entry([1], 0, 4)}, np.float32(i).tobytes()))
    (model / "c.safetensors").write_bytes(b"not in the index, and no safetensors file")
    index = {"metadata": {"total_size": 8}, "weight_map": {"b": "b.safetensors", "a": "a.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with open_container(model) as c:
        assert {n: float(c.read(t).view("<f4")[0]) for n, t in c.tensors.items()} == {"a": 0, "b": 1}
        assert [os.path.basename(f) for f in c.files] == ["a.safetensors", "b.safetensors"]


def test_a_directory_without_weights(model):
    os.unlink(model / "model.safetensors")
    with pytest.raises(FormatError, match=r"neither model\.safetensors nor"):
        open_container(model)


def test_descriptors_are_closed_after_an_error(model):
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("descriptors cannot be counted here")
    (model / "model.safetensors").write_bytes(h.small_safetensors()[0] + b"x")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(FormatError):
            open_container(model)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_real_directory_agrees_with_the_safetensors_package(shared):
    package = pytest.importorskip("safetensors.numpy")
    folder = shared / "models" / "shakespeare" / "hf"
    arrays = package.load_file(folder / "model.safetensors")
    with open_container(folder) as c:
        assert os.path.basename(c.metadata["tokenizer_file"]) == "tokenizer.json"
        assert sorted(c.tensors) == sorted(arrays)
        for name, a in arrays.items():
            assert np.array_equal(c.read(c.tensors[name]).view(a.dtype).reshape(a.shape), a)
