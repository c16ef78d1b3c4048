"""Text from a model."""

from hyperion.generation.chat import Conversation
from hyperion.generation.config import GenerationConfig, LogitProcessor
from hyperion.generation.model import Chunk, Model, load_model
from hyperion.generation.sampling import Sampler

__all__ = ["Chunk", "Conversation", "GenerationConfig", "LogitProcessor", "Model", "Sampler", "load_model"]
