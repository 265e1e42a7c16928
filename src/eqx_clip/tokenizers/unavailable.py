"""In the place of a tokenizer that is not built yet."""

import dataclasses
from typing import Any, NoReturn

from .._checks import as_count, canonicalize
from .._types import Count, TextLike


@dataclasses.dataclass(frozen=True)
class UnavailableTokenizer:
    """Says which tokenizer a model needs, and that it is not built yet.

    `name` is its repository on the hub, and `options` are those that OpenCLIP's `HFTokenizer` is
    given, by name.
    """

    name: str
    context_length: Count = 77
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        canonicalize(self, as_count, "context_length")

    def __call__(self, texts: TextLike) -> NoReturn:
        raise ValueError(
            f"This model reads the token ids of {self.name!r}, a tokenizer that eqx_clip does not "
            "have yet. Its images are encoded, and so are rows of ids that another library makes: "
            f"int32 (batch, {self.context_length}), given to `jax.vmap(model.encode_text)`."
        )
