"""A mapped layer's bytes: read and checked before anything touches the mapping, then seen as arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from hyperion._kernels import stream
from hyperion.errors import FormatError
from hyperion.formats import Container, TensorInfo
from hyperion.loading.descriptors import Layer, dtype_of, is_aligned, stored_shape
from hyperion.loading.pages import FileMapping

__all__ = ["LayerReader", "called"]

Count = Callable[[int], None]

CHUNK = 4 << 20
"""Bytes of one read: large enough for the disk's full speed, small enough to stop soon."""
MOST_CHECKED = 16 << 20
"""The longest run of bytes with one checksum that is held to check it."""


def called(layer: Layer) -> str:
    """How messages call a layer."""
    return f"layer {layer.index} ({layer.name})"


def _runs(info: TensorInfo) -> Iterator[tuple[int, int, slice | None]]:
    """A tensor's bytes in runs of about CHUNK: (first byte, bytes, which checksums they have to have)."""
    bounds = info.checked_runs if info.checksums else np.zeros(1, np.uint64)
    if len(bounds) == 1 or int(np.diff(bounds).max()) > MOST_CHECKED:
        yield from ((at, min(CHUNK, info.nbytes - at), None) for at in range(0, info.nbytes, CHUNK))
        return
    first = 0
    while first < len(bounds) - 1:
        last = max(first + 1, int(np.searchsorted(bounds, bounds[first] + np.uint64(CHUNK), side="right")) - 1)
        yield int(bounds[first]), int(bounds[last] - bounds[first]), slice(first, last)
        first = last


class LayerReader:
    """Reads layers of a container's mapped files.

    Its methods call `count` with the bytes of each read and, before it, with 0; what that raises ends the reading.
    """

    def __init__(self, container: Container, maps: Mapping[str, FileMapping]) -> None:
        self.container, self.maps = container, maps

    def arrays(self, layer: Layer, count: Count) -> dict[str, np.ndarray]:
        """Views of all tensors; those that are not aligned to their type are read into memory of their own."""
        arrays = {}
        for t in layer.tensors:
            count(0)
            dtype = dtype_of(t)
            if not is_aligned(t):
                array = np.empty(t.nbytes // dtype.itemsize, dtype)
                self.container.read_into(t, array.view(np.uint8), what=called(layer))
                self.maps[t.path].forget(t.offset, t.offset + t.nbytes)
                array.flags.writeable = False
                count(t.nbytes)
            else:
                array = self.maps[t.path].view(t.offset, t.nbytes, dtype)
            try:
                arrays[t.name] = array.reshape(stored_shape(t))
            except ValueError:  # values of less than a byte that do not fill the rows' bytes
                arrays[t.name] = array
        return arrays

    def read(self, layer: Layer, count: Count) -> None:
        """Read through the page cache, which fails cleanly where touching a mapping would not, then map the pages."""
        scratch = np.empty(min(CHUNK, layer.size), np.uint8)
        for t in layer.tensors:
            if not is_aligned(t):  # a copy, already read
                continue
            for at, n, sums in _runs(t):
                count(0)
                if n > len(scratch):
                    scratch = np.empty(n, np.uint8)
                self.container.read_into(t, scratch[:n], at, n, what=called(layer))
                if sums is not None:
                    self._verify(layer, t, scratch[:n], sums)
                self.maps[t.path].populate(t.offset + at, t.offset + at + n, called(layer))
                count(n)

    def _verify(self, layer: Layer, info: TensorInfo, data: np.ndarray, sums: slice) -> None:
        """Compare with these of the checksums that the file has."""
        assert info.checksums is not None
        bounds = info.checked_runs[sums.start : sums.stop + 1]
        at = int(bounds[0])
        found = np.empty(len(bounds) - 1, np.uint32)
        stream.checksums(data, bounds - bounds[0], found)
        if not np.array_equal(found, info.checksums[sums]):
            message = f"{called(layer)}: tensor {info.name!r} of {info.path!r} is damaged: a checksum does not fit"
            raise FormatError(message, path=info.path, offset=info.offset + at, tensor=info.name)
