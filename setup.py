"""The compiled extensions; everything else is in pyproject.toml.

One rule decides what is linked where:

* ``c/<family>/<name>_<isa>.c`` is built with that instruction set's flags and linked into ``dispatch``, which owns
  the tables of function pointers.
* ``c/<family>/<name>.c`` is baseline code, linked into the extension of its family and those listed in ``ALSO``.
"""

import os
import platform
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext

KERNELS = Path("src/hyperion/_kernels")
C = KERNELS / "c"
X86 = platform.machine().lower() in {"x86_64", "amd64", "i686"} and "arm64" not in os.environ.get("ARCHFLAGS", "")
ALSO = {"nn": ["matmul"], "dispatch": []}

GNU = ["-O3", "-std=gnu11", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wall"]
MSVC = ["/O2", "/std:c11", "/fp:precise"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni"]
ISA = {  # suffix: (GNU flags, MSVC flags); order does not matter
    "generic": ([], []),
    "avx2": (AVX2, ["/arch:AVX2"]),
    "avxvnni": ([*AVX2, "-mavxvnni"], ["/arch:AVX2"]),
    "avx512": (AVX512, ["/arch:AVX512"]),
    "amx": ([*AVX512, "-mamx-tile", "-mamx-int8"], ["/arch:AVX512"]),
}


def sources(family):
    """Baseline C files of a family: those whose name does not end in an instruction set."""
    return [str(p) for p in sorted((C / family).glob("*.c")) if p.stem.rsplit("_", 1)[-1] not in ISA]


def isa_libraries():
    headers = [str(p) for p in sorted(C.rglob("*.h"))]
    libraries = []
    for isa, (gnu, msvc) in ISA.items():
        files = [str(p) for p in sorted(C.rglob(f"*_{isa}.c"))] if X86 or isa == "generic" else []
        if files:
            info = {"sources": files, "obj_deps": {"": headers}, "include_dirs": [str(C)], "gnu": gnu, "msvc": msvc}
            libraries.append((f"hyp_{isa}", info))
    return libraries


class BuildClib(build_clib):
    """Pick each library's flags once the compiler is known."""

    def build_libraries(self, libraries):
        for _, info in libraries:
            msvc = self.compiler.compiler_type == "msvc"
            info["cflags"] = MSVC + info["msvc"] if msvc else GNU + info["gnu"]
        super().build_libraries(libraries)


class BuildExt(build_ext):
    def build_extensions(self):
        msvc = self.compiler.compiler_type == "msvc"
        for extension in self.extensions:
            extension.extra_compile_args = MSVC if msvc else [*GNU, "-Wno-unused-function"]
            if not msvc and sys.platform != "darwin":
                extension.extra_link_args = ["-pthread"]
                extension.libraries = [*extension.libraries, "m"]
        super().build_extensions()


def extensions():
    isa = [name for name, _ in isa_libraries()]
    result = []
    for pyx in sorted(KERNELS.glob("*.pyx")):
        families = [pyx.stem, *ALSO.get(pyx.stem, [])]
        result.append(
            Extension(
                f"hyperion._kernels.{pyx.stem}",
                [str(pyx), *(f for family in families for f in sources(family))],
                include_dirs=[str(C)],
                libraries=isa if pyx.stem == "dispatch" else [],
                define_macros=[("CYTHON_EXTERN_C", "extern")],
                depends=[str(p) for p in sorted(C.rglob("*.h"))],
            )
        )
    return result


setup(
    libraries=isa_libraries(),
    ext_modules=cythonize(
        extensions(),
        include_path=["src"],
        compiler_directives={"language_level": 3, "boundscheck": False, "wraparound": False, "freethreading_compatible": False},
    ),
    cmdclass={"build_clib": BuildClib, "build_ext": BuildExt},
)
