"""The thread team: `Team` owns one, ``threads.pxd`` hands its functions to the other extensions."""

import os
import threading

from cpython.exc cimport PyErr_Occurred
from libc.stdint cimport int32_t, uint64_t
from libc.stdlib cimport calloc, free

from hyperion.errors import HyperionIOError, HyperionMemoryError, HyperionRuntimeError, InvalidArgumentError

cdef extern from "Python.h" nogil:
    int PyErr_CheckSignals() noexcept
    unsigned long PyThread_get_thread_ident() noexcept

cdef extern from "threads/os.h" nogil:
    uint64_t hyp_now()

MAX_THREADS = 4096

cdef unsigned long main_thread = 0


def _remember_main_thread():
    global main_thread
    main_thread = <unsigned long> threading.main_thread().ident


_remember_main_thread()
if hasattr(os, "register_at_fork"):  # the thread that forked is the child's main thread
    os.register_at_fork(after_in_child=_remember_main_thread)


cdef const hyp_threads_api *api() noexcept nogil:
    return hyp_threads_get_api()


cdef int check_signals(void *arg) noexcept nogil:
    if PyThread_get_thread_ident() != main_thread:
        return 0
    with gil:
        return PyErr_CheckSignals()


cdef int check_status(int status, str what) except -1:
    if status == HYP_OK:
        return 0
    if status == HYP_CANCELLED:
        if PyErr_Occurred():
            return -1
        raise KeyboardInterrupt
    if status == HYP_ERROR_MEMORY:
        raise HyperionMemoryError(f"{what}: out of memory")
    if status == HYP_ERROR_IO:
        raise HyperionIOError(f"{what}: reading or writing failed")
    if status == HYP_ERROR_ARGUMENT:
        raise InvalidArgumentError(f"{what}: an argument is out of range")
    raise HyperionRuntimeError(f"{what}: failed with status {status}")


cdef class Team:
    """A team of threads for parallel regions; the caller of a region is one of them.

    No thread starts before the first region, and all end with the object. A team may be used from several
    Python threads (while one has the workers, the others work alone) and after a fork (the child starts its
    own threads).

    Parameters
    ----------
    threads : int
        1 to 4096, the caller included.

    Raises
    ------
    InvalidArgumentError
        If `threads` is out of range.
    HyperionMemoryError
        If there is no memory for the team.
    """

    def __cinit__(self, threads):
        if isinstance(threads, bool) or not hasattr(threads, "__index__") or not 1 <= threads <= MAX_THREADS:
            raise InvalidArgumentError(f"threads must be an integer from 1 to {MAX_THREADS}, not {threads!r}")
        self._team = hyp_threads_get_api().create(<size_t> threads)
        if self._team == NULL:
            raise HyperionMemoryError(f"no memory for a team of {threads} threads")
        hyp_threads_get_api().set_poll(self._team, check_signals, NULL)

    def __dealloc__(self):
        if self._team != NULL:
            with nogil:
                hyp_threads_get_api().destroy(self._team)

    @property
    def threads(self):
        """Number of threads, the caller included."""
        return hyp_threads_get_api().size(self._team)

    def __repr__(self):
        return f"Team({self.threads})"

    def __reduce__(self):
        raise TypeError("a Team cannot be pickled: it is threads of this process")


# ---- Probes: regions with a visible effect, for tests and measurements -------------------------------------

cdef struct Count:
    int32_t *hits
    hyp_team *team
    size_t nested


cdef struct Sum:
    const double *values
    double *partial


cdef struct Busy:
    uint64_t nanoseconds
    int32_t *done


cdef void count_task(void *arg, size_t begin, size_t end, size_t worker) noexcept nogil:
    cdef Count *c = <Count *> arg
    cdef Count inner
    cdef size_t i
    if c.nested:
        inner = Count(c.hits + begin, c.team, 0)
        hyp_threads_get_api().run(c.team, count_task, &inner, end - begin, c.nested)
        return
    for i in range(begin, end):
        c.hits[i] += 1


cdef void sum_task(void *arg, size_t begin, size_t end, size_t worker) noexcept nogil:
    cdef Sum *s = <Sum *> arg
    cdef double total = 0
    cdef size_t i
    for i in range(begin, end):
        total += s.values[i]
    s.partial[8 * worker] += total


cdef void busy_task(void *arg, size_t begin, size_t end, size_t worker) noexcept nogil:
    cdef Busy *b = <Busy *> arg
    cdef uint64_t until
    cdef size_t _i
    for _i in range(begin, end):
        until = hyp_now() + b.nanoseconds
        while hyp_now() < until:
            pass
        b.done[16 * worker] += 1


def probe_count(Team team not None, int32_t[::1] hits, size_t grain, size_t nested=0):
    """Add 1 to every element of `hits` (int32); `nested` > 0: through inner regions of that grain."""
    cdef size_t n = <size_t> hits.shape[0]
    cdef Count c = Count(NULL, team._team, nested)
    cdef int status
    if n:
        c.hits = &hits[0]
    with nogil:
        status = hyp_threads_get_api().run(team._team, count_task, &c, n, grain)
    check_status(status, "probe_count")


def probe_sum(Team team not None, const double[::1] values, size_t grain):
    """Return the sum of `values` (float64), each worker adding into its own slot."""
    cdef size_t n = <size_t> values.shape[0]
    cdef Py_ssize_t i
    cdef double *partial = <double *> calloc(8 * team.threads, sizeof(double))
    cdef double total = 0
    cdef int status
    cdef Sum s = Sum(NULL, partial)
    if partial == NULL:
        raise HyperionMemoryError("no memory for the partial sums")
    if n:
        s.values = &values[0]
    with nogil:
        status = hyp_threads_get_api().run(team._team, sum_task, &s, n, grain)
    for i in range(team.threads):
        total += partial[8 * i]
    free(partial)
    check_status(status, "probe_sum")
    return total


def probe_busy(Team team not None, size_t chunks, uint64_t nanoseconds):
    """Burn `nanoseconds` in each of `chunks` chunks; return how many the caller did not do itself."""
    cdef Py_ssize_t i
    cdef int32_t *done = <int32_t *> calloc(16 * team.threads, sizeof(int32_t))
    cdef int status, others = 0
    cdef Busy b = Busy(nanoseconds, done)
    if done == NULL:
        raise HyperionMemoryError("no memory for the counters")
    with nogil:
        status = hyp_threads_get_api().run(team._team, busy_task, &b, chunks, 1)
    for i in range(1, team.threads):
        others += done[16 * i]
    free(done)
    check_status(status, "probe_busy")
    return others


cdef void empty_task(void *arg, size_t begin, size_t end, size_t worker) noexcept nogil:
    pass


def probe_regions(Team team not None, size_t regions):
    """Run `regions` regions of one empty task a thread; return the nanoseconds of all."""
    cdef uint64_t start
    cdef size_t _i
    cdef int status = 0
    with nogil:
        start = hyp_now()
        for _i in range(regions):
            status = hyp_threads_get_api().run(team._team, empty_task, NULL, hyp_threads_get_api().size(team._team), 1)
            if status:
                break
        start = hyp_now() - start
    check_status(status, "probe_regions")
    return start
