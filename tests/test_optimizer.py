"""The memory optimizer: live models moved between budgets, temporaries that share an arena."""

from pathlib import Path

import numpy as np
import pytest

import hyperion
from hyperion.scheduling.lifetimes import assign_offsets
from hyperion.scheduling.optimizer import MemoryOptimizer, MemoryOptimizerConfig

IDS = list(range(5, 45))


def resident_bytes():
    """Of this process now; 0 where the system does not tell."""
    if not Path("/proc/self/smaps_rollup").exists():
        return 0
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss:"))


def test_a_model_moves_down_and_up_and_memory_is_returned(shared):
    path = shared / "models" / "shakespeare" / "shakespeare-f16.gguf"
    with hyperion.load_model(path, memory_budget="80MB", context_length=64) as model, MemoryOptimizer() as optimizer:
        expected = model.logits(IDS)
        before, tight = resident_bytes(), 19_000_000
        plan = optimizer.optimize_memory_usage(model, tight)
        assert plan.streamed_bytes > 4_000_000 and model.budget.used <= tight
        np.testing.assert_array_equal(model.logits(IDS), expected)
        assert before == 0 or resident_bytes() < before - 4_000_000
        optimizer.set_memory_speed_tradeoff(0.0)
        assert optimizer.optimize_memory_usage(model, tight).pinned_bytes < plan.pinned_bytes
        np.testing.assert_array_equal(model.logits(IDS), expected)
        optimizer.set_memory_speed_tradeoff(1.0)
        assert optimizer.optimize_memory_usage(model, "80MB").resident
        np.testing.assert_array_equal(model.logits(IDS), expected)


def test_max_memory_budget_bounds_every_model(shared):
    path = shared / "models" / "shakespeare" / "shakespeare-q4_0.gguf"
    with hyperion.load_model(path, memory_budget="64MB", context_length=64) as model:
        optimizer = MemoryOptimizer(MemoryOptimizerConfig(max_memory_budget="40MB"))
        assert optimizer.optimize_memory_usage(model, "1GB").budget == 40_000_000
        optimizer.close()
        with pytest.raises(hyperion.HyperionRuntimeError, match="closed"):
            optimizer.optimize_memory_usage(model, "1GB")


def chain(scope, x, steps):
    """Each temporary is dead as soon as the next is made, but for one that lives through."""
    first = scope.empty(x.shape)
    np.multiply(x, 2, out=first)
    y = first
    for i in range(steps):
        z = scope.empty(x.shape)
        np.add(y, i, out=z)
        y = z
    return y + first


def test_temporaries_share_an_arena_by_their_lifetimes():
    x = np.arange(10_000, dtype=np.float32)
    expected = x * 2 + sum(range(8)) + x * 2
    with MemoryOptimizer() as optimizer:
        for _ in range(4):
            np.testing.assert_array_equal(optimizer.execute_with_tensor_reuse(chain, x, 8), expected)
        scope = optimizer._scopes[chain]
        assert scope.recorded == 9 and scope.reused == 27
        assert scope.arena_bytes == 3 * 40_000, "the one that lives through, and two that follow each other"
        assert optimizer.stats.current_usage >= scope.arena_bytes
        used = optimizer.stats.peak_usage
        np.testing.assert_array_equal(optimizer.execute_with_tensor_reuse(chain, x[:7], 3), x[:7] * 4 + 3)
        assert optimizer.stats.peak_usage >= used


def test_an_array_that_outlives_the_run_is_never_overwritten():
    kept = []

    def keep(scope, value):
        a = scope.empty(1000)
        a[:] = value
        kept.append(a)
        return a

    with MemoryOptimizer() as optimizer:
        for value in range(5):
            optimizer.execute_with_tensor_reuse(keep, value)
        for value, array in enumerate(kept):
            assert (array == value).all()
        kept.clear()


def test_in_place_is_a_switch():
    x = np.ones(4, np.float32)
    with MemoryOptimizer() as optimizer:
        assert optimizer.output_for(x) is x
        optimizer.enable_in_place_operations(False)
        assert optimizer.output_for(x) is None


@pytest.mark.parametrize(
    ("name", "value"), [("memory_speed_tradeoff", 1.5), ("enable_tensor_reuse", 1), ("max_memory_budget", "x"), ("nothing", 0)]
)
def test_a_config_is_checked_when_it_is_set(name, value):
    with pytest.raises(hyperion.InvalidArgumentError):
        setattr(MemoryOptimizerConfig(), name, value)


def test_offsets_never_overlap_while_alive():
    random = np.random.default_rng(0)
    for _ in range(200):
        n = int(random.integers(1, 25))
        spans = []
        for _ in range(n):
            a = int(random.integers(0, 20))
            spans.append((a, a + int(random.integers(0, 6)), int(random.integers(1, 1000))))
        offsets, total = assign_offsets(spans)
        for i in range(n):
            assert offsets[i] % 64 == 0 and offsets[i] + spans[i][2] <= total
            for j in range(i):
                if spans[i][0] <= spans[j][1] and spans[j][0] <= spans[i][1]:
                    assert offsets[i] + spans[i][2] <= offsets[j] or offsets[j] + spans[j][2] <= offsets[i]
        live = max(sum(-(-s[2] // 64) * 64 for s in spans if s[0] <= t <= s[1]) for t in range(26))
        assert live <= total
