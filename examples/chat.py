"""A conversation. The demo model was not trained to converse, so it gets the plain template: a transcript."""

from pathlib import Path

import hyperion

MODEL = Path(hyperion.__file__).with_name("data") / "shakespeare-q8_0.gguf"
TEMPLATE = "plain"  # leave it out for a model with a chat template of its own

with hyperion.load_model(MODEL, memory_budget="64MB") as model:
    messages = [{"role": "system", "content": "Answer in verse."}, {"role": "user", "content": "Who art thou?"}]
    print(model.chat(messages, template=TEMPLATE, max_length=60, temperature=0))

    # The same with the history and the cache kept: every turn evaluates only what is new.
    with model.conversation(system="Answer in verse.", template=TEMPLATE, max_length=60, seed=1) as conversation:
        for question in ("Who art thou?", "Where goest thou?"):
            for chunk in conversation.send(question):
                print(chunk.text, end="", flush=True)
            print(f"\n[{conversation.evaluated} tokens were new]")
