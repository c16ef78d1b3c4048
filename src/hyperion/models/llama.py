"""Llama 1-3 and what shares its blocks: Mistral, TinyLlama, SmolLM.

Pre-norm blocks (RMSNorm), grouped-query attention with rotary positions, SwiGLU feed-forward (Touvron et al., arXiv
2302.13971). GGUF stores the query and key rows permuted, so that rotary pairs are neighbours; Hugging Face files keep
them half a head apart.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hyperion.models import common
from hyperion.models.config import BlockLayout, ModelConfig

NAMES = ("llama",)
HF_TYPES = ("llama", "mistral")


def from_gguf(metadata: Mapping[str, Any], tensors: Collection[str]) -> ModelConfig:
    """Configuration from GGUF metadata."""
    layout = BlockLayout(
        qkv_bias="blk.0.attn_q.bias" in tensors,
        output_bias="blk.0.attn_output.bias" in tensors,
    )
    return common.config_from_gguf("llama", metadata, tensors, interleaved=True, layout=layout)


def from_hf(config: Mapping[str, Any], tensors: Collection[str]) -> ModelConfig:
    """Configuration from a Hugging Face config.json."""
    bias = bool(config.get("attention_bias", False))
    common.refuse_hf(config, mlp_bias=False)
    return common.config_from_hf("llama", config, tensors, layout=BlockLayout(qkv_bias=bias, output_bias=bias))
