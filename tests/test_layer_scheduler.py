"""Keeping and recomputing: the same bits under every strategy and limit, within the bytes that were said."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hyperion
from hyperion import errors
from hyperion._kernels import stream
from hyperion.memory import MemoryBudget
from hyperion.scheduling import (
    CheckpointStrategy,
    DependencyType,
    ExecutionMode,
    ForwardScheduler,
    LayerScheduler,
    LayerSchedulerConfig,
)
from hyperion.scheduling.checkpoint import plan_reversal

NONE, SELECTIVE, ALL = CheckpointStrategy
NORMAL = ExecutionMode.NORMAL
SIZE = 800  # bytes of an output of the layers here


class Watch:
    """Layers that count their runs and the bytes of outputs that exist."""

    def __init__(self, widths):
        self.widths, self.runs, self.alive, self.peak = widths, [0] * len(widths), [], 0

    def layers(self, sized=True):
        return [(self.layer(i), 8 * w) if sized else self.layer(i) for i, w in enumerate(self.widths)]

    def layer(self, i):
        def run(x):
            self.runs[i] += 1
            y = np.sin(np.resize(x, self.widths[i]) * 1.7 + i)
            self.alive = [a for a in self.alive if a() is not None]
            self.alive.append(weakref.ref(y))
            self.peak = max(self.peak, sum(a.nbytes for ref in self.alive if (a := ref()) is not None))
            return y

        return run

    def expected(self, x):
        outputs = []
        for i, width in enumerate(self.widths):
            x = np.sin(np.resize(x, width) * 1.7 + i)
            outputs.append(x)
        return outputs


@pytest.fixture
def ledger():
    return MemoryBudget("64MB", name="test")


X = np.linspace(0, 1, 100)


# ---- configuration -----------------------------------------------------------------------------------------------


def test_fields_are_checked_when_made_and_when_set():
    config = LayerSchedulerConfig(max_activation_memory="128MB", memory_speed_tradeoff=1)
    assert config.max_activation_memory == 128_000_000
    for name, bad in (
        ("enable_checkpointing", 1), ("recompute_activations", None), ("memory_speed_tradeoff", 1.5), ("memory_speed_tradeoff", "0.5"),
        ("memory_speed_tradeoff", float("nan")), ("max_activation_memory", -1), ("max_activation_memory", "lots"), ("limit", 3),
    ):  # fmt: skip
        with pytest.raises(errors.InvalidArgumentError):
            setattr(config, name, bad)
    with pytest.raises(errors.InvalidArgumentError):
        LayerSchedulerConfig(memory_speed_tradeoff=-0.1)
    with pytest.raises(TypeError):
        LayerSchedulerConfig(True)


def test_the_configuration_is_copied(ledger):
    config = LayerSchedulerConfig(max_activation_memory=1000)
    s = LayerScheduler.from_layers([np.sin], config, budget=ledger)
    config.max_activation_memory = 5
    assert s.config.max_activation_memory == 1000
    s.config.max_activation_memory = "2KB"
    assert s.config.max_activation_memory == 2000
    with pytest.raises(errors.InvalidArgumentError):
        s.config = {"max_activation_memory": 5}


# ---- functions ---------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=9),
    st.lists(st.sampled_from(list(CheckpointStrategy)), min_size=9, max_size=9),
    st.integers(0, 1500),
    st.floats(0, 1),
    st.randoms(use_true_random=False),
)
def test_outputs_are_the_same_however_they_were_kept(widths, strategies, extra, tradeoff, random):
    watch = Watch(widths)
    sizes = [8 * w for w in widths]
    least = max(a + b for a, b in zip(sizes, [0, *sizes], strict=False))
    expected = watch.expected(X)
    with MemoryBudget("1MB", name="test") as ledger:
        limit = least + extra
        config = LayerSchedulerConfig(max_activation_memory=limit if extra % 2 else 0, memory_speed_tradeoff=tradeoff)
        with LayerScheduler.from_layers(watch.layers(), config, budget=ledger) as s:
            for i in range(len(widths)):
                s.set_layer_checkpointing_strategy(i, strategies[i])
                assert s.get_layer_checkpointing_strategy(i) is strategies[i]
            np.testing.assert_array_equal(s.run(X), expected[-1])
            assert watch.runs == [1] * len(widths)
            if config.max_activation_memory:
                assert watch.peak <= limit
                assert s.counters.peak_activation_bytes <= limit
            for i in random.sample(range(len(widths)), len(widths)):
                output = s.get_layer_output(i)
                np.testing.assert_array_equal(output, expected[i])
                output[:] = 0  # it is a copy
            assert s.counters.executed == sum(watch.runs)
            assert s.counters.recomputed == sum(watch.runs) - len(widths)
        assert ledger.used == 0


@pytest.mark.parametrize("layers", [1, 2, 5, 10])
@pytest.mark.parametrize("slots", [2, 3, 5, 20])
@pytest.mark.parametrize("sized", [True, False])
def test_a_sweep_runs_as_few_layers_as_can_be_and_stays_within_its_bytes(ledger, layers, slots, sized):
    watch = Watch([SIZE // 8] * layers)
    config = LayerSchedulerConfig(max_activation_memory=slots * SIZE)
    inputs = [X, *watch.expected(X)]
    visits = []
    with LayerScheduler.from_layers(watch.layers(sized), config, budget=ledger) as s:
        s.run(X)
        watch.runs, watch.peak, first = [0] * layers, 0, s.counters.executed
        s.counters.peak_activation_bytes = 0

        def visit(i, x):
            assert not x.flags.writeable
            np.testing.assert_array_equal(x, inputs[i])
            visits.append(i)

        s.reverse_sweep(visit, X)
        best = plan_reversal([0] + [SIZE] * (layers - 1), slots * SIZE).executions
        assert visits == list(range(layers))[::-1]
        assert sum(watch.runs) == s.counters.executed - first == best
        assert watch.runs[-1] == 0
        assert s.counters.peak_activation_bytes == watch.peak <= slots * SIZE
        assert s.counters.recomputed == best - (layers - 1)
    assert ledger.used == 0


def test_a_sweep_after_a_pass_starts_from_what_that_kept(ledger):
    watch = Watch([100] * 8)
    inputs = [X, *watch.expected(X)]
    config = LayerSchedulerConfig(max_activation_memory=20 * SIZE)
    with LayerScheduler.from_layers(watch.layers(), config, budget=ledger) as s:
        s.run(X)
        s.reverse_sweep(lambda i, x: np.testing.assert_array_equal(x, inputs[i]))
        assert watch.runs == [1] * 8
        assert s.counters.recomputed == 0
        s.config = LayerSchedulerConfig(enable_checkpointing=False, max_activation_memory=3 * SIZE)
        s.run(X)
        s.reverse_sweep(lambda i, x: np.testing.assert_array_equal(x, inputs[i]))
        best = plan_reversal([0] + [SIZE] * 7, 3 * SIZE).executions
        assert sum(watch.runs) == 16 + best
        assert s.counters.recomputed == best


def test_a_visitor_that_fails_leaves_nothing_behind(ledger):
    watch = Watch([100] * 6)
    with LayerScheduler.from_layers(watch.layers(), LayerSchedulerConfig(max_activation_memory=3 * SIZE), budget=ledger) as s:

        def visit(i, x):
            if i == 3:
                raise KeyError(i)

        with pytest.raises(KeyError):
            s.reverse_sweep(visit, X)
        assert ledger.used == 0
        np.testing.assert_array_equal(s.get_layer_output(5), watch.expected(X)[5])


def test_limits_that_hold_nothing_are_errors(ledger):
    s = LayerScheduler.from_layers(Watch([100] * 4).layers(), LayerSchedulerConfig(max_activation_memory=2 * SIZE - 1), budget=ledger)
    with pytest.raises(errors.MemoryBudgetError) as caught:
        s.reverse_sweep(lambda i, x: None, X)
    assert caught.value.context["smallest"] == 2 * SIZE
    with pytest.raises(errors.MemoryBudgetError):
        s.create_execution_plan()


def test_misuse_is_an_error(ledger):
    s = LayerScheduler.from_layers(Watch([100] * 3).layers(sized=False), budget=ledger)
    with pytest.raises(errors.HyperionRuntimeError, match="not known"):
        s.create_execution_plan()
    for call in (lambda: s.get_layer_output(0), lambda: s.reverse_sweep(print), lambda: s.execute_layer(1)):
        with pytest.raises(errors.HyperionRuntimeError):
            call()
    for call in (lambda i: s.get_layer_output(i), lambda i: s.execute_layer(i, X), lambda i: s.set_layer_checkpointing_strategy(i, ALL)):
        for bad in (3, -1, "0", True):
            with pytest.raises(errors.InvalidArgumentError, match="no layer"):
                call(bad)
    with pytest.raises(errors.InvalidArgumentError, match="CheckpointStrategy"):
        s.set_layer_checkpointing_strategy(0, 9)
    with pytest.raises(errors.InvalidArgumentError, match="input"):
        s.execute_layer(0)
    for bad in (3, "abc", None):
        with pytest.raises(errors.InvalidArgumentError):
            LayerScheduler(bad)
    for bad in ([3], [(np.sin, -1)], [(np.sin, "8")]):
        with pytest.raises(errors.InvalidArgumentError):
            LayerScheduler.from_layers(bad)
    s.close()
    s.close()
    with pytest.raises(errors.HyperionRuntimeError, match="closed"):
        s.run(X)


def test_layers_one_by_one(ledger):
    watch = Watch([100] * 5)
    expected = watch.expected(X)
    with LayerScheduler.from_layers(watch.layers(), LayerSchedulerConfig(max_activation_memory=3 * SIZE), budget=ledger) as s:
        s.create_execution_plan()
        out = np.empty(100)
        for _ in range(2):
            for i in range(5):
                np.testing.assert_array_equal(s.execute_layer(i, X, out), expected[i])
                np.testing.assert_array_equal(out, expected[i])
        np.testing.assert_array_equal(s.execute_layer(1), expected[1])
        s.execute_layer(0, X)
        np.testing.assert_array_equal(s.execute_layer(4), expected[4])
        with pytest.raises(errors.InvalidArgumentError, match="does not fit"):
            s.execute_layer(0, X, np.empty(3))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 900))
def test_a_plan_says_what_then_happens(widths, extra):
    watch = Watch(widths)
    sizes = [8 * w for w in widths]
    limit = max(a + b for a, b in zip(sizes, [0, *sizes], strict=False)) + extra
    with LayerScheduler.from_layers(watch.layers(), LayerSchedulerConfig(max_activation_memory=limit)) as s:
        plan = s.create_execution_plan()
        assert plan.peak_bytes <= plan.limit == limit
        live = 0
        for step in plan.steps:
            live += step.nbytes * ((step.action in ("run", "recompute")) - (step.action == "free"))
            assert step.live_bytes == live <= plan.peak_bytes
            assert step.nbytes == sizes[step.layer]
        assert live == 0
        assert [p.layer for p in plan.steps if p.action == "use"] == list(range(len(widths)))[::-1]
        assert sorted(p.layer for p in plan.steps if p.action == "run") == list(range(len(widths)))
        # one more layer that hands its input on makes the sweep visit every output
        counting = Watch(widths)
        with LayerScheduler.from_layers([*counting.layers(), (np.copy, 0)], s.config) as t:
            t.reverse_sweep(lambda i, x: None, X)
            assert t.counters.executed == plan.executions == sum(counting.runs)
            assert t.counters.recomputed == plan.recomputations
            assert t.counters.peak_activation_bytes == plan.peak_bytes
        lines = str(plan).splitlines()
        assert len(lines) == len(plan) + 2
        assert f"{plan.recomputations} of them again" in lines[-1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=9), st.floats(0, 1), st.booleans(), st.booleans())
def test_the_estimate_is_what_the_ledger_then_measures(widths, tradeoff, enable, recompute):
    watch = Watch(widths)
    config = LayerSchedulerConfig(enable_checkpointing=enable, memory_speed_tradeoff=tradeoff, recompute_activations=recompute)
    with MemoryBudget("1MB", name="test") as ledger, LayerScheduler.from_layers(watch.layers(), config, budget=ledger) as s:
        estimate = s.estimate_memory_usage()
        s.run(X)
        assert s.counters.peak_activation_bytes == pytest.approx(estimate.total, rel=0.05)
        assert ledger.peak <= estimate.total
        assert estimate.total == estimate.weights + estimate.activations + estimate.scratch
        assert "total" in str(estimate)


def test_graphs_with_residuals_keep_and_recompute_too(ledger):
    graph = ForwardScheduler(None, ExecutionMode.MEMORY_OPT, budget=ledger)
    for i in range(6):
        graph.add_layer(i, lambda x, i=i: np.cos(x + i), depends_on=i - 1, output_size=800)
    graph.add_layer(4, depends_on=1, dep_type=DependencyType.RESIDUAL)
    graph.add_layer(5, depends_on=0, dep_type=DependencyType.RESIDUAL)
    outputs = []
    x = X
    for i in range(6):
        x = np.cos(x + i)
        x = x + outputs[1] if i == 4 else x + outputs[0] if i == 5 else x
        outputs.append(x)
    for limit in (4 * SIZE, 5 * SIZE, 8 * SIZE):
        for strategy in CheckpointStrategy:
            with LayerScheduler(graph, LayerSchedulerConfig(max_activation_memory=limit)) as s:
                for i in range(6):
                    s.set_layer_checkpointing_strategy(i, strategy)
                np.testing.assert_array_equal(s.run(X), outputs[-1])
                assert graph.buffer_bytes <= -(-limit // 64) * 64 + 6 * 64
                for i in (3, 0, 5, 1, 4, 2):
                    np.testing.assert_array_equal(s.get_layer_output(i), outputs[i])
                assert len(s.create_execution_plan().kept) <= 6
                with pytest.raises(errors.UnsupportedError, match="chain"):
                    s.reverse_sweep(print, X)
    graph.close()


def test_the_estimate_of_a_graph_that_places_its_outputs(ledger):
    graph = ForwardScheduler(None, ExecutionMode.MEMORY_OPT, budget=ledger)
    for i in range(6):
        graph.add_layer(i, lambda x: x + 1, depends_on=i - 1, output_size=80_000)
    graph.keep_output(2)
    for limit, buffers in ((0, 5), (7 * 80_000, 6), (4 * 80_000, 4), (3 * 80_000, 3)):
        s = LayerScheduler(graph, LayerSchedulerConfig(max_activation_memory=limit, memory_speed_tradeoff=0.6))
        estimate = s.estimate_memory_usage()
        s.run(np.zeros(10_000))
        assert ledger.used == pytest.approx(estimate.total, rel=0.05)
        assert graph.buffer_bytes == buffers * 80_000
        np.testing.assert_array_equal(graph.get_output(2), np.full(10_000, 3.0))
        s.close()


# ---- the model ---------------------------------------------------------------------------------------------------

IDS = [(i * 7) % 500 + 3 for i in range(60)]


@pytest.fixture(scope="module")
def path():
    return Path(hyperion.__file__).parent / "data" / "shakespeare-q8_0.gguf"


@pytest.fixture(scope="module")
def hidden(path):
    """Every layer's output for IDS, from a model that keeps all of them."""
    with hyperion.load_model(path, context_length=128, threads=1) as model:
        model.scheduler.config = LayerSchedulerConfig(recompute_activations=False)
        with model.session() as session:
            logits = model.forward([(session, IDS)], logits="all")[0]
        states = [model.scheduler.get_layer_output(i) for i in range(model.config.layers + 1)]
        assert model.scheduler.counters.recomputed == 0
        assert all(s.shape == (len(IDS), model.config.dim) and s.dtype == np.float32 for s in states)
    return [*states, logits]


def smallest(path, **settings):
    with pytest.raises(hyperion.MemoryBudgetError) as caught:
        hyperion.load_model(path, memory_budget=1_000_000, **settings)
    return caught.value.context["smallest"]


def floor_of(path):
    return smallest(path, context_length=128)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("limit", [0, 1, 61_440, 150_000, "300KB", "1MB"])
@pytest.mark.parametrize("strategy", list(CheckpointStrategy))
def test_hidden_states_are_the_same_under_every_strategy_and_limit(path, hidden, streamed, limit, strategy):
    budget = floor_of(path) + 1_500_000 if streamed else None
    with hyperion.load_model(path, memory_budget=budget, context_length=128, threads=1) as model:
        assert model.plan.resident is not streamed
        s = model.scheduler
        s.config = LayerSchedulerConfig(max_activation_memory=limit)
        for i in range(s.graph.order[-1]):
            s.set_layer_checkpointing_strategy(i, strategy)
        with model.session() as session:
            session.eval(IDS)
            kept = model.memory_stats.by_owner.get("kept layer outputs", 0)
            assert kept == 0 if strategy is NONE or limit == 1 else not limit or kept <= s.config.max_activation_memory
            assert s.counters.peak_activation_bytes <= (s.config.max_activation_memory or 10**6)
            for i in (0, 3, 6, 7) if streamed else (5, 0, 7, 2, 6, 1, 4, 3):
                np.testing.assert_array_equal(s.get_layer_output(i), hidden[i])
            session.truncate(40)
            np.testing.assert_array_equal(session.eval(IDS[40:]), hidden[7][-1])  # the cache is whole
            np.testing.assert_array_equal(s.get_layer_output(4), hidden[4][40:])
        assert model.budget.used <= model.plan.budget


def test_a_sweep_over_a_model(path, hidden):
    with hyperion.load_model(path, context_length=128, threads=1) as model:
        s, size = model.scheduler, hidden[0].nbytes
        for slots in (1, 2, 3, 9):
            s.config = LayerSchedulerConfig(max_activation_memory=slots * size)
            visits = []

            def visit(i, x, visits=visits):
                visits.append(i)
                np.testing.assert_array_equal(x, IDS if i == 0 else hidden[i - 1])

            with model.session() as session:
                session.eval(IDS)
                before = s.counters.executed
                s.counters.peak_activation_bytes = 0
                s.reverse_sweep(visit)
                plan = plan_reversal([0] + [size] * 7, slots * size, in_place=True)
                done = max(plan.kept_first, default=0)  # the pass itself has kept the states of the way there
                assert s.counters.executed - before == plan.executions - done
                assert visits == list(range(8))[::-1]
                assert s.counters.peak_activation_bytes <= slots * size
        assert "kept layer outputs" not in model.memory_stats.by_owner


def test_a_failed_read_while_computing_again_is_an_error_and_nothing_more(path, hidden):
    with hyperion.load_model(path, memory_budget=floor_of(path) + 800_000, context_length=128, threads=1) as model, model.session() as session:
        session.eval(IDS)
        for nth in (1, 4):
            stream.inject_read_failure(nth, 5)
            with pytest.raises(hyperion.HyperionIOError):
                for _ in range(3):
                    model.scheduler.get_layer_output(5)
            stream.inject_read_failure(0)
            np.testing.assert_array_equal(model.scheduler.get_layer_output(5), hidden[5])
        session.truncate(50)
        np.testing.assert_array_equal(session.eval(IDS[50:]), hidden[7][-1])
        assert 0 < model.scheduler.disk_share <= 1


def test_outputs_of_a_call_that_failed_half_way(path, hidden):
    config = LayerSchedulerConfig(recompute_activations=False, max_activation_memory="200KB")
    with hyperion.load_model(path, memory_budget=floor_of(path) + 800_000, context_length=128, threads=1) as model, model.session() as session:
        model.replan(reserve=200_000)
        model.scheduler.config = config
        assert model.plan.chunk < 30
        session.eval(IDS[:1])
        for nth in range(20, 1000, 20):  # until some passes are done before it
            stream.inject_read_failure(nth, 5)
            with pytest.raises(hyperion.HyperionIOError):
                session.eval(IDS[1:])
            stream.inject_read_failure(0)
            if len(session) > 1:
                break
        assert 1 < len(session) < 60
        for i in range(7):
            np.testing.assert_array_equal(model.scheduler.get_layer_output(i), hidden[i][1 : len(session)])


def test_every_generate_moves_the_counters(path):
    with hyperion.load_model(path, context_length=128) as model:
        counters = model.scheduler.counters
        for _ in range(3):
            before = counters.executed, counters.passes
            model.generate("ROMEO:", max_length=4, temperature=0)
            assert counters.passes - before[1] == 4
            assert counters.executed - before[0] == 4 * 8
        assert model.scheduler.graph.executed_layers == counters.executed


def test_outputs_of_closed_sessions_and_of_several_come_in_order(path, hidden):
    with hyperion.load_model(path, context_length=128, threads=1) as model:
        model.logits(IDS)
        np.testing.assert_array_equal(model.scheduler.get_layer_output(5), hidden[5])
        first, second = model.session(), model.session()
        first.eval(IDS[:20])
        model.forward([(second, IDS[:7]), (first, IDS[20:25])])
        expected = np.concatenate([hidden[3][:7], hidden[3][20:25]])
        np.testing.assert_array_equal(model.scheduler.get_layer_output(3), expected)
        first.close()
        np.testing.assert_array_equal(model.scheduler.get_layer_output(3), expected)
        second.close()
        np.testing.assert_array_equal(model.scheduler.get_layer_output(3), expected)
        used = model.budget.used
        model.scheduler.get_layer_output(3)
        assert model.budget.used == used


def test_a_session_that_was_truncated_and_closed_is_gone(path):
    with hyperion.load_model(path, context_length=128) as model:
        with pytest.raises(errors.HyperionRuntimeError, match="no token"):
            model.scheduler.get_layer_output(1)
        with model.session() as session:
            session.eval(IDS)
            session.truncate(3)
            assert model.scheduler.get_layer_output(1).shape == (60, 256)
        with pytest.raises(errors.HyperionRuntimeError, match="truncated"):
            model.scheduler.get_layer_output(1)


@pytest.mark.parametrize("mode", list(ExecutionMode))
@pytest.mark.parametrize("budget", [None, 2_000_000])
def test_a_model_step_by_step_in_every_mode(path, hidden, mode, budget):
    if budget is not None:
        budget += floor_of(path)
    with hyperion.load_model(path, memory_budget=budget, context_length=128, threads=1) as model:
        before = model.generate([1, 2, 3], max_length=3, temperature=0)
        model.replan(reserve=1_000_000)  # hidden states and logits are the graph's
        with ForwardScheduler(model, mode) as s:
            if mode is ExecutionMode.STREAMING:
                s.max_rows = 17
            for _ in range(2):
                np.testing.assert_array_equal(s.run(IDS), hidden[-1])
            s.reset()
            assert s.execute_next(IDS) == 0
            assert s.execute_next() == 1
            if budget is None:
                model.logits([5, 6])  # a pass between two steps
            else:
                assert s.active_mode is not NORMAL or mode is NORMAL
            while s.execute_next() is not None:
                pass
            np.testing.assert_array_equal(s.get_output(7), hidden[-1])
            with pytest.raises(errors.InvalidArgumentError, match="vocabulary"):
                s.run([10**6])
        assert model.generate([1, 2, 3], max_length=3, temperature=0) == before


def test_a_model_layer_by_layer(path, hidden):
    with hyperion.load_model(path, context_length=128, threads=1) as model:
        s = model.scheduler
        out = np.empty((60, 256), np.float32)
        for i in range(8):
            result = s.execute_layer(i, IDS, out if i < 7 else None)
            np.testing.assert_array_equal(result, hidden[i])
        np.testing.assert_array_equal(out, hidden[6])
        np.testing.assert_array_equal(s.get_layer_output(2), hidden[2])
        np.testing.assert_array_equal(s.run(IDS[:5]), hidden[7][:5])


def test_a_scheduler_of_ones_own_takes_over_until_it_is_closed(path, hidden):
    with hyperion.load_model(path, context_length=128, threads=1) as model:
        own = model.scheduler
        with LayerScheduler(model, LayerSchedulerConfig(recompute_activations=False)) as s:
            assert model.scheduler is s
            model.logits(IDS)
            assert s.counters.stored == 7
            assert own.counters.passes == 0
            other = LayerScheduler(model)
        assert model.scheduler is other
        other.close()
        assert model.scheduler is own
        own.close()  # stays open as long as the model
        model.logits(IDS)
        assert own.counters.passes == 1
        np.testing.assert_array_equal(own.get_layer_output(4), hidden[4])


@pytest.mark.parametrize("budget", [None, 1_000_000, 3_000_000])
def test_the_estimate_of_a_model_is_what_its_ledger_holds(path, budget):
    budget = None if budget is None else floor_of(path) + budget
    with hyperion.load_model(path, memory_budget=budget, context_length=128) as model:
        assert model.scheduler.estimate_memory_usage().total == pytest.approx(model.budget.used, rel=0.05)
        model.scheduler.config = LayerSchedulerConfig(max_activation_memory="200KB")
        with model.session() as session:
            session.eval(IDS)
            estimate = model.scheduler.estimate_memory_usage()
            assert estimate.total == pytest.approx(model.budget.used, rel=0.05)
            assert estimate.weights > 0
            if budget is None:
                assert "use" in str(model.scheduler.create_execution_plan())


def test_a_live_model_lets_go_of_kept_outputs_when_it_moves(path, hidden):
    with hyperion.load_model(path, context_length=128, threads=1) as model, model.session() as session:
        model.scheduler.config = LayerSchedulerConfig(recompute_activations=False)
        session.eval(IDS)
        assert model.memory_stats.by_owner["kept layer outputs"] >= 7 * hidden[0].nbytes
        model.replan(floor_of(path) + 1_000_000)
        assert model.budget.used <= model.plan.budget
        np.testing.assert_array_equal(model.scheduler.get_layer_output(3), hidden[3])
        session.truncate(0)
        np.testing.assert_array_equal(session.eval(IDS), hidden[7][-1])
        model.scheduler.release()
        assert "kept layer outputs" not in model.memory_stats.by_owner


def test_a_closed_model_leaves_nothing_in_the_ledger(path):
    from hyperion.memory import process_budget

    gc.collect()
    used = process_budget().used
    model = hyperion.load_model(path, context_length=128)
    model.scheduler.config = LayerSchedulerConfig(recompute_activations=False)
    session = model.session()
    session.eval(IDS)
    graph = ForwardScheduler(model)
    graph.execute_next(IDS)
    scheduler = model.scheduler
    model.close()
    graph.close()
    with pytest.raises(errors.HyperionRuntimeError):
        scheduler.get_layer_output(3)
    del graph, session, scheduler, model
    gc.collect()
    assert process_budget().used == used
