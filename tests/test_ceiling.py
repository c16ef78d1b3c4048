"""The ceiling as the system sees it: growth of a fresh process's resident memory over the moment before a model is opened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import hyperion
from benchmarks import synthetic
from tokenizer_data import gguf_metadata

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

VOCABULARIES = ["gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2"]
CONTEXT = 192

RUN = """
import json, re, sys
import numpy, hyperion
def read(key):
    return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
before = read("VmRSS")
path, budget, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with hyperion.load_model(path, memory_budget=budget, threads=threads, context_length=int(sys.argv[4])) as model:
    model.generate(list(range(300, 300 + model.context_length - 4)), max_length=3, temperature=0)
    model.generate("The ceiling holds", max_length=3, temperature=0.8, seed=1, logprobs=5)
    model.perplexity(list(range(300, 300 + model.context_length))[: 2 + 2 * model.plan.logits_rows])
    str(model.plan)
    used, pinned, streamed = model.budget.used, model.plan.pinned_bytes, model.plan.streamed_bytes
print(json.dumps({"growth": read("VmHWM") - before, "used": used, "pinned": pinned, "streamed": streamed}))
"""


@pytest.fixture(scope="module")
def models(shared, tmp_path_factory):
    """Small models with real vocabularies."""
    folder, made = tmp_path_factory.mktemp("ceiling"), {}

    def model(name: str) -> Path:
        if name not in made:
            keys = gguf_metadata(shared / f"vocab/ggml-vocab-{name}.gguf")
            vocabulary = {k: v for k, v in keys.items() if k.startswith("tokenizer.")}
            shape = synthetic.Shape(n_layers=4, width=256, feed_forward=512, heads=4, kv_heads=2, vocab=len(vocabulary["tokenizer.ggml.tokens"]))
            made[name] = folder / f"{name}.gguf"
            own = synthetic.metadata
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(synthetic, "metadata", lambda *a: {k: v for k, v in own(*a).items() if "tokenizer" not in k} | vocabulary)
                synthetic.write_model(made[name], shape, "q4_0")
        return made[name]

    return model


def floor(path: Path) -> int:
    with pytest.raises(hyperion.MemoryBudgetError) as caught:
        hyperion.load_model(path, memory_budget=1, context_length=CONTEXT)
    return caught.value.context["smallest"]


def run(path: Path, budget: int, threads: int) -> dict:
    command = [sys.executable, "-c", RUN, str(path), str(budget), str(threads), str(CONTEXT)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(("name", "threads", "above"), [
    *((name, 2, above) for name in VOCABULARIES for above in (0, 8_000_000)),
    *(("llama-spm", threads, 4_000_000) for threads in (1, 3, 4)), ("llama-bpe", 4, 60_000_000),
])  # fmt: skip
def test_a_process_grows_by_no_more_than_the_budget(models, name, threads, above):
    path = models(name)
    budget = floor(path) + above
    found = run(path, budget, threads)
    assert found["growth"] <= budget
    assert found["used"] <= budget
    assert found["growth"] >= found["pinned"]  # what is pinned is in memory
    assert found["streamed"] == 0 or found["used"] >= 0.97 * budget  # and what is streamed had no room


def test_a_budget_beyond_the_smallest_pins_weights(models):
    """What a byte more buys: weights, but for the share of longer chunks and the ring."""
    with hyperion.load_model(models("llama-spm"), context_length=CONTEXT) as model:
        least, weights = model.smallest_budget, model.plan.weight_bytes
        assert model.plan.resident
        for share in (0.3, 0.5, 0.7, 0.9):
            plan = model.replan(int(least + share * weights))
            assert plan.pinned_bytes >= (share - 0.2) * weights
            assert plan.total >= 0.97 * plan.budget
        assert model.replan(int(least + 1.3 * weights)).streamed_bytes == 0
