"""SentencePiece vocabularies in flat tables, and text by them."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

import os

import numpy as np

from hyperion._kernels.threads cimport check_signals, check_status

from hyperion.errors import HyperionMemoryError, InvalidArgumentError

cdef extern from "pieces/pieces.h" nogil:
    enum:
        HYP_OK
        HYP_CANCELLED
    const uint32_t HYP_NO_PIECE
    ctypedef struct hyp_pieces:
        const uint8_t *text
        const uint32_t *starts
        const uint32_t *ranks
        uint32_t count
        uint32_t longest
        uint32_t *slots
        uint32_t slot_count
        uint64_t seed
        const uint32_t *bytes
        uint32_t unknown
        int words
    uint32_t hyp_pieces_index(hyp_pieces *p)
    uint32_t hyp_pieces_find(const hyp_pieces *p, const uint8_t *text, size_t n)
    size_t hyp_pieces_work(size_t n)
    int hyp_pieces_encode(const hyp_pieces *p, const uint8_t *text, size_t n,
                          int (*poll)(void *) noexcept, void *work, uint32_t *ids, size_t *count)

NEVER = HYP_NO_PIECE
MOST_BYTES = (1 << 31) - 1


def work_bytes(size_t nbytes):
    """Bytes of work space for a text of so many bytes without a space in it, its ids included."""
    return hyp_pieces_work(nbytes) + 4 * nbytes


cdef class Pieces:
    """The tokens of a vocabulary by number and by text.

    Parameters
    ----------
    text : bytes
        All tokens, back to back in UTF-8.
    starts : ndarray
        uint32 [n + 1], ascending: where each starts, and the end.
    ranks : ndarray
        uint32 [n]: pairs that make the token of lowest rank are merged first; `NEVER` for tokens that no merge touches.
    byte_pieces : ndarray, optional
        uint32 [256]: the tokens that stand for the bytes of characters that are no token.
    unknown : int, optional
        The token that stands for such characters where there are no byte tokens.
    words : bool
        No token that a merge makes has U+2581 after another character.

    Raises
    ------
    InvalidArgumentError
        If the tables do not fit each other.
    """

    cdef hyp_pieces c
    cdef bytes text
    cdef uint32_t twice
    cdef const uint32_t[::1] starts, ranks, byte_pieces
    cdef uint32_t[::1] slots

    def __cinit__(self, bytes text not None, const uint32_t[::1] starts not None, const uint32_t[::1] ranks not None,
                  const uint32_t[::1] byte_pieces=None, unknown=None, bint words=False):
        cdef Py_ssize_t i, n = ranks.shape[0]
        if n < 1 or n >= 1 << 30 or starts.shape[0] != n + 1 or starts[0] != 0 or starts[n] != PyBytes_GET_SIZE(text):
            raise InvalidArgumentError(f"{n} ranks, {starts.shape[0]} starts and {len(text)} bytes are no vocabulary")
        for i in range(n):
            if starts[i] > starts[i + 1]:
                raise InvalidArgumentError(f"token {i} ends before it starts")
        if byte_pieces is not None and (byte_pieces.shape[0] != 256 or np.max(byte_pieces) >= n):
            raise InvalidArgumentError("byte_pieces must be 256 tokens")
        if unknown is not None and not 0 <= unknown < n:
            raise InvalidArgumentError(f"the unknown token {unknown} is not one of {n}")
        self.text, self.starts, self.ranks, self.byte_pieces = text, starts, ranks, byte_pieces
        self.slots = np.zeros(1 << int(2 * n - 1).bit_length(), np.uint32)
        self.c.text = <const uint8_t *> PyBytes_AS_STRING(text)
        self.c.starts, self.c.ranks, self.c.count = &starts[0], &ranks[0], <uint32_t> n
        self.c.slots, self.c.slot_count = &self.slots[0], <uint32_t> self.slots.shape[0]
        self.c.seed = int.from_bytes(os.urandom(8), "little")
        if byte_pieces is not None:
            self.c.bytes = &byte_pieces[0]
        self.c.unknown = HYP_NO_PIECE if unknown is None else <uint32_t> unknown
        self.c.words = words
        with nogil:
            self.twice = hyp_pieces_index(&self.c)

    @property
    def repeated(self):
        """The numbers of two tokens with the same text, or None."""
        if self.twice == HYP_NO_PIECE:
            return None
        return self.find(self.piece(self.twice)), self.twice

    def __len__(self):
        return self.c.count

    @property
    def nbytes(self):
        """Bytes of all tables."""
        return PyBytes_GET_SIZE(self.text) + 4 * (self.starts.shape[0] + self.ranks.shape[0] + self.slots.shape[0])

    @property
    def words(self):
        """Whether a text may be cut where a run of U+2581 starts."""
        return bool(self.c.words)

    def find(self, bytes text not None):
        """The number of the token with this text, or None."""
        cdef uint32_t i = hyp_pieces_find(&self.c, <const uint8_t *> PyBytes_AS_STRING(text), <size_t> PyBytes_GET_SIZE(text))
        return None if i == HYP_NO_PIECE else i

    def piece(self, size_t number):
        """The text of a token, in bytes; None if there is no such token."""
        if number >= self.c.count:
            return None
        return self.text[self.starts[<Py_ssize_t> number]:self.starts[<Py_ssize_t> number + 1]]

    def encode(self, bytes text not None):
        """The tokens of a text in UTF-8, spaces written as U+2581: uint32 [at most a token a byte].

        Raises
        ------
        InvalidArgumentError
            If a character is no token and neither byte tokens nor an unknown token stand for it, or the text has 2^31 bytes.
        HyperionMemoryError
            If there is no memory for the work space.
        """
        cdef size_t n = <size_t> PyBytes_GET_SIZE(text), count = 0
        cdef const uint8_t *data = <const uint8_t *> PyBytes_AS_STRING(text)
        cdef uint32_t[::1] ids
        cdef void *work
        cdef int status
        if n > <size_t> MOST_BYTES:
            raise InvalidArgumentError(f"a text of {n} bytes without a space is too long, at most {MOST_BYTES} can be encoded")
        result = np.empty(n, np.uint32)
        if n == 0:
            return result
        ids = result
        work = malloc(hyp_pieces_work(n))
        if work == NULL:
            raise HyperionMemoryError(f"no memory to encode a text of {n} bytes")
        with nogil:
            status = hyp_pieces_encode(&self.c, data, n, check_signals, work, &ids[0], &count)
        free(work)
        if status == HYP_CANCELLED:
            check_status(status, "encoding a text")
        if status != HYP_OK:
            raise InvalidArgumentError("the text has a character that the vocabulary cannot express")
        return result[:count]
