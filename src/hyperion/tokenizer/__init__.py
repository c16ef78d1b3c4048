"""Vocabularies: text to token ids and back, and chat templates."""

from .tokenizer import Tokenizer, TokenizerConfig, TokenStream
from .vocabulary import TokenKind

__all__ = ["TokenKind", "TokenStream", "Tokenizer", "TokenizerConfig"]
