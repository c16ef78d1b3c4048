"""The dependency graph: order, results, lifetimes, limits, modes, against a naive evaluation that keeps everything."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hyperion
from hyperion import errors
from hyperion.loading.mapped import MappedModel
from hyperion.memory import MemoryBudget
from hyperion.scheduling import DependencyType, ExecutionMode, ForwardScheduler
from hyperion.scheduling.lifetimes import ALIGN, assign_offsets

SEQUENTIAL, RESIDUAL, ATTENTION, NONE = (
    DependencyType.SEQUENTIAL, DependencyType.RESIDUAL, DependencyType.ATTENTION, DependencyType.NONE
)  # fmt: skip
NORMAL, MEMORY_OPT, STREAMING, ADAPTIVE = ExecutionMode


@pytest.fixture
def ledger():
    return MemoryBudget("64MB", name="test")


def chain(ledger, n, nbytes, mode=MEMORY_OPT, limit=0, **options):
    """n layers, each x + 1 on float64."""
    s = ForwardScheduler(None, mode, limit, budget=ledger)
    for i in range(n):
        s.add_layer(i, lambda x: x + 1, depends_on=i - 1, output_size=nbytes, **options)
    return s


# ---- placing -----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4), st.integers(0, 700)), max_size=12))
def test_buffers_that_live_together_do_not_overlap(raw):
    spans = [(a, a + d, n) for a, d, n in raw]
    offsets, total = assign_offsets(spans)
    for i, (a, b, n) in enumerate(spans):
        assert offsets[i] % ALIGN == 0
        assert offsets[i] + n <= total
        for j, (c, d, m) in enumerate(spans[:i]):
            if n and m and a <= d and c <= b:
                assert offsets[i] + n <= offsets[j] or offsets[j] + m <= offsets[i]
    alive = [sum(-(-n // ALIGN) * ALIGN for a, b, n in spans if a <= t <= b) for t in range(14)]
    assert max(alive) <= total <= sum(-(-n // ALIGN) * ALIGN for _, _, n in spans)


# ---- random graphs -----------------------------------------------------------------------------------------------


def function(seed):
    def run(x, *others):
        y = x * 0.5 + seed
        for n, other in enumerate(others):
            y = y + other * (0.25 * (n + 1))
        return y

    return run


def in_place(seed):
    def run(x, *others):
        x *= 0.5
        x += seed
        for n, other in enumerate(others):
            x += other * (0.25 * (n + 1))
        return x

    return run


@st.composite
def graphs(draw):
    """Layers as (edges, in place, kept, placed), in a random numbering that is no order of execution."""
    n = draw(st.integers(1, 9))
    numbers = draw(st.permutations(range(n)))
    layers = {}
    for i in range(n):
        edges = []
        if i:
            edges = draw(
                st.lists(st.tuples(st.integers(0, i - 1), st.sampled_from([SEQUENTIAL, RESIDUAL, ATTENTION, NONE])), max_size=4, unique=True)
            )
            first = [e for e in edges if e[1] is SEQUENTIAL][:1]
            edges = first + [e for e in edges if e[1] is not SEQUENTIAL]
        layers[numbers[i]] = (
            [(numbers[d], k) for d, k in edges], draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 5)) > 0
        )  # fmt: skip
    return layers, draw(st.permutations(range(n)))


def evaluate(layers, x):
    """Every output, all kept."""
    outputs = {}

    def output(i):
        if i not in outputs:
            edges = layers[i][0]
            first = next((output(d) for d, k in edges if k is SEQUENTIAL), x)
            y = function(i)(first, *[output(d) for d, k in edges if k is ATTENTION])
            for d, k in edges:
                if k is RESIDUAL:
                    y = y + output(d)
            outputs[i] = y
        return outputs[i]

    for i in layers:
        output(i)
    return outputs


def build(layers, added, mode, ledger, nbytes, **options):
    s = ForwardScheduler(None, mode, budget=ledger, poison_freed=True, **options)
    for i in added:
        edges, changes, kept, placed = layers[i]
        fn = in_place(i) if changes else function(i)
        s.add_layer(i, fn, output_size=nbytes if placed else 0, in_place=changes)
        for d, kind in edges:
            s.add_layer(i, depends_on=d, dep_type=kind)
        s.keep_output(i, kept)
    s.prepare()
    return s


@settings(max_examples=150, deadline=None)
@given(graphs(), st.sampled_from(list(ExecutionMode)))
def test_random_graphs_give_the_results_of_a_naive_evaluation(graph, mode):
    layers, added = graph
    x = np.linspace(-1, 1, 10).reshape(5, 2)
    before = x.copy()
    expected = evaluate(layers, x)
    used = {d for edges, *_ in layers.values() for d, k in edges if k is not NONE}
    with MemoryBudget("1MB", name="test") as ledger, build(layers, added, mode, ledger, x.nbytes) as s:
        if mode is STREAMING:
            s.max_rows = 2
        for _ in range(2):  # the second pass reuses the buffers
            s.reset()
            done = []
            while (i := s.execute_next(x)) is not None:
                done.append(i)
                if mode is not STREAMING:
                    np.testing.assert_array_equal(s.get_output(i), expected[i])
                    assert s.memory_usage <= s.peak_memory_usage
            assert s.order * (3 if mode is STREAMING else 1) == done
            for i, (_, _, kept, _) in layers.items():
                assert s.is_executed(i)
                if kept or i not in used or s.active_mode is NORMAL:
                    np.testing.assert_array_equal(s.get_output(i), expected[i])
                else:
                    with pytest.raises(errors.HyperionRuntimeError, match="freed"):
                        s.get_output(i)
        np.testing.assert_array_equal(x, before)
        position = {i: n for n, i in enumerate(s.order)}
        assert all(position[d] < position[i] for i, (edges, *_) in layers.items() for d, _ in edges)
    assert ledger.used == 0


@settings(max_examples=100, deadline=None)
@given(graphs())
def test_usage_and_peak_are_those_of_the_living_outputs(graph):
    layers, added = graph
    layers = {i: (edges, False, kept, True) for i, (edges, _, kept, _) in layers.items()}
    x = np.zeros((8, 8))
    with MemoryBudget("1MB", name="test") as ledger, build(layers, added, MEMORY_OPT, ledger, x.nbytes) as s:
        users = {i: {j for j, (e, *_) in layers.items() for d, k in e if d == i and k is not NONE} for i in layers}
        ran, peak = [], 0
        while (i := s.execute_next(x)) is not None:
            alive = [j for j in ran if layers[j][2] or not users[j] or users[j] - set(ran)]
            peak = max(peak, (len(alive) + 1) * x.nbytes)
            ran.append(i)
            alive = [j for j in ran if layers[j][2] or not users[j] or users[j] - set(ran)]
            assert s.memory_usage == len(alive) * x.nbytes
        assert s.peak_memory_usage == peak <= s.buffer_bytes
        assert ledger.used >= s.buffer_bytes


def test_buffers_are_reused_along_a_chain(ledger):
    with chain(ledger, 20, 6400) as s:
        s.prepare()
        np.testing.assert_array_equal(s.run(np.zeros(800)), np.full(800, 20.0))
        assert s.peak_memory_usage == s.buffer_bytes == 2 * 6400
    with chain(ledger, 20, 6400, NORMAL) as s:
        s.prepare()
        s.run(np.zeros(800))
        assert s.peak_memory_usage == s.memory_usage == s.buffer_bytes == 20 * 6400
        np.testing.assert_array_equal(s.get_output(3), np.full(800, 4.0))


def test_layers_that_work_in_place_need_one_buffer(ledger):
    s = ForwardScheduler(None, MEMORY_OPT, budget=ledger)

    def double(x):
        x *= 2
        return x

    s.add_layer(0, lambda x: x + 1, output_size=80)
    for i in range(1, 5):
        s.add_layer(i, double, depends_on=i - 1, output_size=80, in_place=True)
    s.prepare()
    assert s.run(np.zeros(10)).tolist() == [16.0] * 10
    assert s.peak_memory_usage == s.memory_usage == 80
    s.add_layer(4, depends_on=0, dep_type=RESIDUAL)  # the first output is still needed: layer 1 gets a copy
    s.prepare()
    assert s.run(np.zeros(10)).tolist() == [17.0] * 10
    assert s.peak_memory_usage == 160


# ---- errors ------------------------------------------------------------------------------------------------------


def test_a_cycle_is_refused(ledger):
    s = chain(ledger, 3, 8)
    s.add_layer(0, depends_on=2, dep_type=RESIDUAL)
    with pytest.raises(errors.InvalidArgumentError, match="cycle"):
        s.prepare()
    s = ForwardScheduler(budget=ledger)
    s.add_layer(0, depends_on=0)
    with pytest.raises(errors.InvalidArgumentError, match="cycle"):
        s.prepare()


def test_a_missing_layer_is_named(ledger):
    s = ForwardScheduler(budget=ledger)
    s.add_layer(0, depends_on=7)
    with pytest.raises(errors.InvalidArgumentError, match="layer 7"):
        s.prepare()
    for ask in (s.get_output, s.is_executed, s.mark_output_unneeded, s.keep_output):
        with pytest.raises(errors.InvalidArgumentError, match="no layer 5"):
            ask(5)


def test_the_limit_is_held(ledger):
    s = chain(ledger, 4, 1000, NORMAL, 3999)
    with pytest.raises(errors.MemoryBudgetError) as caught:
        s.prepare()
    assert caught.value.context["smallest"] == 4000
    assert ledger.used == 0
    for mode, limit in ((NORMAL, 4000), (MEMORY_OPT, "2KB")):
        with chain(ledger, 4, 1000, mode, limit) as s:
            s.prepare()
            s.run(np.zeros(125))
    with pytest.raises(errors.MemoryBudgetError):
        chain(ledger, 4, 1000, MEMORY_OPT, 1999).prepare()
    with pytest.raises(errors.MemoryBudgetError):
        chain(MemoryBudget(4000), 4, 1024, NORMAL).prepare()


def test_an_output_larger_than_its_size_is_refused_and_the_pass_goes_on(ledger):
    s = ForwardScheduler(budget=ledger)
    rows = [2]
    s.add_layer(0, lambda x: np.zeros(rows[0]), output_size=8)
    s.prepare()
    with pytest.raises(errors.InvalidArgumentError, match="16 bytes"):
        s.execute_next(np.zeros(1))
    assert not s.is_executed(0)
    rows[0] = 1
    assert s.execute_next() == 0
    assert s.execute_next() is None


@pytest.mark.parametrize(
    "arguments",
    [{"index": -1}, {"index": True}, {"index": "0"}, {"depends_on": -2}, {"output_size": -8}, {"output_size": 1.5}, {"fn": 3},
     {"dep_type": 9}, {"output_size": 8, "row_size": 8}],
)  # fmt: skip
def test_bad_layers_are_refused(ledger, arguments):
    with pytest.raises(errors.InvalidArgumentError):
        ForwardScheduler(budget=ledger).add_layer(**({"index": 0} | arguments))


def test_misuse_is_an_error(ledger):
    s = chain(ledger, 2, 8)
    with pytest.raises(errors.HyperionRuntimeError, match="prepare"):
        s.execute_next(np.zeros(1))
    with pytest.raises(errors.InvalidArgumentError, match="two layers"):
        s.add_layer(1, depends_on=5)
    with pytest.raises(errors.InvalidArgumentError, match="mode"):
        ForwardScheduler(None, 17)
    s.prepare()
    with pytest.raises(errors.HyperionRuntimeError, match="not exist yet"):
        s.get_output(0)
    s.close()
    s.close()
    with pytest.raises(errors.HyperionRuntimeError, match="closed"):
        s.execute_next()
    with pytest.raises(errors.InvalidArgumentError, match="cannot be added"):
        t = ForwardScheduler(budget=ledger)
        t.add_layer(0, lambda x: x[:2], output_size=16)
        t.add_layer(1, lambda x: np.zeros(3), depends_on=0, dep_type=RESIDUAL, output_size=24)
        t.prepare()
        t.run(np.zeros(4))


def test_a_function_that_fails_can_be_run_again(ledger):
    fails = [True]

    def moody(x):
        if fails:
            raise KeyError(fails.pop())
        return x

    s = ForwardScheduler(None, MEMORY_OPT, budget=ledger)
    s.add_layer(0, lambda x: x + 1, output_size=8)
    s.add_layer(1, moody, depends_on=0, output_size=8)
    s.prepare()
    assert s.execute_next(np.ones(1)) == 0
    with pytest.raises(KeyError):
        s.execute_next()
    assert s.execute_next() == 1
    assert s.get_output(1) == [2.0]


# ---- asking and freeing ------------------------------------------------------------------------------------------


def test_outputs_that_nobody_needs_are_freed(ledger):
    with chain(ledger, 3, 80, NORMAL) as s:
        s.prepare()
        s.execute_next(np.zeros(10))
        s.mark_output_unneeded(0)  # layer 1 still uses it
        assert s.memory_usage == 80
        s.execute_next()
        assert s.memory_usage == 80
        with pytest.raises(errors.HyperionRuntimeError, match="freed"):
            s.get_output(0)
        s.execute_next()
        assert s.memory_usage == 160
        s.mark_output_unneeded(2)
        assert s.memory_usage == 80


def test_outputs_are_copied_where_the_caller_wants_them(ledger):
    with chain(ledger, 2, 80) as s:
        s.prepare()
        out = np.zeros(10)
        assert [s.execute_next(np.zeros(10), out), out[0]] == [0, 1.0]
        assert [s.execute_next(None, out), out[0]] == [1, 2.0]
        s.reset()
        with pytest.raises(errors.InvalidArgumentError, match="does not fit"):
            s.execute_next(np.zeros(10), np.zeros(3))


def test_batch_size_for_a_limit(ledger):
    s = ForwardScheduler(None, NORMAL, 1000, budget=ledger)
    assert s.optimal_batch_size(60, 40, 64) == 10
    assert s.optimal_batch_size(60, 40, 4) == 4
    assert s.optimal_batch_size(0, 0, 4) == 4
    with pytest.raises(errors.MemoryBudgetError, match="one item"):
        s.optimal_batch_size(600, 401, 4)
    for bad in ((-1, 1, 1), (1, 1, 0), (1.5, 1, 1)):
        with pytest.raises(errors.InvalidArgumentError):
            s.optimal_batch_size(*bad)
    s.add_layer(0, output_size=128)
    s.prepare()
    assert s.optimal_batch_size(60, 40, 64) == 1000 // 228


# ---- modes -------------------------------------------------------------------------------------------------------


def test_streaming_takes_chunks_that_the_limit_holds(ledger):
    x = np.arange(60.0).reshape(30, 2)
    sizes = []

    def watch(part):
        sizes.append(len(part))
        return part + 1

    s = ForwardScheduler(None, STREAMING, x.nbytes + 4 * 16 * 7, budget=ledger)
    s.add_layer(0, watch, output_size=x.nbytes)
    s.add_layer(1, lambda part: part * 2, depends_on=0, output_size=x.nbytes)
    s.prepare()
    np.testing.assert_array_equal(s.run(x), (x + 1) * 2)
    assert sizes == [14, 14, 2]
    assert s.peak_memory_usage <= s.max_memory
    out = np.zeros_like(x)
    s.reset()
    while (i := s.execute_next(x, out if s.executed_layers % 2 else None)) is not None:
        assert s.is_executed(i) == (len(sizes) == 6)
    np.testing.assert_array_equal(out, (x + 1) * 2)
    s.max_memory = x.nbytes
    s.prepare()
    with pytest.raises(errors.MemoryBudgetError):
        s.run(x)
    for bad in (None, np.float64(3), np.zeros((0, 2))):
        with pytest.raises(errors.InvalidArgumentError, match="rows|row"):
            s.run(bad)


def test_probing_other_modes_does_not_disturb_the_one_that_runs(ledger):
    def double(x):
        x *= 2
        return x

    s = ForwardScheduler(None, ADAPTIVE, 560, budget=ledger, poison_freed=True)
    s.add_layer(0, lambda x: x + 1, row_size=8, rowwise=True)
    s.add_layer(1, lambda x: x * 2, depends_on=0, row_size=8, rowwise=True)
    for i in (2, 3):
        s.add_layer(i, double, depends_on=i - 1, row_size=8, in_place=True, rowwise=True)
    s.prepare()
    for rows, mode in ((17, NORMAL), (35, MEMORY_OPT), (35, MEMORY_OPT), (60, STREAMING), (60, STREAMING), (3, NORMAL), (3, NORMAL)):
        np.testing.assert_array_equal(s.run(np.arange(rows)), (np.arange(rows) + 1) * 8)
        assert s.active_mode is mode
        assert s.memory_usage == rows * 8 * (4 if mode is NORMAL else 1)
        assert s.peak_memory_usage <= 560


def test_streaming_needs_a_row_for_each_row(ledger):
    s = ForwardScheduler(None, STREAMING, budget=ledger)
    s.add_layer(0, lambda x: x.sum(axis=0), output_size=64)
    s.prepare()
    with pytest.raises(errors.InvalidArgumentError, match="a row for each"):
        s.run(np.zeros((4, 2)))


@pytest.mark.parametrize(("limit", "rowwise", "mode"), [(4000, False, NORMAL), (3999, False, MEMORY_OPT), (1900, True, STREAMING)])
def test_adaptive_takes_the_first_mode_that_fits(ledger, limit, rowwise, mode):
    with chain(ledger, 4, 1000, ADAPTIVE, limit, rowwise=rowwise) as s:
        s.prepare()
        np.testing.assert_array_equal(s.run(np.zeros(125)), np.full(125, 4.0))
        assert s.active_mode is mode
        assert s.peak_memory_usage <= limit


def test_adaptive_does_not_cut_what_may_not_be_cut(ledger):
    with pytest.raises(errors.MemoryBudgetError):
        chain(ledger, 4, 1000, ADAPTIVE, 1900).prepare()


@pytest.mark.parametrize(("resident", "share", "mode"), [
    (True, None, NORMAL), (False, None, MEMORY_OPT), (False, 0.9, MEMORY_OPT), (False, 0.1, STREAMING)
])  # fmt: skip
def test_adaptive_follows_the_plan_and_the_disk_of_a_model(ledger, resident, share, mode):
    class Open:
        plan = SimpleNamespace(resident=resident)
        scheduler = SimpleNamespace(disk_share=share)

    s = ForwardScheduler(Open(), ADAPTIVE, budget=ledger)
    for i in range(3):
        s.add_layer(i, lambda x: x + 1, depends_on=i - 1, row_size=8, rowwise=True)
    s.max_rows = 4
    s.prepare()
    assert s.run(np.zeros(10)).tolist() == [3.0] * 10
    assert s.active_mode is mode


def test_sizes_by_row(ledger):
    s = ForwardScheduler(None, MEMORY_OPT, 200, budget=ledger)
    s.add_layer(0, lambda x: x + 1, row_size=8)
    s.add_layer(1, lambda x: x * 2, depends_on=0, row_size=8)
    s.prepare()
    for n in (1, 12, 5):
        assert s.run(np.zeros(n)).tolist() == [2.0] * n
    with pytest.raises(errors.MemoryBudgetError):
        s.run(np.zeros(13))
    assert s.run(np.zeros(3)).tolist() == [2.0] * 3


class Mapped:
    """What the scheduler asks of a mapped model."""

    layer_count = 3

    def __init__(self):
        self.released, self.prefetched = [], []

    def prefetch_layer_weights(self, index):
        self.prefetched.append(index)

    def release_layer_weights(self, index):
        self.released.append(index)


@pytest.mark.parametrize(("mode", "released"), [(NORMAL, []), (MEMORY_OPT, [0, 1, 2]), (STREAMING, [0, 1, 2])])
def test_weights_of_a_mapped_model_are_released_after_use(ledger, mode, released):
    model = Mapped()
    s = ForwardScheduler(model, mode, budget=ledger)
    s.max_rows = 2
    for i in range(5):  # the last two are no layers of the model
        s.add_layer(i, lambda x: x + 1, depends_on=i - 1, output_size=80)
    s.prepare()
    s.run(np.zeros(10))
    assert model.released == released
    assert model.prefetched == [1, 2] * (5 if mode is STREAMING else 1)


@pytest.mark.parametrize("mode", list(ExecutionMode))
def test_layers_of_a_mapped_file(ledger, mode):
    path = Path(hyperion.__file__).parent / "data" / "shakespeare-q8_0.gguf"
    with MappedModel(path, budget=ledger) as model:

        def layer(i):
            def run(x):
                weights = model.get_layer_weights(i)
                return x + sum(float(w.sum(dtype=np.float64)) for w in weights.values())

            return run

        s = ForwardScheduler(model, mode, 2000, budget=ledger)
        for i in range(model.layer_count):
            s.add_layer(i, layer(i), depends_on=i - 1, output_size=80)
        s.prepare()
        total = s.run(np.zeros(10))
        assert len(set(total)) == 1
        expected = sum(float(w.sum(dtype=np.float64)) for i in range(model.layer_count) for w in model.get_layer_weights(i).values())
        assert total[0] == pytest.approx(expected, rel=1e-12)
        s.run(np.zeros(10))
        active = [model.get_layer_descriptor(i).is_active for i in range(model.layer_count)]
        assert any(active) is (s.active_mode is NORMAL)
        s.close()
