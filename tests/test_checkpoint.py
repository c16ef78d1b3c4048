"""Plans for a backward sweep: the fewest executions, against a search over every strategy there is."""

import heapq
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperion.errors import InvalidArgumentError, MemoryBudgetError
from hyperion.scheduling.checkpoint import plan_reversal, revolve


def fewest(sizes, limit, in_place):
    """Shortest path over (states held, next layer to visit), where any state may be dropped at any time."""
    start = (frozenset(), len(sizes) - 1)
    best, heap, ties = {start: 0}, [(0, 0, start)], itertools.count(1)
    while heap:
        cost, _, state = heapq.heappop(heap)
        held, layer = state
        if layer < 0:
            return cost
        if cost > best[state]:
            continue
        moves = [(0, (held - {k}, layer)) for k in held]
        if layer == 0 or layer in held:
            moves.append((0, (frozenset(k for k in held if k < layer), layer - 1)))
        live = sum(sizes[k] for k in held)
        for k in {0, *held}:
            if k < layer and k + 1 not in held:
                if live + sizes[k + 1] <= limit:
                    moves.append((1, (held | {k + 1}, layer)))
                if in_place and k and live - sizes[k] + sizes[k + 1] <= limit:
                    moves.append((1, (held - {k} | {k + 1}, layer)))
        for step, after in moves:
            if cost + step < best.get(after, 1 << 30):
                best[after] = cost + step
                heapq.heappush(heap, (cost + step, next(ties), after))
    return None


def replay(plan, sizes, in_place):
    """Check every step of a plan; (executions, most bytes, layers in the order of their visits)."""
    held, runs, peak, visits = {0}, 0, 0, []
    for step in plan.steps:
        if step.action == "advance":
            assert step.start in held
            assert step.stop not in held
            base = sum(sizes[k] for k in held if k)
            for k in range(step.start, step.stop):
                runs += 1
                at_hand = sizes[k] if k > step.start and not in_place else 0
                peak = max(peak, base + at_hand + sizes[k + 1])
            held.add(step.stop)
        elif step.action == "visit":
            assert step.stop in held
            visits.append(step.stop)
        else:
            held.remove(step.stop)
    assert held == {0}
    assert visits == list(range(len(sizes)))[::-1]
    return runs, peak


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("layers", range(1, 9))
def test_equal_layers_take_the_fewest_executions_of_all_strategies(layers, in_place):
    sizes = [0] + [10] * (layers - 1)
    for slots in range(layers + 1):
        expected = fewest(sizes, slots * 10 + 9, in_place)
        if expected is None:
            with pytest.raises(MemoryBudgetError):
                plan_reversal(sizes, slots * 10 + 9, in_place=in_place)
            continue
        plan = plan_reversal(sizes, slots * 10 + 9, in_place=in_place)
        assert (plan.executions, plan.peak) == replay(plan, sizes, in_place)
        assert plan.executions == expected
        assert plan.peak <= slots * 10
        if in_place:
            assert plan.executions == revolve(layers, slots)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=7), st.integers(0, 30), st.booleans())
def test_unequal_layers_take_the_fewest_executions_of_all_strategies(states, limit, in_place):
    sizes = [0, *states[:-1]]
    expected = fewest(sizes, limit, in_place)
    try:
        plan = plan_reversal(sizes, limit, in_place=in_place)
    except MemoryBudgetError as error:
        assert expected is None
        smallest = error.context["smallest"]
        assert smallest > limit
        assert plan_reversal(sizes, smallest, in_place=in_place).peak == smallest
        return
    assert replay(plan, sizes, in_place) == (plan.executions, plan.peak)
    assert plan.peak <= limit
    assert plan.executions == expected


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 10**9), min_size=2, max_size=12),
    st.floats(0, 1),
    st.sets(st.integers(1, 11), max_size=4),
    st.sets(st.integers(1, 11), max_size=4),
)
def test_odd_sizes_and_wishes_give_plans_that_hold(states, share, always, never):
    sizes = [0, *states]
    smallest = max(a + b for a, b in itertools.pairwise(sizes))
    limit = smallest + int(share * (sum(sizes) - smallest if sum(sizes) > smallest else 0))
    plan = plan_reversal(sizes, limit, always=always, never=never)
    assert replay(plan, sizes, False) == (plan.executions, plan.peak)
    assert plan.peak <= limit
    best = plan_reversal(sizes, sum(sizes))
    assert plan.executions >= best.executions == len(states)
    assert best.peak == sum(sizes)
    roomy = plan_reversal(sizes, 2 * sum(sizes), always=range(1, 13), never=never)
    assert set(roomy.kept_first) == set(range(1, len(sizes)))


def test_states_that_must_not_be_kept_are_not():
    sizes = [0] + [1] * 7
    plan = plan_reversal(sizes, 8, never=[2, 3, 5])
    assert not {2, 3, 5} & set(plan.kept_first)
    assert plan.executions == 7 + 1 + 1 + 2  # x5 from x4, x3 from x1 by way of x2, x2 from x1
    assert plan_reversal(sizes, 8).executions == 7


def test_the_closed_form():
    assert [revolve(n, 1) for n in range(1, 6)] == [0, 1, 3, 6, 10]
    assert [revolve(10, s) for s in (2, 3, 9, 50)] == [20, 15, 9, 9]
    assert revolve(10**6, 20) == plan_cost(10**6, 20)
    for bad in ((0, 1), (2, 0)):
        with pytest.raises(InvalidArgumentError):
            revolve(*bad)


def plan_cost(layers, slots):
    """Griewank's theorem: the sum over repetitions of how many layers are run so often at most."""
    cost, r = 0, 0
    while layers > beta(slots, r):
        cost += layers - beta(slots, r)
        r += 1
    return cost


def beta(s, r):
    value = 1
    for i in range(1, s + 1):
        value = value * (r + i) // i
    return value


def test_long_chains_are_planned_quickly_enough_and_hold():
    sizes = [0] + [7] * 299
    plan = plan_reversal(sizes, 7 * 12, in_place=True)
    assert replay(plan, sizes, True) == (plan.executions, plan.peak) == (revolve(300, 12), 7 * 12)
    sizes = [0] + [100 + i % 13 for i in range(299)]
    plan = plan_reversal(sizes, 3000)
    runs, peak = replay(plan, sizes, False)
    assert peak <= 3000
    assert runs == plan.executions


def test_nonsense_is_refused():
    for sizes, limit in (([], 1), ([0, 1], -1), ([0, -1], 1)):
        with pytest.raises(InvalidArgumentError):
            plan_reversal(sizes, limit)
