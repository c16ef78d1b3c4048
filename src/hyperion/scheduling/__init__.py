"""What runs when, and what is kept: plans, schedules, the optimizer."""

from hyperion.scheduling.plan import LayerSize, MatrixSize, MemoryPlan, ModelSizes, make_plan

__all__ = ["LayerSize", "MatrixSize", "MemoryPlan", "ModelSizes", "make_plan"]
