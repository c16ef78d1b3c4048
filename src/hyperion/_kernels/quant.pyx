"""Numeric types of weights, packed panels and their way from and to GGUF blocks."""

from typing import NamedTuple

import numpy as np

from hyperion.errors import HyperionRuntimeError, InvalidArgumentError, UnsupportedError

cdef extern from "quant/pack.h" nogil:
    int hyp_pack_panel(int type, const uint8_t *src, size_t stride, size_t rows, size_t cols, uint8_t *dst)
    int hyp_unpack_row(int type, const uint8_t *panel, size_t r, size_t cols, uint8_t *dst)
    int hyp_dequantize_row(int type, const uint8_t *src, size_t cols, float *dst)
    int hyp_dequantize_panel_row(int type, const uint8_t *panel, size_t r, size_t cols, float *dst)
    size_t hyp_sparse_panel_bytes(int type, size_t n)
    size_t hyp_sparse_pack_panel(int type, const uint8_t *panel, size_t cols, const uint8_t *keep, uint8_t *dst)
    void hyp_sparse_expand_panel(int type, const uint8_t *panel, size_t nbytes, size_t cols, uint8_t *dst)
    int hyp_sparse_is_sound(int type, const uint8_t *panel, size_t nbytes, size_t cols)
    int hyp_can_be_sparse(int type)
    int64_t hyp_find_nonfinite(int type, const uint8_t *src, size_t blocks)
    enum:
        HYP_F32
        HYP_F16
        HYP_BF16
        HYP_Q4_0
        HYP_Q4_1
        HYP_Q5_0
        HYP_Q5_1
        HYP_Q8_0
        HYP_Q2_K
        HYP_Q3_K
        HYP_Q4_K
        HYP_Q5_K
        HYP_Q6_K
        HYP_IQ4_NL
        HYP_SPARSE_BLOCKS


class BlockType(NamedTuple):
    id: int
    name: str
    block_len: int
    block_bytes: int

    def row_bytes(self, cols):
        return _checked_cols(self, cols) // self.block_len * self.block_bytes

    def panel_bytes(self, cols):
        return PANEL * self.row_bytes(cols)

    def packed_bytes(self, rows, cols):
        return -(-_checked_size("rows", rows) // PANEL) * self.panel_bytes(cols)

    @property
    def can_be_sparse(self):
        return bool(hyp_can_be_sparse(self.id))


PANEL = HYP_PANEL
TYPES = {
    name: BlockType(number, name, hyp_block_len(number), hyp_block_bytes(number))
    for name, number in (
        ("f32", HYP_F32), ("f16", HYP_F16), ("bf16", HYP_BF16),
        ("q4_0", HYP_Q4_0), ("q4_1", HYP_Q4_1), ("q5_0", HYP_Q5_0), ("q5_1", HYP_Q5_1), ("q8_0", HYP_Q8_0),
        ("q2_k", HYP_Q2_K), ("q3_k", HYP_Q3_K), ("q4_k", HYP_Q4_K), ("q5_k", HYP_Q5_K), ("q6_k", HYP_Q6_K),
        ("iq4_nl", HYP_IQ4_NL),
    )
}
_by_id = {t.id: t for t in TYPES.values()}


def block_type(type):
    if isinstance(type, BlockType):
        return type
    if isinstance(type, str):
        found = TYPES.get(type.lower())
    else:
        found = _by_id.get(type) if isinstance(type, int) and not isinstance(type, bool) else None
    if found is None:
        raise UnsupportedError(f"weights of type {type!r} are not supported; supported are {', '.join(TYPES)}")
    return found


cdef object _checked_size(str what, object value):
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise InvalidArgumentError(f"{what} must be a positive integer, not {value!r}")
    return value.__index__()


cdef object _checked_cols(object kind, object cols):
    cols = _checked_size("cols", cols)
    if cols % kind.block_len:
        raise InvalidArgumentError(f"{kind.name} needs cols in multiples of {kind.block_len}, not {cols}")
    return cols


cdef const uint8_t[::1] _bytes(object data, str what):
    """A read-only view of any contiguous buffer's bytes."""
    try:
        view = memoryview(data)
        if view.nbytes == 0:
            return b"\0"[:0]
        return view.cast("B")
    except (TypeError, ValueError, BufferError) as error:
        name = type(data).__name__
        raise InvalidArgumentError(f"{what} must be a contiguous buffer, not {name}: {error}") from None


cdef uint8_t[::1] _writable(object data, object nbytes, str what):
    view = _bytes(data, what)
    if view.shape[0] != nbytes:
        raise InvalidArgumentError(f"{what} must have {nbytes} bytes, not {view.shape[0]}")
    if memoryview(data).readonly:
        raise InvalidArgumentError(f"{what} is read-only")
    return memoryview(data).cast("B")


cdef int _apart(const uint8_t *a, size_t n, const uint8_t *b, size_t m, str what) except -1:
    if <size_t>a < <size_t>b + m and <size_t>b < <size_t>a + n:
        raise InvalidArgumentError(f"{what} shares memory with the input")
    return 0


cdef object _floats(object out, tuple shape, str what):
    """`out` checked, or a new array: C-contiguous float32 of `shape`."""
    if out is None:
        return np.empty(shape, np.float32)
    if not isinstance(out, np.ndarray) or out.dtype != np.float32 or out.shape != shape:
        got = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise InvalidArgumentError(f"{what} must be a float32 array of shape {shape}, not {got}")
    if not out.flags.c_contiguous or not out.flags.writeable:
        raise InvalidArgumentError(f"{what} must be C-contiguous and writable")
    return out


cdef int _check(int status, str what) except -1:
    if status:
        raise HyperionRuntimeError(f"{what} failed with status {status}")
    return 0


cdef class PackedMatrix:
    def __init__(self, type, rows, cols, data, offset=0, offsets=None):
        kind = block_type(type)
        rows, cols = _checked_size("rows", rows), _checked_cols(kind, cols)
        if isinstance(offset, bool) or not hasattr(offset, "__index__") or offset < 0:
            raise InvalidArgumentError(f"offset must be an integer of at least 0, not {offset!r}")
        if offsets is not None:
            offsets = check_offsets(kind, rows, cols, offsets)
        nbytes = kind.packed_bytes(rows, cols) if offsets is None else int(offsets[-1] - offsets[0])
        offset = offset.__index__()
        view = _bytes(data, "data")
        # Python's integers do not overflow, and what fits in a buffer fits in size_t
        if offset > view.shape[0] or nbytes > view.shape[0] - offset:
            raise InvalidArgumentError(
                f"a packed {kind.name} matrix of {rows} x {cols} takes {nbytes} bytes; the buffer has "
                f"{view.shape[0]}, of which {offset} are skipped")
        self.owner, self.view, self.offset, self.nbytes = data, view, offset, nbytes
        self.weight.type, self.weight.rows, self.weight.cols = kind.id, rows, cols
        self.weight.panels = &self.view[self.offset] if nbytes else <const uint8_t *>b""
        self.offsets = offsets
        if offsets is not None:
            self._set_offsets(offsets)

    def __cinit__(self):
        self.weight.panels = NULL
        self.weight.offsets = NULL

    cdef int _set_offsets(self, const uint64_t[::1] offsets) except -1:
        cdef size_t p
        for p in range(<size_t>offsets.shape[0] - 1):
            if not hyp_sparse_is_sound(self.weight.type, self.weight.panels + (offsets[p] - offsets[0]),
                                       offsets[p + 1] - offsets[p], self.weight.cols):
                raise InvalidArgumentError(f"sparse panel {p} has no sound list of blocks")
        self.weight.offsets = &offsets[0]
        return 0

    cdef int _panel(self, size_t p, uint8_t *dense) noexcept nogil:
        """A sparse panel as a dense one."""
        cdef const uint64_t *at = self.weight.offsets
        hyp_sparse_expand_panel(self.weight.type, self.weight.panels + (at[p] - at[0]), at[p + 1] - at[p],
                                self.weight.cols, dense)
        return 0

    @property
    def sparse(self):
        return self.offsets is not None

    def kept_blocks(self):
        cdef size_t p, j, n, record = HYP_PANEL * hyp_block_bytes(self.weight.type) + 2
        cdef const uint64_t *at = self.weight.offsets
        kept = np.zeros((-(-self.rows // PANEL), self.cols // 32), np.uint8)
        cdef uint8_t[:, ::1] target = kept
        cdef const uint8_t *index
        if at == NULL:
            raise InvalidArgumentError("the panels are dense: they have every block")
        n = target.shape[0]
        for p in range(n):
            index = self.weight.panels + (at[p] - at[0])
            for j in range(<size_t>(at[p + 1] - at[p]) // record):
                target[p, index[2 * j] | index[2 * j + 1] << 8] = 1
        return kept.astype(bool)

    def expand(self, out=None):
        cdef size_t p, n, panel = hyp_panel_bytes(self.weight.type, self.weight.cols)
        if self.weight.offsets == NULL:
            raise InvalidArgumentError("the panels are dense already")
        nbytes = self.type.packed_bytes(self.rows, self.cols)
        if out is None:
            out = np.empty(nbytes, np.uint8)
        cdef uint8_t[::1] target = _writable(out, nbytes, "out")
        _apart(&target[0], target.shape[0], self.weight.panels, self.nbytes, "out")
        n = (self.weight.rows + HYP_PANEL - 1) // HYP_PANEL
        with nogil:
            for p in range(n):
                self._panel(p, &target[p * panel])
        return PackedMatrix(self.type, self.rows, self.cols, out)

    @property
    def type(self):
        return _by_id[self.weight.type]

    @property
    def rows(self):
        return self.weight.rows

    @property
    def cols(self):
        return self.weight.cols

    @property
    def shape(self):
        return self.weight.rows, self.weight.cols

    @property
    def panels(self):
        return memoryview(self.owner).cast("B")[self.offset:self.offset + self.nbytes].toreadonly()

    def unpack(self, out=None):
        cdef size_t row, rows = self.weight.rows, cols = self.weight.cols
        cdef size_t row_bytes = hyp_row_bytes(self.weight.type, cols)
        if self.weight.offsets != NULL:
            return self.expand().unpack(out)
        cdef size_t panel = hyp_panel_bytes(self.weight.type, cols)
        cdef int kind = self.weight.type, status = 0
        if out is None:
            out = np.empty(rows * row_bytes, np.uint8)
        cdef uint8_t[::1] target = _writable(out, rows * row_bytes, "out")
        cdef const uint8_t *source = self.weight.panels
        _apart(&target[0], rows * row_bytes, source, self.nbytes, "out")
        with nogil:
            for row in range(rows):
                status = hyp_unpack_row(kind, source + row // HYP_PANEL * panel, row % HYP_PANEL, cols,
                                        &target[row * row_bytes])
                if status:
                    break
        _check(status, "unpacking")
        return out

    def dequantize(self, out=None):
        return self.dequantize_rows(np.arange(self.weight.rows), out)

    def dequantize_row(self, row, out=None):
        if isinstance(row, bool) or not hasattr(row, "__index__"):
            raise InvalidArgumentError(f"row must be an integer, not {row!r}")
        if out is None:
            return self.dequantize_rows([row])[0]
        _floats(out, (self.weight.cols,), "out")
        self.dequantize_rows([row], out[np.newaxis])
        return out

    def dequantize_rows(self, indices, out=None):
        cdef size_t i, row, panel = hyp_panel_bytes(self.weight.type, self.weight.cols)
        cdef int status = 0
        index = np.asarray(indices)
        if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
            raise InvalidArgumentError(
                f"row indices must be a list of integers, not {index.dtype} {index.shape}")
        if index.size and (index.min() < 0 or index.max() >= self.weight.rows):
            raise InvalidArgumentError(f"row indices must lie in 0 .. {self.weight.rows - 1}, not "
                                       f"{index.min()} .. {index.max()}")
        out = _floats(out, (len(index), self.weight.cols), "out")
        if index.size == 0:
            return out
        if self.weight.offsets != NULL:
            return self._dequantize_sparse_rows(index, out)
        cdef const int64_t[::1] wanted = np.ascontiguousarray(index, np.int64)
        cdef float[:, ::1] target = out
        _apart(<const uint8_t *>&target[0, 0], out.nbytes, self.weight.panels, self.nbytes, "out")
        with nogil:
            for i in range(<size_t>wanted.shape[0]):
                row = <size_t>wanted[i]
                status = hyp_dequantize_panel_row(
                    self.weight.type, self.weight.panels + row // HYP_PANEL * panel, row % HYP_PANEL,
                    self.weight.cols, &target[i, 0])
                if status:
                    break
        _check(status, "dequantizing")
        return out

    def _dequantize_sparse_rows(self, index, out):
        """Each panel is expanded once, whichever of its rows are wanted."""
        panel = np.empty(self.type.panel_bytes(self.cols), np.uint8)
        cdef uint8_t[::1] view = panel
        panels, rows = np.divmod(index, PANEL)
        for p in np.unique(panels).tolist():
            self._panel(p, &view[0])
            wanted = panels == p
            out[wanted] = PackedMatrix(self.type, PANEL, self.cols, panel).dequantize_rows(rows[wanted])
        return out

    def __repr__(self):
        kind = ", sparse" if self.sparse else ""
        return f"PackedMatrix({self.type.name!r}, {self.rows}, {self.cols}{kind})"

    def __reduce__(self):
        raise TypeError("a PackedMatrix cannot be pickled: it is a view of memory; unpack() gives its blocks")


def check_offsets(type, rows, cols, offsets):
    kind = block_type(type)
    panels = -(-_checked_size("rows", rows) // PANEL)
    cols = _checked_cols(kind, cols)
    if not kind.can_be_sparse or cols > 32 * HYP_SPARSE_BLOCKS:
        raise InvalidArgumentError(f"{kind.name} panels of {cols} columns cannot be sparse")
    result = np.ascontiguousarray(offsets, np.uint64)
    if result.shape != (panels + 1,):
        raise InvalidArgumentError(f"{rows} rows need {panels + 1} offsets, not {result.shape}")
    counts = np.diff(result.astype(np.int64)) // (HYP_PANEL * kind.block_bytes + 2)
    if counts.min() < 0 or counts.max() > cols // 32 or not np.array_equal(sparse_offsets(kind, counts), result - result[0]):
        raise InvalidArgumentError("the offsets are not those of sparse panels")
    return result


def sparse_offsets(type, counts):
    kind = block_type(type)
    counts = np.asarray(counts, np.int64)
    sizes = (2 * counts + 31) // 32 * 32 + counts * (HYP_PANEL * kind.block_bytes)
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint64)


def sparsify(PackedMatrix packed not None, keep, out=None):
    cdef size_t p, panels, panel = hyp_panel_bytes(packed.weight.type, packed.weight.cols)
    kind = packed.type
    if packed.sparse or not kind.can_be_sparse or packed.cols > 32 * HYP_SPARSE_BLOCKS:
        raise InvalidArgumentError(f"{packed!r} cannot be made sparse")
    shape = (-(-packed.rows // PANEL), packed.cols // 32)
    keep = np.ascontiguousarray(keep, np.uint8)
    if keep.shape != shape:
        raise InvalidArgumentError(f"keep must have shape {shape}, not {keep.shape}")
    offsets = sparse_offsets(kind, np.count_nonzero(keep, axis=1))
    nbytes = int(offsets[-1])
    if out is None:
        out = np.empty(nbytes, np.uint8)
    cdef const uint8_t[:, ::1] mask = keep
    cdef const uint64_t[::1] at = offsets
    cdef uint8_t[::1] target = _writable(out, nbytes, "out")
    panels = mask.shape[0]
    if nbytes:
        _apart(&target[0], target.shape[0], packed.weight.panels, packed.nbytes, "out")
        with nogil:
            for p in range(panels):
                if at[p + 1] > at[p]:
                    hyp_sparse_pack_panel(packed.weight.type, packed.weight.panels + p * panel, packed.weight.cols, &mask[p, 0],
                                          &target[at[p]])
    return PackedMatrix(kind, packed.rows, packed.cols, out, offsets=offsets)


cdef tuple _source(object type, object raw, object rows, object cols):
    kind = block_type(type)
    rows, cols = _checked_size("rows", rows), _checked_cols(kind, cols)
    nbytes = rows * kind.row_bytes(cols)
    got = _bytes(raw, "raw").shape[0]
    if got != nbytes:
        raise InvalidArgumentError(f"{rows} x {cols} of {kind.name} take {nbytes} bytes, not {got}")
    return kind, rows, cols


def pack(type, raw, rows, cols, out=None):
    cdef size_t panel, panels, n_rows, n_cols, row_bytes, panel_bytes
    cdef int number, status = 0
    kind, rows, cols = _source(type, raw, rows, cols)
    number, n_rows, n_cols = kind.id, rows, cols
    nbytes = kind.packed_bytes(rows, cols)
    if out is None:
        out = np.empty(nbytes, np.uint8)
    cdef const uint8_t[::1] source = _bytes(raw, "raw")
    cdef uint8_t[::1] target = _writable(out, nbytes, "out")
    _apart(&target[0], target.shape[0], &source[0], source.shape[0], "out")
    panels, row_bytes = (n_rows + HYP_PANEL - 1) // HYP_PANEL, hyp_row_bytes(number, n_cols)
    panel_bytes = hyp_panel_bytes(number, n_cols)
    with nogil:
        for panel in range(panels):
            status = hyp_pack_panel(number, &source[panel * HYP_PANEL * row_bytes], row_bytes,
                                    min(n_rows - panel * HYP_PANEL, <size_t>HYP_PANEL), n_cols,
                                    &target[panel * panel_bytes])
            if status:
                break
    _check(status, "packing")
    return PackedMatrix(kind, rows, cols, out)


def dequantize(type, raw, rows, cols, out=None):
    cdef size_t row, n_rows, n_cols, row_bytes
    cdef int number, status = 0
    kind, rows, cols = _source(type, raw, rows, cols)
    number, n_rows, n_cols = kind.id, rows, cols
    row_bytes = hyp_row_bytes(number, n_cols)
    cdef const uint8_t[::1] source = _bytes(raw, "raw")
    out = _floats(out, (rows, cols), "out")
    cdef float[:, ::1] target = out
    _apart(<const uint8_t *>&target[0, 0], out.nbytes, &source[0], source.shape[0], "out")
    with nogil:
        for row in range(n_rows):
            status = hyp_dequantize_row(number, &source[row * row_bytes], n_cols, &target[row, 0])
            if status:
                break
    _check(status, "dequantizing")
    return out


def find_nonfinite(type, raw):
    cdef int number
    cdef int64_t found
    cdef size_t blocks
    kind = block_type(type)
    cdef const uint8_t[::1] source = _bytes(raw, "raw")
    if source.shape[0] % kind.block_bytes:
        raise InvalidArgumentError(f"{source.shape[0]} bytes are no whole number of {kind.name} blocks of "
                                   f"{kind.block_bytes} bytes")
    if source.shape[0] == 0:
        return -1
    number, blocks = kind.id, source.shape[0] // kind.block_bytes
    with nogil:
        found = hyp_find_nonfinite(number, &source[0], blocks)
    return found
