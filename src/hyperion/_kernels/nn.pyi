from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer, Self, disjoint_base

from hyperion._kernels.stream import Ring
from hyperion._kernels.threads import Team

KV_TYPES: dict[str, int]
PANEL: int

@disjoint_base
class Matrix:
    """A weight matrix: pinned rows of packed panels, the others as pieces of a stream."""

    def __new__(
        cls,
        type: int,
        rows: int,
        cols: int,
        owner: Buffer | None = None,
        offset: int = 0,
        pinned_rows: int | None = None,
        first_piece: int = 0,
        pieces: Sequence[tuple[int, int]] = (),
        offsets: NDArray[np.uint64] | None = None,
    ) -> Self: ...
    @property
    def type(self) -> int: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def pinned_rows(self) -> int: ...
    @property
    def streamed_pieces(self) -> int: ...

@disjoint_base
class Shape:
    """Sizes and constants that all blocks of a model share."""

    def __new__(
        cls,
        *,
        dim: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        ffn_dim: int,
        rot: int,
        interleaved: bool,
        gelu: bool,
        eps: float,
        scale: float,
        kv_type: str = "f16",
    ) -> Self: ...
    def scratch_bytes(self, tokens: int, workers: int) -> int: ...
    def kv_head_bytes(self, positions: int) -> tuple[int, int]: ...
    def kv_bytes(self, positions: int) -> int: ...

@disjoint_base
class Block:
    """The weights of one transformer block."""

    def __new__(cls, shape: Shape, matrices: dict[str, Matrix], vectors: dict[str, NDArray[np.float32]]) -> Self: ...

@disjoint_base
class Cache:
    """One sequence's keys and values in every layer, in memory that the caller owns."""

    def __new__(cls, shape: Shape, layers: int, positions: int, owner: Buffer) -> Self: ...

@disjoint_base
class Runtime:
    """The kernels, threads and weight stream that a model runs on."""

    def __new__(cls, team: Team, level: str | None = None) -> Self: ...
    @property
    def team(self) -> Team: ...
    @property
    def ring(self) -> Ring | None: ...
    @property
    def level_name(self) -> str: ...
    def set_level(self, level: str | None, plain: Collection[str] = ()) -> None: ...
    def set_tuning(self, panels: int, ahead: int, line: int) -> None: ...
    @property
    def tuning(self) -> tuple[int, int, int]: ...
    def set_source(self, ring: Ring | None) -> None: ...
    def block_forward(
        self,
        shape: Shape,
        block: Block,
        layer: int,
        caches: Sequence[Cache],
        positions: NDArray[np.int64],
        sequences: NDArray[np.int32],
        rotation: NDArray[np.float32],
        x: NDArray[np.float32],
        scratch: NDArray[np.uint8],
    ) -> None: ...
    def head_forward(
        self,
        norm: NDArray[np.float32],
        eps: float,
        output: Matrix,
        x: NDArray[np.float32],
        rows: NDArray[np.int64],
        logits: NDArray[np.float32],
        scratch: NDArray[np.uint8],
    ) -> None: ...

def head_scratch_bytes(dim: int, n: int) -> int: ...
