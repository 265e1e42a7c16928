"""How transformers describes one kind of model, and names its tensors."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ..._clip import CLIP
from ..rows.row import Table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Naming:
    """transformers' format of one kind of model.

    - `model_type`: what its configuration calls it.
    - `image`, `text`: the classes of its towers' configurations.
    - `image_processor`: transformers' class that prepares its images where none is named.
    - `read`: what a `CLIPConfig` is made of but for the preprocessing, of the contents of a
      `config.json` and the name of the place where that is from. `ValueError` for what no tower
      here can reproduce.
    - `write`: the contents of a `config.json` of a model. `ValueError` for one that transformers
      cannot build.
    - `table`: the rows of (at least) every leaf of a model.
    - `class_tokens`: how many positions of images come before those of patches.
    """

    model_type: str
    image: type
    text: type
    image_processor: str
    read: Callable[[Mapping[str, Any], str], dict[str, Any]]
    write: Callable[[CLIP], dict[str, Any]]
    table: Table
    class_tokens: int
