"""Dense float32 arrays: activations, norms, products, convolutions, attention."""

from .activations import gelu, relu, sigmoid, silu, softmax, tanh
from .attention import scaled_dot_product_attention
from .cache import CacheConfig
from .convolution import conv1d, conv2d
from .matmul import matmul
from .norms import layer_norm, rms_norm

__all__ = [
    "CacheConfig",
    "conv1d",
    "conv2d",
    "gelu",
    "layer_norm",
    "matmul",
    "relu",
    "rms_norm",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "softmax",
    "tanh",
]
