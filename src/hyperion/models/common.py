"""What the architectures share: reading their sizes from GGUF metadata or a Hugging Face configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hyperion.errors import FormatError, UnsupportedError
from hyperion.models.config import BlockLayout, ModelConfig, RopeScaling, parse_rope_scaling
from hyperion.models.fields import Fields

__all__ = ["config_from_gguf", "config_from_hf", "hf_tensor_names", "refuse_hf"]


def config_from_gguf(
    architecture: str, metadata: Mapping[str, Any], tensors: Collection[str], *, interleaved: bool, layout: BlockLayout
) -> ModelConfig:
    """Sizes under `<architecture>.`; features that the engine lacks are refused by name."""
    f = Fields(metadata, architecture + ".")
    if f.integer("expert_count", 0):
        raise UnsupportedError(f"{architecture} with {f.integer('expert_count')} experts: only dense models are supported")
    heads = f.integer("attention.head_count")
    dim = f.integer("embedding_length")
    if heads <= 0 or dim <= 0:
        raise FormatError(f"{architecture}: {heads} attention heads in {dim} dims cannot be")
    head_dim = f.integer("attention.key_length", dim // heads)
    if f.integer("attention.value_length", head_dim) != head_dim:
        raise UnsupportedError(f"{architecture}: keys and values of different head sizes are not supported")
    context = f.integer("context_length")
    window = f.integer("attention.sliding_window", 0)
    tokens = metadata.get("tokenizer.ggml.tokens")
    vocab = f.integer("vocab_size", 0) or (len(tokens) if tokens is not None else 0)
    return ModelConfig(
        architecture=architecture,
        name=Fields(metadata).get("general.name", str, architecture),
        vocab_size=vocab,
        layers=f.integer("block_count"),
        dim=dim,
        ffn_dim=f.integer("feed_forward_length"),
        heads=heads,
        kv_heads=f.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        rot=f.integer("rope.dimension_count", head_dim),
        context_length=min(context, window) if window > 0 else context,
        norm_eps=f.number("attention.layer_norm_rms_epsilon"),
        rope_theta=f.number("rope.freq_base", 10000.0),
        interleaved=interleaved,
        tied="output.weight" not in tensors,
        layout=layout,
        rope_scaling=_gguf_scaling(f),
        rope_factors="rope_freqs.weight" in tensors,
    )


def _gguf_scaling(f: Fields) -> RopeScaling | None:
    kind = f.get("rope.scaling.type", str, "none")
    if kind == "linear":
        factor = f.number("rope.scaling.factor", f.number("rope.scale_linear", 1.0))
    elif kind == "none":
        factor = f.number("rope.scale_linear", 1.0)
    else:
        raise UnsupportedError(f"RoPE scaling {kind!r} is not implemented; supported: linear, llama3 (rope_freqs)")
    if factor <= 0:
        raise FormatError(f"RoPE scaling factor {factor}: expected a positive number")
    return RopeScaling(kind="linear", factor=factor) if factor != 1.0 else None


def config_from_hf(
    architecture: str, config: Mapping[str, Any], tensors: Collection[str], *, layout: BlockLayout
) -> ModelConfig:
    """Sizes from config.json; rotary pairs are half a head apart in these files."""
    f = Fields(config)
    act = f.get("hidden_act", str, "silu")
    if act != "silu":
        raise UnsupportedError(f"activation {act!r} is not supported; supported: silu")
    heads, dim = f.integer("num_attention_heads"), f.integer("hidden_size")
    if heads <= 0 or dim <= 0:
        raise FormatError(f"config.json: {heads} attention heads in {dim} dims cannot be")
    head_dim = f.integer("head_dim", dim // heads)
    rope = f.get("rope_parameters", dict, None) or f.get("rope_scaling", dict, None) or {}
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    context = f.integer("max_position_embeddings", 2048)
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    if window is not None and (not isinstance(window, int) or isinstance(window, bool) or window <= 0):
        raise FormatError(f"config.json: sliding_window is {window!r}, expected a positive integer")
    return ModelConfig(
        architecture=architecture,
        name=str(config.get("_name_or_path") or config.get("model_type") or architecture),
        vocab_size=f.integer("vocab_size"),
        layers=f.integer("num_hidden_layers"),
        dim=dim,
        ffn_dim=f.integer("intermediate_size"),
        heads=heads,
        kv_heads=f.integer("num_key_value_heads", heads),
        head_dim=head_dim,
        rot=int(head_dim * f.number("partial_rotary_factor", 1.0)),
        context_length=min(context, window) if window else context,
        norm_eps=f.number("rms_norm_eps"),
        rope_theta=Fields({"rope_theta": theta}).number("rope_theta"),
        interleaved=False,
        tied=f.get("tie_word_embeddings", bool, False) or "lm_head.weight" not in tensors,
        layout=layout,
        rope_scaling=parse_rope_scaling(rope),
    )


def refuse_hf(config: Mapping[str, Any], **expected: Any) -> None:
    """Refuse a configuration that asks for a feature which the engine lacks."""
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise UnsupportedError(f"config.json: {key} = {config[key]!r} is not supported, only {value!r}")


def hf_tensor_names(layers: int) -> dict[str, str]:
    """Canonical (GGUF) tensor name -> Hugging Face name."""
    parts = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    }  # fmt: skip
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    for i in range(layers):
        for ours, theirs in parts.items():
            for kind in ("weight", "bias"):
                names[f"blk.{i}.{ours}.{kind}"] = f"model.layers.{i}.{theirs}.{kind}"
    return names
