"""Qwen 2 and 2.5: Llama's blocks with biases on query, key and value (Yang et al., arXiv 2407.10671)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hyperion.models import common
from hyperion.models.config import BlockLayout, ModelConfig

NAMES = ("qwen2",)
HF_TYPES = ("qwen2",)
LAYOUT = BlockLayout(qkv_bias=True)


def from_gguf(metadata: Mapping[str, Any], tensors: Collection[str]) -> ModelConfig:
    """Configuration from GGUF metadata."""
    return common.config_from_gguf("qwen2", metadata, tensors, interleaved=False, layout=LAYOUT)


def from_hf(config: Mapping[str, Any], tensors: Collection[str]) -> ModelConfig:
    """Configuration from a Hugging Face config.json."""
    return common.config_from_hf("qwen2", config, tensors, layout=LAYOUT)
