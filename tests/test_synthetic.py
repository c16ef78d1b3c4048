"""The synthetic models that benchmarks run on are valid files with sane weights."""

import dataclasses

import numpy as np
import pytest

from benchmarks import synthetic
from benchmarks.synthetic import SHAPES, TYPES, Shape

gguf = pytest.importorskip("gguf")
TINY = SHAPES["tiny"]


@pytest.mark.parametrize("weight_type", TYPES)
def test_file_is_read_by_the_gguf_package_and_weights_keep_norms(weight_type, tmp_path):
    path = tmp_path / "m.gguf"
    synthetic.write_model(path, TINY, weight_type)
    reader = gguf.GGUFReader(path)
    assert [(t.name, tuple(int(n) for n in reversed(t.shape))) for t in reader.tensors] == list(TINY.tensors())
    assert reader.fields["llama.block_count"].contents() == TINY.n_layers
    assert len(reader.fields["tokenizer.ggml.tokens"].contents()) == TINY.vocab
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert np.isfinite(values).all()
        if values.ndim == 1:
            continue
        assert tensor.tensor_type == TYPES[weight_type].number
        expected = {"token_embd.weight": 1.0, "output.weight": 2 / TINY.width**0.5}.get(
            tensor.name, values.shape[1] ** -0.5
        )
        assert values.std() == pytest.approx(expected, rel=0.1)
        assert abs(values.mean()) < 0.02 * expected


@pytest.mark.parametrize("arch", ["qwen2", "qwen3"])
def test_other_architectures_have_their_tensors(arch, tmp_path):
    synthetic.write_model(tmp_path / "m.gguf", dataclasses.replace(TINY, arch=arch), "q8_0")
    names = {t.name for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert ("blk.1.attn_q.bias" in names) == (arch == "qwen2")
    assert ("blk.1.attn_k_norm.weight" in names) == (arch == "qwen3")


def test_a_seed_gives_the_same_file_and_another_seed_another(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        synthetic.write_model(tmp_path / name, TINY, "q4_0", seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert len(a) == len(c)
    assert a != c
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


def test_rows_that_do_not_divide_into_blocks_are_refused_before_anything_is_written(tmp_path):
    shape = Shape(n_layers=1, width=96, feed_forward=96, heads=3, kv_heads=3, vocab=512)
    synthetic.write_model(tmp_path / "fits", shape, "q4_0")
    with pytest.raises(ValueError, match="blocks of 256"):
        synthetic.write_model(tmp_path / "m.gguf", shape, "q4_k")
    assert [p.name for p in tmp_path.iterdir()] == ["fits"]


def test_vocabulary_has_no_duplicates_and_spells_ascii():
    tokens, scores, types = synthetic.vocabulary(32000)
    assert len(tokens) == len(scores) == len(types) == len(set(tokens)) == 32000
    assert {chr(c) for c in range(33, 127)} <= set(tokens)
    assert types.count(6) == 256


def test_the_command_writes_a_model(tmp_path):
    synthetic.main(["--shape", "tiny", "--type", "Q6_K", "--layers", "1", str(tmp_path / "m.gguf")])
    assert {t.name.split(".")[1] for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors if t.name.startswith("blk")} == {"0"}
