"""io="mmap": the kernels read a .hyperion file's own pages."""

import numpy as np
import pytest

import hyperion
from hyperion.memory import engine_pool

IDS = list(range(5, 45))


@pytest.fixture(scope="module")
def packed(shared, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "model.hyperion"
    hyperion.convert(shared / "models" / "shakespeare" / "shakespeare-q4_k_m.gguf", path)
    return path


def test_mapped_weights_give_the_same_bits(shared, packed):
    with hyperion.load_model(shared / "models" / "shakespeare" / "shakespeare-q4_k_m.gguf") as model:
        expected, text = model.logits(IDS), model.generate("ROMEO:", temperature=0, max_length=20)
    with hyperion.load_model(packed, io="mmap") as model:
        np.testing.assert_array_equal(model.logits(IDS), expected)
        assert model.generate("ROMEO:", temperature=0, max_length=20) == text
        assert model.describe()["io"] == "mmap"
        assert sum(n for owner, n in model.memory_stats.by_owner.items() if owner.startswith("mapped")) >= model.plan.weight_bytes
        counts = [d.access_count for d in model.mapped.layers]
        assert all(d.is_active for d in model.mapped.layers)
        model.logits(IDS)
        assert all(d.access_count > n for d, n in zip(model.mapped.layers, counts, strict=True))
        budget = model.budget
    assert budget.used == 0


def test_plain_gguf_and_small_budgets_are_refused(shared, packed):
    with pytest.raises(hyperion.InvalidArgumentError, match=r"needs a \.hyperion file"):
        hyperion.load_model(shared / "models" / "shakespeare" / "shakespeare-q4_0.gguf", io="mmap")
    with hyperion.load_model(packed) as model:
        floor = model.smallest_budget
    with pytest.raises(hyperion.MemoryBudgetError, match="mmap"):
        hyperion.load_model(packed, io="mmap", memory_budget=floor + 100_000)


def test_a_flipped_bit_is_found(packed, tmp_path):
    data = bytearray(packed.read_bytes())
    with hyperion.formats.open_container(packed) as container:
        data[container.tensors["blk.2.ffn_down.weight"].offset + 1000] ^= 4
    damaged = tmp_path / "damaged.hyperion"
    damaged.write_bytes(data)
    with pytest.raises(hyperion.FormatError, match="block 2"):
        hyperion.load_model(damaged, io="mmap")


def test_the_documented_objects_did_the_work(packed, shared):
    """After a text, everything that the engine is said to run on has counted it."""
    before = engine_pool().stats().allocation_count
    streamed = shared / "models" / "shakespeare" / "shakespeare-q4_0.gguf"
    with hyperion.load_model(streamed) as model:
        floor = model.smallest_budget
    with hyperion.load_model(streamed, memory_budget=floor + 500_000) as model:
        executed, passes = model.scheduler.counters.executed, model.loader.passes
        model.generate("ROMEO:", temperature=0, max_length=4)
        assert model.scheduler.counters.executed >= executed + 4 * model.config.layers
        assert model.loader.passes >= passes + 4
        assert model.stream_stats["passes"] >= 4
    assert engine_pool().stats().allocation_count > before
    with hyperion.load_model(packed, io="mmap") as model:
        assert "checksums" in model.memory_stats.by_owner
        used = [d.last_accessed for d in model.mapped.layers]
        model.generate("ROMEO:", temperature=0, max_length=4)
        assert all(d.last_accessed > t for d, t in zip(model.mapped.layers, used, strict=True))
