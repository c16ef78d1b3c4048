"""What a run costs, what bounds it, and what a change brought."""

from __future__ import annotations

from .advice import Bound
from .analysis import PerformanceAnalysis
from .config import OptimizationImpact, PerformanceConfig, PerformanceMetrics

__all__ = ["Bound", "OptimizationImpact", "PerformanceAnalysis", "PerformanceConfig", "PerformanceMetrics"]
