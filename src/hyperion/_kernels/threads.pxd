cdef extern from "threads/threads.h" nogil:
    ctypedef struct hyp_team:
        pass
    ctypedef void (*hyp_task_fn)(void *arg, size_t begin, size_t end, size_t worker) noexcept nogil
    ctypedef int (*hyp_poll_fn)(void *arg) noexcept nogil
    ctypedef struct hyp_threads_api:
        hyp_team *(*create)(size_t threads) noexcept nogil
        void (*destroy)(hyp_team *team) noexcept nogil
        size_t (*size)(const hyp_team *team) noexcept nogil
        void (*set_poll)(hyp_team *team, hyp_poll_fn poll, void *arg) noexcept nogil
        int (*run)(hyp_team *team, hyp_task_fn task, void *arg, size_t n, size_t grain) noexcept nogil
    const hyp_threads_api *hyp_threads_get_api()
    enum:
        HYP_OK
        HYP_ERROR_MEMORY
        HYP_ERROR_IO
        HYP_ERROR_ARGUMENT
        HYP_ERROR_RUNTIME
        HYP_CANCELLED

# The one copy of the team's code is in this extension; others reach it through the table.
cdef const hyp_threads_api *api() noexcept nogil

# Asks for signals on the main thread (takes the GIL there, and only there); nonzero when a handler raised.
cdef int check_signals(void *arg) noexcept nogil

# HYP_OK passes; HYP_CANCELLED raises what the signal's handler left; the rest raises the matching
# HyperionError.
cdef int check_status(int status, str what) except -1

cdef class Team:
    cdef hyp_team *_team
