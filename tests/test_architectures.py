"""Every architecture against a forward pass written in NumPy, on small random models in both containers."""

import json
import math

import numpy as np
import pytest

import hyperion
from hostile_files import ARRAY, F32, STRING, U32, array, gguf, key, safetensors, tensor, text
from hyperion.models.config import ModelConfig, RopeScaling, rope_frequencies

VOCAB, DIM, FFN, HEADS, KV, HEAD, LAYERS = 96, 64, 96, 4, 2, 16, 2
IDS = [3, 17, 88, 42, 5, 5, 60, 11, 95]

CASES = {
    "llama": {"model_type": "llama"},
    "llama with biases, tied": {"model_type": "llama", "attention_bias": True, "tie_word_embeddings": True},
    "llama, multi-head": {"model_type": "llama", "num_key_value_heads": HEADS},
    "llama, linear scaling": {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama 3 scaling": {
        "model_type": "llama",
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "mistral": {"model_type": "mistral", "sliding_window": None, "head_dim": 32},
    "qwen2": {"model_type": "qwen2", "rope_theta": 1e6},
    "qwen2, tied": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 32, "rope_theta": 1e6},
}


def make(case):
    """A configuration and random float32 weights under Hugging Face names."""
    config = {
        "vocab_size": VOCAB, "hidden_size": DIM, "intermediate_size": FFN, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False,
    } | CASES[case]  # fmt: skip
    rng = np.random.default_rng(7)
    head, kv = config.get("head_dim", HEAD), config["num_key_value_heads"]

    def matrix(rows, cols):
        return (rng.standard_normal((rows, cols)) / math.sqrt(cols)).astype(np.float32)

    def vector(n, middle=0.0):
        return (middle + 0.2 * rng.standard_normal(n)).astype(np.float32)

    weights = {"model.embed_tokens.weight": matrix(VOCAB, DIM) * 8, "model.norm.weight": vector(DIM, 1)}
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = matrix(VOCAB, DIM)
    bias = config["model_type"] == "qwen2" or config.get("attention_bias")
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        for name, rows, cols in (("q", HEADS * head, DIM), ("k", kv * head, DIM), ("v", kv * head, DIM)):
            weights[f"{at}self_attn.{name}_proj.weight"] = matrix(rows, cols)
            if bias:
                weights[f"{at}self_attn.{name}_proj.bias"] = vector(rows)
            if config["model_type"] == "qwen3" and name != "v":
                weights[f"{at}self_attn.{name}_norm.weight"] = vector(head, 1)
        weights[f"{at}self_attn.o_proj.weight"] = matrix(DIM, HEADS * head)
        if config.get("attention_bias"):
            weights[f"{at}self_attn.o_proj.bias"] = vector(DIM)
        weights[f"{at}mlp.gate_proj.weight"] = matrix(FFN, DIM)
        weights[f"{at}mlp.up_proj.weight"] = matrix(FFN, DIM)
        weights[f"{at}mlp.down_proj.weight"] = matrix(DIM, FFN)
        weights[f"{at}input_layernorm.weight"] = vector(DIM, 1)
        weights[f"{at}post_attention_layernorm.weight"] = vector(DIM, 1)
    return config, weights


def norm(x, w, eps=1e-5):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * w


def frequencies(config):
    head = config.get("head_dim", HEAD)
    freqs = config["rope_theta"] ** (-np.arange(0, head, 2) / head)
    scaling = config.get("rope_scaling")
    if not scaling:
        return freqs
    if scaling.get("type") == "linear":
        return freqs / scaling["factor"]
    out = []
    for f in freqs:  # as the Llama 3.1 model card's code decides it, frequency by frequency
        wavelength = 2 * math.pi / f
        low = scaling["original_max_position_embeddings"] / scaling["low_freq_factor"]
        high = scaling["original_max_position_embeddings"] / scaling["high_freq_factor"]
        if wavelength < high:
            out.append(f)
        elif wavelength > low:
            out.append(f / scaling["factor"])
        else:
            share = (scaling["original_max_position_embeddings"] / wavelength - scaling["low_freq_factor"]) / (
                scaling["high_freq_factor"] - scaling["low_freq_factor"]
            )
            out.append((1 - share) * f / scaling["factor"] + share * f)
    return np.array(out)


def rotate(x, freqs):
    """x [tokens, heads, head], pairs half a head apart."""
    angles = np.arange(x.shape[0])[:, None, None] * freqs
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], axis=-1)


def forward(config, weights, ids):
    """Logits [tokens, vocabulary] in float64."""
    w = {k: v.astype(np.float64) for k, v in weights.items()}
    head, kv, n = config.get("head_dim", HEAD), config["num_key_value_heads"], len(ids)
    freqs = frequencies(config)
    x = w["model.embed_tokens.weight"][ids]
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        h = norm(x, w[at + "input_layernorm.weight"])
        parts = []
        for name, heads in (("q", HEADS), ("k", kv), ("v", kv)):
            y = h @ w[f"{at}self_attn.{name}_proj.weight"].T + w.get(f"{at}self_attn.{name}_proj.bias", 0)
            y = y.reshape(n, heads, head)
            if f"{at}self_attn.{name}_norm.weight" in w:
                y = norm(y, w[f"{at}self_attn.{name}_norm.weight"])
            parts.append(y if name == "v" else rotate(y, freqs))
        q, k, v = parts
        k, v = np.repeat(k, HEADS // kv, axis=1), np.repeat(v, HEADS // kv, axis=1)
        scores = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(head)
        scores[:, np.triu_indices(n, 1)[0], np.triu_indices(n, 1)[1]] = -np.inf
        p = np.exp(scores - scores.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        y = np.einsum("hij,jhd->ihd", p, v).reshape(n, -1)
        x = x + y @ w[at + "self_attn.o_proj.weight"].T + w.get(at + "self_attn.o_proj.bias", 0)
        h = norm(x, w[at + "post_attention_layernorm.weight"])
        gate = h @ w[at + "mlp.gate_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w[at + "mlp.up_proj.weight"].T)) @ w[at + "mlp.down_proj.weight"].T
    return norm(x, w["model.norm.weight"]) @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def write_hf(folder, config, weights):
    header, at = {}, 0
    for name, w in weights.items():
        header[name] = {"dtype": "F32", "shape": list(w.shape), "data_offsets": [at, at + w.nbytes]}
        at += w.nbytes
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(safetensors(header, b"".join(w.tobytes() for w in weights.values())))
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {chr(0x100 + i): i for i in range(3, VOCAB)}
    tokenizer = {
        "version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": "<unk>"},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


GGUF_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def write_gguf(path, config, weights):
    """As llama.cpp's converter does it: Llama's query and key rows are permuted, so that rotary pairs are neighbours."""
    arch = {"mistral": "llama"}.get(config["model_type"], config["model_type"])
    head, kv = config.get("head_dim", HEAD), config["num_key_value_heads"]
    tensors, data = [], b""
    if (config.get("rope_scaling") or {}).get("rope_type") == "llama3":
        plain = config["rope_theta"] ** (-np.arange(0, head, 2) / head)
        weights = weights | {"rope_freqs.weight": (plain / frequencies(config)).astype(np.float32)}
    for name, w in weights.items():
        for theirs, ours in GGUF_NAMES.items():
            name = name.replace(theirs, ours)
        name = name.replace("model.layers.", "blk.").replace("model.embed_tokens", "token_embd")
        name = name.replace("model.norm", "output_norm").replace("lm_head", "output")
        if arch == "llama" and (".attn_q." in name or ".attn_k." in name):
            heads = HEADS if ".attn_q." in name else kv
            w = w.reshape(heads, 2, head // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)
        tensors.append(tensor(name, list(reversed(w.shape)), 0, len(data)))
        data += w.tobytes() + b"\0" * (-w.nbytes % 32)
    keys = [
        key("general.architecture", STRING, text(arch)),
        key(f"{arch}.block_count", U32, LAYERS),
        key(f"{arch}.context_length", U32, 64),
        key(f"{arch}.embedding_length", U32, DIM),
        key(f"{arch}.feed_forward_length", U32, FFN),
        key(f"{arch}.attention.head_count", U32, HEADS),
        key(f"{arch}.attention.head_count_kv", U32, kv),
        key(f"{arch}.attention.key_length", U32, head),
        key(f"{arch}.attention.value_length", U32, head),
        key(f"{arch}.attention.layer_norm_rms_epsilon", F32, 1e-5),
        key(f"{arch}.rope.freq_base", F32, config["rope_theta"]),
        key("tokenizer.ggml.model", STRING, text("llama")),
        key("tokenizer.ggml.tokens", ARRAY, array(STRING, ["<unk>", "<s>", "</s>", *(chr(0x100 + i) for i in range(3, VOCAB))])),
        key("tokenizer.ggml.scores", ARRAY, array(F32, [0.0] * VOCAB)),
    ]
    scaling = config.get("rope_scaling") or {}
    if scaling.get("type") == "linear":
        keys += [key(f"{arch}.rope.scaling.type", STRING, text("linear")), key(f"{arch}.rope.scaling.factor", F32, scaling["factor"])]
    path.write_bytes(gguf(keys, tensors, data))
    return path


@pytest.mark.parametrize("container", ["hf", "gguf"])
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_forward_pass_in_numpy(tmp_path, case, container):
    config, weights = make(case)
    expected = forward(config, weights, IDS)
    write = write_hf if container == "hf" else write_gguf
    with hyperion.load_model(write(tmp_path / "model", config, weights), threads=1) as model:
        logits = model.logits(IDS)
        with model.session() as session:
            single = np.stack([session.eval([t]) for t in IDS])
    # keys and values are kept in half precision
    assert np.abs(logits - expected).max() <= 4e-3 * np.abs(expected).max()
    assert np.array_equal(np.argmax(logits, axis=1), np.argmax(expected, axis=1))
    np.testing.assert_array_equal(single, logits)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model_type": "gpt_neox"}, hyperion.UnsupportedError),
        ({"hidden_act": "gelu"}, hyperion.UnsupportedError),
        ({"mlp_bias": True}, hyperion.UnsupportedError),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, hyperion.UnsupportedError),
        ({"rope_scaling": {"type": "linear"}}, hyperion.FormatError),
        ({"num_hidden_layers": 3}, hyperion.FormatError),
        ({"hidden_size": 65}, hyperion.FormatError),
        ({"vocab_size": "many"}, hyperion.FormatError),
        ({"rms_norm_eps": None}, hyperion.FormatError),
    ],
)
def test_what_is_not_implemented_or_does_not_fit_is_an_error(tmp_path, change, error):
    config, weights = make("llama")
    with pytest.raises(error):
        hyperion.load_model(write_hf(tmp_path / "model", config | change, weights))


def test_a_sliding_window_bounds_the_context(tmp_path):
    config, weights = make("mistral")
    with hyperion.load_model(write_hf(tmp_path / "model", config | {"sliding_window": 8}, weights)) as model:
        assert model.context_length == 8
        with pytest.raises(hyperion.InvalidArgumentError, match="context"):
            model.logits(IDS)


def test_a_tensor_that_no_block_uses_is_refused(tmp_path):
    config, weights = make("llama")
    weights["model.layers.0.self_attn.sinks"] = np.zeros(4, np.float32)
    path = write_gguf(tmp_path / "m.gguf", config, weights)
    with pytest.raises(hyperion.UnsupportedError, match="sinks"):
        hyperion.load_model(path)


def test_llama_3_frequencies_blend_between_the_two_bounds():
    scaling = RopeScaling(kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)
    config = ModelConfig(
        architecture="llama", name="x", vocab_size=9, layers=1, dim=128, ffn_dim=8, heads=1, kv_heads=1, head_dim=128, rot=128,
        context_length=64, norm_eps=1e-5, rope_theta=500000.0, interleaved=False, tied=True, rope_scaling=scaling,
    )  # fmt: skip
    plain = 500000.0 ** (-2.0 * np.arange(64) / 128)
    ratio = plain / rope_frequencies(config)
    assert ratio[0] == 1.0 and ratio[-1] == pytest.approx(8.0)
    assert np.all(np.diff(ratio) >= 0) and np.any((ratio > 1) & (ratio < 8))
