"""Which layer outputs stay: a configuration, what was said of single layers, and the byte limit that follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from hyperion.errors import InvalidArgumentError
from hyperion.scheduling.checkpoint import Reversal, plan_reversal
from hyperion.scheduling.execution import CheckpointStrategy, LayerSchedulerConfig, forward_plan

__all__ = ["Policy"]

T = TypeVar("T")

REMEMBERED = 16
"""Plans and choices that are kept for the next pass over the same sizes."""


class Policy:
    """Layers are meant by their position in the order of execution.

    Attributes
    ----------
    config : LayerSchedulerConfig
    strategies : dict of int to CheckpointStrategy
        Of single layers, whatever the configuration says.
    """

    def __init__(self, config: LayerSchedulerConfig | None) -> None:
        self.strategies: dict[int, CheckpointStrategy] = {}
        self._made: dict[tuple[object, ...], Any] = {}
        self.config = LayerSchedulerConfig()
        self.configure(config if config is not None else self.config)

    def configure(self, config: LayerSchedulerConfig) -> None:
        """Follow a copy of a configuration."""
        if not isinstance(config, LayerSchedulerConfig):
            raise InvalidArgumentError(f"expected a LayerSchedulerConfig, not {type(config).__name__}")
        self.config = dataclasses.replace(config)

    @property
    def default(self) -> CheckpointStrategy:
        """Of layers of which nothing was said."""
        if not self.config.enable_checkpointing:
            return CheckpointStrategy.NONE
        return CheckpointStrategy.SELECTIVE if self.config.recompute_activations else CheckpointStrategy.ALL

    def of(self, layer: int) -> CheckpointStrategy:
        """A layer's strategy."""
        return self.strategies.get(layer, self.default)

    @property
    def keeps_nothing(self) -> bool:
        """No output is kept beyond need."""
        none = CheckpointStrategy.NONE
        return self.default is none and all(s is none for s in self.strategies.values())

    @property
    def version(self) -> tuple[object, ...]:
        """Differs when anything was changed."""
        return (*dataclasses.astuple(self.config), *self.strategies.items())

    def limit(self, sizes: Sequence[int], room: int | None = None, *, in_place: bool) -> int:
        """Bytes that outputs of these sizes may take: what the configuration names; otherwise the tradeoff's share of what
        all of them would, and of the room that there is, where outputs are chosen. Never more than the room."""
        total = sum(sizes) + max(sizes, default=0)
        least = max((a + (0 if in_place else b) for a, b in zip(sizes, (0, *sizes), strict=False)), default=0)
        room = total if room is None else room
        if self.config.max_activation_memory:
            return self.config.max_activation_memory if room == total else min(self.config.max_activation_memory, room)
        if all(s is not CheckpointStrategy.SELECTIVE for s in (self.default, *self.strategies.values())):
            return min(total, room)
        share = self.config.memory_speed_tradeoff
        return min(least + int((total - least) * share), int(room * share) if room < total else room)

    def reversal(self, sizes: Sequence[int], limit: int, *, in_place: bool) -> Reversal:
        """The sweep over a chain whose layers' outputs have these sizes: state k is the output of layer k - 1."""
        key = ("reversal", tuple(sizes), limit, in_place, self.version)
        return self._remember(key, lambda: self._new_reversal(sizes, limit, in_place))

    def _remember(self, key: tuple[object, ...], make: Callable[[], T]) -> T:
        if key not in self._made:
            if len(self._made) >= REMEMBERED:
                self._made.clear()
            self._made[key] = make()
        return self._made[key]

    def _new_reversal(self, sizes: Sequence[int], limit: int, in_place: bool) -> Reversal:
        by = {s: [i + 1 for i in range(len(sizes)) if self.of(i) is s] for s in CheckpointStrategy}
        never = by[CheckpointStrategy.NONE] if not self.keeps_nothing else ()
        return plan_reversal([0, *sizes], limit, in_place=in_place, always=by[CheckpointStrategy.ALL], never=never)

    def kept(
        self, sizes: Sequence[int], last: Sequence[int], limit: int, *, chain: bool, in_place: bool, also: Collection[int] = ()
    ) -> tuple[int, ...]:
        """Layers whose outputs a pass keeps beside `also`; see :func:`forward_plan` for `last`.

        In a chain those that the best sweep keeps. In another graph whatever fits: first what should always be kept, then
        small outputs before large ones and late ones before early ones, as they take the most layers to compute again.
        """
        if self.keeps_nothing:
            return ()
        key = ("kept", tuple(sizes), tuple(last), limit, chain, in_place, tuple(also), self.version)
        return self._remember(key, lambda: self._choose(sizes, last, limit, chain, in_place, also))

    def _choose(
        self, sizes: Sequence[int], last: Sequence[int], limit: int, chain: bool, in_place: bool, also: Collection[int]
    ) -> tuple[int, ...]:
        wanted = [n for n in range(len(sizes)) if self.of(n) is not CheckpointStrategy.NONE]

        def fits(kept: Sequence[int]) -> bool:
            return forward_plan(range(len(sizes)), sizes, last, {*kept, *also}, limit, in_place).peak_bytes <= limit

        if all(self.of(n) is CheckpointStrategy.ALL for n in wanted) and fits(wanted):
            return tuple(wanted)
        kept: list[int] = []
        if chain:
            first = {k - 1 for k in self.reversal(sizes, limit, in_place=in_place).kept_first}
            kept = [n for n in wanted if n in first]
            while kept and not fits(kept):  # a pass holds its last output as well
                kept.pop()
            return tuple(kept)
        for n in sorted(wanted, key=lambda n: (self.of(n) is not CheckpointStrategy.ALL, sizes[n], -n)):
            if fits([*kept, n]):
                kept.append(n)
        return tuple(sorted(kept))
