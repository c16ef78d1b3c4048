"""Sparse matrices against SciPy and NumPy: conversions, products, memory that is shared, and what is refused."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hyperion
from hyperion import SparseConfig, SparseFormat, SparseMatrix, convert_to_sparse, cpu, errors, sparse_mat_mul
from hyperion.quantization import QuantizationConfig, QuantizedTensor

sparse = pytest.importorskip("scipy.sparse")

F32 = np.float32
LEVELS = cpu.simd_levels()
FORMATS = list(SparseFormat)
SCIPY = {SparseFormat.CSR: sparse.csr_array, SparseFormat.CSC: sparse.csc_array, SparseFormat.BSR: sparse.bsr_array}


def random_matrix(rng, rows, cols, density=0.2):
    return np.where(rng.random((rows, cols)) < density, rng.standard_normal((rows, cols)), 0).astype(F32)


def make(x, kind, block=4, simd=True):
    return convert_to_sparse(x, SparseConfig(format=kind, block_size=block, enable_simd=simd))


def close(a, b, depth=1000):
    """Within the rounding of a float32 sum of `depth` values of size 1."""
    return np.allclose(a, b, rtol=1e-5, atol=1e-7 * depth)


# ---- Conversions -----------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 40), st.integers(0, 40), st.sampled_from([0.0, 0.05, 0.5, 1.0]), st.integers(1, 9), st.integers(0, 99),
    st.sampled_from(["C", "F", "strided"]),
)  # fmt: skip
def test_conversions_agree_with_scipy(rows, cols, density, block, seed, order):
    rng = np.random.default_rng(seed)
    x = random_matrix(rng, rows, cols, density)
    given_ = {"C": x, "F": np.asfortranarray(x), "strided": np.repeat(np.repeat(x, 2, 0), 3, 1)[::2, ::3]}[order]
    for kind in FORMATS:
        m = make(given_, kind, block)
        assert (m.shape, m.format) == (x.shape, kind)
        assert np.array_equal(m.to_dense(), x)
        assert np.array_equal(m.T.to_dense(), x.T)
        for other in FORMATS:
            converted = m.to_format(other, block + 1 if other is SparseFormat.BSR else None)
            assert converted.format is other
            assert np.array_equal(converted.to_dense(), x)
        if kind is not SparseFormat.BSR:
            theirs = SCIPY[kind](x)
            assert np.array_equal(m.indptr, theirs.indptr)
            assert np.array_equal(m.indices, theirs.indices)
            assert np.array_equal(m.data, theirs.data)
            assert m.nnz == theirs.nnz
        elif rows and cols and rows % block == cols % block == 0:
            theirs = sparse.bsr_array(x, blocksize=(block, block))
            theirs.sort_indices()
            assert np.array_equal(m.indptr, theirs.indptr)
            assert np.array_equal(m.indices, theirs.indices)
            assert np.array_equal(m.data, theirs.data)


@pytest.mark.parametrize("kind", FORMATS)
def test_scipys_memory_is_shared_in_both_directions(kind):
    x = random_matrix(np.random.default_rng(0), 24, 32)
    theirs = SCIPY[kind](x)
    theirs.sort_indices()  # SciPy leaves new blocks unsorted
    m = convert_to_sparse(theirs)
    assert m.format is kind
    for ours, other in ((m.data, theirs.data), (m.indices, theirs.indices), (m.indptr, theirs.indptr)):
        assert np.shares_memory(ours, other)
        assert not ours.flags.writeable
    back = m.to_scipy()
    assert isinstance(back, SCIPY[kind])
    assert np.array_equal(back.toarray(), x)
    for ours, other in ((m.data, back.data), (m.indices, back.indices), (m.indptr, back.indptr)):
        assert np.shares_memory(ours, other)
    theirs.data *= 2  # their owner may; nothing that was derived goes stale
    y = np.ones((32, 300), F32)
    assert close(m @ y, 2 * x @ y)
    assert close(y.T @ m.T, 2 * (x @ y).T)


def test_scipys_other_layouts_and_types_are_converted():
    x = random_matrix(np.random.default_rng(1), 20, 30)
    for theirs in (sparse.coo_array(x), sparse.lil_array(x), sparse.dia_array(x), sparse.csr_matrix(x.astype(np.float64))):
        assert np.array_equal(convert_to_sparse(theirs).to_dense(), x)
        assert convert_to_sparse(theirs, SparseConfig(format="csc")).format is SparseFormat.CSC
    wide = sparse.csr_array(x)
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    m = convert_to_sparse(wide)
    assert m.indices.dtype == np.int32
    assert np.array_equal(m.to_dense(), x)
    rectangular = sparse.bsr_array(x, blocksize=(4, 5))
    assert np.array_equal(convert_to_sparse(rectangular).to_dense(), x)
    assert np.array_equal(convert_to_sparse(rectangular, SparseConfig(format="bsr", block_size=7)).to_dense(), x)
    with pytest.raises(errors.InvalidArgumentError, match="complex"):
        convert_to_sparse(sparse.csr_array(x.astype(np.complex64)))


def test_scipy_is_never_imported_for_arrays():
    code = (
        "import sys, numpy as np, hyperion; m = hyperion.convert_to_sparse(np.eye(5, dtype='f4')); "
        "assert (m @ np.ones(5, 'f4')).sum() == 5; assert (m @ m).nnz == 5; assert 'scipy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nan_and_infinity_are_values_and_negative_zero_is_not():
    x = np.array([[np.nan, 0, -0.0], [np.inf, -np.inf, 1e-45]], F32)
    for kind in FORMATS:
        m = make(x, kind, 2)
        assert np.array_equal(m.to_dense(), x, equal_nan=True)
        y = np.array([[1, 2], [np.nan, 0], [np.nan, 1]], F32)
        if kind is not SparseFormat.BSR:  # what is not stored is not multiplied, as in SciPy
            expected = SCIPY[kind](x) @ y
            for level in LEVELS:
                assert np.array_equal(sparse_mat_mul(m, y, simd=level), expected, equal_nan=True)


# ---- Products --------------------------------------------------------------------------------------------------


def layouts(rng, rows, cols):
    """One array in every order in which arrays come."""
    base = rng.standard_normal((2 * rows + 1, 3 * cols + 1)).astype(F32)
    x = base[1 : 2 * rows + 1 : 2, : 3 * cols : 3]
    return x, [x, np.ascontiguousarray(x), np.asfortranarray(x), x[::-1, ::-1].copy()[::-1, ::-1], x.astype(np.float64)]


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(LEVELS), st.sampled_from(FORMATS), st.integers(0, 60), st.integers(0, 300), st.sampled_from([0, 1, 2, 5, 16, 33, 64, 97, 130]),
    st.sampled_from([0.02, 0.3, 1.0]), st.sampled_from([1, 3, 4, 16, 17]), st.integers(0, 99),
)  # fmt: skip
def test_products_agree_with_scipy(level, kind, rows, depth, columns, density, block, seed):
    rng = np.random.default_rng(seed)
    dense = random_matrix(rng, rows, depth, density)
    m = make(dense, kind, block)
    theirs = sparse.csr_array(dense.astype(np.float64))
    x, variants = layouts(rng, depth, columns)
    expected = theirs @ x.astype(np.float64)
    results = [sparse_mat_mul(m, v, simd=level) for v in variants]
    assert all(r.dtype == F32 and r.shape == (rows, columns) for r in results)
    assert close(results[0], expected)
    assert all(np.array_equal(r, results[0]) for r in results[1:])
    for threads in (2, 3):
        assert np.array_equal(sparse_mat_mul(m, x, threads=threads, simd=level), results[0])
    for target in (np.empty((rows, columns), F32, order="F"), np.empty((2 * rows, 3 * columns), F32)[::2, ::3], np.empty_like(expected, F32)[::-1]):
        target[...] = np.nan
        assert sparse_mat_mul(m, x, target, simd=level) is target
        assert np.array_equal(target, results[0])
    left, variants = layouts(rng, columns, rows)  # dense times sparse
    expected = (theirs.T @ left.T.astype(np.float64)).T
    results = [sparse_mat_mul(v, m, simd=level) for v in variants]
    assert close(results[0], expected)
    assert all(np.array_equal(r, results[0]) for r in results[1:])
    assert close(sparse_mat_mul(m.T, left.T, simd=level), expected.T)
    vector = rng.standard_normal(2 * depth).astype(F32)[::2]
    assert close(sparse_mat_mul(m, vector, simd=level), theirs @ vector.astype(np.float64))
    vector = rng.standard_normal(rows).astype(F32)
    assert close(sparse_mat_mul(vector, m, simd=level), vector.astype(np.float64) @ theirs.toarray())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", FORMATS)
def test_larger_products_are_the_same_bits_before_and_after_tiles_and_for_any_threads(level, kind):
    """Tiles, kept transposes and copies in groups change no bit."""
    rng = np.random.default_rng(2)
    dense = random_matrix(rng, 700, 900, 0.15)
    dense[3] = rng.standard_normal(900)  # one full row, and rows without values
    dense[100:420] = 0
    dense[:, 128:256] = 0  # a tile without values
    x = rng.standard_normal((900, 150)).astype(F32)
    m = make(dense, kind, 16)
    first = sparse_mat_mul(m, x, threads=1, simd=level)
    assert close(first, dense.astype(np.float64) @ x, 3000)
    for threads in (1, 2, 3, 1, 2):
        assert np.array_equal(sparse_mat_mul(m, x, threads=threads, simd=level), first)
        assert np.array_equal(sparse_mat_mul(m, x[:, :40], threads=threads, simd=level), first[:, :40])
    back = sparse_mat_mul(first.T, m, threads=1, simd=level)
    assert close(back, first.T.astype(np.float64) @ dense, 100_000)
    for threads in (2, 3, 5):
        assert np.array_equal(sparse_mat_mul(first.T, m, threads=threads, simd=level), back)
        vector = sparse_mat_mul(first[:, 0], m, threads=threads, simd=level)
        assert np.array_equal(vector, sparse_mat_mul(first[:, 0], m, threads=1, simd=level))


def test_enable_simd_false_runs_the_portable_kernels():
    rng = np.random.default_rng(3)
    dense, x = random_matrix(rng, 60, 500, 0.5), rng.standard_normal((500, 33)).astype(F32)
    for kind in FORMATS:
        plain, fast = make(dense, kind, simd=False), make(dense, kind)
        assert np.array_equal(plain @ x, sparse_mat_mul(fast, x, simd="generic"))
        assert not plain.T.enable_simd
        if LEVELS[-1] != "generic":  # fused multiply-adds round once: some bit of so many differs
            assert not np.array_equal(plain @ x, fast @ x)


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(FORMATS), st.sampled_from(FORMATS), st.integers(0, 40), st.integers(0, 40), st.integers(0, 200),
    st.sampled_from([0.02, 0.3, 1.0]), st.integers(0, 99),
)  # fmt: skip
def test_sparse_times_sparse(kind, other, rows, depth, cols, density, seed):
    rng = np.random.default_rng(seed)
    a, b = random_matrix(rng, rows, depth, density), random_matrix(rng, depth, cols, density)
    left, right = make(a, kind), make(b, other, 3)
    product = sparse_mat_mul(left, right)
    assert product.format is kind
    assert product.block_shape == left.block_shape
    assert close(product.to_dense(), a.astype(np.float64) @ b)
    if kind is not SparseFormat.BSR:
        assert product.nnz == (SCIPY[kind](a) @ SCIPY[kind](b)).nnz
        again = SparseMatrix(product.shape, kind, product.indptr, product.indices, product.data)
        assert not product.nnz or np.shares_memory(again.data, product.data)  # the indices were in order
    for threads in (2, 3):
        more = sparse_mat_mul(left, right, threads=threads)
        assert np.array_equal(more.data, product.data)
        assert np.array_equal(more.indices, product.indices)


def test_scipy_operands_and_operators():
    rng = np.random.default_rng(4)
    a, x = random_matrix(rng, 30, 50), rng.standard_normal((50, 7)).astype(F32)
    theirs = sparse.csr_array(a)
    assert close(sparse_mat_mul(theirs, x), a @ x)
    assert close(sparse_mat_mul(x.T, theirs.T), x.T @ a.T)
    assert close(sparse_mat_mul(theirs, sparse.csc_array(a.T)).to_dense(), a @ a.T)
    m = convert_to_sparse(a)
    assert close(x.T @ m.T, x.T @ a.T)
    assert isinstance(x.T @ m.T, np.ndarray)
    assert close((m @ m.T).to_dense(), a @ a.T)
    assert np.array_equal(np.asarray(m), a)
    for kind in FORMATS:
        copy = pickle.loads(pickle.dumps(make(a, kind).T))
        assert np.array_equal(copy.to_dense(), a.T)


# ---- Quantized values ------------------------------------------------------------------------------------------

CONFIGS = [
    QuantizationConfig(), QuantizationConfig(bits=4), QuantizationConfig(group_size=5), QuantizationConfig(bits=4, group_size=5, symmetric=False),
    QuantizationConfig(bits=4, axis=0), QuantizationConfig(axis=0, symmetric=False), QuantizationConfig(bits=4, group_size=32),
]  # fmt: skip


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_quantized_values_multiply_as_what_they_stand_for(level, config):
    rng = np.random.default_rng(5)
    dense = random_matrix(rng, 50, 9000, 0.3)
    dense[7] = rng.standard_normal(9000)  # longer than what is expanded at a time
    for kind in FORMATS:
        m = make(dense, kind, 5)
        if config.axis is not None and kind is not SparseFormat.BSR:
            with pytest.raises(errors.UnsupportedError):
                m.quantized(config)
            continue
        q = m.quantized(config)
        assert q.nbytes < m.nbytes
        assert isinstance(q.data, QuantizedTensor)
        plain = q.dequantized()
        assert np.array_equal(plain.to_dense(), q.to_dense())
        for columns in (1, 3, 70):
            x = rng.standard_normal((9000, columns)).astype(F32)
            if kind is not SparseFormat.CSC:
                result = sparse_mat_mul(q, x, simd=level, threads=1)
                assert close(result, plain.to_dense().astype(np.float64) @ x, 10_000)
                if columns > 1:  # a chain is cut nowhere
                    assert np.array_equal(result, sparse_mat_mul(plain, x, simd=level))
                assert np.array_equal(sparse_mat_mul(q, x, simd=level, threads=3), result)
                assert close(sparse_mat_mul(x.T, q.T, simd=level), result.T, 10_000)
            else:
                assert close(sparse_mat_mul(q, x, simd=level), plain.to_dense().astype(np.float64) @ x, 10_000)


def test_a_quantized_matrix_from_stored_arrays():
    rng = np.random.default_rng(6)
    q = make(random_matrix(rng, 20, 30), SparseFormat.BSR).quantized(QuantizationConfig(bits=4, axis=0))
    again = SparseMatrix(q.shape, "bsr", q.indptr, q.indices, q.data)
    x = rng.standard_normal((30, 4)).astype(F32)
    assert np.array_equal(again @ x, q @ x)
    assert "int4" in repr(again)
    copy = pickle.loads(pickle.dumps(q))
    assert np.array_equal(copy @ x, q @ x)
    for act in (lambda: q.to_format("csr"), lambda: q.quantized(), lambda: q.to_scipy()):
        with pytest.raises(errors.UnsupportedError):
            act()
    m = make(random_matrix(rng, 20, 30), SparseFormat.BSR, 4)
    for config in (QuantizationConfig(axis=1), QuantizationConfig(group_size=3)):
        with pytest.raises(errors.UnsupportedError):
            m.quantized(config)
    with pytest.raises(errors.UnsupportedError):
        SparseMatrix((1, 32), "csr", [0, 32], np.arange(32), hyperion.quantize_tensor(np.ones(32, F32), "q4_0"))


def one_scale(config):
    """Whether one scale is for all."""
    return config.axis is None and config.group_size is None


@pytest.mark.parametrize(
    ("kind", "config"), [(k, c) for k in FORMATS for c in CONFIGS if c.axis is None or k is SparseFormat.BSR], ids=repr
)
def test_quantized_values_keep_their_codes_in_other_layouts(kind, config):
    rng = np.random.default_rng(7)
    dense = random_matrix(rng, 45, 63)
    m = make(dense, kind, 5)
    q = m.quantized(config)
    values, codes = q.to_dense(), np.sort(q.data.unpacked(), axis=None)
    for source, expected in ((q, values), (q.T, values.T)):
        for other, block in [(SparseFormat.CSR, None), (SparseFormat.CSC, None), (SparseFormat.BSR, 5), (SparseFormat.BSR, 3)]:
            # one symmetric scale goes anywhere; others stay with their runs of values, which another layout or turning a block mixes
            turned_rows = kind is SparseFormat.BSR and source is not q and config.axis is None
            if not one_scale(config) and (other is not source.format or block == 3 or turned_rows):
                with pytest.raises(errors.UnsupportedError, match="values of different scales would share one"):
                    source.to_format(other, block).data  # noqa: B018 - where it is turned
                continue
            moved = source.to_format(other, block)
            assert moved.data.format == q.data.format
            assert np.array_equal(moved.to_dense(), expected)
            if other is not SparseFormat.BSR:
                theirs = SCIPY[other](expected if kind is SparseFormat.BSR else SCIPY[kind](dense if source is q else dense.T))
                assert np.array_equal(moved.indptr, theirs.indptr)
                assert np.array_equal(moved.indices, theirs.indices)
                if SparseFormat.BSR is not kind:
                    assert np.array_equal(np.sort(moved.data.unpacked()), codes)
            x = rng.standard_normal((expected.shape[1], 6)).astype(F32)
            assert close(moved @ x, SCIPY[SparseFormat.CSR](expected) @ x)


def test_blocks_keep_a_scale_each_when_turned_or_cut():
    rng = np.random.default_rng(8)
    full = (rng.choice([-1, 1], (24, 40)) * rng.uniform(1, 2, (24, 40))).astype(F32)  # no code is 0
    for config in (QuantizationConfig(bits=4, axis=0), QuantizationConfig(axis=0, symmetric=False, method="hqq")):
        q = make(full, SparseFormat.BSR, 8).quantized(config)
        turned = q.T.to_format("bsr", 4)
        assert turned.data.axis == 0
        assert turned.data.scales.size == 4 * q.data.scales.size
        assert np.array_equal(turned.to_dense(), q.to_dense().T)
        assert np.array_equal(np.sort(turned.data.unpacked(), axis=None), np.sort(q.data.unpacked(), axis=None))
        rows = q.to_format("csr")  # a row of a block is a group
        assert rows.data.group_size == 8
        assert np.array_equal(rows.to_dense(), q.to_dense())
        assert np.array_equal(rows.to_format("bsr", 8).to_dense(), q.to_dense())
        if config.symmetric:  # 6 does not divide 40
            assert q.to_format("bsr", 6).data.group_size == 2
        x = rng.standard_normal((5, 24)).astype(F32)
        assert close(x @ q, x @ q.to_dense())
        assert np.array_equal(q.T.data.scales[:3], q.data.scales[::5])  # blocks below each other
        copy = pickle.loads(pickle.dumps(q.T))
        assert np.array_equal(copy.to_dense(), q.to_dense().T)


def test_products_of_quantized_values_that_cannot_be_moved():
    rng = np.random.default_rng(9)
    dense = random_matrix(rng, 24, 40, 0.5)
    q = make(dense, SparseFormat.BSR, 8).quantized(QuantizationConfig(group_size=4))
    with pytest.raises(errors.UnsupportedError, match="different scales"):
        _ = q.T.data
    x = rng.standard_normal((24, 9)).astype(F32)
    assert close(q.T @ x, q.to_dense().T @ x)
    assert np.array_equal(pickle.loads(pickle.dumps(q.T)).to_dense(), q.to_dense().T)
    for kind in FORMATS:
        a, b = make(dense, kind, 4).quantized(), make(dense.T, SparseFormat.CSR).quantized()
        for left, right in ((a, b), (a, b.dequantized()), (a.dequantized(), b)):
            product = left @ right
            assert product.format is kind
            assert product.dtype == F32
            assert close(product.to_dense(), sparse.csr_array(left.to_dense()) @ right.to_dense())


def test_places_without_a_value_need_a_code_that_means_0():
    row, columns = [0, 2], [0, 3]
    for zero_point, fits in ((3.0, True), (0.5, False), (200.0, False)):
        config = QuantizationConfig(symmetric=False, scale=0.5, zero_point=zero_point)
        q = SparseMatrix((1, 4), "csr", row, columns, hyperion.quantize_tensor(np.array([1, -2], F32), config))
        if fits:
            assert q.to_format("bsr", 2).to_dense().tolist() == [[1, 0, 0, -2]]
            assert q.to_format("bsr", 2).data.zero_points == 3
        else:
            with pytest.raises(errors.UnsupportedError, match="means 0"):
                q.to_format("bsr", 2)
        assert q.to_format("csc").to_dense().tolist() == q.to_dense().tolist()


def test_quantized_values_are_sorted_but_not_added_up():
    q = hyperion.quantize_tensor(np.arange(1, 6, dtype=F32), QuantizationConfig(scale=0.25))
    m = SparseMatrix((2, 9), "csr", [0, 3, 5], [8, 0, 4, 7, 1], q)
    theirs = sparse.csr_array((np.arange(1, 6, dtype=F32), [8, 0, 4, 7, 1], [0, 3, 5]), shape=(2, 9))
    assert np.array_equal(m.to_dense(), theirs.toarray())
    theirs.sort_indices()
    assert np.array_equal(m.indices, theirs.indices)
    with pytest.raises(errors.UnsupportedError, match="added up"):
        SparseMatrix((2, 9), "csr", [0, 3, 5], [8, 4, 4, 7, 1], q)
    for kind in FORMATS:
        empty = SparseMatrix((3, 4), "csr", [0, 0, 0, 0], np.zeros(0, np.int32), hyperion.quantize_tensor(np.zeros(0, F32), QuantizationConfig(group_size=3)))
        assert not empty.to_format(kind).to_dense().any()
        zeros = make(np.zeros((0, 5), F32), kind).quantized()
        assert zeros.T.to_format("bsr").shape == (5, 0)


# ---- What users hand in ----------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 60), st.sampled_from(FORMATS), st.integers(0, 99))
def test_unsorted_and_duplicate_indices_are_added_up(rows, cols, n, kind, seed):
    rng = np.random.default_rng(seed)
    i, k = rng.integers(0, rows, n), rng.integers(0, cols, n)
    if kind is SparseFormat.CSC:
        i, k, rows, cols = k, i, cols, rows
    major, minor = (k, i) if kind is SparseFormat.CSC else (i, k)
    order = np.argsort(major, kind="stable")
    block = (2, 3) if kind is SparseFormat.BSR else (1, 1)
    data = rng.integers(-9, 9, (n, *block) if kind is SparseFormat.BSR else n).astype(F32)[order]
    count = cols if kind is SparseFormat.CSC else rows
    indptr = np.concatenate(([0], np.cumsum(np.bincount(major, minlength=count)))).astype(np.int32)
    indices = minor[order].astype(np.int32)
    shape = rows * block[0], cols * block[1]
    m = SparseMatrix(shape, kind, indptr, indices, data)
    expected = SCIPY[kind]((data, indices, indptr), shape=shape).toarray()
    assert np.array_equal(m.to_dense(), expected)
    x = rng.standard_normal((shape[1], 5)).astype(F32)
    assert close(m @ x, expected @ x)
    per_row = [m.indices[a:b] for a, b in zip(m.indptr, m.indptr[1:], strict=False)]
    assert all((np.diff(row) > 0).all() for row in per_row)


@pytest.mark.parametrize(
    ("indptr", "indices", "message"),
    [
        ([1, 2, 3], [0, 1, 2], r"indptr\[0\] is 1"),
        ([0, 2, 1], [0, 1], r"indptr\[2\] is 1, less"),
        ([0, 1, 3], [0, 1], r"indptr\[2\] is 3; there are 2"),
        ([0, 1, 1], [0, 1], r"indptr\[2\] is 1; there are 2"),
        ([0, 5, 2], [0, 1], r"indptr\[1\] is 5; there are 2"),
        ([0, 1, 2], [0, 4], r"indices\[1\] is 4, expected 0 to 3"),
        ([0, 1, 2], [0, -1], "negative|is -1"),
        ([0, 1], [0], "3 entries"),
        ([0, 1, 2], [0], "there are 1|indptr"),
        ([0, 1, 2], [0.0, 1.0], "integers"),
        ([[0, 1, 2]], [0, 1], "one dimension"),
    ],
)
def test_a_wrong_structure_is_refused_with_its_place(indptr, indices, message):
    data = np.ones(len(indices), F32)
    with pytest.raises(errors.InvalidArgumentError, match=message):
        SparseMatrix((2, 4), "csr", np.array(indptr), np.array(indices), data)
    if np.ndim(indptr) == 1 and message != "integers":
        with pytest.raises(errors.InvalidArgumentError):
            SparseMatrix((2, 4), "csr", np.array(indptr, np.int32), np.array(indices, np.int32), data)


def test_what_does_not_fit_32_bits_is_refused():
    with pytest.raises(errors.UnsupportedError, match="32 bits"):
        SparseMatrix((2**31, 4), "csr", [0], [], np.zeros(0, F32))
    with pytest.raises(errors.UnsupportedError, match="32 bits"):
        SparseMatrix((1, 4), "csr", np.array([0, 2**31], np.int64), np.zeros(1, np.int32), np.zeros(1, F32))
    with pytest.raises(errors.UnsupportedError, match="32 bits"):
        SparseMatrix((1, 2**31 - 1), "csr", [0, 1], np.array([2**32], np.int64), np.zeros(1, F32))
    wide = SparseMatrix((1, 2**31 - 1), "csr", [0, 1], [2**31 - 2], np.ones(1, F32))
    assert wide.nnz == 1
    ones = convert_to_sparse(np.broadcast_to(np.ones((1, 1), F32), (3, 5)))
    assert ones.nnz == 15


def test_wrong_operands_are_refused():
    m = convert_to_sparse(np.eye(4, dtype=F32))
    x = np.ones((4, 3), F32)
    for act in (
        lambda: m @ np.ones((5, 3), F32), lambda: np.ones((3, 5), F32) @ m, lambda: m @ convert_to_sparse(np.ones((3, 3))),
        lambda: m @ np.ones((4, 3, 2), F32), lambda: m @ np.float32(1), lambda: m @ np.ones((4, 3), np.complex64),
        lambda: m @ np.array(["a"] * 4), lambda: m @ None, lambda: sparse_mat_mul(x, x.T), lambda: sparse_mat_mul(m, m, out=x),
        lambda: sparse_mat_mul(m, x, np.empty((3, 4), F32)), lambda: sparse_mat_mul(m, x, np.empty((4, 3))),
        lambda: sparse_mat_mul(m, x, x), lambda: sparse_mat_mul(m, x, [0]), lambda: sparse_mat_mul(m, x, simd="fast"),
        lambda: sparse_mat_mul(m, x, np.broadcast_to(np.zeros(3, F32), (4, 3))), lambda: sparse_mat_mul(m, x, threads=0),
        lambda: sparse_mat_mul(m, m.data, np.lib.stride_tricks.as_strided(np.zeros(9, F32), (4,), (0,))),
        lambda: sparse_mat_mul(m, x, np.lib.stride_tricks.as_strided(np.zeros(9, F32), (4, 3), (4, 4))),
        lambda: convert_to_sparse(np.ones(3, F32)), lambda: convert_to_sparse(np.array([[1e300]])),
        lambda: convert_to_sparse(np.ones((2, 2), np.complex64)), lambda: convert_to_sparse(x, "csr"),
        lambda: m.to_format("coo"), lambda: m.to_format("csr", 4), lambda: m.to_dense(np.empty((4, 3), F32)), lambda: m.quantized("int8"),
        lambda: m @ np.full((4, 1), 1e300),
    ):  # fmt: skip
        with pytest.raises(errors.InvalidArgumentError):
            act()
    buffer = np.zeros(20, F32)
    with pytest.raises(errors.InvalidArgumentError, match="shares memory"):
        sparse_mat_mul(m, buffer[:12].reshape(4, 3), buffer[6:18].reshape(4, 3))
    shared = sparse.csr_array(np.eye(4, dtype=F32))
    with pytest.raises(errors.InvalidArgumentError, match="shares memory"):
        sparse_mat_mul(shared, np.ones(4, F32), shared.data)
    with pytest.raises(ValueError, match="read-only"):
        m.data[0] = 2


def test_arrays_that_their_owner_breaks_are_noticed():
    theirs = sparse.csr_array(np.eye(6, dtype=F32))
    m = convert_to_sparse(theirs)
    x = np.ones((6, 5), F32)
    for array, place, value in ((theirs.indices, 2, 6), (theirs.indices, 2, -1), (theirs.indptr, 3, 100), (theirs.indptr, 3, -5)):
        kept = array[place]
        array[place] = value
        for act in (lambda: m @ x, lambda: m @ x[:, 0], lambda: x.T @ m, lambda: m @ m, m.to_dense, lambda: m.to_format("bsr")):
            with pytest.raises(errors.InvalidArgumentError, match="changed"):
                act()
        array[place] = kept
    assert np.array_equal(m @ x, x)


def test_configs_are_checked():
    config = SparseConfig()
    assert (config.format, config.block_size, config.enable_simd) == (SparseFormat.CSR, 16, True)
    config.format = "bsr"
    assert config.format is SparseFormat.BSR
    for name, value in (("format", "coo"), ("format", 1), ("block_size", 0), ("block_size", 1025), ("block_size", 2.0), ("block_size", True),
                        ("enable_simd", 1), ("blocksize", 4)):  # fmt: skip
        with pytest.raises(errors.InvalidArgumentError):
            setattr(config, name, value)
    with pytest.raises(TypeError):
        SparseConfig("csr")


def test_large_matrices_are_in_the_ledger_until_they_are_gone():
    from hyperion.memory import process_budget

    before = process_budget().by_owner().get("sparse matrix", 0)
    m = convert_to_sparse(np.ones((1100, 1100), F32))
    held = process_budget().by_owner()["sparse matrix"] - before
    assert m.nbytes - 8192 <= held <= m.nbytes + 16384  # row starts are too small for pages of their own
    del m
    assert process_budget().by_owner().get("sparse matrix", 0) == before


def test_a_picture_of_the_density(tmp_path):
    x = np.zeros((100, 60), F32)
    x[:50, :30] = 1
    x[99, 59] = 1
    from hyperion.sparse.plot import block_density

    for kind in FORMATS:
        grid = block_density(make(x, kind, 5), 10)
        assert grid.shape == (10, 10)
        assert np.array_equal(grid[:5, :5], np.ones((5, 5)))
        assert grid[9, 9] == (1 if kind is not SparseFormat.BSR else 25) / 60
        assert not grid[:5, 5:].any()
    pytest.importorskip("matplotlib")
    figure = hyperion.plot_sparsity(make(x, SparseFormat.CSR), tmp_path / "pattern.png", cells=20)
    assert (tmp_path / "pattern.png").read_bytes().startswith(b"\x89PNG")
    assert figure.axes[0].get_xlabel() == "column"
    with pytest.raises(errors.InvalidArgumentError):
        hyperion.plot_sparsity(x)
