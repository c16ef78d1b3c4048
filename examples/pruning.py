"""Thin an open model out: blocks of small weights become zero, and are neither stored nor multiplied."""

from pathlib import Path

import hyperion

MODEL = Path(hyperion.__file__).with_name("data") / "shakespeare-q8_0.gguf"

config = hyperion.init_prune_config()
config.method = hyperion.PruneMethod.MAGNITUDE
config.sparsity = 0.7
config.block_size = 32  # the kernels skip blocks from 32 on; 4, as in the reference, shows in the quality only

with hyperion.load_model(MODEL) as model:
    text = "What light through yonder window breaks? It is the east, and Juliet is the sun."
    print(f"{model.plan.weight_bytes:,} bytes of weights, perplexity {model.perplexity(text):.1f}")
    result = hyperion.prune_model(model, config)
    print(f"{len(result.tensors)} matrices pruned: {result.bytes_before:,} bytes became {result.bytes_after:,}")
    print(f"perplexity {model.perplexity(text):.1f}")  # seven blocks of ten are much: measure before using it
