"""The generic kernels give the same bits from every compiler and on every processor that can be tried here."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
C = ROOT / "src" / "hyperion" / "_kernels" / "c"
SOURCES = [
    ROOT / "tests" / "c" / "portable.c",
    C / "dispatch" / "dispatch.c",
    C / "quant" / "pack.c",
    C / "quant" / "dequantize.c",
    C / "matmul" / "linear.c",
    *sorted((C / "matmul").glob("*_generic.c")),
]
FLAGS = [
    "-std=gnu11",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-DHYP_HAVE_matmul_generic",
    f"-I{C}",
]
SANITIZE = ["-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux" or not C.is_dir() or not shutil.which("gcc"),
    reason="needs Linux, gcc and the C sources",
)


def run(folder, compiler, flags, runner=()):
    program = folder / "portable"
    subprocess.run([compiler, *FLAGS, *flags, *map(str, SOURCES), "-o", str(program), "-lm"], check=True)
    return subprocess.run([*runner, str(program)], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    lines = run(tmp_path_factory.mktemp("plain"), "gcc", ["-O2", "-fno-math-errno", "-fno-trapping-math"])
    assert len(lines.splitlines()) == 14
    return lines


@pytest.mark.parametrize(
    ("compiler", "flags", "runner"),
    [
        pytest.param("gcc", SANITIZE, (), id="sanitizers"),
        pytest.param("clang", ["-O2"], (), id="clang"),
        pytest.param("aarch64-linux-gnu-gcc", ["-O2", "-static"], ("qemu-aarch64",), id="arm64"),
    ],
)
def test_bits_do_not_depend_on_the_compiler(tmp_path, expected, compiler, flags, runner):
    for tool in (compiler, *runner):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    assert run(tmp_path, compiler, flags, runner) == expected
