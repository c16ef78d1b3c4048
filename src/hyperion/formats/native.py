"""`.hyperion`: a GGUF v3 container whose weight matrices are packed panels, ready for the kernels.

Layout:
  1. A GGUF header with general.alignment 4096, the model's own metadata, and the keys below.
  2. Tensors in the order in which a forward pass uses them. A matrix `blk.0.attn_q.weight` is the I8 tensor
     `blk.0.attn_q.weight.panels` of one dimension, its packed panels' bytes (c/common/panel.h): no other tool finds a
     tensor of a name and type that it would take for weights. Vectors are F32 under their own names.
  3. Keys: hyperion.version (u32), hyperion.panel.version (u32: the layout of panels), hyperion.panel.rows (u32),
     hyperion.layer_count (u32: the embedding, the blocks, the output head),
     hyperion.checksum.type (string "xxh64-32": the low half of XXH64, seed 0),
     and a table with one row a tensor: hyperion.tensor.name (strings), .storage (u8: 0 plain, 1 panels, 2 sparse panels),
     .type (u32: the weights' GGUF type), .rows and .cols (u64; a vector has one row), .layer (u32).
  4. hyperion.checksum.<layer> (u32 array): for each tensor of the layer in the table's order one checksum a panel, or one
     for all of a plain tensor.
  5. Sparse panels (Q4_0 and Q8_0) leave out blocks of 16 rows and 32 columns that are zero. They are the I8 tensor
     `blk.0.attn_q.weight.sparse_panels`; hyperion.kept.<layer> (u32 array, where a layer has any) says for each such tensor
     of the layer in the table's order how many blocks each panel has, and so where the panels are.
"""

from __future__ import annotations

import dataclasses
import functools
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
SPARSE_SUFFIX = ".sparse_panels"
PLAIN, PACKED, SPARSE = 0, 1, 2
SPARSE_TYPES = ("Q4_0", "Q8_0")
SPARSE_ALIGN, MOST_BLOCKS = 32, 1 << 16
MAX_LAYERS = 1 << 16
_U8, _U32, _STRING, _ARRAY = 0, 4, 8, 9
_COLUMNS = {"storage": np.uint8, "type": np.uint32, "rows": np.uint64, "cols": np.uint64, "layer": np.uint32}


def is_native(metadata: Mapping[str, Any]) -> bool:
    """Whether a GGUF file's metadata says that it is a .hyperion file."""
    return PREFIX + "version" in metadata


@dataclasses.dataclass(frozen=True)
class NativeTensor:
    """A tensor as the table has it. `rows` is 1 for a vector, which is not packed and has type F32; `kept` are the blocks that
    each panel of a sparse tensor has."""

    name: str
    type: int
    rows: int
    cols: int
    layer: int
    packed: bool
    kept: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def storage(self) -> int:
        """PLAIN, PACKED or SPARSE."""
        return PLAIN if not self.packed else PACKED if self.kept is None else SPARSE

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        """Where the bytes of each checksum begin (a panel's, or all of a plain tensor), and where they end: uint64."""
        t = TYPES[self.type]
        if self.kept is None:
            unit = (PANEL if self.packed else self.rows) * (self.cols // t.block_len) * t.block_bytes
            return np.arange(self.panels + 1, dtype=np.uint64) * np.uint64(unit)
        kept = self.kept.astype(np.int64)
        sizes = -(-2 * kept // SPARSE_ALIGN) * SPARSE_ALIGN + kept * (PANEL * t.block_bytes)
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint64)

    @property
    def panels(self) -> int:
        """How many checksums it has."""
        return -(-self.rows // PANEL) if self.packed else 1

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        if self.kept is None:  # Python's integers, as sizes come from a file
            t = TYPES[self.type]
            return (self.panels * PANEL if self.packed else self.rows) * (self.cols // t.block_len) * t.block_bytes
        return int(self.offsets[-1])

    def layout(self) -> TensorLayout:
        """What a GGUF header says of it."""
        if self.packed:
            suffix = SUFFIX if self.kept is None else SPARSE_SUFFIX
            return TensorLayout(self.name + suffix, 24, (self.nbytes,), self.nbytes)
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
        (data, offsets, out): sets out[i] to the checksum of bytes [offsets[i], offsets[i + 1]) of data.
    file : AtomicFile, optional
        Where to write; by default a file that will be `path`.
    """

    def __init__(
        self,
        path: Any,
        metadata: Mapping[str, Typed],
        tensors: Sequence[NativeTensor],
        checksums: Callable[[Any, np.ndarray, np.ndarray], None],
        file: AtomicFile | None = None,
    ) -> None:
        self.tensors, self._checksums = tensors, checksums
        layers = max(t.layer for t in tensors) + 1
        self.sums = [np.zeros(sum(t.panels for t in tensors if t.layer == i), np.uint32) for i in range(layers)]
        self._used = [0] * layers
        self._tensor = self._panel = 0
        table = {
            "storage": [t.storage for t in tensors], "type": [t.type for t in tensors],
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
            **self._kept_keys(),
        }
        values = {**metadata, **{PREFIX + k: v for k, v in own.items()}}
        self._writer = GGUFWriter(path, values, [t.layout() for t in tensors], ALIGNMENT, file)

    def _sum_keys(self) -> dict[str, Typed]:
        return {f"checksum.{i}": Typed(_ARRAY, sums) for i, sums in enumerate(self.sums)}

    def _kept_keys(self) -> dict[str, Typed]:
        kept: dict[int, list[np.ndarray]] = {}
        for t in self.tensors:
            if t.kept is not None:
                kept.setdefault(t.layer, []).append(t.kept)
        return {f"kept.{i}": Typed(_ARRAY, np.concatenate(counts).astype(np.uint32)) for i, counts in kept.items()}

    @property
    def nbytes(self) -> int:
        """Size of the complete file."""
        return self._writer.nbytes

    def write(self, data: Any) -> None:
        """Whole panels of the tensor whose turn it is, or all of a plain one."""
        if self._tensor == len(self.tensors):
            raise InvalidArgumentError("every tensor is written")
        t = self.tensors[self._tensor]
        start = int(t.offsets[self._panel])
        last = int(np.searchsorted(t.offsets, start + memoryview(data).nbytes, side="right")) - 1
        n = last - self._panel
        if n <= 0 or int(t.offsets[last]) - start != memoryview(data).nbytes:
            raise InvalidArgumentError(f"tensor {t.name!r}: {memoryview(data).nbytes} bytes are not whole panels of it")
        at = self._used[t.layer]
        self._checksums(data, t.offsets[self._panel : last + 1] - t.offsets[self._panel], self.sums[t.layer][at : at + n])
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
        used, seen, kept = [0] * self.layers, set(), [0] * self.layers
        for name, storage, number, rows, cols, layer in zip(names, *columns, strict=True):
            if name in seen:
                raise self.fail(f"tensor {name!r} is twice in the table")
            seen.add(name)
            tensor = self._tensor(name, storage, number, rows, cols, layer)
            if storage == SPARSE:
                tensor = self._sparse(tensor, kept)
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
                checksums=sums[layer][start : used[layer]], offsets=None if tensor.kept is None else _frozen(tensor.offsets),
            )  # fmt: skip
        for layer, n in enumerate(used):
            if n != len(sums[layer]):
                raise self.fail(f"{PREFIX}checksum.{layer} has {len(sums[layer])} entries, expected {n}")
        for layer, n in enumerate(kept):
            if n:
                self.array(f"kept.{layer}", np.uint32, n)

    def _sparse(self, tensor: NativeTensor, used: list[int]) -> NativeTensor:
        """A sparse tensor with the numbers of its panels' blocks; `used` counts, by layer, those that tensors have taken."""
        blocks, at = tensor.cols // TYPES[tensor.type].block_len, used[tensor.layer]
        if TYPES[tensor.type].name not in SPARSE_TYPES or blocks > MOST_BLOCKS:
            raise self.fail(f"tensor {tensor.name!r}: {tensor.cols} columns of {TYPES[tensor.type].name} cannot be sparse")
        counts = self.array(f"kept.{tensor.layer}", np.uint32)
        used[tensor.layer] = at + tensor.panels
        if used[tensor.layer] > len(counts):
            raise self.fail(f"{PREFIX}kept.{tensor.layer} has {len(counts)} entries, too few for tensor {tensor.name!r}")
        mine = counts[at : used[tensor.layer]]
        if int(mine.max()) > blocks:
            raise self.fail(f"tensor {tensor.name!r} has a panel of {int(mine.max())} blocks, of {blocks}")
        return dataclasses.replace(tensor, kept=mine)

    def _tensor(self, name: str, storage: int, number: int, rows: int, cols: int, layer: int) -> NativeTensor:
        """One row of the table; numbers come from the file."""
        if storage not in (PLAIN, PACKED, SPARSE):
            raise UnsupportedError(f"{self.path}: tensor {name!r} is stored in way {storage}, which this version does not know")
        if number not in TYPES:
            raise self.fail(f"tensor {name!r} has the unknown type {number}")
        if rows < 1 or cols < 1 or cols % TYPES[number].block_len:
            raise self.fail(f"tensor {name!r}: {rows} x {cols} of {TYPES[number].name} cannot be")
        if storage == PLAIN and (rows != 1 or TYPES[number].name != "F32"):
            raise self.fail(f"tensor {name!r}: a plain tensor is one row of F32, not {rows} of {TYPES[number].name}")
        if layer >= self.layers:
            raise self.fail(f"tensor {name!r} is of layer {layer}, of {self.layers}")
        return NativeTensor(name, number, rows, cols, layer, storage != PLAIN)


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
