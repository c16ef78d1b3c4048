"""The `tokenizers` package, imported when first needed, and what every use of it shares."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import FormatError, HyperionRuntimeError

if TYPE_CHECKING:
    import tokenizers

__all__ = ["StreamedPairs", "add_special", "estimate_bytes", "guarded", "library", "release_memory"]


# What a `tokenizers` BPE model keeps: the library's own pages; two hash tables of tokens and one of merges, at most 7/8 full
# and doubling; a heap block for each of a token's two strings. Growth of resident memory over real vocabularies of 50,257 to
# 151,936 tokens is 1 to 14 % less.
_BASE_BYTES = 10_000_000
_TOKEN_SLOT, _TOKEN_BYTES = 66, 64
_MERGE_SLOT = 17
# While it is built: the pairs as strings of Rust's.
_PAIR_BYTES = 144


def library() -> Any:
    """The `tokenizers` module."""
    import tokenizers

    return tokenizers


_LIBRARY_MARGIN = 32
"""One part in so many more, because another build of the library lays things out a little differently."""


def estimate_bytes(tokens: int, merges: int, *, building: bool = False) -> int:
    """Bytes that a library's engine occupies, or, with ``building``, also what it takes to make it."""
    kept = _BASE_BYTES + _slots(tokens) * _TOKEN_SLOT + tokens * _TOKEN_BYTES + _slots(merges) * _MERGE_SLOT
    nbytes = kept + merges * _PAIR_BYTES if building else kept
    return nbytes + nbytes // _LIBRARY_MARGIN


def _slots(n: int) -> int:
    """Places in a hash table of n entries."""
    return 1 << (n * 8 // 7).bit_length()


@contextmanager
def guarded(doing: str, *, building: bool) -> Iterator[None]:
    """Turn what the Rust library raises, its panics included, into Hyperion's errors.

    Parameters
    ----------
    doing : str
        For the message: "build the tokenizer", "encode a text".
    building : bool
        Failing means that the vocabulary is bad (`FormatError`), not that a call went wrong.
    """
    try:
        yield
    except BaseException as error:
        # A Rust panic arrives as a BaseException of PyO3's, so that ``except Exception`` misses it.
        panic = type(error).__name__ == "PanicException"
        if not panic and (not isinstance(error, Exception) or error.__class__.__module__.startswith("hyperion")):
            raise
        kind = FormatError if building else HyperionRuntimeError
        raise kind(f"cannot {doing}: {error}") from None


class StreamedPairs(Sequence[Any]):
    """Merges as the sequence that the library wants, made while it reads them.

    A list of 280,000 tuples of strings would be 45 MB beside the library's own copy.

    Parameters
    ----------
    count : int
        At most so many pairs.
    pairs : iterable of (str, str)
        Read once.
    before : callable
        Called before the first pair is read: by then the library has copied the vocabulary.
    """

    def __init__(self, count: int, pairs: Iterable[tuple[str, str]], before: Any) -> None:
        self._count, self._pairs, self._before = count, pairs, before

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        raise IndexError("these pairs can only be iterated")

    def __iter__(self) -> Iterator[tuple[str, str]]:
        self._before()
        return iter(self._pairs)


def add_special(engine: tokenizers.Tokenizer, texts: Sequence[tuple[int, str, bool, bool]]) -> None:
    """Make tokens be found in raw text, before anything else looks at it.

    Parameters
    ----------
    engine : tokenizers.Tokenizer
        Its model has these tokens already.
    texts : sequence of (id, text, special, rstrip)
        ``special`` tokens are found only when special tokens are to be parsed; the others always.
    """
    added = library().AddedToken
    for special in (False, True):
        tokens = [added(t, special=special, normalized=False, rstrip=r) for _, t, s, r in texts if s is special]
        if tokens:
            (engine.add_special_tokens if special else engine.add_tokens)(tokens)
    for number, text, _, _ in texts:
        if engine.token_to_id(text) != number:
            raise FormatError(f"special token {text!r} cannot be registered as id {number}", token=text)


def release_memory() -> None:
    """Give the allocator's free pages back to the system (glibc; elsewhere it does so itself).

    Building leaves tens of megabytes of small free blocks behind, which would count against a memory budget.
    """
    if sys.platform != "linux":
        return
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return
    trim(0)
