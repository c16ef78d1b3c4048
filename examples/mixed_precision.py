"""Give each group of an open model's matrices a precision of its own."""

from pathlib import Path

import hyperion

MODEL = Path(hyperion.__file__).with_name("data") / "shakespeare-q8_0.gguf"

config = hyperion.init_mixed_precision_config()
config.embedding_precision = hyperion.Precision.INT8
config.attention_precision = hyperion.Precision.INT4
config.ffn_precision = hyperion.Precision.INT4
config.output_precision = hyperion.Precision.FP16

with hyperion.load_model(MODEL) as model:
    before = model.plan.weight_bytes
    hyperion.apply_mixed_precision(model, config)
    print(f"{before:,} bytes of weights before, {model.plan.weight_bytes:,} after: {model.describe()['tensor_bytes']}")
    print(model.generate("ROMEO:", max_length=40, temperature=0))
