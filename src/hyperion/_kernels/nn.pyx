"""Transformer blocks and the output head, run whole without the GIL."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free

from cpython.exc cimport PyErr_Occurred

from hyperion._kernels.dispatch cimport (
    HYP_KV_TYPES,
    HYP_LEVEL_GENERIC,
    HYP_ACT_KINDS,
    HYP_MAPS,
    HYP_TYPES,
    hyp_table,
    hyp_tuning,
    level_number,
    table as kernel_table,
)
from hyperion._kernels.stream cimport Ring
from hyperion._kernels.threads cimport Team, api as threads_api

from hyperion._kernels.dispatch import level_name
from hyperion._kernels.quant import check_offsets


from hyperion.errors import HyperionMemoryError, HyperionRuntimeError, InvalidArgumentError

KV_TYPES = {"f16": HYP_KV_F16, "q8_0": HYP_KV_Q8_0, "q4_0": HYP_KV_Q4_0}
PANEL = HYP_PANEL


cdef const uint8_t *_bytes(object owner, size_t offset, size_t nbytes) except? NULL:
    """Address of owner[offset : offset + nbytes]; the caller keeps the owner alive."""
    cdef const uint8_t[::1] view = owner
    cdef const uint8_t *base
    if offset > <size_t>view.shape[0] or nbytes > <size_t>view.shape[0] - offset:
        raise InvalidArgumentError(
            f"{nbytes} bytes at offset {offset} are wanted of a buffer of {view.shape[0]}")
    base = &view[0]
    return base + offset


cdef class Matrix:
    """A weight matrix: `pinned_rows` rows of packed panels in `owner` at `offset`, the others as pieces of a stream.

    pieces are (row, rows) in order, the first one numbered `first_piece` in the runtime's source; together with the
    pinned rows they cover every row once. Sparse panels have `offsets`, uint64 [panels + 1]; the first is that of row 0.
    """

    def __cinit__(self, int type, size_t rows, size_t cols, owner=None, size_t offset=0, pinned_rows=None,
                  size_t first_piece=0, pieces=(), offsets=None):
        cdef size_t pinned = rows if pinned_rows is None else pinned_rows
        cdef size_t at = pinned, i, nbytes, panels = (pinned + HYP_PANEL - 1) // HYP_PANEL
        cdef const uint64_t[::1] places
        if hyp_block_len(type) == 0 or rows == 0 or cols == 0 or cols % hyp_block_len(type):
            raise InvalidArgumentError(f"a matrix [{rows}, {cols}] of type {type} cannot be computed with")
        if pinned > rows or (pinned < rows and pinned % HYP_PANEL):
            raise InvalidArgumentError(f"{pinned} pinned rows of {rows}: expected whole panels of {HYP_PANEL}")
        self.owner = owner
        self.c.type, self.c.rows, self.c.cols, self.c.pinned_rows = type, rows, cols, pinned
        nbytes = panels * hyp_panel_bytes(type, cols)
        if offsets is not None:
            self.offsets = places = check_offsets(type, rows, cols, offsets)
            self.c.offsets = &places[0]
            nbytes = places[panels] - places[0]
        if nbytes:
            self.c.pinned = _bytes(owner, offset, nbytes)
        self.c.first_piece, self.c.pieces = first_piece, len(pieces)
        self.piece = <hyp_piece *>calloc(len(pieces) + 1, sizeof(hyp_piece))
        if self.piece is NULL:
            raise HyperionMemoryError("no memory for a matrix's list of pieces")
        self.c.piece = self.piece
        for i, (row, count) in enumerate(pieces):
            if row != at or count <= 0 or row % HYP_PANEL:
                raise InvalidArgumentError(f"piece {i} starts at row {row}, expected {at}")
            self.piece[i].row, self.piece[i].rows = row, count
            at += count
        if at != rows:
            raise InvalidArgumentError(f"pinned rows and pieces cover {at} of {rows} rows")

    def __dealloc__(self):
        free(self.piece)

    @property
    def type(self):
        return self.c.type

    @property
    def shape(self):
        return self.c.rows, self.c.cols

    @property
    def pinned_rows(self):
        return self.c.pinned_rows

    @property
    def streamed_pieces(self):
        return self.c.pieces


cdef class Block:
    """The weights of one transformer block.

    matrices: q, k, v, o, gate, up, down; vectors: float32 arrays by name (attn_norm, ffn_norm, and where the
    architecture has them q_bias, k_bias, v_bias, o_bias, q_norm, k_norm).
    """

    def __cinit__(self, Shape shape, dict matrices, dict vectors):
        cdef size_t dim = shape.c.dim, qd = shape.c.heads * shape.c.head_dim, kd = shape.c.kv_heads * shape.c.head_dim
        cdef size_t hd = shape.c.head_dim, ffn = shape.c.ffn_dim
        self.keep = [shape]
        self.c.q = self._matrix(matrices, "q", qd, dim)
        self.c.k = self._matrix(matrices, "k", kd, dim)
        self.c.v = self._matrix(matrices, "v", kd, dim)
        self.c.o = self._matrix(matrices, "o", dim, qd)
        self.c.gate = self._matrix(matrices, "gate", ffn, dim)
        self.c.up = self._matrix(matrices, "up", ffn, dim)
        self.c.down = self._matrix(matrices, "down", dim, ffn)
        self.c.attn_norm = self._vector(vectors, "attn_norm", dim, True)
        self.c.ffn_norm = self._vector(vectors, "ffn_norm", dim, True)
        self.c.q_bias = self._vector(vectors, "q_bias", qd, False)
        self.c.k_bias = self._vector(vectors, "k_bias", kd, False)
        self.c.v_bias = self._vector(vectors, "v_bias", kd, False)
        self.c.o_bias = self._vector(vectors, "o_bias", dim, False)
        self.c.q_norm = self._vector(vectors, "q_norm", hd, False)
        self.c.k_norm = self._vector(vectors, "k_norm", hd, False)

    cdef hyp_matrix _matrix(self, dict matrices, str name, size_t rows, size_t cols) except *:
        cdef Matrix m = matrices[name]
        if m.c.rows != rows or m.c.cols != cols:
            raise InvalidArgumentError(f"matrix {name!r} is {[m.c.rows, m.c.cols]}, the block needs {[rows, cols]}")
        self.keep.append(m)
        return m.c

    cdef const float *_vector(self, dict vectors, str name, size_t n, bint needed) except? NULL:
        cdef const float[::1] view
        value = vectors.get(name)
        if value is None:
            if needed:
                raise InvalidArgumentError(f"the block needs a vector {name!r} of {n} floats")
            return NULL
        view = value
        if <size_t>view.shape[0] != n:
            raise InvalidArgumentError(f"vector {name!r} has {view.shape[0]} values, the block needs {n}")
        self.keep.append(value)
        return &view[0]


cdef class Shape:
    """Sizes and constants that all blocks of a model share."""

    def __cinit__(self, *, size_t dim, size_t heads, size_t kv_heads, size_t head_dim, size_t ffn_dim, size_t rot,
                  bint interleaved, bint gelu, float eps, float scale, str kv_type="f16"):
        if 0 in (dim, heads, kv_heads, head_dim, ffn_dim) or heads % kv_heads or rot > head_dim or rot % 2:
            raise InvalidArgumentError(
                f"a block of {heads} heads, {kv_heads} KV heads of {head_dim} dims ({rot} rotated) cannot be")
        if kv_type not in KV_TYPES:
            raise InvalidArgumentError(f"kv_type is one of {sorted(KV_TYPES)}, not {kv_type!r}")
        self.c.dim, self.c.heads, self.c.kv_heads, self.c.head_dim = dim, heads, kv_heads, head_dim
        self.c.ffn_dim, self.c.rot, self.c.interleaved, self.c.gelu = ffn_dim, rot, interleaved, gelu
        self.c.eps, self.c.scale, self.c.kv_type = eps, scale, KV_TYPES[kv_type]

    def scratch_bytes(self, size_t tokens, size_t workers):
        """Bytes of scratch that a block needs for this many tokens and workers."""
        return hyp_block_scratch(&self.c, tokens, workers)

    def kv_head_bytes(self, size_t positions):
        """(bytes of keys, bytes of values) of one head for this many positions."""
        cdef size_t tiles = (positions + HYP_ATTN_TILE - 1) // HYP_ATTN_TILE * (HYP_ATTN_TILE // 16)
        return (tiles * hyp_k_tile_bytes(self.c.kv_type, self.c.head_dim),
                tiles * 16 * hyp_v_row_bytes(self.c.kv_type, self.c.head_dim))

    def kv_bytes(self, size_t positions):
        """Bytes of one layer's cache for this many positions."""
        keys, values = self.kv_head_bytes(positions)
        return self.c.kv_heads * (_round64(keys) + _round64(values))


cdef size_t _round64(size_t n):
    return (n + 63) & ~<size_t>63


cdef class Cache:
    """One sequence's keys and values in every layer, in memory that the caller owns (zeroed, writable)."""

    def __cinit__(self, Shape shape, size_t layers, size_t positions, owner):
        cdef uint8_t[::1] view = owner
        keys, values = shape.kv_head_bytes(positions)
        cdef size_t need = layers * <size_t>shape.kv_bytes(positions)
        if <size_t>view.shape[0] < need:
            raise InvalidArgumentError(f"a cache of {positions} positions needs {need} bytes, not {view.shape[0]}")
        self.owner, self.layers, self.positions = owner, layers, positions
        self.base = &view[0]
        self.v_offset = _round64(keys)
        self.head_bytes = self.v_offset + _round64(values)
        self.layer_bytes = shape.kv_bytes(positions)


cdef class Runtime:
    """The kernels, threads and weight stream that a model runs on."""

    def __cinit__(self, Team team, level=None):
        cdef const hyp_table *t = kernel_table(level_number(level))
        self.table = t[0]
        self.team = team
        self.c.table = &self.table
        self.c.threads = threads_api()
        self.c.team = team._team

    cdef int check(self, int status) except -1:
        """Turn a C status into the exception that belongs to it."""
        if status == HYP_OK:
            return 0
        if PyErr_Occurred() is not NULL:  # set by the poll that cancelled
            return -1
        if self.ring is not None:
            self.ring.raise_failure()
        if status == HYP_CANCELLED:
            raise KeyboardInterrupt
        raise HyperionRuntimeError(f"a kernel ended with status {status}")

    def set_level(self, level, plain=()):
        """Run the kernels of a level, and the generic ones for operations in `plain` ("matmul", "activation", "attention").

        No pass may be under way.
        """
        cdef const hyp_table *chosen = kernel_table(level_number(level))
        cdef const hyp_table *generic = kernel_table(HYP_LEVEL_GENERIC)
        cdef hyp_tuning tuning = self.table.tuning
        cdef int i
        self.table = chosen[0]
        self.table.tuning = tuning
        if "matmul" in plain:
            for i in range(HYP_TYPES):
                self.table.mul[i] = generic.mul[i]
            for i in range(HYP_ACT_KINDS):
                self.table.act[i] = generic.act[i]
            self.table.gemm = generic.gemm
        if "activation" in plain:
            self.table.silu_mul, self.table.gelu_mul = generic.silu_mul, generic.gelu_mul
            self.table.softmax = generic.softmax
            for i in range(HYP_MAPS):
                self.table.map[i] = generic.map[i]
        if "attention" in plain:
            for i in range(HYP_KV_TYPES):
                self.table.attention[i], self.table.kv_store[i] = generic.attention[i], generic.kv_store[i]

    def set_tuning(self, size_t panels, size_t ahead, size_t line):
        """Panels of weights that a thread takes at a time (0: by size), and bytes prefetched after them by lines."""
        if ahead and not line:
            raise InvalidArgumentError("prefetching goes by lines of at least one byte")
        self.table.tuning.panels, self.table.tuning.ahead, self.table.tuning.line = panels, ahead, line

    @property
    def tuning(self):
        """(panels, ahead, line) of `set_tuning`."""
        return self.table.tuning.panels, self.table.tuning.ahead, self.table.tuning.line

    def set_source(self, Ring ring):
        """Where streamed pieces come from, with room for each thread of the team to pack in; None where everything is pinned."""
        if ring is not None and ring.workers < self.c.threads.size(self.c.team):
            threads = self.c.threads.size(self.c.team)
            raise InvalidArgumentError(f"a ring for {ring.workers} workers, and {threads} threads that multiply")
        self.ring = ring
        if ring is None:
            self.c.source.self = NULL
        else:
            self.c.source.self = <void *>ring.c
            self.c.source.acquire, self.c.source.release = ring.acquire, ring.release

    @property
    def level_name(self):
        """The instruction set that this model's kernels use."""
        return level_name(self.table.level)

    def block_forward(self, Shape shape, Block block, size_t layer, caches, const int64_t[::1] positions,
                      const int32_t[::1] sequences, const float[:, ::1] rotation, float[:, ::1] x,
                      uint8_t[::1] scratch):
        """Run one block over x [tokens, dim] in place; `sequences` index `caches`, a list of :class:`Cache`.

        A KeyboardInterrupt leaves x and the caches' entries at these positions undefined; everything else is whole.
        """
        cdef size_t m = x.shape[0], i, n = len(caches)
        cdef hyp_batch batch
        cdef Cache cache
        cdef int status
        if m == 0 or <size_t>x.shape[1] != shape.c.dim or <size_t>positions.shape[0] != m or \
                <size_t>sequences.shape[0] != m or <size_t>rotation.shape[0] != m or \
                <size_t>rotation.shape[1] != shape.c.rot:
            raise InvalidArgumentError(
                f"x [{x.shape[0]}, {x.shape[1]}], positions [{positions.shape[0]}], sequences [{sequences.shape[0]}] "
                f"and rotation [{rotation.shape[0]}, {rotation.shape[1]}] do not describe one batch")
        cdef size_t needed = hyp_block_scratch(&shape.c, m, self.c.threads.size(self.c.team))
        if <size_t>scratch.shape[0] < needed or <size_t>&scratch[0] % 64:
            raise InvalidArgumentError("the scratch is too small or not aligned to 64 bytes")
        cdef hyp_cache *c = <hyp_cache *>calloc(n + 1, sizeof(hyp_cache))
        if c is NULL:
            raise HyperionMemoryError("no memory for a list of caches")
        try:
            for i in range(n):
                cache = caches[i]
                if layer >= cache.layers:
                    raise InvalidArgumentError(f"layer {layer} of a cache of {cache.layers}")
                c[i].base = cache.base + layer * cache.layer_bytes
                c[i].head_bytes, c[i].v_offset = cache.head_bytes, cache.v_offset
            for i in range(m):
                if sequences[i] < 0 or <size_t>sequences[i] >= n:
                    raise InvalidArgumentError(f"token {i} names sequence {sequences[i]} of {n}")
                cache = caches[sequences[i]]
                if positions[i] < 0 or <size_t>positions[i] >= cache.positions:
                    raise InvalidArgumentError(
                        f"token {i} stands at position {positions[i]} of a cache of {cache.positions}")
            batch.tokens, batch.position, batch.sequence = m, &positions[0], &sequences[0]
            batch.rotation = &rotation[0, 0] if shape.c.rot else NULL
            batch.x, batch.scratch = &x[0, 0], &scratch[0]
            with nogil:
                status = hyp_block_forward(&self.c, &shape.c, &block.c, c, &batch)
            self.check(status)
        finally:
            free(c)

    def head_forward(self, const float[::1] norm, float eps, Matrix output, const float[:, ::1] x,
                     const int64_t[::1] rows, float[:, ::1] logits, uint8_t[::1] scratch):
        """logits[i] = output matrix times the final norm of x[rows[i]]."""
        cdef size_t n = rows.shape[0], i
        cdef int status
        if n == 0 or <size_t>x.shape[1] != output.c.cols or <size_t>norm.shape[0] != output.c.cols or \
                <size_t>logits.shape[0] != n or <size_t>logits.shape[1] != output.c.rows:
            raise InvalidArgumentError("norm, output matrix, x and logits do not fit together")
        for i in range(n):
            if rows[i] < 0 or rows[i] >= x.shape[0]:
                raise InvalidArgumentError(f"row {rows[i]} of {x.shape[0]}")
        if <size_t>scratch.shape[0] < hyp_head_scratch(output.c.cols, n) or <size_t>&scratch[0] % 64:
            raise InvalidArgumentError("the scratch is too small or not aligned to 64 bytes")
        with nogil:
            status = hyp_head_forward(&self.c, &norm[0], eps, &output.c, &x[0, 0], x.shape[1], &rows[0], n,
                                      &logits[0, 0], output.c.rows, &scratch[0])
        self.check(status)


def head_scratch_bytes(size_t dim, size_t n):
    """Bytes of scratch that `Runtime.head_forward` needs for n rows."""
    return hyp_head_scratch(dim, n)
