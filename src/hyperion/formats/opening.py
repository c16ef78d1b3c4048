"""Opening a model file by what it is, not by what it is called."""

from __future__ import annotations

import os

from hyperion.errors import FormatError, HyperionIOError, InvalidArgumentError
from hyperion.formats.container import Container, open_for_reading, read_exactly
from hyperion.formats.gguf import GGUFContainer, is_gguf
from hyperion.formats.huggingface import CONFIG, HuggingFaceContainer
from hyperion.formats.native import NativeContainer, is_native
from hyperion.formats.safetensors import SafetensorsContainer

__all__ = ["open_container"]


def open_container(path: str | os.PathLike[str]) -> Container:
    """Open a model file or directory. No weight is read.

    Parameters
    ----------
    path : str or PathLike
        A GGUF file (.gguf, .hyperion, .tmai; any part of a split one), a Hugging Face directory, or a safetensors file.
        A safetensors file with config.json beside it opens as a Hugging Face model; without, its tensors can be listed and
        read, and it is no model. What counts is a file's content, not its name.

    Raises
    ------
    HyperionIOError
        If there is no such file, or it cannot be read.
    FormatError
        If it is none of these, or does not follow its format; ``context["offset"]`` is the byte where.
    """
    try:
        name = os.fsdecode(os.fspath(path))
    except TypeError:
        raise InvalidArgumentError(f"a path is str or PathLike, not {type(path).__name__}") from None
    if os.path.isdir(name):
        return HuggingFaceContainer(name)
    if not os.path.exists(name):
        raise HyperionIOError(f"there is no file or directory {name!r} (models are opened from disk, never downloaded)", path=name)
    fd = open_for_reading(name)
    try:
        head = bytearray(min(16, os.fstat(fd).st_size))
        read_exactly(fd, memoryview(head), 0, name)
    finally:
        os.close(fd)
    if is_gguf(head):
        container = GGUFContainer(name)
        return NativeContainer(container) if is_native(container.metadata) else container
    if head[8:9] == b"{":
        with_config = os.path.isfile(os.path.join(os.path.dirname(name), CONFIG))
        return HuggingFaceContainer(name) if with_config else SafetensorsContainer(name)
    what = "is empty" if not head else f"begins with {bytes(head[:8])!r}"
    raise FormatError(f"{name!r} {what}: expected GGUF, .hyperion or safetensors", path=name, offset=0)
