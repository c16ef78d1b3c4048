"""Which tensors make a layer, told from their names alone, so that models of unknown architectures have layers too."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from hyperion.formats import TensorInfo

__all__ = ["LayerTensors", "group_layers", "nominal_bits"]

# GGUF: blk.7.attn_q.weight. Hugging Face: model.layers.7.self_attn.q_proj.weight, transformer.h.7.attn.c_attn.weight,
# gpt_neox.layers.7..., model.decoder.layers.7..., transformer.blocks.7...
_BLOCK = re.compile(r"(?:^|.*?\.)(?:blk|layers?|h|blocks?)\.(?=\d)")
_NUMBER = re.compile(r"\d{1,9}(?=\.|$)")
# What follows the blocks: GGUF's output_norm and output, Hugging Face's model.norm, lm_head, transformer.ln_f, embed_out.
_HEAD = re.compile(
    r"(?:^|\.)(?:output|output_norm|cls|lm_head|embed_out|norm|norm_f|ln_f|final_norm|final_layernorm|final_layer_norm)"
    r"(?:\.(?:weight|bias|scale|scales|qweight|g_idx|qzeros))?$"
)
_BITS = re.compile(r"\d+")


class LayerTensors(NamedTuple):
    """One layer: what it is called, and its tensors in the order of the files."""

    name: str
    tensors: tuple[TensorInfo, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.nbytes for t in self.tensors)

    @property
    def bits(self) -> int:
        """Nominal bits of the type that most of the weights have; 0 for a layer without weights."""
        weights: collections.Counter[int] = collections.Counter()
        for t in self.tensors:
            weights[nominal_bits(t.type_name)] += math.prod(t.shape)
        return max(weights.items(), key=lambda item: (item[1], item[0]))[0] if weights else 0


def nominal_bits(type_name: str) -> int:
    """The bits of a code that a type's name tells: 4 for Q4_K, 16 for BF16 (scales are not counted)."""
    digits = _BITS.search(type_name)
    return int(digits[0]) if digits else 8  # BOOL


def group_layers(tensors: Iterable[TensorInfo]) -> list[LayerTensors]:
    """Tensors by layer: the embedding first, one layer a block in the order of their numbers, the output head last.

    Of several stacks of blocks (a vision tower beside a language model) the one with the most bytes has the layers; all
    that is neither in its blocks nor in the head belongs to layer 0.
    """
    everything = list(tensors)
    places = {t.name: _block_of(t.name) for t in everything}
    stacks: collections.Counter[str] = collections.Counter()
    for t in everything:
        place = places[t.name]
        if place is not None:
            stacks[place[0]] += t.nbytes + 1
    trunk = max(stacks, key=lambda s: (stacks[s], s)) if stacks else None
    blocks: dict[int, list[TensorInfo]] = collections.defaultdict(list)
    first: list[TensorInfo] = []
    last: list[TensorInfo] = []
    for t in everything:
        place = places[t.name]
        if place is not None and place[0] == trunk:
            blocks[place[1]].append(t)
        elif place is None and _HEAD.search(t.name):
            last.append(t)
        else:
            first.append(t)
    named = [("embedding", first), *((f"block {n}", blocks[n]) for n in sorted(blocks)), ("output", last)]
    order = {path: i for i, path in enumerate(dict.fromkeys(t.path for t in everything))}
    return [LayerTensors(name, tuple(sorted(ts, key=lambda t: (order[t.path], t.offset)))) for name, ts in named]


def _block_of(name: str) -> tuple[str, int] | None:
    """(stack, number) of a tensor within a block."""
    stack = _BLOCK.match(name)
    number = _NUMBER.match(name, stack.end()) if stack is not None else None
    return (stack[0], int(number[0])) if stack is not None and number is not None else None
