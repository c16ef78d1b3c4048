"""The weights of an open model: pinned panels in owned memory, the rest through the ring."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from hyperion._kernels import quant
from hyperion._kernels.nn import Block, Matrix, Shape
from hyperion._kernels.pool import PageBuffer
from hyperion._kernels.stream import File, Ring, checksum, read_rows
from hyperion.errors import (
    FormatError,
    HyperionIOError,
    InvalidArgumentError,
    MemoryBudgetError,
    UnsupportedError,
)
from hyperion.formats import Container, TensorInfo
from hyperion.loading.mapped import MappedModel, MmapConfig
from hyperion.loading.schedule import RingSchedule
from hyperion.memory import MemoryBudget, allocate
from hyperion.models.config import ModelConfig
from hyperion.models.tuning import LayoutChange, WeightUse
from hyperion.scheduling.plan import PANEL, LayerSize, MatrixSize, MemoryPlan

__all__ = ["ModelWeights", "layer_sizes"]

TYPES = {t.id: t for t in quant.TYPES.values()}
FLOAT_TYPES = {TYPES[0].id, TYPES[1].id, TYPES[30].id}

READ_BYTES = 4 << 20
"""A weight is pinned in reads of about this size, so that reading and packing overlap."""

Progress = Callable[[int, int], None]


def layer_sizes(config: ModelConfig, tensors: Mapping[str, TensorInfo]) -> list[LayerSize]:
    """Sizes of the blocks in order, and of the output head last."""
    layers = []
    for i in range(config.layers):
        parts = config.matrices(i).items()
        layers.append(LayerSize(f"layer {i}", tuple(_matrix_size(role, tensors[name], r, c) for role, (name, r, c) in parts)))
    name, rows, cols = config.output
    layers.append(LayerSize("output head", (_matrix_size("output", tensors[name], rows, cols),)))
    return layers


def _matrix_size(role: str, info: TensorInfo, rows: int, cols: int) -> MatrixSize:
    if info.type not in TYPES:
        known = ", ".join(quant.TYPES)
        raise UnsupportedError(f"tensor {info.name!r} has type {info.type_name}; supported: {known}", tensor=info.name)
    if info.offsets is None:
        return MatrixSize(role, info.type, rows, cols, TYPES[info.type].panel_bytes(cols))
    if role == "embedding" or info.name == "token_embd.weight":  # a head may be the embedding
        raise UnsupportedError(f"tensor {info.name!r} of {info.path!r}: an embedding cannot be block-sparse", tensor=info.name)
    largest = max(1, int(np.diff(info.offsets).max()))
    return MatrixSize(role, info.type, rows, cols, largest, info.offsets)


@dataclasses.dataclass
class _Pinned:
    """The pinned panels of one layer, back to back in execution order."""

    buffer: PageBuffer | None
    panels: tuple[int, ...]

    @property
    def view(self) -> np.ndarray | None:
        """The bytes; a view keeps the pages alive."""
        return None if self.buffer is None else _view(self.buffer)


def _label(name: str) -> str:
    """A tensor by name, after the layer that it is of, if its name says so."""
    parts = name.split(".")
    return f"layer {parts[1]}, tensor {name!r}" if parts[0] == "blk" and len(parts) > 1 else f"tensor {name!r}"


def _verify(info: TensorInfo, data: np.ndarray, index: int, what: str) -> None:
    """Bytes of a file that has checksums must have theirs."""
    if info.checksums is not None and checksum(data) != int(info.checksums[index]):
        raise FormatError(
            f"{what} of {info.path!r} is damaged: its checksum is not the one that was written", path=info.path, tensor=info.name
        )


def _view(buffer: PageBuffer) -> np.ndarray:
    return np.frombuffer(buffer, np.uint8)


class ModelWeights:
    """Blocks and output head as the engine runs them.

    Parameters
    ----------
    container, tensors, config
        The open file, its tensors under canonical names, and the model's configuration.
    shape : Shape
        The blocks' shape.
    plan : MemoryPlan
        How many panels of every matrix are pinned.
    budget : MemoryBudget
        The model's ledger; every buffer is reserved there.
    workers : int
        Threads that multiply.
    """

    def __init__(
        self,
        container: Container,
        tensors: Mapping[str, TensorInfo],
        config: ModelConfig,
        shape: Shape,
        sizes: Sequence[LayerSize],
        plan: MemoryPlan,
        budget: MemoryBudget,
        io: str = "auto",
        progress: Progress | None = None,
        workers: int = 1,
    ) -> None:
        self.container, self.tensors, self.config = container, tensors, config
        self.shape, self.sizes, self.budget, self.io, self.workers = shape, sizes, budget, io, workers
        self.files = {path: File(path, direct=io in ("auto", "direct")) for path in {t.path for t in tensors.values()}}
        self._check_sizes()
        self.pinned = [_Pinned(None, tuple(0 for _ in layer.matrices)) for layer in sizes]
        self.blocks: list[Block] = []
        self.output: Matrix | None = None
        self.embedding: quant.PackedMatrix | None = None
        self._embedding_buffer: Any = None
        self.ring: Ring | None = None
        self._ring_buffer: Any = None
        self.mapped: MappedModel | None = None
        self.uses: list[WeightUse] = []  # of each layer, each time that it runs
        self.used = dict.fromkeys(("hits", "hit_bytes", "misses", "miss_bytes"), 0)
        self.vectors = [self._layer_vectors(i) for i in range(config.layers)]
        self.output_norm = self._vector("output_norm.weight", config.dim)
        factors = tensors.get("rope_freqs.weight") if config.rope_factors else None
        self.rope_factors = None if factors is None else self._floats(factors)
        try:
            self.apply(plan, progress)
        except BaseException:
            self.close()
            raise

    def apply(self, plan: MemoryPlan, progress: Progress | None = None) -> None:
        """Pin what a plan pins, give back what it does not, and lay out the stream anew.

        The pinned panels of a layer are a prefix of it in execution order, so what both plans pin is kept. No pass may be
        under way. If a read fails, the weights that are there are consistent, and applying a plan again goes on.
        """
        self._drop_engine()
        if self.io == "mmap":
            self._map(plan)
            return
        wanted = list(zip(self.pinned, plan.pinned, strict=True))
        jobs: list[Any] = []
        for grow in (False, True):  # give back first
            for layer, (pinned, panels) in enumerate(wanted):
                if (self._bytes(layer, panels) > self._bytes(layer, pinned.panels)) == grow:
                    jobs += self._resize(layer, panels)
        jobs += self._embedding_reads(plan)
        try:
            self._run(jobs, progress)
        except BaseException:
            self._forget(jobs)
            raise
        self._build(plan)

    def _map(self, plan: MemoryPlan) -> None:
        """Let the kernels read the file's own pages, which several processes share: only panels can be read so."""
        if not plan.resident:
            raise MemoryBudgetError(
                f"io='mmap' keeps all weights mapped, which takes {plan.weight_bytes} bytes; a budget of {plan.budget} streams them",
                budget=plan.budget,
            )
        plain = next((t for t in self.tensors.values() if len(t.shape) == 2 and not t.packed), None)
        if plain is not None:
            raise InvalidArgumentError(
                f"io='mmap' needs a .hyperion file, whose weights are packed: tensor {plain.name!r} of {plain.path!r} is not"
            )
        largest = plan.items["weights"] + plan.items["embedding"] + self.vector_bytes
        self.mapped = MappedModel(self.container, MmapConfig(max_cache_size=largest), budget=self.budget)
        arrays: dict[str, np.ndarray] = {}
        for i in range(self.mapped.layer_count):
            arrays.update(self.mapped.get_layer_weights(i))
        views = {name: arrays[info.name].reshape(-1) for name, info in self.tensors.items() if info.name in arrays}
        layers = [
            {m.role: self._mapped_matrix(name, m, views[name]) for name, m in zip(self._names(i), size.matrices, strict=True)}
            for i, size in enumerate(self.sizes)
        ]
        self.first_pieces = [0] * len(layers)  # of the stream, by layer
        self._note_uses(layers)
        name, rows, cols = self.config.embedding
        self.embedding = quant.PackedMatrix(self.tensors[name].type, rows, cols, views[name])
        self.output = layers.pop()["output"]
        self.blocks = [Block(self.shape, m, v) for m, v in zip(layers, self.vectors, strict=True)]

    def _mapped_matrix(self, name: str, m: MatrixSize, view: np.ndarray) -> Matrix:
        """A matrix over mapped panels; sparse ones are checked here, where readers would check the others."""
        if m.offsets is not None:
            try:
                quant.PackedMatrix(m.type, m.rows, m.cols, view, offsets=m.offsets)
            except InvalidArgumentError as error:
                raise FormatError(f"{_label(name)} of {self.tensors[name].path!r}: {error}", tensor=name) from None
        return Matrix(m.type, m.rows, m.cols, view, offsets=m.offsets)

    def begin_pass(self) -> None:
        """Mapped weights: the files must still be what they were, and their layers are used once more."""
        if self.mapped is not None:
            self.mapped.count_pass()

    # ---- small tensors -------------------------------------------------------------------------------------------

    def _check_sizes(self) -> None:
        """A container's offsets were checked against the file's size when it was opened: it must still be that file."""
        for path, file in self.files.items():
            needed = max(t.offset + t.nbytes for t in self.tensors.values() if t.path == path)
            if file.size < needed:
                raise HyperionIOError(f"{path}: {file.size} bytes, expected at least {needed}; the file was truncated", path=path)

    def _floats(self, info: TensorInfo) -> np.ndarray:
        raw = self.container.read(info)
        _verify(info, raw, 0, _label(info.name))
        values = quant.dequantize(info.type, raw, 1, int(np.prod(info.shape)))
        return np.ascontiguousarray(values.reshape(-1), dtype=np.float32)

    def _vector(self, name: str, length: int) -> np.ndarray:
        info = self.tensors[name]
        if info.type not in FLOAT_TYPES:
            raise UnsupportedError(f"tensor {name!r} has type {info.type_name}, expected a float type", tensor=name)
        values = self._floats(info)
        if values.shape != (length,):
            raise FormatError(f"tensor {name!r} has {values.shape} values, expected {length}", tensor=name)
        return values

    def _layer_vectors(self, layer: int) -> dict[str, np.ndarray]:
        return {role: self._vector(name, n) for role, (name, n) in self.config.vectors(layer).items()}

    @property
    def vector_bytes(self) -> int:
        """Bytes of norms and biases, which are always in memory."""
        return self.output_norm.nbytes + sum(v.nbytes for layer in self.vectors for v in layer.values())

    def _names(self, layer: int) -> list[str]:
        if layer == self.config.layers:
            return [self.config.output[0]]
        return [name for name, _, _ in self.config.matrices(layer).values()]

    # ---- pinning -------------------------------------------------------------------------------------------------

    def _bytes(self, layer: int, panels: Sequence[int]) -> int:
        return sum(m.span(0, n) for n, m in zip(panels, self.sizes[layer].matrices, strict=True))

    def _resize(self, layer: int, panels: tuple[int, ...]) -> list[Any]:
        """Another number of pinned panels; returns the reads that fill what is new."""
        old, nbytes = self.pinned[layer], self._bytes(layer, panels)
        kept = min(nbytes, self._bytes(layer, old.panels))
        if panels == old.panels:
            return []
        try:
            buffer = allocate(self.budget, "weights", nbytes) if nbytes else None
        except MemoryBudgetError:  # there is no room for old and new together: read it all again
            self._release(layer)
            kept = 0
            buffer = allocate(self.budget, "weights", nbytes)
        new = _Pinned(buffer, panels)
        if kept:
            new.view[:kept] = old.view[:kept]  # type: ignore[index]
        self._release(layer)
        self.pinned[layer] = new
        jobs, at = [], 0
        for name, m, n in zip(self._names(layer), self.sizes[layer].matrices, panels, strict=True):
            first = min(n, m.fit(kept - at))
            jobs += [(layer, job) for job in self._reads(self.tensors[name], m, first, n, new.view, at + m.span(0, first))]
            at += m.span(0, n)
        return jobs

    def _release(self, layer: int) -> None:
        """Give a layer's pinned panels back."""
        buffer = self.pinned[layer].buffer
        self.pinned[layer] = _Pinned(None, tuple(0 for _ in self.sizes[layer].matrices))
        if buffer is not None:
            buffer.close()

    def _forget(self, jobs: list[Any]) -> None:
        """After a failed read: layers that were not filled are not pinned."""
        for layer in {layer for layer, _ in jobs if layer is not None}:
            self._release(layer)
        self._release_embedding()

    def _release_embedding(self) -> None:
        self.embedding = None
        if self._embedding_buffer is not None:
            self._embedding_buffer.close()
            self._embedding_buffer = None

    def _embedding_reads(self, plan: MemoryPlan) -> list[Any]:
        name, rows, cols = self.config.embedding
        if not plan.embedding_pinned or self.config.tied:
            self._release_embedding()
            return []
        if self._embedding_buffer is not None:
            return []
        m = _matrix_size("embedding", self.tensors[name], rows, cols)
        self._embedding_buffer = allocate(self.budget, "embedding", m.nbytes)
        return [(None, job) for job in self._reads(self.tensors[name], m, 0, m.panels, _view(self._embedding_buffer), 0)]

    def _reads(self, info: TensorInfo, m: MatrixSize, first: int, last: int, view: Any, at: int) -> list[Any]:
        """Jobs that read panels [first, last) of a matrix to `at` in a buffer."""
        step = max(1, READ_BYTES // m.panel_bytes)
        starts = range(first, last, step)
        return [(info, m, p, min(p + step, last), view, at + m.span(first, p)) for p in starts]

    def _run(self, jobs: list[Any], progress: Progress | None) -> None:
        total = sum(m.span(a, b) for _, (_, m, a, b, _, _) in jobs)
        done = 0
        pool = ThreadPoolExecutor(2, thread_name_prefix="hyperion-load")
        try:
            for nbytes in pool.map(self._read, jobs):
                done += nbytes
                if progress is not None:
                    progress(done, total)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for file in self.files.values():
                file.drop_cache()

    def _read(self, job: Any) -> int:
        layer, (info, m, first, last, view, at) = job
        nbytes = m.span(first, last)
        rows = min(last * PANEL, m.rows) - first * PANEL
        file = self.files[info.path]
        offset = info.offset + m.span(0, first)
        places = None if m.offsets is None else m.offsets[first : last + 1]
        what = f"{'embedding' if layer is None else self.sizes[layer].name}, tensor {info.name!r}"
        sums = None if info.checksums is None else info.checksums[first:last]
        read_rows(file, m.type, offset, rows, m.cols, view[at : at + nbytes], packed=info.packed, what=what, sums=sums, offsets=places)
        return nbytes

    # ---- what the engine runs --------------------------------------------------------------------------------------

    def _build(self, plan: MemoryPlan) -> None:
        """Matrices over the pinned panels, and the ring's schedule for the others."""
        schedule = RingSchedule(plan.slot_bytes)
        layers: list[dict[str, Matrix]] = []
        self.first_pieces = []
        for layer, pinned in enumerate(self.pinned):
            self.first_pieces.append(len(schedule.pieces))
            at = 0
            matrices = {}
            for name, m, n in zip(self._names(layer), self.sizes[layer].matrices, pinned.panels, strict=True):
                info = self.tensors[name]
                rows = min(n * PANEL, m.rows)
                what, file = f"{self.sizes[layer].name}, tensor {name!r}", self.files[info.path]
                first, pieces = schedule.add(what, file, info.offset, m, n, info.packed, info.checksums)
                matrices[m.role] = Matrix(m.type, m.rows, m.cols, pinned.view, at if n else 0, rows, first, pieces, m.offsets)
                at += m.span(0, n)
            layers.append(matrices)
        self._note_uses(layers)
        if schedule.pieces:
            self._ring_buffer = allocate(self.budget, "stream ring", plan.items["stream ring"])
            self.ring = Ring(schedule.pieces, self._ring_buffer, plan.slots, plan.slot_bytes, plan.readers, self.io, self.workers)
        if plan.embedding_pinned:
            name, rows, cols = self.config.embedding
            source: Any = self.pinned[-1].view if self.config.tied else _view(self._embedding_buffer)
            self.embedding = quant.PackedMatrix(self.tensors[name].type, rows, cols, source)
        self.output = layers.pop()["output"]
        self.blocks = [Block(self.shape, m, v) for m, v in zip(layers, self.vectors, strict=True)]

    def _note_uses(self, layers: Sequence[Mapping[str, Matrix]]) -> None:
        """What a run of each layer takes from memory, and what from the stream."""
        self.uses = []
        for matrices, size in zip(layers, self.sizes, strict=True):
            pinned = sum(s.span(0, -(-m.pinned_rows // PANEL)) for m, s in zip(matrices.values(), size.matrices, strict=True))
            self.uses.append(
                WeightUse(
                    hits=sum(m.pinned_rows > 0 for m in matrices.values()),
                    hit_bytes=pinned,
                    misses=sum(m.streamed_pieces for m in matrices.values()),
                    miss_bytes=size.nbytes - pinned,
                )
            )

    def count_use(self, layer: int) -> None:
        """A layer, numbered from the first block, ran."""
        use = self.uses[layer]
        for name in self.used:
            self.used[name] += getattr(use, name)

    def relay(self, plan: MemoryPlan) -> LayoutChange:
        """Move the pinned panels to new huge-page advised buffers in the order of execution, and lay out the stream anew.

        No pass may be under way. Nothing is read.
        """
        if self.mapped is not None:
            return LayoutChange(layers=(), moved_bytes=0, kept=(), ring_bytes=0, in_order_before=True, in_order_after=True)
        self._drop_engine()
        before, moved, kept, nbytes = self._in_order(), [], [], 0
        for layer, old in enumerate(self.pinned):
            if old.buffer is None:
                continue
            try:
                buffer = allocate(self.budget, "weights", self._bytes(layer, old.panels))
            except MemoryBudgetError:
                kept.append(layer)
                continue
            new = _Pinned(buffer, old.panels)
            new.view[:] = old.view  # type: ignore[index]
            self._release(layer)
            self.pinned[layer] = new
            moved.append(layer)
            nbytes += buffer.nbytes
        self._build(plan)
        return LayoutChange(
            layers=tuple(moved),
            moved_bytes=nbytes,
            kept=tuple(kept),
            ring_bytes=plan.items["stream ring"] if self.ring is not None else 0,
            in_order_before=before,
            in_order_after=self._in_order(),
        )

    def _in_order(self) -> bool:
        addresses = [p.buffer.address for p in self.pinned if p.buffer is not None]
        return addresses == sorted(addresses)

    def embed(self, tokens: np.ndarray, out: np.ndarray) -> None:
        """Rows of the embedding as float32, out[i] = E[tokens[i]]."""
        if self.embedding is not None:
            self.embedding.dequantize_rows(tokens, out=out)
            return
        name, _, cols = self.config.embedding
        info = self.tensors[name]
        if info.packed:
            self._embed_packed(info, cols, tokens, out)
            return
        row = info.nbytes // info.shape[0]
        raw = np.empty((len(tokens), row), np.uint8)
        for i, token in enumerate(tokens):
            self.container.read_into(info, raw[i], int(token) * row, row)
        out[:] = quant.dequantize(info.type, raw.reshape(-1), len(tokens), cols)

    def pinned_matrices(self) -> list[quant.PackedMatrix]:
        """Views of what is pinned, whole panels of one matrix each."""
        result = []
        for pinned, size in zip(self.pinned, self.sizes, strict=True):
            at = 0
            for m, n in zip(size.matrices, pinned.panels, strict=True):
                if m.span(0, n):
                    assert pinned.view is not None
                    places = None if m.offsets is None else m.offsets[: n + 1]
                    result.append(quant.PackedMatrix(m.type, min(n * PANEL, m.rows), m.cols, pinned.view, at, places))
                at += m.span(0, n)
        return result

    def _embed_packed(self, info: TensorInfo, cols: int, tokens: np.ndarray, out: np.ndarray) -> None:
        """Rows that stand in panels: each panel is read once, whichever of its rows are wanted."""
        panels, rows = np.divmod(np.asarray(tokens, np.int64), PANEL)
        raw = np.empty(TYPES[info.type].panel_bytes(cols), np.uint8)
        for panel in np.unique(panels).tolist():
            self.container.read_into(info, raw, panel * raw.nbytes, raw.nbytes)
            _verify(info, raw, panel, _label(info.name))
            wanted = panels == panel
            out[wanted] = quant.PackedMatrix(info.type, PANEL, cols, raw).dequantize_rows(rows[wanted])

    def _drop_engine(self) -> None:
        """Stop reading, and let go of every view of the panels."""
        if self.ring is not None:
            self.ring.close()
        self.ring, self.blocks, self.output, self.embedding = None, [], None, None
        if self._ring_buffer is not None:
            self._ring_buffer.close()
            self._ring_buffer = None
        if self.mapped is not None:
            self.mapped.close()
            self.mapped = None

    def unload(self) -> None:
        """Stop reading and give every byte back; :meth:`apply` reads again."""
        self._drop_engine()
        for layer in range(len(self.pinned)):
            self._release(layer)
        self._release_embedding()

    def close(self) -> None:
        """Give everything back for good."""
        self.unload()
        self.files = {}
