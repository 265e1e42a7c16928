"""How OpenCLIP describes one kind of tower, and names its tensors."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ..rows.plain import Edits
from ..rows.row import Table
from ..rows.sizes import Shapes, TowerSizes
from .options import Options


@dataclasses.dataclass(frozen=True, kw_only=True)
class Naming:
    """OpenCLIP's format of one kind of tower.

    - `section`: the section of its configuration, "vision_cfg" or "text_cfg".
    - `describes`: whether these options describe such a tower.
    - `read`: the tower's configuration of the section's options, the length of the embedding, and
      whether GELU is the quick one. `ValueError` for options that no tower here has.
    - `write`: the options of a tower's configuration. `ValueError` if OpenCLIP has no such tower.
    - `table`: the rows of a tower of this configuration, by paths within the tower.
    - `quick_gelu`: whether a configuration's GELU is the quick one, which OpenCLIP says of a whole
      model; None for towers that this does not reach.
    - `positions`: for the tensors that depend on the size of images or texts, what makes those of
      the first configuration fit the second.
    - `landmark`: the name of a tensor that only such towers have.
    - `sizes`: what shapes tell of a tower's configuration. `KeyError`, `IndexError` or
      `ValueError` where a tensor is missing or has other axes.
    """

    section: str
    describes: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Options, Any, bool], Any]
    write: Callable[[Any], dict[str, Any]]
    table: Callable[[Any], Table]
    quick_gelu: Callable[[Any], bool | None] = lambda config: None
    positions: Callable[[Any, Any], Edits] = lambda old, new: {}
    landmark: str
    sizes: Callable[[Shapes], TowerSizes]
