"""Products of packed weights: against the oracle at every level, and the same bits whatever the cut."""

import ctypes
import mmap
import platform

import numpy as np
import pytest

from hyperion import errors
from hyperion._kernels import dispatch, matmul, quant, reference
from hyperion._kernels.threads import Team
from weights import FLOATS, QUANTIZED, random_raw, with_scales

ROWS = (1, 7, 16, 31, 33, 97)
TOKENS = (1, 2, 3, 7, 15, 16, 17, 33)
LEVELS = dispatch.levels()
pytestmark = pytest.mark.parametrize("level", LEVELS)


def cols_of(kind):
    if kind in FLOATS:
        return (1, 7, 33, 256)
    return (256, 768) if quant.TYPES[kind].block_len == 256 else (32, 96, 256)


def bound(kind, cols, magnitude):
    """A float32 sum in sequence errs by at most half an epsilon of the magnitude a term; a block adds one or two
    terms, whose own factors are rounded up to four times."""
    terms = cols if kind in FLOATS else 2 * cols // reference.activation_block(kind)
    return (terms + 4) * 2.0**-24 * magnitude + 1e-37


def check(kind, raw, rows, cols, x, got):
    want, magnitude = reference.linear(kind, raw, rows, cols, x)
    error, limit = np.abs(got - want), bound(kind, cols, magnitude)
    assert np.all(error <= limit), f"error {np.max(error / limit)} times the bound"


def same(a, b):
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    return a.shape == b.shape and np.array_equal(a.view(np.uint32), b.view(np.uint32))


def activations(rng, m, k):
    """Normally distributed, some tokens a thousand times larger or smaller, some blocks zero."""
    x = rng.standard_normal((m, k)) * 10.0 ** rng.integers(-3, 4, (m, 1))
    x[rng.random((m, k)) < 0.1] = 0
    x[m // 2, : min(k, 32)] = 0
    return x.astype(np.float32)


@pytest.mark.parametrize("kind", quant.TYPES)
def test_products_agree_with_the_oracle(kind, level):
    rng = np.random.default_rng(5)
    for cols in cols_of(kind):
        raw, x = random_raw(rng, kind, max(ROWS), cols), activations(rng, max(TOKENS), cols)
        whole = matmul.linear(quant.pack(kind, raw, max(ROWS), cols), x, level)
        check(kind, raw, max(ROWS), cols, x, whole)
        for rows in ROWS:
            part = raw[: rows * quant.TYPES[kind].row_bytes(cols)]
            packed = quant.pack(kind, part, rows, cols)
            for m in TOKENS:
                assert same(matmul.linear(packed, x[:m], level), whole[:m, :rows]), (cols, rows, m)


@pytest.mark.parametrize("kind", quant.TYPES)
def test_a_tokens_bits_do_not_depend_on_the_batch_or_the_threads(kind, level):
    rng = np.random.default_rng(6)
    rows, m = 97, 33
    cols = 77 if kind in FLOATS else 512
    raw, x = random_raw(rng, kind, rows, cols), activations(rng, m, cols)
    packed = quant.pack(kind, raw, rows, cols)
    whole = matmul.linear(packed, x, level)
    for size in (1, 2, 3, 5, 7, 15, 16, 17, 32):
        pieces = [matmul.linear(packed, x[i : i + size], level) for i in range(0, m, size)]
        assert same(np.concatenate(pieces), whole), size
    shuffled = rng.permutation(m)
    assert same(matmul.linear(packed, x[shuffled], level), whole[shuffled])
    for threads in (1, 2, 3):
        team = Team(threads)
        assert same(matmul.linear(packed, x, level, team), whole), threads
        assert same(matmul.linear(packed, x[:17], level, team), whole[:17]), threads
        assert same(matmul.linear(packed, x[4:5], level, team), whole[4:5]), threads


@pytest.mark.parametrize("kind", QUANTIZED)
def test_every_small_batch_has_the_bits_of_single_tokens(kind, level):
    """A level may have code of its own for each of 2 to 16 tokens, and what lies behind the last row stays as it was."""
    rng = np.random.default_rng(11)
    rows, cols, most = 37, 1280, 17
    x = activations(rng, most, cols)
    packed = quant.pack(kind, random_raw(rng, kind, rows, cols), rows, cols)
    single = np.concatenate([matmul.linear(packed, x[i : i + 1], level) for i in range(most)])
    for m in range(2, most + 1):
        wide = np.full((m, rows + 16), 5, np.float32)
        matmul.linear(packed, x[:m], level, out=wide[:, :rows])
        assert same(wide[:, :rows], single[:m]), m
        assert (wide[:, rows:] == 5).all(), m


@pytest.mark.parametrize("kind", ["f32", "bf16", "q4_0", "q8_0", "q4_k", "q6_k"])
def test_work_that_exceeds_the_caches_is_cut_without_a_trace(kind, level):
    """Activations beyond a megabyte may be taken in slabs; a last token must not be left alone in one."""
    rng = np.random.default_rng(7)
    rows, cols, m = 259, 2048, 16 * 24 + 1
    raw = random_raw(rng, kind, rows, cols)
    x = rng.standard_normal((m, cols)).astype(np.float32)
    packed = quant.pack(kind, raw, rows, cols)
    whole = matmul.linear(packed, x, level)
    check(kind, raw, rows, cols, x[-3:], whole[-3:])
    for at in (0, 15, 16, 127, 176, 352, 368, 383, 384):
        assert same(matmul.linear(packed, x[at : at + 1], level), whole[at : at + 1]), at
    for threads in (2, 3):
        assert same(matmul.linear(packed, x, level, Team(threads)), whole)


@pytest.mark.parametrize("kind", QUANTIZED)
def test_extreme_codes_do_not_saturate(kind, level):
    """Every code at an end of its range against activations at theirs: the largest integer sums there are."""
    t, rows, cols = quant.TYPES[kind], 16, 512
    n = rows * cols // t.block_len
    k = np.arange(cols)
    x = np.array([k**0, -(k**0), np.where(k % 2, 1, -1), np.where(k % 4 < 2, 1, -1)], np.float32)
    for byte in (0x00, 0x7F, 0x80, 0xFF, 0x0F, 0xF0):
        blocks = with_scales(kind, np.full((n, t.block_bytes), byte, np.uint8), np.full(n, 0.5))
        packed = quant.pack(kind, blocks, rows, cols)
        check(kind, blocks, rows, cols, x, matmul.linear(packed, x, level))
        check(kind, blocks, rows, cols, x[2:3], matmul.linear(packed, x[2:3], level))


@pytest.mark.parametrize("kind", ["q4_k", "q5_k", "q6_k"])
def test_sums_about_the_ends_of_16_bits(kind, level):
    """Tokens whose groups add up to a little less and a little more than the largest code leaves room for."""
    t, rows, cols = quant.TYPES[kind], 32, 256
    rng = np.random.default_rng(14)
    largest = {"q4_k": 15, "q5_k": 31, "q6_k": 32}[kind]
    sums = np.repeat(2**15 // largest + np.arange(-4, 5), 8)
    x = np.full((len(sums), 8, 32), 0, np.float32)
    for token, total in enumerate(sums):
        codes = np.full(32, total // 32)
        codes[: total % 32] += 1
        g = rng.integers(8)
        x[token, g] = rng.permutation(codes) * rng.choice([-1, 1])
        x[token, [g ^ 1, g ^ 4], rng.integers(32)] = 127  # the scales of both halves are 1
    x = x.reshape(len(sums), cols)
    for byte in (0x00, 0xFF):
        raw = with_scales(kind, np.full((rows, t.block_bytes), byte, np.uint8), np.full(rows, 0.5))
        packed = quant.pack(kind, raw, rows, cols)
        whole = matmul.linear(packed, x, level)
        check(kind, raw, rows, cols, x, whole)
        assert same(whole, np.concatenate([matmul.linear(packed, row[None], level) for row in x]))


@pytest.mark.parametrize("kind", QUANTIZED)
def test_scales_of_every_size(kind, level):
    """Scales that are subnormal halves, zero, and the largest half."""
    rng = np.random.default_rng(8)
    t, rows, cols = quant.TYPES[kind], 17, 512
    n = rows * cols // t.block_len
    blocks = random_raw(rng, kind, rows, cols).reshape(n, -1).copy()
    with_scales(kind, blocks, rng.choice([6e-8, 1e-6, 6e-5, 0, -0.0, 65504, -65504, 1], n))
    x = activations(rng, 3, cols)
    check(kind, blocks, rows, cols, x, matmul.linear(quant.pack(kind, blocks, rows, cols), x, level))


@pytest.mark.parametrize("kind", QUANTIZED)
def test_a_token_that_is_not_finite_harms_no_other(kind, level):
    rng = np.random.default_rng(9)
    rows, cols, m = 33, 512, 19
    packed = quant.pack(kind, random_raw(rng, kind, rows, cols), rows, cols)
    x = activations(rng, m, cols)
    good = matmul.linear(packed, x, level)
    for value in (np.nan, np.inf, -np.inf):
        bad = x.copy()
        bad[5, 300] = value
        got = matmul.linear(packed, bad, level)
        assert not np.isfinite(got[5]).any()
        assert same(np.delete(got, 5, 0), np.delete(good, 5, 0))
        assert not np.isfinite(matmul.linear(packed, bad[5:6], level)).any()


@pytest.mark.parametrize("m", TOKENS)
@pytest.mark.parametrize("kind", ["q4_0", "q4_k"])
def test_activations_are_quantized_as_documented(m, kind, level):
    rng = np.random.default_rng(10)
    length = reference.activation_block(kind)
    k = 6 * length
    x = activations(rng, m, k)
    x[0, length : length + 32] = np.arange(32) - 15.5  # ties
    x[0, length + 32 : 2 * length] = 0
    x[0, 2 * length - 1] = 127
    x[m - 1, 2 * length : 3 * length] = 1e-41  # a block without a usable scale
    x[m // 2, 3 * length] = np.nan
    tile = 1 if m == 1 else 16
    records = matmul.pack_activations(x, kind, level).reshape(-1, k // 32, tile * 44)
    codes, scales = reference.quantize_activations(x, length)
    sums = codes.reshape(m, -1, 2, 16).sum(axis=3)
    if length == 128:
        pairs = sums.sum(axis=2).reshape(m, -1, 2)
        magnitudes = np.abs(codes.reshape(m, -1, 32).astype(int)).sum(axis=2)
        reach = (magnitudes + np.abs(sums.sum(axis=2))).reshape(m, -1, 4).max(axis=2)
    for group in range(-(-m // tile)):
        n = min(tile, m - group * tile)
        tokens = slice(group * tile, group * tile + n)
        for block in range(k // 32):
            rec = records[group, block]
            q = rec[: 32 * tile].view(np.int8).reshape(tile, 32)
            d = rec[32 * tile : 36 * tile].view(np.float32)
            assert np.array_equal(q[:n], codes[tokens, 32 * block : 32 * block + 32])
            if length == 128 and block % 4 == 1:
                assert np.array_equal(d.view(np.int32)[:n], reach[tokens, block // 4])
            else:
                assert np.array_equal(d[:n], scales[tokens, 32 * block // length], equal_nan=True)
            if length == 32:
                s = rec[36 * tile :].view(np.int32).reshape(tile, 2)
            else:
                s = rec[36 * tile : 40 * tile].view(np.int16).reshape(tile, 2)
                pair = rec[40 * tile :].view(np.int16).reshape(tile, 2)
                assert np.array_equal(pair[:n], pairs[tokens, block // 2])
            assert np.array_equal(s[:n], sums[tokens, block])
            assert not q[n:].any() and not d[n:].any() and not s[n:].any()


@pytest.mark.parametrize("m", TOKENS)
def test_float_activations_are_laid_out_as_documented(m, level):
    x = np.random.default_rng(11).standard_normal((m, 37)).astype(np.float32)
    tile = 1 if m == 1 else 16
    got = matmul.pack_activations(x, "f32", level).view(np.float32).reshape(-1, 37, tile)
    padded = np.zeros((len(got) * tile, 37), np.float32)
    padded[:m] = x
    assert np.array_equal(got, padded.reshape(-1, tile, 37).transpose(0, 2, 1))


@pytest.mark.parametrize("kind", quant.TYPES)
def test_rows_with_gaps_in_and_out(kind, level):
    rng = np.random.default_rng(12)
    rows, cols = 33, 256
    packed = quant.pack(kind, random_raw(rng, kind, rows, cols), rows, cols)
    for m in (1, 3, 18):
        wide = rng.standard_normal((m, cols + 5)).astype(np.float32)
        x = wide[:, 3 : 3 + cols]
        frame = np.full((m + 2, rows + 9), 7, np.float32)
        out = frame[1:-1, 4 : 4 + rows]
        assert matmul.linear(packed, x, level, out=out) is out
        assert same(out, matmul.linear(packed, np.ascontiguousarray(x), level))
        frame[1:-1, 4 : 4 + rows] = 7
        assert np.all(frame == 7)


@pytest.mark.skipif(platform.system() != "Linux", reason="protects a page through libc")
@pytest.mark.parametrize("kind", quant.TYPES)
def test_nothing_past_the_last_panel_is_read(kind, level):
    rng = np.random.default_rng(13)
    rows, cols = 33, 256
    raw = random_raw(rng, kind, rows, cols)
    packed = quant.pack(kind, raw, rows, cols)
    size = -(-packed.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, size + mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    assert protect(ctypes.c_void_p(address + size), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    try:
        at = size - packed.nbytes
        memory[at:size] = packed.panels
        tight = quant.PackedMatrix(kind, rows, cols, memory, at)
        for m in (1, 2, 17):
            x = activations(rng, m, cols)
            assert same(matmul.linear(tight, x, level), matmul.linear(packed, x, level))
    finally:
        protect(ctypes.c_void_p(address + size), ctypes.c_size_t(mmap.PAGESIZE), 3)


def test_weights_that_share_activations(level):
    rng = np.random.default_rng(14)
    cols = 512
    shapes = [("q4_k", 33), ("q8_0", 1), ("q6_k", 64), ("q4_0", 97)]
    packed = [quant.pack(kind, random_raw(rng, kind, rows, cols), rows, cols) for kind, rows in shapes]
    for m in (1, 5, 40):
        x = activations(rng, m, cols)
        want = [matmul.linear(p, x, level) for p in packed]
        for team in (None, Team(2), Team(3)):
            assert all(map(same, matmul.linear_many(packed, x, level, team), want))
        both = np.empty((m, sum(rows for _, rows in shapes)), np.float32)
        ends = np.cumsum([rows for _, rows in shapes])
        matmul.linear_many(packed, x, level, out=np.split(both, ends[:-1], axis=1))
        assert same(both, np.concatenate(want, axis=1))
    mixed = [*packed, quant.pack("f16", bytes(2 * cols), 1, cols)]
    with pytest.raises(errors.InvalidArgumentError, match="all float or all quantized"):
        matmul.linear_many(mixed, x, level)
    with pytest.raises(errors.InvalidArgumentError, match="1 to 16"):
        matmul.linear_many([], x, level)


def test_bad_arguments_are_refused(level):
    packed = quant.pack("q8_0", bytes(2 * 68), 2, 64)
    bad = errors.InvalidArgumentError
    x = np.zeros((3, 64), np.float32)
    wrong = [
        np.zeros((3, 64)), np.zeros(64, np.float32), np.zeros((3, 63), np.float32), x[::-1], x.astype(">f4"), x.tolist(),
        np.zeros((64, 3), np.float32).T, np.broadcast_to(x[:1], (3, 64)), np.zeros((1, 3, 64), np.float32),
        np.zeros(3 * 256 + 1, np.uint8)[1:].view(np.float32).reshape(3, 64), None,
    ]  # fmt: skip
    for value in wrong:
        with pytest.raises(bad):
            matmul.linear(packed, value, level)
    frozen = np.zeros((3, 2), np.float32)
    frozen.flags.writeable = False
    shared = np.zeros((6, 64), np.float32)
    gaps = np.zeros((3, 4), np.float32)[:, ::2]
    for out in (np.zeros((3, 3), np.float32), np.zeros((2, 2), np.float32), np.zeros((3, 2)), frozen, gaps):
        with pytest.raises(bad):
            matmul.linear(packed, x, level, out=out)
    with pytest.raises(bad, match="shares memory"):
        matmul.linear(packed, shared[:3], level, out=shared[1:4, 10:12])
    with pytest.raises(bad, match="share memory"):
        matmul.linear_many([packed, packed], x, level, out=[shared[:3, :2], shared[2:5, 1:3]])
    assert matmul.linear(packed, x[:0], level).shape == (0, 2)
    with pytest.raises(TypeError):
        matmul.linear(None, x, level)
    with pytest.raises(bad, match="generic"):
        matmul.linear(packed, x, "sse9")
    with pytest.raises(bad):
        matmul.linear(packed, x, 0)
