"""Arrays that lie in memory in another order than C's, and many columns: the same bits as from contiguous ones."""

import numpy as np
import pytest

from hyperion import errors, memory
from hyperion._kernels import dispatch
from hyperion.quantization import QuantizationConfig, dequantize_tensor, quantize_tensor

LEVELS = dispatch.levels()
CONFIGS = [
    {}, {"axis": 0}, {"axis": 1}, {"group_size": 32}, {"group_size": 33}, {"group_size": 300}, {"group_size": 1100},
    {"axis": 1, "symmetric": False}, {"axis": 0, "symmetric": False}, {"group_size": 64, "symmetric": False},
    {"axis": 0, "scale": 0.01}, {"scale": 0.02, "symmetric": False, "zero_point": 3.0},
]  # fmt: skip


def stored(q):
    return [a for a in (q.codes, q.scales, q.zero_points) if a is not None]


def layouts(x):
    """x in other places: turned, in strides, backwards, not aligned."""
    turned = np.asfortranarray(x)
    strided = np.empty((x.shape[0], 2 * x.shape[1]), x.dtype)[:, ::2]
    spread = np.empty((x.shape[1] + 3, x.shape[0] + 5), x.dtype)[1:-2, 2:-3].T
    backwards = np.empty(x.shape[::-1], x.dtype)[::-1].T
    odd = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape[::-1]).T
    for array in (strided, spread, backwards, odd):
        array[...] = x
    return turned, strided, spread, backwards, odd


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("shape", [(1, 33), (7, 2), (9, 97), (65, 300), (130, 1101), (333, 64)], ids=str)
def test_integers(shape, dtype, level):
    rng = np.random.default_rng(sum(shape))
    x = rng.standard_normal(shape).astype(dtype)
    for cut in CONFIGS:
        for bits in (4, 8):
            config = QuantizationConfig(bits=bits, **cut)
            want = quantize_tensor(x, config, threads=1, simd=LEVELS[0])
            values = dequantize_tensor(want, dtype=dtype, threads=1, simd=LEVELS[0])
            for array in layouts(x):
                q = quantize_tensor(array, config, threads=2, simd=level)
                assert all(np.array_equal(a, b) for a, b in zip(stored(q), stored(want), strict=True)), (config, array.strides)
                array[...] = 0
                dequantize_tensor(want, out=array, threads=2, simd=level)
                assert np.array_equal(array, values), (config, array.strides)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "q8_0", "f16", "q4_k"])
def test_blocks(kind, dtype, level):
    rng = np.random.default_rng(7)
    for shape in ((1, 256), (9, 512), (67, 768)):
        x = rng.standard_normal(shape).astype(dtype)
        want = quantize_tensor(x, kind, threads=1)
        values = dequantize_tensor(want, dtype=dtype, threads=1, simd=LEVELS[0])
        for array in layouts(x):
            assert np.array_equal(quantize_tensor(array, kind, threads=2, simd=level).codes, want.codes), array.strides
            array[...] = 0
            dequantize_tensor(want, out=array, threads=2, simd=level)
            assert np.array_equal(array, values), array.strides


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_three_dimensions(axis):
    x = np.random.default_rng(axis).standard_normal((5, 37, 70)).astype(np.float32)
    for config in (QuantizationConfig(axis=axis), QuantizationConfig(bits=4, axis=axis, symmetric=False), QuantizationConfig()):
        want = quantize_tensor(x, config)
        for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
            array = x.transpose(order).copy().transpose(np.argsort(order))
            assert all(np.array_equal(a, b) for a, b in zip(stored(quantize_tensor(array, config)), stored(want), strict=True)), order
            array[...] = 0
            dequantize_tensor(want, out=array)
            assert np.array_equal(array, dequantize_tensor(want)), order


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", [(3, 9001), (700, 4100), (1500, 17), (5, 1023), (6, 1025)], ids=str)
def test_columns_on_all_sides_of_the_tiles(shape, level):
    x = np.random.default_rng(shape[0]).standard_normal(shape).astype(np.float32)
    for bits, low, high in ((4, -8, 7), (8, -128, 127)):
        q = quantize_tensor(x, QuantizationConfig(bits=bits, axis=1), simd=level)
        assert np.array_equal(q.scales, np.abs(x).max(axis=0) / np.float32(high))
        codes = np.clip(np.rint(x * (np.float32(1) / q.scales)), low, high)
        assert np.array_equal(q.unpacked(), codes)
        assert np.array_equal(dequantize_tensor(q, simd=level), codes.astype(np.float32) * q.scales)
        for threads in (1, 3):
            same = quantize_tensor(x, QuantizationConfig(bits=bits, axis=1, symmetric=False), threads=threads, simd=level)
            least, step = x.min(axis=0), (x.max(axis=0).astype(np.float64) - x.min(axis=0)) / (high - low)
            assert np.array_equal(same.scales, step.astype(np.float32))
            assert np.array_equal(same.zero_points, low - least / same.scales)


@pytest.mark.parametrize("config", ["q4_0", "q6_k", QuantizationConfig(), QuantizationConfig(axis=0), QuantizationConfig(axis=1)], ids=str)
def test_what_is_not_finite_is_named(config):
    x = np.zeros((300, 1280), np.float32, order="F")
    x[299, 1001] = np.nan
    with pytest.raises(errors.InvalidArgumentError) as caught:
        quantize_tensor(x, config)
    assert caught.value.context["index"] == (299, 1001)


def test_arrays_in_between_are_in_the_ledger(monkeypatch):
    counted = []
    reserve = memory.MemoryBudget.reserve

    def record(self, owner, nbytes, idle=0):
        counted.append((owner, nbytes))
        return reserve(self, owner, nbytes, idle)

    monkeypatch.setattr(memory.MemoryBudget, "reserve", record)
    before = memory.process_budget().used
    x = np.random.default_rng(0).standard_normal((64, 96, 128)).astype(np.float32)
    turned = x.transpose(2, 1, 0).copy().transpose(2, 1, 0)  # no two dimensions merge
    blocks, groups = quantize_tensor(x, "q8_0"), quantize_tensor(x, QuantizationConfig(group_size=32))
    assert counted == []
    assert np.array_equal(quantize_tensor(turned, "q8_0").codes, blocks.codes)
    assert np.array_equal(quantize_tensor(turned, QuantizationConfig(group_size=32)).codes, groups.codes)
    for q in (blocks, groups):
        turned[...] = 0
        dequantize_tensor(q, out=turned)
        assert np.array_equal(turned, dequantize_tensor(q))
    assert counted == [("quantizing", x.nbytes)] * 4
    counted.clear()
    odd = np.zeros((800, 801), np.float32)
    q = quantize_tensor(odd, QuantizationConfig(bits=4, axis=0))
    dequantize_tensor(q)
    assert counted == [("quantizing", odd.size)] * 2
    assert memory.process_budget().used == before
