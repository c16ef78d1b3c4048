"""One process, one model, one budget: what `python -m benchmarks streaming` runs in a memory cgroup.

Prints one JSON object a line: {"base": ...} before anything is loaded, then figures as they are known, so that a job that
is stopped at its deadline still tells how far it came.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import os
import sys
import threading
import time

import numpy as np

from benchmarks.peers.worker import peak_memory, token_ids


def say(**figures: object) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


HUGE = 2 << 20


def huge_buffer(nbytes: int) -> memoryview:
    """Private memory in huge pages where the system has them: a device fills it faster than scattered pages."""
    mapping = mmap.mmap(-1, nbytes + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_HUGEPAGE)
    start = -np.frombuffer(mapping, np.uint8).ctypes.data % HUGE
    return memoryview(mapping)[start : start + nbytes]


def read_through(path: str, flags: int, threads: int, block: int, look: bool = False, lag: int = 32 << 20) -> float:
    """Bytes a second of one plain reading of the file, the page cache given back behind it.

    `look`: every byte is looked at before its memory is read into again, which is the least that a use of it does.
    """
    size = os.path.getsize(path)
    fd = os.open(path, os.O_RDONLY | flags)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    starts = list(range(0, size - block, block))

    def work(first: int) -> None:
        buffer = huge_buffer(block)
        values = np.frombuffer(buffer, np.uint64)
        for at in starts[first::threads]:
            os.preadv(fd, [buffer], at)
            if look:
                values.max()
            if not flags and at % lag == 0:
                os.posix_fadvise(fd, 0, max(0, at - lag), os.POSIX_FADV_DONTNEED)

    team = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    began = time.perf_counter()
    for t in team:
        t.start()
    for t in team:
        t.join()
    seconds = time.perf_counter() - began
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    return len(starts) * block / seconds


def raw_rates(path: str) -> tuple[float, float]:
    """The best of plain readings of the whole file, direct and buffered, by one thread and by two; and of direct ones by more
    threads in which every byte is looked at."""
    ways = [(os.O_DIRECT, 1, 4 << 20), (os.O_DIRECT, 2, 2 << 20), (0, 1, 4 << 20), (0, 2, 4 << 20)]
    looks = [(os.O_DIRECT, 2, 2 << 20, True), (os.O_DIRECT, 3, 1 << 20, True)]
    return max(read_through(path, *way) for way in ways), max(read_through(path, *way) for way in looks)


def forget_peak() -> int:
    """Bytes that the process has now, from which its peak is counted anew: the raw readings' buffers are not the model's."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return peak_memory() or 0


def hyperion_job(args: argparse.Namespace) -> None:
    import hyperion

    say(base=peak_memory())
    disk, looked = raw_rates(args.model)
    ids = token_ids(args.prompt + args.tokens, args.vocab)
    before, start = forget_peak(), time.perf_counter()
    model = hyperion.load_model(args.model, memory_budget=args.budget, context_length=args.context, threads=args.threads)
    say(load=time.perf_counter() - start, streamed=model.plan.streamed_bytes, pinned=model.plan.pinned_bytes,
        weights=model.plan.weight_bytes, predicted=model.predict().tokens_per_second)  # fmt: skip
    session = model.session()
    start = time.perf_counter()
    logits = session.eval(ids[: args.prompt])
    digest = hashlib.sha256(logits.tobytes())
    say(prefill=time.perf_counter() - start)
    stats, start = model.stream_stats, time.perf_counter()
    for token in ids[args.prompt :]:
        digest.update(session.eval([token]).tobytes())
    seconds = time.perf_counter() - start
    now = model.stream_stats
    read = now["bytes_read"] - stats["bytes_read"] if now else 0
    growth = (peak_memory() or 0) - before
    model.close()
    after = raw_rates(args.model)
    say(seconds=seconds / args.tokens, read=read / args.tokens, growth=growth, digest=digest.hexdigest()[:16],
        disk=max(disk, after[0]), looked=max(looked, after[1]))  # fmt: skip


def amortise_job(args: argparse.Namespace) -> None:
    """What one streamed pass serves: a prompt's chunk, a batch, a verified draft."""
    import hyperion

    model = hyperion.load_model(args.model, memory_budget=args.budget, context_length=args.context, threads=args.threads)
    vocab = model.tokenizer.vocab_size
    prompt = token_ids(min(512, args.context - 1), vocab)
    passes = model.stream_stats["passes"]
    with model.session() as session:
        session.eval(prompt)
    say(prompt_tokens=len(prompt), prompt_passes=model.stream_stats["passes"] - passes, chunk=model.plan.chunk)
    prompts = [token_ids(8, vocab, seed) for seed in range(16)]
    settings = {"temperature": 0, "ignore_end": True}
    model.generate(prompts[0], max_length=2, **settings)
    rates = []
    for work, count in ((prompts[:1], 1), (prompts, 16)):
        start = time.perf_counter()
        model.generate(work, max_length=2, **settings)
        short = time.perf_counter() - start
        start = time.perf_counter()
        model.generate(work, max_length=2 + args.tokens, **settings)
        rates.append(count * args.tokens / (time.perf_counter() - start - short))
    say(single=rates[0], batch=rates[1])
    # a text that repeats itself: the sampler is led by the penalty-free argmax of a model whose words mean nothing, so the
    # drafts are forced to be right by drawing the text itself
    from hyperion.generation.lookup import Advancer

    text = token_ids(12, vocab) * 8
    with model.session() as session:
        session.eval(text[:36])
        advancer = Advancer(session, min(7, model.plan.logits_rows - 1))
        for n in range(36, len(text)):
            advancer.advance(text[n], text[: n + 1])
        say(lookup_tokens_per_pass=(len(text) - 36) / advancer.passes)
    model.close()


def llama_job(args: argparse.Namespace) -> None:
    from benchmarks.peers import llama

    say(base=peak_memory())
    loaded = llama.load(args.model, args.threads, args.context, args.repack)
    say(load=loaded["seconds"])
    vocab = llama.state["vocab"]
    ids = token_ids(args.prompt + args.tokens, vocab)
    llama.clear()
    start = time.perf_counter()
    llama.evaluate(llama.tokens_array(ids[: args.prompt]), args.prompt)
    say(prefill=time.perf_counter() - start)
    for n, token in enumerate(ids[args.prompt :], 1):
        start = time.perf_counter() if n == 1 else start
        llama.evaluate(llama.tokens_array([token]), 1)
        say(seconds=(time.perf_counter() - start) / n, tokens=n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=["hyperion", "llama", "amortise"])
    parser.add_argument("model")
    parser.add_argument("--budget", default=None)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vocab", type=int, default=32000, help="token ids are drawn below this")
    parser.add_argument("--repack", action="store_true")
    args = parser.parse_args()
    {"hyperion": hyperion_job, "llama": llama_job, "amortise": amortise_job}[args.peer](args)


if __name__ == "__main__":
    main()
