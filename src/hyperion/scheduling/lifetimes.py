"""Placing buffers with known lifetimes in one arena, so that those which are never alive together share bytes."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["ALIGN", "assign_offsets"]

ALIGN = 64
"""Every buffer starts at a multiple of so many bytes: a cache line, and the widest vector."""


def assign_offsets(spans: Sequence[tuple[int, int, int]], align: int = ALIGN) -> tuple[list[int], int]:
    """Greedy by size: the largest buffer first, each at the lowest offset where no living neighbour overlaps it.

    Parameters
    ----------
    spans : sequence of (first, last, nbytes)
        Steps at which a buffer is written first and used last, both included, and its bytes.
    align : int
        Offsets and the arena's bytes are multiples of it.

    Returns
    -------
    (offsets, total)
        Aligned offsets in the order of `spans`, and the bytes of the arena.

    References
    ----------
    Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", arXiv 2001.03288.
    """
    offsets = [0] * len(spans)
    placed: list[int] = []
    total = 0
    for i in sorted(range(len(spans)), key=lambda i: (-spans[i][2], spans[i][0])):
        first, last, nbytes = spans[i]
        if nbytes == 0:
            continue
        size = -(-nbytes // align) * align
        at = 0
        for other in sorted((j for j in placed if spans[j][0] <= last and first <= spans[j][1]), key=offsets.__getitem__):
            if at + size <= offsets[other]:
                break
            at = max(at, offsets[other] + -(-spans[other][2] // align) * align)
        offsets[i] = at
        placed.append(i)
        total = max(total, at + size)
    return offsets, total
