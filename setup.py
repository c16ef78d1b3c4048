"""The compiled extensions; everything else is in pyproject.toml.

One rule decides what is linked where:

* ``c/<family>/<name>_<isa>.c`` is built with that instruction set's flags and linked into ``dispatch``, which owns
  the tables of function pointers. ``dispatch`` sees a macro ``HYP_HAVE_<name>_<isa>`` for each file that was built, and
  ``HYP_BUILT_<isa>``: what the compiler or the processor's architecture does not know is left out.
* ``c/<family>/<name>.c`` is baseline code, linked into the extension of its family and those listed in ``ALSO``.
"""

import functools
import os
import platform
import sys
import tempfile
from pathlib import Path
from sysconfig import get_platform

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

KERNELS = Path("src/hyperion/_kernels")
C = KERNELS / "c"
if (
    sys.platform == "darwin"
):  # a universal2 Python would compile for both processors, and neither knows the other's flags
    os.environ.setdefault("ARCHFLAGS", f"-arch {platform.machine()}")
ALSO = {"blocks": ["pool"], "nn": ["matmul", "quant"], "quantize": ["quant"], "stream": ["quant"]}

GNU = [
    "-O3",
    "-g0",
    "-std=gnu11",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
]
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


def targets_x86():
    """Whether the code is built for x86-64, which on macOS and Windows need not be what this machine is."""
    if sys.platform == "darwin":
        return "x86_64" in os.environ["ARCHFLAGS"] and "arm64" not in os.environ["ARCHFLAGS"]
    if sys.platform == "win32":
        return get_platform() == "win-amd64"
    return platform.machine().lower() in {"x86_64", "amd64"} and sys.maxsize > 2**32


X86 = targets_x86()


def sources(family):
    """Baseline C files of a family: those whose name does not end in an instruction set."""
    return [str(p) for p in sorted((C / family).glob("*.c")) if p.stem.rsplit("_", 1)[-1] not in ISA]


def isa_sources(isa):
    return [str(p) for p in sorted(C.rglob(f"*_{isa}.c"))] if X86 or isa == "generic" else []


def isa_libraries():
    headers = [str(p) for p in sorted(C.rglob("*.h"))]
    return [
        (
            f"hyp_{isa}",
            {"isa": isa, "sources": isa_sources(isa), "obj_deps": {"": headers}, "include_dirs": [str(C)]},
        )
        for isa in ISA
        if isa_sources(isa)
    ]


@functools.cache
def supports(compiler, isa):
    """Whether the compiler knows the flags of an instruction set (gcc before 11 has no AVX-VNNI and no AMX)."""
    if isa == "generic" or compiler.compiler_type == "msvc":
        return True
    with tempfile.TemporaryDirectory() as scratch:
        probe = Path(scratch, "probe.c")
        probe.write_text("int hyp_probe(void) { return 0; }\n")
        try:
            compiler.compile([str(probe)], output_dir=scratch, extra_postargs=ISA[isa][0])
        except CompileError:
            print(f"the compiler does not know {ISA[isa][0]}: building without {isa}")
            return False
    return True


class BuildClib(build_clib):
    """Pick each library's flags once the compiler is known."""

    def build_libraries(self, libraries):
        kept = []
        for name, info in libraries:
            gnu, msvc = ISA[info["isa"]]
            if supports(self.compiler, info["isa"]):
                info["cflags"] = MSVC + msvc if self.compiler.compiler_type == "msvc" else GNU + gnu
                kept.append((name, info))
        super().build_libraries(kept)


class BuildExt(build_ext):
    def build_extensions(self):
        msvc = self.compiler.compiler_type == "msvc"
        self.compiler.set_libraries([])  # the instruction sets' libraries belong to dispatch alone
        for extension in self.extensions:
            extension.extra_compile_args = MSVC if msvc else [*GNU, "-Wno-unused-function"]
            if not msvc and sys.platform != "darwin":
                extension.extra_link_args = ["-pthread"]
                extension.libraries = [*extension.libraries, "m"]
            if extension.name.endswith(".dispatch"):
                self.link_instruction_sets(extension)
        super().build_extensions()

    def link_instruction_sets(self, extension):
        for isa in ISA:
            files = isa_sources(isa)
            if files and supports(self.compiler, isa):
                extension.libraries = [f"hyp_{isa}", *extension.libraries]
                extension.define_macros += [(f"HYP_HAVE_{Path(f).stem}", None) for f in files]
                extension.define_macros.append((f"HYP_BUILT_{isa}", None))
                extension.depends += files


def extensions():
    result = []
    for pyx in sorted(KERNELS.glob("*.pyx")):
        families = [pyx.stem, *ALSO.get(pyx.stem, [])]
        result.append(
            Extension(
                f"hyperion._kernels.{pyx.stem}",
                [str(pyx), *(f for family in families for f in sources(family))],
                include_dirs=[str(C)],
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
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "freethreading_compatible": False,
        },
    ),
    cmdclass={"build_clib": BuildClib, "build_ext": BuildExt},
)
