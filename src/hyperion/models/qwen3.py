"""Qwen 3 (dense): no biases, an RMSNorm on every query and key head before the rotation (arXiv 2505.09388)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hyperion.models import common
from hyperion.models.config import BlockLayout, ModelConfig

NAMES = ("qwen3",)
HF_TYPES = ("qwen3",)
LAYOUT = BlockLayout(qk_norm=True)


def from_gguf(metadata: Mapping[str, Any], tensors: Collection[str]) -> ModelConfig:
    """Configuration from GGUF metadata."""
    return common.config_from_gguf("qwen3", metadata, tensors, interleaved=False, layout=LAYOUT)


def from_hf(config: Mapping[str, Any], tensors: Collection[str]) -> ModelConfig:
    """Configuration from a Hugging Face config.json."""
    common.refuse_hf(config, attention_bias=False)
    return common.config_from_hf("qwen3", config, tensors, layout=LAYOUT)
