"""Conversion between model files: GGUF, Hugging Face directories and .hyperion in, .hyperion and GGUF out.

One slab of rows of one tensor is in memory at a time, whatever the size of the model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from hyperion._kernels import quant
from hyperion._kernels.stream import checksums
from hyperion.errors import FormatError, InvalidArgumentError, UnsupportedError
from hyperion.formats import Container, TensorInfo, open_container
from hyperion.formats.native import NativeTensor, NativeWriter
from hyperion.formats.writing import GGUFWriter, TensorLayout
from hyperion.io import AtomicFile
from hyperion.models.architectures import config_from_metadata, describe_model
from hyperion.models.arguments import check_callback
from hyperion.models.convert_metadata import check_same, new_metadata, type_keys
from hyperion.models.convert_source import PANEL, Source, blocks_of_panels, supported_type
from hyperion.models.mixed import MixedPrecisionConfig
from hyperion.models.prune import PruneConfig, PrunedTensor, Selection, block_norms, occupied_tiles, spread
from hyperion.models.quantize_rows import encode_rows
from hyperion.models.recipe import Recipe
from hyperion.quantization import QuantizedTensor, dequantize_tensor

__all__ = ["Conversion", "ConversionJob", "convert", "estimate_conversion", "prune"]

SUFFIXES = {".hyperion": "hyperion", ".tmai": "hyperion", ".gguf": "gguf"}
SLAB_WEIGHTS = 1 << 20
"""Weights that are in memory as float32 at a time."""

WORTH = 0.95
"""Sparse panels are taken where they have less than this share of the dense panels' bytes."""

TILE, MOST_TILES = 32, 1 << 16
F32 = 0

ORDER = (
    "attn_norm", "q", "q_bias", "k", "k_bias", "v", "v_bias", "q_norm", "k_norm", "o", "o_bias",
    "ffn_norm", "gate", "up", "down",
)  # fmt: skip
"""A block's tensors by role, in the order in which it uses them."""

FALLBACKS = {
    "q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0",
}  # fmt: skip
"""For rows that are not whole blocks of 256; rows that are not blocks of 32 become f16."""

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What a conversion wrote, or would write.

    Attributes
    ----------
    path : str
    format : {"hyperion", "gguf"}
    nbytes, source_bytes : int
        Bytes of the tensors of the new file and of the old one; their headers are not counted.
    types : dict of str to int
        Bytes of tensors by type.
    replaced : dict of str to str
        Tensors whose rows the wanted type does not divide, and the type that they have instead.
    """

    path: str
    format: str
    nbytes: int
    source_bytes: int
    types: dict[str, int]
    replaced: dict[str, str]


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A tensor on its way: where it comes from, what it becomes."""

    name: str
    layer: int
    rows: int  # 1 for a vector
    cols: int
    type: int
    info: TensorInfo | None  # None: `values`
    matrix: bool
    heads: int = 0  # rows are reordered within so many heads, see _rotate
    values: np.ndarray | None = None
    method: str | None = None
    kept: np.ndarray | None = None  # blocks of each sparse panel; None: dense
    selection: Selection | None = None  # what is pruned
    block: int = 1  # rows and columns of a block that is pruned or not

    @property
    def nbytes(self) -> int:
        """Bytes as panels."""
        if self.kept is not None:
            return int(quant.sparse_offsets(self.kind, self.kept)[-1])
        return self.kind.packed_bytes(self.rows, self.cols)

    @property
    def kind(self) -> Any:
        return quant.block_type(self.type)

    def slab_rows(self, weights: int = SLAB_WEIGHTS) -> int:
        """Rows of about so many weights that are converted together: whole panels, and whole heads where rows are reordered."""
        unit = math.lcm(PANEL, self.block, self.rows // self.heads if self.heads else 1)
        return max(unit, weights // self.cols // unit * unit)


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    type: str | None = None,
    format: str | None = None,
    *,
    method: str | None = None,
    mixed: MixedPrecisionConfig | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Write a model to another file, in another format or with another numeric type.

    Parameters
    ----------
    src : str or PathLike
        A GGUF file (any part of a split one), a ``.hyperion`` file, or a Hugging Face directory.
    dst : str or PathLike
        The file to write. It appears when it is complete; until then, and after an error, what was there stays.
    type : str, optional
        Type of all weight matrices ("q4_0", "q4_k", "f16", ...); by default each keeps its own. Vectors are F32.
    format : {"hyperion", "gguf"}, optional
        By default what the suffix of `dst` says.
    method : str, optional
        How scales are found: "absmax", "mse" or "hqq" (see :class:`hyperion.QuantizationConfig`), for the types of which
        there are such ("hqq" makes q4_1); by default the type's own way.
    mixed : MixedPrecisionConfig, optional
        A type for each group of matrices in place of one for all; `method` is then that of its int4 matrices, which "hqq"
        makes q4_1.
    progress : callable, optional
        Called with (bytes written, bytes in all) of tensors.

    Returns
    -------
    Conversion

    Raises
    ------
    InvalidArgumentError
        For an unknown type, format or method, or if `dst` is the source itself and not every weight would stay as it is.
    FormatError
        If the source does not follow its format, its bytes are not those of its checksums, or a weight is NaN or infinite.
    UnsupportedError
        If the architecture is unknown, or the target format has no way to express the model or its tokenizer.
    HyperionIOError
        If reading or writing fails.

    Notes
    -----
    Memory does not grow with the model. The rows of a type's blocks that do not fit (K types need 256 columns) take the next
    type that does; :attr:`Conversion.replaced` names them.
    """
    with open_container(src) as container:
        job = ConversionJob(container, dst, Recipe(type, method, mixed), format)
        job.run(progress)
        return job.summary()


def prune(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    config: PruneConfig,
    type: str | None = None,
    *,
    method: str | None = None,
    progress: Progress | None = None,
) -> tuple[Conversion, list[PrunedTensor]]:
    """Write a model whose matrices are thinned out; like :func:`convert`, tensor by tensor in bounded memory.

    Parameters
    ----------
    src, dst, type, method
        See :func:`convert`. Sparse storage is for ``.hyperion`` files and the types q4_0 and q8_0; elsewhere zeros are stored.
    config : PruneConfig
        Of the attention and feed-forward matrices; the embedding and the output head stay as they are.
    progress : callable, optional
        Called with (bytes done, bytes in all), first over the source while blocks are chosen, then over the new file.

    Returns
    -------
    (Conversion, list of PrunedTensor)
    """
    with open_container(src) as container:
        job = ConversionJob(container, dst, Recipe(type, method, prune=config))
        job.run(progress)
        return job.summary(), job.pruned


def estimate_conversion(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    type: str | None = None,
    format: str | None = None,
    method: str | None = None,
    mixed: MixedPrecisionConfig | None = None,
) -> Conversion:
    """What :func:`convert` would write: the exact sizes and types. Nothing is written, and no weight is read."""
    with open_container(src) as container:
        return ConversionJob(container, dst, Recipe(type, method, mixed), format).summary()


class ConversionJob:
    """One conversion, planned when it is made.

    Parameters
    ----------
    container : Container
    dst : path
    recipe : Recipe
    format : str, optional
        By default what the suffix of `dst` says.
    file : AtomicFile, optional
        Where to write, in place of `dst`.
    slab_weights : int
        Weights that are in memory at a time, as far as single panels allow.
    """

    def __init__(
        self,
        container: Container,
        dst: str | os.PathLike[str],
        recipe: Recipe,
        format: str | None = None,
        file: AtomicFile | None = None,
        slab_weights: int = SLAB_WEIGHTS,
    ) -> None:
        if not isinstance(dst, (str, os.PathLike)):
            raise InvalidArgumentError(f"the file to write is {dst!r:.60}, expected a str or a PathLike")
        self.container, self.path, self.recipe, self.file = container, os.fspath(dst), recipe, file
        self.slab_weights = slab_weights
        self.format = _format(self.path, format)
        if not recipe.keeps_weights:
            _check_other(self.path, container)
        self.pruned: list[PrunedTensor] = []
        self.replaced: dict[str, str] = {}
        self.source = Source(container)
        config, infos = describe_model(container)
        self.metadata, extra = new_metadata(container, config)
        values = {key: typed.value for key, typed in self.metadata.items()}
        self.config = config_from_metadata(values, [*infos, *extra])
        check_same(config, self.config)
        self.reorder = self.config.interleaved and not config.interleaved
        if self.reorder and config.rot != config.head_dim:
            raise UnsupportedError(f"{container.path}: only {config.rot} of {config.head_dim} dims are rotated, which GGUF cannot say")
        self.tensors = list(self._plan(infos, extra))
        sizes: dict[str, int] = {}
        for t in self.tensors:
            if t.matrix:
                sizes[t.kind.name] = sizes.get(t.kind.name, 0) + t.rows * t.cols
        self.metadata |= type_keys(sizes, container if recipe.keeps_types else None)

    def _plan(self, infos: Mapping[str, TensorInfo], extra: Mapping[str, np.ndarray]) -> Iterator[_Tensor]:
        """Every tensor in execution order."""
        config = self.config
        yield self._matrix(infos, *config.embedding, 0)
        for name, values in extra.items():
            yield _Tensor(name, 0, 1, len(values), F32, None, False, values=values)
        if "rope_freqs.weight" in infos:
            yield self._vector(infos, "rope_freqs.weight", infos["rope_freqs.weight"].shape[0], 0)
        for layer in range(config.layers):
            matrices, vectors = config.matrices(layer), config.vectors(layer)
            for role in sorted({*matrices, *vectors}, key=lambda r: (ORDER.index(r) if r in ORDER else len(ORDER), r)):
                heads = {"q": config.heads, "k": config.kv_heads}.get(role.partition("_")[0], 0)
                heads = heads if self.reorder and not role.endswith("_norm") else 0
                if role in matrices:
                    yield self._matrix(infos, *matrices[role], layer + 1, heads)
                else:
                    yield self._vector(infos, *vectors[role], layer + 1, heads)
        yield self._vector(infos, "output_norm.weight", config.dim, config.layers + 1)
        if not config.tied:
            yield self._matrix(infos, *config.output, config.layers + 1)

    def _matrix(self, infos: Mapping[str, TensorInfo], name: str, rows: int, cols: int, layer: int, heads: int = 0) -> _Tensor:
        info = infos[name]
        source = supported_type(info)
        wanted, method = self.recipe.target(name, self.config.tied)
        target = source if wanted is None else quant.TYPES[wanted]
        while cols % target.block_len:
            target, method = quant.TYPES[FALLBACKS.get(target.name, "f16")], None
            self.replaced[name] = target.name
        if not self.recipe.prunes(name) or cols % TILE:
            kept = blocks_of_panels(info) if info.offsets is not None and target.can_be_sparse and self.format == "hyperion" else None
            return _Tensor(name, layer, rows, cols, target.id, info, True, heads, method=method, kept=kept)
        assert self.recipe.prune is not None
        return _Tensor(name, layer, rows, cols, target.id, info, True, heads, method=method, block=self.recipe.prune.block_size)

    def _vector(self, infos: Mapping[str, TensorInfo], name: str, length: int, layer: int, heads: int = 0) -> _Tensor:
        if supported_type(infos[name]).name not in ("f32", "f16", "bf16"):
            raise UnsupportedError(f"tensor {name!r} has type {infos[name].type_name}, expected a float type", tensor=name)
        return _Tensor(name, layer, 1, length, F32, infos[name], False, heads)

    def _writer(self) -> Any:
        if self.format == "hyperion":
            table = [NativeTensor(t.name, t.type, t.rows, t.cols, t.layer, t.matrix, t.kept) for t in self.tensors]
            return NativeWriter(self.path, self.metadata, table, checksums, self.file)
        layouts = [
            TensorLayout(t.name, t.type, (t.rows, t.cols) if t.matrix else (t.cols,), t.rows * t.kind.row_bytes(t.cols))
            for t in self.tensors
        ]
        return GGUFWriter(self.path, self.metadata, layouts, file=self.file)

    def summary(self) -> Conversion:
        """What is, or would be, in the file."""
        types: dict[str, int] = {}
        for t in self.tensors:
            size = t.nbytes if t.matrix and self.format == "hyperion" else t.rows * t.kind.row_bytes(t.cols)
            types[t.kind.name] = types.get(t.kind.name, 0) + size
        source = sum(t.info.nbytes for t in self.tensors if t.info is not None)
        return Conversion(self.path, self.format, sum(types.values()), source, types, dict(self.replaced))

    def run(self, progress: Progress | None) -> None:
        """Write the file."""
        check_callback(progress, "progress")
        if self.recipe.prune is not None:
            self._select(progress)
        total, done = self.summary().nbytes, 0
        with self._writer() as writer:
            for tensor in self.tensors:
                keep = tensor.selection.pass_over() if tensor.selection is not None else None
                for first, n in self._slabs(tensor):
                    data = self._slab(tensor, first, n, keep)
                    if data.nbytes:  # a run of sparse panels may have nothing
                        writer.write(data)
                    done += data.nbytes
                    if progress is not None:
                        progress(done, total)
            writer.finish()

    @property
    def most_weights(self) -> int:
        """Weights of the largest run of rows that is in memory at a time."""
        return max(min(t.slab_rows(self.slab_weights), -(-t.rows // PANEL) * PANEL) * t.cols for t in self.tensors)

    def _slabs(self, tensor: _Tensor) -> Iterator[tuple[int, int]]:
        """(first row, rows) of what is in memory at a time."""
        step = tensor.slab_rows(self.slab_weights)
        return ((first, min(step, tensor.rows - first)) for first in range(0, tensor.rows, step))

    # ---- pruning -------------------------------------------------------------------------------------------------

    def _select(self, progress: Progress | None) -> None:
        """Choose what is pruned and how it is stored, matrix by matrix; `progress` counts the rows' bytes in the source."""
        total = sum(t.info.nbytes for t in self.tensors if self._is_pruned(t) and t.info is not None)
        done = 0
        for i, tensor in enumerate(self.tensors):
            if not self._is_pruned(tensor):
                continue
            assert tensor.info is not None
            self.tensors[i], report = self._choose(tensor)
            self.pruned.append(report)
            done += tensor.info.nbytes
            if progress is not None:
                progress(done, total)

    def _is_pruned(self, tensor: _Tensor) -> bool:
        return tensor.matrix and self.recipe.prunes(tensor.name) and tensor.cols % TILE == 0

    def _choose(self, tensor: _Tensor) -> tuple[_Tensor, PrunedTensor]:
        config = self.recipe.prune
        assert config is not None and tensor.info is not None
        size, rows, cols = config.block_size, tensor.rows, tensor.cols
        blocks = -(-rows // size) * -(-cols // size)
        source = quant.block_type(tensor.info.type)

        def norms() -> Iterator[tuple[int, np.ndarray]]:
            for first, n in self._slabs(tensor):
                yield n, block_norms(_values(source, self._source_rows(tensor, first, n)[0], n, cols), size)

        held = list(norms()) if blocks <= self.slab_weights else None
        again = norms if held is None else lambda: iter(held)
        selection = Selection(lambda: (n for _, n in again()), min(round(config.sparsity * blocks), blocks - 1))
        keep, kept, zeros = selection.pass_over(), [], 0
        for n, values in again():
            weights = spread(keep(values), size, n, cols)
            zeros += weights.size - int(np.count_nonzero(weights))
            kept.append(np.count_nonzero(occupied_tiles(weights), axis=1))
        counts = np.concatenate(kept)
        dense = tensor.kind.packed_bytes(rows, cols)
        sparse = int(quant.sparse_offsets(tensor.kind, counts)[-1]) if tensor.kind.can_be_sparse and cols // TILE <= MOST_TILES else 0
        smaller = 0 < sparse < WORTH * dense and self.format == "hyperion"
        report = PrunedTensor(
            tensor.name, tensor.kind.name, "sparse" if smaller else "dense", zeros / (rows * cols),
            1 - int(counts.sum()) / (len(counts) * (cols // TILE)), sparse if smaller else dense, dense, sparse,
        )  # fmt: skip
        return dataclasses.replace(tensor, selection=selection, kept=counts if smaller else None), report

    def _thinned(self, tensor: _Tensor, source: Any, raw: np.ndarray, rows: int, keep: Any) -> tuple[np.ndarray, np.ndarray]:
        """Rows in the target's blocks, with zeros where blocks go, and which tiles stay.

        The blocks of a type that nothing is taken from stay as they are: quantizing their values again might change them.
        """
        values = _values(source, raw, rows, tensor.cols)
        weights = spread(keep(block_norms(values, tensor.block)), tensor.block, rows, tensor.cols)
        np.copyto(values, 0, where=~weights)
        encoded = self._encode(tensor, values)
        if source.id == tensor.type:
            whole = weights.reshape(rows, -1, source.block_len).all(axis=2).reshape(-1, 1)
            encoded = np.where(whole, raw.reshape(-1, source.block_bytes), encoded.reshape(-1, source.block_bytes)).reshape(-1)
        return encoded, occupied_tiles(weights)

    # ---- rows ------------------------------------------------------------------------------------------------------

    def _encode(self, tensor: _Tensor, values: np.ndarray) -> np.ndarray:
        try:
            return encode_rows(values, tensor.kind.name, tensor.method)
        except InvalidArgumentError as error:
            message = f"tensor {tensor.name!r} has weights too large for {tensor.kind.name}: {error}"
            raise FormatError(message, tensor=tensor.name) from None

    def _source_rows(self, tensor: _Tensor, first: int, rows: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Rows of the source in the target's order, as blocks, and which tiles they have where those are sparse."""
        assert tensor.info is not None
        raw, tiles = self.source.read(tensor.info, first, rows, tensor.cols)
        if tensor.heads and tensor.matrix:
            raw = _rotate(raw.reshape(rows, -1), tensor.rows // tensor.heads).reshape(-1)
        return raw, tiles

    def _slab(self, tensor: _Tensor, first: int, rows: int, keep: Any = None) -> np.ndarray:
        """Rows [first, first + rows) as the target file has them; `keep` says which blocks stay, by their norms."""
        if tensor.values is not None:
            return tensor.values
        info = tensor.info
        assert info is not None
        source = quant.block_type(info.type)
        raw, tiles = self._source_rows(tensor, first, rows)
        if keep is not None:
            raw, tiles = self._thinned(tensor, source, raw, rows, keep)
        elif source.id != tensor.type:
            raw = self._encode(tensor, _values(source, raw, rows, tensor.cols))
        if tensor.heads and not tensor.matrix:
            raw = _rotate(raw.reshape(-1, 4), tensor.cols // tensor.heads).reshape(-1)
        if self.format == "gguf" or not tensor.matrix:
            return raw
        packed = np.empty(tensor.kind.packed_bytes(rows, tensor.cols), np.uint8)
        matrix = quant.pack(tensor.type, raw, rows, tensor.cols, packed)
        if tensor.kept is None:
            return packed
        assert tiles is not None
        return np.asarray(quant.sparsify(matrix, tiles).panels)


def _values(source: Any, raw: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """Blocks as float32 [rows, cols], on all threads."""
    return dequantize_tensor(QuantizedTensor((rows, cols), source.name, raw.reshape(rows, -1)))


def _rotate(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """From rotary pairs half a head apart to neighbours: row j * head_dim / 2 + i of a head becomes row 2 * i + j."""
    heads = rows.reshape(-1, 2, head_dim // 2, rows.shape[1])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)


def _check_other(path: str, container: Container) -> None:
    """Refuse to write over a file that the weights are read from: what quantizing or pruning drops would be lost."""
    for source in container.files:
        with contextlib.suppress(OSError):  # nothing is there yet
            if os.path.samefile(path, source):
                raise InvalidArgumentError(
                    f"{os.fsdecode(path)!r} is the source itself, whose weights would be lost: expected another file to write"
                )


def _format(path: str | bytes, given: str | None) -> str:
    if given is None:
        suffix = os.path.splitext(os.fsdecode(path))[1].lower()
        if suffix not in SUFFIXES:
            raise InvalidArgumentError(f"{os.fsdecode(path)!r} ends in {suffix!r}: expected .hyperion or .gguf, or name a format")
        return SUFFIXES[suffix]
    if given not in SUFFIXES.values():
        raise InvalidArgumentError(f"format is {given!r:.40}, expected 'hyperion' or 'gguf'")
    return given
