"""Which kernels run: the levels that this build and this processor have, and the table of each."""

from libc.stdlib cimport getenv

from hyperion.errors import InvalidArgumentError, UnsupportedError

cdef extern from "dispatch/dispatch.h":
    ctypedef struct hyp_features:
        int sse4_2, avx, avx2, fma, f16c, avx_vnni
        int avx512f, avx512bw, avx512vl, avx512dq, avx512_vnni, avx512_bf16
        int amx_tile, amx_int8, amx_bf16
        int neon

    void hyp_detect(hyp_features *features) noexcept nogil
    const char *hyp_level_name(int level) noexcept nogil
    int hyp_level_table(const hyp_features *features, int level, hyp_table *table) noexcept nogil

cdef hyp_features _features
cdef hyp_table _tables[HYP_LEVELS]
cdef bint _present[HYP_LEVELS]


def _initialise():
    cdef int level
    hyp_detect(&_features)
    names, present = [], []
    for level in range(HYP_LEVELS):
        name = hyp_level_name(level).decode()
        names.append(name)
        _present[level] = hyp_level_table(&_features, level, &_tables[level]) == 0
        if _present[level]:
            present.append(name)
    return tuple(names), tuple(present)


LEVELS, _levels = _initialise()
cdef bytes _ENVIRONMENT = b"HYPERION_SIMD"
ENVIRONMENT = _ENVIRONMENT.decode()


cdef const hyp_table *table(int level) except NULL:
    if level < 0 or level >= HYP_LEVELS or not _present[level]:
        name = LEVELS[level] if 0 <= level < HYP_LEVELS else level
        raise UnsupportedError(f"the level {name!r} is not available here; present are {', '.join(_levels)}")
    return &_tables[level]


cdef int level_number(object level) except -1:
    cdef int number
    name = default_level() if level is None else level
    if not isinstance(name, str) or name not in LEVELS:
        raise InvalidArgumentError(f"a level is one of {', '.join(LEVELS)} or None, not {name!r}")
    number = LEVELS.index(name)
    table(number)
    return number


def levels():
    return _levels


def default_level():
    cdef const char *wanted = getenv(_ENVIRONMENT)  # os.environ passes on what it is given, and is slow to ask
    if wanted is NULL or wanted[0] == 0:
        return _levels[len(_levels) - 1]
    name = wanted.decode("utf-8", "replace")
    if name not in LEVELS:
        raise InvalidArgumentError(f"{ENVIRONMENT} is one of {', '.join(LEVELS)}, not {name!r}")
    if name not in _levels:
        raise UnsupportedError(f"{ENVIRONMENT}={name} is not available; present are {', '.join(_levels)}")
    return name


def level_name(int level):
    if level < 0 or level >= HYP_LEVELS:
        raise InvalidArgumentError(f"a level's number is 0 to {HYP_LEVELS - 1}, not {level}")
    return LEVELS[level]


def features():
    return {name: bool(value) for name, value in (<dict>_features).items()}
