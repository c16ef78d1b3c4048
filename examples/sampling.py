"""Log probabilities, penalties, stop strings, and a logit processor that forbids tokens."""

from pathlib import Path

import numpy as np

import hyperion

MODEL = Path(hyperion.__file__).with_name("data") / "shakespeare-q8_0.gguf"

with hyperion.load_model(MODEL, memory_budget="64MB") as model:
    for chunk in model.stream("ROMEO:", max_length=3, temperature=0, logprobs=3):
        rivals = ", ".join(f"{model.tokenizer.id_to_token(t)} {np.exp(p):.1%}" for t, p in chunk.top_logprobs)
        print(f"{chunk.text!r} at {np.exp(chunk.logprob):.1%} of {rivals}")

    print(model.generate("ROMEO:", max_length=40, temperature=0, frequency_penalty=0.5, presence_penalty=0.5))
    print(model.generate("ROMEO:", max_length=40, temperature=0, stop=["\n\n", "JULIET"]))

    comma = [i for i in range(model.tokenizer.vocab_size) if "," in (model.tokenizer.id_to_token(i) or "")]

    def no_comma(tokens, logits):
        """Forbid every token with a comma in it."""
        logits[comma] = -np.inf
        return logits

    text = model.generate("ROMEO:", max_length=40, temperature=0, logit_processors=no_comma)
    assert "," not in text
    print(text)
