"""What a decoder-only transformer is, whatever file it came from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from hyperion.errors import FormatError, UnsupportedError

__all__ = ["BlockLayout", "ModelConfig", "RopeScaling", "rope_frequencies"]

MAX_LAYERS = 4096
MAX_DIM = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the trained context.

    kind is "linear" (every frequency divided by `factor`) or "llama3" (Llama 3.1's smooth blend between unscaled high
    frequencies and divided low ones).
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockLayout:
    """Which optional parts the blocks of an architecture have."""

    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes and constants of a model.

    `interleaved` says that rotary pairs are dims (2i, 2i+1), as GGUF stores Llama, instead of (i, i + rot/2).
    `rope_factors` are per-frequency divisors that a file carries (GGUF's rope_freqs), or None.
    """

    architecture: str
    name: str
    vocab_size: int
    layers: int
    dim: int
    ffn_dim: int
    heads: int
    kv_heads: int
    head_dim: int
    rot: int
    context_length: int
    norm_eps: float
    rope_theta: float
    interleaved: bool
    tied: bool
    layout: BlockLayout = BlockLayout()
    gelu: bool = False
    rope_scaling: RopeScaling | None = None
    rope_factors: bool = False

    def __post_init__(self) -> None:
        for field, limit in (
            ("layers", MAX_LAYERS), ("dim", MAX_DIM), ("ffn_dim", MAX_DIM), ("heads", 65536), ("kv_heads", 65536),
            ("head_dim", 4096), ("vocab_size", 1 << 24), ("context_length", 1 << 30),
        ):  # fmt: skip
            value = getattr(self, field)
            if not 0 < value <= limit:
                raise FormatError(f"the model's {field} is {value}, expected 1 to {limit}", field=field)
        if self.heads % self.kv_heads:
            raise FormatError(f"{self.heads} attention heads do not divide into {self.kv_heads} key/value heads")
        if not 0 < self.rot <= self.head_dim or self.rot % 2:
            raise FormatError(f"{self.rot} rotated dims of a head of {self.head_dim}: expected an even number within it")
        if not (math.isfinite(self.norm_eps) and 0 < self.norm_eps < 1):
            raise FormatError(f"the norm's epsilon is {self.norm_eps}, expected a small positive number")
        if not (math.isfinite(self.rope_theta) and self.rope_theta > 0):
            raise FormatError(f"the rotary base is {self.rope_theta}, expected a positive number")

    @property
    def scale(self) -> float:
        """Factor of the attention scores, 1/sqrt(head_dim)."""
        return 1.0 / math.sqrt(self.head_dim)

    def matrices(self, layer: int) -> dict[str, tuple[str, int, int]]:
        """Block role -> (tensor name, rows, cols), in the order in which a block uses them."""
        qd, kd = self.heads * self.head_dim, self.kv_heads * self.head_dim
        at = f"blk.{layer}."
        return {
            "q": (at + "attn_q.weight", qd, self.dim),
            "k": (at + "attn_k.weight", kd, self.dim),
            "v": (at + "attn_v.weight", kd, self.dim),
            "o": (at + "attn_output.weight", self.dim, qd),
            "gate": (at + "ffn_gate.weight", self.ffn_dim, self.dim),
            "up": (at + "ffn_up.weight", self.ffn_dim, self.dim),
            "down": (at + "ffn_down.weight", self.dim, self.ffn_dim),
        }

    def vectors(self, layer: int) -> dict[str, tuple[str, int]]:
        """Block role -> (tensor name, length)."""
        qd, kd = self.heads * self.head_dim, self.kv_heads * self.head_dim
        at = f"blk.{layer}."
        result = {"attn_norm": (at + "attn_norm.weight", self.dim), "ffn_norm": (at + "ffn_norm.weight", self.dim)}
        if self.layout.qkv_bias:
            result |= {
                "q_bias": (at + "attn_q.bias", qd),
                "k_bias": (at + "attn_k.bias", kd),
                "v_bias": (at + "attn_v.bias", kd),
            }
        if self.layout.output_bias:
            result["o_bias"] = (at + "attn_output.bias", self.dim)
        if self.layout.qk_norm:
            result |= {
                "q_norm": (at + "attn_q_norm.weight", self.head_dim),
                "k_norm": (at + "attn_k_norm.weight", self.head_dim),
            }
        return result

    @property
    def embedding(self) -> tuple[str, int, int]:
        """(tensor name, rows, cols) of the token embedding."""
        return "token_embd.weight", self.vocab_size, self.dim

    @property
    def output(self) -> tuple[str, int, int]:
        """(tensor name, rows, cols) of the output matrix; the embedding where they are tied."""
        return (self.embedding[0] if self.tied else "output.weight"), self.vocab_size, self.dim


def rope_frequencies(config: ModelConfig, factors: np.ndarray | None = None) -> np.ndarray:
    """Angle per position of each rotated pair, float64 [rot / 2].

    theta ** (-2i / rot) (Su et al., arXiv 2104.09864), then the scaling of the file: its own per-frequency `factors`,
    the linear division, or Llama 3.1's blend.
    """
    i = np.arange(config.rot // 2, dtype=np.float64)
    freqs = config.rope_theta ** (-2.0 * i / config.rot)
    if factors is not None:
        if factors.shape != freqs.shape or not np.all(np.isfinite(factors) & (factors > 0)):
            raise FormatError(f"rope_freqs has shape {factors.shape}, expected {freqs.shape} positive numbers")
        return freqs / factors.astype(np.float64)
    s = config.rope_scaling
    if s is None:
        return freqs
    if s.kind == "linear":
        return freqs / s.factor
    wavelength = 2.0 * np.pi / freqs
    smooth = (s.original_context / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
    smooth = np.clip(smooth, 0.0, 1.0)  # 0: a low frequency, divided; 1: a high one, kept
    return (1.0 - smooth) * freqs / s.factor + smooth * freqs


def parse_rope_scaling(raw: Mapping[str, Any] | None) -> RopeScaling | None:
    """A Hugging Face `rope_scaling` / `rope_parameters` mapping as a :class:`RopeScaling`."""
    if not raw:
        return None
    kind = raw.get("rope_type", raw.get("type", "default"))
    if kind in ("default", None):
        return None
    if kind not in ("linear", "llama3"):
        raise UnsupportedError(f"RoPE scaling {kind!r} is not implemented; supported: linear, llama3", rope_scaling=kind)
    try:
        values: dict[str, Any] = {"kind": kind, "factor": float(raw["factor"])}
        if kind == "llama3":
            values |= {
                "low_freq_factor": float(raw["low_freq_factor"]),
                "high_freq_factor": float(raw["high_freq_factor"]),
                "original_context": int(raw["original_max_position_embeddings"]),
            }
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"RoPE scaling {dict(raw)!r} lacks a number: {error}") from None
    scaling = RopeScaling(**values)
    if not scaling.factor > 0 or scaling.high_freq_factor == scaling.low_freq_factor:
        raise FormatError(f"RoPE scaling {dict(raw)!r} has factors that cannot be")
    return scaling
