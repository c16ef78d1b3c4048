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
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.peers.worker import peak_memory, token_ids


def say(**figures: object) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


HUGE = 2 << 20
BLOCK = 4 << 20
LAG, SPAN = 32 << 20, 128 << 20
DIRECT = [(getattr(os, "O_DIRECT", 0), 1, BLOCK), (getattr(os, "O_DIRECT", 0), 2, BLOCK // 2)]
TURN = 3
"""Tokens of a turn, with the one that does not count."""


def huge_buffer(nbytes: int) -> memoryview:
    """Private memory in huge pages where the system has them: a device fills it faster than scattered pages."""
    mapping = mmap.mmap(-1, nbytes + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_HUGEPAGE)
    start = -np.frombuffer(mapping, np.uint8).ctypes.data % HUGE
    return memoryview(mapping)[start : start + nbytes]


def read_through(
    path: str, flags: int, threads: int, block: int, buffers: Sequence[memoryview], first: int = 0, nbytes: int | None = None
) -> float:
    """Bytes a second of one plain reading, the page cache given back behind it; nothing is done with what is read.

    `nbytes` from `first` on are read, to the end of the file where that is None.
    """
    end = os.path.getsize(path) if nbytes is None else first + nbytes
    fd = os.open(path, os.O_RDONLY | flags)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    starts = list(range(first, end - block, block))

    def work(number: int) -> None:
        buffer = buffers[number][:block]
        for at in starts[number::threads]:
            os.preadv(fd, [buffer], at)
            if not flags and at % LAG == 0:
                os.posix_fadvise(fd, 0, max(0, at - LAG), os.POSIX_FADV_DONTNEED)

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


class Disk:
    """What the disk gives to who does nothing but read. Its buffers stay, so that a process's growth does not count them."""

    def __init__(self, path: str) -> None:
        self.path, self.size = path, os.path.getsize(path)
        self.buffers = [huge_buffer(BLOCK) for _ in range(2)]
        for buffer in self.buffers:
            np.frombuffer(buffer, np.uint8)[:] = 0

    def best(self) -> float:
        """Bytes a second of the best of readings of the whole file: direct and buffered, by one thread and by two."""
        ways = [*DIRECT, (0, 1, BLOCK), (0, 2, BLOCK)]
        return max(read_through(self.path, *way, self.buffers) for way in ways)

    def now(self, turn: int) -> float:
        """The best of short direct readings, of another part of the file in every turn; they leave the page cache alone, which
        is in the group that the model runs in."""
        span = min(SPAN, self.size // 2)
        first = turn * span % (self.size - span) // BLOCK * BLOCK
        return max(read_through(self.path, *way, self.buffers, first, span) for way in DIRECT)


class Turns:
    """Decoding in turn with plain readings, because the rate of a shared disk moves by half within seconds: each turn is set
    against the better of the readings just before and just after it."""

    def __init__(self, session: Any, disk: Disk | None) -> None:
        self.session, self.disk = session, disk
        self.seconds: list[float] = []  # of a token in each turn
        self.rates: list[float] = []  # of the readings before each turn, and after the last

    def run(self, ids: Sequence[int], digest: Any, turns: int) -> None:
        """Evaluate all tokens; after a reading, in which the ring was filled, the first does not count."""
        for turn, part in enumerate(np.array_split(np.asarray(ids), turns)):
            if self.disk is not None and len(part) > 1:
                self.rates.append(self.disk.now(turn))
                digest.update(self.session.eval([int(part[0])]).tobytes())
                part = part[1:]
            start = time.perf_counter()
            for token in part:
                digest.update(self.session.eval([int(token)]).tobytes())
            self.seconds.append((time.perf_counter() - start) / len(part))
        if self.rates:
            self.rates.append(self.disk.now(turns))

    def figures(self) -> dict[str, Any]:
        """The median token, and of each turn the seconds of a token and the bytes a second of the readings beside it."""
        beside = [max(pair) for pair in zip(self.rates, self.rates[1:], strict=False)]
        return {"seconds": float(np.median(self.seconds)), "turns": self.seconds, "beside": beside}


def forget_peak() -> int:
    """Bytes that the process has now, from which its peak is counted anew: the raw readings' buffers are not the model's."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return peak_memory() or 0


def hyperion_job(args: argparse.Namespace) -> None:
    import hyperion

    disk = None if args.alone else Disk(args.model)
    say(base=peak_memory())
    best = disk.best() if disk else 0.0
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
    stats = model.stream_stats
    turns = Turns(session, disk if model.plan.streamed_bytes else None)
    turns.run(ids[args.prompt :], digest, max(1, args.tokens // TURN))
    now = model.stream_stats
    read = now["bytes_read"] - stats["bytes_read"] if now else 0
    growth = (peak_memory() or 0) - before
    model.close()
    say(read=read / args.tokens, growth=growth, digest=digest.hexdigest()[:16],
        disk=max(best, disk.best()) if disk else None, **turns.figures())  # fmt: skip


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
    parser.add_argument("--alone", action="store_true", help="no plain readings of the disk beside the model")
    args = parser.parse_args()
    {"hyperion": hyperion_job, "llama": llama_job, "amortise": amortise_job}[args.peer](args)


if __name__ == "__main__":
    main()
