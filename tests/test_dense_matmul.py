"""Dense products: against NumPy in float64, any strides and shapes, the same bits however they are cut, hostile arguments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hyperion
from hyperion import CacheConfig, errors
from hyperion._kernels import dispatch
from hyperion.dense import cache as cache_module
from hyperion.memory import process_budget

LEVELS = dispatch.levels()


def close(got, a, b):
    """Within the bound of the docstring."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    bound = max(a.shape[-1], 1) * 2.0**-24 * np.matmul(np.abs(a), np.abs(b)) * 1.01 + 1e-40
    assert (np.abs(got - np.matmul(a, b)) <= bound).all()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("m", "k", "n"),
    [(1, 1, 1), (7, 31, 33), (14, 64, 32), (15, 97, 65), (97, 513, 31), (1, 700, 300), (300, 700, 1), (129, 300, 257), (29, 5, 700)],
)
def test_products_agree_with_float64(level, m, k, n):
    rng = np.random.default_rng(m * k + n)
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    got = hyperion.matmul(a, b, simd=level)
    assert got.dtype == np.float32 and got.shape == (m, n)
    close(got, a, b)


def zeros(*shape):
    return np.zeros(shape, np.float32)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_bits_do_not_depend_on_how_it_is_cut(data):
    m, k, n = (data.draw(st.integers(1, 120)) for _ in range(3))
    rng = np.random.default_rng(m + 1000 * n)
    level = data.draw(st.sampled_from(LEVELS))
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    want = hyperion.matmul(a, b, simd=level, threads=1)
    config = CacheConfig(
        block_size=data.draw(st.integers(1, 130)), cache_line_size=data.draw(st.sampled_from([16, 64, 128])),
        enable_prefetch=data.draw(st.booleans()), prefetch_distance=data.draw(st.integers(1, 40)),
    )  # fmt: skip
    left = data.draw(st.sampled_from([a, np.asfortranarray(a), np.repeat(a, 2, 1)[:, ::2], a[::-1].copy()[::-1]]))
    right = data.draw(st.sampled_from([b, np.asfortranarray(b), np.repeat(b, 3, 1)[:, ::3], b[:, ::-1].copy()[:, ::-1]]))
    target = data.draw(
        st.sampled_from([zeros(m, n), zeros(n, m).T, zeros(m, 2 * n)[:, ::2], zeros(m, n)[::-1]])
    )
    got = hyperion.matmul(left, right, target, cache=config, threads=data.draw(st.integers(1, 3)), simd=level)
    assert got is target
    np.testing.assert_array_equal(got, want)
    row, col = data.draw(st.integers(0, m - 1)), data.draw(st.integers(0, n - 1))
    assert hyperion.matmul(a[row], b[:, col], simd=level) == want[row, col]


def test_levels_with_fused_multiply_add_agree():
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((45, 211), np.float32), rng.standard_normal((211, 77), np.float32)
    results = [hyperion.matmul(a, b, simd=level) for level in LEVELS if level != "generic"]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("level", LEVELS)
def test_a_product_that_is_cut_in_every_direction(level, monkeypatch):
    monkeypatch.setattr(cache_module, "_packed_values", lambda: 4096)
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((700, 150), np.float32), rng.standard_normal((150, 390), np.float32)
    cut = hyperion.matmul(a, b, cache=CacheConfig(block_size=40), simd=level, threads=2)
    close(cut, a, b)
    monkeypatch.undo()
    np.testing.assert_array_equal(cut, hyperion.matmul(a, b, simd=level))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize(("k", "n"), [(1, 700), (7, 300), (9, 257), (77, 513), (130, 261), (530, 40), (1061, 19), (70, 4500)])
def test_one_row_or_column_has_the_bits_of_many(level, shift, k, n):
    rng = np.random.default_rng(8)
    a = rng.standard_normal((2, k), np.float32)
    for b in (
        rng.standard_normal((k, n + 16), np.float32)[:, shift : shift + n],  # rows that are contiguous
        rng.standard_normal((n, (k + 31) // 16 * 16), np.float32)[:, shift : shift + k].T,  # columns, all at one place of a line
        rng.standard_normal((n, k + 15), np.float32)[:, shift : shift + k].T,
    ):
        for threads in (1, 3):
            many = hyperion.matmul(a, b, simd=level, threads=threads)
            np.testing.assert_array_equal(hyperion.matmul(a[:1], b, simd=level, threads=threads), many[:1])
            np.testing.assert_array_equal(hyperion.matmul(b.T, a[:1].T, simd=level, threads=threads), many[:1].T)
            close(many, a, b)


@pytest.mark.parametrize("level", LEVELS)
def test_more_work_than_a_task_has(level):
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((120, 2100), np.float32), rng.standard_normal((2100, 1300), np.float32)
    alone = hyperion.matmul(a, b, simd=level, threads=1)
    close(alone[:, ::97], a, b[:, ::97])
    np.testing.assert_array_equal(hyperion.matmul(a, b, simd=level, threads=3), alone)


@pytest.mark.parametrize("odd", ["a", "b", "out"])
def test_copies_of_odd_strides_count_in_the_ledger(odd):
    rng, ledger = np.random.default_rng(7), process_budget()
    arrays = {"a": rng.standard_normal((3, 40, 90), np.float32), "b": rng.standard_normal((3, 90, 50), np.float32)}
    arrays["out"] = np.zeros((3, 40, 50), np.float32)
    want = np.stack([hyperion.matmul(a, b) for a, b in zip(arrays["a"], arrays["b"], strict=True)])
    strange = np.zeros(arrays[odd].shape, [("value", np.float32), ("between", np.uint8)])["value"]
    strange[...] = arrays[odd]
    arrays[odd] = strange
    total, used = ledger.total_reserved, ledger.used
    hyperion.matmul(**arrays)
    assert ledger.total_reserved - total >= strange.size * 4 and ledger.used == used
    np.testing.assert_array_equal(arrays["out"], want)


@pytest.mark.parametrize(
    ("first", "second"),
    [((5,), (5,)), ((5,), (5, 3)), ((4, 5), (5,)), ((2, 4, 5), (5, 3)), ((4, 5), (3, 5, 2)), ((2, 1, 4, 5), (3, 5, 2)),
     ((3, 4, 5), (5,)), ((5,), (2, 5, 3)), ((0, 5), (5, 3)), ((4, 0), (0, 3)), ((0, 4, 5), (5, 3)), ((2, 4, 5), (1, 5, 0))],
)  # fmt: skip
def test_shapes_are_those_of_numpy(first, second):
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal(first).astype(np.float32), rng.standard_normal(second).astype(np.float32)
    want = np.matmul(a, b)
    got = hyperion.matmul(a, b)
    assert got.shape == np.shape(want)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    out = np.full(np.shape(want), np.nan, np.float32)
    assert hyperion.matmul(a, b, out) is out
    np.testing.assert_array_equal(out, got)


def test_broadcast_and_unaligned_operands():
    rng = np.random.default_rng(6)
    row = rng.standard_normal(40).astype(np.float32)
    a = np.broadcast_to(row, (9, 40))
    b = np.zeros(4 * 40 * 6 + 1, np.uint8)[1:].view(np.float32).reshape(40, 6)
    b[:] = rng.standard_normal((40, 6))
    assert not b.flags.aligned
    np.testing.assert_array_equal(hyperion.matmul(a, b), hyperion.matmul(a.copy(), b.copy()))


def test_special_values_pass():
    a = np.array([[np.inf, 1], [np.nan, 1], [1, 0]], np.float32)
    b = np.array([[1, -1], [1, np.inf]], np.float32)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(hyperion.matmul(a, b), a[:, :1] * b[:1] + a[:, 1:] * b[1:])


def test_packed_blocks_count_in_the_ledger():
    ledger = process_budget()
    a = np.ones((700, 300), np.float32)
    total, used = ledger.total_reserved, ledger.used
    hyperion.matmul(a, a.T)
    assert ledger.total_reserved - total >= 2 * a.nbytes and ledger.used == used


def test_bad_arguments_are_named():
    a, b = np.zeros((4, 6), np.float32), np.zeros((6, 3), np.float32)
    wrong = errors.InvalidArgumentError
    for first, second, text in [
        (a.astype(np.float64), b, "a must be a float32"), (a, b.astype(np.int32), "b must be a float32"),
        (a, a, r"matmul of shapes \(4, 6\) and \(4, 6\)"), (np.float32(1), b, "at least one dimension"),
        (np.zeros((2, 4, 6), np.float32), np.zeros((3, 6, 3), np.float32), "broadcast"), ("a", b, "a must be"),
    ]:  # fmt: skip
        with pytest.raises(wrong, match=text):
            hyperion.matmul(first, second)
    for out in (np.zeros((3, 4), np.float32), np.zeros((4, 3)), [0.0], np.zeros((1, 4, 3), np.float32)):
        with pytest.raises(wrong, match="out must be a float32 array of shape"):
            hyperion.matmul(a, b, out)
    square = np.zeros((6, 6), np.float32)
    for out in (square, square[::-1], square.T):
        with pytest.raises(wrong, match="out overlaps"):
            hyperion.matmul(square, np.ones((6, 6), np.float32), out)
        with pytest.raises(wrong, match="out overlaps"):
            hyperion.matmul(np.ones((6, 6), np.float32), square, out)
    for cache in (64, {"block_size": 4}):
        with pytest.raises(wrong, match="cache must be a CacheConfig"):
            hyperion.matmul(a, b, cache=cache)
    huge = np.broadcast_to(np.float32(1), (1 << 29, 1 << 29))
    with pytest.raises(errors.HyperionMemoryError):
        hyperion.matmul(huge[:, :1], huge[:1])


def test_cache_config():
    config = CacheConfig()
    assert config.block_size >= 64 and config.cache_line_size == 64 and config.copy() == config
    for name, bad in [("block_size", 0), ("block_size", 1.5), ("block_size", True), ("cache_line_size", 48), ("cache_line_size", 8),
                      ("enable_prefetch", 1), ("prefetch_distance", 0), ("prefetch_distance", 1 << 20)]:  # fmt: skip
        with pytest.raises(errors.InvalidArgumentError, match=name):
            setattr(config, name, bad)
    with pytest.raises(errors.InvalidArgumentError, match="no field 'block'"):
        config.block = 3
    config.prefetch_distance = np.int64(4)
    assert config.prefetch_bytes == 256
    config.enable_prefetch = False
    assert config.prefetch_bytes == 0


def test_auto_measures_and_returns_settings_that_work():
    config = CacheConfig.auto(size=48, rounds=1)
    assert config.block_size in {CacheConfig().block_size * n // 8 for n in (2, 4, 8, 16)}
    a = np.ones((20, 30), np.float32)
    np.testing.assert_array_equal(hyperion.matmul(a, a.T, cache=config), hyperion.matmul(a, a.T))
    with pytest.raises(errors.InvalidArgumentError, match="rounds"):
        CacheConfig.auto(rounds=0)
