"""Dense float32 arrays: activations, products, convolutions, attention."""

from .activations import gelu, relu, sigmoid, silu, softmax, tanh
from .attention import rms_norm, scaled_dot_product_attention
from .cache import CacheConfig
from .convolution import conv1d, conv2d
from .matmul import matmul

__all__ = [
    "CacheConfig",
    "conv1d",
    "conv2d",
    "gelu",
    "matmul",
    "relu",
    "rms_norm",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "softmax",
    "tanh",
]
