"""Hugging Face directories: config.json, one or more safetensors files, and the tokenizer's files beside them."""

from __future__ import annotations

import os

from hyperion.errors import FormatError, HyperionIOError
from hyperion.formats.container import Container, TensorInfo, open_for_reading, read_exactly
from hyperion.formats.safetensors import MAX_HEADER, read_header
from hyperion.formats.strict_json import Scanner, parse_object

__all__ = ["CONFIG", "HuggingFaceContainer"]

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
MAX_CONFIG = 4 << 20


class HuggingFaceContainer(Container):
    """A directory, or one safetensors file with config.json beside it.

    `metadata` has "config" (config.json as it is), "tokenizer_file" (the path of tokenizer.json, else of tokenizer.model, or
    None where the directory has neither) and "safetensors" (the free metadata of the first file).
    """

    format = "huggingface"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = os.fspath(path)
        single = None if os.path.isdir(path) else os.path.basename(path)
        folder = path if single is None else os.path.dirname(path)
        config_file = os.path.join(folder, CONFIG)
        if not os.path.isfile(config_file):
            raise FormatError(f"{path}: {CONFIG} is missing, so this is no Hugging Face model", path=path, offset=0)
        config = parse_object(bytes(_read(config_file, MAX_CONFIG)), config_file)
        fds: dict[str, int] = {}
        try:
            tensors, free = _tensors(folder, single, fds)
            tokenizer = next((p for n in TOKENIZERS if os.path.isfile(p := os.path.join(folder, n))), None)
            super().__init__(path, {"config": config, "tokenizer_file": tokenizer, "safetensors": free}, tensors, fds)
        except BaseException:
            for fd in fds.values():
                os.close(fd)
            raise


def _read(file: str, most: int) -> bytearray:
    """A small file whole."""
    fd = open_for_reading(file)
    try:
        size = os.fstat(fd).st_size
        if size > most:
            raise FormatError(f"{file}: {size} bytes of JSON, expected at most {most}", path=file, offset=0)
        data = bytearray(size)
        read_exactly(fd, memoryview(data), 0, file)
        return data
    finally:
        os.close(fd)


def _tensors(folder: str, single: str | None, fds: dict[str, int]) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    index = os.path.join(folder, INDEX)
    file = os.path.join(folder, single or SINGLE)
    if single is None and os.path.isfile(index):
        return _sharded(folder, index, fds)
    if not os.path.isfile(file):
        raise FormatError(f"{folder}: has neither {SINGLE} nor {INDEX}", path=folder, offset=0)
    return read_header(file, fds)


def _sharded(folder: str, index: str, fds: dict[str, int]) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """All shards that the index names, each tensor in the shard that it says."""
    shards, places = _read_index(index)
    tensors: dict[str, TensorInfo] = {}
    free: dict[str, str] = {}
    for name in sorted(shards):
        file = os.path.join(folder, name)
        if not os.path.isfile(file):
            raise HyperionIOError(f"{index}: the shard {name!r} is missing", path=file)
        part, metadata = read_header(file, fds)
        free = free or metadata
        twice = tensors.keys() & part.keys()
        if twice:
            raise FormatError(f"{index}: tensor {min(twice)!r:.80} is in two shards", path=index, offset=0)
        tensors.update(part)
    for tensor, name in places.items():
        if tensor not in tensors or tensors[tensor].path != os.path.join(folder, name):
            raise FormatError(f"{index}: tensor {tensor!r:.80} is not in {name!r}", path=index, offset=0)
    return tensors, free


def _read_index(index: str) -> tuple[set[str], dict[str, str]]:
    """(names of the shards, tensor -> shard). A name that is more than the name of a file beside the index is refused."""
    scan = Scanner(_read(index, MAX_HEADER), index)
    shards: dict[str, str] = {}
    places: dict[str, str] = {}
    found = False
    for key in scan.members():
        if key != "weight_map":
            scan.skip()
            continue
        if found:
            raise scan.fail("weight_map comes twice")
        found = True
        for tensor in scan.members():
            start = scan.at
            name = scan.string()
            if name not in shards:
                if name in ("", ".", "..") or any(c in name for c in "/\\:\0"):
                    raise scan.fail(f"{name!r:.80} is not the name of a file in the directory", start)
                shards[name] = name
            if tensor in places:
                raise scan.fail(f"tensor {tensor!r:.80} comes twice", start)
            places[tensor] = shards[name]
    scan.end()
    if not places:
        raise FormatError(f"{index}: weight_map is missing or empty", path=index, offset=0)
    return set(shards), places
