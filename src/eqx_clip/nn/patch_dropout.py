"""Patch dropout (Li et al. 2022, arXiv:2212.00794): a part of an image's patches, for training."""

import jax.random as jr
from jax import Array
from jaxtyping import Int, PRNGKeyArray

from .._checks import short_repr
from .._types import Real


def check_patch_dropout(share: Real, key: PRNGKeyArray | None) -> None:
    """A `ValueError` for a share that is not in [0, 1), or comes without a key."""
    if not 0 <= share < 1 or (share and key is None):
        raise ValueError(
            "`patch_dropout` must be at least 0 and less than 1, and needs a `key` if it is "
            f"not 0; got {short_repr(share)} and {'no' if key is None else 'a'} key."
        )


def kept_patches(patches: int, share: float, key: PRNGKeyArray) -> Int[Array, " kept"]:
    """Which patches remain where this share of them is left out, chosen by `key`, at least one.

    OpenCLIP's and timm's `PatchDropout`.
    """
    kept = max(1, int(patches * (1 - share)))
    return jr.choice(key, patches, (kept,), replace=False)
