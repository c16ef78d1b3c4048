"""Architectures, weights and the engine that evaluates them."""

from hyperion.models.architectures import supported_architectures
from hyperion.models.config import ModelConfig
from hyperion.models.session import Session
from hyperion.models.transformer import Transformer

__all__ = ["ModelConfig", "Session", "Transformer", "supported_architectures"]
