"""Which kernels run, and how products are cut to the caches. Speed only: each choice says what it may change."""

from pathlib import Path

import hyperion

MODEL = Path(hyperion.__file__).with_name("data") / "shakespeare-q8_0.gguf"

print(hyperion.get_simd_capabilities())

with hyperion.load_model(MODEL, memory_budget="40MB", context_length=256) as model:
    for op in hyperion.SIMDOpType:
        print(op.name, hyperion.enable_simd(model, op, True))
    text = model.generate("ROMEO:", max_length=20, temperature=0)

    hyperion.set_simd_optimization_level(model, 0)  # the portable kernels
    print(model.describe()["simd"], repr(model.generate("ROMEO:", max_length=20, temperature=0)))
    hyperion.set_simd_optimization_level(model, None)  # the best that there is

    hyperion.configure_cache_optimization(
        model, hyperion.CacheConfig(block_size=64, cache_line_size=64, enable_prefetch=True, prefetch_distance=8)
    )
    print(hyperion.optimize_memory_layout(model))
    assert model.generate("ROMEO:", max_length=20, temperature=0) == text
    print(hyperion.get_cache_stats(model))
