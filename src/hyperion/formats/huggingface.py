"""Hugging Face directories: config.json, one or more safetensors files, and the tokenizer's files beside them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hyperion.errors import FormatError, HyperionIOError
from hyperion.formats.container import Container, TensorInfo
from hyperion.formats.safetensors import read_header
from hyperion.formats.strict_json import parse_object

__all__ = ["HuggingFaceContainer"]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
MAX_JSON = 64 << 20


class HuggingFaceContainer(Container):
    """A directory, or one safetensors file with config.json beside it.

    `metadata` has "config" (config.json as it is) and "tokenizer_file" (a path, or None where the directory has none).
    """

    format = "huggingface"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = os.fspath(path)
        single = None if os.path.isdir(path) else os.path.basename(path)
        folder = Path(path) if single is None else Path(path).parent
        config_file = folder / "config.json"
        if not config_file.is_file():
            raise FormatError(f"{path}: {config_file} is missing, so this is no Hugging Face model", path=path, offset=0)
        config = parse_object(_read_json(config_file), str(config_file))
        fds: dict[str, int] = {}
        try:
            tensors = _tensors(folder, single, fds)
            tokenizer = next((str(folder / n) for n in TOKENIZERS if (folder / n).is_file()), None)
            super().__init__(path, {"config": config, "tokenizer_file": tokenizer}, tensors, fds)
        except BaseException:
            for fd in fds.values():
                os.close(fd)
            raise


def _read_json(file: Path) -> bytes:
    try:
        if file.stat().st_size > MAX_JSON:
            raise FormatError(f"{file}: {file.stat().st_size} bytes of JSON, expected at most {MAX_JSON}", path=str(file), offset=0)
        return file.read_bytes()
    except OSError as error:
        raise HyperionIOError(f"cannot read {str(file)!r}: {error.strerror}", path=str(file)) from None


def _tensors(folder: Path, single: str | None, fds: dict[str, int]) -> dict[str, TensorInfo]:
    index = folder / INDEX
    if single is None and index.is_file():
        return _sharded(folder, index, fds)
    file = folder / (single or SINGLE)
    if not file.is_file():
        raise FormatError(f"{folder}: has neither {SINGLE} nor {INDEX}", path=str(folder), offset=0)
    return read_header(str(file), fds)


def _sharded(folder: Path, index: Path, fds: dict[str, int]) -> dict[str, TensorInfo]:
    """All shards that the index names; a name that is more than a file name is refused."""
    raw: Any = parse_object(_read_json(index), str(index)).get("weight_map")
    if not isinstance(raw, dict) or not raw or not all(isinstance(v, str) for v in raw.values()):
        raise FormatError(f"{index}: weight_map is not an object of file names", path=str(index), offset=0)
    tensors: dict[str, TensorInfo] = {}
    for name in sorted(set(raw.values())):
        if Path(name).name != name or "\\" in name or "\0" in name or name in (".", ".."):
            raise FormatError(f"{index}: {name!r} is not the name of a file in the directory", path=str(index), offset=0)
        if not (folder / name).is_file():
            raise HyperionIOError(f"{index}: the shard {name!r} is missing", path=str(folder / name))
        part = read_header(str(folder / name), fds)
        twice = tensors.keys() & part.keys()
        if twice:
            raise FormatError(f"{index}: tensor {min(twice)!r} is in two shards", path=str(index), offset=0)
        tensors.update(part)
    for tensor, name in raw.items():
        if tensor not in tensors or os.path.basename(tensors[tensor].path) != name:
            raise FormatError(f"{index}: tensor {tensor!r} is not in {name!r}", path=str(index), offset=0)
    return tensors
