import numpy as np
from typing_extensions import Self, disjoint_base

NEVER: int
MOST_BYTES: int


def work_bytes(nbytes: int) -> int: ...


@disjoint_base
class Pieces:
    def __new__(
        cls,
        text: bytes,
        starts: np.ndarray,
        ranks: np.ndarray,
        byte_pieces: np.ndarray | None = None,
        unknown: int | None = None,
        words: bool = False,
    ) -> Self: ...
    @property
    def repeated(self) -> tuple[int, int] | None: ...
    def __len__(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def words(self) -> bool: ...
    def find(self, text: bytes) -> int | None: ...
    def piece(self, number: int) -> bytes | None: ...
    def encode(self, text: bytes) -> np.ndarray: ...
