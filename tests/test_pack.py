"""Blocks to panels, panels to blocks, and both to floats."""

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperion import errors
from hyperion._kernels import quant, reference
from weights import QUANTIZED, random_raw, scales_at

ROWS = (1, 7, 15, 16, 17, 33)


def cols_of(kind):
    """Odd numbers of columns or blocks."""
    return (
        (1, 7, 31, 64, 97)
        if quant.TYPES[kind].block_len == 1
        else [n * quant.TYPES[kind].block_len for n in (1, 2, 5)]
    )


def gguf_floats(kind, raw, rows, cols):
    if kind == "f32":
        return raw.view("<f4").reshape(rows, cols)
    return gguf.quants.dequantize(
        raw.reshape(rows, -1), gguf.GGMLQuantizationType(quant.TYPES[kind].id)
    ).reshape(rows, cols)


def bits(x):
    return np.ascontiguousarray(x).view(np.uint32)


def test_the_table_of_types_is_ggufs():
    for name, t in quant.TYPES.items():
        assert gguf.GGMLQuantizationType[name.upper()] == t.id
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(t.id)] == (t.block_len, t.block_bytes)
        assert reference.BLOCKS[name] == (t.block_len, t.block_bytes)
        assert quant.block_type(name.upper()) is quant.block_type(t.id) is quant.block_type(t) is t
    for unknown in ("q9_9", 99, -1, None, True, 1.5):
        with pytest.raises(errors.UnsupportedError, match="q4_0"):
            quant.block_type(unknown)


@pytest.mark.parametrize("kind", quant.TYPES)
def test_floats_equal_the_gguf_package(kind):
    rng = np.random.default_rng(1)
    for rows in ROWS:
        for cols in cols_of(kind):
            raw = random_raw(rng, kind, rows, cols)
            want = bits(gguf_floats(kind, raw, rows, cols))
            packed = quant.pack(kind, raw, rows, cols)
            assert np.array_equal(bits(reference.dequantize(kind, raw, rows, cols)), want)
            assert np.array_equal(bits(quant.dequantize(kind, raw, rows, cols)), want)
            assert np.array_equal(bits(packed.dequantize()), want)
            assert np.array_equal(bits(packed.dequantize_row(rows - 1)), want[-1])
            some = rng.integers(0, rows, 5)
            assert np.array_equal(bits(packed.dequantize_rows(some)), want[some])


@pytest.mark.parametrize("kind", quant.TYPES)
def test_packing_loses_nothing_and_pads_with_zeros(kind):
    rng = np.random.default_rng(2)
    t = quant.TYPES[kind]
    for rows in ROWS:
        for cols in cols_of(kind):
            raw = rng.integers(0, 256, rows * t.row_bytes(cols), dtype=np.uint8)  # NaN scales and all
            out = np.full(t.packed_bytes(rows, cols), 0xA5, np.uint8)
            packed = quant.pack(kind, raw, rows, cols, out)
            assert (
                packed.owner is out
                and packed.shape == (rows, cols)
                and packed.nbytes == len(out) == len(packed.panels)
            )
            assert np.array_equal(packed.unpack(), raw)
            # a panel is a permutation of its bytes, lane by lane: rows that are not there leave theirs zero
            whole = quant.pack(kind, np.concatenate([raw, raw[:0]]), rows, cols).panels
            assert bytes(whole) == out.tobytes()
            assert np.count_nonzero(out) <= len(raw) and len(out) == -(-rows // 16) * 16 * t.row_bytes(cols)
            if rows % 16:
                full = np.zeros(len(out), np.uint8)
                full[: len(raw)] = raw
                lanes = np.frombuffer(quant.pack(kind, full, -(-rows // 16) * 16, cols).panels, np.uint8)
                missing = lanes != out  # q8_0 alone flips signs, in padding rows too
                assert not missing.any() if kind != "q8_0" else np.all(lanes[missing] == 0x80)


@pytest.mark.parametrize("kind", quant.TYPES)
def test_a_panel_follows_the_documented_layout(kind):
    """panel.h's table, read literally: the codes of K = 4v + i of row r lie at [v][r][i] of their vector."""
    rng = np.random.default_rng(3)
    t = quant.TYPES[kind]
    cols = 2 * t.block_len if t.block_len > 1 else 5
    raw = random_raw(rng, kind, 16, cols)
    panel = np.frombuffer(quant.pack(kind, raw, 16, cols).panels, np.uint8)
    want = reference.dequantize(kind, raw, 16, cols)
    if t.block_len == 1:
        values = reference.dequantize(kind, panel, cols, 16)  # one record a K
        assert np.array_equal(values.T, want)
        return
    got = np.concatenate([_record(kind, rec) for rec in panel.reshape(-1, 16 * t.block_bytes)], axis=1)
    assert np.array_equal(bits(got), bits(want))


def _record(kind, rec):
    """The floats [16, block_len] of one record, by the formulas in panel.h."""
    take = iter_bytes(rec)
    f16 = lambda: take(32).view("<f2").astype(np.float32)[:, None]
    lanes = lambda n: take(64 * n).reshape(n, 16, 4)
    in_order = lambda v: v.transpose(1, 0, 2).reshape(16, -1)
    d = f16()
    m = f16() if len(scales_at(kind)) == 2 else None
    if kind in ("q4_0", "iq4_nl", "q4_1", "q5_0", "q5_1"):
        h = take(64).reshape(16, 4) if kind in ("q5_0", "q5_1") else np.zeros((16, 4), np.uint8)
        q = lanes(4)
        q = np.concatenate([in_order(q & 15), in_order(q >> 4)], axis=1)
        q |= np.stack([(h[:, k % 4] >> (k // 4)) & 1 for k in range(32)], axis=1) << 4
        if kind == "iq4_nl":
            return d * reference.IQ4_NL[q]
        value = d * (q.astype(np.float32) - {"q4_0": 8, "q5_0": 16}.get(kind, 0))
        return value + m if m is not None else value
    if kind == "q8_0":
        return d * (in_order(lanes(8)).astype(np.float32) - 128)
    if kind == "q6_k":
        scale = take(256).reshape(16, 16).T.view(np.int8).astype(np.float32)
        low, high = lanes(32).reshape(2, 2, 8, 16, 4), lanes(16).reshape(2, 8, 16, 4)
        q = [
            low[n, c % 2] >> (c // 2 * 4) & 15 | (high[n] >> (2 * c) & 3) << 4
            for n in range(2)
            for c in range(4)
        ]
        q = np.concatenate([in_order(g) for g in q], axis=1).astype(np.float32) - 32
        return (d * scale).repeat(16, axis=1) * q
    if kind == "q2_k":
        s = take(256).reshape(16, 16).T
        scale, minimum = (d * (s & 15)).astype(np.float32), (m * (s >> 4)).astype(np.float32)
        return scale.repeat(16, axis=1) * in_order_of_twos(lanes(16), in_order) - minimum.repeat(16, axis=1)
    lo, hi = take(128).reshape(8, 16), take(64).reshape(4, 16)
    if kind == "q3_k":
        s = [(lo[g // 2] >> (g % 2 * 4) & 15) | (hi[g // 4] >> (g % 4 * 2) & 3) << 4 for g in range(16)]
        scale = d * (np.stack(s, axis=1).astype(np.float32) - 32)
        top = lanes(8)
        q = in_order_of_twos(lanes(16), in_order)
        q += np.concatenate([in_order(top >> g & 1) for g in range(8)], axis=1) * np.float32(4) - 4
        return scale.repeat(16, axis=1) * q
    scale = [(lo[g] & 15) | (hi[g // 2] >> (g % 2 * 4) & 3) << 4 for g in range(8)]
    minimum = [(lo[g] >> 4) | (hi[g // 2] >> (g % 2 * 4 + 2) & 3) << 4 for g in range(8)]
    scale, minimum = (
        d * np.stack(scale, axis=1).astype(np.float32),
        m * np.stack(minimum, axis=1).astype(np.float32),
    )
    top = lanes(8) if kind == "q5_k" else np.zeros((8, 16, 4), np.uint8)
    pairs = lanes(32).reshape(4, 8, 16, 4)
    q = [in_order(pairs[g // 2] >> (g % 2 * 4) & 15 | (top >> g & 1) << 4) for g in range(8)]
    return scale.repeat(32, axis=1) * np.concatenate(q, axis=1).astype(np.float32) - minimum.repeat(
        32, axis=1
    )


def in_order_of_twos(q, in_order):
    groups = [in_order(q[8 * h : 8 * h + 8] >> (2 * p) & 3) for h in range(2) for p in range(4)]
    return np.concatenate(groups, axis=1).astype(np.float32)


def iter_bytes(rec):
    at = 0

    def take(n):
        nonlocal at
        at += n
        assert at <= len(rec)
        return np.ascontiguousarray(rec[at - n : at])

    return take


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(quant.TYPES)), st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_any_bytes_survive(kind, rows, blocks, seed):
    t = quant.TYPES[kind]
    cols = blocks * t.block_len
    raw = np.random.default_rng(seed).integers(0, 256, rows * t.row_bytes(cols), dtype=np.uint8)
    assert np.array_equal(quant.pack(kind, raw, rows, cols).unpack(), raw)


@pytest.mark.parametrize("kind", quant.TYPES)
def test_nonfinite_scales_are_found(kind):
    rng = np.random.default_rng(4)
    t = quant.TYPES[kind]
    raw = random_raw(rng, kind, 3, 4 * t.block_len).reshape(12, t.block_bytes)
    assert quant.find_nonfinite(kind, raw) == -1
    places = (0,) if t.block_len == 1 else scales_at(kind)
    for at in places:
        for value in (np.inf, -np.inf, np.nan):
            bad = raw.copy()
            if kind == "f32":
                bad[7] = np.array([value], "<f4").view(np.uint8)
            elif kind == "bf16":
                bad[7] = (np.array([value], "<f4").view("<u4") >> 16).astype("<u2").view(np.uint8)
            else:
                bad[7, at : at + 2] = np.array([value], "<f2").view(np.uint8)
            assert quant.find_nonfinite(kind, bad) == 7
            bad[9] = bad[7]
            assert quant.find_nonfinite(kind, bad) == 7
    assert quant.find_nonfinite(kind, b"") == -1
    with pytest.raises(errors.InvalidArgumentError, match="whole number"):
        quant.find_nonfinite(kind, bytes(t.block_bytes + 1))


def test_every_half_becomes_the_right_float():
    halves = np.arange(65536, dtype="<u2")
    got = quant.dequantize("f16", halves, 256, 256).ravel()
    want = halves.view("<f2").astype(np.float32)
    nan = np.isnan(want)
    assert np.array_equal(bits(got[~nan]), bits(want[~nan])) and np.isnan(got[nan]).all()


@pytest.mark.parametrize("kind", QUANTIZED)
def test_half_blocks_are_refused(kind):
    t = quant.TYPES[kind]
    with pytest.raises(errors.InvalidArgumentError, match="multiples"):
        quant.pack(kind, bytes(t.block_bytes), 1, t.block_len + 1)


def test_bad_sizes_and_buffers_are_refused():
    raw = np.zeros(34 * 4, np.uint8)
    bad = errors.InvalidArgumentError
    for rows, cols in ((0, 32), (-1, 32), (1, 0), (1.5, 32), (True, 32), ("1", 32), (1, 33)):
        with pytest.raises(bad):
            quant.pack("q8_0", raw, rows, cols)
    for rows, cols in ((2**62, 32), (2**31, 2**31), (1, 2**64), (2**60, 2**60)):
        with pytest.raises(bad):
            quant.PackedMatrix("q8_0", rows, cols, raw)
        with pytest.raises(bad):
            quant.dequantize("q8_0", raw, rows, cols)
    with pytest.raises(bad, match="take 136 bytes"):
        quant.pack("q8_0", raw[:-1], 2, 64)
    with pytest.raises(bad, match="contiguous"):
        quant.pack("q8_0", np.zeros((136, 2), np.uint8)[:, 0], 2, 64)
    with pytest.raises(bad, match="contiguous"):
        quant.pack("q8_0", [0] * 136, 2, 64)
    with pytest.raises(bad, match="must have"):
        quant.pack("q8_0", raw, 2, 64, np.zeros(1087, np.uint8))
    with pytest.raises(bad, match="read-only"):
        quant.pack("q8_0", raw, 2, 64, bytes(1088))
    both = np.zeros(1088 + 136, np.uint8)
    with pytest.raises(bad, match="shares memory"):
        quant.pack("q8_0", both[1000:1136], 2, 64, both[:1088])
    panels = quant.pack("q8_0", raw, 2, 64)
    data = np.concatenate([np.zeros(5, np.uint8), np.frombuffer(panels.panels, np.uint8)])
    assert np.array_equal(quant.PackedMatrix("q8_0", 2, 64, data, 5).unpack(), raw)
    for offset in (6, -1, 2**70, 1.0, True):
        with pytest.raises(bad):
            quant.PackedMatrix("q8_0", 2, 64, data, offset)
    for row in (-1, 2, 2**40):
        with pytest.raises(bad, match="0 .. 1"):
            panels.dequantize_row(row)
    for row in (1.0, "1", True):
        with pytest.raises(bad):
            panels.dequantize_row(row)
    for out in (
        np.zeros((2, 63), np.float32),
        np.zeros((2, 64)),
        np.zeros((2, 128), np.float32)[:, ::2],
        [0.0],
    ):
        with pytest.raises(bad, match="out must be"):
            panels.dequantize(out)
    assert panels.dequantize_rows([]).shape == (0, 64)


def test_a_matrix_keeps_its_memory():
    owner = bytearray(quant.TYPES["q4_0"].packed_bytes(3, 64))
    packed = quant.PackedMatrix("q4_0", 3, 64, owner)
    with pytest.raises(BufferError):
        owner.clear()
    del packed
    owner.clear()
