"""llama.cpp as a worker, through the low-level bindings of llama-cpp-python: no Python work between its calls.

Every parameter is the library's default except those that a request names: threads, context length, and `repack`, which
allows llama.cpp its extra buffer types (weights laid out anew for the processor; allowed by its own defaults).
"""

from __future__ import annotations

import time

import numpy as np

from benchmarks.peers.worker import peak_memory, serve, token_ids

state: dict = {}


def load(path: str, threads: int, context_length: int, repack: bool) -> dict:
    """Open a model and one context on it."""
    import llama_cpp as lib

    state["log"] = lib.llama_log_callback(lambda level, text, data: None)  # kept alive: C calls it
    lib.llama_log_set(state["log"], None)
    lib.llama_backend_init()
    before, start = peak_memory(), time.perf_counter()
    options = lib.llama_model_default_params()
    options.use_extra_bufts = repack
    options.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(path.encode(), options)
    if not model:
        raise RuntimeError(f"llama.cpp cannot load {path}")
    options = lib.llama_context_default_params()
    options.n_ctx = context_length
    options.n_threads = options.n_threads_batch = threads
    context = lib.llama_init_from_model(model, options)
    if not context:
        raise RuntimeError("llama.cpp cannot make a context")
    seconds = time.perf_counter() - start
    vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    state.update(lib=lib, context=context, hwm=before, vocab=vocab)
    return {"seconds": seconds, "version": lib.__version__, "details": lib.llama_print_system_info().decode().strip()}


def clear() -> None:
    lib = state["lib"]
    lib.llama_memory_clear(lib.llama_get_memory(state["context"]), False)


def evaluate(array, n: int) -> None:
    lib = state["lib"]
    status = lib.llama_decode(state["context"], lib.llama_batch_get_one(array, n))
    if status:
        raise RuntimeError(f"llama_decode returned {status}")
    lib.llama_synchronize(state["context"])


def tokens_array(ids: list[int]):
    return (state["lib"].llama_token * len(ids))(*ids)


def prefill(tokens: int) -> float:
    """Seconds to evaluate a prompt from nothing; logits of its last token only."""
    array = tokens_array(token_ids(tokens, state["vocab"]))
    clear()
    start = time.perf_counter()
    evaluate(array, tokens)
    return time.perf_counter() - start


def decode(context: int, tokens: int) -> float:
    """Seconds to evaluate tokens one by one after a context, which is not timed."""
    ids = token_ids(context + tokens, state["vocab"])
    first, rest = tokens_array(ids[:context]), [tokens_array([token]) for token in ids[context:]]
    clear()
    evaluate(first, context)
    start = time.perf_counter()
    for array in rest:
        evaluate(array, 1)
    return time.perf_counter() - start


def logits(tokens: int) -> list[float]:
    """The last token's logits of a prompt, to see that the peers compute the same thing."""
    prefill(tokens)
    row = state["lib"].llama_get_logits_ith(state["context"], -1)
    return [float(row[i]) for i in range(state["vocab"])]


def version() -> str:
    """Of llama-cpp-python; an error where there is none."""
    import llama_cpp as lib

    return lib.__version__


def loss(ids: list[int]) -> float:
    """Negative log-likelihood of every token of a sequence after its first."""
    lib, n = state["lib"], len(ids)
    batch = lib.llama_batch_init(n, 0, 1)
    try:
        batch.n_tokens = n
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, 1
        clear()
        status = lib.llama_decode(state["context"], batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")
        rows = np.ctypeslib.as_array(lib.llama_get_logits(state["context"]), (n, state["vocab"])).astype(np.float64)
    finally:
        lib.llama_batch_free(batch)
    top = rows.max(axis=1)
    total = top + np.log(np.exp(rows - top[:, None]).sum(axis=1))
    return float((total[:-1] - rows[np.arange(n - 1), ids[1:]]).sum())


def memory() -> int | None:
    """Growth of the largest resident set since before loading; mapped pages of the file count."""
    return None if state["hwm"] is None else peak_memory() - state["hwm"]


if __name__ == "__main__":
    serve({"load": load, "prefill": prefill, "decode": decode, "logits": logits, "loss": loss, "memory": memory, "version": version})
