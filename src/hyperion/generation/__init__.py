"""Text from a model."""

from hyperion.generation.config import GenerationConfig
from hyperion.generation.model import Chunk, Model, load_model
from hyperion.generation.sampling import Sampler

__all__ = ["Chunk", "GenerationConfig", "Model", "Sampler", "load_model"]
