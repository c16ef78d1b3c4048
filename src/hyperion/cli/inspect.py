"""``hyperion inspect``: what a file holds, read from its header alone."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from hyperion.cli.common import as_json, emit, emit_json, model_path

SHOWN_ITEMS = 8


@click.command("inspect")
@click.argument("model", required=False)
@click.option("--tensors/--no-tensors", default=True, show_default=True, help="List every tensor.")
@as_json
def command(model: str | None, tensors: bool, json_output: bool) -> None:
    """Print MODEL's architecture, metadata, tokenizer, tensors, types and sizes; no weights are read.

    MODEL is a .gguf or .hyperion file or a Hugging Face directory; without it, the small model that ships in the
    package.
    """
    from hyperion.formats import open_container

    with model_path(model) as path:
        container = open_container(path)
        try:
            found = describe(path, container)
        finally:
            container.close()
    if not tensors:
        found.pop("tensors")
    if json_output:
        emit_json(found)
    else:
        emit(as_text(found) + "\n")


def describe(path: Path, container: Any) -> dict[str, Any]:
    """All of it as plain data; long lists of the metadata (a vocabulary) are replaced by their length."""
    metadata, tensors = container.metadata, list(container.tensors.values())
    config = metadata.get("config")
    if isinstance(config, Mapping):  # a Hugging Face directory: show its config.json key by key
        metadata = {**{k: v for k, v in metadata.items() if k != "config"}, **config}
    types: dict[str, dict[str, int]] = collections.defaultdict(lambda: {"tensors": 0, "weights": 0, "bytes": 0})
    for tensor in tensors:
        entry = types[tensor.type_name]
        entry["tensors"] += 1
        entry["weights"] += math.prod(tensor.shape)
        entry["bytes"] += tensor.nbytes
    return {
        "path": str(path),
        "format": container.format,
        "architecture": config.get("model_type") if isinstance(config, Mapping) else metadata.get("general.architecture"),
        "parameters": sum(entry["weights"] for entry in types.values()),
        "bytes": sum(entry["bytes"] for entry in types.values()),
        "tokenizer": tokenizer(metadata),
        "metadata": {str(key): plain(value) for key, value in metadata.items()},
        "types": dict(sorted(types.items(), key=lambda item: -item[1]["bytes"])),
        "tensors": [
            {
                "name": t.name,
                "shape": [int(n) for n in t.shape],
                "type": t.type_name,
                "bytes": int(t.nbytes),
                "offset": int(t.offset),
                "file": Path(t.path).name,
            }
            for t in tensors
        ],
    }


def tokenizer(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer as the file or the directory names it; empty where there is none."""
    if "tokenizer_file" in metadata:  # None: the directory has none
        return {"file": Path(metadata["tokenizer_file"]).name} if metadata["tokenizer_file"] else {}
    prefix = "tokenizer.ggml."
    keys = {"model": "model", "pre": "pre", "bos_token_id": "bos_id", "eos_token_id": "eos_id"}
    found = {ours: metadata[prefix + theirs] for theirs, ours in keys.items() if prefix + theirs in metadata}
    if prefix + "tokens" in metadata:
        found["tokens"] = len(metadata[prefix + "tokens"])
    return {key: plain(value) for key, value in found.items()}


def plain(value: Any) -> Any:
    """A metadata value for JSON: NumPy scalars as numbers, bytes as text, long or binary lists as their length."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (bytes, bytearray)):
        return value.decode("utf-8", "replace") if len(value) <= 1000 else f"{len(value)} bytes"
    if hasattr(value, "ndim") and value.ndim == 0:
        return value.item()
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return value
    if len(value) > SHOWN_ITEMS:
        return f"{len(value)} items"
    return [plain(item) for item in value]


def as_text(found: dict[str, Any]) -> str:
    """The description for a reader."""
    from hyperion.memory import format_size

    words = ", ".join(f"{key} {value}" for key, value in found["tokenizer"].items())
    lines = [
        f"{found['path']}: {found['format']}, {found['architecture'] or 'no architecture'}",
        f"{found['parameters']:,} parameters, {format_size(found['bytes'])} of tensors",
        f"tokenizer: {words or 'none'}",
        "",
        "metadata",
        *(f"  {key} = {shorten(value)}" for key, value in found["metadata"].items()),
        "",
        "types",
    ]
    for name, entry in found["types"].items():
        lines.append(
            f"  {name:<8} {entry['tensors']:>5} tensors {entry['weights']:>16,} weights {format_size(entry['bytes']):>10}"
        )
    if "tensors" in found:
        width = max((len(t["name"]) for t in found["tensors"]), default=0)
        lines += ["", "tensors"]
        for t in found["tensors"]:
            shape = " × ".join(map(str, t["shape"]))
            lines.append(f"  {t['name']:<{width}}  {t['type']:<8} {shape:>16} {format_size(t['bytes']):>10}")
    return "\n".join(lines)


def shorten(value: Any) -> str:
    """One line of at most about a screen's width; control characters are escaped, as the file is not trusted."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= 100 else text[:97] + "..."
