from collections.abc import Callable, Sequence

from numpy import float32, int64
from numpy.typing import NDArray
from typing_extensions import Buffer, disjoint_base

from hyperion._kernels.threads import Team

MAPS: dict[str, int]
"""Names of the element-wise functions."""

def apply(team: Team, name: str, x: NDArray[float32], out: NDArray[float32], level: str | None = None) -> None: ...
def rows_buffer_bytes(team: Team, x: NDArray[float32], out: NDArray[float32]) -> int: ...
def softmax(
    team: Team, x: NDArray[float32], out: NDArray[float32], buffer: Buffer | None, level: str | None = None
) -> None: ...
def rms_norm(
    team: Team,
    x: NDArray[float32],
    weight: NDArray[float32],
    eps: float,
    out: NDArray[float32],
    buffer: Buffer | None,
    level: str | None = None,
) -> None: ...
def layer_norm(
    team: Team,
    x: NDArray[float32],
    weight: NDArray[float32] | None,
    bias: NDArray[float32] | None,
    eps: float,
    out: NDArray[float32],
    buffer: Buffer | None,
    level: str | None = None,
) -> None: ...

@disjoint_base
class Blocks:
    def __new__(cls, rows: int, depth: int, super_rows: int, cols: int, ahead: int, line: int, level: str | None = None) -> Blocks: ...

def gemm_tile(level: str | None = None) -> tuple[int, int]: ...
def gemm_buffer_bytes(
    a: NDArray[float32], b: NDArray[float32], out: NDArray[float32], blocks: Blocks
) -> int: ...
def gemm(
    team: Team,
    a: NDArray[float32],
    b: NDArray[float32],
    out: NDArray[float32],
    offsets: NDArray[int64],
    blocks: Blocks,
    buffer: Buffer | None,
) -> None: ...
def plain_product(
    a: object,
    b: object,
    out: object,
    alone: Team,
    team: Callable[[int | None], Team],
    threads: int | None,
    small: int,
    blocks: Blocks,
) -> NDArray[float32] | None: ...

@disjoint_base
class Convolution:
    def __new__(
        cls,
        weight: NDArray[float32],
        bias: NDArray[float32] | None,
        in_size: Sequence[int],
        steps: Sequence[int],
        pads: Sequence[int],
        gaps: Sequence[int],
        groups: int,
        blocks: Blocks,
    ) -> Convolution: ...
    def buffer_bytes(self, team: Team, x: NDArray[float32], out: NDArray[float32]) -> int: ...
    def run(self, team: Team, x: NDArray[float32], out: NDArray[float32], buffer: Buffer) -> None: ...

KV_TYPES: dict[str, int]
"""Names of the types of a cache of keys and values."""

def attention_buffer_bytes(
    team: Team, heads: int, group: int, queries: int, positions: int, head_dim: int, kv: str
) -> int: ...
def attention(
    team: Team,
    q: NDArray[float32],
    k: NDArray[float32],
    v: NDArray[float32],
    out: NDArray[float32],
    places: NDArray[int64],
    *,
    causal: bool,
    scale: float,
    kv: str,
    buffer: Buffer,
    level: str | None = None,
) -> None: ...
