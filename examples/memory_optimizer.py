"""Move an open model between budgets, and let the temporaries of a function share memory."""

from pathlib import Path

import numpy as np

import hyperion

MODEL = Path(hyperion.__file__).with_name("data") / "shakespeare-q8_0.gguf"

optimizer = hyperion.create_memory_optimizer(
    hyperion.MemoryOptimizerConfig(
        enable_tensor_reuse=True,
        enable_in_place_ops=True,
        memory_speed_tradeoff=0.5,  # 0 for the least memory, 1 for the most speed; never another result
        max_memory_budget=512 * 1024 * 1024,
    )
)

with hyperion.load_model(MODEL, context_length=256) as model:
    text = model.generate("ROMEO:", max_length=20, temperature=0)
    for budget in ("256MiB", model.smallest_budget):
        plan = hyperion.optimize_memory_usage(optimizer, model, budget)
        print(f"{plan.total:,} bytes: {plan.pinned_bytes:,} pinned, {plan.streamed_bytes:,} streamed in every pass")
        assert model.generate("ROMEO:", max_length=20, temperature=0) == text


def normalise(scope, x):
    """The array `squares` is taken from the scope, whose memory later calls take again."""
    squares = scope.empty(x.shape)
    np.multiply(x, x, out=squares)
    return x / np.sqrt(squares.sum())


x = np.arange(1, 1001, dtype=np.float32)
for _ in range(100):
    y = hyperion.execute_with_tensor_reuse(optimizer, normalise, x)
hyperion.set_memory_speed_tradeoff(optimizer, 1.0)
hyperion.enable_in_place_operations(optimizer, False)
print(f"norm {np.linalg.norm(y):.6f}; arenas {hyperion.get_memory_optimizer_stats(optimizer).peak_usage:,} bytes")
hyperion.free_memory_optimizer(optimizer)
