"""Block-sparse panels: the bits of the dense panel with zeros, at every level, and lists of blocks that cannot be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperion import InvalidArgumentError
from hyperion._kernels import dispatch, quant
from hyperion._kernels.matmul import linear, linear_many
from hyperion._kernels.quant import PackedMatrix, sparse_offsets, sparsify
from hyperion._kernels.threads import Team
from hyperion.quantization import quantize_tensor

LEVELS = list(dispatch.levels())
ZERO = {"q4_0": 0x88, "q8_0": 0x80}


def matrices(type, rows, cols, keep):
    """(dense with zeroed blocks, sparse): the first is made by hand."""
    rng = np.random.default_rng(rows * cols)
    w = rng.standard_normal((rows, cols), dtype=np.float32)
    dense = quant.pack(type, quantize_tensor(w, type).codes.reshape(-1), rows, cols)
    sparse = sparsify(dense, keep)
    records = np.array(dense.panels).reshape(*keep.shape, -1)
    records[~keep, :32] = 0
    records[~keep, 32:] = ZERO[type]
    return PackedMatrix(type, rows, cols, records.reshape(-1)), sparse


def pattern(rows, cols, density, seed=0):
    return np.random.default_rng(seed).random((-(-rows // 16), cols // 32)) < density


@pytest.mark.parametrize("type", ["q4_0", "q8_0"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("rows", "cols"), [(1, 32), (16, 64), (33, 320), (97, 1184), (160, 2080)])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_the_bits_are_those_of_the_dense_panel(type, level, rows, cols, density):
    dense, sparse = matrices(type, rows, cols, pattern(rows, cols, density))
    for m in (1, 2, 7, 16, 17, 40, 97):
        x = np.random.default_rng(m).standard_normal((m, cols), dtype=np.float32)
        x[0, : cols // 2] = 0
        np.testing.assert_array_equal(
            linear(sparse, x, level=level).view(np.uint32), linear(dense, x, level=level).view(np.uint32), err_msg=f"{m} tokens"
        )


@settings(deadline=None, max_examples=40)
@given(
    type=st.sampled_from(["q4_0", "q8_0"]), rows=st.integers(1, 80), blocks=st.integers(1, 40), m=st.integers(1, 70),
    density=st.floats(0, 1), level=st.sampled_from(LEVELS), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_pattern(type, rows, blocks, m, density, level, seed):
    keep = pattern(rows, 32 * blocks, density, seed)
    dense, sparse = matrices(type, rows, 32 * blocks, keep)
    assert sparse.nbytes == sum(-(-2 * n // 32) * 32 + n * 16 * quant.TYPES[type].block_bytes for n in keep.sum(1).tolist())
    x = np.random.default_rng(seed).standard_normal((m, 32 * blocks), dtype=np.float32)
    np.testing.assert_array_equal(linear(sparse, x, level=level), linear(dense, x, level=level))
    np.testing.assert_array_equal(sparse.dequantize(), dense.dequantize())
    assert bytes(sparse.expand().panels) == bytes(dense.panels)
    np.testing.assert_array_equal(np.asarray(sparse.unpack()), np.asarray(dense.unpack()))


def test_threads_change_nothing_and_dense_and_sparse_share_a_call():
    dense, sparse = matrices("q4_0", 500, 640, pattern(500, 640, 0.4))
    x = np.random.default_rng(1).standard_normal((5, 640), dtype=np.float32)
    alone = linear(sparse, x)
    for threads in (1, 2, 3):
        both = linear_many([sparse, dense], x, team=Team(threads))
        np.testing.assert_array_equal(both[0], alone)
        np.testing.assert_array_equal(both[1], alone)


def test_a_token_that_is_not_finite_spoils_only_rows_that_use_it():
    _, sparse = matrices("q8_0", 32, 64, np.array([[True, False], [False, True]]))
    x = np.ones((1, 64), np.float32)
    x[0, 40] = np.nan
    out = linear(sparse, x)[0]
    assert np.isfinite(out[:16]).all() and np.isnan(out[16:]).all()


def test_rows_are_found():
    dense, sparse = matrices("q4_0", 100, 96, pattern(100, 96, 0.5))
    np.testing.assert_array_equal(sparse.dequantize_rows([99, 3, 3, 17]), dense.dequantize_rows([99, 3, 3, 17]))
    assert "sparse" in repr(sparse) and sparse.sparse and not dense.sparse


def broken(change):
    _, sparse = matrices("q4_0", 40, 320, pattern(40, 320, 0.5))
    data, offsets = np.array(sparse.panels), np.array(sparse.offsets)
    change(data, offsets, data[int(offsets[1]) :].view(np.uint16))
    return data, offsets


@pytest.mark.parametrize(
    "change",
    [
        lambda data, offsets, at: at.__setitem__(0, 10),  # past the last block
        lambda data, offsets, at: at.__setitem__(0, 65535),
        lambda data, offsets, at: at.__setitem__(1, at[0]),  # not rising
        lambda data, offsets, at: at.__setitem__(slice(0, 2), at[1::-1].copy()),
        lambda data, offsets, at: offsets.__setitem__(1, offsets[1] + 32),  # no size of a panel
        lambda data, offsets, at: offsets.__setitem__(1, offsets[2] + 320),  # falling
        lambda data, offsets, at: offsets.__setitem__(3, 1 << 62),
        lambda data, offsets, at: offsets.__setitem__(slice(0, 4), (1 << 64) - 1 - np.arange(4, dtype=np.uint64)),
    ],
)
def test_what_cannot_be_is_refused(change):
    data, offsets = broken(change)
    with pytest.raises(InvalidArgumentError):
        PackedMatrix("q4_0", 40, 320, data, offsets=offsets)


def test_shapes_and_types_are_checked():
    dense, sparse = matrices("q4_0", 40, 320, pattern(40, 320, 0.5))
    with pytest.raises(InvalidArgumentError, match="offsets"):
        PackedMatrix("q4_0", 40, 320, np.array(sparse.panels), offsets=sparse.offsets[:-1])
    with pytest.raises(InvalidArgumentError, match="takes"):
        PackedMatrix("q4_0", 40, 320, np.array(sparse.panels)[:-1], offsets=sparse.offsets)
    with pytest.raises(InvalidArgumentError, match="keep"):
        sparsify(dense, np.ones((3, 9)))
    with pytest.raises(InvalidArgumentError, match="sparse"):
        sparsify(sparse, np.ones((3, 10)))
    with pytest.raises(InvalidArgumentError, match="dense"):
        dense.expand()
    q5 = PackedMatrix("q5_0", 16, 32, np.zeros(quant.TYPES["q5_0"].packed_bytes(16, 32), np.uint8))
    with pytest.raises(InvalidArgumentError, match="sparse"):
        sparsify(q5, np.ones((1, 1)))
    with pytest.raises(InvalidArgumentError, match="sparse"):
        PackedMatrix("q5_0", 16, 32, b"", offsets=np.zeros(2, np.uint64))
    assert sparse_offsets("q8_0", [0, 1, 17]).tolist() == [0, 0, 32 + 544, 32 + 544 + 64 + 17 * 544]
