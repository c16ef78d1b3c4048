"""The architectures that Hyperion runs, and how a file's own is found."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hyperion.errors import FormatError, UnsupportedError
from hyperion.formats import Container, TensorInfo
from hyperion.models import llama, qwen2, qwen3
from hyperion.models.common import hf_tensor_names
from hyperion.models.config import ModelConfig

__all__ = ["config_from_metadata", "describe_model", "supported_architectures"]

_MODULES = (llama, qwen2, qwen3)


def supported_architectures() -> tuple[str, ...]:
    """Names of the architectures, as GGUF spells them."""
    return tuple(name for module in _MODULES for name in module.NAMES)


def describe_model(container: Container) -> tuple[ModelConfig, dict[str, TensorInfo]]:
    """Configuration of the model in a container, and its tensors under their canonical (GGUF) names.

    Raises
    ------
    UnsupportedError
        For an unknown architecture, or a feature that is not implemented.
    FormatError
        If metadata or tensors are missing, or their shapes do not fit.
    """
    hf = container.metadata.get("config")
    config, tensors = _from_hf(hf, container) if isinstance(hf, Mapping) else _from_gguf(container)
    _check_tensors(config, tensors, container.path)
    return config, tensors


def _from_gguf(container: Container) -> tuple[ModelConfig, dict[str, TensorInfo]]:
    if container.format == "safetensors":
        raise FormatError(f"{container.path}: tensors alone are no model: config.json must be beside them", path=container.path)
    if not isinstance(container.metadata.get("general.architecture"), str):
        raise FormatError(f"{container.path}: metadata lacks 'general.architecture', so this is no model")
    tensors = dict(container.tensors)
    if not tensors:
        raise FormatError(f"{container.path}: a vocabulary without weights: Tokenizer.from_gguf opens it, but it is no model")
    return config_from_metadata(container.metadata, tensors), tensors


def config_from_metadata(metadata: Mapping[str, Any], tensors: Collection[str]) -> ModelConfig:
    """Configuration of the model that GGUF keys describe; errors as for :func:`describe_model`."""
    name = metadata["general.architecture"]
    module = next((m for m in _MODULES if name in m.NAMES), None)
    if module is None:
        raise UnsupportedError(f"architecture {name!r} is not supported; supported: {', '.join(supported_architectures())}")
    return module.from_gguf(metadata, tensors)


def _from_hf(raw: Mapping[str, Any], container: Container) -> tuple[ModelConfig, dict[str, TensorInfo]]:
    name = raw.get("model_type")
    module = next((m for m in _MODULES if name in m.HF_TYPES), None)
    if module is None:
        known = ", ".join(t for m in _MODULES for t in m.HF_TYPES)
        raise UnsupportedError(f"config.json: model_type {name!r} is not supported; supported: {known}")
    config = module.from_hf(raw, container.tensors)
    names = hf_tensor_names(config.layers)
    if config.tied:
        names.pop("output.weight")
    return config, {ours: container.tensors[theirs] for ours, theirs in names.items() if theirs in container.tensors}


def _check_tensors(config: ModelConfig, tensors: Mapping[str, TensorInfo], path: str) -> None:
    """Every tensor that the blocks need is there with the shape that the configuration says."""
    expected: dict[str, tuple[int, ...]] = {"output_norm.weight": (config.dim,)}
    for name, rows, cols in {config.embedding, config.output}:
        expected[name] = (rows, cols)
    for layer in range(config.layers):
        for name, rows, cols in config.matrices(layer).values():
            expected[name] = (rows, cols)
        for name, length in config.vectors(layer).values():
            expected[name] = (length,)
        if layer == 0 or layer == config.layers - 1:  # a wrong block_count is told before a long list is built
            _compare(expected, tensors, path)
    _compare(expected, tensors, path)
    known = set(expected) | {"rope_freqs.weight"}
    surplus = [n for n in tensors if n not in known and not n.endswith((".rotary_emb.inv_freq", ".attn_rot_embd.weight"))]
    if surplus:
        raise UnsupportedError(
            f"{path}: the file has {len(surplus)} tensors that {config.architecture} does not use, such as {surplus[0]!r}"
        )


def _compare(expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, TensorInfo], path: str) -> None:
    for name, shape in expected.items():
        info = tensors.get(name)
        if info is None:
            raise FormatError(f"{path}: the model lacks the tensor {name!r}", path=path, tensor=name)
        if tuple(info.shape) != shape:
            raise FormatError(f"{path}: tensor {name!r} has shape {tuple(info.shape)}, expected {shape}", path=path, tensor=name)
