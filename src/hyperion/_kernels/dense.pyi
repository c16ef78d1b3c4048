from numpy import float32, int64
from numpy.typing import NDArray
from typing_extensions import Buffer, disjoint_base

from hyperion._kernels.threads import Team

MAPS: dict[str, int]
"""Names of the element-wise functions."""

def apply(team: Team, name: str, x: NDArray[float32], out: NDArray[float32], level: str | None = None) -> None: ...
def softmax_buffer_bytes(team: Team, x: NDArray[float32], out: NDArray[float32]) -> int: ...
def softmax(
    team: Team, x: NDArray[float32], out: NDArray[float32], buffer: Buffer | None, level: str | None = None
) -> None: ...

@disjoint_base
class Blocks:
    def __new__(cls, rows: int, depth: int, super_rows: int, cols: int, ahead: int, line: int) -> Blocks: ...

def gemm_tile(level: str | None = None) -> tuple[int, int]: ...
def gemm_buffer_bytes(m: int, n: int, k: int, blocks: Blocks, level: str | None = None) -> int: ...
def gemm(
    team: Team,
    a: NDArray[float32],
    b: NDArray[float32],
    out: NDArray[float32],
    offsets: NDArray[int64],
    blocks: Blocks,
    buffer: Buffer,
    level: str | None = None,
) -> None: ...
