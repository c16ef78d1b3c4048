"""Exact speculation from the text itself: what followed the last few tokens before is verified in one pass.

Where weights are streamed, a pass costs the same for one token as for several, so every draft token that turns out right
is free. Results are those of drawing token by token: a row of logits does not depend on the pass that computed it, and a
draft counts only if the sampler draws it from its own row (prompt lookup decoding; Leviathan et al., arXiv 2211.17192,
for the principle).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hyperion.models import Session

__all__ = ["Advancer", "draft_tokens"]

LONGEST, SHORTEST = 4, 2
"""Lengths of the runs of tokens that are looked up, the longest first."""


def draft_tokens(tokens: Sequence[int], count: int) -> list[int]:
    """Up to `count` tokens that followed the latest earlier occurrence of the last few tokens; empty without one."""
    ids = np.asarray(tokens, dtype=np.int64)
    for n in range(LONGEST, SHORTEST - 1, -1):
        if len(ids) <= n:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(ids[:-1], n)
        hits = np.flatnonzero((windows == ids[-n:]).all(axis=1))
        if len(hits):
            start = int(hits[-1]) + n
            return ids[start : start + count].tolist()
    return []


class Advancer:
    """Gives the logits that follow each drawn token, evaluating drafts along with it where that is free.

    Parameters
    ----------
    session : Session
        It holds the accepted tokens, and behind them drafts that were evaluated and not drawn yet.
    drafts : int
        The most draft tokens in a pass; 0 evaluates token by token.
    """

    def __init__(self, session: Session, drafts: int) -> None:
        self.session, self.most = session, drafts
        self.passes = 0
        self._drafts: deque[int] = deque()
        self._rows: deque[np.ndarray] = deque()

    def __len__(self) -> int:
        """Tokens in the session that were drawn."""
        return len(self.session) - len(self._drafts)

    def advance(self, token: int, seen: Sequence[int]) -> np.ndarray:
        """Logits after `token`, which is the last of `seen`."""
        if self._drafts and self._drafts[0] == token:
            self._drafts.popleft()
            return self._rows.popleft()
        self.settle()
        self.passes += 1
        room = self.session.capacity - len(self.session) - 1
        drafts = draft_tokens(seen, min(self.most, room)) if self.most and room > 0 else []
        if not drafts:
            return self.session.eval([token])
        rows = self.session.model.forward([(self.session, [token, *drafts])], logits="all")[0]
        self._drafts, self._rows = deque(drafts), deque(rows[1:])
        return rows[0]

    def settle(self) -> None:
        """Forget drafts that were not drawn."""
        if self._drafts:
            self.session.truncate(len(self))
            self._drafts.clear()
            self._rows.clear()
