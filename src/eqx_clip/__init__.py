"""CLIP in JAX: OpenCLIP's weights and numbers as Equinox modules."""

__version__ = "0.1.0"
