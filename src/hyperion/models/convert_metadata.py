"""The keys of a converted file: those of the source, or GGUF's for a model that came with config.json."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hyperion.errors import UnsupportedError
from hyperion.formats import Container
from hyperion.formats.gguf import Metadata
from hyperion.formats.writing import Typed
from hyperion.models.config import ModelConfig, rope_frequencies
from hyperion.models.convert_vocabulary import vocabulary_metadata

__all__ = ["check_same", "new_metadata", "type_keys"]

_U32, _F32, _STRING = 4, 6, 8

FILE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k": 12, "q4_k": 15, "q5_k": 17,
    "q6_k": 18, "iq4_nl": 25, "bf16": 32,
}  # fmt: skip
"""llama.cpp's numbers for general.file_type, which no reader needs."""

DROPPED = ("hyperion.", "split.")
REPLACED = ("general.alignment", "general.file_type", "general.quantization_version")


def new_metadata(container: Container, config: ModelConfig) -> tuple[dict[str, Typed], dict[str, np.ndarray]]:
    """Keys of the new file, and tensors that the source says in another way."""
    source = container.metadata
    if isinstance(source, Metadata):
        kept = {
            key: Typed(source.kinds[key], value)
            for key, value in source.items()
            if not key.startswith(DROPPED) and key not in REPLACED
        }
        return kept, {}
    folder = Path(container.path)
    folder = folder if folder.is_dir() else folder.parent
    return _from_config(config, folder)


def type_keys(sizes: Mapping[str, int], kept: Container | None) -> dict[str, Typed]:
    """The keys that say what types a file has.

    Parameters
    ----------
    sizes : mapping
        Weights of the matrices by type.
    kept : Container, optional
        Whose matrices keep their types, and the file its word for them.
    """
    old = kept.metadata.get("general.file_type") if kept is not None and isinstance(kept.metadata, Metadata) else None
    known = type(old) is int and 0 <= old < 1 << 32
    number = old if known else FILE_TYPES[max(sizes, key=lambda name: sizes[name])]
    return {"general.file_type": Typed(_U32, number), "general.quantization_version": Typed(_U32, 2)}


def _from_config(config: ModelConfig, folder: Path) -> tuple[dict[str, Typed], dict[str, np.ndarray]]:
    """GGUF keys of a model that came with config.json."""
    integers = {
        "block_count": config.layers, "context_length": config.context_length, "embedding_length": config.dim,
        "feed_forward_length": config.ffn_dim, "attention.head_count": config.heads,
        "attention.head_count_kv": config.kv_heads, "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim, "rope.dimension_count": config.rot, "vocab_size": config.vocab_size,
    }  # fmt: skip
    floats = {"attention.layer_norm_rms_epsilon": config.norm_eps, "rope.freq_base": config.rope_theta}
    at = config.architecture + "."
    keys = {
        "general.architecture": Typed(_STRING, config.architecture),
        "general.type": Typed(_STRING, "model"),
        "general.name": Typed(_STRING, folder.resolve().name),
    }
    keys |= {at + key: Typed(_U32, value) for key, value in integers.items()}
    keys |= {at + key: Typed(_F32, value) for key, value in floats.items()}
    extra = {}
    if config.rope_scaling is not None and config.rope_scaling.kind == "linear":
        keys[at + "rope.scaling.type"] = Typed(_STRING, "linear")
        keys[at + "rope.scaling.factor"] = Typed(_F32, config.rope_scaling.factor)
    elif config.rope_scaling is not None:  # Llama 3.1's blend is said by its divisors
        plain = rope_frequencies(dataclasses.replace(config, rope_scaling=None))
        extra["rope_freqs.weight"] = (plain / rope_frequencies(config)).astype(np.float32)
    return keys | vocabulary_metadata(folder, config.vocab_size), extra


def check_same(before: ModelConfig, after: ModelConfig) -> None:
    """What the new keys say is what the source said, apart from the order of rotary pairs and the form of scaling."""
    if before == after:
        return
    for field in dataclasses.fields(before):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if field.name in ("interleaved", "name", "rope_scaling", "rope_factors") or old == new:
            continue
        if isinstance(old, float) and math.isclose(old, new, rel_tol=1e-6):  # GGUF has them in single precision
            continue
        raise UnsupportedError(f"GGUF has no way to say that this model's {field.name} is {old!r:.60}", field=field.name)
