"""Hyperion: run language models in the memory you have.

Names are loaded when they are first used, so that ``import hyperion`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    ErrorCode,
    FormatError,
    HyperionError,
    HyperionIOError,
    HyperionMemoryError,
    HyperionRuntimeError,
    InvalidArgumentError,
    MemoryBudgetError,
    UnsupportedError,
    get_error_message,
    set_error_handler,
)

if TYPE_CHECKING:  # what a type checker sees of _LAZY
    from .functional import dequantize_tensor, pool_alloc, pool_free, quantize_tensor
    from .generation import Chunk, GenerationConfig, Model, load_model
    from .loading.mapped import (
        LayerDescriptor,
        MappedModel,
        MmapConfig,
        create_default_mmap_config,
        open_mapped_model,
    )
    from .memory import (
        MemoryConfig,
        MemoryPool,
        MemoryStats,
        MemoryStrategy,
        alloc,
        create_pool,
        enable_memory_tracking,
        free,
        generate_memory_report,
        get_memory_stats,
        init_memory,
    )
    from .models import Session
    from .models.convert import Conversion, convert
    from .quantization import QuantizationConfig, QuantizedTensor
    from .scheduling import (
        CheckpointStrategy,
        DependencyType,
        ExecutionMode,
        ExecutionPlan,
        ForwardScheduler,
        LayerScheduler,
        LayerSchedulerConfig,
        MemoryEstimate,
    )
    from .tokenizer import Tokenizer

__version__ = "0.1.0"

_LAZY: dict[str, str] = {
    "CheckpointStrategy": "hyperion.scheduling",
    "Chunk": "hyperion.generation",
    "Conversion": "hyperion.models.convert",
    "DependencyType": "hyperion.scheduling",
    "ExecutionMode": "hyperion.scheduling",
    "ExecutionPlan": "hyperion.scheduling",
    "ForwardScheduler": "hyperion.scheduling",
    "GenerationConfig": "hyperion.generation",
    "LayerDescriptor": "hyperion.loading.mapped",
    "LayerScheduler": "hyperion.scheduling",
    "LayerSchedulerConfig": "hyperion.scheduling",
    "MappedModel": "hyperion.loading.mapped",
    "MemoryConfig": "hyperion.memory",
    "MemoryEstimate": "hyperion.scheduling",
    "MemoryPool": "hyperion.memory",
    "MemoryStats": "hyperion.memory",
    "MemoryStrategy": "hyperion.memory",
    "MmapConfig": "hyperion.loading.mapped",
    "Model": "hyperion.generation",
    "QuantizationConfig": "hyperion.quantization",
    "QuantizedTensor": "hyperion.quantization",
    "Session": "hyperion.models",
    "Tokenizer": "hyperion.tokenizer",
    "alloc": "hyperion.memory",
    "convert": "hyperion.models.convert",
    "create_default_mmap_config": "hyperion.loading.mapped",
    "create_pool": "hyperion.memory",
    "dequantize_tensor": "hyperion.functional",
    "enable_memory_tracking": "hyperion.memory",
    "free": "hyperion.memory",
    "generate_memory_report": "hyperion.memory",
    "get_memory_stats": "hyperion.memory",
    "init_memory": "hyperion.memory",
    "load_model": "hyperion.generation",
    "open_mapped_model": "hyperion.loading.mapped",
    "pool_alloc": "hyperion.functional",
    "pool_free": "hyperion.functional",
    "quantize_tensor": "hyperion.functional",
}  # public name: the module that has it

__all__ = [
    "CheckpointStrategy",
    "Chunk",
    "Conversion",
    "DependencyType",
    "ErrorCode",
    "ExecutionMode",
    "ExecutionPlan",
    "FormatError",
    "ForwardScheduler",
    "GenerationConfig",
    "HyperionError",
    "HyperionIOError",
    "HyperionMemoryError",
    "HyperionRuntimeError",
    "InvalidArgumentError",
    "LayerDescriptor",
    "LayerScheduler",
    "LayerSchedulerConfig",
    "MappedModel",
    "MemoryBudgetError",
    "MemoryConfig",
    "MemoryEstimate",
    "MemoryPool",
    "MemoryStats",
    "MemoryStrategy",
    "MmapConfig",
    "Model",
    "QuantizationConfig",
    "QuantizedTensor",
    "Session",
    "Tokenizer",
    "UnsupportedError",
    "alloc",
    "convert",
    "create_default_mmap_config",
    "create_pool",
    "dequantize_tensor",
    "enable_memory_tracking",
    "free",
    "generate_memory_report",
    "get_error_message",
    "get_memory_stats",
    "init_memory",
    "load_model",
    "open_mapped_model",
    "pool_alloc",
    "pool_free",
    "quantize_tensor",
    "set_error_handler",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'hyperion' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
