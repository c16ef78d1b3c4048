"""The engine: an open model that evaluates tokens within its memory plan."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np

from hyperion._kernels.nn import Runtime, Shape
from hyperion._kernels.pool import rounded
from hyperion._kernels.threads import Team
from hyperion.dense import CacheConfig
from hyperion.errors import HyperionRuntimeError, InvalidArgumentError, MemoryBudgetError
from hyperion.formats import TensorInfo, open_container
from hyperion.io import SpoolFile
from hyperion.loading.mapped import MappedModel
from hyperion.loading.progressive import ProgressiveLoader
from hyperion.memory import (
    MemoryBudget,
    MemoryStats,
    Reservation,
    available_memory,
    parse_size,
    process_budget,
)
from hyperion.models.architectures import describe_model
from hyperion.models.arguments import (
    check_callback,
    context_positions,
    integer,
    layer_choices,
    share,
    thread_count,
)
from hyperion.models.config import ModelConfig, rope_frequencies
from hyperion.models.convert import Conversion, ConversionJob
from hyperion.models.evaluation import Evaluation, Sink, Work
from hyperion.models.layers import EngineLayers, SteppedLayers
from hyperion.models.mixed import MixedPrecisionConfig
from hyperion.models.prediction import Prediction, probe_compute, probe_stream
from hyperion.models.prune import PruneConfig, PrunedTensor
from hyperion.models.recipe import Recipe
from hyperion.models.rewrite import rewrite
from hyperion.models.session import Session, SessionRoom
from hyperion.models.tokenizers import open_tokenizer, tokenizer_bytes
from hyperion.models.tuning import CacheStats, EngineTuning, LayoutChange, SIMDOpType
from hyperion.models.weights import ModelWeights, layer_sizes
from hyperion.models.workspace import Workspace, round64
from hyperion.scheduling.execution import LayerSchedulerConfig
from hyperion.scheduling.forward import ForwardScheduler
from hyperion.scheduling.layers import LayerScheduler
from hyperion.scheduling.plan import MemoryPlan, ModelSizes, make_plan, pin_plan, smallest_budget
from hyperion.tokenizer import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Transformer"]

IO_MODES = ("auto", "direct", "buffered", "mmap")
RUNTIME_BYTES = 13_000_000
"""Code and objects that opening the first model brings in: most is Hyperion's own modules, then stacks of threads."""

SAMPLING_BYTES = 40
"""What choosing a token takes for each that there is: copies of its logit, their order, probabilities and sums."""

class Transformer:
    """An open model. Users make one with :func:`hyperion.load_model`, which returns the subclass that also writes text.

    Attributes
    ----------
    config : ModelConfig
    budget : MemoryBudget
        The model's ledger.
    tokenizer : Tokenizer
    context_length : int
        Positions that a session can hold.
    scheduler : LayerScheduler
        What every pass goes through; it keeps or computes again the hidden states after any layer.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        memory_budget: int | str | None = None,
        threads: int | None = None,
        context_length: int | None = None,
        kv_type: str = "f16",
        io: str = "auto",
        simd: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._closed = False
        self._lock = threading.Lock()
        self._settled = True  # what is in memory is what the plan says
        self._calling: int | None = None  # the thread that holds the lock while a function of the user's may run
        self._weights: ModelWeights | None = None
        self._reserved: dict[str, Reservation] = {}
        self._room: SessionRoom | None = None
        self.workspace: Any = None  # Workspace, once the model's sizes are known
        self._spool: SpoolFile | None = None
        self._tuning: Any = None  # EngineTuning while the model is open
        self.scheduler: Any = None
        self.threads = thread_count(threads)
        if io not in IO_MODES:
            raise InvalidArgumentError(f"io is {io!r}, expected one of {', '.join(IO_MODES)}")
        if not isinstance(kv_type, str):
            raise InvalidArgumentError(f"kv_type is {kv_type!r:.60}, expected the name of a type")
        check_callback(progress, "progress")
        self._io, self._kv_type = io, kv_type
        limit = available_memory() if memory_budget is None else parse_size(memory_budget)
        self.container = open_container(path)
        self.path = os.fsdecode(path)
        self.budget = MemoryBudget(limit, parent=process_budget(), name=os.path.basename(self.path.rstrip(os.sep)))
        try:
            self.config, self._tensors = describe_model(self.container)
            self.context_length = context_positions(context_length, self.config)
            self.shape = self._make_shape()
            self.workspace = Workspace(self.budget, self.config.dim, self.config.vocab_size)
            self.team = Team(self.threads)
            self.runtime = Runtime(self.team, simd)
            self._tuning = EngineTuning(self.runtime)
            self.tokenizer: Tokenizer
            self._open(limit, progress)
        except BaseException:
            self.close()
            raise

    # ---- opening -------------------------------------------------------------------------------------------------

    def _open(self, limit: int, progress: Callable[[int, int], None] | None) -> None:
        building = tokenizer_bytes(self.container, building=True)
        checksums = sum(t.checksums.nbytes for t in self._tensors.values() if t.checksums is not None)
        vectors = sum(n for i in range(self.config.layers) for _, n in self.config.vectors(i).values()) + self.config.dim
        self._sizes = ModelSizes(
            layers=layer_sizes(self.config, self._tensors),
            fixed={
                "norms and biases": vectors * 4 * (2 if self._io == "mmap" else 1),  # mapped with the layers, and as the kernels want them
                "tokenizer": tokenizer_bytes(self.container, building=False),
                "sampling": self.config.vocab_size * SAMPLING_BYTES,
                "runtime": RUNTIME_BYTES,
                "checksums": checksums,
            },
            opening=vectors * 4 + building + RUNTIME_BYTES + checksums,
            embedding=self._embedding_bytes(self.config, self._tensors),
            kv=lambda n: self.config.layers * self.shape.kv_bytes(n),
            scratch=self._pass_bytes,
            logits=self.workspace.logits_bytes,
            workers=self.threads,
        )
        self.plan = make_plan(self._sizes, limit, self.context_length)
        later = {"sampling": self._sizes.fixed["sampling"]}  # when the peak of making the tokenizer is over
        self._reserved = self.budget.reserve_all({k: v for k, v in self._sizes.fixed.items() if k not in later} | {"tokenizer": building})
        self.tokenizer = open_tokenizer(self.container)
        self._reserved["tokenizer"].resize(self._sizes.fixed["tokenizer"])
        self._reserved |= self.budget.reserve_all(later)
        self._room = SessionRoom(self.budget, self._lock, self._sizes.kv, self.context_length)
        self._allocate_workspace()
        self._open_weights(progress)
        self._layers = EngineLayers(self)
        LayerScheduler(self, LayerSchedulerConfig(enable_checkpointing=False))  # sets self.scheduler
        self.loader = ProgressiveLoader(model=self)

    def _make_shape(self) -> Shape:
        """The blocks' sizes and constants."""
        config = self.config
        return Shape(
            dim=config.dim, heads=config.heads, kv_heads=config.kv_heads, head_dim=config.head_dim, ffn_dim=config.ffn_dim,
            rot=config.rot, interleaved=config.interleaved, gelu=config.gelu, eps=config.norm_eps, scale=config.scale,
            kv_type=self._kv_type,
        )  # fmt: skip

    @staticmethod
    def _embedding_bytes(config: ModelConfig, tensors: Mapping[str, TensorInfo]) -> int:
        """Bytes of an embedding that is a matrix of its own."""
        return 0 if config.tied else tensors[config.embedding[0]].nbytes

    def _open_weights(self, progress: Callable[[int, int], None] | None) -> None:
        """Pin and schedule the container's weights as the plan says."""
        self._weights = ModelWeights(
            self.container, self._tensors, self.config, self.shape, self._sizes.layers, self.plan, self.budget, self._io, progress,
            self.threads,
        )
        self.runtime.set_source(self._weights.ring)
        self._frequencies = rope_frequencies(self.config, self._weights.rope_factors)

    def _allocate_workspace(self) -> None:
        """What a pass works in, as large as the plan says."""
        rows = self.plan.logits_rows
        self.workspace.allocate(self._pass_bytes(self.plan.chunk), rows)

    def _pass_bytes(self, tokens: int) -> int:
        """Hidden state and scratch of one pass of this many tokens."""
        return round64(tokens * self.config.dim * 4) + self.shape.scratch_bytes(tokens, self.threads)

    # ---- sessions ------------------------------------------------------------------------------------------------

    def session(self, capacity: int | None = None) -> Session:
        """A new, empty sequence.

        The plan holds memory for one; a further one reserves its own cache.

        Parameters
        ----------
        capacity : int, optional
            Positions that it can hold; the model's context length by default, and at most.

        Raises
        ------
        InvalidArgumentError
            If the capacity is no positive integer.
        MemoryBudgetError
            If the budget does not hold another cache.
        """
        whole = self.context_length
        positions = whole if capacity is None else min(integer(capacity, "a session's capacity", 1), whole)
        self._check_open()
        with self._lock:
            self._check_open()
            assert self._room is not None
            return self._room.open(self, positions)

    @property
    def open_sessions(self) -> list[Session]:
        """The sessions that hold a cache."""
        return [] if self._room is None else self._room.sessions

    # ---- re-planning ---------------------------------------------------------------------------------------------

    def replan(
        self, memory_budget: int | str | None = None, *, batch: int = 1, tradeoff: float = 1.0, reserve: int = 0
    ) -> MemoryPlan:
        """Move the open model to another plan: memory is really returned, or used. Results never change.

        Parameters
        ----------
        memory_budget : int or str, optional
            The new ceiling; the present one by default.
        batch : int
            Sequences that will be decoded together.
        tradeoff : float
            0 uses the least memory, 1 all of the budget.
        reserve : int
            Bytes of the budget that the plan leaves free, for further sessions.

        Raises
        ------
        InvalidArgumentError
            If `batch` is below 1, `tradeoff` not from 0 to 1, or `reserve` below 0.
        MemoryBudgetError
            If the budget cannot hold the model and its open sessions; the model is as before.
        """
        self._check_open()
        batch, reserve, tradeoff = integer(batch, "batch", 1), integer(reserve, "reserve", 0), share(tradeoff, "tradeoff")
        with self._lock:
            self._check_open()
            limit = self.plan.budget if memory_budget is None else parse_size(memory_budget)
            plan = make_plan(self._present_sizes(reserve), limit, self.context_length, batch=batch, tradeoff=tradeoff)
            self._move(plan, limit)
            return plan

    def _present_sizes(self, reserve: int = 0) -> ModelSizes:
        """Sizes for a plan beside the sessions that are open now; they have what the plan holds for one, or a part of it."""
        assert self._room is not None
        self._room.settle()
        held, whole = self._room.open_bytes, self._sizes.kv
        fixed = self._sizes.fixed | {"open sessions": held, "kept free": reserve}
        return dataclasses.replace(self._sizes, fixed=fixed, kv=lambda n: max(0, whole(n) - held))

    # ---- what a ProgressiveLoader asks ---------------------------------------------------------------------------

    @property
    def layer_count(self) -> int:
        """Layers as the loader and the mapped model count them: the embedding, the blocks, the output head."""
        return self.config.layers + 2

    @property
    def weight_ring(self) -> Any:
        """The stream of weights, or None where everything is pinned."""
        return self._weights.ring if self._weights is not None else None

    def layer_bytes(self, layer: int) -> tuple[int, int]:
        """(pinned bytes, bytes in all) of a layer."""
        if self._closed:
            raise HyperionRuntimeError("the model is closed")
        if layer == 0:
            return (self._sizes.embedding if self.plan.embedding_pinned else 0), self._sizes.embedding
        size = self._sizes.layers[layer - 1]
        pinned = sum(m.span(0, n) for n, m in zip(self.plan.pinned[layer - 1], size.matrices, strict=True))
        return pinned, size.nbytes

    def pin_layers(self, wanted: dict[int, bool]) -> None:
        """Pin all (True) or nothing (False) of layers; the others stay as they are.

        Raises
        ------
        InvalidArgumentError
            If `wanted` is no mapping of the numbers of layers to bools.
        MemoryBudgetError
            If the budget does not hold it; nothing has changed.
        """
        self._check_open()
        wanted = layer_choices(wanted, self.layer_count)
        with self._lock:
            self._check_open()
            pinned, embedding = list(self.plan.pinned), self.plan.embedding_pinned
            for layer, all_of_it in wanted.items():
                if layer == 0:
                    embedding = all_of_it
                else:
                    pinned[layer - 1] = tuple(m.panels if all_of_it else 0 for m in self._sizes.layers[layer - 1].matrices)
            tied_head = self.config.tied and pinned[-1] == tuple(m.panels for m in self._sizes.layers[-1].matrices)
            if self.config.tied:
                embedding = tied_head
            sizes = self._present_sizes()
            self._move(
                pin_plan(sizes, self.plan, tuple(pinned), embedding=embedding, context_length=self.context_length), self.plan.budget
            )

    def restore(self, plan: MemoryPlan, *, later: bool = False) -> None:
        """Move back to a plan that the model had before; `later` with the next call, as an error's frames may hold memory."""
        self._check_open()
        if not isinstance(plan, MemoryPlan):
            raise InvalidArgumentError(f"the plan is {plan!r:.60}, expected one that Model.plan was before")
        with self._lock:
            self._check_open()
            if later:
                self.plan, self._settled = plan, False
            else:
                self._move(plan, plan.budget)

    def session_bytes(self, capacity: int) -> int:
        """Bytes that a session of this many positions takes in the ledger."""
        return rounded(self._sizes.kv(max(1, min(capacity, self.context_length))))

    def _move(self, plan: MemoryPlan, limit: int) -> None:
        """From the present plan to another one; back to the present one if a read fails."""
        before = self.plan
        assert self.budget.limit is not None
        self._settled = False
        self.scheduler.drop_kept()
        self.budget.set_limit(max(limit, self.budget.limit))
        self.plan = plan
        try:
            self._settle()
        except BaseException:
            self.plan = before
            with contextlib.suppress(MemoryBudgetError):  # the error's own frames may still hold memory: the next call settles
                self._settle()
            raise

    def _settle(self) -> None:
        """Hold in memory what the plan says. What breaks it off, a second Ctrl-C perhaps, leaves that to the next call."""
        weights = self._weights
        assert weights is not None
        self._settled = False
        self.workspace.release()
        self.runtime.set_source(None)
        weights.apply(self.plan)
        self._allocate_workspace()
        self.runtime.set_source(weights.ring)
        self.loader.apply_window()
        self.budget.set_limit(self.plan.budget)
        if self._room is not None:
            self._room.settle()
        self._settled = True

    # ---- other weights -------------------------------------------------------------------------------------------

    def apply_mixed_precision(
        self,
        config: MixedPrecisionConfig,
        *,
        method: str | None = None,
        folder: str | os.PathLike[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Conversion:
        """Quantize the weights anew, a type for each group of matrices, and go on with them.

        They are made layer by layer, within the model's budget, from the weights that the model has now, and go to a file
        without a name that is gone when the model is closed; :meth:`save` keeps them. Sessions of the model are emptied: what
        they had evaluated belongs to the weights before.

        Parameters
        ----------
        config : MixedPrecisionConfig
        method : str, optional
            How the scales of int4 matrices are found, see :func:`hyperion.convert`.
        folder : path, optional
            Where the file's bytes are; by default the model's own folder, or the temporary one where that cannot be written.
        progress : callable, optional
            Called with (bytes written, bytes in all).

        Returns
        -------
        Conversion
            The types that the model has now, and their bytes.

        Raises
        ------
        InvalidArgumentError, UnsupportedError
            If the configuration or the method is not one.
        MemoryBudgetError
            If the budget cannot hold the model with these types.
        HyperionIOError
            If the file cannot be written.

        Notes
        -----
        After an error the model is as before, apart from its sessions.
        """
        return rewrite(self, Recipe(None, method, config), folder, progress).summary()

    def prune_weights(
        self,
        config: PruneConfig,
        *,
        folder: str | os.PathLike[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[PrunedTensor]:
        """Thin the matrices of the blocks out, and go on with what is left; where and how as in :meth:`apply_mixed_precision`.

        Each matrix keeps its numeric type. It is stored sparse where that takes fewer bytes than dense panels with zeros.
        """
        return rewrite(self, Recipe(prune=config), folder, progress).pruned

    def save(self, path: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None) -> Conversion:
        """Write the weights that the model has now to a .hyperion or GGUF file; see :func:`hyperion.convert`."""
        self._check_open()
        job = ConversionJob(self.container, path, Recipe())
        job.run(progress)
        return job.summary()

    # ---- evaluation ----------------------------------------------------------------------------------------------

    def forward(
        self,
        work: Work,
        *,
        logits: Literal["last", "all"] = "last",
        each: Sink | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[np.ndarray]:
        """Evaluate tokens of one or more sessions together.

        Parameters
        ----------
        work : sequence of (Session, tokens)
            Each session once, with at least one token.
        logits : {"last", "all"}
            Logits of each session's last token, or of all its tokens.
        each : callable, optional
            Called with (entry of the work, place among its tokens, float32 [vocab_size] logits) instead of collecting them.
            The row is the engine's own memory, whose contents change after the call: this adds nothing to the budget. It may
            not call the model, which is busy. Rows of a pass that then fails come again when its tokens are evaluated again.
        progress : callable, optional
            Called with (tokens done, tokens in all) after every pass. Like `each` it may not call the model.

        Returns
        -------
        list of ndarray
            For each session float32 [1 or n_tokens, vocab_size]; not in the budget, as they are the caller's. Empty with `each`.

        Notes
        -----
        A token's logits depend on that token and its own session's history alone, not on how the work is cut into passes.
        If a pass fails or is interrupted, the sessions keep the tokens of the passes that were finished.
        """
        self._check_open()
        if logits not in ("last", "all"):
            raise InvalidArgumentError(f"logits is {logits!r:.40}, expected 'last' or 'all'")
        every, results = logits == "all", list[np.ndarray]()

        def collect(entry: int, place: int, row: np.ndarray) -> None:
            results[entry][place if every else 0] = row

        check_callback(each, "each")
        check_callback(progress, "progress")
        with self._lock:
            self._check_open()  # the model, its sessions and how full they are: other threads may have changed them
            if not self._settled:
                self._settle()
            call = Evaluation(self, work, every, collect if each is None else each)
            if each is None:
                results += [np.empty((n if every else 1, self.config.vocab_size), np.float32) for n in call.sizes]
            try:
                self._calling = threading.get_ident()
                call.run(progress)
            finally:
                self._calling = None
        return results

    def layer_source(self) -> EngineLayers:
        """The layers as a :class:`LayerScheduler` runs them."""
        self._check_open()
        return self._layers

    def schedule_layers(self, graph: ForwardScheduler) -> None:
        """Add the layers to a graph, for a sequence of its own that is evaluated step by step."""
        self._check_open()
        SteppedLayers(self, graph)

    def _rotation(self, positions: np.ndarray) -> np.ndarray:
        angles = positions[:, None].astype(np.float64) * self._frequencies
        return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    # ---- the rest ------------------------------------------------------------------------------------------------

    @property
    def plan(self) -> MemoryPlan:
        """What is pinned, streamed and reserved; printed, it also predicts the speed."""
        return self._plan

    @plan.setter
    def plan(self, plan: MemoryPlan) -> None:
        self._prediction: Prediction | None = None
        self._plan = dataclasses.replace(plan, forecast=self.predict)

    @property
    def smallest_budget(self) -> int:
        """Bytes of the smallest budget that this model works in, at its context length."""
        return smallest_budget(self._sizes, self.context_length)

    def predict(self) -> Prediction:
        """Bytes and tokens per second of decoding under the present plan, from a probe of about half a second.

        The probe is made once a plan. The stream's counters do not run back after it.
        """
        self._check_open()
        with self._lock:
            self._check_open()
            if self._prediction is None:
                weights, plan = self._weights, self._plan
                assert weights is not None
                compute = probe_compute(weights.pinned_matrices(), self.team, self.runtime.level_name)
                disk = probe_stream(weights.ring) if weights.ring is not None else None
                self._prediction = Prediction.from_rates(plan.weight_bytes, plan.streamed_bytes, disk, compute)
            return self._prediction

    @property
    def memory_stats(self) -> MemoryStats:
        """Bytes reserved now and at most, by owner."""
        return self.budget.stats()

    @property
    def mapped(self) -> MappedModel | None:
        """The mapping that the weights are read from with ``io="mmap"``, None otherwise; it counts every pass."""
        return self._weights.mapped if self._weights is not None else None

    @property
    def stream_stats(self) -> dict[str, float]:
        """Counters of the weight stream: passes, bytes_used (weights), bytes_read (alignment included), seconds.

        Empty where everything is pinned.
        """
        ring = self._weights.ring if self._weights is not None else None
        return {} if ring is None else ring.stats

    def describe(self) -> dict[str, Any]:
        """What really runs: instruction set, threads, reader, types, sizes."""
        self._check_open()
        types: dict[str, int] = {}
        storage: dict[str, int] = {}
        for info in self._tensors.values():
            types[info.type_name] = types.get(info.type_name, 0) + info.nbytes
            way = "dense" if info.offsets is None else "sparse"
            storage[way] = storage.get(way, 0) + info.nbytes
        ring = self._weights.ring if self._weights is not None else None
        return {
            "path": self.path,
            "architecture": self.config.architecture,
            "simd": self.runtime.level_name,
            **self._tuning.describe(),
            "threads": self.threads,
            "context_length": self.context_length,
            "kv_type": self._kv_type,
            "io": self._io if ring is not None or self._io == "mmap" else "none: everything is pinned",
            "tensor_bytes": types,
            "storage": storage,
            "prompt_chunk": self.plan.chunk,
            "pinned_bytes": self.plan.pinned_bytes,
            "streamed_bytes": self.plan.streamed_bytes,
        }

    # ---- kernels, caches, memory -----------------------------------------------------------------------------------

    def enable_simd(self, op_type: SIMDOpType | int, enable: bool = True) -> bool:
        """Run an operation with the vector kernels of the model's level, or with the portable ones.

        Bits are the same within one choice of kernels; another choice may round otherwise.

        Returns
        -------
        bool
            Whether the engine has that operation; a language model has no convolution.
        """
        self._check_open()
        with self._lock:
            self._check_open()
            self._prediction = None
            return self._tuning.enable(op_type, enable)

    def set_simd_level(self, level: int | str | None) -> None:
        """Run the kernels of another level: a name of :func:`hyperion.cpu.simd_levels`, its number in
        ``SIMDCapabilities.numbers``, or None for the default.

        Raises
        ------
        UnsupportedError
            If the level is absent here.
        """
        self._check_open()
        with self._lock:
            self._check_open()
            self._prediction = None
            self._tuning.set_level(level)

    def configure_cache(self, config: CacheConfig | None) -> None:
        """Cut the products of weights by a configuration: a thread takes `block_size` rows at a time, and has the beginning of
        the next ones prefetched. None goes back to cuts by size. No result depends on it."""
        self._check_open()
        with self._lock:
            self._check_open()
            self._tuning.configure(config)

    def cache_stats(self) -> CacheStats:
        """How often weights were in memory when a layer ran, and what the processor counts."""
        self._check_open()
        with self._lock:
            self._check_open()
            assert self._weights is not None
            hardware, used = self._tuning.hardware(), self._weights.used
            references, misses = hardware if hardware is not None else (None, None)
            return CacheStats(**used, evictions=used["misses"], hardware_references=references, hardware_misses=misses)

    def optimize_memory_layout(self) -> LayoutChange:
        """Move pinned weights to huge-page advised memory in the order of execution, and lay the stream out anew.

        Nothing is read from the file, no result changes, and the budget holds meanwhile: a layer for which there is no room
        twice stays where it is.
        """
        self._check_open()
        with self._lock:
            self._check_open()
            assert self._weights is not None
            self.runtime.set_source(None)
            try:
                return self._weights.relay(self.plan)
            finally:
                self.runtime.set_source(self._weights.ring)
                self.loader.apply_window()

    def _check_open(self) -> None:
        """Asked before the lock is taken, as waiting for it might never end, and again when it is: another thread may have closed
        the model meanwhile."""
        if self._closed:
            raise HyperionRuntimeError("the model is closed")
        self.check_idle()

    def check_idle(self) -> None:
        """Raise HyperionRuntimeError within a function that the model calls while it works: waiting for it would never end."""
        if self._calling == threading.get_ident():
            raise HyperionRuntimeError("the model is busy: a function that it calls cannot call the model")

    def close(self) -> None:
        """Give everything back; closing twice is allowed. Sessions of the model are closed with it."""
        self.check_idle()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._room is not None:
                self._room.close()
            if self.scheduler is not None:
                self.scheduler.drop_kept()
            if self._weights is not None:
                self._weights.close()
                self._weights = None
            if self.workspace is not None:
                self.workspace.release()
            for reservation in self._reserved.values():
                reservation.release()
            if self._tuning is not None:
                self._tuning.close()
                self._tuning = None
            self.container.close()
            if self._spool is not None:
                self._spool.discard()
            self.budget.close()
            self.runtime = self.team = None  # type: ignore[assignment]  # the threads end here, not when garbage is collected

    def __reduce__(self) -> NoReturn:
        raise TypeError("an open model is neither copied nor pickled: load it where it is used, or share it between threads")

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
