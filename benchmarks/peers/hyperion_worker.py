"""Hyperion as a worker: what its public API does, timed."""

from __future__ import annotations

import time

from benchmarks.peers.worker import peak_memory, serve, token_ids

state: dict = {}


def load(path: str, threads: int, context_length: int, budget: str | None = None) -> dict:
    """Open a model and one session on it."""
    from hyperion import __version__, load_model

    before, start = peak_memory(), time.perf_counter()
    model = load_model(path, threads=threads, context_length=context_length, memory_budget=budget)
    seconds = time.perf_counter() - start
    state.update(model=model, session=model.session(), hwm=before, vocab=model.tokenizer.vocab_size)
    details = "; ".join(f"{key} {value}" for key, value in model.describe().items() if key != "path")
    return {"seconds": seconds, "version": __version__, "details": details}


def prefill(tokens: int) -> float:
    """Seconds to evaluate a prompt from nothing."""
    session, ids = state["session"], token_ids(tokens, state["vocab"])
    session.truncate(0)
    start = time.perf_counter()
    session.eval(ids)
    return time.perf_counter() - start


def decode(context: int, tokens: int) -> float:
    """Seconds to evaluate tokens one by one after a context, which is not timed."""
    session, ids = state["session"], token_ids(context + tokens, state["vocab"])
    session.truncate(0)
    session.eval(ids[:context])
    start = time.perf_counter()
    for token in ids[context:]:
        session.eval([token])
    return time.perf_counter() - start


def logits(tokens: int) -> list[float]:
    """The last token's logits of a prompt, to see that the peers compute the same thing."""
    session = state["session"]
    session.truncate(0)
    return [float(x) for x in session.eval(token_ids(tokens, state["vocab"]))]


def memory() -> int | None:
    """Growth of the largest resident set since before loading."""
    return None if state["hwm"] is None else peak_memory() - state["hwm"]


if __name__ == "__main__":
    serve({"load": load, "prefill": prefill, "decode": decode, "logits": logits, "memory": memory})
