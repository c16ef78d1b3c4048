"""Models larger than their budget: the same bits, the plan held, errors on the consumer, nothing left behind."""

import dataclasses
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import hyperion
from benchmarks import synthetic
from hyperion._kernels import stream
from hyperion.memory import process_budget
from hyperion.scheduling import LayerSize, MatrixSize, ModelSizes, make_plan
from hyperion.scheduling import plan as plan_module

IDS = [(7 * i) % 2000 + 3 for i in range(40)]


@pytest.fixture(scope="module")
def expected(path):
    with hyperion.load_model(path) as model:
        assert model.plan.resident
        return model.logits(IDS)


def smallest_budget(path, **options):
    with pytest.raises(hyperion.MemoryBudgetError) as caught:
        hyperion.load_model(path, memory_budget=1_000_000, **options)
    return caught.value.context["smallest"]


def streamed(path, share=0.3, **options):
    """The model in a budget that holds about this share of its weights."""
    floor = smallest_budget(path, **options)
    return hyperion.load_model(path, memory_budget=floor + int(share * path.stat().st_size), **options)


def test_the_error_names_the_smallest_budget_and_it_works(path, expected):
    floor = smallest_budget(path, context_length=128)
    with hyperion.load_model(path, memory_budget=floor, context_length=128) as model:
        assert model.plan.streamed_bytes >= 0.9 * model.plan.weight_bytes
        assert model.memory_stats.peak_usage <= floor
        np.testing.assert_array_equal(model.logits(IDS), expected)
    with pytest.raises(hyperion.MemoryBudgetError, match=str(floor)):
        hyperion.load_model(path, memory_budget=floor - 4096, context_length=128)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("io", ["direct", "buffered", "auto"])
def test_same_bits_in_every_budget(path, expected, share, io):
    with streamed(path, share, io=io, context_length=256) as model:
        assert 0 < model.plan.streamed_bytes
        assert model.plan.total <= model.plan.budget
        np.testing.assert_array_equal(model.logits(IDS), expected)
        with model.session() as session:
            rows = [session.eval(IDS[:30]), *(session.eval([t]) for t in IDS[30:])]
        np.testing.assert_array_equal(np.stack(rows), expected[29:])
        assert model.memory_stats.peak_usage <= model.plan.budget


TYPES = ["f16", "iq4_nl", "q2_k", "q3_k_m", "q4_1", "q4_k_m", "q5_0", "q5_1", "q5_k_m", "q6_k", "q8_0"]


def same_bits(path, threads):
    """The logits of a model that streams all of its rows, by one token and by several, are those of the resident one."""
    steps = [IDS[:1], IDS[1:3], IDS[3:8], IDS[8:9], IDS[9:]]
    with hyperion.load_model(path, context_length=64) as model, model.session() as session:
        assert model.plan.resident
        expected = [session.eval(ids) for ids in steps]
    floor = smallest_budget(path, context_length=64, threads=threads)
    with hyperion.load_model(path, memory_budget=floor, context_length=64, threads=threads) as model, model.session() as session:
        assert model.plan.streamed_bytes > 0.9 * model.plan.weight_bytes
        np.testing.assert_array_equal([session.eval(ids) for ids in steps], expected)


@pytest.mark.parametrize("name", TYPES)
def test_rows_of_every_type_are_packed_where_they_are_used(shared, name):
    same_bits(shared / "models" / "shakespeare" / f"shakespeare-{name}.gguf", 3)


def test_rows_that_do_not_fill_a_panel(tmp_path):
    shape = dataclasses.replace(synthetic.SHAPES["tiny"], vocab=20_003)
    synthetic.write_model(tmp_path / "m.gguf", shape, "q8_0")
    same_bits(tmp_path / "m.gguf", 2)


def test_every_pass_reads_the_streamed_weights_once(path):
    with streamed(path, 0.4, context_length=256) as model, model.session() as session:
        session.eval([1, 2, 3])
        before = model.stream_stats
        for token in range(20):
            session.eval([token])
        after = model.stream_stats
        assert after["passes"] - before["passes"] == 20
        read = after["bytes_used"] - before["bytes_used"]
        ring = model.plan.slots * model.plan.slot_bytes
        assert abs(read - 20 * model.plan.streamed_bytes) <= 2 * ring


def test_prompt_lookup_changes_nothing_but_the_number_of_passes(path):
    settings = {"temperature": 0, "max_length": 160, "ignore_end": True}
    prompt = "To be, or not to be"  # its greedy continuation repeats itself
    with hyperion.load_model(path) as model:
        plain = [c.token for c in model.stream(prompt, **settings)]
        sampled = [c.token for c in model.stream(prompt, temperature=0.9, seed=3, max_length=60)]
    with streamed(path, 0.6) as model:
        assert [c.token for c in model.stream(prompt, **settings)] == plain
        prefill = -(-len(model.tokenizer.encode(prompt)) // model.plan.chunk)
        assert model.stream_stats["passes"] - prefill <= 100
        assert [c.token for c in model.stream(prompt, temperature=0.9, seed=3, max_length=60)] == sampled


@pytest.mark.parametrize("nth", [1, 2, 5, 11])
@pytest.mark.parametrize("error", [5, 0])
def test_a_failed_read_names_the_layer_and_the_next_call_works(path, expected, nth, error):
    with streamed(path, 0.2, context_length=256) as model:
        model.logits(IDS)
        try:
            stream.inject_read_failure(nth, error)
            with pytest.raises(hyperion.HyperionIOError, match=r"layer \d|output head"):
                for _ in range(20):
                    model.logits(IDS)
        finally:
            stream.inject_read_failure(0)
        np.testing.assert_array_equal(model.logits(IDS), expected)


@pytest.mark.parametrize("nth", [1, 3, 20])
def test_a_failed_read_while_loading_gives_everything_back(path, nth):
    before = process_budget().used
    try:
        stream.inject_read_failure(nth, 5)
        with pytest.raises(hyperion.HyperionIOError, match="tensor"):
            hyperion.load_model(path)
    finally:
        stream.inject_read_failure(0)
    assert process_budget().used == before
    hyperion.load_model(path).close()


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be replaced here")
@pytest.mark.parametrize("how", ["truncate", "replace", "overwrite"])
def test_a_file_that_changes_while_it_is_streamed_is_an_error(path, tmp_path, how):
    copy = tmp_path / "model.gguf"
    shutil.copy(path, copy)
    with streamed(copy, 0.2, context_length=256) as model:
        model.logits(IDS[:4])
        if how == "truncate":
            os.truncate(copy, copy.stat().st_size - 100_000)
        elif how == "replace":
            shutil.copy(path, tmp_path / "new")
            os.replace(tmp_path / "new", copy)
        else:
            with open(copy, "r+b") as file:
                file.seek(1_000_000)
                file.write(b"\0" * 64)
        with pytest.raises(hyperion.HyperionIOError, match="changed|replaced|truncated|ended early"):
            for _ in range(10):
                model.logits(IDS[:4])


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads and descriptors are counted in /proc")
def test_readers_end_with_the_model(path):
    for _ in range(3):  # threads of the tokenizer library and the like
        with streamed(path, 0.2, context_length=64) as model:
            model.generate([1, 2, 3], max_length=2)
    threads, files = len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))
    used = process_budget().used
    for _ in range(20):
        with streamed(path, 0.2, context_length=64) as model:
            model.generate([1, 2, 3], max_length=2)
    for _ in range(200):  # the kernel lists a thread for a moment after it was joined
        if len(os.listdir("/proc/self/task")) <= threads:
            break
        time.sleep(0.02)
    assert len(os.listdir("/proc/self/task")) <= threads
    assert len(os.listdir("/proc/self/fd")) <= files
    assert process_budget().used == used


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_streams_on_its_own(path, expected):
    with streamed(path, 0.3, context_length=256) as model:
        model.logits(IDS[:5])
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if np.array_equal(model.logits(IDS), expected) else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        np.testing.assert_array_equal(model.logits(IDS), expected)


def test_several_threads_share_a_streamed_model(path, expected):
    with streamed(path, 0.3, context_length=80) as model:
        pass
    floor = smallest_budget(path, context_length=80)
    results = []
    with hyperion.load_model(path, memory_budget=floor + 1_000_000, context_length=80) as model:
        session = model.session()

        def work():
            for _ in range(3):
                session.truncate(0)
                results.append(session.eval(IDS))

        thread = threading.Thread(target=work)
        thread.start()
        for _ in range(5):
            model.memory_stats  # noqa: B018
        thread.join()
    for row in results:
        np.testing.assert_array_equal(row, expected[-1])


def toy_sizes(layers=4, rows=256, panel=4096):
    matrix = MatrixSize("w", 0, rows, 64, panel)
    return ModelSizes(
        layers=[LayerSize(f"layer {i}", (matrix, matrix)) for i in range(layers)],
        fixed={"runtime": 100_000},
        embedding=65536,
        kv=lambda n: 256 * n,
        scratch=lambda n: 1024 * n,
        logits=lambda n: 512 * n,
    )


def test_a_larger_budget_never_streams_more():
    sizes = toy_sizes(layers=40)
    with pytest.raises(hyperion.MemoryBudgetError) as caught:
        make_plan(sizes, 1000, 64)
    floor = caught.value.context["smallest"]
    last = None
    for budget in range(floor, floor + 8_000_000, 50_021):
        plan = make_plan(sizes, budget, 64)
        assert plan.total <= budget
        assert last is None or plan.streamed_bytes <= last + 40 * 4096
        last = plan.streamed_bytes
    assert last == 0


def test_every_layer_pins_the_same_share():
    sizes = toy_sizes(layers=40)
    plan = make_plan(sizes, 3_000_000, 64)
    assert not plan.resident
    assert len({sum(p) for p in plan.pinned}) == 1


PROMPTS = ["ROMEO:", "To be, or not to be", [1, 2, 3, 4, 5], "KING RICHARD III:\nMy", "O gentle night"]


@pytest.mark.parametrize("share", [None, 0.3])
@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 1.0, "seed": 5, "stop": ["the"]}])
def test_a_batch_gives_the_texts_of_each_prompt_alone(path, share, settings):
    with hyperion.load_model(path) as model:
        alone = [model.generate(p, max_length=24, **settings) for p in PROMPTS]
        passes = None
        assert model.generate(PROMPTS, max_length=24, **settings) == alone
    if share is None:
        return
    with streamed(path, share) as model:
        plan = model.plan
        assert model.generate(PROMPTS, max_length=24, **settings) == alone
        assert model.plan == plan
        assert model.budget.used <= plan.budget
        passes = model.stream_stats["passes"]
    assert passes < len(PROMPTS) * 24


def test_a_live_model_moves_between_budgets(path, expected):
    floor = smallest_budget(path, context_length=128)
    with hyperion.load_model(path, context_length=128) as model, model.session() as session:
        session.eval(IDS[:30])
        for budget in (floor + 1_500_000, floor + 800_000, "64MB", floor + 2_500_000, floor + 600_000):
            plan = model.replan(budget)
            assert model.budget.used <= plan.budget == model.budget.limit
            np.testing.assert_array_equal(session.eval(IDS[30:35]), expected[34])
            session.truncate(30)
        with pytest.raises(hyperion.MemoryBudgetError):
            model.replan(1_000_000)
        np.testing.assert_array_equal(session.eval(IDS[30:]), expected[-1])


def test_a_failed_read_while_moving_leaves_a_working_model(path, expected):
    floor = smallest_budget(path, context_length=128)
    with hyperion.load_model(path, memory_budget=floor + 400_000, context_length=128) as model:
        for nth in (1, 3):
            read = -1
            while read != (read := model.stream_stats["bytes_read"]):  # the ring's own reads shall not meet the failure
                time.sleep(0.1)
            stream.inject_read_failure(nth, 5)
            with pytest.raises(hyperion.HyperionIOError):
                model.replan("64MB")
            stream.inject_read_failure(0)
            np.testing.assert_array_equal(model.logits(IDS), expected)
        assert model.replan("64MB").resident
        np.testing.assert_array_equal(model.logits(IDS), expected)


def test_the_plan_says_what_a_run_then_reads(path):
    with streamed(path, 0.4, context_length=256) as model, model.session() as session:
        prediction = model.predict()
        assert prediction.bytes_per_token == model.plan.streamed_bytes
        assert prediction.disk_rate > 0 and prediction.tokens_per_second > 0
        assert f"{prediction.tokens_per_second:.3g} tokens/s" in str(model.plan)
        assert model.smallest_budget == smallest_budget(path, context_length=256)
        session.eval([1])
        before = model.stream_stats["bytes_used"]
        for token in range(100):
            session.eval([token])
        read = model.stream_stats["bytes_used"] - before
    ring = model.plan.slots * model.plan.slot_bytes
    assert read == pytest.approx(100 * prediction.bytes_per_token, rel=0.01, abs=ring)


def test_what_is_left_of_a_budget_makes_longer_passes():
    """The longest chunk that fits beside resident weights, and as many rows of logits as a share of the budget holds."""
    sizes = toy_sizes(layers=40)
    plan = make_plan(sizes, 40_000_000, 64)
    assert plan.resident and plan.chunk == plan.logits_rows == 512
    others = plan.total - plan.items["activations"] - plan.items["logits"]
    for chunk in (8, 64, 512):
        plan = make_plan(sizes, others + sizes.scratch(chunk) + 4096, 64)
        assert plan.resident and plan.chunk == chunk
    wide = dataclasses.replace(sizes, logits=lambda n: 20_000 * n)
    assert make_plan(wide, 40_000_000, 64).logits_rows == 32  # 640 kB of 1.25 MB; twice that is more
    assert make_plan(wide, 80_000_000, 64).logits_rows == 64


def test_a_ring_grows_with_what_it_streams_and_has_enough_for_its_readers():
    small, large = toy_sizes(layers=40), toy_sizes(layers=100, rows=10240)
    rings = []
    for sizes, spare in ((small, 1_000_000), (large, 10_000_000), (large, 100_000_000), (large, 300_000_000)):
        plan = make_plan(sizes, plan_module.smallest_budget(sizes, 64) + spare, 64)
        assert plan.streamed_bytes > 0
        ring = plan.slots * plan.slot_bytes
        assert plan.slots >= 4 and ring <= spare // 2 + 4 * (1 << 20)
        rings.append(ring)
    assert rings == sorted(rings)
    assert rings[-1] == 12 << 20  # a fortieth of the weights is more
