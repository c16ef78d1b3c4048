"""What a mapped model says of its layers: settings, descriptors, counters, and weights as arrays."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hyperion._kernels import quant
from hyperion.errors import HyperionError, InvalidArgumentError, UnsupportedError
from hyperion.formats import TensorInfo
from hyperion.loading.layers import LayerTensors
from hyperion.memory import parse_size

__all__ = [
    "DEFAULT_PRIORITY",
    "Layer",
    "LayerDescriptor",
    "LayerWeights",
    "MappedModelStats",
    "MmapConfig",
    "create_default_mmap_config",
    "dtype_of",
    "is_aligned",
    "stored_shape",
]

DEFAULT_PRIORITY = 0.0

# What NumPy has for a type. bfloat16 comes as its bits; types that are not here as bytes.
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "C64": "<c8", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "u1",
}  # fmt: skip
_BLOCK_TYPES = {t.id for t in quant.TYPES.values()}


@dataclasses.dataclass(kw_only=True)
class MmapConfig:
    """Settings of a :class:`MappedModel`; checked when made and when a field is set.

    Parameters
    ----------
    max_cache_size : int or str
        The layers that are kept in memory never take more bytes together.
    prefetch_enabled : bool
        Whether :meth:`MappedModel.prefetch_layer_weights` does anything.
    prefetch_threads : int
        Threads that prefetch, 1 or more; they start with the first prefetch.
    adaptive_caching : bool
        Of layers of one priority give up the one that is needed last, as far as the accesses so far tell: when layers
        are used in turn, over and over, that keeps some of them for good, where least recently used would lose each one
        just before it is needed. False: least recently used.
    min_layer_cache_size : int or str
        Layers of at most this size are given up last: there is little to gain.
    """

    max_cache_size: int | str = 512 << 20
    prefetch_enabled: bool = True
    prefetch_threads: int = 2
    adaptive_caching: bool = True
    min_layer_cache_size: int | str = 8 << 10

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("max_cache_size", "min_layer_cache_size"):
            value = parse_size(value)
        elif name == "prefetch_threads":
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 256:
                raise InvalidArgumentError(f"MmapConfig.{name} is {value!r}, expected an integer from 1 to 256")
        elif name in ("prefetch_enabled", "adaptive_caching"):
            if not isinstance(value, bool):
                raise InvalidArgumentError(f"MmapConfig.{name} is {value!r}, expected a bool")
        else:
            raise InvalidArgumentError(f"MmapConfig has no field {name!r}")
        object.__setattr__(self, name, value)


def create_default_mmap_config() -> MmapConfig:
    """The defaults, to be changed field by field."""
    return MmapConfig()


@dataclasses.dataclass(eq=False)
class LayerDescriptor:
    """A layer and what has become of it. The model keeps it up to date; it is for reading.

    Attributes
    ----------
    offset : int
        Where the layer's first tensor begins in its file.
    size : int
        Bytes of its tensors.
    layer_index : int
        0 is the embedding (with all that precedes the blocks), the blocks follow, the output head is the last.
    precision : int
        Bits of the type that most of its weights have: 4 for Q4_K.
    cached_weights : LayerWeights or None
        The weights while they are in memory.
    is_active : bool
        Whether they are in memory.
    priority : float
        The higher, the later the layer is given up.
    last_accessed : int
        When the weights were last asked for, in nanoseconds since 1970; 0 for never.
    access_count : int
        How often they were asked for.
    """

    offset: int
    size: int
    layer_index: int
    precision: int
    cached_weights: LayerWeights | None = dataclasses.field(default=None, repr=False)
    is_active: bool = False
    priority: float = DEFAULT_PRIORITY
    last_accessed: int = 0
    access_count: int = 0


@dataclasses.dataclass(frozen=True)
class MappedModelStats:
    """What the cache of a mapped model did.

    Attributes
    ----------
    hits, misses : int
        Layers that were in memory (or on their way) when they were asked for, and that were not.
    evictions : int
        Layers given up to make room.
    prefetches : int
        Prefetches that were started.
    bytes_read : int
        Bytes read from the files, pages that the system still had included.
    cached_bytes, peak_cached_bytes : int
        Bytes of the layers in memory, now and at most.
    """

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    prefetches: int = 0
    bytes_read: int = 0
    cached_bytes: int = 0
    peak_cached_bytes: int = 0


class LayerWeights(Mapping[str, np.ndarray]):
    """Read-only mapping of tensor names to the weights of one layer.

    Arrays are views of the file and keep its mapping alive, also when the model is closed. Float and integer types come
    as such in the tensor's shape; bfloat16 as its bits (uint16); quantized types as uint8 with the blocks of a row along
    the last axis; matrices of a .hyperion file as uint8 [panels, bytes] in their packed layout, or where they are sparse uint8
    [bytes]. Data that is not aligned to
    its type is copied.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], infos: Mapping[str, TensorInfo], dequantize: bool = False) -> None:
        self._arrays, self._infos, self._dequantize = arrays, infos, dequantize

    def __getitem__(self, name: str) -> np.ndarray:
        stored = self._arrays[name]
        return _dequantized(stored, self._infos[name]) if self._dequantize else stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return f"LayerWeights({len(self)} tensors: {', '.join(self)})"


def _dequantized(stored: np.ndarray, info: TensorInfo) -> np.ndarray:
    """float32 of a stored tensor, computed when it is asked for."""
    raw: Any = stored.reshape(-1).view(np.uint8)
    if info.packed:
        return quant.PackedMatrix(info.type, info.shape[0], info.shape[1], raw, offsets=info.offsets).dequantize()
    if info.type_name == "C64":
        raise UnsupportedError(f"tensor {info.name!r} is complex, which float32 cannot hold", tensor=info.name)
    if stored.dtype != np.uint8 and info.type_name != "BF16":
        return stored.astype(np.float32)
    if info.type_name in ("U8", "BOOL"):
        return stored.astype(np.float32)
    if info.type not in _BLOCK_TYPES:
        raise UnsupportedError(f"tensor {info.name!r}: type {info.type_name} cannot be dequantized", tensor=info.name)
    if stored.size == 0:
        return np.empty(info.shape, np.float32)
    cols = info.shape[-1] if info.shape else 1
    return quant.dequantize(info.type, raw, math.prod(info.shape[:-1]), cols).reshape(info.shape)


def dtype_of(info: TensorInfo) -> np.dtype[Any]:
    """What NumPy has for what is stored."""
    return np.dtype("u1" if info.packed else _DTYPES.get(info.type_name, "u1"))


def stored_shape(info: TensorInfo) -> tuple[int, ...]:
    """The shape of what is stored: the tensor's, or rows of bytes, or packed panels of bytes."""
    if info.offsets is not None:
        return (info.nbytes,)
    if info.packed:
        panels = -(-info.shape[0] // quant.PANEL)
        return panels, info.nbytes // panels
    if info.type_name in _DTYPES or not info.shape:
        return info.shape
    rows = math.prod(info.shape[:-1])
    return *info.shape[:-1], info.nbytes // rows if rows else 0


def is_aligned(info: TensorInfo) -> bool:
    """Whether a view of the file can be used as it is."""
    return info.offset % dtype_of(info).alignment == 0


class Layer:
    """A layer's tensors, its descriptor, and what the policy knows of it."""

    def __init__(self, index: int, group: LayerTensors) -> None:
        self.name, self.tensors, self.size = group.name, group.tensors, group.nbytes
        self.infos = {t.name: t for t in group.tensors}
        first = group.tensors[0].offset if group.tensors else 0
        self.ranges = _ranges(group.tensors)
        self.descriptor = LayerDescriptor(first, self.size, index, group.bits)
        self.arrays: dict[str, np.ndarray] = {}
        self.loading = False
        self.wanted = False  # prefetched and not asked for yet
        self.error: HyperionError | None = None
        self.last = 0  # number of the last access among all
        self.period = math.inf  # accesses from one to the next, smoothed

    @property
    def index(self) -> int:
        """The layer's number."""
        return self.descriptor.layer_index

    @property
    def kept(self) -> bool:
        """Whether its room is reserved: it is in memory, or on its way."""
        return self.descriptor.is_active or self.loading


def _ranges(tensors: tuple[TensorInfo, ...]) -> list[tuple[str, int, int]]:
    """(file, start, end) of the tensors' bytes, neighbours joined."""
    joined: list[tuple[str, int, int]] = []
    for t in tensors:
        if joined and joined[-1][0] == t.path and t.offset - joined[-1][2] < 4096:
            joined[-1] = (t.path, joined[-1][1], t.offset + t.nbytes)
        else:
            joined.append((t.path, t.offset, t.offset + t.nbytes))
    return joined
