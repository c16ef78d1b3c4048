"""The documented procedures, each with its effect."""

import numpy as np
import pytest

import hyperion

IDS = list(range(5, 25))


def test_text(model, path):
    config = hyperion.GenerationConfig(max_length=5, temperature=0)
    assert hyperion.generate_text(model, "ROMEO:", config) == model.generate("ROMEO:", config)
    tokenizer = hyperion.create_tokenizer(hyperion.TokenizerConfig(vocabulary_path=path))
    ids = hyperion.tokenize(tokenizer, "To be, or not to be")
    assert ids and hyperion.detokenize(tokenizer, ids) == "To be, or not to be"


def test_memory_optimizer(model):
    optimizer = hyperion.create_memory_optimizer(hyperion.MemoryOptimizerConfig(memory_speed_tradeoff=1.0))
    expected = model.logits(IDS)
    tight = model.smallest_budget + 1_000_000
    plan = hyperion.optimize_memory_usage(optimizer, model, tight)
    assert model.plan == plan and plan.streamed_bytes > 0
    np.testing.assert_array_equal(model.logits(IDS), expected)
    hyperion.set_memory_speed_tradeoff(optimizer, 0.0)
    assert hyperion.optimize_memory_usage(optimizer, model, tight).pinned_bytes < plan.pinned_bytes
    hyperion.enable_in_place_operations(optimizer, False)
    assert not optimizer.config.enable_in_place_ops

    def double(scope, x):
        y = scope.empty(x.shape)
        np.add(x, x, out=y)
        return y

    for _ in range(2):
        np.testing.assert_array_equal(hyperion.execute_with_tensor_reuse(optimizer, double, np.ones(8, np.float32)), 2)
    assert hyperion.get_memory_optimizer_stats(optimizer).current_usage > 0
    hyperion.free_memory_optimizer(optimizer)
    with pytest.raises(hyperion.HyperionRuntimeError):
        hyperion.get_memory_optimizer_stats(optimizer)


def test_progressive_loader(model):
    loader = hyperion.create_progressive_loader(hyperion.ProgressiveLoaderConfig(), model)
    hyperion.set_layer_priority(loader, 2, 7)
    assert hyperion.unload_layer(loader, 2).state is hyperion.LayerStatus.UNLOADED
    assert hyperion.get_layer_status(loader, 2).priority == 7
    assert hyperion.load_layer(loader, 2).state is hyperion.LayerStatus.PINNED
    assert hyperion.get_progressive_loader_stats(loader).allocation_count == 1
    hyperion.free_progressive_loader(loader)
    with pytest.raises(hyperion.HyperionRuntimeError):
        hyperion.load_layer(loader, 0)


def test_mapped_model(path):
    config = hyperion.create_default_mmap_config()
    config.max_cache_size = "100MB"
    model = hyperion.open_mapped_model(path, config)
    assert hyperion.get_mapped_layer_count(model) == 8
    descriptor = hyperion.get_layer_descriptor(model, 3)
    assert descriptor.size > 0 and descriptor.access_count == 0
    assert hyperion.prefetch_layer_weights(model, 3)
    weights = hyperion.get_layer_weights(model, 3)
    assert weights["blk.2.ffn_up.weight"].nbytes > 0
    assert hyperion.get_layer_descriptor(model, 3).access_count > 0
    assert hyperion.get_mapped_model_memory_usage(model) > 0
    hyperion.set_layer_priority(model, 3, 2.0)
    assert hyperion.get_layer_descriptor(model, 3).priority == 2.0
    hyperion.reset_layer_priorities(model)
    assert hyperion.get_layer_descriptor(model, 3).priority != 2.0
    del weights
    hyperion.release_layer_weights(model, 3)
    assert hyperion.get_mapped_model_memory_usage(model) == 0
    hyperion.close_mapped_model(model)
    assert model.closed


def test_forward_scheduler():
    scheduler = hyperion.create_forward_scheduler(None, hyperion.ExecutionMode.MEMORY_OPT, "1MB")
    for i in range(3):
        scheduler.add_layer(i, lambda x, i=i: x + i, depends_on=i - 1, output_size=64)
    hyperion.add_layer_to_schedule(scheduler, 2, 0, hyperion.DependencyType.RESIDUAL, 64)
    hyperion.prepare_forward_pass(scheduler)
    x, out = np.ones(16, np.float32), np.empty(16, np.float32)
    assert [hyperion.execute_next_layer(scheduler, x, out) for _ in range(3)] == [0, 1, 2]
    assert hyperion.execute_next_layer(scheduler) is None
    np.testing.assert_array_equal(out, 1 + 0 + 1 + 2 + 1)
    assert hyperion.is_layer_executed(scheduler, 1)
    np.testing.assert_array_equal(hyperion.get_layer_output(scheduler, 2), out)
    assert hyperion.get_scheduler_memory_usage(scheduler) > 0
    assert hyperion.get_scheduler_peak_memory_usage(scheduler) >= hyperion.get_scheduler_memory_usage(scheduler)
    hyperion.mark_layer_output_unneeded(scheduler, 2)
    assert hyperion.get_scheduler_memory_usage(scheduler) == 0
    assert 1 <= hyperion.calculate_optimal_batch_size(scheduler, 64, 64, 100) <= 100
    hyperion.reset_scheduler(scheduler)
    assert not hyperion.is_layer_executed(scheduler, 1)
    hyperion.destroy_forward_scheduler(scheduler)
    with pytest.raises(hyperion.HyperionRuntimeError, match="the scheduler is closed"):
        hyperion.execute_next_layer(scheduler, x)


def test_layer_scheduler(model):
    scheduler = hyperion.create_layer_scheduler(model, hyperion.LayerSchedulerConfig(enable_checkpointing=True))
    hyperion.set_layer_checkpointing_strategy(scheduler, 2, hyperion.CheckpointStrategy.ALL)
    assert str(hyperion.create_execution_plan(scheduler))
    assert hyperion.estimate_memory_usage(scheduler).total > 0
    hyperion.free_layer_scheduler(scheduler)
    model.logits(IDS)
    hidden = hyperion.get_layer_output(model.scheduler, 3)
    assert hidden.shape == (len(IDS), model.config.dim)
    generic = hyperion.LayerScheduler.from_layers([lambda x: x + 1, lambda x: x * 3], hyperion.LayerSchedulerConfig())
    np.testing.assert_array_equal(hyperion.execute_layer_with_memory_optimization(generic, 0, np.ones(4, np.float32)), 2)


def test_mixed_precision(model):
    config = hyperion.init_mixed_precision_config()
    config.ffn_precision = hyperion.Precision.INT8
    before = model.plan.weight_bytes
    done = hyperion.apply_mixed_precision(model, config)
    assert set(done.types) == {"f32", "f16", "q4_0", "q8_0"}
    assert model.plan.weight_bytes > before
    assert model.describe()["tensor_bytes"].keys() == {"F32", "F16", "Q4_0", "Q8_0"}


def test_sparse():
    dense = np.array([[0, 2, 0], [3, 0, 0]], np.float32)
    config = hyperion.SparseConfig(format=hyperion.SparseFormat.CSC)
    matrix = hyperion.convert_to_sparse(dense, config)
    assert matrix.format is hyperion.SparseFormat.CSC
    assert matrix.nnz == 2
    out = np.empty((2, 2), np.float32)
    assert hyperion.sparse_mat_mul(matrix, np.array([[1, 4], [2, 5], [3, 6]]), out) is out
    np.testing.assert_array_equal(out, [[4, 10], [3, 12]])


def test_pruning(model):
    config = hyperion.init_prune_config()
    config.sparsity = 0.7
    before = model.plan.weight_bytes
    result = hyperion.prune_model(model, config)
    assert {t.storage for t in result.tensors} == {"sparse"}
    assert result.bytes_after == model.plan.weight_bytes < 0.6 * before
    assert np.isfinite(model.logits(IDS)).all()
