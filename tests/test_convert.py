"""Conversion: what llama.cpp makes of the same model, the same bytes there and back, bounded memory, clear refusals."""

import dataclasses
import json
import shutil
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import hyperion
from hyperion._kernels import quant
from hyperion.formats import open_container
from hyperion.formats.writing import GGUFWriter, TensorLayout, Typed
from hyperion.models.convert import estimate_conversion
from hyperion.models.quantize_rows import encode_rows
from hyperion.tokenizer import Tokenizer

IDS = [1, *((11 * i) % 2000 + 3 for i in range(30))]
TYPES = ["f16", "iq4_nl", "q2_k", "q3_k_m", "q4_0", "q4_1", "q4_k_m", "q5_0", "q5_1", "q5_k_m", "q6_k", "q8_0"]


@pytest.fixture(scope="module")
def models(shared):
    return shared / "models" / "shakespeare"


def contents(path):
    """(metadata, {name: (type, shape, bytes)}) of a GGUF file."""
    with open_container(path) as container:
        tensors = {n: (t.type_name, t.shape, container.read(t).tobytes()) for n, t in container.tensors.items()}
        return dict(container.metadata), tensors


@pytest.mark.parametrize("name", TYPES)
def test_there_and_back_gives_the_same_bytes(models, tmp_path, name):
    source = models / f"shakespeare-{name}.gguf"
    first = hyperion.convert(source, tmp_path / "m.hyperion")
    hyperion.convert(tmp_path / "m.hyperion", tmp_path / "m.gguf")
    (old, before), (new, after) = contents(source), contents(tmp_path / "m.gguf")
    assert after == before
    new.pop("general.alignment")
    assert set(new) == set(old)
    for key, value in old.items():
        assert np.array_equal(new[key], value) if isinstance(value, np.ndarray) else new[key] == value, key
    assert first.types.keys() == {t.lower() for t, _, _ in before.values()}
    again = tmp_path / "again.hyperion"
    hyperion.convert(tmp_path / "m.hyperion", again)
    assert again.read_bytes() == (tmp_path / "m.hyperion").read_bytes()


# ---- from Hugging Face directories -----------------------------------------------------------------------------------


def test_a_hugging_face_directory_becomes_the_gguf_that_llama_cpp_makes(models, tmp_path):
    hyperion.convert(models / "hf", tmp_path / "m.gguf")
    (theirs, before), (ours, after) = contents(models / "shakespeare-f16.gguf"), contents(tmp_path / "m.gguf")
    assert after == before
    for key, value in theirs.items():
        if key not in ("general.name", "general.size_label", "general.quantization_version"):
            assert np.array_equal(ours[key], value), key


@pytest.mark.parametrize("suffix", ["gguf", "hyperion"])
def test_the_converted_model_writes_what_the_source_writes(models, tmp_path, suffix):
    path = tmp_path / f"m.{suffix}"
    hyperion.convert(models / "hf", path)
    with hyperion.load_model(models / "hf") as model:
        expected = model.logits(IDS)
    with hyperion.load_model(path) as model:
        np.testing.assert_allclose(model.logits(IDS), expected, atol=2e-3)
        recorded = json.loads((models / "reference.json").read_text())["prompts"][0]
        assert model.generate(recorded["prompt"], max_length=len(recorded["greedy_tokens"]), temperature=0) == recorded["greedy_text"]


PEER = """
import sys, json, numpy, llama_cpp
plain = llama_cpp.llama_cpp.llama_model_default_params

def without_repacking():
    options = plain()
    options.use_extra_bufts = False
    return options

llama_cpp.llama_cpp.llama_model_default_params = without_repacking
ids = json.loads(sys.argv[3])
model = llama_cpp.Llama(sys.argv[1], n_ctx=64, logits_all=True, verbose=False, n_threads=1, n_threads_batch=1)
model.eval(ids)
numpy.save(sys.argv[2], numpy.array(model.scores[:len(ids)]))
"""


@pytest.mark.parametrize("name", ["f16", "q8_0", "q4_0"])
def test_llama_cpp_runs_it(models, tmp_path, name):
    pytest.importorskip("llama_cpp")
    path, result = tmp_path / "m.gguf", tmp_path / "logits.npy"
    hyperion.convert(models / "hf", path, name)
    with hyperion.load_model(path) as model:
        expected = model.logits(IDS)
    command = [sys.executable, "-c", PEER, str(path), str(result), json.dumps(IDS)]  # apart: it may end its process
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    got = np.load(result)
    a, b = np.exp(expected - expected.max(-1, keepdims=True)), np.exp(got - got.max(-1, keepdims=True))
    a, b = a / a.sum(-1, keepdims=True), b / b.sum(-1, keepdims=True)
    assert float((a * np.log(a / b)).sum(-1).mean()) < 1e-3


def directory(models, tmp_path, **config):
    """A copy of the model's directory with another config.json."""
    folder = tmp_path / "hf"
    shutil.copytree(models / "hf", folder, copy_function=shutil.copyfile)
    values = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(values))
    return folder


LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


@pytest.mark.parametrize("rope", [LLAMA3, {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}])
def test_rotary_scaling_is_carried_over(models, tmp_path, rope):
    folder = directory(models, tmp_path, rope_parameters=rope)
    for name in ("m.gguf", "m.hyperion"):
        hyperion.convert(folder, tmp_path / name)
    with hyperion.load_model(folder) as model:
        expected = model.logits(IDS)
    for name in ("m.gguf", "m.hyperion"):
        with hyperion.load_model(tmp_path / name) as model:
            np.testing.assert_allclose(model.logits(IDS), expected, atol=2e-3)
    with hyperion.load_model(models / "hf") as model:
        assert np.abs(model.logits(IDS) - expected).max() > 0.1


def test_a_tied_model_has_no_output_matrix(models, tmp_path):
    folder = directory(models, tmp_path, tie_word_embeddings=True)
    hyperion.convert(folder, tmp_path / "m.hyperion", "q8_0")
    hyperion.convert(tmp_path / "m.hyperion", tmp_path / "m.gguf")
    with hyperion.load_model(tmp_path / "m.hyperion") as a, hyperion.load_model(tmp_path / "m.gguf") as b:
        assert "output.weight" not in a.container.tensors
        np.testing.assert_array_equal(a.logits(IDS), b.logits(IDS))
    with pytest.raises(hyperion.MemoryBudgetError) as caught:
        hyperion.load_model(tmp_path / "m.hyperion", memory_budget=1_000_000, context_length=64)
    with hyperion.load_model(tmp_path / "m.hyperion", memory_budget=caught.value.context["smallest"], context_length=64) as c:
        assert not c.plan.embedding_pinned
        with hyperion.load_model(tmp_path / "m.gguf") as b:
            np.testing.assert_array_equal(c.logits(IDS), b.logits(IDS))


def test_what_gguf_cannot_say_is_refused(models, tmp_path):
    folder = directory(models, tmp_path, partial_rotary_factor=0.5)
    with pytest.raises(hyperion.UnsupportedError, match="rotated"):
        hyperion.convert(folder, tmp_path / "m.gguf")


# ---- vocabularies ----------------------------------------------------------------------------------------------------

TEXTS = ["ROMEO:", "To be, or not to be", "naïve 東京 🙂", "  two  spaces\n\ttabs", "x<s>y", "12345 it's WE'LL"]


def test_merges_become_scores_again(models, tmp_path):
    folder = directory(models, tmp_path)
    (folder / "tokenizer.model").unlink()
    hyperion.convert(folder, tmp_path / "m.gguf")
    from_json = Tokenizer.from_gguf(tmp_path / "m.gguf")
    reference = Tokenizer.from_gguf(models / "shakespeare-f16.gguf")
    for text in TEXTS:
        assert from_json.encode(text) == reference.encode(text)
    assert (from_json.bos_id, from_json.eos_id, from_json.unk_id) == (1, 2, 0)


def test_merges_that_no_scores_give_are_refused(models, tmp_path):
    folder = directory(models, tmp_path)
    (folder / "tokenizer.model").unlink()
    content = json.loads((folder / "tokenizer.json").read_text())
    merges = ["".join(m.split(" ") if isinstance(m, str) else m) for m in content["model"]["merges"]]
    twice = next(i for i in range(len(merges) - 1) if merges[i] == merges[i + 1])
    for change in (lambda m: m.pop(100), lambda m: m.append(m.pop(twice)), lambda m: m.append(m[5])):
        altered = json.loads(json.dumps(content))
        change(altered["model"]["merges"])
        (folder / "tokenizer.json").write_text(json.dumps(altered))
        with pytest.raises(hyperion.UnsupportedError, match="scores"):
            hyperion.convert(folder, tmp_path / "m.gguf")


def byte_level(folder, steps, *, normalizer=None, ignore_merges=False):
    """Give a directory a byte-level tokenizer of 500 tokens."""
    tokenizers = pytest.importorskip("tokenizers")
    engine = tokenizers.Tokenizer(tokenizers.models.BPE())
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500, show_progress=False, special_tokens=["<|begin|>", "<|im_end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    engine.train_from_iterator(["the cat sat on the mat, and that is that. " * 5, "It's 12 o'clock; we'll see.\n" * 4], trainer)
    content = json.loads(engine.to_str())
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    content["normalizer"] = normalizer
    content["model"]["ignore_merges"] = ignore_merges
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer.model").unlink(missing_ok=True)
    side = {"bos_token": "<|begin|>", "eos_token": "<|im_end|>", "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(side))
    (folder / "generation_config.json").unlink(missing_ok=True)


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    ("name", "steps", "options"),
    [
        ("gpt-2", [BYTES | {"use_regex": True}], {}),
        ("qwen2", [split(QWEN), BYTES], {"normalizer": {"type": "NFC"}}),
        ("llama-bpe", [split(QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")), BYTES], {"ignore_merges": True}),
        ("starcoder", [{"type": "Digits", "individual_digits": True}, BYTES | {"use_regex": True}], {}),
    ],
)
def test_byte_level_vocabularies(models, tmp_path, name, steps, options):
    folder = directory(models, tmp_path, bos_token_id=0, eos_token_id=1)
    byte_level(folder, steps, **options)
    hyperion.convert(folder, tmp_path / "m.hyperion", "q4_0")
    with open_container(tmp_path / "m.hyperion") as container:
        assert container.metadata["tokenizer.ggml.pre"] == name
        assert len(container.metadata["tokenizer.ggml.tokens"]) == 2048
    ours, reference = Tokenizer.from_gguf(tmp_path / "m.hyperion"), Tokenizer.from_file(folder / "tokenizer.json")
    for text in [*TEXTS, "it'S 1234567 that\n\n  is"]:
        assert ours.encode(text, add_special=False) == reference.encode(text, add_special=False), text
    assert (ours.bos_id, ours.eos_id, ours.add_bos) == (0, 1, False)


@pytest.mark.parametrize(
    ("steps", "options"),
    [
        ([split("[a-z]+"), BYTES], {}),
        ([BYTES | {"add_prefix_space": True}], {}),
        ([split(QWEN)], {}),
        ([{"type": "Whitespace"}, BYTES], {}),
        ([split(QWEN), BYTES], {"normalizer": {"type": "Lowercase"}}),
        ([split(QWEN) | {"behavior": "Removed"}, BYTES], {}),
    ],
)
def test_a_vocabulary_that_gguf_cannot_name_is_refused(models, tmp_path, steps, options):
    folder = directory(models, tmp_path)
    byte_level(folder, steps, **options)
    with pytest.raises(hyperion.UnsupportedError):
        hyperion.convert(folder, tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_a_vocabulary_larger_than_the_embedding_is_refused(models, tmp_path):
    folder = directory(models, tmp_path)
    side = json.loads((folder / "tokenizer_config.json").read_text())
    side["added_tokens_decoder"] = {"2048": {"content": "<more>", "special": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps(side))
    with pytest.raises(hyperion.UnsupportedError, match="2049 tokens"):
        hyperion.convert(folder, tmp_path / "m.gguf")


# ---- types -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "f16", "bf16", "f32"])
def test_blocks_are_ggml_s(name):
    gguf = pytest.importorskip("gguf")
    rng = np.random.default_rng(7)
    values = rng.standard_normal((33, 96)).astype(np.float32) * np.float32(0.07)
    values[3], values[4, :32], values[5, 0] = 0, 0.5, -3
    values[6] = np.repeat(np.float32([1.5, -2.5, 0.5]), 32)
    expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType[name.upper()])
    assert encode_rows(values, name).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "name", ["q4_0", "q5_1", "q8_0", "iq4_nl", "q2_k", "q4_k", "q6_k", "bf16"]
)
def test_a_type_is_that_of_all_matrices(models, tmp_path, name):
    done = hyperion.convert(models / "hf", tmp_path / "m.gguf", name)
    hyperion.convert(models / "hf", tmp_path / "m.hyperion", name.upper())
    assert done.replaced == {}
    assert set(done.types) == {name, "f32"}
    _, tensors = contents(tmp_path / "m.gguf")
    for tensor, (kind, shape, data) in tensors.items():
        assert kind == (name.upper() if len(shape) == 2 else "F32"), tensor
        assert data
    with hyperion.load_model(tmp_path / "m.gguf") as a, hyperion.load_model(tmp_path / "m.hyperion") as b:
        np.testing.assert_array_equal(a.logits(IDS), b.logits(IDS))
    with hyperion.load_model(models / "hf") as model, hyperion.load_model(tmp_path / "m.gguf") as converted:
        assert np.abs(model.logits(IDS) - converted.logits(IDS)).mean() < {"2": 2.0, "3": 1.5, "4": 1.0}.get(name.strip("iq")[0], 0.3)


@pytest.mark.parametrize(("name", "method"), [("q4_0", "mse"), ("q4_1", "mse"), ("q4_1", "hqq"), ("q8_0", "mse")])
def test_a_searched_scale_is_the_one_in_the_blocks(models, tmp_path, name, method):
    rng = np.random.default_rng(3)
    values = (rng.standard_t(4, (48, 256)) * 0.05 + 0.02).astype(np.float32)
    blocks = encode_rows(values, name, method)
    config = hyperion.QuantizationConfig(bits=8 if name == "q8_0" else 4, symmetric=name != "q4_1", group_size=32, method=method)
    expected = hyperion.dequantize_tensor(hyperion.quantize_tensor(values, config))
    got = quant.dequantize(name, blocks, 48, 256)
    if name != "q4_0":  # whose blocks may be turned over
        np.testing.assert_allclose(got, expected, atol=2e-3 * float(np.abs(values).max()))  # scales rounded to f16
    if method == "mse":
        plain = quant.dequantize(name, encode_rows(values, name), 48, 256)
        assert ((got - values) ** 2).sum() < 0.999 * ((plain - values) ** 2).sum()
    hyperion.convert(models / "hf", tmp_path / "m.gguf", name, method=method)
    hyperion.convert(models / "hf", tmp_path / "plain.gguf", name)
    mine, plain = contents(tmp_path / "m.gguf")[1], contents(tmp_path / "plain.gguf")[1]
    assert mine["blk.0.ffn_up.weight"][:2] == plain["blk.0.ffn_up.weight"][:2]
    assert mine["blk.0.ffn_up.weight"][2] != plain["blk.0.ffn_up.weight"][2]


def test_the_estimate_is_what_is_written(models, tmp_path):
    for target, type in (("m.gguf", "q4_0"), ("m.hyperion", None)):
        planned = estimate_conversion(models / "hf", tmp_path / target, type)
        assert not (tmp_path / target).exists()
        seen: list[tuple[int, int]] = []
        done = hyperion.convert(models / "hf", tmp_path / target, type, progress=lambda *at, seen=seen: seen.append(at))
        assert done == planned
        assert dataclasses.asdict(done)["nbytes"] == seen[-1][0] == seen[-1][1]
        assert [a for a, _ in seen] == sorted({a for a, _ in seen})
        with open_container(tmp_path / target) as container:
            assert sum(t.nbytes for t in container.tensors.values()) == planned.nbytes


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"type": "q9_9"}, hyperion.InvalidArgumentError, "type is 'q9_9', expected one of f32"),
        ({"type": "Q4_K_M"}, hyperion.InvalidArgumentError, "type is 'Q4_K_M', .* \\(q4_k is the type that most"),
        ({"type": 4}, hyperion.InvalidArgumentError, "type is 4, expected one of"),
        ({"type": "q4_0 "}, hyperion.InvalidArgumentError, "type is 'q4_0 ', expected"),
        ({"dst": "m.bin"}, hyperion.InvalidArgumentError, "ends in '.bin': expected"),
        ({"dst": "m"}, hyperion.InvalidArgumentError, "ends in '': expected"),
        ({"format": "onnx"}, hyperion.InvalidArgumentError, "format is 'onnx', expected"),
        ({"type": "q4_0", "method": "magic"}, hyperion.InvalidArgumentError, "method is 'magic', expected"),
        ({"type": "q4_0", "method": "hqq"}, hyperion.UnsupportedError, "it makes q4_1"),
        ({"type": "q4_k", "method": "mse"}, hyperion.UnsupportedError, "'mse' does not make q4_k"),
        ({"method": "mse"}, hyperion.InvalidArgumentError, "needs a type"),
        ({"src": "none.gguf"}, hyperion.HyperionIOError, "no file or directory"),
    ],
)
def test_bad_arguments(models, tmp_path, arguments, error, says):
    values = {"src": models / "shakespeare-f16.gguf", "dst": "m.gguf", **arguments}
    values["dst"] = tmp_path / values["dst"]
    with pytest.raises(error, match=says):
        hyperion.convert(**values)
    assert list(tmp_path.iterdir()) == []


# ---- models of any size ----------------------------------------------------------------------------------------------


def large(path, *, cols, ffn, vocab, bad=None):
    """A one-layer F32 model of these sizes with weights from a counter; returns its bytes of tensors."""
    at = "llama."
    integers = {
        "block_count": 1, "context_length": 64, "embedding_length": cols, "feed_forward_length": ffn,
        "attention.head_count": 4, "vocab_size": vocab,
    }  # fmt: skip
    keys = {"general.architecture": Typed(8, "llama"), at + "attention.layer_norm_rms_epsilon": Typed(6, 1e-5)}
    keys |= {at + k: Typed(4, v) for k, v in integers.items()}
    shapes = {
        "output_norm.weight": (cols,), "token_embd.weight": (vocab, cols), "blk.0.attn_norm.weight": (cols,),
        "blk.0.ffn_norm.weight": (cols,), "blk.0.ffn_down.weight": (cols, ffn), "blk.0.ffn_up.weight": (ffn, cols),
        "blk.0.ffn_gate.weight": (ffn, cols), **{f"blk.0.attn_{n}.weight": (cols, cols) for n in ("q", "k", "v", "output")},
    }  # fmt: skip
    layout = [TensorLayout(n, 0, s, 4 * int(np.prod(s))) for n, s in shapes.items()]
    with GGUFWriter(path, keys, layout) as writer:
        for t in layout:
            left = t.nbytes // 4
            while left:
                n = min(left, 1 << 18)
                block = np.sin(np.arange(n, dtype=np.float32))
                if t.name == bad and n == left:
                    block[-1] = np.nan
                writer.write(block)
                left -= n
        writer.finish()
    return sum(t.nbytes for t in layout)


def test_memory_does_not_grow_with_the_model(tmp_path):
    size = large(tmp_path / "m.gguf", cols=384, ffn=1024, vocab=40_000)
    assert size > 60_000_000
    peaks = []
    for src, dst, type in (("m.gguf", "a.hyperion", None), ("m.gguf", "b.hyperion", "q4_0"), ("b.hyperion", "c.gguf", None)):
        tracemalloc.start()
        hyperion.convert(tmp_path / src, tmp_path / dst, type)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 70_000_000
    assert max(peaks[0], peaks[2]) < 20_000_000
    (_, first), (_, second) = contents(tmp_path / "m.gguf"), contents(tmp_path / "c.gguf")
    name = "blk.0.ffn_up.weight"
    values = np.frombuffer(first[name][2], np.float32).reshape(first[name][1])
    assert second[name][2] == encode_rows(values, "q4_0").tobytes()


def test_odd_sizes(tmp_path):
    large(tmp_path / "m.gguf", cols=96, ffn=200, vocab=37)
    hyperion.convert(tmp_path / "m.gguf", tmp_path / "m.hyperion")
    hyperion.convert(tmp_path / "m.hyperion", tmp_path / "n.gguf")
    assert contents(tmp_path / "n.gguf")[1] == contents(tmp_path / "m.gguf")[1]
    done = hyperion.convert(tmp_path / "m.gguf", tmp_path / "q.gguf", "q8_0")
    assert done.replaced == {"blk.0.ffn_down.weight": "f16"}  # rows of 200 are no blocks of 32


@pytest.mark.parametrize("bad", ["token_embd.weight", "blk.0.ffn_down.weight", "output_norm.weight"])
def test_weights_that_are_not_finite_are_refused(tmp_path, bad):
    large(tmp_path / "m.gguf", cols=96, ffn=64, vocab=37, bad=bad)
    for dst, type in (("n.hyperion", None), ("n.gguf", "q4_0")):
        with pytest.raises(hyperion.FormatError, match=f"{bad}.*NaN"):
            hyperion.convert(tmp_path / "m.gguf", tmp_path / dst, type)
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_mapped_layers_of_a_hyperion_file(models, tmp_path):
    source = models / "shakespeare-q4_0.gguf"
    hyperion.convert(source, tmp_path / "m.hyperion")
    with hyperion.open_mapped_model(source) as a, hyperion.open_mapped_model(tmp_path / "m.hyperion") as b:
        assert len(a) == len(b)
        for layer in range(len(a)):
            theirs, ours = a.get_layer_weights(layer, dequantize=True), b.get_layer_weights(layer, dequantize=True)
            assert set(ours) == set(theirs)
            for name in ours:
                np.testing.assert_array_equal(ours[name], theirs[name])


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command(models, tmp_path, capsys):
    from hyperion.cli import main

    target = tmp_path / "m.hyperion"
    assert main(["convert", str(models / "hf"), str(target), "--type", "q4_0", "--dry-run"]) == 0
    assert "would write" in capsys.readouterr().err
    assert not target.exists()
    assert main(["convert", str(models / "hf"), str(target), "--type", "q4_0", "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["written"]
    assert report["types"].keys() == {"q4_0", "f32"}
    assert "q4_0" in err
    with hyperion.load_model(target) as model:
        assert model.generate("ROMEO:", max_length=4, temperature=0)
    for arguments in (["x.gguf", "y.gguf"], [str(target), "y.bin"], [str(target), str(tmp_path / "y.gguf"), "--type", "q"]):
        assert main(["convert", *arguments]) == 2
        assert capsys.readouterr().err.count("\n") == 1
