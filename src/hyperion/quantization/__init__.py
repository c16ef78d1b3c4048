"""Weights in 4 and 8 bits, and in GGUF's block formats: quantize, look inside, multiply, dequantize."""

from .config import QuantizationConfig
from .tensor import QuantizedTensor, dequantize_tensor, quantize_tensor

__all__ = ["QuantizationConfig", "QuantizedTensor", "dequantize_tensor", "quantize_tensor"]
