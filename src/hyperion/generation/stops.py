"""Stop strings in a stream of text pieces."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopFilter"]


class StopFilter:
    """Passes text on, except what may yet become a stop string.

    A stop string that lies across several pieces is found; text before it comes out, it and what follows do not. Of several
    stop strings the one that is complete first counts, so that the result does not depend on how the text is cut.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Text that is certain to be wanted, now that `text` has arrived."""
        if self.stopped:
            return ""
        self.held += text
        found = [(i + len(s), i) for s in self.stops if (i := self.held.find(s)) >= 0]
        if found:
            self.stopped = True
            return self._take(min(found)[1])
        keep = max((self._overlap(s) for s in self.stops), default=0)
        return self._take(len(self.held) - keep)

    def flush(self) -> str:
        """What is still held back, at the end of the stream."""
        return "" if self.stopped else self._take(len(self.held))

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins `stop`."""
        for n in range(min(len(stop) - 1, len(self.held)), 0, -1):
            if self.held.endswith(stop[:n]):
                return n
        return 0

    def _take(self, n: int) -> str:
        text, self.held = self.held[:n], self.held[n:]
        return text
