"""Writes the API pages: the public names by the room of the house that they come from."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import hyperion

ROOMS = {
    "generation": ("Text", "Opening a model, generating, conversations."),
    "tokenizer": ("Tokenizer", "Text to token ids and back."),
    "models": ("Models", "Sessions, conversion, precision and pruning of whole models."),
    "memory": ("Memory", "The ledger, pools, tracking and reports."),
    "tensor": ("Tensors", "Static, pooled and streaming storage."),
    "quantization": ("Quantization", "Numbers in fewer bits."),
    "sparse": ("Sparse matrices", "CSR, CSC and BSR."),
    "loading": ("Loading", "Mapped files, and what of a model is in memory."),
    "scheduling": ("Scheduling", "Plans, graphs of layers, checkpoints, the optimizer."),
    "performance": ("Performance", "Metrics, their analysis, trends."),
    "dense": ("Dense arrays", "Products and activations of NumPy arrays."),
    "cpu": ("Processor", "Instruction sets and kernels."),
    "io": ("Files", "File and path helpers."),
    "config": ("Configuration files", "Typed keys and values."),
    "errors": ("Errors", "One tree of exceptions with the documented codes."),
    "functional": ("Procedures", "The reference's procedures, one line each over a method."),
}


def room_of(name: str) -> str:
    """The component of the package that a public name comes from."""
    value: Any = getattr(hyperion, name)
    module = getattr(value, "__module__", None) or hyperion._LAZY.get(name, "hyperion.errors")
    return str(module).split(".")[1]


def pages() -> dict[str, list[str]]:
    """Public names by room, classes first."""
    found: dict[str, list[str]] = {room: [] for room in ROOMS}
    for name in hyperion.__all__:
        found.setdefault(room_of(name), []).append(name)
    for names in found.values():
        names.sort(key=lambda name: (not inspect.isclass(getattr(hyperion, name)), name))
    return {room: names for room, names in found.items() if names}


def write(folder: Path) -> None:
    """One page a room, and the index of rooms."""
    rooms = pages()
    for room, names in rooms.items():
        title, about = ROOMS.get(room, (room.capitalize(), f"From ``hyperion.{room}``."))
        listed = "\n".join(f"   {name}" for name in names)
        text = (
            f"{title}\n{'=' * len(title)}\n\n{about}\n\n.. currentmodule:: hyperion\n\n"
            f".. autosummary::\n   :toctree: names\n   :nosignatures:\n\n{listed}\n"
        )
        _replace(folder / f"{room}.rst", text)
    index = "API reference\n=============\n\n.. toctree::\n   :maxdepth: 1\n\n" + "".join(f"   {room}\n" for room in rooms)
    index += "\nEvery name of the C-shaped reference, with its Python name and file: :download:`api_map.md <../api_map.md>`.\n"
    _replace(folder / "api.rst", index)


def _replace(path: Path, text: str) -> None:
    """Write unless it is there: Sphinx reads again what has changed."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
