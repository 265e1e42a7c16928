"""The vocabulary of the annotations. Imports nothing of ours."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jax import Array
from jaxtyping import DTypeLike, PRNGKeyArray, jaxtyped


AnyArray = Array | np.ndarray

# What users may hand in. A wrong argument deserves a `ValueError` that names the remedy, and the
# functions that take these raise one; an executed annotation would speak before them. So the
# annotations are precise for the type checker and silent at run time.
if TYPE_CHECKING:
    from typing import BinaryIO

    from PIL import Image

    Encoded = bytes | bytearray | memoryview | BinaryIO
    ImageLike = Image.Image | str | os.PathLike[str] | Encoded | AnyArray
    TextLike = str | Iterable[str]
    Input = AnyArray
    Key = PRNGKeyArray
    Name = str
    PathLike = str | os.PathLike[str]
    DType = DTypeLike
    Activation = Literal["gelu", "quick_gelu", "gelu_tanh"]
    Head = Literal["linear", "mlp"]
    ImagePooling = Literal["class_token", "mean_patch"]
    TextPooling = Literal["highest_id", "last", "first_id"]
    TextProjection = Literal["matrix", "linear", "none"]
    Remat = Literal["none", "dots", "full"]
    Count = int
    Size = int | tuple[int, int]
    Real = Number = int | float
else:
    Number = int | float | np.integer | np.floating  # executed annotations promote nothing
    ImageLike = TextLike = Input = Key = Name = PathLike = DType = Any
    Activation = Head = ImagePooling = TextPooling = TextProjection = Remat = Any
    Count = Size = Real = Any


def at_least_float32(*dtypes: DTypeLike) -> np.dtype:
    """What sums are taken in: float64 if one of these is, otherwise float32."""
    # Not by JAX's rules of promotion, which a user may have made strict.
    return np.dtype(np.float64 if jnp.float64 in dtypes else np.float32)


# Executes the annotations of a public function in every session, not only under the test plugin.
typed = jaxtyped(typechecker=beartype)
