"""Which layer outputs are kept, which are computed again, and running a model layer by layer."""

from pathlib import Path

import numpy as np

import hyperion

MODEL = Path(hyperion.__file__).with_name("data") / "shakespeare-q8_0.gguf"

config = hyperion.LayerSchedulerConfig(
    enable_checkpointing=True,
    memory_speed_tradeoff=0.7,
    recompute_activations=False,
    max_activation_memory=128 * 1024 * 1024,
)

with hyperion.load_model(MODEL, context_length=256) as model:
    ids = model.tokenizer.encode("To be, or not to be")
    expected = model.logits(ids)

    scheduler = hyperion.create_layer_scheduler(model, config)
    hyperion.set_layer_checkpointing_strategy(scheduler, 3, hyperion.CheckpointStrategy.ALL)
    print(hyperion.create_execution_plan(scheduler))
    print(hyperion.estimate_memory_usage(scheduler))

    for i in range(model.layer_count):  # layer 0 is the embedding, the last one gives the logits
        output = hyperion.execute_layer_with_memory_optimization(scheduler, i, ids)
        print(f"layer {i}: {output.shape}")
    np.testing.assert_array_equal(output, expected)

    hidden = hyperion.get_layer_output(scheduler, 2)  # float32 [n_tokens, dim], kept or computed again
    print(f"after layer 2: {hidden.shape}, mean {hidden.mean():.4f}")
    hyperion.free_layer_scheduler(scheduler)
