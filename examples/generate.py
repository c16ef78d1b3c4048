"""What most programs need: open a model within a budget, generate, stream, look inside."""

from pathlib import Path

import hyperion

MODEL = Path(hyperion.__file__).with_name("data") / "shakespeare-q8_0.gguf"

with hyperion.load_model(MODEL, memory_budget="64MB") as model:
    print(model.plan)  # what is pinned, streamed, reserved; predicted tokens/s

    text = model.generate("ROMEO:", max_length=60, temperature=0.7, top_k=50, top_p=0.9, seed=1)
    print(text)

    for chunk in model.stream("JULIET:", hyperion.GenerationConfig(max_length=60, seed=1)):
        print(chunk.text, end="", flush=True)
    print(f"\n[{chunk.finish_reason}]")

    for answer in model.generate(["HAMLET:", "OPHELIA:"], max_length=20, seed=2):  # one pass over the weights serves both
        print(repr(answer))

    ids = model.tokenizer.encode("To be, or not to be")
    print(ids, repr(model.tokenizer.decode(ids)))
    logits = model.logits(ids)  # float32 [n_tokens, vocab_size]
    print(logits.shape, model.tokenizer.id_to_token(int(logits[-1].argmax())))

    with model.session() as session:  # low level: a cache that grows
        last = session.eval(ids)
        last = session.eval([int(last.argmax())])
        session.truncate(len(ids))

    print(model.memory_stats)
    print(model.describe())
