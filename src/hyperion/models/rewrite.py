"""Other weights for an open model: made from those that it has, in a file of its own, within its budget."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hyperion.formats import open_container
from hyperion.io import SpoolFile
from hyperion.models.architectures import describe_model
from hyperion.models.arguments import check_callback
from hyperion.models.convert import SLAB_WEIGHTS, ConversionJob
from hyperion.models.recipe import Recipe
from hyperion.models.weights import layer_sizes
from hyperion.scheduling.plan import make_plan

if TYPE_CHECKING:
    from hyperion.models.transformer import Transformer

__all__ = ["rewrite"]

SLAB_BYTES = 32
"""Bytes that a weight takes on its way: as float32 with a copy or two, as codes, and in both files' blocks."""

FEWEST_WEIGHTS = 1 << 15
FIELDS = ("container", "_tensors", "config", "shape", "_sizes", "plan", "_weights", "_frequencies")


def rewrite(
    model: Transformer,
    recipe: Recipe,
    folder: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ConversionJob:
    """Convert the weights of an open model and let it go on with the new ones; see `Transformer.apply_mixed_precision`.

    The pinned weights are given back first, as the conversion reads the file again: old and new are never in memory together.
    """
    model._check_open()
    check_callback(progress, "progress")
    with model._lock:
        model._check_open()
        spool = _spool(model.path, folder)
        try:
            model._calling = threading.get_ident()
            return _replace(model, recipe, spool, progress)
        except BaseException:
            spool.discard()
            raise
        finally:
            model._calling = None


def _spool(path: str, folder: str | os.PathLike[str] | None) -> SpoolFile:
    if folder is None:
        import tempfile

        beside = path if os.path.isdir(path) else os.path.dirname(os.path.abspath(path))
        folder = beside if os.access(beside, os.W_OK) else tempfile.gettempdir()
    return SpoolFile(folder)


def _replace(model: Transformer, recipe: Recipe, spool: SpoolFile, progress: Any) -> ConversionJob:
    job = ConversionJob(model.container, spool.path, recipe, "hyperion", spool)
    before = {name: getattr(model, name) for name in FIELDS}
    weights = model._weights
    assert weights is not None
    for session in model.open_sessions:
        del session.tokens[:]
    model.scheduler.drop_kept()
    model._settled = False
    model.workspace.release()
    model.runtime.set_source(None)
    weights.unload()
    try:
        job.slab_weights = _slab_weights(model)
        with model.budget.reserve("conversion", job.most_weights * SLAB_BYTES):
            job.run(progress)
        _take(model, spool.path)
    except BaseException:
        _restore(model, before)
        raise
    weights.close()
    before["container"].close()
    model._spool, old = spool, model._spool
    if old is not None:
        old.discard()
    return job


def _slab_weights(model: Transformer) -> int:
    """As many weights at a time as half of what is free now holds."""
    assert model.budget.limit is not None
    free = model.budget.limit - model.budget.stats().current_usage
    return max(FEWEST_WEIGHTS, min(SLAB_WEIGHTS, free // 2 // SLAB_BYTES))


def _take(model: Transformer, path: str) -> None:
    """Open what was written in place of what the model had; the budget and the open sessions stay."""
    limit = model.plan.budget
    model.container = open_container(path)
    try:
        model.config, model._tensors = describe_model(model.container)
        model.shape = model._make_shape()
        layers = layer_sizes(model.config, model._tensors)
        embedding = model._embedding_bytes(model.config, model._tensors)
        model._sizes = dataclasses.replace(model._sizes, layers=layers, embedding=embedding)
        model.plan = make_plan(model._present_sizes(), limit, model.context_length)
        model._allocate_workspace()
        model._open_weights(None)
    except BaseException:
        model.workspace.release()
        model.container.close()
        raise
    model.loader.apply_window()
    model._settled = True


def _restore(model: Transformer, before: dict[str, Any]) -> None:
    """The model as it was."""
    for name, value in before.items():
        setattr(model, name, value)
    model._settle()
