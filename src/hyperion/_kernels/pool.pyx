"""Memory that Hyperion owns: page buffers."""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.exc cimport PyErr_SetInterrupt

from hyperion.errors import HyperionMemoryError, HyperionRuntimeError, InvalidArgumentError

cdef Py_ssize_t LARGEST = <Py_ssize_t> ((<size_t> -1) >> 1)

PAGE_SIZE = hyp_page_size()

# Allocations until one fails; 0 when none shall. Touched with the GIL held only.
cdef Py_ssize_t until_failure = 0


def fail_allocation(Py_ssize_t nth):
    """Let the `nth` page allocation from now on fail, once (1 is the next); 0 lets none fail. For tests."""
    global until_failure
    until_failure = nth


cdef bint shall_fail() noexcept:
    global until_failure
    if until_failure <= 0:
        return False
    until_failure -= 1
    return until_failure == 0


cdef size_t checked_size(nbytes) except? 0:
    if isinstance(nbytes, bool) or not hasattr(nbytes, "__index__"):
        raise InvalidArgumentError(f"nbytes must be an integer, not {nbytes!r}")
    if nbytes < 0:
        raise InvalidArgumentError(f"nbytes must not be negative, is {nbytes}")
    if nbytes > LARGEST:
        raise HyperionMemoryError(f"{nbytes} bytes are more than the address space holds")
    return <size_t> nbytes


def rounded(nbytes):
    """Bytes that a `PageBuffer` of `nbytes` really holds: whole pages, at least one."""
    return hyp_pages_rounded(checked_size(nbytes))


cdef class PageBuffer:
    """Zeroed, page-aligned memory from the system, as a writable buffer of uint8.

    Parameters
    ----------
    nbytes : int
        Size; 0 is allowed.
    huge : bool
        Ask for huge pages when the buffer has 2 MiB or more (the start is then aligned to 2 MiB). False
        declines them, so that memory becomes resident page by page as it is touched.
    on_release : callable, optional
        Called without arguments after the pages went back to the system.

    Raises
    ------
    InvalidArgumentError
        If `nbytes` is not an integer of at least 0.
    HyperionMemoryError
        If the system has no such memory.

    Notes
    -----
    A view (``memoryview``, ``numpy.frombuffer``) keeps the pages alive: :meth:`close` refuses new views at
    once, and the pages go with the last view.
    """

    def __cinit__(self, nbytes, bint huge=True, on_release=None):
        cdef size_t size = checked_size(nbytes)
        if on_release is not None and not callable(on_release):
            raise InvalidArgumentError(f"on_release must be callable, not {on_release!r}")
        if shall_fail() or hyp_pages_map(&self._pages, size, huge) != HYP_OK:
            raise HyperionMemoryError(f"the system has no {size} bytes of memory", nbytes=size)
        self._on_release = on_release

    cdef void _release(self) noexcept:
        cdef object done = self._on_release
        if self._pages.data == NULL:
            return
        with nogil:
            hyp_pages_unmap(&self._pages)
        self._on_release = None
        if done is not None:
            _call(done)

    def __dealloc__(self):
        # Nobody refers to it: neither views nor holders are left.
        self._release()

    def __getbuffer__(self, Py_buffer *view, int flags):
        self.data()
        PyBuffer_FillInfo(view, self, self._pages.data, <Py_ssize_t> self._pages.bytes, 0, flags)
        self._exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.drop()

    cdef uint8_t *data(self) except NULL:
        if self._closed:
            raise HyperionRuntimeError("the buffer is closed")
        return self._pages.data

    cdef int hold(self) except -1:
        self.data()
        self._exports += 1
        return 0

    cdef void drop(self) noexcept:
        self._exports -= 1
        if self._closed and self._exports == 0:
            self._release()

    @property
    def address(self):
        """Address of the first byte."""
        return <size_t> self.data()

    @property
    def nbytes(self):
        """Size asked for; 0 once the pages are gone."""
        return self._pages.bytes

    @property
    def mapped(self):
        """Bytes held: `nbytes` in whole pages; 0 once they are gone."""
        return self._pages.mapped

    @property
    def closed(self):
        """Whether :meth:`close` was called."""
        return bool(self._closed)

    @property
    def released(self):
        """Whether the pages went back to the system."""
        return self._pages.data == NULL

    def __len__(self):
        return self._pages.bytes

    def discard(self, size_t offset=0, nbytes=None):
        """Give the whole pages inside a range back to the system; they stay usable and read as zeros.

        Parameters
        ----------
        offset : int
            Where the range begins.
        nbytes : int, optional
            Its length; to the buffer's end by default.
        """
        cdef size_t size
        cdef int status
        self.data()
        if offset > self._pages.bytes:
            raise InvalidArgumentError(f"offset {offset} is past the buffer's {self._pages.bytes} bytes")
        size = self._pages.bytes - offset if nbytes is None else checked_size(nbytes)
        self.hold()
        with nogil:
            status = hyp_pages_discard(&self._pages, offset, size)
        self.drop()
        if status == HYP_ERROR_ARGUMENT:
            raise InvalidArgumentError(
                f"{size} bytes from {offset} on are not inside the buffer's {self._pages.bytes} bytes")
        if status != HYP_OK:
            raise HyperionMemoryError("the system refused to take pages back")

    def close(self):
        """Give the pages back to the system, as soon as no view uses them. May be called again."""
        self._closed = True
        if self._exports == 0:
            self._release()

    def __enter__(self):
        self.data()
        return self

    def __exit__(self, *error):
        self.close()

    def __repr__(self):
        state = "released" if self._pages.data == NULL else "closed" if self._closed else "open"
        return f"PageBuffer({self._pages.bytes} bytes, {state})"

    def __reduce__(self):
        raise TypeError("a PageBuffer cannot be pickled")


cdef void _call(done) noexcept:
    # An exception here has nobody to go to: Cython reports it as unraisable. Ctrl-C is for whoever runs, and comes again after
    # the memory was counted: were the count broken off, the budget would lack these bytes for good.
    cdef int _
    cdef bint interrupted = False
    for _ in range(16):
        try:
            done()
            break
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        PyErr_SetInterrupt()
