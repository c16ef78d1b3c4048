"""Model files: GGUF, safetensors, Hugging Face directories."""

from hyperion.formats.container import Container, TensorInfo
from hyperion.formats.opening import open_container
from hyperion.formats.types import TYPES, FileType

__all__ = ["TYPES", "Container", "FileType", "TensorInfo", "open_container"]
