"""Pruning: what goes, what stays to the bit, sparse files and models in any budget, hostile files, reports."""

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import hyperion
from hyperion import PruneConfig, PruneMethod
from hyperion._kernels import quant
from hyperion.cli.app import app
from hyperion.formats import open_container
from hyperion.formats.gguf import GGUFContainer
from hyperion.formats.native import NativeTensor
from hyperion.models.convert import prune
from hyperion.models.prune import Selection, block_norms, occupied_tiles, spread

IDS = [1, *((11 * i) % 2000 + 3 for i in range(40))]


@pytest.fixture(scope="module")
def models(shared):
    return shared / "models" / "shakespeare"


@pytest.fixture(scope="module")
def pruned(models, tmp_path_factory):
    """The Q4_0 model without 70% of its blocks: a sparse .hyperion file, and a GGUF file with the zeros."""
    folder = tmp_path_factory.mktemp("pruned")
    for name in ("m.hyperion", "m.gguf"):
        prune(models / "shakespeare-q4_0.gguf", folder / name, PruneConfig(sparsity=0.7))
    return folder


def weights(path):
    """Name -> float32 of the matrices in a file."""
    with hyperion.open_mapped_model(path) as mapped:
        found = {}
        for layer in range(mapped.layer_count):
            arrays = mapped.get_layer_weights(layer, dequantize=True)
            found |= {name: np.array(arrays[name]) for name in arrays if arrays[name].ndim == 2}
        return found


def test_the_configuration_checks_its_fields():
    config = hyperion.init_prune_config()
    assert config == PruneConfig(method=PruneMethod.MAGNITUDE, sparsity=0.5, block_size=32)
    for name, wrong in [
        ("sparsity", 1), ("sparsity", -0.1), ("sparsity", "half"), ("sparsity", True), ("sparsity", float("nan")), ("block_size", 0),
        ("block_size", 3), ("block_size", 512), ("block_size", 4.0), ("method", 0), ("method", "magnitude"),
    ]:  # fmt: skip
        with pytest.raises(hyperion.InvalidArgumentError, match=name):
            setattr(config, name, wrong)
    with pytest.raises(hyperion.InvalidArgumentError, match="no field"):
        config.blocks = 3


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 50), cols=st.integers(1, 50), size=st.sampled_from([1, 2, 4, 8, 32]), share=st.floats(0, 1),
    levels=st.sampled_from([1, 3, 1000]), step=st.integers(1, 4),
)  # fmt: skip
def test_the_selection_is_that_of_a_sort(rows, cols, size, share, levels, step):
    values = np.random.default_rng(rows).integers(-levels, levels + 1, (rows, cols)).astype(np.float32)
    slabs = [values[i : i + step * size] for i in range(0, rows, step * size)]
    norms = np.concatenate([block_norms(s, size) for s in slabs])
    padded = np.zeros((-(-rows // size) * size, -(-cols // size) * size))
    padded[:rows, :cols] = values
    expected = np.sqrt((padded.reshape(norms.shape[0], size, norms.shape[1], size) ** 2).sum((1, 3))).astype(np.float32)
    np.testing.assert_array_equal(norms, expected)
    prune_count = int(share * (norms.size - 1))
    keep = Selection(lambda: (block_norms(s, size) for s in slabs), prune_count).pass_over()
    kept = np.concatenate([keep(block_norms(s, size)) for s in slabs])
    order = np.argsort(norms.reshape(-1), kind="stable")[:prune_count]  # of equal ones the first
    wanted = np.ones(norms.size, bool)
    wanted[order] = False
    np.testing.assert_array_equal(kept.reshape(-1), wanted)
    assert spread(kept, size, rows, cols).shape == (rows, cols)


def test_tiles():
    kept = np.zeros((40, 96), bool)
    kept[17, 40] = kept[39, 0] = True
    np.testing.assert_array_equal(occupied_tiles(kept), [[0, 0, 0], [0, 1, 0], [1, 0, 0]])


# ---- files -------------------------------------------------------------------------------------------------------------


def test_the_least_blocks_become_zero_and_the_others_stay_as_they_are(models, pruned):
    before, after = weights(models / "shakespeare-q4_0.gguf"), weights(pruned / "m.hyperion")
    for name, old in before.items():
        new = after[name]
        if "blk" not in name:
            np.testing.assert_array_equal(new, old)
            continue
        norms = block_norms(old, 32)
        zero = block_norms(new, 32) == 0
        assert zero.sum() == round(0.7 * norms.size)
        assert norms[zero].max() <= norms[~zero].min()
        np.testing.assert_array_equal(new, np.where(np.repeat(np.repeat(zero, 32, 0), 32, 1), 0, old))


@pytest.mark.parametrize("budget", ["64MB", 14_400_000])
@pytest.mark.parametrize("io", ["auto", "buffered"])
def test_sparse_and_dense_files_have_the_same_logits(pruned, budget, io):
    with hyperion.load_model(pruned / "m.gguf", context_length=64) as model:
        expected, dense = model.logits(IDS), model.plan.weight_bytes
    with hyperion.load_model(pruned / "m.hyperion", memory_budget=budget, context_length=64, io=io) as model:
        np.testing.assert_array_equal(model.logits(IDS), expected)
        with model.session() as session:
            for token in IDS:
                last = session.eval([token])
        np.testing.assert_array_equal(last, expected[-1])
        assert model.plan.weight_bytes < 0.45 * dense
        if budget != "64MB":
            assert model.stream_stats["bytes_used"] >= model.plan.streamed_bytes > 0
            model.replan("64MB")
            model.replan(budget)
            np.testing.assert_array_equal(model.logits(IDS), expected)
        assert "sparse" in model.describe()["storage"]


def test_a_mapped_sparse_model(pruned):
    with hyperion.load_model(pruned / "m.gguf", context_length=64) as model:
        expected = model.logits(IDS)
    with hyperion.load_model(pruned / "m.hyperion", context_length=64, io="mmap") as model:
        np.testing.assert_array_equal(model.logits(IDS), expected)


def test_sparse_files_convert_there_and_back(pruned, tmp_path):
    hyperion.convert(pruned / "m.hyperion", tmp_path / "again.hyperion")
    assert (tmp_path / "again.hyperion").read_bytes() == (pruned / "m.hyperion").read_bytes()
    hyperion.convert(pruned / "m.hyperion", tmp_path / "m.gguf")
    for name, values in weights(tmp_path / "m.gguf").items():
        np.testing.assert_array_equal(values, weights(pruned / "m.hyperion")[name])
    hyperion.convert(pruned / "m.hyperion", tmp_path / "q8.hyperion", "q8_0")
    with open_container(tmp_path / "q8.hyperion") as q8, open_container(pruned / "m.hyperion") as q4:
        info = q8.tensors["blk.0.ffn_up.weight"]
        assert info.type_name == "Q8_0" and len(info.offsets) == len(q4.tensors["blk.0.ffn_up.weight"].offsets)


def test_other_tools_find_nothing_that_they_would_take_for_weights(pruned):
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(pruned / "m.hyperion")
    names = {t.name: t.tensor_type for t in reader.tensors}
    assert names["blk.0.ffn_up.weight.sparse_panels"] == gguf.GGMLQuantizationType.I8
    assert "blk.0.ffn_up.weight" not in names


@pytest.mark.parametrize("block_size", [1, 4])
def test_small_blocks_stay_dense_and_the_report_says_so(models, tmp_path, block_size):
    config = PruneConfig(sparsity=0.6, block_size=block_size)
    _, report = prune(models / "hf", tmp_path / "m.hyperion", config, "q8_0")
    assert {t.storage for t in report} == {"dense"}
    for t in report:
        assert abs(t.sparsity - 0.6) < 0.002 and t.nbytes == t.dense_bytes < 1.06 * t.sparse_bytes
    assert (weights(tmp_path / "m.hyperion")["blk.1.ffn_up.weight"] == 0).mean() >= 0.6


def test_slabs_change_nothing(models, pruned, tmp_path, monkeypatch):
    """Norms that are held and norms that are computed again, in runs of any length, choose the same blocks."""
    monkeypatch.setattr("hyperion.models.convert.SLAB_WEIGHTS", 1)
    from hyperion.models import convert as module

    monkeypatch.setattr(module.ConversionJob.__init__, "__defaults__", (None, None, 1))
    prune(models / "shakespeare-q4_0.gguf", tmp_path / "m.hyperion", PruneConfig(sparsity=0.7))
    assert (tmp_path / "m.hyperion").read_bytes() == (pruned / "m.hyperion").read_bytes()


# ---- hostile files -------------------------------------------------------------------------------------------------------


def damaged(pruned, tmp_path, change):
    """A copy of the sparse file after `change(data, offset and size of a sparse tensor)`."""
    path = tmp_path / "bad.hyperion"
    data = bytearray((pruned / "m.hyperion").read_bytes())
    with open_container(pruned / "m.hyperion") as container:
        info = container.tensors["blk.0.ffn_up.weight"]
    change(data, info)
    path.write_bytes(data)
    return path


def test_a_flipped_bit_names_the_layer(pruned, tmp_path):
    path = damaged(pruned, tmp_path, lambda data, info: data.__setitem__(info.offset + 77, data[info.offset + 77] ^ 1))
    with pytest.raises(hyperion.FormatError, match="layer 0.*damaged"):
        hyperion.load_model(path)


@pytest.mark.parametrize("io", ["auto", "mmap"])
def test_a_list_of_blocks_that_cannot_be_is_found_behind_a_right_checksum(pruned, tmp_path, io):
    from hyperion._kernels.stream import checksum

    def change(data, info):
        panel = int(info.offsets[1])
        old = checksum(bytes(data[info.offset : info.offset + panel]))
        data[info.offset : info.offset + 2] = b"\xff\xff"
        new = checksum(bytes(data[info.offset : info.offset + panel]))
        at = data.find(old.to_bytes(4, "little"))
        data[at : at + 4] = new.to_bytes(4, "little")

    with pytest.raises(hyperion.FormatError, match="blocks"):
        hyperion.load_model(damaged(pruned, tmp_path, change), io=io)


def table(pruned, tmp_path, key, change):
    """The sparse file with a changed array in its table."""
    path = tmp_path / "bad.hyperion"
    data = bytearray((pruned / "m.hyperion").read_bytes())
    with GGUFContainer(str(pruned / "m.hyperion")) as container:
        array = container.metadata["hyperion." + key]
    old = array.tobytes()
    at = data.find(old, data.find(("hyperion." + key).encode()))
    array = array.copy()
    change(array)
    data[at : at + len(old)] = array.tobytes()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("key", "change", "says"),
    [
        ("kept.1", lambda a: a.__setitem__(0, a[0] + 1), "is not what the file has"),
        ("kept.1", lambda a: a.__setitem__(0, 0xFFFFFFFF), "a panel of 4294967295 blocks, of 8"),
        ("kept.1", lambda a: a.__setitem__(slice(None), 0), "is not what the file has"),
        ("tensor.storage", lambda a: a.__setitem__(0, 2), "kept.0 is missing"),  # the embedding
        ("tensor.storage", lambda a: a.__setitem__(slice(None), 2), "kept.0 is missing"),
        ("tensor.rows", lambda a: a.__setitem__(2, 1 << 63), "entries, too few"),
        ("tensor.cols", lambda a: a.__setitem__(2, 1 << 60), "columns of Q4_0 cannot be sparse"),
    ],
)
def test_tables_that_cannot_be(pruned, tmp_path, key, change, says):
    with pytest.raises(hyperion.FormatError, match=says):
        open_container(table(pruned, tmp_path, key, change)).close()


def test_offsets_agree_with_the_kernels():
    counts = np.array([0, 1, 16, 17, 64])
    for number, name in ((2, "q4_0"), (8, "q8_0")):
        tensor = NativeTensor("a", number, 80, 2048, 0, True, counts)
        np.testing.assert_array_equal(tensor.offsets, quant.sparse_offsets(name, counts))
        assert tensor.nbytes == int(tensor.offsets[-1])


# ---- an open model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", ["64MB", 25_000_000])
def test_an_open_model_becomes_what_the_file_is(models, pruned, tmp_path, budget):
    with hyperion.load_model(pruned / "m.hyperion", context_length=64) as model:
        expected = model.logits(IDS)
    text = "ROMEO:\nWhat light through yonder window breaks?"
    with hyperion.load_model(models / "shakespeare-q4_0.gguf", memory_budget=budget, context_length=64) as model:
        before = model.plan.weight_bytes
        result = model.prune(PruneConfig(sparsity=0.7), text=text, folder=tmp_path)
        np.testing.assert_array_equal(model.logits(IDS), expected)
        assert (result.bytes_before, result.bytes_after) == (before, model.plan.weight_bytes)
        assert result.after.perplexity == model.perplexity(text) > result.before.perplexity
        assert abs(result.sparsity - 0.7) < 0.02 and min(result.before.tokens_per_second, result.after.tokens_per_second) > 0
        assert "sparse" in str(result) and "perplexity" in str(result)
        model.save(tmp_path / "saved.hyperion")
        assert model.memory_stats.peak_usage <= model.plan.budget
    assert os.listdir(tmp_path) == ["saved.hyperion"]
    assert (tmp_path / "saved.hyperion").read_bytes() == (pruned / "m.hyperion").read_bytes()


def test_the_command(models, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be, that is the question.")
    args = ["prune", str(models / "shakespeare-f16.gguf"), str(tmp_path / "m.hyperion"), "--sparsity", "0.7", "--type", "q4_0"]
    result = CliRunner().invoke(app, [*args, "--text", str(text), "--context-length", "64", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["before"]["perplexity"] < found["after"]["perplexity"]
    assert found["bytes_after"] < 0.2 * found["bytes_before"]
    assert {t["storage"] for t in found["tensors"]} == {"sparse"}
    assert hyperion.load_model(tmp_path / "m.hyperion", context_length=16).close() is None
    result = CliRunner().invoke(app, [*args, "--block-size", "4"])
    assert result.exit_code == 0 and "stay dense" in result.stdout
