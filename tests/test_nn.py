"""Norms, rotations, activations and attention against float64, at every level that this machine has."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperion import InvalidArgumentError
from hyperion._kernels import dispatch, ops, reference

LEVELS = dispatch.levels()
SIZES = [1, 7, 31, 33, 97, 256]
HEAD_DIMS = [1, 7, 16, 33, 64, 80, 97, 128, 256]
LENS = [1, 15, 16, 17, 63, 64, 65, 128, 200]
UNIT = 2.0**-24  # half an ulp at 1
rng_seed = 20250101


@pytest.fixture(params=LEVELS)
def level(request):
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(rng_seed)


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def same_bits(a, b):
    return np.array_equal(np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32))


# ---- Element-wise ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "oracle", "lowest"), [(ops.silu, reference.silu, -87.0), (ops.gelu, reference.gelu, -10.0)]
)
def test_activation_error_bound(level, rng, function, oracle, lowest):
    x = np.concatenate(
        (
            np.linspace(-130, 130, 400_001),
            np.linspace(-12, 12, 400_001),
            np.ldexp(rng.uniform(-2, 2, 100_000), rng.integers(-140, 3, 100_000)),
        )
    ).astype(np.float32)
    result, expected = function(x, level=level).astype(np.float64), oracle(x)
    error = np.abs(result - expected)
    normal_result = (x >= lowest) & (np.abs(expected) >= 2.0**-126)
    assert np.all(error[normal_result] <= 4 * UNIT * np.abs(expected[normal_result]))
    assert np.all(error[~normal_result] < 1e-36)


@pytest.mark.parametrize("function", [ops.silu, ops.gelu])
def test_activation_limits(level, function):
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 3e38, -3e38], np.float32)
    result = function(x, level=level)
    assert result[0] == np.inf and np.isnan(result[2]) and result[5] == x[5]
    assert np.all(result[[1, 3, 4, 6]] == 0)
    assert np.array_equal(np.signbit(result[[1, 3, 4, 6]]), [True, False, True, True])


@pytest.mark.parametrize("n", SIZES)
def test_products_with_activation(level, rng, n):
    gate, up = 3 * normal(rng, n), normal(rng, n)
    for fused, plain in ((ops.silu_mul, ops.silu), (ops.gelu_mul, ops.gelu)):
        expected = plain(gate, level=level) * up
        assert same_bits(fused(gate, up, level=level), expected)
        for target in (gate.copy(), up.copy()):
            first, second = (target, up) if np.array_equal(target, gate) else (gate, target)
            assert fused(first, second, out=target, level=level) is target
            assert same_bits(target, expected)


@pytest.mark.parametrize("n", SIZES)
def test_a_value_does_not_depend_on_its_place(level, rng, n):
    x = 4 * normal(rng, n)
    for function in (ops.silu, ops.gelu):
        assert same_bits(function(x, level=level), np.array([function(v, level=level) for v in x]))


@pytest.mark.parametrize("n", [*SIZES, 1000])
def test_add(level, rng, n):
    x, y = normal(rng, n), normal(rng, n)
    expected = x + y
    assert same_bits(ops.add(x, y, level=level), expected)
    assert same_bits(ops.add(x, y, out=y, level=level), expected)


@pytest.mark.parametrize("n", [*SIZES, 32_001])
def test_softmax(level, rng, n):
    x = (5 * rng.standard_normal((3, n))).astype(np.float32)
    x[1] += 1000
    result = ops.softmax(x, level=level)
    distance = x.max(-1, keepdims=True).astype(np.float64) - x
    assert np.all(
        np.abs(result - reference.softmax(x)) <= (4 + distance) * UNIT * reference.softmax(x) + 1e-44
    )
    assert same_bits(ops.softmax(x, out=x, level=level), result)


def test_softmax_of_special_values(level):
    assert ops.softmax([7.0], level=level)[0] == 1.0  # exp(0) is exactly 1
    assert np.array_equal(ops.softmax([2.0] * 4, level=level), [0.25] * 4)
    assert np.array_equal(ops.softmax([-np.inf, 3.0, -np.inf], level=level), [0, 1, 0])
    assert np.array_equal(ops.softmax([0.0, -3e38, -104.5], level=level), [1, 0, 0])
    assert np.all(np.isnan(ops.softmax([1.0, np.nan, 2.0], level=level)))


def test_exp_through_softmax_reaches_subnormals(level):
    x = np.linspace(-103.5, 0, 5001).astype(np.float32)
    result = np.array([ops.softmax([0.0, v], level=level)[1] for v in x[::50]], np.float64)
    e = np.exp(x[::50].astype(np.float64))
    assert np.all(np.abs(result - e / (1 + e)) <= 4 * UNIT * e + 2.0**-149)


@pytest.mark.parametrize("n", [*SIZES, 8192])
def test_rms_norm(level, rng, n):
    x, weight = 3 * normal(rng, 2, n), normal(rng, n)
    x[1] *= 1e-3
    eps = np.float32(1e-5)
    expected = reference.rms_norm(x, weight, float(eps))
    result = ops.rms_norm(x, weight, eps, level=level)
    assert np.all(np.abs(result - expected) <= 4 * UNIT * np.abs(expected))
    assert same_bits(ops.rms_norm(x, weight, eps, out=x, level=level), result)


def test_rms_norm_of_huge_values_does_not_overflow(level):
    x = np.full(33, 1e30, np.float32)
    assert np.allclose(ops.rms_norm(x, np.ones(33), level=level), 1, rtol=1e-6)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(
    ("head_dim", "rot"), [(2, 2), (14, 14), (33, 30), (64, 64), (96, 24), (97, 96), (128, 128), (128, 34)]
)
def test_rope(level, rng, head_dim, rot, interleaved):
    x, angle = normal(rng, 5, head_dim), rng.uniform(-4, 4, rot // 2)
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    result = ops.rope(x, cos, sin, interleaved=interleaved, level=level)
    expected = reference.rope(x, cos, sin, interleaved)
    size = np.abs(x).max(-1, keepdims=True)
    assert np.all(np.abs(result - expected) <= 4 * UNIT * size)
    assert same_bits(result[:, rot:], x[:, rot:])
    assert same_bits(result[2:3], ops.rope(x[2:3], cos, sin, interleaved=interleaved, level=level))


# ---- Attention -------------------------------------------------------------------------------------------------------


def cached(x, kv):
    return reference.kv_cache_values(kv, x)


def attention64(q, k, v, lens, kv):
    scale = q.shape[1] ** -0.5
    return reference.attention(q[:, None], cached(k, kv)[:, None], cached(v, kv)[:, None], scale, lens)[:, 0]


def close(result, expected, v):
    return np.all(np.abs(result - expected) <= 2e-6 * np.abs(v).max())


@pytest.mark.parametrize("kv", ops.KV_TYPES)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_attention_agrees_with_float64(level, rng, head_dim, kv):
    q, k, v = normal(rng, len(LENS), head_dim), normal(rng, 200, head_dim), normal(rng, 200, head_dim)
    result = ops.attention(q, k, v, LENS, kv=kv, level=level)
    assert close(result, attention64(q, k, v, LENS, kv), v)


@pytest.mark.parametrize("kv", ops.KV_TYPES)
@pytest.mark.parametrize("head_dim", [33, 64, 128])
@pytest.mark.parametrize("nq", [2, 3, 4, 5, 8, 64, 65, 131])
def test_a_query_has_the_same_bits_alone_and_in_company(level, rng, head_dim, nq, kv):
    q, k, v = normal(rng, nq, head_dim), normal(rng, 200, head_dim), normal(rng, 200, head_dim)
    scattered = rng.integers(1, 201, nq)
    scattered[: len(LENS)] = LENS[:nq]
    for lens in (scattered, np.full(nq, 200)):
        together = ops.attention(q, k, v, lens, kv=kv, level=level)
        for j in rng.permutation(nq)[:8]:
            alone = ops.attention(
                q[j : j + 1], k[: lens[j]], v[: lens[j]], lens[j : j + 1], kv=kv, level=level
            )
            assert same_bits(alone[0], together[j])


@pytest.mark.parametrize("kv", ops.KV_TYPES)
@pytest.mark.parametrize("head_dim", [7, 64])
@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
def test_what_a_query_does_not_see_does_not_reach_it(level, rng, head_dim, junk, kv):
    """Neither positions past every query's end, nor positions that only its neighbours in the call see."""
    for seen in LENS:
        q, k, v = normal(rng, 6, head_dim), normal(rng, seen + 70, head_dim), normal(rng, seen + 70, head_dim)
        expected = ops.attention(q, k, v, [seen] * 6, kv=kv, level=level)
        k[seen:], v[seen:] = junk, junk
        assert same_bits(ops.attention(q, k, v, [seen] * 6, kv=kv, level=level), expected)
        mixed = ops.attention(q, k, v, [seen, seen + 1] * 2 + [seen + 70, seen], kv=kv, level=level)
        assert same_bits(mixed[[0, 2, 5]], expected[[0, 2, 5]])
        assert np.isfinite(expected).all() and not np.isfinite(mixed[[1, 3, 4]]).any()


@pytest.mark.parametrize("kv", ops.KV_TYPES)
def test_one_visible_position_returns_its_value(level, rng, kv):
    q, k, v = normal(rng, 5, 80), normal(rng, 1, 80), normal(rng, 1, 80)
    assert np.array_equal(ops.attention(q, k, v, [1] * 5, kv=kv, level=level), np.repeat(cached(v, kv), 5, 0))


def test_attention_of_equal_keys_is_the_mean(level):
    """All scores are equal, so that every weight and every correction is exactly 1: small integers add up exactly."""
    n = 256
    v = np.arange(n * 16, dtype=np.float32).reshape(n, 16) % 61
    result = ops.attention(np.ones((1, 16)), np.ones((n, 16)), v, [n], level=level)
    assert np.array_equal(result[0], v.sum(0) / n)


def test_attention_with_extreme_scores(level, rng):
    """Scores of +-10^4: one position takes all, whichever tile it is in."""
    k = np.full((200, 32), -30.0, np.float32)
    v = normal(rng, 200, 32)
    for place in (0, 70, 199):
        k[:] = -30.0
        k[place] = 30.0
        result = ops.attention(np.full((3, 32), 60.0), k, v, [200] * 3, level=level)
        assert np.array_equal(result, np.repeat(cached(v[place : place + 1], "f16"), 3, 0))


@pytest.mark.parametrize("kv", ops.KV_TYPES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_attention_on_any_shape(data, kv):
    head_dim, n = data.draw(st.integers(1, 140)), data.draw(st.integers(1, 150))
    lens = data.draw(st.lists(st.integers(1, n), min_size=1, max_size=9))
    magnitude = data.draw(st.sampled_from([1e-6, 1.0, 5.0]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    q, k, v = normal(rng, len(lens), head_dim), normal(rng, n, head_dim), magnitude * normal(rng, n, head_dim)
    expected = attention64(q, k, v, lens, kv)
    for level in LEVELS:
        assert close(ops.attention(q, k, v, lens, kv=kv, level=level), expected, v)


@pytest.mark.parametrize("kv", ["q8_0", "q4_0"])
@pytest.mark.parametrize("magnitude", [0.0, 1e-9, 1e-6, 1e-3, 1.0, 1e4, 3e5])
def test_quantized_cache_holds_any_magnitude(level, rng, magnitude, kv):
    v = (magnitude * rng.standard_normal((20, 70))).astype(np.float32)
    v[3] = np.abs(v[3])
    v[4] = -np.abs(v[4])
    q, k = np.zeros((20, 70)), np.zeros((20, 70))
    for n in (1, 4, 5):
        result = ops.attention(q[:n], k, v, np.ones(n, int) * n, kv=kv, level=level)
        expected = cached(v, kv)[:n].mean(0)
        assert np.all(np.abs(result - expected) <= 1e-6 * np.abs(cached(v, kv)).max())


def test_kv_bytes():
    assert ops.kv_bytes("f16", 128, 4096) == 4096 * 128 * 2 * 2
    assert ops.kv_bytes("q8_0", 128, 4096) == 4096 * (128 + 8) * 2
    assert ops.kv_bytes("q4_0", 128, 4096) == 4096 * (64 + 8) * 2
    assert ops.kv_bytes("f16", 7, 1) == 16 * 7 * 2 + 7 * 2  # keys come in tiles of 16 positions
    assert ops.kv_bytes("q8_0", 33, 17) == 2 * 2 * 544 + 17 * 2 * 34


# ---- Arguments -------------------------------------------------------------------------------------------------------


def test_bad_arguments_are_named():
    x = np.ones((2, 8), np.float32)
    with pytest.raises(InvalidArgumentError, match="real numbers"):
        ops.silu(["a"])
    with pytest.raises(InvalidArgumentError, match="level"):
        ops.silu(x, level="sse9")
    with pytest.raises(InvalidArgumentError, match="one shape"):
        ops.silu_mul(x, x[:1])
    with pytest.raises(InvalidArgumentError, match="out must"):
        ops.silu(x, out=np.empty((2, 8)))
    buffer = np.ones(20, np.float32)
    with pytest.raises(InvalidArgumentError, match="overlaps"):
        ops.silu(buffer[:16], out=buffer[4:])
    with pytest.raises(InvalidArgumentError, match="weight has 7"):
        ops.rms_norm(x, np.ones(7))
    with pytest.raises(InvalidArgumentError, match="at least one value"):
        ops.softmax(np.empty((3, 0)))
    with pytest.raises(InvalidArgumentError, match="rotate 10"):
        ops.rope(x, np.ones(5), np.ones(5))
    with pytest.raises(InvalidArgumentError, match=r"lie in 1\.\.2"):
        ops.attention(x, x, x, [1, 3])
    with pytest.raises(InvalidArgumentError, match=r"lie in 1\.\.2"):
        ops.attention(x, x, x, [0, 1])
    with pytest.raises(InvalidArgumentError, match="2 integers"):
        ops.attention(x, x, x, [1.0, 2.0])
    with pytest.raises(InvalidArgumentError, match="KV cache type"):
        ops.attention(x, x, x, [1, 2], kv="q5_1")
