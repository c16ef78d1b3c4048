"""Opening a model file by what it is, not by what it is called."""

from __future__ import annotations

import os

from hyperion.errors import FormatError, HyperionIOError, InvalidArgumentError
from hyperion.formats.container import Container, open_for_reading
from hyperion.formats.gguf import GGUFContainer, is_gguf
from hyperion.formats.huggingface import HuggingFaceContainer

__all__ = ["open_container"]


def open_container(path: str | os.PathLike[str]) -> Container:
    """Open a GGUF file (.gguf, .hyperion, .tmai; any part of a split one), a Hugging Face directory, or a safetensors file
    with config.json beside it. No weight is read.

    Raises
    ------
    HyperionIOError
        If there is no such file, or it cannot be read.
    FormatError
        If it is none of these, or does not follow its format.
    """
    try:
        name = os.fsdecode(os.fspath(path))
    except TypeError:
        raise InvalidArgumentError(f"a path is str or PathLike, not {type(path).__name__}") from None
    if os.path.isdir(name):
        return HuggingFaceContainer(name)
    if not os.path.exists(name):
        raise HyperionIOError(f"there is no file {name!r}", path=name)
    fd = open_for_reading(name)
    try:
        head = os.read(fd, 16)
    except OSError as error:
        raise HyperionIOError(f"cannot read {name!r}: {error.strerror}", path=name) from None
    finally:
        os.close(fd)
    if is_gguf(head):
        return GGUFContainer(name)
    if len(head) > 8 and head[8:9] == b"{":
        return HuggingFaceContainer(name)
    what = "is empty" if not head else f"begins with {head[:8]!r}"
    raise FormatError(f"{name!r} {what}: expected GGUF or safetensors", path=name, offset=0)
