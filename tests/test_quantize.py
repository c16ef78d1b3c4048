"""Quantized tensors: block formats against gguf and llama.cpp's files, integer codes against NumPy, hostile input."""

import dataclasses
import json
import pickle
import weakref

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import __main__ as benchmarks_main
from hyperion import errors
from hyperion._kernels import dispatch, quant, reference
from hyperion.quantization import QuantizationConfig, QuantizedTensor, dequantize_tensor, quantize_tensor

LEVELS = dispatch.levels()
LEGACY = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "f16", "bf16")
SEARCHED = ("iq4_nl", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k")
F32 = np.float32


def bits(x):
    x = np.ascontiguousarray(x)
    return x.view(f"u{x.itemsize}")


def weights(rng, *shape):
    """Normal weights of which some are outliers."""
    w = rng.standard_normal(shape) * 0.05
    return (w * np.where(rng.random(shape) < 0.01, 8, 1)).astype(F32)


def bf16_of(x):
    """Nearest, ties to even: uint16."""
    b = np.ascontiguousarray(x, F32).view(np.uint32).astype(np.uint64)
    return ((b + 0x7FFF + ((b >> 16) & 1)) >> 16).astype(np.uint16)


def bf16_floats(h):
    return (h.astype(np.uint32) << 16).view(F32)


# ---- Block formats -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", LEGACY)
def test_legacy_blocks_are_those_of_gguf(kind, level):
    rng = np.random.default_rng(2)
    for rows, blocks in ((1, 1), (3, 5), (7, 33), (2, 257)):
        w = weights(rng, rows, 32 * blocks)
        w[0, :32] = -0.0 if rows == 3 else 0.0  # no scale
        w[-1, -32:] = np.tile([0.25, -0.25], 16)  # two extremes; halves to round
        w[rows // 2, :32] += np.linspace(-1, 1, 32, dtype=F32)
        want = gguf.quants.quantize(w, gguf.GGMLQuantizationType[kind.upper()])
        q = quantize_tensor(w, kind, simd=level)
        assert np.array_equal(q.codes, want.view(np.uint8).reshape(rows, -1))
        values = reference.dequantize(kind, q.codes.ravel(), *w.shape)
        assert np.array_equal(bits(dequantize_tensor(q, simd=level)), bits(values))


def test_q8_0_rounds_halves_away_from_zero():
    w = np.arange(-64, 64, dtype=F32) / 2  # the scale is 0.5, 1 or less: codes on halves
    w[::32] = 63.5 * 2
    for level in LEVELS:
        want = gguf.quants.quantize(w[None], gguf.GGMLQuantizationType.Q8_0)
        assert np.array_equal(quantize_tensor(w[None], "q8_0", simd=level).codes, want)


@pytest.mark.parametrize("kind", SEARCHED)
def test_searched_blocks_do_not_depend_on_level_or_threads(kind):
    w = weights(np.random.default_rng(3), 5, 768)
    w[0, :256] = 0
    w[1, :256] = 0.5
    w[2, :256] = -1.5
    w[3, :256] *= 1e-12  # scales that vanish in f16
    first = quantize_tensor(w, kind, threads=1, simd=LEVELS[0])
    for level in LEVELS:
        assert np.array_equal(quantize_tensor(w, kind, threads=3, simd=level).codes, first.codes)
        values = dequantize_tensor(first, simd=level)
        assert np.array_equal(bits(values), bits(reference.dequantize(kind, first.codes.ravel(), *w.shape)))
    assert np.array_equal(values[0, :256], np.zeros(256))
    if kind != "iq4_nl":  # a constant that codes can meet: off by f16's and the integer scales' rounding
        assert np.abs(values[1, :256] - 0.5).max() < 0.5 * 0.06
        assert np.abs(values[2, :256] + 1.5).max() < 1.5 * 0.06


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("iq4_nl", "iq4_nl"), ("q2_k", "q2_k"), ("q3_k", "q3_k_m"), ("q4_k", "q4_k_m"), ("q5_k", "q5_k_m"), ("q6_k", "q6_k"),
    ],
)  # fmt: skip
def test_error_on_real_weights_is_at_most_llama_cpps(shared, kind, file):
    folder = shared / "models" / "shakespeare"
    plain = {t.name: t for t in gguf.GGUFReader(folder / "shakespeare-f16.gguf").tensors}
    wanted = gguf.GGMLQuantizationType[kind.upper()]
    theirs = [t for t in gguf.GGUFReader(folder / f"shakespeare-{file}.gguf").tensors if t.tensor_type == wanted]
    assert theirs
    ours = other = 0.0
    for t in theirs[:: max(1, len(theirs) // 6)]:
        w = plain[t.name].data[:256].astype(np.float64)
        rows, cols = w.shape
        raw = np.ascontiguousarray(t.data[:256]).ravel()
        other += np.square(reference.dequantize(kind, raw, rows, cols) - w).sum()
        ours += np.square(dequantize_tensor(quantize_tensor(plain[t.name].data[:256], kind)) - w).sum()
    assert 0 < ours <= other


def test_blocks_show_their_scales():
    w = weights(np.random.default_rng(4), 2, 3, 256)
    q = quantize_tensor(w, "Q4_1")
    assert (q.format, q.shape, q.group_size, q.bits_per_weight) == ("q4_1", (2, 3, 256), 32, 5.0)
    assert q.codes.shape == (2, 3, 8 * 20)
    groups = w.reshape(2, 3, 8, 32)
    assert np.array_equal(q.minima, groups.min(-1).astype(np.float16))
    assert np.shares_memory(q.scales, q.codes)
    q.scales[1, 2, 3] = 0
    assert np.array_equal(q.dequantize()[1, 2, 96:128], np.full(32, F32(q.minima[1, 2, 3])))
    for kind in (*SEARCHED, "q8_0"):
        q = quantize_tensor(w, kind)
        assert q.scales.shape == (2, 3, 256 // q.group_size)
        assert np.isfinite(q.scales).all()
        assert (q.minima is None) == (kind not in ("q2_k", "q4_k", "q5_k"))
    assert quantize_tensor(w, "f16").scales is None


@pytest.mark.parametrize("kind", [*LEGACY, *SEARCHED, "f32"])
def test_products(kind):
    rng = np.random.default_rng(5)
    w, x = weights(rng, 37, 512), rng.standard_normal((3, 512)).astype(F32)
    q = quantize_tensor(w, kind)
    want, size = reference.linear(kind, q.codes.ravel(), 37, 512, x)
    bound = 1e-5 * size
    assert (np.abs(q.linear(x) - want) <= bound).all()
    assert (np.abs(q @ x.T - want.T) <= bound.T).all()
    assert (np.abs(q @ x[1] - want[1]) <= bound[1]).all()
    out = np.empty((3, 37), F32)
    assert q.linear(x[::-1], out) is out
    assert (np.abs(out - want[::-1]) <= bound[::-1]).all()
    quantize_tensor(2 * w, kind, out=q)  # the panels of before are not used again
    twice = reference.linear(kind, q.codes.ravel(), 37, 512, x)[0]
    assert np.abs(twice).max() > 1.5 * np.abs(want).max()
    assert (np.abs(q.linear(x) - twice) <= 2.1 * bound).all()
    held = weakref.ref(q.codes)
    blocks, nbytes, values = q.codes.copy(), q.nbytes, q.dequantize()
    product = q.linear(x)
    assert held() is None  # the panels hold the weights, and nothing else does
    assert q.nbytes == nbytes
    assert np.array_equal(q.codes, blocks)
    assert np.array_equal(q.linear(x), product)
    assert np.array_equal(q.dequantize(), values)
    q.linear(x)
    assert np.array_equal(pickle.loads(pickle.dumps(q)).linear(x), product)
    with pytest.raises(errors.InvalidArgumentError, match="512"):
        q.linear(x[:, :511])
    with pytest.raises(errors.UnsupportedError, match="block format"):
        quantize_tensor(w).linear(x)


def test_panels_are_not_unpacked_to_be_overwritten():
    class NeverUnpacked:
        def unpack(self, blocks):
            raise AssertionError("unpacked")

    w = weights(np.random.default_rng(17), 8, 64)
    q = quantize_tensor(w, "q4_0")
    q.linear(np.ones(64, F32))
    q._panels = NeverUnpacked()  # what the product has left
    assert quantize_tensor(2 * w, "q4_0", out=q) is q
    assert np.array_equal(q.codes, quantize_tensor(2 * w, "q4_0").codes)


# ---- Integers against NumPy --------------------------------------------------------------------------------


def grouped(w, config):
    """Weights as [params, weights of each]; padded with NaN. And the way back."""
    if config.axis is not None:
        return np.moveaxis(w, config.axis, 0).reshape(w.shape[config.axis], -1)
    if config.group_size is None:
        return w.reshape(1, -1)
    g = config.group_size
    pad = [(0, 0)] * (w.ndim - 1) + [(0, -w.shape[-1] % g)]
    return np.pad(w.astype(F32), pad, constant_values=np.nan).reshape(-1, g)


def oracle(w, config):
    """Scales, zero points and codes of absmax, float32 as documented."""
    high = F32(2 ** (config.bits - 1) - 1)
    low = -high - 1
    v = grouped(w, config)
    least, greatest = np.nanmin(v, 1), np.nanmax(v, 1)
    if config.symmetric:
        scale = np.maximum(np.abs(least), np.abs(greatest)) / high
        zero = np.zeros_like(scale)
    else:
        scale = ((greatest.astype(np.float64) - least) / float(high - low)).astype(F32)
        zero = low - least / scale
    inverse = np.divide(F32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    codes = np.clip(np.rint(v * inverse[:, None] + zero[:, None]), low, high)
    return scale, zero, codes, (codes - zero[:, None]) * scale[:, None]


def norms(error):
    return np.square(error).sum(), (np.abs(error) ** 0.7).sum()


CUTS = ({}, {"axis": 0}, {"axis": -1}, {"axis": 1}, {"group_size": 32}, {"group_size": 7}, {"group_size": 6}, {"group_size": 5000})


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("bits_", [4, 8])
def test_absmax_is_the_oracles(bits_, cut, level):
    rng = np.random.default_rng(6)
    for shape in ((1, 1), (3, 97), (5, 64), (2, 3, 31), (4, 5, 32), (2, 4099)):
        w = weights(rng, *shape)
        for symmetric in (True, False):
            if not symmetric and (w.size == 1 or cut.get("axis", 0) and shape == (1, 1) or shape[0] == 1 and cut.get("axis")):
                continue
            if not symmetric and cut.get("axis") is None and shape[-1] % cut.get("group_size", 1) == 1:
                continue  # a group of one value has no range; see the test of constants
            config = QuantizationConfig(bits=bits_, symmetric=symmetric, **cut)
            scale, zero, codes, values = oracle(w, config)
            q = quantize_tensor(w, config, threads=2, simd=level)
            assert np.array_equal(q.scales.ravel(), scale)
            assert q.zero_points is None if symmetric else np.array_equal(q.zero_points.ravel(), zero)
            got = grouped(q.unpacked(), config)
            inside = ~np.isnan(grouped(w, config))
            assert np.array_equal(got[inside], codes[inside])
            restored = grouped(dequantize_tensor(q, simd=level), config)
            assert np.array_equal(restored[inside], values[inside])
            error = np.abs(values - grouped(w, config))[inside]
            assert (error <= np.broadcast_to(scale[:, None], inside.shape)[inside] * 0.5001).all()


@pytest.mark.parametrize("level", LEVELS)
def test_groups_on_all_sides_of_the_drivers_cuts(level):
    rng = np.random.default_rng(16)
    # tall and narrow, wide, rows of more than a piece (few and many of them), and columns that are no whole bytes
    for shape, cut in (
        ((1500, 66), {"axis": 1}), ((70, 2050), {"axis": 1}), ((33, 1025), {"axis": 1}), ((3, 9001), {"axis": 0}),
        ((20, 9002), {"axis": 0}), ((5, 6, 3000), {"axis": 1}), ((11, 700), {"group_size": 16}), ((2, 12000), {"group_size": 5002}),
    ):  # fmt: skip
        w = weights(rng, *shape)
        for bits_, symmetric in ((4, True), (8, False)):
            config = QuantizationConfig(bits=bits_, symmetric=symmetric, **cut)
            scale, zero, codes, values = oracle(w, config)
            inside = ~np.isnan(grouped(w, config))
            for threads in (1, 3):
                q = quantize_tensor(w, config, threads=threads, simd=level)
                assert np.array_equal(q.scales.ravel(), scale)
                assert symmetric or np.array_equal(q.zero_points.ravel(), zero)
                assert np.array_equal(grouped(q.unpacked(), config)[inside], codes[inside])
                restored = dequantize_tensor(q, threads=threads, simd=level)
                assert np.array_equal(grouped(restored, config)[inside], values[inside])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_shape_and_layout_restores_within_half_a_step(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    cut = data.draw(st.sampled_from(["tensor", "axis", "group"]))
    kwargs = {}
    if cut == "axis":
        kwargs["axis"] = data.draw(st.integers(-len(shape), len(shape) - 1))
    if cut == "group":
        kwargs["group_size"] = data.draw(st.integers(1, 12))
    config = QuantizationConfig(bits=data.draw(st.sampled_from([4, 8])), symmetric=data.draw(st.booleans()), **kwargs)
    big = (rng.standard_normal([2 * n for n in shape]) + data.draw(st.sampled_from([0, 5]))).astype(
        data.draw(st.sampled_from([np.float16, F32, np.float64]))
    )
    w = big[tuple(slice(None, None, data.draw(st.sampled_from([2, -2]))) for _ in shape)]
    if data.draw(st.booleans()):
        w = w.T
        if cut == "axis":
            config.axis = 0
    q = quantize_tensor(w, config)
    assert np.array_equal(q.codes, quantize_tensor(np.ascontiguousarray(w), config, threads=1).codes)
    values = q.dequantize()
    steps = grouped(np.abs(values - w.astype(F32)), config) / np.maximum(q.scales.reshape(-1, 1), 1e-30)
    assert np.nanmax(steps) <= 0.501
    strided = np.full([2 * n for n in w.shape], 7, F32)
    view = strided[tuple(slice(1, None, 2) for _ in w.shape)]
    assert dequantize_tensor(q, out=view) is view
    assert np.array_equal(view, values)
    view[...] = 7
    assert (strided == 7).all()


def test_given_params():
    w = weights(np.random.default_rng(7), 6, 40)
    q = quantize_tensor(w, QuantizationConfig(bits=8, scale=0.01))
    assert np.array_equal(q.codes, np.clip(np.rint(w * (F32(1) / F32(0.01))), -128, 127))
    scale, zero = np.linspace(0.01, 0.02, 6).astype(F32), np.linspace(-3.5, 3, 6).astype(F32)
    config = QuantizationConfig(bits=4, symmetric=False, axis=0, scale=scale, zero_point=zero)
    q = quantize_tensor(w, config)
    want = np.clip(np.rint(w * (F32(1) / scale)[:, None] + zero[:, None]), -8, 7)
    assert np.array_equal(q.unpacked(), want)
    assert np.array_equal(q.dequantize(), (want.astype(F32) - zero[:, None]) * scale[:, None])
    assert np.array_equal(q.scales, scale)
    # one of the two given: the other makes every value fit
    for bits_, method in ((4, "absmax"), (8, "absmax"), (8, "mse")):
        q = quantize_tensor(w, QuantizationConfig(bits=bits_, symmetric=False, axis=0, zero_point=1.5, method=method))
        assert (q.zero_points == 1.5).all()
        assert (np.abs(q.dequantize() - w) <= 0.51 * q.scales[:, None]).all() or method == "mse"
    q = quantize_tensor(w, QuantizationConfig(bits=8, symmetric=False, axis=0, scale=np.ptp(w, axis=1) / 255))
    assert (np.abs(q.dequantize() - w) <= 0.501 * q.scales[:, None]).all()


@pytest.mark.parametrize("bits_", [4, 8])
@pytest.mark.parametrize("cut", [{}, {"axis": 0}, {"axis": 1}, {"group_size": 64}, {"group_size": 33}], ids=str)
def test_searches_never_lose_in_their_own_norm(bits_, cut):
    w = weights(np.random.default_rng(8), 24, 264)
    for symmetric in (True, False):
        plain = QuantizationConfig(bits=bits_, symmetric=symmetric, **cut)
        found = dataclasses.replace(plain, method="mse")
        base, best = (grouped(quantize_tensor(w, c).dequantize() - w, c) for c in (plain, found))
        assert (np.nansum(best**2, 1) <= np.nansum(base**2, 1) * (1 + 1e-5)).all()
        if bits_ == 4:
            assert np.nansum(best**2) < 0.97 * np.nansum(base**2)
    hqq = grouped(quantize_tensor(w, dataclasses.replace(plain, method="hqq")).dequantize() - w, plain)
    assert (np.nansum(np.abs(hqq) ** 0.7, 1) <= np.nansum(np.abs(base) ** 0.7, 1) * (1 + 1e-3)).all()


def test_hqq_lowers_its_norm_on_real_weights(shared):
    reader = gguf.GGUFReader(shared / "models" / "shakespeare" / "shakespeare-f16.gguf")
    config = QuantizationConfig(bits=4, symmetric=False, group_size=64)
    lower = []
    for t in [t for t in reader.tensors if t.data.ndim == 2][:8]:
        w = t.data[:128]
        one, two = (
            norms(quantize_tensor(w, dataclasses.replace(config, method=m)).dequantize() - w.astype(F32))[1]
            for m in ("absmax", "hqq")
        )
        assert two <= one * (1 + 1e-4)
        lower.append(two < 0.999 * one)
    assert all(lower)


def test_large_groups_do_not_depend_on_threads():
    w = weights(np.random.default_rng(9), 3, 100_003)
    for method in ("absmax", "mse", "hqq"):
        for cut in ({}, {"axis": 0}, {"group_size": 70_000}):
            config = QuantizationConfig(bits=4, symmetric=False, method=method, **cut)
            one, three = (quantize_tensor(w, config, threads=n) for n in (1, 3))
            assert np.array_equal(one.codes, three.codes)
            assert np.array_equal(one.scales, three.scales)
            assert np.array_equal(one.zero_points, three.zero_points)
            plain = quantize_tensor(w, dataclasses.replace(config, method="absmax"))
            of = 1 if method == "hqq" else 0
            assert norms(one.dequantize() - w)[of] <= norms(plain.dequantize() - w)[of]


@pytest.mark.parametrize("method", ["mse", "hqq"])
@pytest.mark.parametrize(
    ("shape", "cut"),
    [((40, 263), {"axis": -1}), ((40, 263), {"group_size": 32}), ((700, 37), {"axis": 1}), ((5, 70, 6), {"axis": 1})],
    ids=str,
)
def test_groups_searched_side_by_side(method, shape, cut):
    w = weights(np.random.default_rng(10), *shape)
    config = QuantizationConfig(bits=4, symmetric=False, method=method, **cut)
    first = quantize_tensor(w, config, threads=1, simd=LEVELS[0])
    for level in LEVELS:
        for source in (w, np.asfortranarray(w)):
            q = quantize_tensor(source, config, threads=3, simd=level)
            assert np.array_equal(q.codes, first.codes)
            assert np.array_equal(q.scales, first.scales)
            assert np.array_equal(q.zero_points, first.zero_points)
    # a few groups alone take the other way, whose sums are in another order
    apart = {"axis": (slice(None), slice(0, 9)), "group_size": (slice(0, 1), slice(0, 96))}[next(iter(cut))]
    power = 2.0 if method == "mse" else 0.7
    alone, among = (
        (np.abs(quantize_tensor(v, config).dequantize()[apart] - v[apart]) ** power).sum()
        for v in (np.ascontiguousarray(w[apart]), w)
    )
    assert abs(alone - among) <= 2e-3 * among
    bad = w.copy()
    bad.reshape(-1)[77] = np.nan
    with pytest.raises(errors.InvalidArgumentError, match="NaN|nan"):
        quantize_tensor(bad, config)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", ["absmax", "mse"])
def test_constants_zeros_and_extremes(symmetric, method):
    for value in (0.0, 1.0, -3.25, 3e38, -3e38, 1e-42):
        for bits_ in (4, 8):
            config = QuantizationConfig(bits=bits_, symmetric=symmetric, method=method)
            values = quantize_tensor(np.full((3, 5), value, F32), config).dequantize()
            assert np.allclose(values, value, rtol=1e-6, atol=1e-37)
    w = np.array([-3.4e38, 0, 3.4e38], F32)
    values = quantize_tensor(w, QuantizationConfig(symmetric=symmetric, method=method)).dequantize()
    assert np.allclose(values / 3.4e38, w / 3.4e38, atol=0.005)


# ---- What comes in and goes out ----------------------------------------------------------------------------


@pytest.mark.parametrize("config", ["q4_0", "q6_k", QuantizationConfig(bits=4, group_size=32), QuantizationConfig(axis=1)], ids=str)
def test_dtypes(config):
    w = weights(np.random.default_rng(10), 4, 256)
    half, brain = w.astype(np.float16), bf16_of(w)
    for given_, dtype, floats in (
        (half, None, half.astype(F32)), (brain, "bfloat16", bf16_floats(brain)), (w.astype(np.float64), None, w),
        (w.astype(">f4"), None, w), (w.tolist(), None, w), (half[::-1, ::-1], None, half[::-1, ::-1].astype(F32)),
        (np.asfortranarray(brain), "bfloat16", bf16_floats(brain)),
    ):  # fmt: skip
        want, got = quantize_tensor(floats, config), quantize_tensor(given_, config, dtype=dtype)
        assert np.array_equal(got.codes, want.codes)
    q = quantize_tensor(w, config)
    values = q.dequantize()
    assert np.array_equal(q.dequantize(dtype=np.float16), values.astype(np.float16))
    assert np.array_equal(q.dequantize(dtype="float64"), values.astype(np.float64))
    assert np.array_equal(q.dequantize(dtype="bfloat16"), bf16_of(values))
    out = np.empty((256, 4), np.float16).T
    assert dequantize_tensor(q, out=out) is out
    assert np.array_equal(out, values.astype(np.float16))
    assert np.array_equal(np.asarray(q), values)
    copy = pickle.loads(pickle.dumps(q))
    assert np.array_equal(copy.dequantize(), values)


def test_out_is_written_in_place():
    rng = np.random.default_rng(11)
    a, b = weights(rng, 6, 64), weights(rng, 6, 64)
    for config in ("q5_1", QuantizationConfig(bits=4, symmetric=False, group_size=16)):
        q = quantize_tensor(a, config)
        codes = q.codes
        assert quantize_tensor(b, config, out=q) is q
        assert q.codes is codes
        assert np.array_equal(q.dequantize(), quantize_tensor(b, config).dequantize())
        stored = (q.scales, q.zero_points) if q.zero_points is not None else ()
        assert np.array_equal(QuantizedTensor(q.shape, config, q.codes, *stored).dequantize(), q.dequantize())
        for wrong in (a[:5], a.ravel()):
            with pytest.raises(errors.InvalidArgumentError, match="store"):
                quantize_tensor(wrong, config, out=q)
        with pytest.raises(errors.InvalidArgumentError, match="store"):
            quantize_tensor(b, "q8_0", out=q)


def test_overlaps_and_wrong_outs_are_refused():
    memory = np.zeros(64 * 64, F32)
    w = memory.reshape(64, 64)
    codes = memory.view(np.int8)[: 64 * 64].reshape(64, 64)
    config = QuantizationConfig()
    q = QuantizedTensor((64, 64), config, codes, np.ones((), F32))
    with pytest.raises(errors.InvalidArgumentError, match="shares memory"):
        quantize_tensor(w, config, out=q)
    with pytest.raises(errors.InvalidArgumentError, match="shares memory"):
        dequantize_tensor(q, out=w)
    readonly = np.zeros((64, 64), F32)
    readonly.flags.writeable = False
    itself = np.lib.stride_tricks.as_strided(np.zeros(64, F32), (64, 64), (0, 4))
    for out, match in (
        (np.zeros((64, 63), F32), "shape"), (np.zeros((64, 64), np.int32), "dtype"), (readonly, "read-only"), (itself, "itself"),
        ([1.0], "array"), (np.zeros((64, 64), np.uint16), "float32"),
    ):  # fmt: skip
        with pytest.raises(errors.InvalidArgumentError, match=match):
            dequantize_tensor(q, out=out)


@pytest.mark.parametrize(
    "config", ["q4_1", "q3_k", "f16", QuantizationConfig(), QuantizationConfig(axis=1), QuantizationConfig(bits=4, group_size=64, scale=0.1)], ids=str
)  # fmt: skip
@pytest.mark.parametrize("level", LEVELS)
def test_values_that_are_not_finite_are_named(config, level):
    for bad in (np.nan, np.inf, -np.inf):
        for place in ((0, 0, 0), (1, 2, 255), (1, 0, 100)):
            w = np.ones((2, 3, 256), F32)
            w[place] = bad
            w[1, 2, 255] = bad
            with pytest.raises(errors.InvalidArgumentError, match=r"w\[{}, {}, {}\] is -?(nan|inf)".format(*place)) as error:
                quantize_tensor(w, config, simd=level)
            assert error.value.context["index"] == place
    with pytest.raises(errors.InvalidArgumentError, match=r"w\[0, 1, 7\] is 1e\+300"):
        w = np.zeros((1, 2, 256))
        w[0, 1, 7] = 1e300
        quantize_tensor(w, config, simd=level)


@pytest.mark.parametrize("kind", [*LEGACY, *SEARCHED])
def test_scales_that_do_not_fit_are_refused(kind):
    w = np.ones((2, 512), F32)
    w[1, 256:] = np.linspace(-3.4e38, 3.4e38, 256)
    w[1, -1] = np.finfo(F32).max
    with pytest.raises(errors.InvalidArgumentError, match=r"w\[1, 511\] is 3.4\S+: too large for " + kind):
        quantize_tensor(w, kind)


def test_empty_and_dimensionless():
    for shape in ((0,), (3, 0), (0, 256)):
        for config in ("q4_k", "q8_0", QuantizationConfig(bits=4), QuantizationConfig(axis=0, symmetric=False), QuantizationConfig(group_size=8)):
            q = quantize_tensor(np.zeros(shape, F32), config)
            assert q.dequantize().shape == shape
            assert q.codes.size == 0
            assert q.bits_per_weight == 0
    q = quantize_tensor(np.float32(2.54), QuantizationConfig())
    assert q.shape == ()
    assert q.dequantize() == pytest.approx(2.54)
    for config in ("q8_0", QuantizationConfig(group_size=8), QuantizationConfig(axis=0)):
        with pytest.raises(errors.InvalidArgumentError):
            quantize_tensor(np.float32(2.54), config)


def test_hostile_arguments():
    w = np.ones((4, 100), F32)
    for config, match in (("q4_k", "256"), ("q8_0", "32"), (QuantizationConfig(axis=2), "axis 2"), (3, "config"),
                          (QuantizationConfig(axis=0, scale=np.ones(3)), "shape")):  # fmt: skip
        with pytest.raises(errors.InvalidArgumentError, match=match):
            quantize_tensor(w, config)
    with pytest.raises(errors.UnsupportedError, match="q9_9"):
        quantize_tensor(w, "q9_9")
    for bad in (w.astype(np.int32), w.astype(np.complex64), np.array(["a"]), [[1.0], [1.0, 2.0]], w.astype(np.uint16)):
        with pytest.raises(errors.InvalidArgumentError, match="float"):
            quantize_tensor(bad, QuantizationConfig())
    with pytest.raises(errors.InvalidArgumentError, match="uint16"):
        quantize_tensor(w, QuantizationConfig(), dtype="bfloat16")
    huge = np.broadcast_to(np.float32(1), (1 << 40, 1 << 10))
    with pytest.raises(errors.HyperionMemoryError, match="bytes"):
        quantize_tensor(huge, QuantizationConfig())
    with pytest.raises(errors.InvalidArgumentError, match="level"):
        quantize_tensor(w, simd="avx9")
    with pytest.raises(errors.InvalidArgumentError, match="QuantizedTensor"):
        dequantize_tensor(w)
    with pytest.raises(errors.InvalidArgumentError, match="shape"):
        QuantizedTensor((4, 100), QuantizationConfig(), np.zeros((4, 99), np.int8))
    assert quant.TYPES.keys() == {*LEGACY, *SEARCHED, "f32"}


def test_config_is_checked():
    good = QuantizationConfig(bits=4, group_size=np.int64(32))
    assert good.copy().group_size == 32
    for name, value in (
        ("bits", 3), ("bits", True), ("bits", 4.0), ("symmetric", 1), ("scale", 0), ("scale", -1.0), ("scale", np.nan), ("scale", 1e-40),
        ("scale", "x"), ("zero_point", np.inf), ("group_size", 0), ("group_size", 2.5), ("axis", 1.5), ("axis", True), ("method", "best"),
        ("method", None), ("unknown", 1),
    ):  # fmt: skip
        with pytest.raises(errors.InvalidArgumentError, match=name):
            setattr(good, name, value)
        if name != "unknown":
            with pytest.raises(errors.InvalidArgumentError, match=name):
                QuantizationConfig(**{name: value})
    for wrong in (
        {"axis": 0, "group_size": 32}, {"zero_point": 3}, {"method": "hqq"}, {"method": "hqq", "symmetric": False, "zero_point": 0},
        {"bits": 4, "symmetric": False, "zero_point": 9},
    ):  # fmt: skip
        with pytest.raises(errors.InvalidArgumentError):
            QuantizationConfig(**wrong)
    with pytest.raises(TypeError):
        QuantizationConfig(4)
    good.axis = 0  # in agreement again before it is used, or refused then
    with pytest.raises(errors.InvalidArgumentError, match="not both"):
        quantize_tensor(np.ones((4, 64), F32), good)


def test_the_benchmark_measures_and_writes_tables(tmp_path, capsys):
    assert benchmarks_main.main(["quantize", "--rounds", "1", "--megabytes", "1", "--threads", "1", "--out", str(tmp_path)]) == 0
    data = json.loads((tmp_path / "quantize.json").read_text())
    assert all(len(samples) == 1 and samples[0] > 0 for samples in data["seconds"].values())
    assert "| quantize int4, groups of 32 |" in capsys.readouterr().out


def test_public_names_are_one_implementation():
    import hyperion

    assert hyperion.quantize_tensor is quantize_tensor
    assert hyperion.dequantize_tensor is dequantize_tensor
    assert hyperion.QuantizationConfig is QuantizationConfig
