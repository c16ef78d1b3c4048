from numpy import float32
from numpy.typing import NDArray
from typing_extensions import Buffer

from hyperion._kernels.threads import Team

MAPS: dict[str, int]
"""Names of the element-wise functions."""

def apply(team: Team, name: str, x: NDArray[float32], out: NDArray[float32], level: str | None = None) -> None: ...
def softmax_buffer_bytes(team: Team, x: NDArray[float32], out: NDArray[float32]) -> int: ...
def softmax(
    team: Team, x: NDArray[float32], out: NDArray[float32], buffer: Buffer | None, level: str | None = None
) -> None: ...
