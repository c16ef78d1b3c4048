"""Mixed precision: a numeric type for each group of a model's matrices."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

from hyperion.errors import InvalidArgumentError
from hyperion.members import member

__all__ = ["GROUPS", "MixedPrecisionConfig", "Precision", "init_mixed_precision_config", "parse_mixed_precision"]

GROUPS = ("embedding", "attention", "ffn", "output")
"""Groups of matrices: the token embedding; q, k, v and o; gate, up and down; the output head."""


class Precision(enum.IntEnum):
    """Numbers that weights are kept in: F32, F16, blocks of 8-bit codes (Q8_0), blocks of 4-bit codes (Q4_0)."""

    FP32 = 0
    FP16 = 1
    INT8 = 2
    INT4 = 3

    @property
    def type(self) -> str:
        """The numeric type of weights in files and in the engine."""
        return ("f32", "f16", "q8_0", "q4_0")[self]


@dataclasses.dataclass(kw_only=True)
class MixedPrecisionConfig:
    """A precision for each group of matrices; fields are checked when they are set, names ("int8") are taken too.

    Parameters
    ----------
    embedding_precision : Precision
        Of the token embedding.
    attention_precision : Precision
        Of the matrices q, k, v and o of every block.
    ffn_precision : Precision
        Of gate, up and down.
    output_precision : Precision
        Of the output head. A model whose head is its embedding keeps that one matrix in the finer of the two precisions.

    Raises
    ------
    InvalidArgumentError
        For a value that is no precision, or an unknown field.
    """

    embedding_precision: Precision = Precision.INT8
    attention_precision: Precision = Precision.INT4
    ffn_precision: Precision = Precision.INT4
    output_precision: Precision = Precision.FP16

    def __setattr__(self, name: str, value: Any) -> None:
        if name.removesuffix("_precision") not in GROUPS or not name.endswith("_precision"):
            raise InvalidArgumentError(f"MixedPrecisionConfig has no field {name!r}; it has {', '.join(g + '_precision' for g in GROUPS)}")
        object.__setattr__(self, name, member(Precision, value, name))

    def types(self, *, tied: bool = False) -> dict[str, str]:
        """The numeric type of each group; `tied`: the embedding is the output head as well."""
        chosen = {group: getattr(self, group + "_precision") for group in GROUPS}
        if tied:
            chosen["embedding"] = chosen["output"] = min(chosen["embedding"], chosen["output"])
        return {group: precision.type for group, precision in chosen.items()}

    def copy(self) -> MixedPrecisionConfig:
        """A copy that later changes do not reach."""
        return dataclasses.replace(self)


def init_mixed_precision_config() -> MixedPrecisionConfig:
    """The default: embedding int8, attention and feed-forward int4, output head fp16."""
    return MixedPrecisionConfig()


def parse_mixed_precision(text: str) -> MixedPrecisionConfig:
    """A configuration from text such as ``embedding=int8,ffn=int4``; groups that it does not name have the default."""
    config, seen = MixedPrecisionConfig(), set()
    for part in text.split(","):
        group, sign, name = (word.strip() for word in part.partition("="))
        if not sign or group not in GROUPS:
            raise InvalidArgumentError(f"{part!r:.40} is not GROUP=PRECISION with a group of {', '.join(GROUPS)}")
        if group in seen:
            raise InvalidArgumentError(f"{group} is given twice")
        seen.add(group)
        setattr(config, group + "_precision", name)
    return config
