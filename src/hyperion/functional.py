"""The documented procedures, one name each; what they do is in the modules that they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .config import get_config_value, load_config, set_config_value
from .dense import CacheConfig
from .generation import GenerationConfig, Model
from .generation.pruning import PruneResult
from .io import (
    create_dir,
    file_exists,
    get_base_name,
    get_dir_name,
    join_path,
    list_dir,
    read_file,
    write_file,
)
from .loading.mapped import LayerDescriptor, MappedModel
from .loading.progressive import LayerStatus, ProgressiveLoader, ProgressiveLoaderConfig
from .memory import (
    Block,
    MemoryPool,
    MemoryStats,
    alloc,
    create_pool,
    enable_memory_tracking,
    free,
    generate_memory_report,
    get_memory_stats,
    init_memory,
)
from .models.convert import Conversion
from .models.mixed import MixedPrecisionConfig, init_mixed_precision_config
from .models.prune import PruneConfig, init_prune_config
from .models.tuning import CacheStats, LayoutChange, SIMDOpType
from .performance import OptimizationImpact, PerformanceAnalysis, PerformanceConfig, PerformanceMetrics
from .quantization import dequantize_tensor, quantize_tensor
from .scheduling import (
    CheckpointStrategy,
    DependencyType,
    ExecutionMode,
    ExecutionPlan,
    ForwardScheduler,
    LayerScheduler,
    LayerSchedulerConfig,
    MemoryEstimate,
    MemoryPlan,
)
from .scheduling.optimizer import MemoryOptimizer, MemoryOptimizerConfig
from .sparse import convert_to_sparse, sparse_mat_mul
from .tensor import Tensor, TensorMemoryConfig, TensorMemoryStats, TensorOp
from .tokenizer import Tokenizer, TokenizerConfig

__all__ = [
    "add_layer_to_schedule",
    "alloc",
    "analyze_optimization_impact",
    "apply_mixed_precision",
    "calculate_optimal_batch_size",
    "close_mapped_model",
    "configure_cache_optimization",
    "convert_to_sparse",
    "create_dir",
    "create_execution_plan",
    "create_forward_scheduler",
    "create_layer_scheduler",
    "create_memory_optimizer",
    "create_performance_analysis",
    "create_pool",
    "create_progressive_loader",
    "create_tensor_with_memory_config",
    "create_tokenizer",
    "dequantize_tensor",
    "destroy_forward_scheduler",
    "detokenize",
    "enable_in_place_operations",
    "enable_memory_tracking",
    "enable_simd",
    "estimate_memory_usage",
    "execute_layer_with_memory_optimization",
    "execute_next_layer",
    "execute_with_tensor_reuse",
    "file_exists",
    "free",
    "free_layer_scheduler",
    "free_memory_optimizer",
    "free_progressive_loader",
    "generate_memory_report",
    "generate_performance_report",
    "generate_text",
    "get_base_name",
    "get_cache_stats",
    "get_config_value",
    "get_dir_name",
    "get_layer_descriptor",
    "get_layer_output",
    "get_layer_status",
    "get_layer_weights",
    "get_mapped_layer_count",
    "get_mapped_model_memory_usage",
    "get_memory_optimizer_stats",
    "get_memory_stats",
    "get_performance_trend",
    "get_progressive_loader_stats",
    "get_scheduler_memory_usage",
    "get_scheduler_peak_memory_usage",
    "get_tensor_memory_stats",
    "init_memory",
    "init_mixed_precision_config",
    "init_prune_config",
    "is_layer_executed",
    "join_path",
    "list_dir",
    "load_config",
    "load_layer",
    "mark_layer_output_unneeded",
    "optimize_memory_layout",
    "optimize_memory_usage",
    "pool_alloc",
    "pool_free",
    "prefetch_layer_weights",
    "prepare_forward_pass",
    "prune_model",
    "quantize_tensor",
    "read_file",
    "record_metrics",
    "release_layer_weights",
    "reset_layer_priorities",
    "reset_scheduler",
    "set_config_value",
    "set_layer_checkpointing_strategy",
    "set_layer_priority",
    "set_memory_speed_tradeoff",
    "set_simd_optimization_level",
    "sparse_mat_mul",
    "stream_tensor_data",
    "tensor_in_place_op",
    "tokenize",
    "unload_layer",
    "write_file",
]


def pool_alloc(pool: MemoryPool, size: int | str | None = None) -> Block:
    """Return a block of `size` bytes from a pool; see :meth:`hyperion.MemoryPool.alloc`."""
    return pool.alloc(size)


def pool_free(pool: MemoryPool, block: Block) -> None:
    """Give a block back to its pool; see :meth:`hyperion.MemoryPool.free`."""
    pool.free(block)


# ---- Tensors -------------------------------------------------------------------------------------------------


def create_tensor_with_memory_config(config: TensorMemoryConfig | None, dims: Any, dtype: Any = "float32") -> Tensor:
    """Make a tensor of zeros; see :class:`hyperion.Tensor`."""
    return Tensor(dims, dtype, config)


def tensor_in_place_op(tensor: Tensor, op: TensorOp | str, params: Any = None) -> Tensor:
    """Change all elements of a tensor; see :meth:`hyperion.Tensor.in_place`."""
    return tensor.in_place(op, params)


def stream_tensor_data(tensor: Tensor, data: Any, offset: int = 0, size: int | None = None) -> int:
    """Write bytes at an offset of a tensor; see :meth:`hyperion.Tensor.stream`."""
    return tensor.stream(data, offset, size)


def get_tensor_memory_stats(tensor: Tensor) -> TensorMemoryStats:
    """What a tensor takes and what it moved; see :attr:`hyperion.Tensor.stats`."""
    return tensor.stats


# ---- Models and text -----------------------------------------------------------------------------------------


def generate_text(model: Model, prompt: Any, config: GenerationConfig | None = None) -> Any:
    """Continue a prompt; see :meth:`hyperion.Model.generate`."""
    return model.generate(prompt, config)


def create_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """Open the vocabulary of a configuration; see :class:`hyperion.Tokenizer`."""
    return Tokenizer(config)


def tokenize(tokenizer: Tokenizer, text: str) -> list[int]:
    """Text to token ids, without special tokens; see :meth:`hyperion.Tokenizer.tokenize`."""
    return tokenizer.tokenize(text)


def detokenize(tokenizer: Tokenizer, tokens: Iterable[int]) -> str:
    """Token ids to text; see :meth:`hyperion.Tokenizer.detokenize`."""
    return tokenizer.detokenize(tokens)


# ---- The memory optimizer --------------------------------------------------------------------------------------


def create_memory_optimizer(config: MemoryOptimizerConfig | None = None) -> MemoryOptimizer:
    """Make a :class:`hyperion.MemoryOptimizer`."""
    return MemoryOptimizer(config)


def free_memory_optimizer(optimizer: MemoryOptimizer) -> None:
    """Give its arenas back; see :meth:`hyperion.MemoryOptimizer.close`."""
    optimizer.close()


def get_memory_optimizer_stats(optimizer: MemoryOptimizer) -> MemoryStats:
    """Bytes of its arenas; see :attr:`hyperion.MemoryOptimizer.stats`."""
    return optimizer.stats


def set_memory_speed_tradeoff(optimizer: MemoryOptimizer, tradeoff: float) -> None:
    """0 for the least memory, 1 for the most speed; see :meth:`hyperion.MemoryOptimizer.set_memory_speed_tradeoff`."""
    optimizer.set_memory_speed_tradeoff(tradeoff)


def enable_in_place_operations(optimizer: MemoryOptimizer, enable: bool = True) -> None:
    """Whether results may take the place of operands; see :meth:`hyperion.MemoryOptimizer.enable_in_place_operations`."""
    optimizer.enable_in_place_operations(enable)


def execute_with_tensor_reuse(optimizer: MemoryOptimizer, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function whose temporaries share memory; see :meth:`hyperion.MemoryOptimizer.execute_with_tensor_reuse`."""
    return optimizer.execute_with_tensor_reuse(function, *args)


def optimize_memory_usage(optimizer: MemoryOptimizer, model: Model, memory_budget: int | str | None = None) -> MemoryPlan:
    """Move an open model to a budget; see :meth:`hyperion.MemoryOptimizer.optimize_memory_usage`."""
    return optimizer.optimize_memory_usage(model, memory_budget)


# ---- Loading ---------------------------------------------------------------------------------------------------


def create_progressive_loader(config: ProgressiveLoaderConfig | None = None, model: Model | None = None) -> ProgressiveLoader:
    """Make a :class:`hyperion.ProgressiveLoader`; `loader.attach(model)` may follow."""
    return ProgressiveLoader(config, model)


def free_progressive_loader(loader: ProgressiveLoader) -> None:
    """Let go of its model; see :meth:`hyperion.ProgressiveLoader.close`."""
    loader.close()


def load_layer(loader: ProgressiveLoader, layer_index: int) -> LayerStatus:
    """Pin all of a layer; see :meth:`hyperion.ProgressiveLoader.load_layer`."""
    return loader.load_layer(layer_index)


def unload_layer(loader: ProgressiveLoader, layer_index: int) -> LayerStatus:
    """Pin nothing of a layer; see :meth:`hyperion.ProgressiveLoader.unload_layer`."""
    return loader.unload_layer(layer_index)


def get_layer_status(loader: ProgressiveLoader, layer_index: int) -> LayerStatus:
    """What of a layer is in memory; see :meth:`hyperion.ProgressiveLoader.status`."""
    return loader.status(layer_index)


def set_layer_priority(loader_or_model: ProgressiveLoader | MappedModel, layer_index: int, priority: Any) -> None:
    """The higher, the longer a layer stays in memory; for a loader or a mapped model."""
    loader_or_model.set_layer_priority(layer_index, priority)


def get_progressive_loader_stats(loader: ProgressiveLoader) -> MemoryStats:
    """Pinned bytes, now and at most; see :attr:`hyperion.ProgressiveLoader.stats`."""
    return loader.stats


def close_mapped_model(model: MappedModel) -> None:
    """Unmap the file; see :meth:`hyperion.MappedModel.close`."""
    model.close()


def get_mapped_layer_count(model: MappedModel) -> int:
    """Layers of a mapped model; see :attr:`hyperion.MappedModel.layer_count`."""
    return model.layer_count


def get_layer_descriptor(model: MappedModel, layer_index: int) -> LayerDescriptor:
    """Where a layer is and how it was used; see :meth:`hyperion.MappedModel.get_layer_descriptor`."""
    return model.get_layer_descriptor(layer_index)


def get_layer_weights(model: MappedModel, layer_index: int, dequantize: bool = False) -> Any:
    """A layer's arrays by name; see :meth:`hyperion.MappedModel.get_layer_weights`."""
    return model.get_layer_weights(layer_index, dequantize)


def prefetch_layer_weights(model: MappedModel, layer_index: int) -> bool:
    """Read a layer ahead; see :meth:`hyperion.MappedModel.prefetch_layer_weights`."""
    return model.prefetch_layer_weights(layer_index)


def release_layer_weights(model: MappedModel, layer_index: int) -> None:
    """Give a layer's memory back; see :meth:`hyperion.MappedModel.release_layer_weights`."""
    model.release_layer_weights(layer_index)


def get_mapped_model_memory_usage(model: MappedModel) -> int:
    """Bytes of layers in memory; see :attr:`hyperion.MappedModel.memory_usage`."""
    return model.memory_usage


def reset_layer_priorities(model: MappedModel) -> None:
    """All layers alike again; see :meth:`hyperion.MappedModel.reset_layer_priorities`."""
    model.reset_layer_priorities()


# ---- Schedulers ------------------------------------------------------------------------------------------------


def create_forward_scheduler(
    model: Any = None, mode: ExecutionMode = ExecutionMode.NORMAL, max_memory: int | str = 0
) -> ForwardScheduler:
    """Make a :class:`hyperion.ForwardScheduler`."""
    return ForwardScheduler(model, mode, max_memory)


def destroy_forward_scheduler(scheduler: ForwardScheduler) -> None:
    """Give its buffers back; see :meth:`hyperion.ForwardScheduler.close`."""
    scheduler.close()


def add_layer_to_schedule(
    scheduler: ForwardScheduler, layer_index: int, depends_on_layer: int = -1,
    dep_type: DependencyType = DependencyType.SEQUENTIAL, output_size: int = 0,
) -> None:  # fmt: skip
    """Add a layer, or a dependency of one; see :meth:`hyperion.ForwardScheduler.add_layer`."""
    scheduler.add_layer(layer_index, depends_on=depends_on_layer, dep_type=dep_type, output_size=output_size)


def prepare_forward_pass(scheduler: ForwardScheduler) -> None:
    """Check the graph, fix order and buffers; see :meth:`hyperion.ForwardScheduler.prepare`."""
    scheduler.prepare()


def execute_next_layer(scheduler: ForwardScheduler, input: Any = None, output: Any = None) -> int | None:
    """Run the next layer; see :meth:`hyperion.ForwardScheduler.execute_next`."""
    return scheduler.execute_next(input, output)


def reset_scheduler(scheduler: ForwardScheduler) -> None:
    """Forget what has run; see :meth:`hyperion.ForwardScheduler.reset`."""
    scheduler.reset()


def calculate_optimal_batch_size(scheduler: ForwardScheduler, input_size: int, output_size: int, max_batch_size: int) -> int:
    """Items that fit the memory limit; see :meth:`hyperion.ForwardScheduler.optimal_batch_size`."""
    return scheduler.optimal_batch_size(input_size, output_size, max_batch_size)


def get_scheduler_memory_usage(scheduler: ForwardScheduler) -> int:
    """Bytes of outputs that are alive; see :attr:`hyperion.ForwardScheduler.memory_usage`."""
    return scheduler.memory_usage


def get_scheduler_peak_memory_usage(scheduler: ForwardScheduler) -> int:
    """The most bytes of outputs at one time; see :attr:`hyperion.ForwardScheduler.peak_memory_usage`."""
    return scheduler.peak_memory_usage


def mark_layer_output_unneeded(scheduler: ForwardScheduler, layer_index: int) -> None:
    """Free a layer's output now; see :meth:`hyperion.ForwardScheduler.mark_output_unneeded`."""
    scheduler.mark_output_unneeded(layer_index)


def is_layer_executed(scheduler: ForwardScheduler, layer_index: int) -> bool:
    """Whether a layer has run in this pass; see :meth:`hyperion.ForwardScheduler.is_executed`."""
    return scheduler.is_executed(layer_index)


def get_layer_output(scheduler: ForwardScheduler | LayerScheduler, layer_index: int) -> Any:
    """A layer's output, from either scheduler (a layer scheduler computes it again where it was not kept)."""
    return scheduler.get_layer_output(layer_index) if isinstance(scheduler, LayerScheduler) else scheduler.get_output(layer_index)


def create_layer_scheduler(model: Any, config: LayerSchedulerConfig | None = None) -> LayerScheduler:
    """Make a :class:`hyperion.LayerScheduler`."""
    return LayerScheduler(model, config)


def free_layer_scheduler(scheduler: LayerScheduler) -> None:
    """Give what it keeps back; see :meth:`hyperion.LayerScheduler.close`."""
    scheduler.close()


def create_execution_plan(scheduler: LayerScheduler) -> ExecutionPlan:
    """What is run, kept and computed again; see :meth:`hyperion.LayerScheduler.create_execution_plan`."""
    return scheduler.create_execution_plan()


def execute_layer_with_memory_optimization(scheduler: LayerScheduler, layer_index: int, input: Any = None, output: Any = None) -> Any:
    """Run one layer under the scheduler's policy; see :meth:`hyperion.LayerScheduler.execute_layer`."""
    return scheduler.execute_layer(layer_index, input, output)


def set_layer_checkpointing_strategy(scheduler: LayerScheduler, layer_index: int, strategy: CheckpointStrategy) -> None:
    """Whether a layer's output is kept; see :meth:`hyperion.LayerScheduler.set_layer_checkpointing_strategy`."""
    scheduler.set_layer_checkpointing_strategy(layer_index, strategy)


def estimate_memory_usage(scheduler: LayerScheduler) -> MemoryEstimate:
    """Bytes of weights, activations and scratch; see :meth:`hyperion.LayerScheduler.estimate_memory_usage`."""
    return scheduler.estimate_memory_usage()


def apply_mixed_precision(model: Model, config: MixedPrecisionConfig) -> Conversion:
    """Quantize an open model's weights anew, a type for each group; see :meth:`hyperion.Model.apply_mixed_precision`."""
    return model.apply_mixed_precision(config)


# ---- Performance -----------------------------------------------------------------------------------------------


def create_performance_analysis(config: PerformanceConfig | None = None) -> PerformanceAnalysis:
    """Make a :class:`hyperion.PerformanceAnalysis`."""
    return PerformanceAnalysis(config)


def record_metrics(analysis: PerformanceAnalysis, metrics: PerformanceMetrics) -> None:
    """Keep a run's figures; see :meth:`hyperion.PerformanceAnalysis.record_metrics`."""
    analysis.record_metrics(metrics)


def analyze_optimization_impact(
    analysis: PerformanceAnalysis, baseline: PerformanceMetrics, current: PerformanceMetrics
) -> OptimizationImpact:
    """Compare two runs of the same work; see :meth:`hyperion.PerformanceAnalysis.analyze_optimization_impact`."""
    return analysis.analyze_optimization_impact(baseline, current)


def generate_performance_report(analysis: PerformanceAnalysis, path: Any) -> None:
    """Write what was recorded and found; see :meth:`hyperion.PerformanceAnalysis.generate_report`."""
    analysis.generate_report(path)


def get_performance_trend(analysis: PerformanceAnalysis, metric: str = "execution_time_ms") -> float:
    """How a figure changes from record to record; see :meth:`hyperion.PerformanceAnalysis.get_trend`."""
    return analysis.get_trend(metric)


def prune_model(model: Model, config: PruneConfig) -> PruneResult:
    """Thin an open model's weights out; see :meth:`hyperion.Model.prune`."""
    return model.prune(config)
# ---- Kernels and caches ----------------------------------------------------------------------------------------


def enable_simd(model: Model, op_type: SIMDOpType | int, enable: bool = True) -> bool:
    """Choose an operation's vector or portable kernels; see :meth:`hyperion.Model.enable_simd`."""
    return model.enable_simd(op_type, enable)


def set_simd_optimization_level(model: Model, level: int | str | None) -> None:
    """Run another level's kernels; see :meth:`hyperion.Model.set_simd_level`."""
    model.set_simd_level(level)


def configure_cache_optimization(model: Model, config: CacheConfig | None) -> None:
    """Cut a model's products to the caches; see :meth:`hyperion.Model.configure_cache`."""
    model.configure_cache(config)


def get_cache_stats(model: Model) -> CacheStats:
    """Hits and misses of the weight cache; see :meth:`hyperion.Model.cache_stats`."""
    return model.cache_stats()


def optimize_memory_layout(model: Model) -> LayoutChange:
    """Lay weights out in the order of execution; see :meth:`hyperion.Model.optimize_memory_layout`."""
    return model.optimize_memory_layout()
