"""The reference's first example: memory, a model, a tokenizer, a text."""

from pathlib import Path

import hyperion

MODEL = Path(hyperion.__file__).with_name("data") / "shakespeare-q8_0.gguf"  # any .gguf, .hyperion or HF directory

hyperion.init_memory(
    hyperion.MemoryConfig(
        initial_pool_size="1GiB",  # address space: pages are taken when they are used
        max_pool_size="2GiB",  # nothing in this process exceeds it
        track_allocations=True,
        enable_optimization=True,
    )
)

model = hyperion.load_model(MODEL, memory_budget="64MB")

# A vocabulary of one's own: one token a line, here with every letter as a token of its own.
words = ["[UNK]", "hello", "world", ",", "!", *"abcdefghijklmnopqrstuvwxyz"]
Path("vocabulary.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
tokenizer = hyperion.create_tokenizer(
    hyperion.TokenizerConfig(vocabulary_path="vocabulary.txt", max_tokens=50000, case_sensitive=False)
)
tokens = hyperion.tokenize(tokenizer, "Hello, world!")
print(tokens, hyperion.detokenize(tokenizer, tokens))

config = hyperion.GenerationConfig(max_length=100, temperature=0.7, top_k=50, top_p=0.9)
print(hyperion.generate_text(model, "Hello, ", config))

stats = hyperion.get_memory_stats()
print(f"current {stats.current_usage:,} bytes, peak {stats.peak_usage:,} bytes")
model.close()
