"""One process, one model, one budget: what `python -m benchmarks streaming` runs in a memory cgroup.

Prints one JSON object a line: {"base": ...} before anything is loaded, then figures as they are known, so that a job that
is stopped at its deadline still tells how far it came.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import threading
import time

from benchmarks.peers.worker import peak_memory, token_ids


def say(**figures: object) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


def raw_rate(path: str, nbytes: int = 192 << 20, block: int = 4 << 20, lag: int = 16 << 20) -> float:
    """The best bytes a second of plain reads of the file, direct and buffered, by one thread and by three."""
    import mmap

    best = 0.0
    size = os.path.getsize(path)
    for flags in (os.O_DIRECT, 0):
        for threads in (1, 3):
            fd = os.open(path, os.O_RDONLY | flags)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            starts = list(range(0, min(size - block, nbytes), block))

            def work(first: int, fd: int = fd, starts: list[int] = starts, threads: int = threads) -> None:
                with mmap.mmap(-1, block) as buffer:
                    for at in starts[first::threads]:
                        os.preadv(fd, [buffer], at)
                        os.posix_fadvise(fd, max(0, at - lag), block, os.POSIX_FADV_DONTNEED)

            began = time.perf_counter()
            team = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
            for t in team:
                t.start()
            for t in team:
                t.join()
            best = max(best, len(starts) * block / (time.perf_counter() - began))
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
    return best


def hyperion_job(args: argparse.Namespace) -> None:
    import hyperion

    say(base=peak_memory())
    disk = raw_rate(args.model)
    before, start = peak_memory() or 0, time.perf_counter()
    model = hyperion.load_model(args.model, memory_budget=args.budget, context_length=args.context, threads=args.threads)
    say(load=time.perf_counter() - start, streamed=model.plan.streamed_bytes, pinned=model.plan.pinned_bytes,
        weights=model.plan.weight_bytes, predicted=model.predict().tokens_per_second)  # fmt: skip
    session = model.session()
    ids = token_ids(args.prompt + args.tokens, model.tokenizer.vocab_size)
    start = time.perf_counter()
    logits = session.eval(ids[: args.prompt])
    digest = hashlib.sha256(logits.tobytes())
    say(prefill=time.perf_counter() - start)
    stats, start = model.stream_stats, time.perf_counter()
    for token in ids[args.prompt :]:
        digest.update(session.eval([token]).tobytes())
    seconds = time.perf_counter() - start
    after = model.stream_stats
    read = after["bytes_read"] - stats["bytes_read"] if after else 0
    growth = (peak_memory() or 0) - before
    model.close()
    say(seconds=seconds / args.tokens, read=read / args.tokens, growth=growth, digest=digest.hexdigest()[:16],
        disk=max(disk, raw_rate(args.model)))  # fmt: skip


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
    parser.add_argument("--repack", action="store_true")
    args = parser.parse_args()
    {"hyperion": hyperion_job, "llama": llama_job, "amortise": amortise_job}[args.peer](args)


if __name__ == "__main__":
    main()
