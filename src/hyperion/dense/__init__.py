"""Dense float32 arrays: activations and products."""

from .activations import gelu, relu, sigmoid, silu, softmax, tanh
from .cache import CacheConfig
from .matmul import matmul

__all__ = ["CacheConfig", "gelu", "matmul", "relu", "sigmoid", "silu", "softmax", "tanh"]
