"""Convolution, attention and norms over arrays, against torch and float64."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hyperion
from benchmarks import dense as dense_benchmark
from benchmarks import machine
from benchmarks.peers import dense_worker
from hyperion import errors
from hyperion._kernels import dispatch, ops
from hyperion.memory import process_budget

LEVELS = dispatch.levels()
wrong = errors.InvalidArgumentError


def convolve(x, w, stride, padding, dilation, groups):
    """float64, one place at a time."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    w = w.astype(np.float64)
    spans = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilation, strict=True)]
    height, width = ((n - s) // step + 1 for n, s, step in zip(x.shape[2:], spans, stride, strict=True))
    out = np.zeros((len(x), len(w), height, width))
    depth, each = w.shape[1], len(w) // groups
    for o in range(len(w)):
        channels = slice(o // each * depth, (o // each + 1) * depth)
        for i, j in np.ndindex(height, width):
            a, b = i * stride[0], j * stride[1]
            out[:, o, i, j] = (x[:, channels, a : a + spans[0] : dilation[0], b : b + spans[1] : dilation[1]] * w[o]).sum((1, 2, 3))
    return out


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_conv2d_agrees_with_float64(data):
    pair = lambda least, most: tuple(data.draw(st.integers(least, most)) for _ in range(2))
    groups = data.draw(st.integers(1, 3))
    kernel, stride, padding, dilation = pair(1, 3), pair(1, 3), pair(0, 3), pair(1, 2)
    size = [max(n, (k - 1) * d + 1) for n, k, d in zip(pair(1, 11), kernel, dilation, strict=True)]
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    channels, filters = groups * data.draw(st.integers(1, 3)), groups * data.draw(st.integers(1, 3))
    x = rng.standard_normal((data.draw(st.integers(0, 2)), channels, *size)).astype(np.float32)
    w = rng.standard_normal((filters, channels // groups, *kernel)).astype(np.float32)
    bias = rng.standard_normal(filters).astype(np.float32)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    want = convolve(x, w, **options)
    level = data.draw(st.sampled_from(LEVELS))
    got = hyperion.conv2d(x, w, simd=level, **options)
    np.testing.assert_allclose(got, want, atol=2e-5)
    out = np.empty((*want.shape[:-1], 2 * want.shape[-1]), np.float32)[..., ::2]
    cache = hyperion.CacheConfig(block_size=data.draw(st.integers(1, 40)))
    again = hyperion.conv2d(x[..., ::-1].copy()[..., ::-1], w, bias, out, cache=cache, simd=level, threads=2, **options)
    assert again is out
    np.testing.assert_array_equal(out, got + bias[:, np.newaxis, np.newaxis])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        ((2, 30, 28), (2, 1, 3, 3), {"groups": 2}),  # rows of windows longer than a block, of one filter each
        ((3, 9, 41), (300, 3, 1, 1), {}),  # more filters than a task takes, of an image that is read where it lies
        ((4, 20, 17), (6, 2, 4, 3), {"groups": 2, "stride": (3, 2), "padding": (5, 1), "dilation": (2, 4)}),
        ((2, 2, 9500), (3, 2, 2, 4), {"stride": (1, 5), "padding": (1, 3), "dilation": (1, 7)}),  # rows longer than a task fills
        ((40, 12, 13), (17, 40, 11, 12), {"padding": (1, 0)}),  # more terms than a task packs
    ],
)
def test_convolutions_of_many_windows_and_filters(level, x, w, options):
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((1, *x), np.float32), rng.standard_normal(w, np.float32)
    pairs = {name: options.get(name, default) for name, default in [("stride", (1, 1)), ("padding", (0, 0)), ("dilation", (1, 1))]}
    want = convolve(x, w, groups=options.get("groups", 1), **pairs)
    got = hyperion.conv2d(x, w, simd=level, threads=1, **options)
    np.testing.assert_allclose(got, want, atol=max(3e-5, 1e-7 * w[0].size))
    np.testing.assert_array_equal(hyperion.conv2d(x, w, simd=level, threads=3, **options), got)


def test_a_window_wider_than_memory_is_refused():
    x, w = np.zeros((1, 1, 1, 1), np.float32), np.zeros((1, 1, 2, 2), np.float32)
    with pytest.raises(errors.MemoryBudgetError):
        hyperion.conv2d(x, w, padding=1 << 30, dilation=1 << 31)


def test_convolutions_agree_with_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((2, 6, 33, 29), np.float32), rng.standard_normal((8, 3, 3, 5), np.float32)
    bias = rng.standard_normal(8, np.float32)
    options = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}
    want = torch.nn.functional.conv2d(*map(torch.from_numpy, (x, w, bias)), **options).numpy()
    np.testing.assert_allclose(hyperion.conv2d(x, w, bias, **options), want, atol=3e-5)
    line, taps = rng.standard_normal((3, 4, 101), np.float32), rng.standard_normal((6, 4, 7), np.float32)
    want = torch.nn.functional.conv1d(torch.from_numpy(line), torch.from_numpy(taps), stride=3, padding=4, dilation=2).numpy()
    out = np.empty(want.shape, np.float32)
    assert hyperion.conv1d(line, taps, out=out, stride=3, padding=4, dilation=2) is out
    np.testing.assert_allclose(out, want, atol=3e-5)


def test_windows_count_in_the_ledger_and_stay_bounded():
    ledger = process_budget()
    x, w = np.ones((1, 64, 100, 100), np.float32), np.ones((4, 64, 3, 3), np.float32)
    used, peak = ledger.used, ledger.peak
    hyperion.conv2d(x, w)
    assert ledger.used == used and ledger.peak <= max(peak, used + (12 << 20))  # all windows would take 22 MB


@pytest.mark.parametrize("level", LEVELS)
def test_a_thread_of_a_depthwise_convolution_has_one_channel_s_planes(level):
    rng, ledger = np.random.default_rng(6), process_budget()
    x, w = rng.standard_normal((2, 60, 31, 23), np.float32), rng.standard_normal((60, 1, 3, 3), np.float32)
    total = ledger.total_reserved
    got = hyperion.conv2d(x, w, padding=1, groups=60, threads=3, simd=level)
    assert ledger.total_reserved - total < 4 * 4 * 33 * 25
    np.testing.assert_allclose(got, convolve(x, w, (1, 1), (1, 1), (1, 1), 60), atol=3e-5)
    np.testing.assert_array_equal(hyperion.conv2d(x, w, padding=1, groups=60, threads=1, simd=level), got)


def strange(array):
    """The same values, five bytes from each other."""
    copy = np.zeros(array.shape, [("value", np.float32), ("between", np.uint8)])["value"]
    copy[...] = array
    return copy


@pytest.mark.parametrize("odd", ["x", "weight", "bias", "out"])
def test_copies_of_odd_strides_count_in_the_ledger(odd):
    rng, ledger = np.random.default_rng(5), process_budget()
    shapes = {"x": (6, 8, 100, 100), "weight": (90, 8, 10, 10), "bias": (90,), "out": (6, 90, 91, 91)}
    arrays = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    total, used = ledger.total_reserved, ledger.used
    want = hyperion.conv2d(**arrays).copy()
    plain = ledger.total_reserved - total
    one = arrays[odd][0] if odd in ("x", "out") else arrays[odd]  # images go one after the other
    arrays[odd], total = strange(arrays[odd]), ledger.total_reserved
    tracemalloc.start()
    try:
        hyperion.conv2d(**arrays)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert ledger.used == used and ledger.total_reserved - total == plain + one.nbytes
    assert peak <= plain + one.nbytes + (64 << 10)
    np.testing.assert_array_equal(arrays["out"], want)


def test_bad_convolutions_are_named():
    x, w = np.zeros((1, 4, 8, 8), np.float32), np.zeros((6, 4, 3, 3), np.float32)
    for options, text in [
        ({"stride": 0}, "stride"), ({"stride": (1, 2, 3)}, "stride"), ({"padding": -1}, "padding"), ({"dilation": "2"}, "dilation"),
        ({"groups": 2}, "does not fit"), ({"groups": 0}, "groups"), ({"dilation": 5}, "larger than x"), ({"cache": 3}, "cache"),
        ({"bias": np.zeros(5, np.float32)}, "bias"), ({"out": np.zeros((1, 6, 5, 6), np.float32)}, "out must be"),
    ]:  # fmt: skip
        with pytest.raises(wrong, match=text):
            hyperion.conv2d(x, w, **options)
    with pytest.raises(wrong, match="four dimensions"):
        hyperion.conv2d(x[0], w)
    with pytest.raises(wrong, match="three dimensions"):
        hyperion.conv1d(x, w)
    with pytest.raises(wrong, match="overlaps x"):
        hyperion.conv2d(x, np.zeros((4, 4, 1, 1), np.float32), out=x)


def attend(q, k, v, causal, scale):
    """float64 of grouped heads."""
    group = q.shape[-3] // k.shape[-3]
    k, v = (np.repeat(a.astype(np.float64), group, axis=-3) for a in (k, v))
    scores = q.astype(np.float64) @ k.swapaxes(-1, -2) * scale
    if causal:
        n, m = scores.shape[-2:]
        scores = np.where(np.arange(m) <= np.arange(n)[:, np.newaxis] + m - n, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("batch", "heads", "kv_heads", "queries", "positions", "dim"),
    [((), 1, 1, 1, 1, 1), ((2,), 4, 2, 33, 97, 64), ((2, 3), 3, 3, 7, 7, 31), ((), 8, 1, 1, 200, 128)],
)
def test_attention_agrees_with_float64(level, causal, batch, heads, kv_heads, queries, positions, dim):
    rng = np.random.default_rng(dim)
    q = rng.standard_normal((*batch, heads, queries, dim)).astype(np.float32)
    # values that a half holds exactly: the cache rounds nothing
    k, v = (rng.standard_normal((*batch, kv_heads, positions, dim)).astype(np.float16).astype(np.float32) for _ in range(2))
    got = hyperion.scaled_dot_product_attention(q, k, v, causal=causal, simd=level)
    np.testing.assert_allclose(got, attend(q, k, v, causal, dim**-0.5), atol=2e-6 * np.abs(v).max(), rtol=1e-5)
    out = np.empty((*q.shape, 2), np.float32)[..., 0]
    strided = np.repeat(k, 2, -1)[..., ::2]
    assert hyperion.scaled_dot_product_attention(q, strided, v, out, causal=causal, simd=level) is out
    np.testing.assert_array_equal(out, got)
    if causal:  # the last query alone
        last = hyperion.scaled_dot_product_attention(q[..., -1:, :], k, v, causal=True, simd=level)
        np.testing.assert_array_equal(last, got[..., -1:, :])


@pytest.mark.parametrize(("kv_type", "bound"), [("q8_0", 0.02), ("q4_0", 0.3)])
def test_quantized_caches(kv_type, bound):
    rng = np.random.default_rng(3)
    q, k, v = (rng.standard_normal((2, n, 64)).astype(np.float32) for n in (9, 130, 130))
    got = hyperion.scaled_dot_product_attention(q, k, v, kv_type=kv_type)
    error = np.abs(got - attend(q, k, v, False, 0.125)).max()
    assert 1e-5 < error < bound


def test_attention_agrees_with_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    q, k, v = (rng.standard_normal((2, h, 50, 64)).astype(np.float16).astype(np.float32) for h in (6, 2, 2))
    want = torch.nn.functional.scaled_dot_product_attention(*map(torch.from_numpy, (q, k, v)), is_causal=True, enable_gqa=True)
    np.testing.assert_allclose(hyperion.scaled_dot_product_attention(q, k, v, causal=True), want.numpy(), atol=5e-6)


def test_bad_attention_is_named():
    q, k = np.zeros((4, 5, 8), np.float32), np.zeros((2, 3, 8), np.float32)
    call = hyperion.scaled_dot_product_attention
    for args, options, text in [
        ((q[0], k[0], k[0]), {}, "expected q"), ((q, k, k[:, :2]), {}, "expected q"), ((q[:3], k, k), {}, "multiple of kv_heads"),
        ((q, k[:, :0], k[:, :0]), {}, "there must be a position"), ((q, k, k), {"causal": True}, "would see no position"),
        ((q, k, k), {"causal": 1}, "causal must be"), ((q, k, k), {"kv_type": "f32"}, "kv_type"), ((q, k, k), {"scale": "1"}, "scale"),
        ((q, k, k.astype(np.float64)), {}, "v must be a float32"), ((q, k, k), {"out": q}, "overlaps q"),
    ]:  # fmt: skip
        with pytest.raises(wrong, match=text):
            call(*args, **options)


@pytest.mark.parametrize("level", LEVELS)
def test_rms_norm(level):
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((3, 7, 97)).astype(np.float32), rng.standard_normal(97).astype(np.float32)
    want = x.astype(np.float64) / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-6) * w
    got = hyperion.rms_norm(x, w, eps=1e-6, simd=level)
    assert (np.abs(got - want) <= 4 * 2.0**-24 * np.abs(want)).all()
    turned = np.asfortranarray(x)
    assert hyperion.rms_norm(turned, w, turned, eps=1e-6, simd=level) is turned
    np.testing.assert_array_equal(turned, got)
    np.testing.assert_array_equal(hyperion.rms_norm(x, w, x, eps=1e-6, simd=level), got)
    with pytest.raises(wrong, match="weight must have one value"):
        hyperion.rms_norm(x, w[:96])
    with pytest.raises(wrong, match="overlaps weight"):
        hyperion.rms_norm(x[0, :1], w, w[np.newaxis])


def layer_norm_of(x, weight, bias, eps):
    """float64: the normalized values, and the result."""
    x = x.astype(np.float64)
    z = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return z, z * (1.0 if weight is None else weight.astype(np.float64)) + (0.0 if bias is None else bias.astype(np.float64))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n", [1, 7, 31, 33, 97, 2048])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_layer_norm(level, n, offset):
    rng = np.random.default_rng(n)
    x = (rng.standard_normal((5, n)) + offset).astype(np.float32)
    weight, bias = (rng.standard_normal(n).astype(np.float32) for _ in range(2))
    for w, b in [(weight, bias), (None, bias), (weight, None), (None, None)]:
        got = hyperion.layer_norm(x, w, b, eps=1e-6, simd=level)
        z, want = layer_norm_of(x, w, b, 1e-6)
        size = np.ones(n) if w is None else np.abs(w)
        assert (np.abs(got - want) <= 2.0**-24 * (5 * size * np.abs(z) + np.abs(want) + size / 256)).all()
    got = hyperion.layer_norm(x, weight, bias, simd=level)
    assert hyperion.layer_norm(x, weight, bias, x, simd=level) is x
    np.testing.assert_array_equal(x, got)


@pytest.mark.parametrize("level", LEVELS)
def test_layer_norm_of_special_rows(level):
    x = np.zeros((5, 33), np.float32)
    x[1], x[2, 3], x[3, 0], x[4] = 7.5, np.nan, np.inf, 1e30
    x[4, ::2] = -1e30
    got = hyperion.layer_norm(x, simd=level)
    assert not got[:2].any() and np.isnan(got[2:4]).all()
    np.testing.assert_allclose(got[4], layer_norm_of(x[4], None, None, 1e-5)[0], rtol=1e-6)
    assert np.isnan(hyperion.layer_norm(x[1], eps=0.0, simd=level)).all()  # 0 / 0, as elsewhere


def test_layer_norm_agrees_with_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    x, weight, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 300), 300, 300))
    want = torch.nn.functional.layer_norm(torch.from_numpy(x), (300,), torch.from_numpy(weight), torch.from_numpy(bias))
    np.testing.assert_allclose(hyperion.layer_norm(x, weight, bias), want.numpy(), atol=2e-6)


@pytest.mark.parametrize("level", LEVELS)
def test_norms_of_any_strides_by_any_number_of_threads(level):
    rng = np.random.default_rng(7)
    x, weight, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((23, 61, 129), 129, 129))
    for norm, terms in ((hyperion.rms_norm, (weight,)), (hyperion.layer_norm, (weight, bias))):
        want = norm(x, *terms, threads=1, simd=level)
        for threads in (2, 3):
            np.testing.assert_array_equal(norm(x, *terms, threads=threads, simd=level), want)
            turned = np.asfortranarray(x)
            assert norm(turned, *terms, turned, threads=threads, simd=level) is turned
            np.testing.assert_array_equal(turned, want)
        backwards = [np.repeat(term[::-1], 2)[::-2] for term in terms]
        np.testing.assert_array_equal(norm(x, *backwards, simd=level), want)


def test_bad_norms_are_named():
    x, w = np.zeros((3, 8), np.float32), np.ones(8, np.float32)
    shared = np.zeros(16, np.float32)
    for args, options, text in [
        ((x, w[:7]), {}, "weight must have one value"), ((x, w, w[:7]), {}, "bias must have one value"),
        ((x, w.astype(np.float64)), {}, "weight must be a float32"), ((x[:, :0],), {}, "no values"), ((x[0, 0],), {}, "no values"),
        ((x,), {"eps": -1.0}, "eps must be"), ((x,), {"eps": 10**400}, "eps must be"), ((x,), {"eps": "1"}, "eps must be"), ((x,), {"out": x[:2]}, "out must be"),
        ((shared[:8], w, None, shared[1:9]), {}, "overlaps x"), ((x[0], w, None, w), {}, "overlaps weight"),
        ((x[0], w, shared[:8], shared[4:12]), {}, "overlaps bias"),
    ]:  # fmt: skip
        with pytest.raises(wrong, match=text):
            hyperion.layer_norm(*args, **options)


@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "q4_0"])
@pytest.mark.parametrize(("kv_heads", "group", "queries"), [(2, 3, 150), (1, 1, 40), (3, 4, 1)])
def test_attention_has_the_same_bits_for_every_number_of_threads(kv_type, kv_heads, group, queries):
    rng = np.random.default_rng(8)
    q = rng.standard_normal((2, kv_heads * group, queries, 48)).astype(np.float32)
    k, v = (rng.standard_normal((2, kv_heads, 201, 48)).astype(np.float32) for _ in range(2))
    want = np.empty_like(q)
    for b, h in np.ndindex(2, kv_heads * group):  # the engine's kernel, head by head
        lens = np.arange(202 - queries, 202)
        want[b, h] = ops.attention(q[b, h], k[b, h // group], v[b, h // group], lens, kv=kv_type)
    for threads in (1, 2, 3, 7):
        got = hyperion.scaled_dot_product_attention(q, k, v, causal=True, kv_type=kv_type, threads=threads)
        np.testing.assert_array_equal(got, want)


def test_the_benchmark_s_tables_name_every_measure():
    data = {
        "machine": machine.describe(),
        "versions": {"numpy": "2", "torch": None},
        "results": [{"what": "8 × 8 × 8", "threads": 1, "work": 1024, "seconds": {"hyperion": [1.0, 2.0], "numpy": [2.0, 4.0]}}],
        "settings": [{"threads": 2, "seconds": {"as opened": [1.0, 1.0], "ATTENTION off": [2.0, 2.0]}}],
    }
    table = dense_benchmark.markdown(data)
    assert "| 8 × 8 × 8 | 1 | 7.68e-07 ± 17% | 1,500,000 | 3,000,000 | – | 2 × | – |" in table
    assert "| ATTENTION off | 2 | 128 ± 0% | 0.5 × |" in table


@pytest.mark.parametrize("what", ["8 × 8 × 8", "tanh", "layer_norm", "conv2d 144 of 56², k3 depthwise", "decode at 2048, q8_0"])
def test_the_benchmark_measures_every_kind_of_work(what):
    cases = dense_benchmark.products([8]) + dense_benchmark.activations() + dense_benchmark.norms()
    cases += dense_benchmark.convolutions() + dense_benchmark.attention()
    case = next(case for case in cases if case["what"] == what)
    results = {name: dense_worker.prepare(name, case, 1) for name in ("numpy", "hyperion")}
    assert dense_worker.sample() > 0
    present = {name: values for name, values in results.items() if values is not None}
    dense_benchmark.compare_results(what, present, case["tolerance"])
    if present.get("numpy"):
        with pytest.raises(AssertionError, match="numpy's results"):
            dense_benchmark.compare_results(what, {**present, "numpy": [v + 1 for v in present["numpy"]]}, case["tolerance"])


@pytest.mark.parametrize("scale", [1e300, 10**400, float("nan"), True, "1"])
def test_attention_refuses_scales_that_float32_does_not_hold(scale):
    q = np.ones((2, 3, 8), np.float32)
    with pytest.raises(hyperion.InvalidArgumentError, match="scale must be"):
        hyperion.scaled_dot_product_attention(q, q, q, scale=scale)
