"""Which tensors make a layer of a mapped model, and its settings."""

import pytest

from hyperion import MmapConfig, create_default_mmap_config
from hyperion.errors import InvalidArgumentError
from hyperion.formats import TensorInfo
from hyperion.loading.layers import group_layers, nominal_bits


def grouped(*names):
    infos = [TensorInfo(n, 0, "F32", (8,), "f", 32 * i, 32) for i, n in enumerate(names)]
    return [[t.name for t in layer.tensors] for layer in group_layers(infos)]


def test_layers_of_gguf_names():
    names = ["output.weight", "token_embd.weight", "blk.0.a", "blk.10.a", "blk.2.a", "blk.2.b", "output_norm.weight", "rope_freqs.weight"]
    assert grouped(*names) == [
        ["token_embd.weight", "rope_freqs.weight"], ["blk.0.a"], ["blk.2.a", "blk.2.b"], ["blk.10.a"],
        ["output.weight", "output_norm.weight"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("embedding", "block", "head"),
    [
        ("model.embed_tokens.weight", "model.layers.{}.input_layernorm.weight", ["model.norm.weight", "lm_head.weight"]),
        ("transformer.wte.weight", "transformer.h.{}.ln_1.bias", ["transformer.ln_f.weight", "transformer.ln_f.bias"]),
        ("gpt_neox.embed_in.weight", "gpt_neox.layers.{}.attention.norm.weight", ["gpt_neox.final_layer_norm.bias", "embed_out.weight"]),
        ("model.decoder.embed_positions.weight", "model.decoder.layers.{}.fc1.bias", ["model.decoder.final_layer_norm.weight"]),
        ("wte", "h.{}.w", ["ln_f.weight"]),
        ("backbone.embedding.weight", "backbone.layers.{}.norm.weight", ["backbone.norm_f.weight"]),
        ("model.embed.weight", "model.language_model.layers.{}.w", ["model.language_model.norm.weight"]),
    ],
)
def test_layers_of_other_names(embedding, block, head):
    blocks = [block.format(i) for i in range(3)]
    assert grouped(embedding, *blocks, *head) == [[embedding], *([b] for b in blocks), head]


def test_a_second_stack_of_blocks_belongs_to_the_first_layer():
    vision = ["vision.encoder.layers.0.w", "vision.encoder.layers.1.w"]
    text_ = [f"model.layers.{i}.{w}" for i in (0, 1) for w in "ab"]
    assert grouped(*vision, *text_, "norm.weight") == [vision, text_[:2], text_[2:], ["norm.weight"]]


def test_strange_names_make_no_strange_layers():
    names = ["blk.4294967295.w", "blk.999999999.w", "blk.-1.w", "blk.x.w", "blk.", "", "..", f"blk.{'9' * 5000}.w", "blk.1"]
    layers = grouped(*names)
    assert len(layers) == 4
    assert layers[1:] == [["blk.1"], ["blk.999999999.w"], []]
    assert grouped() == [[], []]


def test_nominal_bits():
    bits = {"F32": 32, "BF16": 16, "Q4_K": 4, "Q8_0": 8, "IQ2_XXS": 2, "IQ4_NL": 4, "TQ1_0": 1, "MXFP4": 4, "F8_E4M3": 8, "BOOL": 8}
    assert {name: nominal_bits(name) for name in bits} == bits


# ---- configuration -----------------------------------------------------------------------------------------------


def test_configuration():
    c = create_default_mmap_config()
    assert c == MmapConfig()
    c.max_cache_size = "100MB"
    c.min_layer_cache_size = "8KiB"
    c.prefetch_threads = 3
    assert (c.max_cache_size, c.min_layer_cache_size, c.prefetch_threads) == (100_000_000, 8192, 3)
    assert MmapConfig(max_cache_size="1GiB", prefetch_enabled=False).max_cache_size == 1 << 30


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("max_cache_size", -1), ("max_cache_size", "much"), ("max_cache_size", 1.5), ("max_cache_size", None),
        ("min_layer_cache_size", True), ("prefetch_threads", 0), ("prefetch_threads", 1000), ("prefetch_threads", 1.0),
        ("prefetch_threads", True), ("prefetch_enabled", 1), ("adaptive_caching", "yes"), ("max_cache", 1),
    ],
)  # fmt: skip
def test_wrong_settings(name, bad):
    with pytest.raises(InvalidArgumentError, match=r"size|prefetch_|adaptive_|max_cache"):
        setattr(MmapConfig(), name, bad)
    if name != "max_cache":
        with pytest.raises(InvalidArgumentError, match=r"size|prefetch_|adaptive_"):
            MmapConfig(**{name: bad})
