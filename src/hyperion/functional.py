"""The documented procedures, one name each; what they do is in the modules that they come from."""

from .quantization import dequantize_tensor, quantize_tensor

__all__ = ["dequantize_tensor", "quantize_tensor"]
