"""Hyperion: run language models in the memory you have."""
