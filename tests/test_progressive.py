"""The loader that the engine runs on: layers pinned and unpinned on a live model, limits held, results unchanged."""

import numpy as np
import pytest

import hyperion
from hyperion.loading.progressive import LayerState, ProgressiveLoader, ProgressiveLoaderConfig

IDS = list(range(5, 45))


def test_unloading_returns_memory_and_changes_no_bit(model):
    expected, used = model.logits(IDS), model.budget.used
    loader = model.loader
    assert {loader.status(i).state for i in range(model.layer_count)} == {LayerState.PINNED}
    status = loader.unload_layer(3)
    assert status.state is LayerState.UNLOADED and status.pinned_bytes == 0 and status.streamed_bytes > 0
    ring = model.plan.slots * model.plan.slot_bytes
    for layer in range(model.layer_count):
        loader.unload_layer(layer)
    np.testing.assert_array_equal(model.logits(IDS), expected)
    assert model.plan.pinned_bytes == 0 and loader.memory_usage == 0
    assert model.budget.used < used + ring - 3_000_000
    assert model.stream_stats["passes"] > 0
    for layer in reversed(range(model.layer_count)):
        assert loader.load_layer(layer).state is LayerState.PINNED
    np.testing.assert_array_equal(model.logits(IDS), expected)
    assert loader.loads == model.layer_count and loader.unloads == model.layer_count
    assert loader.stats.current_usage == loader.memory_usage == model.plan.pinned_bytes + model.layer_bytes(0)[1]


def test_max_memory_usage_unloads_the_lowest_priority(model):
    loader = ProgressiveLoader(ProgressiveLoaderConfig(max_memory_usage="2MB"), model)
    for layer in range(model.layer_count):
        loader.unload_layer(layer)
    expected = model.logits(IDS)
    loader.set_layer_priority(1, 5)
    for layer in (1, 2, 3, 4, 5, 6):
        loader.load_layer(layer)
        assert loader.memory_usage <= 2_000_000
    assert loader.status(1).state is LayerState.PINNED, "it has the highest priority"
    assert loader.status(6).state is LayerState.PINNED
    assert loader.unloads > 0
    np.testing.assert_array_equal(model.logits(IDS), expected)


def test_without_unloading_the_limit_is_an_error_and_nothing_changes(model):
    config = ProgressiveLoaderConfig(max_memory_usage="1MB", enable_unload=False)
    loader = ProgressiveLoader(config, model)
    for layer in range(model.layer_count):
        loader.unload_layer(layer)
    loader.load_layer(1)
    loader.load_layer(2)
    before = model.plan
    with pytest.raises(hyperion.MemoryBudgetError):
        loader.load_layer(3)
    assert model.plan == before


def test_the_window_follows_the_configuration_and_the_waits(model):
    model.loader.unload_layer(1)
    model.loader.unload_layer(2)
    ring = model.weight_ring
    assert ring.window == ring.slots
    ProgressiveLoader(ProgressiveLoaderConfig(enable_prefetch=False), model)
    assert ring.window == 1
    model.logits(IDS)
    adaptive = ProgressiveLoader(ProgressiveLoaderConfig(), model)
    assert ring.window == ring.slots
    assert adaptive.prefetch_window > 0
    for _ in range(40):
        adaptive.after_pass()  # nothing was waited for
    assert ring.window == 2


def test_counters_move_with_every_pass(model):
    passes = model.loader.passes
    model.generate([1, 2, 3], max_length=5, ignore_end=True)
    assert model.loader.passes >= passes + 5


@pytest.mark.parametrize(
    ("name", "value"), [("prefetch_window", -1), ("enable_prefetch", 1), ("max_memory_usage", "much"), ("no_such_field", 1)]
)
def test_a_config_is_checked_when_it_is_set(name, value):
    with pytest.raises(hyperion.InvalidArgumentError):
        setattr(ProgressiveLoaderConfig(), name, value)


def test_a_loader_without_a_model_says_so(model):
    loader = ProgressiveLoader()
    with pytest.raises(hyperion.HyperionRuntimeError, match="attach"):
        loader.load_layer(0)
    loader.attach(model)
    with pytest.raises(hyperion.InvalidArgumentError, match="layers 0 to 7"):
        loader.load_layer(8)
    loader.close()
    with pytest.raises(hyperion.HyperionRuntimeError, match="closed"):
        loader.status(0)
