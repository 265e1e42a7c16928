"""Positional embeddings for images and texts of another size than the checkpoint's."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ..._types import at_least_float32


def resize_image_positions(
    positions: np.ndarray,
    configured: tuple[int, int],
    new: tuple[int, int],
    *,
    class_tokens: int = 1,
) -> np.ndarray:
    """Patch positions (tokens, width) for the (rows, columns) grid `new`; the class token's stays.

    The weights' own grid is the `configured` one if they have as many patches, else `new`, else a
    square. Bicubic with antialiasing: OpenCLIP's `resize_pos_embed`, which knows squares only, and
    timm's `resample_abs_pos_embed`. Raises `ValueError` for a number of patches that is none of
    these.
    """
    if positions.ndim != 2:
        return positions  # for the comparison of shapes, which names the tensor
    first, patches = positions[:class_tokens], positions[class_tokens:]
    old = _find_grid(len(patches), configured, new)
    if old == new:
        return positions
    grid = patches.reshape(*old, -1)
    resized = _resize(grid, (*new, grid.shape[-1]), "cubic", antialias=True)
    return np.concatenate([first, resized.reshape(-1, grid.shape[-1])])


def resize_text_positions(positions: np.ndarray, new: int) -> np.ndarray:
    """Token positions (context, width) for another context length, linear.

    OpenCLIP's `resize_text_pos_embed`.
    """
    if positions.ndim != 2 or len(positions) in (0, new):
        return positions
    return _resize(positions, (new, positions.shape[1]), "linear", antialias=False)


def _find_grid(patches: int, configured: tuple[int, int], new: tuple[int, int]) -> tuple[int, int]:
    side = math.isqrt(patches)
    for grid in (configured, new, (side, side)):
        if math.prod(grid) == patches > 0:
            return grid
    raise ValueError(
        f"The configuration has {math.prod(configured)} patches, the weights have positions of "
        f"{patches}, which are no square of patches. "
        "Name the size that the weights are of, `image_size=(height, width)`, or write it into "
        "the configuration."
    )


def _resize(x: np.ndarray, shape: tuple[int, ...], method: str, *, antialias: bool) -> np.ndarray:
    # At least in float32, as everything that is not a matrix product.
    dtype = at_least_float32(x.dtype)
    return np.asarray(jax.image.resize(jnp.asarray(x, dtype), shape, method, antialias=antialias))
