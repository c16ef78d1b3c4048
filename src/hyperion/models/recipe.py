"""What a conversion makes of each matrix."""

from __future__ import annotations

from hyperion._kernels import quant
from hyperion.errors import InvalidArgumentError
from hyperion.models.mixed import MixedPrecisionConfig
from hyperion.models.prune import PruneConfig
from hyperion.models.quantize_rows import check_method

__all__ = ["Recipe", "group_of"]


def group_of(name: str) -> str:
    """The group of a matrix with a canonical name; see :data:`hyperion.models.mixed.GROUPS`."""
    part = name.rsplit(".", 2)[-2]
    if part in ("token_embd", "output"):
        return "embedding" if part == "token_embd" else "output"
    return "attention" if part.startswith("attn_") else "ffn"


class Recipe:
    """The type that each matrix will have, and how its scales are found.

    Parameters
    ----------
    type : str, optional
        One type for all matrices; without it and `mixed` each keeps its own.
    method : str, optional
        See :func:`hyperion.convert`.
    mixed : MixedPrecisionConfig, optional
        A type for each group.
    prune : PruneConfig, optional
        How the matrices of the blocks are thinned out. The embedding, whose rows are looked up, and the output head stay.

    Raises
    ------
    InvalidArgumentError
        If they are unknown or contradict each other.
    UnsupportedError
        If there is no such method for the type.
    """

    def __init__(
        self,
        type: str | None = None,
        method: str | None = None,
        mixed: MixedPrecisionConfig | None = None,
        prune: PruneConfig | None = None,
    ) -> None:
        if mixed is not None and type is not None:
            raise InvalidArgumentError("give one type for all matrices or a mixed precision, not both")
        if mixed is not None and not isinstance(mixed, MixedPrecisionConfig):
            raise InvalidArgumentError(f"mixed is {mixed!r:.40}, expected a MixedPrecisionConfig")
        self.type = None if type is None else _type_name(type)
        self.mixed = None if mixed is None else mixed.copy()
        if prune is not None and not isinstance(prune, PruneConfig):
            raise InvalidArgumentError(f"expected a PruneConfig, not {prune!r:.40}")
        self.prune = None if prune is None else prune.copy()
        self.method = method
        if method is not None and self.keeps_types:
            raise InvalidArgumentError("a method needs a type to quantize to")
        self.int4 = "q4_1" if mixed is not None and method == "hqq" else "q4_0"
        if not self.keeps_types:
            check_method(self.type or self.int4, method)

    @property
    def keeps_types(self) -> bool:
        """Every matrix keeps its own type."""
        return self.type is None and self.mixed is None

    @property
    def keeps_weights(self) -> bool:
        """Every weight stays what it is."""
        return self.keeps_types and self.prune is None

    def prunes(self, name: str) -> bool:
        """Whether a matrix is thinned out."""
        return self.prune is not None and group_of(name) in ("attention", "ffn")

    def target(self, name: str, tied: bool) -> tuple[str | None, str | None]:
        """(type or None for the matrix's own, method) of a matrix; `tied`: the embedding is the output head as well."""
        if self.mixed is None:
            return self.type, self.method
        type = self.mixed.types(tied=tied)[group_of(name)]
        return (self.int4, self.method) if type == "q4_0" else (type, None)


def _type_name(type: object) -> str:
    if not isinstance(type, str) or type.lower() not in quant.TYPES:
        stem = type.lower().rpartition("_")[0] if isinstance(type, str) else ""
        mix = f" ({stem} is the type that most matrices of such a mix have)" if stem in quant.TYPES else ""
        raise InvalidArgumentError(f"type is {type!r:.40}, expected one of {', '.join(quant.TYPES)}{mix}")
    return type.lower()
