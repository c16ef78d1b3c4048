"""Measure two runs, compare them, and write a report."""

from pathlib import Path

import hyperion

MODEL = Path(hyperion.__file__).with_name("data") / "shakespeare-q8_0.gguf"

config = hyperion.PerformanceConfig(
    track_execution_time=True,
    track_memory_usage=True,
    track_cpu_usage=True,
    track_cache_usage=True,
    enable_optimization=True,
)
analysis = hyperion.create_performance_analysis(config)

with hyperion.load_model(MODEL, context_length=256) as model:
    for _ in range(3):
        with analysis.measure("resident", model=model) as baseline:
            model.generate("ROMEO:", max_length=40, temperature=0)
    model.replan(model.smallest_budget)
    with analysis.measure("streamed", model=model) as current:
        model.generate("ROMEO:", max_length=40, temperature=0)
print(baseline)  # what this system does not count is None
print(current)

impact = hyperion.analyze_optimization_impact(analysis, baseline, current)
print(f"speedup {impact.speedup_factor:.2f}, bound by {impact.bound}")
print(impact.recommendations)

# Figures that were measured elsewhere are records too.
hyperion.record_metrics(
    analysis, hyperion.PerformanceMetrics(execution_time_ms=125.0, memory_usage_bytes=10_000_000, label="on another machine")
)
print(f"trend {hyperion.get_performance_trend(analysis):+.1%} a record")
hyperion.generate_performance_report(analysis, "performance.md")  # or .txt, .json; plots with the extra `plot`
print(Path("performance.md").read_text(encoding="utf-8"))
