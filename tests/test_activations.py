"""Activation functions: their error bounds against float64, any strides, in place, hostile arguments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

import hyperion
from hyperion import errors
from hyperion._kernels import dispatch
from hyperion.memory import process_budget

LEVELS = dispatch.levels()
UNIT = 2.0**-24
TINY = np.finfo(np.float32).tiny


def gelu_tanh(x, out=None, **options):
    return hyperion.gelu(x, out, approximate="tanh", **options)


def tanh_oracle(x):
    """x / (1 + exp(-2u)): 1 + tanh(u) would cancel."""
    return x * special.expit(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))


def erf_oracle(x):
    with np.errstate(under="ignore"):
        return np.where(x < 0, x * 0.5 * special.erfc(-x / np.sqrt(2)), x * special.ndtr(x))


# function, float64 oracle, bound in units, where the relative bound begins, absolute bound below
CASES = {
    "relu": (hyperion.relu, lambda x: np.maximum(x, 0), 0, -np.inf, 0),
    "silu": (hyperion.silu, lambda x: x * special.expit(x), 4, -87, 1e-36),
    "gelu": (hyperion.gelu, erf_oracle, 8, -13, 1e-36),
    "gelu tanh": (gelu_tanh, tanh_oracle, 4, -10, 1e-36),
    "tanh": (hyperion.tanh, np.tanh, 6, -np.inf, 0),
    "sigmoid": (hyperion.sigmoid, special.expit, 4, -87, 2e-38),
}


def grid():
    """Floats of every magnitude, dense where the functions bend, and both ends."""
    rng = np.random.default_rng(7)
    bits = rng.integers(0, 0x7F800000, 40_000, dtype=np.uint32)
    x = np.concatenate((
        bits.view(np.float32), -bits.view(np.float32), rng.uniform(-20, 20, 200_000), np.linspace(-110, 110, 100_001),
        rng.uniform(-1, 1, 50_000), [0.0, -0.0, TINY, -TINY],
    ))  # fmt: skip
    return x.astype(np.float32)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CASES)
def test_error_bound(name, level):
    function, oracle, bound, lowest, absolute = CASES[name]
    x = grid()
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        want = oracle(x.astype(np.float64))
    got = function(x, simd=level).astype(np.float64)
    assert got.shape == x.shape and not np.isnan(got).any()
    normal = (x >= lowest) & (np.abs(want) >= TINY)
    error = np.abs(got - want)
    assert (error[normal] / np.abs(want[normal])).max() <= bound * UNIT
    assert error[(x < lowest)].max(initial=0) <= absolute
    assert error[~normal & (x >= lowest)].max(initial=0) <= 1e-44  # subnormal results


@pytest.mark.parametrize("level", LEVELS)
def test_special_values(level):
    x = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)
    want = {
        "relu": [np.nan, np.inf, 0.0, -0.0], "silu": [np.nan, np.inf, -0.0, -0.0], "gelu": [np.nan, np.inf, -0.0, -0.0],
        "gelu tanh": [np.nan, np.inf, -0.0, -0.0], "tanh": [np.nan, 1.0, -1.0, -0.0], "sigmoid": [np.nan, 1.0, 0.0, 0.5],
    }  # fmt: skip
    for name, (function, *_) in CASES.items():
        got = function(x, simd=level)
        np.testing.assert_array_equal(got, np.array(want[name], np.float32), err_msg=name)
        assert np.array_equal(np.signbit(got[1:]), np.signbit(np.array(want[name])[1:])), name


def strided(rng, shape, order, steps):
    """An array of a shape whose axes lie in memory in another order, with gaps and backwards."""
    big = rng.standard_normal([n * abs(s) for n, s in zip(shape, steps, strict=True)], dtype=np.float32) * 3
    memory = big.transpose(order).copy().transpose(np.argsort(order)) if shape else big
    return memory[(..., *(slice(None, None, s) for s in steps))]


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_strides_give_the_same_bits(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    dims = data.draw(st.integers(0, 4))
    shape = data.draw(st.lists(st.sampled_from([0, 1, 2, 3, 17, 40]), min_size=dims, max_size=dims))
    layout = st.tuples(
        st.permutations(range(dims)), st.lists(st.sampled_from([1, 1, 2, -1, -3]), min_size=dims, max_size=dims)
    )
    x, out = (strided(rng, shape, *data.draw(layout)) for _ in range(2))
    plain = x.copy(order="C")
    level = data.draw(st.sampled_from(LEVELS))
    name = data.draw(st.sampled_from(sorted(CASES)))
    function = CASES[name][0]
    want = function(plain.ravel(), simd=level, threads=1).reshape(x.shape)
    assert function(x, out, simd=level, threads=2) is out
    np.testing.assert_array_equal(out, want)
    for axis in range(-dims, dims):
        if shape[axis]:
            rows = np.ascontiguousarray(np.moveaxis(plain, axis, -1))
            want = np.moveaxis(hyperion.softmax(rows, simd=level, threads=1), -1, axis)
            np.testing.assert_array_equal(hyperion.softmax(x, out, axis=axis, simd=level, threads=2), want)
    if x.size:
        function(x, x, simd=level)
        np.testing.assert_array_equal(x, function(plain, simd=level))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("shape", "axis"), [((1, 1), -1), ((7, 33), 0), ((3, 97, 31), 1), ((2, 40_001), 1), ((40_001, 2), 0)])
def test_softmax(level, shape, axis):
    rng = np.random.default_rng(3)
    x = (rng.standard_normal(shape) * 12).astype(np.float32)
    want = special.softmax(x.astype(np.float64), axis=axis)
    got = hyperion.softmax(x, axis=axis, simd=level)
    far = np.abs(x - x.max(axis, keepdims=True)).astype(np.float64)
    assert (np.abs(got - want) <= (5 + far) * UNIT * want + 1e-37).all()
    assert np.abs(got.sum(axis, dtype=np.float64) - 1).max() < 1e-5


def test_threads_do_not_change_bits():
    x = np.random.default_rng(5).standard_normal(300_001).astype(np.float32)
    for function, *_ in CASES.values():
        np.testing.assert_array_equal(function(x, threads=1), function(x, threads=4))


def test_softmax_s_buffer_counts_in_the_ledger():
    ledger = process_budget()
    x = np.zeros((1000, 64), np.float32)
    used, total = ledger.used, ledger.total_reserved
    hyperion.softmax(x, axis=1)
    assert ledger.total_reserved == total
    hyperion.softmax(x, axis=0)
    assert ledger.total_reserved - total >= 4 * 1000 and ledger.used == used


def test_unaligned_memory():
    raw = np.zeros(4 * 500 + 1, np.uint8)
    x = raw[1:].view(np.float32)
    x[:] = np.linspace(-5, 5, 500)
    assert not x.flags.aligned
    for function, *_ in CASES.values():
        np.testing.assert_array_equal(function(x), function(x.copy()))
    np.testing.assert_array_equal(hyperion.softmax(x), hyperion.softmax(x.copy()))


def test_bad_arguments_are_named():
    x = np.zeros((4, 6), np.float32)
    wrong = errors.InvalidArgumentError
    for function in (hyperion.relu, hyperion.softmax):
        for value in (x.astype(np.float64), [1.0], x.astype(np.int32), x.astype(">f4"), "text", None, [[1], [2, 3]]):
            with pytest.raises(wrong, match="x must be a float32 array"):
                function(value)
        for out in (np.zeros((6, 4), np.float32), np.zeros((4, 6)), [1.0]):
            with pytest.raises(wrong, match="out must be a float32 array of shape"):
                function(x, out)
        with pytest.raises(wrong, match="overlaps x"):
            function(x[:, :3], x[:, 1:4])
        with pytest.raises(wrong, match="overlaps x"):
            function(x[:3, :3], x[:3, :3].T)
        frozen = x.copy()
        frozen.flags.writeable = False
        with pytest.raises(wrong, match="read-only"):
            function(x, frozen)
        one = np.lib.stride_tricks.as_strided(x.copy(), (4, 6), (0, 4))
        with pytest.raises(wrong, match="several elements in one place"):
            function(x, one)
        with pytest.raises(wrong, match="threads"):
            function(x, threads=0)
        with pytest.raises(wrong, match="level"):
            function(x, simd="sse9")
    with pytest.raises(wrong, match="approximate"):
        hyperion.gelu(x, approximate="erf")
    for axis in (2, -3, "0", None, 0.0):
        with pytest.raises(wrong, match="axis"):
            hyperion.softmax(x, axis=axis)
    with pytest.raises(wrong, match="has no values"):
        hyperion.softmax(np.zeros((3, 0), np.float32))
    with pytest.raises(wrong, match="has no values"):
        hyperion.softmax(np.float32(1.0))
