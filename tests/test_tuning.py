"""What an open model's engine runs on: each setting changes it, shows in describe(), and keeps results where they must stay."""

import numpy as np
import pytest

import hyperion
from hyperion import CacheConfig, SIMDOpType, cpu_counters, errors
from hyperion._kernels import dispatch

IDS = list(range(5, 45))


def test_capabilities():
    found = hyperion.get_simd_capabilities()
    assert found.levels == dispatch.levels() and found.default_level == dispatch.default_level()
    assert found.features == dispatch.features()
    assert all(dispatch.level_name(number) == name for name, number in found.numbers.items())


@pytest.mark.parametrize("level", dispatch.levels())
def test_a_level_is_what_a_model_opened_at_it_runs(path, model, level):
    with hyperion.load_model(path, memory_budget="64MB", context_length=64, simd=level) as other:
        expected = other.logits(IDS)
    hyperion.set_simd_optimization_level(model, level)
    assert model.describe()["simd"] == level
    np.testing.assert_array_equal(model.logits(IDS), expected)
    hyperion.set_simd_optimization_level(model, hyperion.get_simd_capabilities().numbers[level])
    np.testing.assert_array_equal(model.logits(IDS), expected)


def test_operations_are_switched_one_by_one(model):
    level = model.describe()["simd"]
    if level == "generic":
        pytest.skip("this processor and build have the portable kernels alone")
    fast = model.logits(IDS)
    hyperion.set_simd_optimization_level(model, "generic")
    portable = model.logits(IDS)
    hyperion.set_simd_optimization_level(model, level)
    operations = [SIMDOpType.MATRIX_MUL, SIMDOpType.ACTIVATION, SIMDOpType.ATTENTION]
    changed = 0
    for op in operations:
        assert hyperion.enable_simd(model, op, False) is True
        assert model.describe()["simd_operations"][op.name.lower()] == "generic"
        one = model.logits(IDS)
        changed += not np.array_equal(one, fast)
        np.testing.assert_allclose(one, fast, atol=0.05 * np.abs(fast).max())
        hyperion.enable_simd(model, op, True)
        assert model.describe()["simd_operations"][op.name.lower()] == level
        np.testing.assert_array_equal(model.logits(IDS), fast)
    assert changed  # other kernels round otherwise
    for op in operations:
        hyperion.enable_simd(model, op, False)
    hyperion.set_simd_optimization_level(model, None)  # what is off stays off
    assert all(model.describe()["simd_operations"][op.name.lower()] == "generic" for op in operations)
    np.testing.assert_allclose(model.logits(IDS), portable, atol=0.05 * np.abs(fast).max())
    assert hyperion.enable_simd(model, SIMDOpType.CONV, False) is False


def test_cache_settings_change_the_cut_and_no_bit(model):
    expected = model.logits(IDS)
    assert model.describe()["cache"] == "automatic" and model.runtime.tuning == (0, 0, 0)
    for config in (
        CacheConfig(block_size=16, prefetch_distance=32), CacheConfig(block_size=100, enable_prefetch=False),
        CacheConfig(block_size=65536, cache_line_size=128),
    ):  # fmt: skip
        hyperion.configure_cache_optimization(model, config)
        assert model.runtime.tuning == (-(-config.block_size // 16), config.prefetch_bytes, config.cache_line_size)
        assert model.describe()["cache"]["block_size"] == config.block_size
        np.testing.assert_array_equal(model.logits(IDS), expected)
        np.testing.assert_array_equal(model.logits(IDS[:1]), expected[:1])
    hyperion.set_simd_optimization_level(model, None)
    assert model.runtime.tuning[0] == 4096  # a level does not undo it
    hyperion.configure_cache_optimization(model, None)
    assert model.describe()["cache"] == "automatic"


def test_cache_statistics(model):
    before = hyperion.get_cache_stats(model)
    model.logits(IDS[:4])
    pinned = hyperion.get_cache_stats(model)
    assert pinned.misses == before.misses == 0 and pinned.hit_rate == 1.0
    assert pinned.hits - before.hits == 7 * model.config.layers + 1
    assert pinned.hit_bytes - before.hit_bytes == model.plan.weight_bytes
    model.replan("15MB")
    assert model.plan.streamed_bytes > 0
    model.logits(IDS[:4])
    streamed = hyperion.get_cache_stats(model)
    assert streamed.misses == streamed.evictions > 0 and streamed.hit_rate < 1
    assert streamed.miss_bytes == model.plan.streamed_bytes
    assert streamed.hit_bytes + streamed.miss_bytes - pinned.hit_bytes == model.plan.weight_bytes
    counters = cpu_counters.CacheCounters()
    assert (streamed.hardware_misses is not None) == counters.available == (streamed.hardware_references is not None)
    counters.close()


@pytest.mark.parametrize("budget", ["64MB", "15MB"])
def test_memory_layout(model, budget):
    model.replan(budget)
    expected = model.logits(IDS)
    used = model.budget.used
    places = [p.buffer.address for p in model._weights.pinned if p.buffer is not None]
    change = hyperion.optimize_memory_layout(model)
    now = [p.buffer.address for p in model._weights.pinned if p.buffer is not None]
    assert len(now) == len(places) == len(change.layers) + len(change.kept)
    assert change.moved_bytes > 0 or change.kept
    assert change.in_order_after == (now == sorted(now))
    assert (change.ring_bytes > 0) == (model.plan.streamed_bytes > 0)
    assert model.budget.used == used
    np.testing.assert_array_equal(model.logits(IDS), expected)


def test_bad_arguments_are_named(model):
    wrong = errors.InvalidArgumentError
    for op in (4, -1, "matmul", None):
        with pytest.raises(wrong, match="op_type"):
            hyperion.enable_simd(model, op, True)
    with pytest.raises(wrong, match="enable must be a bool"):
        hyperion.enable_simd(model, SIMDOpType.ATTENTION, 1)
    for level in ("sse9", 17, -1, 1.5, True):
        with pytest.raises(wrong, match="level"):
            hyperion.set_simd_optimization_level(model, level)
    with pytest.raises(wrong, match="config must be a CacheConfig"):
        hyperion.configure_cache_optimization(model, {"block_size": 3})
    model.close()
    for call in (hyperion.get_cache_stats, hyperion.optimize_memory_layout):
        with pytest.raises(errors.HyperionRuntimeError, match="closed"):
            call(model)
