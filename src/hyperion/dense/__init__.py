"""Dense float32 arrays: activations."""

from .activations import gelu, relu, sigmoid, silu, softmax, tanh

__all__ = ["gelu", "relu", "sigmoid", "silu", "softmax", "tanh"]
