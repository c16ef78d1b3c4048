"""Measurements of Hyperion beside its peers. ``python -m benchmarks --help`` lists them."""
