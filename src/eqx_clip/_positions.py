"""Positional embeddings for images and texts of another size than the checkpoint's."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ._types import at_least_float32


def resize_image_positions(
    positions: Float[np.ndarray, "tokens width"], old: tuple[int, int], new: tuple[int, int]
) -> Float[np.ndarray, "new_tokens width"]:
    """Patch positions from one (rows, columns) grid to another; the class token's stays.

    Bicubic with antialiasing: OpenCLIP's `resize_pos_embed`, which takes the old grid for square.
    """
    _check_length(positions, 1 + old[0] * old[1])
    grid = positions[1:].reshape(*old, -1)
    resized = _resize(grid, (*new, grid.shape[-1]), "cubic", antialias=True)
    return np.concatenate([positions[:1], resized.reshape(-1, grid.shape[-1])])


def resize_text_positions(
    positions: Float[np.ndarray, "context width"], old: int, new: int
) -> Float[np.ndarray, "new_context width"]:
    """Token positions for another context length, linear: OpenCLIP's `resize_text_pos_embed`."""
    _check_length(positions, old)
    return _resize(positions, (new, positions.shape[1]), "linear", antialias=False)


def _check_length(positions: np.ndarray, expected: int) -> None:
    if len(positions) != expected:
        raise ValueError(
            f"The configuration has {expected} positions, the weights have {len(positions)}. "
            "Weights and configuration do not belong together."
        )


def _resize(x: np.ndarray, shape: tuple[int, ...], method: str, *, antialias: bool) -> np.ndarray:
    # At least in float32, as everything that is not a matrix product.
    dtype = at_least_float32(x.dtype)
    return np.asarray(jax.image.resize(jnp.asarray(x, dtype), shape, method, antialias=antialias))
