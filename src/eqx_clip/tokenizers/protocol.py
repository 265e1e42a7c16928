"""What a model asks of a tokenizer."""

from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32

from .._types import TextLike


@runtime_checkable
class AnyTokenizer(Protocol):
    """Captions to rows of token ids: a frozen value, equal to another that does the same.

    `dataclasses.replace(tokenizer, context_length=...)` is the same tokenizer for longer or
    shorter rows.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def context_length(self) -> int: ...

    def __call__(self, texts: TextLike) -> Int32[np.ndarray, "batch context"]: ...
