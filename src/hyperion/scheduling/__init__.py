"""What runs when, and what is kept: plans, schedules, the optimizer."""

from hyperion.scheduling.execution import (
    CheckpointStrategy,
    ExecutionPlan,
    ExecutionStep,
    LayerCounters,
    LayerSchedulerConfig,
    MemoryEstimate,
)
from hyperion.scheduling.forward import ForwardScheduler
from hyperion.scheduling.graph import DependencyType, ExecutionMode
from hyperion.scheduling.layers import LayerScheduler
from hyperion.scheduling.plan import LayerSize, MatrixSize, MemoryPlan, ModelSizes, make_plan

__all__ = [
    "CheckpointStrategy",
    "DependencyType",
    "ExecutionMode",
    "ExecutionPlan",
    "ExecutionStep",
    "ForwardScheduler",
    "LayerCounters",
    "LayerScheduler",
    "LayerSchedulerConfig",
    "LayerSize",
    "MatrixSize",
    "MemoryEstimate",
    "MemoryPlan",
    "ModelSizes",
    "make_plan",
]
