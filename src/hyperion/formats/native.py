"""`.hyperion`: a GGUF v3 container whose weight matrices are packed panels, ready for the kernels.

Layout:
  1. A GGUF header with general.alignment 4096, the model's own metadata, and the keys below.
  2. Tensors in the order in which a forward pass uses them. A matrix `blk.0.attn_q.weight` is the I8 tensor
     `blk.0.attn_q.weight.panels` of one dimension, its packed panels' bytes (c/common/panel.h): no other tool finds a
     tensor of a name and type that it would take for weights. Vectors are F32 under their own names.
  3. Keys: hyperion.version (u32), hyperion.panel.version (u32: the layout of panels), hyperion.panel.rows (u32),
     hyperion.layer_count (u32: the embedding, the blocks, the output head),
     hyperion.checksum.type (string "xxh64-32": the low half of XXH64, seed 0),
     and a table with one row a tensor: hyperion.tensor.name (strings), .storage (u8: 0 plain, 1 panels), .type (u32:
     the weights' GGUF type), .rows and .cols (u64; a vector has one row), .layer (u32).
  4. hyperion.checksum.<layer> (u32 array): for each tensor of the layer in the table's order one checksum a panel, or one
     for all of a plain tensor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hyperion.errors import FormatError, InvalidArgumentError, UnsupportedError
from hyperion.formats.container import Container, TensorInfo
from hyperion.formats.gguf import Metadata, StringArray
from hyperion.formats.types import TYPES
from hyperion.formats.writing import GGUFWriter, TensorLayout, Typed
from hyperion.io import AtomicFile

__all__ = ["NativeContainer", "NativeTensor", "NativeWriter", "is_native"]

VERSION, PANEL_VERSION = 1, 1
PANEL = 16
ALIGNMENT = 4096
SUFFIX = ".panels"
PREFIX = "hyperion."
CHECKSUM = "xxh64-32"
PLAIN, PACKED = 0, 1
MAX_LAYERS = 1 << 16
_U8, _U32, _STRING, _ARRAY = 0, 4, 8, 9
_COLUMNS = {"storage": np.uint8, "type": np.uint32, "rows": np.uint64, "cols": np.uint64, "layer": np.uint32}


def is_native(metadata: Mapping[str, Any]) -> bool:
    """Whether a GGUF file's metadata says that it is a .hyperion file."""
    return PREFIX + "version" in metadata


@dataclasses.dataclass(frozen=True)
class NativeTensor:
    """A tensor as the table has it. `rows` is 1 for a vector, which is not packed and has type F32."""

    name: str
    type: int
    rows: int
    cols: int
    layer: int
    packed: bool

    @property
    def panel_bytes(self) -> int:
        """Bytes that one checksum is for: a panel, or all of a plain tensor."""
        t = TYPES[self.type]
        return (PANEL if self.packed else self.rows) * (self.cols // t.block_len) * t.block_bytes

    @property
    def panels(self) -> int:
        """How many checksums it has."""
        return -(-self.rows // PANEL) if self.packed else 1

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.panels * self.panel_bytes

    def layout(self) -> TensorLayout:
        """What a GGUF header says of it."""
        if self.packed:
            return TensorLayout(self.name + SUFFIX, 24, (self.nbytes,), self.nbytes)
        return TensorLayout(self.name, self.type, (self.cols,), self.nbytes)


class NativeWriter:
    """Writes a .hyperion file tensor by tensor.

    Parameters
    ----------
    path : str or PathLike
    metadata : mapping of str to Typed
        The model's own; keys under ``hyperion.`` are added.
    tensors : sequence of NativeTensor
        In execution order.
    checksums : callable
        (data, nbytes, out): sets out[i] to the checksum of the ith run of `nbytes` bytes of data.
    file : AtomicFile, optional
        Where to write; by default a file that will be `path`.
    """

    def __init__(
        self,
        path: Any,
        metadata: Mapping[str, Typed],
        tensors: Sequence[NativeTensor],
        checksums: Callable[[Any, int, np.ndarray], None],
        file: AtomicFile | None = None,
    ) -> None:
        self.tensors, self._checksums = tensors, checksums
        layers = max(t.layer for t in tensors) + 1
        self.sums = [np.zeros(sum(t.panels for t in tensors if t.layer == i), np.uint32) for i in range(layers)]
        self._used = [0] * layers
        self._tensor = self._panel = 0
        table = {
            "storage": [PACKED if t.packed else PLAIN for t in tensors], "type": [t.type for t in tensors],
            "rows": [t.rows for t in tensors], "cols": [t.cols for t in tensors], "layer": [t.layer for t in tensors],
        }  # fmt: skip
        own = {
            "version": Typed(_U32, VERSION),
            "panel.version": Typed(_U32, PANEL_VERSION),
            "panel.rows": Typed(_U32, PANEL),
            "layer_count": Typed(_U32, layers),
            "checksum.type": Typed(_STRING, CHECKSUM),
            "tensor.name": Typed(_ARRAY, [t.name for t in tensors]),
            **{f"tensor.{k}": Typed(_ARRAY, np.array(table[k], dtype)) for k, dtype in _COLUMNS.items()},
            **self._sum_keys(),
        }
        values = {**metadata, **{PREFIX + k: v for k, v in own.items()}}
        self._writer = GGUFWriter(path, values, [t.layout() for t in tensors], ALIGNMENT, file)

    def _sum_keys(self) -> dict[str, Typed]:
        return {f"checksum.{i}": Typed(_ARRAY, sums) for i, sums in enumerate(self.sums)}

    @property
    def nbytes(self) -> int:
        """Size of the complete file."""
        return self._writer.nbytes

    def write(self, data: Any) -> None:
        """Whole panels of the tensor whose turn it is, or all of a plain one."""
        if self._tensor == len(self.tensors):
            raise InvalidArgumentError("every tensor is written")
        t = self.tensors[self._tensor]
        n, rest = divmod(memoryview(data).nbytes, t.panel_bytes)
        if rest or n == 0 or self._panel + n > t.panels:
            raise InvalidArgumentError(f"tensor {t.name!r}: {memoryview(data).nbytes} bytes are not whole panels of it")
        at = self._used[t.layer]
        self._checksums(data, t.panel_bytes, self.sums[t.layer][at : at + n])
        self._writer.write(data)
        self._used[t.layer] += n
        self._panel += n
        if self._panel == t.panels:
            self._tensor, self._panel = self._tensor + 1, 0

    def finish(self) -> None:
        """Write the checksums, and give the file its name."""
        self._writer.finish({PREFIX + k: v for k, v in self._sum_keys().items()})

    def __enter__(self) -> NativeWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.file.close()


class NativeContainer(Container):
    """An open .hyperion file: tensors under their canonical names, with the weights' types and shapes.

    Takes over the descriptors of the GGUF container that it is made from.

    Raises
    ------
    FormatError
        If keys are missing or do not agree with each other and the tensors.
    UnsupportedError
        If a later version wrote it.
    """

    format = "hyperion"

    def __init__(self, source: Container) -> None:
        try:
            tensors = dict(_Table(source).tensors())
            path, metadata = source.path, source.metadata
        except BaseException:
            source.close()
            raise
        super().__init__(path, metadata, tensors, source.detach())


class _Table:
    """The keys of a .hyperion file, checked against its tensors."""

    def __init__(self, source: Container) -> None:
        self.path, self.source = source.path, source
        assert isinstance(source.metadata, Metadata)
        self.metadata = source.metadata
        for key, most in (("version", VERSION), ("panel.version", PANEL_VERSION)):
            value = self.integer(key)
            if not 1 <= value <= most:
                raise UnsupportedError(f"{self.path}: {PREFIX}{key} is {value}; this version reads 1 to {most}", key=PREFIX + key)
        if self.integer("panel.rows") != PANEL:
            raise UnsupportedError(f"{self.path}: panels of {self.integer('panel.rows')} rows, expected {PANEL}")
        kind = self.metadata.get(PREFIX + "checksum.type")
        if kind != CHECKSUM:
            raise UnsupportedError(f"{self.path}: checksums of type {kind!r:.40}, expected {CHECKSUM!r}")
        self.layers = self.integer("layer_count")
        if not 1 <= self.layers <= MAX_LAYERS:
            raise self.fail(f"{PREFIX}layer_count is {self.layers}, expected 1 to {MAX_LAYERS}")
        if self.metadata.get("split.count", 1) != 1:
            raise self.fail("a .hyperion file has one part")

    def fail(self, message: str) -> FormatError:
        return FormatError(f"{self.path}: {message}", path=self.path, offset=0)

    def integer(self, key: str) -> int:
        value = self.metadata.get(PREFIX + key)
        if self.metadata.kinds.get(PREFIX + key) != _U32:
            raise self.fail(f"{PREFIX}{key} is {value!r:.40}, expected a u32")
        return int(value)  # type: ignore[arg-type]

    def array(self, key: str, dtype: Any, count: int | None = None) -> np.ndarray:
        value = self.metadata.get(PREFIX + key)
        if not isinstance(value, np.ndarray) or value.dtype != dtype:
            raise self.fail(f"{PREFIX}{key} is missing, or not an array of {np.dtype(dtype).name}")
        if count is not None and len(value) != count:
            raise self.fail(f"{PREFIX}{key} has {len(value)} entries, expected {count}")
        return value

    def tensors(self) -> Iterator[tuple[str, TensorInfo]]:
        names = self.metadata.get(PREFIX + "tensor.name")
        if not isinstance(names, StringArray):
            raise self.fail(f"{PREFIX}tensor.name is missing, or not an array of strings")
        stored = self.source.tensors
        if len(names) != len(stored):
            raise self.fail(f"the table has {len(names)} tensors, the file {len(stored)}")
        columns = [self.array(f"tensor.{k}", dtype, len(names)).tolist() for k, dtype in _COLUMNS.items()]
        sums = [memoryview(self.array(f"checksum.{i}", np.uint32)).toreadonly() for i in range(self.layers)]
        used, seen = [0] * self.layers, set()
        for name, storage, number, rows, cols, layer in zip(names, *columns, strict=True):
            if name in seen:
                raise self.fail(f"tensor {name!r} is twice in the table")
            seen.add(name)
            tensor = self._tensor(name, storage, number, rows, cols, layer)
            info = stored.get(tensor.layout().name)
            if info is None or (info.type, info.shape, info.nbytes) != tensor.layout()[1:]:
                raise self.fail(f"tensor {name!r}: the table's {rows} x {cols} of {TYPES[number].name} is not what the file has")
            start = used[layer]
            used[layer] += tensor.panels
            if used[layer] > len(sums[layer]):
                raise self.fail(f"{PREFIX}checksum.{layer} has {len(sums[layer])} entries, too few for tensor {name!r}")
            shape = (rows, cols) if tensor.packed else (cols,)
            yield name, info._replace(
                name=name, type=number, type_name=TYPES[number].name, shape=shape, packed=tensor.packed,
                checksums=sums[layer][start : used[layer]],
            )  # fmt: skip
        for layer, n in enumerate(used):
            if n != len(sums[layer]):
                raise self.fail(f"{PREFIX}checksum.{layer} has {len(sums[layer])} entries, expected {n}")

    def _tensor(self, name: str, storage: int, number: int, rows: int, cols: int, layer: int) -> NativeTensor:
        """One row of the table; numbers come from the file."""
        if storage not in (PLAIN, PACKED):
            raise UnsupportedError(f"{self.path}: tensor {name!r} is stored in way {storage}, which this version does not know")
        if number not in TYPES:
            raise self.fail(f"tensor {name!r} has the unknown type {number}")
        if rows < 1 or cols < 1 or cols % TYPES[number].block_len:
            raise self.fail(f"tensor {name!r}: {rows} x {cols} of {TYPES[number].name} cannot be")
        if storage == PLAIN and (rows != 1 or TYPES[number].name != "F32"):
            raise self.fail(f"tensor {name!r}: a plain tensor is one row of F32, not {rows} of {TYPES[number].name}")
        if layer >= self.layers:
            raise self.fail(f"tensor {name!r} is of layer {layer}, of {self.layers}")
        return NativeTensor(name, number, rows, cols, layer, storage == PACKED)
