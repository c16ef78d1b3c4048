"""The weights of a file, layer by layer, in a cache of a fixed size."""

from pathlib import Path

import hyperion

MODEL = Path(hyperion.__file__).with_name("data") / "shakespeare-q8_0.gguf"

config = hyperion.create_default_mmap_config()
config.max_cache_size = 100 * 1024 * 1024  # or "100MiB"
config.prefetch_enabled = True
config.prefetch_threads = 2
config.adaptive_caching = True
config.min_layer_cache_size = 8 * 1024

model = hyperion.open_mapped_model(MODEL, config)
layer_count = hyperion.get_mapped_layer_count(model)
print(f"Model has {layer_count} layers")

hyperion.set_layer_priority(model, 0, 2.0)  # the embedding is given up last
for i in range(layer_count):
    if i + 1 < layer_count:
        hyperion.prefetch_layer_weights(model, i + 1)
    weights = hyperion.get_layer_weights(model, i)  # read-only: name -> array
    descriptor = hyperion.get_layer_descriptor(model, i)
    print(f"Layer {i}: {len(weights)} tensors, {descriptor.size:,} bytes of {descriptor.precision} bits")
    del weights  # views keep a layer from being released
    if i % 2 == 0:
        hyperion.release_layer_weights(model, i)

print(f"Memory usage: {hyperion.get_mapped_model_memory_usage(model) / (1024 * 1024):.2f} MB")
hyperion.reset_layer_priorities(model)
hyperion.close_mapped_model(model)
