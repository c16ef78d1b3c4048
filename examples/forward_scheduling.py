"""A graph of layers within a memory limit: order, buffers, residual edges."""

from pathlib import Path

import numpy as np

import hyperion

MODEL = Path(hyperion.__file__).with_name("data") / "shakespeare-q8_0.gguf"

# Functions of one's own. Layer 3 adds the output of layer 0, which is kept for it.
scheduler = hyperion.create_forward_scheduler(None, hyperion.ExecutionMode.MEMORY_OPT, 100 * 1024 * 1024)
rng = np.random.default_rng(1)
weights = [rng.standard_normal((256, 256), np.float32) / 16 for _ in range(4)]
for i, w in enumerate(weights):
    scheduler.add_layer(i, lambda x, w=w: np.tanh(x @ w), depends_on=i - 1, output_size=256 * 4)
hyperion.add_layer_to_schedule(scheduler, 3, 0, hyperion.DependencyType.RESIDUAL, 256 * 4)
hyperion.prepare_forward_pass(scheduler)

x = rng.standard_normal(256, np.float32)
output = np.empty(256, np.float32)
while (index := hyperion.execute_next_layer(scheduler, x, output)) is not None:
    print(f"layer {index}: {hyperion.get_scheduler_memory_usage(scheduler):,} bytes of outputs alive")
print(f"peak {hyperion.get_scheduler_peak_memory_usage(scheduler):,} bytes, result {output[:3]}")
assert hyperion.is_layer_executed(scheduler, 3)
print("batches of", hyperion.calculate_optimal_batch_size(scheduler, 1024, 1024, 64))
hyperion.mark_layer_output_unneeded(scheduler, 3)
hyperion.reset_scheduler(scheduler)
hyperion.destroy_forward_scheduler(scheduler)

# The schedule of an open model is made from its blocks.
with hyperion.load_model(MODEL, context_length=64) as model:
    scheduler = hyperion.create_forward_scheduler(model, hyperion.ExecutionMode.MEMORY_OPT, "100MB")
    hyperion.prepare_forward_pass(scheduler)
    ids = model.tokenizer.encode("To be, or not to be")
    steps = []
    while (index := hyperion.execute_next_layer(scheduler, ids)) is not None:
        steps.append(index)
    logits = hyperion.get_layer_output(scheduler, steps[-1])
    np.testing.assert_array_equal(logits[-1], model.logits(ids)[-1])
    print(f"model: layers {steps}, logits {logits.shape}")
    hyperion.destroy_forward_scheduler(scheduler)
