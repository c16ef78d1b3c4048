"""Pin and unpin the layers of an open model."""

from pathlib import Path

import hyperion

MODEL = Path(hyperion.__file__).with_name("data") / "shakespeare-q8_0.gguf"

config = hyperion.ProgressiveLoaderConfig(
    enable_prefetch=True, prefetch_window=3, enable_adaptive_window=True, max_memory_usage=256 * 1024 * 1024
)

with hyperion.load_model(MODEL, context_length=256) as model:
    text = model.generate("ROMEO:", max_length=10, temperature=0)
    model.replan(model.smallest_budget + 3_000_000)  # little memory: layers are streamed

    loader = hyperion.create_progressive_loader(config, model)
    hyperion.load_layer(loader, 0)
    status = hyperion.load_layer(loader, 1)
    print(f"layer 1 is {status.state.name}: {status.pinned_bytes:,} bytes pinned")
    hyperion.set_layer_priority(loader, 1, 5)
    status = hyperion.unload_layer(loader, 0)
    print(f"layer 0 is {status.state.name}")
    assert hyperion.get_layer_status(loader, 1).state is hyperion.LayerState.PINNED
    assert model.generate("ROMEO:", max_length=10, temperature=0) == text
    print(hyperion.get_progressive_loader_stats(loader))
    hyperion.free_progressive_loader(loader)

# The memory guide's loop: load while there is room, unload two layers back where there is not.
config = hyperion.ProgressiveConfig(
    enable_prefetch=True, prefetch_window=2, enable_unload=True, memory_threshold=768 * 1024 * 1024
)
with hyperion.load_model(MODEL, context_length=256) as model:
    model.replan(model.smallest_budget + 2_000_000)
    loader = hyperion.create_progressive_loader(config, model)
    for i in range(model.layer_count):
        try:
            hyperion.load_layer(loader, i)
        except hyperion.MemoryBudgetError:  # memory pressure
            for j in range(i):
                hyperion.unload_layer(loader, j)
            hyperion.load_layer(loader, i)
    print([hyperion.get_layer_status(loader, i).state.name for i in range(model.layer_count)])
    hyperion.free_progressive_loader(loader)
